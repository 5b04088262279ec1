"""What the tasks on real data share: problems read from files or from the hub, and their splits.

A `DataSet` is told what its files are called and how a record becomes a problem. It gives the
problems of a split: from the data's own file where there is one, otherwise by a hash, so that a
problem's split depends on that problem alone. What belongs together (the questions about one story)
is never in two splits, and what is in a file of held-out problems is left out of training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from rightcall.chain import Problem, digest, seed_of
from rightcall.errors import ConfigError, DataError, MissingSplit, nearest
from rightcall.leaks import normalised
from rightcall.task import SPLITS

REPEATED = "asked again with another answer"
"""The flag of a problem whose question the data has twice, with two answers."""

Record = Any
"""What a file holds: an object of a JSON file, or a line of a text file."""
Read = Callable[[Record, str], Problem]
"""Makes a problem of a record, or raises `DataError` with the place it is told."""


# --- files and the hub --------------------------------------------------------------------------


def records(file: Path) -> Iterator[tuple[str, Record]]:
    """The records of a file with their places: the lines of a `.txt` file; otherwise JSON objects, one
    a line, or those of a list. Raises `DataError`."""
    if file.suffix == ".txt":
        yield from text_lines(file)
    elif _is_list(file):
        yield from _listed(file)
    else:
        yield from json_lines(file)


def text_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, stripped, with their places."""
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if text := line.strip():
                yield f"{file}, line {number},", text


