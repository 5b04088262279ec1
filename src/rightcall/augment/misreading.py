"""Formulas and expressions as a hurried reader takes them: what goes wrong most often, on their text.

Texts of any spelling that looks like a formula are changed where they stand, so that all the rest stays
as it was written; whether it is still a formula is found when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rightcall.augment.written import edited

EXPRESSION = re.compile(r"[\d\s.,+*/%()=<>^xyz-]+")
_ATOM = re.compile(r"[A-Za-z_][\w-]*\([^()]*\)")
_PAIR = re.compile(r"([A-Za-z_][\w-]*)\(([^(),]+), ([^(),]+)\)")
_NEGATION = re.compile(r"[~¬](?=\s*[\w(])")
_VARIABLE = re.compile(r"(?:forall|exists|∀|∃)\s*(\w+)")
_ARROW = re.compile(r" (?:->|→) ")
_CONFUSED_SIGNS = (("^", "|"), ("⊕", "∨"), ("<->", "->"), ("↔", "→"), ("|", "&"), ("∨", "∧"))
_OPERATION = re.compile(r"(?<=[\d)\s])([-+*/])(?=[\d(\s])")
_CONFUSED_OPERATIONS = {"+": "-", "-": "+", "*": "/", "/": "*"}


def is_calculation(text: str) -> bool:
    return EXPRESSION.fullmatch(text) is not None and _OPERATION.search(text) is not None


def names_in(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The names of things in a formula, variables left out, and where they stand."""
    variables = {found[1] for found in _VARIABLE.finditer(text)}
    for atom in _ATOM.finditer(text):
        bracket = text.index("(", atom.start())
        for found in re.compile(r"[^\s,()]+").finditer(text, bracket, atom.end()):
            if found[0] not in variables:
                yield found[0], found.span()


def misread(text: str) -> list[str]:
    """A formula or an expression as it is misread; nothing of any other text.

    >>> misread("forall x (cold(x) -> ~red(x))")
    ['forall x (cold(x) -> red(x))', 'forall x (~red(x) -> cold(x))']
    >>> misread("likes(cat, dog)"), misread("48 / 2")
    (['likes(dog, cat)'], ['48 * 2', '2 / 48'])
    """
    if is_calculation(text):
        return [*_other_operations(text), *_other_order(text)]
    if not _ATOM.search(text):
        return []
    slips = [text[: one.start()] + text[one.end() :] for one in _NEGATION.finditer(text)]
    if (turned := _turned_round(text)) is not None:
        slips.append(turned)
    for one in _PAIR.finditer(text):
        if one[2] != one[3]:
            slips.append(edited(text, [(*one.span(), f"{one[1]}({one[3]}, {one[2]})")]))
    for sign, other in _CONFUSED_SIGNS:
        if f" {sign} " in text:
            slips.append(text.replace(f" {sign} ", f" {other} ", 1))
    if (dropped := _without_condition(text)) is not None:
        slips.append(dropped)
    return slips


def _other_operations(text: str) -> Iterator[str]:
    for one in _OPERATION.finditer(text):
        yield edited(text, [(*one.span(), _CONFUSED_OPERATIONS[one[0]])])


def _other_order(text: str) -> Iterator[str]:
    number = r"\d+(?:\.\d+)?"
    found = re.fullmatch(rf"({number})(\s*[-/]\s*)({number})", text)
    if found and found[1] != found[3]:
        yield f"{found[3]}{found[2]}{found[1]}"


def _implication(text: str) -> tuple[int, int, int, int] | None:
    """Where the two sides of a formula's only implication begin and end."""
    arrows = list(_ARROW.finditer(text))
    if len(arrows) != 1 or "<->" in text or "↔" in text:
        return None
    depth, start = 0, arrows[0].start()
    while start and depth <= 0 and not (depth == 0 and text[start - 1] == "("):
        start -= 1
        depth += {"(": 1, ")": -1}.get(text[start], 0)
    depth, end = 0, arrows[0].end()
    while end < len(text) and not (depth == 0 and text[end] == ")"):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return start, arrows[0].start(), arrows[0].end(), end


def _turned_round(text: str) -> str | None:
    """ "All A are B" as "all B are A"."""
    place = _implication(text)
    if place is None:
        return None
    start, left_end, right_start, end = place
    sides = text[start:left_end], text[right_start:end]
    return edited(text, [(start, left_end, sides[1]), (right_start, end, sides[0])])


def _without_condition(text: str) -> str | None:
    """Of several conditions only the first is read."""
    place = _implication(text)
    if place is None:
        return None
    start, left_end, _, _ = place
    first, sign, _ = text[start:left_end].partition(" & ")
    return (
        edited(text, [(start, left_end, first)])
        if sign and first.count("(") == first.count(")")
        else None
    )
