"""The output folder of a training: what it holds, and whether it may be gone on with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rightcall.chain import digest
from rightcall.errors import DataError
from rightcall.models.weights import adapter_version, read_template, version
from rightcall.train.config import TrainConfig, TrainResult, Weights

_PLAN = 2
"""Of the way in which rows are spread over steps (`batches.plan`): another one is another training."""


def identity(config: TrainConfig, start: Weights, data: Path, reference: Weights | None) -> str:
    """What decides the result: settings, weights, data, and a chat template that was given."""
    if not data.is_file():
        raise DataError("there is no such training file", value=str(data))
    settings = config.model_dump(exclude={"log_every", "wandb", "keep", "check_memory"})
    content = hashlib.sha256(data.read_bytes()).hexdigest()
    held_to = () if reference is None else (_versions(reference),)
    template = () if start.chat_template is None else (read_template(start.chat_template),)
    return digest(_PLAN, settings, content, *_versions(start), *held_to, *template)


def _versions(weights: Weights) -> tuple[str, str | None]:
    tuned = weights.adapter and (adapter_version(weights.adapter) or weights.adapter)
    return version(weights.model) or weights.model, tuned


def finished(output: Path, identity: str) -> TrainResult | None:
    record = _record(output)
    if record is None or record.get("identity") != identity or "result" not in record:
        return None
    return TrainResult.model_validate(
        {**record["result"], "output": output, "checkpoints": tuple(checkpoints(output))}
    )


def _record(output: Path) -> dict[str, Any] | None:
    path = output / "train.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DataError("the training record cannot be read", value=str(path)) from error
    return found


def prepare(output: Path, identity: str, config: TrainConfig, resume: bool) -> None:
    """Make the folder ready: kept if it holds the same training, refused if it holds another,
    emptied of its training if the caller starts afresh."""
    record = _record(output)
    if record is not None and resume and record.get("identity") != identity:
        raise DataError(
            "the output folder holds another training: its settings, model or data differ",
            value=str(output),
            remedy="Choose another folder, or start afresh (resume=False, or --fresh).",
        )
    if record is None and (output / "checkpoints").exists():
        raise DataError(
            "the output folder holds checkpoints that no training record belongs to",
            value=str(output),
            remedy="Choose another folder.",
        )
    if record is None or not resume:
        for name in ("checkpoints", "log") if record else ():
            shutil.rmtree(output / name, ignore_errors=True)
        for name in ("metrics.jsonl", "reference.safetensors", "train.json"):
            (output / name).unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    write_record(output, identity, config, None)


def write_record(output: Path, identity: str, config: TrainConfig, result: TrainResult | None) -> None:
    record: dict[str, Any] = {"identity": identity, "config": config.model_dump(mode="json")}
    if result is not None:
        record["result"] = result.model_dump(mode="json", exclude={"output", "checkpoints"})
    part = output / "train.json.part"
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(output / "train.json")


def checkpoints(output: Path) -> list[Path]:
    """Whole checkpoints, oldest first: the trainer's state is the last file of one to be written."""
    found = [p for p in (output / "checkpoints").glob("checkpoint-*") if _whole(p)]
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))


def _whole(checkpoint: Path) -> bool:
    try:
        state: Mapping[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return "global_step" in state


_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_0")
"""Of one process; of weights spread over several, in one file or in a folder of shares."""
_SPREAD = ("pytorch_model_fsdp.bin", "pytorch_model_fsdp_0")
"""The trainer's second copy of weights that were spread, which it goes on from."""


def last_checkpoint(output: Path) -> Path | None:
    """The newest that training can go on from."""
    found = [p for p in checkpoints(output) if any((p / name).exists() for name in _OPTIMIZER)]
    return found[-1] if found else None


def leave_only_models(output: Path) -> None:
    """Once training is over nothing goes on from its checkpoints: what remains of them are models to
    choose from, without the state of the optimiser, which is larger, or any pickle."""
    others = ("scheduler.pt", "scaler.pt", "training_args.bin")
    for name in (*_OPTIMIZER, *_SPREAD, *others):
        for path in (output / name, *output.glob(f"checkpoints/*/{name}")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for file in output.glob("checkpoints/*/rng_state*.pth"):
        file.unlink(missing_ok=True)


def drop_metrics_after(output: Path, step: int) -> None:
    path = output / "metrics.jsonl"
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept))
