"""Chat logs as the OpenAI API has them, one conversation a line:

    {"messages": [{"role": "user", "content": "What is 2 + 3?"},
                  {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function",
                    "function": {"name": "add", "arguments": "{\\"a\\": 2, \\"b\\": 3}"}}]},
                  {"role": "tool", "tool_call_id": "c1", "content": "5"},
                  {"role": "assistant", "content": "The answer is 5."}],
     "problem_id": ..., "question": ..., "model": ..., "sample": ..., "gold": ..., "correct": ...,
     "replies": ..., "dialect": ..., "process": ...}

All but `messages` may be missing. Requests with their responses, and the items of the Responses API,
are made into that first (see `exchanges`). The problem is the `question`, or else what the user said:
before the first reply, or later if that is a problem's question (examples may come first). Calls of
one turn become successive steps; in a final message without a call stands the answer. What
`rightcall.exporting` writes is read back to the same replies: `replies` are the model's own texts, one
for each of its turns, empty where the messages tell it, `dialect` says that names and nulls are the
model's own, and `process` how that was judged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rightcall.chain import digest
from rightcall.dialects import DIALECTS, NOT_RUN
from rightcall.errors import DataError
from rightcall.importing.answers import read_final
from rightcall.importing.exchanges import conversations, is_exchange
from rightcall.importing.recorded import Place, Recorded, RecordedCall
from rightcall.leaks import normalised

_TOOLS = ("tool", "function")
_ROLES = ("system", "developer", "user", "assistant", *_TOOLS)
UNRUN = "turn with several calls of which only the first was run, the others left out"
PARALLEL = "turn with several calls, made successive steps"
CUT = "last reply cut at a limit of length, no answer"
EMPTY = "last turn without words or a call, no answer"
NOT_JSON = "arguments that are no JSON object: a call that fails"


def openai_chat(record: Mapping[str, Any], place: Place) -> Iterator[Recorded]:
    """The one attempt of a conversation, or one for each choice of a response."""
    del place
    if not is_exchange(record):
        yield _attempt(record)
        return
    named = [record.get("problem_id"), record.get("question")]
    for one in conversations(record):
        if one.left_out:
            yield Recorded(calls=(), left_out=one.left_out)
            continue
        made = _attempt(
            {**record, "messages": one.messages, "model": one.model}, requested=True, cut=one.cut
        )
        yield made.model_copy(update={"turns": tuple(_path(one.messages, made.model, named))})


def _attempt(record: Mapping[str, Any], *, requested: bool = False, cut: bool = False) -> Recorded:
    if "messages" not in record and {"chosen", "rejected"} <= record.keys():
        raise DataError(
            "the record is a preference pair, not a conversation",
            remedy="Chains are imported, and pairs made of them: give what the pairs were made of.",
        )
    messages = record["messages"]
    _check(messages)
    first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
    asked = [_text(message) for message in messages[:first] if message["role"] == "user"]
    turns = messages[first:]
    notes: list[str] = []
    final, message = None, ""
    notes += [CUT] if cut else []
    if not cut and turns and turns[-1]["role"] == "assistant" and not _tool_calls(turns[-1]):
        message, turns = _without_thoughts(_text(turns[-1])), turns[:-1]
        final, note = read_final(message) if message.strip() else (None, EMPTY)
        notes += [note] if note else []
    verbatim = record.get("dialect") in list(DIALECTS)
    if verbatim or requested:
        turns = _with_the_loops(turns)
    calls, later = _conversation(turns, _exact(record.get("replies"), messages), notes)
    made = Recorded(
        problem_id=record.get("problem_id"),
        question=asked[-1] if asked else None,
        later=tuple(later),
        gold=None if record.get("gold") in (None, "") else record["gold"],
        model=record.get("model") or "recorded",
        sample=record.get("sample"),
        calls=tuple(calls),
        verbatim=verbatim,
        process_wrong=record.get("process") == "wrong",
        cut=cut,
        final=final,
        final_message=message if message.strip() else "",
        correct=record.get("correct"),
        notes=tuple(notes),
    )
    return _asking(made, record["question"]) if record.get("question") else made


def _asking(made: Recorded, question: str) -> Recorded:
    """The attempt at a question that the record names: from where the user last asked it."""
    wanted = f" {normalised(question)} "
    places = [i for i, (_, text) in enumerate(made.later) if wanted in f" {normalised(text)} "]
    begun = made.begun_at(places[-1]) if places else made
    return begun.without_later().model_copy(update={"question": question})


def _path(messages: Sequence[Mapping[str, Any]], model: str, named: Sequence[Any]) -> list[str]:
    """What tells from others the beginnings of a conversation that are no attempts of their own, since
    they end with calls or were answered by the agent loop, and, last, the whole. Where the record names
    its problem, they are none whatever came next. Ids of calls, thoughts and what the system says do
    not count: clients send them again otherwise, or not at all."""
    told = any(one is not None for one in named)
    path, made = digest(model, *named), list[str]()
    for message, following in pairwise([*messages, {"role": "user"}]):
        role, words, calls = message["role"], _text(message), _tool_calls(message)
        if role in ("system", "developer"):
            continue
        words = _without_thoughts(words) if role == "assistant" else words
        path = digest(path, json.dumps([role, words.strip(), [*map(_said, calls)]], sort_keys=True))
        asked = following["role"] == "user" and not _is_loops(following, message)
        if role == "assistant" and (told or calls or not asked):
            made.append(path)
    return [*made, path]


_LOOP = "Error:"
"""Begins the agent loop's own words to a reply without a call, which are not the user's."""


def _is_loops(message: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    spoke = before["role"] == "assistant" and not _tool_calls(before)
    return spoke and message["role"] == "user" and _text(message).startswith(_LOOP)


def _with_the_loops(turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Turns of a chain of ours, or of a request: the loop's own words as those of a tool. In other
    records they are the user's, whose question may begin so."""
    return [
        {**message, "role": "tool"} if before is not None and _is_loops(message, before) else message
        for before, message in zip([None, *turns], turns, strict=False)
    ]


