"""Task: problems, functions, prompt and verdict; and how to load one by name or from a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rightcall.chain import Chain, Judgement, Problem, digest
from rightcall.errors import DefinitionError, nearest
from rightcall.functions import Function, FunctionSet

SPLITS = ("train", "validation", "test")


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

    @abstractmethod
    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """Problems of a split: the same arguments give the same problems, and the splits share no
        question. `count=None` gives all there are (an endless generator may refuse)."""

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether an answer is right."""
        return answer.strip() == problem.answer.strip()

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """How the answer was reached, where the task can tell. Called for finished chains."""
        del problem, chain
        return Judgement()

    def prove(self, problem: Problem) -> str | None:
        """A check of the gold answer that does not use the gold chain (for `tasks check`): None if
        the label holds or cannot be checked, otherwise what is wrong."""
        del problem
        return None

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
    "gsm8k": "rightcall.tasks.gsm8k:Gsm8kTask",
}
"""Name → where its class is. To add a task to the package: write its file and one line here."""


def load_task(spec: str, **options: Any) -> Task:
    """A task by built-in name (`"fol"`), by `path/to/file.py:Class`, or by `module:Class`.

    `options` go to the task's constructor.
    """
    target = BUILT_IN.get(spec, spec)
    if ":" not in target:
        raise DefinitionError(
            "unknown task",
            value=spec,
            remedy=f"{nearest(spec, BUILT_IN)} Your own: path/to/file.py:ClassName.",
        )
    place, _, attribute = target.rpartition(":")
    module = _module_from_file(Path(place)) if place.endswith(".py") else _imported(place)
    made = getattr(module, attribute, None)
    if not (isinstance(made, type) and issubclass(made, Task)):
        tasks = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Task)]
        raise DefinitionError(
            f"{place} has no Task of that name", value=attribute, remedy=nearest(attribute, tasks)
        )
    try:
        return made(**options)
    except TypeError as error:
        raise DefinitionError(
            f"task {spec} does not take these options: {error}", value=options
        ) from error


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
        raise DefinitionError("no such task file", value=str(path))
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
    except BaseException:
        del sys.modules[name]
        raise
    return module
