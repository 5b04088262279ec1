"""Chat logs as the OpenAI API has them, one conversation a line:

    {"messages": [{"role": "user", "content": "What is 2 + 3?"},
                  {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function",
                    "function": {"name": "add", "arguments": "{\\"a\\": 2, \\"b\\": 3}"}}]},
                  {"role": "tool", "tool_call_id": "c1", "content": "5"},
                  {"role": "assistant", "content": "5"}],
     "problem_id": ..., "model": ..., "sample": ..., "gold": ..., "correct": ...}

All but `messages` may be missing. The problem is what the user said last before the first reply. Calls
of one turn become successive steps; a last text without a call is the answer. What
`rightcall.exporting` writes is read back to the same calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rightcall.errors import DataError
from rightcall.importing.recorded import Place, Recorded, RecordedCall

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
PARALLEL = "turn with several calls, made successive steps"
SPOKEN = "last text taken as the answer"
NOT_JSON = "arguments that are no JSON object, kept as they are"


def openai_chat(record: Mapping[str, Any], place: Place) -> Iterator[Recorded]:
    """The one attempt of a conversation."""
    del place
    messages = record["messages"]
    _check(messages)
    first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
    asked = [_text(message) for message in messages[:first] if message["role"] == "user"]
    turns = messages[first:]
    final = None
    if turns and turns[-1]["role"] == "assistant" and not _tool_calls(turns[-1]):
        final, turns = _text(turns[-1]), turns[:-1]
    notes = [] if final is None else [SPOKEN]
    yield Recorded(
        problem_id=record.get("problem_id"),
        question=asked[-1] if asked else None,
        gold=record.get("gold"),
        model=record.get("model") or "recorded",
        sample=record.get("sample"),
        calls=tuple(_calls(turns, notes)),
        final=final,
        correct=record.get("correct"),
        notes=tuple(notes),
    )


def _check(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise DataError("messages is no list of turns", value=str(messages)[:80])
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise DataError(f"turn {number} has no known role", value=role)


def _text(message: Mapping[str, Any]) -> str:
    """The words of a turn: a text, or parts of which some are texts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return "" if content is None else str(content)


def _tool_calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The calls of a turn, in the API's present form or its first one (`function_call`)."""
    calls = list(message.get("tool_calls") or ())
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    return calls


def _calls(turns: Sequence[Mapping[str, Any]], notes: list[str]) -> Iterator[RecordedCall]:
    starts = [i for i, message in enumerate(turns) if message["role"] == "assistant"]
    for start, end in pairwise([*starts, len(turns)]):
        yield from _turn(turns[start], turns[start + 1 : end], notes)


def _turn(
    message: Mapping[str, Any], after: Sequence[Mapping[str, Any]], notes: list[str]
) -> Iterator[RecordedCall]:
    """The calls of a turn of the model, with what came back."""
    calls, words = _tool_calls(message), _text(message)
    if not calls:
        yield RecordedCall(reply=words, result=_text(after[0]) if after else None)
        return
    notes += [PARALLEL] if len(calls) > 1 else []
    by_id = {m["tool_call_id"]: _text(m) for m in after if m.get("tool_call_id")}
    in_order = [_text(m) for m in after if m["role"] in ("tool", "function")]
    for number, call in enumerate(calls):
        next_one = in_order[number] if number < len(in_order) else None
        result = by_id.get(call.get("id"), next_one)
        yield _call(call["function"], words if number == 0 else "", result, notes)


def _call(made: Mapping[str, Any], words: str, result: str | None, notes: list[str]) -> RecordedCall:
    name, text = str(made["name"]), made.get("arguments")
    given = _arguments(text)
    if given is None:
        notes.append(NOT_JSON)
        return RecordedCall(
            reply="\n".join([*([words] if words else []), f"{name}({text})"]), result=result
        )
    return RecordedCall(reply=words, name=name, arguments=given, result=result)


def _arguments(text: Any) -> dict[str, Any] | None:
    if isinstance(text, Mapping):
        return dict(text)
    try:
        given = json.loads(text) if text and text.strip() else {}
    except ValueError:
        return None
    return given if isinstance(given, dict) else None
