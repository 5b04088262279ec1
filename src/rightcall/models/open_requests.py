"""Requests that are open at once, as tasks of one event loop in a thread of its own.

    open_requests = OpenRequests(ask, limits...)
    open_requests.begin(request); request, reply = open_requests.next(); open_requests.close()

The thread begins with the first request and ends with `close`, and no task is left behind.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable

import aiohttp

from rightcall.errors import ModelError
from rightcall.models import Reply, Request

Ask = Callable[[aiohttp.ClientSession, Request], Awaitable[Reply | ModelError]]
"""Sends a request over a session and gives what came of it."""

Answer = tuple[Request, Reply | ModelError]


class OpenRequests:
    """The requests that `ask` is working on. `session` is called in the event loop."""

    def __init__(self, ask: Ask, session: Callable[[], aiohttp.ClientSession]) -> None:
        self._ask = ask
        self._make_session = session
        self._answers: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()
        self._coming: deque[Request | str] = deque()
        """Requests to begin, and keys of chains to drop."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._woken = False

    def begin(self, request: Request) -> None:
        """Returns at once."""
        self._coming.append(request)
        if self._thread is None:
            running = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(running,), name="rightcall-requests", daemon=True
            )
            self._thread.start()
            running.wait()
        self._wake()

    def drop(self, chain: str) -> None:
        """Cancel a chain's request; its connection is closed."""
        self._coming.append(chain)
        self._wake()

    def waiting(self) -> bool:
        """Whether `next` would return at once."""
        return not self._answers.empty()

    def next(self) -> Answer:
        """Wait for an answer. A bug of `ask` is raised here."""
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Cancel what is open and wait until the thread has ended."""
        if self._thread is None or self._loop is None:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
        self._thread = None

    def _wake(self) -> None:
        """One call of the loop takes all that has come until it runs."""
        if not self._woken and self._loop is not None and not self._loop.is_closed():
            self._woken = True
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._woken = False
        while self._coming:
            coming = self._coming.popleft()
            if isinstance(coming, str):
                if (task := self._tasks.pop(coming, None)) is not None:
                    task.cancel()
            else:
                self._tasks[coming.chain] = asyncio.ensure_future(self._answer(coming))

    def _run(self, running: threading.Event) -> None:
        try:
            asyncio.run(self._until_closed(running))
        except Exception as bug:
            self._answers.put(bug)
        finally:
            running.set()

    async def _until_closed(self, running: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._make_session() as self._session:
            running.set()
            await self._closing.wait()
            tasks = [*self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, request: Request) -> None:
        try:
            answer: Answer | Exception = request, await self._ask(self._session, request)
        except Exception as bug:
            answer = bug
        if self._tasks.get(request.chain) is asyncio.current_task():
            del self._tasks[request.chain]
            self._answers.put(answer)
