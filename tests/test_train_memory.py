"""Memory known before anything is loaded: against what a real step holds, and what comes of it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from benchmarks.memory import ARCHITECTURES, architecture, needed
from typer.testing import CliRunner

from rightcall.cli import app
from rightcall.config import load_config
from rightcall.errors import ConfigError
from rightcall.rendering import Rendered
from rightcall.train import folder, loop, memory, policy
from rightcall.train.attention import ATTENTION
from rightcall.train.batches import collate_tree, plan
from rightcall.train.data import Row
from rightcall.train.memory import Step, estimate, step_at_most
from rightcall.train.policy import context_window, load_policy, padded_attention
from rightcall.train.trainer import (
    Lora,
    MemoryEstimate,
    TrainConfig,
    Weights,
    dry_run,
    train,
)
from test_train_layouts import step_pairs
from tiny_models import build_tiny

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

EXAMPLES = Path(__file__).parents[1] / "examples"
KNOWN = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
}
"""Parameters, as the model cards' files hold them."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return build_tiny("llama", tmp_path_factory.mktemp("model"), layers=5, hidden=96, heads=6)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return step_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


def config(**changes: Any) -> TrainConfig:
    tuned = {"lora": Lora(r=4, alpha=8)} if changes.get("tune") != "full" else {}
    return TrainConfig(**{"batch_size": 16, **tuned, **changes})


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_are_counted_without_weights(name):
    shapes = memory._Shapes.of(TrainConfig(), architecture(name))
    assert shapes.parameters == KNOWN[name]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_what_is_trained_is_counted_exactly(kind, tmp_path):
    place = build_tiny(kind, tmp_path, layers=4, tie_word_embeddings=kind == "qwen3")
    for settings in (config(tune="full"), config(lora=Lora(targets=("q_proj", "down_proj")))):
        made = estimate(settings, Step(64, 8), memory.load_architecture(place), device="cpu")
        core = load_policy(settings, str(place))
        assert made.trained == sum(p.numel() for p in core.parameters() if p.requires_grad)
        weights = sum(p.nbytes for n, p in core.named_parameters() if "lora_" not in n)
        assert made.parts["weights"] == weights


def test_four_bit_weights_take_what_bitsandbytes_makes_of_them(model):
    pytest.importorskip("bitsandbytes")
    settings = config(quantize="4bit")
    made = estimate(settings, Step(64, 8), memory.load_architecture(model), device="cpu")
    core = load_policy(settings, str(model))
    packed = [p for p in core.parameters() if type(p).__name__ == "Params4bit"]
    assert packed
    scales = sum(p.quant_state.absmax.nbytes for p in packed)
    plain = [(n, p) for n, p in core.named_parameters() if type(p).__name__ != "Params4bit"]
    real = sum(p.nbytes for p in packed) + scales + sum(p.nbytes for n, p in plain if "lora_" not in n)
    assert made.parts["weights"] == pytest.approx(real, rel=0.02)


CASES = [
    {"tune": "full"},
    {"tune": "full", "gradient_checkpointing": True},
    {},
    {"gradient_checkpointing": True},
    {"packing": "padded", "dtype": "bfloat16"},
]


@pytest.mark.parametrize("changes", CASES, ids=lambda c: ", ".join(map(str, c.items())) or "lora")
def test_the_estimate_is_what_a_step_holds(changes, model, data, tmp_path):
    """A real step, with every tensor counted that lives within it."""
    settings = config(**changes)
    made = dry_run(settings, model, data, device="cpu").memory
    held, tokens = peak_of_a_step(settings, model, data, tmp_path)
    assert made.tokens == tokens
    expected = sum(made.parts.get(n, 0) for n in ("activations", "logits", "workspace"))
    assert 0.9 < expected / held < 1.25


