"""What everybody knows of numbers: constants of the world, words that stand for a number, and how far
numbers of a kind go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

_CLOCK = r"\b(?:[ap]\.?m\b|noon|midnight|o['’]clock)"
_METRIC = r"kilo|\bkm|\bkg|\bk?m\b|lit(?:er|re)|\bL\b|ton|gram|\d\s*(?:g|mg|ml)\b"
_CONSTANTS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((r"hour|\bhr|mph", r"minute|second|mph|hour"), "60 1/60 3600"),
    ((r"minute", r"second"), "60 1/60"),
    ((r"\bday|daily", r"hour"), "24"),
    ((_CLOCK,), "12"),
    ((r"\bweek", r"day|daily|night|morning|evening"), "7"),
    ((r"week", r"month|year|annual"), "4 52"),
    ((r"month",), "12"),
    ((r"month|Jan|Apr|June|July|Aug|Sept|Oct|Nov|Dec|March|May\b", r"day|dai|week"), "30 31"),
    ((r"February", r"day|dai"), "28 29"),
    ((r"year|annual", r"day|dai|night|morning"), "365 366"),
    ((r"decade",), "10"),
    ((r"centur",), "100"),
    ((r"dozen",), "12"),
    ((r"percent|%|per cent",), "100 1/100"),
    ((r"cents?\b|¢|penn|quarter|dime|nickel", r"\$|dollar|cost|pay|price|money"), "100 1/100"),
    ((r"feet|foot", r"inch"), "12"),
    ((r"yard", r"feet|foot"), "3"),
    ((r"mile", r"feet|foot"), "5280"),
    ((r"pound|\blb", r"ounce|\boz"), "16"),
    ((r"\btons?\b", r"pound|\blb"), "2000"),
    ((r"gallon", r"quart"), "4"),
    ((r"gallon", r"cup"), "16"),
    ((r"gallon", r"ounce"), "128"),
    ((_METRIC, r"met(?:er|re)|gram|\bm\b|\bg\b|milli|\dm[lg]\b|\bm[lg]\b|kg"), "1000"),
    ((r"met(?:er|re)|\bm\b", r"centi|\bcm"), "100"),
)
"""What a text has to speak of, all of it → constants that its calculations may hold."""

_COUNTED: Mapping[int, str] = {
    2: r"half|halv|twice|doubl|\bpairs?\b|couple|\bboth\b|twins?\b|round[- ]trip|and back"
    r"|weekends?\b|\beyes?\b|\bears?\b|rectang|perimeter|average|other|bicycle|bikes?\b",
    3: r"third|tripl|thrice|triang|average|tricycle",
    4: r"quarter|fourth|quadrup|average|square|\bwheels?|\btires?|\blegs?\b|\bpaws?\b|seasons",
    5: r"fifth|quintup|average|weekday|school day|work\s?day|work\s?week|nickel"
    r"|Monday (?:to|through|until) Friday",
    6: r"sixth|Monday (?:to|through|until) Saturday|average",
    7: r"seventh",
    8: r"eighth|octop|spider",
    9: r"ninth",
    10: r"tenth|dime",
    25: r"quarter",
}
"""Small number → the words that stand for it, or for something of which there are so many. Each such
word accounts for one number of a call: what is beyond, and is no number of the text, was worked out in
the head."""

_SHARES: Mapping[str, str] = {
    "half|halv": "1/2 3/2 5/2",
    "third": "1/3 2/3",
    "quarter|fourth": "1/4 3/4",
    "fifth": "1/5 4/5",
    "tenth|dime": "1/10",
    "nickel": "1/20",
    "penn": "1/100",
}
"""Words → parts that they stand for."""

CONVERTED: tuple[tuple[str, str, int], ...] = (
    ("hour", "minute|speed", 60),
    ("week", "day|dai", 7),
    ("year", "month", 12),
    ("day", "hour", 24),
    ("dozen", "dozen", 12),
    ("feet", "inch", 12),
    ("foot", "inch", 12),
    ("yard", "feet|foot", 3),
    ("pound", "ounce", 16),
    ("decade", "year", 10),
)
"""A unit, what the text then speaks of too, and how many of these it has."""

RANGES: tuple[tuple[str, int, int], ...] = (
    (r"hours?( of [a-z]+)? (a|per|each|every) (day|night)|hours? daily", 2, 12),
    (r"hours? (a|per|each|every) week", 2, 60),
    (r"hours?", 2, 12),
    (r"hours?", 2, 24),
    (r"minutes?", 2, 59),
    (r"seconds?", 2, 59),
    (r"days?( of [a-z]+)? (a|per|each|every|in a|in the) (week|school week)", 2, 7),
    (r"days?", 2, 7),
    (r"days?", 2, 30),
    (r"weeks?", 2, 4),
    (r"weeks?", 2, 52),
    (r"months?", 2, 11),
    (r"times (a|per|each|every) week", 2, 7),
    (r"times (a|per|each|every) day", 2, 6),
    (r"times", 2, 9),
    (r"eggs? (a|per|each|every) week", 2, 7),
    (r"inch(es)?", 2, 11),
    (r"cents?", 2, 95),
    (r"(brother|sister|sibling|kid|child|son|daughter|cousin|aunt|uncle)", 2, 6),
    (r"(people|friend|classmate|guest)", 2, 12),
)
"""What follows a number, and within which range a number stays that is in it."""

AGES = (
    r"years? (?:old|younger|older|ago)|\bages?\b|times (?:older|as old|younger)|\bolder than|\bbirthday"
)
FAMILY = (
    r"\b(?:grand\w*|mothers?|fathers?|moms?|mums?|dads?|parents?|uncles?|aunts?|sons?|daughters?|nieces?"
    r"|nephews?|husband|wife|child|children|(?:brother|sister|sibling|cousin|dog|cat|rabbit|pet|horse)s?)\b"
)
"""Where a text speaks of ages, too, its numbers say more than which is larger: whose mother may be
eight, and what dog gets thirty?"""

CEILINGS: tuple[tuple[str, int], ...] = (
    (r"hours?\b.*\b(?:day|night|sleep)|\b(?:day|night|sleep).*hours?\b", 20),
    (AGES, 100),
    (r"what percent|percentage|\bgrades?\b|\bexams?\b|\btests?\b|\bquiz|\bscored?\b|\bmarks\b", 100),
)
"""What a text speaks of, and what no result then exceeds that did not before."""


TOLD_TWICE = (
    r"\b(?:the|her|his|their) other (?:\d+|two|three|four|five|six|seven|eight|nine|ten)\b"
    r"|\b(?:first|second|third|fourth|last)[- ]place"
    r"|\b(?:even|odd|prime|consecutive) (?:number|integer)"
    r"|\bof water weighs\b|\bbushel\b|\bdominoes\b|\bdeck of\b|\bpiano keys\b"
    r"|\bsonnets?\b|\bhaikus?\b"
)
"""What says of numbers more than calculations show: that there are no others, how they rank, or what
they are in the world."""


RANKS = (
    r"\b(?:most|least|fewest|(?:larg|small|bigg|high|low|long|short|old|eld|young|tall|fast|slow|busi"
    r"|cheap|great|heavi|light|near|far|clos|lat|earli|hott|cold|warm|new|deep|wid|rich|poor)(?:th)?est)\b"
)
"""What picks one thing of several by its number: whichever is the largest has to stay the largest."""
HEIGHTS = r"\b(?:tall|taller|tallest|height|shorter|grew)\b"
"""Where a text speaks of these, lengths may be a person's."""
ONE = r"\bone\b|\b1\b|\bonce\b|another|single|first|last|self\b|lost a\b|ate a\b"
"""What a text says where one is taken away."""


MEASURES: tuple[str, ...] = (
    r"(?:inch(?:es)?|cm|centimeters?|feet|foot|ft|yards?|miles?|km|kilometers?|meters?|m|mm)",
    r"(?:ounces?|oz|pounds?|lbs?|tons?|kg|kilograms?|kilos?|grams?|g|mg|milligrams?)",
    r"(?:gallons?|quarts?|pints?|cups?|tablespoons?|teaspoons?|lit(?:er|re)s?|ml|milliliters?|drops?)",
    r"(?:GB|MB|KB|TB|gigabytes?|megabytes?|kilobytes?)",
    r"(?:nickels?|dimes?|quarters?|penn(?:y|ies)|cents?|dollars?)",
    r"(?:minutes?|seconds?)",
)
"""Units of one kind each: how many of one are in another is not for a story to choose."""


WHOLE_UNIT = (
    r"\b(?:an?|one|per|each|every|another|full|whole) (?:hour|minute|week|day|year|month|foot|yard"
    r"|pound|dozen|dollar|decade|century|gallon)\b"
)
"""What a text says where a constant of the world is added to something (`an hour and 15 minutes`)."""


CONVERSIONS = frozenset(map(Fraction, (7, 12, 16, 24, 52, 60, 100, 365, 1000, 3600)))
"""Constants of the world, whatever a text speaks of."""


def constants(text: str) -> frozenset[Fraction]:
    """The numbers that calculations about a text may hold although it does not write them.

    >>> sorted(map(int, constants("How many minutes is half an hour?")))
    [0, 0, 0, 1, 1, 2, 2, 60, 3600]
    """
    found = {"0", "1"}
    for patterns, values in _CONSTANTS:
        if all(re.search(pattern, text, re.I) for pattern in patterns):
            found |= set(values.split())
    for words, values in _SHARES.items():
        if re.search(words, text, re.I):
            found |= set(values.split())
    counted = {number for number, words in _COUNTED.items() if re.search(words, text, re.I)}
    return frozenset(map(Fraction, found)) | frozenset(map(Fraction, counted))


def times_told(value: Fraction, text: str) -> int | None:
    """How many numbers of calls the words of a text account for that are a small number which stays;
    None where that is not counted: a text says once that there are 60 minutes in an hour.

    >>> times_told(Fraction(2), "half of them, and twice the rest"), times_told(Fraction(60), "an hour")
    (2, None)
    """
    words = _COUNTED.get(int(value)) if value.denominator == 1 else None
    return None if words is None else len(re.findall(words, text, re.I))
