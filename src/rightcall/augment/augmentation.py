"""Problems with their chains → variants: proposed by operations, executed, judged, and kept only if
what was executed bears out what was proposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile
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
    ChainStore,
    Frozen,
    Origin,
    Outcome,
    Problem,
    digest,
    seed_of,
)
from rightcall.dialects import DIALECTS
from rightcall.errors import ConfigError, DataError, DefinitionError, nearest
from rightcall.files import read_lines, whole
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
    passed_over: dict[str, int] = Field(default_factory=dict)
    """Why given chains were not used, the most frequent first."""

    @property
    def chains(self) -> int:
        return sum(tally.right + tally.wrong for tally in self.operations.values())

    def table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(title=f"Made of {self.originals} problems")
        table.add_column("operation")
        for name in ("asked", "made", "right chains", "wrong chains", "left out"):
            table.add_column(name, justify="right")
        table.add_column("rejected most for")
        for name, tally in self.operations.items():
            left_out = sum(tally.left_out.values())
            counts = (tally.asked, tally.problems, tally.right, tally.wrong, left_out)
            table.add_row(name, *map(str, counts), _reasons(tally.rejected))
        if self.passed_over:
            table.caption = f"Chains passed over: {_reasons(self.passed_over)}"
        return table

    def __rich__(self) -> Table:
        return self.table()


def _reasons(counts: Mapping[str, int], most: int = 3) -> str:
    return ", ".join(f"{why} ({number})" for why, number in list(counts.items())[:most])


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
    task: Task,
    functions: FunctionSet,
    problem: Problem,
    chains: Iterable[Chain] = (),
    dialect: str = "python",
) -> Original:
    """A problem ready for operations, with its gold chain played if no chains are given."""
    given = [_in_python(chain, functions) for chain in chains]
    if not given and (gold := task.gold(problem, functions)):
        given = [play(task, functions, problem, gold)]
    usable = [chain for chain in given if _unusable(chain) is None]
    usable.sort(key=lambda chain: (not chain.right_for_the_right_reason, chain.key))
    return Original(task, functions, problem, tuple(usable), dialect)


def _in_python(chain: Chain, functions: FunctionSet) -> Chain:
    """The chain with its calls in Python syntax, which is what operations read and write."""
    said = DIALECTS[chain.dialect].as_python
    if chain.dialect == "python":
        return chain
    steps = [s.model_copy(update={"reply": said(s.reply, functions)}) for s in chain.steps]
    return chain.model_copy(update={"dialect": "python", "steps": tuple(steps)})


def _unusable(chain: Chain) -> str | None:
    """Why nothing can be made of a chain."""
    if chain.outcome is Outcome.ERRORED:
        return "errored"
    return None if chain.steps and not chain.maybe_cut else "cut within a reply, or without one"


def carry_out(
    original: Original, name: str, operation: Operation, rng: Random, number: int | str = 1
) -> Made:
    """The variant that an operation proposes, its chains executed and judged. `number` tells its
    problem from other variants by the same operation.

    Raises `Rejected` if it proposes none or execution does not bear it out: the task refutes the
    label or nothing shows it, a right chain comes out wrong, nothing has changed, or what should be
    wrong is right. Raises `DefinitionError` if the operation fails or gives something else.
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
    if variant.corrupts:
        return Made(problem, _still_wrong(chains), variant.left_out)
    kept = _borne_out(original, chains)
    if proved is None and not _label_shown(original, variant, problem, kept):
        raise Rejected("nothing shows that the label is right")
    return Made(problem, kept, variant.left_out)


def _proposed(original: Original, name: str, operation: Operation, rng: Random) -> Variant:
    try:
        made: object = operation(original, rng)
    except Rejected:
        raise
    except Exception as error:
        raise DefinitionError(
            f"operation {name} failed on problem {original.problem.id}",
            value=f"{type(error).__name__}: {error}",
            remedy="It raises Rejected(reason) where it makes nothing of a problem.",
        ) from error
    if not isinstance(made, Variant):
        raise DefinitionError(
            f"operation {name} gave no Variant of problem {original.problem.id}",
            value=type(made).__name__,
            remedy="It returns a rightcall.augment.Variant, or raises Rejected(reason).",
        )
    _check_replies(original, name, made)
    return made


