"""What fits where: the memory that tuning some students needs on a GPU, as `train` estimates it.

    python -m benchmarks.memory              # the table of docs/your-student.md
    python -m benchmarks.memory --measure    # small models on the processor: estimate and measurement

For the table nothing is loaded and no GPU is needed: the architectures are written down below, as their
model cards have them, and sizes follow from shapes.

To measure, a process of its own trains a small model with random weights on the processor. It has
trained a toy of the same architecture in the same way before, so that all libraries are there, and it
gives blocks back at once, as a training does whose memory was weighed. Measured is its peak resident
memory, from loading to the saved model, above what it had before.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Contestant, Figures, Work, table
from transformers import AutoConfig

from rightcall.train.config import TrainConfig
from rightcall.train.memory import estimate, step_at_most
from rightcall.train.trainer import dry_run, train

LLAMA = {"model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 131072}
QWEN2 = {"model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768}
QWEN3 = {
    "model_type": "qwen3", "vocab_size": 151936, "max_position_embeddings": 262144, "head_dim": 128,
}  # fmt: skip
SHAPE = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "tie_word_embeddings",
)  # fmt: skip


def _shape(*values: int) -> dict[str, int]:
    return dict(zip(SHAPE, values, strict=True))


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B-Instruct": QWEN2 | _shape(896, 4864, 24, 14, 2, True),
    "meta-llama/Llama-3.2-1B-Instruct": LLAMA | _shape(2048, 8192, 16, 32, 8, True),
    "Qwen/Qwen2.5-1.5B-Instruct": QWEN2 | _shape(1536, 8960, 28, 12, 2, True),
    "meta-llama/Llama-3.2-3B-Instruct": LLAMA | _shape(3072, 8192, 28, 24, 8, True),
    "Qwen/Qwen3-4B-Instruct-2507": QWEN3 | _shape(2560, 9728, 36, 32, 8, True),
    "mistralai/Mistral-7B-Instruct-v0.3": {
        "model_type": "mistral", "vocab_size": 32768, "max_position_embeddings": 32768,
        "sliding_window": None, **_shape(4096, 14336, 32, 32, 8, False),
    },
    "Qwen/Qwen2.5-7B-Instruct": QWEN2
    | _shape(3584, 18944, 28, 28, 4, False)
    | {"vocab_size": 152064},
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA | _shape(4096, 14336, 32, 32, 8, False),
}  # fmt: skip
"""By hub id."""

GPUS = {"16": 15.0, "24": 23.0, "48": 46.5, "80": 78.0}
"""What a GPU is sold with (GB) → what a process finds free on it (GiB), roughly."""

WAYS: dict[str, dict[str, Any]] = {
    "QLoRA": {"quantize": "4bit", "gradient_checkpointing": True},
    "LoRA": {"gradient_checkpointing": True},
    "LoRA, activations kept": {},
    "full": {"tune": "full", "gradient_checkpointing": True},
}
LENGTH = 2048
"""Tokens of a sequence at most, one pair at a time, nothing shared."""


def architecture(name: str) -> Any:
    """The config of a model in the table."""
    table = dict(ARCHITECTURES[name])
    return AutoConfig.for_model(table.pop("model_type"), **table)


def needed(name: str, way: str) -> float:
    """GiB on one GPU."""
    config = TrainConfig(batch_size=1, max_length=LENGTH, **WAYS[way])
    made = estimate(config, step_at_most(config, LENGTH), architecture(name), device="cuda")
    return made.total / 2**30


def lines() -> Iterator[str]:
    """The table, as Markdown."""
    yield f"| student | {' | '.join(WAYS)} |"
    yield f"|---|{'---:|' * len(WAYS)}"
    for name in ARCHITECTURES:
        cells = []
        for way in WAYS:
            size = needed(name, way)
            gpu = next((sold for sold, free in GPUS.items() if size <= free), "")
            cells.append(f"{size:.1f}" + (f" ({gpu} GB)" if gpu else ""))
        yield f"| {name.rpartition('/')[2]} | {' | '.join(cells)} |"


# --- estimate and measurement ----------------------------------------------------------------------

SMALL: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 16384, **_shape(512, 1408, 6, 8, 4, False)},
    "qwen2": {"vocab_size": 32768, **_shape(512, 1408, 6, 8, 2, True)},
    "mistral": {"vocab_size": 8192, "sliding_window": None, **_shape(640, 1792, 5, 10, 2, False)},
}
"""By model type."""
TOY: dict[str, Any] = {"vocab_size": 8192, **_shape(64, 128, 2, 4, 2, False)}

MEASURED: dict[str, dict[str, Any]] = {
    "full": {"tune": "full"},
    "LoRA": {},
    "LoRA, recomputed": {"gradient_checkpointing": True},
    "QLoRA": {"quantize": "4bit"},
}
STEPS, ROWS = 2, 4
"""Optimiser steps, and pairs in each."""


def pairs(path: Path, words: int) -> Path:
    """Pairs whose sides share a prompt, of made-up words."""
    draw = random.Random(0)

    def said(role: str, count: int) -> list[dict[str, str]]:
        letters = "abcdefghijklmnopqrstuvwxyz"
        made = ("".join(draw.choices(letters, k=3)) for _ in range(count))
        return [{"role": role, "content": " ".join(made)}]

    rows = (
        {
            "prompt": said("user", words),
            "chosen": said("assistant", words),
            "rejected": said("assistant", words),
            "problem_id": str(row),
        }
        for row in range(STEPS * ROWS)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def model_folder(folder: Path, kind: str, shape: dict[str, Any]) -> Path:
    """A model with random weights, and the shipped student's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from rightcall.models.weights import load_tokenizer
    from rightcall.tiny import path

    torch.manual_seed(0)
    make: Any = AutoModelForCausalLM.from_config
    make(AutoConfig.for_model(kind, max_position_embeddings=4096, **shape)).save_pretrained(folder)
    load_tokenizer(path("student")).save_pretrained(folder)
    return folder


