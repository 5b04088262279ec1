"""The model to tune, with what is trained of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from rightcall.errors import ConfigError
from rightcall.models.weights import checked_device, load_adapter, load_model
from rightcall.train.config import Lora, TrainConfig


def training_device(asked: str | None) -> str:
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
    frozen, place = config.tune == "lora", training_device(device)
    attention = padded_attention(config, place)
    loaded = load_model(
        model,
        dtype=compute_dtype(config, place) if frozen else torch.float32,
        quantization=None if config.quantize == "none" else config.quantize,
        device="cpu" if place == "cpu" else None,  # the trainer moves it to its own GPU
    )
    if attention is not None:
        loaded.set_attn_implementation(attention)
    if frozen and adapter is not None:
        _prepared(config, loaded)
        return _continued(config.lora, load_adapter(loaded, adapter, trainable=True))
    return on_top(config, loaded if frozen else _merged(loaded, adapter))


def on_top(config: TrainConfig, loaded: Any) -> Any:
    """A model as it is trained: with a new adapter on frozen weights, or itself. Raises `ConfigError`
    if no adapter fits."""
    _prepared(config, loaded)
    return _adapted(config, loaded) if config.tune == "lora" else loaded


def _prepared(config: TrainConfig, loaded: Any) -> None:
    if config.gradient_checkpointing:
        _checkpoint_activations(loaded)
    if config.quantize != "none":
        _exact_norms(loaded)


def _exact_norms(loaded: Any) -> None:
    """Norms and biases of quantised weights in float32, as QLoRA has them. Embeddings and head stay as
    they are: in float32 they would take as much as all 4-bit layers of a large vocabulary's model."""
    for parameter in loaded.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 1 and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def padded_attention(config: TrainConfig, place: str) -> str | None:
    """What computes the attention of padded sequences; None is transformers' default. Raises
    `ConfigError` for what is not there."""
    there = find_spec("flash_attn") is not None
    fast = there and place == "cuda" and compute_dtype(config, place) is torch.bfloat16
    if config.attention == "auto":
        return "flash_attention_2" if fast else None
    if config.attention == "flash_attention_2" and not fast:
        found = "installed" if there else "not installed"
        raise ConfigError(
            "flash attention needs flash-attn, a GPU and bfloat16",
            value=f"flash-attn {found}, device={place}, dtype={config.dtype}",
            remedy='Set attention="auto": it is taken where it can be.',
        )
    return config.attention


def check_tree_attention(config: TrainConfig, place: str) -> None:
    """Raises `ConfigError` for a kernel of trees that cannot train there."""
    if config.packing == "tree" and config.tree_attention == "flex" and place != "cuda":
        raise ConfigError(
            "flex_attention has a backward pass on a GPU only",
            value=f"tree_attention=flex, device={place}",
            remedy='Set tree_attention="auto": it is taken where it can be.',
        )


def _checkpoint_activations(loaded: Any) -> None:
    settings = {"use_reentrant": False}  # with frozen weights below the first adapter
    if hasattr(loaded, "activation_checkpointing_enable"):
        loaded.activation_checkpointing_enable(settings)
    else:  # the name until transformers 5.22
        loaded.gradient_checkpointing_enable(settings)


def _adapted(config: TrainConfig, loaded: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(loaded, settings)
    except ValueError as error:
        raise ConfigError(
            f"no adapter fits this model ({error})",
            value=lora.targets,
            remedy='Name linear layers in `lora.targets`, or leave it at "all-linear".',
        ) from error


def _continued(lora: Lora, model: Any) -> Any:
    """An adapter keeps its shape; its dropout is that of this training."""
    (own,) = model.peft_config.values()
    for name, theirs in (("r", own.r), ("alpha", own.lora_alpha)):
        if name in lora.model_fields_set and getattr(lora, name) != theirs:
            raise ConfigError(
                f"the adapter that training starts from has another `lora.{name}`: {theirs}",
                value=getattr(lora, name),
                remedy=f"Leave `lora.{name}` out, or give the adapter's.",
            )
    for module in model.modules():
        for key in getattr(module, "lora_dropout", {}):
            module.lora_dropout[key] = (
                torch.nn.Dropout(lora.dropout) if lora.dropout else torch.nn.Identity()
            )
    return model


def _merged(loaded: Any, adapter: str | Path | None) -> Any:
    if adapter is None:
        return loaded
    return load_adapter(loaded, adapter).merge_and_unload().requires_grad_(True)


def context_window(architecture: Any) -> int:
    """Tokens that a model of this config takes, each rotated the same whatever else is in the batch."""
    whole = int(getattr(architecture.get_text_config(), "max_position_embeddings", None) or 1 << 20)
    return min([whole, *_fixed_rotation(architecture).values()])


def check_length(config: TrainConfig, architecture: Any) -> None:
    """Raises `ConfigError` for rows so long that what they are worth would depend on the batch they
    are in, in either layout."""
    for kind, window in _fixed_rotation(architecture).items():
        if config.max_length is not None and config.max_length > window:
            raise ConfigError(
                f"the model's rotary embedding ({kind}) changes all positions of a batch once its "
                f"longest row has more than {window} tokens",
                value=f"max_length={config.max_length}",
                remedy=f"Set max_length to {window} at most, or leave it out.",
            )


def _fixed_rotation(architecture: Any) -> dict[str, int]:
    """Kinds of rotary embeddings that go by the longest sequence of a batch, and up to how many tokens
    they do not."""
    text = architecture.get_text_config()
    found: Any = getattr(text, "rope_parameters", None) or {}
    each = [found] if "rope_type" in found else [p for p in found.values() if isinstance(p, dict)]
    windows: dict[str, int] = {}
    for parameters in each:  # of the model, or of each kind of layers
        kind = str(parameters.get("rope_type"))
        if "dynamic" in kind:
            windows[kind] = int(text.max_position_embeddings)
        elif kind == "longrope":
            windows[kind] = int(
                parameters.get("original_max_position_embeddings") or text.max_position_embeddings
            )
    return windows