def _check_replies(original: Original, name: str, variant: Variant) -> None:
    known = {chain.key for chain in original.chains}
    for key, replies in variant.replies.items():
        if key not in known:
            raise DefinitionError(
                f"operation {name} gave replies of a chain that problem {original.problem.id} has not",
                value=key,
                remedy="Variant.replies goes by the keys of original.chains.",
            )
        if isinstance(replies, str) or not all(isinstance(reply, str) for reply in replies):
            raise DefinitionError(
                f"operation {name} gave replies of problem {original.problem.id} that are no texts",
                value=replies,
                remedy="Variant.replies has a list of texts for each chain.",
            )


def _placed(original: Original, variant: Variant, name: str, number: int | str) -> Problem:
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
        setting = Setting(
            original.task, functions, source, budget=_BUDGET, seed=old.seed, dialect=original.dialect
        )
        origin = Origin(operation=name, parent=key, root=original.problem.root)
        job = Job(problem, number, origin=origin)
        model = f"{old.model}~{name}" if variant.corrupts else old.model
        player = Replay({chain_key(setting, model, job): replies}, name=model)
        chain = next(rollouts(setting, player, [job]))
        # `chain_key` knows nothing of replies, and several variants may be of one problem.
        yield chain.model_copy(update={"key": digest(chain.key, *replies)})


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


def _label_shown(
    original: Original, variant: Variant, problem: Problem, chains: Iterable[Chain]
) -> bool:
    """Whether a label that the task cannot prove is the original's, or is what a right chain or the
    variant's gold chain leads to."""
    old = original.problem
    if (problem.question, problem.answer) == (old.question, old.answer):
        return True
    if any(chain.right_for_the_right_reason for chain in chains):
        return True
    functions = variant.functions or original.functions
    gold = original.task.gold(problem, functions)
    return bool(gold) and play(original.task, functions, problem, gold).right_for_the_right_reason


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


def _variants(
    originals: Iterable[Original],
    config: AugmentConfig,
    operations: Mapping[str, Operation],
    counts: Mapping[str, _Count],
    forbidden: Callable[[Problem], bool],
) -> Iterator[Made]:
    """Every variant of every problem, in the order of the problems and of the config's operations."""
    for original in originals:
        seen: set[str] = set()
        for name, operation in operations.items():
            count, ratio = counts[name], config.operations[name]
            rng = Random(seed_of("augment", config.seed, name, original.problem.id))
            wanted = int(ratio) + (rng.random() < ratio % 1)
            for number in range(1, wanted + 1):
                count.asked += 1
                try:
                    made = carry_out(original, name, operation, rng, f"{config.seed}.{number}")
                    _check_new(made, seen, forbidden)
                except Rejected as reason:
                    count.rejected[str(reason)] += 1
                    continue
                count.add(made)
                yield made


