"""Attention over a packed prefix tree: each token sees its ancestors and itself.

A model's own code runs unchanged: its attention layers call `attention` through
`transformers.AttentionInterface`, with the tree handed along as `rightcall_tree`.

Blocks (any device). The tree is cut into products of some queries with some keys, whose results are
merged by the logarithms of their sums, as FlashAttention merges its tiles (arXiv 2205.14135). A long
run of tokens without a branch, such as the prompt that all chains share, is one product with all
tokens below it, without a mask and without waste, and a causal one with itself. The short runs
between branches are taken together in blocks, each with its own few ancestors, under a mask.

`flex_attention` (CUDA): the same rule as a block mask, in one compiled kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from rightcall.errors import RightCallError
from rightcall.train.packing import Ints, PackedTree

ATTENTION = "rightcall_tree"
"""The name under which `attention` is registered with transformers."""

Kernel = Literal["block", "flex"]

_QUERIES = 128
"""Tokens of a block. Smaller: more reads of the same keys; larger: more masked products."""
_LONG = 96
"""Tokens from which a run without a branch is worth products of its own."""


class CannotPack(RightCallError):
    """This architecture's attention cannot run on a tree."""


@dataclass(frozen=True)
class Product:
    """Some queries that attend to some keys."""

    queries: slice | Tensor
    keys: slice | Tensor
    bias: Tensor | None = None
    """[1, 1, queries, keys], -inf where a key is hidden; None if all are seen."""
    causal: bool = False
    """Queries and keys are the same run, and each query sees the keys up to itself."""
    first: bool = False
    """Nothing is known of these queries yet. The first products hold every token once."""


@dataclass
class Tree:
    """A packed tree as the attention layers need it, on the device of the model."""

    end: Tensor
    """[n] where the subtree below each token ends."""
    depth: Tensor
    """[n]"""
    kernel: Kernel = "block"
    layers: set[int] = field(default_factory=set)
    """Which layers have attended: a layer that is missing mixes tokens in another way."""
    _plans: dict[int | None, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._deepest = int(self.depth.max())  # once a pack: layers that ask would wait for the device

    @classmethod
    def of(cls, packed: PackedTree, kernel: Kernel = "block") -> Tree:
        return cls(torch.from_numpy(packed.end), torch.from_numpy(packed.depth), kernel)

    def to(self, device: torch.device | str, **_: Any) -> Tree:
        return Tree(self.end.to(device), self.depth.to(device), self.kernel)

    def products(self, window: int | None) -> tuple[Product, ...]:
        """The products, for a sliding window of so many tokens or none; cached: layers share them."""
        window = self._biting(window)
        if window not in self._plans:
            end, depth = self.end.cpu().numpy(), self.depth.cpu().numpy()
            device = self.end.device
            self._plans[window] = tuple(_products(end, depth, window, device))
        return self._plans[window]  # type: ignore[no-any-return]

    def _biting(self, window: int | None) -> int | None:
        """The window, or None if every ancestor is within it."""
        return None if window is None or window > self._deepest else window

    def mask(self, window: int | None) -> Any:
        """The block mask of `flex_attention`, cached likewise. Making it looks once at each query and
        key: its memory grows with the square of `pack_tokens`."""
        window = self._biting(window)
        if window not in self._plans:
            from torch.nn.attention.flex_attention import create_block_mask

            end, depth, count = self.end, self.depth, len(self.end)

            def seen(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
                above = (key <= query) & (query < end[key])
                return above if window is None else above & (depth[query] - depth[key] < window)

            self._plans[window] = create_block_mask(
                seen, None, None, count, count, device=str(end.device)
            )
        return self._plans[window]


def _products(end: Ints, depth: Ints, window: int | None, device: torch.device) -> Iterator[Product]:
    # A run ends where the next token is not the child, or where the subtree does: at a branch.
    breaks = np.flatnonzero((np.diff(depth) != 1) | (np.diff(end) != 0)) + 1
    bounds = [0, *breaks.tolist(), len(end)]
    least = _LONG if window is None else len(end) + 1  # within a window a run is not seen as a whole
    runs = [(a, b) for a, b in pairwise(bounds) if b - a >= least]
    short = np.ones(len(end), bool)
    for start, stop in runs:
        short[start:stop] = False
        yield Product(slice(start, stop), slice(start, stop), causal=True, first=True)
    for queries in _ranges(np.flatnonzero(short)):
        keys = np.union1d(_above(end, queries[0], short), queries)
        rows = queries[:, None]
        hidden = (keys > rows) | (end[keys] <= rows)
        if window is not None:
            hidden |= depth[rows] - depth[keys] >= window
            keys, hidden = keys[~hidden.all(0)], hidden[:, ~hidden.all(0)]
        bias = torch.zeros(hidden.shape).masked_fill_(torch.from_numpy(hidden), float("-inf"))
        yield Product(
            _places(queries, device), _places(keys, device), bias[None, None].to(device), first=True
        )
    for start, stop in runs:
        if end[start] > stop:
            yield Product(slice(stop, int(end[start])), slice(start, stop))
        above = _above(end, start, short)
        if len(above):
            yield Product(slice(start, stop), _places(above, device))


def _ranges(tokens: Ints) -> Iterator[Ints]:
    for first in range(0, len(tokens), _QUERIES):
        yield tokens[first : first + _QUERIES]


def _above(end: Ints, token: int, among: Any) -> Ints:
    """The ancestors of a token, of those marked. In depth-first order they are, for any range of
    tokens that begins with it, all that the range sees outside itself."""
    return np.flatnonzero(among[:token] & (end[:token] > token))


def _places(tokens: Ints, device: torch.device) -> slice | Tensor:
    """A run as a slice, which costs no copy."""
    if tokens[-1] - tokens[0] == len(tokens) - 1:
        return slice(int(tokens[0]), int(tokens[-1]) + 1)
    return torch.from_numpy(tokens).to(device)


class _TreeAttention(torch.autograd.Function):
    """softmax(scale * Q K^T) V over products. Backward computes the weights of each anew from the
    logarithm of the sum over all of them."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        products: tuple[Product, ...],
    ) -> Tensor:
        """All [1, heads, n, dim]."""
        out = torch.empty_like(query, dtype=_wide(query).dtype)
        sums = out.new_empty(query.shape[:3])
        for product in products:
            at, keys = product.queries, product.keys
            part, logsum = _attend(query[:, :, at], key[:, :, keys], value[:, :, keys], product, scale)
            if not product.first:
                total = torch.logaddexp(sums[:, :, at], logsum)
                share = (sums[:, :, at] - total).exp_().to(out.dtype)
                part = torch.lerp(part.to(out.dtype), out[:, :, at], share[..., None])
                logsum = total
            out[:, :, at] = part.to(out.dtype)
            sums[:, :, at] = logsum
        made = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, made, sums)
        ctx.scale, ctx.products = scale, products
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        query, key, value, out, sums = ctx.saved_tensors
        made = [torch.zeros_like(x) for x in (query, key, value)]
        for product in ctx.products:
            at, keys = product.queries, product.keys
            parts = _attend_backward(
                grad[:, :, at],
                query[:, :, at],
                key[:, :, keys],
                value[:, :, keys],
                out[:, :, at],
                sums[:, :, at],
                product,
                ctx.scale,
            )
            for whole, part, place in zip(made, parts, (at, keys, keys), strict=True):
                if isinstance(place, slice):
                    whole[:, :, place] += part
                else:
                    whole.index_add_(2, place, part.to(whole.dtype))
        return (*made, None, None)


def _has_flash(device: torch.device) -> bool:
    """Whether the kernel behind torch's own attention on the CPU is at hand: it gives the sums that
    merging needs."""
    return device.type == "cpu" and hasattr(
        torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward"
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, product: Product, scale: float) -> tuple[Tensor, Tensor]:
    """Output [1, heads, queries, dim] and the logarithm of the sum [1, heads, queries]."""
    if _has_flash(q.device):
        out, logsum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, product.causal, attn_mask=_bias(product, q.dtype), scale=scale
        )
        return out, logsum
    scores = _scores(q, k, product, scale)
    logsum = torch.logsumexp(scores, -1)
    return (scores - logsum[..., None]).exp_().to(v.dtype) @ v, logsum


def _attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsum: Tensor,
    product: Product,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by query, key and value, of this product's share in the whole output `out`."""
    if _has_flash(q.device):
        if q.shape[2] <= _QUERIES:  # in half precision the kernel is two to three times slower there
            grad, q, k, v, out = (_wide(x) for x in (grad, q, k, v, out))
        made: tuple[Tensor, Tensor, Tensor] = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad,
                q,
                k,
                v,
                out,
                logsum,
                0.0,
                product.causal,
                attn_mask=_bias(product, q.dtype),
                scale=scale,
            )
        )
        return made
    weights = (_scores(q, k, product, scale) - logsum[..., None]).exp_()
    inner = (_wide(grad) * _wide(out)).sum(-1, keepdim=True)
    d_scores = (_wide(grad @ v.mT) - inner).mul_(weights).to(q.dtype)
    return d_scores @ k * scale, d_scores.mT @ q * scale, weights.to(grad.dtype).mT @ grad


