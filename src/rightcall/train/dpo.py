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

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target under its own row of logits, in float32.

    `logits` [tokens, vocabulary], `targets` [tokens] of ids → [tokens].
    """
    logits = logits.float()
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return picked - torch.logsumexp(logits, dim=-1)


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


def sigmoid_loss(margin: Tensor, beta: float) -> Tensor:
    """−log σ(β · margin): eq. 7 of Rafailov et al. (2023), for each pair. [pairs] → [pairs]."""
    return -logsigmoid(beta * margin)


LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {"sigmoid": sigmoid_loss}
"""Name → loss of each pair, from its margin [pairs] and β. To add one: a function and a line."""
