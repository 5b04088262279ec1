"""The same training however its tokens are laid out: trees, parts of trees, padded lines, processes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rightcall.errors import ConfigError, DataError
from rightcall.train import scoring
from rightcall.train.batches import collate_tree
from rightcall.train.reference import cache_folder
from rightcall.train.trainer import Lora, TrainConfig, dry_run, train
from tiny_models import build_tiny, build_tokenizer

ARCHITECTURES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 24},
}


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def step_pairs(path: Path, problems: int = 4) -> Path:
    """Whole chains and the step pairs along them: most tokens are shared."""
    with path.open("w") as file:
        for i in range(problems):
            said = [
                turn("system", "Reply with one function call."),
                turn("user", f"Tom has {i} and 3."),
            ]
            for step in range(3):
                good = [turn("assistant", f"add({i}, {step})")]
                bad = [turn("assistant", f"subtract({i}, {step}, 1)" if step else "stop(0)")]
                line = {"prompt": said, "chosen": good, "rejected": bad, "problem_id": str(i)}
                file.write(json.dumps(line) + "\n")
                said = [*said, *good, turn("user", f"The result is {i + step}.")]
            chain = {"prompt": said[:2], "chosen": said[2:-1], "rejected": bad, "problem_id": str(i)}
            file.write(json.dumps(chain) + "\n")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {a: build_tiny(a, folder / a, **options) for a, options in ARCHITECTURES.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return step_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


def config(**changes) -> TrainConfig:
    tuned = {"lora": Lora(r=4, alpha=8)} if changes.get("tune") != "full" else {}
    return TrainConfig(**{"batch_size": 8, "learning_rate": 1e-2, "log_every": 1, **tuned, **changes})


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


COMPARED = {"loss", "grad_norm", "logps/chosen", "logps/rejected", "nll/chosen", "rewards/margins"}


def same(a: Path, b: Path, close: float = 1e-4) -> None:
    for one, other in zip(metrics(a), metrics(b), strict=True):
        for name in sorted(COMPARED & one.keys() | COMPARED & other.keys()):
            assert one[name] == pytest.approx(other[name], rel=close, abs=close), name


@pytest.mark.parametrize(
    ("architecture", "tune", "method"),
    [  # any two of the three in every combination
        *(("llama", "lora", "dpo"), ("llama", "full", "sft")),
        *(("qwen2", "lora", "sft"), ("qwen2", "full", "dpo")),
        *(("qwen3", "lora", "dpo"), ("qwen3", "full", "sft")),
        *(("mistral", "lora", "sft"), ("mistral", "full", "dpo")),
    ],
)
def test_trees_train_as_padded_sequences_do(architecture, tune, method, models, data, tmp_path):
    for packing in ("tree", "padded"):
        settings = config(tune=tune, method=method, packing=packing)
        train(settings, models[architecture], data, tmp_path / packing)
    same(tmp_path / "tree", tmp_path / "padded")
    tree, padded = (metrics(tmp_path / p)[0]["sharing"] for p in ("tree", "padded"))
    assert tree > 2, "most tokens are shared"
    assert padded <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"pack_tokens": 60},
        {"gradient_checkpointing": True},
        {"batch_size": 2, "accumulation": 8},
        {"batch_size": 4, "accumulation": 4, "pack_tokens": 80},
        {"batch_size": 4, "accumulation": 4, "packing": "padded"},
    ],
    ids=["parts", "checkpointing", "accumulation", "accumulated parts", "padded"],
)
def test_how_a_step_is_cut_changes_nothing(changes, models, data, tmp_path):
    settings = {"tune": "full", "max_steps": 1, "sft_weight": 0.5, "warmup": 0, "batch_size": 16}
    train(config(**settings), models["llama"], data, tmp_path / "whole")
    train(config(**settings | changes), models["llama"], data, tmp_path / "cut")
    same(tmp_path / "whole", tmp_path / "cut")


def test_scoring_in_chunks_changes_nothing(models, data, tmp_path, monkeypatch):
    train(config(tune="full"), models["llama"], data, tmp_path / "whole")
    monkeypatch.setattr(scoring, "MAX_LOGITS", 400 * 7)
    train(config(tune="full"), models["llama"], data, tmp_path / "chunks")
    same(tmp_path / "whole", tmp_path / "chunks")


@pytest.mark.parametrize("generic", [False, True], ids=["cpu kernel", "plain products"])
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_bfloat16_trees_stay_close_to_float32(tune, generic, models, data, tmp_path, monkeypatch):
    if generic:
        monkeypatch.setattr("rightcall.train.attention._has_flash", lambda device: False)
    for dtype in ("float32", "bfloat16"):
        train(config(dtype=dtype, tune=tune, max_steps=1), models["llama"], data, tmp_path / dtype)
    same(tmp_path / "float32", tmp_path / "bfloat16", close=0.1)


# --- models that cannot ---------------------------------------------------------------------------


def hybrid(folder: Path) -> Path:
    """A model half of whose layers are short convolutions."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(
        transformers.Lfm2Config(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            layer_types=["conv", "full_attention"],
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    return folder


def test_a_model_with_layers_of_another_kind_is_trained_padded_with_one_clear_line(
    data, tmp_path, caplog
):
    model = hybrid(tmp_path / "model")
    with caplog.at_level(logging.WARNING, logger="rightcall.train.loop"):
        train(config(tune="full", max_steps=1), model, data, tmp_path / "tree")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "rightcall.train.loop"]
    assert "packing=padded" in line
    assert "conv" in line
    train(config(tune="full", max_steps=1, packing="padded"), model, data, tmp_path / "padded")
    same(tmp_path / "tree", tmp_path / "padded")


