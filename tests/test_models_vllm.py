"""The vLLM backend against a stand-in for vLLM: its public interface over a tiny real model."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rightcall.chain import Message
from rightcall.errors import ConfigError, ModelError
from rightcall.models import ChatModel, Reply, Request, Sampling
from rightcall.models.local import LocalModel
from rightcall.models.spec import ModelSpec, open_model
from rightcall.models.vllm import VLLM
from rightcall.models.weights import load_tokenizer
from rightcall.rollout import Budget, Job, Setting, rollouts
from tiny_models import build_tiny
from toys import SumTask

STOP = 2


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE


@dataclass
class EngineArgs:
    model: str
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    enable_prefix_caching: bool | None = None
    enable_lora: bool = False
    max_lora_rank: int = 16
    generation_config: str = "auto"
    gpu_memory_utilization: float = 0.9


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


@dataclass
class Running:
    id: str
    ids: list[int]
    params: SamplingParams
    random: torch.Generator
    cached: int
    lora: LoRARequest | None
    said: list[int] = field(default_factory=list)


class LLMEngine:
    """Iteration-level batching: each step draws one token for each of the oldest requests."""

    made: list[LLMEngine] = []

    def __init__(self, args: EngineArgs) -> None:
        self.args = args
        self.lm: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        longest = args.max_model_len or self.lm.config.max_position_embeddings
        self.model_config = SimpleNamespace(max_model_len=longest)
        self.added: list[Running] = []
        self.open: list[Running] = []
        self.aborted: list[str] = []
        self.prefixes: set[tuple[int, ...]] = set()
        LLMEngine.made.append(self)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLMEngine:
        return cls(engine_args)

    def add_request(
        self,
        request_id: str,
        prompt: dict[str, list[int]],
        params: SamplingParams,
        arrival_time: float | None = None,
        lora_request: LoRARequest | None = None,
    ) -> None:
        ids = prompt["prompt_token_ids"]
        assert request_id not in {r.id for r in self.added}
        assert len(ids) + (params.max_tokens or 0) <= self.model_config.max_model_len
        assert lora_request is None or self.args.enable_lora
        random = torch.Generator().manual_seed(params.seed or 0)
        cached = max((n for n in range(len(ids)) if tuple(ids[:n]) in self.prefixes), default=0)
        running = Running(request_id, list(ids), params, random, cached, lora_request)
        self.added.append(running)
        self.open.append(running)
        if self.args.enable_prefix_caching:
            self.prefixes |= {tuple(ids[:n]) for n in range(0, len(ids) + 1, 4)}

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids
        self.open = [r for r in self.open if r.id not in request_ids]

    def step(self) -> list[Any]:
        outputs = []
        for running in self.open[: self.args.max_num_seqs]:
            with torch.no_grad():
                logits = self.lm(torch.tensor([running.ids + running.said])).logits[0, -1]
            if running.params.temperature == 0:
                token = int(logits.argmax())
            else:
                weights = torch.softmax(logits / running.params.temperature, -1)
                token = int(torch.multinomial(weights, 1, generator=running.random))
            running.said.append(token)
            stopped = token in (running.params.stop_token_ids or ())
            if stopped or len(running.said) == running.params.max_tokens:
                outputs.append(self._finished(running, stopped))
        done = {output.request_id for output in outputs}
        self.open = [r for r in self.open if r.id not in done]
        return outputs

    def _finished(self, running: Running, stopped: bool) -> Any:
        assert running.params.output_kind is RequestOutputKind.FINAL_ONLY
        completion = SimpleNamespace(
            index=0,
            text="",
            token_ids=list(running.said),
            finish_reason="stop" if stopped else "length",
            stop_reason=None,
        )
        return SimpleNamespace(
            request_id=running.id,
            prompt_token_ids=running.ids,
            outputs=[completion],
            finished=True,
            num_cached_tokens=running.cached,
        )


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[LLMEngine]]:
    """`import vllm` gives the stand-in."""
    package: Any = ModuleType("vllm")
    parts: dict[str, dict[str, Any]] = {
        "inputs": {"TokensPrompt": dict},
        "lora": {},
        "lora.request": {"LoRARequest": LoRARequest},
        "sampling_params": {"RequestOutputKind": RequestOutputKind},
    }
    package.EngineArgs, package.LLMEngine, package.SamplingParams = (
        EngineArgs,
        LLMEngine,
        SamplingParams,
    )
    monkeypatch.setitem(sys.modules, "vllm", package)
    for name, members in parts.items():
        module: Any = ModuleType(f"vllm.{name}")
        vars(module).update(members)
        parent, _, leaf = f"vllm.{name}".rpartition(".")
        setattr(sys.modules[parent], leaf, module)
        monkeypatch.setitem(sys.modules, f"vllm.{name}", module)
    LLMEngine.made.clear()
    yield LLMEngine
    LLMEngine.made.clear()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


def question(text: str) -> tuple[Message, ...]:
    return (Message(role="system", content="Add."), Message(role="user", content=text))


def ask(model: ChatModel, *requests: Request) -> dict[str, Reply]:
    for request in requests:
        model.submit(request)
    replies: dict[str, Reply] = {}
    while len(replies) < len(requests):
        replies |= {q.chain: r for q, r in model.poll() if isinstance(r, Reply)}
    return replies


def test_prompts_are_written_by_a_template_that_is_given(llama: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(f"{load_tokenizer(llama).chat_template}{{# own #}}")
    spec = ModelSpec.parse(f"vllm:{llama}", chat_template=str(own))
    with open_model(spec) as model:
        assert isinstance(model, VLLM)
        assert model.tokenizer.chat_template == own.read_text()
        assert model.name.startswith(f"{llama}@")
        assert "(template " in model.name


def test_a_model_of_the_hub_is_named_by_its_commit(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the hub's cache, without the hub: as the local engine names it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = tmp_path / "models--someone--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(llama, place / "snapshots" / commit)
    with open_model("vllm:someone/tiny") as model, open_model("someone/tiny") as local:
        assert model.name == local.name == f"someone/tiny@{commit[:8]}"


def test_greedy_conversations_are_those_of_the_local_engine_token_by_token(llama: Path) -> None:
    first = [
        Request(chain=f"c{i}", messages=question("Tom " * i), sampling=Sampling(max_tokens=4 + i))
        for i in range(1, 4)
    ]
    with VLLM(llama) as model, LocalModel.load(llama, device="cpu") as local:
        theirs, ours = ask(model, *first), ask(local, *first)
        assert theirs == ours
        later = [
            request.model_copy(
                update={
                    "messages": (
                        *request.messages,
                        Message(role="assistant", content=ours[request.chain].text),
                        Message(role="user", content="5"),
                    ),
                    "completions": ((*(ours[request.chain].token_ids or ()), STOP),),
                }
            )
            for request in first
        ]
        assert ask(model, *later) == ask(local, *later)
        # The sampled ids themselves are in the next prompt, and found in the cache.
        for request, running in zip(later, LLMEngine.made[0].added[3:], strict=True):
            said = list(request.completions[0] or ())
            assert any(running.ids[i : i + len(said)] == said for i in range(len(running.ids)))
        assert model.cached_tokens > model.prompt_tokens / 3


def test_chains_of_a_problem_are_submitted_one_after_another_and_seeds_reproduce(llama: Path) -> None:
    task = SumTask()
    sampling = Sampling(temperature=1.0, max_tokens=6)
    setting = Setting(task, task.function_set(), "student", sampling, Budget(steps=2))
    jobs = [Job(problem, i) for problem in task.problems("train", 3) for i in range(3)]

    def said() -> dict[str, list[tuple[int, ...] | None]]:
        with VLLM(llama, name="m", capacity=9) as model:
            made = rollouts(setting, model, jobs)
            return {c.key: [s.token_ids for s in c.steps] for c in made}

    once = said()
    assert once == said()
    assert len({str(tokens) for tokens in once.values()}) == 9
    prompts = [tuple(running.ids) for running in LLMEngine.made[0].added[:9]]
    assert [prompts.index(p) for p in prompts] == [0, 0, 0, 3, 3, 3, 6, 6, 6]


def test_finish_reasons_and_context(llama: Path) -> None:
    request = Request(chain="a", messages=question("1"), sampling=Sampling(max_tokens=5))
    with VLLM(llama) as model:
        free = ask(model, request)["a"]
        assert (free.finish_reason, free.completion_tokens) == ("length", 5)
        length = free.prompt_tokens
    with VLLM(llama, max_context=length + 3) as model:
        assert ask(model, request)["a"].finish_reason == "context"
        assert len(LLMEngine.made[-1].added) == 1
    with VLLM(llama, max_context=length) as model:
        assert ask(model, request)["a"] == Reply(text="", finish_reason="context", prompt_tokens=length)
        assert LLMEngine.made[-1].added == []
    with VLLM(llama) as model:
        model.renderer.stop_ids = frozenset({(free.token_ids or ())[2]})
        stopped = ask(model, request)["a"]
    assert (stopped.finish_reason, stopped.token_ids) == ("stop", (free.token_ids or ())[:3])
    assert free.text.startswith(stopped.text)


def test_a_request_that_vllm_gives_up_is_a_model_error(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given_up(self: LLMEngine, running: Running, stopped: bool) -> Any:
        completion = SimpleNamespace(token_ids=[], finish_reason="abort", stop_reason=None)
        return SimpleNamespace(
            request_id=running.id, outputs=[completion], finished=True, num_cached_tokens=None
        )

    monkeypatch.setattr(LLMEngine, "_finished", given_up)
    with VLLM(llama) as model:
        model.submit(Request(chain="a", messages=question("1"), sampling=Sampling(max_tokens=1)))
        ((_, reply),) = model.poll()
    assert isinstance(reply, ModelError)


def test_a_released_chain_is_aborted(llama: Path) -> None:
    with VLLM(llama) as model:
        for name in "ab":
            model.submit(Request(chain=name, messages=question(name), sampling=Sampling(max_tokens=2)))
        model.release("a")
        model.release("unknown")
        ((request, _),) = model.poll()
        assert request.chain == "b"
        assert model.poll() == []
        assert LLMEngine.made[0].aborted == ["a/1"]


def test_the_engine_is_opened_with_its_prefix_cache_and_without_the_folders_own_sampling(
    llama: Path,
) -> None:
    spec = ModelSpec.parse(f"vllm:{llama}", capacity=7, engine={"gpu_memory_utilization": 0.5})
    with open_model(spec) as model:
        assert isinstance(model, VLLM)
        args = LLMEngine.made[0].args
    assert args.enable_prefix_caching is True
    assert args.generation_config == "vllm"
    assert (args.max_num_seqs, args.gpu_memory_utilization) == (7, 0.5)
    with open_model(str(llama)) as local:
        assert local.name == model.name


def test_an_adapter_goes_with_every_request(llama: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(llama)
    get_peft_model(base, LoraConfig(r=24, target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    with open_model(f"vllm:{llama}+{tmp_path / 'lora'}") as model:
        ask(model, Request(chain="a", messages=question("1"), sampling=Sampling(max_tokens=1)))
    engine = LLMEngine.made[0]
    assert engine.args.enable_lora
    assert engine.args.max_lora_rank == 24
    assert engine.added[0].lora == LoRARequest("adapter", 1, str(tmp_path / "lora"))
    assert "lora" in model.name
    assert "(template " not in model.name


def test_an_adapter_is_opened_with_the_template_in_its_folder(llama: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(llama)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    own = tmp_path / "lora" / "chat_template.jinja"
    own.write_text(f"{load_tokenizer(llama).chat_template}{{# own #}}")
    with open_model(f"vllm:{llama}+{tmp_path / 'lora'}") as model:
        assert isinstance(model, VLLM)
        assert model.tokenizer.chat_template == own.read_text()
    with open_model(f"{llama}+{tmp_path / 'lora'}") as local:
        assert local.name == model.name
        assert "(template " in local.name


def test_without_vllm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, llama: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"vLLM is not installed.*pip install vllm"):
        open_model(f"vllm:{llama}")


def test_arguments_that_are_not_free_are_refused(llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"not free.*enable_prefix_caching"):
        VLLM(llama, engine={"enable_prefix_caching": False})
