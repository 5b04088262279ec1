"""Building one word problem: quantities that know how they are computed.

A family of problems draws numbers from a `Draft`, writes sentences with them, and combines them
with ordinary operators; the gold calls and the gold expression follow from the combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import TypeVar

from rightcall.tasks.math.numbers import decimals, show

T = TypeVar("T")

LARGEST = 5_000
"""No number of a problem is larger."""


class Unfit(Exception):
    """The numbers drawn make no sensible problem; the generator draws again."""


class Quantity:
    """A number of the text, a constant, or the result of a call on two quantities. Immutable."""

    __slots__ = ("operands", "symbol", "value")

    def __init__(self, value: int | Fraction, symbol: str, operands: tuple[Quantity, ...] = ()) -> None:
        self.value = value
        """An int where it is whole: several times faster than a `Fraction`."""
        self.symbol = symbol
        """The name of a number of the text (`a`, `b`, ...), the digits of a constant, or the
        function that computes it."""
        self.operands = operands

    def __str__(self) -> str:
        return str(self.value) if type(self.value) is int else show(Fraction(self.value))

    def __int__(self) -> int:
        return int(self.value)

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(_whole(self.value + other.value), "add", (self, other))

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(_whole(self.value - other.value), "subtract", (self, other))

    def __mul__(self, other: Quantity | int) -> Quantity:
        factor = constant(other)
        return Quantity(_whole(self.value * factor.value), "multiply", (self, factor))

    def __truediv__(self, other: Quantity | int) -> Quantity:
        divisor = constant(other)
        return Quantity(_ratio(self.value, divisor.value), "divide", (self, divisor))

    def percent_of(self, whole: Quantity) -> Quantity:
        return Quantity(_ratio(self.value * whole.value, 100), "percent_of", (self, whole))


def _whole(value: int | Fraction) -> int | Fraction:
    return value if type(value) is int or value.denominator != 1 else value.numerator


def _ratio(top: int | Fraction, bottom: int | Fraction) -> int | Fraction:
    if type(top) is int and type(bottom) is int and top % bottom == 0:
        return top // bottom
    return _whole(Fraction(top) / bottom)


def constant(value: Quantity | int) -> Quantity:
    """A number that the text does not spell in digits: 2 for a half, 60 minutes an hour."""
    return value if isinstance(value, Quantity) else Quantity(value, str(value))


class Draft:
    """Numbers and names drawn for one problem, all from one seeded generator."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.numbers: dict[str, Quantity] = {}
        """The numbers of the text by their symbol, in the order they were drawn."""

    def number(self, low: int, high: int, step: int = 1) -> Quantity:
        """A whole number of the text, from low to high in steps."""
        return self._named(low + step * int(self.rng.random() * ((high - low) // step + 1)))

    def decimal(self, low: int, high: int) -> Quantity:
        """A number with one decimal, a whole one about half of the time."""
        if self.rng.random() < 0.5:
            return self.number(low, high)
        tenths = self.pick((2, 4, 5, 6, 8)) + 10 * (low + int(self.rng.random() * (high - low)))
        return self._named(Fraction(tenths, 10))

    def divisor(self, quantity: Quantity, low: int, high: int) -> Quantity:
        """A whole number of the text that divides a quantity without rest."""
        fitting = [n for n in range(low, high + 1) if quantity.value % n == 0]
        if not fitting:
            raise Unfit
        return self._named(self.pick(fitting))

    def again(self, quantity: Quantity, value: int) -> Quantity:
        """A number drawn before, with another value: to make it fit the numbers drawn since."""
        del self.numbers[quantity.symbol]
        return self._named(value, quantity.symbol)

    def _named(self, value: int | Fraction, symbol: str | None = None) -> Quantity:
        quantity = Quantity(value, symbol or chr(ord("a") + len(self.numbers)))
        self.numbers[quantity.symbol] = quantity
        return quantity

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.random() * len(choices))]

    def two(self, choices: Sequence[T]) -> tuple[T, T]:
        """Two different choices."""
        first = int(self.rng.random() * len(choices))
        second = (first + 1 + int(self.rng.random() * (len(choices) - 1))) % len(choices)
        return choices[first], choices[second]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share


@dataclass(frozen=True)
class Story:
    """What a family gives back."""

    sentences: tuple[str, ...]
    """The situation, in order."""
    question: str
    result: Quantity
    noise: tuple[str, ...] = ()
    """Sentences with a number that is not needed, each with `{}` in its place; they fit anywhere."""


def calculations(result: Quantity) -> tuple[Quantity, ...]:
    """The quantities to compute for a result, each once, operands first."""
    order: list[Quantity] = []

    def visit(quantity: Quantity) -> None:
        if quantity.operands and quantity not in order:
            for operand in quantity.operands:
                visit(operand)
            order.append(quantity)

    visit(result)
    return tuple(order)


def call_text(quantity: Quantity) -> str:
    """The call that computes a quantity, its arguments as the text or an earlier result shows them."""
    return f"{quantity.symbol}({', '.join(map(str, quantity.operands))})"


_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def expression(quantity: Quantity) -> str:
    """The whole computation as a term over the text's numbers, e.g. `((a * b) - c)`."""
    if not quantity.operands:
        return quantity.symbol
    left, right = map(expression, quantity.operands)
    if quantity.symbol == "percent_of":
        return f"({left} / 100 * {right})"
    return f"({left} {_SIGNS[quantity.symbol]} {right})"


def check(draft: Draft, steps: Sequence[Quantity]) -> None:
    """Raise `Unfit` unless every result is positive, of at most two decimals, not too large, and
    different from every other number: so each argument of a chain has one possible source."""
    values = [quantity.value for quantity in draft.numbers.values()]
    for quantity in steps:
        if not 0 < quantity.value <= LARGEST or (
            type(quantity.value) is not int and (decimals(Fraction(quantity.value)) or 9) > 2
        ):
            raise Unfit
        values.append(quantity.value)
    if len(set(values)) != len(values):
        raise Unfit


def whole(*quantities: Quantity) -> None:
    """Raise `Unfit` unless all are whole: people, boxes, tickets."""
    if any(type(quantity.value) is not int for quantity in quantities):
        raise Unfit
