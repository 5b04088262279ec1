"""Log-probabilities of a batch under any causal language model, without waste.

Only positions that predict a trained token go through the head, and a prefix that all sequences
of the batch share runs once. Both are exact up to rounding; `check` proves it on the model in use.
Padding stands on the right, where causal attention never looks, so no mask is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rightcall.train.data import Batch
from rightcall.train.dpo import token_logps

_SHARE_FROM = 8
"""Shorter shared prefixes are not worth a forward pass of their own."""


@contextmanager
def _only(head: nn.Module, sequence: Tensor, position: Tensor) -> Iterator[None]:
    """Within this context `head` sees only the hidden states at these places, as one row. What the
    model does after its head (scaling, capping) stays as it is."""

    def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][sequence, position].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def batch_logps(model: nn.Module, core: Any, batch: Batch, *, share: bool) -> Tensor:
    """Log-probability of every trained token of the batch, in its order: [trained tokens].

    `model` is what is called (it may be wrapped for distributed training), `core` the model inside.
    With `share` the common prefix is computed once and its keys and values are repeated, which
    needs a model that keeps a differentiable cache.
    """
    ids, skip, cached = batch["input_ids"], 0, {}
    if share and batch["shared"] >= _SHARE_FROM:
        skip = batch["shared"]
        prefix = core(input_ids=ids[:1, :skip], use_cache=True, logits_to_keep=1)
        prefix.past_key_values.batch_repeat_interleave(len(ids))
        cached = {"past_key_values": prefix.past_key_values}
    with _only(core.get_output_embeddings(), batch["owner"], batch["predictor"] - skip):
        logits = model(input_ids=ids[:, skip:], use_cache=bool(cached), **cached).logits
    return token_logps(logits[0], batch["target"])


@torch.no_grad()
def check(core: Any, batch: Batch, *, share: bool) -> float:
    """Largest difference, in nats per token, between `batch_logps` and a plain forward pass that
    scores every position."""
    plain = core(input_ids=batch["input_ids"], use_cache=False).logits
    expected = token_logps(plain[batch["owner"], batch["predictor"]], batch["target"])
    found = batch_logps(core, core, batch, share=share)
    return float((found - expected).abs().max())
