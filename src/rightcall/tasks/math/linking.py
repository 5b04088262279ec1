"""Where the numbers of calls come from: the text, earlier results, or what everybody knows.

A call may hold a number of the text in several forms (20% as 20, as 0.2 and, of what is left, as 80),
and one value may come from several places. What is not certain is rejected: see
`rightcall.tasks.math.augmentation`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rightcall.augment.operation import Rejected
from rightcall.tasks.math.common_knowledge import (
    CONVERSIONS,
    CONVERTED,
    HEIGHTS,
    MEASURES,
    ONE,
    TOLD_TWICE,
    WHOLE_UNIT,
    constants,
    times_told,
)
from rightcall.tasks.math.expressions import OPERATORS, Tree
from rightcall.tasks.math.mentions import Mention, Unreadable, mentions
from rightcall.tasks.math.numbers import bounded
from rightcall.tasks.math.plans import leaves

LARGEST_IDLE = 4
"""A count up to this that no call uses stays (`all three of them`); a larger one may have to fit."""
LARGEST_LISTED = 6
"""So many things may be told one by one: then their number cannot change."""
LARGEST_CHANCE = 12
"""A result up to this may be a number of the text by chance; a larger one was told twice."""
_HUNDRED = Fraction(100)
_HIGHER = "fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_ORDINALS = "first|second|third|fourth|fifth|last|final|other|another|one|remaining"

# --- sources --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a number of a call may come from: `scale * quantity + offset`, or `scale / quantity`."""

    quantity: str
    """`n0`, `n1`, ... for the numbers of the text that may change, `r0`, `r1`, ... for results; empty
    for what stays as it is."""
    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    divides: bool = False

    @property
    def is_result(self) -> bool:
        return self.quantity.startswith("r")

    def value(self, values: Mapping[str, Fraction]) -> Fraction:
        if not self.quantity:
            return self.offset
        given = values[self.quantity]
        return self.scale / given if self.divides else self.offset + self.scale * given


@dataclass(frozen=True)
class Text:
    """The numbers of a question, as calls may hold them."""

    question: str
    mentions: tuple[Mention, ...]
    groups: Mapping[str, tuple[Mention, ...]]
    """The numbers that may change, equal ones together: `n0`, `n1`, ..."""
    fixed: frozenset[Fraction]
    """What numbers that stay, and constants, may be in a call."""

    @classmethod
    def of(cls, question: str) -> Text:
        """Raises `Rejected`."""
        if re.search(TOLD_TWICE, question, re.I):
            raise Rejected("numbers that have to fit each other")
        try:
            read = mentions(question)
        except Unreadable:
            raise Rejected("a number in an unusual form") from None
        if _add_up(read):
            raise Rejected("numbers that have to fit each other")
        found = tuple(replace(m, fixed=True) if _bound(m, read, question) else m for m in read)
        free = [m for m in found if not m.fixed]
        values = list(dict.fromkeys(m.value for m in free))
        groups = {f"n{i}": tuple(m for m in free if m.value == v) for i, v in enumerate(values)}
        fixed = {form for m in found if m.fixed for form in _fixed_forms(m)}
        return cls(question, found, groups, frozenset(fixed) | constants(question))

    @property
    def values(self) -> dict[str, Fraction]:
        return {name: group[0].value for name, group in self.groups.items()}

    def sources(self, value: Fraction) -> set[Source]:
        """What of the text, and of the world, has that value."""
        found = {Source("", offset=value)} if value in self.fixed else set()
        for name, group in self.groups.items():
            for mention in group:
                for scale, offset in _forms(mention, self.question):
                    if scale * mention.value + offset == value:
                        found.add(Source(name, scale, offset))
            if any(m.percent and m.value * value == 100 for m in group):
                found.add(Source(name, _HUNDRED, divides=True))  # 20% is a fifth
        return found


def _make_a_whole(read: Iterable[Mention]) -> bool:
    """Whether percentages add up to 100: then none of them can change alone."""
    shares = [m.value for m in read if m.percent]
    return len(shares) > 1 and sum(shares) == 100


