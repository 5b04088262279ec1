"""Dialects: how functions are shown to a model and how it writes its calls.

`PythonCalls` is the paper's: descriptions with worked examples in the first message, one call in
Python syntax per reply, the observation as the next user turn. `NativeCalls` is tool calling as models
are trained for it: functions as JSON schemas through the chat template or the API, calls as the
template writes them, observations in the role tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rightcall.chain import Call, Message, Problem
from rightcall.errors import CallError, FailureKind
from rightcall.functions import (
    MAX_REPLY_CHARACTERS,
    Function,
    FunctionSet,
    Notation,
    Result,
    States,
)
from rightcall.native import Invocation, Said, json_text, read, unreadable
from rightcall.tool_calls import failing_arguments, is_bare, named_call, named_text, read_call
from rightcall.tree import Read, Turn

NOT_RUN = "Not run: one call per reply."
"""What a further call of a reply is answered with."""


class Dialect(Protocol):
    """What the agent loop needs to talk to a model."""

    name: str

    def prompt(self, instruction: str, functions: FunctionSet, problem: Problem) -> tuple[Message, ...]:
        """The messages before the first reply. The first one is the same for all problems."""

    def tools(self, functions: FunctionSet) -> str:
        """The functions' schemas as JSON text; empty if the prompt shows the functions."""

    def observations(self, reply: str, observation: Read) -> tuple[Message, ...]:
        """The turns that carry an observation back."""

    def run(self, reply: str, functions: FunctionSet, states: States) -> Result:
        """Parse a reply and run its call."""

    def isolated(self, reply: str, functions: FunctionSet) -> bool:
        """Whether that call goes to a worker process, where it may take long."""

    def spelled(self, reply: str, functions: FunctionSet) -> str:
        """A reply whose call is in Python syntax, as this dialect writes it."""

    def as_python(self, reply: str, functions: FunctionSet) -> str:
        """A reply with its (first) call in Python syntax."""


class PythonCalls:
    """One call per reply, written as in Python: `add(2, 3)`."""

    name = "python"

    def prompt(self, instruction: str, functions: FunctionSet, problem: Problem) -> tuple[Message, ...]:
        shown = "\n".join(f.help for f in functions)
        return (
            Message(
                role="system",
                content=f"{instruction}\nReply with one function call at a time.\nFunctions:\n{shown}",
            ),
            Message(role="user", content=problem.question),
        )

    def tools(self, functions: FunctionSet) -> str:
        return ""

    def observations(self, reply: str, observation: Read) -> tuple[Message, ...]:
        return ({"role": "user", "content": observation.text},)

    def run(self, reply: str, functions: FunctionSet, states: States) -> Result:
        return functions.reply(reply, states)

    def isolated(self, reply: str, functions: FunctionSet) -> bool:
        return functions.isolated(reply)

    def spelled(self, reply: str, functions: FunctionSet) -> str:
        return reply

    def as_python(self, reply: str, functions: FunctionSet) -> str:
        return reply


class NativeCalls:
    """Calls as tool-calling models write them; replies are held as `rightcall.native` says."""

    name = "native"

    def prompt(self, instruction: str, functions: FunctionSet, problem: Problem) -> tuple[Message, ...]:
        return (
            Message(role="system", content=f"{instruction}\nCall one function at a time."),
            Message(role="user", content=problem.question),
        )

    def tools(self, functions: FunctionSet) -> str:
        return functions.tools

    def observations(self, reply: str, observation: Read) -> tuple[Message, ...]:
        """To a reply without a call the user answers."""
        calls = len(read(reply).calls)
        further = [Message(role="tool", content=NOT_RUN)] * (calls - 1)
        return (Message(role="tool" if calls else "user", content=observation.text), *further)

    def run(self, reply: str, functions: FunctionSet, states: States) -> Result:
        return functions.reply(reply, states, _NATIVE)

    def isolated(self, reply: str, functions: FunctionSet) -> bool:
        return functions.isolated(reply, _NATIVE)

    def spelled(self, reply: str, functions: FunctionSet) -> str:
        if read(reply).calls:
            return reply
        words, _, last = reply.rpartition("\n")
        if not is_bare(last):
            words, last = reply, reply
        call = read_call(last, functions)
        given = None if call is None else failing_arguments(call, functions)
        if call is not None and given is not None:
            return str(Said(words.rstrip(), (Invocation(call.name, given),)))
        return str(Said(_BROKEN.sub(_broken_block, reply)))

    def as_python(self, reply: str, functions: FunctionSet) -> str:
        said = read(reply)
        if not said.calls:
            return said.words
        first = said.calls[0]
        written = named_text(first.name, first.arguments, functions)
        return f"{said.words}\n{written}" if said.words else written


_BROKEN = re.compile(r"^([A-Za-z_]\w*)\((.*)\Z", re.MULTILINE)
"""A last line that begins a call in Python."""


def _broken_block(begun: re.Match[str]) -> str:
    """A call that cannot be read as a call that cannot be read."""
    return f'<tool_call>\n{{"name": "{begun[1]}", "arguments": {{{begun[2]}'


def _native_calls(reply: str, known: Mapping[str, Function]) -> list[Call]:
    """The calls of a reply that is held natively. Raises `CallError`."""
    if len(reply) > MAX_REPLY_CHARACTERS:
        raise CallError(
            f"the reply has {len(reply)} characters, {MAX_REPLY_CHARACTERS} are read",
            remedy="Reply with one short call.",
            kind=FailureKind.UNPARSABLE,
        )
    said = read(reply)
    if not said.calls:
        why = unreadable(said.words)
        raise CallError(
            f"the call cannot be read ({why})" if why else "no function call in the reply",
            remedy="A call is an object with the name of a function and its arguments by name."
            if why
            else "Call one of the functions.",
            kind=FailureKind.UNPARSABLE if why else FailureKind.NO_CALL,
        )
    return [named_call(call.name, call.arguments, known) for call in said.calls]


def _schema_of(made: Function) -> str:
    shown: Any = made.schema["function"]
    return f"Arguments: {json_text(shown['parameters']['properties'])}."


_NATIVE = Notation(_native_calls, _schema_of)


def conversation(
    prompt: Sequence[Message], steps: Sequence[Turn], dialect: Dialect, *, last_observed: bool = True
) -> tuple[Message, ...]:
    """A chain's messages: the prompt, then reply and observation in turn; the observation of the last
    step only if `last_observed`."""
    turns: list[Message] = list(prompt)
    for number, step in enumerate(steps, 1):
        turns.append({"role": "assistant", "content": step.reply})
        if last_observed or number < len(steps):
            turns += dialect.observations(step.reply, step.observation)
    return tuple(turns)


DIALECTS: dict[str, Dialect] = {"python": PythonCalls(), "native": NativeCalls()}
