"""Which rows train together, and the tensors they become."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.errors import ConfigError
from rightcall.rendering import Rendered
from rightcall.train.batches import collate, collate_tree, packs, plan
from rightcall.train.data import Row


def row_of(length: int, trained: int = 1, *, first: int = 0, problem: str = "") -> Row:
    mask = (False,) * (length - trained) + (True,) * trained
    return Row("r", Rendered((first, *range(1, length)), mask), problem=problem)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=80),
    size=st.integers(1, 9),
    processes=st.integers(1, 5),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_a_plan_takes_every_row_once_an_epoch_in_full_steps(lengths, size, processes, epochs, seed):
    rows = [row_of(length) for length in lengths]
    arguments = {"size": size, "processes": processes, "epochs": epochs, "seed": seed}
    if len(rows) < processes:
        with pytest.raises(ConfigError, match="fewer rows"):
            plan(rows, **arguments)
        return
    made = plan(rows, **arguments)
    assert made == plan(rows, **arguments)
    assert sorted(i for share in made for i in share.rows) == sorted([*range(len(rows))] * epochs)
    assert len(made) % (processes * epochs) == 0
    assert all(share.rows for share in made)
    for first in range(0, len(made), processes):
        step = made[first : first + processes]
        assert {share.step_rows for share in step} == {sum(len(share.rows) for share in step)}


def test_shares_never_exceed_their_size_unless_rows_are_too_few_to_fill_a_step():
    rows = [row_of(5 + i % 7) for i in range(101)]
    sizes = [len(share.rows) for share in plan(rows, size=4, processes=3, epochs=1, seed=0)]
    assert max(sizes) <= 4
    assert max(sizes) - min(sizes) <= 1


def test_a_plan_puts_similar_lengths_together():
    rows = [row_of(2 + (37 * i) % 200) for i in range(400)]
    batches = plan(rows, size=8, processes=1, epochs=1, seed=0)
    spread = [
        max(rows[i].length for i in b.rows) - min(rows[i].length for i in b.rows) for b in batches
    ]
    assert sum(spread) / len(spread) < 40


def test_the_rows_of_a_problem_stand_together():
    rows = [row_of(5 + i % 7, problem=f"p{i % 25}") for i in range(100)]
    batches = plan(rows, size=8, processes=1, epochs=1, seed=0)
    problems = [{rows[i].problem for i in batch.rows} for batch in batches]
    assert max(map(len, problems)) <= 3, "two of four rows each, or parts of three"
    places = [n for n, found in enumerate(problems) for _ in found]
    assert len(places) <= 25 + len(batches), "at most one problem is cut between two batches"


def test_a_padded_batch_scores_each_trained_token_from_the_position_before_it():
    rows = [row_of(6, 2, first=9), row_of(4, 1, first=9)]
    batch = collate(rows, [0, 1])
    assert batch["input_ids"].tolist() == [[9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 0, 0]]
    assert batch["line"].tolist() == [0, 0, 1]
    assert batch["predictor"].tolist() == [3, 4, 2]
    assert batch["target"].tolist() == [4, 5, 3]
    assert batch["owner"].tolist() == [0, 0, 1]
    assert (batch["raw"], batch["computed"]) == (10, 12)


def test_a_tree_scores_what_sequences_share_once():
    rows = [row_of(6, 3, first=9), row_of(4, 1, first=9)]
    batch = collate_tree(rows, [0, 1])
    assert batch["input_ids"].tolist() == [[9, 1, 2, 3, 4, 5]]
    assert batch["predictor"].tolist() == [2, 3, 4]
    assert batch["target"].tolist() == [3, 4, 5]
    assert batch["term"].tolist() == [0, 1, 2, 0]
    assert batch["owner"].tolist() == [0, 0, 0, 1]
    assert (batch["raw"], batch["computed"]) == (10, 6)


@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=20),
    shared=st.booleans(),
    most=st.integers(1, 100),
)
def test_packs_hold_every_row_once_in_order_and_keep_to_their_bound(lengths, shared, most):
    rows = [row_of(n, first=0 if shared else i) for i, n in enumerate(lengths)]
    parts = packs(rows, range(len(rows)), most)
    assert [i for part in parts for i in part] == list(range(len(rows)))
    for part in parts:
        assert len(part) == 1 or collate_tree(rows, part)["computed"] <= most


def test_a_problem_is_not_cut_between_trees_that_it_fits_into():
    """Three problems of four rows, each with a prompt of its own that its rows share."""
    rows = [
        Row("r", Rendered((p, *range(1, 100), 100 + i), (False,) * 100 + (True,)), problem=f"p{p}")
        for p in range(3)
        for i in range(4)
    ]
    assert packs(rows, range(12), 104) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert packs(rows, range(12), 220) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11]]
    assert packs(rows, range(4), 102) == [[0, 1], [2, 3]], "it fits into none"


def test_disjoint_rows_are_packed_into_as_few_trees_as_hold_them():
    rows = [row_of(100, first=200 + i, problem=f"p{i}") for i in range(10)]
    assert [len(part) for part in packs(rows, range(10), 400)] == [4, 4, 2]
