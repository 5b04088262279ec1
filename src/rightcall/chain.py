"""The nouns every stage shares: Problem, Call, Observation, Step, Chain, and their file.

All of them are frozen pydantic models: data apart from behaviour, validated when read, written as
one JSON object per line. A chain holds the exact text of every reply and, where the backend knows
them, the exact token ids that were sampled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import groupby
from json.encoder import encode_basestring
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from rightcall.errors import DataError, FailureKind, first_fault
from rightcall.spill import Sorter

JSON = Any
"""None, bool, int, float, str, list or dict: what a literal in a call can be."""


class Frozen(BaseModel):
    """Immutable, and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(TypedDict):
    """One turn of a conversation, as chat templates and OpenAI-compatible servers take it. In native
    tool calling the calls stand in `content` (see `rightcall.native`), and an observation has the role
    tool."""

    role: str
    content: str


CORRUPTED = "corrupted"
"""The source of chains that augmentation made wrong: no model wrote them."""


class Origin(Frozen):
    """What an augmented problem or chain was made of."""

    operation: str
    """The operation's name (see `rightcall.augment`)."""
    parent: str
    """The problem's id; of a chain, the key of the chain it was made from."""
    root: str
    """Id of the problem that stands at the beginning: relatives have the same."""


class Problem(Frozen):
    """One question with a checkable answer."""

    id: str
    """Stable across runs and machines, unique within a task."""
    question: str
    """What the model reads."""
    answer: str
    """The gold answer, as `Task.verify` reads it."""
    gold: tuple[str, ...] = ()
    """A right chain as call texts in Python syntax, the last one stopping; empty if unknown."""
    difficulty: int | None = None
    """Hops or steps; reports group by it."""
    metadata: dict[str, JSON] = Field(default_factory=dict)
    """Task-specific facts: gold formulas, the family of a word problem, flags."""
    origin: Origin | None = None
    """None unless augmentation made it."""

    @property
    def root(self) -> str:
        """Id of the problem that it was made of in the end: its own if nobody made it."""
        return self.origin.root if self.origin else self.id


class Call(Frozen):
    """One parsed invocation: literals only, never evaluated."""

    name: str
    args: tuple[JSON, ...] = ()
    kwargs: dict[str, JSON] = Field(default_factory=dict)

    def __str__(self) -> str:
        parts = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs.items()]
        return f"{self.name}({', '.join(parts)})"


class Observation(Frozen):
    """What the model reads back after its call."""

    text: str
    failure: FailureKind | None = None
    """None if the call ran; otherwise why it did not."""
    cut: int = 0
    """Characters that were cut from the end because the observation was too long."""


class Step(Frozen):
    """One turn of the model and what came of it."""

    reply: str
    """The model's exact text, without the stop token."""
    call: Call | None = None
    """The call that was run (or refused); None if none could be parsed."""
    observation: Observation
    token_ids: tuple[int, ...] | None = None
    """The sampled ids, stop token included; None if the backend does not tell."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class StopReason(StrEnum):
    """Why a chain ended."""

    STOPPED = "stopped"
    """A flow function ended it with an answer."""
    STEP_BUDGET = "step_budget"
    TOKEN_BUDGET = "token_budget"
    CONTEXT_WINDOW = "context_window"
    """The conversation no longer fits the model."""
    REPLY_TRUNCATED = "reply_truncated"
    """A reply hit its length limit before the model ended its turn."""
    RECORD_ENDED = "record_ended"
    """A recorded chain goes no further, and no answer was recorded."""
    TEMPLATE = "template"
    """The model's chat template has no place for the turn that came next: some show the functions
    before the last user turn, and so cannot take another after a reply without a call."""
    MODEL_ERROR = "model_error"
    """Infrastructure failed; the chain is errored and will be redone."""


class Outcome(StrEnum):
    """Three outcomes that stay distinct: an errored chain is never a wrong one."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    ERRORED = "errored"


class Judgement(Frozen):
    """A task's view of *how* an answer was reached, beside whether it is right."""

    process_correct: bool | None = None
    """None where the task cannot tell."""
    evidence: tuple[str, ...] = ()
    """What the view rests on, one short sentence each."""
    measures: dict[str, float] = Field(default_factory=dict)
    """Task-specific numbers in [0, 1], averaged in reports (e.g. share of exact formalisations)."""
    wrong_steps: tuple[int, ...] = ()
    """0-based indices, ascending, of steps that the task knows to be wrong although their call ran;
    the evidence says why. A step that is not here may be right, or beyond what the task can tell."""


