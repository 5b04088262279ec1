"""Loading what models are made of, for inference and training alike: tokenizer, weights, adapter.

Safetensors only, and no code from a model's folder. Whatever cannot be loaded is a `ConfigError`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from rightcall.chain import digest
from rightcall.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Quantization = Literal["4bit", "8bit"]

ADAPTER = "adapter_model.safetensors"

TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")
"""Files of a folder that may hold its chat template; the first one that does counts."""

_RECORDS = {"train.json", "trainer_state.json"}
"""Files of a training's output that say how it went, not what the model is."""


def checked_device(asked: str | None) -> str:
    """Default: CUDA where there is one. Raises `ConfigError` for a device that is not there."""
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"there is no such device here ({_first_line(error)})",
            value=asked,
            remedy='Say "cpu" or "cuda", or leave `device` out.',
        ) from error
    return asked


def load_tokenizer(
    path: str | Path, chat_template: str | Path | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, with the chat template of a file in place of its own if one
    is given. Raises `ConfigError`."""
    from transformers import AutoTokenizer

    with _explained("a model's tokenizer", path, "Give a folder with tokenizer.json, or a hub id."):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False
        )
    if chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)
    return tokenizer


def read_template(file: str | Path) -> str:
    """The text of a chat template's file. Raises `ConfigError` if it cannot be read, or is no Jinja
    template, or writes none of the conversation."""
    from jinja2 import TemplateError, meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    text, remedy = _text(file), _TEMPLATE_REMEDY
    try:
        parsed = _compile_jinja_template(text).environment.parse(text)
    except TemplateError as error:
        fault = f"the chat template is no Jinja template ({_first_line(error)})"
        raise ConfigError(fault, value=str(file), remedy=remedy) from error
    if "messages" not in meta.find_undeclared_variables(parsed):
        fault = "the chat template does not write the conversation"
        raise ConfigError(fault, value=str(file), remedy=remedy)
    return text


_TEMPLATE_REMEDY = "Give a Jinja file that writes `messages`, such as a model's chat_template.jinja."


def _text(file: str | Path) -> str:
    text = _held(Path(file))
    if text is None:
        fault = "the file holds no chat template"
        raise ConfigError(fault, value=str(file), remedy=_TEMPLATE_REMEDY)
    return text


def _held(file: Path) -> str | None:
    """The chat template in a file: Jinja, or a tokenizer's config, of several the default one. None if
    that has none. Raises `ConfigError` if it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        found: object = json.loads(text).get("chat_template") if file.suffix == ".json" else text
        if isinstance(found, list):
            found = {one["name"]: one["template"] for one in found}.get("default")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        fault = f"the chat template cannot be read ({_first_line(error)})"
        raise ConfigError(fault, value=str(file), remedy=_TEMPLATE_REMEDY) from error
    return found if isinstance(found, str) else None


def chosen_template(
    path: str | Path, adapter: str | Path | None, given: str | Path | None
) -> str | Path | None:
    """The file of the chat template that a model is opened with: the given one, else the one that an
    adapter was trained with, if its folder or hub repository holds one (whoever made it) that is not
    the base's. None: the base tokenizer's own. Raises `ConfigError`."""
    if given is not None or adapter is None:
        return given
    folder = _adapters_files(adapter, TEMPLATES)
    files = [folder / name for name in TEMPLATES if (folder / name).is_file()]
    file, text = next(((file, text) for file in files if (text := _held(file))), (None, ""))
    if file is None:
        return None
    base: object = load_tokenizer(path).chat_template
    if isinstance(base, dict):  # of several the one that is saved in that file
        base = base.get("default")
    return None if isinstance(base, str) and _plain(text) == _plain(base) else file


def _plain(template: str) -> str:
    """Without what an export puts before it; with line ends as a file is read."""
    from rightcall.rendering import DATED, FOLDING

    lines = template.replace("\r\n", "\n").replace("\r", "\n")
    return lines.removeprefix(DATED).removeprefix(FOLDING)


def templated(name: str, chat_template: str | Path | None) -> str:
    """A model's name with a hash of the chat template that it was given: by another template it makes
    other chains. Raises `ConfigError`."""
    if chat_template is None:
        return name
    return f"{name} (template {digest(read_template(chat_template))[:8]})"


def load_model(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    quantization: Quantization | None = None,
    device: str | None = None,
) -> Any:
    """The causal language model of a folder or hub id.

    `dtype`: "auto" is the checkpoint's. `device`: where it goes; default where transformers puts it.
    Raises `ConfigError`.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if quantization:
        options["quantization_config"] = _quantised(quantization, dtype)
        options |= {"device_map": {"": device}} if device else {}
    remedy = "Give a folder with config.json, tokenizer and *.safetensors, or a hub id."
    with _explained("a model", path, remedy):
        model: Any = AutoModelForCausalLM.from_pretrained(path, **options)
    _exact_products(model)
    return model if quantization or device is None else model.to(device)


def _exact_products(model: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew in the first pass without gradients (that of a
    reference, say), as it does on processors with AVX512-BF16: from then on products are rounded to
    bfloat16, and no gradient passes through them to an adapter below."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_adapter(model: Any, adapter: str | Path, *, trainable: bool = False) -> Any:
    """A `PeftModel`: `model` under the LoRA adapter of a folder or hub id. Raises `ConfigError`."""
    from peft import PeftModel

    folder = adapter_folder(adapter)
    if not (folder / ADAPTER).is_file():
        raise ConfigError(
            f"the adapter folder has no {ADAPTER}",
            value=str(adapter),
            remedy="Save the adapter with safe_serialization=True.",
        )
    with _explained("an adapter", adapter, "Give a LoRA folder made for this base model."):
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def adapter_folder(adapter: str | Path) -> Path:
    """Where an adapter's files lie. A hub's adapter is fetched by the names of its safe files, as
    peft would take a pickle where there is no safetensors file. Raises `ConfigError`."""
    return _adapters_files(adapter, ("adapter_config.json", ADAPTER, *TEMPLATES))


def _adapters_files(adapter: str | Path, names: Sequence[str]) -> Path:
    if Path(adapter).is_dir():
        return Path(adapter)
    from huggingface_hub import snapshot_download

    with _explained("an adapter", adapter, "Give a LoRA folder or a hub id."):
        return Path(snapshot_download(str(adapter), allow_patterns=[*names]))


def adapter_version(adapter: str | Path) -> str | None:
    """The `version` of an adapter's folder; of a hub's adapter its commit, by which the hub's cache
    names the folder, whichever of its files were fetched. Raises `ConfigError`."""
    folder = adapter_folder(adapter)
    return version(folder) if Path(adapter).is_dir() else folder.name


def version(place: str | Path) -> str | None:
    """A hash of what decides a model's words in a folder: weights, configs, chat templates; None if
    there are no weights.

    Of large weights about a hundredth is read (16 GB on a disk: a few seconds), something of every
    tensor, so that training, merging, pruning or scaling one of them is seen. In a tensor of more than
    half a mebibyte a change of less than a mebibyte in a row (128 rows of a layer 4096 wide) may not
    be: a few rows of an embedding, say, or numbers that somebody altered on purpose between the blocks.
    Name such a model yourself, or say `reference_cache = false`.
    """
    folder = Path(place)
    files = sorted(p for p in folder.glob("*") if p.suffix in {".safetensors", ".json", ".jinja"})
    if not any(p.suffix == ".safetensors" for p in files):
        return None
    files += sorted(folder.glob(f"{_FURTHER_TEMPLATES}/*.jinja"))
    files = [p for p in files if p.name not in _RECORDS]
    return digest([(p.relative_to(folder).as_posix(), _content_hash(p)) for p in files])


_FURTHER_TEMPLATES = "additional_chat_templates"
"""Where transformers keeps those of a tokenizer that has several, such as one for tool calls."""


def commit(path: str | Path) -> str | None:
    """The hub's commit of a model, by which the hub's cache names its folder; None of a folder of one's
    own. Raises `ConfigError`."""
    if Path(path).is_dir():
        return None
    from huggingface_hub import snapshot_download

    with _explained("a model", path, "Give a folder or a hub id."):
        return Path(snapshot_download(str(path), allow_patterns=["config.json"])).name


def identified(place: str | Path, found: str | None) -> str:
    """`place@version`: a hash of what lies in a folder, or a hub's commit. Chains are keyed by it,
    so that those of other weights in the same place are never taken for this model's."""
    return f"{place}@{found[:8]}" if found else str(place)


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation: object) -> set[int]:
    """What ends a turn, by the tokenizer and by a model's generation config. Raises `ConfigError` if
    nothing does."""
    stops: set[int] = set()
    for source in (tokenizer, generation):
        found = getattr(source, "eos_token_id", None)
        stops |= {found} if isinstance(found, int) else set(found or ())
    if not stops:
        raise ConfigError(
            "the model has no end-of-turn token",
            value=tokenizer.name_or_path,
            remedy="Set eos_token_id in its generation_config.json.",
        )
    return stops


