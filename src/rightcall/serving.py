"""A trained model out of the door, and the proof that it is the same behind another one.

`export_model` writes a folder that `vllm serve` and `transformers serve` take: weights (or the adapter
alone), chat template, a generation config that ends turns where the template does and draws replies
from the model's distribution alone, and what tells servers how its calls are written. `parity` gives
two models, one of them perhaps behind a URL, the prompts of the same chains and compares what they read
and what they say: token by token where both tell the ids of a prompt, as local models and vLLM do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightcall.chain import Chain
from rightcall.dialects import DIALECTS, conversation
from rightcall.errors import ConfigError, DataError, ModelError, RenderingError
from rightcall.models import ChatModel, Reply, Request, Sampling
from rightcall.models.spec import ModelSpec
from rightcall.native import VLLM_PARSERS, structured, tools_of, tools_text

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import PreTrainedTokenizerBase

    from rightcall.rendering import Renderer

_PROBE = tools_text(
    [
        {
            "type": "function",
            "function": {
                "name": "probe",
                "description": "Probe.",
                "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
            },
        }
    ]
)

# --- export ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exported:
    """A folder that was written."""

    folder: Path
    notation: str | None
    """How the model writes calls natively; None if its template has no tool calling: it is for the
    Python dialect then."""
    base: str | None = None
    """The model that an adapter alone belongs to."""
    rank: int = 0
    """Of that adapter."""

    @property
    def commands(self) -> list[str]:
        """How to serve it."""
        tools = (
            f" --enable-auto-tool-choice --tool-call-parser {VLLM_PARSERS[self.notation]}"
            if (self.notation)
            else ""
        )
        place = shlex.quote(str(self.folder))
        if self.base is None:
            return [f"vllm serve {place}{tools}", f"transformers serve {place}"]
        adapter = f"--enable-lora --max-lora-rank {self.rank} --lora-modules {self.folder.name}={place}"
        template = f"--chat-template {place}/chat_template.jinja --generation-config {place}"
        return [f"vllm serve {shlex.quote(self.base)} {adapter} {template}{tools}"]


def export_model(
    spec: ModelSpec, out: str | Path, *, adapter_only: bool = False, dtype: str = "auto"
) -> Exported:
    """Write a local model for servers: the adapter merged into the weights, or with `adapter_only` the
    adapter beside its template. `dtype` of the weights: that of the checkpoint, or a name.

    The folder appears whole or not at all. Raises `ConfigError` if it exists, if the model has no
    adapter to leave alone, or cannot be loaded; `RenderingError` if its template carries no chain.
    """
    from rightcall.models.weights import load_tokenizer, stop_ids
    from rightcall.rendering import Renderer

    out = Path(out)
    if out.exists():
        raise ConfigError("the folder exists", value=str(out), remedy="Choose another one.")
    if adapter_only and spec.adapter is None:
        raise ConfigError("the model has no adapter", value=spec.model, remedy="Export it merged.")
    tokenizer = load_tokenizer(spec.weights, spec.template)
    generation = _checkpoint_generation(spec.weights)
    renderer = Renderer(tokenizer, sorted(stop_ids(tokenizer, generation)))
    renderer.check()
    notation = _notation(renderer)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if adapter_only:
            _write_adapter(spec, part)
        else:
            _write_merged(spec, part, dtype)
        _generation(tokenizer, renderer).save_pretrained(str(part))
        if notation is not None:
            tokenizer.response_template = _response_template(notation, renderer)
        tokenizer.chat_template = _as_rendered(str(tokenizer.chat_template), renderer)
        tokenizer.save_pretrained(str(part))
        base, rank = (spec.weights, _rank(part)) if adapter_only else (None, 0)
        made = Exported(out, notation, base, rank)
        (part / "README.md").write_text(_card(spec, made))
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made


def _as_rendered(template: str, renderer: Renderer) -> str:
    """The template that gives servers what the renderer makes of the model's own."""
    from rightcall.rendering import DATED, FOLDING

    folded = FOLDING + template if renderer.folds else template
    return DATED + folded if "strftime_now" in template else folded


def _write_merged(spec: ModelSpec, folder: Path, dtype: str) -> None:
    from rightcall.models.weights import load_adapter, load_model

    model = load_model(spec.weights, dtype=dtype, device="cpu")
    if spec.adapter is not None:
        model = load_adapter(model, spec.adapter).merge_and_unload()
    model.save_pretrained(str(folder), safe_serialization=True)


def _write_adapter(spec: ModelSpec, folder: Path) -> None:
    from rightcall.models.weights import adapter_folder

    assert spec.adapter is not None
    place = adapter_folder(spec.adapter)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(place / name, folder / name)


def _rank(folder: Path) -> int:
    config = json.loads((folder / "adapter_config.json").read_text())
    return max([int(config["r"]), *map(int, config.get("rank_pattern", {}).values())])


def _checkpoint_generation(path: str | Path) -> object:
    from transformers import AutoConfig, GenerationConfig

    load: Any = GenerationConfig.from_pretrained
    try:
        return load(str(path))
    except OSError:  # there is none: what the model's config says
        config: Any = AutoConfig.from_pretrained(str(path))
        return config


