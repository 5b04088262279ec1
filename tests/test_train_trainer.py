import json
from pathlib import Path
from typing import get_args

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

from rightcall.errors import ConfigError, DataError
from rightcall.train.dpo import LOSSES
from rightcall.train.policy import load_policy
from rightcall.train.trainer import Lora, TrainConfig, Weights, train
from tiny_models import build_tiny

ARCHITECTURES = ["llama", "qwen2", "qwen3", "mistral"]


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def write_pairs(path: Path, count: int = 12) -> Path:
    """Pairs with observations whose chosen side says `stop`, and whose rejected side does not."""
    with path.open("w") as file:
        for i in range(count):
            prompt = [turn("system", "Reply with one function call."), turn("user", f"Tom has {i}.")]
            called = [turn("assistant", f"add({i}, 3)"), turn("user", f"{i + 3}" * (1 + i % 3))]
            right = [*called, turn("assistant", f"stop({i + 3})")]
            wrong = [*called[:1], turn("user", "?"), turn("assistant", f"subtract({i}, 1, 2)")]
            file.write(json.dumps({"prompt": prompt, "chosen": right, "rejected": wrong}) + "\n")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {a: build_tiny(a, folder / a) for a in ARCHITECTURES}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


def config(**changes) -> TrainConfig:
    adapter = {"lora": Lora(r=4, alpha=8)} if changes.get("tune") != "full" else {}
    return TrainConfig(**{"batch_size": 3, **adapter, "log_every": 1, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    name = (
        "adapter_model.safetensors"
        if (folder / "adapter_config.json").exists()
        else "model.safetensors"
    )
    return load_file(folder / name)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_dpo_with_lora_learns_to_prefer_chosen(architecture, models, data, tmp_path):
    result = train(config(learning_rate=5e-3, epochs=3), models[architecture], data, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert result.steps == 12
    assert [line["step"] for line in lines][:12] == list(range(1, 13))
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "policy and reference start equal"
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert lines[-1]["rewards/accuracies"] == 1
    assert lines[-1]["loss"] < 0.4
    assert {"grad_norm", "logps/chosen", "logps/rejected", "tokens_per_second"} <= lines[-1].keys()


def test_an_adapter_is_saved_as_safetensors_with_tokenizer_and_template(models, data, tmp_path):
    out = tmp_path / "out"
    result = train(config(save_every=2), models["llama"], data, out)
    base = transformers.AutoModelForCausalLM.from_pretrained(models["llama"])
    tuned = PeftModel.from_pretrained(base, out)
    assert result.trained_parameters == sum(
        p.numel() for n, p in tuned.named_parameters() if "lora" in n
    )
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template
    assert [p.name for p in result.checkpoints] == ["checkpoint-2"]
    assert (result.checkpoints[0] / "adapter_model.safetensors").exists()
    assert not [p for p in out.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    assert list((out / "log").glob("events*"))
    assert json.loads((out / "train.json").read_text())["config"]["beta"] == 0.1


def test_full_weights_are_saved_as_a_model_of_their_own(models, data, tmp_path):
    train(config(tune="full", learning_rate=1e-3), models["llama"], data, tmp_path / "out")
    before, after = weights(models["llama"]), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[n], after[n]) for n in before)
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_sft_raises_the_likelihood_of_the_chosen_words(models, data, tmp_path):
    train(
        config(method="sft", tune="full", learning_rate=3e-3, epochs=4),
        models["llama"],
        data,
        tmp_path / "out",
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["nll/chosen"] < 0.7 * lines[0]["nll/chosen"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["nll/chosen"], rel=1e-4)
    assert "rewards/margins" not in lines[0]


class Killed(Exception):
    pass


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_killed_run_resumes_to_exactly_the_same_weights(tune, models, data, tmp_path):
    settings = config(
        tune=tune,
        epochs=2,
        save_every=2,
        **({"lora": Lora(r=4, alpha=8, dropout=0.1)} if tune == "lora" else {}),
        learning_rate=1e-3,
        accumulation=2,
    )

    def kill(step: int, steps: int, metrics: dict[str, float]) -> None:
        if step == 3:
            raise Killed

    straight = train(settings, models["llama"], data, tmp_path / "straight")
    with pytest.raises(Killed):
        train(settings, models["llama"], data, tmp_path / "killed", on_log=kill)
    torch.rand(3)
    resumed = train(settings, models["llama"], data, tmp_path / "killed")
    assert resumed.tokens < straight.tokens, "it went on from a checkpoint"
    expected, found = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[n], found[n]) for n in expected)
    steps = [
        [
            json.loads(line)["step"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("straight", "killed")
    ]
    assert steps[0] == steps[1]


def test_a_checkpoint_cut_by_a_kill_is_not_resumed_from(models, data, tmp_path):
    settings, steps = config(save_every=1), []

    def kill(step: int, of: int, metrics: dict[str, float]) -> None:
        if step == 4:
            raise Killed

    expected = train(settings, models["llama"], data, tmp_path / "straight")
    with pytest.raises(Killed):
        train(settings, models["llama"], data, tmp_path / "out", on_log=kill)
    last = max((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))
    assert last.name == "checkpoint-3"
    (last / "trainer_state.json").write_text('{"global_')
    resumed = train(
        settings, models["llama"], data, tmp_path / "out", on_log=lambda step, *_: steps.append(step)
    )
    assert steps == [3, 4], "it went on from the one before"
    assert resumed.steps == expected.steps
    straight = weights(tmp_path / "straight")
    assert all(torch.equal(straight[n], t) for n, t in weights(tmp_path / "out").items())


def test_a_finished_run_is_not_repeated_and_another_is_refused(models, data, tmp_path):
    out = tmp_path / "out"
    first = train(config(), models["llama"], data, out)
    stamp = (out / "adapter_model.safetensors").stat().st_mtime_ns
    assert train(config(), models["llama"], data, out) == first
    assert (out / "adapter_model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="another training"):
        train(config(beta=0.2), models["llama"], data, out)
    assert train(config(beta=0.2), models["llama"], data, out, resume=False).steps == first.steps


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(models, data, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(config(seed=seed, max_steps=2), models["llama"], data, tmp_path / name)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], c[n]) for n in a)


def test_accumulated_micro_batches_give_the_gradient_of_one_large_batch(models, data, tmp_path):
    settings = {"tune": "full", "sft_weight": 0.5, "max_steps": 1, "scheduler": "constant", "warmup": 0}
    norms = []
    for name, size, accumulation in (("one", 12, 1), ("many", 3, 4)):
        result = train(
            config(**settings, batch_size=size, accumulation=accumulation),
            models["llama"],
            data,
            tmp_path / name,
        )
        norms.append((result.metrics["grad_norm"], result.metrics["loss"]))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_gradient_checkpointing_gives_the_same_weights(models, data, tmp_path):
    for name, on in (("off", False), ("on", True)):
        train(
            config(gradient_checkpointing=on, max_steps=2, learning_rate=1e-3),
            models["llama"],
            data,
            tmp_path / name,
        )
    off, on = weights(tmp_path / "off"), weights(tmp_path / "on")
    assert all(torch.allclose(off[n], on[n], atol=1e-6) for n in off)


def test_bfloat16_trains_close_to_float32(models, data, tmp_path):
    losses = [
        train(config(dtype=dtype, max_steps=2), models["llama"], data, tmp_path / dtype).metrics["loss"]
        for dtype in ("float32", "bfloat16")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.1)


def test_the_reference_is_computed_in_the_precision_of_training(models, data, tmp_path):
    """Full weights in float32 are cast for the policy; were they not for the reference, margins would
    begin four thousandths away from zero."""
    settings = config(tune="full", dtype="bfloat16", max_steps=1)
    made = train(settings, models["llama"], data, tmp_path / "out")
    assert abs(made.metrics["rewards/margins"]) < 2e-3


def test_training_goes_on_from_an_adapter_whose_model_is_then_the_reference(models, data, tmp_path):
    train(config(method="sft", learning_rate=3e-3), models["llama"], data, tmp_path / "sft")
    for tune in ("lora", "full"):
        out = tmp_path / tune
        settings = TrainConfig(tune=tune, batch_size=3, max_steps=1, log_every=1)
        train(settings, models["llama"], data, out, adapter=tmp_path / "sft")
        first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
        assert first["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_a_reference_of_its_own_is_what_the_policy_is_held_to(models, data, tmp_path):
    first = train(config(max_steps=2, learning_rate=1e-2), models["llama"], data, tmp_path / "first")
    second = train(
        config(max_steps=2, learning_rate=1e-2), models["llama"], data, tmp_path / "second",
        adapter=first.output,
    )  # fmt: skip
    start = {"adapter": second.output}
    own = train(config(), models["llama"], data, tmp_path / "own", **start)
    same = Weights(str(models["llama"]), str(second.output))
    named = train(config(), models["llama"], data, tmp_path / "named", reference=same, **start)
    held = Weights(str(models["llama"]), str(first.output))
    other = train(config(), models["llama"], data, tmp_path / "other", reference=held, **start)

    def reference(made):
        return load_file(made.output / "reference.safetensors")["logps"]

    torch.testing.assert_close(reference(named), reference(own))
    torch.testing.assert_close(weights(own.output), weights(named.output))
    lines = (tmp_path / "other" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["rewards/margins"] > 0.05, "it begins away from its reference"
    expected = load_file(tmp_path / "second" / "reference.safetensors")["logps"]
    torch.testing.assert_close(reference(other), expected)
    assert not torch.equal(
        *(weights(made.output)[next(iter(weights(own.output)))] for made in (own, other))
    )
    with pytest.raises(DataError, match="another training"):
        train(config(), models["llama"], data, tmp_path / "own", reference=held, **start)


def test_four_bit_weights_stay_frozen_under_a_trained_adapter(models, data, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = config(quantize="4bit", max_steps=1, learning_rate=1e-2, scheduler="constant", warmup=0)
    core = load_policy(settings, str(models["mistral"]))
    trained = {n for n, p in core.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(type(p).__name__ == "Params4bit" for p in core.parameters())
    result = train(settings, models["mistral"], data, tmp_path / "out")
    assert result.metrics["loss"] == pytest.approx(0.6931, abs=0.02)
    assert any(t.abs().max() > 0 for n, t in weights(tmp_path / "out").items() if "lora_B" in n)


def test_quantised_full_weights_are_refused():
    with pytest.raises(ConfigError, match="cannot be trained"):
        TrainConfig(tune="full", quantize="4bit")


def test_every_loss_in_the_table_can_be_chosen():
    assert set(get_args(TrainConfig.model_fields["loss"].annotation)) == set(LOSSES)


@pytest.mark.parametrize(("tune", "rate"), [("lora", 2e-4), ("full", 2e-5)])
def test_the_learning_rate_follows_what_is_tuned(tune, rate):
    assert TrainConfig(tune=tune).peak_learning_rate == rate
    assert TrainConfig(tune=tune, learning_rate=1e-3).peak_learning_rate == 1e-3


def test_length_normalised_loss_starts_at_the_same_point(models, data, tmp_path):
    result = train(config(length_normalised=True, max_steps=1), models["llama"], data, tmp_path / "out")
    assert result.metrics["loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"method": "sft", "beta": 0.3}, "beta"),
        ({"method": "sft", "length_normalised": True}, "length_normalised"),
        ({"method": "sft", "sft_weight": 1.0}, "sft_weight"),
        ({"tune": "full", "lora": Lora(r=4)}, "lora"),
    ],
)
def test_a_setting_without_effect_is_refused_by_its_name(settings, key):
    with pytest.raises(ConfigError, match=f"`{key}` has no effect"):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("module", "settings"), [("wandb", {"wandb": True}), ("bitsandbytes", {"quantize": "4bit"})]
)
def test_a_missing_library_is_named_before_any_work(
    module, settings, models, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("rightcall.models.weights.find_spec", lambda name: None)
    monkeypatch.setattr("rightcall.train.config.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed"):
        train(TrainConfig(**settings), models["llama"], data, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_model_or_adapter_that_is_not_there_is_named(models, data, tmp_path):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save({}, pickled / "adapter_model.bin")
    for tune in ("lora", "full"):
        with pytest.raises(ConfigError, match=r"no adapter_model\.safetensors"):
            train(TrainConfig(tune=tune), models["llama"], data, tmp_path / tune, adapter=pickled)
    with pytest.raises(ConfigError, match="cannot load a model's tokenizer"):
        train(config(), tmp_path / "nowhere", data, tmp_path / "out")


@pytest.mark.parametrize("device", ["meta", "nonsense"])
def test_a_device_that_cannot_be_trained_on_is_refused(device, models, data, tmp_path):
    with pytest.raises(ConfigError, match="device"):
        train(config(), models["llama"], data, tmp_path / "out", device=device)


def test_the_cpu_can_be_asked_for(models, data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    trained = train(config(max_steps=1), models["llama"], data, tmp_path / "out", device="cpu")
    assert trained.steps == 1


def test_starting_afresh_is_named_as_python_and_the_command_line_know_it(models, data, tmp_path):
    train(config(max_steps=1), models["llama"], data, tmp_path / "out")
    with pytest.raises(DataError, match=r"resume=False, or --fresh"):
        train(config(max_steps=2), models["llama"], data, tmp_path / "out")
