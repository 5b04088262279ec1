"""Requests with their responses, as gateways, proxies, the Batch API and the Responses API have them →
conversations in the form of messages.

    {"request": {"messages": [...]}, "response": {"choices": [{"message": ..., "finish_reason": ...}]}}
    {"messages": [...], "response": {"choices": [...]}}                         LiteLLM
    {"custom_id": ..., "method": ..., "url": ..., "body": {"messages": [...]}}  a batch's input
    {"custom_id": ..., "response": {"status_code": 200, "body": {"choices": [...]}}}  and its output
    {"instructions": ..., "input": ..., "output": [...]}                        the Responses API

The shape is told by keys alone. The request may stand under `request` or `body`, either half under a
further `body`, and as JSON text; a null is no key. What the model said is the last turn, one
conversation for each choice. As in a collection, a reply counts as whole only where the server says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rightcall.errors import DataError
from rightcall.models.completions import COMPLETE, CUT, GIVEN_UP, WITHHELD

UNANSWERED = "request without a response"
FAILED = "request that failed"
WITHHELD_REPLY = "reply withheld by a content filter"

Record = Mapping[str, Any]
Items = list[Any]
"""Of the Responses API: messages, calls, and what came back."""


@dataclass(frozen=True)
class Conversation:
    """What a request and one reply to it say."""

    messages: list[Any]
    model: str | None = None
    cut: bool = False
    """The last turn hit a limit of length."""
    left_out: str = ""
    """Why it is no attempt of the model's; empty if it is one."""


def is_exchange(record: Record) -> bool:
    """Whether a record is a request, a response, or both, rather than a conversation."""
    keys = {key for key, value in record.items() if value is not None}
    if "messages" in keys:
        return bool(keys & {"response", "choices"}) or record.get("status") == "failure"
    return bool(keys & {"request", "response", "body", "custom_id"}) or {"input", "output"} <= keys


def conversations(record: Record) -> Iterator[Conversation]:
    """One for each choice of the response. Raises `DataError`."""
    if why := _failure(record, record.get("response")):
        yield Conversation([], left_out=why)
        return
    request, answer = _halves(record)
    model = record.get("model") or answer.get("model") or request.get("model")
    if why := _failure(answer):
        yield Conversation([], left_out=why)
    elif answer.get("choices") is not None:
        asked = _list(_asking(request, "messages", record), "messages")
        for choice in _choices(answer):
            yield _ended(
                [*asked, {**choice["message"], "role": "assistant"}], choice.get("finish_reason"), model
            )
    elif answer.get("output") is not None:
        _refuse_kept(request, answer)
        items = [*_input(_asking(request, "input", record)), *_list(answer, "output")]
        turns = _turns([*_instructions(request), *items])
        if turns[-1]["role"] != "assistant":
            turns.append({"role": "assistant", "content": None})  # it only thought
        yield _ended(turns, _finish(answer), model)
    elif answer is record or not answer:
        yield Conversation([], left_out=UNANSWERED)
    else:
        raise DataError(
            "the response has neither choices nor output",
            value=sorted(answer),
            remedy="Responses of chat completions and of the Responses API are read. Where `messages`"
            " hold the whole conversation, leave `response` out.",
        )


# --- the halves ---------------------------------------------------------------------------------


def _halves(record: Record) -> tuple[Record, Record]:
    """The bodies of the request and of the response: the row itself, where it is that."""
    name = next((one for one in ("request", "body") if record.get(one) is not None), None)
    request = record if name is None else _body(record[name], name)
    answered = record.get("response") is not None
    return request, _body(record["response"], "response") if answered else record


def _body(value: Any, name: str) -> Record:
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, Mapping):
        raise DataError(
            f"{name} is no JSON object",
            value=str(value)[:80],
            remedy="Bodies are read as the API has them: put what was streamed together first.",
        )
    inner = value.get("body")
    return value if inner is None else _body(inner, f"{name}.body")


def _list(body: Record, name: str) -> list[Any]:
    if not isinstance(body[name], list):
        raise DataError(f"{name} is no list", value=str(body[name])[:80])
    return list(body[name])