def _bound(mention: Mention, read: Iterable[Mention], question: str) -> bool:
    """Whether something else in the text forbids to change a number alone."""
    if mention.percent:
        return _make_a_whole(read)
    if mention.unit in ("inch", "inche", "feet", "foot", "cm") and re.search(HEIGHTS, question):
        return True
    if any(n in (mention.value, mention.value + 1) for n in _ordinals(question)):
        return True
    return _listed(mention, question) or _defines(mention, question)


def _ordinals(question: str) -> Iterator[int]:
    """From the fourth on: after ten chapters comes the eleventh."""
    for digits in re.findall(r"\b(\d+)(?:st|nd|rd|th)\b", question):
        yield int(digits)
    for number, word in enumerate(_HIGHER, 4):
        if re.search(rf"\b{word}\b", question, re.I):
            yield number


def _defines(mention: Mention, question: str) -> bool:
    """Whether a number says how many of a unit are in another: `There are 2.5 cm per inch.`"""
    before, after = question[: mention.start], question[mention.end :]
    of_one = r"\s*(?:in|per|to|for|equals?|=|make)\s+(?:(?:an?|one|1|each|every)\s+)?"
    is_ = (
        r"\b(?:an?|one|1|each|every)\s+{}\s*(?:is|equals?|has|contains|weighs|=|holds)\s+(?:about\s+)?$"
    )
    return any(
        re.match(rf"\s*-?{unit}{of_one}{unit}\b", after, re.I)
        or (re.match(rf"\s*-?{unit}\b", after, re.I) and re.search(is_.format(unit), before, re.I))
        for unit in MEASURES
    )


def _add_up(read: Sequence[Mention]) -> bool:
    """Whether a number of the text seems to be the sum of two others (`30 pets, 12 cats, 18 dogs`)."""
    values = {m.value: m for m in read if not m.percent and m.part_of is None}
    return any(
        total > LARGEST_CHANCE and total - one in values and total - one > one
        for total, whole in values.items()
        for one, part in values.items()
        if one > 2 and whole.money == part.money
    )


def _listed(mention: Mention, question: str) -> bool:
    """Whether there are so many because they are told one by one: `3 days: on the first day ...`."""
    if not counts_a_few(mention, LARGEST_LISTED) or mention.unit in ("", "time"):
        return False
    unit = re.escape(mention.unit)
    told = rf"\b(?:{_ORDINALS})\s+(?:\w+\s+)?{unit}"
    named = rf"\s*-?\s*(?:\w+\s+)?{unit}\w*\s*(?:[,:(]|named|called|who are|are)\s*[A-Z]"
    return bool(
        re.search(told, question, re.I)
        or re.match(named, question[mention.end :])
        or re.match(rf"\s*-?\s*(?:\w+\s+)?{unit}\w*\s*:", question[mention.end :])
    )


def counts_a_few(mention: Mention, most: int) -> bool:
    return mention.value <= most and not mention.money and not mention.percent


def _forms(mention: Mention, text: str) -> Iterator[tuple[Fraction, Fraction]]:
    """Scale and offset of the forms in which a call may hold a number."""
    yield Fraction(1), Fraction(0)
    if mention.percent:
        for sign in (-1, 1):
            yield Fraction(sign), _HUNDRED
            yield Fraction(sign, 100), Fraction(1)
        yield Fraction(1, 100), Fraction(0)
    if re.match(r"cents?\b", mention.after) or "¢" in text:
        yield Fraction(1, 100), Fraction(0)
    if mention.unit == "minute" and re.search("hour|mph", text):
        yield Fraction(1, 60), Fraction(0)
    for unit, other, many in CONVERTED:
        if mention.unit == unit and re.search(other, text):
            yield Fraction(many), Fraction(0)


def _fixed_forms(mention: Mention) -> Iterator[Fraction]:
    """What a number that stays may be in a call."""
    value, bottom = mention.value, mention.part_of
    yield value
    if mention.percent:
        yield from (value / 100, 1 - value / 100, 1 + value / 100, 100 - value, 100 + value)
        if value:
            yield 100 / value
    if mention.money:
        yield value / 100
    if bottom is not None:
        yield from (bottom, value * bottom, bottom - value * bottom, 1 - value, value * 100, 1 + value)


