"""Native tool calling: calls as models write them that were trained for it, and back.

One text stands for a reply of any such model, whether it came from a chat template's own notation or
as `tool_calls` over HTTP: the words, then each call as a block

    <tool_call>
    {"name": "add", "arguments": {"a": 2, "b": 3}}
    </tool_call>

Chains and pairs hold replies in that form, so that trees, pairs and pages need know of no other.
`structured` makes of it the messages that chat templates and servers take; `SYNTAXES` reads what models
of a family write. A block that is not well formed is no call: its text stays what the model said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from rightcall.chain import JSON, Message

OPENING, CLOSING = "<tool_call>", "</tool_call>"
THOUGHT_END = "</think>"

Turn = dict[str, JSON]
"""A message in the form of the OpenAI API."""


@dataclass(frozen=True)
class Invocation:
    """One call of a reply: a function's name and its arguments by name."""

    name: str
    arguments: dict[str, JSON]


@dataclass(frozen=True)
class Said:
    """What a reply says: words, and the calls after them."""

    words: str
    calls: tuple[Invocation, ...] = ()

    def __str__(self) -> str:
        blocks = (_block(_json(call.name), _json(call.arguments)) for call in self.calls)
        return "\n".join([*([self.words] if self.words else []), *blocks])


def _block(name: str, arguments: str) -> str:
    return f'{OPENING}\n{{"name": {name}, "arguments": {arguments}}}\n{CLOSING}'


