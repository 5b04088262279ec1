"""Weights spread over processes (`accelerate launch` with FSDP): each holds a share of every layer.

torch's `fully_shard` (FSDP2) spreads the model before anything is computed with it, so that proofs,
the reference pass and training see the same weights, and no device ever holds all of them. A layer's
weights are gathered when it runs, by all processes together: whatever runs the model does so equally
often in every process (`equally_often`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn

from rightcall.errors import ConfigError
from rightcall.train.config import TrainConfig

T = TypeVar("T")


def launched() -> bool:
    """Whether `accelerate launch` was told to spread the weights."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check(config: TrainConfig) -> None:
    """Refuse what cannot be spread. Raises `ConfigError`."""
    if not launched():
        return
    if config.quantize != "none":
        raise ConfigError(
            "4-bit weights are not spread over processes",
            value=f"quantize={config.quantize}, FSDP",
            remedy="Launch with examples/accelerate/ddp.yaml: every GPU then holds all of the 4-bit "
            'weights. Or spread whole ones with quantize="none".',
        )
    for key, (right, why) in _REQUIRED.items():
        if os.environ.get(key, right).lower() != right:
            raise ConfigError(
                f"this way of spreading weights is not supported{why}",
                value=f"{key.lower()}: {os.environ[key]}",
                remedy=f"Set it to {right}, as in examples/accelerate/fsdp.yaml.",
            )


_REQUIRED = {
    "FSDP_VERSION": ("2", ""),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": ("false", ": each process reads the weights"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("false", ": the setting is `gradient_checkpointing`"),
}
"""Environment that `accelerate launch` makes of its config file → its value, and why."""


def join(accelerator: Accelerator) -> None:
    """Have the accelerator spread weights on processors too, where it has ignored that it was asked
    to: the same training is then tested without a GPU."""
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        for shared in (PartialState(), state):  # each later view of the second copies the first
            shared.distributed_type = DistributedType.FSDP
    if getattr(state, "fsdp_plugin", None) is None:
        state.fsdp_plugin = FullyShardedDataParallelPlugin()


def shard(core: Any, accelerator: Accelerator, dtype: torch.dtype) -> None:
    """Spread a model over all processes, in place: its transformer layers one by one, then the rest
    (embeddings and head), which stays whole from the forward to the end of the backward pass, as the
    head is called beside the model. Computation is in `dtype`, sums of gradients in float32."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import Shard

    count = accelerator.num_processes
    plugin = accelerator.state.fsdp_plugin
    plugin.auto_wrap_policy = None  # the accelerator has nothing left to spread

    def along(parameter: nn.Parameter) -> Shard:
        """The first dimension that can be cut evenly: no process may be left without a share."""
        return Shard(next((d for d, size in enumerate(parameter.shape) if size % count == 0), 0))

    bfloat16 = dtype is torch.bfloat16
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(accelerator.device.type, (count,)),
        "mp_policy": MixedPrecisionPolicy(dtype if bfloat16 else None, torch.float32),
        "offload_policy": plugin.cpu_offload,
        "shard_placement_fn": along,
    }
    inner = core.get_base_model() if hasattr(core, "peft_config") else core
    layers = set(inner._no_split_modules or ())
    for module in [m for m in core.modules() if type(m).__name__ in layers]:
        fully_shard(module, reshard_after_forward=plugin.reshard_after_forward, **settings)
    fully_shard(core, reshard_after_forward=False, **settings)
    _check_shares(core, count)


def release(core: nn.Module) -> None:
    """Let go of weights that are still gathered, as after a pass without a backward one: an optimiser
    made now must find the shares."""
    from torch.distributed.fsdp import FSDPModule

    for module in core.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _check_shares(core: nn.Module, count: int) -> None:
    for name, parameter in core.named_parameters():
        if parameter.requires_grad and not any(size % count == 0 for size in parameter.shape):
            raise ConfigError(
                f"{name} of shape {tuple(parameter.shape)} cannot be spread evenly",
                value=f"{count} processes",
                remedy="Choose a number of processes that divides it.",
            )


def whole_state(core: Any, *, trained_only: bool) -> dict[str, Tensor]:
    """All weights, or those that are trained, gathered on the processor of the first process; empty in
    the others. Called by all."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only
    )
    state: dict[str, Any] = get_model_state_dict(core, options=options)
    return state


def equally_often(own: Sequence[T], spare: T, accelerator: Accelerator) -> Iterator[tuple[T, bool]]:
    """The own items, each with True, then as often the spare one, with False, as it takes for every
    process to have had equally many."""
    count = torch.tensor(len(own), device=accelerator.device)
    most = int(accelerator.gather(count).max())
    yield from ((item, True) for item in own)
    yield from ((spare, False) for _ in range(most - len(own)))
