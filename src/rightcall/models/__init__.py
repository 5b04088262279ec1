"""ChatModel: anything that turns conversations into replies.

One interface for all backends, built for many chains in flight: `submit` requests, `poll` for
replies. Batching, threads, HTTP concurrency and KV caches hide behind it. Teacher, student, base
and tuned are roles given by the caller, not classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from pydantic import ConfigDict, Field, SkipValidation

from rightcall.chain import Frozen, Message
from rightcall.errors import ModelError
from rightcall.functions import FunctionSet


class Sampling(Frozen):
    """How a reply is drawn."""

    temperature: float = Field(0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(256, ge=1)
    """Tokens per reply; a reply that needs more is reported as cut, never silently used."""


class Request(Frozen):
    """One turn asked of a model."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    chain: str
    """Key of the chain it belongs to: a backend may keep that chain's cache between turns."""
    messages: tuple[Message, ...]
    """The whole conversation so far; it ends with a turn that is not the assistant's."""
    completions: tuple[tuple[int, ...] | None, ...] = ()
    """Sampled ids of each assistant turn so far, for backends that keep token identity."""
    sampling: Sampling = Sampling()
    seed: int = 0
    functions: SkipValidation[FunctionSet | None] = None
    """What the reply may call: for backends that hold replies to it, or write calls themselves."""
    tools: str = ""
    """JSON text of the functions' schemas, where calls are native: `messages` then hold replies as
    `rightcall.native` says, and so must the reply."""


class Reply(Frozen):
    """One turn given by a model."""

    text: str
    """Without the stop token."""
    finish_reason: Literal["stop", "length", "context", "template", "end"] = "stop"
    """`length`: cut at `max_tokens`. `context`: the conversation no longer fits the model. `template`:
    its chat template has no place for the last turn. `end`: there is no such turn, as the record that
    is played ends before it."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_ids: tuple[int, ...] | None = None
    """Sampled ids, stop token included, where the backend knows them."""


class ChatModel(ABC):
    """A backend. `capacity` chains may be in flight at once; each has at most one request open."""

    name: str
    capacity: int = 1
    stopped: ModelError | None = None
    """Why it takes no further chain, if it does not: a cap is reached, a key is refused. What a request
    is answered with then; a collection ends with it as soon as the chains under way have ended."""
    used: str = ""
    """What it has used so far in a line, where that is counted."""

    @abstractmethod
    def submit(self, request: Request) -> None:
        """Accept a request; returns at once."""

    @abstractmethod
    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        """Wait until at least one open request is answered; give all that are. A local backend
        gives them in an order that depends on the requests alone, so that runs reproduce."""

    def release(self, chain: str) -> None:
        """The chain has ended: its cache may go."""
        del chain

    def close(self) -> None:  # noqa: B027  nothing to free is fine
        """Free what the backend holds. The model is not used afterwards."""

    def __enter__(self) -> ChatModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
