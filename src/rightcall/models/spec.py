"""Which model to open: a table in a config file, or one string.

"tiny:student"                      a shipped tiny model
"path/or/hub-id"                    a local model
"path/or/hub-id+path/to/adapter"    the same with a LoRA adapter
"http://localhost:8000/v1#name"     a model behind an OpenAI-compatible server
"openai#name"                       a model hosted by OpenAI
"vllm:path/or/hub-id"               a local model run by vLLM, an adapter after a plus sign likewise
"gold"                              the player of gold chains (needs the problems)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from rightcall.chain import Frozen, Problem
from rightcall.errors import ConfigError
from rightcall.models import ChatModel
from rightcall.models.url import checked_url
from rightcall.models.usage import Cap, Price
from rightcall.settings import without_user

TINY = "tiny:"
"""Prefix of the shipped models' paths."""

IN_VLLM = "vllm:"
"""Prefix of models that vLLM runs."""

ONLY: dict[str, set[str]] = {
    "local": {"device", "threads", "quantization", "constrained"},
    "vllm": {"engine"},
    "openai": {
        *("base_url", "api_key_env", "timeout", "max_retries", "length_field", "extra"),
        *("omit", "served_as", "cache", "price", "cap"),
    },
    "gold": set(),
}
"""Settings that make sense for one kind of backend alone."""

WEIGHTS = {"adapter", "chat_template", "dtype", "max_context"}
"""Settings of both kinds that run weights in this process."""


_INCOMPLETE = {"openai", "http", "https", "local", "vllm", "tiny"}
"""Kinds of models and beginnings of names that name none."""


class ModelSpec(Frozen):
    """A model in any role."""

    kind: Literal["local", "vllm", "openai", "gold"] = "local"
    model: str = ""
    """Folder, hub id or `tiny:name` (local, vllm); the name that the server knows (openai)."""
    name: str | None = None
    """What chains are labelled with; default: `model` and the adapter, each with its version (hub
    commit, or a hash of the weights in a folder), so that other weights make other chains."""
    capacity: int = Field(64, ge=1)
    """Chains in flight."""

    adapter: str | None = None
    """Folder or hub id of a LoRA adapter."""
    chat_template: str | None = None
    """File of a chat template in place of the tokenizer's own; chains are labelled with its hash.
    Default: the one that the adapter brings, if it is another."""
    device: str | None = None
    """Default: CUDA where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Default: float32 on the CPU, else the checkpoint's."""
    max_context: int | None = Field(None, ge=2)
    """Tokens of prompt and reply; default: what the model was made for."""
    threads: int | None = Field(None, ge=1)
    """Threads of torch on the CPU."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Load the weights in so many bits (needs bitsandbytes)."""
    constrained: bool = False
    """Every reply is one call that parses, names a real function and has literals of the annotated
    types (needs llguidance); chains are labelled with it."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's engine."""

    base_url: str | None = None
    """Default: OpenAI's own."""
    api_key_env: str | None = None
    """The environment variable that holds the key; the key itself never stands in a file. Default:
    OPENAI_API_KEY for OpenAI's own service, and no key for any other `base_url`."""
    timeout: float = Field(120.0, gt=0)
    """Seconds that an attempt may take."""
    max_retries: int = Field(5, ge=0)
    """Attempts after the first."""
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request's body."""
    omit: list[Literal["seed", "top_p", "temperature"]] = Field(default_factory=list)
    """Fields of each request's body that are left out, as the server refuses them; what it does instead
    is its own affair."""
    served_as: str | None = None
    """The name that the server gives the model in its replies, if it is another one; "*" for any."""
    cache: bool | None = None
    """Keep replies on disk, so that the same request with the same seed is not paid for twice. Default:
    for what is paid for (OpenAI's own service, and any model with a price); elsewhere other weights may
    stand behind the same name tomorrow."""
    price: Price | None = None
    """Money per million tokens."""
    cap: Cap | None = None
    """Tokens and money that may be used in all, in this run and its resumptions."""

    @property
    def cached(self) -> bool:
        """Whether replies are kept."""
        paid = self.kind == "openai" and (self.base_url is None or self.price is not None)
        return paid if self.cache is None else self.cache

    @model_validator(mode="after")
    def _priced(self) -> ModelSpec:
        if self.cap is not None and self.cap.money is not None and self.price is None:
            raise ConfigError(
                "a cap on money needs a price",
                value=f"cap.money = {self.cap.money:g}",
                remedy="Set price.prompt and price.completion, in money per million tokens.",
            )
        return self

    @field_validator("base_url")
    @classmethod
    def _url(cls, base_url: str | None) -> str | None:
        return None if base_url is None else checked_url(base_url)

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if self.kind != "gold" and not self.model:
            raise ValueError('a model needs a name: set model = "folder, hub id or name"')
        for kind, fields in ONLY.items():
            self._refuse(fields if kind != self.kind else set(), repr(kind))
        self._refuse(set() if self.kind in ("local", "vllm") else WEIGHTS, "'local' or 'vllm'")
        return self

    def _refuse(self, fields: set[str], kinds: str) -> None:
        for name in sorted(fields):
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) != default:
                raise ValueError(f"{name} belongs to kind = {kinds}, this is {self.kind!r}")

    @classmethod
    def parse(cls, text: str, **settings: Any) -> ModelSpec:
        """Read the one-string form (see the top of this file); `settings` are further fields.
        Raises `ConfigError`."""
        try:
            return cls(**{**_shorthand(text.strip()), **settings})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            shown = ".".join(map(str, first["loc"]))
            message = first["msg"].removeprefix("Value error, ")
            if not shown:
                raise ConfigError(message, value=without_user(text)) from error
            given = first["input"]
            value = without_user(given) if isinstance(given, str) else given
            raise ConfigError(f"{shown} is wrong", value=value, remedy=f"{message}.") from error

    @property
    def weights(self) -> str:
        """The folder or hub id of a local model, `tiny:` resolved. Raises `ConfigError` for others."""
        if self.kind not in ("local", "vllm"):
            raise ConfigError(
                "a model without weights here",
                value=self.model or self.kind,
                remedy="Give a folder, a hub id, or tiny:student.",
            )
        if not self.model.startswith(TINY):
            return self.model
        from rightcall import tiny

        return str(tiny.path(self.model.removeprefix(TINY)))

    @property
    def template(self) -> str | None:
        """The file of the chat template it is opened with, given or its adapter's; None: the
        tokenizer's own. Raises `ConfigError`."""
        from rightcall.models.weights import chosen_template

        file = chosen_template(self.weights, self.adapter, self.chat_template)
        return None if file is None else str(file)


