"""Paired statistics as pure functions: numpy and scipy only, no files, no models.

Scores are one number per problem in [0, 1]: 0 or 1 for a greedy chain, a fraction where several
budgets or samples are averaged. Two models are compared on the *same* problems, so every test
works on differences within a problem. Every test is two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rightcall.errors import DataError

CONFIDENCE = 0.95
RESAMPLES = 10_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends in the unit of the estimate."""

    low: float
    high: float


def wilson_interval(successes: float, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion `p = successes / total`.

        (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    `successes` may be fractional: a mean of scores in [0, 1] has at most the variance p(1-p) of
    0/1 scores, so the interval is then conservative. No problems at all give [0, 1].

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927).

    >>> made = wilson_interval(8, 10)
    >>> round(made.low, 4), round(made.high, 4)
    (0.4902, 0.9433)
    """
    if total == 0:
        return Interval(0.0, 1.0)
    if not 0 <= successes <= total:
        raise DataError("successes must lie between 0 and the total", value=(successes, total))
    z = float(stats.norm.isf((1 - confidence) / 2))
    p = successes / total
    centre = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def _differences(a: ArrayLike, b: ArrayLike) -> Floats:
    """`b - a`, shape (n,). Sums of thirds and tenths are rounded so that equal sizes tie."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise DataError(
            "paired scores need two equally long, non-empty lists", value=(first.shape, second.shape)
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("scores must be finite numbers", remedy="Leave out problems without a score.")
    return np.round(second - first, 12)


def wilcoxon_p(a: ArrayLike, b: ArrayLike) -> float:
    """p-value of the Wilcoxon signed-rank test of scores `a`, `b`, each of shape (n,).

    The non-zero |b - a| are ranked (mid-ranks for ties); W⁺ is the sum of ranks of the positive
    ones. **Zeros are dropped** (Wilcoxon's own rule): problems where both models score the same
    say nothing about direction. No difference anywhere gives 1. As in `scipy.stats.wilcoxon` the
    p-value is exact for up to 13 differences (all sign flips) and for up to 50 of distinct size,
    else from the normal approximation with tie correction.

    With 0/1 scores all sizes tie, so for many problems this is McNemar's test without continuity
    correction, z = (wins - losses) / √(wins + losses); `mcnemar_p` is its exact counterpart.

    Source: F. Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1 (1945).
    """
    difference = _differences(a, b)
    moved = difference[difference != 0]
    if moved.size == 0:
        return 1.0
    if moved.size <= 13:
        return _sign_flip_p(moved)
    return float(stats.wilcoxon(moved, zero_method="wilcox", method="auto").pvalue)


def _sign_flip_p(moved: Floats) -> float:
    """What scipy's permutation method gives, without its loop over 2^m resamples in Python."""
    ranks = stats.rankdata(np.abs(moved))
    signs = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
    sums, observed = signs @ ranks, ranks[moved > 0].sum()
    tail = min((sums >= observed).mean(), (sums <= observed).mean())
    return min(1.0, 2 * float(tail))


def mcnemar_p(wins: int, losses: int) -> float:
    """p-value of the exact McNemar test: under no difference, wins ~ Binomial(wins + losses, ½).

        p = min(1, 2 P(X ≤ min(wins, losses)))

    `wins` counts problems only the second model solves, `losses` those only the first does.

    Source: Q. McNemar, Psychometrika 12 (1947), in its exact conditional form.

    >>> mcnemar_p(9, 1) == 2 * 11 / 2**10
    True
    """
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses, 0.5).pvalue)


def bootstrap_interval(
    a: ArrayLike,
    b: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
    method: Literal["percentile", "bca"] = "bca",
) -> Interval:
    """Bootstrap interval of the mean of `b - a`, problems resampled with replacement.

    A resample of n problems is a multinomial draw over the distinct differences, so memory is
    resamples x distinct values, whatever n. `percentile` takes the α/2 and 1 - α/2 quantiles of
    the resampled means; `bca` shifts them by the bias z₀ = Φ⁻¹(share of resampled means below the
    estimate, half of those equal to it) and the acceleration, for a mean
    Σ(dᵢ - d̄)³ / 6 (Σ(dᵢ - d̄)²)^{3/2}.

    If all differences are equal the interval has no width: the data hold no spread to resample.

    Source: B. Efron, Better bootstrap confidence intervals, JASA 82 (1987).
    """
    difference = _differences(a, b)
    values, counts = np.unique(difference, return_counts=True)
    mean = float(difference.mean())
    if values.size == 1:
        return Interval(mean, mean)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(difference.size, counts / difference.size, size=resamples)
    means = np.sort(drawn @ values / difference.size)
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        levels = _bca_levels(levels, means, mean, difference)
    low, high = np.quantile(means, levels)
    return Interval(float(low), float(high))


def _bca_levels(levels: Floats, means: Floats, mean: float, difference: Floats) -> Floats:
    centred = difference - mean
    acceleration = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    # Rounding error must not decide which resampled means equal the estimate.
    step = 1e-12
    below = (means < mean - step).mean() + (np.abs(means - mean) <= step).mean() / 2
    edge = 1 / (2 * means.size)
    bias = stats.norm.ppf(min(max(float(below), edge), 1 - edge))
    z = bias + stats.norm.ppf(levels)
    return np.asarray(stats.norm.cdf(bias + z / (1 - acceleration * z)), dtype=np.float64)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of a family of p-values, by name.

    With p₍₁₎ ≤ … ≤ p₍ₘ₎ the adjusted value is max over j ≤ i of min(1, (m - j + 1) p₍ⱼ₎): it
    bounds the chance of any false finding in the family, whatever the dependence.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6
    (1979).

    >>> holm({"fol": 0.01, "math": 0.04})
    {'fol': 0.02, 'math': 0.04}
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def problems_needed(gain: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Problems needed for McNemar's test to see a difference of `gain` in accuracy.

        n = (z_{α/2} √ψ + z_β √(ψ - δ²))² / δ²

    with δ = |gain| and ψ = `discordance`, the share of problems that exactly one of the models
    solves. ψ can be no smaller than δ; a smaller one is raised to it.

    Source: R. J. Connor, Sample size for testing differences in proportions for the paired-sample
    design, Biometrics 43 (1987).

    >>> problems_needed(gain=0.05, discordance=0.2)
    626
    """
    delta = abs(gain)
    if not 0 < delta <= 1 or not 0 <= discordance <= 1:
        raise DataError(
            "gain and discordance are shares of problems",
            value=(gain, discordance),
            remedy="Give a gain between 0 and 1, not 0 itself.",
        )
    psi = max(discordance, delta)
    z_alpha, z_beta = float(stats.norm.isf(alpha / 2)), float(stats.norm.ppf(power))
    return math.ceil((z_alpha * math.sqrt(psi) + z_beta * math.sqrt(psi - delta**2)) ** 2 / delta**2)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of `k` samples is right.

        1 - C(n - c, k) / C(n, k)  =  1 - Π_{i = n-c+1}^{n} (1 - k/i)

    for n `samples` of a problem, c of them `correct`; needs k ≤ n.

    Source: Chen et al., Evaluating large language models trained on code, arXiv 2107.03374, eq. 1.

    >>> round(pass_at_k(samples=4, correct=1, k=2), 12)
    0.5
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise DataError("pass@k needs 1 ≤ k ≤ samples", value=(samples, correct, k))
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(samples - correct + 1, samples + 1))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan
