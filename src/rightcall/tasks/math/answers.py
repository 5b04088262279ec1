"""Answers compared as values: `$1,200.00`, `1200` and `1,200 dollars` are the same."""

from __future__ import annotations

import re
from fractions import Fraction

from rightcall import sandbox
from rightcall.errors import CallError
from rightcall.tasks.math.numbers import read_number

MAX_CHARACTERS = 200
_SECONDS = 5.0
_MEMORY_MB = 1024
_NUMBER_IN_TEXT = re.compile(
    r"(?<![\w.,/^*+-])[-−]?\s*[$€£]?\s*\d+(?:,\d{3})*(?:\.\d+)?(?:\s+\d+\s*/\s*\d+|\s*/\s*\d+)?\s*%?"
)
_SYMBOLIC = re.compile(r"[\\^{}()*+=]|sqrt|pi\b")


def same_value(gold: str, answer: str) -> bool:
    """Whether two answers have the same value.

    Currency, thousands separators, units and a full stop are ignored; `50%` equals both `50` and
    `0.5`, as graders of word problems do. An answer without exactly one number in it, or with
    symbols (`\\frac{1}{2}`, `sqrt(2)/2`), is left to math-verify, in a worker with limits.
    """
    if gold.strip() == answer.strip():
        return True
    if len(answer) > MAX_CHARACTERS:
        return False
    wanted, given = values(gold), values(answer)
    if wanted and given:
        return bool(wanted & given)
    if not _SYMBOLIC.search(answer + gold):
        return False
    from rightcall.tasks.math.symbolic import symbolically_equal

    try:
        same, _ = sandbox.run(
            symbolically_equal, [gold, answer], {}, (), seconds=_SECONDS, memory_mb=_MEMORY_MB
        )
    except CallError:
        return False
    return bool(same)


def values(text: str) -> frozenset[Fraction]:
    """What a numeric answer may mean: one value, two for a percentage, none if it is not one number.

    >>> sorted(values("$1,200.00")), sorted(values("50%")), sorted(values("3 of 4"))
    ([Fraction(1200, 1)], [Fraction(1, 2), Fraction(50, 1)], [])
    """
    number = read_number(text.strip().rstrip("."))
    if number is None:
        if _SYMBOLIC.search(text):
            return frozenset()
        found = _NUMBER_IN_TEXT.findall(text)
        number = read_number(found[0]) if len(found) == 1 else None
        text = found[0] if found else text
    if number is None:
        return frozenset()
    return frozenset((number, number * 100)) if "%" in text else frozenset((number,))
