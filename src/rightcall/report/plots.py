"""Figures as inline SVG that follow the page's colours.

matplotlib draws them with marker colours (`_MARKERS`), which are then replaced by CSS variables
and `currentColor`: one figure serves light, dark and print. Text stays text, ids are made unique
to the page, and the same data give the same bytes.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rightcall.chain import JSON, Chain, Outcome, StopReason
from rightcall.evaluate import Candidate, Evaluation
from rightcall.report.text import bounded

ENDINGS = {
    "right": "right, for the right reason",
    "lucky": "right answer, wrong process",
    "wrong": "wrong answer",
    "steps": "out of steps",
    "cut": "out of tokens or context",
}
"""Classes of how a chain ended; each is also a CSS variable."""

_INK, _RULE = "#0a0a01", "#0a0a02"
_VARIABLES = ("base", "teacher", "control", "tuned", "other", *ENDINGS)
_MARKERS = {name: f"#0b0b{index:02x}" for index, name in enumerate(_VARIABLES, 1)}

_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "rightcall", "text.parse_math": False,
    "font.size": 9.5, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _RULE,
    "axes.linewidth": 0.8, "xtick.color": _RULE, "ytick.color": _RULE, "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": _RULE, "grid.linewidth": 0.6,
    "grid.alpha": 0.45, "lines.linewidth": 1.6, "figure.facecolor": "none",
    "axes.facecolor": "none", "savefig.facecolor": "none", "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
}  # fmt: skip


def colour(role: str) -> str:
    """The CSS variable a role is drawn in."""
    return role if role in _MARKERS else "other"


def ending(chain: Chain) -> str:
    """The class of `ENDINGS` a finished chain falls in."""
    if chain.outcome is Outcome.CORRECT:
        return "right" if chain.right_for_the_right_reason else "lucky"
    if chain.stop_reason is StopReason.STOPPED:
        return "wrong"
    return "steps" if chain.stop_reason is StopReason.STEP_BUDGET else "cut"


def drawn(name: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """An SVG element whose ids start with `name`; `size` in inches."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The browser draws the text: a glyph that matplotlib's own font lacks is no loss.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), re.sub(r"\W+", "-", name))


def _inline(svg: str, prefix: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true"', svg, count=1)
    replaced = {_INK: "currentColor", _RULE: "var(--rule)"}
    replaced |= {marker: f"var(--{name})" for name, marker in _MARKERS.items()}
    for marker, variable in replaced.items():
        svg = svg.replace(marker, variable)
    return svg.strip()


# --- the figures ----------------------------------------------------------------------------------


def accuracy(name: str, evaluations: Mapping[str, Evaluation]) -> str:
    """Accuracy with Wilson intervals: a row a role, a mark a step budget."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (role, evaluation) in enumerate(evaluations.items()):
            views = evaluation.views
            for index, view in enumerate(views):
                rate = evaluation.accuracy[view]
                y = row + (index - (len(views) - 1) / 2) * 0.24
                shade = _MARKERS[colour(role)]
                axes.plot([rate.low, rate.high], [y, y], color=shade, lw=2.2, alpha=0.55)
                axes.plot(rate.value, y, "o", color=shade, ms=5.5)
                axes.text(1.02, y, f"{view}: {rate.value:.1%}", va="center", fontsize=8)
        axes.set_yticks(range(len(evaluations)), list(evaluations))
        axes.set_xlim(-0.01, 1.01)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)

    return drawn(name, (4.7, 0.62 + 0.62 * len(evaluations)), draw)


def by_round(name: str, kept: Mapping[str, Candidate]) -> str:
    """Right for the right reason and accuracy of the model that each round kept, with intervals."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for shift, rates, role in (
            (-0.05, [one.right_reason for one in kept.values()], "tuned"),
            (0.05, [one.accuracy for one in kept.values()], "other"),
        ):
            x = [index + shift for index in range(len(rates))]
            y = [rate.value for rate in rates]
            low = [max(0.0, rate.value - rate.low) for rate in rates]
            high = [max(0.0, rate.high - rate.value) for rate in rates]
            _, _, bars = axes.errorbar(x, y, yerr=[low, high], color=_MARKERS[role], marker="o", ms=4.5)
            for bar in bars:
                bar.set_alpha(0.45)
        axes.set_xticks(range(len(kept)), list(kept))
        axes.set_xlim(-0.5, len(kept) - 0.5)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", visible=False)

    return drawn(name, (4.7, 2.6), draw)


