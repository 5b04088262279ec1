"""Continuous batching over token ids: rows join and leave, every prompt token is computed once.

Each pass feeds, packed together, the last token of every row that is replying and the new tokens
of rows whose turn begins. What a row's slot already holds is kept; beyond that, a turn starts from
the longest prefix that any slot holds, live or left behind, and waits a pass for one that is being
computed. A prompt that another row has just begun to answer costs nothing: its keys, values and
logits are taken over. A prompt's head that many rows share, the shared prefix, is stored once and
attended to as one matrix product.

`slots.py` has the bookkeeping, `cache.py` keys, values and attention, `sampling.py` the draws.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rightcall.models import Sampling
from rightcall.models.cache import CHUNK, Group, Plan, SlotCache
from rightcall.models.sampling import forbid, sample, uniforms
from rightcall.models.slots import Ints, Slots, chunks, common, ranges

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_SHARED_PREFIXES = 4
MIN_SHARED_PREFIX = 16
"""Tokens below which a shared prefix is not worth storing by itself."""
WORTH_WAITING = 4
"""A turn waits a pass for a prefix now being computed if that saves so many tokens."""
MAX_SCORES = 1 << 26
"""Attention scores (queries * heads * keys) that the new tokens of one pass may need."""


class Constraint(Protocol):
    """What a reply may say next; each turn has its own."""

    def allowed(self) -> NDArray[np.bool_]:
        """[vocabulary] the tokens that may come now, at least one."""

    def take(self, token: int) -> None:
        """The token that came; never one that ends a reply."""


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
    constraint: Constraint | None = None


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
        self._slots = Slots(slots)
        self._first_logits: Tensor | None = None  # [slots, vocabulary] of the turns' first tokens
        self._constraints: dict[str, Constraint] = {}
        self._waiting: deque[Turn] = deque()
        self._shared_prefixes: dict[int, _SharedPrefix] = {}
        self._next_shared_prefix = 0
        self._since_sorted = 0
        config = model.config.get_text_config()
        self._heads = int(config.num_attention_heads)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting) or self._slots.busy

    def enter(self, turn: Turn) -> None:
        """Queue a turn. Its row needs no announcement; it lives until `leave`."""
        if len(turn.ids) >= self.max_context:
            raise ValueError("the conversation leaves no room for a reply")
        self.stats.prompt_tokens += len(turn.ids)
        self._waiting.append(turn)

    def leave(self, row: str) -> None:
        """Give the row's slot back; what it holds serves as a prefix until the slot is reused."""
        self._waiting = deque(turn for turn in self._waiting if turn.row != row)
        self._constraints.pop(row, None)
        self._slots.leave(row)

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
            if not self._begin(turn):
                held.append(turn)
        self._waiting = held

    def _begin(self, turn: Turn) -> bool:
        """Begin a turn in its row's slot or in a new one; False if it should wait for a prefix that is
        being computed."""
        slots = self._slots
        slot = self._slot_that_fits(turn)
        if slot is None:
            number = self._shared_prefix_for(turn)
            shared = len(self._shared_prefixes[number].ids) if number >= 0 else 0
        else:
            number, shared = int(slots.shared_prefix[slot]), int(slots.shared[slot])
        own = np.array(turn.ids[shared:], np.int64)
        source = slots.source(number, own, -1 if slot is None else slot)
        if source.hoped >= WORTH_WAITING:
            return False
        if slot is None:
            slot, kept = slots.take(turn.row, source.slot, number, shared), 0
        else:
            kept = common(slots.ids[slot, : slots.length[slot]], own)
        if source.slot not in (slot, -1):
            if kept < source.done:
                self._cache.copy(source.slot, slot, kept, source.done)
            if source.whole and self._first_logits is not None:
                self._first_logits[slot] = self._first_logits[source.slot]
        room = self.max_context - len(turn.ids)
        slots.plan(slot, own, source.done, room, turn.sampling, turn.seed)
        if turn.constraint is not None:
            self._constraints[turn.row] = turn.constraint
        return True

    def _slot_that_fits(self, turn: Turn) -> int | None:
        """The row's slot; left if the conversation does not have its shared prefix any more."""
        slots = self._slots
        slot = slots.slot_of.get(turn.row)
        if slot is None or slots.shared_prefix[slot] < 0:
            return slot
        head = self._shared_prefixes[int(slots.shared_prefix[slot])].ids
        if turn.ids[: len(head)] == head and len(turn.ids) > len(head):
            return slot
        slots.leave(turn.row)
        return None

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
        slots = self._slots
        live = {int(slots.shared_prefix[slot]) for slot in slots.slot_of.values()}
        idle = next((number for number in self._shared_prefixes if number not in live), None)
        if idle is None:
            return False
        del self._shared_prefixes[idle]
        slots.forget(idle)
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
            plan = Plan(
                cache, self._tensor(np.zeros(end - start, np.int64)), self._tensor(places), [group]
            )
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
        slots, self._since_sorted = self._slots, self._since_sorted + 1
        live = np.where(slots.replying, slots.length, 0)
        read = sum((end - start) * reach for start, end, reach in chunks(live + slots.replying))
        if self._since_sorted < 16 or read <= 1.25 * live.sum() + 64 * CHUNK:
            return
        self._since_sorted = 0
        order = np.lexsort((-slots.length, -live)).astype(np.int64)
        self._cache.permute(self._tensor(order), int(slots.length.max(initial=0)))
        if self._first_logits is not None:
            self._first_logits = self._first_logits[self._tensor(order)]
        slots.permute(order)

    def _pass(self) -> list[Finished]:
        """Compute what is planned, then draw for every row that replies, begins to, or is ready."""
        slots = self._slots
        ready = np.flatnonzero(slots.ready)
        replying = np.flatnonzero(slots.replying)
        joining, counts = self._joining()
        logits, begun = None, joining[:0]
        if len(replying) or len(joining):
            logits, begun = self._compute(replying, joining, counts)
        slots.ready[ready] = False
        if len(ready) and self._first_logits is not None:
            known = self._first_logits[self._tensor(ready)]
            logits = known if logits is None else torch.cat([logits, known])
        rows = np.concatenate([replying, begun, ready])
        self.stats.decoded_tokens += len(rows)
        return [] if logits is None else self._take(rows, self._draw(rows, logits))

    def _compute(self, replying: Ints, joining: Ints, counts: Ints) -> tuple[Tensor | None, Ints]:
        """One forward pass: logits of the rows that reply and of those that it brought to the end of
        their prompt, and these slots."""
        slots = self._slots
        need = np.concatenate([slots.length[replying] + 1, slots.length[joining] + counts])
        self._cache.reserve(int(need.max()))
        slots.ids[replying, slots.length[replying]] = slots.last[replying]
        slots.planned[replying] = slots.length[replying] + 1
        where = np.concatenate([replying, np.repeat(joining, counts)])
        places = np.concatenate(
            [slots.length[replying], slots.length[np.repeat(joining, counts)] + ranges(counts)]
        )
        groups = self._groups(replying, joining, counts)
        plan = Plan(self._cache, self._tensor(where), self._tensor(places), groups)
        ends = len(replying) + np.cumsum(counts) - 1
        slots.length[replying] += 1
        slots.length[joining] += counts
        through = slots.length[joining] == slots.planned[joining]
        keep = np.concatenate([np.arange(len(replying)), ends[through]])
        logits = self._forward(slots.ids[where, places], places + slots.shared[where], plan, keep)
        self.stats.prefilled_tokens += int(counts.sum())
        begun = joining[through]
        if logits is not None and len(begun):
            self._remember(begun, logits[len(replying) :])
        return logits, begun

    def _remember(self, begun: Ints, logits: Tensor) -> None:
        """Keep the first logits of turns: a row that asks the same needs no pass for them."""
        if self._first_logits is None:
            self._first_logits = logits.new_zeros(self._slots.count, logits.shape[-1])
        self._first_logits[self._tensor(begun)] = logits

    def _joining(self) -> tuple[Ints, Ints]:
        """Slots with tokens to compute and how many of them this pass takes."""
        slots = self._slots
        joining = np.flatnonzero((slots.planned > slots.length) & ~slots.replying)
        counts = slots.planned[joining] - slots.length[joining]
        longest = int((slots.planned + slots.shared)[joining].max(initial=1))
        room = self._affordable(longest) - (np.cumsum(counts) - counts)
        counts = np.minimum(counts, room)
        return joining[counts > 0], counts[counts > 0]

    def _groups(self, replying: Ints, joining: Ints, counts: Ints) -> list[Group]:
        slots = self._slots
        groups = []
        if len(replying):
            groups.append(self._replying_group(replying))
        first = len(replying) + np.cumsum(counts) - counts
        size = np.ceil(np.log2(np.maximum(counts, 4))).astype(np.int64)
        for bucket in np.unique(size):
            mine = np.flatnonzero(size == bucket)
            where, width = joining[mine], int(counts[mine].max())
            tokens = np.repeat(first[mine], counts[mine]) + ranges(counts[mine])
            starts = slots.length[where] + slots.shared[where]
            positions = starts[:, None] + np.arange(width)
            keys = int((slots.length[where] + counts[mine]).max())
            groups.append(
                self._group(
                    tokens,
                    where,
                    counts[mine],
                    positions,
                    slots.shared[where],
                    keys,
                    self._memberships(where),
                )
            )
        return groups

    def _replying_group(self, replying: Ints) -> Group:
        """Rows that reply, in place: queries of the slots between them are blank."""
        slots = self._slots
        rows = int(replying[-1]) + 1
        lengths = np.where(slots.replying, slots.length + 1, 0)[:rows]
        return Group(
            tokens=self._tensor(np.arange(len(replying))),
            cells=self._tensor(replying),
            positions=self._tensor((slots.shared + slots.length)[:rows, None]),
            offsets=self._tensor(slots.shared[:rows]),
            slots=None,
            chunks=chunks(lengths),
            shared_prefixes=self._memberships(np.arange(rows), replying),
        )

    def _group(
        self,
        tokens: Ints,
        where: Ints,
        counts: Ints,
        positions: Ints,
        offsets: Ints,
        keys: int,
        shared_prefixes: tuple[tuple[SlotCache, int, Tensor | None], ...],
    ) -> Group:
        """Rows with several new tokens each, padded to the longest."""
        width = positions.shape[1]
        cells = np.repeat(np.arange(len(where)) * width, counts) + ranges(counts)
        return Group(
            tokens=self._tensor(tokens),
            cells=self._tensor(cells),
            positions=self._tensor(positions),
            offsets=self._tensor(offsets),
            slots=self._tensor(where),
            chunks=((0, keys, len(where)),),
            shared_prefixes=shared_prefixes,
        )

    def _memberships(
        self, where: Ints, only: Ints | None = None
    ) -> tuple[tuple[SlotCache, int, Tensor | None], ...]:
        """Which rows of a group use which shared prefix."""
        belongs = self._slots.shared_prefix
        used = belongs[where if only is None else only]
        numbers = np.unique(used)
        if len(numbers) == 1 and numbers[0] >= 0:
            shared_prefix = self._shared_prefixes[int(numbers[0])]
            return ((shared_prefix.cache, len(shared_prefix.ids), None),)
        return tuple(
            (
                self._shared_prefixes[int(n)].cache,
                len(self._shared_prefixes[int(n)].ids),
                self._tensor(np.flatnonzero(belongs[where] == n)),
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
        slots = self._slots
        if self._constraints:
            logits = self._constrained(rows, logits)
        temperature = slots.temperature[rows]
        if not temperature.any():
            return np.asarray(logits.argmax(-1).cpu().numpy(), np.int64)
        drawn = sample(
            logits.float(),
            self._tensor(temperature),
            self._tensor(slots.top_p[rows]),
            self._tensor(uniforms(slots.seed[rows], slots.drawn[rows])),
        )
        return np.asarray(drawn.cpu().numpy(), np.int64)

    def _constrained(self, rows: Ints, logits: Tensor) -> Tensor:
        """Logits without what the rows' constraints forbid."""
        held = {i: self._constraints.get(self._slots.row_of[int(r)] or "") for i, r in enumerate(rows)}
        masks = {i: constraint.allowed() for i, constraint in held.items() if constraint is not None}
        if not masks:
            return logits
        return forbid(logits, np.array(list(masks), np.int64), np.stack(list(masks.values())))

    def _take(self, rows: Ints, tokens: Ints) -> list[Finished]:
        """Append a drawn token to each row; the rows that this finishes."""
        slots = self._slots
        slots.drawn[rows] += 1
        slots.last[rows] = tokens
        stopped = np.isin(tokens, self._stop)
        over = stopped | (slots.drawn[rows] >= slots.limit[rows])
        slots.replying[rows] = ~over
        slots.reserve(int(slots.length[rows].max()) + 2)
        for slot, token in zip(rows[~over], tokens[~over], strict=True) if self._constraints else ():
            constraint = self._constraints.get(slots.row_of[int(slot)] or "")
            if constraint is not None:
                constraint.take(int(token))
        return [self._finished(int(rows[i]), bool(stopped[i])) for i in np.flatnonzero(over)]

    def _finished(self, slot: int, stopped: bool) -> Finished:
        slots = self._slots
        row = slots.row_of[slot]
        assert row is not None
        self._constraints.pop(row, None)
        cut: Literal["length", "context"] = "context" if slots.cut[slot] else "length"
        return Finished(row, slots.said(slot), "stop" if stopped else cut)

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.model.device)


def shared_head(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two prompts share."""
    return common(np.array(a, np.int64), np.array(b, np.int64))
