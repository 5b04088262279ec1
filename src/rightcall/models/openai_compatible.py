"""Any server that speaks OpenAI's chat completions: vLLM, llama-server, `transformers serve`, the
hosted ones.

What passes is asked again: 408, 409, 425, 429, 5xx, timeouts, broken connections, and a few times an
answer that is no reply of the model. The waits grow exponentially and are spread by chance, or are as
long as the server's Retry-After says, for all requests. What will not pass (a refused key, an unknown
model, a quota or a cap that is used up) stops the model: see `ChatModel.stopped`.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import re
import time
import urllib.request
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, Literal

import aiohttp
import yarl

from rightcall import files, sandbox
from rightcall.errors import CapReached, ConfigError, ModelError
from rightcall.models import ChatModel, Reply, Request
from rightcall.models.open_requests import OpenRequests
from rightcall.models.replies import ReplyCache, request_key
from rightcall.models.url import checked_url
from rightcall.models.usage import Cap, Ledger, Price, Purse, Usage
from rightcall.native import Parsing, from_server, structured, tools_of
from rightcall.settings import without_user

TOO_LONG = re.compile(
    r"context.{0,3}(length|window|size)|maximum context|max_model_len|prompt is too long"
    r"|too many (input )?tokens|exceeds? .{0,40}context",
    re.IGNORECASE,
)
"""How servers say that a conversation does not fit; there is no common code for it."""

USED_UP = re.compile(r"insufficient_quota|billing_hard_limit", re.IGNORECASE)
"""How a 429 says that no waiting helps."""

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
"""Where OpenAI's own service is, and the variable that holds its key: the one goes with the other."""
OPENAI_ACCOUNT = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
"""Headers for it alone, and the variables that hold them."""

