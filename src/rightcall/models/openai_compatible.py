"""Any server that speaks OpenAI's chat completions: vLLM, llama-server, `transformers serve`, the
hosted ones.

What passes is asked again: 408, 409, 425, 429, 5xx, timeouts, broken connections, and a few times an
answer that is no reply of the model. The waits grow exponentially and are spread by chance; where the
server limits requests, all of them rest (see `rightcall.models.pace`). What will not pass (a refused
key, an unknown model, a quota or a cap that is used up) stops the model: see `ChatModel.stopped`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import yarl

from rightcall import files, sandbox
from rightcall.errors import CapReached, ConfigError, ModelError, Withheld
from rightcall.models import ChatModel, Reply, Request
from rightcall.models.completions import (
    MAX_REPLY_CHARACTERS,
    OMITTABLE,
    Lasting,
    Passing,
    bad,
    error_status,
    error_text,
    read_completion,
    read_usage,
    refused_fields,
    retry_after,
    same_model,
)
from rightcall.models.open_requests import OpenRequests
from rightcall.models.pace import Pace, Turn
from rightcall.models.replies import ReplyCache, request_key
from rightcall.models.url import checked_url
from rightcall.models.usage import Cap, Ledger, Price, Purse, Usage
from rightcall.native import Parsing, structured, tools_of
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

LONGEST_WAIT = 60
"""Seconds of Retry-After beyond which the server is left alone instead."""

LONGEST_REST = 300
"""Seconds that a request may rest, all in all, on account of limits that do not count as failures."""

BAD_REPLY_RETRIES = 2
"""How often a request is sent again after an answer that is no reply of the model: it may have been
paid for, and may be what this server always says."""

REFUSED_ALIKE = 4
"""Conversations that are refused alike before any is answered, and what is asked is wrong, not what it
is asked about."""

MAX_BODY = 16 * MAX_REPLY_CHARACTERS
"""Bytes of an answer."""

PASSING = {408, 409, 425, 429}
"""Statuses that pass, beside 5xx."""
LASTING = {401, 402, 404}
"""Statuses that any other request would get, too."""

MAX_FAULT, MAX_SAID, MAX_VALUE = 400, 300, 200
"""Characters of an error, of what the server said in it, and of its value."""
LONG_KEY = 16
"""Characters from which a key in a reply cannot be there by chance: it is hidden there, too."""


class OpenAICompatible(ChatModel):
    """A model behind a URL; `capacity` requests are open at once, in one thread.

    `api_key_env` names the environment variable that holds the key. Without it OpenAI's own service
    gets that in OPENAI_API_KEY, and any other server (`base_url`) gets none. `timeout`: seconds
    that an attempt may take; `max_retries`: attempts after the first. `length_field`: newer hosted
    models want "max_completion_tokens". `extra`: further fields of the request's body; `omit`: those of
    `OMITTABLE` that are left out. `served_as`: the name that the server gives the model in its replies,
    "*" for any; a reply of another model is refused. `cache`: keep replies on disk, and read them there
    before asking. `price`, `cap`: see `rightcall.models.usage`; `usage_path`: a file that keeps the
    count over processes.

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
        omit: Collection[str] = (),
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
        self._omit = [name for name in OMITTABLE if name in omit]
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
        self._pace = Pace(capacity)
        self._parsing = Parsing()
        self._failed = 0
        """Requests in a row that the retries did not mend."""
        self._alike: defaultdict[str, set[str]] | None = defaultdict(set)
        """What is said of refused conversations → the last turns of these; until one is answered."""
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
            connector=aiohttp.TCPConnector(limit=0),  # `_pace` bounds them, and is not timed
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            headers={"Content-Type": "application/json", **key, **self._account},
        )

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> Reply | ModelError:
        fields = self._fields(request)
        unsaid = {name: fields.pop(name) for name in self._omit}
        body = json.dumps(fields).encode()
        # Two samples of a problem remain two, also where their seeds are not sent.
        asked = body + json.dumps(unsaid).encode() if unsaid else body
        key = request_key(self._server, asked) if self._cache is not None else ""
        if self._cache is not None and (kept := self._cache.get(key)) is not None:
            self._purse.count(Usage(kept=1), 0)
            return kept
        reply = await self._until_answered(session, request, body)
        context = isinstance(reply, Reply) and reply.finish_reason == "context"
        if self._cache is not None and isinstance(reply, (Reply, Withheld)) and not context:
            self._cache.put(key, reply)
        return reply

    def _fields(self, request: Request) -> dict[str, Any]:
        """What a request's body says, always in the same order."""
        sampling = request.sampling
        return {
            "model": self.model,
            **_conversation(request),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # 31 bits: what every server takes.
            "seed": request.seed & 0x7FFFFFFF,
            self._length_field: sampling.max_tokens,
            **self._extra,
        }

    async def _until_answered(
        self, session: aiohttp.ClientSession, request: Request, body: bytes
    ) -> Reply | ModelError:
        """Attempts until one is answered, or no more are due. Each is a turn of its own, and has room
        under the cap of its own: an answer that is of no use is paid for, too."""
        tries = _Tries()
        while True:
            async with self._pace.turn() as turn:
                if self.stopped is not None:
                    return self.stopped
                try:
                    async with self._purse.held(len(body), request.sampling.max_tokens):
                        reply = await self._attempt(session, request, body)
                except Lasting as fault:
                    return self._stop(fault.error)
                except CapReached as error:
                    return self._stop(error)
                except ModelError as error:
                    return (
                        self._stop(error) if self._parsing.hopeless else self._declined(request, error)
                    )
                except Passing as fault:
                    wait = self._wait(tries, fault, turn)
                    if tries.over(self._max_retries):
                        return self._gave_up(fault)
                else:
                    self._failed = 0
                    if reply.finish_reason != "context":
                        self._alike = None
                    self._pace.answered()
                    return reply
            await asyncio.sleep(wait)

    def _wait(self, tries: _Tries, fault: Passing, turn: Turn) -> float:
        """Count a failed attempt; the seconds that its request alone is to wait. A limit that others
        get through, or that the server says the length of, is no failure, for a while."""
        if not fault.limited and fault.wait is None:
            tries.failed += 1
            tries.bad += fault.bad
            return self._pace.back_off(tries.failed)
        passes = fault.limited and (fault.wait is not None or self._pace.answered_since(turn))
        rest = self._pace.refused(turn, fault.wait)
        tries.rested += rest if passes else 0.0
        tries.refused = 0 if passes else tries.refused + 1
        return 0.0

    def _gave_up(self, fault: Passing) -> ModelError:
        """Where nobody has been answered for a while, nobody will be."""
        self._failed += not fault.bad
        return self._stop(fault.error) if self._failed >= max(self.capacity, 8) else fault.error

    def _declined(self, request: Request, error: ModelError) -> ModelError:
        """Where none was answered and several were refused alike, others will be, too."""
        if self._alike is None or isinstance(error, Withheld):
            return error
        alike = self._alike[re.sub(r"\S*\d\S*", "#", str(error))]  # but for ids, seeds and the like
        alike.add(request.messages[-1]["content"])
        return self._stop(error) if len(alike) >= REFUSED_ALIKE else error

    def _stop(self, error: ModelError) -> ModelError:
        self.stopped = self.stopped or error
        return error

    async def _attempt(self, session: aiohttp.ClientSession, request: Request, body: bytes) -> Reply:
        """One attempt. Whatever a server may say, here the key is taken out of it."""
        try:
            reply = await self._attempted(session, request, body)
        except ModelError as error:
            raise self._shown(error) from None
        except (Passing, Lasting) as fault:
            fault.error = self._shown(fault.error)
            raise
        if self._secret is None or len(self._secret) < LONG_KEY or self._secret not in reply.text:
            return reply
        return reply.model_copy(update={"text": self._hidden(reply.text)})

    async def _attempted(self, session: aiohttp.ClientSession, request: Request, body: bytes) -> Reply:
        try:
            async with session.post(
                self._url, data=body, proxy=self._proxy, allow_redirects=False
            ) as response:
                raw = await _limited(response)
        except TimeoutError:
            raise Passing(
                ModelError(
                    "the server did not answer in time",
                    value=self.model,
                    remedy="Raise the timeout, or lower the capacity.",
                )
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Passing(
                ModelError(
                    f"cannot talk to the server ({self._line(_said(error))})",
                    value=self._place,
                    remedy="Is it running, and is base_url right?",
                )
            ) from None
        if response.status >= 300:
            return self._refused(response.status, response.headers, raw)
        return self._read(raw, response.headers, request, len(body))

    def _read(self, raw: bytes, headers: Mapping[str, str], request: Request, characters: int) -> Reply:
        """The reply in an answer, counted; also where it is of no use, as it is paid for."""
        try:
            made = json.loads(raw)
        except (ValueError, RecursionError) as error:
            said = self._line(_said(error))
            raise bad(f"the server's answer is not a chat completion ({said})") from None
        fields: dict[str, Any] = made if isinstance(made, dict) else {}
        counted = read_usage(fields.get("usage"))
        try:
            if fields.get("error"):
                return self._refused(error_status(fields["error"]), headers, raw)
            self._check_model(fields.get("model"))
            reply = read_completion(fields, request, counted)
            if request.tools:
                self._parsing.hear(reply.text)
        except (ModelError, Passing, Lasting):
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
            raise ModelError(
                f"another model than {self._served_as!r} answered",
                value=answered,
                remedy='If it is the one that is meant, set served_as to that name, or to "*".',
            )

    def _refused(self, status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
        """What an answer that is no success means; a status of 200 is an error that names none. Raises
        unless the conversation is too long."""
        text = error_text(raw)
        said = self._line(text)
        if status in (200, 400, 413, 422) and TOO_LONG.search(text):
            return Reply(text="", finish_reason="context")
        if status == 200:
            raise bad(f"the server answered with an error ({said})", remedy="See the server's log.")
        if status < 400:
            raise Lasting(
                ModelError(
                    f"the server answered {status}: the API is elsewhere",
                    value=headers.get("Location", "").partition("?")[0],
                    remedy="Give that address in base_url.",
                )
            )
        error = ModelError(
            f"the server answered {status} ({said})", value=self.model, remedy=self._remedy(status, raw)
        )
        if status in LASTING or (status == 429 and USED_UP.search(text)):
            raise Lasting(error)
        wait = retry_after(headers, time.time())
        if status not in PASSING and status < 500:
            raise error
        if wait is not None and wait > LONGEST_WAIT:
            raise Lasting(
                ModelError(
                    f"the server answered {status} and is to be left alone for {wait:.0f} seconds",
                    value=self.model,
                    remedy="Run again then: what is finished is kept.",
                )
            )
        raise Passing(error, wait=wait, limited=status == 429)

    def _remedy(self, status: int, raw: bytes) -> str:
        if status in (400, 422):
            return self._other_fields(raw)
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

    def _other_fields(self, raw: bytes) -> str:
        """What to change in requests that a server does not take."""
        if self._length_field == "max_tokens" and b"max_completion_tokens" in raw:
            return 'Set length_field = "max_completion_tokens".'
        if named := [name for name in refused_fields(raw) if name not in self._omit]:
            fields = " and ".join(named)
            return f"If the server does not take {fields}, leave it out: omit = {json.dumps(named)}."
        return "What it does not take can be left out with omit, and what it lacks added with extra."

    @property
    def _place(self) -> str:
        """The URL without the query."""
        return str(self._url.with_query(None))

    def _shown(self, error: ModelError) -> ModelError:
        """The error as it may be shown and kept: without the key, and cut."""
        fault = self._hidden(error.fault)
        if len(fault) > MAX_FAULT:
            fault = fault[:MAX_FAULT] + "..."
        value = None if error.value is None else self._hidden(str(error.value))[:MAX_VALUE]
        return type(error)(fault, value=value, remedy=error.remedy)

    def _line(self, text: str) -> str:
        """What a server says, in a line of an error. It is cut when it holds no key: half of one is
        found by nobody."""
        return " ".join(self._hidden(text).split())[:MAX_SAID]

    def _hidden(self, text: str) -> str:
        """A text without the key, however it is quoted, and without URLs' users and queries."""
        secret = self._secret or ""
        for written in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]} - {""}:
            text = text.replace(written, "***")
        query = self._url.query_string
        return without_user(text.replace(query, "***") if query else text)


@dataclass
class _Tries:
    """What became of a request so far."""

    failed: int = 0
    bad: int = 0
    """Of these: answers that were no reply of the model."""
    refused: int = 0
    """Last, in a row, while nobody was answered."""
    rested: float = 0.0
    """Seconds, on account of limits."""

    def over(self, max_retries: int) -> bool:
        """Whether there is to be no other attempt."""
        failed = self.failed + self.refused > max_retries or self.bad > BAD_REPLY_RETRIES
        return failed or self.rested > LONGEST_REST


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


def _said(error: BaseException) -> str:
    """What an error says; `str` of one of aiohttp's holds the whole URL."""
    return getattr(error, "message", None) or str(error) or type(error).__name__


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


def _conversation(request: Request) -> dict[str, Any]:
    """What a request's body says of the conversation."""
    if not request.tools:
        return {"messages": request.messages}
    turns = structured(request.messages, "text")
    return {"messages": turns, "tools": tools_of(request.tools)}
