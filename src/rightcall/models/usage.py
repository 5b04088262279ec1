"""What a model behind a server has used: counted, priced, and capped.

    usage = Usage(requests=1, prompt_tokens=900, cached_tokens=600, completion_tokens=40)
    Price(prompt=2.5, cached=1.25, completion=10).of(usage)      money

A `Ledger` keeps the count over processes in an append-only file, a `Purse` lets requests through as
long as a `Cap` allows.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from rightcall.chain import Frozen
from rightcall.errors import CapReached

FLUSH_SECONDS = 0.5
"""A kill loses what was counted in so many seconds before it, at most."""

FIRST_GUESS = 0.5
"""Tokens per character of a prompt, before a server has counted any: more than English has, so that
a cap holds from the first request on."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests and tokens, as the server counted them."""

    requests: int = 0
    """Replies that were paid for, unusable ones too."""
    kept: int = 0
    """Replies that came from the cache instead: neither they nor their tokens are counted above
    and below."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those that the server had in a cache of its own."""
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.kept + other.kept,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return self + Usage(*(-count for count in astuple(other)))

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def described(self, price: Price | None = None) -> str:
        """In a line, with its money where there is a price."""
        cached = f" ({self.cached_tokens:,} cached)" if self.cached_tokens else ""
        parts = [
            f"{self.requests:,} requests",
            f"{self.prompt_tokens:,} prompt tokens{cached}",
            f"{self.completion_tokens:,} completion tokens",
        ]
        if self.kept:
            parts.append(f"{self.kept:,} replies from the cache")
        return ", ".join([*parts, *([f"cost {price.of(self):.4f}"] if price else [])])


class Price(Frozen):
    """Money per million tokens, in whatever currency."""

    prompt: float = Field(ge=0, allow_inf_nan=False)
    cached: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Of prompt tokens that the server had in its cache; default: as any other."""
    completion: float = Field(ge=0, allow_inf_nan=False)

    def of(self, usage: Usage) -> float:
        """What a usage costs."""
        cached = self.prompt if self.cached is None else self.cached
        fresh = usage.prompt_tokens - usage.cached_tokens
        paid = fresh * self.prompt + usage.cached_tokens * cached
        return (paid + usage.completion_tokens * self.completion) / 1e6


class Cap(Frozen):
    """What a model may use in all."""

    tokens: int | None = Field(None, ge=1)
    """Of prompts and replies."""
    money: float | None = Field(None, gt=0, allow_inf_nan=False)
    """In the currency of the price, which it needs."""

    def __str__(self) -> str:
        said = [] if self.tokens is None else [f"{self.tokens:,} tokens"]
        return " or ".join([*said, *([] if self.money is None else [f"{self.money:g} of money"])])


class _Line(Frozen):
    model: str
    usage: Usage


class Ledger:
    """A model's usage: of earlier processes from a file, and of this one, which is appended to it.

    The file may hold lines of several models. Without a path nothing is kept. Lines that are cut or
    unreadable are passed over.
    """

    def __init__(self, model: str, path: Path | None = None) -> None:
        self.earlier = Usage()
        self.now = Usage()
        self._model = model
        self._path = path
        self._written = Usage()
        self._writing = threading.Lock()
        if path is not None and path.exists():
            for line in path.read_bytes().splitlines():
                self.earlier += self._of(line)

    def _of(self, line: bytes) -> Usage:
        try:
            read = _Line.model_validate_json(line)
        except ValidationError:
            return Usage()
        return read.usage if read.model == self._model else Usage()

    @property
    def total(self) -> Usage:
        return self.earlier + self.now

    def add(self, usage: Usage) -> None:
        self.now += usage

    def flush(self) -> None:
        """Append what was counted since the last line. Any thread may."""
        with self._writing:
            now = self.now
            if self._path is None or now == self._written:
                return
            line = _Line(model=self._model, usage=now - self._written).model_dump_json().encode()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(b"\n" * (file.tell() > 0) + line)  # a cut line before it ends here
            self._written = now


@dataclass(frozen=True)
class Held:
    """The most that an attempt under way may use."""

    tokens: int
    money: float


class Purse:
    """Lets requests through while what is used, and the most that those under way may still use, stays
    within the cap; near it fewer are under way at once. Lives in one event loop."""

    def __init__(self, ledger: Ledger, price: Price | None = None, cap: Cap | None = None) -> None:
        self.ledger = ledger
        self.reached: CapReached | None = None
        """Set when a request was refused; every later one is, too."""
        self._price = price
        self._cap = cap
        self._tokens_per_character = FIRST_GUESS
        self._counted = False
        self._held = Held(0, 0.0)
        self._freed = asyncio.Event()
        self._flush: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def held(self, characters: int, max_tokens: int) -> AsyncIterator[None]:
        """Room for an attempt, as soon as there is some. Raises `CapReached` if there will be none."""
        most = await self._room(characters, max_tokens)
        try:
            yield
        finally:
            if self._cap is not None:
                self._held = self._plus(most, -1)
                self._wake()

    async def _room(self, characters: int, max_tokens: int) -> Held:
        if self._cap is None:
            return Held(0, 0.0)
        while self.reached is None:
            most = self._most(characters, max_tokens)
            if self._fits(most):
                self._held = self._plus(most, 1)
                return most
            if self._held.tokens == 0:
                self.reached = self._refusal(self._cap)
                self._wake()
            else:
                await self._freed.wait()
        raise self.reached

    def _wake(self) -> None:
        self._freed.set()
        self._freed = asyncio.Event()

    def count(self, usage: Usage, characters: int) -> None:
        """A reply was paid for, to a prompt of so many characters. It is on disk a moment later, even
        if no other one comes."""
        self.ledger.add(usage)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._write)
        if self._cap is not None and characters and usage.prompt_tokens:
            seen = usage.prompt_tokens / characters
            self._tokens_per_character = max(seen, self._tokens_per_character * self._counted)
            self._counted = True

    def _write(self) -> None:
        self._flush = None
        self.ledger.flush()

    def _most(self, characters: int, max_tokens: int) -> Held:
        prompt = round(characters * self._tokens_per_character) + 1
        price = self._price
        most = Usage(prompt_tokens=prompt, completion_tokens=max_tokens)
        return Held(most.tokens, price.of(most) if price else 0.0)

    def _plus(self, held: Held, sign: int) -> Held:
        tokens = self._held.tokens + sign * held.tokens
        return Held(tokens, self._held.money + sign * held.money if tokens else 0.0)

    def _fits(self, most: Held) -> bool:
        cap, used = self._cap, self.ledger.total
        if cap is None:
            return True
        tokens = used.tokens + self._held.tokens + most.tokens
        if cap.tokens is not None and tokens > cap.tokens:
            return False
        spent = self._price.of(used) if self._price else 0.0
        return cap.money is None or spent + self._held.money + most.money <= cap.money

    def _refusal(self, cap: Cap) -> CapReached:
        return CapReached(
            f"the cap of {cap} is reached ({self.ledger.total.described(self._price)})",
            remedy="What is finished is kept. To go on, raise cap and run the same again: unfinished "
            "chains are redone, and nothing else is asked for again.",
        )
