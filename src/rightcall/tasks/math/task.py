"""The task `math`: generated word problems, solved with exact functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import islice

from rightcall.chain import Call, Chain, Judgement, Problem
from rightcall.errors import ConfigError, EndlessSplit, nearest
from rightcall.functions import Function, FunctionSet, parse_calls
from rightcall.task import SPLITS, Proved, Refuted, Task
from rightcall.tasks.math.answers import same_value
from rightcall.tasks.math.augmentation import renumber
from rightcall.tasks.math.expressions import Tree, compute, parse
from rightcall.tasks.math.families import FAMILIES
from rightcall.tasks.math.functions import TRUSTED
from rightcall.tasks.math.generator import check_choice, stream
from rightcall.tasks.math.numbers import show
from rightcall.tasks.math.plans import (
    MAX_BLAMED,
    Numbers,
    answer_sources,
    evidence,
    off_plan,
    read_plan,
    same_plan,
    unsourced,
)
from rightcall.tasks.math.renaming import rename

SUBSETS: dict[str, tuple[str, ...]] = {
    "arithmetic": ("add", "subtract", "multiply", "divide", "percent_of", "stop"),
    "calculator": ("calculate", "reason", "stop"),
}


class ExactMath(Task):
    """What the tasks with exact functions share: the functions, and answers compared as values."""

    subsets = SUBSETS

    @cached_property
    def functions(self) -> Sequence[Function]:  # type: ignore[override]  # made when first needed
        from rightcall.tasks.math.equations import solve_equation

        return (*TRUSTED[:-2], solve_equation, *TRUSTED[-2:])

    def function_set(self, subset: str | Sequence[str] | None = None) -> FunctionSet:
        chosen = subset or self.default_subset
        names = self.subsets.get(chosen, ()) if isinstance(chosen, str) else chosen
        if names and {f.name for f in TRUSTED}.issuperset(names):
            return FunctionSet(TRUSTED).subset(names)
        return super().function_set(chosen)

    def verify(self, problem: Problem, answer: str) -> bool:
        return same_value(problem.answer, answer)


class MathTask(ExactMath):
    """Multi-step word problems from a seed, without end.

    `steps`: lowest and highest number of calculations. `families`: names from `FAMILIES` (or one of
    them), all by default.
    """

    name = "math"
    operations = {"renumber": renumber, "rename": rename}
    instruction = "Solve the problem. Do each calculation with a function, then stop with the answer."
    default_subset = "arithmetic"

    def __init__(
        self, steps: Sequence[int] = (2, 6), families: str | Sequence[str] | None = None
    ) -> None:
        if len(steps) != 2:
            raise ConfigError("steps needs two numbers", value=steps, remedy="For example [2, 6].")
        self.steps = (int(steps[0]), int(steps[1]))
        self.families = [families] if isinstance(families, str) else families
        check_choice(self.steps, self.families)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        if split not in SPLITS:
            raise ConfigError("unknown split", value=split, remedy=nearest(split, SPLITS))
        if count is None:
            raise EndlessSplit(
                "math problems are generated without end", remedy="Say how many you want."
            )
        return islice(stream(seed, split, steps=self.steps, families=self.families), count)

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """Right if the plan gives the right answer for other numbers too (see `plans`).

        Wrong steps are those whose call holds a number from nowhere, those whose result is used for
        nothing and is no part of the gold plan, and a stop with what no call gave or with what is
        only a part of the gold plan. A used result that is no part of the gold plan may be another
        way to the same end: of that nothing is said, nor of a problem without a gold plan.
        """
        if not problem.metadata.keys() >= _GOLD_PLAN:
            return Judgement()
        numbers = Numbers.of(problem.question, FAMILIES[problem.metadata["family"]].constants)
        plan = read_plan(chain.steps, chain.answer)
        said, measures = evidence(plan, numbers)
        gold, *parts = _gold_on_trials(problem, numbers)
        if not plan.answer:
            said, right = (*said, "There is no numeric answer."), False
        else:
            right = same_plan(plan, numbers, gold)
            verdict = "is right" if right else "is wrong"
            said = (f"With other numbers in the question the plan {verdict}.", *said)
        few = len(plan.calculations) <= MAX_BLAMED
        if not few:
            said = (*said, f"Of more than {MAX_BLAMED} calculations it is not said which are a waste.")
        blamed = set(off_plan(plan, numbers, [gold, *parts])) if few else set()
        if not right:  # a right plan has put them in the place of numbers that are there
            blamed |= {index for index, _ in unsourced(plan, numbers)}
        wrong = {plan.steps[index] for index in blamed}
        short = not right and any(same_plan(plan, numbers, part) for part in parts)
        if short:
            said = (*said, "The answer is only a part of the way.")
        if chain.answer is not None and (short or not answer_sources(plan)):
            wrong.add(len(chain.steps) - 1)
        return Judgement(
            process_correct=right,
            measures=measures,
            evidence=said,
            wrong_steps=tuple(sorted(wrong)),
        )

    def gold(self, problem: Problem, functions: FunctionSet) -> Sequence[str]:
        """With `calculate` alone the same calculations, each as an expression."""
        if "calculate" not in functions.by_name or "stop" not in functions.by_name:
            return super().gold(problem, functions)
        calls = [call for text in problem.gold for call in parse_calls(text)]
        return tuple(
            str(call) if call.name in functions.by_name else f'calculate("{_as_expression(call)}")'
            for call in calls
        )

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """The gold expression, computed apart from the gold calls, must give the answer."""
        if not problem.metadata.keys() >= _GOLD_PLAN:
            return None
        given = {name: Fraction(text) for name, text in problem.metadata["numbers"].items()}
        value = compute(parse(problem.metadata["expression"], names=True), given)
        right = show(value) == problem.answer
        return Proved() if right else Refuted(f"the expression gives {show(value)}")


_GOLD_PLAN = {"family", "expression", "numbers"}
"""The metadata of a generated problem; one out of a log has none."""
_WRITTEN = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "percent_of": "{}% * {}",
}
"""Function → the same calculation as an expression."""


def _as_expression(call: Call) -> str:
    return _WRITTEN[call.name].format(*call.args)


def _gold_on_trials(problem: Problem, numbers: Numbers) -> list[list[Fraction]]:
    """The values of the gold expression for each trial, then those of its parts; its names are
    matched to the text's numbers by value, which is unique in generated problems."""
    label = {value: name for name, value in numbers.values.items()}
    names = {name: label[Fraction(text)] for name, text in problem.metadata["numbers"].items()}
    trials = [{name: values[label] for name, label in names.items()} for values in numbers.trials()]
    parts = _parts(parse(problem.metadata["expression"], names=True))
    return [[compute(part, values) for values in trials] for part in parts]


def _parts(tree: Tree) -> list[Tree]:
    """An expression and all calculations in it, the whole first."""
    if not isinstance(tree, tuple):
        return []
    return [tree, *(part for operand in tree[1:] for part in _parts(operand))]
