"""Any server that speaks OpenAI's chat completions: vLLM, llama-server, `transformers serve`, the
hosted ones. The official client does the retries: exponential back-off with jitter on 408, 409, 429,
5xx, timeouts and broken connections; as long as the server's Retry-After says, up to its limit of a
minute or two.
"""

from __future__ import annotations

import os
import queue
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any, Literal

import openai
from openai.types.chat import ChatCompletion

from rightcall import sandbox
from rightcall.chain import Message
from rightcall.errors import ConfigError, ModelError
from rightcall.models import ChatModel, Reply, Request
from rightcall.models.url import checked_url

TOO_LONG = re.compile(
    r"context.{0,3}(length|window|size)|maximum context|max_model_len|prompt is too long"
    r"|too many (input )?tokens|exceeds? .{0,40}context",
    re.IGNORECASE,
)
"""How servers say that a conversation does not fit; there is no common code for it."""

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
"""Where OpenAI's own service is, and the variable that holds its key: the one goes with the other."""

CHARACTERS_PER_TOKEN = 4
"""By which tokens are estimated where a server does not count them: about right for English. A
budget of tokens must not be endless there."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")

LONGEST_WAIT = 60
"""Seconds of Retry-After beyond which every version of the official client gives up at once."""

MAX_REPLY_CHARACTERS = 1_000_000
"""A longer body is taken for a broken server."""


class OpenAICompatible(ChatModel):
    """A model behind a URL; `capacity` requests are open at once, one thread each.

    `api_key_env` names the environment variable that holds the key. Without it OpenAI's own service
    gets that in OPENAI_API_KEY, and any other server (`base_url`) gets none. `timeout`: seconds
    without an answer before an attempt is given up; `max_retries`: attempts after the first.
    `length_field`: newer hosted models want "max_completion_tokens". `extra`: further fields of the
    request's body. A reply's tokens are those that the server counts, or an estimate where it does
    not. Failures that retries do not mend are `ModelError`s, and never hold the key.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        api_key_env: str | None = None,
        name: str | None = None,
        capacity: int = 16,
        timeout: float = 120.0,
        max_retries: int = 5,
        length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.name = name or model
        self.capacity = capacity
        self._key_env = api_key_env or (OPENAI_KEY if base_url is None else None)
        self._length_field = length_field
        self._extra = dict(extra or {})
        self._secret = _key(self._key_env)
        self._client = openai.OpenAI(
            api_key=self._secret or "none",
            base_url=checked_url(base_url or OPENAI_URL),
            timeout=timeout,
            max_retries=max_retries,
        )
        if base_url is not None:  # the client takes them from the environment, for any server
            self._client.organization = self._client.project = None
        self._pool = ThreadPoolExecutor(capacity, thread_name_prefix="openai")
        self._open: dict[str, Request] = {}
        self._answers: queue.SimpleQueue[tuple[Request, Reply | ModelError | Exception]]
        self._answers = queue.SimpleQueue()

    def submit(self, request: Request) -> None:
        self._open[request.chain] = request
        self._pool.submit(self._work, request)

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        answered: list[tuple[Request, Reply | ModelError]] = []
        while self._open and not (answered and self._answers.empty()):
            request, reply = self._answers.get()
            if self._open.get(request.chain) is not request:
                continue  # Its chain was released meanwhile.
            del self._open[request.chain]
            if not isinstance(reply, (Reply, ModelError)):
                raise reply
            answered.append((request, reply))
        return answered

    def release(self, chain: str) -> None:
        self._open.pop(chain, None)

    def close(self) -> None:
        self._open.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def __repr__(self) -> str:
        return f"OpenAICompatible({self.model!r})"

    def _work(self, request: Request) -> None:
        """Runs in a thread; a bug is carried to `poll` and raised there."""
        if self._open.get(request.chain) is not request:
            return
        try:
            self._answers.put((request, self._ask(request)))
        except Exception as bug:
            self._answers.put((request, bug))

    def _ask(self, request: Request) -> Reply | ModelError:
        sampling = request.sampling
        length: dict[str, Any] = {self._length_field: sampling.max_tokens}
        try:
            made = self._client.chat.completions.create(
                model=self.model,
                messages=[dict(m) for m in request.messages],  # type: ignore[misc]
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                # 31 bits: what every server takes.
                seed=request.seed & 0x7FFFFFFF,
                extra_body=self._extra or None,
                **length,
            )
            return read_completion(made, request.messages)
        except ModelError as error:
            return error
        except openai.APIStatusError as error:
            if error.status_code in (400, 413, 422) and TOO_LONG.search(str(error)):
                return Reply(text="", finish_reason="context")
            return self._refused(error)
        except openai.APITimeoutError:
            return ModelError(
                "the server did not answer in time",
                value=self.model,
                remedy="Raise the timeout, or lower the capacity.",
            )
        except openai.APIConnectionError as error:
            return ModelError(
                f"cannot talk to the server ({self._clean(error.__cause__ or error)})",
                value=self._place,
                remedy="Is it running, and is base_url right?",
            )
        except (openai.OpenAIError, ValueError) as error:
            return ModelError(
                f"the server's answer is not a chat completion ({self._clean(error)})",
                value=self._place,
                remedy="Does base_url end where the API begins (often /v1)?",
            )

    def _refused(self, error: openai.APIStatusError) -> ModelError:
        remedies = {
            401: f"Set the environment variable {self._key_env} to a valid key."
            if self._key_env
            else "Name the environment variable that holds its key in api_key_env.",
            403: f"The key in {self._key_env} may not use this model." if self._key_env else "",
            404: "Is the model's name right, and does base_url end where the API begins?",
            429: "The limit outlasted the retries: lower the capacity, or raise max_retries.",
        }
        remedy = remedies.get(error.status_code, "")
        wait = error.response.headers.get("retry-after", "")
        if wait.isdigit() and int(wait) > LONGEST_WAIT:
            return ModelError(
                f"the server answered {error.status_code} and is to be left alone for {wait} seconds",
                value=self.model,
                remedy="Run again then: what is finished is kept.",
            )
        if error.status_code >= 500:
            remedy = "The failure outlasted the retries: see the server's log."
        return ModelError(
            f"the server answered {error.status_code} ({self._clean(error)})",
            value=self.model,
            remedy=remedy,
        )

    @property
    def _place(self) -> str:
        """The URL without user, password and query."""
        url = self._client.base_url
        return f"{url.scheme}://{url.netloc.decode()}{url.path}"

    def _clean(self, error: BaseException) -> str:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        return text.replace(self._secret, "***") if self._secret else text


