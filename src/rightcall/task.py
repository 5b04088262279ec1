"""Task: problems, functions, prompt and verdict; and how to load one by name or from a file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from rightcall.chain import Chain, Judgement, Problem, digest
from rightcall.errors import ConfigError, DefinitionError, RightCallError, nearest
from rightcall.functions import Function, FunctionSet, State, States

SPLITS = ("train", "validation", "test")
BUDGETS = (10, 20)
"""The paper's step budgets."""


@dataclass(frozen=True)
class Proved:
    """A gold answer was shown to be right."""


@dataclass(frozen=True)
class Refuted:
    """A gold answer was shown to be wrong."""

    reason: str


class Task(ABC):
    """Problems with checkable answers and the functions to reason about them.

    Subclass it, set the class attributes, write `problems`; override `verify` where equality of
    stripped text is not the right comparison, and `judge` where the process can be checked too.
    """

    name: str
    instruction: str
    """What the model is told to do, above the functions."""
    functions: Sequence[Function]
    subsets: dict[str, tuple[str, ...]] = {}
    """Named selections of function names that a run may choose, besides "all"."""
    default_subset: str = "all"
    budgets: tuple[int, ...] = BUDGETS
    """Step budgets, ascending, under which a model is evaluated unless it is said otherwise; a chain
    may take the largest. Right chains must fit it."""
    operations: Mapping[str, Callable[..., Any]] = {}
    """Name → what augmentation may do with this task's problems and chains: each is an
    `rightcall.augment.Operation`."""
    proof: str = "labels proved"
    """What `prove` shows, as `tasks check` names it."""

    @abstractmethod
    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """Problems of a split: the same arguments give the same problems, and the splits share no
        question. `count=None` gives all there are; where they are generated without end, it raises
        `EndlessSplit`."""

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether an answer is right."""
        return answer.strip() == problem.answer.strip()

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """How the answer was reached, where the task can tell. Called for finished chains."""
        del problem, chain
        return Judgement()

    def counterfactual(self, problem: Problem, chain: Chain, step: int) -> str | None:
        """Another value that the step of this index could as well have been answered with, in place of
        its observation (see `rightcall.conduct.counterfactual`). None leaves the choice to the default;
        the observation's own text says that there is no other."""
        del problem, chain, step
        return None

    def states(self, problem: Problem) -> Sequence[State]:
        """What functions find when a chain of this problem begins, for those that need to know the
        problem, such as one that reads it out. Any other state begins empty."""
        del problem
        return ()

    def begin(self, problem: Problem) -> States:
        """The states of a new chain. Raises `DefinitionError` if `states` fails."""
        with task_errors(self, problem, "states"):
            return {type(made): made for made in self.states(problem)}

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """A check of the gold answer that does not use the gold chain (for `tasks check`); None where
        the task cannot tell."""
        del problem
        return None

    def gold(self, problem: Problem, functions: FunctionSet) -> Sequence[str]:
        """A right chain that uses these functions alone; empty if none is known. By default the
        problem's own, if it needs no other function of the task."""
        others = {made.name for made in self.functions} - functions.by_name.keys()
        return () if others & {_called(text) for text in problem.gold} else problem.gold

    def report(self, problems: Sequence[Problem]) -> dict[str, int | float]:
        """Figures about problems that `tasks check` prints beside its findings: a count as an int, a
        share as a float in [0, 1]."""
        del problems
        return {}

    def function_set(self, subset: str | Sequence[str] | None = None) -> FunctionSet:
        """The functions of a named subset, of a list of names, or the task's default."""
        chosen = subset or self.default_subset
        everything = FunctionSet(self.functions)
        if chosen == "all":
            return everything
        if isinstance(chosen, str):
            if chosen not in self.subsets:
                raise DefinitionError(
                    f"task {self.name} has no function subset of that name",
                    value=chosen,
                    remedy=nearest(chosen, ["all", *self.subsets]),
                )
            chosen = self.subsets[chosen]
        return everything.subset(chosen)

    @property
    def fingerprint(self) -> str:
        return digest(self.name, self.instruction)


