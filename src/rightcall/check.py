"""A task checked without a model: every gold chain re-executed, every label proved, every example
run, the splits kept apart.

A problem may carry `metadata["flags"]`, a list of words that say what is known to be odd about it
(real data has such problems). Flagged problems are counted by flag, and what fails for them is
shown but does not fail the check.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from rightcall.chain import Chain, Frozen, Outcome, Problem
from rightcall.errors import CallError, DefinitionError, MissingSplit
from rightcall.functions import Function, FunctionSet, example_result
from rightcall.models import Reply
from rightcall.pairs import normalised
from rightcall.rollout import Budget, Job, PendingCall, Setting, attempt, judged
from rightcall.task import SPLITS, Proved, Refuted, Task, task_errors

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_FAILURES = 5
ODD_ANSWERS = ("", "no number", "1/0", "NaN", "\u00bd", "None", "9" * 400)
"""A model may stop with any text."""
_ODD_PROBLEMS = 5
"""Problems on which they are tried."""
_UNLIMITED = Budget(steps=10_000, tokens=10**9)


class Finding(Frozen):
    """The result of one check over many items."""

    what: str
    checked: int
    failed: int
    excused: int = 0
    """Failed too, but flagged by the task."""
    first: tuple[str, ...] = ()
    """The first failures (of problems not flagged, if there are any), each as `id: what is wrong`."""


class CheckReport(Frozen):
    """What was checked of a task, and what was found."""

    task: str
    functions: tuple[str, ...]
    seed: int
    problems: dict[str, int]
    """Problems checked, by split."""
    without_gold: int
    """Problems that have no gold chain with these functions to re-execute."""
    unverified: int
    """Problems whose label was neither re-executed nor proved nor refuted."""
    flagged: dict[str, int]
    """Problems by flag."""
    missing: dict[str, str] = Field(default_factory=dict)
    """Splits whose data is not there, and what the task says of it."""
    figures: dict[str, int | float] = Field(default_factory=dict)
    """What the task itself reports of the problems: counts and shares."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed, and there was something to check."""
        return sum(self.problems.values()) > 0 and not any(f.failed for f in self.findings)

    def table(self) -> Table:
        """For the terminal."""
        from rich.markup import escape
        from rich.table import Table

        counts = ", ".join(f"{count} {split}" for split, count in self.problems.items())
        table = Table(title=f"{self.task}: {counts} problems, seed {self.seed}")
        for name in ("check", "checked", "failed", "first failures"):
            table.add_column(name, justify="right" if name in ("checked", "failed") else "left")
        for finding in self.findings:
            failed = f"[red]{finding.failed}[/]" if finding.failed else "[green]0[/]"
            excused = f" (+{finding.excused} flagged)" if finding.excused else ""
            first = escape("\n".join(finding.first))
            table.add_row(finding.what, str(finding.checked), failed + excused, first)
        if self.without_gold:
            table.add_row("no gold chain with these functions", str(self.without_gold), "", "")
        if self.unverified:
            warning = "[yellow]labels neither re-executed nor proved[/]"
            table.add_row(warning, str(self.unverified), "", "nothing but their own word for them")
        for split, reason in self.missing.items():
            table.add_row(f"[yellow]{split} is missing[/]", "", "", escape(reason))
        for flag, count in self.flagged.items():
            table.add_row(f"flagged: {escape(flag)}", str(count), "", "")
        for what, figure in self.figures.items():
            shown = f"{figure:.2%}" if isinstance(figure, float) else str(figure)
            table.add_row(escape(what), shown, "", "")
        return table

    def __rich__(self) -> Table:
        return self.table()


def check_task(
    task: Task, count: int | None, seed: int = 0, subset: str | Sequence[str] | None = None
) -> CheckReport:
    """Check `count` problems of each split (None for all) with the functions of a subset. Examples
    are run of all functions.

    Nothing here asks a model. A report comes back whatever is wrong with the problems. A split that is
    not there (`MissingSplit`) is left out, unless there is none at all; any other error of the task,
    such as a record that cannot be read, is raised.
    """
    functions = task.function_set(subset)
    splits, missing = _splits(task, count, seed)
    problems = [problem for split in splits.values() for problem in split]
    flags = Counter(flag for problem in problems for flag in flags_of(problem))
    gold = [(problem, gold) for problem in problems if (gold := _gold(task, functions, problem))]
    run = _over_problems(
        "gold chains re-executed",
        [p for p, _ in gold],
        [_gold_fault(task, functions, *g) for g in gold],
    )
    verdicts = [(problem, _verdict(task, problem)) for problem in problems]
    told = [(problem, verdict) for problem, verdict in verdicts if verdict is not None]
    proved = _over_problems(
        task.proof,
        [p for p, _ in told],
        [v.reason if isinstance(v, Refuted) else None for _, v in told],
    )
    odd = problems[:_ODD_PROBLEMS]
    verified = {id(problem) for problem, _ in (*gold, *told)}
    return CheckReport(
        task=task.name,
        functions=tuple(made.name for made in functions),
        seed=seed,
        problems={split: len(found) for split, found in splits.items()},
        without_gold=len(problems) - len(gold),
        unverified=sum(id(problem) not in verified for problem in problems),
        flagged=dict(flags.most_common()),
        missing=missing,
        figures=task.report(problems),
        findings=(
            run,
            proved,
            _over_problems("odd answers judged", odd, [_odd_fault(task, functions, p) for p in odd]),
            _finding("examples run", len(task.functions), _broken_examples(task.functions)),
            _finding("ids unique", len(problems), _repeated_ids(problems)),
            _finding("splits disjoint", len(problems), _shared_questions(splits)),
            _finding("same seed, same problems", len(problems), _changed(task, splits, count, seed)),
        ),
    )