@pytest.mark.parametrize("packing", ["tree", "padded"])
@pytest.mark.parametrize("begin", [train, dry_run])
def test_flex_attention_on_the_cpu_is_refused_before_anything_is_written(
    begin, packing, models, data, tmp_path
):
    """It has no backward pass there. Padded sequences have no use for it."""
    settings = config(tree_attention="flex", packing=packing, max_steps=1)
    place = () if begin is dry_run else (tmp_path / "out",)
    if packing == "tree":
        with pytest.raises(ConfigError, match=r'flex_attention.*GPU.*tree_attention="auto"'):
            begin(settings, models["llama"], data, *place, device="cpu")
        assert not (tmp_path / "out").exists()
    else:
        assert begin(settings, models["llama"], data, *place, device="cpu").steps == 1


ROTATIONS = {
    "dynamic": {"factor": 4.0},
    "longrope": {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 4.0},
}


def rotating(folder: Path, kind: str, window: int) -> Path:
    """A model whose positions are rotated otherwise once a sequence of the batch exceeds `window`."""
    stretched = kind == "longrope"
    original = {"original_max_position_embeddings": window} if stretched else {}
    parameters = {"rope_type": kind, "rope_theta": 10_000.0, **ROTATIONS[kind], **original}
    context = 4 * window if stretched else window
    return build_tiny("llama", folder, context=context, rope_parameters=parameters)


@pytest.mark.parametrize("kind", ROTATIONS)
def test_within_the_original_window_rotations_do_not_depend_on_the_batch(kind, data, tmp_path):
    model = rotating(tmp_path / "model", kind, 512)
    for packing in ("tree", "padded"):
        train(config(packing=packing), model, data, tmp_path / packing)
    same(tmp_path / "tree", tmp_path / "padded")
    assert metrics(tmp_path / "tree")[0]["sharing"] > 2


@pytest.mark.parametrize("packing", ["tree", "padded"])
@pytest.mark.parametrize("begin", [train, dry_run])
@pytest.mark.parametrize("kind", ROTATIONS)
def test_rows_beyond_the_window_in_which_rotations_are_fixed_are_refused(
    kind, begin, packing, data, tmp_path
):
    """Their log-probabilities would depend on the longest row of the batch."""
    model = rotating(tmp_path / "model", kind, 40)
    place = () if begin is dry_run else (tmp_path / "out",)
    with pytest.raises(DataError, match="are longer than 40 tokens"):
        begin(config(packing=packing), model, data, *place)
    with pytest.raises(ConfigError, match=f"{kind}.*40 tokens.*max_length=400"):
        begin(config(packing=packing, max_length=400), model, data, *place)