BUILT_IN = {
    "fol": "rightcall.tasks.fol:FolTask",
    "math": "rightcall.tasks.math:MathTask",
    "rules": "rightcall.tasks.rules:RulesTask",
    "proofwriter": "rightcall.tasks.rules:ProofWriterTask",
    "prontoqa": "rightcall.tasks.rules:ProntoQaTask",
    "gsm8k": "rightcall.tasks.gsm8k:Gsm8kTask",
    "multiarith": "rightcall.tasks.multiarith:MultiArithTask",
    "aqua": "rightcall.tasks.aqua:AquaTask",
    "folio": "rightcall.tasks.folio:FolioTask",
    "logical_entailment": "rightcall.tasks.logical_entailment:LogicalEntailmentTask",
    "reasoning_gym": "rightcall.tasks.reasoning_gym:ReasoningGymTask",
}
"""Name → where its class is. To add a task to the package: write its file and one line here."""

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-fol": ("fol", {"words": 32, "made_up": 0.0}),
    "tiny-math": (
        "math",
        {
            "families": (
                "shopping savings sharing travel discount profit garden tickets comparison packing"
                " wages reading"
            ).split(),
            "steps": (2, 5),
        },
    ),
}
"""Name → a built-in task with options. The tiny ones are the problems that the shipped tiny models
were trained for and know: a small vocabulary, since copying words never seen is the hard part at
their size, and twelve kinds of stories."""


def load_task(spec: str, **options: Any) -> Task:
    """A task by built-in name (`"fol"`) or preset (`"tiny-fol"`), by `path/to/file.py:Class`, or by
    `module:Class`.

    `options` go to the task's constructor, over those of a preset. Raises `ConfigError` for options
    that it does not take, `DefinitionError` for a task that is not there or wrongly defined.
    """
    if spec in PRESETS:
        name, given = PRESETS[spec]
        return load_task(name, **{**given, **options})
    return _made(spec, _task_class(spec), options)


def step_budgets(spec: str) -> tuple[int, ...]:
    """`Task.budgets` of a task by the names that `load_task` takes, without making it. Raises
    `DefinitionError`."""
    name, _ = PRESETS.get(spec, (spec, {}))
    return _task_class(name).budgets


def _task_class(spec: str) -> type[Task]:
    """The class of a task, by built-in name, `path/to/file.py:Class` or `module:Class`. Raises
    `DefinitionError`."""
    target = BUILT_IN.get(spec, spec)
    if ":" not in target:
        raise DefinitionError(
            "unknown task",
            value=spec,
            remedy=f"{nearest(spec, [*BUILT_IN, *PRESETS])} Your own: path/to/file.py:ClassName.",
        )
    place, _, attribute = target.rpartition(":")
    module = load_module(place)
    made = getattr(module, attribute, None)
    if not (isinstance(made, type) and issubclass(made, Task)):
        tasks = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Task)]
        raise DefinitionError(
            f"{place} has no Task of that name", value=attribute, remedy=nearest(attribute, tasks)
        )
    _check_class(made)
    return made


