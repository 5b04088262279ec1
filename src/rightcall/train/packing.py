"""Sequences → their prefix tree, each unique token once, in depth-first order.

All chains of a problem share its prompt, all step pairs of a chain share its prefix. Sorted
lexicographically, sequences stand in depth-first order of their tree, and each adds to it only what
it does not share with the one before: the tree is built from neighbours' common prefixes alone.

In the packed order a token `k` is an ancestor of token `q` if and only if `k <= q < end[k]`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PackedTree:
    """The prefix tree of some sequences, as arrays over its `n` unique tokens and over its terms.

    A term is a token that at least one sequence trains, at one place of the tree: its
    log-probability is computed once, however many sequences sum it.
    """

    ids: Ints
    """[n] token ids."""
    depth: Ints
    """[n] position of each token in its sequences, from 0."""
    end: Ints
    """[n] where the subtree below each token ends."""
    predictor: Ints
    """[terms] the token whose hidden state predicts the term: its parent."""
    target: Ints
    """[terms] the token id to be predicted."""
    term: Ints
    """[entries] for each trained token of each sequence, in their order, its term."""
    owner: Ints
    """[entries] the sequence it belongs to."""
    raw: int
    """Tokens of all sequences, shared or not."""

    @property
    def unique(self) -> int:
        return len(self.ids)

    def ancestors(self, token: int) -> Ints:
        """The path from the root to the parent of a token."""
        return np.flatnonzero(self.end[:token] > token)


def pack(sequences: Sequence[tuple[Ints, NDArray[np.bool_]]]) -> PackedTree:
    """The tree of sequences of (ids, trained), both [length]; a first token cannot be trained.

    Linear in the number of raw tokens but for the sort, which compares bytes.

    >>> tree = pack([(np.array([7, 8, 5]), np.array([0, 0, 1], bool)),
    ...              (np.array([7, 8, 4]), np.array([0, 1, 1], bool))])
    >>> tree.ids.tolist(), tree.end.tolist(), tree.term.tolist()
    ([7, 8, 4, 5], [4, 4, 3, 4], [2, 0, 1])
    """
    order = sorted(range(len(sequences)), key=lambda i: _key(sequences[i][0]))
    nodes: list[Ints] = [np.empty(0, np.int64)] * len(sequences)
    ids, depth, parent, ends = [], [], [], []
    previous, path = np.empty(0, np.int64), np.empty(0, np.int64)
    count = 0
    for index in order:
        own = sequences[index][0]
        shared = common_prefix(previous, own)
        fresh = np.arange(count, count + len(own) - shared)
        ends.append((path[shared:], count))
        path = np.concatenate([path[:shared], fresh])
        ids.append(own[shared:])
        depth.append(np.arange(shared, len(own)))
        parent.append(
            np.concatenate([path[shared - 1 : shared] if shared else [-1], fresh])[: len(fresh)]
        )
        nodes[index], previous = path, own
        count += len(fresh)
    ends.append((path, count))
    end = np.empty(count, np.int64)
    for closed, at in ends:
        end[closed] = at
    flat_ids, parents = _joined(ids), _joined(parent)
    places = [node[trained] for node, (_, trained) in zip(nodes, sequences, strict=True)]
    tokens, term = np.unique(_joined(places), return_inverse=True)
    return PackedTree(
        ids=flat_ids,
        depth=_joined(depth),
        end=end,
        predictor=parents[tokens],
        target=flat_ids[tokens],
        term=term.astype(np.int64),
        owner=np.repeat(np.arange(len(sequences)), [len(place) for place in places]),
        raw=sum(len(own) for own, _ in sequences),
    )


def common_prefix(a: Ints, b: Ints) -> int:
    """Length of the longest common prefix."""
    length = min(len(a), len(b))
    differing = a[:length] != b[:length]
    first = int(differing.argmax()) if length else 0
    return first if length and differing[first] else length


def unique_tokens(sequences: Sequence[Ints]) -> int:
    """How many tokens the tree of some sequences has, without building it."""
    ordered = sorted(sequences, key=_key)
    total, previous = 0, np.empty(0, np.int64)
    for own in ordered:
        total += len(own) - common_prefix(previous, own)
        previous = own
    return total


Keyed = tuple[Ints, bytes]
"""A sequence and what it is sorted by."""


def keyed(ids: Sequence[int]) -> Keyed:
    own = np.array(ids, np.int64)
    return own, _key(own)


class Growing:
    """A tree that sequences are added to, as far as its number of tokens goes."""

    def __init__(self) -> None:
        self.tokens = 0
        self._keys: list[bytes] = []
        self._sequences: list[Ints] = []

    def extra(self, sequences: Iterable[Keyed]) -> int:
        """Tokens that sequences would add."""
        own = Growing()
        for one in sequences:
            own._add(*one, len(one[0]) - max(self._shared(*one), own._shared(*one)))
        return own.tokens

    def add(self, sequences: Iterable[Keyed]) -> None:
        for one in sequences:
            self._add(*one, len(one[0]) - self._shared(*one))

    def _add(self, ids: Ints, key: bytes, fresh: int) -> None:
        place = bisect_left(self._keys, key)
        self._keys.insert(place, key)
        self._sequences.insert(place, ids)
        self.tokens += fresh

    def _shared(self, ids: Ints, key: bytes) -> int:
        """The tokens of a sequence that are there: its neighbours in order have the most of them."""
        place = bisect_left(self._keys, key)
        beside = self._sequences[max(0, place - 1) : place + 1]
        return max((common_prefix(ids, other) for other in beside), default=0)


def _key(own: Ints) -> bytes:
    """By which sequences are sorted."""
    return own.astype(">u4").tobytes()


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
