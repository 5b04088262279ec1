"""What pairing reads of a chain.

A `Chain` is some twenty validated objects. An `Outline` has the names of a `Chain` for what trees and
pairs need of it, checks these as strictly, and is read five times as fast.

The fields are those of the models, in their order, in which they are found fastest: a field that a
model does not have is refused, and so is one of another type. What is `Raw` is read later: by the
outline what a head leaves, and when they are asked for a step's call and token ids.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import msgspec
from pydantic import TypeAdapter

from rightcall.chain import UNREADABLE, Call, Message, Outcome, StopReason
from rightcall.errors import FailureKind

Ids = tuple[int, ...] | None

_NOTHING = msgspec.Raw(b"null")
_IDS: msgspec.json.Decoder[Ids] = msgspec.json.Decoder(Ids, strict=False)
_OTHER_IDS: TypeAdapter[Ids] = TypeAdapter(Ids)

_CORRECT, _TRUNCATED, _BUDGET = Outcome.CORRECT, StopReason.REPLY_TRUNCATED, StopReason.TOKEN_BUDGET
"""Members that every chain is compared with: Python 3.11 looks one up in its class for longer than it
compares it."""


@lru_cache(1 << 10)
def _call(text: bytes) -> Call:
    """Calls are compared again and again while their problem is at hand."""
    return Call.model_validate_json(text)


class ObservationOutline(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """See `Observation`."""

    text: str
    failure: FailureKind | None = None
    cut: int = 0


class StepOutline(msgspec.Struct, gc=False, kw_only=True, forbid_unknown_fields=True):
    """See `Step`. `call` and `token_ids` are read when they are asked for, and raise a
    `ValidationError` if they are none."""

    reply: str
    call_text: msgspec.Raw = msgspec.field(default=_NOTHING, name="call")
    observation: ObservationOutline
    ids_text: msgspec.Raw = msgspec.field(default=_NOTHING, name="token_ids")
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def call(self) -> Call | None:
        text = bytes(self.call_text)
        return None if text == b"null" else _call(text)

    @property
    def token_ids(self) -> Ids:
        try:
            return _IDS.decode(self.ids_text)
        except UNREADABLE:
            return _OTHER_IDS.validate_json(bytes(self.ids_text))


class JudgementOutline(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """See `Judgement`."""

    process_correct: bool | None = None
    evidence: tuple[str, ...] = ()
    measures: dict[str, float] = {}
    wrong_steps: tuple[int, ...] = ()


class OriginOutline(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """See `Origin`."""

    operation: str
    parent: str
    root: str


class Outline(msgspec.Struct, gc=False, kw_only=True, forbid_unknown_fields=True):
    """See `Chain`. Kept only while its problem is at hand."""

    key: str
    task: str
    problem_id: str
    sample: int
    source: str
    model: str
    dialect: str = "python"
    seed: int
    prompt: tuple[Message, ...]
    schemas: str = ""
    steps: tuple[StepOutline, ...]
    stop_reason: StopReason
    answer: str | None = None
    outcome: Outcome
    judgement: JudgementOutline = msgspec.field(default_factory=JudgementOutline)
    difficulty: int | None = None
    error: str | None = None
    seconds: float = 0.0
    given_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    origin: OriginOutline | None = None
    renamed: dict[str, str] = {}

    @property
    def root(self) -> str:
        return self.origin.root if self.origin else self.problem_id

    @property
    def right_for_the_right_reason(self) -> bool:
        return self.outcome is _CORRECT and self.judgement.process_correct is not False

    @property
    def maybe_cut(self) -> bool:
        if self.stop_reason is _TRUNCATED:
            return True
        out = self.stop_reason is _BUDGET and bool(self.steps)
        return out and self.steps[-1].observation.failure is not None

    @property
    def failures(self) -> tuple[FailureKind, ...]:
        return tuple(s.observation.failure for s in self.steps if s.observation.failure)


class Head(msgspec.Struct, gc=False, kw_only=True, forbid_unknown_fields=True):
    """What sorting out chains takes."""

    key: str
    task: str
    problem_id: str
    sample: int
    source: str
    model: str
    dialect: str = "python"
    seed: int
    prompt: msgspec.Raw
    schemas: str = ""
    steps: msgspec.Raw
    stop_reason: StopReason
    answer: str | None = None
    outcome: Outcome
    judgement: JudgementOutline = msgspec.field(default_factory=JudgementOutline)
    difficulty: int | None = None
    error: str | None = None
    seconds: float = 0.0
    given_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    origin: OriginOutline | None = None
    renamed: dict[str, str] = {}

    @property
    def right_for_the_right_reason(self) -> bool:
        return self.outcome is _CORRECT and self.judgement.process_correct is not False