def peak_of_a_step(settings: TrainConfig, model: Path, data: Path, out: Path) -> tuple[int, int]:
    core = load_policy(settings, str(model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = loop.rows_of(settings, memory.load_architecture(model), tokenizer, data)
    trainer = loop.build(settings, core, tokenizer, rows, out, device="cpu")
    core.train()
    (pack,) = next(iter(trainer.get_train_dataloader()))["batches"]
    for parameter in core.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    there = chain(
        core.parameters(), core.buffers(), [p.grad for p in core.parameters() if p.requires_grad]
    )
    if pack["tree"] is not None:
        assert core.config._attn_implementation == ATTENTION
    with memory._Scales(there) as scales:
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(core, pack)
        loss.backward()
    return scales.peak, pack["computed"]


def test_logits_are_counted_as_far_as_they_are_held_at_once():
    few = estimate(config(), Step(64, 8), architecture("Qwen/Qwen2.5-0.5B-Instruct"), device="cpu")
    many = estimate(config(), Step(64, 64), architecture("Qwen/Qwen2.5-0.5B-Instruct"), device="cpu")
    assert few.parts["logits"] == pytest.approx(8 * 151936 * 4, rel=0.02)
    assert many.parts["logits"] == pytest.approx(64 * 151936 * 4, rel=0.02)
    assert step_at_most(config(max_length=100, batch_size=2), 4096) == Step(400, 400, least=200)
    many = config(max_length=100, batch_size=2, accumulation=8, pack_tokens=1000)
    assert step_at_most(many, 4096) == Step(1000, 1000, least=200)
    padded = many.model_copy(update={"packing": "padded"})
    assert step_at_most(padded, 4096) == Step(400, 400, 4, 200)
    assert step_at_most(config(packing="padded", max_length=100, method="sft"), 64) == Step(
        1024, 1024, 16, 64
    )


def test_shares_of_weights_are_smaller_than_the_whole():
    shape, step = architecture("meta-llama/Llama-3.1-8B-Instruct"), Step(512, 64)
    settings = TrainConfig(tune="full", gradient_checkpointing=True)
    one, eight = (
        estimate(settings, step, shape, device="cuda", processes=n, sharded=n > 1) for n in (1, 8)
    )
    assert eight.parts["weights"] * 8 == pytest.approx(one.parts["weights"], rel=1e-6)
    assert eight.total < one.total / 3
    copies = estimate(TrainConfig(), step, shape, device="cuda", processes=8)
    assert copies.parts["processes"] == copies.parts["gradients"], "gradients are exchanged"


# --- what comes of it ---------------------------------------------------------------------------


@pytest.fixture
def scarce(monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 3 << 20)


def test_a_training_that_does_not_fit_is_refused_before_anything_is_loaded(
    scarce, model, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "load_policy", lambda *_: pytest.fail("weights were loaded"))
    monkeypatch.setattr(memory, "_HEAP", 0)
    recomputed, _, _, quantized, _ = memory.changes(config())
    monkeypatch.setattr(memory, "changes", lambda _: (recomputed, quantized))
    with pytest.raises(ConfigError, match="does not fit") as refused:
        train(config(tune="full"), model, data, tmp_path / "out")
    said = str(refused.value)
    assert "activations" in said
    assert "radient_checkpointing=true would take" in said
    assert "tune=lora, quantize=4bit would take" in said
    assert "check_memory=false" in said


def test_the_refusal_can_be_overridden_and_the_estimate_is_told(scarce, model, data, tmp_path):
    told: list[MemoryEstimate] = []
    settings = config(check_memory=False, max_steps=1)
    train(settings, model, data, tmp_path / "out", on_estimate=told.append)
    assert told[0].total > (told[0].free or 0)
    assert told[0].free == 3 << 20
    start = Weights(str(model))
    checked = settings.model_copy(update={"check_memory": True})
    same = {folder.identity(made, start, data, None) for made in (settings, checked)}
    assert len(same) == 1, "whether memory was checked makes no other training"


def test_where_there_is_plainly_room_nothing_is_weighed(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "estimate", lambda *_, **__: pytest.fail("weighed"))
    train(config(max_steps=1), model, data, tmp_path / "out")


def test_free_memory_is_shared_by_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8192))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.free_memory("cpu") == 2048


def test_a_dry_run_says_what_training_takes_and_writes_nothing(model, data, tmp_path):
    arguments = ["train", str(data), "--model", str(model), "--out", str(tmp_path / "out"), "--dry-run"]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    for word in ("rows", "weights", "activations", "in all", "free"):
        assert word in made.output
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_run_says_what_its_trainings_take_at_most(model, tmp_path):
    def said(student: str) -> str:
        text = "".join(
            f'[tasks.{name}]\ntask = "math"\nproblems = {{ train = 2, validation = 2, test = 2 }}\n'
            f'models = {{ teacher = {{ kind = "gold" }}, student = "{student}" }}\n'
            for name in ("one", "two")
        )
        path = tmp_path / "run.toml"
        path.write_text(f'name = "x"\n{text}')
        lengths = [f"train.{m}.max_length=256" for m in ("sft", "dpo")]
        settings = [x for s in lengths for x in ("--set", s)]
        made = CliRunner().invoke(
            app, ["run", str(path), "--root", str(tmp_path), *settings, "--dry-run"]
        )
        assert made.exit_code == 0, made.output
        return " ".join(made.output.split())

    output = said(str(model))
    assert "one, two: sft would take at most" in output
    assert "one, two: dpo would take at most" in output
    assert "256 tokens" in output
    assert "is not known" in said(str(tmp_path / "nowhere"))


