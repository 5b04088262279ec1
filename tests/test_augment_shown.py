"""Operations on which functions the prompt shows: a right chain stays right, and says the same."""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterator
from pathlib import Path
from random import Random
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.augment import Made, Original, Rejected, carry_out, original_of, play
from rightcall.augment.distractors import DISTRACTORS
from rightcall.augment.shown import (
    SHOWN,
    add_functions,
    drop_functions,
    functions_in,
    rename_functions,
    shuffle_functions,
)
from rightcall.chain import Chain, Outcome, Problem
from rightcall.errors import FailureKind
from rightcall.functions import FunctionSet, Role, Stop, function, parse_calls
from rightcall.task import Task, load_task
from toys import SumTask, add, record, stop

SUMS = SumTask()


def original(*more: list[str], subset: str | None = None) -> Original:
    """The problem 0 + 7 with its gold chain, and with more chains of these replies."""
    (problem,) = SUMS.problems("train", 1)
    functions = SUMS.function_set(subset)
    chains = [play(SUMS, functions, problem, list(problem.gold))]
    chains += [
        play(SUMS, functions, problem, replies, source=f"student{n}") for n, replies in enumerate(more)
    ]
    return original_of(SUMS, functions, problem, chains)


def carried(parent: Chain, made: Made) -> Chain | None:
    return next(
        (c for c in made.chains if c.origin is not None and c.origin.parent == parent.key), None
    )


GENERATED = {
    "math": load_task("math", steps=[2, 4]),
    "fol": load_task("fol", hops=[1, 2], max_sentences=5, provers=0),
    "rules": load_task("rules"),
}
ORIGINALS = {
    name: [original_of(task, task.function_set(), problem) for problem in task.problems("train", 6)]
    for name, task in GENERATED.items()
}


# --- all of them ----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    task=st.sampled_from(sorted(GENERATED)),
    number=st.integers(0, 5),
    name=st.sampled_from(sorted(SHOWN)),
    seed=st.integers(0, 10**6),
)
def test_a_right_chain_is_right_again_whatever_functions_are_shown(
    task: str, number: int, name: str, seed: int
) -> None:
    before = ORIGINALS[task][number]
    if name == "drop_functions" and task != "math":
        with pytest.raises(Rejected, match="every function is needed"):
            carry_out(before, name, SHOWN[name], Random(seed))
        return
    made = carry_out(before, name, SHOWN[name], Random(seed))
    again = carry_out(before, name, SHOWN[name], Random(seed))
    assert made.problem.question == before.problem.question
    assert [chain.right_for_the_right_reason for chain in made.chains] == [True]
    assert made.chains[0].prompt != before.chains[0].prompt
    assert again.chains[0].prompt == made.chains[0].prompt
    observed = [step.observation for step in before.chains[0].steps]
    assert [step.observation for step in made.chains[0].steps] == observed


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_wrong_chains_stay_wrong_in_the_same_way(name: str) -> None:
    given = original(["add(1, 7)", "stop('8')"], ["sum(0, 7)", "nothing", "stop('9')"], subset="short")
    if name == "drop_functions":
        given = original(["add(1, 7)", "stop('8')"], ["sum(0, 7)", "nothing", "stop('9')"])
    made = carry_out(given, name, SHOWN[name], Random(3))
    for parent in given.chains:
        chain = carried(parent, made)
        assert chain is not None
        assert chain.outcome is parent.outcome
        assert chain.answer == parent.answer
        assert chain.failures == parent.failures


@function(example="only('5')", role=Role.FLOW, trusted=True)
def only(answer: str) -> Stop:
    """End with an answer."""
    return Stop(answer)


# --- order, fewer, more ---------------------------------------------------------------------------


def test_shuffled_functions_are_the_same_ones_in_another_order() -> None:
    for seed in range(20):
        shown = [f.name for f in shuffle_functions(original(), Random(seed)).functions or ()]
        assert sorted(shown) == ["add", "record", "stop"]
        assert shown != ["add", "record", "stop"]


def test_a_task_with_a_single_function_is_rejected_with_a_reason() -> None:
    given = original()
    alone = Original(SUMS, FunctionSet([stop]), given.problem, given.chains)
    for operation in (shuffle_functions, drop_functions):
        with pytest.raises(Rejected, match=r"single function|every function is needed"):
            operation(alone, Random(0))


def test_only_what_no_chain_calls_is_dropped() -> None:
    assert [f.name for f in drop_functions(original(), Random(0)).functions or ()] == ["add", "stop"]
    with pytest.raises(Rejected, match="every function is needed"):
        drop_functions(original(["record(3)", "stop('7')"]), Random(0))


def test_a_function_that_a_failed_call_or_talk_names_is_not_dropped() -> None:
    for reply in ("record('x')", "record(", "I could record(3). But: add(0, 7)"):
        with pytest.raises(Rejected, match="every function is needed"):
            drop_functions(original([reply, "stop('7')"]), Random(0))