def training(settings: dict[str, Any]) -> TrainConfig:
    return TrainConfig(batch_size=ROWS, max_steps=STEPS, reference_cache=False, **settings)


def make_training(toy: str, model: str, folder: str, settings: dict[str, Any]) -> Work:
    """Trains the toy, so that only the model's own memory is to come."""
    from rightcall.train.memory import give_back_at_once

    give_back_at_once()
    place, config = Path(folder), training(settings)
    train(config, toy, pairs(place / "few.jsonl", 8), place / "toy", device="cpu")

    def work() -> Figures:
        return {"steps": train(config, model, place / "pairs.jsonl", place / "out", device="cpu").steps}

    return work


def measured(kinds: Sequence[str], words: int) -> Iterator[tuple[object, ...]]:
    """Rows: model, parameters, way, tokens, estimate and measurement in MiB, their ratio."""
    for kind in kinds:
        with tempfile.TemporaryDirectory() as made:
            model, toy = (
                str(model_folder(Path(made) / name, kind, shape))
                for name, shape in (("model", SMALL[kind]), ("toy", TOY))
            )
            for way, settings in MEASURED.items():
                folder = Path(made) / way
                folder.mkdir()
                data = pairs(folder / "pairs.jsonl", words)
                expected = dry_run(training(settings), model, data, device="cpu").memory
                with Contestant(
                    way, make_training, toy, model, str(folder), settings, threads=1
                ) as one:
                    run = one.run()
                held, known = run.peak_mb - run.start_mb, expected.total / 2**20
                size = f"{expected.parameters / 1e6:.0f} M"
                yield kind, size, way, expected.tokens, known, held, known / held


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="small models, on the processor")
    parser.add_argument("--models", nargs="+", choices=SMALL, default=[*SMALL])
    parser.add_argument("--words", type=int, default=40, help="of a prompt, and of a reply")
    asked = parser.parse_args()
    if asked.measure:
        head = ("model", "size", "way", "tokens", "estimate, MiB", "measured, MiB", "ratio")
        rows = []
        for row in measured(asked.models, asked.words):
            print(*row, file=sys.stderr)
            rows.append(row)
        print(table(head, rows))
    else:
        for line in lines():
            print(line, flush=True)
