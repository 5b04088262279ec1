"""More than memory should hold: records sorted on disk, numbers remembered in few bytes."""

from __future__ import annotations

import os
import struct
import tempfile
from array import array
from collections.abc import Iterator
from typing import Any

PARTS = 256
BLOCK = 1 << 14
"""Bytes of each part that wait in memory before they are written."""

_BITS = (1 << 64) - 1


class Sorter:
    """Fixed-size records, added in any order and given in ascending order, as often as asked.

    The first field is a 64-bit number that is evenly spread, such as a hash; `layout` describes the
    others, as `struct` does. The first byte says which part of a temporary file a record goes to, and
    one part at a time is sorted in memory: that holds a 256th of the records, and no more than 4 MiB
    while they are added. A context manager; the file goes with it.
    """

    def __init__(self, layout: str) -> None:
        self._record = struct.Struct(f">Q{layout}")
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `__exit__`
        self._waiting = [bytearray() for _ in range(PARTS)]
        self._written: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]
        self._end = 0

    def __enter__(self) -> Sorter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def add(self, number: int, *others: int) -> None:
        """One record."""
        waiting = self._waiting[number >> 56]
        waiting += self._record.pack(number, *others)
        if len(waiting) >= BLOCK:
            self._file.write(waiting)
            self._written[number >> 56].append((self._end, len(waiting)))
            self._end += len(waiting)
            waiting.clear()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        self._file.flush()
        for part in range(PARTS):
            blocks = [self._read(*place) for place in self._written[part]]
            yield from sorted(self._record.iter_unpack(b"".join([*blocks, self._waiting[part]])))

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)


class Seen:
    """A set of evenly spread 64-bit numbers, such as hashes, in 16 to 32 bytes each: a fifth of what a
    `set` takes."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, number: int) -> bool:
        """Whether it was not there before. A negative number counts as its two's complement, 0 as 1: an
        empty slot is 0."""
        number = number & _BITS or 1
        slots, mask = self._slots, len(self._slots) - 1
        at = number & mask
        while (found := slots[at]) != number:
            if not found:
                slots[at] = number
                self._count += 1
                if 2 * self._count > len(slots):
                    self._grow()
                return True
            at = (at + 1) & mask
        return False

    def _grow(self) -> None:
        old, self._slots, self._count = self._slots, array("Q", bytes(16 * len(self._slots))), 0
        for number in old:
            if number:
                self.add(number)
