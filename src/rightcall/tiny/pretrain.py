"""Pretraining of the tiny models: conversations in, a Llama checkpoint out.

Every row of a task begins with the same system turn. Its keys and values are computed once per
batch and shared by all rows, so the functions' descriptions cost little; attending to them still
costs, so most of pretraining may leave them out. Only the model's own tokens are scored, the same
mask that SFT and DPO use. Where the processor multiplies bfloat16 matrices, the model works in
bfloat16, and its weights are kept in float32.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rightcall.rendering import Rendered


@dataclass(frozen=True)
class Shape:
    """The size of a tiny Llama."""

    hidden: int
    layers: int
    heads: int
    intermediate: int


@dataclass
class Progress:
    """What a run has seen, for the log and the model card."""

    tokens: int = 0
    """Shared system turns not counted."""
    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """An untrained Llama for this tokenizer, float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return model


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by a Newton-Schulz iteration (Jordan et al., 2024).

    torch.optim.Muon iterates in bfloat16, which processors without matrix units emulate slowly: here
    the caller says in what. Updates are scaled to the size of AdamW's (Liu et al., arXiv 2502.16982,
    eq. 4).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        iterate_in: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self._dtype = iterate_in

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                buffer = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                towards = parameter.grad.lerp(buffer, group["momentum"])
                direction = orthogonal(towards.to(self._dtype)).to(parameter.dtype)
                scale = 0.2 * math.sqrt(max(parameter.shape))
                parameter.add_(direction, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end in about [0.7, 1.2]."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    made: Tensor = x.T if tall else x
    return made


def working_dtype() -> torch.dtype:
    """bfloat16 where the processor has units for it (AMX), which multiply ten times as fast."""
    fast = torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def pretrain(
    model: LlamaForCausalLM,
    rows: Sequence[Rendered],
    tokens: int,
    *,
    rate: float = 3e-3,
    final: float = 0.0,
    batch_tokens: int = 8192,
    seed: int = 0,
    name: str = "",
    log: int = 50,
    with_system: bool = True,
    dtype: torch.dtype | None = None,
) -> Progress:
    """Train in place for `tokens` tokens; rows repeat if there are fewer.

    Hidden matrices by Muon, the rest by AdamW; `rate` is the peak learning rate of both, which
    falls linearly to `final` times itself. Without the system turn rows begin behind it. The model
    works in `dtype` (`working_dtype()` if None), its weights are kept and returned in float32.
    """
    dtype = dtype or working_dtype()
    kept = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    model.to(dtype)  # type: ignore[arg-type]
    model.set_attn_implementation(WIDE_ATTENTION)
    working = dict(model.named_parameters())
    hidden = [name for name, p in kept.items() if p.ndim == 2 and "embed" not in name]
    rest = [name for name in kept if name not in hidden]
    optimizers: list[torch.optim.Optimizer] = [
        Muon([kept[name] for name in hidden], rate, iterate_in=dtype),
        torch.optim.AdamW([kept[name] for name in rest], lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    progress = Progress()
    started = time.monotonic()
    model.train()
    for system, batch in _batches(rows, batch_tokens, random.Random(seed)):
        warm = min(1.0, (progress.steps + 1) / 40)
        scale = warm * (1 + (final - 1) * min(1.0, progress.tokens / tokens))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        loss = batch_loss(model, system, batch, with_system=with_system)
        loss.backward()  # type: ignore[no-untyped-call]
        for key, parameter in working.items():
            assert parameter.grad is not None
            kept[key].grad = parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(kept.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            for key, parameter in working.items():
                parameter.copy_(kept[key])
        progress.tokens += sum(len(row.ids) - len(system) for row in batch)
        progress.steps += 1
        progress.losses.append(loss.item())
        progress.seconds = time.monotonic() - started
        if progress.steps % log == 0:
            recent = progress.losses[-log:]
            print(
                f"{name}: step {progress.steps}, {progress.tokens / 1e6:.2f}M tokens, "
                f"loss {sum(recent) / len(recent):.4f}, "
                f"{progress.tokens / progress.seconds:.0f} tokens/s",
                flush=True,
            )
        if progress.tokens >= tokens:
            break
    model.to(torch.float32)  # type: ignore[arg-type]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(kept[key])
    model.set_attn_implementation("sdpa")
    model.train(False)
    return progress


def _wide_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """torch's attention in float32: on the CPU its backward is slower in bfloat16."""
    made, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
    return made.to(query.dtype), None


WIDE_ATTENTION = "rightcall_wide"
AttentionInterface.register(WIDE_ATTENTION, _wide_attention)
AttentionMaskInterface.register(WIDE_ATTENTION, sdpa_mask)


def batch_loss(
    model: LlamaForCausalLM,
    system: Sequence[int],
    rows: Sequence[Rendered],
    *,
    with_system: bool = True,
) -> Tensor:
    """Mean cross-entropy over the trained tokens of rows that all begin with `system`, in float32."""
    start, size = len(system), len(rows)
    tails = [row.ids[start:] for row in rows]
    width = max(map(len, tails))
    ids = torch.full((size, width), model.config.pad_token_id or 0)
    trained = torch.zeros((size, width), dtype=torch.bool)
    for index, (row, tail) in enumerate(zip(rows, tails, strict=True)):
        ids[index, : len(tail)] = torch.tensor(tail)
        trained[index, : len(tail)] = torch.tensor(row.trained[start:])
    # Padding is on the right, where a causal mask already hides it from the trained tokens.
    behind = _behind(model, system, size, width) if with_system else {"use_cache": False}
    states = model.model(input_ids=ids, **behind).last_hidden_state
    scored = trained[:, 1:]
    logits = model.lm_head(states[:, :-1][scored]).float()
    return functional.cross_entropy(logits, ids[:, 1:][scored])


def _behind(model: LlamaForCausalLM, system: Sequence[int], size: int, width: int) -> dict[str, Any]:
    """What the model is told so that rows of `width` tokens stand behind the one system turn."""
    start = len(system)
    shared = model.model(input_ids=torch.tensor([list(system)]), use_cache=True).past_key_values
    cache = DynamicCache()
    for number, layer in enumerate(shared.layers):
        cache.update(layer.keys.expand(size, -1, -1, -1), layer.values.expand(size, -1, -1, -1), number)
    causal = torch.ones(width, start + width, dtype=torch.bool).tril(start)
    mask = torch.zeros(causal.shape).masked_fill(~causal, float("-inf"))
    return {
        "past_key_values": cache,
        "attention_mask": mask[None, None].expand(size, 1, -1, -1),
        "position_ids": torch.arange(start, start + width)[None].expand(size, -1),
        "use_cache": True,
    }


def _batches(
    rows: Sequence[Rendered], batch_tokens: int, rng: random.Random
) -> Iterator[tuple[tuple[int, ...], list[Rendered]]]:
    """Endless batches of one task each, of rows of similar length, in random order."""
    groups: dict[tuple[int, ...], list[Rendered]] = {}
    for row in rows:
        groups.setdefault(system_turn(row), []).append(row)
    while True:
        batches: list[tuple[tuple[int, ...], list[Rendered]]] = []
        for system, members in groups.items():
            order = sorted(members, key=lambda row: len(row.ids) + rng.random() * 24)
            batch: list[Rendered] = []
            for row in order:
                if batch and (len(row.ids) - len(system)) * (len(batch) + 1) > batch_tokens:
                    batches.append((system, batch))
                    batch = []
                batch.append(row)
            batches.append((system, batch))
        rng.shuffle(batches)
        yield from batches


def system_turn(row: Rendered) -> tuple[int, ...]:
    """The ids of the first turn: the ones up to and including the first stop token."""
    return row.ids[: row.ids.index(_stop_id(row)) + 1]


def _stop_id(row: Rendered) -> int:
    """A conversation ends with the stop token of the model's last turn."""
    return row.ids[-1]
