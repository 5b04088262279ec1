"""What a pair set is made of, to be read before training on it."""

from __future__ import annotations

import re
import statistics
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from rightcall.chain import Frozen
from rightcall.errors import FailureKind
from rightcall.pairs.pair import Basis, PreferencePair, identity, words_of_model
from rightcall.spill import Seen

if TYPE_CHECKING:
    from rich.table import Table

FUNCTION_FAILED = frozenset({FailureKind.TIME_LIMIT, FailureKind.MEMORY_LIMIT, FailureKind.DIED})
"""Failures that may be the function's fault rather than the model's: worth a look before training."""


class Spread(Frozen):
    """A length on both sides of the pairs."""

    chosen_mean: float
    rejected_mean: float
    chosen_median: float
    rejected_median: float
    maximum: int
    chosen_total: int
    rejected_total: int
    chosen_longer: float
    """Share of pairs whose chosen side is longer; ties count half. Far from 0.5: a length bias that
    DPO will learn."""


class PairStatistics(Frozen):
    """What a pair set is made of, to be read before training on it."""

    pairs: int
    problems: int
    strategies: dict[str, int]
    sources: dict[str, int]
    """Counts of `chosen source > rejected source`."""
    errors: dict[str, int]
    """By class of the rejected side."""
    difficulties: dict[int, int]
    bases: dict[str, int]
    """By what the preference rests on."""
    value_gap: float | None
    """Mean of chosen minus rejected value, where both are counted; None if that is nowhere so."""
    value_gaps: dict[str, float]
    """The same by basis."""
    value_counts: tuple[float, float]
    """Mean number of chains that the values of the chosen and of the rejected side are shares of."""
    shared: float
    """Share of the sides' characters, prompts included, that stand in messages which another side of
    the set has after the same beginning: what training computes again and again, or once as a tree."""
    characters: Spread | None
    """Of the model's own words; None for an empty set, as below."""
    turns: Spread | None
    tokens: Spread | None
    """Sampled tokens, over the pairs where the backend told them."""
    length_correlation: float | None
    """Pearson's r of the two sides' characters; None where it is not defined."""
    duplicates: int
    """Pairs whose texts repeat an earlier one's."""
    trivial: dict[str, int]
    """`empty`: nothing was replied. `no_call`: a reply without a call. `last_word`: the two sides
    are one word apart, at the very end."""
    function_failed: int
    """Pairs whose rejected side holds a time limit, a memory limit or a dead worker: perhaps the
    function's failure rather than the model's."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Why other chains and pairs are not here, as counted by `make_pairs`."""

    def table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(title=f"{self.pairs} preference pairs of {self.problems} problems")
        table.add_column("what")
        table.add_column("value", justify="right")
        for name in (
            "strategies", "bases", "sources", "errors", "difficulties", "trivial", "dropped",
        ):  # fmt: skip
            for key, count in getattr(self, name).items():
                table.add_row(f"{name}: {key}", str(count))
        for name in ("characters", "turns", "tokens"):
            spread: Spread | None = getattr(self, name)
            if spread is not None:
                table.add_row(
                    f"{name}, chosen / rejected (mean)",
                    f"{spread.chosen_mean:.1f} / {spread.rejected_mean:.1f}",
                )
                table.add_row(f"{name}: chosen is longer", f"{spread.chosen_longer:.0%}")
        for basis, gap in self.value_gaps.items():
            table.add_row(f"mean value gap: {basis}", f"{gap:.2f}")
        table.add_row("text shared between sides", f"{self.shared:.0%}")
        table.add_row("duplicates", str(self.duplicates))
        table.add_row("the function failed", str(self.function_failed))
        return table


def pair_statistics(
    pairs: Iterable[PreferencePair], dropped: Counter[str] | None = None
) -> PairStatistics:
    """Statistics of a pair set, in one pass."""
    strategies: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    difficulties: Counter[int] = Counter()
    bases: Counter[str] = Counter()
    gaps: dict[str, array[float]] = defaultdict(lambda: array("d"))
    counted = [0, 0]
    shared = _Shared()
    trivial: Counter[str] = Counter()
    lengths: dict[str, _Lengths] = defaultdict(_Lengths)
    problems, texts = Seen(), Seen()
    count = failed = 0
    for pair in pairs:
        count += 1
        strategies[pair.strategy] += 1
        sources[f"{pair.chosen_source} > {pair.rejected_source}"] += 1
        errors[pair.rejected_error] += 1
        difficulties[pair.difficulty] += 1
        bases[pair.basis.value] += 1
        counted[0] += pair.chosen_count
        counted[1] += pair.rejected_count
        shared.add(pair)
        if (gap := pair.value_gap) is not None:
            gaps[pair.basis.value].append(gap)
        trivial.update(_trivial(pair))
        failed += bool(pair.failures & FUNCTION_FAILED)
        problems.add(hash((pair.task, pair.problem_id)))
        texts.add(hash(identity(pair)))
        for unit, both in _lengths(pair).items():
            lengths[unit].add(*both)
    return PairStatistics(
        pairs=count,
        problems=len(problems),
        strategies=dict(strategies.most_common()),
        sources=dict(sources.most_common()),
        errors=dict(errors.most_common()),
        difficulties=dict(sorted(difficulties.items())),
        bases=dict(bases.most_common()),
        value_gap=_mean([gap for some in gaps.values() for gap in some]),
        value_gaps={basis: statistics.fmean(some) for basis, some in sorted(gaps.items())},
        value_counts=(counted[0] / max(1, count), counted[1] / max(1, count)),
        shared=shared.share,
        characters=_spread(lengths["characters"]),
        turns=_spread(lengths["turns"]),
        tokens=_spread(lengths["tokens"]),
        length_correlation=_correlation(lengths["characters"]),
        duplicates=count - len(texts),
        trivial=dict(trivial.most_common()),
        function_failed=failed,
        dropped=dict(dropped or {}),
    )


