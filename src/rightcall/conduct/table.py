"""How the functions were used, a figure of all models a row: for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from rightcall.rate import Rate

if TYPE_CHECKING:
    from rightcall.evaluate import Evaluation

Cell = Rate | str | None
"""A share of chains with its interval, anything else as text, or nothing known."""


class Row(NamedTuple):
    """One figure of several models."""

    label: str
    cells: tuple[Cell, ...]
    """In the order of the models."""


def usage_rows(evaluations: Iterable[Evaluation]) -> list[Row]:
    """Coverage, unused results, early answers, repetitions, the task's own measures, and what became of
    answers when an observation was replaced. Rows of which nothing is known are left out."""
    models = list(evaluations)
    measures = dict.fromkeys(name for one in models for name in one.measures)
    rows = [_row(models, label, figure) for label, figure in _CONDUCT.items()]
    rows += [_row(models, name.replace("_", " "), _measure(name)) for name in measures]
    rows += [_row(models, label, figure) for label, figure in _COUNTERFACTUAL.items()]
    return [row for row in rows if any(cell is not None for cell in row.cells)]


def function_rows(evaluations: Iterable[Evaluation]) -> list[Row]:
    """Of each function its share of all calls, and how often it failed."""
    models = list(evaluations)
    names = dict.fromkeys(name for one in models if one.conduct for name in one.conduct.functions)
    return [_row(models, name, _use(name)) for name in names]


def _row(models: list[Evaluation], label: str, figure: Callable[[Evaluation], Cell]) -> Row:
    return Row(label, tuple(figure(one) for one in models))


def _coverage(one: Evaluation) -> Cell:
    made = one.conduct
    if made is None or made.coverage is None:
        return None
    return f"{sum(use.calls > 0 for use in made.functions.values())} of {len(made.functions)}"


def _unused(one: Evaluation) -> Cell:
    made = one.conduct
    if made is None or made.unused_results is None:
        return None
    return f"{made.unused_results:.1%} of {made.results}"


def _measure(name: str) -> Callable[[Evaluation], Cell]:
    return lambda one: f"{one.measures[name]:.1%}" if name in one.measures else None


def _use(name: str) -> Callable[[Evaluation], Cell]:
    def shown(one: Evaluation) -> Cell:
        use = one.conduct.functions.get(name) if one.conduct else None
        if use is None:
            return None
        failed = f", {use.failure_rate:.1%} failed" if use.failed else ""
        return f"{use.share:.1%}{failed}"

    return shown


def _probed(one: Evaluation) -> Cell:
    made = one.counterfactual
    return f"{made.probed} of {made.looked_at}" if made else None


def _share(name: str) -> Callable[[Evaluation], Cell]:
    return lambda one: getattr(one.counterfactual, name) if one.counterfactual else None


_CONDUCT: Mapping[str, Callable[[Evaluation], Cell]] = {
    "functions called at least once": _coverage,
    "results used by nothing": _unused,
    "answered before the evidence": lambda one: one.conduct.early_answers if one.conduct else None,
    "chains that repeat a call": lambda one: one.conduct.repeating_chains if one.conduct else None,
}
_COUNTERFACTUAL: Mapping[str, Callable[[Evaluation], Cell]] = {
    "an observation replaced: chains probed": _probed,
    "the answer follows it": _share("follows"),
    "the answer is the one before": _share("unchanged"),
    "another answer, or none": _share("other"),
}
