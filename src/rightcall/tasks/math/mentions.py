"""Numbers as a text has them: where they stand, how they are written, what they count, and how another
number is written in their place.

A mention is *fixed* where another number would not do: a label (`Route 66`), a date, an ordinal, an
idiom (`half`, `twice`), a thing that has so many by nature (`4 legs`), a part (`3/4`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from rightcall.tasks.math.numbers import decimals

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
LARGEST_WORD = 99
"""Larger numbers are not written as words."""
WORDS = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * tens for tens, word in enumerate(_TENS, 2)
}
_BOTTOMS = "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4} | {
    word + ending: bottom for bottom, word in enumerate(_BOTTOMS, 3) for ending in ("", "s")
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_IDIOMS = {
    word: value
    for value, words in {
        2: "twice double doubled doubles couple pair pairs both",
        3: "thrice triple tripled triples",
        4: "quadruple",
        12: "dozen dozens",
    }.items()
    for word in words.split()
}

_WORD = rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_UNITS[1:10])}))?|{'|'.join(_UNITS)})"
_PART = rf"(?:{'|'.join(sorted(_PARTS, key=len, reverse=True))})"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""
    (?P<mixed>\d+\s+\d+/\d+(?!\d)(?:\s*(?:th|rd|nd)s?\b)?)
    | (?P<ratio>\d+\s*/\s*\d+(?!\d)(?:\s*(?:th|rd|nd)s?\b)?)
    | (?P<digits>{_DIGITS})
    | \b(?P<words_part>{_WORD})[- ]{_PART}\b
      (?!\s+(?:grade|place|floor|graders?|day|time|year|of\s+\w+day))
    | \b(?P<word>{_WORD})\b
    | \b(?P<part>{_PART})\b
    | \b(?P<scale>{"|".join(_SCALES)})\b
    | \b(?P<idiom>{"|".join(_IDIOMS)})\b
    """,
    re.X | re.I,
)
_MONTHS = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)\.?"
)
_LABELLED = re.compile(
    rf"(?:\b(?:{_MONTHS}|size|sizes|number|no\.|nos\.|grade|grades|level|levels|chapter|page|room|route"
    r"|highway|day|days|week|weeks|month|year|hour|step|stage|round|game|phase|section|flight|type|version"
    r"|channel|question|problem|exit|lane|machine|bus|line|row|column|box|building|apartment|station|top"
    r"|item|bag|test|quiz|scale\ of|scale\ from|between|from|born\ in|since|pond|team|class|group|house"
    r"|formula|area|zone|gate|table|vault|crate|tank|episode|season|part|unit|iphone|playstation|xbox"
    r"|ages|classroom|train|truck|store|farm|company|school|district)\s*|\#)$",
    re.I,
)
_UNUSUAL_AFTER = re.compile(
    r"""\s*(?:[:x×*+=^°²³'’"”″′]\s*\d|[-–—/]\s*\d|[xX×]\b)|[°²³"”″′]|['’](?!s\b)"""
    r"|(?!(?:am|pm|km|kg|cm|mm|ml|mL|mg|ft|lb|lbs|oz|mph|hr|hrs|min|mins|g|m|L|l|st|nd|rd|th|s|in|MB|GB|KB)\b)[A-Za-z]"
)
_CLOCK_AFTER = re.compile(r"\s*(?:am\b|pm\b|a\.m|p\.m|o['’]clock|noon|in\ the\ morning)", re.I)
_ORDINAL_AFTER = re.compile(r"(?:st|nd|rd|th|s)\b")
_UNIT = re.compile(
    r"\s*-?\s*(?:(?:%|percent|per\s?cent|dollars?|cents?)\b)?\s*"
    r"((?:[A-Za-z][\w'’]*[ -]){0,3}[A-Za-z][\w'’]*)"
)
_NATURAL = re.compile(
    r"""\b(?:
    legs?|legged|wheels?|wheeled|wheeler|eyes?|ears?|arms?|fingers?|toes?|tires?|wings?|hands?|corners?|sides?|sided
    |paws?|tails?|lives|noses?|heads?|hooves|claws|seasons?|letters|strings?|teeth|bones|holes|innings?|quarters?|halves
    |periods?|points?|pointers?|stars?|speed|bills?|bill|notes?|coins?|nickels?|dimes?|penn(?:y|ies)
    |twins|triplets|quadruplets|parents|grandparents|grandmothers|grandfathers|mothers|fathers|wives|husbands
    |ways?|way|dimensional|strikes?|outs|sets?|semesters?|trimesters?|generations?|stor(?:y|ies)
    |packs?|ply|doors?|figure|digit|digits|page\ numbers|sixths?|feet\ tall|foot\ tall|inches\ tall|tall
    |continents|planets|oceans|states|colors\ of|suits|kinds|faces|edges|vertices|angles|degrees?
    |players?|man|person|color|bedroom|course|year\ old|years?\ after|score|tiers?|tentacles?|arm
    )\b""",
    re.X | re.I,
)
"""What follows a number that is so by nature or by convention."""
_GROWN = re.compile(r"\b(?:legs|teeth|eyes|fingers|toes|wheels)\b")
"""The same, however many words are between."""
_SKIPPED = frozenset(
    "more other different new old big small large little red blue green yellow white black pink brown"
    " purple orange fresh extra additional whole full empty long short of the his her their its my our"
    " your own total identical equal cans can full-time regular same best close special nice young"
    " adult".split()
)
"""Words between a number and what it counts."""
_VAGUE = frozenset(
    "more less fewer of are is were was and or each times in on for to from at with by a an the who"
    " have has had left that than as if then but remaining".split()
)
"""Words after a number that say nothing of what it counts."""


