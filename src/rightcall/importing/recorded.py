"""What a log recorded, read line by line: the nouns that importers give, and how a log is opened.

An importer is one function from a record of a log to what it recorded, in our words:

    def my_importer(record, place):
        yield Recorded(
            question=record["problem"],
            calls=[RecordedCall(reply=c["text"], result=c["output"]) for c in record["calls"]],
            final=record["answer"],
        )

Whatever it raises says that this record cannot be read: the message names the file and the line.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticSerializationError

from rightcall.chain import JSON, Frozen, Problem
from rightcall.errors import DataError, DefinitionError, RightCallError, first_fault, nearest
from rightcall.importing.exchanges import Rows, is_exchange
from rightcall.task import load_module


class Place(Frozen):
    """Where a record stands."""

    file: str
    line: int
    """From 1; in a JSON list or a Parquet file, the number of the record."""
    unit: Literal["line", "record"] = "line"
    """Which of the two it is."""

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.line}"


class RecordedCall(Frozen):
    """One turn of the model: a reply with a call in Python syntax, or a call by name and arguments."""

    reply: str = ""
    """What the model wrote: one call in Python syntax, or whatever it wrote where it made none. With
    `name`, the words beside the call."""
    name: str | None = None
    """The function, where the log has the call apart from the words."""
    arguments: dict[str, JSON] = Field(default_factory=dict)
    """By name."""
    broken: str | None = None
    """In place of arguments: what the model sent, if that is none. Such a call fails."""
    input: str | None = None
    """In place of arguments: the text that a custom (free-form) tool was given. It is the only argument
    of its function."""
    exact: str = ""
    """The model's exact reply, where the log has the call by name and that too. It is used if it makes
    this very call."""
    result: str | None = Field(None, coerce_numbers_to_str=True)
    """What the log has as the call's result; None if it has none."""


class Recorded(Frozen):
    """One attempt of one model at one problem, as a log has it. `problem_id`, `question` or `problem`
    says which problem it is."""

    calls: tuple[RecordedCall, ...]
    """In order. They need not stop: see `final` and `answers`."""
    problem_id: str | None = Field(None, coerce_numbers_to_str=True)
    question: str | None = None
    verbatim: bool = False
    """Whether names and nulls in the calls are the model's own. If not, a namespace before a function's
    name is left out (`functions.add`), and a null for a parameter that has a default and takes no null
    is read as not given: OpenAI's strict mode wants every parameter named."""
    process_wrong: bool = False
    """Of a chain that we exported ourselves: its process was judged wrong. Believed only where the task
    says nothing of the process and no call runs."""
    later: tuple[tuple[int, str], ...] = ()
    """What the user said after the first reply, with the number of calls before it. If one of these is
    a problem's question, the attempt is at the last such problem and begins there."""
    gold: str | None = Field(None, coerce_numbers_to_str=True)
    """The right answer, where the log has it."""
    problem: Problem | None = None
    """The record as a problem of the task, where the importer can make one; otherwise one is made of
    `question` and `gold` if it is asked for."""
    model: str = "recorded"
    sample: int | None = None
    """Which attempt of this model at this problem; None numbers them as they come."""
    final: str | None = Field(None, coerce_numbers_to_str=True)
    """The answer, where it is not an argument of the last call: the task's stop function is called
    with it."""
    final_message: str = ""
    """The words in which `final` was read. Where that is None, or turns out to be no answer to the
    problem, the attempt is neither right nor wrong: it is listed and becomes no chain."""
    answers: tuple[str, ...] = ()
    """Where the model wrote a program and gave no answer itself: the answers that the result of the
    last call may give. The chain stops with the one that the result is or begins with."""
    cut: bool = False
    """The last call, or what was said in its place, hit a limit of length: the attempt ends there, as a
    collected one would, and its last turn is no mistake of the model's."""
    turns: tuple[str, ...] = ()
    """Where a log may have a conversation in several records, each with all that was said before: what
    tells from others the beginnings of the conversation that are no attempts of their own, and, last,
    the whole. Of a conversation that another record begins with, none is made."""
    left_out: str = ""
    """Why the record is no attempt at all, such as a request that failed; empty if it is one."""
    correct: bool | None = None
    """The publisher's own verdict."""
    notes: tuple[str, ...] = ()
    """What the importer had to decide; counted in the report."""
    malformed_calls: tuple[str, ...] = ()
    """Parts of the record that are no calls, although they begin as such; listed in the report."""

    @field_validator("gold", mode="before")
    @classmethod
    def _truth(cls, gold: object) -> object:
        """A gold answer that is true or false as tasks of logic write it."""
        return str(gold) if isinstance(gold, bool) else gold

    def begun_at(self, index: int) -> Recorded:
        """The attempt that begins with what the user said at `later[index]`."""
        before, question = self.later[index]
        return self.model_copy(
            update={
                "question": question,
                "calls": self.calls[before:],
                "later": tuple((at - before, text) for at, text in self.later[index + 1 :]),
                "notes": (*self.notes, BEFORE_LEFT_OUT),
            }
        )

    def without_later(self) -> Recorded:
        """The attempt without the user's later words, noted."""
        notes = (*self.notes, *[LATER_LEFT_OUT] * len(self.later))
        return self.model_copy(update={"later": (), "notes": notes})


