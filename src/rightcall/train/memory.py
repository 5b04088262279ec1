"""How much memory a training will need, known before a weight is loaded.

Weights, gradients and the optimiser's state follow from shapes. What a step holds beside them is
weighed, not guessed: the model's own code runs forward and backward, with two of its layers, on tensors
that have a shape and no content, and every tensor that it makes is counted while it lives. Layers are
alike, so what the second adds is a layer's share. Logits are counted apart: they are scored in chunks.

    estimate(config, Step(tokens=16384, terms=4000), load_architecture("mistralai/Mistral-7B-v0.3"))
"""

from __future__ import annotations

import copy
import ctypes
import os
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface

from rightcall.errors import ConfigError
from rightcall.train.attention import CannotPack, check_options
from rightcall.train.batches import Share, micro_batches
from rightcall.train.config import MemoryEstimate, TrainConfig
from rightcall.train.data import Row
from rightcall.train.packing import unique_tokens
from rightcall.train.policy import compute_dtype, on_top
from rightcall.train.scoring import MAX_LOGITS, why_not_packed

_WEIGHED = "rightcall_weighed"
"""The name of an attention that keeps what the tree's attention keeps, and computes nothing."""
_4BIT = 0.5 + (1 + 4 / 256) / 64
"""Bytes of a weight in NF4: half of one, and a scale of a byte for 64, which are scaled by 256."""
_LOOKED_AT = 2000
"""Shares whose micro-batches are looked at, the largest in raw tokens, to find the largest of these."""
_ALLOCATOR = 0.1
"""What CUDA's allocator and kernels take beside, as a share of activations, logits and workspace."""
_HEAP = 64 << 20
"""Bytes that the C library's heap keeps of what was let go, on a processor, once `give_back_at_once`
has been called: measured."""
_LARGE = 1 << 20
"""Bytes from which a block is given back to the system as soon as it is let go."""


@dataclass(frozen=True)
class Step:
    """What goes through a model at once."""

    tokens: int
    """Padding included; each unique one once in a tree."""
    terms: int
    """Of them, those that are scored."""
    lines: int = 1
    """Sequences side by side; 1 for a tree."""
    least: int = 0
    """Tokens of the largest single row, below which no setting brings it."""


def as_laid_out(config: TrainConfig, architecture: Any) -> TrainConfig:
    """The config as it will be followed: padded where this architecture cannot be packed."""
    if config.packing == "padded" or _can_pack(architecture):
        return config
    return config.model_copy(update={"packing": "padded"})


