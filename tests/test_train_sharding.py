"""Several processes by the examples' launch files: shares of weights (FSDP2), and copies (DDP)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rightcall.errors import ConfigError
from rightcall.train import scoring, sharding
from rightcall.train.trainer import TrainConfig, train
from test_train_layouts import COMPARED, metrics, step_pairs
from tiny_models import build_tiny

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LAUNCH_FILES = Path(__file__).parents[1] / "examples" / "accelerate"

SCRIPT = """
import json, sys
from rightcall.train import scoring
from rightcall.train.trainer import TrainConfig, train

class Killed(Exception): ...

def kill(step, steps, metrics):
    if step == 3:
        raise Killed

for case in json.loads(open(sys.argv[1]).read()):
    settings = TrainConfig.model_validate(case["config"])
    scoring.MAX_LOGITS = case["logits"]
    try:
        train(settings, case["model"], case["data"], case["out"], device="cpu",
              on_log=kill if case["killed"] else None)
    except Killed:
        train(settings, case["model"], case["data"], case["out"], device="cpu")
"""

LORA = {"lora": {"r": 4, "alpha": 8}}
CASES: dict[str, dict[str, Any]] = {
    "full weights in several packs": {"tune": "full", "pack_tokens": 60},
    "scored in chunks": {"tune": "full", "logits": 400 * 7},
    "adapter, recomputed activations": {**LORA, "gradient_checkpointing": True},
    "adapter, unequal packs": {**LORA, "accumulation": 2, "batch_size": 2, "pack_tokens": 60},
    "adapter off, padded": {**LORA, "reference": "adapter_off", "packing": "padded"},
    "killed and gone on with": {"tune": "full", "max_steps": 6, "epochs": 3, "save_every": 2},
}


def launch(file: str, *arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(LAUNCH_FILES / file), "--main_process_port", "0", *arguments),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RIGHTCALL_CACHE": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = [*folder.glob("model.safetensors"), *folder.glob("adapter_model.safetensors")]
    return load_file(file)


@pytest.mark.slow
def test_shares_of_weights_are_trained_as_the_whole_is(tmp_path, monkeypatch):
    """Losses, gradient norms and weights of two processes that share them, and of one. Launched by the
    file of the examples, over gloo, as without a GPU."""
    model = build_tiny("llama", tmp_path / "model")
    data = step_pairs(tmp_path / "pairs.jsonl")
    base = {"max_steps": 2, "batch_size": 4, "log_every": 1, "learning_rate": 1e-2, "sft_weight": 0.5}
    cases = []
    for name, changes in CASES.items():
        own = {**base, **changes}
        logits = own.pop("logits", 1 << 28)
        place = {"model": str(model), "data": str(data), "out": str(tmp_path / "two" / name)}
        cases.append({"config": own, "logits": logits, "killed": "killed" in name, **place})
        alone = TrainConfig.model_validate({**own, "accumulation": 2 * own.get("accumulation", 1)})
        monkeypatch.setattr(scoring, "MAX_LOGITS", logits)
        train(alone, model, data, tmp_path / "one" / name, device="cpu")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = launch(
        "fsdp.yaml", str(tmp_path / "script.py"), str(tmp_path / "cases.json"), cache=tmp_path / "cache"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in CASES:
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        for a, b in zip(metrics(one), metrics(two), strict=True):
            for key in COMPARED:
                assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-4), (name, key)
        expected, found = weights(one), weights(two)
        assert expected.keys() == found.keys(), name
        assert all(torch.allclose(expected[n], found[n], atol=1e-4) for n in expected), name
        assert not [p for p in two.rglob("*") if p.suffix in {".bin", ".pt", ".pth"}], "no pickles"


@pytest.mark.slow
def test_the_command_line_is_launched_on_copies_of_quantised_weights(tmp_path):
    pytest.importorskip("bitsandbytes")
    model = build_tiny("llama", tmp_path / "model")
    data = step_pairs(tmp_path / "pairs.jsonl")
    settings = ("quantize=4bit", "batch_size=4", "log_every=1", "max_steps=2", "learning_rate=1e-2")
    options = [part for setting in settings for part in ("--set", setting)]
    done = launch(
        *("ddp.yaml", "-m", "rightcall", "train", str(data), "--model", str(model)),
        *("--out", str(tmp_path / "two"), *options),
        cache=tmp_path / "cache",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("rewards/margins") == 1, "one of the processes speaks"
    alone = {"batch_size": 4, "accumulation": 2, "log_every": 1, "max_steps": 2, "learning_rate": 1e-2}
    train(TrainConfig(quantize="4bit", **alone), model, data, tmp_path / "one", device="cpu")
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "environment", "named"),
    [
        (TrainConfig(quantize="4bit"), {}, "ddp.yaml"),
        (TrainConfig(), {"FSDP_VERSION": "1"}, "fsdp_version"),
        (TrainConfig(), {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "reads the weights"),
        (TrainConfig(), {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "gradient_checkpointing"),
    ],
)
def test_what_cannot_be_spread_is_refused(settings, environment, named, monkeypatch):
    sharding.check(settings)  # nobody asked for it
    for key, value in {"ACCELERATE_USE_FSDP": "true", **environment}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=named):
        sharding.check(settings)


def test_weights_that_cannot_be_cut_evenly_are_named():
    core = torch.nn.Linear(6, 9)
    sharding._check_shares(core, 3)
    with pytest.raises(ConfigError, match=r"weight of shape \(9, 6\)"):
        sharding._check_shares(core, 4)
    sharding._check_shares(core.requires_grad_(False), 4)


@pytest.mark.parametrize(("own", "others"), [((1, 2, 3), 2), ((), 2), ((1,), 1)])
def test_every_process_runs_as_often_as_the_busiest(own: Sequence[int], others: int):
    accelerator: Any = SimpleNamespace(
        device="cpu", gather=lambda count: torch.stack([count, torch.tensor(others)])
    )
    taken = list(sharding.equally_often(own, 0, accelerator))
    assert [item for item, real in taken if real] == list(own)
    assert len(taken) == max(len(own), others)
    assert all(item == 0 for item, real in taken if not real)


def test_launch_files_leave_precision_to_the_settings():
    for name in ("ddp.yaml", "fsdp.yaml"):
        text = (LAUNCH_FILES / name).read_text(encoding="utf-8")
        assert 'mixed_precision: "no"' in text