BEFORE_LEFT_OUT = "turns before the last question left out"
SHORTER = "conversation that a longer record has, too"
LATER_LEFT_OUT = "words of the user after the first reply left out"


class Unreadable(Frozen):
    """A record that could not be read."""

    place: Place
    fault: str


Importer = Callable[[Mapping[str, Any], Place], Iterable[Recorded]]
"""From a record and its place to the attempts in it: one, or one for each of several models."""

IMPORTERS = {
    "openai_chat": "rightcall.importing.openai_chat:openai_chat",
    "gsm8k_annotated": "rightcall.importing.gsm8k_annotated:gsm8k_annotated",
    "logic_lm": "rightcall.importing.logic_lm:logic_lm",
}
"""Name → where the function is. To add one to the package: write its file and one line here."""


def load_importer(spec: str) -> Importer:
    """An importer by name, by `path/to/file.py:function`, or by `module:function`. Raises
    `DefinitionError`."""
    target = IMPORTERS.get(spec, spec)
    module, colon, name = target.rpartition(":")
    if not colon:
        known = nearest(spec, IMPORTERS)
        raise DefinitionError(
            "unknown importer", value=spec, remedy=f"{known} Your own: path/to/file.py:function."
        )
    loaded = vars(load_module(module))
    if not callable(made := loaded.get(name)):
        functions = [one for one, value in loaded.items() if callable(value)]
        raise DefinitionError(
            f"{module} has no importer of that name", value=name, remedy=nearest(name, functions)
        )
    importer: Importer = made
    return importer


def read_log(
    importer: Importer, path: str | Path, *, model: str | None = None, skip_bad: bool = False
) -> Iterator[tuple[Place, Recorded] | Unreadable]:
    """What a log holds, in order: JSON lines, a file that is one JSON list, or a Parquet file.

    `model` names the model where the log does not. A record that cannot be read is a `DataError` that
    names its place and fault, or is given as `Unreadable` if `skip_bad`; nothing of it is imported. A
    log without a record is a `DataError`, too.
    """
    yield from read_logs(importer, [path], model=model, skip_bad=skip_bad)


def read_logs(
    importer: Importer, paths: Iterable[str | Path], *, model: str | None = None, skip_bad: bool = False
) -> Iterator[tuple[Place, Recorded] | Unreadable]:
    """What several logs hold, one after the other; there must be a record in one of them. Records are
    looked through first, since some are parts of others: see `exchanges`."""
    logs = [*map(Path, paths)]
    rows = Rows(record for _, record in _readable(logs))
    longer = _longer(importer, logs, rows) if rows.exchanges else set()
    whole = partial(rows.whole, before={})
    empty = True
    for place, text in _records(logs):
        empty = False
        try:
            found = _read(importer, text, place, whole)
        except DataError as error:
            if not skip_bad:
                raise DataError(
                    f"{place}, cannot be imported: {error.fault}",
                    value=error.value,
                    remedy=error.remedy
                    or f"Mend the {place.unit}, or skip such {place.unit}s and have them listed.",
                ) from error
            yield Unreadable(place=place, fault=str(error))
            continue
        own = {} if model is None else {"model": model}
        for one in found:
            left_out = SHORTER if longer.intersection(one.turns[-1:]) else one.left_out
            yield place, one.model_copy(update={**own, "left_out": left_out, "turns": ()})
    if empty:
        raise DataError(
            "the log is empty",
            value=[str(path) for path in logs],
            remedy="Give a file with records: JSON lines, one JSON list, or Parquet.",
        )


def _longer(importer: Importer, logs: Sequence[Path], rows: Rows) -> set[str]:
    """The beginnings of conversations in a log (see `Recorded.turns`)."""
    found: set[str] = set()
    whole = partial(rows.whole, before={})
    for place, record in _readable(logs):
        if not is_exchange(record):
            continue
        with suppress(DataError):  # it is raised, or listed, where the record is read
            for one in _read(importer, record, place, whole):
                found.update(path for path in one.turns[:-1] if path != one.turns[-1])
    return found