def _can_pack(architecture: Any) -> bool:
    """Whether nothing in its parts speaks against it, and its layers ask the registered attention for
    no more than a tree has: seen on two of them, without content."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    if why_not_packed(_empty(architecture, torch.float32)):
        return False
    layers = min(2, _layers(architecture))
    asked: list[Any] = []

    def probed(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **more: Any
    ) -> Any:
        asked.append(module)
        check_options(more)
        return _repeating(module, query, key, value)

    model = _empty(architecture, torch.bfloat16, layers)  # which experts' products need without content
    AttentionInterface.register(_WEIGHED, probed)
    AttentionMaskInterface.register(_WEIGHED, lambda *_, **__: None)
    try:
        model.set_attn_implementation(_WEIGHED)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            _without_content(model, exact=False)
            model(input_ids=torch.zeros(1, 4, dtype=torch.long), use_cache=False, logits_to_keep=1)
    except (CannotPack, ValueError):  # the second of models that know one attention of their own
        return False
    except RuntimeError:  # it goes by the content of tensors, which are not there: nothing is seen
        return True
    return len(asked) == layers


def largest_step(config: TrainConfig, rows: Sequence[Row], plan: Sequence[Share]) -> Step:
    """Of a training whose rows are known."""
    steps: list[Step] = []
    for share in sorted(plan, key=lambda s: -sum(rows[i].length for i in s.rows))[:_LOOKED_AT]:
        parts = micro_batches(rows, share.rows, config)
        steps += [_step(config, [rows[i] for i in part]) for part in parts]
    largest = max(steps, key=lambda step: (step.tokens, step.terms))
    longest = max(rows, key=lambda row: sum(len(sequence.ids) for sequence in row.sequences))
    return replace(largest, least=_step(config, [longest]).tokens)


def _step(config: TrainConfig, rows: Sequence[Row]) -> Step:
    import numpy as np

    sequences = [sequence for row in rows for sequence in row.sequences]
    terms = sum(sum(sequence.trained) for sequence in sequences)
    if config.packing == "padded":
        tokens = len(sequences) * max(len(sequence.ids) for sequence in sequences)
        return Step(tokens, terms, len(sequences))
    tokens = unique_tokens([np.array(sequence.ids) for sequence in sequences])
    return Step(tokens, min(terms, tokens))


def step_at_most(config: TrainConfig, window: int) -> Step:
    """Of a training whose rows are not known: all as long as they may be, nothing shared, all trained.
    `window`: tokens that the model takes."""
    longest = min(config.max_length or window, window)
    sides = 2 if config.method == "dpo" else 1
    lines = sides * config.batch_size
    if config.packing == "padded":
        return Step(lines * longest, lines * longest, lines, sides * longest)
    tokens = min(config.accumulation * lines * longest, max(config.pack_tokens, sides * longest))
    return Step(tokens, tokens, least=sides * longest)


# --- the estimate -------------------------------------------------------------------------------


def load_architecture(model: str | Path) -> Any:
    """The config of a folder or hub id. Raises `ConfigError`."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"cannot read a model's config ({(str(error).splitlines() or [''])[0][:200]})",
            value=str(model),
            remedy="Give a folder with config.json, or a hub id.",
        ) from error


def estimate(
    config: TrainConfig,
    step: Step,
    architecture: Any,
    *,
    device: str,
    processes: int = 1,
    sharded: bool = False,
) -> MemoryEstimate:
    """Peak memory on each of `processes` devices ("cpu" or "cuda"), by parts; `sharded` if the weights
    are spread over them."""
    whole = _Shapes.of(config, architecture)
    layers = _layers(architecture)
    try:
        few = _weighed(config, step, architecture, min(2, layers), device, sharded)
    except RuntimeError as error:  # mixtures of experts, but for LoRA in bfloat16
        raise ConfigError(
            f"what a model takes cannot be weighed ({str(error).splitlines()[0][:120]})",
            value=architecture.model_type,
            remedy="Set check_memory = false, and begin with small packs.",
        ) from error
    further = max(0, layers - 2)
    trained = few.trained + further * few.layer_trained
    share = processes if sharded else 1
    weights = whole.weights(config, device)
    parts = {
        "weights": weights / share,
        "adapter": 4 * trained / share if config.tune == "lora" else 0,
        "gradients": 4 * trained / share,
        "optimizer": 8 * trained / share,
        "activations": few.kept + further * few.layer_kept,
    }
    logits = _logits(config, step, whole.vocabulary, whole.hidden, device)
    working = max(few.working, _masks(config, step, device)) + _unpacked(config, whole, device)
    parts["logits"] = logits
    parts["workspace"] = max(0.0, working - logits)
    parts["processes"] = _exchanged(config, whole, trained, processes, sharded, device)
    held = parts["activations"] + parts["logits"] + parts["workspace"]
    parts["allocator"] = _HEAP if device == "cpu" else _ALLOCATOR * held
    return MemoryEstimate(
        device=device,
        parts={name: round(size) for name, size in parts.items() if size},
        tokens=step.tokens,
        parameters=whole.parameters,
        trained=trained,
    )


def at_most(config: TrainConfig, step: Step, architecture: Any) -> float:
    """A bound in bytes that costs nothing: is there any need to weigh?"""
    text = architecture.get_text_config()
    model = _empty(architecture, torch.float32)
    count = int(sum(p.numel() for p in model.parameters()))
    inner = int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size)
    hidden, count_of_layers = int(text.hidden_size), int(text.num_hidden_layers)
    layer = 60 * hidden + 30 * inner
    vocabulary = int(text.vocab_size)
    logits = 12 * min(step.terms * vocabulary, max(MAX_LOGITS, vocabulary))
    return 24 * count + 4.0 * step.tokens * count_of_layers * layer + logits


