"""What tells one model's weights from another's: a hash that must see changes and still be quick."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rightcall.models import weights
from rightcall.models.weights import version
from rightcall.tiny import path as tiny

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of 1.5 MiB with rows of 8 KiB, an embedding of 6 MiB, and norms."""
    made = tmp_path_factory.mktemp("model")
    random = np.random.default_rng(0)
    tensors = {f"layers.{i}.weight": random.random((192, 2048), np.float32) for i in range(8)}
    tensors |= {f"layers.{i}.norm": random.random(2048, np.float32) for i in range(8)}
    save_file(tensors | {"embed": random.random((768, 2048), np.float32)}, made / "model.safetensors")
    (made / "config.json").write_text("{}")
    return made


@contextmanager
def scaled(file: Path, start: int, count: int) -> Iterator[None]:
    """Within this context float32 numbers from the byte `start` on are 5 % larger."""
    with file.open("r+b") as stream:
        stream.seek(start)
        before = stream.read(count)
        stream.seek(start)
        stream.write((np.frombuffer(before, np.float32) * np.float32(1.05)).tobytes())
    yield
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(before)


def offsets(file: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor begins and ends in its file."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def test_weights_that_differ_in_any_one_tensor_have_another_version(folder: Path) -> None:
    file, before = folder / "model.safetensors", version(folder)
    for name, (start, end) in offsets(file).items():
        with scaled(file, start, end - start):
            assert version(folder) != before, name
    assert version(folder) == before


def test_weights_scaled_between_blocks_spread_over_the_file_have_another_version(
    folder: Path, tmp_path: Path
) -> None:
    """Sixty-four blocks of a file saw nothing of this."""
    changed = shutil.copytree(folder, tmp_path / "changed")
    file = changed / "model.safetensors"
    data, block = bytearray(file.read_bytes()), 1 << 16
    starts = [index * (len(data) - block) // 63 for index in range(64)]
    kept = [(at, bytes(data[at : at + block])) for at in starts]
    first = min(start for start, _ in offsets(file).values())
    data[first:] = (np.frombuffer(data[first:], np.float32) * np.float32(1.05)).tobytes()
    for at, part in kept:
        data[at : at + block] = part
    file.write_bytes(data)
    assert version(changed) != version(folder)


def test_any_changed_mebibyte_of_a_large_tensor_is_seen(folder: Path) -> None:
    file, before = folder / "model.safetensors", version(folder)
    start, end = offsets(file)["embed"]
    for place in range(start, end - MIB + 1, 40_960):
        with scaled(file, place, MIB):
            assert version(folder) != before, place


@pytest.mark.parametrize("columns", [slice(0, 128), slice(1024, 1152), slice(1920, 2048)])
def test_a_range_of_columns_is_seen_though_it_is_a_little_of_every_row(
    folder: Path, tmp_path: Path, columns: slice
) -> None:
    """Rows are as long as two blocks: blocks at even distances would see the same columns always."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("weight")]:
        tensors[name][:, columns] *= 1.05
    changed = shutil.copytree(folder, tmp_path / "changed")
    save_file(tensors, changed / "model.safetensors")
    assert version(changed) != version(folder)


def test_other_names_or_shapes_of_the_same_bytes_are_other_weights(
    folder: Path, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["embed"] = tensors["embed"].reshape(-1, 768)
    changed = shutil.copytree(folder, tmp_path / "changed")
    save_file(tensors, changed / "model.safetensors")
    assert version(changed) != version(folder)


def test_of_a_large_tokenizer_every_byte_counts(folder: Path, tmp_path: Path) -> None:
    made = shutil.copytree(folder, tmp_path / "made")
    text = bytearray(b"a" * (7 * MIB))
    (made / "tokenizer.json").write_bytes(text)
    before = version(made)
    text[3 * MIB + 5] = ord("b")
    (made / "tokenizer.json").write_bytes(text)
    assert version(made) != before


@pytest.mark.parametrize("begin", [b"", (1 << 40).to_bytes(8, "little"), (9).to_bytes(8, "little")])
def test_a_large_file_that_is_no_safetensors_has_a_version_too(tmp_path: Path, begin: bytes) -> None:
    """What is wrong with it is said where it is loaded."""
    (tmp_path / "model.safetensors").write_bytes(begin + b"\0" * (5 * MIB))
    assert version(tmp_path)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("student", "81eadc257714e60b"),
        ("teacher", "694304a1152078a5"),
        ("rules", "3b0ba42536e6038d"),
    ],
)
def test_the_shipped_models_keep_their_names(name: str, known: str) -> None:
    """Chains, and pairs made of them, go by these: another way to hash would orphan them."""
    assert version(tiny(name)) == known


def test_of_a_large_file_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen gigabytes in 290 tensors, on a file that takes no room on the disk."""
    count, size = 290, 56 * MIB
    header = json.dumps(
        {
            f"layers.{i}": {
                "dtype": "BF16",
                "shape": [size // 2],
                "data_offsets": [i * size, (i + 1) * size],
            }
            for i in range(count)
        }
    ).encode()
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + count * size)
    with file.open("rb") as stream:
        spans = list(weights._spans(stream, file.stat().st_size))
    assert sum(length for _, length in spans) < file.stat().st_size / 100
    assert len(spans) < 40_000
