"""Which call repairs which: what a chain's texts show, whatever came of it.

A call that succeeded after one that failed may be about something else: the model gave up and went on
with the next sentence. To prefer it in the failed one's place would then teach to leave things out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from rightcall.chain import JSON, Call
from rightcall.dialects import NativeCalls
from rightcall.errors import CallError, FailureKind
from rightcall.functions import parse_calls, parse_expression
from rightcall.native import read
from rightcall.pairs.outline import Outline, StepOutline
from rightcall.tree import Turn

SAME_WORDS = 2 / 3
"""Share of the words of two calls' arguments that both have, from which on they are about the same."""

_WORD = re.compile(r"\w+(?:\.\w+)*")
_FRAME = " \t\r\n`.;"
"""What may stand after a call without being said."""


def repairs(steps: Sequence[Turn]) -> Iterator[tuple[int, int]]:
    """Indices of every failed call and of the call that succeeded next, if that is known to repair
    it: see `_repairs`."""
    for failed, step in enumerate(steps):
        if step.observation.failure is None:
            continue
        later = (i for i in range(failed + 1, len(steps)) if steps[i].observation.failure is None)
        mended = next(later, None)
        if mended is not None and _repairs(step, steps[mended]):
            yield failed, mended


def _repairs(failed: Turn, mended: Turn) -> bool:
    """Whether a call that succeeded is known to be of the same thing as one that failed: of the same
    function (unless the failed one named none that exists), with an argument that is the same in the
    same place, or if two thirds of all words of the two stand in both (one of five may differ). A reply
    without a call is repaired by any call."""
    call, failure = mended.call, failed.observation.failure
    if call is None or failure is FailureKind.NO_CALL:
        return call is not None
    if failed.call is None:  # it could not be read
        _, *rest = re.split(rf"\b{re.escape(call.name)}\b", failed.reply, maxsplit=1)
        return _shared(_words(*rest), _words(*_arguments(call).values())) >= SAME_WORDS
    if failed.call.name != call.name and failure is not FailureKind.UNKNOWN_FUNCTION:
        return False
    before, after = _arguments(failed.call), _arguments(call)
    if any(place in after and after[place] == value for place, value in before.items()):
        return True
    return _shared(_words(*before.values()), _words(*after.values())) >= SAME_WORDS


def _arguments(call: Call) -> dict[str, JSON]:
    """By place or name."""
    return {**{str(place): value for place, value in enumerate(call.args)}, **call.kwargs}


def _words(*values: JSON) -> frozenset[str]:
    return frozenset(word for value in values for word in _WORD.findall(str(value)))


def _shared(one: frozenset[str], other: frozenset[str]) -> float:
    """Of the words of both.

    >>> _shared(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    return len(one & other) / len(one | other) if one or other else 0.0


def ends_with_call(chain: Outline, step: StepOutline) -> bool:
    """Whether a reply makes one call and nothing follows it. Words may stand before it, and what frames
    a call after it."""
    if chain.dialect == NativeCalls.name:  # which holds calls behind the words
        return len(read(step.reply).calls) == 1
    call = step.call
    try:
        if call is None or len(parse_calls(step.reply, (call.name,))) != 1:
            return False
    except CallError:  # written otherwise than in Python
        return False
    begun = re.finditer(rf"(?<![\w.]){re.escape(call.name)}\s*\(", step.reply)
    return any(_is_call(step.reply[found.start() :]) for found in begun)


def _is_call(text: str) -> bool:
    try:
        read_as = parse_expression(text.rstrip(_FRAME))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return isinstance(read_as, ast.Call) and isinstance(read_as.func, ast.Name)
