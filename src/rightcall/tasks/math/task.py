"""The task `math`: generated word problems, solved with exact functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import islice

from rightcall.chain import Chain, Judgement, Problem
from rightcall.errors import ConfigError, nearest
from rightcall.functions import Function, FunctionSet
from rightcall.task import SPLITS, Task
from rightcall.tasks.math.answers import same_value
from rightcall.tasks.math.expressions import compute, parse
from rightcall.tasks.math.families import FAMILIES
from rightcall.tasks.math.functions import TRUSTED
from rightcall.tasks.math.generator import stream
from rightcall.tasks.math.numbers import show
from rightcall.tasks.math.plans import Numbers, evidence, read_plan, same_plan

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

    `steps`: lowest and highest number of calculations. `families`: names from `FAMILIES`, all by
    default.
    """

    name = "math"
    instruction = "Solve the problem. Do each calculation with a function, then stop with the answer."
    default_subset = "arithmetic"

    def __init__(self, steps: Sequence[int] = (2, 6), families: Sequence[str] | None = None) -> None:
        if len(steps) != 2:
            raise ConfigError("steps needs two numbers", value=steps, remedy="For example (2, 6).")
        self.steps = (int(steps[0]), int(steps[1]))
        self.families = families

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        if split not in SPLITS:
            raise ConfigError("unknown split", value=split, remedy=nearest(split, SPLITS))
        return islice(stream(seed, split, steps=self.steps, families=self.families), count)

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """Right if the plan gives the right answer for other numbers too (see `plans`)."""
        numbers = Numbers.of(problem.question, FAMILIES[problem.metadata["family"]].constants)
        plan = read_plan(chain.steps, chain.answer)
        said, measures = evidence(plan, numbers)
        if not plan.answer:
            return Judgement(
                process_correct=False,
                evidence=(*said, "There is no numeric answer."),
                measures=measures,
            )
        right = same_plan(plan, numbers, _gold_on_trials(problem, numbers))
        verdict = "is right" if right else "is wrong"
        return Judgement(
            process_correct=right,
            measures=measures,
            evidence=(f"With other numbers in the question the plan {verdict}.", *said),
        )

    def prove(self, problem: Problem) -> str | None:
        """The gold expression, computed apart from the gold calls, must give the answer."""
        given = {name: Fraction(text) for name, text in problem.metadata["numbers"].items()}
        value = compute(parse(problem.metadata["expression"], names=True), given)
        return None if show(value) == problem.answer else f"the expression gives {show(value)}"


def _gold_on_trials(problem: Problem, numbers: Numbers) -> list[Fraction]:
    """The gold expression's value for each trial; its names are matched to the text's numbers by
    value, which is unique in generated problems."""
    label = {value: name for name, value in numbers.values.items()}
    names = {name: label[Fraction(text)] for name, text in problem.metadata["numbers"].items()}
    tree = parse(problem.metadata["expression"], names=True)
    return [
        compute(tree, {name: values[label] for name, label in names.items()})
        for values in numbers.trials()
    ]
