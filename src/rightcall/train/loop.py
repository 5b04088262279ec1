"""What `train` does, on `transformers.Trainer` through its public hooks.

Load model and rows → prove the layout of the tokens on the first optimiser step → reference
log-probabilities in one pass (no second model in memory) → the plan of optimiser steps → these, each
in micro-batches → save. Everything random comes from the seed, and the plan is a list, so a resumed run
repeats nothing and skips nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from rightcall.chain import digest
from rightcall.errors import ConfigError
from rightcall.models.weights import adapter_version, commit, load_tokenizer, version
from rightcall.rendering import Rendered, Renderer
from rightcall.train import memory, sharding
from rightcall.train.attention import ATTENTION, CannotPack, Kernel
from rightcall.train.batches import Batch, Share, collate, collate_tree, micro_batches, plan
from rightcall.train.config import (
    OnEstimate,
    OnLog,
    TrainConfig,
    TrainPlan,
    TrainResult,
    Weights,
)
from rightcall.train.data import Row, Rows, load_rows
from rightcall.train.dpo import LOSSES, log_ratio, sequence_logps
from rightcall.train.folder import (
    checkpoints,
    drop_metrics_after,
    finished,
    identity,
    last_checkpoint,
    leave_only_models,
    prepare,
    write_record,
)
from rightcall.train.policy import compute_dtype, context_window, load_policy, training_device
from rightcall.train.reference import Reference, ReferenceCache, cache_folder
from rightcall.train.scoring import (
    TOLERANCE,
    Tolerance,
    entry_logps,
    head_error,
    in_float32,
    padded_entries,
    tree_attention,
    try_tree,
    why_not_packed,
)

logger = logging.getLogger(__name__)

_TOGETHER = 256
"""Rows of neighbouring problems that the reference pass lays out together."""
_SHOWN = 64
"""Tokens on which the head is proved."""


def run(
    config: TrainConfig,
    start: Weights,
    data: Path,
    output: Path,
    reference: Weights | None,
    device: str | None,
    resume: bool,
    on_log: OnLog | None,
    on_estimate: OnEstimate | None = None,
) -> TrainResult:
    """See `rightcall.train.trainer.train`."""
    place = training_device(device)
    _check_reference(config, start, reference)
    sharding.check(config)
    inputs = identity(config, start, data, reference)
    if resume and (before := finished(output, inputs)) is not None:
        return before
    state = PartialState(cpu=place == "cpu")
    if state.is_main_process:
        prepare(output, inputs, config, resume)
    state.wait_for_everyone()
    tokenizer = load_tokenizer(start.model, start.chat_template)
    architecture = memory.load_architecture(start.model)
    rows = rows_of(config, architecture, tokenizer, data)
    arguments = _arguments(config, output, place)
    steps = _plan(config, rows, arguments.world_size)
    laid_out = memory.as_laid_out(config, architecture)
    estimated = memory.check(
        laid_out,
        memory.largest_step(laid_out, rows.rows, steps),
        architecture,
        device=place,
        processes=arguments.world_size,
        sharded=sharding.launched(),
    )
    if estimated is not None and on_estimate is not None and state.is_main_process:
        on_estimate(estimated)
    if estimated is not None and place == "cpu":
        memory.give_back_at_once()
    core = _loaded(config, reference or start, place)
    if reference is not None:
        _score_reference(config, core, reference, tokenizer, rows, output, place)
        del core  # one model in memory at a time
        core = _loaded(config, start, place)
    base = _base(config, start, place)
    trainer = build(config, core, tokenizer, rows, output, on_log, place, base)
    last = last_checkpoint(output)
    if state.is_main_process:
        drop_metrics_after(output, int(last.name.rpartition("-")[2]) if last else 0)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.monotonic() - started
    trainer.save_model(str(output))
    result = TrainResult(
        output=output,
        checkpoints=tuple(checkpoints(output)),
        steps=trainer.state.global_step,
        rows=len(rows.rows),
        too_long=rows.too_long,
        unfit=rows.unfit,
        tokens=trainer.tokens,
        seconds=seconds,
        trained_parameters=sum(p.numel() for p in core.parameters() if p.requires_grad),
        reference_seconds=trainer.reference_seconds,
        metrics=trainer.logged,
    )
    if trainer.is_world_process_zero():
        write_record(output, inputs, config, result)
        leave_only_models(output)
    return result


def rows_of(config: TrainConfig, architecture: Any, tokenizer: Any, data: Path) -> Rows:
    """The rows of a file as this training takes them. Raises `DataError` or `RenderingError`."""
    return load_rows(
        data,
        Renderer(tokenizer),
        method=config.method,
        max_length=config.max_length or context_window(architecture),
        mask_observations=config.mask_observations,
        too_long=config.too_long,
        strategies=config.strategies,
    )


def dry_run(config: TrainConfig, start: Weights, data: Path, device: str | None) -> TrainPlan:
    """See `rightcall.train.trainer.dry_run`. Nothing is loaded but the tokenizer."""
    place = training_device(device)
    architecture = memory.load_architecture(start.model)
    tokenizer = load_tokenizer(start.model, start.chat_template)
    rows = rows_of(config, architecture, tokenizer, data)
    steps = _plan(config, rows, 1)
    laid_out = memory.as_laid_out(config, architecture)
    largest = memory.largest_step(laid_out, rows.rows, steps)
    made = memory.estimate(laid_out, largest, architecture, device=place)
    return TrainPlan(
        memory=made.model_copy(update={"free": memory.free_memory(place)}),
        steps=len(steps),
        rows=len(rows.rows),
        too_long=rows.too_long,
        unfit=rows.unfit,
    )


def _plan(config: TrainConfig, rows: Rows, processes: int) -> list[Share]:
    return plan(
        rows.rows,
        size=config.batch_size * config.accumulation,
        processes=processes,
        epochs=config.epochs,
        seed=config.seed,
        max_steps=config.max_steps,
    )


def _loaded(config: TrainConfig, weights: Weights, place: str) -> Any:
    """The model with what is trained of it, whose beginning the seed decides alone."""
    transformers.set_seed(config.seed)
    return load_policy(config, weights.model, weights.adapter, place)


def _check_reference(config: TrainConfig, start: Weights, reference: Weights | None) -> None:
    if reference is not None and config.method == "sft":
        raise ConfigError("SFT has no reference model", value=reference.model)
    if config.reference == "adapter_off" and (start.adapter or reference):
        raise ConfigError(
            "an adapter that training starts from is part of the reference and cannot be switched off"
            if start.adapter
            else "a reference of its own is not the model with its adapter switched off",
            value=start.adapter or reference,
            remedy='Set reference="precomputed".',
        )


def _score_reference(
    config: TrainConfig,
    core: Any,
    reference: Weights,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    output: Path,
    place: str,
) -> None:
    """Leave the log-probabilities of a reference model of its own where `_precomputed` finds them."""
    if not (output / "reference.safetensors").exists():
        base = _base(config, reference, place)
        build(config, core, tokenizer, rows, output, device=place, base=base)


def _base(config: TrainConfig, weights_of: Weights, place: str) -> str | None:
    """What decides a reference log-probability beside the tokens; None if the weights cannot be told
    from others of that name: of a folder their hash does, of a hub id its commit."""
    weights = version(weights_of.model) or commit(weights_of.model)
    tuned = adapter_version(weights_of.adapter) if weights_of.adapter else ""
    if weights is None or tuned is None:
        return None
    kind = compute_dtype(config, place)
    return digest(weights, tuned, config.quantize, str(kind), place, torch.__version__)


# --- trainer -----------------------------------------------------------------------------------


def build(
    config: TrainConfig,
    core: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    output: Path,
    on_log: OnLog | None = None,
    device: str | None = None,
    base: str | None = None,
) -> PreferenceTrainer:
    """A trainer that is ready to train, its reference log-probabilities computed or read. `base` names
    the reference model in the cache; without it nothing is kept there."""
    arguments = _arguments(config, output, training_device(device))
    steps = _plan(config, rows, arguments.world_size)
    arguments.max_steps = len(steps) // arguments.world_size
    arguments.warmup_steps = int(config.warmup * arguments.max_steps)
    every = config.save_every or -(-arguments.max_steps // 4)
    trainer = PreferenceTrainer(
        model=core,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=steps,
        callbacks=[_SaveEvery(every)],
    )
    if trainer.is_world_process_zero():
        trainer.add_callback(_tensorboard(output))
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.equip(config, rows.rows, output, on_log, base)
    return trainer


def _arguments(config: TrainConfig, output: Path, device: str) -> TrainingArguments:
    bfloat16 = compute_dtype(config, device) is torch.bfloat16
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,  # a share is a step: its micro-batches are taken one by one here
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
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": sharding.launched()}},
        dataloader_pin_memory=device == "cuda",
        use_cpu=device == "cpu",
        ddp_find_unused_parameters=False,
        optim="adamw_torch_fused",
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
    """DPO and SFT over the shares of a plan (`train_dataset`). Call `equip` before training."""

    config: TrainConfig
    rows: Sequence[Row]
    reference: Tensor | None = None
    """[rows, 2]: log π_ref of chosen and rejected; None for SFT, or where each step computes it."""
    reference_seconds: float = 0.0
    packing: Literal["tree", "padded"] = "padded"
    """How tokens are laid out: as asked, or padded where the model cannot do it."""
    tokens: int = 0
    logged: dict[str, float]
    _sums: dict[str, Any]

    def equip(
        self,
        config: TrainConfig,
        rows: Sequence[Row],
        output: Path,
        on_log: OnLog | None,
        base: str | None,
    ) -> None:
        """Give the trainer its rows, prove its layout on the first of them, and compute the reference
        with the model as it stands."""
        self.config, self.rows, self.output, self.on_log = config, rows, output, on_log
        self.logged, self._sums, self._since = {}, {}, time.monotonic()
        self.core = self.accelerator.unwrap_model(self.model)
        if self.is_fsdp_enabled:
            sharding.shard(self.core, self.accelerator, compute_dtype(config, self.args.device.type))
        self._prove_head()
        self.packing = self._proved_packing() if config.packing == "tree" else "padded"
        if self.packing == "tree":
            self.core.set_attn_implementation(ATTENTION)
        if config.method == "dpo" and config.reference == "precomputed":
            started = time.monotonic()
            self.reference = self._precomputed(base).to(self.args.device)
            self.reference_seconds = time.monotonic() - started
        if self.is_fsdp_enabled:
            sharding.release(self.core)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if sharding.launched():
            sharding.join(self.accelerator)
            self.is_fsdp_enabled = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The plan in its order: one item is one share, as a list of micro-batches."""
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=1,
            collate_fn=self._collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _collate(self, items: Sequence[Share]) -> dict[str, Any]:
        (item,) = items
        totals = {"step_rows": item.step_rows, "step_tokens": item.step_tokens}
        return {"batches": [{**batch, **totals} for batch in self._laid_out(item.rows)]}

    def _laid_out(self, indices: Sequence[int], most: int | None = None) -> Iterator[Batch]:
        """The rows as micro-batches, padded or as trees (of `most` tokens, or of `pack_tokens`)."""
        limit = {"pack_tokens": most or self.config.pack_tokens}
        config = self.config.model_copy(update={"packing": self.packing, **limit})
        for part in micro_batches(self.rows, indices, config):
            if self.packing == "tree":
                yield collate_tree(self.rows, part, self._kernel)
            else:
                yield collate(self.rows, part)

    @property
    def _kernel(self) -> Kernel:
        chosen = self.config.tree_attention
        if chosen == "auto":
            return "flex" if self.args.device.type == "cuda" else "block"
        return chosen

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward through one micro-batch after the other: memory holds one at a time.
        Devices exchange gradients after the last, or after each if they hold shares of the weights."""
        if self.is_fsdp_enabled:
            return self._sharded_step(model, inputs["batches"], num_items_in_batch)
        *others, last = inputs["batches"]
        total = torch.zeros((), device=self.args.device)
        for batch in others:
            with self.accelerator.no_sync(model):
                total += super().training_step(model, batch, num_items_in_batch)
        return total + super().training_step(model, last, num_items_in_batch)

    def _sharded_step(self, model: Any, batches: Sequence[Any], num_items_in_batch: Any) -> Tensor:
        total = torch.zeros((), device=self.args.device)
        for batch, own in sharding.equally_often(batches, batches[0], self.accelerator):
            taken = batch if own else {**batch, "step_rows": inf, "step_tokens": inf}
            total += super().training_step(model, taken, num_items_in_batch)
        return total

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """One file of whole weights, however many processes hold them."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        state = sharding.whole_state(self.core, trained_only=self.config.tune == "lora")
        if self.args.should_save:
            self._save(output_dir, state_dict=state)

    def floating_point_ops(self, inputs: Any) -> int:
        """Of forward and backward, attention left out: six for each parameter and token."""
        computed: int = sum(batch["computed"] for batch in inputs["batches"])
        return 6 * int(self.core.num_parameters()) * computed

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum over the micro-batch divided by the totals of its optimiser step, scaled so that the mean
        over devices gives the step's mean."""
        del num_items_in_batch
        batch: Batch = inputs
        logps, lengths = self._scored(model, batch)
        ratios = self._log_ratios(batch, logps, lengths) if self.config.method == "dpo" else None
        parts = self._parts(batch, logps, ratios)
        weight = {"rows": 1 / inputs["step_rows"], "tokens": 1 / inputs["step_tokens"]}
        loss = sum(part.sum() * weight[unit] * scale for part, unit, scale in parts)
        if inputs["step_rows"] < inf:  # else it is only run along with other processes
            self._note(batch, logps.detach(), lengths, ratios)
        scaled = loss * self.args.world_size
        return (scaled, {"logps": logps}) if return_outputs else scaled

    def _scored(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probability and number of trained tokens of each sequence."""
        entries = entry_logps(model, self.core, batch)
        return sequence_logps(entries, batch["owner"], len(batch["chosen"]) + len(batch["rejected"]))

    def _parts(
        self, batch: Batch, logps: Tensor, ratios: tuple[Tensor, Tensor] | None
    ) -> list[tuple[Tensor, str, float]]:
        """The terms of the loss: values to be summed, what they are averaged over, their weight."""
        chosen = batch["chosen"]
        imitation = (-logps[chosen], "tokens")
        if ratios is None:
            return [(*imitation, 1.0)]
        better, worse = ratios
        loss = LOSSES[self.config.loss]
        pairs = loss(better - worse, self.config.beta, self.config.label_smoothing)
        terms: list[tuple[Tensor, str, float]] = [(pairs, "rows", 1.0)]
        return [*terms, (*imitation, self.config.sft_weight)] if self.config.sft_weight else terms

    def _log_ratios(self, batch: Batch, logps: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        sides = zip((batch["chosen"], batch["rejected"]), self._reference_of(batch), strict=True)
        better, worse = (
            log_ratio(logps[side], known, lengths[side] if self.config.length_normalised else None)
            for side, known in sides
        )
        return better, worse

    def _reference_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """log π_ref of the chosen and of the rejected sequences of a batch."""
        if self.reference is not None:
            chosen, rejected = self.reference[batch["rows"]].unbind(-1)
            return chosen, rejected
        with torch.no_grad(), self.core.disable_adapter():
            logps, _ = self._scored(self.core, batch)
        return logps[batch["chosen"]], logps[batch["rejected"]]

    # --- proof ---

    @contextmanager
    def _measuring(self, exactly: bool = False) -> Iterator[None]:
        """Without gradients or dropout, in the precision of training or `exactly`, in float32."""
        was_training = self.core.training
        self.core.eval()
        with torch.no_grad(), in_float32(self.core) if exactly else self.accelerator.autocast():
            yield
        self.core.train(was_training)

    def _prove_head(self) -> None:
        """Scoring single positions must give what scoring all of them gives. Shown on the beginning of
        a row: all logits of a whole one may be more than the training itself needs."""
        ids = self.rows[0].chosen.ids[:_SHOWN]
        few = Rendered(ids, tuple(place % 3 == 1 for place in range(len(ids))))
        batch = self._on_device(collate([Row("head", few, None)], [0]))
        with self._measuring():
            error = head_error(self.core, batch)
        if not error <= self._tolerance.token:
            raise ConfigError(
                "this model's head gives other log-probabilities for single positions than for all",
                value=error,
                remedy="Train another architecture, or report this one.",
            )

    def _proved_packing(self) -> Literal["tree", "padded"]:
        """ "tree" if the model can, and its first step agrees with the padded layout; raises
        `ConfigError` if it does not agree."""
        first: Share = self.train_dataset[0]  # type: ignore[index]
        self.packing = "tree"
        reason = why_not_packed(self.core)
        try:
            if reason is None:
                for number, batch in enumerate(self._laid_out(first.rows)):
                    self._prove_tree(self._on_device(batch), first=number == 0)
        except CannotPack as refused:
            reason = refused.fault
        if reason is None:
            return "tree"
        name = type(self.core.get_base_model() if hasattr(self.core, "peft_config") else self.core)
        logger.warning("%s is trained with packing=padded, not as trees: %s", name.__name__, reason)
        return "padded"

    def _prove_tree(self, batch: Any, first: bool) -> None:
        self._compare(batch, self._tolerance, exactly=False)
        # Rounding hides small faults, so the first tree is shown without it, too. Shares of weights are
        # gathered in the precision of training alone.
        if first and self._tolerance is not TOLERANCE[torch.float32] and not self.is_fsdp_enabled:
            self._compare(batch, TOLERANCE[torch.float32], exactly=True)

    def _compare(self, batch: Any, tolerance: Tolerance, exactly: bool) -> None:
        with self._measuring(exactly), tree_attention(self.core):
            found = try_tree(self.core, batch)
        rows = (self._on_device(collate(self.rows, [i])) for i in batch["rows"].tolist())
        with self._measuring(exactly):
            expected = padded_entries(self.core, list(rows))
        error = found - expected
        most, sequences = float(error.abs().max()), len(batch["chosen"]) + len(batch["rejected"])
        sums, tokens = sequence_logps(error, batch["owner"], sequences)
        if not (most <= tolerance.token and tolerance.excess(sums, tokens) <= 1):
            mean = float((sums / tokens).abs().max())
            raise ConfigError(
                "on its prefix tree this model gives other log-probabilities than on the sequences "
                "one by one",
                value=f"{most:.3g} nats at one token, {mean:.3g} a token over one sequence",
                remedy='Set packing = "padded", and report the architecture.',
            )

    @property
    def _tolerance(self) -> Tolerance:
        return TOLERANCE[compute_dtype(self.config, self.args.device.type)]

    def _on_device(self, batch: Batch) -> Any:
        device = self.args.device
        return {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}

    # --- reference ---

    def _precomputed(self, base: str | None) -> Tensor:
        """[rows, 2]: from the run's own file, which lets it resume where the cache is gone; or from the
        cache as far as it goes, and computed for the rest."""
        path = self.output / "reference.safetensors"
        if path.exists():
            stored = load_file(path)["logps"]
            if len(stored) == len(self.rows):
                return stored
        cached = base is not None and self.config.reference_cache
        reference = Reference(
            self.rows,
            self._reference_pass,
            cache=ReferenceCache(cache_folder(), str(base)) if cached else None,
            tolerance=self._tolerance,
            accelerator=self.accelerator,
        )
        found = reference.logps()
        if self.is_world_process_zero():
            partial_file = path.with_name(f"{path.name}.partial")
            save_file({"logps": found}, partial_file)
            partial_file.replace(path)
        return found

    def _reference_pass(self, indices: Sequence[int]) -> Tensor:
        """log π_ref of both sides of some rows, by the model as it is: [len(indices), 2]."""
        made = torch.zeros(len(self.rows), 2)
        order = sorted(indices, key=lambda i: (self.rows[i].problem, self.rows[i].length))
        parts = (order[first : first + _TOGETHER] for first in range(0, len(order), _TOGETHER))
        most = self._largest_tree if self.packing == "tree" else None
        batches = (batch for part in parts for batch in self._laid_out(part, most))
        with self._measuring():
            for laid_out, own in self._in_step(batches):
                batch = self._on_device(laid_out)
                logps, _ = self._scored(self.core, batch)
                sides = torch.stack([logps[batch["chosen"]], logps[batch["rejected"]]], dim=1)
                if own:
                    made[batch["rows"].cpu()] = sides.float().cpu()
        return made[list(indices)]

    @cached_property
    def _largest_tree(self) -> int:
        """Tokens of the largest tree that training takes. Memory was weighed for that, so the reference
        pass takes no more at once."""
        steps: Sequence[Share] = self.train_dataset  # type: ignore[assignment]
        return memory.largest_step(self.config, self.rows, steps).tokens

    def _in_step(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, bool]]:
        """Batches, each with whether it is this process's own: shares of weights are gathered by all
        processes together, so all run equally many."""
        if not self.is_fsdp_enabled:
            yield from ((batch, True) for batch in batches)
            return
        spare = next(self._laid_out([0]))
        yield from sharding.equally_often(list(batches), spare, self.accelerator)

    # --- metrics ---

    def _note(
        self, batch: Batch, logps: Tensor, lengths: Tensor, ratios: tuple[Tensor, Tensor] | None
    ) -> None:
        self.tokens += batch["raw"]
        chosen = batch["chosen"]
        add = partial(_accumulate, self._sums)
        add("rows", len(chosen))
        add("tokens", batch["raw"])
        add("computed", batch["computed"])
        add("chosen_tokens", lengths[chosen].sum())
        add("logps/chosen", logps[chosen].sum())
        if ratios is None:
            return
        add("logps/rejected", logps[batch["rejected"]].sum())
        better, worse = (ratio.detach() * self.config.beta for ratio in ratios)
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
        sums = self._summed()
        rows, tokens, chosen = sums.pop("rows"), sums.pop("tokens"), sums.pop("chosen_tokens")
        computed = sums.pop("computed")
        seconds = time.monotonic() - self._since
        means = {name: value / rows for name, value in sums.items()}
        means["nll/chosen"] = -sums["logps/chosen"] / chosen
        speed = {"tokens_per_second": tokens / max(seconds, 1e-9), "sharing": tokens / computed}
        return {**means, **speed}

    def _summed(self) -> dict[str, float]:
        """The sums over all processes."""
        names = sorted(self._sums)
        values = torch.tensor([float(self._sums[n]) for n in names], device=self.args.device)
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values, "sum")
        return dict(zip(names, values.tolist(), strict=True))


def _accumulate(sums: dict[str, Any], name: str, value: Any) -> None:
    sums[name] = sums.get(name, 0) + value
