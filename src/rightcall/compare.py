"""Two evaluations on the same problems → a paired difference with its interval and p-values.

    compare(base, tuned) → Comparison        across_tasks([fol, math]) → the same, Holm-adjusted

`b - a` throughout: positive means that `b` is better. Problems are matched by id; sets that differ
are refused, because a difference between different problems is not a difference between models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rightcall.chain import Frozen
from rightcall.errors import ConfigError, DataError
from rightcall.evaluate import POOLED, Evaluation, ProblemScore, load_evaluation
from rightcall.stats import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_interval,
    holm,
    mcnemar_p,
    mean,
    problems_needed,
    wilcoxon_p,
)

if TYPE_CHECKING:
    from rich.table import Table

RIGHT_REASON = "right reason"
SAMPLED = "sampled"
GAINS = (0.01, 0.02, 0.05, 0.1)


class Difference(Frozen):
    """The paired difference of one view of the scores, interval before p-value."""

    a: float
    """Mean score of the first model."""
    b: float
    """Mean score of the second."""
    difference: float
    """`b - a`."""
    low: float
    """BCa bootstrap interval of the difference, problems resampled."""
    high: float
    confidence: float = CONFIDENCE
    wins: int
    """Problems on which b scores higher."""
    losses: int
    ties: int
    wilcoxon_p: float
    mcnemar_p: float | None = None
    """Exact; None for pooled and sampled scores: McNemar's test does not know fractions."""
    wilcoxon_holm: float | None = None
    """Adjusted for the tasks compared together; None until `across_tasks`."""
    mcnemar_holm: float | None = None

    def __str__(self) -> str:
        return f"{100 * self.difference:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}] points"


class Comparison(Frozen):
    """Model `b` against model `a` on one task."""

    task: str
    a: str
    """Role of the first model, such as base."""
    b: str
    model_a: str
    model_b: str
    budgets: tuple[int, ...]
    problems: int
    """Pairs that were compared."""
    dropped: tuple[str, ...] = ()
    """Problems left out on both sides because a chain errored."""
    results: dict[str, Difference]
    """View ("10", "20", "pooled", "right reason", "sampled") → its difference."""
    needed: dict[str, int]
    """Gain (as text, "0.05") → problems to see it with 80% power at the discordance seen here."""

    @property
    def headline(self) -> Difference:
        """The difference at the largest budget."""
        return self.results[str(self.budgets[-1])]


