"""What pairing reads of a chain.

A `Chain` is some twenty validated objects. An `Outline` has the names of a `Chain` for what trees and
pairs need of it, checks these as strictly, and is read five times as fast.

A field that is not in the file has a name there that no chain's field can have: "".
"""

from __future__ import annotations

import msgspec

from rightcall.chain import Call, Message, Outcome, StopReason
from rightcall.errors import DataError, FailureKind

_NOTHING = msgspec.Raw(b"null")
_IDS: msgspec.json.Decoder[tuple[int, ...] | None] = msgspec.json.Decoder(
    tuple[int, ...] | None, strict=False
)

_CORRECT, _TRUNCATED, _BUDGET = Outcome.CORRECT, StopReason.REPLY_TRUNCATED, StopReason.TOKEN_BUDGET
"""Members that every chain is compared with: Python 3.11 looks one up in its class for longer than it
compares it."""


class ObservationOutline(msgspec.Struct, gc=False):
    """See `Observation`."""

    text: str
    failure: FailureKind | None = None


class StepOutline(msgspec.Struct, gc=False):
    """See `Step`."""

    reply: str
    observation: ObservationOutline
    ids_text: msgspec.Raw = msgspec.field(default=_NOTHING, name="token_ids")
    call_text: msgspec.Raw = msgspec.field(default=_NOTHING, name="call")
    _call: Call | None = msgspec.field(default=None, name="")

    @property
    def call(self) -> Call | None:
        text = bytes(self.call_text)
        if text == b"null":
            return None
        if self._call is None:
            self._call = Call.model_validate_json(text)
        return self._call

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """Raises `DataError` if they are none."""
        try:
            return _IDS.decode(self.ids_text)
        except msgspec.MsgspecError as error:
            raise DataError(
                f"a step's token ids are no list of numbers ({error})",
                value=bytes(self.ids_text)[:200].decode(),
                remedy="Leave `token_ids` out where they are not known.",
            ) from error


class JudgementOutline(msgspec.Struct, gc=False):
    """See `Judgement`."""

    process_correct: bool | None = None
    evidence: tuple[str, ...] = ()
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
    answer: str | None = None
    judgement: JudgementOutline = msgspec.field(default_factory=JudgementOutline)
    difficulty: int | None = None
    given_steps: int = 0
    origin: OriginOutline | None = None

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
        return self.outcome is _CORRECT and self.judgement.process_correct is not False