def test_dropout_falls_back_too(models, data, tmp_path, caplog):
    settings = config(lora=Lora(r=4, alpha=8, dropout=0.1), max_steps=1)
    with caplog.at_level(logging.WARNING, logger="rightcall.train.loop"):
        train(settings, models["llama"], data, tmp_path / "out")
    assert "dropout" in caplog.text
    assert metrics(tmp_path / "out")[0]["sharing"] <= 1


def without_positions(batch):
    batch["position_ids"] = batch["position_ids"] * 0


def half_a_place_late(batch):
    """Less than what rounding to bfloat16 does to a token."""
    later = batch["position_ids"].shape[1] // 2
    batch["position_ids"][:, later:] += 1


@pytest.mark.parametrize("tune", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", [without_positions, half_a_place_late])
def test_a_tree_that_disagrees_with_the_sequences_stops_the_run(
    fault, dtype, tune, models, data, tmp_path, monkeypatch
):
    def faulty(rows, indices, kernel="block"):
        batch = collate_tree(rows, indices, kernel)
        fault(batch)
        return batch

    monkeypatch.setattr("rightcall.train.loop.collate_tree", faulty)
    with pytest.raises(ConfigError, match="on its prefix tree this model gives other log-prob"):
        train(config(dtype=dtype, tune=tune), models["llama"], data, tmp_path / "out")


# --- reference ------------------------------------------------------------------------------------


def count_reference_rows(monkeypatch) -> list[int]:
    from rightcall.train.loop import PreferenceTrainer

    computed: list[int] = []
    own = PreferenceTrainer._reference_pass

    def counting(self, indices):
        computed.append(len(indices))
        return own(self, indices)

    monkeypatch.setattr(PreferenceTrainer, "_reference_pass", counting)
    return computed


def test_a_second_training_on_the_same_base_reads_its_reference(models, data, tmp_path, monkeypatch):
    computed = count_reference_rows(monkeypatch)
    train(config(), models["llama"], data, tmp_path / "a")
    assert computed == [16]
    computed.clear()
    more = tmp_path / "more.jsonl"
    more.write_text(
        data.read_text()
        + step_pairs(tmp_path / "other.jsonl", 5).read_text()[-3000:].partition("\n")[2]
    )
    train(config(beta=0.3), models["llama"], more, tmp_path / "b")
    assert computed[0] == 8, "a sample is computed again"
    assert 0 < sum(computed[1:]) < 8, "and what is new"
    computed.clear()
    train(config(beta=0.3), models["qwen2"], data, tmp_path / "c")
    assert computed == [16], "another base has another reference"


@pytest.mark.parametrize(("dtype", "off"), [("float32", 0.05), ("bfloat16", 1.0)])
def test_a_stale_cache_is_seen_and_computed_anew(dtype, off, models, data, tmp_path, caplog):
    """`off`: nats by which sequences are wrong, one up and the next down."""
    train(config(dtype=dtype), models["llama"], data, tmp_path / "a")
    (file,) = cache_folder().glob("*.safetensors")
    table = load_file(file)
    signs = 1 - 2 * (torch.arange(len(table["logps"])) % 2)
    save_file({**table, "logps": table["logps"] + off * signs}, file)
    with caplog.at_level(logging.WARNING, logger="rightcall.train.reference"):
        train(config(dtype=dtype, seed=1, max_steps=1), models["llama"], data, tmp_path / "b")
    assert "stale" in caplog.text
    assert metrics(tmp_path / "b")[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    caplog.clear()
    train(config(dtype=dtype, seed=2, max_steps=1), models["llama"], data, tmp_path / "c")
    assert "stale" not in caplog.text


def test_an_unreadable_cache_is_made_anew(models, data, tmp_path, caplog):
    train(config(max_steps=1), models["llama"], data, tmp_path / "a")
    (file,) = cache_folder().glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING, logger="rightcall.train.reference"):
        train(config(seed=1, max_steps=1), models["llama"], data, tmp_path / "b")
    assert "cannot be read" in caplog.text
    assert len(load_file(file)["logps"]) > 0


def test_the_adapter_switched_off_costs_one_pass_more_a_step(models, data, tmp_path, monkeypatch):
    from rightcall.train import loop

    passes = []
    own = loop.entry_logps
    monkeypatch.setattr(loop, "entry_logps", lambda *a: passes.append(1) or own(*a))
    train(config(reference="adapter_off"), models["llama"], data, tmp_path / "out")
    assert len(passes) == 4, "two steps, policy and reference each"


def test_an_adapter_that_is_gone_on_with_takes_this_trainings_dropout(models, data, tmp_path, caplog):
    dropping = config(method="sft", lora=Lora(r=4, alpha=8, dropout=0.1), max_steps=1)
    train(dropping, models["llama"], data, tmp_path / "sft")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="rightcall.train.loop"):
        train(config(max_steps=1), models["llama"], data, tmp_path / "dpo", adapter=tmp_path / "sft")
    assert "dropout" not in caplog.text
    assert metrics(tmp_path / "dpo")[0]["sharing"] > 2
    with pytest.raises(ConfigError, match=r"another `lora\.r`: 4"):
        train(
            config(lora=Lora(r=8, alpha=8)),
            models["llama"],
            data,
            tmp_path / "other",
            adapter=tmp_path / "sft",
        )