def compare(
    a: Evaluation | str | Path,
    b: Evaluation | str | Path,
    *,
    budgets: Sequence[int] = (),
    drop_errored: bool = False,
    gains: Sequence[float] = GAINS,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two evaluations, or two files of chains (under `budgets`, or those that were reported).

    Raises `DataError` if they are of different tasks or budgets, if their problem sets differ, or
    if a chain errored; with `drop_errored` such problems are left out on both sides and listed.
    """
    first = a if isinstance(a, Evaluation) else load_evaluation(a, budgets=budgets)
    second = b if isinstance(b, Evaluation) else load_evaluation(b, budgets=budgets)
    pairs, dropped = _paired(first, second, drop_errored)
    results = {
        view: _difference(scores_a, scores_b, seed, resamples, binary=view not in (POOLED, SAMPLED))
        for view, (scores_a, scores_b) in _views(first, pairs).items()
    }
    seen = results[first.headline]
    discordance = (seen.wins + seen.losses) / len(pairs)
    return Comparison(
        task=first.task,
        a=first.source,
        b=second.source,
        model_a=first.model,
        model_b=second.model,
        budgets=first.budgets,
        problems=len(pairs),
        dropped=dropped,
        results=results,
        needed={f"{gain:g}": problems_needed(gain, discordance) for gain in gains},
    )


def across_tasks(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The same comparisons with p-values adjusted by Holm's method.

    A family is one question asked of several tasks: the same two roles, the same view, the same
    test. Comparisons of other roles or views in the sequence are families of their own.
    """
    asked = [(c.task, c.a, c.b) for c in comparisons]
    if len(set(asked)) != len(asked):
        raise ConfigError(
            "a comparison is given twice", value=next(x for x in asked if asked.count(x) > 1)
        )
    return tuple(
        c.model_copy(
            update={"results": {v: _adjusted(d, v, c, comparisons) for v, d in c.results.items()}}
        )
        for c in comparisons
    )


def _adjusted(
    difference: Difference, view: str, of: Comparison, comparisons: Sequence[Comparison]
) -> Difference:
    family = {
        c.task: c.results[view] for c in comparisons if (c.a, c.b) == (of.a, of.b) and view in c.results
    }
    wilcoxon = holm({task: d.wilcoxon_p for task, d in family.items()})
    mcnemar = holm({t: d.mcnemar_p for t, d in family.items() if d.mcnemar_p is not None})
    return difference.model_copy(
        update={"wilcoxon_holm": wilcoxon[of.task], "mcnemar_holm": mcnemar.get(of.task)}
    )


# --- pairing --------------------------------------------------------------------------------------

Pair = tuple[ProblemScore, ProblemScore]


def _paired(a: Evaluation, b: Evaluation, drop_errored: bool) -> tuple[list[Pair], tuple[str, ...]]:
    for what in ("task", "budgets"):
        if getattr(a, what) != getattr(b, what):
            raise DataError(
                f"the evaluations are of different {what.rstrip('s')}s",
                value=(getattr(a, what), getattr(b, what)),
                remedy="Compare two models on the same task under the same step budgets.",
            )
    errored = tuple(sorted({*a.errored, *b.errored}))
    if errored and not drop_errored:
        raise DataError(
            f"{len(errored)} problems have an errored chain",
            value=errored[0],
            remedy="Evaluate again (errored chains are redone), or leave them out on both sides.",
        )
    kept_a = {s.problem_id: s for s in a.scores if s.problem_id not in errored}
    kept_b = {s.problem_id: s for s in b.scores if s.problem_id not in errored}
    if kept_a.keys() != kept_b.keys():
        raise DataError(
            f"the problem sets differ: {_named('only ' + a.source, kept_a.keys() - kept_b.keys())}; "
            f"{_named('only ' + b.source, kept_b.keys() - kept_a.keys())}",
            remedy="Evaluate both models on the same problems.",
        )
    if not kept_a:
        raise DataError("no problem is left to compare on", value=len(errored))
    return [(kept_a[i], kept_b[i]) for i in sorted(kept_a)], errored


def _named(label: str, ids: set[str], shown: int = 3) -> str:
    some = ", ".join(sorted(ids)[:shown])
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return f"{label} has {some}{more}" if ids else f"{label} has none"


def _views(a: Evaluation, pairs: Sequence[Pair]) -> dict[str, tuple[list[float], list[float]]]:
    """View → the scores of both models in the order of `pairs`."""
    made = {v: ([x.correct[v] for x, _ in pairs], [y.correct[v] for _, y in pairs]) for v in a.views}
    top = a.headline
    made[RIGHT_REASON] = (
        [x.right_reason[top] for x, _ in pairs],
        [y.right_reason[top] for _, y in pairs],
    )
    sampled = [(x.sampled, y.sampled) for x, y in pairs]
    both = [(x, y) for x, y in sampled if x is not None and y is not None]
    if len(both) == len(pairs):
        made[SAMPLED] = ([x for x, _ in both], [y for _, y in both])
    return made


def _difference(
    a: Sequence[float], b: Sequence[float], seed: int, resamples: int, *, binary: bool
) -> Difference:
    wins = sum(y > x for x, y in zip(a, b, strict=True))
    losses = sum(y < x for x, y in zip(a, b, strict=True))
    interval = bootstrap_interval(a, b, seed=seed, resamples=resamples)
    return Difference(
        a=mean(a),
        b=mean(b),
        difference=mean(b) - mean(a),
        low=interval.low,
        high=interval.high,
        wins=wins,
        losses=losses,
        ties=len(a) - wins - losses,
        wilcoxon_p=wilcoxon_p(a, b),
        mcnemar_p=mcnemar_p(wins, losses) if binary else None,
    )


# --- on the terminal ------------------------------------------------------------------------------


def p_text(p: float | None) -> str:
    """A p-value as people read it: two digits, powers of ten below 0.001, a dash for none."""
    if p is None:
        return "–"
    return f"{p:.0e}".replace("e-0", "e-") if p < 0.001 else f"{p:.2g}"


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Comparisons as a rich table, one row a view."""
    from rich.table import Table

    table = Table(title="Paired differences in points, 95% interval")
    for column in ("task", "second − first", "view"):
        table.add_column(column)
    for column in (
        "first",
        "second",
        "difference",
        "wins/losses/ties",
        "p Wilcoxon",
        "p McNemar",
        "p Holm",
    ):
        table.add_column(column, justify="right")
    for comparison in comparisons:
        for view, d in comparison.results.items():
            table.add_row(
                comparison.task,
                f"{comparison.b} − {comparison.a}",
                view,
                f"{d.a:.1%}",
                f"{d.b:.1%}",
                str(d).removesuffix(" points"),
                f"{d.wins}/{d.losses}/{d.ties}",
                p_text(d.wilcoxon_p),
                p_text(d.mcnemar_p),
                p_text(d.wilcoxon_holm),
            )
        table.add_section()
    return table


def evaluation_table(evaluations: Sequence[Evaluation] | Mapping[str, Evaluation]) -> Table:
    """Evaluations as a rich table, one row a model."""
    from rich.table import Table

    rows = list(evaluations.values()) if isinstance(evaluations, Mapping) else list(evaluations)
    names = list(dict.fromkeys(view for e in rows for view in e.views))
    table = Table(title="Accuracy with 95% interval")
    for column in ("task", "model", "n"):
        table.add_column(column)
    for column in (*names, "right reason", "invalid calls", "steps", "tokens", "pass@k"):
        table.add_column(column, justify="right")
    for e in rows:
        passed = "  ".join(f"@{k} {v:.1%}" for k, v in e.pass_at.items())
        errored = f" (+{len(e.errored)} errored)" if e.errored else ""
        table.add_row(
            e.task,
            e.source,
            f"{len(e.scores)}{errored}",
            *[str(e.accuracy[v]) if v in e.accuracy else "–" for v in names],
            f"{e.right_reason[e.headline].value:.1%}",
            f"{e.invalid_call_rate:.1%}",
            f"{e.steps:.1f}",
            f"{e.tokens:.0f}",
            passed or "–",
        )
    return table
