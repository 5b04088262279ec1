"""Which calculations with the numbers of a question give its answer? All of them, by search.

Where exactly one calculation does, it is most likely what the question asks for: a plan to learn
from, though nobody has said that it is right. It is not where one of several gives the answer by
chance, and so nothing is said then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product

from rightcall.tasks.math.numbers import show
from rightcall.tasks.math.plans import Numbers

MAX_NUMBERS = 4
"""Questions with more numbers are not searched: chance finds too much there, and it takes long."""


@dataclass(frozen=True)
class _Value:
    """A calculation: its value for the question, what it is for other numbers, and its steps."""

    value: Fraction
    elsewhere: tuple[Fraction | None, ...]
    """Its values for other numbers in the question: two calculations that agree there are the same
    one in other words. None where it divides by zero."""
    steps: tuple[str, ...] = ()
    """Each as an expression of two numbers, in an order in which they can be done."""
    order: tuple[int, ...] = ()
    """The places of its numbers in the question. Of two ways to write a calculation, the one that
    takes them as they come is the more natural."""
    lean: int = 0
    """Steps to the right of others: of two ways in the same order, the one that goes on with what
    it has is the more natural."""


def only_plan(question: str, answer: Fraction) -> tuple[str, ...] | None:
    """The steps of the only calculation with + - * / that gives the answer from numbers of the
    question, each used once at most; None if there is none, or more than one.

    Numbers and results are counts: calculations through a fraction, zero or a negative number are
    left out, and so are those with a useless step (times 1).

    >>> only_plan("Debby had 32 sweets, her sister 42. They ate 35. How many are left?", Fraction(39))
    ('32 + 42', '74 - 35')
    >>> only_plan("Ann has 2 cups and 2 plates. How many things has she?", Fraction(4)) is None
    True
    """
    numbers = Numbers.of(question)
    if not 2 <= len(numbers.values) <= MAX_NUMBERS or answer.denominator != 1:
        return None
    trials = list(numbers.trials())
    given = {
        name: _Value(value, tuple(trial[name] for trial in trials), order=(place,))
        for place, (name, value) in enumerate(numbers.values.items())
        if value.denominator == 1
    }
    found = {made.elsewhere: made.steps for made in _all(given) if made.value == answer}
    return next(iter(found.values())) if len(found) == 1 else None


def _strangeness(made: _Value) -> tuple[tuple[int, ...], int]:
    return made.order, made.lean


def _all(given: Mapping[str, _Value]) -> Iterator[_Value]:
    """Every calculation with some of the numbers, those that are no calculation included."""
    names = sorted(given)

    @cache
    def made_of(chosen: frozenset[str]) -> tuple[_Value, ...]:
        if len(chosen) == 1:
            return tuple(given[name] for name in chosen)
        found: dict[object, _Value] = {}
        for left, right in _halves(sorted(chosen)):
            for one, other in product(made_of(left), made_of(right)):
                for made in _combined(one, other):
                    known = found.setdefault(made.elsewhere, made)
                    found[made.elsewhere] = min(known, made, key=_strangeness)
        return tuple(found.values())

    for mask in range(1, 2 ** len(names)):
        yield from made_of(frozenset(name for i, name in enumerate(names) if mask >> i & 1))


def _halves(names: Sequence[str]) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Every way to split names in two, each once: the first name is always on the left."""
    first, *rest = names
    for mask in range(2 ** len(rest) - 1):
        left = frozenset([first, *(name for i, name in enumerate(rest) if mask >> i & 1)])
        yield left, frozenset(names) - left


def _combined(one: _Value, other: _Value) -> Iterator[_Value]:
    pairs = {"+": [(one, other)], "*": [(one, other)], "-": [(one, other), (other, one)]}
    pairs["/"] = pairs["-"]
    for sign, orders in pairs.items():
        for left, right in orders:
            value = _result(sign, left.value, right.value)
            if value is None or value <= 0 or value.denominator != 1 or value == left.value:
                continue
            elsewhere = tuple(
                None if a is None or b is None else _result(sign, a, b)
                for a, b in zip(left.elsewhere, right.elsewhere, strict=True)
            )
            text = f"{show(left.value)} {sign} {show(right.value)}"
            steps = (*left.steps, *right.steps, text)
            lean = left.lean + right.lean + len(right.steps)
            yield _Value(value, elsewhere, steps, left.order + right.order, lean)


def _result(sign: str, a: Fraction, b: Fraction) -> Fraction | None:
    match sign:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
    return a / b if b else None
