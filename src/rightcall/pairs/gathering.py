"""Chains of any number of files, problem by problem, without holding or copying them.

The first pass reads of each line what sorts it out (`Head`) and notes where it lies; the notes are
sorted on disk. Then the chains of one problem at a time are read where they are. Memory does not grow
with their number.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import msgspec
from pydantic import ValidationError

from rightcall.chain import UNREADABLE, Chain, ChainFiles, Outcome, digest, no_chain
from rightcall.pairs.outline import Head, Outline
from rightcall.spill import Sorter

S = TypeVar("S", bound=msgspec.Struct)

ERRORED = 1
"""A bit of `Entry.kind`; the others are the caller's."""


class Entry(NamedTuple):
    """Where a chain lies, and what sorts it out. They sort by problem, then by place."""

    problem: int
    file: int
    offset: int
    length: int
    key: int
    """Hash of the chain's key."""
    source: int
    """In `Gathered.sources`."""
    kind: int


_BITS = (1 << 64) - 1

_LAYOUT = "HQIQHB"
"""Of an entry's fields after the first."""


class Gathered:
    """The chains of some files, or given one by one (these are written to a temporary file). A context
    manager.

    `kind` says of a head, other than an errored one, what pairing wants to know of it: a byte of flags,
    the lowest of them not set. Problems come in the order of `digest(seed, task, problem id)`.
    """

    def __init__(self, chains: Iterable[Chain], seed: int, kind: Callable[[Head], int]) -> None:
        self.sources: list[str] = []
        self._files: list[tuple[BinaryIO, Path | None]] = []
        self._kind = kind
        self._order = lru_cache(1 << 14)(lambda *problem: int(digest(seed, *problem), 16))
        self._heads = msgspec.json.Decoder(Head)
        self._outlines = msgspec.json.Decoder(Outline)
        with ExitStack() as opened:
            self._entries = opened.enter_context(Sorter(_LAYOUT))
            if isinstance(chains, ChainFiles):
                for path in chains.paths:
                    if path.exists():
                        file = opened.enter_context(path.open("rb"))
                        self._files.append((file, path))
                        self._note(len(self._files) - 1, file)
            else:
                set_aside = opened.enter_context(tempfile.TemporaryFile())
                self._files.append((set_aside, None))
                self._note(0, _written(chains, set_aside))
            self._opened = opened.pop_all()

    def __enter__(self) -> Gathered:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def problems(self, dropped: Counter[str], sources: set[str]) -> Iterator[list[Entry]]:
        """The chains of each problem that has any: of these sources, each key once. What is left out is
        counted in `dropped`."""
        for _, group in groupby(self._entries, key=itemgetter(0)):
            found = self._sorted_out(map(Entry._make, group), dropped, sources)
            if found:
                yield found

    def outline(self, entry: Entry) -> Outline:
        """A chain as far as pairing needs it."""
        return self._read(self._outlines, self._line(entry), entry.file, entry.offset)

    def check(self, entries: Iterable[Entry]) -> None:
        """Raises `DataError` at the first that is no chain, also in what an outline leaves unread."""
        for entry in entries:
            self._chain(self._line(entry), entry.file, entry.offset)

    def _line(self, entry: Entry) -> bytes:
        file, _ = self._files[entry.file]
        return os.pread(file.fileno(), entry.length, entry.offset)

    def _note(self, number: int, lines: Iterable[bytes]) -> None:
        """Read the heads of a file's lines and note where they are."""
        known: dict[str, int] = {name: index for index, name in enumerate(self.sources)}
        read, heads, add = self._read, self._heads, self._entries.add
        order, kind, errored = self._order, self._kind, Outcome.ERRORED
        offset = 0
        for line in lines:
            if not line.endswith(b"\n"):
                return  # cut by a kill
            head = read(heads, line, number, offset)
            if (source := known.get(head.source)) is None:
                source = known[head.source] = len(self.sources)
                self.sources.append(head.source)
            add(
                order(head.task, head.problem_id),
                number,
                offset,
                len(line),
                hash(head.key) & _BITS,
                source,
                ERRORED if head.outcome is errored else kind(head),
            )
            offset += len(line)

    def _sorted_out(
        self, entries: Iterable[Entry], dropped: Counter[str], sources: set[str]
    ) -> list[Entry]:
        """Of one problem's entries those that count, each key once, as it comes first."""
        kept: dict[int, Entry] = {}
        for number, of_file in groupby(entries, key=itemgetter(1)):
            from_disk = self._files[number][1] is not None
            for entry in _latest(of_file) if from_disk else of_file:
                source = self.sources[entry.source]
                if entry.kind & ERRORED:
                    dropped["errored chain"] += 1
                elif source not in sources:
                    dropped[f"source not asked for: {source}"] += 1
                elif kept.setdefault(entry.key, entry) is not entry:
                    dropped["chain given twice"] += 1
        return list(kept.values())

    def _read(self, decoder: msgspec.json.Decoder[S], line: bytes, number: int, offset: int) -> S:
        try:
            return decoder.decode(line)
        except UNREADABLE:
            return decoder.decode(self._chain(line, number, offset).model_dump_json())

    def _chain(self, line: bytes, number: int, offset: int) -> Chain:
        """A line that is a chain in other words, such as a number written as text."""
        try:
            return Chain.model_validate_json(line)
        except ValidationError as error:
            file, path = self._files[number]
            file.seek(0)
            number = file.read(offset).count(10) + 1
            raise no_chain(path, number, line, error) from error


def _latest(entries: Iterable[Entry]) -> Iterable[Entry]:
    """Of each key of a file the last entry, an errored one only if it was never finished: see
    `ChainStore.latest`."""
    found: dict[int, Entry] = {}
    for entry in entries:
        before = found.get(entry.key)
        if before is None:
            found[entry.key] = entry
        elif not entry.kind & ERRORED or before.kind & ERRORED:
            del found[entry.key]  # its place is that of the line that counts
            found[entry.key] = entry
    return found.values()


def _written(chains: Iterable[Chain], file: BinaryIO) -> Iterator[bytes]:
    """Lines as they are set aside in a file."""
    for chain in chains:
        line = chain.model_dump_json().encode() + b"\n"
        file.write(line)
        yield line
    file.flush()
