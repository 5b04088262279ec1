"""A run folder, read into frozen data. Nothing is written, and nothing missing is an error.

config.toml
TASK/problems.test.jsonl            the problems that were evaluated
TASK/eval/ROLE.jsonl                greedy chains; beside them what `evaluate` writes: .samples.jsonl,
                                    .circumstances.json, .counterfactual.jsonl
TASK/pairs.json                     statistics of the pair set
TASK/train/STAGE/metrics.jsonl      one object per logged step
TASK/selection.json                 which checkpoint was kept, of each training and on-policy round
TASK/augment.json                   what augmentation made
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rightcall.augment import AugmentReport
from rightcall.chain import JSON, Chain, Problem
from rightcall.compare import Comparison, across_tasks, compare
from rightcall.errors import DataError
from rightcall.evaluate import (
    Evaluation,
    Selection,
    at_budget,
    read_chains,
    read_circumstances,
    read_probed,
    samples_path,
    summarise,
)
from rightcall.task import BUDGETS

ROLES = ("base", "teacher", "control", "tuned")
"""In the order the page shows them; other roles follow by name."""
QUESTIONS = (("base", "tuned"), ("control", "tuned"), ("teacher", "tuned"), ("base", "control"))
"""Pairs of roles that are compared, the headline first."""
STAGES = ("sft", "dpo")

Row = Mapping[str, JSON]


@dataclass(frozen=True)
class TaskData:
    """What a run did on one task."""

    name: str
    problems: Mapping[str, Problem] = field(default_factory=dict)
    """By id; may be empty, questions are then read from the chains."""
    chains: Mapping[str, Mapping[str, Chain]] = field(default_factory=dict)
    """Role → problem id → greedy chain, cut at the largest step budget."""
    probed: Mapping[str, Mapping[str, Chain]] = field(default_factory=dict)
    """Role → problem id → the chain that went on from a replaced observation."""
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    """By role."""
    comparisons: tuple[Comparison, ...] = ()
    metrics: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Training stage → logged steps."""
    pairs: Row | None = None
    selections: Mapping[str, Selection] = field(default_factory=dict)
    """Training stage → the checkpoint chosen for it."""
    augmented: AugmentReport | None = None
    """What augmentation made; None if there was none."""
    missing: tuple[str, ...] = ()
    """Parts of the folder that are not there, as paths inside it."""
    notes: tuple[str, ...] = ()
    """What a reader must know: parts that could not be read, compared, or were left out."""

    @property
    def rounds(self) -> dict[str, Selection]:
        """The first DPO training and the on-policy rounds after it, in order; empty if there is no
        round."""
        found = {n: made for name, made in self.selections.items() if (n := _round(name)) is not None}
        return (
            {("round " + str(n) if n else "dpo"): found[n] for n in sorted(found)} if any(found) else {}
        )

    def question(self, problem_id: str) -> str:
        """The problem's question, from a chain's prompt if the problems are not at hand."""
        if problem_id in self.problems:
            return self.problems[problem_id].question
        for chains in self.chains.values():
            if problem_id in chains:
                return chains[problem_id].prompt[-1]["content"]
        return ""


@dataclass(frozen=True)
class RunData:
    """What the report is made from."""

    name: str
    tasks: tuple[TaskData, ...]
    config: str = ""
    """The resolved TOML, as text."""


def load_run(folder: str | Path, budgets: Sequence[int] | None = None) -> RunData:
    """Read a run folder. `budgets` are otherwise those of its config, or 10 and 20.

    Raises `DataError` if the folder has no task at all.
    """
    folder = Path(folder)
    text = _text(folder / "config.toml")
    config, notes = _table(text)
    names = list(config.get("tasks", {}))
    names += sorted(p.name for p in folder.glob("*") if (p / "eval").is_dir() and p.name not in names)
    if not names:
        raise DataError("not a run folder", value=str(folder), remedy="It has no config and no task.")
    tasks = [load_task_data(folder / n, budgets or _budgets(config, n)) for n in names]
    tasks = [replace(task, notes=(*notes, *task.notes)) for task in tasks]
    return RunData(name=folder.resolve().name, tasks=_compared(tasks), config=text)


def load_task_data(folder: Path, budgets: Sequence[int] = BUDGETS) -> TaskData:
    """One task's folder, not yet compared (that takes all tasks together)."""
    notes: list[str] = []
    problems = _problems(folder / "problems.test.jsonl", notes)
    chains: dict[str, dict[str, Chain]] = {}
    probed: dict[str, dict[str, Chain]] = {}
    evaluations: dict[str, Evaluation] = {}
    for role in _roles(folder / "eval"):
        try:
            path = folder / "eval" / f"{role}.jsonl"
            greedy, went_on, evaluations[role] = _evaluated(path, problems, budgets, notes)
        except DataError as error:
            notes.append(f"{role}: {error}")
            continue
        chains[role] = {c.problem_id: at_budget(c, max(budgets)) for c in greedy}
        probed[role] = {c.problem_id: c for c in went_on}
        notes += _left_out(role, evaluations[role])
    metrics = {s: _rows(folder / "train" / s / "metrics.jsonl", notes) for s in STAGES}
    return TaskData(
        name=folder.name,
        problems={p.id: p for p in problems},
        chains=chains,
        probed=probed,
        evaluations=evaluations,
        metrics={s: rows for s, rows in metrics.items() if rows},
        pairs=_object(folder / "pairs.json", notes),
        selections=_selections(folder / "selection.json", notes),
        augmented=_augmented(folder / "augment.json", notes),
        missing=_missing(folder),
        notes=tuple(notes),
    )