def _shorthand(text: str) -> dict[str, Any]:
    if text == "gold":
        return {"kind": "gold"}
    place, mark, name = text.partition("#")
    if mark and name and place == "openai":
        return {"kind": "openai", "model": name}
    if place.startswith(("http://", "https://")):
        if not name:
            place = checked_url(place)
            raise ConfigError(
                "a server's URL needs a model's name", value=place, remedy=f"Write {place}#model-name."
            )
        return {"kind": "openai", "model": name, "base_url": place}
    if text.startswith(IN_VLLM) and not Path(text).exists():
        return {**_shorthand(text.removeprefix(IN_VLLM)), "kind": "vllm"}
    if (text in _INCOMPLETE or mark) and not Path(text).exists():
        raise ConfigError(
            "not a model",
            value=text,
            remedy="A server: http://localhost:8000/v1#model-name; OpenAI's own: openai#model-name.",
        )
    # A folder whose own name holds a plus sign is taken whole.
    base, plus, adapter = text.rpartition("+")
    if plus and base and adapter and not Path(text).exists():
        return {"kind": "local", "model": base, "adapter": adapter}
    return {"kind": "local", "model": text}


def open_model(
    spec: ModelSpec | str, problems: Iterable[Problem] = (), *, usage_path: Path | None = None
) -> ChatModel:
    """Open a backend. `problems` are what a gold player can play; `usage_path` is a file that counts
    what a server's model uses over processes, for its cap.

    Raises `ConfigError` if it cannot be opened; a server is not contacted before the first request.
    """
    spec = ModelSpec.parse(spec) if isinstance(spec, str) else spec
    if spec.kind == "gold":
        from rightcall.models.scripted import GoldPlayer

        return GoldPlayer(problems, name=spec.name or "gold", capacity=spec.capacity)
    if spec.kind == "openai":
        from rightcall.models.openai_compatible import OpenAICompatible

        return OpenAICompatible(
            spec.model,
            spec.base_url,
            api_key_env=spec.api_key_env,
            name=spec.name,
            capacity=spec.capacity,
            timeout=spec.timeout,
            max_retries=spec.max_retries,
            length_field=spec.length_field,
            extra=spec.extra,
            omit=spec.omit,
            served_as=spec.served_as,
            cache=spec.cached,
            price=spec.price,
            cap=spec.cap,
            usage_path=usage_path,
        )
    model = _in_vllm(spec) if spec.kind == "vllm" else _local(spec)
    if spec.name is None:  # a shipped model is known by its short name, wherever it is installed
        model.name = model.name.replace(spec.weights, spec.model, 1)
    return model


def _in_vllm(spec: ModelSpec) -> ChatModel:
    from rightcall.models.vllm import VLLM

    return VLLM(
        spec.weights,
        adapter=spec.adapter,
        chat_template=spec.chat_template,
        name=spec.name,
        capacity=spec.capacity,
        max_context=spec.max_context,
        dtype=spec.dtype,
        engine=spec.engine,
    )


def _local(spec: ModelSpec) -> ChatModel:
    from rightcall.models.local import LocalModel

    return LocalModel.load(
        spec.weights,
        adapter=spec.adapter,
        chat_template=spec.chat_template,
        name=spec.name,
        device=spec.device,
        dtype=spec.dtype,
        capacity=spec.capacity,
        max_context=spec.max_context,
        threads=spec.threads,
        quantization=spec.quantization,
        constrained=spec.constrained,
    )
