"""Rollouts: why chains stop, what a failing model does to them, and collections that survive a kill."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rightcall.chain import (
    Chain,
    ChainStore,
    Judgement,
    Observation,
    Outcome,
    Problem,
    StopReason,
)
from rightcall.errors import DataError, DefinitionError, FailureKind, ModelError, RenderingError
from rightcall.functions import Limits, function
from rightcall.models import Reply, Request, Sampling
from rightcall.models.scripted import Scripted
from rightcall.rollout import Budget, Job, Setting, chain_key, collect, finished, rollouts, solve
from toys import Played, Script, SumTask, solver

TASK = SumTask()
PROBLEM = next(TASK.problems("train"))


def setting(**changes: Any) -> Setting:
    return Setting(TASK, TASK.function_set(), **{"source": "student", **changes})


def attempt(script: Script, **budget: int) -> Chain:
    return solve(TASK, PROBLEM, Played(script), budget=Budget(**budget))


def test_a_right_chain_holds_its_turns_answer_and_judgement() -> None:
    chain = attempt(solver)
    assert [step.reply for step in chain.steps] == ["add(0, 7)", 'stop("7")']
    assert [step.observation.text for step in chain.steps] == ["7", "7"]
    assert (chain.stop_reason, chain.answer) == (StopReason.STOPPED, "7")
    assert chain.outcome is Outcome.CORRECT
    assert chain.judgement.process_correct is True
    assert (chain.problem_id, chain.difficulty) == (PROBLEM.id, PROBLEM.difficulty)


def test_the_model_reads_functions_problem_replies_and_observations() -> None:
    requests: list[Request] = []

    def script(request: Request) -> str:
        requests.append(request)
        return solver(request)

    attempt(script)
    first, second = requests
    assert [m["role"] for m in first.messages] == ["system", "user"]
    system = first.messages[0]["content"]
    assert system.startswith("Add.\n")
    assert "add(a: int, b: int): Add two numbers. Example: add(2, 3) -> 5" in system
    assert first.messages[1]["content"] == PROBLEM.question
    assert second.messages[:2] == first.messages
    assert [m["content"] for m in second.messages[2:]] == ["add(0, 7)", "7"]
    assert first.seed != second.seed


def test_a_failed_call_stays_in_the_chain_and_the_model_may_recover() -> None:
    def script(request: Request) -> str:
        turns = ["ad(1, 2)", "what?", "add(0, 7)", 'stop("7")']
        return turns[len(request.completions)]

    chain = attempt(script)
    assert chain.failures == (FailureKind.UNKNOWN_FUNCTION, FailureKind.NO_CALL)
    assert chain.outcome is Outcome.CORRECT


def reply(text: str, tokens: int, reason: Any = "stop") -> Reply:
    return Reply(text=text, completion_tokens=tokens, finish_reason=reason)


@pytest.mark.parametrize(
    ("script", "budget", "reason", "steps"),
    [
        (lambda _: 'stop("1")', {}, StopReason.STOPPED, 1),
        (lambda _: "add(1, 1)", {"steps": 3}, StopReason.STEP_BUDGET, 3),
        (lambda _: reply("add(1, 1)", 10), {"tokens": 25}, StopReason.TOKEN_BUDGET, 3),
        (lambda _: reply("add(1, ", 25, "length"), {"tokens": 25}, StopReason.TOKEN_BUDGET, 1),
        (lambda _: reply("add(1, ", 5, "length"), {}, StopReason.REPLY_TRUNCATED, 1),
        (lambda _: reply("", 0, "context"), {}, StopReason.CONTEXT_WINDOW, 0),
        (lambda _: ModelError("the server is gone"), {}, StopReason.MODEL_ERROR, 0),
    ],
)
def test_every_stop_reason_is_reached(
    script: Script, budget: dict[str, int], reason: StopReason, steps: int
) -> None:
    chain = attempt(script, **budget)
    assert (chain.stop_reason, len(chain.steps)) == (reason, steps)
    errored = reason is StopReason.MODEL_ERROR
    assert chain.outcome is (Outcome.ERRORED if errored else Outcome.INCORRECT)
    assert (chain.error == "the server is gone.") is errored
    assert (chain.answer is None) is (reason is not StopReason.STOPPED)


def test_a_reply_gets_no_more_tokens_than_the_chain_has_left() -> None:
    rooms = []

    def script(request: Request) -> Reply:
        rooms.append(request.sampling.max_tokens)
        return reply("add(1, 1)", 30)

    solve(TASK, PROBLEM, Played(script), sampling=Sampling(max_tokens=50), budget=Budget(tokens=100))
    assert rooms == [50, 50, 40, 10]


def test_a_stop_in_the_last_step_counts() -> None:
    assert attempt(solver, steps=2).outcome is Outcome.CORRECT
    assert attempt(solver, steps=1).stop_reason is StopReason.STEP_BUDGET


# --- prefixes -----------------------------------------------------------------------------------


def test_a_rollout_from_a_prefix_rebuilds_its_state_and_asks_only_for_the_rest() -> None:
    def script(request: Request) -> str:
        return ["record(1)", "record(2)", "record(3)", 'stop("3")'][len(request.completions)]

    whole = attempt(script)
    model = Played(script)
    (again,) = rollouts(setting(source="model"), model, [Job(PROBLEM, replies=whole.steps[:2])])
    assert again.steps == whole.steps
    assert again.steps[2].observation.text == "3 recorded"
    assert again.key != whole.key


def test_a_prefix_that_now_gives_another_observation_is_refused() -> None:
    first = attempt(solver).steps[0]
    changed = first.model_copy(update={"observation": Observation(text="8")})
    with pytest.raises(DataError, match="step 1 of a recorded prefix gave another observation: '7'"):
        list(rollouts(setting(), Played(solver), [Job(PROBLEM, replies=(changed,))]))


def test_a_prefix_that_stops_needs_no_model() -> None:
    def silent(request: Request) -> str:
        raise AssertionError("the model was asked")

    steps = attempt(solver).steps
    (chain,) = rollouts(setting(), Played(silent), [Job(PROBLEM, replies=steps)])
    assert chain.outcome is Outcome.CORRECT


# --- many at once -------------------------------------------------------------------------------


def jobs(count: int) -> list[Job]:
    return [Job(problem) for problem in TASK.problems("train", count)]


@pytest.mark.parametrize("capacity", [1, 3, 50])
def test_as_many_chains_are_in_flight_as_the_model_can_take(capacity: int) -> None:
    model = Played(solver, capacity=capacity)
    chains = list(rollouts(setting(), model, jobs(7)))
    assert model.most_open == min(capacity, 7)
    assert sorted(model.released) == sorted(chain.key for chain in chains)
    assert {chain.outcome for chain in chains} == {Outcome.CORRECT}


def stripped(chains: Sequence[Chain]) -> list[Chain]:
    return sorted((c.model_copy(update={"seconds": 0.0}) for c in chains), key=lambda c: c.key)


def test_chains_do_not_depend_on_how_many_are_in_flight() -> None:
    def script(request: Request) -> str:
        return f"add({request.seed % 10}, 1)" if request.seed % 3 else 'stop("7")'

    one = list(rollouts(setting(), Played(script), jobs(8)))
    many = list(rollouts(setting(), Played(script, capacity=5), jobs(8)))
    assert stripped(one) == stripped(many)
    assert len({tuple(step.reply for step in chain.steps) for chain in one}) > 1


def test_leaving_early_releases_the_chains_still_running() -> None:
    model = Played(solver, capacity=4)
    chains = rollouts(setting(), model, jobs(9))
    next(chains)
    chains.close()
    assert len(set(model.released)) == 4


def test_keys_depend_on_everything_that_determines_a_chain() -> None:
    job = Job(PROBLEM)
    keys = {
        chain_key(setting(), "m", job),
        chain_key(setting(), "n", job),
        chain_key(setting(), "m", Job(PROBLEM, sample=1)),
        chain_key(setting(seed=1), "m", job),
        chain_key(setting(source="teacher"), "m", job),
        chain_key(setting(budget=Budget(steps=3)), "m", job),
        chain_key(setting(sampling=Sampling(temperature=1.0)), "m", job),
        chain_key(Setting(TASK, TASK.function_set("short"), "student"), "m", job),
        chain_key(setting(), "m", Job(PROBLEM.model_copy(update={"question": "?"}))),
        chain_key(setting(), "m", Job(PROBLEM, replies=attempt(solver).steps[:1])),
    }
    assert len(keys) == 10
    assert chain_key(setting(), "m", job) == chain_key(setting(), "m", Job(PROBLEM))


def test_the_options_of_a_task_are_part_of_its_chains_keys_and_its_caches_are_not() -> None:
    class Limited(SumTask):
        def __init__(self, limit: int = 1, path: Path | None = None) -> None:
            self.limit, self.path, self.asked = limit, path, 0

    def key(task: SumTask) -> str:
        return chain_key(Setting(task, task.function_set(), "student"), "m", Job(PROBLEM))

    task = Limited()
    before = key(task)
    task.asked += 1
    assert key(task) == before == key(Limited(1, Path("elsewhere")))
    assert key(Limited(2)) != before


@pytest.mark.parametrize("capacity", [1, 2])
def test_one_attempt_asked_for_twice_is_refused(capacity: int) -> None:
    with pytest.raises(DataError, match=f"the same chain is asked for twice.*{PROBLEM.id}"):
        list(rollouts(setting(), Played(solver, capacity=capacity), [Job(PROBLEM), Job(PROBLEM)]))


def test_a_chain_names_the_dialect_it_was_made_in() -> None:
    assert attempt(solver).dialect == "python"


# --- collecting ---------------------------------------------------------------------------------


def problems(count: int) -> list[Problem]:
    return list(TASK.problems("train", count))


def test_a_collection_has_every_sample_of_every_problem_once(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    told: list[Chain] = []
    store = collect(setting(), Played(solver, capacity=3), problems(5), 2, path, told.append)
    counts = Counter((c.problem_id, c.sample) for c in store)
    assert len(counts) == 10
    assert set(counts.values()) == {1}
    assert told == list(store)
    model = Played(solver)
    collect(setting(), model, problems(5), 2, path)
    assert model.most_open == 0
    assert finished(setting(), "played", problems(5), 2, path) == 10
    collect(setting(), model, problems(6), 2, path)
    assert len(list(store)) == 12


def test_an_errored_chain_is_told_apart_and_redone(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"

    def sometimes(request: Request) -> str | ModelError:
        text = request.messages[1]["content"]
        return ModelError("overloaded") if text.startswith("What is 2 ") else solver(request)

    store = collect(setting(), Played(sometimes), problems(4), 1, path)
    assert Counter(c.outcome for c in store) == {Outcome.CORRECT: 3, Outcome.ERRORED: 1}
    collect(setting(), Played(solver), problems(4), 1, path)
    assert len(list(store)) == 5
    assert Counter(c.outcome for c in store.latest()) == {Outcome.CORRECT: 4}


COLLECT = """
import sys, time
sys.path[:] = {path!r}
from toys import Played, SumTask, solver
from rightcall.rollout import Setting, collect
task = SumTask()
asked = []
def slow(request):
    asked.append(request)
    time.sleep(0.01 if len(asked) < 60 else 600)  # the kill comes before the end, however late
    return solver(request)
