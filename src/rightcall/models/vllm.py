"""vLLM in this process: the engine of choice on CUDA, where it is installed.

Token ids go in and come out, so what is trained is what was seen and said. vLLM's prefix cache stays
on; chains of a problem are submitted one after another, so its blocks are still there for the next.
The cache makes a chain's turns cheap too: only the observation is new.

A request's seed is handed on. vLLM promises the same tokens for the same seed only if its kernels are
batch-invariant (its VLLM_BATCH_INVARIANT); otherwise rounding may differ with the batch's company.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightcall.errors import ConfigError, ModelError
from rightcall.models import ChatModel, Reply, Request
from rightcall.models.weights import (
    adapter_folder,
    adapter_version,
    chosen_template,
    commit,
    identified,
    load_tokenizer,
    stop_ids,
    templated,
    version,
)
from rightcall.rendering import Renderer

if TYPE_CHECKING:
    from transformers import GenerationConfig

OURS = {"model", "enable_prefix_caching", "enable_lora", "generation_config", "max_num_seqs"}
"""Arguments of vLLM's engine that are set here and nowhere else."""


class VLLM(ChatModel):
    """A model run by vLLM's `LLMEngine`; `capacity` chains are in flight at once.

    `dtype`: default the checkpoint's. `engine`: further fields of vLLM's `EngineArgs`, such as
    `tensor_parallel_size` or `gpu_memory_utilization`. `prompt_tokens` and `cached_tokens` count what
    was asked and what of it the prefix cache had. Raises `ConfigError` where vLLM is not installed or
    the model cannot be loaded.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        adapter: str | Path | None = None,
        chat_template: str | Path | None = None,
        name: str | None = None,
        capacity: int = 256,
        max_context: int | None = None,
        dtype: str | None = None,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        vllm = _vllm()
        self.capacity = capacity
        chat_template = chosen_template(path, adapter, chat_template)
        self.tokenizer = load_tokenizer(path, chat_template)
        self.renderer = Renderer(self.tokenizer, sorted(stop_ids(self.tokenizer, _generation(path))))
        self.renderer.check()
        self.name = name or identified(path, version(path) or commit(path))
        self._lora = None
        arguments = {
            **_free(engine or {}),
            "model": str(path),
            "dtype": dtype or "auto",
            "max_model_len": max_context,
            "max_num_seqs": capacity,
            "enable_prefix_caching": True,
            # Not the checkpoint's penalties and top-k: a reply is drawn by `Sampling` alone.
            "generation_config": "vllm",
        }
        if adapter is not None:
            folder = adapter_folder(adapter)
            arguments |= {"enable_lora": True, "max_lora_rank": _rank(folder)}
            self._lora = vllm.lora.request.LoRARequest("adapter", 1, str(folder))
            self.name = name or f"{self.name}+{identified(adapter, adapter_version(adapter))}"
        self.name = name or templated(self.name, chat_template)
        self._vllm = vllm
        self._engine: Any = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**arguments))
        self._max_context = int(self._engine.model_config.max_model_len)
        self.prompt_tokens = self.cached_tokens = 0
        self._turns = 0
        self._open: dict[str, tuple[Request, int]] = {}  # by vLLM's request id
        self._unanswerable: list[tuple[Request, Reply]] = []

    def submit(self, request: Request) -> None:
        self.renderer.check_once(request.tools)
        if not self.renderer.has_place_for(request.messages, request.tools):
            self._unanswerable.append((request, Reply(text="", finish_reason="template")))
            return
        ids = self.renderer.render(
            request.messages, request.completions, reply_next=True, tools=request.tools
        ).ids
        room = self._max_context - len(ids)
        if room < 1:
            reply = Reply(text="", finish_reason="context", prompt_tokens=len(ids))
            self._unanswerable.append((request, reply))
            return
        sampling = request.sampling
        params = self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=request.seed,
            stop_token_ids=sorted(self.renderer.stop_ids),
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )
        self._turns += 1
        turn = f"{request.chain}/{self._turns}"
        self._open[turn] = request, len(ids)
        prompt = self._vllm.inputs.TokensPrompt(prompt_token_ids=list(ids))
        self._engine.add_request(turn, prompt, params, lora_request=self._lora)

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        answers: list[tuple[Request, Reply | ModelError]] = [*self._unanswerable]
        self._unanswerable = []
        while not answers and self._open:
            for output in self._engine.step():
                if output.finished and output.request_id in self._open:
                    answers.append(self._answer(output))
        return answers

    def release(self, chain: str) -> None:
        self._unanswerable = [one for one in self._unanswerable if one[0].chain != chain]
        gone = [turn for turn, (request, _) in self._open.items() if request.chain == chain]
        for turn in gone:
            del self._open[turn]
        if gone:
            self._engine.abort_request(gone)

    def close(self) -> None:
        self._engine = None  # vLLM frees the device when its engine is collected

    def _answer(self, output: Any) -> tuple[Request, Reply | ModelError]:
        request, length = self._open.pop(output.request_id)
        self.prompt_tokens += length
        self.cached_tokens += output.num_cached_tokens or 0
        made = output.outputs[0]
        if made.finish_reason not in ("stop", "length"):
            return request, ModelError("vLLM gave a request up", value=made.finish_reason)
        tokens = tuple(made.token_ids)
        stopped = made.finish_reason == "stop"
        if stopped and (not tokens or tokens[-1] not in self.renderer.stop_ids):
            ended = made.stop_reason if isinstance(made.stop_reason, int) else None
            tokens = (*tokens, self.tokenizer.eos_token_id if ended is None else ended)
        words = tokens[:-1] if stopped else tokens
        text = str(self.tokenizer.decode(list(words), skip_special_tokens=False))
        cut = "context" if length + request.sampling.max_tokens > self._max_context else "length"
        return request, Reply(
            text=self.renderer.held(text, request.tools),
            finish_reason="stop" if stopped else cut,
            prompt_tokens=length,
            completion_tokens=len(tokens),
            token_ids=tokens,
        )


def _vllm() -> Any:
    try:
        import vllm
        import vllm.inputs
        import vllm.lora.request
        import vllm.sampling_params
    except ImportError as error:
        raise ConfigError(
            f"vLLM is not installed ({error})",
            value="vllm:",
            remedy="pip install vllm where there is a GPU; without one leave out `vllm:`. A server "
            "that runs it is reached by its URL, like http://localhost:8000/v1#name.",
        ) from error
    return vllm


def _free(engine: Mapping[str, Any]) -> dict[str, Any]:
    taken = sorted(OURS & set(engine))
    if taken:
        raise ConfigError("an argument of vLLM's engine that is not free", value=taken)
    return dict(engine)


def _rank(folder: Path) -> int:
    """The rank of a LoRA adapter: vLLM makes room for 16 unless it is told."""
    try:
        return int(json.loads((folder / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "the adapter folder has no readable adapter_config.json",
            value=str(folder),
            remedy="Give a LoRA folder made by peft.",
        ) from error


def _generation(path: str | Path) -> GenerationConfig | None:
    """The checkpoint's generation_config.json, for its stop tokens."""
    from transformers import GenerationConfig

    load: Any = GenerationConfig.from_pretrained
    try:
        made: GenerationConfig = load(str(path))
    except OSError:
        return None
    return made