def _check_class(made: type[Task]) -> None:
    for name, remedy in {
        "name": 'For example name = "sums".',
        "instruction": "It is what the model is told to do.",
        "functions": "List the functions that a model may call: functions = (add, stop).",
    }.items():
        if not hasattr(made, name):
            raise DefinitionError(f"task {made.__name__} has no {name}", remedy=remedy)
    if missing := sorted(made.__abstractmethods__):
        raise DefinitionError(
            f"task {made.__name__} lacks a method", value=missing[0], remedy="Write it: see `Task`."
        )
    budgets: Any = made.budgets
    numbers = _is_list(budgets) and budgets and all(type(b) is int and b > 0 for b in budgets)
    if not numbers or list(budgets) != sorted(set(budgets)):
        raise DefinitionError(
            f"budgets of task {made.__name__} are not ascending numbers of steps",
            value=budgets,
            remedy="For example budgets = (10, 20).",
        )
    listed = inspect.getattr_static(made, "functions")
    others = [one for one in listed if not isinstance(one, Function)] if _is_list(listed) else []
    if others:
        raise DefinitionError(
            f"functions of task {made.__name__} holds something else",
            value=others[0],
            remedy="Put @function(...) above each of them.",
        )


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _made(spec: str, kind: type[Task], options: Mapping[str, Any]) -> Task:
    """An instance. The constructor's own errors are told apart from options that it does not take."""
    taken = inspect.signature(kind)
    try:
        taken.bind(**options)
    except TypeError as error:
        known = [name for name in taken.parameters if name not in options]
        unknown = next((name for name in options if name not in taken.parameters), None)
        raise ConfigError(
            f"task {spec} does not take these options: {error}",
            value=dict(options),
            remedy=nearest(unknown, known) if unknown and known else "",
        ) from error
    _check_options(spec, kind, options)
    try:
        return kind(**options)
    except RightCallError:
        raise
    except Exception as error:
        raise DefinitionError(
            f"the constructor of task {spec} failed ({_place_of(error)})",
            value=f"{type(error).__name__}: {error}",
        ) from error


def _check_options(spec: str, kind: type[Task], options: Mapping[str, Any]) -> None:
    """Hold options to the constructor's annotations, where it has any."""
    try:
        hints = get_type_hints(kind.__init__)
    except NameError:  # a type that is there for type checkers alone
        return
    for name, value in options.items():
        if name in hints and (fault := _misfit(hints[name], value)) is not None:
            raise ConfigError(
                f"option {name} of task {spec} is wrong",
                value=value,
                remedy=f"{fault} ({_declared(hints[name])}).",
            )


def _misfit(hint: Any, value: object) -> str | None:
    """Why a value is not of a type: options are handed on as they are, so a text is no number."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        read = adapter.validate_python(value)
    except PydanticUserError:  # a type of which pydantic knows nothing
        return None
    except ValidationError as error:
        return str(error.errors(include_url=False)[0]["msg"])
    return "It is a text" if isinstance(value, str) and read != value else None


@contextmanager
def task_errors(task: Task, problem: Problem, method: str, answer: str | None = None) -> Iterator[None]:
    """An error of a task's own method becomes a `DefinitionError` that names what it was called with:
    answers are a model's, and a task must stand any text."""
    try:
        yield
    except RightCallError:
        raise
    except Exception as error:
        value = f"problem {problem.id}" + ("" if answer is None else f", answer {answer[:200]!r}")
        raise DefinitionError(
            f"{method} of task {task.name} failed with {type(error).__name__}: {error}"
            f" ({_place_of(error)})",
            value=value,
            remedy="Mend the task: it must stand any answer that a model may give.",
        ) from error


def _declared(hint: Any) -> str:
    return (
        hint.__name__ if type(hint) is type else re.sub(r"\b(collections\.abc|typing)\.", "", str(hint))
    )


def _called(text: str) -> str:
    """The name of the function that a gold call calls."""
    found = re.match(r"\s*(\w+)\s*\(", text)
    return found[1] if found else ""


def _place_of(error: BaseException) -> str:
    """Where a user's file failed: `my_task.py, line 7`."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def load_module(place: str) -> Any:
    """A user's file, where the name ends with `.py`, or an installed module. Raises `DefinitionError`
    that names the file's own fault."""
    return _module_from_file(Path(place)) if place.endswith(".py") else _imported(place)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there; what it imports itself is not
        raise DefinitionError(
            "no such module", value=name, remedy="A file is written path/to/file.py:ClassName."
        ) from error


def _module_from_file(path: Path) -> Any:
    if not path.is_file():
        raise DefinitionError("no such file", value=str(path))
    name = f"rightcall_task_{path.stem}_{digest(str(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DefinitionError("not a Python file", value=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except RightCallError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise DefinitionError(
            f"the file cannot be imported ({_place_of(error)})",
            value=f"{type(error).__name__}: {getattr(error, 'msg', error)}",
        ) from error
    except BaseException:
        del sys.modules[name]
        raise
    return module
