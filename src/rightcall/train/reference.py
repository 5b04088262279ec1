"""Log-probabilities under the reference model, kept on disk by content.

A sequence's log-probability is decided by the model, its settings of computation, the token ids and
the train mask; that is the key. What one training has computed, another on the same base reads,
however its pairs were chosen. Nothing is believed unseen: a sample is computed again at each use.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from rightcall import files
from rightcall.rendering import Rendered
from rightcall.train.data import Row
from rightcall.train.scoring import Tolerance

logger = logging.getLogger(__name__)

SAMPLED = 8
"""Rows that are known from the cache and computed again at each use."""

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
        try:
            table = load_file(self.path)
            keys = [row.tobytes() for row in table["keys"]]
            return dict(zip(keys, table["logps"].tolist(), strict=True))
        except (SafetensorError, KeyError, ValueError) as error:
            logger.warning(
                "the reference cache cannot be read and is made anew (%s): %s", error, self.path
            )
            self.forget()
            return {}


def cache_folder() -> Path:
    """Where precomputed values are kept."""
    return files.cache_folder() / "reference"


@dataclass
class Reference:
    """log π_ref of both sides of every row, in one process or several."""

    rows: Sequence[Row]
    compute: Callable[[Sequence[int]], Tensor]
    """Indices of rows → [len(indices), 2], by the reference model."""
    cache: ReferenceCache | None
    tolerance: Tolerance
    """By how much the cache may differ from what is computed."""
    accelerator: Accelerator

    def logps(self) -> Tensor:
        """[rows, 2]. What had to be computed is kept in the cache."""
        keys = [tuple(key(sequence) for sequence in row.sequences) for row in self.rows]
        found = self._completed(keys, self._believed(keys))
        if self.cache is not None and self.accelerator.is_main_process:
            flat = [k for pair in keys for k in pair]
            self.cache.add(dict(zip(flat, found.flatten().tolist(), strict=True)))
        return found

    def _believed(self, keys: Sequence[tuple[Key, ...]]) -> dict[Key, float]:
        """What the cache knows, if a sample of it computed again agrees."""
        known = self._known(keys)
        whole = [i for i, pair in enumerate(keys) if all(k in known for k in pair)]
        sample = whole[:: max(1, len(whole) // SAMPLED)][:SAMPLED]
        if not sample:
            return known
        expected = torch.tensor([[known[k] for k in keys[i]] for i in sample])
        lengths = torch.tensor([[sum(s.trained) for s in self.rows[i].sequences] for i in sample])
        error = self.compute(sample) - expected
        if self.tolerance.excess(error.flatten(), lengths.flatten()) <= 1:
            return known
        if self.cache is not None:
            logger.warning(
                "the cached reference log-probabilities are stale (%.3g nats a token off) and are "
                "computed anew: %s",
                float((error.abs() / lengths).max()),
                self.cache.path,
            )
            if self.accelerator.is_main_process:
                self.cache.forget()
        return {}

    def _known(self, keys: Sequence[tuple[Key, ...]]) -> dict[Key, float]:
        """What the cache holds, read by the first process for all."""
        shared: list[dict[Key, float]] = [{}]
        if self.cache is not None and self.accelerator.is_main_process:
            shared = [self.cache.read(k for pair in keys for k in pair)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(shared)
        return shared[0]

    def _completed(self, keys: Sequence[tuple[Key, ...]], known: Mapping[Key, float]) -> Tensor:
        """The known values, and those of all other rows computed, each process its share."""
        missing = [i for i, pair in enumerate(keys) if any(k not in known for k in pair)]
        mine = missing[self.accelerator.process_index :: self.accelerator.num_processes]
        found = torch.zeros(len(keys), 2)
        if missing:  # also where none of them is mine: shares of weights are gathered by all together
            found[mine] = self.compute(mine)
        if self.accelerator.num_processes > 1:
            found = self.accelerator.reduce(found.to(self.accelerator.device), "sum").cpu()
        for i in set(range(len(keys))) - set(missing):
            found[i] = torch.tensor([known[k] for k in keys[i]])
        return found
