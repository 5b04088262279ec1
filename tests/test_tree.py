"""Step trees: what merges, who counts, and where the first error is."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from chain_sets import chain_sets, cut, judged_chain
from rightcall.chain import Chain, Step, StopReason
from rightcall.errors import DataError, FailureKind
from rightcall.tree import Node, StepTree, assured_gap, step_trees
from rightcall.tree_view import rows, tree_svg, tree_text
from toys import chain, step


def node_at(tree: StepTree, key: str, depth: int) -> Node:
    return tree.path(key)[depth]


def rollout(*replies: str, given: int, right: bool = False, sample: int = 0) -> Chain:
    made = chain(*replies, right=right, sample=sample)
    return made.model_copy(update={"given_steps": given, "key": f"{made.key}-{given}"})


# --- merging ------------------------------------------------------------------------------------


def test_chains_are_merged_as_far_as_their_steps_are_the_same() -> None:
    one = chain("add(1, 1)", "record(2)", 'stop("2")')
    two = chain("add(1, 1)", "record(3)", 'stop("3")', right=False)
    tree = StepTree.of([one, two])
    assert len(tree.nodes) == 6
    assert tree.paths[one.key][:2] == tree.paths[two.key][:2]
    shared = node_at(tree, one.key, 1)
    assert (shared.counted, shared.ended_well, shared.value) == (2, 1, 0.5)
    assert set(shared.chains) == {one.key, two.key}
    assert [child.value for child in tree.children(shared)] == [
        float(tree.nodes[i].chains == (one.key,)) for i in shared.children
    ]


@pytest.mark.parametrize(
    "other", [step("record(2)", "another answer"), step("record(2)", "ok", FailureKind.TIME_LIMIT)]
)
def test_the_same_reply_with_another_observation_is_another_step(other: Step) -> None:
    tree = StepTree.of([chain("record(2)", 'stop("2")'), chain(other, 'stop("2")', sample=1)])
    assert len(tree.root.children) == 2


@given(chain_sets(rollouts=True), st.randoms(use_true_random=False))
def test_the_order_of_the_chains_does_not_matter(chains: list[Chain], random: Random) -> None:
    shuffled = random.sample(chains, len(chains))
    assert StepTree.of(shuffled) == StepTree.of(chains) == StepTree.of([*chains, *shuffled])


@given(chain_sets(rollouts=False))
def test_what_goes_through_a_node_goes_on_to_its_children_or_ends_there(chains: list[Chain]) -> None:
    tree = StepTree.of(chains)
    ends = Counter(path[-1] for path in tree.paths.values())
    well = Counter(tree.paths[key][-1] for key in tree.well)
    for node in tree.nodes:
        children = tree.children(node)
        assert node.counted == len(node.chains) == sum(c.counted for c in children) + ends[node.index]
        assert node.ended_well == sum(c.ended_well for c in children) + well[node.index]


@given(chain_sets(rollouts=True))
def test_every_chain_can_be_read_back_from_its_path(chains: list[Chain]) -> None:
    tree = StepTree.of(chains)
    for made in chains:
        path = tree.path(made.key)
        assert [n.step.reply for n in path if n.step] == [s.reply for s in made.steps]
        assert all(node.parent == before.index for before, node in pairwise(path))
        assert all(made.key in node.chains for node in path)
    assert len(tree.nodes) <= 1 + sum(len(made.steps) for made in chains)


# --- who counts ---------------------------------------------------------------------------------


def test_a_rollout_counts_from_the_end_of_its_prefix_on_and_not_above() -> None:
    free = chain("add(1, 1)", "record(3)", 'stop("3")', right=False)
    tries = [
        rollout("add(1, 1)", "record(3)", f"record({i})", 'stop("2")', given=2, right=i == 0)
        for i in range(3)
    ]
    tree = StepTree.of([free, *tries])
    assert [(n.counted, n.ended_well) for n in tree.path(free.key)] == [(1, 0), (1, 0), (4, 1), (1, 0)]
    assert [node.recovered for node in tree.path(free.key)] == [True, True, True, False]


@given(chain_sets(rollouts=True))
def test_only_chains_that_went_on_by_themselves_count(chains: list[Chain]) -> None:
    tree = StepTree.of(chains)
    for node in tree.nodes:
        free = [key for key in node.chains if tree.chains[key].given_steps <= node.depth]
        assert node.counted == len(free)
        assert node.ended_well == len(tree.well & set(free))
        assert node.recovered == bool(tree.well & set(node.chains))
        if node.recovered and node.parent is not None:
            assert tree.nodes[node.parent].recovered


def test_ended_well_is_right_for_the_right_reason_or_just_right() -> None:
    lucky = chain('stop("2")', process=False)
    assert StepTree.of([lucky]).root.value == 0
    assert StepTree.of([lucky], require_process=False).root.value == 1


def test_errored_chains_are_no_evidence() -> None:
    errored = chain("add(1, 1)", errored=True, stop_reason=StopReason.MODEL_ERROR)
    tree = StepTree.of([chain("add(1, 1)", 'stop("2")'), errored])
    assert tree.root.counted == 1
    with pytest.raises(DataError, match="needs chains of one problem"):
        StepTree.of([errored])


def test_a_cut_reply_is_no_step_but_its_chain_did_not_end_well() -> None:
    whole = judged_chain([0, 1], right=True)
    tree = StepTree.of([whole, cut(whole)])
    last = node_at(tree, f"{whole.key}-cut", -1)
    assert (last.depth, last.counted, last.ended_well, last.final) == (2, 2, 1, False)
    assert all(node.step.reply != "add(1, " for node in tree.nodes if node.step)


def test_chains_of_other_problems_and_prompts_have_other_trees() -> None:
    chains = [
        chain('stop("2")'),
        chain('stop("2")', problem="p2"),
        chain('stop("2")', question="What is 2 + 0?"),
    ]
    assert len(step_trees(chains)) == 3
    with pytest.raises(DataError, match="Group them first"):
        StepTree.of(chains)


def test_values_have_wilsons_interval_and_zero_of_nothing_is_zero() -> None:
    tree = StepTree.of([chain(f"record({i})", 'stop("2")', right=i < 8) for i in range(10)])
    assert tree.root.value == 0.8
    assert (round(tree.root.interval.low, 4), round(tree.root.interval.high, 4)) == (0.4902, 0.9433)
    forced = StepTree.of([rollout("add(1, 1)", 'stop("2")', given=1, right=True)])
    assert (forced.root.counted, forced.root.value) == (0, 0.0)


def test_the_assured_gap_grows_with_the_gap_and_with_the_chains() -> None:
    def branch(reply: str, well: int, badly: int) -> list[Chain]:
        return [chain(reply, f"record({i})", 'stop("2")', right=i < well) for i in range(well + badly)]

    def gap(good: tuple[int, int], bad: tuple[int, int]) -> float:
        tree = StepTree.of(branch("add(1, 1)", *good) + branch("add(1, 2)", *bad))
        better, worse = sorted(tree.children(tree.root), key=lambda n: -n.value)
        return assured_gap(better, worse)

    assert gap((1, 0), (0, 1)) < gap((5, 0), (0, 5)) < gap((20, 0), (0, 20))
    assert gap((5, 5), (0, 10)) < gap((10, 0), (0, 10))
    # Newcombe (1998), table II, 56/70 - 48/80, method 10: 0.0524 to 0.3339
    assert gap((56, 14), (48, 32)) == pytest.approx(0.0524, abs=5e-5)


# --- first errors -------------------------------------------------------------------------------

WRONG = chain("add(1, 1)", "record(3)", "record(4)", 'stop("3")', right=False)
RIGHT = chain("add(1, 1)", "record(2)", 'stop("2")')


def failures(count: int) -> list[Chain]:
    return [
        rollout("add(1, 1)", "record(3)", f"record({i + 5})", 'stop("9")', given=2)
        for i in range(count)
    ]


def test_the_first_error_is_the_first_step_that_nothing_recovered_from() -> None:
    tree = StepTree.of([WRONG, RIGHT, *failures(4)])
    error = tree.first_error(WRONG.key, 4)
    assert error is not None
    assert (error.depth, error.counted, error.ended_well) == (2, 5, 0)


def test_too_few_tries_leave_the_first_error_open() -> None:
    assert StepTree.of([WRONG, RIGHT, *failures(3)]).first_error(WRONG.key, 4) is None


def test_a_step_that_a_rollout_passed_through_to_a_good_end_is_not_lost() -> None:
    lucky = rollout(
        "add(1, 1)", "record(3)", "record(4)", "record(2)", 'stop("2")', given=3, right=True
    )
    tree = StepTree.of([WRONG, RIGHT, *failures(4), lucky])
    error = tree.first_error(WRONG.key, 4)
    assert error is not None
    assert error.step is not None
    assert (error.step.reply, error.final) == ('stop("3")', True)


def test_a_step_that_ended_its_chain_needs_no_tries() -> None:
    tree = StepTree.of([RIGHT, chain("add(1, 1)", 'stop("3")', right=False)])
    (wrong,) = set(tree.chains) - tree.well
    error = tree.first_error(wrong, 99)
    assert error is not None
    assert error.depth == 2


def test_without_any_recovery_there_is_no_first_error() -> None:
    assert StepTree.of([WRONG, *failures(9)]).first_error(WRONG.key, 1) is None
    assert StepTree.of([RIGHT]).first_error(RIGHT.key, 1) is None


# --- pictures -----------------------------------------------------------------------------------


@given(chain_sets(rollouts=True))
def test_every_node_is_a_row_and_parents_come_first(chains: list[Chain]) -> None:
    tree = StepTree.of(chains)
    order = [row.node.index for row in rows(tree)]
    assert sorted(order) == list(range(len(tree.nodes)))
    place = {index: number for number, index in enumerate(order)}
    assert all(place[n.parent] < place[n.index] for n in tree.nodes if n.parent is not None)


def test_the_text_shows_counts_replies_and_the_first_error() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(tree_text(StepTree.of([WRONG, RIGHT, *failures(4)])))
    lines = captured.get().splitlines()
    assert lines[0].split() == ["1/2", "prompt"]
    assert "1/2 add(1, 1) → ok" in lines[1]
    (error,) = [line for line in lines if "first error" in line]
    assert "0/5 record(3)" in error
    assert sum("record" in line for line in lines) == 7


def test_the_picture_is_well_formed_and_holds_no_markup_of_the_model() -> None:
    nasty = chain("<script>alert(1)</script>\x1b[31m\x00 & more", 'stop("2")')
    svg = tree_svg(StepTree.of([nasty, WRONG]), "<b>title</b> & \x07")
    root = ElementTree.fromstring(svg)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "title", "rect", "text", "tspan", "path"}
    said = "".join(root.itertext())
    assert "<script>alert(1)</script>\\x1b[31m\\x00 & more" in said
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