class Chain(Frozen):
    """One attempt at a problem, from prompt to stop: the unit every later stage reads."""

    key: str
    """Identifies the attempt (see `rollout.chain_key`); resume goes by it."""
    task: str
    problem_id: str
    sample: int
    """0-based index among the samples of this problem."""
    source: str
    """The role of the model here: teacher, student, base, tuned, ..."""
    model: str
    dialect: str = "python"
    """How the functions were shown and the calls written."""
    seed: int
    prompt: tuple[Message, ...]
    """The messages before the first reply: instructions with functions, then the problem."""
    schemas: str = ""
    """JSON text of the functions' schemas, where they are shown that way; empty where the prompt shows
    them (the Python dialect)."""
    steps: tuple[Step, ...]
    stop_reason: StopReason
    answer: str | None = None
    outcome: Outcome
    judgement: Judgement = Judgement()
    difficulty: int | None = None
    error: str | None = None
    """The infrastructure failure of an errored chain."""
    seconds: float = 0.0
    given_steps: int = Field(0, ge=0)
    """How many of the first steps were given rather than sampled: 0 for a chain made from the start,
    more for a rollout from a prefix of another chain."""
    origin: Origin | None = None
    """None unless augmentation made it."""
    renamed: dict[str, str] = Field(default_factory=dict)
    """Name under which a function was shown → its name in the task, where they differ."""

    @property
    def root(self) -> str:
        """Id of the problem that its problem was made of in the end."""
        return self.origin.root if self.origin else self.problem_id

    @property
    def right_for_the_right_reason(self) -> bool:
        """The answer is correct and nothing is known against the process."""
        return self.outcome is Outcome.CORRECT and self.judgement.process_correct is not False

    @property
    def maybe_cut(self) -> bool:
        """Whether the last reply may have been cut: the model did not choose to end it there, so
        neither its end nor the stop token after it may be learned from."""
        if self.stop_reason is StopReason.REPLY_TRUNCATED:
            return True
        out = self.stop_reason is StopReason.TOKEN_BUDGET and bool(self.steps)
        return out and self.steps[-1].observation.failure is not None

    @property
    def completion_tokens(self) -> int:
        return sum(step.completion_tokens for step in self.steps)

    @property
    def failures(self) -> tuple[FailureKind, ...]:
        return tuple(s.observation.failure for s in self.steps if s.observation.failure)


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)


def digest(*parts: JSON) -> str:
    """16 hex digits that identify JSON-serialisable parts."""
    text = ", ".join(map(_json, parts))
    return hashlib.sha256(f"[{text}]".encode()).hexdigest()[:16]


def _json(part: JSON) -> str:
    """What `json.dumps` writes; texts and numbers, of which there are many, without an encoder of their
    own."""
    if type(part) is str:
        return encode_basestring(part)
    if type(part) is int:
        return str(part)
    if type(part) is list and all(type(item) is str for item in part):
        return f"[{', '.join(map(encode_basestring, part))}]"
    return _ENCODER.encode(part)


def seed_of(*parts: JSON) -> int:
    """A 63-bit seed derived from a path such as ("fol", "test", 7, 12): never `seed + index`."""
    text = "/".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class _Head(msgspec.Struct, gc=False):
    """What resuming reads of a chain's line."""

    key: str
    outcome: Outcome


_HEADS = msgspec.json.Decoder(_Head)

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)
"""What msgspec raises where a line is not what was expected."""

_MASK = (1 << 64) - 1


M = TypeVar("M", bound=BaseModel)