def _content_hash(file: Path) -> str:
    """Of a file's length and of the parts that `_spans` names."""
    length = file.stat().st_size
    made = hashlib.sha256(str(length).encode())
    with file.open("rb", buffering=0) as stream:
        for start, size in _spans(stream, length):
            stream.seek(start)
            made.update(stream.read(size))
    return made.hexdigest()


_BLOCKS, _EVEN = 64, 1 << 16
_SMALL = _BLOCKS * _EVEN + (_BLOCKS - 1) * 1024
"""Bytes up to which a file is read in so many blocks, evenly spread: whole, or with gaps under 1 KiB.
Names of small models rest on it, those of the shipped ones among them."""

_STRIDE, _BLOCK = 1 << 19, 1 << 12
"""Of tensors in larger files: one block in every stride."""

_HEADER = 100_000_000
"""Bytes that the header of a safetensors file has at most, by its definition."""


def _spans(stream: BinaryIO, length: int) -> Iterator[tuple[int, int]]:
    """Which parts of a file are hashed: (start, size).

    Small files, as `_SMALL` says. Of larger ones that are no safetensors (tokenizers), everything. Of
    safetensors the header, which says names, types, shapes and places, and of every tensor the first
    half mebibyte if that is all of it, else a block of each half mebibyte and the last one. Where in
    its half mebibyte a block lies differs from one to the next: else all might show the same columns.
    """
    tensors = _tensors(stream, length) if length > _SMALL else None
    if length <= _SMALL:
        for index in range(_BLOCKS):
            yield index * max(0, length - _EVEN) // (_BLOCKS - 1), _EVEN
    elif tensors is None:
        yield from ((start, _STRIDE) for start in range(0, length, _STRIDE))
    else:
        yield 0, tensors[0][0]
        for start, end in tensors:
            yield from _of_tensor(start, end)


