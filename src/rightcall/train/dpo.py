"""Losses as pure functions of log-probabilities. Units: natural logarithms (nats).

Notation of "Direct Preference Optimization" (Rafailov et al., 2023, arXiv 2305.18290): for a prompt
x with completions y_w (chosen) and y_l (rejected), the policy π and the frozen reference π_ref,

    log ratio of y  =  log π(y|x) − log π_ref(y|x)
    margin          =  log ratio of y_w − log ratio of y_l
    reward of y     =  β · log ratio of y                                            (eq. 5, up to Z(x))

The log-probability of a completion is the sum over its *trained* tokens: the model's own words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_CACHED = 1 << 18
"""Logits that a processor works on at a time: a megabyte, which stays in its cache."""


def _at_once(logits: Tensor) -> int:
    """Rows of logits that are worked on together: all of them, but on a CPU."""
    return len(logits) if logits.device.type != "cpu" else max(1, _CACHED // logits.shape[-1])


class _TokenLogps(torch.autograd.Function):
    """Log-softmax at the targets. The gradient overwrites the logits: nothing else reads them, and a
    second array as large as the vocabulary times all tokens is what memory is short of."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        rows = _at_once(logits)
        total = torch.cat([torch.logsumexp(part.float(), -1) for part in torch.split(logits, rows)])
        ctx.save_for_backward(logits, targets, total)
        return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1).float() - total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        logits, targets, total = ctx.saved_tensors
        made = logits.float() if logits.dtype != torch.float32 else logits.detach()
        rows = _at_once(logits)
        for part, whole, by in zip(*(torch.split(t, rows) for t in (made, total, grad)), strict=True):
            part.sub_(whole.unsqueeze(-1)).exp_().mul_(-by.unsqueeze(-1))
        made.scatter_add_(-1, targets.unsqueeze(-1), grad.unsqueeze(-1))
        return made.to(logits.dtype), None


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target under its own row of logits, in float32.

    `logits` [tokens, vocabulary], `targets` [tokens] of ids → [tokens]. The backward pass uses the
    memory of `logits`.
    """
    made: Tensor = _TokenLogps.apply(logits, targets)  # type: ignore[no-untyped-call]
    return made


def sequence_logps(logps: Tensor, owner: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
    """Sums and counts of tokens per sequence.

    `logps` [tokens], `owner` [tokens] says which sequence a token belongs to → two of [sequences]:
    log-probability of each sequence, and its number of tokens.
    """
    totals = logps.new_zeros(sequences).index_add(0, owner, logps)
    counts = logps.new_zeros(sequences).index_add(0, owner, torch.ones_like(logps))
    return totals, counts


def log_ratio(policy: Tensor, reference: Tensor, tokens: Tensor | None = None) -> Tensor:
    """log π(y|x) − log π_ref(y|x), per token if the numbers of tokens are given. All [sequences]."""
    ratio = policy - reference
    return ratio if tokens is None else ratio / tokens


def sigmoid_loss(margin: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """−log σ(β · margin): eq. 7 of Rafailov et al. (2023). [pairs] → [pairs], as all of them."""
    del smoothing
    return -logsigmoid(beta * margin)


def ipo_loss(margin: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """(margin − 1/2β)²: eq. 17 of Azar et al., "A General Theoretical Paradigm to Understand Learning
    from Human Preferences" (2023, arXiv 2310.12036), whose τ is β. The square grows with the length of
    a completion: `length_normalised` is how its authors report it."""
    del smoothing
    return (margin - 1 / (2 * beta)) ** 2


def hinge_loss(margin: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """max(0, 1 − β · margin): Zhao et al., "SLiC-HF" (2023, arXiv 2305.10425), with the margin of DPO
    as in eq. 11 of Liu et al. (2023, arXiv 2309.06657)."""
    del smoothing
    return torch.relu(1 - beta * margin)


def robust_loss(margin: Tensor, beta: float, smoothing: float) -> Tensor:
    """Unbiased when a share ε (`smoothing`) of the preferences is the wrong way round:

        (−(1−ε) log σ(β · margin) + ε log σ(−β · margin)) / (1 − 2ε)

    eq. 12 of Chowdhury et al., "Provably Robust DPO" (2024, arXiv 2403.00409).
    """
    kept, flipped = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    return ((1 - smoothing) * kept - smoothing * flipped) / (1 - 2 * smoothing)


Loss = Callable[[Tensor, float, float], Tensor]

LOSSES: dict[str, Loss] = {
    "sigmoid": sigmoid_loss,
    "ipo": ipo_loss,
    "hinge": hinge_loss,
    "robust": robust_loss,
}
"""Name → loss of each pair, from its margin [pairs], β and ε. To add one: a function and a line."""