def test_targets_that_no_layer_has_are_a_config_error(models, data, tmp_path):
    with pytest.raises(ConfigError, match="no adapter fits this model"):
        train(config(lora=Lora(targets=("nosuch",))), models["llama"], data, tmp_path / "out")


def test_the_adapter_switched_off_is_the_same_reference(models, data, tmp_path):
    for reference in ("precomputed", "adapter_off"):
        train(config(reference=reference), models["llama"], data, tmp_path / reference)
    same(tmp_path / "precomputed", tmp_path / "adapter_off")
    assert not (tmp_path / "adapter_off" / "reference.safetensors").exists()


def test_an_adapter_that_is_part_of_the_reference_cannot_be_switched_off(models, data, tmp_path):
    train(config(method="sft", max_steps=1), models["llama"], data, tmp_path / "sft")
    with pytest.raises(ConfigError, match="cannot be switched off"):
        train(
            config(reference="adapter_off"),
            models["llama"],
            data,
            tmp_path / "dpo",
            adapter=tmp_path / "sft",
        )
    with pytest.raises(ConfigError, match="no adapter to switch off"):
        TrainConfig(tune="full", reference="adapter_off")


# --- processes ------------------------------------------------------------------------------------

SCRIPT = """
import sys
from rightcall.train.trainer import Lora, TrainConfig, train
settings = TrainConfig.model_validate_json(sys.argv[1])
train(settings, sys.argv[2], sys.argv[3], sys.argv[4], device="cpu")
"""


@pytest.mark.slow
def test_two_processes_train_as_one_does(models, data, tmp_path):
    """By `accelerate launch`, over gloo: that is what "multi_gpu" comes to without a GPU."""
    settings = {"max_steps": 2, "sft_weight": 0.5}
    train(config(**settings, batch_size=4, accumulation=2), models["llama"], data, tmp_path / "one")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launched = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", str(script)),
        *(config(**settings, batch_size=4).model_dump_json(), str(models["llama"]), str(data)),
        str(tmp_path / "two"),
    ]
    done = subprocess.run(
        launched,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RIGHTCALL_CACHE": str(tmp_path / "cache")},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("one", "two"))
    # Where a gradient is next to nothing, Adam makes a step of its rounding: a few numbers may differ.
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    assert (apart > 1e-5).float().mean() < 0.005
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        for name in ("loss", "logps/chosen", "rewards/margins", "nll/chosen"):
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5), name
