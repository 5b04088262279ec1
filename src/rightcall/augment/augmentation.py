"""Problems with their chains → variants: proposed by operations, executed, judged, and kept only if
what was executed bears out what was proposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from pydantic import Field

from rightcall.augment.config import AugmentConfig
from rightcall.augment.corruption import CORRUPTIONS
from rightcall.augment.operation import Operation, Original, Rejected, Variant
from rightcall.augment.shown import SHOWN
from rightcall.chain import (
    CORRUPTED,
    ByProblem,
    Chain,
    Frozen,
    Origin,
    Outcome,
    Problem,
    digest,
    seed_of,
)
from rightcall.errors import ConfigError, DataError, DefinitionError, nearest
from rightcall.files import whole
from rightcall.functions import FunctionSet
from rightcall.leaks import normalised
from rightcall.models.scripted import Replay
from rightcall.rollout import Budget, Job, Setting, chain_key, rollouts
from rightcall.task import Refuted, Task, load_module, task_errors

if TYPE_CHECKING:
    from rich.table import Table

_BUDGET = Budget(steps=10_000, tokens=10**9)
_GENERAL: Mapping[str, Operation] = {**SHOWN, **CORRUPTIONS}
"""Operations that any task's chains can undergo."""


class Tally(Frozen):
    """What one operation made."""

    asked: int = 0
    """How many variants were wanted."""
    problems: int = 0
    """Variants that were kept; a corruption's are the same problems again."""
    right: int = 0
    """Chains that are right for the right reason."""
    wrong: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    """Why variants were not made or not kept, the most frequent first."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Why chains of kept variants were left out."""


class AugmentReport(Frozen):
    """Operation → what it made."""

    operations: dict[str, Tally]
    originals: int
    """Problems with chains that were given."""

    @property
    def chains(self) -> int:
        return sum(tally.right + tally.wrong for tally in self.operations.values())

    def table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(title=f"Made of {self.originals} problems")
        for name in ("operation", "asked", "made", "right chains", "wrong chains", "rejected most for"):
            table.add_column(name, justify="left" if name.startswith(("op", "rej")) else "right")
        for name, tally in self.operations.items():
            most = ", ".join(f"{why} ({n})" for why, n in list(tally.rejected.items())[:3])
            counts = (tally.asked, tally.problems, tally.right, tally.wrong)
            table.add_row(name, *map(str, counts), most)
        return table

    def __rich__(self) -> Table:
        return self.table()


# --- one problem ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A variant that was executed and borne out."""

    problem: Problem
    chains: tuple[Chain, ...]
    left_out: tuple[str, ...] = ()


def play(
    task: Task,
    functions: FunctionSet,
    problem: Problem,
    replies: Sequence[str],
    *,
    source: str = "teacher",
) -> Chain:
    """The chain that these replies make: executed in the agent loop and judged. Where they do not stop,
    it ends with them."""
    setting = Setting(task, functions, source, budget=_BUDGET)
    job = Job(problem)
    player = Replay({chain_key(setting, "replay", job): replies})
    return next(rollouts(setting, player, [job]))


def original_of(
    task: Task, functions: FunctionSet, problem: Problem, chains: Iterable[Chain] = ()
) -> Original:
    """A problem ready for operations, with its gold chain played if no chains are given."""
    given = list(chains)
    if not given and (gold := task.gold(problem, functions)):
        given = [play(task, functions, problem, gold)]
    usable = [c for c in given if c.outcome is not Outcome.ERRORED and c.steps and not c.maybe_cut]
    usable.sort(key=lambda chain: (not chain.right_for_the_right_reason, chain.key))
    return Original(task, functions, problem, tuple(usable))


def carry_out(
    original: Original, name: str, operation: Operation, rng: Random, number: int = 1
) -> Made:
    """The variant that an operation proposes, its chains executed and judged.

    Raises `Rejected` if it proposes none or execution does not bear it out: the task refutes the
    label, a right chain comes out wrong, nothing has changed, or what should be wrong is right. Raises
    `DefinitionError` if the operation fails.
    """
    variant = _proposed(original, name, operation, rng)
    problem = original.problem
    if not variant.corrupts:
        problem = _placed(original, variant, name, number)
        with task_errors(original.task, problem, "prove"):
            proved = original.task.prove(problem)
        if isinstance(proved, Refuted):
            raise Rejected("the label is refuted")
    chains = tuple(_executed(original, variant, problem, name))
    if not chains:
        raise Rejected("no chain could be carried over")
    kept = _still_wrong(chains) if variant.corrupts else _borne_out(original, chains)
    return Made(problem, kept, variant.left_out)