def _generation(tokenizer: PreTrainedTokenizerBase, renderer: Renderer) -> Any:
    """Turns end where the template ends them; replies are drawn from the model alone, as they were in
    training: a base's penalties and top-k would make it another policy."""
    from transformers import GenerationConfig

    make: Any = GenerationConfig
    return make(
        eos_token_id=sorted(renderer.stop_ids),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
    )


def _notation(renderer: Renderer) -> str | None:
    """How the model writes calls; None if its template has no tool calling."""
    try:
        renderer.check(_PROBE)
    except RenderingError:
        return None
    return renderer.notation(_PROBE)


def _response_template(notation: str, renderer: Renderer) -> dict[str, Any]:
    """What tells transformers where the calls of a reply stand (`tokenizer.response_template`)."""
    stops = [str(renderer.tokenizer.convert_ids_to_tokens(i)) for i in sorted(renderer.stop_ids)]
    function: dict[str, Any] = {"name": "{name}", "arguments": "{arguments}"}
    calls: dict[str, dict[str, Any]] = {
        "hermes": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "llama": {
            "open_pattern": r"\A\s*(?:<\|python_tag\|>)?(?=\{)",
            "close": stops,
            "repeats": True,
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{content.name}", "arguments": "{content.parameters}"},
            },
        },
        "mistral": {
            "open": "[TOOL_CALLS]",
            "close": stops,
            "content": "json",
            "transform": {"type": "function", "function": function},
            "transform_each": True,
        },
        "mistral with names": {
            "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[]+)(?:\[CALL_ID\][^\[]*)?\[ARGS\]",
            "close_pattern": "|".join([r"(?=\[TOOL_CALLS\])", *map(re.escape, stops)]),
            "repeats": True,
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
    }
    if notation == "mistral" and "[ARGS]" in str(renderer.tokenizer.chat_template):
        notation = "mistral with names"
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": renderer.reply_marks(_PROBE),
        "fields": {
            "tool_calls": calls[notation],
            "content": {"close": stops, "content": "text"},
        },
    }


def _card(spec: ModelSpec, made: Exported) -> str:
    source = spec.model + (f" with adapter {spec.adapter}" if spec.adapter else "")
    source += f", with the chat template {spec.template}" if spec.template else ""
    dialect = "native" if made.notation else "python"
    commands = "\n".join(f"    {command}" for command in made.commands)
    return (
        f"# {made.folder.name}\n\nMade by RightCall from {source}.\n\n"
        f"Calls: {dialect} dialect{f' ({made.notation} notation)' if made.notation else ''}.\n\n"
        f"Serve it:\n\n{commands}\n\n"
        "Replies are drawn from the model's distribution alone: the generation config holds no penalty "
        "and no top-k. At temperature 0 it gives what evaluation saw.\n"
    )


# --- parity ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A turn at which two models part."""

    chain: str
    step: int
    """From 0."""
    prompt_tokens: tuple[int, int]
    replies: tuple[str, str]
    parted: int | None = None
    """The first token at which the prompts differ, from 0, where both are known token by token."""

    def __str__(self) -> str:
        where = "" if self.parted is None else f" that part at token {self.parted + 1}"
        one, other = self.prompt_tokens
        return (
            f"chain {self.chain}, step {self.step + 1}: prompts of {one} and {other} tokens{where}, "
            f"replies {self.replies}"
        )


@dataclass
class Parity:
    """What two models made of the same prompts."""

    turns: int = 0
    same_prompt: int = 0
    """Turns whose prompt has the same tokens for both; where these are not known, as many."""
    by_ids: int = 0
    """Turns whose prompts were compared token by token; the others by their lengths."""
    same_reply: int = 0
    """Turns to which both reply the same, word by word and call by call."""
    differences: list[Difference] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return bool(self.turns) and self.turns == self.same_prompt == self.same_reply

    @property
    def compared(self) -> str:
        """What `same_prompt` counts."""
        if self.by_ids == self.turns:
            return "the same prompt, token by token"
        some = f" ({self.by_ids} compared token by token)" if self.by_ids else ""
        return f"prompts of the same length{some}"

    def table(self) -> Table:
        from rich.table import Table

        table = Table("", "turns", title="The same prompts, twice")
        for name, count in (
            ("asked", self.turns),
            (self.compared, self.same_prompt),
            ("the same reply", self.same_reply),
        ):
            table.add_row(name, str(count))
        return table


Reader = Callable[[Request], "tuple[int, ...] | None"]
"""Gives the token ids of the prompt that a model reads; None where they are not told."""


def prompt_reader(model: ChatModel, spec: ModelSpec | None = None) -> Reader:
    """What tells a model's prompts: its own renderer, or the server that `spec` names."""
    renderer: Renderer | None = getattr(model, "renderer", None)
    if renderer is None:
        served = spec is not None and spec.kind == "openai" and spec.base_url is not None
        return _Tokenize(spec) if served and spec is not None else lambda request: None

    def rendered(request: Request) -> tuple[int, ...] | None:
        try:
            return renderer.render(request.messages, reply_next=True, tools=request.tools).ids
        except RenderingError:
            return None

    return rendered


