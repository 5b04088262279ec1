"""Tokens drawn from logits: each row by its own temperature, nucleus and uniform number."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uniforms(seeds: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
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
    """The first index whose cumulative weight exceeds `uniform` of the whole: never one of weight 0."""
    reached = weights.cumsum(-1, dtype=torch.float64)
    target = uniform.to(reached.dtype)[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, target, right=True)[:, 0].clamp_(max=weights.shape[-1] - 1)


def forbid(logits: Tensor, rows: NDArray[np.int64], allowed: NDArray[np.bool_]) -> Tensor:
    """The logits with minus infinity at every token that `allowed` [len(rows), vocabulary] denies to
    one of `rows`; other rows as they were."""
    hidden = torch.from_numpy(~allowed).to(logits.device)
    where = torch.from_numpy(rows).to(logits.device)
    return logits.index_copy(0, where, logits[where].masked_fill(hidden, float("-inf")))
