"""What `train` does, on `transformers.Trainer` through its public hooks.

Load model and rows → reference log-probabilities in one pass (no second model in memory) → the
plan of micro-batches → optimiser steps → save. Everything random comes from the seed, and the plan
is a list, so a resumed run repeats nothing and skips nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from rightcall.chain import digest
from rightcall.errors import ConfigError, DataError
from rightcall.models.weights import (
    adapter_folder,
    checked_device,
    load_adapter,
    load_model,
    load_tokenizer,
    version,
)
from rightcall.rendering import Renderer
from rightcall.train.data import Batch, MicroBatch, Row, Rows, collate, load_rows, plan
from rightcall.train.dpo import LOSSES, log_ratio, sequence_logps
from rightcall.train.scoring import batch_logps, check
from rightcall.train.trainer import OnLog, TrainConfig, TrainResult

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Nats per token by which two orders of the same computation may differ."""


def run(
    config: TrainConfig,
    model: str,
    data: Path,
    output: Path,
    adapter: str | Path | None,
    device: str | None,
    resume: bool,
    on_log: OnLog | None,
) -> TrainResult:
    """See `rightcall.train.trainer.train`."""
    place = _device(device)
    identity = _identity(config, model, data, adapter)
    if resume and (finished := _finished(output, identity)) is not None:
        return finished
    _prepare(output, identity, config, resume)
    transformers.set_seed(config.seed)
    tokenizer = load_tokenizer(model)
    core = load_policy(config, model, adapter, place)
    rows = load_rows(
        data,
        Renderer(tokenizer),
        method=config.method,
        max_length=config.max_length or _context(core),
        mask_observations=config.mask_observations,
        too_long=config.too_long,
        strategies=config.strategies,
    )
    trainer = build(config, core, tokenizer, rows, output, on_log, place)
    last = _last_checkpoint(output)
    _drop_metrics_after(output, int(last.name.rpartition("-")[2]) if last else 0)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.monotonic() - started
    trainer.save_model(str(output))
    (output / "training_args.bin").unlink(missing_ok=True)  # a pickle, and train.json says the same
    result = TrainResult(
        output=output,
        checkpoints=tuple(_checkpoints(output)),
        steps=trainer.state.global_step,
        rows=len(rows.rows),
        too_long=rows.too_long,
        tokens=trainer.tokens,
        seconds=seconds,
        trained_parameters=sum(p.numel() for p in core.parameters() if p.requires_grad),
        reference_seconds=trainer.reference_seconds,
        metrics=trainer.logged,
    )
    if trainer.is_world_process_zero():
        _write_record(output, identity, config, result)
    return result


# --- model -------------------------------------------------------------------------------------


def _device(asked: str | None) -> str:
    """ "cpu" or "cuda". Which of several GPUs is the launcher's affair (one process for each)."""
    place = checked_device(asked)
    if place not in {"cpu", "cuda", "cuda:0"}:
        raise ConfigError(
            "not a device to train on",
            value=asked,
            remedy='Say "cpu" or "cuda", and choose among GPUs with CUDA_VISIBLE_DEVICES.',
        )
    return place.partition(":")[0]


def compute_dtype(config: TrainConfig, device: str) -> torch.dtype:
    if config.dtype == "auto":
        return torch.bfloat16 if device == "cuda" else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def load_policy(
    config: TrainConfig, model: str, adapter: str | Path | None = None, device: str | None = None
) -> Any:
    """The model to tune, with its adapter on it; only what is trained requires gradients. Raises
    `ConfigError`."""
    frozen, place = config.tune == "lora", _device(device)
    loaded = load_model(
        model,
        dtype=compute_dtype(config, place) if frozen else torch.float32,
        quantization=None if config.quantize == "none" else config.quantize,
        device="cpu" if place == "cpu" else None,  # the trainer moves it to its own GPU
    )
    if config.gradient_checkpointing:
        _checkpoint_activations(loaded)
    return _adapted(config, loaded, adapter) if frozen else _merged(loaded, adapter)


