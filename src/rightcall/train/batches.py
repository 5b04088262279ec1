"""Token rows → optimiser steps → micro-batches → tensors.

Which rows train together is decided here, once, and does not depend on how they are laid out: the
rows of a problem stand side by side, so that a tree can share what they have in common, and every
pair weighs the same in its optimiser step however the step is cut into micro-batches, packs and
devices.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from rightcall.errors import ConfigError
from rightcall.rendering import Rendered
from rightcall.train.data import Row
from rightcall.train.packing import pack, unique_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from rightcall.train.attention import Kernel, Tree

_WINDOW = 8
"""Problems of this many optimiser steps are sorted by length together: little padding, fresh order."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows whose gradients are added before the next micro-batch, and what their optimiser step holds
    in all: losses are divided by the step's totals."""

    rows: tuple[int, ...]
    step_rows: int
    step_tokens: int
    """Trained tokens on the chosen side of the whole optimiser step."""


def plan(
    rows: Sequence[Row],
    *,
    batch_size: int,
    per_step: int,
    epochs: int,
    seed: int,
    max_steps: int | None = None,
) -> list[MicroBatch]:
    """The whole training as a list: `per_step` micro-batches of at most `batch_size` rows for each
    optimiser step (more, if there are too few rows for a step of smaller ones), every row once an
    epoch, similar lengths together, sizes as even as can be. The rows of a problem follow each other;
    where a micro-batch is full they go on in another one.

    The same arguments give the same list, so resuming is skipping.
    """
    if len(rows) < per_step:
        raise ConfigError(
            "there are fewer rows than micro-batches in one optimiser step",
            value=f"{len(rows)} rows, {per_step} micro-batches",
            remedy="Lower `accumulation`.",
        )
    generator = random.Random(f"plan/{seed}")
    made: list[MicroBatch] = []
    for _ in range(epochs):
        batches = _epoch(rows, batch_size, per_step, generator)
        for first in range(0, len(batches), per_step):
            step = batches[first : first + per_step]
            inside = [i for batch in step for i in batch]
            tokens = sum(sum(rows[i].chosen.trained) for i in inside)
            made += [MicroBatch(tuple(batch), len(inside), tokens) for batch in step]
    return made if max_steps is None else made[: max_steps * per_step]