@dataclass(frozen=True)
class Mention:
    """A number of a text."""

    start: int
    end: int
    text: str
    """As it is written, without a sign of currency or percent."""
    value: Fraction
    """What is written: 20 for `20%`."""
    after: str = ""
    """The words that follow, in lower case, up to four."""
    percent: bool = False
    money: bool = False
    word: bool = False
    fixed: bool = False
    part_of: Fraction | None = None
    """Of a part (`2/3`): its denominator."""

    @property
    def unit(self) -> str:
        """What is counted, as far as the next words tell: `money`, `percent`, a noun, or empty."""
        if self.money:
            return "money"
        if self.percent:
            return "percent"
        for word in self.after.split():
            if word not in _SKIPPED:
                return "" if word in _VAGUE else word.removesuffix("s")
        return ""


class Unreadable(Exception):
    """A number of the text is written in a way that is not read (`5'10"`, `3:1`, `7-9`, `10K`)."""


def mentions(text: str) -> list[Mention]:
    """The numbers of a text, in order. Raises `Unreadable`."""
    return [made for match in _NUMBER.finditer(text) for made in _mention(text, match)]


def _mention(text: str, match: re.Match[str]) -> Iterator[Mention]:
    kind = str(match.lastgroup)
    start, end = match.span(kind)
    written = match[kind]
    before, rest = text[:start], text[end:]
    if kind in ("mixed", "ratio"):
        if _glued(before) or re.match(r"\s*/\s*\d|[-:]\d", rest):
            raise Unreadable
        yield _ratio(match, written, before)
    elif kind == "words_part":
        bottom = _PARTS[re.split(r"[- ]", match[0].lower())[-1]]
        top = word_value(written)
        yield Mention(
            start, match.end(), match[0], Fraction(top, bottom), fixed=True, part_of=Fraction(bottom)
        )
    elif kind == "part":
        bottom = _PARTS[written.lower()]
        yield Mention(start, end, written, Fraction(1, bottom), fixed=True, part_of=Fraction(bottom))
    elif kind in ("scale", "idiom"):
        known = _SCALES if kind == "scale" else _IDIOMS
        yield Mention(start, end, written, Fraction(known[written.lower()]), fixed=True)
    else:
        yield _count(text, start, end, written)


def _glued(before: str) -> bool:
    """Whether a number goes on from what stands before it (`A5`, `7-9`, `3.5.2`)."""
    return bool(re.search(r"(?:[A-Za-z\d.,:/^*+=]|\d\s*[-–—]|[A-Za-z]-|(?<![\w)])[-−])$", before))


def _ratio(match: re.Match[str], written: str, before: str) -> Mention:
    numbers = [int(n) for n in re.findall(r"\d+", written)]
    if not numbers[-1] or re.search(r"\d\s+and\s+$", before):
        raise Unreadable
    whole = numbers[0] if len(numbers) == 3 else 0
    bottom = Fraction(numbers[-1])
    value = whole + numbers[-2] / bottom
    return Mention(*match.span(), written, value, fixed=True, part_of=bottom)


def _count(text: str, start: int, end: int, written: str) -> Mention:
    before, rest = text[:start], text[end:]
    word = not written[-1].isdigit()
    value = Fraction(word_value(written)) if word else Fraction(written.replace(",", ""))
    percent = bool(re.match(r"\s*-?(?:%|percent\b|per\s?cent\b)", rest, re.I))
    unit = _UNIT.match(rest)
    following = " ".join(re.split(r"[ -]", unit[1].lower())) if unit else ""
    money = bool(
        re.search(r"[$€£¢]\s*$", before)
        or re.match(r"\s*[$€£¢]|[\s-]*(?:dollars?|cents?|bucks|euros?|pounds sterling)\b", rest)
    )
    made = Mention(start, end, written, value, following, percent, money, word)
    if word:
        if before.endswith("-") or re.match(r"-(?:thirds|fourths|fifths|fold)", rest):
            raise Unreadable
    elif _glued(before) or _UNUSUAL_AFTER.match(rest):
        raise Unreadable
    return replace(made, fixed=_is_fixed(made, before, rest))


