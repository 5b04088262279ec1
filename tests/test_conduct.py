"""How functions were used: values compare by value, figures are shares, errored chains enter none."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from chain_sets import chain_sets
from rightcall.chain import Chain, Judgement, Observation, Step
from rightcall.conduct import Conduct, ShownFunction, conduct, shown_functions
from rightcall.conduct.habits import answered_early
from rightcall.conduct.table import function_rows, usage_rows
from rightcall.conduct.values import answer_value, mentions, read, result_text, with_values
from rightcall.errors import FailureKind
from rightcall.evaluate import Circumstances, summarise
from rightcall.functions import FunctionSet

SHOWN = shown_functions(FunctionSet(toys.SumTask.functions))


def step(reply: str, observation: str, failure: FailureKind | None = None) -> Step:
    """A step as the loop records it: a failed call is kept."""
    made = toys.step(reply, observation)
    return made.model_copy(update={"observation": Observation(text=observation, failure=failure)})


ADDED = step("add(2, 3)", "5")
HONEST = toys.chain(ADDED, step("add(5, 4)", "9"), step('stop("9")', "9"), answer="9")


def used(*chains: Chain) -> Conduct:
    return conduct(chains, SHOWN)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("12", 12.0), ("$1,200", 1200), ("-3/4", -0.75), ("12.", "12"), (".5", 0.5), ("25%", 25),
        ("1e3", 1000), (True, " True."), ("Unknown", "unknown"),
    ],
)  # fmt: skip
def test_values_are_compared_and_not_their_spelling(one: object, other: object) -> None:
    assert read(one) == read(other) is not None


def test_what_is_no_value_has_none() -> None:
    assert [read(x) for x in ("", "  ", None, [], {}, float("inf"), float("nan"))] == [None] * 7
    assert read("1/0") == "1/0"
    assert read("9" * 5000) == "9" * 5000
    assert mentions("9" * 5000, Fraction(3)) is False


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9)
)
def test_a_number_is_the_same_as_a_literal_and_as_text(number: Decimal) -> None:
    assert read(str(number)) == read(f"{number:,}") == Fraction(number)
    assert answer_value(f"That makes {abs(number)} in all.") == abs(Fraction(number))


@given(old=st.integers(2, 999), new=st.integers(1000, 9999))
def test_a_value_is_replaced_wherever_it_stands_and_nowhere_else(old: int, new: int) -> None:
    given = [old, str(old), float(old), f"({old} + 1) * x{old}", {"k": [old]}, "old", 5000]
    made = with_values(given, {Fraction(old): str(new)})
    assert made == [new, str(new), float(new), f"({new} + 1) * x{old}", {"k": [new]}, "old", 5000]
    assert [type(x) for x in made] == [type(x) for x in given]


def test_a_quotient_is_a_number_and_has_numbers_in_it() -> None:
    assert not mentions("76 / 2", Fraction(38))
    assert not mentions("76/2", Fraction(38))
    assert mentions("76 / 2", Fraction(76))
    assert mentions("76/2", Fraction(2))
    assert mentions("7/2 * 3", Fraction(7, 2))
    assert not mentions("-5", Fraction(5))
    swaps = {Fraction(76): "80", Fraction(7, 2): "9/2"}
    given = ["76 / 2", "76/2", "7/2 * 3", "1/76", "7/3"]
    assert with_values(given, swaps) == ["80 / 2", "80/2", "9/2 * 3", "1/80", "7/3"]


def test_what_the_loop_adds_to_a_result_is_not_part_of_it() -> None:
    both = FunctionSet(toys.SumTask.functions).reply("add(2, 3)\nadd(4, 5)", {})
    assert both.observation.text != "5"
    assert result_text(both.observation) == "5"


# --- figures --------------------------------------------------------------------------------------


def test_an_honest_chain_has_nothing_against_it() -> None:
    made = used(HONEST)
    assert made.coverage == pytest.approx(2 / 3)
    assert (made.results, made.unused_results) == (2, 0.0)
    assert made.early_answers is not None
    assert made.early_answers.value == 0.0
    assert (made.repeating_chains.value, made.repeated_calls) == (0.0, 0.0)
    assert made.functions["add"].share == pytest.approx(2 / 3)
    assert made.functions["record"].calls == 0


def test_a_failed_call_counts_for_its_function_and_not_as_a_result() -> None:
    failed = step("add(1)", "Error: add needs b", FailureKind.MISSING_ARGUMENT)
    unknown = step("ad(1, 2)", "Error: unknown function", FailureKind.UNKNOWN_FUNCTION)
    made = used(toys.chain(failed, unknown, *HONEST.steps, answer="9"))
    assert (made.functions["add"].calls, made.functions["add"].failed) == (3, 1)
    assert made.functions["add"].failure_rate == pytest.approx(1 / 3)
    assert made.results == 2
    assert list(made.functions) == ["add", "record", "stop"]


def test_results_that_go_nowhere_are_unused() -> None:
    for_show = toys.chain(ADDED, step("add(7, 7)", "14"), step('stop("5.0")', "5.0"), answer="5.0")
    assert used(for_show).unused_results == 0.5


def test_a_result_may_be_used_inside_a_text() -> None:
    made = toys.chain(ADDED, step('stop("5 apples")', "5 apples"), answer="5 apples")
    assert used(made).unused_results == 0.0


def test_functions_with_a_state_or_that_do_not_solve_give_no_results_to_use() -> None:
    made = used(toys.chain(step("record(3)", "1 recorded"), step('stop("2")', "2")))
    assert (made.results, made.unused_results) == (0, None)


def test_stopping_with_what_nothing_said_is_early() -> None:
    early = toys.chain(ADDED, step('stop("9")', "9"), answer="9")
    at_once = toys.chain(step('stop("9")', "9"), answer="9")
    assert answered_early(early)
    assert answered_early(at_once)
    assert not answered_early(HONEST)
    made = used(early, at_once, HONEST)
    assert made.early_answers is not None
    assert made.early_answers.value == pytest.approx(2 / 3)
    assert made.early_answers.low > 0


def test_a_failed_call_is_no_evidence() -> None:
    said = step("add(9)", "Error: 9 is not enough", FailureKind.MISSING_ARGUMENT)
    assert answered_early(toys.chain(said, step('stop("9")', "9"), answer="9"))


def test_a_verdict_with_its_reason_is_evidence() -> None:
    verdict = step("record(1)", "Unknown: no premise mentions it")
    assert not answered_early(toys.chain(verdict, step('stop("Unknown")', "Unknown"), answer="Unknown"))


def test_an_answer_is_not_early_where_the_task_finds_the_process_right() -> None:
    derived = toys.chain(step("record(1)", "D1"), step('stop("True")', "True"), answer="True")
    assert answered_early(derived)
    right = derived.model_copy(update={"judgement": Judgement(process_correct=True)})
    assert answered_early(right) is False


def test_a_chain_without_an_answer_cannot_be_early() -> None:
    cut = toys.chain(ADDED, right=False, stop_reason=toys.StopReason.STEP_BUDGET)
    assert answered_early(cut) is None
    assert used(cut).early_answers is None


def test_a_call_made_again_is_a_repetition_by_value() -> None:
    again = toys.chain(ADDED, step("add(2.0, 3)", "5"), step('stop("5")', "5"), answer="5")
    made = used(again, HONEST)
    assert made.repeating_chains.value == 0.5
    assert made.repeated_calls == pytest.approx(1 / 6)


def test_a_call_that_failed_before_is_no_repetition() -> None:
    failed = step("add(2, 3)", "Error: try again", FailureKind.TIME_LIMIT)
    assert used(toys.chain(failed, *HONEST.steps)).repeated_calls == 0.0


def test_reading_on_is_no_repetition() -> None:
    def read_on(said: str) -> Step:
        made = toys.step("record(1)", said)
        assert made.call is not None
        return made.model_copy(update={"call": made.call.model_copy(update={"args": ()})})

    assert used(toys.chain(read_on("one"), read_on("two"))).repeated_calls == 0.0
    assert used(toys.chain(read_on("one"), read_on("one"))).repeated_calls == 0.5


def test_files_of_earlier_versions_tell_less() -> None:
    made = conduct([HONEST])
    assert (made.coverage, made.unused_results) == (None, None)
    assert list(made.functions) == ["add", "stop"]
    assert made.early_answers is not None


def shares(made: Conduct) -> list[float]:
    found = [made.coverage, made.unused_results, made.repeated_calls]
    for one in (made.early_answers, made.repeating_chains):
        found += [one.low, one.value, one.high] if one else []
    for use in made.functions.values():
        found += [use.share, use.failure_rate]
    return [share for share in found if share is not None]


@given(chains=chain_sets(rollouts=False))
def test_figures_are_shares_and_errored_chains_enter_none(chains: list[Chain]) -> None:
    made = conduct(chains, SHOWN)
    assert all(0.0 <= share <= 1.0 for share in shares(made))
    assert sum(use.share for use in made.functions.values()) == pytest.approx(1.0)
    errored = [toys.chain(*c.steps, errored=True, sample=i) for i, c in enumerate(chains)]
    assert conduct([*chains, *errored], SHOWN) == made
    assert Conduct.model_validate_json(made.model_dump_json()) == made


def test_no_chains_give_no_figures() -> None:
    made = conduct([], SHOWN)
    assert made.chains == 0
    assert (made.coverage, made.unused_results, made.early_answers) == (0.0, None, None)
    assert made.repeating_chains.total == 0


# --- as rows --------------------------------------------------------------------------------------


def test_rows_hold_one_figure_of_all_models_and_leave_out_what_is_not_known() -> None:
    full = summarise([HONEST], circumstances=Circumstances(functions=SHOWN))
    bare = summarise([HONEST.model_copy(update={"judgement": Judgement(measures={"exact_it": 0.5})})])
    rows = dict(usage_rows([full, bare]))
    assert rows["functions called at least once"] == ("2 of 3", None)
    assert rows["results used by nothing"] == ("0.0% of 2", None)
    assert rows["exact it"] == (None, "50.0%")
    assert "the answer follows it" not in rows
    assert dict(function_rows([full, bare]))["record"] == ("0.0%", None)


def test_what_was_shown_says_role_and_state() -> None:
    assert SHOWN[1] == ShownFunction(name="record", role="solve", stateful=True)
    assert SHOWN[2].role == "flow"
