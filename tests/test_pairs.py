"""Pairs: who may be chosen, who may be rejected, and what the file holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from itertools import islice, product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain_sets import FAILED_ADD, chain_sets, judged_chain
from rightcall.chain import Call, Chain, Judgement, Message, Observation, Problem, Step, StopReason
from rightcall.dialects import DIALECTS, PythonCalls, conversation
from rightcall.errors import ConfigError, DataError, FailureKind
from rightcall.functions import FunctionSet, States, parse_calls
from rightcall.native import Invocation, Said
from rightcall.pairs import (
    STRATEGIES,
    Basis,
    PairConfig,
    PreferencePair,
    Sides,
    check_leaks,
    compare_strategies,
    comparison_table,
    make_pairs,
    pair_statistics,
    read_pairs,
    strategies,
    write_pairs,
)
from rightcall.pairs.outline import Outline
from rightcall.tasks.fol.task import FolTask
from rightcall.tasks.math.functions import TRUSTED
from rightcall.tree import Node, StepTree, assured_gap
from toys import chain, step

STEPS = PairConfig(strategies={"step": 1.0})
RIGHT = chain("add(1, 1)", 'stop("2")')
WRONG = chain("add(1, 2)", 'stop("3")', right=False)


def pairs_of(*chains: Chain, **config: Any) -> list[PreferencePair]:
    return list(make_pairs(chains, PairConfig(**config)))


def replies(messages: tuple[Any, ...]) -> list[str]:
    return [m["content"] for m in messages if m["role"] == "assistant"]


def test_a_chain_pair_holds_all_turns_after_the_problem_but_not_the_observation_of_the_stop() -> None:
    (pair,) = pairs_of(RIGHT, WRONG)
    assert pair.prompt == RIGHT.prompt
    assert [m["role"] for m in pair.chosen] == ["assistant", "user", "assistant"]
    assert replies(pair.chosen) == ["add(1, 1)", 'stop("2")']
    assert replies(pair.rejected) == ["add(1, 2)", 'stop("3")']
    assert (pair.chosen_chain, pair.rejected_chain) == (RIGHT.key, WRONG.key)
    assert pair.question == "What is 1 + 1?"


def test_a_chain_that_ran_out_of_budget_ends_with_its_last_reply() -> None:
    endless = chain("add(1, 1)", "add(1, 1)", right=False, stop_reason=StopReason.STEP_BUDGET)
    (pair,) = pairs_of(RIGHT, endless)
    assert pair.rejected[-1] == {"role": "assistant", "content": "add(1, 1)"}
    assert pair.rejected_error == "step_budget"


def test_a_step_pair_is_one_reply_each_after_the_common_conversation() -> None:
    right = chain("add(1, 1)", "record(2)", 'stop("2")')
    wrong = chain("add(1, 1)", "record(3)", 'stop("3")', right=False)
    (pair,) = make_pairs([right, wrong], STEPS)
    assert replies(pair.prompt) == ["add(1, 1)"]
    assert pair.prompt[-1] == {"role": "user", "content": "ok"}
    assert [m["content"] for m in pair.chosen] == ["record(2)"]
    assert [m["content"] for m in pair.rejected] == ["record(3)"]


def test_a_step_pair_is_classed_by_the_failure_of_the_rejected_call() -> None:
    bad = chain("add(1, 1)", step("ad(1)", "Error", FailureKind.UNKNOWN_FUNCTION), right=False)
    (pair,) = make_pairs([RIGHT, bad], STEPS)
    assert pair.rejected_error == "unknown_function"


@pytest.mark.parametrize(
    "wrong",
    [
        chain("add(1, 1)", right=False, stop_reason=StopReason.STEP_BUDGET),
        chain(step("add(1, 1)", "another"), 'stop("9")', right=False),
        chain("add(1,  1)", 'stop("9")', right=False),
    ],
    ids=["one continues the other", "observations differ", "the same call in other words"],
)
def test_chains_without_a_real_parting_of_ways_make_no_step_pair(wrong: Chain) -> None:
    dropped: Counter[str] = Counter()
    assert list(make_pairs([RIGHT, wrong], STEPS, dropped)) == []
    assert dropped == {"problem whose chains make no pair": 1}


# --- what the tree decides ----------------------------------------------------------------------

EVERY = dict.fromkeys(STRATEGIES, 1.0)


def alone(strategy: str, **changes: Any) -> PairConfig:
    return PairConfig(strategies={strategy: 1.0}, **{"max_per_problem": 50, **changes})


def branch(reply: str, well: int, badly: int) -> list[Chain]:
    """Chains that begin with this reply, so many ending well and so many badly."""
    return [
        chain(reply, f"record({i})", 'stop("2")' if i < well else 'stop("3")', right=i < well)
        for i in range(well + badly)
    ]


def only(messages: tuple[Message, ...]) -> str:
    (message,) = messages
    return message["content"]


@pytest.mark.parametrize(("good", "bad"), [((1, 1), (1, 1)), ((1, 3), (2, 2)), ((0, 3), (0, 2))])
def test_a_step_that_is_not_worth_more_is_not_chosen(
    good: tuple[int, int], bad: tuple[int, int]
) -> None:
    chains = branch("add(1, 1)", *good) + branch("add(1, 2)", *bad)
    made = make_pairs(chains, alone("step"))
    assert not [p for p in made if not p.prompt[2:] and only(p.chosen) == "add(1, 1)"]


def test_the_gap_that_is_large_and_well_counted_comes_first() -> None:
    chains = [*branch("add(1, 1)", 5, 1), *branch("add(1, 2)", 0, 5), *branch("add(9, 9)", 1, 2)]
    first = next(iter(make_pairs(chains, alone("step"))))
    assert (only(first.chosen), only(first.rejected)) == ("add(1, 1)", "add(1, 2)")
    assert first.basis is Basis.VALUES
    assert (first.chosen_value, first.rejected_value) == (5 / 6, 0.0)
    assert (first.chosen_count, first.rejected_count) == (6, 5)


def test_another_rejected_step_comes_before_the_same_one_again() -> None:
    chains = [
        *branch("add(1, 1)", 9, 0), *branch("add(2, 0)", 9, 0), *branch("add(1, 2)", 0, 9),
        *branch("add(1, 3)", 0, 2),
    ]  # fmt: skip
    made = list(make_pairs(chains, alone("step", max_per_problem=2)))
    assert [only(p.rejected) for p in made] == ["add(1, 2)", "add(1, 3)"]


def test_a_step_that_the_task_judges_wrong_is_rejected_before_all_others() -> None:
    right, wrong = judged_chain([0, 1], right=True), judged_chain([0, 2], right=True)
    others = branch("add(2, 2)", 0, 9)
    made = list(make_pairs([right, wrong, *others], alone("step", max_per_problem=2)))
    assert [p.basis for p in made] == [Basis.PROCESS, Basis.VALUES]
    assert only(made[0].rejected) == "record(2)"
    assert made[0].rejected_error == "wrong_process"


def test_a_step_that_the_task_judges_wrong_is_never_chosen() -> None:
    slip = chain("record(2)", 'stop("2")')
    slip = slip.model_copy(update={"judgement": Judgement(process_correct=True, wrong_steps=(0,))})
    bad = chain("record(5)", 'stop("3")', right=False)
    assert list(make_pairs([slip, bad], alone("step"))) == []
    assert len(list(make_pairs([slip, bad], alone("chain")))) == 1


def lost_after(reply: str, tries: int) -> list[Chain]:
    """Rollouts from a prefix of one step, all in vain."""
    return [
        chain(reply, f"record({i})", 'stop("3")', right=False, sample=i).model_copy(
            update={"given_steps": 1, "key": f"rollout-{reply}-{i}"}
        )
        for i in range(tries)
    ]


def test_a_first_error_pair_takes_the_best_step_in_the_place_of_the_lost_one() -> None:
    chains = [*branch("add(1, 1)", 3, 0), *branch("add(2, 0)", 1, 1), *branch("add(1, 2)", 0, 1)]
    found = list(make_pairs([*chains, *lost_after("add(1, 2)", 4)], alone("first_error")))
    (pair,) = [p for p in found if only(p.rejected) == "add(1, 2)"]
    assert only(pair.chosen) == "add(1, 1)"
    assert pair.basis is Basis.ROLLOUTS
    assert (pair.rejected_value, pair.rejected_count) == (0.0, 5)
    few = make_pairs([*chains, *lost_after("add(1, 2)", 3)], alone("first_error"))
    assert "add(1, 2)" not in {only(p.rejected) for p in few}


def test_samples_alone_may_be_enough_for_a_first_error() -> None:
    chains = [*branch("add(1, 1)", 1, 0), *branch("add(1, 2)", 0, 5)]
    (pair,) = make_pairs(chains, alone("first_error"))
    assert (only(pair.rejected), pair.rejected_count) == ("add(1, 2)", 5)


def test_first_errors_that_were_tried_too_seldom_are_counted_as_such() -> None:
    found = [*branch("add(1, 1)", 3, 0), *branch("add(1, 2)", 0, 1), *branch("add(1, 3)", 0, 1)]
    chains = [*found, *lost_after("add(1, 2)", 2), *lost_after("add(1, 3)", 3)]

    def counted(chains: list[Chain], min_rollouts: int) -> tuple[int, dict[str, int]]:
        dropped: Counter[str] = Counter()
        made = make_pairs(chains, alone("first_error", min_rollouts=min_rollouts), dropped)
        return len(list(made)), dict(dropped)

    assert counted(chains, 2) == (2, {})
    assert counted(chains, 3) == (1, {"first error tried too seldom (min_rollouts = 3)": 1})
    assert counted(chains, 4) == (
        0,
        {
            "first error tried too seldom (min_rollouts = 4)": 2,
            "problem whose chains make no pair": 1,
        },
    )
    assert "tried too seldom" not in str(counted(chains[3:], 4))  # nothing is known to recover


@given(chains=chain_sets(rollouts=True))
def test_a_first_error_is_never_a_step_that_something_recovered_from(chains: list[Chain]) -> None:
    tree = StepTree.of(chains)
    for pair in make_pairs(chains, alone("first_error", min_rollouts=2)):
        depth = sum(m["role"] == "assistant" for m in pair.prompt)
        node = tree.path(pair.rejected_chain)[depth + 1]
        assert not node.recovered
        assert node.counted >= 3 or node.final or tree.chains[pair.rejected_chain].given_steps > depth
        assert tree.path(pair.rejected_chain)[depth].recovered
        assert pair.chosen_value > 0 == pair.rejected_value


def every_step_pair(tree: StepTree[Chain], sides: Sides) -> list[tuple[Node, Node]]:
    """(chosen, rejected) as `step` orders them, by looking at every combination."""
    judged = {tree.paths[c.key][step + 1] for c in sides.wrong for step in c.judgement.wrong_steps}
    right = {
        index
        for c in sides.right
        for step, index in enumerate(tree.paths[c.key][1:])
        if step not in c.judgement.wrong_steps
    }
    wrong = {index for c in sides.wrong for index in tree.paths[c.key][1:]}
    found = []
    for parent in tree.nodes:
        for good, bad in product(tree.children(parent), repeat=2):
            if good.index not in right or bad.index not in wrong or good.step is bad.step:
                continue
            assert good.step is not None
            assert bad.step is not None
            same_call = good.step.call is not None and good.step.call == bad.step.call
            known = bad.index in judged
            worth = good.value >= bad.value if known else good.value > bad.value
            counted = known or (good.counted and bad.counted)
            if worth and counted and not same_call and good.step.reply != bad.step.reply:
                found.append((not known, -assured_gap(good, bad), good.index, bad.index))
    again: Counter[int] = Counter()
    rounds = []
    for one in sorted(found):
        rounds.append((again[one[3]], one))
        again[one[3]] += 1
    return [(tree.nodes[one[2]], tree.nodes[one[3]]) for _, one in sorted(rounds)]


def shown(chains: list[Chain]) -> tuple[StepTree[Outline], Sides]:
    """A tree of outlines, with all of its chains on the sides that they may stand on."""
    outlines = [msgspec.json.decode(c.model_dump_json(), type=Outline) for c in chains]
    tree = StepTree.of(outlines)
    right = [c for c in tree.chains.values() if c.key in tree.well]
    wrong = [c for c in tree.chains.values() if c.key not in tree.well]
    return tree, Sides(right, wrong, right, wrong, outlines, min_rollouts=2)


WORDS = ("", "So: ", "Now: ")


@given(
    st.lists(
        st.builds(
            lambda firsts, right, sample: chain(
                *(f"{word}{call}" for word, call in firsts),
                'stop("2")' if right else 'stop("3")',
                right=right,
                sample=sample,
            ).model_copy(update={"judgement": Judgement(wrong_steps=(0,) if sample == 3 else ())}),
            st.lists(
                st.tuples(
                    st.sampled_from(WORDS),
                    st.sampled_from(
                        ["add(1, 1)", "add(1, 2)", "add(1, b=2)", "record(1.0)", "record(1)"]
                    ),
                ),
                max_size=2,
            ),
            st.booleans(),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=40,
        unique_by=lambda c: c.key,
    )
    | chain_sets(rollouts=True)
)
def test_step_pairs_are_those_of_every_combination_in_their_order(chains: list[Chain]) -> None:
    tree, sides = shown(chains)
    made = [
        (only(p.chosen), only(p.rejected), p.chosen_count, p.rejected_count, len(p.prompt), p.basis)
        for p in STRATEGIES["step"](tree, sides)
    ]
    expected = []
    for good, bad in every_step_pair(tree, sides):  # type: ignore[arg-type]
        assert good.step is not None
        assert bad.step is not None
        judged = any(
            tree.paths[c.key][s + 1] == bad.index for c in sides.wrong for s in c.judgement.wrong_steps
        )
        expected.append(
            (
                good.step.reply,
                bad.step.reply,
                good.counted,
                bad.counted,
                2 * good.depth,
                Basis.PROCESS if judged else Basis.VALUES,
            )
        )
    assert made == expected


@pytest.mark.parametrize("strategy", ["step", "first_error"])
@pytest.mark.parametrize("same_call", [False, True])
def test_a_thousand_ways_to_begin_do_not_take_a_million_comparisons(
    monkeypatch: pytest.MonkeyPatch, strategy: str, same_call: bool
) -> None:
    compared: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            compared[name] += 1
            return function(*given)

        return call

    monkeypatch.setattr(strategies, "assured_gap", counted("gap", assured_gap))
    monkeypatch.setattr(Call, "__eq__", counted("call", Call.__eq__))
    chains = [
        chain(
            f"Way {i}: add(1, {1 if same_call else i})", *(['stop("2")'] if right else []),
            right=right, sample=i,
        )
        for i in range(600)
        for right in [i % 2 == 0]
    ]  # fmt: skip
    chains.append(chain("record(3)", 'stop("2")'))
    tree, sides = shown(chains)
    first = list(islice(STRATEGIES[strategy](tree, sides), 4))
    assert len(first) == 4
    assert compared.total() < 20 * len(chains)


# --- repairs ------------------------------------------------------------------------------------


def test_a_repair_places_the_call_that_succeeded_where_the_failed_one_was() -> None:
    twice = chain("record(1)", FAILED_ADD, FAILED_ADD, "add(1, 1)", 'stop("2")')
    first, second = make_pairs([twice], alone("repair"))
    for pair, before in ((first, 1), (second, 2)):
        assert only(pair.chosen) == "add(1, 1)"
        assert only(pair.rejected) == "add(1)"
        assert len(replies(pair.prompt)) == before
        assert (pair.basis, pair.rejected_error) == (Basis.REPAIR, "missing_argument")
        assert pair.evidence == "Error: add needs b"
        assert pair.chosen_chain == pair.rejected_chain == twice.key


@pytest.mark.parametrize(
    ("mended", "right", "count"),
    [
        (["add(1, 1)", 'stop("3")'], False, 1),
        (["record(2)", 'stop("3")'], False, 0),
        ([], False, 0),
        (["add(1, 1)"], True, 1),
    ],
    ids=["its chain ended badly", "another function", "nothing succeeded", "its chain ended well"],
)
def test_what_counts_as_a_repair(mended: list[str], right: bool, count: int) -> None:
    made = chain(FAILED_ADD, *mended, right=right)
    assert len(list(make_pairs([made], alone("repair")))) == count


def test_a_repair_that_is_wrong_itself_is_none() -> None:
    answer = step('stop("2', "Error", FailureKind.UNPARSABLE)
    assert list(make_pairs([chain(answer, 'stop("3")', right=False)], alone("repair"))) == []
    assert len(list(make_pairs([chain(answer, 'stop("2")')], alone("repair")))) == 1
    talk = step("hm", "Error", FailureKind.NO_CALL)
    slip = chain(talk, "record(2)", 'stop("2")')
    judged = slip.model_copy(update={"judgement": Judgement(wrong_steps=(1,))})
    assert len(list(make_pairs([slip], alone("repair")))) == 1
    assert list(make_pairs([judged], alone("repair"))) == []


def faulty(name: str, *args: Any, failure: FailureKind = FailureKind.FUNCTION_ERROR) -> Step:
    call = Call(name=name, args=args)
    return Step(reply=str(call), call=call, observation=Observation(text="Error", failure=failure))


def ran(reply: str) -> Step:
    """A step of the logic task, whose call ran."""
    made = FolTask().function_set("all")
    return Step(
        reply=reply, call=parse_calls(reply, made.by_name)[0], observation=Observation(text="ok")
    )


UNPARSABLE, UNKNOWN = FailureKind.UNPARSABLE, FailureKind.UNKNOWN_FUNCTION


@pytest.mark.parametrize(
    ("failed", "mended", "count"),
    [
        (step('premise("forall x (jealous(x) -> ', "Error", UNPARSABLE), 'premise("~puppy(Ben)")', 0),
        (step('premise("~puppy(Ben)', "Error", UNPARSABLE), 'premise("~puppy(Ben)")', 1),
        (step('goal("~puppy(Ben)', "Error", UNPARSABLE), 'premise("~puppy(Ben)")', 0),
        (faulty("premise", "a(x))"), 'premise("b(x)")', 0),
        (faulty("premise", "a(x))"), 'premise("a(x)")', 1),
        (
            faulty("premise", "forall x (a(x) -> b(x)"),
            'premise("forall x (a(x) -> b(x))")',
            1,
        ),
        (
            faulty("premise", "forall x (a(x) -> b(x)"),
            'premise("forall x (b(x) -> c(x))")',
            0,
        ),
        (faulty("add", "1 apple", 2), "add(1, 2)", 1),
        (faulty("add", "1 apple", 2), "add(2, 3)", 0),
        (faulty("plus", 1, 2, failure=UNKNOWN), "add(1, 2)", 1),
        (faulty("plus", 1, 2, failure=UNKNOWN), "add(7, 9)", 0),
        (step("I think.", "Error", FailureKind.NO_CALL), "add(7, 9)", 1),
    ],
)  # fmt: skip
def test_a_repair_is_known_to_be_of_the_same_thing(failed: Step, mended: str, count: int) -> None:
    made = chain(failed, ran(mended), 'stop("2")')
    assert len(list(make_pairs([made], alone("repair")))) == count


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        ("I add (both) of them: add(1, 1)", 1),
        ("add(0, 1) would be less. So:\n```python\nadd(1, 1)\n```", 1),
        ("add(1, 1).", 1),
        ("add(1, 1)  # the sum", 1),
        ('add(1, 1)crates(Kim)")Rosa)")', 0),
        ("add(1, 1) This is the sum.", 0),
        ("add(1, 1)\nadd(1, 1)", 0),
        ("add(1, 1)\nrecord(2)", 0),
    ],
)
def test_nothing_stands_after_the_call_of_a_repair(reply: str, count: int) -> None:
    made = chain(FAILED_ADD, reply, 'stop("2")')
    assert made.steps[1].call == Call(name="add", args=(1, 1))
    assert len(list(make_pairs([made], alone("repair")))) == count


def test_nothing_stands_after_the_call_of_a_repair_natively() -> None:
    call = Invocation("add", {"a": 1, "b": 1})
    for calls, count in (((call,), 1), ((call, call), 0)):
        mended = step("add(1, 1)").model_copy(update={"reply": str(Said("So:", calls))})
        made = chain(FAILED_ADD, mended, 'stop("2")').model_copy(update={"dialect": "native"})
        assert len(list(make_pairs([made], alone("repair")))) == count


def test_repairs_after_which_nothing_ended_well_come_last() -> None:
    ends = [
        chain(f"record({i})", FAILED_ADD, "add(1, 2)", 'record("?")', right=False) for i in range(6)
    ]
    open_one = chain("record(7)", FAILED_ADD, "add(1, 0)", 'stop("3")', right=False)
    rollout = chain("record(7)", FAILED_ADD, "add(1, 0)", 'stop("2")', source="teacher")
    rollout = rollout.model_copy(update={"given_steps": 3})
    made = list(make_pairs([*ends, open_one, rollout], alone("repair", sources_rejected=("student",))))
    assert [p.chosen_value for p in made] == [0.5, *[0.0] * 6]


def test_repairs_of_chains_that_ended_well_come_first_and_kinds_of_failure_take_turns() -> None:
    talk = step("hm", "Error", FailureKind.NO_CALL)
    badly = chain(FAILED_ADD, "add(1, 2)", 'stop("3")', right=False)
    well = chain("record(7)", FAILED_ADD, "add(1, 1)", FAILED_ADD, "add(1, 0)", talk, 'stop("2")')
    made = list(make_pairs([badly, well], alone("repair")))
    assert [p.rejected_error for p in made] == [
        "missing_argument", "no_call", "missing_argument", "missing_argument",
    ]  # fmt: skip
    assert [p.chosen_chain == well.key for p in made] == [True, True, True, False]
    assert [bool(p.answer) for p in made] == [True, True, True, False]


def test_repairs_come_only_from_roles_that_may_be_chosen_and_rejected() -> None:
    made = chain(FAILED_ADD, "add(1, 1)", 'stop("2")', source="teacher")
    assert len(list(make_pairs([made], alone("repair")))) == 1
    assert list(make_pairs([made], alone("repair", sources_rejected=("student",)))) == []


FORMULAS = st.sampled_from(
    ["cold(Bob)", "red(Bob)", "forall x (cold(x) -> red(x))", "cold(Bob, Anne)", "cold(", "", "~"]
)
FOL_CALLS = st.one_of(
    st.builds("premise({!r})".format, FORMULAS),
    st.builds("goal({!r})".format, FORMULAS),
    st.builds("claim({!r})".format, FORMULAS),
    st.builds("derive({!r}, {!r})".format, FORMULAS, st.sampled_from(["P1", "P2", "P9"])),
    st.sampled_from(["derive('red(Bob)')", "stop('maybe')", "goal()", "prove('x')", "hm"]),
)


@given(calls=st.lists(FOL_CALLS, max_size=6))
def test_a_failed_call_of_a_built_in_task_leaves_the_state_as_it_was(calls: list[str]) -> None:
    functions, states = FolTask().function_set("all"), States()
    for call in calls:
        before = {kind: deepcopy(state) for kind, state in states.items()}
        failed = functions.reply(call, states).observation.failure is not None
        if failed:
            assert {k: s for k, s in states.items() if s != k()} == {
                k: s for k, s in before.items() if s != k()
            }


def test_the_functions_of_the_math_tasks_keep_no_state() -> None:
    assert [made.name for made in FunctionSet(TRUSTED) if made.state_parameters] == []


# --- promises of all strategies -----------------------------------------------------------------


def texts(messages: tuple[Message, ...]) -> list[str]:
    return [m["content"] for m in messages]


@given(chains=chain_sets(rollouts=True))
def test_both_sides_go_on_a_conversation_that_took_place(chains: list[Chain]) -> None:
    said = {c.key: texts(conversation(c.prompt, c.steps, PythonCalls())) for c in chains}
    for pair in make_pairs(chains, PairConfig(strategies=EVERY, max_per_problem=50, min_rollouts=2)):
        for side, key in ((pair.chosen, pair.chosen_chain), (pair.rejected, pair.rejected_chain)):
            whole = texts(pair.prompt) + texts(side)
            if pair.strategy != "repair" or side is pair.rejected:
                assert said[key][: len(whole)] == whole
        assert pair.chosen[0]["role"] == pair.chosen[-1]["role"] == "assistant"
        assert texts(pair.chosen) != texts(pair.rejected)
        assert len(pair.prompt_ids) == len(replies(pair.prompt))
        assert (len(pair.chosen_ids), len(pair.rejected_ids)) == (
            len(replies(pair.chosen)), len(replies(pair.rejected)),
        )  # fmt: skip


@given(chains=chain_sets(rollouts=True), order=st.randoms(use_true_random=False))
def test_no_strategy_depends_on_the_order_of_the_chains(chains: list[Chain], order: Any) -> None:
    config = PairConfig(strategies=EVERY, max_per_problem=3, min_rollouts=2)
    shuffled = order.sample(chains, len(chains))
    assert list(make_pairs(shuffled, config)) == list(make_pairs(chains, config))


@given(chains=chain_sets(rollouts=True))
def test_values_and_bases_are_what_the_tree_says(chains: list[Chain]) -> None:
    tree = StepTree.of(chains)
    for pair in make_pairs(chains, PairConfig(strategies=EVERY, max_per_problem=50, min_rollouts=2)):
        if pair.basis is Basis.VALUES:
            assert pair.value_gap is not None
            assert pair.value_gap > 0
        if pair.basis is Basis.PROCESS:
            step_of = len(replies(pair.prompt))
            assert step_of in tree.chains[pair.rejected_chain].judgement.wrong_steps
            assert pair.chosen_value >= pair.rejected_value
        if pair.basis is Basis.OUTCOME:
            assert (pair.chosen_value, pair.rejected_value) == (1.0, 0.0)
        assert {"chain": {"outcome"}, "step": {"values", "process"}, "first_error": {"rollouts"}}.get(
            pair.strategy, {"repair"}
        ) >= {pair.basis}


@given(chains=chain_sets(rollouts=False))
def test_chain_pairs_are_all_right_chains_against_all_wrong_ones_of_the_preferred_roles(
    chains: list[Chain],
) -> None:
    def preferred(wanted: list[Chain]) -> set[tuple[str, ...]]:
        for source in ("student", "teacher"):
            found = {tuple(s.reply for s in c.steps) for c in wanted if c.source == source}
            if found:
                return found
        return set()

    right = preferred([c for c in chains if c.right_for_the_right_reason])
    wrong = preferred([c for c in chains if not c.right_for_the_right_reason])
    made = list(make_pairs(chains, alone("chain", max_per_problem=999)))
    assert {(tuple(replies(p.chosen)), tuple(replies(p.rejected))) for p in made} == {
        (a, b) for a in right for b in wrong
    }
    assert len(made) == len(right) * len(wrong)


@given(chains=chain_sets(rollouts=True))
def test_rollouts_add_nothing_to_chain_pairs_and_take_nothing_away(chains: list[Chain]) -> None:
    def bare(made: Any) -> list[tuple[str, str]]:
        return [(p.chosen_chain, p.rejected_chain) for p in made]

    free = [c for c in chains if not c.given_steps]
    config = alone("chain", max_per_problem=3)
    assert bare(make_pairs(chains, config)) == bare(make_pairs(free, config))


def test_strategies_are_compared_under_the_same_caps() -> None:
    chains = [
        *branch("add(1, 1)", 3, 0), *branch("add(1, 2)", 0, 5),
        chain(FAILED_ADD, "add(1, 1)", 'stop("2")', problem="p2"),
    ]  # fmt: skip
    found = compare_strategies(chains, PairConfig(max_per_problem=2))
    assert {name: made.pairs for name, made in found.items()} == {
        "chain": 2, "step": 1, "first_error": 1, "repair": 1,
    }  # fmt: skip
    for name, made in found.items():
        alike = pair_statistics(make_pairs(chains, alone(name, max_per_problem=2)))
        assert made.model_copy(update={"dropped": {}}) == alike
    assert found["first_error"].bases == {"rollouts": 1}
    assert found["step"].value_gap == 1.0
    table = comparison_table(found)
    assert [str(c.header) for c in table.columns] == ["", *STRATEGIES]
    assert "text shared between sides" in list(table.columns[0].cells)
    assert list(compare_strategies(chains, names=["repair"])) == ["repair"]
    with pytest.raises(ConfigError, match="Did you mean 'repair'"):
        compare_strategies(chains, names=["repairs"])


def test_the_share_of_shared_text_is_what_a_tree_of_the_messages_would_save() -> None:
    (pair,) = pairs_of(RIGHT, WRONG)
    prompt = sum(map(len, texts(pair.prompt)))
    whole = 2 * prompt + sum(map(len, texts(pair.chosen) + texts(pair.rejected)))
    assert pair_statistics([pair]).shared == pytest.approx(prompt / whole)
    assert pair_statistics([pair, pair]).shared == pytest.approx(1 - (whole - prompt) / (2 * whole))
    assert pair_statistics([]).shared == 0


def test_pairs_written_before_they_told_their_evidence_are_still_read() -> None:
    (pair,) = pairs_of(RIGHT, WRONG)
    old = pair.model_dump(mode="json", exclude={"basis", "chosen_count", "rejected_count"})
    assert PreferencePair.model_validate(old).value_gap is None


def test_errored_and_cut_chains_are_never_rejected() -> None:
    errored = chain("add(1, 2)", right=False, errored=True, stop_reason=StopReason.MODEL_ERROR)
    cut = chain("add(1, ", right=False, stop_reason=StopReason.REPLY_TRUNCATED)
    unparsed = step("add(1", "Error", FailureKind.UNPARSABLE)
    out = chain("add(1, 1)", unparsed, right=False, stop_reason=StopReason.TOKEN_BUDGET)
    silent = chain(right=False, stop_reason=StopReason.CONTEXT_WINDOW)
    dropped: Counter[str] = Counter()
    assert list(make_pairs([RIGHT, errored, cut, out, silent], dropped=dropped)) == []
    assert dropped["errored chain"] == 1
    assert dropped["wrong chain with a cut or no reply"] == 3
    assert dropped["problem without a wrong chain"] == 1


def test_chosen_needs_the_right_answer_and_the_right_process() -> None:
    lucky = chain('stop("2")', process=False)
    sound = chain("add(1, 1)", 'stop("2")', process=True)
    (pair,) = pairs_of(lucky, sound)
    assert (pair.chosen_chain, pair.rejected_chain) == (sound.key, lucky.key)
    assert pair.rejected_error == "wrong_process"
    assert pair.evidence == "a step is wrong"
    assert pairs_of(lucky, sound, reject_right_answer_wrong_process=False) == []
    assert pairs_of(lucky, WRONG) == []
    assert len(pairs_of(lucky, WRONG, require_process=False)) == 1
    assert pairs_of(lucky, sound, require_process=False) == []


def test_the_student_is_chosen_where_it_is_right_and_the_teacher_where_it_is_not() -> None:
    taught = chain("add(1, 1)", "record(2)", 'stop("2")', source="teacher")
    other = chain("add(1, 9)", 'stop("10")', right=False, problem="p2")
    other_taught = chain("add(1, 1)", 'stop("2")', problem="p2", source="teacher")
    made = {p.problem_id: p.chosen_source for p in pairs_of(RIGHT, WRONG, taught, other, other_taught)}
    assert made == {"p1": "student", "p2": "teacher"}
    only = pairs_of(RIGHT, WRONG, taught, sources_chosen=("teacher",), sources_rejected=("student",))
    assert [(p.chosen_source, p.rejected_source) for p in only] == [("teacher", "student")]


def test_sources_can_be_mixed() -> None:
    taught = chain("add(1, 1)", "record(2)", 'stop("2")', source="teacher")
    erring = chain("add(1, 3)", 'stop("4")', right=False, source="teacher")
    made = pairs_of(RIGHT, WRONG, taught, erring, mix_sources=True, max_per_problem=8)
    assert {(p.chosen_source, p.rejected_source) for p in made} == {
        (chosen, rejected) for chosen in ("student", "teacher") for rejected in ("student", "teacher")
    }


def test_chains_of_a_source_that_was_not_asked_for_are_counted_as_such() -> None:
    dropped: Counter[str] = Counter()
    shown = chain("add(1, 1)", 'stop("2")', source="gold")
    other = chain("add(1, 1)", 'stop("2")', source="gold", problem="p2")
    assert list(make_pairs([shown, WRONG, other], dropped=dropped)) == []
    assert dropped == {"source not asked for: gold": 2, "problem without a right chain": 1}


def test_pairs_are_capped_per_problem_and_use_different_chains_first() -> None:
    rights = [chain("add(1, 1)", f"record({i})", 'stop("2")') for i in range(3)]
    wrongs = [chain(f"add(1, {i})", 'stop("7")', right=False) for i in range(3)]
    made = pairs_of(*rights, *wrongs, max_per_problem=3)
    assert len({p.chosen_chain for p in made}) == len({p.rejected_chain for p in made}) == 3
    assert len(pairs_of(*rights, *wrongs, max_per_problem=50)) == 9


def test_the_order_of_the_chains_does_not_matter() -> None:
    chains = [
        chain(f"add({i % 3}, {p})", 'stop("2")', right=i < 2, problem=f"p{p}", question=f"q{p}")
        for i in range(4)
        for p in range(5)
    ]
    assert pairs_of(*chains) == pairs_of(*reversed(chains))
    assert pairs_of(*chains) == pairs_of(*chains, *chains)


def test_the_same_texts_make_one_pair() -> None:
    again = [chain("add(1, 1)", 'stop("2")', sample=i) for i in range(3)]
    dropped: Counter[str] = Counter()
    assert len(list(make_pairs([*again, WRONG], dropped=dropped))) == 1
    twin = [c.model_copy(update={"problem_id": "p9", "key": c.key[::-1]}) for c in (RIGHT, WRONG)]
    assert len(list(make_pairs([RIGHT, WRONG, *twin], dropped=dropped))) == 1
    assert dropped["duplicate"] == 1


def test_strategies_mix_by_weight() -> None:
    chains = [
        c
        for p in range(200)
        for c in (
            chain("add(1, 1)", f"record({p})", 'stop("2")', problem=f"p{p}"),
            chain("add(1, 1)", f"add(7, {p})", 'stop("3")', problem=f"p{p}", right=False),
        )
    ]
    config = {"strategies": {"chain": 3.0, "step": 1.0}, "max_per_problem": 1}
    counts = Counter(p.strategy for p in pairs_of(*chains, **config))
    assert counts.total() == 200
    assert 0.65 < counts["chain"] / 200 < 0.85


def test_balance_takes_evenly_from_the_groups() -> None:
    chains = [
        c
        for p in range(60)
        for c in (
            chain("add(1, 1)", f"record({p})", 'stop("2")', problem=f"p{p}", difficulty=1 + (p < 10)),
            chain(f"add(1, {p})", 'stop("3")', problem=f"p{p}", right=False, difficulty=1 + (p < 10)),
        )
    ]
    made = pairs_of(*chains, max_pairs=20, balance=("difficulty",))
    assert Counter(p.difficulty for p in made) == {1: 10, 2: 10}
    assert len(pairs_of(*chains, max_pairs=30, balance=("difficulty",))) == 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategies": {"chian": 1.0}}, "Did you mean 'chain'"),
        ({"strategies": {"chain": 0.0}}, "no pairing strategy has a weight"),
        ({"strategies": {"chain": -1.0}}, "negative"),
        ({"balance": ("error",)}, "balance needs max_pairs"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairConfig(**settings)


def test_a_test_question_among_the_pairs_is_refused_up_to_case_and_spacing() -> None:
    pairs = pairs_of(RIGHT, WRONG)
    clean = [Problem(id="t1", question="What is 1 - 1?", answer="0")]
    assert check_leaks(pairs, clean) == 1
    with pytest.raises(DataError, match=r"1 test questions are in the training data.*t2"):
        check_leaks(pairs, [*clean, Problem(id="t2", question="what  is 1 + 1", answer="2")])


def test_a_leak_leaves_no_pairs_file_and_an_old_one_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    leaked = [Problem(id="t", question="what is 1 + 1", answer="2")]
    for before in (False, True):
        if before:
            path.write_text("old")
        with pytest.raises(DataError, match="test questions are in the training data"):
            write_pairs(pairs_of(RIGHT, WRONG), path, test=leaked)
        assert [p.read_text() for p in tmp_path.iterdir()] == ["old"] * before


token_ids = st.lists(st.one_of(st.none(), st.lists(st.integers(0, 10**6), min_size=1).map(tuple)))


@given(texts=st.lists(st.text(), min_size=2, max_size=2), ids=token_ids.map(tuple))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ids: Any
) -> None:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    (pair,) = pairs_of(RIGHT, WRONG)
    pair = pair.model_copy(
        update={
            "chosen": ({"role": "assistant", "content": texts[0]},),
            "evidence": texts[1],
            "chosen_ids": ids,
        }
    )
    assert write_pairs([pair], path) == 1
    assert list(read_pairs(path)) == [pair]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(pairs_of(RIGHT, WRONG), path)
    with path.open("a") as file:
        file.write('{"prompt": []}\n')
    with pytest.raises(DataError, match=r"line 2, is not a PreferencePair"):
        list(read_pairs(path))


def test_a_failed_write_leaves_no_half_file(tmp_path: Path) -> None:
    def broken() -> Any:
        yield from pairs_of(RIGHT, WRONG)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_pairs(broken(), tmp_path / "pairs.jsonl")
    assert list(tmp_path.iterdir()) == []


def with_ids(source: Chain, start: int) -> Chain:
    steps = [
        s.model_copy(update={"token_ids": tuple(range(start, start + 2 + i))})
        for i, s in enumerate(source.steps)
    ]
    return source.model_copy(update={"steps": tuple(steps)})


def test_statistics_show_lengths_errors_and_trivial_pairs() -> None:
    endless = chain(*["add(1, 1)"] * 4, right=False, stop_reason=StopReason.STEP_BUDGET, problem="p2")
    silent = chain(step("well", "Error", FailureKind.NO_CALL), right=False, problem="p3")
    slow = chain(step("add(3, 1)", "Error", FailureKind.TIME_LIMIT), right=False, problem="p4")
    guess = chain("add(1, 1)", 'stop("3")', right=False)
    rights = [
        RIGHT,
        *(RIGHT.model_copy(update={"problem_id": f"p{i}", "key": f"k{i}"}) for i in (2, 3, 4)),
    ]
    rights[0] = with_ids(rights[0], 5)
    dropped: Counter[str] = Counter()
    pairs = list(make_pairs([*rights, with_ids(guess, 9), endless, silent, slow], dropped=dropped))
    found = pair_statistics([*pairs, pairs[0]], dropped)
    assert (found.pairs, found.problems, found.duplicates) == (5, 4, 1)
    assert found.function_failed >= 1
    assert found.trivial["no_call"] >= 1
    assert found.trivial["last_word"] >= 1
    assert found.characters is not None
    assert found.characters.maximum == 36
    assert found.tokens is not None
    assert found.tokens.chosen_mean == 5.0
    assert found.turns is not None
    assert 0 < found.turns.chosen_longer < 1
    assert sum(found.errors.values()) == 5
    assert type(found).model_validate_json(found.model_dump_json()) == found
    assert found.table().row_count > 10


def test_statistics_of_no_pairs_are_empty_rather_than_an_error() -> None:
    found = pair_statistics([])
    assert (found.pairs, found.characters, found.length_correlation) == (0, None, None)


def mixed_pairs() -> list[PreferencePair]:
    """Rows with and without ids, evidence and difficulty: what a column type could trip over."""
    plain = pairs_of(RIGHT, WRONG)
    rich = pairs_of(
        with_ids(chain("add(2, 1)", 'stop("2")', problem="p2", difficulty=3), 7),
        with_ids(chain('stop("2")', problem="p2", process=False, difficulty=3), 8),
    )
    steps = list(make_pairs([with_ids(RIGHT, 3), chain("add(1, 1)", 'stop("4")', right=False)], STEPS))
    return [*plain, *rich, *steps]


@pytest.mark.parametrize("order", [1, -1])
def test_a_pairs_file_opens_as_a_data_set_whatever_its_first_rows_lack(
    tmp_path: Path, order: int
) -> None:
    from datasets import load_dataset

    files = [str(tmp_path / f"{index}.jsonl") for index in range(3)]
    for pair, path in zip(mixed_pairs()[::order], files, strict=True):
        write_pairs([pair], path)
    together = load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path))
    assert [PreferencePair.model_validate(row) for row in together] == mixed_pairs()[::order]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library that is tried out, not ours
def test_trl_trains_one_step_on_a_pairs_file_as_it_is(tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from tiny_models import build_tiny

    folder = tmp_path / "model"
    build_tiny("llama", folder)
    write_pairs(mixed_pairs(), tmp_path / "pairs.jsonl")
    data = load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=3,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    result = trainer.train()
    assert result.global_step == 1
    assert result.training_loss == pytest.approx(0.6931, abs=1e-3)


class Loud(PythonCalls):
    name = "loud"

    def observations(self, reply: str, observation: Observation) -> tuple[Message, ...]:
        return (Message(role="user", content=f"{observation.text}!"),)


def test_observations_of_a_chain_are_shown_as_its_dialect_showed_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = chain(step("add(1, 1)", "2"), 'stop("2")')
    (pair,) = pairs_of(right, WRONG)
    assert pair.chosen[1] == {"role": "user", "content": Observation(text="2").text}
    shouted, unknown = (WRONG.model_copy(update={"dialect": name}) for name in ("loud", "pithon"))
    monkeypatch.setitem(DIALECTS, "loud", Loud())
    assert pairs_of(right, shouted) == []
    (pair,) = pairs_of(right.model_copy(update={"dialect": "loud"}), shouted)
    assert pair.chosen[1] == {"role": "user", "content": "2!"}
    with pytest.raises(DataError, match=r"unknown dialect.*Did you mean 'python'"):
        pairs_of(right.model_copy(update={"dialect": "pithon"}), unknown)