def _proposed(original: Original, name: str, operation: Operation, rng: Random) -> Variant:
    try:
        return operation(original, rng)
    except Rejected:
        raise
    except Exception as error:
        raise DefinitionError(
            f"operation {name} failed on problem {original.problem.id}",
            value=f"{type(error).__name__}: {error}",
            remedy="It raises Rejected(reason) where it makes nothing of a problem.",
        ) from error


def _placed(original: Original, variant: Variant, name: str, number: int) -> Problem:
    """The variant's problem with an id and an origin of its own."""
    old, new = original.problem, variant.problem
    same = (new.question, new.answer) == (old.question, old.answer)
    shown = variant.functions is None or variant.functions.fingerprint == original.functions.fingerprint
    if same and shown and _unchanged(original, variant):
        raise Rejected("nothing has changed")
    update = {
        "id": f"{old.id}~{name}.{number}",
        "origin": Origin(operation=name, parent=old.id, root=old.root),
    }
    return new.model_copy(update=update)


def _unchanged(original: Original, variant: Variant) -> bool:
    said = {chain.key: [step.reply for step in chain.steps] for chain in original.chains}
    return all(said.get(key) == list(replies) for key, replies in variant.replies.items())


def _executed(original: Original, variant: Variant, problem: Problem, name: str) -> Iterator[Chain]:
    """Chain after chain of the original on the variant's problem."""
    functions = variant.functions or original.functions
    by_key = {chain.key: chain for chain in original.chains}
    for number, (key, replies) in enumerate(variant.replies.items()):
        old = by_key[key]
        source = CORRUPTED if variant.corrupts else old.source
        setting = Setting(original.task, functions, source, budget=_BUDGET, seed=old.seed)
        origin = Origin(operation=name, parent=key, root=original.problem.root)
        job = Job(problem, number, origin=origin)
        model = f"{old.model}~{name}" if variant.corrupts else old.model
        player = Replay({chain_key(setting, model, job): replies}, name=model)
        yield next(rollouts(setting, player, [job]))


def _still_wrong(chains: Iterable[Chain]) -> tuple[Chain, ...]:
    found = tuple(chain for chain in chains if not chain.right_for_the_right_reason)
    if not found:
        raise Rejected("still right")
    return found


def _borne_out(original: Original, chains: tuple[Chain, ...]) -> tuple[Chain, ...]:
    right = {chain.key for chain in original.right}
    for chain in chains:
        assert chain.origin is not None
        if chain.origin.parent in right and not chain.right_for_the_right_reason:
            raise Rejected("a right chain comes out wrong")
    return chains


# --- many problems --------------------------------------------------------------------------------


def operations_of(task: Task) -> dict[str, Operation]:
    """The operations that a config may name for a task, besides `file.py:function`."""
    return {**_GENERAL, **task.operations}


def load_operation(task: Task, name: str) -> Operation:
    """An operation by its name or by `path/to/file.py:function`. Raises `ConfigError`."""
    known = operations_of(task)
    if name in known:
        return known[name]
    place, _, attribute = name.rpartition(":")
    if not place:
        raise ConfigError(
            f"task {task.name} has no operation of that name",
            value=name,
            remedy=nearest(name, known) or f"There are {', '.join(known)}.",
        )
    made: object = getattr(load_module(place), attribute, None)
    if not callable(made):
        raise ConfigError(
            f"{place} has no such function", value=attribute, remedy="See rightcall.augment."
        )
    found: Operation = made
    return found