def _epoch(
    rows: Sequence[Row], batch_size: int, per_step: int, generator: random.Random
) -> list[list[int]]:
    count = len(rows)
    steps = min(-(-count // (batch_size * per_step)), count // per_step)
    batches = steps * per_step
    order = [
        i for problem in _problems(rows, _WINDOW * batch_size * per_step, generator) for i in problem
    ]
    cuts = [count * i // batches for i in range(batches + 1)]
    made = [order[start:end] for start, end in pairwise(cuts)]
    generator.shuffle(made)
    return made


def _problems(rows: Sequence[Row], window: int, generator: random.Random) -> list[list[int]]:
    """The rows of each problem; problems in random order, but sorted by length within windows of so
    many rows."""
    of: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        of.setdefault(row.problem or f"row {index}", []).append(index)
    shuffled = generator.sample(list(of.values()), len(of))
    taken = 0
    ordered: list[tuple[int, int, int, list[int]]] = []
    for problem in shuffled:
        length = max(rows[i].length for i in problem)
        ordered.append((taken // window, length, len(ordered), problem))
        taken += len(problem)
    return [problem for *_, problem in sorted(ordered)]


class Batch(TypedDict):
    """Tokens that go through the model together, and what is scored of them. Either padded, a line a
    sequence; or a tree, all unique tokens in one line.

    A term is a token whose log-probability is wanted, at one place; sequences that share it share its
    term. Sequences are numbered: first all chosen, then all rejected.
    """

    input_ids: Tensor
    """[lines, length]"""
    position_ids: Tensor
    """[lines, length]"""
    tree: Tree | None
    """What the attention layers need, for a tree."""
    line: Tensor
    """[terms]: the line of each term."""
    predictor: Tensor
    """[terms]: the position whose hidden state predicts it."""
    target: Tensor
    """[terms]: its token id."""
    term: Tensor
    """[entries]: for each trained token of each sequence, in their order, its term."""
    owner: Tensor
    """[entries]: the sequence it belongs to."""
    chosen: Tensor
    """[rows]: which sequences are chosen."""
    rejected: Tensor
    """[rows], or [0] for SFT: which sequences are rejected."""
    rows: Tensor
    """[rows]: indices of the rows, as the reference is looked up by."""
    raw: int
    """Tokens of the sequences, without padding."""
    computed: int
    """Tokens that go through the model: with padding, or each unique one once."""


def collate(rows: Sequence[Row], indices: Sequence[int], pad: int = 0) -> Batch:
    """The rows at `indices` side by side, padded on the right, where causal attention never looks."""
    import torch

    sequences = _sequences(rows, indices)
    longest = max(len(s.ids) for s in sequences)
    ids = torch.full((len(sequences), longest), pad, dtype=torch.long)
    for number, sequence in enumerate(sequences):
        ids[number, : len(sequence.ids)] = torch.tensor(sequence.ids)
    places = [(i, t) for i, s in enumerate(sequences) for t, on in enumerate(s.trained) if on]
    line, position = torch.tensor(places).unbind(-1)
    return Batch(
        input_ids=ids,
        position_ids=torch.arange(longest).expand(len(sequences), -1),
        tree=None,
        line=line,
        predictor=position - 1,
        target=ids[line, position],
        term=torch.arange(len(places)),
        owner=line,
        raw=sum(len(s.ids) for s in sequences),
        computed=ids.numel(),
        **_sides(indices, len(sequences)),
    )


def collate_tree(rows: Sequence[Row], indices: Sequence[int], kernel: Kernel = "block") -> Batch:
    """The rows at `indices` as one prefix tree: each unique token once."""
    import torch

    from rightcall.train.attention import Tree

    sequences = _sequences(rows, indices)
    packed = pack([(np.array(s.ids, np.int64), np.array(s.trained, np.bool_)) for s in sequences])
    arrays = (packed.ids, packed.depth, packed.predictor, packed.target, packed.term, packed.owner)
    ids, depth, predictor, target, term, owner = map(torch.from_numpy, arrays)
    return Batch(
        input_ids=ids[None],
        position_ids=depth[None],
        tree=Tree.of(packed, kernel),
        line=torch.zeros_like(predictor),
        predictor=predictor,
        target=target,
        term=term,
        owner=owner,
        raw=packed.raw,
        computed=packed.unique,
        **_sides(indices, len(sequences)),
    )


def _sequences(rows: Sequence[Row], indices: Sequence[int]) -> list[Rendered]:
    picked = [rows[i] for i in indices]
    return [row.chosen for row in picked] + [r.rejected for r in picked if r.rejected is not None]


class _Sides(TypedDict):
    chosen: Tensor
    rejected: Tensor
    rows: Tensor


def _sides(indices: Sequence[int], sequences: int) -> _Sides:
    import torch

    return _Sides(
        chosen=torch.arange(len(indices)),
        rejected=torch.arange(len(indices), sequences),
        rows=torch.tensor(list(indices)),
    )


def packs(rows: Sequence[Row], indices: Sequence[int], most: int) -> list[list[int]]:
    """Rows of a micro-batch, in their order, cut so that the tree of each part has at most `most`
    unique tokens; a row beyond that is a part of its own."""
    sequences = [np.array(s.ids, np.int64) for s in _sequences(rows, indices)]
    if len(indices) == 1 or unique_tokens(sequences) <= most:
        return [list(indices)]
    half = len(indices) // 2
    return packs(rows, indices[:half], most) + packs(rows, indices[half:], most)
