"""Replies that were paid for, kept on disk: the same request is not paid for twice.

One append-only file of JSON lines per server and model, which any number of processes may write. A
line holds a hash of the request, never the request itself, so no prompt and no key is in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from pydantic import ValidationError

from rightcall.chain import Frozen
from rightcall.errors import ConfigError, Withheld
from rightcall.models import Reply

MAX_LINE = 1 << 18
"""Bytes; a longer reply is not kept, and a longer line not read."""


class _Kept(Frozen):
    key: str
    reply: Reply
    withheld: str = ""
    """Why the server did not show the reply, if it did not."""


class ReplyCache:
    """Replies by the hash of their request (`request_key`); memory holds where they are.

    Raises `ConfigError` if the folder cannot be written to.
    """

    def __init__(self, folder: Path, server: str, model: str) -> None:
        name = hashlib.sha256(f"{server}\n{model}".encode()).hexdigest()[:16]
        self.path = folder / f"{name}.jsonl"
        self._places: dict[bytes, int] = {}
        self._seen = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigError(
                f"replies cannot be kept there ({error.strerror})",
                value=str(folder),
                remedy="Set RIGHTCALL_CACHE to a folder of yours, or the model's cache = false.",
            ) from error
        self._file = os.fdopen(opened, "rb+", buffering=0)
        self._refresh()

    def get(self, key: str) -> Reply | Withheld | None:
        """The reply to a request, whichever process kept it."""
        if key.encode() not in self._places:
            self._refresh()
        place = self._places.get(key.encode())
        if place is None:
            return None
        line = os.pread(self._file.fileno(), MAX_LINE, place).partition(b"\n")[0]
        try:
            kept = _Kept.model_validate_json(line)
        except ValidationError:
            return None
        if kept.key != key:
            return None
        return Withheld(kept.withheld) if kept.withheld else kept.reply

    def put(self, key: str, reply: Reply | Withheld) -> None:
        """Keep a reply, in one write under a lock; one that was withheld, too, as it was paid for."""
        if isinstance(reply, Withheld):
            kept = _Kept(key=key, reply=Reply(text=""), withheld=reply.fault)
        else:
            kept = _Kept(key=key, reply=reply)
        line = kept.model_dump_json(exclude_defaults=True).encode() + b"\n"
        if len(line) > MAX_LINE:
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            size = os.fstat(self._file.fileno()).st_size
            cut = size > 0 and os.pread(self._file.fileno(), 1, size - 1) != b"\n"
            self._file.write(b"\n" * cut + line)  # a line that a kill cut ends here
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._file.close()

    def _refresh(self) -> None:
        """Find the whole lines that were added since last time."""
        if os.fstat(self._file.fileno()).st_size == self._seen:
            return
        with self.path.open("rb") as file:
            file.seek(self._seen)
            while line := file.readline(MAX_LINE):
                if not line.endswith(b"\n") and len(line) < MAX_LINE:
                    break  # it is being written, or was cut
                self._places[line[len(_HEAD) : len(_HEAD) + _KEY_LENGTH]] = self._seen
                self._seen += len(line)


_HEAD = b'{"key":"'
_KEY_LENGTH = 64


def request_key(server: str, body: bytes) -> str:
    """Hash of where a request goes and all that it says: model, messages, sampling and seed."""
    return hashlib.sha256(server.encode() + b"\n" + body).hexdigest()
