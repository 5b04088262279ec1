"""What the answers of a server of chat completions say: replies, usage, errors, how long to wait.

    read_completion(answer, request, read_usage(answer.get("usage"))) → Reply

Servers that call themselves compatible differ in all that a schema leaves open, and a cut reply that
passes for a whole one is learned from as a mistake of the model's. So what is not known to be a reply
is none: it is raised, as a fault that may pass, one that lasts, or a `ModelError` of this request.
Faults hold what the server said as it said it: whoever catches them hides the key and cuts them.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
from collections.abc import Mapping
from math import ceil
from typing import Any

from rightcall.errors import ModelError, Withheld
from rightcall.models import Reply, Request
from rightcall.models.usage import Usage
from rightcall.native import from_server

CHARACTERS_PER_TOKEN = 4
"""By which tokens are estimated where a server does not count them: about right for English. A
budget of tokens must not be endless there."""

OMITTABLE = ("seed", "top_p", "temperature")
"""Fields of a request that some servers refuse, and that a collection can do without."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_REPLY_CHARACTERS = 1_000_000
"""A longer reply is taken for a broken server."""

COMPLETE = {
    *("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete"),
    *("tool_calls", "function_call", "tool_use"),
}
CUT = {"length", "max_tokens", "max_output_tokens", "model_length"}
WITHHELD = {"content_filter", "safety"}
GIVEN_UP = {"error", "abort", "cancelled"}
"""Finish reasons, in whatever case: of a reply that the model ended itself, of one that was cut, of one
that is not shown, and of one that the server did not finish."""

MOST_TOKENS = 10**9
"""A server that counts more than that in a reply does not count."""


