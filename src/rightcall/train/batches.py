"""Token rows → optimiser steps → each process's share → micro-batches → tensors.

Which rows train together is decided here, once, and does not depend on how they are laid out: the
rows of a problem stand side by side, so that a tree can share what they have in common, and every
pair weighs the same in its optimiser step however the step is cut into shares and micro-batches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from rightcall.errors import ConfigError
from rightcall.rendering import Rendered
from rightcall.train.data import Row
from rightcall.train.packing import Growing, keyed, pack

if TYPE_CHECKING:
    from torch import Tensor

    from rightcall.train.attention import Kernel, Tree
    from rightcall.train.config import TrainConfig

_WINDOW = 8
"""Problems of this many optimiser steps are sorted by length together: little padding, fresh order."""


@dataclass(frozen=True)
class Share:
    """The rows of an optimiser step that one process takes, and what the step holds in all: losses are
    divided by the step's totals."""

    rows: tuple[int, ...]
    step_rows: int
    step_tokens: int
    """Trained tokens on the chosen side of the whole optimiser step."""


def plan(
    rows: Sequence[Row],
    *,
    size: int,
    processes: int,
    epochs: int,
    seed: int,
    max_steps: int | None = None,
) -> list[Share]:
    """The whole training as a list: for each optimiser step a share of at most `size` rows for each
    process (more, if there are too few rows for a step of smaller ones), every row once an epoch,
    similar lengths together, sizes as even as can be. The rows of a problem follow each other; where
    a share is full they go on in another one.

    The same arguments give the same list, so resuming is skipping.
    """
    if len(rows) < processes:
        raise ConfigError(
            "there are fewer rows than processes",
            value=f"{len(rows)} rows, {processes} processes",
            remedy="Start fewer.",
        )
    generator = random.Random(f"plan/{seed}")
    made: list[Share] = []
    for _ in range(epochs):
        for step in _epoch(rows, size * processes, processes, generator):
            tokens = sum(sum(rows[i].chosen.trained) for i in step)
            made += [Share(tuple(own), len(step), tokens) for own in _cut(step, processes)]
    return made if max_steps is None else made[: max_steps * processes]


def _epoch(rows: Sequence[Row], most: int, least: int, generator: random.Random) -> list[list[int]]:
    """Optimiser steps of at most so many rows, or of at least so many where there are few."""
    order = [i for problem in _problems(rows, _WINDOW * most, generator) for i in problem]
    steps = _cut(order, min(-(-len(rows) // most), len(rows) // least))
    generator.shuffle(steps)
    return steps


def _cut(rows: Sequence[int], parts: int) -> list[list[int]]:
    """As evenly as can be."""
    cuts = [len(rows) * i // parts for i in range(parts + 1)]
    return [list(rows[start:end]) for start, end in pairwise(cuts)]


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


def micro_batches(rows: Sequence[Row], indices: Sequence[int], config: TrainConfig) -> list[list[int]]:
    """Rows, in their order, cut into what goes through the model together: `batch_size` of them where
    they are padded; trees of at most `pack_tokens`."""
    if config.packing == "tree":
        return packs(rows, indices, config.pack_tokens)
    size = config.batch_size
    return [list(indices[first : first + size]) for first in range(0, len(indices), size)]


def packs(rows: Sequence[Row], indices: Sequence[int], most: int) -> list[list[int]]:
    """Rows, in their order, cut into trees of at most `most` unique tokens; a row beyond that is a tree
    of its own. A tree ends where the next problem does not fit; a problem that fits into none is cut.
    """
    of = {i: [keyed(sequence.ids) for sequence in rows[i].sequences] for i in indices}
    made: list[list[int]] = [[]]
    tree = Growing()
    for _, problem in groupby(indices, key=lambda i: rows[i].problem or i):
        whole = list(problem)
        fits = tree.tokens + tree.extra(one for i in whole for one in of[i]) <= most
        for number, index in enumerate(whole):
            full = tree.tokens + tree.extra(of[index]) > most
            if made[-1] and (full or (number == 0 and not fits)):
                made.append([])
                tree = Growing()
            made[-1].append(index)
            tree.add(of[index])
    return made
