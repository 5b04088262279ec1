"""A share and how sure of it one can be."""

from __future__ import annotations

from collections.abc import Sequence

from rightcall.chain import Frozen
from rightcall.stats import mean, wilson_interval


class Rate(Frozen):
    """A share of problems or chains with Wilson's 95% interval."""

    value: float
    low: float
    high: float
    total: int
    """Problems or chains it was taken over."""

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def rate(scores: Sequence[float]) -> Rate:
    """The mean of scores in [0, 1], one a problem or chain; of none 0, with the interval [0, 1]."""
    interval = wilson_interval(sum(scores), len(scores))
    value = mean(scores) if scores else 0.0
    return Rate(value=value, low=interval.low, high=interval.high, total=len(scores))
