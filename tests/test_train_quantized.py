"""QLoRA for real: frozen 4-bit weights under an adapter, by bitsandbytes, on the processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from rightcall.models.weights import load_adapter, load_model
from rightcall.train.policy import load_policy
from rightcall.train.trainer import Lora, TrainConfig, train
from test_train_trainer import write_pairs
from tiny_models import build_tiny

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",
    "ignore:Merge lora module to 4-bit:UserWarning",
)

ARCHITECTURES = ["llama", "qwen2", "qwen3", "mistral"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {a: build_tiny(a, folder / a) for a in ARCHITECTURES}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", 6)


def config(**changes: Any) -> TrainConfig:
    own = {"lora": Lora(r=4, alpha=8), "learning_rate": 5e-3, "batch_size": 6, "log_every": 1}
    return TrainConfig(quantize="4bit", **{**own, "epochs": 4, "scheduler": "constant", **changes})


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def frozen(core: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in core.named_parameters() if "lora_" not in n}


def logits(core: Any) -> torch.Tensor:
    with torch.no_grad():
        return core.eval()(torch.arange(20)[None]).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_falls_and_the_quantised_weights_stay_as_they_were(
    architecture, models, data, tmp_path, monkeypatch
):
    from rightcall.train import loop

    kept = []
    monkeypatch.setattr(loop, "load_policy", lambda *a: kept.append(load_policy(*a)) or kept[-1])
    train(config(warmup=0), models[architecture], data, tmp_path / "out")
    lines = metrics(tmp_path / "out")
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "the reference is the base"
    assert lines[-1]["loss"] < 0.6
    before = frozen(load_policy(config(), str(models[architecture])))
    after = frozen(kept[0])
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert any(t.dtype is torch.uint8 for t in after.values())


def test_the_adapter_is_the_same_over_the_weights_that_it_was_trained_on(models, data, tmp_path):
    train(config(), models["llama"], data, tmp_path / "out")
    base = load_model(models["llama"], dtype="float32", quantization="4bit", device="cpu")
    plain = logits(base)
    tuned = load_adapter(base, tmp_path / "out")
    under = logits(tuned)
    assert not torch.allclose(plain, under, atol=1e-3)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned), plain), "switched off it is the base"
    again = load_policy(config(), str(models["llama"]), tmp_path / "out")
    torch.testing.assert_close(logits(again), under)


def test_the_adapter_can_be_merged_into_whole_weights(models, data, tmp_path):
    """As it is served: the weights of the checkpoint, not the quantised ones."""
    train(config(), models["qwen2"], data, tmp_path / "out")
    whole = load_model(models["qwen2"], dtype="float32", device="cpu")
    over = load_adapter(whole, tmp_path / "out")
    expected = logits(over)
    torch.testing.assert_close(logits(over.merge_and_unload()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_reference_is_the_same_before_training_and_with_the_adapter_off(models, data, tmp_path):
    for reference in ("precomputed", "adapter_off"):
        train(config(reference=reference), models["llama"], data, tmp_path / reference)
    one, other = (metrics(tmp_path / r) for r in ("precomputed", "adapter_off"))
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def test_recomputed_activations_give_the_same_adapter(models, data, tmp_path):
    """Gradients reach the first layer's adapter although nothing before it is trained."""
    for on in (False, True):
        settings = config(gradient_checkpointing=on, epochs=2)
        train(settings, models["mistral"], data, tmp_path / str(on))
    off, on_ = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("False", "True"))
    first = [n for n in on_ if "layers.0." in n and "lora_B" in n]
    assert first
    assert all(on_[n].abs().max() > 0 for n in first)
    assert all(torch.allclose(off[n], on_[n], atol=1e-6) for n in off)


def test_gradients_are_the_same_after_the_model_was_measured(models):
    """On processors with bfloat16 units bitsandbytes lays weights out anew when it evaluates: products
    are then rounded to bfloat16, also when training goes on, and no gradient passes through."""
    core = load_policy(config(), str(models["llama"]))
    for name, parameter in core.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)

    def gradients() -> dict[str, torch.Tensor]:
        core.train().zero_grad()
        core(torch.arange(20)[None]).logits.square().mean().backward()
        return {n: p.grad.clone() for n, p in core.named_parameters() if p.requires_grad}

    before, shown = gradients(), logits(core)
    torch.testing.assert_close(gradients(), before)
    core.train()
    torch.testing.assert_close(core(torch.arange(20)[None]).logits.detach(), shown)


def test_norms_are_exact_and_the_large_tables_are_not_doubled(models):
    """At bfloat16 the norms are in float32; embeddings and head stay half as large."""
    core = load_policy(config(dtype="bfloat16"), str(models["qwen3"]))
    kinds = {n: p.dtype for n, p in core.named_parameters() if "lora_" not in n and "proj" not in n}
    assert {d for n, d in kinds.items() if "norm" in n} == {torch.float32}
    assert {d for n, d in kinds.items() if "norm" not in n} == {torch.bfloat16}
    trained = {p.dtype for p in core.parameters() if p.requires_grad}
    assert trained == {torch.float32}


def test_bfloat16_over_four_bits_learns_too(models, data, tmp_path):
    train(config(dtype="bfloat16", warmup=0), models["llama"], data, tmp_path / "out")
    lines = metrics(tmp_path / "out")
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=0.05)
    assert lines[-1]["loss"] < 0.6


@pytest.mark.slow
def test_a_resumed_training_goes_on_over_the_same_four_bits(models, data, tmp_path):
    class Killed(Exception):
        pass

    def kill(step: int, steps: int, logged: dict[str, float]) -> None:
        if step == 3:
            raise Killed

    transformers.set_seed(0)
    settings = config(save_every=2)
    train(settings, models["llama"], data, tmp_path / "straight")
    with pytest.raises(Killed):
        train(settings, models["llama"], data, tmp_path / "killed", on_log=kill)
    train(settings, models["llama"], data, tmp_path / "killed")
    one, other = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("straight", "killed"))
    assert all(torch.equal(one[n], other[n]) for n in one)