def _checkpoint_activations(loaded: Any) -> None:
    settings = {"use_reentrant": False}  # with frozen weights below the first adapter
    if hasattr(loaded, "activation_checkpointing_enable"):
        loaded.activation_checkpointing_enable(settings)
    else:  # the name until transformers 5.22
        loaded.gradient_checkpointing_enable(settings)


def _adapted(config: TrainConfig, loaded: Any, adapter: str | Path | None) -> Any:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.quantize != "none":
        prepare: Any = prepare_model_for_kbit_training
        loaded = prepare(loaded, use_gradient_checkpointing=False)
    if adapter is not None:
        return load_adapter(loaded, adapter, trainable=True)
    lora = config.lora
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return get_peft_model(
        loaded,
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        ),
    )


def _merged(loaded: Any, adapter: str | Path | None) -> Any:
    if adapter is None:
        return loaded
    return load_adapter(loaded, adapter).merge_and_unload().requires_grad_(True)


def _context(core: Any) -> int:
    return int(getattr(core.config.get_text_config(), "max_position_embeddings", None) or 1 << 20)


# --- trainer -----------------------------------------------------------------------------------


def build(
    config: TrainConfig,
    core: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    output: Path,
    on_log: OnLog | None = None,
    device: str | None = None,
) -> PreferenceTrainer:
    """A trainer that is ready to train, its reference log-probabilities computed or read."""
    arguments = _arguments(config, output, _device(device))
    steps = plan(
        rows.rows,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        per_step=config.accumulation * arguments.world_size,
        max_steps=config.max_steps,
    )
    arguments.max_steps = len(steps) // (config.accumulation * arguments.world_size)
    arguments.warmup_steps = int(config.warmup * arguments.max_steps)
    every = config.save_every or -(-arguments.max_steps // 4)
    trainer = PreferenceTrainer(
        model=core,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=steps,
        callbacks=[_SaveEvery(every), _tensorboard(output)],
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.equip(config, rows.rows, output, on_log)
    return trainer


def _arguments(config: TrainConfig, output: Path, device: str) -> TrainingArguments:
    bfloat16 = compute_dtype(config, device) is torch.bfloat16
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.peak_learning_rate,
        lr_scheduler_type=config.scheduler,
        weight_decay=config.weight_decay,
        max_steps=1,
        max_grad_norm=config.max_grad_norm,
        bf16=bfloat16,
        seed=config.seed,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        logging_first_step=True,
        save_strategy="no",
        save_total_limit=config.keep,
        report_to=["wandb"] if config.wandb else [],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=device == "cuda",
        use_cpu=device == "cpu",
        optim="adamw_torch",
    )


def _tensorboard(output: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(log_dir=str(output / "log"))
    return TensorBoardCallback(writer)  # type: ignore[no-untyped-call]


class _SaveEvery(TrainerCallback):
    """Checkpoints at every so many steps; the end of training is saved as the output itself."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = (
            state.global_step % self.steps == 0 and state.global_step < state.max_steps
        )
        return control


class PreferenceTrainer(transformers.Trainer):
    """DPO and SFT over micro-batches of a plan (`train_dataset`). Call `equip` before training."""

    config: TrainConfig
    rows: Sequence[Row]
    reference: Tensor
    """[rows, 2]: log π_ref of chosen and rejected; empty for SFT."""
    reference_seconds: float = 0.0
    share: bool = False
    tokens: int = 0
    logged: dict[str, float]
    _sums: dict[str, Any]

    def equip(
        self, config: TrainConfig, rows: Sequence[Row], output: Path, on_log: OnLog | None
    ) -> None:
        """Give the trainer its rows, prove its fast path on the first of them, and compute the
        reference with the model as it stands."""
        self.config, self.rows, self.output, self.on_log = config, rows, output, on_log
        self.logged, self._sums, self._since = {}, {}, time.monotonic()
        self.share = config.share_prefix and not config.gradient_checkpointing
        self.core = self.accelerator.unwrap_model(self.model)
        self.share = self.share and self._sharing_is_exact()
        if config.method == "dpo":
            started = time.monotonic()
            self.reference = self._stored_reference().to(self.args.device)
            self.reference_seconds = time.monotonic() - started

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The plan in its order: one item is one micro-batch."""
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=1,
            collate_fn=self._collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _collate(self, items: Sequence[MicroBatch]) -> dict[str, Any]:
        (item,) = items
        batch = collate(self.rows, item.rows)
        return {**batch, "step_rows": item.step_rows, "step_tokens": item.step_tokens}

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum over the micro-batch divided by the totals of its optimiser step, scaled so that the
        division by micro-batches (trainer) and the mean over devices give the step's mean."""
        del num_items_in_batch
        batch: Batch = inputs
        logps, lengths = self._scored(model, batch)
        parts = self._parts(batch, logps, lengths)
        weight = {"rows": 1 / inputs["step_rows"], "tokens": 1 / inputs["step_tokens"]}
        loss = sum(part.sum() * weight[unit] * scale for part, unit, scale in parts)
        self._note(batch, logps.detach(), lengths)
        scaled = loss * self.args.gradient_accumulation_steps * self.args.world_size
        return (scaled, {"logps": logps}) if return_outputs else scaled

    def _scored(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens = batch_logps(model, self.core, batch, share=self.share)
        return sequence_logps(tokens, batch["owner"], len(batch["input_ids"]))

    def _parts(self, batch: Batch, logps: Tensor, lengths: Tensor) -> list[tuple[Tensor, str, float]]:
        """The terms of the loss: values to be summed, what they are averaged over, their weight."""
        chosen = batch["chosen"]
        imitation = (-logps[chosen], "tokens")
        if self.config.method == "sft":
            return [(*imitation, 1.0)]
        better, worse = self._log_ratios(batch, logps, lengths)
        pairs = LOSSES[self.config.loss](better - worse, self.config.beta)
        terms: list[tuple[Tensor, str, float]] = [(pairs, "rows", 1.0)]
        return [*terms, (*imitation, self.config.sft_weight)] if self.config.sft_weight else terms

    def _log_ratios(self, batch: Batch, logps: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        reference = self.reference[batch["rows"]]
        sides = (batch["chosen"], reference[:, 0]), (batch["rejected"], reference[:, 1])
        better, worse = (
            log_ratio(logps[side], known, lengths[side] if self.config.length_normalised else None)
            for side, known in sides
        )
        return better, worse

    # --- reference and proof ---

    def _sharing_is_exact(self) -> bool:
        """Compare the fast path with a plain pass over the first row, as the model is not known."""
        tolerance = _TOLERANCE[compute_dtype(self.config, self.args.device.type)]
        was_training = self.core.training
        self.core.eval()
        batch: Any = self._on_device(collate(self.rows, range(min(2, len(self.rows)))))
        with self.compute_loss_context_manager():
            plain = check(self.core, batch, share=False)
            shared = check(self.core, batch, share=True) if self.share else 0.0
        self.core.train(was_training)
        if not plain <= tolerance:
            raise ConfigError(
                "this model's head gives other log-probabilities for single positions than for all",
                value=plain,
                remedy="Train another architecture, or report this one.",
            )
        if not shared <= tolerance:
            logger.warning("share_prefix is off: with this model it changes results by %g nats", shared)
        return shared <= tolerance

    def _on_device(self, batch: Batch) -> Any:
        device = self.args.device
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _stored_reference(self) -> Tensor:
        path = self.output / "reference.safetensors"
        if path.exists():
            stored = load_file(path)["logps"]
            if len(stored) == len(self.rows):
                return stored
        found = self._compute_reference()
        if self.is_world_process_zero():
            save_file({"logps": found}, path)
        return found

    @torch.no_grad()
    def _compute_reference(self) -> Tensor:
        """log π_ref of both sides of every row, by the model as it is: [rows, 2]."""
        found = torch.zeros(len(self.rows), 2)
        order = sorted(range(len(self.rows)), key=lambda i: self.rows[i].length)
        was_training = self.core.training
        self.core.eval()
        for first in range(0, len(order), self.config.batch_size):
            batch = self._on_device(collate(self.rows, order[first : first + self.config.batch_size]))
            with self.compute_loss_context_manager():
                logps, _ = self._scored(self.core, batch)
            sides = torch.stack([logps[batch["chosen"]], logps[batch["rejected"]]], dim=1)
            found[batch["rows"].cpu()] = sides.float().cpu()
        self.core.train(was_training)
        return found

    # --- metrics ---

    def _note(self, batch: Batch, logps: Tensor, lengths: Tensor) -> None:
        self.tokens += batch["tokens"]
        chosen = batch["chosen"]
        add = partial(_accumulate, self._sums)
        add("rows", len(chosen))
        add("tokens", batch["tokens"])
        add("chosen_tokens", lengths[chosen].sum())
        add("logps/chosen", logps[chosen].sum())
        if self.config.method == "sft":
            return
        add("logps/rejected", logps[batch["rejected"]].sum())
        better, worse = (r * self.config.beta for r in self._log_ratios(batch, logps, lengths))
        add("rewards/chosen", better.sum())
        add("rewards/rejected", worse.sum())
        add("rewards/margins", (better - worse).sum())
        add("rewards/accuracies", (better > worse).float().sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means since the last line, write the line to `metrics.jsonl`, and pass it on."""
        if self._sums:
            logs = {**logs, **self._means()}
            self._sums, self._since = {}, time.monotonic()
            line = {k: float(v) for k, v in logs.items() if isinstance(v, (int, float))}
            self.logged = {"step": float(self.state.global_step), **line}
            if self.is_world_process_zero():
                with (self.output / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({**self.logged, "step": self.state.global_step}) + "\n")
            if self.on_log is not None:
                self.on_log(self.state.global_step, self.state.max_steps, self.logged)
        super().log(logs, start_time)

    def _means(self) -> dict[str, float]:
        sums = {name: float(value) for name, value in self._sums.items()}
        rows, tokens, chosen = sums.pop("rows"), sums.pop("tokens"), sums.pop("chosen_tokens")
        seconds = time.monotonic() - self._since
        means = {name: value / rows for name, value in sums.items()}
        means["nll/chosen"] = -sums["logps/chosen"] / chosen
        return {**means, "tokens_per_second": tokens / max(seconds, 1e-9)}


def _accumulate(sums: dict[str, Any], name: str, value: Any) -> None:
    sums[name] = sums.get(name, 0) + value


# --- the output folder -------------------------------------------------------------------------


def _identity(config: TrainConfig, model: str, data: Path, adapter: str | Path | None) -> str:
    """What decides the result: settings, weights, data."""
    if not data.is_file():
        raise DataError("there is no such training file", value=str(data))
    settings = config.model_dump(exclude={"log_every", "wandb", "keep"})
    content = hashlib.sha256(data.read_bytes()).hexdigest()
    tuned = adapter and (version(adapter_folder(adapter)) or str(adapter))
    return digest(settings, content, version(model) or model, tuned)


def _finished(output: Path, identity: str) -> TrainResult | None:
    record = _record(output)
    if record is None or record.get("identity") != identity or "result" not in record:
        return None
    return TrainResult.model_validate(
        {**record["result"], "output": output, "checkpoints": tuple(_checkpoints(output))}
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


def _prepare(output: Path, identity: str, config: TrainConfig, resume: bool) -> None:
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
    _write_record(output, identity, config, None)


def _write_record(output: Path, identity: str, config: TrainConfig, result: TrainResult | None) -> None:
    record: dict[str, Any] = {"identity": identity, "config": config.model_dump(mode="json")}
    if result is not None:
        record["result"] = result.model_dump(mode="json", exclude={"output", "checkpoints"})
    part = output / "train.json.part"
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(output / "train.json")


def _checkpoints(output: Path) -> list[Path]:
    """Whole checkpoints, oldest first: the trainer's state is the last file of one to be written."""
    found = [p for p in (output / "checkpoints").glob("checkpoint-*") if _whole(p)]
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))


def _whole(checkpoint: Path) -> bool:
    try:
        state: Mapping[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return "global_step" in state


def _last_checkpoint(output: Path) -> Path | None:
    found = _checkpoints(output)
    return found[-1] if found else None


def _drop_metrics_after(output: Path, step: int) -> None:
    path = output / "metrics.jsonl"
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept))
