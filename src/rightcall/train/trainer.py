"""Training as a stage: a file of pairs or conversations and a model in, a tuned model out.

The output folder holds the final model or adapter with its tokenizer (safetensors), `train.json`
(settings, identity of the inputs, result), `metrics.jsonl`, `reference.safetensors` (DPO),
`log/` for TensorBoard and `checkpoints/`. Nothing heavy is imported until `train` is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rightcall.chain import Problem
from rightcall.train.config import (
    Lora,
    MemoryEstimate,
    OnEstimate,
    OnLog,
    TrainConfig,
    TrainPlan,
    TrainResult,
    Weights,
)

__all__ = [
    "Lora", "MemoryEstimate", "OnEstimate", "OnLog", "TrainConfig", "TrainPlan", "TrainResult",
    "Weights", "at_most", "dry_run", "train",
]  # fmt: skip


def train(
    config: TrainConfig,
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    adapter: str | Path | None = None,
    chat_template: str | Path | None = None,
    reference: Weights | None = None,
    test: Iterable[Problem] = (),
    device: str | None = None,
    resume: bool = True,
    on_log: OnLog | None = None,
    on_estimate: OnEstimate | None = None,
) -> TrainResult:
    """Tune `model` (hub id or folder) on `data` (JSONL) and write the result to `output`.

    `adapter` is a LoRA adapter to start from: it is trained further, or merged before full weights
    are trained. The DPO reference is the model as it stands when training starts, adapter included,
    unless `reference` names another one with the same tokenizer. `chat_template` is a file that takes
    the place of the tokenizer's own template (default: the one that the adapter brings, if it is
    another); it is saved with the result. `test` problems must not be learned from: where a row asks
    one of them, or belongs to a relative of one, nothing is trained (`DataError`).
    `device` is "cpu" or "cuda"; default CUDA where there is one.
    With `resume`, a run that was killed goes on from its last checkpoint and ends with the same
    weights, and a finished run is not repeated; an output folder of another training is refused
    (`DataError`). Raises `ConfigError`, `DataError` and `RenderingError` before training starts, also
    if it will not fit into memory. `on_estimate` is told what it needs, unless there is plainly room.
    """
    from rightcall.train.data import check_unseen
    from rightcall.train.loop import run

    check_unseen(data, test)
    _check(config, device, model, *([] if reference is None else [reference.model]))
    start = _weights(model, adapter, chat_template)
    return run(config, start, Path(data), Path(output), reference, device, resume, on_log, on_estimate)


def dry_run(
    config: TrainConfig,
    model: str | Path,
    data: str | Path,
    *,
    adapter: str | Path | None = None,
    chat_template: str | Path | None = None,
    test: Iterable[Problem] = (),
    device: str | None = None,
) -> TrainPlan:
    """What `train` would take, and what it would leave out. No weights are loaded and nothing is
    written. Raises what `train` raises before it starts, but for memory that is too small."""
    from rightcall.train import loop
    from rightcall.train.data import check_unseen

    check_unseen(data, test)
    _check(config, device, model)
    start = _weights(model, adapter, chat_template)
    return loop.dry_run(config, start, Path(data), device)


def _check(config: TrainConfig, device: str | None, *models: str | Path) -> None:
    """What can be refused before rows are read or anything is written."""
    from rightcall.train import memory, policy

    place = policy.training_device(device)
    policy.padded_attention(config, place)
    policy.check_tree_attention(config, place)
    for model in models if config.max_length is not None else ():
        policy.check_length(config, memory.load_architecture(model))


def _weights(
    model: str | Path, adapter: str | Path | None, chat_template: str | Path | None
) -> Weights:
    from rightcall.models.weights import chosen_template

    template = chosen_template(model, adapter, chat_template)
    given = (None if place is None else str(place) for place in (adapter, template))
    return Weights(str(model), *given)


def at_most(
    config: TrainConfig, model: str | Path, *, device: str | None = None
) -> tuple[MemoryEstimate, int]:
    """What `train` would take of data that is not there yet: memory, with every row as long as it may
    be and nothing shared; and how long that is, in tokens. No weights are loaded. Raises `ConfigError`
    if the model's config cannot be read."""
    from rightcall.train import memory, policy

    architecture = memory.load_architecture(model)
    place, window = policy.training_device(device), policy.context_window(architecture)
    laid_out = memory.as_laid_out(config, architecture)
    step = memory.step_at_most(laid_out, window)
    made = memory.estimate(laid_out, step, architecture, device=place)
    made = made.model_copy(update={"free": memory.free_memory(place)})
    return made, min(config.max_length or window, window)
