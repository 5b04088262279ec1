"""A public fake and a gold-chain player: backends without a model, for tests, demos and checks.

    Scripted(["add(2, 3)", "stop('5')"])                      the same turns for every chain
    Scripted({"How many?": ["add(2, 3)", "stop('5')"]})       turns by question
    Scripted(lambda request: "stop('5')")                     anything else

A reply may be a `Reply` (token counts, finish reason) or a `ModelError` (a failure to play).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from rightcall.chain import Problem
from rightcall.dialects import DIALECTS
from rightcall.errors import ModelError
from rightcall.models import ChatModel, Reply, Request

Played = str | Reply | ModelError
"""What a script may give for a turn."""

Script = Callable[[Request], Played] | Mapping[str, Sequence[Played]] | Sequence[Played]
"""Turns for every chain, turns by the text of a user message, or a function of the request."""


class Scripted(ChatModel):
    """Answers from a script. A chain that outlives its script gets a `ModelError`.

    `latency` is slept once per `poll`, in seconds. Every open request is answered by each `poll`,
    in the order of submission; `requests` keeps all that were ever submitted.
    """

    def __init__(
        self, replies: Script, *, name: str = "scripted", capacity: int = 64, latency: float = 0.0
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.latency = latency
        self.requests: list[Request] = []
        self._play = _player(replies)
        self._open: list[Request] = []

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        self._open.append(request)

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        time.sleep(self.latency)
        answered, self._open = self._open, []
        return [(request, self._reply(request)) for request in answered]

    def release(self, chain: str) -> None:
        self._open = [request for request in self._open if request.chain != chain]

    def _reply(self, request: Request) -> Reply | ModelError:
        try:
            played = self._play(request)
        except ModelError as error:
            return error
        return Reply(text=played) if isinstance(played, str) else played


class Replay(ChatModel):
    """Plays given replies, their calls in Python syntax, by the key of their chain (see
    `rollout.chain_key`); a chain whose replies are used up ends there."""

    def __init__(
        self, replies: Mapping[str, Sequence[str]], *, name: str = "replay", capacity: int = 256
    ) -> None:
        self.name = name
        self.capacity = capacity
        self._replies = replies
        self._open: list[Request] = []

    def submit(self, request: Request) -> None:
        self._open.append(request)

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        asked, self._open = self._open, []
        answered: list[tuple[Request, Reply | ModelError]] = []
        for request in asked:
            answered.append((request, self.reply(request, _turns_after(request, 0))))
        return answered

    def reply(self, request: Request, turn: int) -> Reply:
        """To a request whose chain has had so many turns."""
        replies = self._replies[request.chain]
        if turn < len(replies):
            return in_its_dialect(Reply(text=replies[turn]), request)
        return Reply(text="", finish_reason="end")


class GoldPlayer(Scripted):
    """Plays each problem's gold chain, one call per turn: the teacher that is always right.

    A conversation belongs to the problem whose question one of its user messages is.
    """

    def __init__(self, problems: Iterable[Problem], *, name: str = "gold", capacity: int = 64) -> None:
        super().__init__({p.question: p.gold for p in problems}, name=name, capacity=capacity)

    def _reply(self, request: Request) -> Reply | ModelError:
        reply = super()._reply(request)
        return reply if isinstance(reply, ModelError) else in_its_dialect(reply, request)


def in_its_dialect(reply: Reply, request: Request) -> Reply:
    """A reply with its call in Python syntax, as the request wants calls."""
    if not request.tools or request.functions is None or reply.finish_reason != "stop":
        return reply
    text = DIALECTS["native"].spelled(reply.text, request.functions)
    return reply.model_copy(update={"text": text})


def _player(replies: Script) -> Callable[[Request], Played]:
    if callable(replies):
        return replies
    if isinstance(replies, Mapping):
        return lambda request: _by_question(replies, request)
    return lambda request: _turn(replies, _turns_after(request, 0))


def _by_question(scripts: Mapping[str, Sequence[Played]], request: Request) -> Played:
    for index, message in enumerate(request.messages):
        if message["role"] == "user" and message["content"] in scripts:
            return _turn(scripts[message["content"]], _turns_after(request, index))
    raise ModelError(
        "no script for this conversation",
        value=request.messages[-1]["content"][:200],
        remedy="Give a script whose key is one of its user messages.",
    )


def _turns_after(request: Request, index: int) -> int:
    return sum(message["role"] == "assistant" for message in request.messages[index:])


def _turn(script: Sequence[Played], turn: int) -> Played:
    if turn < len(script):
        return script[turn]
    raise ModelError(
        "the script has no reply for this turn",
        value=turn + 1,
        remedy=f"It has {len(script)} replies; end it with a call that stops.",
    )
