"""Right chains made wrong: each is shown to be wrong by execution, and coherent but for one error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.augment import Made, Original, Rejected, carry_out, original_of, play
from rightcall.augment.corruption import (
    CORRUPTIONS,
    early_stop,
    ignored_observation,
    skipped_step,
    unparsable_call,
    wrong_argument,
    wrong_function,
)
from rightcall.augment.shown import rename_functions
from rightcall.augment.values import key_of, like, numbers_in, worth
from rightcall.augment.written import written_call
from rightcall.chain import Chain, Judgement, Outcome, Problem, StopReason
from rightcall.errors import FailureKind
from rightcall.functions import Function, FunctionSet, Role, Stop, function
from rightcall.task import Task, load_task
from toys import SumTask

MATH = load_task("math", steps=[2, 4])
GENERATED: dict[str, tuple[Task, str | None]] = {
    "math": (MATH, None),
    "calculator": (MATH, "calculator"),
    "fol": (load_task("fol", hops=[1, 2], max_sentences=5, provers=1), None),
    "derive": (load_task("fol", hops=[1, 2], max_sentences=4, provers=1), "derive"),
    "rules": (load_task("rules"), None),
}
ORIGINALS = {
    name: [
        original_of(task, task.function_set(subset), problem) for problem in task.problems("train", 5)
    ]
    for name, (task, subset) in GENERATED.items()
}
NOTHING = {
    "no other function takes these arguments",
    "no try of it is wrong",
    "there is no intermediate result",
    "no call rests on an observation",
}


def replies(chain: Chain) -> list[str]:
    return [step.reply for step in chain.steps]


def observed(chain: Chain) -> list[str]:
    return [step.observation.text for step in chain.steps]


# --- whatever the task ----------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    task=st.sampled_from(sorted(GENERATED)),
    number=st.integers(0, 4),
    name=st.sampled_from(sorted(CORRUPTIONS)),
    seed=st.integers(0, 10**6),
)
def test_a_corruption_is_wrong_and_the_same_again_for_the_same_draw(
    task: str, number: int, name: str, seed: int
) -> None:
    before = ORIGINALS[task][number]
    try:
        made = carry_out(before, name, CORRUPTIONS[name], Random(seed))
    except Rejected as rejected:
        if str(rejected) not in NOTHING:
            raise
        return
    again = carry_out(before, name, CORRUPTIONS[name], Random(seed))
    assert made.problem == before.problem
    assert [replies(chain) for chain in again.chains] == [replies(chain) for chain in made.chains]
    for chain in made.chains:
        assert not chain.right_for_the_right_reason
        assert replies(chain) != replies(before.chains[0])


@settings(max_examples=40)
@given(number=st.integers(0, 4), name=st.sampled_from(sorted(CORRUPTIONS)), seed=st.integers(0, 999))
def test_what_a_corrupted_calculation_goes_on_with_was_observed_or_told(
    number: int, name: str, seed: int
) -> None:
    """One value at most comes from nowhere: the one that the error put there."""
    before = ORIGINALS["math"][number]
    (chain,) = carry_out(before, name, CORRUPTIONS[name], Random(seed)).chains
    known = {key_of(one) for one in numbers_in(before.problem.question)} | {key_of("100")}
    strange = set()
    for step in chain.steps:
        written = written_call(step.reply, before.functions)
        for literal in written.literals if written is not None else ():
            if key_of(str(literal.value)) not in known:
                strange.add(key_of(str(literal.value)))
        known.add(key_of(worth(step.observation.text)))
    assert len(strange) <= 1


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"unparsable_call"}))
def test_only_unparsable_calls_fail(name: str) -> None:
    kept = 0
    for task, originals in ORIGINALS.items():
        for number, before in enumerate(originals):
            try:
                made = carry_out(before, name, CORRUPTIONS[name], Random(number))
            except Rejected:
                continue
            assert [chain.failures for chain in made.chains] == [()], (task, number)
            kept += 1
    assert kept


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_without_a_right_chain_nothing_is_made(name: str) -> None:
    task = SumTask()
    (problem,) = task.problems("train", 1)
    wrong = play(task, task.function_set(), problem, ["stop('99')"])
    given = original_of(task, task.function_set(), problem, [wrong])
    with pytest.raises(Rejected, match="no right chain"):
        CORRUPTIONS[name](given, Random(0))


def test_a_chain_is_corrupted_once_however_often_it_was_sampled() -> None:
    task = SumTask()
    (problem,) = task.problems("train", 1)
    chains = [
        play(task, task.function_set(), problem, problem.gold, source=source)
        for source in ("teacher", "student")
    ]
    given = original_of(task, task.function_set(), problem, chains)
    assert len(wrong_argument(given, Random(0)).replies) == 1


# --- each kind, on chains with few ways to err ----------------------------------------------------


@function(example="subtract(7, 3)", trusted=True)
def subtract(a: float, b: float) -> float:
    """a - b."""
    return a - b


@function(example="raise_by(7, 3)", trusted=True)
def raise_by(a: float, b: float) -> float:
    """a + b."""
    return a + b


@function(example="stop(4)", role=Role.FLOW, trusted=True)
def stop(answer: float | str) -> Stop:
    """End with the answer."""
    return Stop(str(answer))


class Change(Task):
    """What is left of some money?"""

    name = "change"
    instruction = "How much is left?"
    functions: tuple[Function, ...] = (subtract, raise_by, stop)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        yield Problem(
            id=split,
            question="Ann has 50 dollars, pays 12 dollars and 5 dollars. What is left?",
            answer="33",
            gold=("raise_by(12, 5)", "subtract(50, 17)", "stop(33)"),
        )

    def verify(self, problem: Problem, answer: str) -> bool:
        return float(answer) == 33


def change(*gold: str) -> Original:
    task = Change()
    (problem,) = task.problems("train")
    chain = play(task, task.function_set(), problem, gold or problem.gold)
    assert chain.outcome is Outcome.CORRECT
    return original_of(task, task.function_set(), problem, [chain])


def all_of(given: Original, name: str, draws: int = 60) -> set[tuple[str, ...]]:
    made = set()
    for seed in range(draws):
        (chain,) = carry_out(given, name, CORRUPTIONS[name], Random(seed)).chains
        made.add(tuple(replies(chain)))
    return made


def test_after_another_function_the_chain_goes_on_with_what_it_gives() -> None:
    assert all_of(change(), "wrong_function") == {
        ("subtract(12, 5)", "subtract(50, 7.0)", "stop(43.0)"),
        ("raise_by(12, 5)", "raise_by(50, 17)", "stop(67.0)"),
    }


def test_a_wrong_argument_is_another_number_or_the_other_order() -> None:
    made = all_of(change(), "wrong_argument")
    assert ("raise_by(50, 5)", "subtract(50, 55.0)", "stop(-5.0)") not in made
    assert ("raise_by(12, 5)", "subtract(50, 12)", "stop(38.0)") in made
    for calls in made:
        assert sum(call not in ("raise_by(12, 5)", "subtract(50, 17.0)") for call in calls[:2]) >= 1


def test_without_a_step_the_next_one_takes_a_number_that_it_had() -> None:
    made = all_of(change(), "skipped_step")
    assert ("subtract(50, 12)", "stop(38.0)") in made
    assert {len(calls) for calls in made} == {2}


def test_an_early_stop_gives_an_intermediate_result() -> None:
    assert all_of(change(), "early_stop", 5) == {("raise_by(12, 5)", "stop(17.0)")}
    with pytest.raises(Rejected, match="no intermediate result"):
        early_stop(change("subtract(50, 17)", "stop(33)"), Random(0))


def test_an_ignored_observation_is_replaced_wherever_it_is_used() -> None:
    given = change("raise_by(12, 5)", "subtract(50, 17)", "subtract(67, 34)", "stop(33)")
    for calls in all_of(given, "ignored_observation"):
        assert calls[0] == "raise_by(12, 5)"
        assert calls[-1] != "stop(33)"


def test_an_unparsable_call_is_repeated_or_passed_over() -> None:
    kinds = set()
    for seed in range(60):
        (chain,) = carry_out(change(), "unparsable", unparsable_call, Random(seed)).chains
        assert set(chain.failures) <= {FailureKind.UNPARSABLE, FailureKind.NO_CALL}
        assert 1 <= len(chain.failures) <= 4
        kinds.add((chain.stop_reason, len(set(replies(chain))) == len(chain.steps)))
    assert kinds == {(StopReason.STOPPED, True), (StopReason.RECORD_ENDED, False)}


def test_calls_are_broken_in_several_ways() -> None:
    made = set(all_of(change(), "unparsable_call", 60))
    said = {reply for calls in made for reply in calls}
    assert {"raise_by(12, 5", "Next step: raise by 12 and 5.", "stop(33", "The answer is 33."} <= said
    assert "subtract(50, raise_by(12, 5))" in said


def test_words_that_would_contradict_a_changed_call_are_left_out() -> None:
    given = change("I add 12 and 5: raise_by(12, 5)", "Now: subtract(50, 17)", "So: stop(33)")
    for calls in all_of(given, "wrong_function"):
        assert calls[0] in ("I add 12 and 5: raise_by(12, 5)", "subtract(12, 5)")
        assert calls[1].startswith("Now: ")
        assert calls[2].startswith("So: stop(")


# --- right answers by luck ------------------------------------------------------------------------


class Judged(Change):
    """The answer is right whatever it is; the process, if 12 and 5 were added."""

    def verify(self, problem: Problem, answer: str) -> bool:
        return True

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        return Judgement(process_correct=any(step.reply == "raise_by(12, 5)" for step in chain.steps))


class Lucky(Judged):
    """And nobody knows how it was reached."""

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        return Judgement()


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"unparsable_call", "early_stop"}))
def test_a_right_answer_by_luck_counts_only_if_the_judge_knows_better(name: str) -> None:
    (problem,) = Change().problems("train")
    lucky = original_of(Lucky(), Lucky().function_set(), problem)
    with pytest.raises(Rejected, match="no try of it is wrong"):
        CORRUPTIONS[name](lucky, Random(0))
    judged = original_of(Judged(), Judged().function_set(), problem)
    if name == "ignored_observation":  # it had been observed
        with pytest.raises(Rejected, match="no try of it is wrong"):
            CORRUPTIONS[name](judged, Random(0))
        return
    (chain,) = carry_out(judged, name, CORRUPTIONS[name], Random(0)).chains
    assert chain.outcome is Outcome.CORRECT
    assert "raise_by(12, 5)" not in replies(chain)


# --- particular tasks -----------------------------------------------------------------------------


def corrupted(task: str, name: str, draws: int = 1) -> Iterator[tuple[Original, Chain]]:
    for before in ORIGINALS[task]:
        for seed in range(draws):
            made: Made = carry_out(before, name, CORRUPTIONS[name], Random(seed))
            yield from ((before, chain) for chain in made.chains)


@pytest.mark.parametrize("task", ["fol", "rules"])
def test_a_verdict_is_followed_unless_it_is_what_is_ignored(task: str) -> None:
    made = [
        chain
        for name in ("wrong_argument", "skipped_step", "early_stop")
        for _, chain in corrupted(task, name)
    ]
    assert made
    for chain in made:
        said = [worth(step.observation.text) for step in chain.steps if "goal(" in step.reply]
        assert chain.answer == said[-1] if said else not chain.right_for_the_right_reason
    ignored = list(corrupted(task, "ignored_observation"))
    assert ignored
    for _, chain in ignored:
        assert chain.answer != worth(chain.steps[-2].observation.text)
        assert chain.outcome is Outcome.INCORRECT


def test_a_task_without_another_function_for_these_arguments_is_rejected() -> None:
    with pytest.raises(Rejected, match="no other function takes these arguments"):
        wrong_function(ORIGINALS["rules"][0], Random(0))


def test_labels_follow_when_a_premise_is_left_out() -> None:
    seen = 0
    for before, chain in corrupted("derive", "skipped_step", 6):
        labels = {worth(text) for text in observed(chain)}
        for step in chain.steps:
            if step.call is not None and step.call.name == "derive":
                assert {str(name) for name in step.call.args[1:]} <= labels
        seen += len(chain.steps) < len(before.chains[0].steps)
    assert seen


def test_corruptions_of_renamed_functions_speak_their_names() -> None:
    before = ORIGINALS["math"][0]
    made = carry_out(before, "rename_functions", rename_functions, Random(0))
    variant = rename_functions(before, Random(0))
    assert variant.functions is not None
    given = original_of(before.task, variant.functions, made.problem, made.chains)
    for name in CORRUPTIONS:
        (chain,) = carry_out(given, name, CORRUPTIONS[name], Random(1)).chains
        assert chain.renamed == made.chains[0].renamed
        called = {step.call.name for step in chain.steps if step.call is not None}
        assert called <= variant.functions.by_name.keys()


def test_expressions_follow_what_was_calculated() -> None:
    made = list(corrupted("calculator", "wrong_argument"))
    assert made
    for _, chain in made:
        assert chain.answer is not None
        assert key_of(chain.answer) == key_of(observed(chain)[-2])


def test_a_task_of_one_file_is_corrupted_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "capitals.py"
    file.write_text(
        dedent('''
        from rightcall.chain import Problem
        from rightcall.functions import Role, Stop, function
        from rightcall.task import Task

        CAPITALS = {"France": "Paris", "Spain": "Madrid"}

        @function(example="capital_of('France')", trusted=True)
        def capital_of(country: str) -> str:
            """The capital of a country."""
            return CAPITALS[country]

        @function(example="letters_in('France')", trusted=True)
        def letters_in(text: str) -> str:
            """How many letters a text has."""
            return str(len(text))

        @function(example="give('Paris')", role=Role.FLOW, trusted=True)
        def give(answer: str) -> Stop:
            """End with the answer."""
            return Stop(answer)

        class Capitals(Task):
            name = "capitals"
            instruction = "Look it up."
            functions = (capital_of, letters_in, give)

            def problems(self, split, count=None, seed=0):
                yield Problem(
                    id=split, question="How many letters has the capital of France?", answer="5",
                    gold=("capital_of('France')", "letters_in('Paris')", "give('5')"),
                )
        ''')
    )
    task = load_task(f"{file}:Capitals")
    (problem,) = task.problems("train", 1)
    given = original_of(task, task.function_set(), problem)
    made = {}
    for name, operation in CORRUPTIONS.items():
        try:
            (made[name],) = carry_out(given, name, operation, Random(1)).chains
        except Rejected:
            continue
    assert made.keys() >= {"wrong_function", "skipped_step", "ignored_observation", "unparsable_call"}
    assert replies(made["wrong_function"])[-1] in ("give('6')", "give('1')")
    assert all(chain.outcome is Outcome.INCORRECT for chain in made.values())


def test_values_are_told_apart_by_kind() -> None:
    assert like("23", "132")
    assert not like("2.5", "132")
    assert not like("-3", "132")
    assert not like("True", "132")
    assert worth("Unknown: no premise mentions red") == "Unknown"
    assert numbers_in("It costs $1,200.50 on 3 days, day-2") == ["1200.50", "3", "2"]


def test_a_call_is_found_in_its_place() -> None:
    functions = FunctionSet([subtract, stop])
    found = written_call('I say "stop (now)". subtract(\n a=[1, -2.5][0], b=3)', functions)
    assert found is None
    found = written_call("Né? `subtract(b=3,\n a=-2.5)`.", functions)
    assert found is not None
    assert [(one.source, one.value, one.argument) for one in found.literals] == [
        ("3", 3, "b"),
        ("-2.5", -2.5, "a"),
    ]
    assert found.source == "subtract(b=3,\n a=-2.5)"


def test_skipping_and_ignoring_need_something_to_go_on_from() -> None:
    given = change("stop(33)")
    for operation in (skipped_step, ignored_observation, wrong_function, wrong_argument):
        with pytest.raises(Rejected):
            operation(given, Random(0))
