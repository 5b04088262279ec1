"""What the page shows: figures, tables and chains picked from `RunData`, then the template.

Everything from a model or a file reaches the page through an autoescaping template; only the
project's own style sheet, script and figures are inserted as they are.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rightcall.chain import Chain, Outcome, Problem, digest
from rightcall.compare import Comparison, p_text
from rightcall.conduct.table import Row, function_rows, usage_rows
from rightcall.native import tools_of
from rightcall.rate import Rate
from rightcall.report import plots
from rightcall.report.data import QUESTIONS, ROLES, RunData, TaskData
from rightcall.report.text import bounded, flattened, points, read_as, visible

EXAMPLES = 12

KINDS = {
    "fixed": ("wrong before, right after", 6),
    "broken": ("right before, wrong after", 3),
    "mended": ("right both times, at first by a wrong process", 2),
    "unsolved": ("wrong both times", 1),
}
"""Kind of example → what it means, and its share of twelve."""

MAX_REPLACED = 3
REPLACED = {
    "follows": "the answer follows",
    "unchanged": "the answer is the one before",
    "other": "another answer, or none",
}
"""What became of the answer when an observation was replaced."""


@dataclass(frozen=True)
class Example:
    """One problem with the chains of two models side by side."""

    kind: str
    problem_id: str
    difficulty: int | None
    question: str
    gold: str
    before: Chain
    after: Chain

    @property
    def shared(self) -> int:
        """Steps at the start that both chains have alike."""
        both = zip(self.before.steps, self.after.steps, strict=False)
        return next(
            (i for i, (x, y) in enumerate(both) if x.reply != y.reply),
            min(len(self.before.steps), len(self.after.steps)),
        )


@dataclass(frozen=True)
class Examples:
    """The chains of a task that are shown, and out of how many."""

    before: str
    after: str
    shown: tuple[Example, ...]
    totals: Mapping[str, int]
    """Kind → problems of that kind."""


@dataclass(frozen=True)
class Replaced:
    """A chain before and after one of its observations was replaced."""

    role: str
    question: str
    before: Chain
    after: Chain
    """It goes on after `given_steps` steps; the last of them has the replaced observation."""

    @property
    def verdict(self) -> str:
        """What became of the answer, as `REPLACED` names it."""
        said = self.after.judgement.measures
        return next((name for name in ("follows", "unchanged") if said.get(name)), "other")


@dataclass(frozen=True)
class View:
    """One task as the template takes it."""

    data: TaskData
    anchor: str
    headline: Comparison | None
    accuracy: Markup | None
    by_difficulty: Markup | None
    endings: Markup | None
    failures: Markup | None
    by_round: Markup | None
    kept_round: str
    """The best of `data.rounds` on the validation problems: of equals the first."""
    curves: Mapping[str, Markup]
    ending_counts: Mapping[str, Mapping[str, int]]
    examples: Examples | None
    usage: Sequence[Row]
    """How the functions were used; cells in the order of `data.evaluations`."""
    calls: Sequence[Row]
    """Each function's share of the calls."""
    replaced: Sequence[Replaced]
    prompt: str
    """The system prompt the models got."""