class Passing(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(
        self,
        error: ModelError,
        *,
        wait: float | None = None,
        limited: bool = False,
        bad: bool = False,
    ) -> None:
        super().__init__()
        self.error = error
        self.wait = wait
        """Seconds that the server asked for."""
        self.limited = limited
        """It was too much for a limit of the server."""
        self.bad = bad
        """It was answered, by no reply of the model."""


class Lasting(Exception):
    """An attempt failed as every other would."""

    def __init__(self, error: ModelError) -> None:
        super().__init__()
        self.error = error


def bad(fault: str, *, value: object = None, remedy: str = "") -> Passing:
    remedy = remedy or "Does base_url end where the API begins (often /v1)?"
    return Passing(ModelError(fault, value=value, remedy=remedy), bad=True)


def error_text(raw: bytes) -> str:
    """What a server says of an error: the message and the code of OpenAI's form, or the body."""
    text = raw[:65536].decode(errors="replace")
    try:
        error = json.loads(text)
        error = error.get("error", error)
        message, code = error["message"], error.get("code") or error.get("type") or ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text
    return f"{message} {code}".strip()


def refused_fields(raw: bytes) -> list[str]:
    """The fields of a request, of those that can be omitted, that a refusal names: in OpenAI's `param`,
    or anywhere."""
    text = raw[:65536].decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        param = json.loads(text)["error"]["param"]
        if param in OMITTABLE:
            return [param]
    return [name for name in OMITTABLE if re.search(rf"\b{name}\b", text)]


def error_status(error: object) -> int:
    """The status that an error in an answer of 200 stands for; 200 where it does not say."""
    code = error.get("code") if isinstance(error, dict) else None
    code = int(code) if isinstance(code, str) and code.isdecimal() and len(code) == 3 else code
    return code if type(code) is int and 400 <= code < 600 else 200


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to be left alone: of `Retry-After` (seconds, or a date, seen from
    `now`) or `Retry-After-Ms`; None if it does not say.

    >>> retry_after({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=15.0)
    45.0
    """
    for name, unit in (("Retry-After-Ms", 1e-3), ("Retry-After", 1.0)):
        value = headers.get(name, "").strip()
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
        except (ValueError, OverflowError):
            pass
    return None


def same_model(asked: str, answered: str) -> bool:
    """Whether a name in an answer is that of the model asked for: the same but for case and folders,
    or a dated version of it.

    >>> same_model("gpt-4o-mini", "gpt-4o-mini-2024-07-18"), same_model("gpt-4", "gpt-4-turbo")
    (True, False)
    """
    wanted, found = (name.lower().rstrip("/").rpartition("/")[2] for name in (asked, answered))
    wanted = wanted.removesuffix("-latest")
    return found.startswith(wanted) and bool(
        re.fullmatch(r"([-@:]\d[\d-]*|@.*|:latest)?", found[len(wanted) :])
    )


def read_usage(usage: object) -> Usage:
    """The tokens that an answer counts; what it does not count is 0."""
    table = usage if isinstance(usage, dict) else {}
    details = table.get("prompt_tokens_details")
    prompt = _count(table.get("prompt_tokens"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(
        requests=1,
        prompt_tokens=prompt,
        cached_tokens=min(cached, prompt),
        completion_tokens=_count(table.get("completion_tokens")),
    )


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0


def read_completion(made: Mapping[str, Any], request: Request, counted: Usage) -> Reply:
    """The reply in a chat completion. Raises `ModelError` where the server withheld it or it cannot be
    told whether it is whole; anything else that is no reply of the model is a fault that may pass."""
    choices = made.get("choices")
    if not isinstance(choices, list) or not choices:
        raise bad("the server's answer has no choices", value=made)
    choice = choices[0] if isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        raise bad("the server's answer holds no message", value=made)
    cut = _was_cut(choice.get("finish_reason"))
    text = _text(message, request)
    if len(text) > MAX_REPLY_CHARACTERS:
        raise bad("the server's reply is too long", value=f"{len(text)} characters")
    return Reply(
        # JSON can spell half of a surrogate pair; no file in UTF-8 could hold it.
        text=LONE_SURROGATE.sub("\ufffd", text),
        finish_reason="length" if cut else "stop",
        prompt_tokens=counted.prompt_tokens
        or _estimated(request.tools + "".join(turn["content"] for turn in request.messages)),
        completion_tokens=counted.completion_tokens or _estimated(text),
    )


def _was_cut(finish: object) -> bool:
    """Whether a reply is the beginning of one. Raises where there is no reply, or it cannot be told: a
    cut reply that is taken for a whole one is learned from as a mistake of the model's."""
    name = finish.lower() if isinstance(finish, str) else None
    if name in WITHHELD:
        raise Withheld("the server's content filter withheld the reply")
    if name in GIVEN_UP:
        raise bad("the server gave a reply up", value=finish, remedy="See the server's log.")
    if name not in COMPLETE | CUT:
        raise ModelError(
            "the server does not say whether the reply is whole",
            value=f"finish_reason = {json.dumps(finish)}",
            remedy="Known: " + ", ".join(sorted(COMPLETE | CUT)) + ".",
        )
    return name in CUT


def _text(message: Mapping[str, Any], request: Request) -> str:
    """What a reply says. A model may end it without a word, or with nothing but thoughts or a refusal:
    then it is empty."""
    text = _joined(message.get("content"))
    if text is None:
        remedy = "The content of a message is text, or a list of parts of which some are."
        raise bad("the server's reply is not text", value=message.get("content"), remedy=remedy)
    calls = message.get("tool_calls") or _older_call(message.get("function_call"))
    if not request.tools:
        if text or not calls:
            return text
        raise ModelError(
            "the server made a tool call of the reply",
            value=message,
            remedy="Switch its tool parser off, or collect with the native dialect.",
        )
    try:
        return from_server(text, calls or [])
    except ValueError as error:
        raise bad(
            f"the server's tool calls cannot be read: {error}",
            value=calls,
            remedy="They are a list of calls, each with a function's name and arguments: see its tool "
            "parser and its log.",
        ) from None


def _joined(content: object) -> str | None:
    """A message's content as text, also where it comes in parts; None if it is something else."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    texts = [part.get("text") for part in content if isinstance(part, dict) and _spoken(part)]
    return "".join(text for text in texts if isinstance(text, str))


def _spoken(part: Mapping[str, Any]) -> bool:
    return part.get("type", "text") in ("text", "output_text")


def _older_call(call: object) -> list[dict[str, object]]:
    """The one call of a message in the form before `tool_calls`."""
    return [{"function": call}] if call else []


def _estimated(text: str) -> int:
    """Tokens of a text, at least one: the end of a turn is one too."""
    return max(1, ceil(len(text) / CHARACTERS_PER_TOKEN))
