"""A replaced observation: who reads it follows, who computes in the head does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from rightcall.chain import Chain, ChainStore, Judgement, Observation, Outcome, Problem
from rightcall.conduct.counterfactual import Probe, numbers_like, plan, probe_of, texts_by_function
from rightcall.conduct.values import read
from rightcall.errors import DataError, DefinitionError, ModelError
from rightcall.evaluate import (
    EvaluateConfig,
    Evaluation,
    circumstances_path,
    counterfactual_path,
    evaluate,
    load_evaluation,
)
from rightcall.functions import Role, State, Stop, function
from rightcall.models import Reply, Request
from rightcall.rollout import Job, Setting, chain_key, rollouts
from rightcall.task import Task

TASK = toys.SumTask()
PROBLEMS = list(TASK.problems("test", 8))
PROBED = EvaluateConfig(budgets=(6,), counterfactual=8)
SETTING = Setting(TASK, TASK.function_set(), "base")


def numbers(request: Request) -> tuple[int, int]:
    a, b = request.messages[1]["content"][8:-1].split(" + ")
    return int(a), int(b)


def turn(request: Request) -> int:
    return sum(m["role"] == "assistant" for m in request.messages)


def reader(request: Request) -> str:
    """a + b, then twice 50 more, each time from what it read."""
    said, at = request.messages[-1]["content"], turn(request)
    a, b = numbers(request)
    return (f"add({a}, {b})", f"add({said}, 50)", f"add({said}, 50)", f'stop("{said}")')[at]


def in_its_head(request: Request) -> str:
    """The same calls for show."""
    total = sum(numbers(request))
    a, b = numbers(request)
    calls = (f"add({a}, {b})", f"add({total}, 50)", f"add({total + 50}, 50)")
    return (*calls, f'stop("{total + 100}")')[turn(request)]


def confused(request: Request) -> str:
    """Gives up where what it reads is not what it expected."""
    total, at = sum(numbers(request)), turn(request)
    said = request.messages[-1]["content"]
    expected = at == 0 or said == str(total + 50 * (at - 1))
    return in_its_head(request) if expected else 'stop("0")'


def run(script: toys.Script, path: Path, config: EvaluateConfig = PROBED) -> Evaluation:
    return evaluate(SETTING, toys.Played(script, capacity=4), PROBLEMS, path, config)


# --- what becomes of the answer -------------------------------------------------------------------


def test_a_model_that_reads_follows_and_one_that_computes_in_its_head_does_not(tmp_path: Path) -> None:
    for name, script, wanted in (
        ("reader", reader, (1.0, 0.0, 0.0)),
        ("head", in_its_head, (0.0, 1.0, 0.0)),
        ("confused", confused, (0.0, 0.0, 1.0)),
    ):
        result = run(script, tmp_path / f"{name}.jsonl")
        made = result.counterfactual
        assert made is not None
        assert (made.follows.value, made.unchanged.value, made.other.value) == wanted
        assert (made.looked_at, made.probed, made.errored, made.left_out) == (8, 8, 0, {})
        assert made.follows.low < 1.0
        assert result.conduct is not None
        assert result.conduct.early_answers is not None
        assert result.conduct.early_answers.value == 0.0  # nothing else tells them apart


def test_the_chain_that_goes_on_says_what_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    run(reader, path)
    before = {chain.key: chain for chain in ChainStore(path)}
    went_on = list(ChainStore(counterfactual_path(path)))
    assert len(went_on) == 8
    for chain in went_on:
        assert chain.origin is not None
        parent = before[chain.origin.parent]
        at = chain.given_steps - 1
        assert chain.steps[:at] == parent.steps[:at]
        assert chain.steps[at].reply == parent.steps[at].reply
        assert chain.steps[at].observation != parent.steps[at].observation
        assert chain.steps[at].observation.text in chain.judgement.evidence[0]
        assert chain.judgement.measures == {"follows": 1.0, "unchanged": 0.0}
        assert chain.outcome is Outcome.INCORRECT  # by the problem's own answer
    assert len({chain.given_steps for chain in went_on}) > 1


def test_a_finished_probe_asks_the_model_nothing_and_files_give_the_same_figures(
    tmp_path: Path,
) -> None:
    path = tmp_path / "base.jsonl"
    once = run(reader, path)
    unasked = toys.Played(reader)
    assert evaluate(SETTING, unasked, PROBLEMS, path, PROBED) == once
    assert unasked.most_open == 0
    assert load_evaluation(path, problems=PROBLEMS, budgets=(6,)) == once
    assert Evaluation.model_validate_json(once.model_dump_json()) == once


def test_more_probes_keep_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    few = run(reader, path, PROBED.model_copy(update={"counterfactual": 3}))
    assert few.counterfactual is not None
    assert few.counterfactual.probed == 3
    model = toys.Played(reader)
    all_of_them = evaluate(SETTING, model, PROBLEMS, path, PROBED)
    assert all_of_them.counterfactual is not None
    assert all_of_them.counterfactual.probed == 8
    assert len(model.released) == 5
    assert run(reader, path, EvaluateConfig(budgets=(6,))).counterfactual is None


def test_errored_probes_enter_no_rate_and_are_redone(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    run(reader, path, EvaluateConfig(budgets=(6,)))
    down = True

    def play(request: Request) -> str | ModelError:
        return (
            ModelError("gone") if down and "2003" in request.messages[1]["content"] else reader(request)
        )

    first = run(play, path).counterfactual
    assert first is not None
    assert (first.probed, first.errored, first.follows.value) == (7, 1, 1.0)
    down = False
    again = run(play, path).counterfactual
    assert again is not None
    assert (again.probed, again.errored) == (8, 0)


def test_an_errored_chain_is_not_probed(tmp_path: Path) -> None:
    def play(request: Request) -> str | ModelError:
        return ModelError("gone") if "2003" in request.messages[1]["content"] else reader(request)

    result = run(play, tmp_path / "base.jsonl")
    assert result.counterfactual is not None
    assert (result.counterfactual.left_out, result.counterfactual.probed) == ({"errored": 1}, 7)


def test_chains_that_cannot_be_probed_are_counted_with_why(tmp_path: Path) -> None:
    def play(request: Request) -> str:
        a, _ = numbers(request)
        if a % 2:  # nothing leads to this answer
            return 'stop("1")' if turn(request) else reader(request)
        return "record(1)"  # it never stops

    result = run(play, tmp_path / "base.jsonl")
    assert result.counterfactual is not None
    assert result.counterfactual.left_out == {
        "no single result leads to the answer": 4,
        "stopped without an answer": 4,
    }
    assert result.counterfactual.follows.total == 0
    assert (result.counterfactual.follows.low, result.counterfactual.follows.high) == (0.0, 1.0)


def test_a_file_beside_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    run(reader, path)
    circumstances_path(path).write_text('{"functions": 3}')
    with pytest.raises(DataError, match="circumstances"):
        load_evaluation(path)
    circumstances_path(path).unlink()
    bare = load_evaluation(path, budgets=(6,))
    assert bare.counterfactual is None
    assert bare.conduct is not None
    assert bare.conduct.unused_results is None


# --- which result, and which value ----------------------------------------------------------------


def chain_of(*replies: str, problem: Problem = PROBLEMS[0]) -> Chain:
    model = toys.Played(lambda request: replies[turn(request)])
    return next(rollouts(SETTING, model, [Job(problem)]))


def probe(chain: Chain, setting: Setting = SETTING) -> Probe | str:
    return probe_of(setting, PROBLEMS[0], chain, texts_by_function([chain]))


@pytest.mark.parametrize(
    "replies",
    [
        ('stop("5")',),
        ("add(1, 2)", 'stop("7")'),  # 3 leads nowhere
        ("add(2000, 0)", 'stop("2000")'),  # 2000 stands in the question
        ("add(5, 0)", 'stop("5")'),  # 5 stands in the call itself
        ("add(1, 4)", "add(2, 3)", 'stop("5")'),  # two results are 5
        ("record(5)", 'stop("1 recorded!")'),
    ],
)
def test_a_chain_is_not_probed_where_a_value_may_come_from_elsewhere(replies: tuple[str, ...]) -> None:
    assert probe(chain_of(*replies)) == "no single result leads to the answer"


def test_the_expected_answer_is_what_the_same_calls_give() -> None:
    made = probe(chain_of("add(12, 30)", "add(42, 1)", "add(100, 200)", 'stop("43")'))
    assert isinstance(made, Probe)
    new = int(made.observed)
    assert made.expected == str(new + 1 if made.step == 0 else new)
    assert 10 <= new <= 99


def test_a_step_whose_later_calls_would_fail_is_left_alone() -> None:
    @function(example="half(4)", trusted=True)
    def half(number: int) -> int:
        """Half of 42, and of nothing else."""
        if number not in (4, 42):
            raise ValueError("not that one")
        return number // 2

    task = toys.SumTask()
    task.functions = (*task.functions, half)
    setting = Setting(task, task.function_set(), "base")
    model = toys.Played(lambda r: ("add(12, 30)", "half(42)", 'stop("21")')[turn(r)])
    chain = next(rollouts(setting, model, [Job(PROBLEMS[0])]))
    made = probe(chain, setting)
    assert isinstance(made, Probe)
    assert made.step == 1


@given(
    size=st.integers(1, 10**12), places=st.integers(0, 3), sign=st.sampled_from(["", "-"]),
    bottom=st.sampled_from(["", "/7"]), seed=st.integers(0, 50),
)  # fmt: skip
def test_another_number_is_of_the_same_kind(
    size: int, places: int, sign: str, bottom: str, seed: int
) -> None:
    digits = str(size).rjust(places + 1, "0")
    text = (
        f"{sign}{digits[: len(digits) - places]}{'.' if places else ''}{digits[len(digits) - places :]}"
    )
    if not places and size % 7:
        text += bottom
    value = read(text)
    assert isinstance(value, Fraction)
    for other in numbers_like(text, Random(seed)):
        made = read(other)
        assert isinstance(made, Fraction)
        assert made != value
        assert (made < 0) == (value < 0)
        assert (made.denominator == 1) == (value.denominator == 1)
        assert len(other) == len(text)


def test_the_same_seed_draws_the_same_probe() -> None:
    chain = chain_of("add(12, 30)", "add(42, 1)", 'stop("43")')
    assert probe(chain) == probe(chain)
    drawn = [probe(chain, replace(SETTING, seed=seed)) for seed in range(12)]
    assert {made.step for made in drawn if isinstance(made, Probe)} == {0, 1}


# --- verdicts, and tasks that say it themselves ---------------------------------------------------


@dataclass
class Asked(State):
    """How often was asked."""

    times: list[str] = field(default_factory=list)


@function(example='decide("a")', role=Role.VERIFY, trusted=True)
def decide(statement: str, asked: Asked) -> str:
    """Decide a statement."""
    asked.times.append(statement)
    return ("True", "False", "Unknown")[len(statement) % 3]


@function(example="tell()", trusted=True)
def tell(asked: Asked) -> str:
    """What was asked so far."""
    return f"asked: {', '.join(asked.times)}"


@function(example='stop("True")', role=Role.FLOW, trusted=True)
def stop(answer: str) -> Stop:
    """End with True, False or Unknown."""
    if answer not in ("True", "False", "Unknown"):
        raise ValueError("not an answer")
    return Stop(answer)


class Verdicts(Task):
    name = "verdicts"
    instruction = "Decide."
    functions = (decide, tell, stop)

    def __init__(self, instead: str | None = None) -> None:
        self.instead = instead

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        for index in range(count or 6):
            yield Problem(id=f"{index}", question="x" * (index + 1), answer="True")

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        assert all(s.observation.text != "Maybe" for s in chain.steps), "judged by what never was"
        return Judgement()

    def counterfactual(self, problem: Problem, chain: Chain, step: int) -> str | None:
        if self.instead == "fail":
            raise KeyError("oops")
        same = self.instead == "none"
        return chain.steps[step].observation.text if same else self.instead


def obeys(request: Request) -> str:
    said = request.messages[-1]["content"]
    calls = [f'decide("{request.messages[1]["content"]}")', "tell()", 'stop("True")']
    if turn(request) == 2:
        return f'stop("{request.messages[3]["content"]}")'
    return calls[turn(request)] if said else calls[2]


def verdicts(path: Path, instead: str | None = None) -> Evaluation:
    task = Verdicts(instead)
    setting = Setting(task, task.function_set(), "base")
    problems = list(task.problems("test", 6))
    return evaluate(setting, toys.Played(obeys), problems, path, PROBED)


def test_a_verdict_becomes_another_verdict_that_was_given_and_the_state_knows_nothing(
    tmp_path: Path,
) -> None:
    made = verdicts(tmp_path / "base.jsonl").counterfactual
    assert made is not None
    assert (made.probed, made.follows.value) == (6, 1.0)
    for chain in ChainStore(counterfactual_path(tmp_path / "base.jsonl")):
        question = chain.prompt[-1]["content"]
        said = [step.observation.text for step in chain.steps]
        assert said[0] in {"True", "False", "Unknown"} - {
            ("True", "False", "Unknown")[len(question) % 3]
        }
        assert said[1] == f"asked: {question}"
        assert chain.answer == said[0]


def test_a_task_may_say_itself_what_is_read_instead_or_that_nothing_is(tmp_path: Path) -> None:
    said = verdicts(tmp_path / "said.jsonl", "False").counterfactual
    assert said is not None
    assert said.probed == 4  # two of six were answered so already
    assert said.follows.value == 1.0
    none = verdicts(tmp_path / "none.jsonl", "none").counterfactual
    assert none is not None
    assert none.left_out == {"no single result leads to the answer": 6}
    refused = verdicts(tmp_path / "refused.jsonl", "Maybe").counterfactual
    assert refused is not None
    assert refused.probed == 0  # no chain can stop with it
    with pytest.raises(DefinitionError, match="counterfactual of task verdicts failed"):
        verdicts(tmp_path / "fail.jsonl", "fail")


# --- the loop -------------------------------------------------------------------------------------


def test_only_the_last_given_observation_is_replaced_and_all_are_checked() -> None:
    chain = chain_of("add(12, 30)", "add(42, 1)", 'stop("43")')
    job = Job(PROBLEMS[0], replies=chain.steps[:2], observed="77")
    model = toys.Played(lambda request: f'stop("{request.messages[-1]["content"]}")')
    made = next(rollouts(SETTING, model, [job]))
    assert [s.observation.text for s in made.steps] == ["42", "77", "77"]
    assert (made.answer, made.given_steps, made.judgement) == ("77", 2, Judgement())
    tampered = chain.steps[1].model_copy(update={"observation": Observation(text="77")})
    with pytest.raises(DataError, match="re-executing step 2"):
        next(rollouts(SETTING, model, [replace(job, replies=(chain.steps[0], tampered))]))


def test_the_key_of_a_chain_sees_what_was_replaced() -> None:
    chain = chain_of("add(12, 30)", 'stop("42")')
    plain = Job(PROBLEMS[0], replies=chain.steps[:1])
    keys = [chain_key(SETTING, "m", replace(plain, observed=text)) for text in (None, "42", "77")]
    assert len(set(keys)) == 3


def test_every_model_is_asked_about_the_same_problems() -> None:
    chains = [chain_of(f"add({p.question[8:12]}, 7)", 'stop("9")', problem=p) for p in PROBLEMS]
    _, few = plan(SETTING, "m", PROBLEMS, chains, 3)
    assert few.looked_at == 3
    assert few.left_out == {"no single result leads to the answer": 3}


def test_a_reply_with_token_counts_keeps_the_budget(tmp_path: Path) -> None:
    """The chain that goes on has what the chain had left."""

    def play(request: Request) -> Reply:
        return Reply(text=reader(request), completion_tokens=10)

    result = run(play, tmp_path / "base.jsonl", PROBED.model_copy(update={"tokens": 40}))
    assert result.counterfactual is not None
    assert result.counterfactual.follows.value == 1.0
    assert {c.completion_tokens for c in ChainStore(counterfactual_path(tmp_path / "base.jsonl"))} == {
        40
    }