def by_difficulty(name: str, evaluations: Mapping[str, Evaluation], view: str) -> str:
    """Accuracy by difficulty, one line a role."""
    levels = sorted({d for e in evaluations.values() for d in e.by_difficulty[view]}, key=_level)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (role, evaluation) in enumerate(evaluations.items()):
            known = [(i, evaluation.by_difficulty[view].get(d)) for i, d in enumerate(levels)]
            x = [i + (index - (len(evaluations) - 1) / 2) * 0.09 for i, r in known if r]
            rates = [r for _, r in known if r]
            y = [r.value for r in rates]
            spread = [
                [max(0.0, r.value - r.low) for r in rates],
                [max(0.0, r.high - r.value) for r in rates],
            ]
            shade = _MARKERS[colour(role)]
            _, _, bars = axes.errorbar(x, y, yerr=spread, color=shade, marker="o", ms=4.5)
            for bar in bars:
                bar.set_alpha(0.45)
        axes.set_xticks(range(len(levels)), levels)
        axes.set_xlim(-0.5, len(levels) - 0.5)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("difficulty (steps or hops of the gold chain)")
        axes.grid(axis="x", visible=False)

    return drawn(name, (4.7, 2.9), draw)


def _level(text: str) -> tuple[bool, int]:
    return (not text.lstrip("-").isdigit(), int(text) if text.lstrip("-").isdigit() else 0)


def endings(name: str, shares: Mapping[str, Mapping[str, float]]) -> str:
    """Role → class of `ENDINGS` → share of chains, as stacked bars."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, share in enumerate(shares.values()):
            left = 0.0
            for kind in ENDINGS:
                width = share.get(kind, 0.0)
                axes.barh(row, width, left=left, height=0.62, color=_MARKERS[kind])
                left += width
        axes.set_yticks(range(len(shares)), list(shares))
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)

    return drawn(name, (4.7, 0.6 + 0.42 * len(shares)), draw)


def failures(name: str, evaluations: Mapping[str, Evaluation]) -> str:
    """Failed calls by kind, per 100 calls, a bar a role."""
    kinds = sorted({k for e in evaluations.values() for k in e.failures})

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        height = 0.8 / len(evaluations)
        for index, (role, evaluation) in enumerate(evaluations.items()):
            rates = [100 * evaluation.failures.get(k, 0) / max(1, evaluation.calls) for k in kinds]
            y = [row + (index - (len(evaluations) - 1) / 2) * height for row in range(len(kinds))]
            axes.barh(y, rates, height=height * 0.86, color=_MARKERS[colour(role)])
        axes.set_yticks(range(len(kinds)), [k.replace("_", " ") for k in kinds])
        axes.set_xlabel("failed calls per 100")
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)

    return drawn(name, (4.7, 0.75 + 0.5 * max(1, len(kinds))), draw)


_FIRST = ("loss", "eval_loss", "rewards/accuracies", "rewards/margins", "rewards/chosen",
          "accuracy", "margin", "grad_norm")  # fmt: skip
_NEVER = ("step", "epoch", "time", "seconds", "runtime", "per_second", "flos", "total", "learning_rate")


def curves(name: str, rows: Sequence[Mapping[str, JSON]], most: int = 4) -> str | None:
    """Training curves, a panel a metric, at most `most`; None if nothing was logged twice."""
    series = {key: points for key in _metric_names(rows) if len(points := _points(rows, key)) > 1}
    chosen = dict(list(series.items())[:most])
    if not chosen:
        return None

    def draw(figure: Figure) -> None:
        columns = min(2, len(chosen))
        grid = figure.subplots(-(-len(chosen) // columns), columns, squeeze=False)
        for axes, (key, points) in zip(grid.flat, chosen.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=_MARKERS["tuned"])
            axes.set_title(bounded(key, 24))
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        for axes in list(grid.flat)[len(chosen) :]:
            axes.set_visible(False)
        for axes in list(grid.flat)[max(0, len(chosen) - columns) : len(chosen)]:
            axes.set_xlabel("step")

    return drawn(name, (4.7, 1.75 * -(-len(chosen) // 2) + 0.2), draw)


def _metric_names(rows: Sequence[Mapping[str, JSON]]) -> list[str]:
    """Logged names, the telling ones first; bookkeeping is left out."""
    names = dict.fromkeys(k for row in rows for k, v in row.items() if _is_number(v))
    kept = [n for n in names if not any(word in n.lower() for word in _NEVER)]

    def rank(metric: str) -> tuple[int, str]:
        known = (i for i, n in enumerate(_FIRST) if metric == n or metric.endswith(f"/{n}"))
        return next(known, len(_FIRST)), metric

    return sorted(kept, key=rank)


def _points(rows: Sequence[Mapping[str, JSON]], key: str) -> list[tuple[float, float]]:
    found = [(row.get("step", i), row[key]) for i, row in enumerate(rows) if _is_number(row.get(key))]
    return [(float(x), float(y)) for x, y in found if _is_number(x)]


def _is_number(value: JSON) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