def sources_of(text: Text, value: Fraction, results: Mapping[str, Fraction]) -> set[Source]:
    """What a number of a call may be. Raises `Rejected` if it may be nothing."""
    found = text.sources(value) | {Source(name) for name, known in results.items() if known == value}
    if not found:
        raise Rejected("a number from nowhere")
    return found


def settle(every: Sequence[set[Source]], inner: Collection[str]) -> None:
    """Every result that is not the answer is there to be used: if only one number can be it, it is,
    provided that what else it may be is used elsewhere."""
    for name in sorted(inner):
        mine = [sources for sources in every if Source(name) in sources]
        if len(mine) != 1:
            continue
        others = {s.quantity for s in mine[0]} - {name, ""}
        elsewhere = {s.quantity for sources in every if sources is not mine[0] for s in sources}
        if others <= elsewhere:
            mine[0].intersection_update({Source(name)})


# --- the calculations to go by --------------------------------------------------------------------


@dataclass(frozen=True)
class Guide:
    """The calculations that give the answer, linked to the text."""

    text: Text
    trees: tuple[Tree, ...]
    """With a `Source` in the place of each number."""
    alternatives: tuple[tuple[Source, ...], ...]
    """Of each number that has several sources: all of them."""
    answer: tuple[str, ...]
    """The results that may be the answer."""
    free: frozenset[str]
    """The groups that may change."""

    @classmethod
    def of(
        cls,
        text: Text,
        calculations: Sequence[Tree],
        answer: Fraction,
        idle: Collection[Fraction] = frozenset(),
    ) -> Guide:
        """`idle`: numbers of the text that are known to matter to nothing. Raises `Rejected`."""
        by_call, results = _by_call(text, calculations)
        every = [sources for own in by_call for sources in own]
        ends = tuple(name for name, value in results.items() if value == answer)
        if not ends:
            raise Rejected("the answer is no result")
        settle(every, results.keys() - set(ends))
        used = Counter(name for sources in every for name in {s.quantity for s in sources})
        if any(name not in used and name not in ends for name in results):
            raise Rejected("a result that nothing uses")
        if any(value in CONVERSIONS and used[name] > 1 for name, value in results.items()):
            raise Rejected("an argument is a result or a constant")
        stay = _staying(text, every, used)
        _check_told(text, used, results, idle)
        for sources in every:
            _check_alternatives(sources, stay)
        _check_counts(text, every, stay)
        for tree, own in zip(calculations, by_call, strict=True):
            _check_sums(text, tree, iter(own))
        if any(map(_takes_one, calculations)) and not re.search(ONE, text.question, re.I):
            raise Rejected("a number from nowhere")
        free = frozenset(text.groups) & used.keys() - stay
        if not free:
            raise Rejected("no number may change")
        trees = tuple(_linked(tree, iter(own)) for tree, own in zip(calculations, by_call, strict=True))
        several = tuple(tuple(sources) for sources in every if len(sources) > 1)
        return cls(text, trees, several, ends, free)


def _by_call(
    text: Text, calculations: Iterable[Tree]
) -> tuple[list[list[set[Source]]], dict[str, Fraction]]:
    """The sources of each number of each calculation, and the results. Raises `Rejected`."""
    results: dict[str, Fraction] = {}
    found: list[list[set[Source]]] = []
    for tree in calculations:
        found.append([sources_of(text, value, results) for value in leaves(tree)])
        first = _linked(tree, iter(found[-1]))
        results[f"r{len(results)}"] = run(first, {**text.values, **results}, [])
    if not results:
        raise Rejected("no calculation is known")
    return found, results


def _staying(text: Text, every: Iterable[set[Source]], used: Mapping[str, int]) -> set[str]:
    """The groups that stay, and the empty name: some number may be one of them or a constant; or it is
    small and the text has it more often than calls do, so that it also counts something else, or less
    often, so that some call may mean another number (three people, not three dollars)."""
    stay = {s.quantity for found in every if any(not s.quantity for s in found) for s in found}
    stay |= {
        name
        for name, group in text.groups.items()
        if group[0].value <= LARGEST_LISTED and used.get(name, 0) != len(group)
    }
    return {""} | {name for name in stay if name in text.groups}