def _readable(logs: Sequence[Path]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    for place, text in _records(logs):
        try:
            record = _record(text)
        except (DataError, ValueError, RecursionError):
            continue
        yield place, record


def _record(text: str | Mapping[str, Any]) -> Mapping[str, Any]:
    record = json.loads(text) if isinstance(text, str) else text
    if not isinstance(record, Mapping):
        raise DataError("the record is no JSON object", value=str(text)[:80])
    return record


def _read(
    importer: Importer,
    text: str | Mapping[str, Any],
    place: Place,
    whole: Callable[[Mapping[str, Any]], Mapping[str, Any] | None],
) -> list[Recorded]:
    try:
        record = whole(_record(text))
        return [] if record is None else [_checked(one) for one in importer(record, place)]
    except DataError:
        raise
    except RightCallError as error:
        raise DataError(error.fault, value=error.value, remedy=error.remedy) from error
    except ValidationError as error:
        raise DataError("a field is wrong", value=first_fault(error)) from error
    except json.JSONDecodeError as error:
        unfinished = error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip())
        why = "the line ends too early" if unfinished else error.msg
        raise DataError(f"it is no JSON ({why})", value=str(text)[:80]) from error
    except KeyError as error:
        raise DataError("a field is missing", value=error.args[0] if error.args else None) from error
    except Exception as error:  # the importer may be a user's: what it cannot read is a bad record
        raise DataError(
            "the importer failed", value=f"{type(error).__name__}: {str(error)[:200]}"
        ) from error


def _checked(one: object) -> Recorded:
    """What an importer gave, if a chain can hold it."""
    if not isinstance(one, Recorded):
        raise DataError("the importer gave something else than Recorded", value=type(one).__name__)
    try:
        one.model_dump_json()
    except PydanticSerializationError as error:
        raise DataError("a text is no UTF-8 (a lone surrogate)") from error
    return one


def _records(paths: Iterable[Path]) -> Iterator[tuple[Place, str | Mapping[str, JSON]]]:
    for path in paths:
        yield from _records_of(path)


def _records_of(path: Path) -> Iterator[tuple[Place, str | Mapping[str, JSON]]]:
    if path.is_dir():
        inside = sorted(one.name for one in path.iterdir() if one.suffix in _READ)
        raise DataError(
            "the log is a folder",
            value=str(path),
            remedy=f"Give the files in it: {', '.join(inside)}." if inside else "No log is in it.",
        )
    if not path.is_file():
        raise DataError("no such log", value=str(path))
    with path.open("rb") as raw:
        begins = raw.read(1024)
    if begins.startswith(_PARQUET):
        yield from _rows(path)
        return
    if b"\0" in begins or begins.startswith(_GZIP):
        raise DataError(
            "the log is no text",
            value=str(path),
            remedy="JSON lines, one JSON list and Parquet are read: unpack it, or convert it.",
        )
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        if begins.removeprefix(BOM_UTF8).lstrip().startswith(b"["):
            yield from _listed(path, file.read())
            return
        _refuse_spread(path, file)
        file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Place(file=path.name, line=number), line


_READ = (".jsonl", ".json", ".parquet")
_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"


def _rows(path: Path) -> Iterator[tuple[Place, Mapping[str, JSON]]]:
    """The rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(_ROWS_AT_ONCE) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Place(file=path.name, line=number, unit="record"), row
    except pa.ArrowException as error:
        raise DataError(
            "a Parquet file that cannot be read",
            value=f"{path}: {error}",
            remedy="It may be cut: write or download it again.",
        ) from error


_ROWS_AT_ONCE = 1000


def _refuse_spread(path: Path, file: TextIO) -> None:
    """Raises `DataError` if a log begins with a JSON object that goes over several lines."""
    first = next((line for line in file if line.strip()), "")
    second = next((line for line in file if line.strip()), "").lstrip()
    if not first.lstrip().startswith("{") or not second or second.startswith("{") or _is_json(first):
        return  # as a rule: the rest of a line is only looked at where it may belong to the first
    file.seek(0)
    text = file.read().lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return
    whole = not text[end:].strip()
    raise DataError(
        "the log is one JSON object over several lines" if whole else "JSON objects over several lines",
        value=str(path),
        remedy="One object a line is read, or one JSON list: write each on a line of its own, or put"
        " them in [ ], with commas between.",
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _listed(path: Path, text: str) -> Iterator[tuple[Place, Mapping[str, JSON]]]:
    try:
        records = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is no JSON list", value=str(error)) from error
    for number, record in enumerate(records, 1):
        yield Place(file=path.name, line=number, unit="record"), record