def _is_fixed(made: Mention, before: str, rest: str) -> bool:
    if made.value in (0, 1) or (made.percent and made.value == 50):
        return True  # of 50%, what is left is as much
    if re.match(r"\s+and\s+(?:a|one)\s+(?:half|quarter|third|fourth)\b|\s+and\s+\d+/\d+", rest, re.I):
        raise Unreadable
    if re.match(r"[\s-]+(?:hundred|thousand|million|billion|dozen)\b", rest, re.I):
        return made.word or not re.match(r"\s+dozen", rest)
    if re.search(r"\b(?:hundred|thousand|million|billion)(?:\s+and)?\s+$", before, re.I):
        raise Unreadable
    if _ORDINAL_AFTER.match(rest) or _CLOCK_AFTER.match(rest) or _LABELLED.search(before):
        return True
    if not made.money and re.fullmatch(r"(?:1[5-9]|20|21)\d\d", made.text):
        return True
    if re.match(r"\s*-?\s*(?:dollars?\s+)?(?:bills?|notes?|coins?)\b", rest, re.I):
        return True
    first = " ".join(made.after.split()[:2])
    return bool(_NATURAL.search(first) or _GROWN.search(made.after)) or _label(before, rest)


def _label(before: str, rest: str) -> bool:
    """`Vault 101 and`, `Tom has Box 3.`: a capital before, and no noun after."""
    named = re.search(r"(?<![.?!:]\s)(?<!^)\b[A-Z][\w'’]*\s+$", before)
    return bool(named) and not re.match(
        r"\s+(?!and\b|or\b|is\b|has\b|was\b|had\b|in\b|for\b|to\b)[a-z]", rest
    )


def word_value(word: str) -> int:
    """Of `three`, `Twenty-five`.

    >>> word_value("Twenty-five"), word_value("eleven")
    (25, 11)
    """
    return sum(WORDS[part] for part in re.split(r"[- ]", word.lower()))


def number_word(value: int) -> str:
    """The word of a number from 0 to 99.

    >>> number_word(25), number_word(11)
    ('twenty-five', 'eleven')
    """
    if value < 20:
        return _UNITS[value]
    tens, ones = divmod(value, 10)
    return _TENS[tens - 2] + (f"-{_UNITS[ones]}" if ones else "")


# --- writing --------------------------------------------------------------------------------------


def written_as(pattern: str, value: Fraction) -> str:
    """A value written as a number in digits is: with as many decimals at least, thousands set off as
    there, without a zero before the point if there is none. Raises `ValueError` for what has no end.

    >>> [written_as(p, Fraction(v)) for p, v in (("1,000", "2500"), (".75", "1/2"), ("2.50", "4"))]
    ['2,500', '.50', '4.00']
    """
    needed = decimals(value)
    if needed is None:
        raise ValueError("no finite decimal")
    places = max(len(pattern.partition(".")[2]), needed)
    scaled = str(int(abs(value) * 10**places)).rjust(places + 1, "0")
    whole, part = (scaled[:-places], scaled[-places:]) if places else (scaled, "")
    if "," in pattern:
        whole = f"{int(whole):,}"
    if pattern.startswith(".") and whole == "0":
        whole = ""
    return ("-" if value < 0 else "") + whole + (f".{part}" if part else "")


def written(mention: Mention, value: Fraction) -> str:
    """Another value in the place of a mention, in its form."""
    if not mention.word:
        return written_as(mention.text, value)
    word = number_word(int(value))
    return word.capitalize() if mention.text[0].isupper() else word


def rewritten(text: str, new: Iterable[tuple[Mention, Fraction]]) -> str:
    """A text with other values in the place of mentions; `a` and `an` before them follow."""
    parts: list[str] = []
    position = 0
    for mention, value in sorted(new, key=lambda one: one[0].start):
        spelled = written(mention, value)
        before = text[position : mention.start]
        if spelled != mention.text:
            before = _article(before, spelled)
        parts += [before, spelled]
        position = mention.end
    return "".join([*parts, text[position:]])


def _article(before: str, number: str) -> str:
    right = "n" if _vowel(number) else ""
    return re.sub(r"\b([Aa])n?(\s+[$€£]?)$", rf"\g<1>{right}\2", before)


def _vowel(number: str) -> bool:
    """Whether a number sounds as if it began with a vowel.

    >>> [_vowel(n) for n in ("8", "80.5", "11", "18", "118", "18,000", "eleven", "one", "nine")]
    [True, True, True, True, False, True, True, False, False]
    """
    if number[0].isdigit():
        first = number.split(".")[0].split(",")[0]
        return first.startswith("8") or first in ("11", "18")
    return number.startswith(("eight", "eleven"))
