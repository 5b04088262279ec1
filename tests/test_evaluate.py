"""Evaluation: one rollout gives every budget, errored is never wrong, files resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from rightcall.chain import Chain, ChainStore, Judgement, Outcome, StopReason
from rightcall.errors import ConfigError, DataError, FailureKind, ModelError
from rightcall.evaluate import (
    EvaluateConfig,
    Evaluation,
    at_budget,
    evaluate,
    load_evaluation,
    samples_path,
    select,
    summarise,
)
from rightcall.models import Reply, Request, Sampling
from rightcall.rollout import Budget, Job, Setting, judged, rollouts

TASK = toys.SumTask()
PROBLEMS = list(TASK.problems("test", 6))
BOTH = EvaluateConfig(budgets=(2, 4))


def setting(**changes: object) -> Setting:
    return Setting(TASK, TASK.function_set(), "base", **changes)  # type: ignore[arg-type]


def turns(request: Request) -> int:
    return sum(m["role"] == "assistant" for m in request.messages)


def plodder(wait: int) -> Callable[[Request], Reply]:
    """Records numbers for `wait` turns before it solves the problem in two."""

    def play(request: Request) -> Reply:
        turn = turns(request)
        a, b = request.messages[1]["content"][8:-1].split(" + ")
        text = f"record({turn})" if turn < wait else f"add({a}, {b})"
        if turn > wait:
            text = f'stop("{request.messages[-1]["content"]}")'
        return Reply(text=text, completion_tokens=5)

    return play


def roll(budget: Budget, play: Callable[[Request], Reply]) -> Chain:
    made = setting(budget=budget)
    return next(rollouts(made, toys.Played(play), [Job(PROBLEMS[0])]))


def without_identity(chain: Chain) -> Chain:
    return chain.model_copy(update={"key": "", "seconds": 0.0})


@given(wait=st.integers(0, 7), small=st.integers(1, 8), tokens=st.sampled_from([17, 23, 1000]))
def test_a_cut_chain_equals_a_real_rollout_with_the_smaller_budget(
    wait: int, small: int, tokens: int
) -> None:
    long = roll(Budget(steps=8, tokens=tokens), plodder(wait))
    real = roll(Budget(steps=small, tokens=tokens), plodder(wait))
    cut = judged(TASK, PROBLEMS[0], at_budget(long, small))
    assert without_identity(cut) == without_identity(real)


@pytest.mark.parametrize("small", [1, 2, 3, 4])
@pytest.mark.parametrize("finish", ["length", "context"])
def test_the_cut_is_exact_for_replies_and_conversations_that_do_not_fit(
    finish: str, small: int
) -> None:
    """The third turn is cut, or no longer fits the context."""

    def play(request: Request) -> Reply:
        if turns(request) < 2:
            return Reply(text="record(1)", completion_tokens=2)
        return Reply(text="record(", finish_reason=finish, completion_tokens=2)  # type: ignore[arg-type]

    long, real = roll(Budget(steps=4), play), roll(Budget(steps=small), play)
    cut = judged(TASK, PROBLEMS[0], at_budget(long, small))
    assert without_identity(cut) == without_identity(real)


def test_a_chain_that_ran_out_of_a_smaller_budget_is_refused() -> None:
    short = roll(Budget(steps=3), plodder(5))
    with pytest.raises(DataError, match="smaller step budget"):
        at_budget(short, 4)
    with pytest.raises(DataError, match="smaller step budget"):
        summarise([short], budgets=(3, 4))


def test_a_cut_chain_keeps_no_answer_and_no_judgement_of_the_whole() -> None:
    long = roll(Budget(steps=8), plodder(3))
    assert long.right_for_the_right_reason
    cut = at_budget(long, 4)
    assert (cut.answer, cut.outcome, cut.stop_reason) == (
        None, Outcome.INCORRECT, StopReason.STEP_BUDGET,
    )  # fmt: skip
    assert cut.judgement == Judgement()
    assert at_budget(long, 5) == long


def mixed(request: Request) -> Reply:
    """Odd problems are solved at once; even ones take a bad call and a detour first."""
    a, _ = request.messages[1]["content"][8:-1].split(" + ")
    if int(a) % 2:
        return plodder(0)(request)
    if turns(request) == 0:
        return Reply(text="ad(1, 2)", completion_tokens=5)
    return plodder(2)(request)


def test_one_evaluation_counts_everything(tmp_path: Path) -> None:
    result = evaluate(setting(), toys.Played(mixed), PROBLEMS, tmp_path / "base.jsonl", BOTH)
    assert {v: r.value for v, r in result.accuracy.items()} == {"2": 0.5, "4": 1.0, "pooled": 0.75}
    assert result.accuracy["4"].low < 1.0 == result.accuracy["4"].high
    assert result.right_reason == result.accuracy
    assert {d: r.value for d, r in result.by_difficulty["2"].items()} == {"1": 0.0, "2": 1.0}
    assert result.by_difficulty["pooled"]["1"].total == 3
    assert (result.calls, result.steps) == (3 * 2 + 3 * 4, 3.0)
    assert result.failures == {FailureKind.UNKNOWN_FUNCTION: 3}
    assert result.invalid_call_rate == pytest.approx(3 / 18)
    assert result.stop_reasons == {StopReason.STOPPED: 6}
    assert result.tokens == 15
    assert [s.problem_id for s in result.scores] == sorted(p.id for p in PROBLEMS)
    assert result.samples == 0
    assert result.sampled_accuracy is None
    assert result.counterfactual is None
    assert result.conduct is not None
    assert result.conduct.chains == 6
    assert result.conduct.functions["add"].calls == 6
    assert result.conduct.coverage == 1.0
    assert result == Evaluation.model_validate_json(result.model_dump_json())


def test_right_answers_by_a_wrong_process_are_right_but_not_for_the_right_reason(
    tmp_path: Path,
) -> None:
    def guess(request: Request) -> Reply:
        a, b = request.messages[1]["content"][8:-1].split(" + ")
        return Reply(text=f'stop("{int(a) + int(b)}")')

    result = evaluate(setting(), toys.Played(guess), PROBLEMS, tmp_path / "base.jsonl", BOTH)
    assert result.accuracy["pooled"].value == 1.0
    assert result.right_reason["pooled"].value == 0.0


def test_the_tasks_measures_are_averaged_over_the_chains_that_have_them() -> None:
    chains = [
        toys.chain("add(1, 1)", problem="a"),
        toys.chain("add(1, 1)", problem="b"),
        toys.chain("add(1, 1)", problem="c"),
    ]
    shares = [{"exact": 1.0}, {"exact": 0.5, "used": 1.0}, {}]
    judged_chains = [
        c.model_copy(update={"judgement": Judgement(measures=m)})
        for c, m in zip(chains, shares, strict=True)
    ]
    assert summarise(judged_chains).measures == {"exact": 0.75, "used": 1.0}


def test_samples_lie_beside_and_give_pass_at_k(tmp_path: Path) -> None:
    """At temperature 1 a problem's samples differ by seed; greedy chains do not see it."""

    def play(request: Request) -> Reply:
        lucky = request.sampling.temperature == 0 or request.seed % 2
        return plodder(0)(request) if lucky or turns(request) else Reply(text='stop("0")')

    config = EvaluateConfig(budgets=(2, 4), samples=5, max_tokens=99)
    path = tmp_path / "base.jsonl"
    model = toys.Played(play, capacity=4)
    result = evaluate(setting(sampling=Sampling(temperature=0.3)), model, PROBLEMS, path, config)
    assert result.accuracy["4"].value == 1.0
    assert samples_path(path) == tmp_path / "base.samples.jsonl"
    assert len(list(ChainStore(samples_path(path)))) == 30
    assert result.samples == 5
    assert list(result.pass_at) == [1, 2, 4, 5]
    shares = [s.sampled for s in result.scores if s.sampled is not None]
    assert result.sampled_accuracy is not None
    assert result.pass_at[1] == pytest.approx(sum(shares) / 6)
    assert result.pass_at[1] == pytest.approx(result.sampled_accuracy.value)
    assert result.pass_at[5] == pytest.approx(sum(s > 0 for s in shares) / 6)
    assert sorted(result.pass_at.values()) == list(result.pass_at.values())
    assert load_evaluation(path, problems=PROBLEMS, budgets=(2, 4)) == result


