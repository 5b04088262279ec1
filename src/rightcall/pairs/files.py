"""Pairs files: written whole or not at all, checked against the test problems, read line by line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from rightcall.chain import Problem
from rightcall.errors import DataError
from rightcall.files import read_lines
from rightcall.leaks import normalised
from rightcall.pairs.pair import PreferencePair


def check_leaks(training: Iterable[PreferencePair | Problem | str], test: Iterable[Problem]) -> int:
    """How many training items were checked; a `DataError` if a test question is among them, word
    for word or up to case, punctuation and spacing."""
    forbidden = {normalised(problem.question): problem.id for problem in test}
    leaks: dict[str, str] = {}
    checked = 0
    for item in training:
        question = item if isinstance(item, str) else item.question
        checked += 1
        if (found := forbidden.get(normalised(question))) is not None:
            leaks[found] = question
    if leaks:
        first = next(iter(leaks))
        raise DataError(
            f"{len(leaks)} test questions are in the training data, the first is problem {first}",
            value=leaks[first][:200],
            remedy="Collect the training chains on the train split only.",
        )
    return checked


def write_pairs(
    pairs: Iterable[PreferencePair], path: str | os.PathLike[str], *, test: Iterable[Problem] = ()
) -> int:
    """Write a pairs file and say how many there are. The file appears whole or not at all: what was
    there stays if making the pairs fails, or if a question of `test` is among them (`DataError`)."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as file:
            count = check_leaks(_written(pairs, file), test)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return count


def _written(pairs: Iterable[PreferencePair], file: BinaryIO) -> Iterator[PreferencePair]:
    for pair in pairs:
        file.write(pair.model_dump_json().encode() + b"\n")
        yield pair


def read_pairs(path: str | os.PathLike[str]) -> Iterator[PreferencePair]:
    """The pairs of a file, one at a time. Raises `DataError` at a line that is not a pair."""
    source = Path(path)
    if not source.is_file():
        raise DataError("there is no pairs file", value=str(source), remedy="Make pairs first.")
    yield from read_lines(source, PreferencePair)
