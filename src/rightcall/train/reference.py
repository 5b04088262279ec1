"""Log-probabilities under the reference model, kept on disk by content.

A sequence's log-probability is decided by the model, its settings of computation, the token ids and
the train mask; that is the key. What one training has computed, another on the same base reads,
however its pairs were chosen. Nothing is believed unseen: a sample is computed again at each use.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from rightcall.rendering import Rendered

Key = bytes


def key(sequence: Rendered) -> Key:
    """16 bytes that identify ids and mask."""
    made = hashlib.sha256(np.array(sequence.ids, np.int64).tobytes())
    made.update(np.array(sequence.trained, np.bool_).tobytes())
    return made.digest()[:16]


class ReferenceCache:
    """One file for each reference model, in `folder`."""

    def __init__(self, folder: Path, model: str) -> None:
        self.path = folder / f"{model}.safetensors"

    def read(self, keys: Iterable[Key]) -> dict[Key, float]:
        """What is known of these sequences."""
        known = self._read()
        return {k: known[k] for k in keys if k in known}

    def add(self, found: Mapping[Key, float]) -> None:
        """Keep more, beside what is there; a kill leaves the old file, or the new one."""
        merged = self._read() | dict(found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        keys = np.frombuffer(b"".join(merged), np.uint8).reshape(-1, 16)
        save_file({"keys": keys, "logps": np.array(list(merged.values()), np.float64)}, partial)
        os.replace(partial, self.path)

    def forget(self) -> None:
        """Throw the file away: it was proved wrong."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[Key, float]:
        if not self.path.exists():
            return {}
        table = load_file(self.path)
        keys = [row.tobytes() for row in table["keys"]]
        return dict(zip(keys, table["logps"].tolist(), strict=True))


def cache_folder() -> Path:
    """`$RIGHTCALL_CACHE`, or `rightcall` where the user's caches are."""
    own = os.environ.get("RIGHTCALL_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(own) if own else Path(shared) / "rightcall") / "reference"