def test_errored_chains_are_kept_apart_and_redone(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    down = True

    def play(request: Request) -> Reply | ModelError:
        if down and "2003" in request.messages[1]["content"]:
            return ModelError("the server is gone")
        return plodder(0)(request)

    first = evaluate(setting(), toys.Played(play), PROBLEMS, path, BOTH)
    assert first.errored == (PROBLEMS[3].id,)
    assert first.accuracy["4"].value == 1.0
    assert first.accuracy["4"].total == len(first.scores) == 5
    down = False
    asked = toys.Played(play)
    again = evaluate(setting(), asked, PROBLEMS, path, BOTH)
    assert again.errored == ()
    assert len(again.scores) == 6
    assert len(asked.released) == 1


def test_a_finished_evaluation_asks_the_model_nothing(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    once = evaluate(setting(), toys.Played(plodder(0)), PROBLEMS, path, BOTH)
    unasked = toys.Played(plodder(0))
    assert evaluate(setting(), unasked, PROBLEMS, path, BOTH) == once
    assert unasked.most_open == 0


def test_chains_of_other_settings_in_the_file_are_refused_before_the_model_runs(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    evaluate(setting(), toys.Played(plodder(0)), PROBLEMS, path, BOTH)
    other = toys.Played(plodder(0), name="retrained")
    with pytest.raises(DataError, match="under other settings"):
        evaluate(setting(), other, PROBLEMS, path, BOTH)
    assert other.most_open == 0


def test_a_file_with_two_attempts_of_a_problem_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    ChainStore(path).append([toys.chain("add(1, 1)"), toys.chain("add(1, 1)", right=False)])
    with pytest.raises(DataError, match="under other settings"):
        load_evaluation(path)


def test_problems_without_a_chain_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    evaluate(setting(), toys.Played(plodder(0)), PROBLEMS[:4], path, BOTH)
    partial = load_evaluation(path, problems=PROBLEMS, budgets=(2, 4))
    assert partial.unfinished == tuple(p.id for p in PROBLEMS[4:])
    assert partial.accuracy["4"].total == 4


def test_nothing_to_evaluate_and_doubled_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished chains"):
        load_evaluation(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="share an id"):
        evaluate(setting(), toys.Played(plodder(0)), [PROBLEMS[0]] * 2, tmp_path / "x.jsonl", BOTH)
    with pytest.raises(DataError, match="several greedy chains"):
        summarise([toys.chain("add(1, 1)"), toys.chain("add(1, 1)", sample=1)])


class Patient(toys.SumTask):
    budgets = (3, 4)


def test_a_tasks_own_budgets_hold_unless_others_are_given(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    patient = Setting(Patient(), Patient().function_set(), "base")
    model = toys.Played(plodder(2))
    result = evaluate(patient, model, PROBLEMS, path)
    assert (result.budgets, result.accuracy["3"].value, result.accuracy["4"].value) == ((3, 4), 0, 1)
    assert load_evaluation(path) == result
    assert load_evaluation(path, budgets=(4,)).budgets == (4,)
    other = tmp_path / "other.jsonl"
    assert evaluate(patient, model, PROBLEMS, other, EvaluateConfig(budgets=(2,))).budgets == (2,)


def test_budgets_are_sorted_and_checked() -> None:
    assert EvaluateConfig(budgets=(20, 10, 10)).budgets == (10, 20)
    with pytest.raises(ConfigError, match="positive"):
        EvaluateConfig(budgets=(0, 10))
    with pytest.raises(ConfigError, match="positive"):
        EvaluateConfig(budgets=())


def candidates(log: list[str], **waits: int) -> dict[str, Callable[[], toys.Played]]:
    """Checkpoints that need so many turns; what is built and closed is logged."""

    class Logged(toys.Played):
        def close(self) -> None:
            log.append(f"closed {self.name}")

    def factory(name: str, wait: int) -> Callable[[], toys.Played]:
        def build() -> toys.Played:
            log.append(f"built {name}")
            return Logged(plodder(wait), name=name)

        return build

    return {name: factory(name, wait) for name, wait in waits.items()}


def test_the_best_checkpoint_is_kept_and_of_equals_the_earliest(tmp_path: Path) -> None:
    log: list[str] = []
    chosen = select(
        candidates(log, late=9, first=1, second=0), setting(budget=Budget(steps=4)), PROBLEMS, tmp_path
    )
    assert chosen.best == "first"
    assert [c.name for c in chosen.candidates] == ["late", "first", "second"]
    assert [c.right_reason.value for c in chosen.candidates] == [0.0, 1.0, 1.0]
    assert chosen.candidates[0].stop_reasons == {StopReason.STEP_BUDGET: 6}
    assert chosen.problems == 6
    assert log[:3] == ["built late", "closed late", "built first"]
    assert (tmp_path / "second.jsonl").exists()


def test_a_checkpoint_whose_validation_errored_is_not_judged(tmp_path: Path) -> None:
    broken = toys.Played(
        lambda r: ModelError("gone") if "2001" in r.messages[1]["content"] else plodder(0)(r)
    )
    with pytest.raises(DataError, match="redone"):
        select({"a": lambda: broken}, setting(), PROBLEMS, tmp_path)
    with pytest.raises(ConfigError, match="no checkpoint"):
        select({}, setting(), PROBLEMS, tmp_path)
