"""The slots of the local engine: which row lies where, and how far it is, as arrays.

A slot holds the tokens of one row after its shared prefix. They stay when the row leaves, so that
another row that begins alike can start from them; a slot is overwritten only when it is given away.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rightcall.errors import ModelError
from rightcall.models import Sampling
from rightcall.models.cache import CHUNK

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """What other slots have of a new conversation."""

    slot: int
    """The slot that holds most of it; -1 if none holds any."""
    done: int
    """How many of its tokens that slot has computed."""
    hoped: int
    """How many more there would be if one waited for what is planned now."""
    whole: bool
    """It has all of them, and a reply was drawn after the last: its logits are known."""


@dataclass
class Slots:
    """Everything there is to know about `count` slots but their keys and values."""

    count: int
    ids: Ints = field(init=False)
    """[count, capacity] own tokens: `length` are in the cache, up to `planned` are to be computed."""
    row_of: list[str | None] = field(init=False)
    slot_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = self.count
        self.ids = np.zeros((n, CHUNK), np.int64)
        self.length = np.zeros(n, np.int64)
        self.planned = np.zeros(n, np.int64)
        self.shared = np.zeros(n, np.int64)
        self.shared_prefix = np.full(n, -1, np.int64)
        self.replying = np.zeros(n, bool)
        self.ready = np.zeros(n, bool)
        self.begun = np.zeros(n, np.int64)
        self.drawn = np.zeros(n, np.int64)
        self.limit = np.zeros(n, np.int64)
        self.cut = np.zeros(n, bool)
        self.last = np.zeros(n, np.int64)
        self.seed = np.zeros(n, np.uint64)
        self.temperature = np.zeros(n, np.float32)
        self.top_p = np.ones(n, np.float32)
        self.row_of = [None] * n
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(n))

    @property
    def busy(self) -> bool:
        """Whether any slot has something to compute or to draw."""
        return bool(((self.planned > self.length) | self.replying | self.ready).any())

    def reserve(self, length: int) -> None:
        """Make room for so many tokens in every slot."""
        if length > self.ids.shape[1]:
            grown = np.zeros((self.count, max(length, 2 * self.ids.shape[1])), np.int64)
            grown[:, : self.ids.shape[1]] = self.ids
            self.ids = grown

    def take(self, row: str, wanted: int, shared_prefix: int, shared: int) -> int:
        """Give a row a slot: the one wanted if it is free, else the one that was left longest ago."""
        if not self._free:
            raise ModelError(
                "more chains in flight than the engine has slots",
                value=self.count,
                remedy="Release chains that have ended, or raise the capacity.",
            )
        slot = wanted if wanted in self._free else next(iter(self._free))
        del self._free[slot]
        self.row_of[slot], self.slot_of[row] = row, slot
        self.shared_prefix[slot], self.shared[slot] = shared_prefix, shared
        return slot

    def leave(self, row: str) -> None:
        """Free a row's slot, if it has one; what was computed stays."""
        slot = self.slot_of.pop(row, None)
        if slot is not None:
            self.row_of[slot] = None
            self.replying[slot] = self.ready[slot] = False
            self.planned[slot] = self.length[slot]
            self._free[slot] = None

    def plan(self, slot: int, own: Ints, kept: int, room: int, sampling: Sampling, seed: int) -> None:
        """Begin a turn: `kept` of its tokens need not be computed again; `room` is what the context
        leaves for the reply. With all of them kept the turn is ready to draw."""
        self.reserve(len(own) + 1)
        self.ids[slot, : len(own)] = own
        self.length[slot] = kept
        self.planned[slot] = self.begun[slot] = len(own)
        self.replying[slot] = False
        self.ready[slot] = kept == len(own)
        self.drawn[slot] = 0
        self.limit[slot] = min(sampling.max_tokens, room)
        self.cut[slot] = sampling.max_tokens > room
        self.temperature[slot] = sampling.temperature
        self.top_p[slot] = sampling.top_p
        self.seed[slot] = seed % (1 << 64)

    def source(self, shared_prefix: int, own: Ints, mine: int = -1) -> Source:
        """Where a conversation can be had from; among equals `mine`, then a slot nobody uses, as a
        row can move in there without a copy."""
        n = len(own)
        width = min(n, self.ids.shape[1], int(self.planned.max(initial=0)))
        if width <= 0:
            return Source(-1, 0, 0, whole=False)
        same = (self.ids[:, :width] == own[:width]) & (self.shared_prefix == shared_prefix)[:, None]
        alike = np.where(same.all(1), width, same.argmin(1))
        # The last token must be computed for its logits, unless they are those of a turn's beginning.
        most = np.where(self.begun == n, n, n - 1)
        done = np.minimum(alike, self.length)
        whole = (done == n) & (self.begun == n) & (self.drawn > 0)
        done = np.where(whole, n, np.minimum(done, n - 1))
        equals = np.flatnonzero(done == done.max())
        best = mine if mine in equals else next((s for s in equals if s in self._free), equals[0])
        coming = np.where(
            self.planned > self.length, np.minimum(np.minimum(alike, self.planned), most), 0
        )
        hoped = int(coming.max()) - int(done[best])
        return Source(int(best), int(done[best]), hoped, bool(whole[best]))

    def forget(self, shared_prefix: int) -> None:
        """A shared prefix is no more: nor is what follows it."""
        gone = self.shared_prefix == shared_prefix
        self.length[gone] = self.planned[gone] = self.drawn[gone] = 0
        self.shared_prefix[gone] = -1
        self.shared[gone] = 0

    def permute(self, order: Ints) -> None:
        """Put slot `order[i]` at `i`."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[order])
        place = {int(old): new for new, old in enumerate(order)}
        self.row_of = [self.row_of[i] for i in order]
        self.slot_of = {row: place[slot] for row, slot in self.slot_of.items()}
        self._free = OrderedDict.fromkeys(place[slot] for slot in self._free)

    def said(self, slot: int) -> tuple[int, ...]:
        """The tokens of the reply so far."""
        return (*self.ids[slot, self.begun[slot] : self.length[slot]].tolist(), int(self.last[slot]))


def common(a: Ints, b: Ints) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def ranges(counts: Ints) -> Ints:
    """0..c-1 for each count, one after another: [2, 3] → [0, 1, 0, 1, 2]."""
    starts = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(starts, counts)


def chunks(lengths: Ints) -> tuple[tuple[int, int, int], ...]:
    """(start, end, rows) such that the first `rows` slots hold all keys start:end there are."""
    longest = int(lengths.max(initial=0))
    made = []
    for start in range(0, longest, CHUNK):
        reach = int(np.flatnonzero(lengths > start)[-1]) + 1
        made.append((start, min(start + CHUNK, longest), reach))
    return tuple(made)