def test_added_functions_share_no_name_with_the_task_nor_with_a_call_in_vain() -> None:
    given = original(["count_words('a b')", "stop('7')"], subset="short")
    for seed in range(30):
        shown = [f.name for f in add_functions(given, Random(seed)).functions or ()]
        assert [name for name in shown if name in ("add", "stop")] == ["add", "stop"]
        assert 2 <= len(shown) - 2 <= 5
        assert "count_words" not in shown
        assert len(set(shown)) == len(shown)


# --- other names ----------------------------------------------------------------------------------


def test_renamed_functions_are_described_called_and_answered_by_their_new_names() -> None:
    given = original()
    for seed in range(30):
        made = carry_out(given, "rename_functions", rename_functions, Random(seed))
        (chain,) = made.chains
        shown = chain.prompt[0]["content"]
        for new, old in chain.renamed.items():
            assert f"{new}(" in shown
            assert f"Example: {new}(" in shown
            assert f"{old}(" not in shown
        for step in chain.steps:
            assert step.call is not None
            assert step.call.name in shown
        assert chain.judgement.process_correct is True


def test_new_names_can_be_called_and_no_two_are_alike() -> None:
    problem = original().problem
    functions = FunctionSet([add, record, stop, *DISTRACTORS])
    given = original_of(SUMS, functions, problem)
    for seed in range(50):
        shown = rename_functions(given, Random(seed)).functions
        assert shown is not None
        names = [made.name for made in shown]
        assert len({name.lower() for name in names}) == len(names)
        assert not any(keyword.iskeyword(name) for name in names)
        assert all(name.isidentifier() for name in names)
        taken = set(functions.by_name)
        assert not any(made.name in taken for made in shown if made.task_name)


def test_functions_can_be_renamed_twice_and_keep_their_task_names() -> None:
    once = carry_out(original(), "rename_functions", rename_functions, Random(1))
    variant = rename_functions(original(), Random(1))
    assert variant.functions is not None
    given = original_of(SUMS, variant.functions, once.problem, once.chains)
    twice = carry_out(given, "rename_functions", rename_functions, Random(2))
    assert set(twice.chains[0].renamed.values()) <= {"add", "record", "stop"}
    assert twice.chains[0].right_for_the_right_reason


PROSE = [
    "I `add` them, I don't use record(3): add(0, 7)",
    "```\nadd(0, 7)\n```",
    "<think>\nadd(1, 1) or add(2, 2)?\n</think>\nadd(0, 7)",
    "add (0, 7)",
    "add(add(0, 1), 6)",
    "add(0, 7",
    "add(0, 7) add(1, 2)",
]


@pytest.mark.parametrize("reply", PROSE)
def test_words_beside_a_call_are_kept_and_the_call_says_the_same(reply: str) -> None:
    given = original([reply, "stop('7')"])
    (parent,) = [chain for chain in given.chains if chain.source == "student0"]
    for seed in range(10):
        made = carry_out(given, "rename_functions", rename_functions, Random(seed))
        chain = carried(parent, made)
        assert chain is not None
        back = chain.steps[0].reply
        for new, old in chain.renamed.items():
            back = back.replace(f"{new}(", f"{old}(").replace(f"{new} (", f"{old} (")
            back = back.replace(f"`{new}`", f"`{old}`")
        assert back == reply
        assert chain.failures == parent.failures


def test_a_name_in_a_string_is_left_alone() -> None:
    given = original(["add(0, 7)", "stop('add(0, 7)')"])
    made = carry_out(given, "rename_functions", rename_functions, Random(4))
    answers = {chain.answer for chain in made.chains}
    assert answers == {"7", "add(0, 7)"}


def test_a_call_of_an_unknown_function_stays_one() -> None:
    names = ["plus", "sum_of", "total_of", "add_up", "finish", "done", "store"]
    for name in names:
        given = original([f"{name}(0, 7)", "stop('7')"])
        for seed in range(5):
            made = carry_out(given, "rename_functions", rename_functions, Random(seed))
            chain = next(c for c in made.chains if c.source == "student0")
            assert chain.failures == (FailureKind.UNKNOWN_FUNCTION,)
            assert chain.steps[0].reply == f"{name}(0, 7)"


def test_the_old_name_stands_nowhere_in_the_schema() -> None:
    renamed = add.renamed("plus")
    assert '"add"' not in json.dumps(renamed.schema)


class Named(SumTask):
    """Its instruction calls a function by its name."""

    instruction = "Add with `add`, then stop."


def test_a_function_that_the_instruction_calls_by_name_keeps_it() -> None:
    task = Named()
    (problem,) = task.problems("train", 1)
    given = original_of(task, task.function_set(), problem)
    for seed in range(20):
        shown = rename_functions(given, Random(seed)).functions
        assert shown is not None
        assert "add" in shown.by_name


@function(example="twice(2)", trusted=True)
def twice(number: int) -> int:
    """Like add(number, number), and not like `stop`."""
    return 2 * number