def _check_new(made: Made, seen: set[str], forbidden: Callable[[Problem], bool]) -> None:
    if forbidden(made.problem):
        raise Rejected("it is a test question")
    said = digest([[c.prompt, c.schemas, [s.reply for s in c.steps]] for c in made.chains])
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
    dialect: str = "python",
) -> AugmentReport:
    """Variants of the problems that have chains: their chains into `out`, and the problems themselves
    into `problems_out`. What is in these files already stays, and is not written again; if anything
    fails, both are as they were.

    Chains of problems that are not given, or in another dialect, are passed over, and counted. Raises
    `DataError` if no chain is left, if a problem is a relative of a test problem, or if a file holds
    another question under the id of a new one; a variant that asks a test question is rejected.
    """
    held = list(test)
    asked = {normalised(problem.question) for problem in held}
    roots = {problem.root for problem in held}
    known = {problem.id: problem for problem in problems}
    _check_relatives(known.values(), roots)
    named = {name: load_operation(task, name) for name in config.operations}
    operations = {name: made for name, made in named.items() if config.operations[name]}
    counts = {name: _Count() for name in config.operations}
    passed_over: Counter[str] = Counter()
    with ByProblem() as kept:
        for chain in chains:
            why = _passed_over(chain, task, functions, known, dialect)
            if why is None and not kept.put(chain):
                why = "given twice"
            if why is not None:
                passed_over[why] += 1
        places = kept.problems()
        if not places:
            raise DataError(
                f"no chain can be augmented: none is of one of the {len(known)} problems",
                value=dict(passed_over),
                remedy="Give the task, options, split, number of problems and seed that they were "
                "collected with, or a file of their problems.",
            )

        originals = (
            original_of(task, functions, known[id], kept.chains(name, id), dialect)
            for name, id in places
        )
        made = _variants(
            originals, config, operations, counts, lambda p: normalised(p.question) in asked
        )
        _write(made, Path(out), Path(problems_out) if problems_out else None)
    return AugmentReport(
        operations={name: count.tally() for name, count in counts.items()},
        originals=len(places),
        passed_over=dict(passed_over.most_common()),
    )


def _passed_over(
    chain: Chain,
    task: Task,
    functions: FunctionSet,
    known: Mapping[str, Problem],
    dialect: str,
) -> str | None:
    """Why a given chain is not used."""
    if chain.task != task.name:
        return "of another task"
    if (problem := known.get(chain.problem_id)) is None:
        return "of a problem that is not given"
    if chain.prompt[-1]["content"] != problem.question:
        return "of another question under a problem's id"
    if chain.dialect != dialect:
        return "in another dialect"
    if chain.source == CORRUPTED:
        return "corrupted before"
    if chain.renamed != functions.task_names:
        return "of functions under other names"
    return _unusable(chain)


def _check_relatives(problems: Iterable[Problem], roots: set[str]) -> None:
    for problem in problems:
        if problem.root in roots:
            raise DataError(
                "a problem to be augmented is a relative of a test problem",
                value=problem.id,
                remedy="Augment the problems of the train split only.",
            )


def _write(made: Iterable[Made], out: Path, problems_out: Path | None) -> None:
    """Add what is not there yet, all of it or nothing. Corruptions are of problems that are there
    already: these are not written again."""
    store, known = ChainStore(out), set[str]()
    asked = {chain.problem_id: digest(chain.prompt[-1]["content"]) for chain in store.latest()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        problems_file = None
        if problems_out is not None:
            problems_file = opened.enter_context(whole(problems_out))
            for problem in read_lines(problems_out, Problem):
                problems_file.write(f"{problem.model_dump_json()}\n")
                asked[problem.id] = digest(problem.question)
                known.add(problem.id)
        part = opened.enter_context(
            NamedTemporaryFile("w", encoding="utf-8", dir=out.parent, prefix=f"{out.name}.")
        )
        for one in made:
            _check_same(one.problem, asked)
            part.writelines(f"{chain.model_dump_json()}\n" for chain in one.chains)
            new = one.chains[0].source != CORRUPTED and one.problem.id not in known
            if new and problems_file is not None:
                problems_file.write(f"{one.problem.model_dump_json()}\n")
        part.flush()
        store.merge([ChainStore(part.name)])


def _check_same(problem: Problem, asked: Mapping[str, str]) -> None:
    """Is a problem the one that a file has under its id already, if there is any? Operations may go by
    a problem's chains: of others they make other variants under the same ids."""
    if asked.get(problem.id, found := digest(problem.question)) != found:
        raise DataError(
            "the files to be added to hold another question under the id of a new one",
            value=problem.id,
            remedy="Write to other files, or draw other variants (--draw, the config's seed).",
        )
