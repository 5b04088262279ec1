"""Continuous batching over token ids: rows join and leave, every prompt token is computed once.

Each pass feeds, packed together, the last token of every row that is replying and the new tokens
of rows whose turn begins. What a row's slot already holds is kept; a new row starts from the
longest prefix that any slot holds, live or left behind; a prompt's head that many rows share, the
shared prefix, is stored once and attended to as one matrix product.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rightcall.errors import ModelError
from rightcall.models import Sampling
from rightcall.models.cache import CHUNK, Group, Plan, SlotCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_SHARED_PREFIXES = 4
MIN_SHARED_PREFIX = 16
"""Tokens below which a shared prefix is not worth storing by itself."""
WORTH_WAITING = 8
"""A new row waits a pass for a prefix now being computed if that saves so many tokens."""
MAX_SCORES = 1 << 26
"""Attention scores (queries * heads * keys) that the new tokens of one pass may need."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Turn:
    """One reply asked of the engine."""

    row: str
    """Turns of the same row follow each other in one slot."""
    ids: tuple[int, ...]
    """The whole conversation up to the reply."""
    shared_prefix: int
    """How many leading tokens other rows are likely to share; 0 if unknown."""
    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Finished:
    """A reply's tokens, the stop token included if there is one."""

    row: str
    tokens: tuple[int, ...]
    reason: Literal["stop", "length", "context"]


@dataclass
class Stats:
    """What the engine computed."""

    prompt_tokens: int = 0
    """Tokens of all requests, as if each were computed from nothing."""
    prefilled_tokens: int = 0
    """Prompt and observation tokens that were computed."""
    decoded_tokens: int = 0
    passes: int = 0
    seconds: float = 0.0


@dataclass
class _SharedPrefix:
    ids: tuple[int, ...]
    cache: SlotCache


@dataclass
class _Slots:
    """The state of every slot, as arrays."""

    count: int
    ids: Ints = field(init=False)
    """[count, capacity] own tokens: `length` are in the cache, up to `planned` are to be computed."""

    def __post_init__(self) -> None:
        n = self.count
        self.ids = np.zeros((n, CHUNK), np.int64)
        self.length = np.zeros(n, np.int64)
        self.planned = np.zeros(n, np.int64)
        self.shared = np.zeros(n, np.int64)
        self.shared_prefix = np.full(n, -1, np.int64)
        self.replying = np.zeros(n, bool)
        self.begun = np.zeros(n, np.int64)
        self.drawn = np.zeros(n, np.int64)
        self.limit = np.zeros(n, np.int64)
        self.cut = np.zeros(n, bool)
        self.last = np.zeros(n, np.int64)
        self.seed = np.zeros(n, np.uint64)
        self.temperature = np.zeros(n, np.float32)
        self.top_p = np.ones(n, np.float32)
        self.row: list[str | None] = [None] * n

    def reserve(self, length: int) -> None:
        if length > self.ids.shape[1]:
            grown = np.zeros((self.count, max(length, 2 * self.ids.shape[1])), np.int64)
            grown[:, : self.ids.shape[1]] = self.ids
            self.ids = grown

    def permute(self, order: Ints) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[order])
        self.row = [self.row[i] for i in order]