def test_descriptions_follow_the_names() -> None:
    given = original()
    mine = Original(SUMS, FunctionSet([add, twice, stop]), given.problem, given.chains)
    for seed in range(20):
        shown = rename_functions(mine, Random(seed)).functions
        assert shown is not None
        name = {made.task_name or made.name: made.name for made in shown}
        described = shown.by_name[name["twice"]].description
        assert described == f"Like {name['add']}(number, number), and not like `{name['stop']}`."


@settings(max_examples=30)
@given(
    task=st.sampled_from(sorted(GENERATED)),
    name=st.sampled_from(sorted(SHOWN)),
    seed=st.integers(0, 10**6),
)
def test_the_functions_of_a_prompt_are_read_back_from_it(task: str, name: str, seed: int) -> None:
    before = ORIGINALS[task][0]
    if name == "drop_functions" and task != "math":
        return
    made = carry_out(before, name, SHOWN[name], Random(seed))
    found = functions_in(made.chains[0].prompt[0]["content"], before.task)
    assert found is not None
    assert found.task_names == made.chains[0].renamed
    shown = SHOWN[name](before, Random(seed)).functions
    assert shown is not None
    assert [one.help for one in found] == [one.help for one in shown]


def test_functions_that_speak_of_others_are_read_back_and_foreign_prompts_are_not() -> None:
    class Telling(SumTask):
        functions = (add, twice, stop)

    task = Telling()
    (problem,) = task.problems("train", 1)
    given = original_of(task, task.function_set(), problem)
    for seed in range(10):
        made = carry_out(given, "rename_functions", rename_functions, Random(seed))
        message = made.chains[0].prompt[0]["content"]
        found = functions_in(message, task)
        assert found is not None
        assert found.task_names == made.chains[0].renamed
        assert functions_in(message + "!", task) is None
        assert functions_in(message, SUMS) is None
    assert functions_in("", task) is None


# --- the bank, and a user's own task --------------------------------------------------------------


@given(reply=st.sampled_from(DISTRACTORS).flatmap(lambda made: calls_of(made.name)))
def test_no_call_of_the_bank_does_worse_than_fail(reply: str) -> None:
    result = FunctionSet(DISTRACTORS).reply(reply, {})
    assert result.answer is None
    assert len(result.observation.text) < 1200


def calls_of(name: str) -> st.SearchStrategy[str]:
    value = st.one_of(
        st.integers(), st.floats(), st.text(max_size=20), st.lists(st.text(max_size=3)), st.booleans()
    )
    return st.lists(value, max_size=3).map(lambda args: f"{name}({', '.join(map(repr, args))})")


def test_the_bank_has_some_twenty_functions_that_say_what_they_do() -> None:
    assert 18 <= len(DISTRACTORS) <= 30
    functions = FunctionSet(DISTRACTORS)
    for made in functions:
        assert made.trusted
        assert made.role is Role.SOLVE
        assert functions.reply(made.example, {}).observation.text == made.example_result
        assert parse_calls(made.example)[0].name == made.name


def test_a_task_of_one_file_is_augmented_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "letters.py"
    file.write_text(
        dedent('''
        from rightcall.chain import Problem
        from rightcall.functions import Role, Stop, function
        from rightcall.task import Task

        @function(example="shout('a')", trusted=True)
        def shout(text: str) -> str:
            """The text in capitals."""
            return text.upper()

        @function(example="whisper('A')", trusted=True)
        def whisper(text: str) -> str:
            """The text in small letters."""
            return text.lower()

        @function(example="give('A')", role=Role.FLOW, trusted=True)
        def give(answer: str) -> Stop:
            """End with the answer."""
            return Stop(answer)

        class Letters(Task):
            name = "letters"
            instruction = "Write it in capitals."
            functions = (shout, whisper, give)

            def problems(self, split, count=None, seed=0):
                for n in range(count or 3):
                    text = "abc"[n % 3] * 3
                    yield Problem(
                        id=f"{split}{n}", question=text, answer=text.upper(),
                        gold=(f"shout({text!r})", f"give({text.upper()!r})"),
                    )
        ''')
    )
    task = load_task(f"{file}:Letters")
    (problem,) = task.problems("train", 1)
    given = original_of(task, task.function_set(), problem)
    for name, operation in SHOWN.items():
        made = carry_out(given, name, operation, Random(1))
        assert [chain.outcome for chain in made.chains] == [Outcome.CORRECT]


class Silent(Task):
    """One function, and no chain that is known."""

    name = "silent"
    instruction = "Answer."
    functions = (only,)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        yield Problem(id="one", question="What?", answer="this")


def test_one_function_can_be_renamed_and_joined_by_others() -> None:
    task = Silent()
    (problem,) = task.problems("train", 1)
    chain = play(task, task.function_set(), problem, ["only('this')"])
    given = original_of(task, task.function_set(), problem, [chain])
    renamed = carry_out(given, "rename_functions", rename_functions, Random(0))
    joined = carry_out(given, "add_functions", add_functions, Random(0))
    assert renamed.chains[0].answer == joined.chains[0].answer == "this"
    assert renamed.chains[0].renamed
    assert not joined.chains[0].renamed
