"""What an observation is worth to the calls after it: a number, a word, or a text; and other values
that a weak model might take for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction

MAX_DIGITS = 60

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_FRACTION = re.compile(r"-?\d+/\d+")
_LABEL = re.compile(r"([A-Za-z]+)(\d+)")
_VERDICT = re.compile(r"([A-Za-z]\w*): ")
"""A word with its reason: `Unknown: no premise mentions red`."""
_NOTE = re.compile(r" \(Only the first of \d+ calls was run")
_IN_TEXT = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w,]*\d)(?!\w)")

FAMILIES = (
    ("True", "False", "Unknown", "Uncertain"),
    ("true", "false", "unknown", "uncertain"),
    ("Yes", "No"),
    ("yes", "no"),
    ("A", "B", "C", "D", "E"),
    ("a", "b", "c", "d", "e"),
)
"""Words of which one is as good as another where an answer is guessed."""

Key = Fraction | str
"""What makes two values the same: 12, "12" and 12.0 are."""


def worth(observed: str) -> str:
    """The value that an observation tells, as text.

    >>> worth("Unknown: no premise mentions red"), worth(" 12 ")
    ('Unknown', '12')
    """
    text = _NOTE.split(observed)[0].strip()
    verdict = _VERDICT.match(text)
    return verdict[1] if verdict else text


def key_of(text: str) -> Key:
    """
    >>> key_of("12.50") == key_of("12.5"), key_of("True")
    (True, 'True')
    """
    number = number_of(text)
    return text.strip() if number is None else number


def number_of(text: str) -> Fraction | None:
    """The value of `12`, `-2.5` or `7/3`; None of any other text."""
    text = text.strip()
    if len(text) > MAX_DIGITS:
        return None
    if _NUMBER.fullmatch(text) or (_FRACTION.fullmatch(text) and text.rpartition("/")[2].strip("0")):
        return Fraction(text)
    return None


def numbers_in(text: str) -> list[str]:
    """The numbers that a text tells, each once, as they come."""
    found = (one.replace(",", "") for one in _IN_TEXT.findall(text))
    return list({key_of(one): one for one in found if len(one) <= MAX_DIGITS}.values())


def like(text: str, other: str) -> bool:
    """Whether a value could stand in the other's place: a number that has hardly more decimals for a
    number, none below 0 for one that is not, nothing twenty times as large; a word for a word.

    >>> like("23", "132"), like("1075/94", "392.4"), like("-4", "132"), like("True", "132")
    (True, False, False, False)
    """
    one, two = number_of(text), number_of(other)
    if one is None or two is None:
        return one is two
    if one < 0 <= two or abs(one) > 20 * max(abs(two), Fraction(1)):
        return False
    return _decimals(text) <= (_decimals(other) and _decimals(other) + 1)


def _decimals(text: str) -> float:
    """How many decimals a number is written with; without end for a fraction."""
    return float("inf") if "/" in text else len(text.strip().partition(".")[2].rstrip("0"))


def label_of(text: str) -> str | None:
    """The letters of a label such as `P3`; None of any other text."""
    found = _LABEL.fullmatch(text.strip())
    return found[1] if found else None


def alternatives(value: str, known: Sequence[str], told: str) -> tuple[list[str], list[str]]:
    """Other values of the same kind, maybe the value itself among them: those `known`; and slips, of
    calculation for a number, and for a verdict the other ones that `told` speaks of."""
    before = [one for one in known if label_of(one) == label_of(value)]
    slips = [*_slips(value)]
    for family in FAMILIES:
        if value in family:
            spoken = [one for one in family if re.search(rf"\b{one}\b", told, re.IGNORECASE)]
            slips += spoken if len(spoken) > 1 else family[:2]
    return before, slips


def _slips(value: str) -> Iterator[str]:
    """A number with one digit off, or two exchanged."""
    if not _NUMBER.fullmatch(value) or len(value) > MAX_DIGITS:
        return
    number = Decimal(value)
    for off in (1, -1, 10, -10):
        if abs(off) == 1 or abs(number) > 20:
            yield format(number + off, "f")
    digits = value.lstrip("-")
    if "." not in digits and len(digits) > 1 and digits[-1] not in ("0", digits[-2]):
        yield value[:-2] + value[-1] + value[-2]
