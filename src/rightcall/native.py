"""Native tool calling: calls as models write them that were trained for it, and back.

One text stands for a reply of any such model, whether it came from a chat template's own notation or
as `tool_calls` over HTTP: the words, then each call as a block of three lines

    <tool_call>
    {"name": "add", "arguments": {"a": 2, "b": 3}}
    </tool_call>

Chains and pairs hold replies in that form, so that trees, pairs and pages need know of no other.
`read` takes it apart: calls are what stands at the end in exactly that form. Words that would be taken
for calls have a line `<no_tool_call>` after them. `structured` makes of a conversation the messages
that chat templates and servers take; `SYNTAXES` reads what models of a family write. What begins a call
and cannot be read is no call: its text stays what the model said.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from rightcall.chain import JSON, Message
from rightcall.errors import ModelError

OPENING, CLOSING = "<tool_call>", "</tool_call>"
NO_CALL = "<no_tool_call>"
THOUGHT, THOUGHT_END = "<think>", "</think>"

MAX_INTEGER_BITS = 1024
"""Of an integer in a call. Hexadecimal digits could write one too long to be printed or stored."""
MAX_NESTING = 64
"""Lists in lists in a call: JSON readers refuse what is much deeper."""

Turn = dict[str, JSON]
"""A message in the form of the OpenAI API."""


@dataclass(frozen=True)
class Invocation:
    """One call of a reply: a function's name and its arguments by name."""

    name: str
    arguments: dict[str, JSON]

    def __str__(self) -> str:
        given = f'{{"name": {json_text(self.name)}, "arguments": {json_text(self.arguments)}}}'
        return f"{OPENING}\n{given}\n{CLOSING}"


@dataclass(frozen=True)
class Said:
    """What a reply says: words, and the calls after them."""

    words: str
    calls: tuple[Invocation, ...] = ()

    def __str__(self) -> str:
        """As chains hold it."""
        marked = self.words.endswith(NO_CALL) or _split(self.words)[1]
        words = [self.words] if self.words else []
        return "\n".join([*words, *([NO_CALL] if marked else []), *map(str, self.calls)])


@lru_cache(maxsize=4096)
def read(reply: str) -> Said:
    """What a reply says, as chains hold it. Do not change the arguments of calls: they are shared."""
    words, calls = _split(reply)
    if words == NO_CALL or words.endswith(f"\n{NO_CALL}"):
        words = words[: -len(NO_CALL)].removesuffix("\n")
    return Said(words, tuple(calls))


def _split(reply: str) -> tuple[str, list[Invocation]]:
    """The calls at the end, and what stands before them."""
    calls: list[Invocation] = []
    while reply.endswith(f"\n{CLOSING}"):
        words, found, block = reply.rpartition(f"{OPENING}\n")
        given = block.removesuffix(f"\n{CLOSING}")
        if not found or (words and not words.endswith("\n")):
            break
        try:
            call = _invocation(_whole(given))
        except _Malformed:
            break
        if str(call) != f"{OPENING}\n{block}":  # written otherwise: not by this module
            break
        calls.insert(0, call)
        reply = words.removesuffix("\n")
    return reply, calls


def json_text(value: JSON) -> str:
    """JSON as chains hold it and most templates write it."""
    return json.dumps(value, ensure_ascii=False)


# --- what models write ----------------------------------------------------------------------------


class _Malformed(ValueError):
    """No call can be read there."""