CHARACTERS_PER_TOKEN = 4
"""By which tokens are estimated where a server does not count them: about right for English. A
budget of tokens must not be endless there."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")

FIRST_WAIT, LONGEST_BACK_OFF = 0.5, 8.0
"""Seconds before the second attempt; each further wait is twice as long, up to the longest."""

LONGEST_WAIT = 60
"""Seconds of Retry-After beyond which the server is left alone instead."""

BAD_REPLY_RETRIES = 2
"""How often a request is sent again after an answer that is no reply of the model: it may have been
paid for, and may be what this server always says."""

MAX_REPLY_CHARACTERS = 1_000_000
"""A longer reply is taken for a broken server."""
MAX_BODY = 16 * MAX_REPLY_CHARACTERS
"""Bytes of an answer."""

PASSING = {408, 409, 425, 429}
"""Statuses that pass, beside 5xx."""
LASTING = {401, 402, 404}
"""Statuses that any other request would get, too."""

MOST_TOKENS = 10**9
"""A server that counts more than that in a reply does not count."""


class OpenAICompatible(ChatModel):
    """A model behind a URL; `capacity` requests are open at once, in one thread.

    `api_key_env` names the environment variable that holds the key. Without it OpenAI's own service
    gets that in OPENAI_API_KEY, and any other server (`base_url`) gets none. `timeout`: seconds
    that an attempt may take; `max_retries`: attempts after the first. `length_field`: newer hosted
    models want "max_completion_tokens". `extra`: further fields of the request's body. `served_as`: the
    name that the server gives the model in its replies, "*" for any; a reply of another model is
    refused. `cache`: keep replies on disk, and read them there before asking. `price`, `cap`: see
    `rightcall.models.usage`; `usage_path`: a file that keeps the count over processes.

    A reply's tokens are those that the server counts, or an estimate where it does not. Failures that
    retries do not mend are `ModelError`s, and never hold the key.
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
        served_as: str | None = None,
        cache: bool = False,
        price: Price | None = None,
        cap: Cap | None = None,
        usage_path: Path | None = None,
    ) -> None:
        self.model = model
        self.name = name or model
        self.capacity = capacity
        self._timeout = timeout
        self._max_retries = max_retries
        self._length_field = length_field
        self._extra = dict(extra or {})
        self._served_as = served_as or model
        self._key_env = api_key_env or (OPENAI_KEY if base_url is None else None)
        self._secret = _key(self._key_env)
        self._url = _completions(checked_url(base_url or OPENAI_URL))
        self._account = {} if base_url else _from_environment(OPENAI_ACCOUNT)
        self._proxy = _proxy(self._url)
        self._server = str(self._url)
        self._cache = (
            ReplyCache(files.cache_folder() / "replies", self._server, model) if cache else None
        )
        self._price = price
        self._purse = Purse(Ledger(self.name, usage_path), price, cap)
        self._parsing = Parsing()
        self._slots = asyncio.Semaphore(capacity)
        self._resting_until = 0.0
        self._failed = 0
        """Requests in a row that the retries did not mend."""
        self._random = random.Random()
        self._open: dict[str, Request] = {}
        self._requests = OpenRequests(self._ask, self._session)

    # --- the caller's thread ---------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        self._open[request.chain] = request
        self._requests.begin(request)

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        answered: list[tuple[Request, Reply | ModelError]] = []
        while self._open and (self._requests.waiting() or not answered):
            request, reply = self._requests.next()
            if self._open.get(request.chain) is request:  # else its chain was released meanwhile
                del self._open[request.chain]
                answered.append((request, reply))
        return answered

    def release(self, chain: str) -> None:
        if self._open.pop(chain, None) is not None:
            self._requests.drop(chain)

    def close(self) -> None:
        self._open.clear()
        self._requests.close()
        self._purse.ledger.flush()
        if self._cache is not None:
            self._cache.close()

    @property
    def usage(self) -> Usage:
        """Of this process."""
        return self._purse.ledger.now

    def keep_count(self) -> None:
        """Write what was counted so far to `usage_path`; for between collections, not during one."""
        self._purse.ledger.flush()

    @property
    def used(self) -> str:  # type: ignore[override]  # counted, not set
        """What was used, by this process and in all."""
        now, total = self._purse.ledger.now, self._purse.ledger.total
        before = "" if now == total else f" (in all: {total.described(self._price)})"
        return now.described(self._price) + before

    def __repr__(self) -> str:
        return f"OpenAICompatible({self.model!r})"

    # --- the event loop's thread -----------------------------------------------------------------

    def _session(self) -> aiohttp.ClientSession:
        key = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # `_slots` bounds them, and is not timed
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            headers={"Content-Type": "application/json", **key, **self._account},
        )

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> Reply | ModelError:
        body = self._body(request)
        key = request_key(self._server, body) if self._cache is not None else ""
        if self._cache is not None and (kept := self._cache.get(key)) is not None:
            self._purse.count(Usage(kept=1), 0)
            return kept
        async with self._slots:
            try:
                held = await self._purse.hold(len(body), request.sampling.max_tokens)
            except CapReached as error:
                return self._stop(error)
            try:
                reply = await self._until_answered(session, request, body)
            finally:
                self._purse.settle(held)
        if self._cache is not None and isinstance(reply, Reply) and reply.finish_reason != "context":
            self._cache.put(key, reply)
        return reply

    def _body(self, request: Request) -> bytes:
        """Equal requests give equal bytes."""
        sampling = request.sampling
        fields = {
            "model": self.model,
            **_conversation(request),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # 31 bits: what every server takes.
            "seed": request.seed & 0x7FFFFFFF,
            self._length_field: sampling.max_tokens,
            **self._extra,
        }
        return json.dumps(fields).encode()

    async def _until_answered(
        self, session: aiohttp.ClientSession, request: Request, body: bytes
    ) -> Reply | ModelError:
        """Attempts until one is answered, or no more are due."""
        tried = bad = 0
        while True:
            await self._rest()
            if self.stopped is not None:
                return self.stopped
            try:
                reply = await self._attempt(session, request, body)
            except _Lasting as fault:
                return self._stop(fault.error)
            except ModelError as error:
                return self._stop(error) if self._parsing.hopeless else error
            except _Passing as fault:
                tried, bad = tried + 1, bad + fault.bad
                if tried > self._max_retries or bad > BAD_REPLY_RETRIES:
                    return self._gave_up(fault)
                if not fault.wait:
                    await asyncio.sleep(self._back_off(tried))
                else:
                    self._resting_until = max(self._resting_until, time.monotonic() + fault.wait)
            else:
                self._failed = 0
                return reply

    async def _rest(self) -> None:
        """Wait as long as the server asked for; not all go on at the same moment."""
        while (left := self._resting_until - time.monotonic()) > 0:
            await asyncio.sleep(left + self._random.random() * min(0.25 * left, 1.0))

    def _back_off(self, tried: int) -> float:
        longest = min(LONGEST_BACK_OFF, FIRST_WAIT * 2.0 ** (tried - 1))
        return longest * self._random.uniform(0.5, 1.0)

    def _gave_up(self, fault: _Passing) -> ModelError:
        """Where nobody has been answered for a while, nobody will be."""
        self._failed += not fault.bad
        return self._stop(fault.error) if self._failed >= max(self.capacity, 8) else fault.error

    def _stop(self, error: ModelError) -> ModelError:
        self.stopped = self.stopped or error
        return error

    async def _attempt(self, session: aiohttp.ClientSession, request: Request, body: bytes) -> Reply:
        try:
            async with session.post(
                self._url, data=body, proxy=self._proxy, allow_redirects=False
            ) as response:
                raw = await _limited(response)
        except TimeoutError:
            raise _Passing(
                ModelError(
                    "the server did not answer in time",
                    value=self.model,
                    remedy="Raise the timeout, or lower the capacity.",
                )
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Passing(
                ModelError(
                    f"cannot talk to the server ({self._clean(error)})",
                    value=self._place,
                    remedy="Is it running, and is base_url right?",
                )
            ) from None
        if response.status >= 300:
            return self._refused(response.status, response.headers, raw)
        return self._read(raw, request, len(body))

    def _read(self, raw: bytes, request: Request, characters: int) -> Reply:
        """The reply in an answer, counted; also where it is of no use, as it is paid for."""
        try:
            made = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise _bad(f"the server's answer is not a chat completion ({self._clean(error)})") from None
        fields: dict[str, Any] = made if isinstance(made, dict) else {}
        counted = read_usage(fields.get("usage"))
        try:
            self._check_model(fields.get("model"))
            reply = read_completion(fields, request, counted)
            if request.tools:
                self._parsing.hear(reply.text)
        except (ModelError, _Passing):
            if counted.tokens:
                self._purse.count(counted, characters)
            raise
        paid = Usage(1, 0, reply.prompt_tokens, counted.cached_tokens, reply.completion_tokens)
        self._purse.count(paid, characters)
        return reply

    def _check_model(self, answered: object) -> None:
        if not isinstance(answered, str) or not answered or self._served_as == "*":
            return
        if not same_model(self._served_as, answered):
            raise _bad(
                f"another model than {self._served_as!r} answered",
                value=answered,
                remedy='If it is the one that is meant, set served_as to that name, or to "*".',
            )

    def _refused(self, status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
        """What an answer that is no success means. Raises unless the conversation is too long."""
        text = _error_text(raw)
        said = self._clean(text)
        if status in (400, 413, 422) and TOO_LONG.search(text):
            return Reply(text="", finish_reason="context")
        if status < 400:
            raise _Lasting(
                ModelError(
                    f"the server answered {status}: the API is elsewhere",
                    value=without_user(headers.get("Location", "")).partition("?")[0],
                    remedy="Give that address in base_url.",
                )
            )
        error = ModelError(
            f"the server answered {status} ({said})", value=self.model, remedy=self._remedy(status)
        )
        if status in LASTING or (status == 429 and USED_UP.search(text)):
            raise _Lasting(error)
        wait = retry_after(headers, time.time())
        if status not in PASSING and status < 500:
            raise error
        if wait is not None and wait > LONGEST_WAIT:
            raise _Lasting(
                ModelError(
                    f"the server answered {status} and is to be left alone for {wait:.0f} seconds",
                    value=self.model,
                    remedy="Run again then: what is finished is kept.",
                )
            )
        raise _Passing(error, wait=wait)

    def _remedy(self, status: int) -> str:
        remedies = {
            401: f"Set the environment variable {self._key_env} to a valid key."
            if self._key_env
            else "Name the environment variable that holds its key in api_key_env.",
            403: f"The key in {self._key_env} may not use this model." if self._key_env else "",
            404: "Is the model's name right, and does base_url end where the API begins?",
            429: "The limit outlasted the retries: lower the capacity, or raise max_retries.",
        }
        lasting = "The failure outlasted the retries: see the server's log." if status >= 500 else ""
        return remedies.get(status, lasting)

    @property
    def _place(self) -> str:
        """The URL without the query."""
        return str(self._url.with_query(None))

    def _clean(self, error: BaseException | str) -> str:
        """What an error says, in a line without the key, and without URLs' users and queries."""
        own = getattr(error, "message", None) or str(error)  # aiohttp's `str` holds the whole URL
        text = " ".join(own.split())[:300] or type(error).__name__
        text = without_user(text.replace(self._secret, "***") if self._secret else text)
        query = self._url.query_string
        return text.replace(query, "***") if query else text


class _Passing(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, error: ModelError, *, wait: float | None = None, bad: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        """Seconds that the server asked for."""
        self.bad = bad
        """It was answered, by no reply of the model."""


class _Lasting(Exception):
    """An attempt failed as every other would."""

    def __init__(self, error: ModelError) -> None:
        super().__init__(str(error))
        self.error = error


def _bad(fault: str, *, value: object = None, remedy: str = "") -> _Passing:
    remedy = remedy or "Does base_url end where the API begins (often /v1)?"
    return _Passing(ModelError(fault, value=value, remedy=remedy), bad=True)


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
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            "a key of other characters than keys have",
            value=name,
            remedy="Is there a line break or a space in that environment variable?",
        )
    return key


def _completions(base_url: str) -> yarl.URL:
    base = yarl.URL(base_url)
    return (base / "chat" / "completions").with_query(base.query)


def _from_environment(headers: Mapping[str, str]) -> dict[str, str]:
    return {header: os.environ[name] for header, name in headers.items() if os.environ.get(name)}


def _proxy(url: yarl.URL) -> str | None:
    """The proxy that the environment names for a URL (HTTPS_PROXY, NO_PROXY, ...)."""
    if urllib.request.proxy_bypass(url.host or ""):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all", "")
    return proxy if proxy.startswith("http") else None


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer; a `ClientPayloadError` if it is too long."""
    if (response.content_length or MAX_BODY) < MAX_BODY:
        return await response.read()
    parts, length = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        length += len(part)
        if length > MAX_BODY:
            raise aiohttp.ClientPayloadError("the answer is too long")
    return b"".join(parts)


def _error_text(raw: bytes) -> str:
    """What a server says of an error: the message and the code of OpenAI's form, or the body."""
    text = raw[:65536].decode(errors="replace")
    try:
        error = json.loads(text)
        error = error.get("error", error)
        message, code = error["message"], error.get("code") or error.get("type") or ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text
    return f"{message} {code}".strip()


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
    """The reply in a chat completion. Raises `ModelError` where the server withheld it; anything that
    is no reply of the model is a fault that may pass."""
    choices = made.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _bad("the server's answer has no choices", value=str(made)[:200])
    choice = choices[0] if isinstance(choices[0], dict) else {}
    message, finish = choice.get("message"), choice.get("finish_reason")
    text = message.get("content") if isinstance(message, dict) else None
    calls = message.get("tool_calls") if request.tools and isinstance(message, dict) else None
    if calls or (request.tools and isinstance(text, str)):
        try:
            text = from_server(text if isinstance(text, str) else None, calls or [])
        except ValueError as error:
            raise _bad(f"the server's tool calls cannot be read ({error})", value=str(choice)[:200])
    if finish == "content_filter":
        raise ModelError("the server's content filter withheld the reply")
    if finish in ("error", "abort"):
        raise _bad("the server gave a reply up", value=finish, remedy="See the server's log.")
    cut = finish == "length"
    if text is None and cut:
        text = ""
    if not isinstance(text, str) or len(text) > MAX_REPLY_CHARACTERS:
        raise _bad("the server's reply is not text", value=str(choice)[:200])
    return Reply(
        # JSON can spell half of a surrogate pair; no file in UTF-8 could hold it.
        text=LONE_SURROGATE.sub("\ufffd", text),
        finish_reason="length" if cut else "stop",
        prompt_tokens=counted.prompt_tokens
        or _estimated(request.tools + "".join(turn["content"] for turn in request.messages)),
        completion_tokens=counted.completion_tokens or _estimated(text),
    )


def _conversation(request: Request) -> dict[str, Any]:
    """What a request's body says of the conversation."""
    if not request.tools:
        return {"messages": request.messages}
    turns = structured(request.messages, "text")
    return {"messages": turns, "tools": tools_of(request.tools)}


def _estimated(text: str) -> int:
    """Tokens of a text, at least one: the end of a turn is one too."""
    return max(1, ceil(len(text) / CHARACTERS_PER_TOKEN))
