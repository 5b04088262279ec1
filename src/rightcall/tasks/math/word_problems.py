"""What the tasks share whose word problems people wrote: the functions, and the judgement of a plan
by the calculations that the data has for a problem, if it has any.

Numbers may be written as words there, or be common knowledge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fractions import Fraction

from rightcall.chain import Chain, Judgement, Problem
from rightcall.errors import CallError
from rightcall.leaks import NUMBER_WORDS
from rightcall.tasks.math.answers import values as answer_values
from rightcall.tasks.math.expressions import compute, parse
from rightcall.tasks.math.numbers import decimals, show
from rightcall.tasks.math.plans import (
    Calculation,
    Numbers,
    Plan,
    evidence,
    read_plan,
    readings,
    rerun,
    same_plan,
    unused,
)
from rightcall.tasks.math.task import ExactMath

_CONSTANTS = (1, 2, 3, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)
"""Numbers that need no source in the question: units of time and measure, halves, percentages."""
_WORDS = {word: Fraction(value) for word, value in NUMBER_WORDS.items()} | {
    "half": Fraction(1, 2),
    "quarter": Fraction(1, 4),
    "fifth": Fraction(1, 5),
}


class WordProblems(ExactMath):
    """Judges plans by `metadata["annotations"]`: pairs of an expression and its result, as texts; an
    empty list, or nothing, where none are known."""

    instruction = "Solve the problem. Do each calculation with a function, then stop with the answer."
    default_subset = "calculator"

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """Right if the plan is the gold plan in other words (see `rightcall.tasks.math.plans`);
        wrong if the answer is no call's result; unknown for any other plan.

        Wrong steps are a stop with what no call gave and, in a plan that is right without them, the
        calculations that are used for nothing. Of wrong plans nothing more is known: a number that
        the question does not hold may be common knowledge.
        """
        numbers = numbers_of(problem.question)
        plan = read_plan(chain.steps, chain.answer)
        said, measures = evidence(plan, numbers)
        gold = _gold_on_trials(problem, numbers)
        process: bool | None = None
        wrong: tuple[int, ...] = ()
        if measures["answer_from_call"] < 1:
            process = False
            wrong = () if chain.answer is None else (len(chain.steps) - 1,)
        elif gold is not None and same_plan(plan, numbers, gold):
            process = True
            wrong = tuple(plan.steps[index] for index in unused(plan))
            said = ("With other numbers in the question the plan agrees with the gold plan.", *said)
        return Judgement(process_correct=process, evidence=said, measures=measures, wrong_steps=wrong)


def value_of(expression: str) -> Fraction | None:
    """What an expression comes to; None if it cannot be computed."""
    try:
        return compute(parse(expression))
    except CallError:
        return None


def stop_call(answer: Fraction) -> str:
    """The gold call that ends with a number: a fraction needs quotes."""
    return f"stop({show(answer) if decimals(answer) is not None else json.dumps(show(answer))})"


def numbers_of(question: str) -> Numbers:
    """The numbers of a question: its own, in digits and words, and those of common knowledge."""
    return Numbers.of(question, (*_CONSTANTS, *_words_in(question)))


def _words_in(question: str) -> Iterator[Fraction]:
    """The numbers that a question writes as words."""
    for word in re.findall(r"[a-z]+", question.lower()):
        if word in _WORDS:
            yield _WORDS[word]


def _gold_on_trials(problem: Problem, numbers: Numbers) -> list[Fraction] | None:
    """The gold plan's answers for other numbers in the question; None if the annotations are no
    plan: one is unreadable, or none gives the answer."""
    annotations = problem.metadata.get("annotations", ())
    calculations = [
        Calculation(parse(left), value)
        for left, _ in annotations
        if (value := value_of(left)) is not None
    ]
    plan = Plan(tuple(calculations), answer_values(problem.answer))
    reading = next(readings(plan, numbers), None)
    if reading is None or len(calculations) < len(annotations):
        return None
    try:
        return [rerun(plan, reading, values) for values in numbers.trials()]
    except CallError:
        return None
