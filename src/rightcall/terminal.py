"""What the command line prints: chains as they grow, tables, progress.

Model text is data: control characters are shown, never sent to the terminal. Off a terminal the
output is plain text without colours or wrapping.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rightcall.chain import Chain, ChainStore, Message, Outcome, Problem
from rightcall.errors import ModelError
from rightcall.functions import Function, FunctionSet
from rightcall.models import ChatModel, Reply, Request
from rightcall.task import Task

if TYPE_CHECKING:
    from rightcall.evaluate import Evaluation
    from rightcall.train.config import MemoryEstimate

MARK = {
    Outcome.CORRECT: ("✔", "green"),
    Outcome.INCORRECT: ("✘", "red"),
    Outcome.ERRORED: ("!", "yellow"),
}


def out() -> Console:
    """Results: standard output."""
    return _console(sys.stdout)


def log() -> Console:
    """Where a run stands: standard error, so that results can be piped."""
    return _console(sys.stderr)


def _console(file: TextIO) -> Console:
    """Off a terminal lines are not wrapped, and tables have room for their cells."""
    terminal = file.isatty()
    return Console(file=file, highlight=False, soft_wrap=not terminal, width=None if terminal else 200)


MOST_ERRORS = 5
"""Errors of chains that are said."""


def say(text: str, *, quiet: bool = False) -> None:
    """A line about where a run stands."""
    log().print(Text(printable(text), style="dim" if quiet else ""))


def printable(text: str) -> str:
    """Text without control characters: a reply must not move the cursor or recolour the screen.

    >>> printable("a\\x1b[31mb\\n")
    'a\\\\x1b[31mb\\n'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def show_task(console: Console, task: Task) -> None:
    """What a task is, and the options that its constructor takes."""
    console.print(Text(task.name, style="bold"))
    console.print(Text(printable(inspect.cleandoc(type(task).__doc__ or ""))))
    options = inspect.signature(type(task)).parameters.values()
    if options:
        console.print(Text("\nOptions (--option KEY=VALUE):"))
    for option in options:
        console.print(Text(f"  {printable(_option_text(option))}"))
    console.print()


def _option_text(option: inspect.Parameter) -> str:
    kind = option.annotation  # text already, where annotations are not evaluated
    shown = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    default = "" if option.default is option.empty else f" = {option.default!r}"
    return f"{option.name}: {shown}{default}"


def show_problem(console: Console, problem: Problem) -> None:
    console.print(Text(problem.id, style="bold cyan"))
    console.print(Text(printable(problem.question)))
    console.print()


def show_prompt(console: Console, prompt: Sequence[Message]) -> None:
    """A chain's problem: the turn before its first reply."""
    console.print(Text(printable(prompt[-1]["content"])))
    console.print()


def show_step(console: Console, number: int, reply: str, observation: str) -> None:
    """One step: what the model wrote, and what it read back."""
    console.print(Text.assemble((f"{number:>3}  ", "dim"), (printable(reply), "bold")))
    style = "red" if observation.startswith("Error: ") else "green"
    console.print(Text.assemble("     ", ("→ ", "dim"), (printable(observation), style)))


def show_verdict(console: Console, chain: Chain, *, judged: bool = True) -> None:
    """How a chain ended: its answer, whether it is right, and what it took."""
    mark, style = MARK[chain.outcome]
    answer = "no answer" if chain.answer is None else f"answer: {printable(chain.answer)}"
    effort = f"{len(chain.steps)} steps, {chain.completion_tokens} tokens, {chain.seconds:.1f} s"
    verdict = f"{mark} {chain.outcome.value}" if judged or chain.error else "not judged"
    if judged and chain.judgement.process_correct is not None:
        verdict += ", process " + ("right" if chain.judgement.process_correct else "wrong")
    console.print()
    console.print(Text.assemble((answer, "bold"), "   ", (verdict, style if judged else "dim")))
    console.print(Text(f"{chain.stop_reason.value}; {effort}", style="dim"))
    if chain.error:
        console.print(Text(printable(chain.error), style="yellow"))