def _asking(request: Record, name: str, record: Record) -> Record:
    """The request with what it asks under this name."""
    for key in (name, "messages"):  # LiteLLM has every input there
        if request.get(key) is not None:
            return {**request, name: request[key]}
    if _custom_id(record):
        raise DataError(
            "the response of a batch stands without its request",
            value=f"custom_id {record['custom_id']}",
            remedy="Give the batch's input file, too: both as LOG.",
        )
    raise DataError(
        f"the request has no {name}",
        value=sorted(request),
        remedy=f"It should stand in `request` or `body`, or as `{name}` beside the response.",
    )


def _failure(*answers: Any) -> str:
    """That a request failed, with its code; empty if it did not."""
    for one in (one for one in answers if isinstance(one, Mapping)):
        error, status = one.get("error"), one.get("status_code")
        if error or one.get("status") == "failure" or (type(status) is int and status >= 400):
            table = error if isinstance(error, Mapping) else {}
            code = table.get("code") or table.get("type") or status or "error"
            return f"{FAILED} ({code})"
    return ""


# --- the reply ----------------------------------------------------------------------------------


def _choices(answer: Record) -> list[Any]:
    choices = _list(answer, "choices")
    for number, choice in enumerate(choices, 1):
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if not isinstance(message, Mapping) or message.get("role") not in ("assistant", None):
            raise DataError(
                f"choice {number} has no message of the model",
                value=str(choice)[:80],
                remedy="Put what was streamed together first, as the API gives it without `stream`.",
            )
    if not choices:
        raise DataError("the response has no choice", remedy="Skip such lines, or leave them out.")
    return choices


def _ended(messages: list[Any], finish: Any, model: str | None) -> Conversation:
    """The conversation, by the reason why its last turn ended."""
    name = finish.lower() if isinstance(finish, str) else None
    if name in WITHHELD:
        return Conversation([], left_out=WITHHELD_REPLY)
    if name in GIVEN_UP | _UNFINISHED:
        return Conversation([], left_out=f"{FAILED} ({finish})")
    if name not in COMPLETE | CUT:
        raise DataError(
            "the response does not say whether the reply is whole",
            value=f"finish_reason or status = {json.dumps(finish)}",
            remedy=f"Known: {', '.join(sorted(COMPLETE | CUT))}; completed, incomplete.",
        )
    return Conversation(messages, model, cut=name in CUT)


def _finish(answer: Record) -> Any:
    """How a response of the Responses API ended, in the words of chat completions."""
    items = [item for item in answer["output"] if isinstance(item, Mapping)]
    status = answer.get("status")
    if any(item.get("status") == "incomplete" for item in items) and status in (None, "completed"):
        status = "incomplete"
    if status == "incomplete":
        details = answer.get("incomplete_details")
        return (details.get("reason") if isinstance(details, Mapping) else None) or "length"
    return "stop" if status in (None, "completed") else status


_UNFINISHED = {"failed", "cancelled", "in_progress", "queued"}


# --- items of the Responses API -----------------------------------------------------------------

_CALLS = {"function_call": "function", "custom_tool_call": "custom"}
_RESULTS = ("function_call_output", "custom_tool_call_output")


def _input(request: Record) -> Items:
    given = request["input"]
    return [{"role": "user", "content": given}] if isinstance(given, str) else _list(request, "input")


def _instructions(request: Record) -> Items:
    given = request.get("instructions") or []
    return given if isinstance(given, list) else [{"role": "system", "content": given}]


def _turns(items: Items) -> list[dict[str, Any]]:
    """Items as turns: what the model gives without anything coming back is one turn."""
    made: list[dict[str, Any]] = []
    for number, item in enumerate(items, 1):
        turn = _turn(item, number)
        if turn is not None and made and turn["role"] == made[-1]["role"] == "assistant":
            made[-1] = _joined(made[-1], turn)
        elif turn is not None:
            made.append(turn)
    return made


def _turn(item: Any, number: int) -> dict[str, Any] | None:
    """None of what the model thought."""
    known = item if isinstance(item, Mapping) else {}
    kind = str(known.get("type") or ("message" if "role" in known else ""))
    if kind == "reasoning":
        return None
    if kind == "message":
        return {"role": item["role"], "content": item.get("content")}
    if kind in _RESULTS:
        return {"role": "tool", "tool_call_id": item["call_id"], "content": item.get("output")}
    if kind in _CALLS:
        call = {"id": item["call_id"], "type": _CALLS[kind], _CALLS[kind]: item}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    raise DataError(
        f"item {number} of input and output is of a kind that is not read",
        value=kind or str(item)[:80],
        remedy="Messages, reasoning, calls of functions and custom tools and what they gave are read:"
        " leave such lines out, or skip them.",
    )