def free_memory(device: str) -> int:
    """Bytes that this process may still take on "cpu" (within its control group) or "cuda"."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info()[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        cached = _cached(group / "memory.stat")
    except (OSError, ValueError):
        limit, used, cached = "max", 0, 0
    if limit != "max":
        free = min(free, int(limit) - used + cached)
    return free // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _cached(stat: Path) -> int:
    """File pages that the kernel lets go of when memory is asked for."""
    table = dict(line.split() for line in stat.read_text().splitlines())
    return int(table.get("inactive_file", 0)) + int(table.get("active_file", 0))


def give_back_at_once() -> None:
    """Have the C library give large blocks back to the system when they are let go. As it comes, it
    raises the size from which it does so up to 32 MiB, and the small tensors of an adapter among the
    large ones then keep a heap of two or three times what is in use. It costs a quarter more time, so
    it is for trainings that may not fit otherwise."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE)


_M_MMAP_THRESHOLD = -3
"""glibc's number for that size; once it is set it stays."""


def changes(config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Changes of settings that a refusal weighs, the mildest first."""
    few = min(4096, config.pack_tokens // 2)
    fewer = {"pack_tokens": few} if config.packing == "tree" else {"batch_size": 1}
    yield {"gradient_checkpointing": True}
    yield fewer
    yield {"tune": "lora"}
    yield {"tune": "lora", "quantize": "4bit"}
    yield {"tune": "lora", "quantize": "4bit", "gradient_checkpointing": True, **fewer}


def remedies(
    config: TrainConfig, step: Step, architecture: Any, needed: int, **place: Any
) -> Iterator[tuple[str, MemoryEstimate]]:
    """Settings that would bring less, with what they would bring, the mildest first."""
    for change in changes(config):
        own = {k: v for k, v in change.items() if getattr(config, k) != v}
        if not own or (config.tune == "lora" and own.keys() == {"tune"}):
            continue
        changed = config.model_copy(update=own)
        share = 1.0
        if "batch_size" in own:
            share = 1 / config.batch_size
        if "pack_tokens" in own:
            share = min(share, own["pack_tokens"] / step.tokens)
        share = max(share, min(1.0, step.least / step.tokens))
        if share == 1.0 and own.keys() <= {"batch_size", "pack_tokens"}:
            continue
        tokens = max(1, round(step.tokens * share))
        smaller = Step(tokens, min(tokens, step.terms), max(1, round(step.lines * share)))
        made = estimate(changed, smaller, architecture, **place)
        if made.total < needed:
            said = ", ".join(f"{k}={str(v).lower()}" for k, v in own.items())
            yield said, made


def check(
    config: TrainConfig, step: Step, architecture: Any, *, device: str, processes: int, sharded: bool
) -> MemoryEstimate | None:
    """The estimate, or None where the device plainly has room. Raises `ConfigError` where it will not
    fit, unless `check_memory` is off."""
    free = free_memory(device)
    if at_most(config, step, architecture) < free / 4:
        return None
    place: dict[str, Any] = {"device": device, "processes": processes, "sharded": sharded}
    try:
        made = estimate(config, step, architecture, **place).model_copy(update={"free": free})
    except ConfigError:
        if config.check_memory:
            raise
        return None
    if made.total > free and config.check_memory:
        raise _refusal(made, remedies(config, step, architecture, made.total, **place))
    return made


def _refusal(made: MemoryEstimate, others: Iterator[tuple[str, MemoryEstimate]]) -> ConfigError:
    brought = "; ".join(f"{said} would take {gib(other.total)}" for said, other in others)
    return ConfigError(
        f"this training does not fit: it would take {gib(made.total)} of {made.device} memory and "
        f"{gib(made.free or 0)} are free",
        value=", ".join(f"{name} {gib(size)}" for name, size in made.parts.items()),
        remedy=f"{brought[:1].upper()}{brought[1:]}. " * bool(brought)
        + "check_memory=false begins nevertheless.",
    )


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


# --- weights ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shapes:
    """Of a whole model without its weights."""

    model: Any
    parameters: int
    linear: int
    """Parameters in linear layers but the head: those that are quantised."""
    widest: int
    """Of the largest such layer."""
    outer: int
    """Outside the layers: embeddings, head, last norm."""
    small: int
    """In vectors: norms and biases."""
    vocabulary: int
    hidden: int

    @classmethod
    def of(cls, config: TrainConfig, architecture: Any) -> _Shapes:
        model = _empty(architecture, torch.float32)
        head = model.get_output_embeddings()
        inner = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
        sizes = [m.weight.numel() for m in inner]
        within = sum(p.numel() for block in _blocks(model) for p in block.parameters())
        total = sum(p.numel() for p in model.parameters())
        return cls(
            model=model,
            parameters=total,
            linear=sum(sizes),
            widest=max(sizes, default=0),
            outer=total - within,
            small=sum(p.numel() for p in model.parameters() if p.dim() == 1),
            vocabulary=head.weight.shape[0],
            hidden=head.weight.shape[1],
        )

    def weights(self, config: TrainConfig, device: str) -> float:
        if config.tune == "full":
            return 4 * self.parameters
        size = compute_dtype(config, device).itemsize
        if config.quantize == "none":
            return size * self.parameters
        rest = self.parameters - self.linear - self.small
        return _4BIT * self.linear + 4 * self.small + size * rest


def _layers(architecture: Any) -> int:
    return int(architecture.get_text_config().num_hidden_layers)


def _empty(architecture: Any, dtype: torch.dtype, layers: int | None = None) -> Any:
    """The model without its weights, with some of its layers."""
    from transformers import AutoModelForCausalLM

    made = copy.deepcopy(architecture)
    text = made.get_text_config()
    if layers is not None:
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    make: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = make(made, dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    return model


# --- what a step holds --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weighed:
    """Bytes of a model with two layers, and parameters that are trained."""

    kept: int
    """Alive between the forward and the backward pass."""
    working: int
    """What the worst moment holds beyond that."""
    trained: int
    layer_kept: int
    """Of `kept`, what one layer adds."""
    layer_trained: int


class _Scales(TorchDispatchMode):
    """Counts the bytes of every tensor that is made within, for as long as it lives."""

    def __init__(self, there: Iterator[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self._weigh(tensor.untyped_storage())
        return made

    def _weigh(self, storage: Any) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())

    def _let_go(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.live -= size


def _weighed(
    config: TrainConfig, step: Step, architecture: Any, layers: int, device: str, sharded: bool
) -> _Weighed:
    """Forward and backward of a model with so many layers, one or two, without content."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    dtype = compute_dtype(config, device)
    # Shares are gathered in the precision of the computation; whole weights are cast in each step.
    kept_in = dtype if config.tune == "lora" or sharded else torch.float32
    model = _empty(architecture, kept_in, layers)
    model = on_top(config, model)
    with FakeTensorMode(allow_non_fake_inputs=True), _counted_attention(config, model, device):
        trained = _without_content(model, exact=config.tune == "lora")
        model.train()
        ids = torch.zeros(step.lines, max(1, step.tokens // step.lines), dtype=torch.long)
        there = [*model.parameters(), *model.buffers(), *(p.grad for p in trained), ids]
        mixed = dtype is torch.bfloat16
        scales = _Scales(iter(there))
        blocks = _blocks(model)
        after: list[int] = []
        for block in blocks:
            block.register_forward_hook(
                lambda *_: after.append(scales.live) if len(after) < 2 else None
            )
        with scales:
            with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
                made = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum()
            kept = scales.live
            made.backward()
    within = sum(p.numel() for block in blocks for p in block.parameters() if p.requires_grad)
    return _Weighed(
        kept,
        scales.peak - kept,
        trained=sum(p.numel() for p in trained),
        layer_kept=after[-1] - after[0],
        layer_trained=within // len(blocks),
    )


def _blocks(model: Any) -> list[nn.Module]:
    """A model's layers."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    kinds = set(inner._no_split_modules or ())
    return [module for module in inner.modules() if type(module).__name__ in kinds]


def _without_content(model: Any, *, exact: bool) -> list[nn.Parameter]:
    """Give a model on the meta device tensors that say they are somewhere, and those that are trained
    their gradients; returns these. `exact`: they are in float32, whatever the others are in."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = made.setdefault(id(tensor), _replaced(tensor, exact))
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    return trained


def _replaced(tensor: Tensor, exact: bool) -> Tensor:
    made = torch.empty(tensor.shape, dtype=tensor.dtype)
    if not isinstance(tensor, nn.Parameter):
        return made
    made = made.float() if exact and tensor.requires_grad else made
    return nn.Parameter(made, requires_grad=tensor.requires_grad)


@contextmanager
def _counted_attention(config: TrainConfig, model: Any, device: str) -> Iterator[None]:
    if config.packing == "tree":
        repeated = device == "cpu" or config.tree_attention == "block"
        AttentionInterface.register(_WEIGHED, _repeating if repeated else _flexing)
        AttentionMaskInterface.register(_WEIGHED, lambda *_, **__: None)
        model.set_attn_implementation(_WEIGHED)
    yield


class _Counted(torch.autograd.Function):
    """Keeps and makes what `attention._TreeAttention` keeps and makes, as to bytes."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query, dtype=torch.promote_types(query.dtype, torch.float32))
        sums = out.new_empty(query.shape[:3])
        made = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, made, sums)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        parts = [torch.empty_like(x) for x in (query, key, value)]  # a product's share
        return tuple(torch.zeros_like(x) for x in parts)


def _repeating(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    query, key = query.to(value.dtype), key.to(value.dtype)
    if query.shape[1] != key.shape[1]:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    made: Any = _Counted.apply(query, key, value)  # type: ignore[no-untyped-call]
    return made.transpose(1, 2).contiguous(), None


def _flexing(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    query, key = query.to(value.dtype), key.to(value.dtype)
    made: Any = _Counted.apply(query, key, value)  # type: ignore[no-untyped-call]
    return made.transpose(1, 2).contiguous(), None


def _logits(config: TrainConfig, step: Step, vocabulary: int, hidden: int, device: str) -> float:
    """The scored hidden states, and the logits with what becomes of them in `token_logps`: on a
    processor they are worked on in small parts, elsewhere whole, in float32."""
    held = min(step.terms, max(1, MAX_LOGITS // vocabulary)) * vocabulary
    size = compute_dtype(config, device).itemsize
    if device != "cpu":
        each = 2 * 4 + size * (size < 4)
    else:
        each = size if size == 4 else 2 * size + 4
    again = size if config.method == "dpo" and config.reference == "adapter_off" else 0
    return held * (each + again) + 2 * step.terms * hidden * size


def _masks(config: TrainConfig, step: Step, device: str) -> float:
    """What finding out who sees whom takes, where it grows with the square of the tokens."""
    if device == "cpu" or config.packing != "tree":
        return 0
    if config.tree_attention == "block":  # scores of a long run with all below it, as generic products
        return 3 * 4 * step.tokens**2 / 4
    return 4 * step.tokens**2  # booleans, before the first layer


def _unpacked(config: TrainConfig, whole: _Shapes, device: str) -> float:
    """A 4-bit layer's weights, whole again while it runs."""
    return whole.widest * compute_dtype(config, device).itemsize if config.quantize != "none" else 0


def _exchanged(
    config: TrainConfig, whole: _Shapes, trained: int, processes: int, sharded: bool, device: str
) -> float:
    """Copies that several processes make: of gradients, or of the weights that are gathered."""
    if processes == 1:
        return 0
    if not sharded:
        return 4 * trained
    size = compute_dtype(config, device).itemsize
    layers = _layers(whole.model.config)
    layer = (whole.parameters - whole.outer) / layers
    gathered = (whole.outer + 2 * layer) * size
    return gathered + (whole.outer + layer) * (size + 4) * (config.tune == "full")