def _check_told(
    text: Text, used: Mapping[str, int], results: Mapping[str, Fraction], idle: Collection[Fraction]
) -> None:
    """Raises `Rejected` for a number whose part in the story no call shows."""
    for name, (mention, *_) in text.groups.items():
        if name not in used and mention.value not in idle and not counts_a_few(mention, LARGEST_IDLE):
            raise Rejected("a number that no call uses")
        same = [m for m in text.mentions if m.value == mention.value]  # those that stay, too
        if len({(m.money, m.percent) for m in same}) > 1 and used[name] < len(same):
            raise Rejected("a number that no call uses")
    told = {m.value for m in text.mentions}
    if any(value in told and value > LARGEST_CHANCE for value in results.values()):
        raise Rejected("a result that the text tells")


def _check_alternatives(sources: Iterable[Source], stay: Collection[str]) -> None:
    """Raises `Rejected` where the sources of a number cannot agree whatever the new numbers are."""
    results = {s for s in sources if s.is_result}
    others = set(sources) - results
    if results and others:
        raise Rejected("an argument is a result or a number of the text")
    if len({s for s in others if s.quantity not in stay}) > 1:
        raise Rejected("an argument is one of two numbers of the text")


def _check_sums(text: Text, tree: Tree, sources: Iterator[set[Source]], summand: bool = False) -> None:
    """Raises `Rejected` if something is added or taken away that looks like a constant, but is not
    told: it was worked out in the head (100 for 50% of 200)."""
    if isinstance(tree, Fraction):
        fixed = all(not s.quantity for s in next(sources))
        if summand and fixed and tree > 1 and tree.denominator == 1 and not _is_told(text, tree):
            raise Rejected("a number from nowhere")
        return
    for place, operand in enumerate(tree[1:]):
        added = tree[0] == "add" and not (operand == 100 and _is_share(text, tree[2 - place]))
        _check_sums(text, operand, sources, added or (tree[0] == "subtract" and place == 1))


def _is_told(text: Text, value: Fraction) -> bool:
    told = {m.value for m in text.mentions if m.word or m.text.lower() not in ("twice", "thrice")}
    return value in told or bool(re.search(WHOLE_UNIT, text.question, re.I))


def _is_share(text: Text, tree: Tree) -> bool:
    """Whether it is a percentage of the text: of what is `100 + 20`."""
    return any(m.percent and m.value == tree for m in text.mentions)


def _takes_one(tree: Tree) -> bool:
    """Whether somewhere one is taken away: the one may be 10% of 10, worked out in the head."""
    if not isinstance(tree, tuple):
        return False
    return (tree[0] == "subtract" and tree[2] == 1) or any(map(_takes_one, tree[1:]))


def _check_counts(text: Text, every: Iterable[set[Source]], stay: Collection[str]) -> None:
    """Raises `Rejected` if calls hold a small number more often than the text has a reason for."""
    held = Counter(
        next(iter(sources)).value(text.values)
        for sources in every
        if all(s.quantity in stay for s in sources)
    )
    for value, count in held.items():
        words = times_told(value, text.question)
        told = [m for m in text.mentions if m.word or m.text[-1].isdigit()]
        numbers = sum(value in {m.value, *_fixed_forms(m)} for m in told)
        if words is not None and count > words + numbers:
            raise Rejected("a number from nowhere")


def _linked(tree: Tree, sources: Iterator[set[Source]]) -> Tree:
    """A tree with a source in the place of each number."""
    if isinstance(tree, Fraction):
        return min(next(sources), key=lambda s: (bool(s.quantity), s.quantity, s.scale, s.offset))
    if isinstance(tree, tuple) and tree[0] not in ("round", "solve"):
        return (tree[0], *(_linked(operand, sources) for operand in tree[1:]))
    raise Rejected("a call that is not traced")


def run(tree: Tree, values: Mapping[str, Fraction], nodes: list[Fraction]) -> Fraction:
    """The value of a linked tree; those of all its parts are put into `nodes`. Raises `CallError`."""
    if isinstance(tree, Source):
        value = tree.value(values)
    else:
        operator, *operands = tree
        given = [run(operand, values, nodes) for operand in operands]
        if operator == "change":
            value = OPERATORS["divide"]((given[1] - given[0]) * 100, given[0])
        else:
            value = bounded(OPERATORS[operator](*given))
    nodes.append(value)
    return value
