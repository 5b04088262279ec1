"""How a model is tuned, and what a training gave. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rightcall.chain import Frozen
from rightcall.errors import ConfigError

OnLog = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps in all, metrics) whenever metrics are logged."""


class Lora(Frozen):
    """Low-rank adaptation (Hu et al., 2021, arXiv 2106.09685), by peft."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale: updates are multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the adapted modules; "all-linear" is every linear layer but the head."""


@dataclass(frozen=True)
class Weights:
    """A model as training reads it."""

    model: str
    """Hub id or folder."""
    adapter: str | None = None
    """Folder of a LoRA adapter over it."""
    chat_template: str | None = None
    """File of a chat template in place of the tokenizer's own."""


class TrainConfig(Frozen):
    """How a model is tuned. The defaults are for LoRA DPO on a few hundred pairs."""

    method: Literal["dpo", "sft"] = "dpo"
    """`sft` imitates the chosen side (or `completion`, or `messages`) and ignores the rejected."""
    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    """Name in `rightcall.train.dpo.LOSSES`; not used by SFT."""
    beta: float = Field(0.1, gt=0)
    """How strongly the policy is held to the reference."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """With the `robust` loss: the share of pairs that are expected to be the wrong way round."""
    length_normalised: bool = False
    """Log ratios per trained token rather than per completion; β then wants to be larger."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the mean negative log-likelihood of the chosen tokens, added to the DPO loss."""

    strategies: tuple[str, ...] = ()
    """Train only on the pairs that these strategies made; on all of the file if empty."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak; if not given 2e-4 with LoRA, 2e-5 for full weights."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimiser steps, if that is sooner."""
    batch_size: int = Field(8, ge=1)
    """Rows (pairs or conversations) side by side in one pass, on each device, where they are padded."""
    accumulation: int = Field(1, ge=1)
    """`batch_size` times this is the number of rows that each device takes in an optimiser step."""

    max_length: int | None = Field(None, ge=2)
    """Tokens of a row's longer side; if not given, what the model takes. Rows are never cut.
    At most the original window of a model whose rotary embedding goes by a batch's longest row."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """Stop on rows that are too long, or leave them out and say which."""
    mask_observations: bool = True
    """Train the model's own words only. False trains observations too: for comparisons."""

    tune: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    quantize: Literal["none", "4bit"] = "none"
    """`4bit`: frozen NF4 weights under the adapter (QLoRA, arXiv 2305.14314), by bitsandbytes."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the computation: auto is bfloat16 on CUDA and float32 on CPU. Trained weights and the loss
    stay in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    packing: Literal["tree", "padded"] = "tree"
    """`tree`: each unique token of a step goes through the model once, as far as `pack_tokens` allows;
    `padded`: each sequence by itself. The same loss; a model that cannot do the first does the second
    and says so."""
    pack_tokens: int = Field(16384, ge=1)
    """Unique tokens of a tree at most: the rows of a step are packed into trees of that size, which
    bounds memory. A single row may be longer."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Of padded sequences. Auto: `flash_attention_2` on CUDA where flash-attn is installed and the
    computation is in bfloat16; else transformers' default. Trees have their own."""
    tree_attention: Literal["auto", "block", "flex"] = "auto"
    """Products of blocks (any device), or `flex_attention` (CUDA alone). Auto: flex on CUDA."""
    reference: Literal["precomputed", "adapter_off"] = "precomputed"
    """Where log π_ref comes from: a pass before training, or the model with its new adapter switched
    off, at every step: no pass, but each step costs a third more."""
    reference_cache: bool = True
    """Keep precomputed values in `$RIGHTCALL_CACHE` (or `~/.cache/rightcall`) for other trainings of
    the same base."""

    check_memory: bool = True
    """Stop before anything is loaded if the training will not fit. False: begin nevertheless."""

    save_every: int | None = Field(None, ge=1)
    """Optimiser steps between checkpoints, from which a killed run resumes and among which the
    best is chosen by rollouts; if not given, four in a run."""
    keep: int | None = Field(None, ge=1)
    """Checkpoints kept; all of them if not given."""
    log_every: int = Field(5, ge=1)
    """Optimiser steps between lines of metrics."""
    wandb: bool = False
    """Log to Weights & Biases as well, where it is installed."""
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        self._without_effect(("beta", "length_normalised", "sft_weight"), "method", "sft")
        self._without_effect(("label_smoothing", "reference", "reference_cache"), "method", "sft")
        self._without_effect(("lora",), "tune", "full")
        if self.label_smoothing and self.loss != "robust":
            raise ConfigError(
                f'`label_smoothing` has no effect with loss="{self.loss}"',
                value=self.label_smoothing,
                remedy='Leave it out, or set loss="robust".',
            )
        if self.reference == "adapter_off" and self.tune == "full":
            raise ConfigError(
                "full weights have no adapter to switch off",
                value="reference=adapter_off",
                remedy='Set reference="precomputed", or tune="lora".',
            )
        if self.wandb and find_spec("wandb") is None:
            raise ConfigError(
                "Weights & Biases is not installed",
                value="wandb=true",
                remedy="pip install wandb, or leave `wandb` out: TensorBoard logs are always written.",
            )
        if self.quantize == "4bit" and self.tune == "full":
            raise ConfigError(
                "quantised weights cannot be trained",
                value="quantize=4bit, tune=full",
                remedy='Set tune="lora": the adapter is trained and the weights stay frozen.',
            )
        return self

    def _without_effect(self, keys: tuple[str, ...], name: str, value: str) -> None:
        """Refuse settings that would be ignored: someone believes that they matter."""
        for key in keys if getattr(self, name) == value else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ConfigError(
                    f'`{key}` has no effect with {name}="{value}"',
                    value=getattr(self, key),
                    remedy=f"Leave `{key}` out, or choose another `{name}`.",
                )

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or (2e-4 if self.tune == "lora" else 2e-5)


class MemoryEstimate(Frozen):
    """What a training will need on each device, at its peak."""

    device: str
    parts: dict[str, int]
    """Bytes by part."""
    tokens: int
    """That go through the model at once."""
    parameters: int
    trained: int
    """Parameters that are trained."""
    free: int | None = None
    """Bytes that the device has free, where that was asked."""

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.parts.values())


OnEstimate = Callable[[MemoryEstimate], None]
"""Called with the estimate before anything is loaded, where there may be too little memory."""


class TrainPlan(Frozen):
    """What a training will take."""

    memory: MemoryEstimate
    steps: int
    """Of the optimiser, in one process."""
    rows: int
    """Pairs or conversations to be trained on."""
    too_long: tuple[str, ...] = ()
    """Rows that are left out because of their length."""
    unfit: dict[str, str] = {}
    """Pairs that are left out for another reason, and which: the chat template cannot carry them,
    their sides are alike, or the same pair came before."""


class TrainResult(Frozen):
    """What a training gave."""

    output: Path
    """Folder of the final model (full weights) or adapter (LoRA), with its tokenizer."""
    checkpoints: tuple[Path, ...]
    """Folders of the same kind from earlier steps, oldest first: candidates for selection."""
    steps: int
    rows: int
    """Pairs or conversations trained on."""
    too_long: tuple[str, ...] = ()
    """Rows that were left out because of their length."""
    unfit: dict[str, str] = {}
    """Pairs that were left out for another reason, and which."""
    trained_parameters: int
    tokens: int
    """Raw tokens gone through in this process, padding not counted."""
    seconds: float
    """Of the training loop in this process."""
    reference_seconds: float = 0.0
    """Of the pass that computed the reference log-probabilities."""
    metrics: dict[str, float]
    """The last line logged."""
