"""Recorded calls → replies: the text with which the agent loop makes each call again.

A reply makes the call that was recorded, or fails as that did; no other call is ever run, whatever
stands in words, names and broken arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from inspect import Parameter

from rightcall.chain import JSON
from rightcall.dialects import DIALECTS
from rightcall.errors import CallError, FailureKind
from rightcall.functions import Function, FunctionSet, parse_calls
from rightcall.importing.recorded import Recorded, RecordedCall
from rightcall.native import Invocation, Said, from_server, read, unreadable
from rightcall.tool_calls import is_bare, named_arguments, named_text, read_call, spoken

LEFT_OUT = "words beside a call left out: they would be read as another call"
NULL = "null for an argument that has a default, read as not given"
NAMESPACE = "namespace before a function's name left out"
FREE_FORM = "text given to a custom tool, taken as its function's only argument"


def in_replies(recorded: Recorded, functions: FunctionSet, dialect: str) -> Recorded:
    """The attempt with every call as the reply that makes it, in a dialect, and with its name, which
    only turns without a call do not have; what had to be decided is noted."""
    notes = list(recorded.notes)
    write = _native if dialect == "native" else _python
    calls = []
    for call in recorded.calls:
        if call.name is not None:
            call = _named(call, functions, recorded.verbatim, notes)
        reply = write(call, functions, notes)
        name = _name_of(call.reply, functions) if call.name is None else call.name
        calls.append(RecordedCall(reply=reply, name=name, result=call.result))
    return recorded.model_copy(update={"calls": tuple(calls), "notes": tuple(notes)})


def _name_of(reply: str, functions: FunctionSet) -> str | None:
    """The name of the call that a reply is; None if it is something else."""
    if not is_bare(reply):
        return None
    made = read_call(reply, functions)
    return reply.strip().partition("(")[0].strip() if made is None else made.name


# --- the function and its arguments ---------------------------------------------------------------


def _named(
    call: RecordedCall, functions: FunctionSet, verbatim: bool, notes: list[str]
) -> RecordedCall:
    """The call by the task's name of the function, with the arguments that it was given."""
    name = str(call.name) if verbatim else _own_name(str(call.name), functions)
    notes += [NAMESPACE] if name != call.name else []
    made = functions.by_name.get(name)
    given = dict(call.arguments)
    if call.input is not None:
        only = None if made is None else _only_parameter(made)
        notes += [FREE_FORM] if only is not None else []
        given = {only or "input": call.input}  # a function that takes something else refuses it
    elif made is not None and not verbatim:
        unset = [key for key in made.without_null if key in given and given[key] is None]
        notes += [NULL] * len(unset)
        given = {key: value for key, value in given.items() if key not in unset}
    return call.model_copy(update={"name": name, "arguments": given})


def _own_name(name: str, functions: FunctionSet) -> str:
    """`add` for `functions.add`, as the first models with tools were recorded, or for `server.add`."""
    last = name.rpartition(".")[2]
    if name in functions.by_name or last not in functions.by_name:
        return name.removeprefix("functions.")
    return last


def _only_parameter(made: Function) -> str | None:
    """The one argument that a function needs, or else the one that it takes."""
    shown = {name: one for name, one in made.parameters.items() if name not in made.state_parameters}
    needed = [
        name
        for name, one in shown.items()
        if one.default is Parameter.empty and one.kind is not Parameter.VAR_POSITIONAL
    ]
    chosen = needed or list(shown)
    return chosen[0] if len(chosen) == 1 else None


# --- in Python syntax -----------------------------------------------------------------------------


def _python(call: RecordedCall, functions: FunctionSet, notes: list[str]) -> str:
    if call.name is None:
        return call.reply
    told = call.broken is not None or call.reply.strip()  # words are there: they are what was said
    if not told and _makes(call.exact, call.name, call.arguments, functions):
        return call.exact
    name = _identifier(call.name, functions)
    if call.broken is not None:
        return _failing(call.reply, name, call.broken, functions, notes)
    reply = named_text(name, call.arguments, functions)
    made = read_call(reply, functions)
    if made is not None and made.name != name:  # one that stands in its arguments
        sent = json.dumps(call.arguments, ensure_ascii=False)
        return _failing(call.reply, name, sent, functions, notes)
    if not call.reply.strip():
        return reply
    both = spoken(call.reply, name, call.arguments, functions)
    notes += [LEFT_OUT] if both is None else []
    return reply if both is None else both


def _makes(reply: str, name: str, given: Mapping[str, JSON], functions: FunctionSet) -> bool:
    """Whether a reply makes this call."""
    made = read_call(reply, functions) if reply else None
    return made is not None and made.name == name and named_arguments(made, functions) == given


def _identifier(name: str, functions: FunctionSet) -> str:
    """A name that a call can have; that of no function, if it is none of theirs."""
    if name.isidentifier():
        return name
    made = re.sub(r"\W|^(?=\d)", "_", name) or "_"
    return f"{made}_" if made in functions.by_name else made


def _failing(words: str, name: str, sent: str, functions: FunctionSet, notes: list[str]) -> str:
    """A call that cannot be parsed, whatever was sent: quoted, with no call inside."""
    quoted = json.dumps(sent, ensure_ascii=False).replace("(", "\\u0028")
    call = f"{name}(**{quoted})"
    both = f"{words}\n{call}" if words.strip() else call
    if _unparsable(both, functions):
        return both
    notes.append(LEFT_OUT)
    return call


def _unparsable(reply: str, functions: FunctionSet) -> bool:
    try:
        parse_calls(reply, functions.by_name)
    except CallError as error:
        return error.kind is FailureKind.UNPARSABLE
    return False


# --- natively -------------------------------------------------------------------------------------


def _native(call: RecordedCall, functions: FunctionSet, notes: list[str]) -> str:
    exact = read(call.exact)
    if call.name is None:
        same = bool(call.exact) and exact == Said(call.reply)
        return call.exact if same else DIALECTS["native"].spelled(call.reply, functions)
    made = Invocation(call.name, dict(call.arguments))
    if call.broken is None:
        said = Said(call.reply.rstrip(), (made,))
        same = exact.words.rstrip() == said.words and exact.calls[:1] == said.calls
        return call.exact if same else str(said)
    sent: list[JSON] = [{"function": {"name": call.name, "arguments": call.broken}}]
    both = from_server(call.reply.rstrip(), sent)
    if unreadable(read(both).words) is not None:
        return both
    notes.append(LEFT_OUT)
    return from_server(None, sent)