def _joined(turn: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    words = [one["content"] for one in (turn, more) if one["content"]]
    if len(words) == 2:
        first, last = (one if isinstance(one, list) else [one] for one in words)
        words = [[*first, "\n", *last]]
    calls = [*turn.get("tool_calls", ()), *more.get("tool_calls", ())]
    return {"role": "assistant", "content": words[0] if words else None, "tool_calls": calls}


# --- rows that belong together ------------------------------------------------------------------


def _refuse_kept(request: Record, answer: Record) -> None:
    """Raises `DataError` where earlier turns are only known to the server."""
    if previous := _previous(request, answer):
        raise DataError(
            "the record goes on from a response that does not stand before it",
            value=f"previous_response_id {previous}",
            remedy="Give the log that has it, before this one.",
        )
    if kept := request.get("conversation"):
        raise DataError(
            "the record goes on from a conversation that only the server has",
            value=f"conversation {kept}",
            remedy="Write its items into `input`, or skip such lines.",
        )


class Rows:
    """Rows of a log that tell of each other: a batch's requests and responses, and responses that go on
    from others by `previous_response_id`. All rows are seen once before one is made whole."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.exchanges = False
        """Whether a record is a request or a response."""
        self._requests: dict[str, Record | None] = {}
        """Of batches, by `custom_id`; None if that stands for several."""
        self._answered: set[str] = set()
        self._followed: set[str] = set()
        """Ids of responses that others go on from."""
        for record in records:
            if is_exchange(record):
                self.exchanges = True
                with suppress(DataError):  # it is raised where the record is read
                    self._see(record)

    def _see(self, record: Record) -> None:
        custom_id = _custom_id(record)
        if _is_batch_request(record):
            same = self._requests.setdefault(custom_id, record) == record
            self._requests[custom_id] = record if same else None
        elif custom_id:
            self._answered.add(custom_id)
        elif previous := _previous(*_halves(record)):
            self._followed.add(previous)

    def whole(self, record: Record, before: dict[str, Items]) -> Record | None:
        """A record with what other rows have of it; None if it is the request of another. `before` has
        the items of the responses so far that others go on from; it is added to."""
        if not is_exchange(record):
            return record
        custom_id = _custom_id(record)
        if _is_batch_request(record):
            return None if custom_id in self._answered else record
        if custom_id in self._requests:
            return self._with_request(record, custom_id)
        return self._with_earlier(record, before) if self._followed else record

    def _with_request(self, record: Record, custom_id: str) -> Record:
        request = self._requests[custom_id]
        if request is None:
            raise DataError(
                "a custom_id stands for several requests",
                value=custom_id,
                remedy="Import each batch on its own.",
            )
        return {**request, **{key: value for key, value in record.items() if value is not None}}

    def _with_earlier(self, record: Record, before: dict[str, Items]) -> Record:
        """The record with all its items in its input, where it goes on from an earlier one."""
        if _failure(record, record.get("response")):
            return record
        request, answer = _halves(record)
        if answer.get("output") is None:
            return record
        items = _input(_asking(request, "input", record))
        previous, own = _previous(request, answer), str(answer.get("id") or "")
        if previous in before:
            items = [*before[previous], *items]
            record = {
                **record,
                "request": {**request, "input": items, "previous_response_id": None},
                "response": {**answer, "previous_response_id": None},
            }
        if own in self._followed:
            before[own] = [*items, *_list(answer, "output")]
        return record


def _previous(request: Record, answer: Record) -> str:
    named = request.get("previous_response_id") or answer.get("previous_response_id")
    return str(named or "")


def _custom_id(record: Record) -> str:
    return "" if record.get("custom_id") is None else str(record["custom_id"])


def _is_batch_request(record: Record) -> bool:
    given = (record.get(key) is not None for key in ("custom_id", "body"))
    return all(given) and record.get("response") is None
