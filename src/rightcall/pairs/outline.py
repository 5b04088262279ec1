"""What pairing reads of a chain before it knows whether a pair comes of it.

A `Chain` is some twenty validated objects. Most chains are needed only to see where they part from
others: an `Outline` has the names of a `Chain` for just that, and is read several times as fast. The
few chains that a pair is made of are then read whole.

Fields that are not in the file have names there that no chain's field can have: "" and " ".
"""

from __future__ import annotations

import msgspec

from rightcall.chain import Call, Chain, Message, Outcome, StopReason
from rightcall.errors import FailureKind

NO_CALL = msgspec.Raw(b"null")


class ObservationOutline(msgspec.Struct, gc=False):
    """See `Observation`."""

    text: str
    failure: FailureKind | None = None


class StepOutline(msgspec.Struct, gc=False):
    """See `Step`."""

    reply: str
    observation: ObservationOutline
    call_text: msgspec.Raw = msgspec.field(default=NO_CALL, name="call")
    _call: Call | None = msgspec.field(default=None, name="")

    @property
    def call(self) -> Call | None:
        text = bytes(self.call_text)
        if text == b"null":
            return None
        if self._call is None:
            self._call = Call.model_validate_json(text)
        return self._call


class JudgementOutline(msgspec.Struct, gc=False):
    """See `Judgement`."""

    process_correct: bool | None = None
    wrong_steps: tuple[int, ...] = ()


class OriginOutline(msgspec.Struct, gc=False):
    """See `Origin`."""

    operation: str
    parent: str
    root: str


class Outline(msgspec.Struct, gc=False):
    """See `Chain`. Kept only while its problem is at hand."""

    key: str
    task: str
    problem_id: str
    source: str
    prompt: tuple[Message, ...]
    steps: tuple[StepOutline, ...]
    stop_reason: StopReason
    outcome: Outcome
    dialect: str = "python"
    schemas: str = ""
    judgement: JudgementOutline = msgspec.field(default_factory=JudgementOutline)
    given_steps: int = 0
    origin: OriginOutline | None = None
    line: bytes = msgspec.field(default=b"", name="")
    """What it was read from."""
    _whole: Chain | None = msgspec.field(default=None, name=" ")

    @property
    def right_for_the_right_reason(self) -> bool:
        return self.outcome is Outcome.CORRECT and self.judgement.process_correct is not False

    @property
    def maybe_cut(self) -> bool:
        if self.stop_reason is StopReason.REPLY_TRUNCATED:
            return True
        out = self.stop_reason is StopReason.TOKEN_BUDGET and bool(self.steps)
        return out and self.steps[-1].observation.failure is not None

    @property
    def failures(self) -> tuple[FailureKind, ...]:
        return tuple(s.observation.failure for s in self.steps if s.observation.failure)

    def whole(self) -> Chain:
        """The chain itself. Raises `pydantic.ValidationError` if the line is none."""
        if self._whole is None:
            self._whole = Chain.model_validate_json(self.line)
        return self._whole


class Head(msgspec.Struct, gc=False):
    """What sorting out chains takes."""

    key: str
    task: str
    problem_id: str
    source: str
    steps: msgspec.Raw
    stop_reason: StopReason
    outcome: Outcome
    judgement: JudgementOutline = msgspec.field(default_factory=JudgementOutline)

    @property
    def right_for_the_right_reason(self) -> bool:
        return self.outcome is Outcome.CORRECT and self.judgement.process_correct is not False