class ChainStore:
    """Append-only JSONL of chains; one writer at a time, any number of readers.

    A line is written whole and handed to the operating system at once: it survives the end of the
    process, however violent, though not that of the machine. A line cut by a kill is not read, and
    dropped by the next writer.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __iter__(self) -> Iterator[Chain]:
        for number, line in self._lines():
            yield self._read(Chain, number, line)

    def latest(self) -> Iterator[Chain]:
        """Every attempt once, by its last line; an errored one only if it was never finished. Memory
        does not grow with their number, only with that of the lines that were redone."""
        for number, line in self._latest_lines():
            yield self._read(Chain, number, line)

    def outcomes(self) -> dict[str, Outcome]:
        """Key → outcome of every attempt, as in `latest`; the chains themselves are not built."""
        found: dict[str, Outcome] = {}
        for number, line in self._lines():
            head = self._head(number, line)
            if head.outcome is not Outcome.ERRORED or found.get(head.key) in (None, Outcome.ERRORED):
                found[head.key] = head.outcome
        return found

    def counts(self) -> Counter[Outcome]:
        """How many attempts have each outcome, as in `latest`."""
        return Counter(self._head(number, line).outcome for number, line in self._latest_lines())

    def _latest_lines(self) -> Iterator[tuple[int, bytes]]:
        passed_over = iter(self._passed_over())
        next_one = next(passed_over, 0)
        for number, line in self._lines():
            if number == next_one:
                next_one = next(passed_over, 0)
            else:
                yield number, line

    def _passed_over(self) -> array[int]:
        """The numbers of the lines that do not count, ascending."""
        found = array("Q")
        with Sorter("QB") as heads:
            for number, line in self._lines():
                head = self._head(number, line)
                heads.add(hash(head.key) & _MASK, number, head.outcome is Outcome.ERRORED)
            for _, group in groupby(heads, key=itemgetter(0)):
                lines = [(number, errored) for _, number, errored in group]
                if len(lines) > 1:
                    finished = [number for number, errored in lines if not errored]
                    counts = finished[-1] if finished else lines[-1][0]
                    found.extend(number for number, _ in lines if number != counts)
        return array("Q", sorted(found))

    def _head(self, number: int, line: bytes) -> _Head:
        try:
            return _HEADS.decode(line)
        except UNREADABLE:  # no chain, or one in other words
            chain = self._read(Chain, number, line)
            return _Head(chain.key, chain.outcome)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The whole lines, numbered from 1."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                yield number, line

    def _read(self, model: type[M], number: int, line: bytes) -> M:
        try:
            return model.model_validate_json(line)
        except ValidationError as error:
            raise no_chain(self.path, number, line, error) from error

    def _opened(self) -> BinaryIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self.path.open("ab+")
        except OSError as error:
            no_folder = isinstance(error, (FileExistsError, NotADirectoryError))
            reason = "a folder of its path is a file" if no_folder else error.strerror
            raise DataError(
                f"chains cannot be written there ({reason})",
                value=str(self.path),
                remedy="Choose a file in a folder that you may write to.",
            ) from error

    def append(self, chains: Iterable[Chain]) -> None:
        """Write chains as they come, each flushed before the next is asked for."""
        with self._locked() as file:
            for chain in chains:
                file.write(chain.model_dump_json().encode() + b"\n")
                file.flush()

    def merge(self, others: Iterable[ChainStore]) -> None:
        """Append the attempts of other files that are not finished here, their lines as they are. They
        are on the disk when this returns."""
        with self._locked() as file:
            there = self.outcomes()
            for other in others:
                for number, line in other._latest_lines():
                    head = other._head(number, line)
                    if _adds(there, head.key, head.outcome):
                        file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file, at its end, for this writer alone."""
        with self._opened() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DataError(
                    "another process writes this file",
                    value=str(self.path),
                    remedy="Wait for it to end, or choose another run folder.",
                ) from error
            _drop_cut_line(file)
            yield file


def _adds(there: dict[str, Outcome], key: str, outcome: Outcome) -> bool:
    """Whether an attempt is new, or the first to be finished; it is then there."""
    before = there.get(key)
    if before is None or (before is Outcome.ERRORED is not outcome):
        there[key] = outcome
        return True
    return False


class ChainFiles:
    """The chains of several files, one file after the other; of each file every attempt once."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.paths = [Path(path) for path in paths]

    def __iter__(self) -> Iterator[Chain]:
        for path in self.paths:
            yield from ChainStore(path).latest()


class ByProblem:
    """Chains set aside in a temporary file and read back problem by problem: memory holds an index.

    Every key once, as it was first put. A context manager; the file goes with it.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `__exit__`
        self._places: dict[tuple[str, str], dict[str, int]] = {}

    def __enter__(self) -> ByProblem:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def put(self, chain: Chain) -> bool:
        """Set a chain aside; False, with nothing done, if its key is there already."""
        places = self._places.setdefault((chain.task, chain.problem_id), {})
        if chain.key in places:
            return False
        places[chain.key] = self._file.seek(0, os.SEEK_END)
        self._file.write(chain.model_dump_json().encode() + b"\n")
        return True

    def problems(self) -> list[tuple[str, str]]:
        """(task, problem id) of every problem, sorted."""
        return sorted(self._places)

    def get(self, task: str, problem_id: str, key: str) -> Chain | None:
        """The chain with that key; None if there is none."""
        place = self._places.get((task, problem_id), {}).get(key)
        return None if place is None else self._read(place)

    def chains(self, task: str, problem_id: str) -> list[Chain]:
        """The chains of a problem, sorted by key."""
        return [
            self._read(place) for _, place in sorted(self._places.get((task, problem_id), {}).items())
        ]

    def _read(self, place: int) -> Chain:
        self._file.seek(place)
        return Chain.model_validate_json(self._file.readline())


def no_chain(path: Path | None, number: int, line: bytes, error: ValidationError) -> DataError:
    """What is wrong with a line that is no chain."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and {"prompt", "chosen", "rejected"} <= row.keys():
        return DataError(
            "a pairs file is no chains file",
            value=str(path),
            remedy="Give the chains that the pairs were made of, or export the pairs"
            f" (rightcall export pairs {path}).",
        )
    return DataError(
        f"{path}, line {number}, is not a chain",
        value=first_fault(error),
        remedy="Give a file that collect or import wrote, or delete that line and redo it.",
    )


def _drop_cut_line(file: Any) -> None:
    """Truncate an unfinished last line, reading backwards in blocks."""
    end = file.seek(0, os.SEEK_END)
    position = end
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        block = file.read(position - start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            file.truncate(start + newline + 1)
            break
        position = start
    else:
        file.truncate(0)
    file.seek(0, os.SEEK_END)