class Watched(ChatModel):
    """A model whose single chain is shown as it grows: each request carries the steps so far."""

    def __init__(self, model: ChatModel, on_step: Callable[[int, str, str], None]) -> None:
        self.model = model
        self.name = model.name
        self._on_step = on_step
        self._shown = 0

    def submit(self, request: Request) -> None:
        turns = request.messages
        # A reply with several calls has several observations: the first is of the call that was run.
        said = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        pairs = [(turns[i], turns[i + 1]) for i in said]
        for number, (reply, observation) in enumerate(pairs[self._shown :], self._shown + 1):
            self._on_step(number, reply["content"], observation["content"])
        self._shown = len(pairs)
        self.model.submit(request)

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        return self.model.poll()

    def release(self, chain: str) -> None:
        self.model.release(chain)

    def close(self) -> None:
        self.model.close()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table; the first column is text, the others are aligned as numbers."""
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(str(cell))) for cell in row))
    return made


def memory_table(made: MemoryEstimate) -> Table:
    """What a training needs of a device, part by part."""
    rows = [(name, f"{size / 2**30:.2f}") for name, size in made.parts.items()]
    rows.append(("in all", f"{made.total / 2**30:.2f}"))
    if made.free is not None:
        rows.append((f"free ({made.device})", f"{made.free / 2**30:.2f}"))
    title = (
        f"Memory at its peak: {made.trained:,} of {made.parameters:,} parameters trained, "
        f"{made.tokens:,} tokens at once"
    )
    return table(title, ["", "GiB"], rows)


def say_memory(made: MemoryEstimate) -> None:
    """The same as a line."""
    parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in made.parts.items())
    free = "" if made.free is None else f" of {made.free / 2**30:.1f} free"
    say(f"memory: about {made.total / 2**30:.1f} GiB{free} on {made.device} ({parts})")


def bracketed(texts: Iterable[tuple[str, bool]]) -> str:
    """Token texts with the trained stretches between brackets.

    >>> bracketed([("How ", False), ("ad", True), ("d(2)", True), (" 4", False)])
    'How ⟦add(2)⟧ 4'
    """
    stretches = groupby(texts, key=lambda item: item[1])
    joined = ((trained, printable("".join(text for text, _ in items))) for trained, items in stretches)
    return "".join(f"⟦{text}⟧" if trained else text for trained, text in joined)


def outcome_table(title: str, chains: Iterable[Chain]) -> Table:
    """How many chains ended how, per role."""
    counts: dict[str, Counter[str]] = {}
    for chain in chains:
        seen = counts.setdefault(chain.source, Counter())
        seen.update([chain.outcome.value, *(["process"] if chain.right_for_the_right_reason else [])])
    rows = [
        (source, *(seen[outcome.value] for outcome in Outcome), seen["process"], f"{_share(seen):.1%}")
        for source, seen in sorted(counts.items())
    ]
    return table(title, ["role", *(o.value for o in Outcome), "right reason", "accuracy"], rows)


def say_errors(store: ChainStore) -> None:
    """The errors of a file's chains, the most frequent first; nothing if there are none."""
    if not store.counts()[Outcome.ERRORED]:
        return
    errors = Counter(chain.error for chain in store.latest() if chain.outcome is Outcome.ERRORED)
    say(f"{errors.total()} chains errored; the same command redoes them")
    for error, count in errors.most_common(MOST_ERRORS):
        say(f"{count:>6} × {error}")
    if (rest := len(errors) - MOST_ERRORS) > 0:
        say(f"       and {rest} other errors")


def usage_table(title: str, evaluations: Sequence[Evaluation]) -> Table:
    """How models used their functions, one column a model, and each function's share of the calls."""
    from rightcall.conduct.table import function_rows, usage_rows

    calls = [(f"calls of {name}", cells) for name, cells in function_rows(evaluations)]
    rows = [*usage_rows(evaluations), *calls]
    cells = ([label, *("–" if cell is None else cell for cell in row)] for label, row in rows)
    return table(title, ["", *(one.source for one in evaluations)], cells)


def seconds_table(seconds: Mapping[str, Mapping[str, float]]) -> Table:
    """Task → stage → seconds, one column per task."""
    stages = list(dict.fromkeys(stage for done in seconds.values() for stage in done))
    rows = [[stage, *(f"{done.get(stage, 0.0):.1f}" for done in seconds.values())] for stage in stages]
    rows.append(["all", *(f"{sum(done.values()):.1f}" for done in seconds.values())])
    return table("Seconds per stage", ["stage", *seconds], rows)


def _share(seen: Counter[str]) -> float:
    judged = seen[Outcome.CORRECT.value] + seen[Outcome.INCORRECT.value]
    return seen[Outcome.CORRECT.value] / judged if judged else 0.0


def _bar() -> Progress:
    """Kept on the terminal while it moves; gone when it is done (a line says what came out)."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[seen]}"),
        TimeElapsedColumn(),
        console=log(),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def progress(label: str, total: int | None, done: int = 0) -> Iterator[Callable[[Chain], None]]:
    """A bar of chains on standard error; yields what to call with each finished chain. Without a
    total it only counts."""
    counts = dict.fromkeys(Outcome, 0)
    with _bar() as bar:
        task = bar.add_task(label, total=total, completed=done, seen="")

        def advance(chain: Chain) -> None:
            counts[chain.outcome] += 1
            seen = " ".join(f"{mark}{counts[outcome]}" for outcome, (mark, _) in MARK.items())
            bar.update(task, advance=1, seen=seen)

        yield advance


@contextmanager
def training(label: str) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A bar of optimiser steps on standard error; yields what to call with (step, steps, metrics)."""
    with _bar() as bar:
        task = bar.add_task(label, total=None, seen="")

        def advance(step: int, steps: int, metrics: dict[str, float]) -> None:
            loss = f"loss {metrics['loss']:.3f}" if "loss" in metrics else ""
            bar.update(task, completed=step, total=steps, seen=loss)

        yield advance


class Unjudged(Task):
    """A task for a question without a gold answer: everything but the verdict."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.name = task.name
        self.instruction = task.instruction
        self.subsets = task.subsets
        self.default_subset = task.default_subset

    @property
    def functions(self) -> Sequence[Function]:  # type: ignore[override]  # made when first needed
        return self.task.functions

    def function_set(self, subset: str | Sequence[str] | None = None) -> FunctionSet:
        return self.task.function_set(subset)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        return iter(())

    def verify(self, problem: Problem, answer: str) -> bool:
        return False
