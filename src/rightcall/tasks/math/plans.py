"""Whether a chain's calculations are a right plan: does it still give the right answer when the
numbers of the problem change?

Each argument of a call is traced to its source: a number of the question, an earlier result, or an
allowed constant. The traced plan is then run again with other numbers for the question, and so is
the gold plan: two plans that agree there on all trials are the same calculation written in another
way (they are rational functions, which agree at random points only if they are equal), and an
answer that came out right by luck does not agree. Where a value has several possible sources every
combination is tried, up to `MAX_READINGS`, and the most favourable one counts.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice, product
from typing import Literal

from rightcall.chain import Call, Step
from rightcall.errors import CallError
from rightcall.functions import Function, bind
from rightcall.tasks.math.answers import values as answer_values
from rightcall.tasks.math.expressions import Tree, compute, parse, split_equation
from rightcall.tasks.math.functions import TRUSTED
from rightcall.tasks.math.numbers import decimals, read_number, rounded, show

MAX_READINGS = 64
MAX_BLAMED = 100
"""Calculations of a plan of which it is looked at one by one whether they are a waste."""
_TRIALS: tuple[tuple[int, ...], ...] = (
    (1009, 337, 601, 89, 4211, 151, 733, 263, 3019, 43, 2053, 571, 197, 811, 109, 5003),
    (67, 2003, 131, 907, 359, 3511, 59, 1301, 443, 617, 83, 2711, 1601, 293, 4513, 227),
)
"""Other numbers for a question, by position: primes, so that few coincidences can occur."""
_FUNCTIONS = {made.name: made for made in TRUSTED}
_HUNDRED = Fraction(100)

Source = tuple[Literal["number", "result", "constant"], Tree]
"""Where a value comes from: a tree over the names of the question's numbers, the index of an
earlier calculation, or the constant itself."""


@dataclass(frozen=True)
class Calculation:
    """One successful call: a tree whose leaves are the numbers the model wrote, and its result."""

    tree: Tree
    result: Fraction | None
    """None where the observation is not one number."""


@dataclass(frozen=True)
class Plan:
    """The calculations of a chain and the answer it stopped with."""

    calculations: tuple[Calculation, ...]
    answer: frozenset[Fraction]
    """What the answer may mean; empty if there is none or it is no number."""
    steps: tuple[int, ...] = ()
    """Of each calculation, the index of its step in the chain."""

    @cached_property
    def by_result(self) -> dict[Fraction, list[int]]:
        """The calculations that gave a value, in their order."""
        found: dict[Fraction, list[int]] = {}
        for index, calculation in enumerate(self.calculations):
            if calculation.result is not None:
                found.setdefault(calculation.result, []).append(index)
        return found


def read_plan(steps: Sequence[Step], answer: str | None) -> Plan:
    """The plan of a chain; failed calls, notes and the stop are no calculations."""
    found = {
        index: calculation
        for index, step in enumerate(steps)
        if step.call is not None
        and step.observation.failure is None
        and (calculation := calculation_of(step.call, step.observation.text)) is not None
    }
    meant = answer_values(answer) if answer is not None else frozenset()
    return Plan(tuple(found.values()), meant, tuple(found))


def calculation_of(call: Call, observation: str) -> Calculation | None:
    """The calculation a call made; None if it made none."""
    tree = _tree(call)
    return None if tree is None else Calculation(tree, read_number(observation))


def _tree(call: Call) -> Tree | None:
    """What a call that succeeded computes, from its arguments as the function read them."""
    made = _function(call.name)
    if made is None:
        return None
    _, given = bind(made, call)
    match call.name:
        case "add" | "subtract" | "multiply" | "divide":
            return (call.name, given["a"], given["b"])
        case "percent_of":
            return ("percent", ("multiply", given["percent"], given["number"]))
        case "percent_change":
            return ("change", given["old"], given["new"])
        case "round_to":
            return ("round", given["number"], given["digits"])
        case "calculate":
            return parse(given["expression"])
        case "solve_equation":
            left, right = split_equation(given["equation"])
            return ("solve", ("subtract", left, right), given["unknown"])
    return None


def _function(name: str) -> Function | None:
    if name == "solve_equation":
        from rightcall.tasks.math.equations import solve_equation  # loads sympy

        return solve_equation
    return _FUNCTIONS.get(name)


# --- sources ------------------------------------------------------------------------------------

_IN_TEXT = re.compile(r"(?<![\d.])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:\s*/\s*(\d+))?\s*(%|percent)?")


def _named_numbers(question: str) -> tuple[dict[str, Fraction], list[tuple[Fraction, Tree]]]:
    values: dict[str, Fraction] = {}
    forms: list[tuple[Fraction, Tree]] = []

    def name(value: Fraction) -> str:
        label = f"n{len(values)}"
        values[label] = value
        forms.append((value, label))
        return label

    for match in _IN_TEXT.finditer(question):
        top = Fraction((match[1] + (match[2] or "")).replace(",", ""))
        first = name(top)
        if match[3] and int(match[3]):
            bottom = Fraction(int(match[3]))
            forms.append((top / bottom, ("divide", first, name(bottom))))
        elif match[4]:
            forms.append((top / 100, ("percent", first)))
    return values, forms


@dataclass(frozen=True)
class Numbers:
    """What a solver may use: the numbers of a question in the forms they may be written in
    (`3/4` also as 3 and as 4, `25%` also as 0.25), and constants it does not spell in digits."""

    values: Mapping[str, Fraction]
    """By fresh names, in the order of the text."""
    forms: Sequence[tuple[Fraction, Tree]]
    """A value a model may write and what it stands for."""
    constants: frozenset[Fraction]

    @classmethod
    def of(cls, question: str, constants: Sequence[int | Fraction] = ()) -> Numbers:
        values, forms = _named_numbers(question)
        return cls(values, forms, frozenset(Fraction(c) for c in constants))

    def trials(self) -> Iterator[dict[str, Fraction]]:
        """Other values for the numbers."""
        for primes in _TRIALS:
            yield {
                name: Fraction(primes[i % len(primes)] + 2 * (i // len(primes)))
                for i, name in enumerate(self.values)
            }


def sources(value: Fraction, plan: Plan, index: int, numbers: Numbers) -> list[Source]:
    """The possible sources of a value that a calculation of the plan holds, later results first (of
    these `MAX_READINGS`: no reading gets further)."""
    results = plan.by_result.get(value, [])
    before = bisect_left(results, index)
    latest = results[max(before - MAX_READINGS, 0) : before]
    found: list[Source] = [("result", i) for i in reversed(latest)]
    found += [("number", tree) for known, tree in numbers.forms if known == value]
    if value in numbers.constants:
        found.append(("constant", value))
    return found


def leaves(tree: Tree) -> list[Fraction]:
    """The numbers written in a call, from left to right."""
    if isinstance(tree, Fraction):
        return [tree]
    if not isinstance(tree, tuple):
        return []
    return [leaf for operand in tree[1:] for leaf in leaves(operand)]


# --- re-execution -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """One assignment of sources to every number of a plan and to its answer."""

    leaves: tuple[tuple[Source, ...], ...]
    """Per calculation, per leaf."""
    answer: Source


def readings(plan: Plan, numbers: Numbers) -> Iterator[Reading]:
    """Every reading of a plan in which all its used numbers have a source, the likeliest first.

    A number without a source stays itself: it makes any plan that depends on it fail the trials.
    """
    choices: list[list[Source]] = []
    shape: list[int] = []
    for index, calculation in enumerate(plan.calculations):
        written = leaves(calculation.tree)
        shape.append(len(written))
        for value in written:
            choices.append(sources(value, plan, index, numbers) or [("constant", value)])
    choices.append(answer_sources(plan))
    for chosen in islice(product(*choices), MAX_READINGS):
        rest = iter(chosen)
        yield Reading(tuple(tuple(islice(rest, n)) for n in shape), chosen[-1])


def answer_sources(plan: Plan) -> list[Source]:
    """The calculations that the answer may come from: the latest first, exact ones before those
    that the answer rounds."""
    order = [
        i for i in reversed(range(len(plan.calculations))) if plan.calculations[i].result is not None
    ]
    exact: list[Source] = [("result", i) for i in order if plan.calculations[i].result in plan.answer]
    return exact or [("result", i) for i in order if _rounds(plan.calculations[i].result, plan.answer)]


def _rounds(result: Fraction | None, answer: frozenset[Fraction]) -> bool:
    if result is None:
        return False
    return any(
        (places := decimals(value)) is not None and places < 12 and rounded(result, places) == value
        for value in answer
    )


def rerun(plan: Plan, reading: Reading, values: Mapping[str, Fraction]) -> Fraction:
    """The answer of a plan with other numbers. Raises `CallError` where it cannot be computed."""
    results: dict[int, Fraction] = {}

    def value_of(source: Source) -> Fraction:
        kind, what = source
        if kind == "result":
            return results[what]
        return compute(what, values) if kind == "number" else what

    for index in _needed(reading):
        given = iter(reading.leaves[index])
        tree = _replaced(plan.calculations[index].tree, lambda: value_of(next(given)))  # noqa: B023
        results[index] = _evaluated(tree, plan.calculations[index])
    return value_of(reading.answer)


def _needed(reading: Reading) -> list[int]:
    """The calculations that the answer rests on, each after those whose results it uses."""
    needed = {reading.answer[1]} if reading.answer[0] == "result" else set()
    for index in reversed(range(len(reading.leaves))):
        if index in needed:
            needed |= {what for kind, what in reading.leaves[index] if kind == "result"}
    return sorted(needed)


def _replaced(tree: Tree, next_value: Callable[[], Fraction]) -> Tree:
    if isinstance(tree, Fraction):
        return next_value()
    if isinstance(tree, tuple):
        return (tree[0], *(_replaced(operand, next_value) for operand in tree[1:]))
    return tree


def _evaluated(tree: Tree, original: Calculation) -> Fraction:
    match tree:
        case ("round", number, digits):
            written = leaves(original.tree)[0]
            return number if original.result == written else rounded(number, digits)
        case ("change", old, new):
            return compute(("divide", ("multiply", ("subtract", new, old), _HUNDRED), old))
        case ("solve", difference, unknown):
            return _root(difference, unknown)
    return compute(tree)


def _root(tree: Tree, unknown: str) -> Fraction:
    """The solution of tree = 0 for a tree linear in the unknown, from its values at 0, 1 and 2."""
    at = [compute(tree, {unknown: Fraction(n)}) for n in (0, 1, 2)]
    if at[1] == at[0] or at[2] - at[1] != at[1] - at[0]:
        raise CallError("not linear")
    return at[0] / (at[0] - at[1])


def same_plan(plan: Plan, numbers: Numbers, gold: Sequence[Fraction]) -> bool:
    """Whether some reading of the plan gives the gold answers of all trials."""
    return computes_one(plan, numbers, [gold])


def computes_one(plan: Plan, numbers: Numbers, golds: Sequence[Sequence[Fraction]]) -> bool:
    """Whether some reading of the plan gives the answers of all trials that one of `golds` holds."""
    wanted = {tuple(gold) for gold in golds}
    firsts = {gold[0] for gold in wanted}
    first, *rest = numbers.trials()

    def agrees(reading: Reading) -> bool:
        try:
            value = rerun(plan, reading, first)
            if value not in firsts:
                return False
            return (value, *(rerun(plan, reading, values) for values in rest)) in wanted
        except CallError:
            return False

    return any(map(agrees, readings(plan, numbers)))


def off_plan(plan: Plan, numbers: Numbers, gold: Sequence[Sequence[Fraction]]) -> list[int]:
    """Indices of unused calculations that no part of the gold plan computes: `gold` holds, for each
    part, its values of all trials. Each is a plan of its own, so that the time grows with the square
    of the number of calculations: see `MAX_BLAMED`."""

    def needed(index: int) -> bool:
        made = plan.calculations[index].result
        alone = Plan(plan.calculations[: index + 1], frozenset() if made is None else frozenset({made}))
        return computes_one(alone, numbers, gold)

    return [index for index in unused(plan) if not needed(index)]


# --- what a judgement says ----------------------------------------------------------------------


def unused(plan: Plan) -> list[int]:
    """Indices of calculations whose result neither a later call nor the answer can have used."""
    last = {value: i for i, c in enumerate(plan.calculations) for value in leaves(c.tree)}
    from_answer = {index for _, index in answer_sources(plan)}
    return [
        i
        for i, c in enumerate(plan.calculations)
        if i not in from_answer and (c.result is None or last.get(c.result, -1) <= i)
    ]


def unsourced(plan: Plan, numbers: Numbers) -> list[tuple[int, Fraction]]:
    """Numbers written in calls that the question, earlier results and constants do not explain, with
    the index of the calculation."""
    return [
        (i, value)
        for i, c in enumerate(plan.calculations)
        for value in leaves(c.tree)
        if not sources(value, plan, i, numbers)
    ]


def evidence(plan: Plan, numbers: Numbers) -> tuple[tuple[str, ...], dict[str, float]]:
    """Sentences and measures about where the numbers of a plan come from and go to."""
    results = [plan.calculations[i].result for i in unused(plan)]
    said = [f"The result {show(value)} is not used." for value in results if value is not None]
    strange = unsourced(plan, numbers)
    said += [f"{show(v)} is neither in the question nor a result." for _, v in strange]
    if not answer_sources(plan):
        said.append("The answer is not the result of a call.")
    total = sum(len(leaves(c.tree)) for c in plan.calculations)
    calls = len(plan.calculations)
    return tuple(said), {
        "results_used": 1 - len(unused(plan)) / calls if calls else 0.0,
        "answer_from_call": float(bool(answer_sources(plan))),
        "numbers_sourced": 1 - len(strange) / total if total else 0.0,
    }
