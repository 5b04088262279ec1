"""Pairs files: written whole or not at all, checked against the test problems, read line by line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from rightcall.chain import Problem
from rightcall.errors import DataError
from rightcall.files import read_lines, whole
from rightcall.leaks import Asked, kinship, normalised
from rightcall.pairs.pair import PreferencePair


def check_leaks(training: Iterable[Asked | str], test: Iterable[Problem]) -> int:
    """How many training items were checked; a `DataError` if a test question is among them, word
    for word or up to case, punctuation and spacing, or a problem that augmentation made of a test
    problem (or of what a test problem was made of)."""
    held = list(test)
    forbidden = {normalised(problem.question): problem.id for problem in held}
    roots = {problem.root: problem.id for problem in held}
    plain = lru_cache(1)(normalised)  # the pairs of a problem come one after the other
    augmented = {problem.root for problem in held if problem.origin}
    leaks: dict[str, str] = {}
    checked = 0
    for item in training:
        checked += 1
        if not held:
            continue
        question = item if isinstance(item, str) else item.question
        root, made = kinship(item)
        found = forbidden.get(plain(question))
        if found is None and root in roots and (made or root in augmented):
            found = roots[root]
        if found is not None:
            leaks[found] = question
    if leaks:
        first = next(iter(leaks))
        raise DataError(
            f"{len(leaks)} test questions are in the training data, the first is problem {first}",
            value=leaks[first][:200],
            remedy="Collect and augment the chains of the train split only.",
        )
    return checked


def write_pairs(
    pairs: Iterable[PreferencePair], path: str | os.PathLike[str], *, test: Iterable[Problem] = ()
) -> int:
    """Write a pairs file and say how many there are. The file appears whole or not at all: what was
    there stays if making the pairs fails, or if a question of `test` is among them (`DataError`)."""
    with whole(Path(path)) as file:
        return check_leaks(_written(pairs, file), test)


def _written(pairs: Iterable[PreferencePair], file: TextIO) -> Iterator[PreferencePair]:
    for pair in pairs:
        file.write(f"{pair.model_dump_json()}\n")
        yield pair


def read_pairs(path: str | os.PathLike[str]) -> Iterator[PreferencePair]:
    """The pairs of a file, one at a time. Raises `DataError` at a line that is not a pair, or if the
    file is one of chains or an export of pairs."""
    source = Path(path)
    if not source.is_file():
        raise DataError("there is no pairs file", value=str(source), remedy="Make pairs first.")
    fault, remedy = _other(source)
    if fault:
        raise DataError(fault, value=str(source), remedy=remedy)
    yield from read_lines(source, PreferencePair)


def _other(source: Path) -> tuple[str, str]:
    """What a file is by its first line, and what to do, if it is known to be no pairs file."""
    with source.open("rb") as file:
        line = file.readline()
    if line.startswith(b"PAR1"):
        return _EXPORT
    try:
        row = json.loads(line)
    except ValueError:
        return "", ""
    if not isinstance(row, dict):
        return "", ""
    if "steps" in row and "outcome" in row:
        return (
            "a chains file is no pairs file",
            f"Make pairs of it (rightcall pairs make {source} --out pairs.jsonl), or export its chains"
            f" (rightcall export chains {source}).",
        )
    return _EXPORT if "tools" in row and "chosen" in row else ("", "")


_EXPORT = (
    "an export of pairs is no pairs file",
    "Give the file that was exported: an export is for other programs.",
)