def _no_constant(name: str) -> JSON:
    raise _Malformed(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _decoded(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at `start`, past blanks, and where it ends. Raises `_Malformed`."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        rest = " ".join(text[error.pos :].split())[:_SHOWN]
        why = f"no JSON from {rest!r} on: {error.msg}" if rest else "its JSON breaks off"
        raise _Malformed(why) from error
    except RecursionError as error:
        raise _Malformed(f"more than {MAX_NESTING} levels") from error
    except ValueError as error:
        raise _Malformed(str(error)) from error


_SHOWN = 40
"""Characters of what is no JSON."""


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
    _check(value["name"])
    _check(given)
    return Invocation(value["name"], given)


def _check(value: JSON, depth: int = 0) -> None:
    """Hold a value to the limits of one in a call as Python text. Raises `_Malformed`."""
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise _Malformed("half of a surrogate pair")
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise _Malformed(f"an integer of more than {MAX_INTEGER_BITS} bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Malformed("a number that is not finite")
    if isinstance(value, (list, dict)):
        if depth >= MAX_NESTING:
            raise _Malformed(f"more than {MAX_NESTING} levels")
        parts: Iterable[JSON] = [*value, *value.values()] if isinstance(value, dict) else value
        for part in parts:
            _check(part, depth + 1)


def _whole(text: str) -> Any:
    """The JSON value that a text is. Raises `_Malformed`."""
    value, end = _decoded(text)
    if text[end:].strip():
        raise _Malformed("more than a value")
    return value


def _hermes(text: str) -> Said:
    """Qwen and Hermes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` and words around. A
    call within a thought is none."""
    words: list[str] = []
    calls: list[Invocation] = []
    done = position = 0
    thinking = text.lstrip().startswith(THOUGHT)
    while True:
        at, thought = text.find(OPENING, position), text.find(THOUGHT_END, position)
        if thought >= 0 and (thinking or thought < at or at < 0):
            position, thinking = thought + len(THOUGHT_END), False
            words, calls, done = [], [], 0
            continue
        if at < 0 or thinking:
            break
        try:
            value, end = _decoded(text, at + len(OPENING))
            call = _invocation(value)
        except _Malformed:
            if thought < 0:
                raise
            position = at + len(OPENING)  # a thought that the prompt began
            continue
        after = text[end:].lstrip()
        if after and not after.startswith(CLOSING):
            raise _Malformed("a call that does not end")
        words.append(text[done:at])
        calls.append(call)
        done = position = len(text) - len(after.removeprefix(CLOSING))
    if not calls:
        return Said(text)
    said = [part for part in (*words, text[done:]) if part.strip()]
    return Said("\n".join(part.strip("\n") for part in said).rstrip(), tuple(calls))


def _llama(text: str) -> Said:
    """Llama 3: the reply is one JSON object, `{"name": ..., "parameters": {...}}`."""
    bare = text.strip().removeprefix("<|python_tag|>").lstrip()
    if not re.match(r'\{\s*"name"\s*:', bare):
        return Said(text)
    value = _whole(bare)
    if not value.keys() & {"parameters", "arguments"}:
        raise _Malformed("no parameters")
    return Said("", (_invocation(value),))


def _mistral(text: str) -> Said:
    """Mistral: words, then `[TOOL_CALLS]` and a list of objects, or for each call `[TOOL_CALLS]`, its
    name, `[ARGS]` and its arguments."""
    mark, given = "[TOOL_CALLS]", "[ARGS]"
    at = text.find(mark)
    if at < 0:
        return Said(text)
    words, calls, rest = text[:at].strip(), list[Invocation](), text[at:]
    while rest:
        if not rest.startswith(mark):
            raise _Malformed("words after a call")
        rest = rest.removeprefix(mark).lstrip()
        if rest.startswith("["):
            value, end = _decoded(rest)
            calls += map(_invocation, value)
        else:
            name, named, _ = rest.partition(given)
            if not named:
                raise _Malformed("no list of calls")
            value, end = _decoded(rest, len(name) + len(given))
            name = name.partition("[CALL_ID]")[0].strip()
            calls.append(_invocation({"name": name, "arguments": value}))
        rest = rest[end:].strip()
    if not calls:
        raise _Malformed("an empty list of calls")
    return Said(words, tuple(calls))


@dataclass(frozen=True)
class Syntax:
    """How a family of models writes calls."""

    name: str
    recognise: Callable[[str], bool]
    """Whether a template that writes a call so, and nothing else in the turn, is of this family."""
    parse: Callable[[str], Said]
    """What a reply says. Raises `ValueError` if it begins a call that cannot be read."""

    def read(self, reply: str) -> Said:
        """What a reply says; words alone if it begins a call that cannot be read."""
        try:
            return self.parse(reply)
        except ValueError:
            return Said(reply)


SYNTAXES: tuple[Syntax, ...] = (
    Syntax("hermes", lambda turn: OPENING in turn, _hermes),
    Syntax("mistral", lambda turn: "[TOOL_CALLS]" in turn, _mistral),
    Syntax("llama", lambda turn: '{"name"' in turn, _llama),
)
"""The first that recognises a template's turn and reads it is taken. To add a family, add its own."""


def unreadable(words: str) -> str | None:
    """Why a reply that makes no call begins one in some notation; None if it does not."""
    for syntax in SYNTAXES:
        try:
            syntax.parse(words)
        except ValueError as error:
            return str(error)
    return None


VLLM_PARSERS = {"hermes": "hermes", "llama": "llama3_json", "mistral": "mistral"}
"""Notation of a template (see `SYNTAXES`) → vLLM's name for its parser."""


def written_in(words: str) -> str | None:
    """The notation in which words hold calls that can be read; None if they hold none."""
    for syntax in SYNTAXES:
        if syntax.read(words).calls:
            return syntax.name
    # Servers leave special tokens out of words: Mistral's list stands there without its mark.
    bare = words.lstrip().startswith("[{") and SYNTAXES[1].read(f"[TOOL_CALLS]{words}").calls
    return "mistral" if bare else None


class Parsing:
    """Whether a server parses calls, by the replies that it gave.

    Where it does not, each call comes as words, and a right reply would pass for a wrong one. Where it
    does, such words are a call in another notation than the model's own: its mistake. The first call
    that comes as one decides; until then a call in words is an error rather than a reply."""

    ENOUGH = 8
    """Calls in words, with no parsed one before them, after which none is waited for."""

    def __init__(self) -> None:
        self._parses = False
        self._in_words = 0

    @property
    def hopeless(self) -> bool:
        return not self._parses and self._in_words >= self.ENOUGH

    def hear(self, reply: str) -> None:
        """Take in a reply as chains hold it. Raises `ModelError` if it has a call in its words and no
        call was parsed yet."""
        said = read(reply)
        self._parses = self._parses or bool(said.calls)
        notation = None if self._parses else written_in(said.words)
        if notation is None:
            return
        self._in_words += 1
        raise ModelError(
            "the server does not parse calls: one came as words",
            value=said.words[:200],
            remedy="Start it with a parser for the model's calls (vLLM: --enable-auto-tool-choice "
            f'--tool-call-parser {VLLM_PARSERS[notation]}), or set dialect = "python".',
        )


def from_server(words: str | None, tool_calls: object) -> str:
    """The reply in an OpenAI-style message, as chains hold it: its words stay words, whatever stands
    there. Where the arguments of a call are no JSON object, the reply makes no call: its text is what
    was sent, and reading it finds the same fault. Raises `ValueError` if `tool_calls` are no calls at
    all."""
    if not isinstance(tool_calls, list):
        raise ValueError("tool_calls are no list")
    calls: list[Invocation] = []
    for number, call in enumerate(tool_calls, 1):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"tool call {number} is one without a function's name")
        try:
            calls.append(_invocation(function))
        except _Malformed:
            broken = _broken(function["name"], function.get("arguments", function.get("parameters")))
            return str(Said(f"{words}\n{broken}" if words else broken))
    return str(Said((words or "").rstrip(), tuple(calls)))


def _broken(name: str, sent: JSON) -> str:
    """A call that cannot be read, as a text in which the fault is where it was: arguments that are JSON
    but no object are written as a whole call's; others as they were sent, or, where these would read
    otherwise beside the name, as the text that they are."""
    given = sent if isinstance(sent, str) else json_text(sent)
    head = f'{OPENING}\n{{"name": {json_text(name)}, "arguments": '
    quoted = f"{head}{json_text(given)}}}\n{CLOSING}"
    try:
        _, end = _decoded(given)
    except _Malformed:
        plain = f"{head}{given}"
    else:
        plain = quoted if given[end:].strip() else f"{head}{given}}}\n{CLOSING}"
    return quoted if unreadable(plain) is None else plain


def texts_of(message: Message) -> list[str]:
    """What a message says in its own words: its content; of a turn with calls its words, and the names
    and the keys and texts of their arguments."""
    made: list[str] = []

    def seen(text: str) -> str:
        made.append(text)
        return text

    map_texts(message, seen)
    return made


def map_texts(message: Message, change: Callable[[str], str]) -> Message:
    """The message with each of these texts changed."""
    if message["role"] != "assistant":
        return Message(role=message["role"], content=change(message["content"]))
    said = read(message["content"])
    calls = tuple(Invocation(change(c.name), _mapped(c.arguments, change)) for c in said.calls)
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
    messages: Sequence[Message], arguments: Literal["object", "text"] = "object", *, called: int = 0
) -> list[Turn]:
    """A conversation with its calls as `tool_calls` and their observations under the calls' ids.
    Arguments are objects, as templates want them, or JSON text, as the API has them. `called` calls
    were made before these messages."""
    made: list[Turn] = []
    number = called
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
                "arguments": call.arguments if arguments == "object" else json_text(call.arguments),
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
