"""A call where it stands in a reply: its literals in place, so that one of them can be changed and all
the rest of the reply, down to the kind of quotes, stays as the model wrote it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rightcall.chain import JSON, Call
from rightcall.errors import CallError
from rightcall.functions import FunctionSet, parse_calls, parse_expression

MAX_BRACKETS = 200
"""Closing brackets that are tried as the end of a call."""

Edit = tuple[int, int, str]
"""(start, end, text): what is put in the place of `reply[start:end]`."""


@dataclass(frozen=True)
class Literal:
    """A number or a string in a call, lists and dicts looked into."""

    start: int
    end: int
    value: JSON
    source: str
    """As it is written, quotes included."""
    argument: int | str
    """Of which argument it is a part: its place, or its name if it was given by name."""
    whole: bool
    """It is that argument, and no part of a list or dict."""


@dataclass(frozen=True)
class Written:
    """The call that is run when a model replies so, and where it stands."""

    reply: str
    start: int
    end: int
    call: Call
    literals: tuple[Literal, ...]

    @property
    def source(self) -> str:
        return self.reply[self.start : self.end]

    @property
    def words(self) -> str:
        """What the reply says beside the call."""
        return f"{self.reply[: self.start]} {self.reply[self.end :]}".strip()

    def edited(self, edits: Iterable[Edit]) -> str:
        """The reply with these places of its call changed. If there are words beside the call that
        speak of numbers or of the function, they would no longer fit: then it is the call alone."""
        changes = list(edits)
        if not changes or not re.search(rf"\d|\b{re.escape(self.call.name)}\b", self.words):
            return edited(self.reply, changes)
        inside = [(start - self.start, end - self.start, text) for start, end, text in changes]
        return edited(self.source, inside)


def edited(text: str, edits: Iterable[Edit]) -> str:
    """
    >>> edited("add(2, 3)", [(4, 5, "70"), (7, 8, "1")])
    'add(70, 1)'
    """
    for start, end, put in sorted(edits, reverse=True):
        text = text[:start] + put + text[end:]
    return text


def quoted(text: str, like: str = '"') -> str:
    """A string as a Python literal, in single quotes where `like` begins with one."""
    if like.startswith("'") and "'" not in text:
        return repr(text)
    return json.dumps(text, ensure_ascii=False)


def written_call(reply: str, functions: FunctionSet) -> Written | None:
    """The call of a reply; None if none can be read, or its place is not clear.

    >>> from rightcall.tasks.math.functions import add
    >>> found = written_call("So: add(2, 3)", FunctionSet([add]))
    >>> found.source, [literal.source for literal in found.literals]
    ('add(2, 3)', ['2', '3'])
    """
    try:
        call = parse_calls(reply, known=functions.by_name)[0]
    except CallError:
        return None
    for start, end in _places(reply, call.name):
        source = reply[start:end]
        try:
            same = parse_calls(source, known=[call.name])[0] == call
        except CallError:
            continue
        if same:
            return Written(reply, start, end, call, tuple(_literals(source, start)))
    return None


def _places(reply: str, name: str) -> Iterator[tuple[int, int]]:
    """Where something stands that reads as a call of that name."""
    for found in re.finditer(rf"(?<![\w.]){re.escape(name)}\s*\(", reply):
        brackets = re.finditer(r"\)", reply[found.end() :])
        for _, bracket in zip(range(MAX_BRACKETS), brackets, strict=False):
            end = found.end() + bracket.end()
            if _parsed(reply[found.start() : end]) is not None:
                yield found.start(), end
                break


def _parsed(source: str) -> ast.Call | None:
    try:
        node = parse_expression(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return node if isinstance(node, ast.Call) else None


def _literals(source: str, offset: int) -> Iterator[Literal]:
    node = _parsed(source)
    if node is None:
        return
    arguments: list[tuple[int | str, ast.expr]] = list(enumerate(node.args))
    arguments += [(keyword.arg or "", keyword.value) for keyword in node.keywords]
    for argument, value in arguments:
        for leaf in _leaves(value):
            start, end = _place(source, leaf)
            text = source[start:end]
            try:
                read = ast.literal_eval(leaf)
            except ValueError:
                continue
            if isinstance(read, (int, float, str)) and not isinstance(read, bool):
                place = (offset + start, offset + end)
                yield Literal(*place, read, text, argument, leaf is value)


def _leaves(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, (ast.Constant, ast.UnaryOp)):
        yield node
    elif isinstance(node, (ast.List, ast.Tuple)):
        for item in node.elts:
            yield from _leaves(item)
    elif isinstance(node, ast.Dict):
        for item in node.values:
            yield from _leaves(item)


def _place(source: str, node: ast.expr) -> tuple[int, int]:
    """Where a node stands, in characters (`ast` counts the bytes of each line)."""
    lines = source.split("\n")

    def index(line: int, column: int) -> int:
        before = sum(len(text) + 1 for text in lines[: line - 1])
        return before + len(lines[line - 1].encode()[:column].decode())

    end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
    return index(node.lineno, node.col_offset), index(end_line, end_column)
