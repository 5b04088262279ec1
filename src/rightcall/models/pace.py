"""How many requests are open at once, and when the next may be sent: as fast as a server lets us.

    async with pace.turn() as turn:
        ...                                     # an attempt
        wait = pace.refused(turn, hint)         # or pace.answered()

A server that limits how often it may be asked refuses what is too much. Then *all* requests rest, as
long as it says or longer with each burst of refusals in which nobody was answered; and after a burst
half as many may be open, one more with each round of answers: additive increase, multiplicative
decrease (Chiu and Jain 1989). So a limit that nobody told us is found, and followed when it changes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

FIRST_WAIT, LONGEST_BACK_OFF = 0.5, 8.0
"""Seconds before the second attempt; each further wait is twice as long, up to the longest."""


@dataclass(frozen=True)
class Turn:
    """An attempt that may be made."""

    begun: float
    """When, by the monotonic clock."""
    answered: int
    """Requests that had been answered by then."""


class Pace:
    """At most `most` turns at once, and fewer while a server refuses. Lives in one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = float(most)
        self._open = 0
        self._freed = asyncio.Event()
        self._answered = 0
        self._bursts = 0
        """Bursts of refusals in a row, without an answer in between."""
        self._last_burst = 0.0
        self._resting_until = 0.0
        self._random = random.Random()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Wait until another request may be sent."""
        while self._open >= int(self._width):
            await self._freed.wait()
        self._open += 1
        try:
            await self._rest()
            yield Turn(time.monotonic(), self._answered)
        finally:
            self._open -= 1
            self._freed.set()
            self._freed = asyncio.Event()

    def answered(self) -> None:
        """A request was."""
        self._answered += 1
        self._bursts = 0
        self._width = min(self._most, self._width + 1 / self._width)

    def answered_since(self, turn: Turn) -> bool:
        """Whether others fared better: then it is no more than a limit."""
        return self._answered > turn.answered

    def refused(self, turn: Turn, hint: float | None) -> float:
        """The server wants to be asked less, or not for so many seconds: all requests rest. Gives the
        seconds. What was under way already at the last refusal is of the same burst."""
        now = time.monotonic()
        if turn.begun >= self._last_burst:
            self._last_burst = now
            self._bursts += 1
            self._width = max(1.0, self._width / 2)
        wait = max(hint or 0.0, self.back_off(self._bursts))
        self._resting_until = max(self._resting_until, now + wait)
        return wait

    def back_off(self, tried: int) -> float:
        """Seconds before the next attempt, after so many; spread by chance."""
        longest = min(LONGEST_BACK_OFF, FIRST_WAIT * 2.0 ** min(tried - 1, 60))
        return longest * self._random.uniform(0.5, 1.0)

    async def _rest(self) -> None:
        """Until the rest is over; not all go on at the same moment."""
        while (left := self._resting_until - time.monotonic()) > 0:
            await asyncio.sleep(left + self._random.random() * min(0.25 * left, 1.0))
