"""Keys and values of many ragged rows, and attention over them.

A row is `shared prefix + own`: the shared prefix is a prompt that many rows begin with, computed and
stored once; the rest lies in the row's slot of a cache `[slots, heads, length, dim]`. A forward pass
takes the new tokens of all rows packed without padding as `[1, tokens]`; `Plan` says which token
belongs where.
The model's own code runs unchanged: it calls `attention` through `transformers.AttentionInterface`.

Rows that decode attend in place to the front of the cache (nothing is gathered), in chunks of the
length, each over only the slots up to the last that reaches it: with slots in order of falling
length hardly a padded key is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rightcall.errors import ConfigError

ATTENTION = "rightcall_slots"
"""The name under which `attention` is registered with transformers."""

CHUNK = 128
"""Keys that decoding rows attend to at a time."""

FIRST = 512
"""Tokens per slot that the first allocation holds: growing means copying everything."""


class SlotCache:
    """Per layer, keys and values as `[slots, heads, length, dim]`; the length grows by half."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.length = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in every slot."""
        if length <= self.length:
            return
        self.length = max(length, 3 * self.length // 2, FIRST)
        self.keys = [self._grown(k) for k in self.keys]
        self.values = [self._grown(v) for v in self.values]

    def _grown(self, old: Tensor) -> Tensor:
        new = _zeros((old.shape[0], old.shape[1], self.length, old.shape[3]), old)
        new[:, :, : old.shape[2]] = old
        return new

    def write(self, layer: int, slots: Tensor, places: Tensor, key: Tensor, value: Tensor) -> None:
        """Store `[tokens, heads, dim]` at (slot, place) of a layer."""
        if layer == len(self.keys):
            for store, new in ((self.keys, key), (self.values, value)):
                store.append(_zeros((self.slots, new.shape[1], self.length, new.shape[2]), new))
        self.keys[layer][slots, :, places] = key
        self.values[layer][slots, :, places] = value

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Copy the tokens `start:end` of one slot to another."""
        for store in (*self.keys, *self.values):
            store[target, :, start:end] = store[source, :, start:end]

    def permute(self, order: Tensor, length: int) -> None:
        """Put slot `order[i]` at `i`; only the first `length` tokens of each are kept."""
        for store in (*self.keys, *self.values):
            for start in range(0, length, CHUNK):
                part = store[:, :, start : min(start + CHUNK, length)]
                part.copy_(part.index_select(0, order))


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros, not empty memory: a masked weight of 0 times a stray NaN would be NaN. On the CPU they
    come from numpy, whose pages stay untouched until they are written."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    raw = np.zeros(math.prod(shape) * like.element_size(), np.uint8)
    return torch.from_numpy(raw).view(like.dtype).view(shape)


@dataclass(frozen=True)
class Group:
    """Rows that attend together, `width` queries each (padded)."""

    tokens: Tensor
    """[m] indices of the packed tokens of these rows."""
    cells: Tensor
    """[m] where each lies among the `rows * width` queries."""
    positions: Tensor
    """[rows, width] absolute positions of the queries."""
    offsets: Tensor
    """[rows] length of each row's shared prefix."""
    slots: Tensor | None
    """[rows] slots; None: the first `rows` slots of the cache, used in place."""
    chunks: tuple[tuple[int, int, int], ...]
    """(start, end, rows): own keys start:end are attended to by the first so many rows."""
    shared_prefixes: tuple[tuple[SlotCache, int, Tensor | None], ...] = ()
    """(shared prefix, its length, the rows that use it or None for all)."""
    _biases: dict[int | None, Tensor] = field(default_factory=dict)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[rows, 1, 1, width, shared prefix + own] 0 where a query sees a key, else -inf; cached, as
        it is the same for all layers of one kind."""
        if window not in self._biases:
            shared = max((length for _, length, _ in self.shared_prefixes), default=0)
            device = self.positions.device
            shared_prefix = torch.arange(shared, device=device).expand(len(self.offsets), shared)
            own = self.offsets[:, None] + torch.arange(self.chunks[-1][1], device=device)
            keys = torch.cat(
                [shared_prefix.masked_fill(shared_prefix >= self.offsets[:, None], 1 << 60), own], 1
            )
            distance = self.positions[:, :, None] - keys[:, None, :]
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=device)
            self._biases[window] = bias.masked_fill_(hidden, float("-inf"))[:, None, None]
        return self._biases[window]

    def attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        layer: int,
        bias: Tensor,
        softcap: float | None,
    ) -> Tensor:
        """Scaled queries `[m, heads, dim]` → outputs of the same shape."""
        rows, width = self.positions.shape
        heads, kv = query.shape[1], keys.shape[1]
        per = heads // kv * width
        if self.slots is not None:
            end = self.chunks[-1][1]
            keys = keys[:, :, :end].index_select(0, self.slots)
            values = values[:, :, :end].index_select(0, self.slots)
        q = query.new_zeros(rows * width, heads, query.shape[2])
        q[self.cells] = query
        q = q.view(rows, width, kv, heads // kv, -1).permute(0, 2, 3, 1, 4).reshape(rows, kv, per, -1)
        shared = bias.shape[-1] - self.chunks[-1][1]
        scores = q.new_full((rows, kv, per, bias.shape[-1]), float("-inf"))
        for shared_prefix, length, members in self.shared_prefixes:
            _shared_prefix_scores(scores, q, shared_prefix.keys[layer][0, :, :length], members)
        for start, end, reach in self.chunks:
            own = keys[:reach, :, start:end].flatten(0, 1).transpose(1, 2)
            part = torch.bmm(q[:reach].flatten(0, 1), own)
            scores[:reach, :, :, shared + start : shared + end] = part.view(reach, kv, per, -1)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores.view(rows, kv, heads // kv, width, -1).add_(bias)
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype)
        out = q.new_zeros(rows, kv, per, values.shape[-1])
        for shared_prefix, length, members in self.shared_prefixes:
            _add_shared_prefix(out, weights, shared_prefix.values[layer][0, :, :length], members)
        for start, end, reach in self.chunks:
            part = weights[:reach, :, :, shared + start : shared + end].flatten(0, 1)
            out[:reach] += torch.bmm(part, values[:reach, :, start:end].flatten(0, 1)).view(
                reach, kv, per, -1
            )
        out = out.view(rows, kv, heads // kv, width, -1).permute(0, 3, 1, 2, 4)
        return out.reshape(rows * width, heads, -1)[self.cells]


def _shared_prefix_scores(scores: Tensor, q: Tensor, keys: Tensor, members: Tensor | None) -> None:
    """Write the scores of `[rows, kv, per, dim]` queries against a shared `[kv, length, dim]`: one
    matrix product per head, however many rows there are."""
    mine = q if members is None else q[members]
    rows, kv, per, _ = mine.shape
    part = torch.bmm(mine.transpose(0, 1).reshape(kv, rows * per, -1), keys.transpose(1, 2))
    part = part.view(kv, rows, per, -1).transpose(0, 1)
    if members is None:
        scores[..., : part.shape[-1]] = part
    else:
        scores[members, :, :, : part.shape[-1]] = part


def _add_shared_prefix(out: Tensor, weights: Tensor, values: Tensor, members: Tensor | None) -> None:
    kv, length, _ = values.shape
    mine = weights[..., :length] if members is None else weights[members][..., :length]
    rows, _, per, _ = mine.shape
    part = torch.bmm(mine.transpose(0, 1).reshape(kv, rows * per, length), values)
    part = part.view(kv, rows, per, -1).transpose(0, 1)
    if members is None:
        out += part
    else:
        out[members] += part


@dataclass(frozen=True)
class Plan:
    """Where the packed tokens of one forward pass belong."""

    cache: SlotCache
    slots: Tensor
    """[tokens]"""
    places: Tensor
    """[tokens] index of each token within its slot."""
    groups: Sequence[Group]

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """`[1, heads, tokens, dim]` each → `[1, tokens, heads, dim]`."""
        self.cache.write(
            layer, self.slots, self.places, key[0].transpose(0, 1), value[0].transpose(0, 1)
        )
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        scaled = query[0].transpose(0, 1) * scaling
        if len(self.groups) == 1 and len(self.groups[0].tokens) == len(self.slots):
            group = self.groups[0]
            bias = group.bias(window, scaled.dtype)
            return group.attend(scaled, keys, values, layer, bias, softcap)[None]
        out = scaled.new_empty(*scaled.shape[:2], values.shape[-1])
        for group in self.groups:
            bias = group.bias(window, scaled.dtype)
            mine = scaled[group.tokens]
            out[group.tokens] = group.attend(mine, keys, values, layer, bias, softcap)
        return out[None]


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    rightcall_plan: Plan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Called by the model's attention layers in place of their own kernel."""
    if rightcall_plan is None or options.get("s_aux") is not None or "position_bias" in options:
        raise ConfigError(
            "the local engine cannot run this architecture's attention",
            value=type(module).__name__,
            remedy="Serve the model (e.g. with vLLM) and use its URL.",
        )
    layer = module.layer_idx
    assert isinstance(layer, int)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return rightcall_plan.attend(layer, query, key, value, scale, sliding_window, softcap), None