setting = Setting(task, task.function_set(), "student")
collect(setting, Played(slow, capacity=3), list(task.problems("train", 40)), 2, {file!r})
"""


def test_a_killed_collection_ends_with_the_same_set_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    program = COLLECT.format(path=[str(Path(__file__).parent), *sys.path], file=str(path))
    with subprocess.Popen([sys.executable, "-c", program]) as collecting:
        while collecting.poll() is None and len(list(ChainStore(path))) < 7:
            time.sleep(0.01)
        collecting.kill()
    kept = [chain.key for chain in ChainStore(path)]
    assert 7 <= len(kept) < 80
    with path.open("ab") as file:
        file.write(b'{"key": "cut')  # as if the kill had come in the middle of a line
    store = collect(setting(), Played(solver), problems(40), 2, path)
    keys = [chain.key for chain in store]
    assert keys[: len(kept)] == kept
    assert len(keys) == len(set(keys)) == 80
    whole = collect(setting(), Played(solver), problems(40), 2, tmp_path / "whole.jsonl")
    assert set(keys) == {chain.key for chain in whole}
    assert stripped(list(store)) == stripped(list(whole))


def test_a_conversation_that_cannot_be_rendered_ends_its_own_chain_as_errored() -> None:
    class Forgetful(Played):
        def submit(self, request: Request) -> None:
            if "<think>" in request.messages[-2]["content"]:
                raise RenderingError("the chat template rewrites earlier turns")
            super().submit(request)

    problems = list(TASK.problems("train", 2))

    def script(request: Request) -> str:
        thinks = request.messages[-1]["content"] == problems[0].question
        return "<think>hm</think>\nadd(0, 7)" if thinks else solver(request)

    model = Forgetful(script, capacity=2)
    chains = {c.problem_id: c for c in rollouts(setting(), model, [Job(p) for p in problems])}
    first, second = (chains[p.id] for p in problems)
    assert (first.outcome, first.stop_reason) == (Outcome.ERRORED, StopReason.MODEL_ERROR)
    assert "rewrites earlier turns" in (first.error or "")
    assert second.outcome is Outcome.CORRECT
    assert len(model.released) == 2


# --- calls in worker processes, and tasks that fail ---------------------------------------------------


@function(example='wait_for("/")', limits=Limits(seconds=20))
def wait_for(path: str) -> str:
    """Wait until a file is there."""
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return "there"


@function(example='touch("/dev/null")', limits=Limits(seconds=20))
def touch(path: str) -> str:
    """Make a file."""
    open(path, "a").close()
    return "made"


class Waiting(SumTask):
    """The first problem's chain waits for what the last one's does."""

    functions = (wait_for, touch, *SumTask.functions)


def test_a_call_that_takes_long_holds_up_its_own_chain_only(tmp_path: Path) -> None:
    task = Waiting()
    problems = list(task.problems("train", 3))
    file = tmp_path / "made"

    def script(request: Request) -> str:
        if request.messages[-1]["content"] == problems[0].question:
            return f'wait_for("{file}")'
        if request.messages[-1]["content"] == problems[2].question:
            return f'touch("{file}")'
        return 'stop("9")'

    setting = Setting(task, task.function_set(), "student")
    model = Played(script, capacity=3)
    chains = {c.problem_id: c for c in rollouts(setting, model, [Job(p) for p in problems])}
    first, _, last = (chains[p.id] for p in problems)
    assert [step.observation.text for step in first.steps] == ["there", "9"]
    assert [step.observation.text for step in last.steps] == ["made", "9"]
    assert sorted(model.released) == sorted(c.key for c in chains.values())


def test_a_chain_alone_waits_for_its_call(tmp_path: Path) -> None:
    file = tmp_path / "made"
    replies = [f'touch("{file}")', f'wait_for("{file}")', 'stop("7")']
    chain = solve(Waiting(), PROBLEM, Scripted(replies))
    assert [step.observation.text for step in chain.steps] == ["made", "there", "7"]


def test_calls_of_many_chains_give_each_its_own_result(tmp_path: Path) -> None:
    task = Waiting()
    problems = list(task.problems("train", 12))
    names = {p.question: str(tmp_path / p.id) for p in problems}

    def script(request: Request) -> str:
        said = request.messages[1]["content"]
        calls = [
            f'touch("{names[said]}")',
            f'wait_for("{names[said]}")',
            solver(Request(chain="", messages=request.messages[:2])),
            f'stop("{request.messages[-1]["content"]}")',
        ]
        return calls[sum(m["role"] == "assistant" for m in request.messages)]

    setting = Setting(task, task.function_set(), "student")
    chains = list(rollouts(setting, Played(script, capacity=5), [Job(p) for p in problems]))
    assert len(chains) == 12
    assert all(c.right_for_the_right_reason for c in chains)
    assert all(Path(name).exists() for name in names.values())


def test_closing_early_leaves_no_call_behind_that_is_waited_for(tmp_path: Path) -> None:
    task = Waiting()
    never = str(tmp_path / "never")
    problems = list(task.problems("train", 2))

    def script(request: Request) -> str:
        waits = request.messages[-1]["content"] == problems[0].question
        return f'wait_for("{never}")' if waits else 'stop("8")'

    setting = Setting(task, task.function_set(), "student")
    chains = rollouts(setting, model := Played(script, capacity=2), [Job(p) for p in problems])
    assert next(chains).problem_id == problems[1].id
    chains.close()
    assert len(model.released) == 2
    Path(never).touch()


@pytest.mark.parametrize("method", ["verify", "judge"])
def test_a_task_that_fails_is_named_with_the_problem_and_the_answer(
    method: str, tmp_path: Path
) -> None:
    class Fragile(SumTask):
        def verify(self, problem: Problem, answer: str) -> bool:
            return bool(float(answer)) if method == "verify" else True

        def judge(self, problem: Problem, chain: Chain) -> Judgement:
            return (
                Judgement(measures={"x": float(chain.answer or "0")})
                if method == "judge"
                else Judgement()
            )

    task = Fragile()
    setting = Setting(task, task.function_set(), "student")
    model = Scripted(['stop("no number")'])
    with pytest.raises(
        DefinitionError, match=rf"{method} of task sums failed with ValueError"
    ) as error:
        collect(setting, model, [PROBLEM], 1, tmp_path / "chains.jsonl")
    assert PROBLEM.id in str(error.value)
    assert "no number" in str(error.value)
    assert "test_rollout.py, line" in str(error.value)