def _splits(
    task: Task, count: int | None, seed: int
) -> tuple[dict[str, list[Problem]], dict[str, str]]:
    """The problems of the splits that there are, and what the task says of those that there are not."""
    splits: dict[str, list[Problem]] = {}
    missing: dict[str, MissingSplit] = {}
    for split in SPLITS:
        try:
            splits[split] = list(task.problems(split, count, seed))
        except MissingSplit as error:
            missing[split] = error
    if not splits:
        raise missing[SPLITS[0]]
    return splits, {split: str(error) for split, error in missing.items()}


def flags_of(problem: Problem) -> tuple[str, ...]:
    """What its task finds odd about a problem."""
    return tuple(str(flag) for flag in problem.metadata.get("flags", ()))


def gold_chain(
    task: Task, functions: FunctionSet, problem: Problem, calls: Sequence[str] | None = None
) -> Chain:
    """The chain that a model makes which replies with these calls, judged; by default with the task's
    gold for the problem and the functions."""
    if calls is None:
        calls = task.gold(problem, functions)
    setting = Setting(task, functions, "gold", budget=_UNLIMITED)
    chain = attempt(setting, "gold", Job(problem))
    replies = iter([*(Reply(text=text) for text in calls), Reply(text="", finish_reason="context")])
    try:
        asked = next(chain)
        while True:
            asked = chain.send(asked.run() if isinstance(asked, PendingCall) else next(replies))
    except StopIteration as ended:
        made: Chain = ended.value
        return made


def _gold(task: Task, functions: FunctionSet, problem: Problem) -> Sequence[str]:
    with task_errors(task, problem, "gold"):
        return task.gold(problem, functions)


def _verdict(task: Task, problem: Problem) -> Proved | Refuted | None:
    try:
        with task_errors(task, problem, "prove"):
            verdict = task.prove(problem)
    except DefinitionError as error:
        return Refuted(str(error))
    if verdict is None or isinstance(verdict, (Proved, Refuted)):
        return verdict
    raise DefinitionError(
        f"prove of task {task.name} gave something else",
        value=verdict,
        remedy="Return Proved(), Refuted(reason), or None where it cannot tell.",
    )


def _gold_fault(
    task: Task, functions: FunctionSet, problem: Problem, calls: Sequence[str]
) -> str | None:
    try:
        chain = gold_chain(task, functions, problem, calls)
    except DefinitionError as error:  # the task's verify or judge failed
        return str(error)
    for number, step in enumerate(chain.steps, 1):
        if step.observation.failure is not None:
            return f"call {number}, {step.reply}: {step.observation.text}"
    if chain.answer is None:
        return "the chain does not stop"
    if len(chain.steps) < len(calls):
        return f"the chain stops at call {len(chain.steps)} of {len(calls)}"
    if chain.outcome is not Outcome.CORRECT:
        return f"the chain answers {chain.answer!r}, gold is {problem.answer!r}"
    if len(chain.steps) > max(task.budgets):
        return f"the chain takes {len(chain.steps)} calls, the largest budget is {max(task.budgets)}"
    if chain.judgement.process_correct is False:
        return f"the process is judged wrong: {'; '.join(chain.judgement.evidence)}"
    return None


def _odd_fault(task: Task, functions: FunctionSet, problem: Problem) -> str | None:
    try:
        empty = gold_chain(task, functions, problem, ())
        for answer in ODD_ANSWERS:
            judged(task, problem, empty.model_copy(update={"answer": answer}))
    except DefinitionError as error:
        return str(error)
    return None


def _broken_examples(functions: Iterable[Function]) -> list[str]:
    found = []
    for made in functions:
        try:
            result = example_result(made)
        except CallError as error:
            found.append(f"{made.name}: {made.example} fails: {error}")
        else:
            if result != made.example_result:
                found.append(f"{made.name}: {made.example} gave {made.example_result}, now {result}")
    return found


def _repeated_ids(problems: Iterable[Problem]) -> list[str]:
    counts = Counter(problem.id for problem in problems)
    return [f"{name}: {count} problems" for name, count in counts.items() if count > 1]


def _shared_questions(splits: dict[str, list[Problem]]) -> list[str]:
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for split, problems in splits.items():
        for problem in problems:
            places[normalised(problem.question)].setdefault(split, problem.id)
    return [
        ", ".join(f"{name} ({split})" for split, name in found.items()) + ": the same question"
        for found in places.values()
        if len(found) > 1
    ]


def _changed(task: Task, splits: dict[str, list[Problem]], count: int | None, seed: int) -> list[str]:
    found = []
    for split, problems in splits.items():
        again = list(task.problems(split, count, seed))
        if len(again) != len(problems):
            found.append(f"{split}: {len(problems)} problems, then {len(again)}")
        pairs = zip(problems, again, strict=False)
        found += [f"{old.id}: another problem in its place" for old, new in pairs if old != new]
    return found


def _over_problems(what: str, problems: Sequence[Problem], found: Sequence[str | None]) -> Finding:
    faults = [(p, fault) for p, fault in zip(problems, found, strict=True) if fault is not None]
    plain = [f"{problem.id}: {fault}" for problem, fault in faults if not flags_of(problem)]
    excused = [f"{problem.id}: {fault}" for problem, fault in faults if flags_of(problem)]
    shown = tuple((plain or excused)[:SHOWN_FAILURES])
    return Finding(
        what=what, checked=len(problems), failed=len(plain), excused=len(excused), first=shown
    )


def _finding(what: str, checked: int, faults: Sequence[str]) -> Finding:
    return Finding(what=what, checked=checked, failed=len(faults), first=tuple(faults[:SHOWN_FAILURES]))