@dataclass
class _Count:
    """A tally while it grows."""

    asked: int = 0
    problems: int = 0
    right: int = 0
    wrong: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, made: Made) -> None:
        self.problems += 1
        right = sum(chain.right_for_the_right_reason for chain in made.chains)
        self.right += right
        self.wrong += len(made.chains) - right
        self.left_out.update(made.left_out)

    def tally(self) -> Tally:
        return Tally(
            asked=self.asked,
            problems=self.problems,
            right=self.right,
            wrong=self.wrong,
            rejected=dict(self.rejected.most_common()),
            left_out=dict(self.left_out.most_common()),
        )


def variants(
    originals: Iterable[Original],
    config: AugmentConfig,
    *,
    counts: Mapping[str, _Count],
    forbidden: Callable[[Problem], bool] = lambda problem: False,
) -> Iterator[Made]:
    """Every variant of every problem, in the order of the problems and of the config's operations."""
    for original in originals:
        seen: set[str] = set()
        for name, ratio in config.operations.items():
            count, operation = counts[name], load_operation(original.task, name)
            rng = Random(seed_of("augment", config.seed, name, original.problem.id))
            wanted = int(ratio) + (rng.random() < ratio % 1)
            for number in range(1, wanted + 1):
                count.asked += 1
                try:
                    made = carry_out(original, name, operation, rng, number)
                    _check_new(made, seen, forbidden)
                except Rejected as reason:
                    count.rejected[str(reason)] += 1
                    continue
                count.add(made)
                yield made


def _check_new(made: Made, seen: set[str], forbidden: Callable[[Problem], bool]) -> None:
    if forbidden(made.problem):
        raise Rejected("it is a test question")
    said = digest([[c.prompt, [s.reply for s in c.steps]] for c in made.chains])
    if said in seen:
        raise Rejected("it was made before")
    seen.add(said)


def augment(
    task: Task,
    functions: FunctionSet,
    problems: Iterable[Problem],
    chains: Iterable[Chain],
    config: AugmentConfig,
    out: str | Path,
    *,
    problems_out: str | Path | None = None,
    test: Iterable[Problem] = (),
    on_problem: Callable[[], None] = lambda: None,
) -> AugmentReport:
    """Variants of the problems that have chains: their chains into `out`, and the problems themselves
    into `problems_out`. Both files appear whole or not at all.

    Chains of problems that are not given are passed over. Raises `DataError` if a problem is a relative
    of a test problem; a variant that asks a test question is rejected.
    """
    held = list(test)
    asked = {normalised(problem.question) for problem in held}
    roots = {problem.root for problem in held}
    known = {problem.id: problem for problem in problems}
    _check_relatives(known.values(), roots)
    for name in config.operations:
        load_operation(task, name)
    counts = {name: _Count() for name in config.operations}
    originals = 0
    with ByProblem() as kept:
        for chain in chains:
            if chain.task == task.name and chain.problem_id in known and chain.source != CORRUPTED:
                kept.put(chain)

        def given() -> Iterator[Original]:
            nonlocal originals
            for name, problem_id in kept.problems():
                originals += 1
                mine = kept.chains(name, problem_id)
                yield original_of(task, functions, known[problem_id], mine)
                on_problem()

        made = variants(
            given(), config, counts=counts, forbidden=lambda p: normalised(p.question) in asked
        )
        _write(made, Path(out), Path(problems_out) if problems_out else None)
    return AugmentReport(
        operations={name: count.tally() for name, count in counts.items()}, originals=originals
    )


def _check_relatives(problems: Iterable[Problem], roots: set[str]) -> None:
    for problem in problems:
        if problem.root in roots:
            raise DataError(
                "a problem to be augmented is a relative of a test problem",
                value=problem.id,
                remedy="Augment the problems of the train split only.",
            )


def _write(made: Iterable[Made], out: Path, problems_out: Path | None) -> None:
    """Corruptions are of problems that are there already: these are not written again."""
    with whole(out) as chains_file:
        if problems_out is None:
            for one in made:
                chains_file.writelines(f"{chain.model_dump_json()}\n" for chain in one.chains)
            return
        with whole(problems_out) as problems_file:
            for one in made:
                chains_file.writelines(f"{chain.model_dump_json()}\n" for chain in one.chains)
                if one.chains[0].source != CORRUPTED:
                    problems_file.write(f"{one.problem.model_dump_json()}\n")