def test_flash_attention_is_taken_where_it_can_be(monkeypatch):
    assert padded_attention(TrainConfig(attention="sdpa"), "cpu") == "sdpa"
    for there in (False, True):
        monkeypatch.setattr(policy, "find_spec", lambda name, there=there: there or None)
        assert padded_attention(TrainConfig(), "cuda") == ("flash_attention_2" if there else None)
        assert padded_attention(TrainConfig(), "cpu") is None
        assert padded_attention(TrainConfig(dtype="float32"), "cuda") is None
    asked = TrainConfig(attention="flash_attention_2")
    assert padded_attention(asked, "cuda") == "flash_attention_2"
    with pytest.raises(ConfigError, match="needs flash-attn"):
        padded_attention(asked, "cpu")


# --- the examples -------------------------------------------------------------------------------

STUDENTS = {
    "qwen2.5-0.5b": 23.0, "llama-3.2-1b": 23.0, "qwen3-4b": 23.0, "mistral-7b": 23.0,
    "qwen2.5-7b": 23.0, "llama-3.1-8b": 23.0, "llama-3.1-8b-80gb": 78.0,
}  # fmt: skip
"""Run file → GiB that are free on the GPU it names."""


def test_every_example_of_a_student_is_measured():
    files = {path.stem for path in EXAMPLES.glob("*.toml")} - {"demo"}
    assert files == STUDENTS.keys()


@pytest.mark.parametrize("name", STUDENTS)
def test_an_example_fits_the_gpu_that_it_names(name):
    path = EXAMPLES / f"{name}.toml"
    text = path.read_text(encoding="utf-8")
    assert ("80 GB" if STUDENTS[name] > 50 else "24 GB") in text
    loaded = load_config(path)
    assert loaded.name == name
    for task in loaded.tasks.values():
        assert task.models.teacher.kind == "openai"
    shape = architecture(task.models.student.model)
    window = context_window(shape)
    both = (task.train.sft, task.train.dpo)
    larger = max(both, key=lambda settings: step_at_most(settings, window).tokens)
    made = estimate(larger, step_at_most(larger, window), shape, device="cuda")
    assert made.total / 2**30 < STUDENTS[name]


def test_the_table_of_the_page_is_that_of_the_command():
    page = (EXAMPLES.parent / "docs" / "your-student.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    shown = {row[1].strip(): row[2:-1] for row in rows}
    assert {name.rpartition("/")[2] for name in ARCHITECTURES} <= shown.keys()
    found = float(shown["Llama-3.2-1B-Instruct"][0].split()[0])
    assert found == pytest.approx(needed("meta-llama/Llama-3.2-1B-Instruct", "QLoRA"), abs=0.06)


# --- what is weighed ------------------------------------------------------------------------------


def test_a_model_whose_attention_a_tree_cannot_be_is_weighed_as_it_is_trained():
    shape = transformers.AutoConfig.for_model(
        "gemma2", vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    assert memory.as_laid_out(config(), shape).packing == "padded"
    llama = architecture("meta-llama/Llama-3.2-1B-Instruct")
    assert memory.as_laid_out(config(), llama).packing == "tree"


def test_the_largest_tree_is_found_where_the_longest_rows_share_most():
    def row(first: int, length: int, problem: str) -> Row:
        ids = (first, *range(1, length))
        return Row("r", Rendered(ids, (False,) * (length - 1) + (True,)), problem=problem)

    shared = [row(1, 300, f"p{i // 8}") for i in range(320)]
    apart = [row(1000 + i, 200, f"q{i}") for i in range(64)]
    rows, settings = [*shared, *apart], config(method="sft", batch_size=16)
    shares = plan(rows, size=16, processes=1, epochs=1, seed=0)
    largest = max(collate_tree(rows, share.rows)["computed"] for share in shares)
    assert memory.largest_step(settings, rows, shares).tokens == largest >= 16 * 200


def test_the_reference_pass_takes_no_more_at_once_than_training_does(
    model, data, tmp_path, monkeypatch
):
    sizes: dict[bool, list[int]] = {True: [], False: []}
    own = loop.PreferenceTrainer._scored

    def seen(self, core, batch):
        sizes[torch.is_grad_enabled()].append(batch["computed"])
        return own(self, core, batch)

    monkeypatch.setattr(loop.PreferenceTrainer, "_scored", seen)
    train(config(batch_size=1, reference_cache=False), model, data, tmp_path / "out")
    assert max(sizes[False]) <= max(sizes[True])


def test_a_refusal_names_no_setting_that_would_not_help(monkeypatch):
    shape = architecture("meta-llama/Llama-3.2-1B-Instruct")
    settings = config(tune="full", pack_tokens=2048)
    for step in (Step(2048, 100), Step(12_000, 100, least=12_000)):
        found = dict(memory.remedies(settings, step, shape, 1 << 60, device="cuda", processes=1))
        assert "pack_tokens=4096" not in " ".join(found)
        assert ("pack_tokens=1024" in found) == (step.least == 0)