def _of_tensor(start: int, end: int) -> Iterator[tuple[int, int]]:
    if end - start <= _STRIDE:
        yield start, end - start
        return
    for index, at in enumerate(range(start, end, _STRIDE)):
        room = max(0, min(_STRIDE, end - at) - _BLOCK)
        share = index * 0x9E3779B1 % (1 << 32)  # steps of the golden ratio: even, and never in a cycle
        yield at + (share * room >> 32), _BLOCK
    yield end - _BLOCK, _BLOCK


def _tensors(stream: BinaryIO, length: int) -> list[tuple[int, int]] | None:
    """Where each tensor of a safetensors file begins and ends, in their order; None of another file
    (what is wrong with it is said where it is loaded)."""
    stream.seek(0)
    start = 8 + int.from_bytes(stream.read(8), "little")
    if start > min(length, _HEADER):
        return None
    try:
        header = json.loads(stream.read(start - 8))
        places = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        found = sorted((start + begin, start + end) for begin, end in places)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if found and all(start <= a <= b <= length for a, b in found) else None


def _quantised(bits: Quantization, dtype: str | torch.dtype) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "quantised weights need bitsandbytes, which is not installed",
            value=bits,
            remedy="pip install 'rightcall[qlora]'.",
        )
    make: Any = BitsAndBytesConfig
    if bits == "8bit":
        return make(load_in_8bit=True)
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else dtype,
    )


@contextmanager
def _explained(what: str, place: str | Path, remedy: str) -> Iterator[None]:
    """The libraries' many errors for names and files that are wrong, as one."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        fault = f"cannot load {what} ({_first_line(error)})"
        raise ConfigError(fault, value=str(place), remedy=remedy) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