# --- parts of a task's folder ---------------------------------------------------------------------


def _roles(folder: Path) -> list[str]:
    found = {p.name.removesuffix(".jsonl") for p in folder.glob("*.jsonl")}
    found = {name for name in found if not name.endswith((".samples", ".counterfactual"))}
    return [r for r in ROLES if r in found] + sorted(found - set(ROLES))


def _evaluated(
    path: Path, problems: Sequence[Problem], budgets: Sequence[int], notes: list[str]
) -> tuple[list[Chain], list[Chain], Evaluation]:
    """Greedy chains, those with a replaced observation, and the figures of all."""
    greedy = list(read_chains(path).values())
    samples = read_chains(samples_path(path)).values()
    circumstances, probed = None, []
    try:
        circumstances, probed = read_circumstances(path), read_probed(path)
    except DataError as error:
        notes.append(f"{path.stem}: {error}")
    made = summarise(
        greedy,
        samples,
        problems=problems or None,
        budgets=budgets,
        circumstances=circumstances,
        probed=probed,
    )
    return greedy, probed, made.model_copy(update={"source": path.stem})


def _left_out(role: str, evaluation: Evaluation) -> list[str]:
    notes = []
    if evaluation.errored:
        notes.append(
            f"{role}: {len(evaluation.errored)} chains errored (the model failed, not the answer); "
            "they enter no figure."
        )
    if evaluation.unfinished:
        notes.append(f"{role}: {len(evaluation.unfinished)} problems were not attempted yet.")
    return notes


def _problems(path: Path, notes: list[str]) -> list[Problem]:
    try:
        return [Problem.model_validate_json(line) for line in _text(path).splitlines() if line.strip()]
    except ValidationError as error:
        notes.append(f"{path.name} cannot be read: {str(error).splitlines()[0]}")
        return []


def _rows(path: Path, notes: list[str]) -> tuple[Row, ...]:
    """The whole objects of a JSONL; a line cut by a kill is left out."""
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            notes.append(f"{path.parent.name}/{path.name}: line {number} is not JSON and was left out.")
            continue
        if isinstance(row, dict):
            rows.append(row)
    return tuple(rows)


def _object(path: Path, notes: list[str]) -> Row | None:
    text = _text(path)
    if not text:
        return None
    try:
        made = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None
    return made if isinstance(made, dict) else {"value": made}


def _selections(path: Path, notes: list[str]) -> dict[str, Selection]:
    """A selection, or several by training stage."""
    table = _object(path, notes)
    if table is None:
        return {}
    named = {"": table} if "best" in table else table
    try:
        return {name: Selection.model_validate_json(json.dumps(s)) for name, s in named.items() if s}
    except ValidationError as error:
        notes.append(f"{path.name} cannot be read: {str(error).splitlines()[0]}")
        return {}


def _round(name: str) -> int | None:
    """Which on-policy round a training is, 0 for the one before the first; None for any other."""
    if name == "dpo":
        return 0
    number = name.removeprefix("round ")
    return int(number) if number != name and number.isdecimal() else None


def _augmented(path: Path, notes: list[str]) -> AugmentReport | None:
    table = _object(path, notes)
    if table is None:
        return None
    try:
        return AugmentReport.model_validate(table)
    except ValidationError as error:
        notes.append(f"{path.name} cannot be read: {str(error).splitlines()[0]}")
        return None


def _missing(folder: Path) -> tuple[str, ...]:
    wanted = (
        "problems.test.jsonl",
        *(f"eval/{role}.jsonl" for role in ROLES),
        *(f"train/{stage}/metrics.jsonl" for stage in STAGES),
        "pairs.json",
        "selection.json",
    )
    return tuple(part for part in wanted if not (folder / part).is_file())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _table(text: str) -> tuple[dict[str, Any], list[str]]:
    """The config, and a note if it cannot be read."""
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        usual = " and ".join(map(str, BUDGETS))
        return {}, [
            f"config.toml cannot be read ({error}): the tasks are those that have an evaluation, the "
            f"step budgets the usual {usual}."
        ]


def _budgets(config: Mapping[str, Any], task: str) -> Sequence[int]:
    """The task's step budgets in a resolved config."""
    here: Any = config
    for key in ("tasks", task, "evaluate", "budgets"):
        here = here.get(key) if isinstance(here, Mapping) else None
    fits = isinstance(here, list) and here and all(isinstance(b, int) for b in here)
    return here if fits else BUDGETS


# --- comparisons ----------------------------------------------------------------------------------


def _compared(tasks: Sequence[TaskData]) -> tuple[TaskData, ...]:
    """The tasks with their comparisons, p-values adjusted across tasks."""
    made: list[tuple[str, Comparison]] = []
    notes: dict[str, list[str]] = {t.name: [] for t in tasks}
    for task in tasks:
        for a, b in QUESTIONS:
            if a in task.evaluations and b in task.evaluations:
                try:
                    one = compare(task.evaluations[a], task.evaluations[b], drop_errored=True)
                except DataError as error:
                    notes[task.name].append(f"{b} and {a} cannot be compared: {error}")
                else:
                    made.append((task.name, one.model_copy(update={"task": task.name})))
    adjusted = list(zip([n for n, _ in made], across_tasks([c for _, c in made]), strict=True))
    return tuple(
        replace(
            task,
            comparisons=tuple(c for name, c in adjusted if name == task.name),
            notes=(*task.notes, *notes[task.name]),
        )
        for task in tasks
    )