def write_report(run: RunData, path: str | Path, *, title: str = "", examples: int = EXAMPLES) -> Path:
    """Write the page to `path`; `examples` chains are shown side by side for each task."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(run, title=title, examples=examples), encoding="utf-8")
    return path


def render_report(run: RunData, *, title: str = "", examples: int = EXAMPLES) -> str:
    """The page as text. The same run gives the same bytes."""
    folder = files("rightcall.report")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(str(folder)), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "pct": lambda x: f"{x:.1%}", "points": points, "p": p_text,
        "bounded": bounded, "visible": visible, "words": lambda s: str(s).replace("_", " "),
        "read_as": read_as,
    }  # fmt: skip
    return environment.get_template("page.html.jinja").render(
        run=run,
        title=title or run.name,
        tasks=[_view(task, index, examples) for index, task in enumerate(run.tasks)],
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        kinds={kind: text for kind, (text, _) in KINDS.items()},
        ending_names=plots.ENDINGS,
        replaced_names=REPLACED,
        is_rate=lambda cell: isinstance(cell, Rate),
        colour=plots.colour,
        flattened=flattened,
        axis=axis,
    )


def _view(task: TaskData, index: int, examples: int) -> View:
    anchor = f"task-{index}"
    made = {r: e for r, e in task.evaluations.items() if e.scores}
    counts = {r: _ending_counts(task.chains[r]) for r in made}
    shares = {r: {k: n / max(1, c.total()) for k, n in c.items()} for r, c in counts.items()}
    top = next(iter(made.values())).headline if made else ""
    asked = [c for a, b in QUESTIONS for c in task.comparisons if (c.a, c.b) == (a, b)]
    some = next((c for chains in task.chains.values() for c in chains.values()), None)
    figure = Markup
    failing = {r: e for r, e in made.items() if r in ("base", "tuned")} or made
    rounds = {name: made.kept for name, made in task.rounds.items()}
    curves = {s: plots.curves(f"{anchor}-{s}", rows) for s, rows in task.metrics.items()}
    return View(
        data=task,
        anchor=anchor,
        headline=asked[0] if asked else None,
        accuracy=figure(plots.accuracy(f"{anchor}-accuracy", made)) if made else None,
        by_difficulty=figure(plots.by_difficulty(f"{anchor}-difficulty", made, top)) if made else None,
        endings=figure(plots.endings(f"{anchor}-endings", shares)) if made else None,
        failures=figure(plots.failures(f"{anchor}-failures", failing))
        if any(e.failures for e in failing.values()) else None,
        by_round=figure(plots.by_round(f"{anchor}-rounds", rounds)) if rounds else None,
        kept_round=max(rounds, key=lambda name: rounds[name].right_reason.value, default=""),
        curves={s: figure(svg) for s, svg in curves.items() if svg},
        ending_counts=counts,
        examples=pick(task, examples),
        usage=usage_rows(task.evaluations.values()),
        calls=function_rows(task.evaluations.values()),
        replaced=pick_replaced(task, min(examples, MAX_REPLACED)),
        prompt=_prompt(some),
    )  # fmt: skip


def _prompt(chain: Chain | None) -> str:
    """What every problem's prompt begins with: the system turn, and the functions' schemas."""
    if chain is None or chain.prompt[0]["role"] != "system":
        return ""
    schemas = [json.dumps(schema, ensure_ascii=False) for schema in tools_of(chain.schemas or "[]")]
    return "\n".join([chain.prompt[0]["content"], *schemas])


def _ending_counts(chains: Mapping[str, Chain]) -> Counter[str]:
    return Counter(plots.ending(c) for c in chains.values() if c.outcome is not Outcome.ERRORED)


# --- chains side by side --------------------------------------------------------------------------


def pick(task: TaskData, count: int) -> Examples | None:
    """Examples of each kind, by the hash of the problem id: reproducible, and by nobody's taste.

    The models are those of the first question of `QUESTIONS` that the run can answer.
    """
    roles = next(((a, b) for a, b in QUESTIONS if {a, b} <= task.chains.keys()), None)
    if roles is None or count < 1:
        return None
    before, after = (task.chains[role] for role in roles)
    found: dict[str, list[Example]] = {kind: [] for kind in KINDS}
    for problem_id in sorted(before.keys() & after.keys(), key=digest):
        kind = _kind(before[problem_id], after[problem_id])
        if kind is not None:
            found[kind].append(_example(task, kind, before[problem_id], after[problem_id]))
    quota = {kind: max(1, round(share * count / 12)) for kind, (_, share) in KINDS.items()}
    shown = [example for kind in KINDS for example in found[kind][: quota[kind]]]
    return Examples(*roles, tuple(shown[:count]), {kind: len(found[kind]) for kind in KINDS})


def pick_replaced(task: TaskData, count: int) -> tuple[Replaced, ...]:
    """Probed chains of the last role that has some: of each verdict in turn, by the hash of the id."""
    role = next((r for r in (*reversed(ROLES), *sorted(task.probed)) if task.probed.get(r)), None)
    if role is None:
        return ()
    found: dict[str, list[Replaced]] = {name: [] for name in REPLACED}
    for problem_id, after in sorted(task.probed[role].items(), key=lambda item: digest(item[0])):
        before = task.chains[role].get(problem_id)
        if before is not None and after.outcome is not Outcome.ERRORED:
            one = Replaced(role, task.question(problem_id), before, after)
            found[one.verdict].append(one)
    turns = zip_longest(*found.values())
    return tuple(one for turn in turns for one in turn if one is not None)[:count]


def _kind(before: Chain, after: Chain) -> str | None:
    if Outcome.ERRORED in (before.outcome, after.outcome):
        return None
    right = before.outcome is Outcome.CORRECT, after.outcome is Outcome.CORRECT
    if right == (True, True):
        mended = not before.right_for_the_right_reason and after.right_for_the_right_reason
        return "mended" if mended else None
    return {(False, True): "fixed", (True, False): "broken"}.get(right, "unsolved")


def _example(task: TaskData, kind: str, before: Chain, after: Chain) -> Example:
    problem: Problem | None = task.problems.get(before.problem_id)
    return Example(
        kind=kind,
        problem_id=before.problem_id,
        difficulty=before.difficulty,
        question=task.question(before.problem_id),
        gold=problem.answer if problem else "",
        before=before,
        after=after,
    )


# --- drawn in tables -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A drawing 120 units wide that holds zero and all intervals of some comparisons."""

    low: float
    high: float

    def x(self, value: float) -> str:
        """Where a difference lies, in drawing units."""
        return f"{4 + 112 * (value - self.low) / (self.high - self.low):.1f}"


def axis(comparisons: Sequence[Comparison]) -> Axis:
    """The axis on which the differences of some comparisons are drawn."""
    results = [d for c in comparisons for d in c.results.values()]
    return Axis(min(-0.02, *(d.low for d in results)), max(0.02, *(d.high for d in results)))