class Engine:
    """Rows of one model. Not thread-safe; `step` runs one forward pass.

    `max_context` bounds prompt and reply together. The model must already use the attention of
    `rightcall.models.cache`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int,
        max_context: int,
        stop_ids: Iterable[int],
        prefill_tokens: int = 2048,
    ) -> None:
        self.model = model
        self.max_context = max_context
        self.stats = Stats()
        self._stop = np.array(sorted(stop_ids), np.int64)
        self._prefill_tokens = prefill_tokens
        self._cache = SlotCache(slots)
        self._s = _Slots(slots)
        self._slot_of: dict[str, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(slots))
        self._waiting: deque[Turn] = deque()
        self._shared_prefixes: dict[int, _SharedPrefix] = {}
        self._next_shared_prefix = 0
        self._since_sorted = 0
        config = model.config.get_text_config()
        self._heads = int(config.num_attention_heads)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return (
            bool(self._waiting)
            or bool((self._s.planned > self._s.length).any())
            or bool(self._s.replying.any())
        )

    def enter(self, turn: Turn) -> None:
        """Queue a turn. Its row needs no announcement; it lives until `leave`."""
        if len(turn.ids) >= self.max_context:
            raise ValueError("the conversation leaves no room for a reply")
        self.stats.prompt_tokens += len(turn.ids)
        self._waiting.append(turn)

    def leave(self, row: str) -> None:
        """Give the row's slot back; what it holds serves as a prefix until the slot is reused."""
        self._waiting = deque(turn for turn in self._waiting if turn.row != row)
        slot = self._slot_of.pop(row, None)
        if slot is not None:
            self._s.row[slot] = None
            self._s.replying[slot] = False
            self._s.planned[slot] = self._s.length[slot]
            self._free[slot] = None

    def step(self) -> list[Finished]:
        """One pass over all rows; the replies that it finished, in the order of their slots."""
        started = time.perf_counter()
        with torch.inference_mode():
            self._admit()
            self._sort_slots()
            finished = self._pass()
        self.stats.seconds += time.perf_counter() - started
        return finished

    # Admission: which slot, and how much of it can be kept.

    def _admit(self) -> None:
        """Give waiting turns their slots, except those that had better wait for a prefix."""
        held: deque[Turn] = deque()
        while self._waiting:
            turn = self._waiting.popleft()
            slot = self._slot_of.get(turn.row)
            if slot is not None and self._resume(slot, turn):
                continue
            if not self._start(turn):
                held.append(turn)
        self._waiting = held

    def _resume(self, slot: int, turn: Turn) -> bool:
        """Continue in the row's own slot; False if the conversation does not have its shared prefix."""
        s = self._s
        shared = int(s.shared[slot])
        if (
            s.shared_prefix[slot] >= 0
            and turn.ids[:shared] != self._shared_prefixes[int(s.shared_prefix[slot])].ids
        ):
            self._slot_of.pop(turn.row)
            s.row[slot] = None
            self._free[slot] = None
            return False
        own = np.array(turn.ids[shared:], np.int64)
        self._plan(slot, turn, own, _common(s.ids[slot, : s.length[slot]], own))
        return True

    def _start(self, turn: Turn) -> bool:
        """Place a new row; False if it should wait for a prefix that is being computed."""
        s = self._s
        shared_prefix = self._shared_prefix_for(turn)
        shared = len(self._shared_prefixes[shared_prefix].ids) if shared_prefix >= 0 else 0
        own = np.array(turn.ids[shared:], np.int64)
        source, done, planned = self._longest_prefix(shared_prefix, own)
        if planned - done >= WORTH_WAITING:
            return False
        if not self._free:
            raise ModelError(
                "more chains in flight than the engine has slots",
                value=s.count,
                remedy="Release chains that have ended, or raise the capacity.",
            )
        slot = source if source in self._free else next(iter(self._free))
        if slot != source and done:
            self._cache.copy(source, slot, 0, done)
        del self._free[slot]
        s.row[slot], s.shared_prefix[slot], s.shared[slot] = turn.row, shared_prefix, shared
        self._slot_of[turn.row] = slot
        self._plan(slot, turn, own, done)
        return True

    def _plan(self, slot: int, turn: Turn, own: Ints, kept: int) -> None:
        s = self._s
        s.reserve(len(own) + 1)
        s.ids[slot, : len(own)] = own
        s.length[slot] = min(kept, len(own) - 1)
        s.planned[slot] = s.begun[slot] = len(own)
        s.replying[slot] = False
        s.drawn[slot] = 0
        s.limit[slot] = min(turn.sampling.max_tokens, self.max_context - len(turn.ids))
        s.temperature[slot] = turn.sampling.temperature
        s.top_p[slot] = turn.sampling.top_p
        s.seed[slot] = turn.seed % (1 << 64)
        s.cut[slot] = turn.sampling.max_tokens > self.max_context - len(turn.ids)

    def _longest_prefix(self, shared_prefix: int, own: Ints) -> tuple[int, int, int]:
        """(slot, tokens it holds, tokens it will hold) of the best source for a new row."""
        s = self._s
        width = min(len(own) - 1, s.ids.shape[1], int(s.planned.max(initial=0)))
        if width <= 0:
            return -1, 0, 0
        same = (s.ids[:, :width] == own[:width]) & (s.shared_prefix == shared_prefix)[:, None]
        alike = np.where(same.all(1), width, same.argmin(1))
        done, planned = np.minimum(alike, s.length), np.minimum(alike, s.planned)
        best = int(done.argmax())
        # Among equals a slot nobody uses: the row can move in without a copy.
        for slot in np.flatnonzero(done == done[best]):
            if int(slot) in self._free:
                best = int(slot)
                break
        return best, int(done[best]), int(planned.max())

    # Shared prefixes.

    def _shared_prefix_for(self, turn: Turn) -> int:
        """The shared prefix the turn starts with, made now if need be; -1 for none."""
        for number, shared_prefix in self._shared_prefixes.items():
            if turn.ids[: len(shared_prefix.ids)] == shared_prefix.ids and len(turn.ids) > len(
                shared_prefix.ids
            ):
                return number
        length = min(turn.shared_prefix, len(turn.ids) - 1)
        if length < MIN_SHARED_PREFIX or not self._room_for_shared_prefix():
            return -1
        number, self._next_shared_prefix = self._next_shared_prefix, self._next_shared_prefix + 1
        self._shared_prefixes[number] = _SharedPrefix(
            turn.ids[:length], self._prefill_shared_prefix(turn.ids[:length])
        )
        return number

    def _room_for_shared_prefix(self) -> bool:
        if len(self._shared_prefixes) < MAX_SHARED_PREFIXES:
            return True
        live = {int(self._s.shared_prefix[slot]) for slot in self._slot_of.values()}
        idle = next((number for number in self._shared_prefixes if number not in live), None)
        if idle is None:
            return False
        del self._shared_prefixes[idle]
        gone = self._s.shared_prefix == idle
        self._s.length[gone] = self._s.planned[gone] = 0
        self._s.shared_prefix[gone] = -1
        self._s.shared[gone] = 0
        return True

    def _prefill_shared_prefix(self, ids: tuple[int, ...]) -> SlotCache:
        cache = SlotCache(1)
        cache.reserve(len(ids))
        start = 0
        while start < len(ids):
            end = min(len(ids), start + self._affordable(len(ids)))
            places = np.arange(start, end)
            group = self._group(
                np.arange(end - start),
                np.zeros(1, np.int64),
                np.array([end - start]),
                places[None],
                np.zeros(1, np.int64),
                end,
                (),
            )
            slots = np.zeros(end - start, np.int64)
            plan = Plan(cache, self._tensor(slots), self._tensor(places), [group])
            self._forward(np.array(ids[start:end], np.int64), places, plan, None)
            start = end
        self.stats.prefilled_tokens += len(ids)
        return cache

    def _affordable(self, keys: int) -> int:
        """How many new tokens one pass may take when rows are so long."""
        return max(1, min(self._prefill_tokens, MAX_SCORES // (self._heads * max(keys, 1))))

    # One pass.

    def _sort_slots(self) -> None:
        """Order slots by falling length when decoding would read many keys in vain."""
        s, self._since_sorted = self._s, self._since_sorted + 1
        live = np.where(s.replying, s.length, 0)
        read = sum((end - start) * reach for start, end, reach in _chunks(live + s.replying))
        if self._since_sorted < 16 or read <= 1.25 * live.sum() + 64 * CHUNK:
            return
        self._since_sorted = 0
        order = np.lexsort((-s.length, -live)).astype(np.int64)
        self._cache.permute(self._tensor(order), int(s.length.max(initial=0)))
        s.permute(order)
        place = {int(old): new for new, old in enumerate(order)}
        self._free = OrderedDict.fromkeys(place[slot] for slot in self._free)
        self._slot_of = {row: place[slot] for row, slot in self._slot_of.items()}

    def _pass(self) -> list[Finished]:
        s = self._s
        replying = np.flatnonzero(s.replying)
        joining, counts = self._joining()
        if not len(replying) and not len(joining):
            return []
        need = int((np.concatenate([s.length[replying] + 1, s.length[joining] + counts])).max())
        self._cache.reserve(need)
        s.ids[replying, s.length[replying]] = s.last[replying]
        s.planned[replying] = s.length[replying] + 1
        slots = np.concatenate([replying, np.repeat(joining, counts)])
        within = _ranges(counts)
        places = np.concatenate([s.length[replying], s.length[np.repeat(joining, counts)] + within])
        groups = self._groups(replying, joining, counts)
        plan = Plan(self._cache, self._tensor(slots), self._tensor(places), groups)
        ends = len(replying) + np.cumsum(counts) - 1
        s.length[replying] += 1
        s.length[joining] += counts
        through = s.length[joining] == s.planned[joining]
        rows = np.concatenate([replying, joining[through]])
        keep = np.concatenate([np.arange(len(replying)), ends[through]])
        logits = self._forward(s.ids[slots, places], places + s.shared[slots], plan, keep)
        self.stats.prefilled_tokens += int(counts.sum())
        self.stats.decoded_tokens += len(rows)
        if not len(rows):
            return []
        assert logits is not None
        return self._take(rows, self._draw(rows, logits))

    def _joining(self) -> tuple[Ints, Ints]:
        """Slots with tokens to compute and how many of them this pass takes."""
        s = self._s
        joining = np.flatnonzero((s.planned > s.length) & ~s.replying)
        counts = s.planned[joining] - s.length[joining]
        longest = int((s.planned + s.shared)[joining].max(initial=1))
        room = self._affordable(longest) - (np.cumsum(counts) - counts)
        counts = np.minimum(counts, room)
        return joining[counts > 0], counts[counts > 0]

    def _groups(self, replying: Ints, joining: Ints, counts: Ints) -> list[Group]:
        s = self._s
        groups = []
        if len(replying):
            groups.append(self._replying_group(replying))
        first = len(replying) + np.cumsum(counts) - counts
        size = np.ceil(np.log2(np.maximum(counts, 4))).astype(np.int64)
        for bucket in np.unique(size):
            mine = np.flatnonzero(size == bucket)
            slots, width = joining[mine], int(counts[mine].max())
            tokens = np.repeat(first[mine], counts[mine]) + _ranges(counts[mine])
            starts = s.length[slots] + s.shared[slots]
            positions = starts[:, None] + np.arange(width)
            keys = int((s.length[slots] + counts[mine]).max())
            groups.append(
                self._group(
                    tokens,
                    slots,
                    counts[mine],
                    positions,
                    s.shared[slots],
                    keys,
                    self._memberships(slots),
                )
            )
        return groups

    def _replying_group(self, replying: Ints) -> Group:
        """Rows that reply, in place: queries of the slots between them are blank."""
        s = self._s
        rows = int(replying[-1]) + 1
        lengths = np.where(s.replying, s.length + 1, 0)[:rows]
        return Group(
            tokens=self._tensor(np.arange(len(replying))),
            cells=self._tensor(replying),
            positions=self._tensor((s.shared + s.length)[:rows, None]),
            offsets=self._tensor(s.shared[:rows]),
            slots=None,
            chunks=_chunks(lengths),
            shared_prefixes=self._memberships(np.arange(rows), replying),
        )

    def _group(
        self,
        tokens: Ints,
        slots: Ints,
        counts: Ints,
        positions: Ints,
        offsets: Ints,
        keys: int,
        shared_prefixes: tuple[tuple[SlotCache, int, Tensor | None], ...],
    ) -> Group:
        """Rows with several new tokens each, padded to the longest."""
        width = positions.shape[1]
        cells = np.repeat(np.arange(len(slots)) * width, counts) + _ranges(counts)
        return Group(
            tokens=self._tensor(tokens),
            cells=self._tensor(cells),
            positions=self._tensor(positions),
            offsets=self._tensor(offsets),
            slots=self._tensor(slots),
            chunks=((0, keys, len(slots)),),
            shared_prefixes=shared_prefixes,
        )

    def _memberships(
        self, slots: Ints, only: Ints | None = None
    ) -> tuple[tuple[SlotCache, int, Tensor | None], ...]:
        """Which rows of a group use which shared prefix."""
        used = self._s.shared_prefix[slots if only is None else only]
        numbers = np.unique(used)
        if len(numbers) == 1 and numbers[0] >= 0:
            shared_prefix = self._shared_prefixes[int(numbers[0])]
            return ((shared_prefix.cache, len(shared_prefix.ids), None),)
        return tuple(
            (
                self._shared_prefixes[int(n)].cache,
                len(self._shared_prefixes[int(n)].ids),
                self._tensor(np.flatnonzero(self._s.shared_prefix[slots] == n)),
            )
            for n in numbers
            if n >= 0
        )

    def _forward(self, ids: Ints, positions: Ints, plan: Plan, keep: Ints | None) -> Tensor | None:
        """Logits [len(keep), vocabulary] of a packed pass."""
        self.stats.passes += 1
        some = np.zeros(1, np.int64) if keep is None or not len(keep) else keep
        made = self.model(
            input_ids=self._tensor(ids)[None],
            position_ids=self._tensor(positions)[None],
            use_cache=False,
            logits_to_keep=self._tensor(some),
            rightcall_plan=plan,
        )
        return None if keep is None or not len(keep) else made.logits[0]

    def _draw(self, rows: Ints, logits: Tensor) -> Ints:
        s = self._s
        temperature = s.temperature[rows]
        if not temperature.any():
            return np.asarray(logits.argmax(-1).cpu().numpy(), np.int64)
        uniform = uniforms(s.seed[rows], s.drawn[rows])
        drawn = sample(
            logits.float(),
            self._tensor(temperature),
            self._tensor(s.top_p[rows]),
            self._tensor(uniform),
        )
        return np.asarray(drawn.cpu().numpy(), np.int64)

    def _take(self, rows: Ints, tokens: Ints) -> list[Finished]:
        """Append a drawn token to each row; the rows that this finishes."""
        s = self._s
        s.drawn[rows] += 1
        s.last[rows] = tokens
        stopped = np.isin(tokens, self._stop)
        over = stopped | (s.drawn[rows] >= s.limit[rows])
        s.replying[rows] = ~over
        s.reserve(int(s.length[rows].max()) + 2)
        return [self._finished(int(rows[i]), bool(stopped[i])) for i in np.flatnonzero(over)]

    def _finished(self, slot: int, stopped: bool) -> Finished:
        s = self._s
        row = s.row[slot]
        assert row is not None
        tokens = (*s.ids[slot, s.begun[slot] : s.length[slot]].tolist(), int(s.last[slot]))
        cut: Literal["length", "context"] = "context" if s.cut[slot] else "length"
        return Finished(row, tokens, "stop" if stopped else cut)

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.model.device)


def _common(a: Ints, b: Ints) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def _ranges(counts: Ints) -> Ints:
    """0..c-1 for each count, one after another: [2, 3] → [0, 1, 0, 1, 2]."""
    starts = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(starts, counts)


def _chunks(lengths: Ints) -> tuple[tuple[int, int, int], ...]:
    """(start, end, rows) such that the first `rows` slots hold all keys start:end there are."""
    longest = int(lengths.max(initial=0))
    made = []
    for start in range(0, longest, CHUNK):
        reach = int(np.flatnonzero(lengths > start)[-1]) + 1
        made.append((start, min(start + CHUNK, longest), reach))
    return tuple(made)


def uniforms(seeds: NDArray[np.uint64], counters: Ints) -> NDArray[np.float64]:
    """A number in [0, 1) for each (seed, counter): splitmix64 (Steele et al. 2014) as a counter-based
    generator, so that a draw depends on nothing but its own row."""
    with np.errstate(over="ignore"):
        z = seeds + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return np.asarray((z >> np.uint64(11)).astype(np.float64) / (1 << 53), np.float64)


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Tokens drawn by inverse transform from `softmax(logits / temperature)` cut to its nucleus.

    `logits` [rows, vocabulary]; the rest [rows], `uniform` in [0, 1). A temperature of 0 takes the
    argmax. The nucleus (Holtzman et al. 2020) is the smallest set of likeliest tokens whose
    probability reaches `top_p`.
    """
    greedy = logits.argmax(-1)
    scale = torch.where(temperature > 0, temperature, 1.0)[:, None]
    probabilities = torch.softmax(logits / scale, -1)
    if bool((top_p < 1).any()):
        ordered, index = probabilities.sort(stable=True, dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= top_p[:, None], 0.0)
        drawn = index.gather(-1, _inverse(ordered, uniform)[:, None])[:, 0]
    else:
        drawn = _inverse(probabilities, uniform)
    return torch.where(temperature > 0, drawn, greedy)


def _inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    reached = weights.cumsum(-1, dtype=torch.float64)
    target = uniform.to(reached.dtype)[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, target, right=True)[:, 0].clamp_(max=weights.shape[-1] - 1)


def shared_head(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two prompts share."""
    return _common(np.array(a, np.int64), np.array(b, np.int64))