def _said(call: Mapping[str, Any]) -> list[Any]:
    made = call.get("function") or call["custom"]
    sent = made.get("arguments", made.get("input"))
    given = _arguments(sent)
    return [made["name"], sent if given is None else given]


def _check(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise DataError("messages is no list of turns", value=str(messages)[:80])
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise DataError(f"turn {number} has no known role", value=role)
        for call in _tool_calls(message):
            if not isinstance(call.get("function") or call.get("custom"), Mapping):
                raise DataError(
                    f"turn {number} has a tool call of a kind that is not read",
                    value=call.get("type"),
                    remedy="Write it as one of type function or custom, or skip such lines.",
                )
        if role not in _TOOLS:
            _check_parts(number, message.get("content"))


def _check_parts(number: int, content: Any) -> None:
    for part in content if isinstance(content, list) else ():
        if not _is_read(part):
            raise DataError(
                f"turn {number} has a part of a kind that is not read",
                value=part.get("type") if isinstance(part, Mapping) else part,
                remedy="Write calls as tool_calls, what came back as turns of role tool, and the rest"
                " as texts, or skip such lines.",
            )


def _text(message: Mapping[str, Any]) -> str:
    """The words of a turn: a text, or parts of which some are texts."""
    content = message.get("content")
    if isinstance(content, list) and all(map(_is_read, content)):
        return "".join(map(_part, content))
    if isinstance(content, (Mapping, list)):  # what a tool gave
        return json.dumps(content, ensure_ascii=False)
    return "" if content is None else str(content)


def _is_read(part: Any) -> bool:
    """Whether a part of a turn holds words, or is known to hold none."""
    if not isinstance(part, Mapping):
        return part is None or isinstance(part, str)
    return part.get("type") in _PARTS or part.get("text") is not None


_PARTS = (
    "text", "input_text", "output_text", "refusal", "image_url", "input_image", "image",
    "thinking", "redacted_thinking", "reasoning",
)  # fmt: skip
"""Kinds of parts; what is no text says nothing."""


def _part(part: Any) -> str:
    """The words of a part of a turn: pictures, thoughts and refusals have none, and a text may be
    null."""
    text = part.get("text") if isinstance(part, Mapping) else part
    if isinstance(text, Mapping):  # with annotations beside it
        text = text.get("value")
    return text if isinstance(text, str) else ""


def _result(message: Mapping[str, Any]) -> str | None:
    """What came back, where that was recorded."""
    return None if message.get("content") is None else _text(message)


_THOUGHT = re.compile(r"<(think|thinking)>.*?(?:</\1>|\Z)", re.DOTALL)
_THOUGHT_END = re.compile(r"\A.*</(?:think|thinking)>", re.DOTALL)
"""Of a thought whose beginning stood in the prompt."""


def _without_thoughts(text: str) -> str:
    """What a reasoning model says when it has thought."""
    found = _THOUGHT_END.sub("", _THOUGHT.sub("", text))
    return text if found == text else found.strip()


# --- the calls ----------------------------------------------------------------------------------


def _tool_calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The calls of a turn, in the API's present form or its first one (`function_call`)."""
    calls = list(message.get("tool_calls") or ())
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    return calls


def _exact(replies: Any, messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The model's own text of each of its turns; empty where the log has none."""
    count = sum(message["role"] == "assistant" for message in messages)
    if not isinstance(replies, list) or len(replies) != count:
        return [""] * count
    return [text if isinstance(text, str) else "" for text in replies]


def _conversation(
    turns: Sequence[Mapping[str, Any]], exact: Sequence[str], notes: list[str]
) -> tuple[list[RecordedCall], list[tuple[int, str]]]:
    """The calls, and what the user said later, with the number of calls before it."""
    starts = [i for i, message in enumerate(turns) if message["role"] == "assistant"]
    calls: list[RecordedCall] = []
    later: list[tuple[int, str]] = []
    for (start, end), text in zip(pairwise([*starts, len(turns)]), exact, strict=False):
        after = turns[start + 1 : end]
        calls += _turn(turns[start], text, after, notes)
        said = [words for m in after if m["role"] == "user" and (words := _text(m)).strip()]
        later += [(len(calls), words) for words in said]
    return calls, later


def _turn(
    message: Mapping[str, Any], exact: str, after: Sequence[Mapping[str, Any]], notes: list[str]
) -> list[RecordedCall]:
    """The calls of a turn of the model, with what came back."""
    calls, words = _tool_calls(message), _text(message)
    if not calls:
        back = after[0] if after and after[0]["role"] in _TOOLS else None
        return [RecordedCall(reply=words, exact=exact, result=None if back is None else _result(back))]
    results = _results(calls, [m for m in after if m["role"] in _TOOLS])
    if len(calls) > 1:
        unrun = set(results[1:]) == {NOT_RUN}
        notes.append(UNRUN if unrun else PARALLEL)
        calls = calls[:1] if unrun else calls
    made = [
        _call(call, notes).model_copy(update={"result": result})
        for call, result in zip(calls, results, strict=False)
    ]
    return [made[0].model_copy(update={"reply": words, "exact": exact}), *made[1:]]


def _results(calls: Sequence[Mapping[str, Any]], back: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """What came back to each call: by its id, or by its place where there are no ids."""
    named, left = any(m.get("tool_call_id") for m in back), list(back)
    results = []
    for number, call in enumerate(calls):
        if named:
            own = next((m for m in left if m.get("tool_call_id") == call.get("id")), None)
            left = [m for m in left if m is not own]  # an id may be used twice
        else:
            own = left[number] if number < len(left) else None
        results.append(None if own is None else _result(own))
    return results


def _call(call: Mapping[str, Any], notes: list[str]) -> RecordedCall:
    if not call.get("function"):
        custom = call["custom"]
        return RecordedCall(name=str(custom["name"]), input=str(custom.get("input") or ""))
    made = call["function"]
    name, sent = str(made["name"]), made.get("arguments")
    given = _arguments(sent)
    if given is not None:
        return RecordedCall(name=name, arguments=given)
    notes.append(NOT_JSON)
    text = sent if isinstance(sent, str) else json.dumps(sent, ensure_ascii=False)
    return RecordedCall(name=name, broken=text)


def _arguments(text: Any) -> dict[str, Any] | None:
    if isinstance(text, Mapping):
        return dict(text)
    try:
        given = json.loads(text) if text and str(text).strip() else {}
    except (ValueError, TypeError):
        return None
    if given is None:
        return {}
    return given if isinstance(given, dict) else None
