"""What a result, an argument or an answer says: numbers by their value, other texts by their words.

`"12"`, `12.0` and `"$12.00"` are the same value; so are `"True"`, `"true."` and the literal `True`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import TypeGuard

from rightcall.chain import JSON, Call, Observation

Value = Fraction | str
"""A number, or a text in lower case without spaces around it and without a full stop."""

MAX_CHARACTERS = 60
"""Of a text that is read as a number."""
MAX_READ = 20_000
"""Of a text in which numbers are looked for."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,12}|\d{1,40})"
_NUMBER = re.compile(
    rf"(?P<sign>[-+−]?)\s?[$€£]?(?P<top>(?:{_DIGITS}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{{1,2}})?)"
    rf"(?:/(?P<bottom>{_DIGITS}))?\s?%?",
    re.ASCII,
)
_PLAIN = re.compile(rf"(?<![\w.]){_DIGITS}(?:\.\d{{1,40}})?", re.ASCII)
_INSIDE = re.compile(rf"{_PLAIN.pattern}(?:/{_DIGITS}(?![\w.]))?", re.ASCII)
"""A number or a fraction in a sentence or an expression, without its sign."""
_SEVERAL_CALLS = re.compile(r" \(Only the first of \d+ calls was run: one call per reply\.\)$")
"""What the loop, not the function, adds to an observation."""


def read(literal: JSON) -> Value | None:
    """The value of a literal; None of a list, a table, nothing, or an empty text. A percent sign is
    not counted: 25% is 25. A fraction is a number in its lowest terms; otherwise it is a calculation.

    >>> read("1,200.50"), read("-3/4"), read("76/2"), read(12.0), read(" True. "), read([1])
    (Fraction(2401, 2), Fraction(-3, 4), '76/2', Fraction(12, 1), 'true', None)
    """
    if isinstance(literal, bool):
        return str(literal).lower()
    if isinstance(literal, int):
        return Fraction(literal)
    if isinstance(literal, float):
        return Fraction(repr(literal)) if math.isfinite(literal) else None
    if isinstance(literal, str):
        text = literal.strip()
        number = _read_number(text)
        return (text.lower().rstrip(".").strip() or None) if number is None else number
    return None


@lru_cache(maxsize=16_384)  # the same few numbers are read many times
def _read_number(text: str) -> Fraction | None:
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        return None
    size = Fraction(re.sub(r",|\.(?!\d)", "", match["top"]))
    if match["bottom"]:
        bottom = int(match["bottom"].replace(",", ""))
        if bottom < 2 or (size / bottom).denominator != bottom:
            return None
        size /= bottom
    return -size if match["sign"] in ("-", "−") else size


def answer_value(answer: str) -> Value | None:
    """What an answer says: its value, or that of the only number in it.

    >>> answer_value("12.0"), answer_value("That makes 1/2 a cake."), answer_value("unknown")
    (Fraction(12, 1), Fraction(1, 2), 'unknown')
    """
    value = read(answer)
    if not isinstance(value, str):
        return value
    inside = {read(found[0]) for found in _INSIDE.finditer(answer[:MAX_READ])}
    return inside.pop() if len(inside) == 1 else value


@lru_cache(maxsize=16_384)
def numbers_in(text: str) -> frozenset[Fraction]:
    """The sizes of the numbers in a sentence or an expression; of a fraction also those of its parts.

    >>> sorted(numbers_in("3 boxes of P1 at $2.50 - 1,000")) == [Fraction(5, 2), 3, 1000]
    True
    >>> sorted(map(str, numbers_in("7/2 + 1")))
    ['1', '2', '7', '7/2']
    """
    text = text[:MAX_READ]
    plain = (_size(one[0]) for one in _PLAIN.finditer(text))
    whole = (read(one[0]) for one in _INSIDE.finditer(text) if "/" in one[0])
    return frozenset([*plain, *(one for one in whole if isinstance(one, Fraction))])


def _size(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def result_text(observation: Observation) -> str:
    """What the function said."""
    return _SEVERAL_CALLS.sub("", observation.text)


def arguments(call: Call) -> Iterator[JSON]:
    """The plain values that a call was given, those inside lists and tables too."""
    for given in (*call.args, *call.kwargs.values()):
        yield from _leaves(given)


def _leaves(given: JSON) -> Iterator[JSON]:
    if isinstance(given, (list, tuple, Mapping)):
        for item in given.values() if isinstance(given, Mapping) else given:
            yield from _leaves(item)
    else:
        yield given


def mentions(literal: JSON, value: Value) -> bool:
    """Whether a literal is a value or, being a text, has it in it.

    >>> mentions("12 * 3", Fraction(12)), mentions("Unknown: no premise has it", "unknown")
    (True, True)
    """
    said = read(literal)
    if said == value:
        return True
    if isinstance(value, Fraction):
        return _holds_numbers(literal) and abs(value) in numbers_in(literal)
    return isinstance(said, str) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said) is not None


def _holds_numbers(literal: JSON) -> TypeGuard[str]:
    """A text that is more than one number; a fraction is one and has two in it."""
    return isinstance(literal, str) and ("/" in literal or isinstance(read(literal), str))


def with_values(given: JSON, swaps: Mapping[Value, str]) -> JSON:
    """A literal of a call with other values in the place of some, as the same kind of literals.

    >>> with_values([12, "12", "12 * 3", 5, True], {Fraction(12): "17", "true": "False"})
    [17, '17', '17 * 3', 5, False]
    """
    if isinstance(given, Mapping):
        return {name: with_values(item, swaps) for name, item in given.items()}
    if isinstance(given, (list, tuple)):
        return [with_values(item, swaps) for item in given]
    value = read(given)
    if value is not None and value in swaps:
        return _as_kind(given, swaps[value])
    return _with_numbers(given, swaps) if _holds_numbers(given) else given


def _with_numbers(text: str, swaps: Mapping[Value, str]) -> str:
    """A sentence or an expression with other numbers; a fraction is looked for before its parts."""

    def part(found: re.Match[str]) -> str:
        return swaps.get(_size(found[0]), found[0])

    def whole(found: re.Match[str]) -> str:
        value = read(found[0])
        if value is not None and value in swaps:
            return swaps[value]
        return "/".join(_PLAIN.sub(part, side) for side in found[0].split("/"))

    return _INSIDE.sub(whole, text)


def _as_kind(like: JSON, new: str) -> JSON:
    value = read(new)
    if isinstance(like, bool):
        return {"true": True, "false": False}.get(str(value), new)
    if isinstance(like, str) or not isinstance(value, Fraction):
        return new
    if value.denominator == 1 and isinstance(like, int):
        return int(value)
    return new if "/" in new else float(value)


def call_with(call: Call, swaps: Mapping[Value, str]) -> Call:
    """A call with other values in the place of some."""
    args = tuple(with_values(given, swaps) for given in call.args)
    kwargs = {name: with_values(given, swaps) for name, given in call.kwargs.items()}
    return call.model_copy(update={"args": args, "kwargs": kwargs})