def _key(name: str | None) -> str | None:
    """The key in an environment variable, which functions no longer see."""
    if name is None:
        return None
    sandbox.withhold(name)
    key = os.environ.get(name)
    if not key:
        raise ConfigError(
            "no API key",
            value=name,
            remedy="Set that environment variable. A server of your own (base_url) that wants no key "
            "needs no api_key_env.",
        )
    return key


def read_completion(made: object, messages: Sequence[Message]) -> Reply:
    """The reply to `messages` in a chat completion. Raises `ModelError` for anything else: the
    client does not validate what a server sends."""
    if not isinstance(made, ChatCompletion) or not isinstance(made.choices, list) or not made.choices:
        raise ModelError("the server's answer has no choices", value=str(made)[:200])
    choice = made.choices[0]
    text = getattr(getattr(choice, "message", None), "content", None)
    finish = getattr(choice, "finish_reason", None)
    cut = finish == "length"
    if finish == "content_filter":
        raise ModelError("the server's content filter withheld the reply")
    if text is None and cut:
        text = ""
    if not isinstance(text, str) or len(text) > MAX_REPLY_CHARACTERS:
        raise ModelError("the server's reply is not text", value=str(choice)[:200])
    usage = made.usage
    return Reply(
        # JSON can spell half of a surrogate pair; no file in UTF-8 could hold it.
        text=LONE_SURROGATE.sub("\ufffd", text),
        finish_reason="length" if cut else "stop",
        prompt_tokens=getattr(usage, "prompt_tokens", None) or _estimated(_text(messages)),
        completion_tokens=getattr(usage, "completion_tokens", None) or _estimated(text),
    )


def _text(messages: Sequence[Message]) -> str:
    return "".join(message["content"] for message in messages)


def _estimated(text: str) -> int:
    """Tokens of a text, at least one: the end of a turn is one too."""
    return max(1, ceil(len(text) / CHARACTERS_PER_TOKEN))
