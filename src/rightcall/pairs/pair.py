"""The preference pair: two continuations of one conversation, and what says which is better."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from pydantic import BeforeValidator, PlainSerializer

from rightcall.chain import Frozen, Message
from rightcall.errors import FailureKind

_AS_IDS = bytes.maketrans(b",]", b" ;")


def _read_ids(turns: Any) -> Any:
    if not isinstance(turns, str):
        return turns
    return tuple(tuple(map(int, turn.split())) or None for turn in turns.split(";")[:-1])


def _write_ids(turns: tuple[tuple[int, ...] | None, ...]) -> str:
    lists = msgspec.json.encode(turns)[1:-1].replace(b"null", b"[]").replace(b"],", b";")
    return lists.translate(_AS_IDS, b"[").decode()


TurnIds = Annotated[
    tuple[tuple[int, ...] | None, ...],
    BeforeValidator(_read_ids),
    PlainSerializer(_write_ids, return_type=str, when_used="json"),
]
"""Sampled ids of each assistant turn, stop token included; None where the backend did not tell.
In a file they are one string such as "12 7 2;8 2;" (";" alone for an unknown turn): Arrow infers
its columns from the first rows, and a list that is empty there could hold nothing later."""


class Basis(StrEnum):
    """What a preference rests on, from the weakest to the strongest."""

    OUTCOME = "outcome"
    """One chain ended well and the other did not: nothing says at which step."""
    VALUES = "values"
    """More of the chains went on well from the chosen step than from the rejected one."""
    CORRUPTION = "corruption"
    """The rejected step is where augmentation made a right chain wrong, as execution shows."""
    ROLLOUTS = "rollouts"
    """All rollouts from the rejected step failed, and its prefix was still recovered from."""
    PROCESS = "process"
    """The task itself judges the rejected step to be wrong."""
    REPAIR = "repair"
    """The rejected call failed, and the chosen one succeeded in its place."""


class PreferencePair(Frozen):
    """Two continuations of one conversation, the first to be preferred."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    """Begins and ends with an assistant turn; observations in between are user or tool turns."""
    rejected: tuple[Message, ...]
    schemas: str = ""
    """JSON text of the functions' schemas, where they are not in the prompt (native tool calling)."""
    task: str
    problem_id: str
    strategy: str
    chosen_source: str
    """Role of the model that wrote it: teacher, student, ..."""
    rejected_source: str
    chosen_chain: str
    """Key of the chain it comes from."""
    rejected_chain: str
    rejected_error: str
    """Class of error: `wrong_answer`, `wrong_process` or the stop reason, then the kinds of failed
    calls, e.g. `step_budget+no_call`. Of a single step whose call failed: that kind."""
    basis: Basis = Basis.OUTCOME
    """What the preference rests on."""
    chosen_value: float = 0.0
    """Share of the counted chains that ended well after the chosen side's last reply; 0 where none
    is counted. See `rightcall.tree`."""
    rejected_value: float = 0.0
    chosen_count: int = 0
    """Chains that this share is one of."""
    rejected_count: int = 0
    evidence: str = ""
    """What the task says against the rejected chain, "; " between sentences; of a repair, what the
    failed call was answered."""
    answer: str = ""
    """The answer of the chosen chain where that is right."""
    difficulty: int = 0
    """Of the problem; 0 if unknown."""
    root: str = ""
    """Id of the problem that augmentation made this one of in the end; empty if it made none."""
    operation: str = ""
    """The augmentation that made the rejected chain, or else the chosen one; empty if it made none."""
    prompt_ids: TurnIds = ()
    """Sampled ids of the assistant turns in the prompt (step pairs have some)."""
    chosen_ids: TurnIds = ()
    """Of the assistant turns in `chosen`, one entry each."""
    rejected_ids: TurnIds = ()

    @property
    def value_gap(self) -> float | None:
        """How much more the chosen side is worth; None where a side has no counted chain."""
        if not (self.chosen_count and self.rejected_count):
            return None
        return self.chosen_value - self.rejected_value

    @property
    def question(self) -> str:
        """The problem's text: the user turn before the first reply."""
        before = []
        for message in self.prompt:
            if message["role"] == "assistant":
                break
            before.append(message)
        return before[-1]["content"] if before else ""

    @property
    def failures(self) -> frozenset[FailureKind]:
        """Kinds of failed calls on the rejected side."""
        kinds = {str(kind): kind for kind in FailureKind}
        return frozenset(kinds[part] for part in self.rejected_error.split("+") if part in kinds)


def texts(messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages]


def words_of_model(messages: Sequence[Message]) -> list[str]:
    """The assistant turns."""
    return [message["content"] for message in messages if message["role"] == "assistant"]


def identity(pair: PreferencePair) -> tuple[str | tuple[str, ...], ...]:
    """Equal for pairs of the same texts."""
    sides = (pair.prompt, pair.chosen, pair.rejected)
    return (pair.schemas, *(tuple(texts(side)) for side in sides))
