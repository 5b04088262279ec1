"""Exact numbers: how a model may write them, how results are printed.

Every value is a `Fraction`. The literal `0.1` is exactly 1/10; a result is printed as an integer,
as a finite decimal, or else as a fraction such as `7/3`, and can be given back as it was printed.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from rightcall.errors import CallError

MAX_CHARACTERS = 60
MAX_SIZE = 10**40
"""Numerators and denominators stay below: no call can be made slow by huge numbers."""
MAX_DECIMALS = 12
"""A result with more decimals than this is printed as a fraction."""

_AMOUNT = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:[eE][+-]?\d{1,2})?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[-+−]?)\s*[$€£]?\s*(?:(?P<whole>\d+)\s+(?=\d+\s*/))?"
    rf"(?P<top>{_AMOUNT})(?:\s*/\s*(?P<bottom>{_AMOUNT}))?\s*[$€£]?\s*(?P<percent>%?)"
)


def read_number(text: str) -> Fraction | None:
    """The value of `12`, `-0.5`, `1,200.00`, `$12.50`, `3/4`, `2 1/2` or `25%`; None if it is none.

    >>> read_number("$1,200.50"), read_number("2 1/2"), read_number("25%"), read_number("two")
    (Fraction(2401, 2), Fraction(5, 2), Fraction(1, 4), None)
    """
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        return None
    value = _amount(match["top"])
    if match["bottom"]:
        bottom = _amount(match["bottom"])
        if not bottom:
            return None
        value /= bottom
    value += int(match["whole"] or 0)
    if match["percent"]:
        value /= 100
    return -value if match["sign"] in ("-", "−") else value


def _amount(text: str) -> Fraction:
    return Fraction(Decimal(text.replace(",", "")))


def exact(value: object) -> Fraction | None:
    """The exact value of a literal: an int, a float as it is written, or a numeric string."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, Fraction)):
        return Fraction(value)
    if isinstance(value, float):
        return Fraction(Decimal(repr(value))) if math.isfinite(value) else None
    return read_number(value) if isinstance(value, str) else None


def bounded(value: Fraction) -> Fraction:
    """The value itself; `CallError` if it has become too large to be any problem's number."""
    if abs(value.numerator) >= MAX_SIZE or value.denominator >= MAX_SIZE:
        raise CallError("the number is too large", remedy="Check the calculation.")
    return value


def show(value: Fraction) -> str:
    """`12`, `2.5`, `-0.125` or `7/3`: always exact, and readable by `read_number`.

    >>> show(Fraction(5, 2)), show(Fraction(7, 3)), show(Fraction(-12))
    ('2.5', '7/3', '-12')
    """
    if value.denominator == 1:
        return str(value.numerator)
    places = decimals(value)
    if places is None or places > MAX_DECIMALS:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def rounded(number: Fraction, digits: int) -> Fraction:
    """Rounded as in school: half away from zero. `digits` from -12 to 12."""
    if not -12 <= digits <= 12:
        raise CallError("digits out of range", value=digits, remedy="Use -12 to 12.")
    scale = Fraction(10) ** digits
    whole = (abs(number) * scale + Fraction(1, 2)) // 1
    return Fraction(whole / scale if number >= 0 else -whole / scale)


def decimals(value: Fraction) -> int | None:
    """How many decimals write the value exactly; None if no finite number does."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest //= 2
        twos += 1
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    return max(twos, fives) if rest == 1 else None


class _NumberOrText:
    """Pydantic's hooks of an annotation whose arguments `read` reads."""

    spelled: ClassVar[str]
    """A pattern for schemas: texts that `read` takes, if not all of them."""

    @classmethod
    def read(cls, value: object) -> Any:
        """The value of an argument as a model may write it; pydantic's error if it is none."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.read)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": cls.spelled}]}


class Number(_NumberOrText, Fraction):
    """Annotation of a numeric parameter. Models may give `12`, `0.5`, `"3/4"`, `"$1,200"` or `"25%"`;
    the function receives the exact `Fraction`."""

    spelled = r"^-?\$?[0-9]{1,12}(\.[0-9]{1,6})?(/[1-9][0-9]{0,5})?%?$"

    @classmethod
    def read(cls, value: object) -> Fraction:
        """The value of an argument as a model may write it; pydantic's error if it is none."""
        number = exact(value)
        if number is None or abs(number.numerator) >= MAX_SIZE or number.denominator >= MAX_SIZE:
            raise PydanticCustomError("number", "Give a number such as 12, 0.5 or '3/4'")
        return number


class Percent(Number):
    """A `Number` counted in hundredths: `25` and `"25%"` are the same."""

    @classmethod
    def read(cls, value: object) -> Fraction:
        if isinstance(value, str):
            value = value.strip().removesuffix("%")
        return super().read(value)


class Answer(_NumberOrText, str):
    """Annotation of the answer of a chain: a number or a short text, kept as text."""

    spelled = r"^\S.*$"

    @classmethod
    def read(cls, value: object) -> str:
        if isinstance(value, str) and value.strip():
            return value.strip()
        number = exact(value)
        if number is None or abs(number.numerator) >= MAX_SIZE or number.denominator >= MAX_SIZE:
            raise PydanticCustomError("answer", "Give a number or a text")
        return show(number)
