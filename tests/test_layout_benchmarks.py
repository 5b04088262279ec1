"""The benchmarks of trees: what they measure is what they say, and all of it is in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import dpo_step, packing


def test_packing_times_the_tree_alone_and_all_that_training_does_and_writes_it_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packing, "SHAPES", dict.fromkeys(("high", "low"), dpo_step.SHAPES["quick"]))
    packing.main(file=None, rounds=2, out=tmp_path)
    written = json.loads((tmp_path / "packing.json").read_text())
    ways = ("pack", "batch", "dictionaries")
    assert [*written["runs"]] == [f"{name}: {way}" for name in ("high", "low") for way in ways]
    assert all(len(runs) == 2 for runs in written["runs"].values())
    assert written["machine"]["cpu"]
    shown = capsys.readouterr().out
    assert "pack, M tokens/s" in shown
    assert "batch, M tokens/s" in shown


@pytest.mark.parametrize(
    ("size", "shape"), [("small", (4096, 256, 768)), ("large", (4096, 1024, 3072))]
)
def test_the_limit_is_taken_from_a_product_as_wide_as_the_model(
    size: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(dpo_step, "gemm_flops", lambda shape, **_: asked.append(shape) or 1.0)
    dpo_step._speed(dpo_step.SIZES[size], 1, "cpu", "cpu")
    assert asked == [shape]


@pytest.mark.parametrize(
    ("device", "installed", "asked"),
    [
        ("cpu", True, ("sdpa", False)),
        ("cuda", False, ("sdpa", False)),
        ("cuda", True, ("flash_attention_2", True)),
    ],
)
def test_trl_is_asked_for_its_fastest_attention(
    device: str, installed: bool, asked: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = object() if installed else None
    monkeypatch.setattr(dpo_step, "find_spec", lambda name: found)
    assert dpo_step.fastest(device) == asked


def test_what_attention_everybody_had_is_a_figure(tmp_path: Path) -> None:
    model = str(dpo_step.model_folder(tmp_path, "small"))
    few = dpo_step.Shape(prompt=20, chains=2, steps=1, reply=5, observation=2, step_pairs=False)
    figures: list[dict[str, Any]] = [
        dpo_step.make_ours(model, few, "tree", 4, "cpu")(),
        dpo_step.make_ours(model, few, "padded", 4, "cpu")(),
    ]
    assert [made["attention"] for made in figures] == ["rightcall_tree", "sdpa"]
    pytest.importorskip("trl")
    theirs = dpo_step.make_trl(model, few, 4, "cpu")()
    assert (theirs["attention"], theirs["padding_free"]) == ("sdpa", False)