def _json(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- what models write ----------------------------------------------------------------------------


class _Malformed(ValueError):
    """No call can be read there."""


def _no_constant(name: str) -> JSON:
    raise _Malformed(name)  # NaN and Infinity are not JSON


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _decoded(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at `start`, past blanks, and where it ends. Raises `_Malformed`."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise _Malformed(str(error)) from error


def _invocation(value: object) -> Invocation:
    """A call in a JSON object: `{"name": ..., "arguments" or "parameters": {...}}`, the arguments also
    as JSON text. Raises `_Malformed`."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise _Malformed("no object with a name")
    given = value.get("arguments", value.get("parameters", {}))
    if isinstance(given, str):
        given = _whole(given) if given.strip() else {}
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise _Malformed("arguments that are no object")
    return Invocation(value["name"], given)


def _whole(text: str) -> Any:
    """The JSON value that a text is. Raises `_Malformed`."""
    value, end = _decoded(text)
    if text[end:].strip():
        raise _Malformed("more than a value")
    return value


def _hermes(text: str) -> Said:
    """Qwen and Hermes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` after the words. A
    call within a thought is none."""
    start = text.rfind(THOUGHT_END) + len(THOUGHT_END) if THOUGHT_END in text else 0
    at = first = text.find(OPENING, start)
    calls = []
    while at >= 0:
        value, end = _decoded(text, at + len(OPENING))
        calls.append(_invocation(value))
        rest = text[end:].lstrip()
        if rest and not rest.startswith(CLOSING):
            raise _Malformed("a call that does not end")
        at = text.find(OPENING, end)
    return Said(text[:first].rstrip(), tuple(calls)) if calls else Said(text)


def _llama(text: str) -> Said:
    """Llama 3: the reply is one JSON object, `{"name": ..., "parameters": {...}}`."""
    bare = text.strip().removeprefix("<|python_tag|>")
    if not bare.lstrip().startswith("{"):
        return Said(text)
    return Said("", (_invocation(_whole(bare)),))


def _mistral(text: str) -> Said:
    """Mistral: words, then `[TOOL_CALLS]` and a list of objects, or for each call `[TOOL_CALLS]`, its
    name, `[ARGS]` and its arguments."""
    mark = "[TOOL_CALLS]"
    words, found, rest = text.partition(mark)
    if not found:
        return Said(text)
    calls: list[Invocation] = []
    for part in rest.split(mark):
        name, named, given = part.partition("[ARGS]")
        if named:
            name = re.split(r"\[CALL_ID\]", name)[0].strip()
            calls.append(_invocation({"name": name, "arguments": _whole(given)}))
        elif (value := _whole(part)) and isinstance(value, list):
            calls += map(_invocation, value)
        else:
            raise _Malformed("no list of calls")
    return Said(words.strip(), tuple(calls))


@dataclass(frozen=True)
class Syntax:
    """How a family of models writes calls."""

    name: str
    recognise: Callable[[str], bool]
    """Whether a template that writes a call so, and nothing else in the turn, is of this family."""
    read: Callable[[str], Said]
    """What a reply says. Raises `ValueError` if it begins a call that cannot be read."""


SYNTAXES: tuple[Syntax, ...] = (
    Syntax("hermes", lambda turn: OPENING in turn, _hermes),
    Syntax("mistral", lambda turn: "[TOOL_CALLS]" in turn, _mistral),
    Syntax("llama", lambda turn: '{"name"' in turn, _llama),
)
"""The first that recognises a template's turn and reads it is taken. To add a family, add its own."""


def read(reply: str, syntax: Syntax = SYNTAXES[0]) -> Said:
    """What a reply says, its text being written in that syntax; by default as chains hold it. A reply
    whose calls cannot be read is words."""
    try:
        return syntax.read(reply)
    except ValueError:
        return Said(reply)


def unreadable(reply: str) -> str | None:
    """Why the calls in a chain's reply cannot be read; None if they can, or it has none."""
    try:
        _hermes(reply)
    except ValueError as error:
        return str(error)
    return None


def from_server(words: str | None, tool_calls: object) -> str:
    """The reply in an OpenAI-style message. A call whose arguments are no JSON object stays as it was
    sent, which is text. Raises `ValueError` if `tool_calls` are no calls at all."""
    made = [words] if words else []
    for call in tool_calls if isinstance(tool_calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("a tool call without a function's name")
        try:
            made.append(str(Said("", (_invocation(function),))))
        except _Malformed:
            sent = function.get("arguments")
            shown = sent if isinstance(sent, str) else _json(sent)
            made.append(_block(_json(function["name"]), shown))
    return "\n".join(made)


def texts_of(message: Message) -> list[str]:
    """What a message says in its own words: its content; of a turn with calls its words, and the keys
    and texts of their arguments."""
    made: list[str] = []

    def seen(text: str) -> str:
        made.append(text)
        return text

    map_texts(message, seen)
    return made


def map_texts(message: Message, change: Callable[[str], str]) -> Message:
    """The message with each of these texts changed."""
    if message["role"] != "assistant" or not (said := read(message["content"])).calls:
        return Message(role=message["role"], content=change(message["content"]))
    calls = tuple(Invocation(c.name, _mapped(c.arguments, change)) for c in said.calls)
    return Message(role="assistant", content=str(Said(change(said.words), calls)))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(part, change) for part in value]
    if isinstance(value, dict):
        return {change(key): _mapped(part, change) for key, part in value.items()}
    return value


# --- what templates and servers take --------------------------------------------------------------


def call_id(number: int) -> str:
    """Of the n-th call of a conversation: nine letters and digits, as Mistral's templates demand.

    >>> call_id(1)
    'call00001'
    """
    return f"call{number:05d}"


def structured(
    messages: Sequence[Message], arguments: Literal["object", "text"] = "object"
) -> list[Turn]:
    """A conversation with its calls as `tool_calls` and their observations under the calls' ids.
    Arguments are objects, as templates want them, or JSON text, as the API has them."""
    made: list[Turn] = []
    number = 0
    open_calls: list[tuple[str, str]] = []
    for message in messages:
        if message["role"] == "assistant":
            said = read(message["content"])
            ids = [call_id(number + i) for i in range(1, len(said.calls) + 1)]
            number += len(ids)
            open_calls = [(id, call.name) for id, call in zip(ids, said.calls, strict=True)]
            made.append(_assistant(said, ids, arguments))
        elif message["role"] == "tool" and open_calls:
            id, name = open_calls.pop(0)
            made.append(
                {"role": "tool", "tool_call_id": id, "name": name, "content": message["content"]}
            )
        else:
            made.append(dict(message))
    return made


def _assistant(said: Said, ids: Sequence[str], arguments: str) -> Turn:
    if not said.calls:
        return {"role": "assistant", "content": said.words}
    words = said.words if said.words or arguments == "object" else None
    calls: list[JSON] = [
        {
            "id": id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": call.arguments if arguments == "object" else _json(call.arguments),
            },
        }
        for id, call in zip(ids, said.calls, strict=True)
    ]
    return {"role": "assistant", "content": words, "tool_calls": calls}


def tools_text(schemas: Sequence[Mapping[str, JSON]]) -> str:
    """Functions' schemas as chains and pairs keep them: one text, that no table library fills up."""
    return json.dumps(list(schemas), ensure_ascii=False)


@lru_cache(maxsize=256)
def tools_of(text: str) -> list[dict[str, JSON]]:
    """The schemas in such a text. Do not change them: they are shared."""
    made: list[dict[str, JSON]] = json.loads(text)
    return made