def json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, with their places. Raises `DataError`."""
    for place, line in text_lines(file):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place} is not JSON", value=line[:80]) from error
        yield place, _object(found, place)


def _is_list(file: Path) -> bool:
    with file.open(encoding="utf-8") as text:
        return next((c for c in iter(lambda: text.read(1), "") if not c.isspace()), "") == "["


def _listed(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON", value=str(error)) from error
    for number, one in enumerate(found, 1):
        place = f"{file}, record {number},"
        yield place, _object(one, place)


def _object(found: object, place: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise DataError(f"{place} is not a JSON object", value=str(found)[:80])
    return found


@dataclass(frozen=True)
class Hub:
    """A data set on the hub."""

    id: str
    config: str | None = None
    splits: Mapping[str, str] | None = None
    """Our splits by the hub's names, if they have other names or are not just train and test."""

    @property
    def named(self) -> Mapping[str, str]:
        return self.splits or {"train": "train", "test": "test"}

    def records(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of one of its splits, with their places. Raises `DataError`."""
        import datasets

        try:
            rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(self.id, self.config, split=split)
        except Exception as error:  # the client raises errors of several libraries when offline
            raise DataError(
                f"the data set could not be loaded ({type(error).__name__})",
                value=self.id,
                remedy="Check the connection, or give a local folder as the task's path.",
            ) from error
        for number, row in enumerate(rows, 1):
            yield f"{self.id}, {split} row {number},", dict(row)


def fields(record: Record, place: str, kind: str, *names: str) -> list[str]:
    """The texts in these fields of a record, stripped. Raises `DataError`: `{place} is no {kind}`."""
    found = [record.get(name) for name in names] if isinstance(record, dict) else [None]
    if any(not isinstance(value, str) or not value.strip() for value in found):
        raise no_problem(place, kind, record, "Needed are the texts " + " and ".join(map(repr, names)))
    return [str(value).strip() for value in found]


def no_problem(place: str, kind: str, record: Record, needed: str) -> DataError:
    """The error for a record that is no problem of a data set."""
    return DataError(f"{place} is no {kind} problem", value=str(record)[:80], remedy=f"{needed}.")


def problem_id(name: str, *parts: str) -> str:
    """An id that depends on a problem's own text, up to case and spacing."""
    return f"{name}-{digest(*(' '.join(part.lower().split()) for part in parts))}"


# --- splits -------------------------------------------------------------------------------------


def question_key(problem: Problem) -> str:
    """What the splits are told apart by, unless a task says otherwise: the question's words."""
    return normalised(problem.question)


@dataclass(frozen=True)
class DataSet:
    """The problems of a data set, in three splits.

    `path` is a folder with the data set's files, or one file of training problems (its folder may
    hold the files of the other splits); None is the hub. A split for which there is no file is made
    of training problems: `shares` says which splits may be made so, and of how many percent.
    Repeated questions are kept once.
    """

    name: str
    read: Read
    path: Path | None
    files: Mapping[str, Sequence[str]]
    """The patterns of the files of each split, such as `{"train": ["train.json*"]}`."""
    hub: Hub | None = None
    group: Callable[[Problem], str] = question_key
    """Problems of one group are in one split."""
    shares: Mapping[str, int] | None = None

    @classmethod
    def at(cls, path: str | None, **rest: Any) -> DataSet:
        """With a path as an option gives it. Raises `DataError` if nothing is there."""
        made = cls(path=None if path is None else Path(path), **rest)
        if made.path is not None and not made.path.exists():
            raise DataError("no such file or folder", value=str(path), remedy=f"Give {made._wanted}.")
        return made

    @property
    def _wanted(self) -> str:
        patterns = [pattern for listed in self.files.values() for pattern in listed]
        return f"a folder that holds {', '.join(patterns)}, or one file of training problems"

    def problems(
        self,
        split: str,
        count: int | None = None,
        seed: int = 0,
        keep: Callable[[Problem], bool] | None = None,
    ) -> Iterator[Problem]:
        """The problems of a split, ordered by the seed so that `count` draws a sample; with `keep` only
        those of which it says so. Raises `ConfigError` and `DataError`."""
        if split not in SPLITS:
            raise ConfigError("unknown split", value=split, remedy=nearest(split, SPLITS))
        if self.path is None and self.hub is None:
            raise DataError(f"{self.name} is read from files", remedy=f"Give a path: {self._wanted}.")
        found = self._split(split)
        ordered = sorted(found, key=lambda problem: seed_of(self.name, seed, problem.id))
        return islice(filter(keep, ordered) if keep else iter(ordered), count)

    def _split(self, split: str) -> list[Problem]:
        own = [name for name in SPLITS if self.has(name)]
        if split not in own and split not in self._shares:
            raise self._missing(split)
        found = self._part(split if split in own else "train")
        if split == "train" or split not in own:
            found = [problem for problem in found if self._place(problem, own) == split]
        later = [name for name in SPLITS[SPLITS.index(split) + 1 :] if name in own]
        held_out = {self.group(problem) for name in later for problem in self._part(name)}
        return [problem for problem in found if self.group(problem) not in held_out]

    def _place(self, problem: Problem, own: Sequence[str]) -> str:
        """The split of a training problem, by a hash of its group."""
        place = sha256(self.group(problem).encode()).digest()[0] * 100 // 256
        edge = 0
        for split, percent in self._shares.items():
            edge += 0 if split in own else percent
            if place < edge:
                return split
        return "train"

    @property
    def _shares(self) -> Mapping[str, int]:
        return {"validation": 10} if self.shares is None else self.shares

    @cached_property
    def _parts(self) -> dict[str, list[Problem]]:
        """What has been read so far, by split."""
        return {}

    def _part(self, split: str) -> list[Problem]:
        if split not in self._parts:
            self._parts[split] = self._read(split)
        return self._parts[split]

    def has(self, split: str) -> bool:
        """Whether the data has a part of its own for a split."""
        if self.path is None:
            assert self.hub is not None
            return split in self.hub.named
        return bool(self._files_of(split))

    def first_file(self, split: str) -> Path | None:
        """The data's own file of a split, where it is read from files and has one."""
        return None if self.path is None else next(iter(self._files_of(split)), None)

    def _files_of(self, split: str) -> list[Path]:
        assert self.path is not None
        if self.path.is_file() and split == "train":
            return [self.path]
        folder = self.path if self.path.is_dir() else self.path.parent
        listed = self.files.get(split, ())
        return [f for pattern in listed for f in sorted(folder.glob(pattern)) if f != self.path]

    def _read(self, split: str) -> list[Problem]:
        if self.path is None:
            assert self.hub is not None
            found = self.hub.records(self.hub.named[split])
            return unique(self.read(record, place) for place, record in found)
        if not (files := self._files_of(split)):
            raise self._missing(split)
        return unique(self.read(record, place) for file in files for place, record in records(file))

    def _missing(self, split: str) -> MissingSplit:
        patterns = " or ".join(self.files.get(split, ())) or "no file"
        remedy = f"Put the data set's own file there ({patterns})"
        remedy += ", or leave out the path to use the hub." if self.hub else "."
        return MissingSplit(f"the {split} problems are missing", value=str(self.path), remedy=remedy)


def flagged(problem: Problem, flag: str) -> Problem:
    """The problem with one more flag."""
    flags = [*problem.metadata.get("flags", ()), flag]
    return problem.model_copy(update={"metadata": {**problem.metadata, "flags": flags}})


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, by its id, in the order in which they come. One that comes again with another
    answer is flagged and loses its gold chain: nobody knows which of the answers is right."""
    found: dict[str, Problem] = {}
    for problem in problems:
        first = found.setdefault(problem.id, problem)
        if first.answer != problem.answer and REPEATED not in first.metadata.get("flags", ()):
            found[problem.id] = flagged(first, REPEATED).model_copy(update={"gold": ()})
    return list(found.values())