def _wide(tensor: Tensor) -> Tensor:
    """In at least single precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _bias(product: Product, dtype: torch.dtype) -> Tensor | None:
    return None if product.bias is None else product.bias.to(dtype)


def _scores(q: Tensor, k: Tensor, product: Product, scale: float) -> Tensor:
    scores = _wide(q @ k.mT) * scale
    if product.causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill_(hidden, float("-inf"))
    return scores if product.bias is None else scores + product.bias


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def check_options(options: Mapping[str, Any]) -> None:
    """Raises `CannotPack` for what a model asks of its attention that a tree does not have."""
    for what in ("s_aux", "softcap", "position_bias"):
        if options.get(what) is not None:
            raise CannotPack(f"its attention needs {what!r}, which a tree does not have")


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    rightcall_tree: Tree | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Called by the model's attention layers: `query` [1, heads, n, dim], `key` and `value`
    [1, kv heads, n, dim] → [1, n, heads, dim]."""
    if rightcall_tree is None:
        raise CannotPack("this model does not hand its options to its attention layers")
    check_options(options)
    if dropout:
        raise CannotPack("its attention has dropout, which shared tokens cannot have")
    layer: Any = module.layer_idx
    rightcall_tree.layers.add(int(layer))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads, kv = query.shape[1], key.shape[1]
    # Under autocast with weights in float32 the rotary embedding leaves these two in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if rightcall_tree.kernel == "flex":
        mask = rightcall_tree.mask(sliding_window)
        made = _compiled_flex()(query, key, value, block_mask=mask, scale=scale, enable_gqa=heads != kv)
        return made.transpose(1, 2).contiguous(), None
    products = rightcall_tree.products(sliding_window)
    if heads != kv:
        key, value = (x.repeat_interleave(heads // kv, 1) for x in (key, value))
    out: Any = _TreeAttention.apply(query, key, value, scale, products)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are the tree's affair: the model makes none of its own."""
    return


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
