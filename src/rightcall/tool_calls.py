"""Calls in two spellings: Python text, as our models write them, and a name with JSON arguments, as the
OpenAI API and chat templates have them. Both ways, without a loss and without additions."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rightcall.chain import JSON, Call
from rightcall.errors import CallError
from rightcall.functions import Function, FunctionSet, parse_calls, parse_expression

# --- as text ------------------------------------------------------------------------------------


def call_text(name: str, args: Sequence[JSON] = (), kwargs: Mapping[str, JSON] | None = None) -> str:
    """A call in Python syntax, strings in double quotes.

    >>> call_text("add", [2, "a\\n"], {"by": None})
    'add(2, "a\\\\n", by=None)'
    """
    named = [f"{key}={literal(value)}" for key, value in (kwargs or {}).items()]
    return f"{name}({', '.join([*map(literal, args), *named])})"


def literal(value: JSON) -> str:
    """A value as a Python literal."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # JSON's escapes are Python's
    if isinstance(value, Mapping):
        items = (f"{literal(key)}: {literal(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def named_text(name: str, given: Mapping[str, JSON], functions: FunctionSet) -> str:
    """The call of a function by its named arguments. Those that the function's signature begins with
    are written without their names.

    A name that is no identifier gives a text that is read as a call that failed.
    """
    if not all(isinstance(key, str) and key.isidentifier() for key in given):
        return f"{name}(**{literal(given)})"
    call = named_call(name, given, functions.by_name)
    return call_text(name, call.args, call.kwargs)


def named_call(name: str, given: Mapping[str, JSON], known: Mapping[str, Function]) -> Call:
    """The call of a function by its named arguments, with those that its signature begins with by their
    places: as a model that writes Python would give them, and as tasks read them."""
    made = known.get(name)
    args: list[JSON] = []
    rest = dict(given)
    for parameter in _shown(made) if made is not None else ():
        if parameter.name not in rest or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            break
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            if isinstance(rest[parameter.name], list):
                args += rest.pop(parameter.name)
            break
        args.append(rest.pop(parameter.name))
    return Call(name=name, args=tuple(args), kwargs=rest)


def _shown(made: Function) -> list[inspect.Parameter]:
    """The parameters that a model fills in, in order."""
    return [p for name, p in made.parameters.items() if name not in made.state_parameters]


# --- as JSON arguments --------------------------------------------------------------------------


def named_arguments(call: Call, functions: FunctionSet) -> dict[str, JSON] | None:
    """The arguments by name, those that were given and no others; None if they have no names: the
    function is unknown, or got more arguments than it takes, or one twice."""
    named, rest = _by_place(call, functions)
    if call.name not in functions.by_name or rest or named.keys() & call.kwargs.keys():
        return None
    return named | call.kwargs


def failing_arguments(call: Call, functions: FunctionSet) -> dict[str, JSON] | None:
    """The same of a call that fails, its function being unknown or given more arguments than it takes:
    those that have no names are `arg1` and so on, by their places. None if that would be another
    call, or if an argument was given twice."""
    named, rest = _by_place(call, functions)
    first = len(call.args) - len(rest) + 1
    nameless = {f"arg{place}": value for place, value in enumerate(rest, first)}
    known = functions.by_name.get(call.name)
    taken = {*named, *call.kwargs, *(known.parameters if known else ())}
    if named.keys() & call.kwargs.keys() or nameless.keys() & taken:
        return None
    return named | nameless | call.kwargs


def _by_place(call: Call, functions: FunctionSet) -> tuple[dict[str, JSON], list[JSON]]:
    """A call's positional arguments by name, and those that have none."""
    named: dict[str, JSON] = {}
    rest = list(call.args)
    known = functions.by_name.get(call.name)
    for parameter in _shown(known) if known is not None else ():
        if not rest or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            break
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            named[parameter.name], rest = rest, []
        else:
            named[parameter.name] = rest.pop(0)
    return named, rest


def read_call(reply: str, functions: FunctionSet) -> Call | None:
    """The call that is run when a model replies so; None if there is none."""
    try:
        return parse_calls(reply, known=functions.by_name)[0]
    except CallError:
        return None


def is_bare(reply: str) -> bool:
    """Whether a reply is a call and nothing else."""
    try:
        node: Any = parse_expression(reply.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return isinstance(node, ast.Call)


def spoken(words: str, name: str, given: Mapping[str, JSON], functions: FunctionSet) -> str | None:
    """The reply of a turn that has words beside its call: the words alone, if they make the same call;
    the call below them; None if the words would be read as another call."""
    wanted = named_text(name, given, functions)
    made = read_call(wanted, functions)
    if made is not None:
        inside = read_call(words, functions)
        if inside is not None and inside.name == name and named_arguments(inside, functions) == given:
            return words
    both = f"{words}\n{wanted}"
    return both if read_call(both, functions) == made else None