class _Shared:
    """Counts the characters of a set's sides: all of them, and each beginning once."""

    def __init__(self) -> None:
        self._seen = Seen()
        self._all = self._once = 0

    def add(self, pair: PreferencePair) -> None:
        for side in (pair.chosen, pair.rejected):
            beginning = 0
            for message in (*pair.prompt, *side):
                length = len(message["content"])
                beginning = hash((beginning, message["role"], message["content"]))
                self._all += length
                self._once += length if self._seen.add(beginning) else 0

    @property
    def share(self) -> float:
        return 1 - self._once / self._all if self._all else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


class _Lengths:
    """Lengths of both sides, pair by pair, in a few bytes each."""

    def __init__(self) -> None:
        self.chosen, self.rejected = array("Q"), array("Q")

    def add(self, chosen: int, rejected: int) -> None:
        self.chosen.append(chosen)
        self.rejected.append(rejected)


def _lengths(pair: PreferencePair) -> dict[str, tuple[int, int]]:
    chosen, rejected = words_of_model(pair.chosen), words_of_model(pair.rejected)
    made = {
        "characters": (sum(map(len, chosen)), sum(map(len, rejected))),
        "turns": (len(chosen), len(rejected)),
    }
    if all(pair.chosen_ids) and all(pair.rejected_ids) and pair.chosen_ids:
        made["tokens"] = (
            sum(len(ids or ()) for ids in pair.chosen_ids),
            sum(len(ids or ()) for ids in pair.rejected_ids),
        )
    return made


def _trivial(pair: PreferencePair) -> Iterator[str]:
    chosen, rejected = words_of_model(pair.chosen), words_of_model(pair.rejected)
    if not "".join(rejected).strip():
        yield "empty"
    elif FailureKind.NO_CALL in pair.failures:
        yield "no_call"
    if len(chosen) > 1 and chosen[:-1] == rejected[:-1]:
        good, bad = (re.findall(r"\w+", turn) for turn in (chosen[-1], rejected[-1]))
        if good[:-1] == bad[:-1]:
            yield "last_word"


def _spread(lengths: _Lengths) -> Spread | None:
    chosen, rejected = lengths.chosen, lengths.rejected
    if not chosen:
        return None
    longer = ((a > b) + (a == b) / 2 for a, b in zip(chosen, rejected, strict=True))
    return Spread(
        chosen_mean=statistics.fmean(chosen),
        rejected_mean=statistics.fmean(rejected),
        chosen_median=statistics.median(chosen),
        rejected_median=statistics.median(rejected),
        maximum=max(max(chosen), max(rejected)),
        chosen_total=sum(chosen),
        rejected_total=sum(rejected),
        chosen_longer=statistics.fmean(longer),
    )


def _correlation(lengths: _Lengths) -> float | None:
    if len({*lengths.chosen}) < 2 or len({*lengths.rejected}) < 2:
        return None
    return statistics.correlation(lengths.chosen, lengths.rejected)


# --- comparing sets -----------------------------------------------------------------------------


def comparison_table(sets: Mapping[str, PairStatistics]) -> Table:
    """Sets of pairs side by side, one column each."""
    from rich import box
    from rich.table import Table

    table = Table(title="Preference pairs by strategy", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in sets:
        table.add_column(name, justify="right")
    columns = [_column(found) for found in sets.values()]
    for row in dict.fromkeys(key for column in columns for key in column):
        table.add_row(row, *(column.get(row, "0") for column in columns))
    return table


def _column(found: PairStatistics) -> dict[str, str]:
    gap = "-" if found.value_gap is None else f"{found.value_gap:.2f}"
    counts = " / ".join(f"{count:.1f}" for count in found.value_counts)
    return {
        "pairs": str(found.pairs),
        "problems": str(found.problems),
        **{f"rests on: {basis.value}": str(found.bases.get(basis.value, 0)) for basis in Basis},
        "mean value gap": gap,
        "chains counted, chosen / rejected (mean)": counts,
        "trained tokens, chosen": _total(found.tokens, "chosen_total"),
        "trained tokens, rejected": _total(found.tokens, "rejected_total"),
        "tokens a pair, chosen / rejected (mean)": _means(found.tokens),
        "turns, chosen / rejected (mean)": _means(found.turns),
        "characters, chosen / rejected (mean)": _means(found.characters),
        "chosen is longer": "-" if not found.characters else f"{found.characters.chosen_longer:.0%}",
        "text shared between sides": f"{found.shared:.0%}",
        "trivial": str(sum(found.trivial.values())),
        "the function failed": str(found.function_failed),
        "classes of error": str(len(found.errors)),
        **{f"error: {name}": str(count) for name, count in found.errors.items()},
    }


def _total(spread: Spread | None, side: str) -> str:
    return "-" if spread is None else f"{getattr(spread, side):,}"


def _means(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.chosen_mean:.1f} / {spread.rejected_mean:.1f}"