class _Tokenize:
    """vLLM's `/tokenize`, beside its `/v1`, for conversations. Other servers have none, or one that
    does something else; it is not asked again then."""

    def __init__(self, spec: ModelSpec) -> None:
        base = (spec.base_url or "").partition("?")[0].rstrip("/").removesuffix("/v1")
        key = os.environ.get(spec.api_key_env, "") if spec.api_key_env else ""
        self._url, self._model = f"{base}/tokenize", spec.model
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._told = True
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, request: Request) -> tuple[int, ...] | None:
        if not self._told:
            return None
        tools = {"tools": tools_of(request.tools)} if request.tools else {}
        turns = structured(request.messages, "text") if request.tools else request.messages
        body = json.dumps({"model": self._model, "messages": turns, **tools}).encode()
        try:
            asked = urllib.request.Request(self._url, body, self._headers)
            with self._opener.open(asked, timeout=30) as response:
                ids = json.load(response)["tokens"]
        except (OSError, ValueError, KeyError, TypeError):
            ids = None
        self._told = isinstance(ids, list) and bool(ids) and all(type(i) is int for i in ids)
        return tuple(ids) if self._told else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key is for this server alone."""

    def redirect_request(self, *args: Any) -> None:
        return None


def parity(
    one: ChatModel,
    other: ChatModel,
    chains: Iterable[Chain],
    *,
    turns: int = 200,
    max_tokens: int = 64,
    readers: tuple[Reader, Reader] | None = None,
) -> Parity:
    """Give two models the prompts of the same chains, turn by turn as they are recorded, and compare
    what they read and their greedy replies.

    Prompts are compared token by token where both `readers` tell their ids (by default those of models
    in this process), else by the lengths that come with the replies. Sampled token ids are not used:
    both see the conversation as the template writes it. What a model fails at is a difference, unless
    both do. Raises `DataError` if the chains have no turn.
    """
    asked = list(_requests(chains, turns, max_tokens))
    if not asked:
        raise DataError("the chains have no turn to ask for", remedy="Give a file of finished chains.")
    models = (one, other)
    readers = readers or (prompt_reader(one), prompt_reader(other))
    replies = [_replies(model, asked) for model in models]
    made = Parity(turns=len(asked))
    for request in asked:
        a, b = (answered[request.chain] for answered in replies)
        lengths, texts = (_length(a), _length(b)), (_shown(a), _shown(b))
        ids = [
            _believed(reader(request), length) for reader, length in zip(readers, lengths, strict=True)
        ]
        parted = None
        if ids[0] is not None and ids[1] is not None:
            made.by_ids += 1
            parted = _first_difference(ids[0], ids[1])
        same = lengths[0] == lengths[1] and parted is None
        made.same_prompt += same
        made.same_reply += texts[0] == texts[1]
        if not same or texts[0] != texts[1]:
            key, _, step = request.chain.rpartition("/")
            made.differences.append(Difference(key, int(step), lengths, texts, parted))
    return made


def _believed(ids: tuple[int, ...] | None, length: int) -> tuple[int, ...] | None:
    """A prompt's ids, if they are as many as the model counted when it replied: a server may tokenise
    without the functions, and then tells nothing of what it read."""
    return ids if ids is not None and len(ids) == length else None


def _first_difference(one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))


def _requests(chains: Iterable[Chain], turns: int, max_tokens: int) -> Iterator[Request]:
    """Each turn of each chain, as far as `turns` go."""
    for chain in chains:
        for step in range(len(chain.steps)):
            if turns <= 0:
                return
            turns -= 1
            yield Request(
                chain=f"{chain.key}/{step}",
                messages=conversation(chain.prompt, chain.steps[:step], DIALECTS[chain.dialect]),
                sampling=Sampling(temperature=0.0, max_tokens=max_tokens),
                tools=chain.schemas,
            )


def _length(reply: Reply | ModelError) -> int:
    return -1 if isinstance(reply, ModelError) else reply.prompt_tokens


def _shown(reply: Reply | ModelError) -> str:
    """What was said, and how it ended where the model did not end it."""
    if isinstance(reply, ModelError):
        return "no reply"
    ending = "" if reply.finish_reason == "stop" else f" [{reply.finish_reason}]"
    return f"{reply.text}{ending}"


def _replies(model: ChatModel, asked: Iterable[Request]) -> Mapping[str, Reply | ModelError]:
    waiting, open_requests = iter(asked), 0
    answered: dict[str, Reply | ModelError] = {}
    while True:
        while open_requests < model.capacity and (request := next(waiting, None)) is not None:
            try:
                model.submit(request)
            except RenderingError as error:
                answered[request.chain] = ModelError(str(error))
            else:
                open_requests += 1
        if not open_requests:
            return answered
        for request, reply in model.poll():
            answered[request.chain] = reply
            model.release(request.chain)
            open_requests -= 1
