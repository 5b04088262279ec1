"""Arithmetic expressions and equations as text: parsed by a grammar, computed exactly, never
evaluated as code.

`parse` gives a tree of nested tuples: a `Fraction`, a name, or `(operator, operand, ...)`. Size is
limited, so that parsing and computing are bounded and may run in this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lark import Lark, Transformer, UnexpectedInput, UnexpectedToken
from lark.exceptions import VisitError

from rightcall.errors import CallError, FailureKind
from rightcall.tasks.math.numbers import MAX_SIZE, bounded, read_number

Tree = Any
"""A `Fraction`, a name (`str`), or a tuple of an operator and its operands (trees)."""

MAX_CHARACTERS = 300
MAX_EXPONENT = 64

_GRAMMAR = r"""
?start: sum
?sum: product
    | sum "+" product -> add
    | sum _MINUS product -> subtract
?product: factor
    | product _TIMES factor -> multiply
    | product _OVER factor -> divide
    | product _FLOOR factor -> floor_divide
    | product _MODULO factor -> modulo
    IMPLICIT
?factor: _MINUS factor -> negative
    | "+" factor
    | power
?power: percentage
    | percentage _POWER factor -> power
?percentage: atom
    | percentage _PERCENT -> percent
?atom: MIXED -> number
    | NUMBER -> number
    | _CURRENCY NUMBER -> number
    | "(" sum ")"
    | "[" sum "]"
    NAME_ATOM
_MINUS: "-" | "−" | "–"
_POWER.2: "**" | "^"
_FLOOR.2: "//"
_OVER: "/" | "÷"
_CURRENCY: "$" | "€" | "£"
_PERCENT: /%(?!\s*[\d.(\[$])/
_MODULO: /%(?=\s*[\d.(\[$])/
MIXED.3: /\d+\s+\d+\/\d+/
NUMBER.2: /\d{1,3}(,\d{3})+(\.\d+)?(?![\d])|\d+(\.\d*)?|\.\d+/
%ignore /\s+/
"""
_PLAIN = (
    _GRAMMAR.replace("IMPLICIT", "").replace("NAME_ATOM", "")
    + r"""
_TIMES: "*" | "×" | "·" | "x" | "X" | "of"
"""
)
_WITH_NAMES = (
    _GRAMMAR.replace("IMPLICIT", "| product named -> multiply").replace("NAME_ATOM", "| NAME -> name")
    + r"""
named: NAME -> name
    | NAME _POWER factor -> named_power
    | "(" sum ")" -> same
_TIMES: "*" | "×" | "·"
NAME: /[A-Za-z](_?\d+)?/
"""
)


class _Builder(Transformer[Any, Tree]):
    """Builds the tuples while the parser reduces, so that nesting costs no recursion."""

    def number(self, items: list[Any]) -> Fraction:
        value = read_number(str(items[0]))
        if value is None or abs(value.numerator) >= MAX_SIZE:
            raise CallError("not a usable number", value=str(items[0])[:40])
        return value

    def name(self, items: list[Any]) -> str:
        return str(items[0])

    def same(self, items: list[Any]) -> Tree:
        return items[0]

    def named_power(self, items: list[Any]) -> Tree:
        return ("power", str(items[0]), items[1])

    def __default__(self, data: Any, children: list[Any], meta: Any) -> Tree:
        return (str(data), *children)


@lru_cache(maxsize=2)
def _parser(names: bool) -> Lark:
    grammar = _WITH_NAMES if names else _PLAIN
    return Lark(grammar, parser="lalr", transformer=_Builder(), maybe_placeholders=False)


def parse(text: str, *, names: bool = False) -> Tree:
    """The tree of an expression; with `names` single letters stand for unknowns and `2x` is a
    product, without them `x` is a multiplication sign. Raises `CallError` with the position."""
    if len(text) > MAX_CHARACTERS:
        raise CallError(
            f"the expression has {len(text)} characters, {MAX_CHARACTERS} are read",
            remedy="Calculate it in parts.",
            kind=FailureKind.WRONG_TYPE,
        )
    try:
        return _parse_cached(text, names)
    except UnexpectedInput as error:
        raise CallError(
            f"the expression does not parse at {_place(text, error)}",
            value=text[:80],
            remedy="Use numbers, + - * / // % ** and brackets.",
            kind=FailureKind.WRONG_TYPE,
        ) from error
    except VisitError as error:
        if isinstance(error.orig_exc, CallError):
            raise error.orig_exc from error
        raise


def _place(text: str, error: UnexpectedInput) -> str:
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    position = error.pos_in_stream or 0
    return "the end" if at_end or position >= len(text) else repr(text[position : position + 10])


@lru_cache(maxsize=4096)
def _parse_cached(text: str, names: bool) -> Tree:
    return _parser(names).parse(text)


def compute(tree: Tree, values: Mapping[str, Fraction] | None = None) -> Fraction:
    """The exact value of a tree. Raises `CallError` on division by zero, an inexact or huge power,
    a number without bound, or a name without a value."""
    if isinstance(tree, Fraction):
        return tree
    if isinstance(tree, str):
        if values is None or tree not in values:
            raise CallError("unknown name", value=tree, remedy="Use numbers only.")
        return values[tree]
    operator, *operands = tree
    numbers = [compute(operand, values) for operand in operands]
    return bounded(OPERATORS[operator](*numbers))


def divided(a: Fraction, b: Fraction) -> Fraction:
    if not b:
        raise CallError("division by zero", value=f"{a} / 0", remedy="Divide by another number.")
    return a / b


def raised(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent for a whole exponent up to `MAX_EXPONENT`; the size is checked beforehand."""
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise CallError(
            "unusable exponent",
            value=str(exponent)[:40],
            remedy=f"Use a whole exponent from -{MAX_EXPONENT} to {MAX_EXPONENT}.",
        )
    if exponent < 0:
        base, exponent = divided(Fraction(1), base), -exponent
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * int(exponent) > 2 * MAX_SIZE.bit_length():
        raise CallError("the number is too large", remedy="Check the calculation.")
    return Fraction(base ** int(exponent))


def _checked(divisor: Fraction) -> Fraction:
    divided(Fraction(1), divisor)
    return divisor


OPERATORS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": divided,
    "floor_divide": lambda a, b: Fraction(a // _checked(b)),
    "modulo": lambda a, b: a % _checked(b),
    "negative": lambda a: -a,
    "power": raised,
    "percent": lambda a: a / 100,
}


def split_equation(text: str) -> tuple[Tree, Tree]:
    """The trees of both sides of an equation. Raises `CallError` if it has not exactly one `=`."""
    sides = text.split("=")
    if len(sides) != 2:
        raise CallError(
            "not an equation",
            value=text[:80],
            remedy="Write one '=', as in '2*x + 3 = 11'.",
            kind=FailureKind.WRONG_TYPE,
        )
    return parse(sides[0], names=True), parse(sides[1], names=True)


def names_in(tree: Tree) -> set[str]:
    """The names a tree mentions."""
    if isinstance(tree, str):
        return {tree}
    return set().union(*(names_in(t) for t in tree[1:])) if isinstance(tree, tuple) else set()
