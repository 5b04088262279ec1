"""Files of a run: read line by line, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

from pydantic import BaseModel, ValidationError

from rightcall.errors import DataError, first_fault

M = TypeVar("M", bound=BaseModel)


def cache_folder() -> Path:
    """`$RIGHTCALL_CACHE`, or `rightcall` where the user's caches are."""
    own = os.environ.get("RIGHTCALL_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "rightcall"


def read_lines(path: Path, model: type[M]) -> Iterator[M]:
    """Objects of a JSONL file; none if there is no file. Raises `DataError` naming a bad line."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield model.model_validate_json(line)
            except ValidationError as error:
                raise DataError(
                    f"{path}, line {number}, is not a {model.__name__}",
                    value=first_fault(error),
                    remedy="Delete the file and have it made again.",
                ) from error


@contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A file to be written beside its place and renamed in the end: what was there stays until then,
    and if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one, or the new one."""
    with whole(path) as file:
        file.write(text)
