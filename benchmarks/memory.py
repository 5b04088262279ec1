"""What fits where: the memory that tuning some students needs on a GPU, as `train` estimates it.

    python -m benchmarks.memory            # the table of docs/your-student.md

Nothing is loaded and no GPU is needed: the architectures are written down below, as their model cards
have them, and sizes follow from shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import AutoConfig

from rightcall.train.config import TrainConfig
from rightcall.train.memory import estimate, step_at_most

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


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
