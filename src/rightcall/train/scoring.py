"""Log-probabilities of a batch under any causal language model, without waste.

Only positions that predict a trained token go through the head, each once, in chunks where the
vocabulary is large. A tree goes through the model as one line whose attention follows the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rightcall.train.attention import ATTENTION, CannotPack
from rightcall.train.batches import Batch
from rightcall.train.dpo import token_logps

MAX_LOGITS = 1 << 28
"""Logits (terms times vocabulary) that are held at once: a gigabyte in float32."""


@dataclass(frozen=True)
class Tolerance:
    """How far two orders of the same computation may lie apart, in nats. Rounding is noise: single
    tokens may be far off, but the mean of many may not."""

    token: float
    """At one token."""
    drift: float
    """In the mean over a sequence, however many tokens it has."""
    noise: float
    """What is added to `drift`, over the root of their number."""

    def excess(self, error: Tensor, tokens: Tensor) -> float:
        """How many times too far sequences are off, as root mean square or, one alone, as a fourth of
        it: above 1 is too much. `error` [sequences]: differences of their log-probabilities; `tokens`
        [sequences]: their trained tokens."""
        off = error.abs() / tokens / (self.drift + self.noise / tokens.sqrt())
        return float(torch.maximum(off.square().mean().sqrt(), off.max() / 4))


TOLERANCE = {torch.float32: Tolerance(1e-3, 1e-3, 0.0), torch.bfloat16: Tolerance(0.5, 0.02, 0.1)}
"""By the precision of the computation."""

_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


@contextmanager
def _selecting(
    head: nn.Module, line: Tensor, position: Tensor, first_only: bool
) -> Iterator[list[Tensor]]:
    """Within this context `head` sees only the hidden states at these places, as one row, or only the
    first of them. The list receives all of them. What the model does after its head (scaling, capping)
    stays as it is."""
    seen: list[Tensor] = []

    def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(args[0][line, position])
        return (seen[0][None, :1] if first_only else seen[0][None], *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield seen
    finally:
        handle.remove()


def term_logps(model: nn.Module, core: Any, batch: Batch) -> Tensor:
    """Log-probability of every term of the batch: [terms].

    `model` is what is called (it may be wrapped for distributed training), `core` the model inside.
    """
    options: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if batch["tree"] is not None:
        options |= {"position_ids": batch["position_ids"], "rightcall_tree": batch["tree"]}
    head, targets = core.get_output_embeddings(), batch["target"]
    chunk = max(1, MAX_LOGITS // head.weight.shape[0])
    chunked = len(targets) > chunk
    with _selecting(head, batch["line"], batch["predictor"], chunked) as hidden:
        logits = model(**options).logits
    if not chunked:
        return token_logps(logits.squeeze(0), targets)
    _same_after_head(logits[0], head(hidden[0][:1]))
    parts = zip(torch.split(hidden[0], chunk), torch.split(targets, chunk), strict=True)
    scored = (checkpoint(_score, head, h, t, use_reentrant=False) for h, t in parts)
    return torch.cat(list(scored))


def _score(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return token_logps(head(hidden), targets)


def _same_after_head(whole: Tensor, bare: Tensor) -> None:
    if not torch.allclose(whole.float(), bare.float(), rtol=1e-2, atol=1e-3):
        raise CannotPack(
            "this model changes its logits after its head, so they cannot be scored in chunks",
            remedy="Use smaller batches.",
        )


def entry_logps(model: nn.Module, core: Any, batch: Batch) -> Tensor:
    """Log-probability of every trained token of every sequence, in their order: [entries]."""
    return term_logps(model, core, batch)[batch["term"]]


@contextmanager
def tree_attention(core: Any) -> Iterator[None]:
    """Within this context the model attends along trees."""
    before = core.config._attn_implementation
    core.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        core.set_attn_implementation(before)


@contextmanager
def in_float32(core: Any) -> Iterator[None]:
    """Within this context a model in half precision, or of 4-bit weights, computes in float32: the
    weights of one module at a time are widened while it runs."""
    modules = [m for m in core.modules() if any(map(_is_half, m.parameters(recurse=False)))]
    quantized = [
        m for m in core.modules() if isinstance(getattr(m, "compute_dtype", None), torch.dtype)
    ]
    before = core.config._attn_implementation, [m.compute_dtype for m in quantized]
    kept: dict[nn.Parameter, Tensor] = {}

    def widen(module: nn.Module, _: Any) -> None:
        for parameter in filter(_is_half, module.parameters(recurse=False)):
            kept[parameter] = parameter.data
            parameter.data = parameter.data.float()

    def restore(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter in kept:
                parameter.data = kept.pop(parameter)

    handles = [m.register_forward_pre_hook(widen) for m in modules]
    handles += [m.register_forward_hook(restore, always_call=True) for m in modules]
    for module in quantized:
        module.compute_dtype = torch.float32
    if "flash" in before[0]:  # it knows no float32
        core.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, dtype in zip(quantized, before[1], strict=True):
            module.compute_dtype = dtype
        core.set_attn_implementation(before[0])


def _is_half(parameter: nn.Parameter) -> bool:
    return parameter.dtype in (torch.bfloat16, torch.float16)


def why_not_packed(core: Any) -> str | None:
    """Why this model cannot run on trees, as far as its parts tell; None if nothing speaks against
    it."""
    config = core.config.get_text_config()
    declared: Any = getattr(config, "layer_types", None)
    kinds = {str(kind) for kind in declared or ()} - _ATTENTION_LAYERS
    if kinds:
        return f"it has layers of another kind: {', '.join(sorted(kinds))}"
    dropping = {type(m).__name__ for m in core.modules() if isinstance(m, nn.Dropout) and m.p > 0}
    if dropping or float(getattr(config, "attention_dropout", 0.0)):
        return "it has dropout, which tokens that are shared cannot have"
    return None


@torch.no_grad()
def try_tree(core: Any, batch: Batch) -> Tensor:
    """`entry_logps` of a tree, or `CannotPack` if the model's layers do not all attend along it."""
    assert batch["tree"] is not None
    made = entry_logps(core, core, batch)
    layers = core.config.get_text_config().num_hidden_layers
    if len(batch["tree"].layers) != layers:
        others = layers - len(batch["tree"].layers)
        raise CannotPack(f"{others} of its {layers} layers have no attention of the usual kind")
    return made


@torch.no_grad()
def head_error(core: Any, batch: Batch) -> float:
    """Largest difference, in nats per token, between `entry_logps` and a plain forward pass that
    scores every position."""
    plain = core(input_ids=batch["input_ids"], use_cache=False).logits
    expected = token_logps(plain[batch["line"], batch["predictor"]], batch["target"])
    return float((term_logps(core, core, batch) - expected).abs().max())


@torch.no_grad()
def padded_entries(core: Any, batches: Sequence[Batch]) -> Tensor:
    """`entry_logps` of several padded batches, a row each, in the order of one batch of all of them:
    all chosen, then all rejected."""
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for batch in batches:
        entries = entry_logps(core, core, batch)
        for side, wanted in zip(sides, (batch["chosen"], batch["rejected"]), strict=True):
            side += [entries[batch["owner"] == sequence] for sequence in wanted]
    return torch.cat([*sides[0], *sides[1]])
