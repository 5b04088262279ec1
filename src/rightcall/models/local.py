"""Any causal language model that transformers can load, batched across the chains in flight.

The work is in `engine.py`; this file loads weights and turns conversations into token ids. A
reply is drawn from the model's own distribution by `Sampling` alone: what a model folder's
`generation_config` says about penalties or top-k is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AttentionInterface

from rightcall.chain import Message
from rightcall.errors import ConfigError, ModelError
from rightcall.models import ChatModel, Reply, Request
from rightcall.models.cache import ATTENTION, attention
from rightcall.models.constrained import CallConstraint, Constrainer
from rightcall.models.engine import Engine, Finished, Stats, Turn, shared_head
from rightcall.models.weights import (
    Quantization,
    adapter_version,
    checked_device,
    chosen_template,
    commit,
    identified,
    load_adapter,
    load_model,
    load_tokenizer,
    stop_ids,
    templated,
    version,
)
from rightcall.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKABLE_LAYERS = {"full_attention", "sliding_attention"}

AttentionInterface.register(ATTENTION, attention)


class LocalModel(ChatModel):
    """A model in this process.

    A chain's reply depends on its request and seed only, not on what else is in the batch (up to
    rounding in the last bits). `stats` counts what was computed. The constructor borrows a model, for
    instance one in training: it gets its own attention and mode back by `close`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        capacity: int = 64,
        max_context: int | None = None,
        constrained: bool = False,
    ) -> None:
        _check_architecture(model)
        # Other chains come of it: they must not pass for those of the free model.
        self.name = f"{name} (constrained)" if constrained else name
        self.capacity = capacity
        self.model = model
        self.tokenizer = tokenizer
        self._borrowed = (model.config._attn_implementation, model.training)
        model.train(False)
        model.set_attn_implementation(ATTENTION)
        self.renderer = Renderer(tokenizer, sorted(stop_ids(tokenizer, model.generation_config)))
        config = model.config.get_text_config()
        window = int(getattr(config, "max_position_embeddings", 1 << 20))
        self._engine = Engine(
            model,
            slots=capacity,
            max_context=min(max_context or window, window),
            stop_ids=self.renderer.stop_ids,
        )
        self._constrainer = (
            Constrainer(tokenizer, _logits(model), sorted(self.renderer.stop_ids))
            if constrained
            else None
        )
        self._open: dict[str, tuple[Request, int]] = {}
        self._unanswerable: list[tuple[Request, Literal["context", "template"]]] = []

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        adapter: str | Path | None = None,
        chat_template: str | Path | None = None,
        name: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        capacity: int = 64,
        max_context: int | None = None,
        threads: int | None = None,
        merge: bool = True,
        quantization: Quantization | None = None,
        constrained: bool = False,
    ) -> LocalModel:
        """Load a folder or hub id, safetensors only and without remote code.

        `chat_template`: a file, in place of the tokenizer's own; default: the one that the adapter
        brings, if it is another. `device`: default CUDA where there is
        one. `dtype`: "float32", "bfloat16", "float16"; default float32 on the CPU, else the
        checkpoint's. `threads`: of torch, process-wide. `merge`: fold the LoRA adapter into the weights
        (not done for quantised weights). `constrained`: every reply is one call that parses, names a
        real function and has literals of the annotated types.
        Raises `ConfigError` if the folder or hub id cannot be loaded, `RenderingError` if its chat
        template cannot carry a chain.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        place = checked_device(device)
        kind = dtype or ("float32" if place == "cpu" else "auto")
        chat_template = chosen_template(path, adapter, chat_template)
        tokenizer = load_tokenizer(path, chat_template)
        model = load_model(path, dtype=kind, quantization=quantization, device=place)
        label = identified(path, version(path) or commit(path))
        if adapter is not None:
            adapted = load_adapter(model, adapter)
            # Without merging the LoRA layers stay inside the base model's own modules.
            fold = merge and not quantization
            model = adapted.merge_and_unload() if fold else adapted.get_base_model()
            label += f"+{identified(adapter, adapter_version(adapter))}"
        label = name or templated(label, chat_template)
        made = cls(
            model,
            tokenizer,
            name=label,
            capacity=capacity,
            max_context=max_context,
            constrained=constrained,
        )
        made.renderer.check()
        return made

    @property
    def stats(self) -> Stats:
        """What the engine computed so far."""
        return self._engine.stats

    def submit(self, request: Request) -> None:
        self.renderer.check_once(request.tools)
        if not self.renderer.has_place_for(request.messages, request.tools):
            self._open[request.chain] = (request, 0)
            self._unanswerable.append((request, "template"))
            return
        ids = self.renderer.render(
            request.messages, request.completions, reply_next=True, tools=request.tools
        ).ids
        self._open[request.chain] = (request, len(ids))
        if len(ids) >= self._engine.max_context:
            self._unanswerable.append((request, "context"))
            return
        self._engine.enter(
            Turn(
                row=request.chain,
                ids=ids,
                shared_prefix=self._head(request, ids),
                sampling=request.sampling,
                seed=request.seed,
                constraint=self._constraint(request),
            )
        )

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        answers: list[tuple[Request, Reply | ModelError]] = []
        for request, why in self._unanswerable:
            _, length = self._open.pop(request.chain)
            answers.append((request, Reply(text="", finish_reason=why, prompt_tokens=length)))
        self._unanswerable = []
        while not answers and self._engine.busy:
            answers = [self._answer(finished) for finished in self._engine.step()]
        return answers

    def release(self, chain: str) -> None:
        self._unanswerable = [one for one in self._unanswerable if one[0].chain != chain]
        self._open.pop(chain, None)
        self._engine.leave(chain)

    def close(self) -> None:
        implementation, training = self._borrowed
        self.model.set_attn_implementation(implementation)
        self.model.train(training)

    def _answer(self, finished: Finished) -> tuple[Request, Reply]:
        request, prompt_tokens = self._open.pop(finished.row)
        words = finished.tokens[:-1] if finished.reason == "stop" else finished.tokens
        text = self.tokenizer.decode(list(words), skip_special_tokens=False)
        return request, Reply(
            text=self.renderer.held(str(text), request.tools),
            finish_reason=finished.reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(finished.tokens),
            token_ids=finished.tokens,
        )

    def _constraint(self, request: Request) -> CallConstraint | None:
        if self._constrainer is None:
            return None
        if request.tools:
            raise ConfigError(
                "constrained decoding holds replies to calls in Python syntax",
                value='dialect = "native"',
                remedy='Set dialect = "python", or open the model without constrained.',
            )
        if request.functions is None:
            raise ConfigError(
                "constrained decoding needs to know the functions",
                value=request.chain,
                remedy="Give Request.functions, or open the model without constrained.",
            )
        return self._constrainer.constraint(request.functions)

    def _head(self, request: Request, ids: tuple[int, ...]) -> int:
        """How much of a prompt precedes its question: what another problem would share. Asked only
        of a conversation's first turn; later ones find what the first one made."""
        if any(m["role"] == "assistant" for m in request.messages):
            return 0
        *before, question = request.messages
        other = "?" if not question["content"].startswith("?") else "!"
        probe = [*before, Message(role=question["role"], content=other)]
        other_ids = self.renderer.render(probe, reply_next=True, tools=request.tools).ids
        # One token less: the last one may have merged with the question's first character.
        return max(0, shared_head(ids, other_ids) - 1)


def _logits(model: PreTrainedModel) -> int:
    """How many there are for a token: some checkpoints pad their vocabulary."""
    head: Any = model.get_output_embeddings
    return int(head().weight.shape[0])


def _check_architecture(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - PACKABLE_LAYERS
    if others or model.config.is_encoder_decoder or not model._supports_attention_backend:
        raise ConfigError(
            "the local engine runs attention layers only",
            value=sorted(others) or model.config.model_type,
            remedy="Serve this architecture (e.g. with vLLM) and use its URL.",
        )
