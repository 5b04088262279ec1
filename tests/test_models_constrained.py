"""Constrained decoding: whatever the model, its reply is a call that binds."""

from __future__ import annotations

import json
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rightcall.chain import Message
from rightcall.errors import ConfigError
from rightcall.functions import Function, FunctionSet, State, Stop, bind, function, parse_calls
from rightcall.models import Reply, Request, Sampling
from rightcall.models.constrained import Constrainer
from rightcall.models.local import LocalModel
from rightcall.models.spec import ModelSpec, open_model
from rightcall.rollout import Budget, Job, Setting, rollouts
from rightcall.task import load_task
from tiny_models import CHAT_TEMPLATE, CORPUS, build_tiny, build_tokenizer
from toys import SumTask

pytest.importorskip("llguidance")


class Mood(Enum):
    GOOD = "good"
    BAD = 'so "so"'


class Memory(State):
    pass


@function(example="mix(1, 2.5, 'a', True, g=False)", trusted=True)
def mix(a: int, b: float, c: str, d: bool, e: int | None = None, *, f: str = "f", g: bool) -> str:
    """Plain types, defaults, keywords."""
    return f"{a}{b}{c}{d}{e}{f}{g}"


@function(example="gather('x', 1, 2, last='one')", trusted=True)
def gather(first: str, *rest: int, last: Literal["one", "it's two"], memory: Memory) -> str:
    """Many of a kind."""
    return f"{first}{rest}{last}"


@function(example="nested([[1], []], {'a': [0.5]}, ('b', 3))", trusted=True)
def nested(
    rows: list[list[int]],
    named: dict[str, list[float]],
    pair: tuple[str, int],
    anything: Any = None,
    few: Annotated[list[bool], Field(min_length=1, max_length=2)] = [True],  # noqa: B006
) -> str:
    """Lists, dicts, tuples."""
    return f"{rows}{named}{pair}{anything}{few}"


@function(example="narrow('2024-02-29', 7, 'ab-1')", trusted=True)
def narrow(
    day: date,
    few: Annotated[int, Field(ge=3, lt=12)],
    code: Annotated[str, Field(pattern="^[a-z]{2}-[0-9]$")],
    mood: Mood = Mood.GOOD,
) -> str:
    """Narrowed types."""
    return f"{day}{few}{code}{mood}"


@function(example="count(1, -2.5, [True])", trusted=True)
def count(a: int, b: float, flags: list[bool], way: Literal["up", "down"] = "up") -> str:
    """No free text: a random model ends such a call soon."""
    return f"{a}{b}{flags}{way}"


@function(example="stop()", role="flow", trusted=True)
def stop() -> Stop:
    """End."""
    return Stop("")


FUNCTIONS = FunctionSet([mix, gather, nested, narrow, stop])


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Of the kind that Llama 2 and Mistral have: words begin with "▁", other characters are bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    pieces = [AddedToken(f"<0x{byte:02X}>", special=False) for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *map(str, (p.content for p in pieces))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = tokenizer.to_str()
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_without_byte_specials(state)),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=CHAT_TEMPLATE,
    )


def _without_byte_specials(state: str) -> str:
    made = json.loads(state)
    made["added_tokens"] = [t for t in made["added_tokens"] if not t["content"].startswith("<0x")]
    return json.dumps(made)


TOKENIZERS = {"byte-level": build_tokenizer(), "byte-fallback": byte_fallback_tokenizer()}
CONSTRAINERS = {
    name: Constrainer(tokenizer, len(tokenizer) + 9, [int(tokenizer.eos_token_id)])
    for name, tokenizer in TOKENIZERS.items()
}


def binds(text: str, functions: FunctionSet) -> Function:
    """The function that a reply calls, its arguments bound and coerced."""
    (call,) = parse_calls(text, known=functions.by_name)
    made = functions.by_name[call.name]
    bind(made, call)
    return made


def wander(name: str, functions: FunctionSet, seed: int) -> str:
    """A reply of tokens drawn evenly from all that are allowed, the ends of things more often."""
    tokenizer, random = TOKENIZERS[name], np.random.default_rng(seed)
    ends = {i for i in range(len(tokenizer)) if tokenizer.decode([i]).strip() in {'"', "'", ")", "]"}}
    constraint = CONSTRAINERS[name].constraint(functions)
    said: list[int] = []
    while True:
        open_to = np.flatnonzero(constraint.allowed())
        closing = [i for i in open_to if i in ends]
        token = int(random.choice(closing if closing and random.random() < 0.3 else open_to))
        if token == tokenizer.eos_token_id:
            return str(tokenizer.decode(said))
        assert token < len(tokenizer)
        said.append(token)
        constraint.take(token)


@pytest.mark.parametrize("name", list(TOKENIZERS))
@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_any_walk_through_the_grammar_is_a_call_that_binds(name: str, seed: int) -> None:
    binds(wander(name, FUNCTIONS, seed), FUNCTIONS)


def test_walks_reach_every_function() -> None:
    reached = {binds(wander("byte-level", FUNCTIONS, seed), FUNCTIONS).name for seed in range(60)}
    assert reached == set(FUNCTIONS.by_name)


@pytest.mark.parametrize("task", ["fol", "math"])
def test_calls_of_the_built_in_tasks_bind(task: str) -> None:
    functions = load_task(task).function_set()
    for seed in range(20):
        binds(wander("byte-level", functions, seed), functions)


def accepts(text: str, functions: FunctionSet = FUNCTIONS) -> bool:
    """Whether a reply may be said, up to and including its stop token."""
    tokenizer = TOKENIZERS["byte-level"]
    constraint = CONSTRAINERS["byte-level"].constraint(functions)
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if not constraint.allowed()[token]:
            return False
        constraint.take(token)
    return bool(constraint.allowed()[tokenizer.eos_token_id])


@pytest.mark.parametrize(
    "text",
    [
        "mix(1, 2.5, 'a', True, g=False)",
        'mix(-1, 2, "it\\"s", False, None, f="", g=True)',
        "mix(1, 2, c='é', d=True, g=True)",
        "mix(a=1, b=2, c='a', d=True, e=3, g=True)",
        "gather('x', last=\"it's two\")",
        "gather('x', 1, 2, 3, last='one')",
        'nested([[1, 2], []], {"a": [1.5]}, ["b", 3], [None, {}], [True, False])',
        'narrow("2024-02-29", 11, "ab-1", mood="so \\"so\\"")',
        "stop()",
    ],
)
def test_ways_to_write_a_call_are_open(text: str) -> None:
    assert accepts(text)
    binds(text, FUNCTIONS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stop",
        "stop() stop()",
        "I think: stop()",
        "start()",
        "stop(1)",
        "mix(1.5, 2.5, 'a', True, g=False)",
        "mix(1, 2.5, 'a', True)",
        "mix(1, 2.5, 'a', true, g=False)",
        "mix(1, 2.5, 'a', True, g=False, g=True)",
        "mix(1, 2.5, 'a', True, None, 'f', g=False)",
        "gather('x', last='two')",
        "gather('x', '1', last='one')",
        "narrow('2024-02-30', 7, 'ab-1')",
        'narrow("2024-02-29", 12, "ab-1")',
        'narrow("2024-02-29", 7, "ab1")',
        "nested([[1]], {}, ['b', 3], None, [])",
        'stop(memory="x")',
    ],
)
def test_other_replies_are_closed(text: str) -> None:
    assert not accepts(text)


# --- in the engine ------------------------------------------------------------------------------

PROMPT = (Message(role="system", content="Call a function."), Message(role="user", content="Now."))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # More logits than tokens, as padded vocabularies have.
    return build_tiny("qwen2", tmp_path_factory.mktemp("models") / "qwen2", vocab_size=448)


def said(model: LocalModel, requests: list[Request]) -> dict[str, Reply]:
    for request in requests:
        model.submit(request)
    replies: dict[str, Reply] = {}
    while len(replies) < len(requests):
        replies |= {q.chain: r for q, r in model.poll() if isinstance(r, Reply)}
    return replies


SHORT = FunctionSet([count, stop])


def asked(chains: int, temperature: float = 3.0) -> list[Request]:
    sampling = Sampling(temperature=temperature, top_p=0.95, max_tokens=120)
    return [
        Request(chain=f"c{i}", messages=PROMPT, sampling=sampling, seed=i, functions=SHORT)
        for i in range(chains)
    ]


def test_a_random_model_at_a_high_temperature_makes_calls_that_bind(folder: Path) -> None:
    with LocalModel.load(folder, capacity=24, constrained=True, device="cpu") as model:
        replies = said(model, asked(24))
    ended = [reply for reply in replies.values() if reply.finish_reason == "stop"]
    assert len({reply.text for reply in ended}) > 6
    for reply in ended:
        binds(reply.text, SHORT)
    for reply in replies.values():
        assert (reply.finish_reason == "stop") == (reply.token_ids is not None and 2 in reply.token_ids)


def test_a_constrained_reply_is_the_same_alone_and_in_a_batch(folder: Path) -> None:
    with LocalModel.load(folder, capacity=6, constrained=True, device="cpu") as model:
        together = said(model, asked(6))
    with LocalModel.load(folder, capacity=1, constrained=True, device="cpu") as model:
        for request in asked(6):
            assert said(model, [request])[request.chain].text == together[request.chain].text
            model.release(request.chain)


def test_greedy_replies_take_the_likeliest_token_that_is_allowed(folder: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(folder)
    with LocalModel.load(folder, capacity=1, constrained=True, device="cpu") as model:
        reply = said(model, asked(1, temperature=0))["c0"]
        ids = list(model.renderer.render(PROMPT, reply_next=True).ids)
    constraint = Constrainer(model.tokenizer, 448, [2]).constraint(SHORT)
    assert reply.token_ids is not None
    for token in reply.token_ids[:40]:
        with torch.inference_mode():
            logits = reference(torch.tensor([ids])).logits[0, -1]
        hidden = ~torch.from_numpy(constraint.allowed())
        assert int(logits.masked_fill(hidden, float("-inf")).argmax()) == token
        constraint.take(token)
        ids.append(token)


def test_chains_of_a_constrained_model_have_no_broken_calls_and_a_name_of_their_own(
    folder: Path,
) -> None:
    task = SumTask()
    setting = Setting(
        task,
        task.function_set("short"),
        "student",
        Sampling(temperature=2.0, max_tokens=200),
        Budget(steps=4, tokens=2000),
    )
    jobs = [Job(problem) for problem in task.problems("train", 10)]
    with open_model(ModelSpec(model=str(folder), name="m", constrained=True)) as model:
        chains = list(rollouts(setting, model, jobs))
    whole = [c.steps[:-1] if c.stop_reason == "reply_truncated" else c.steps for c in chains]
    steps = [step for steps in whole for step in steps]
    assert len(steps) > 6
    assert all(s.call is not None and s.observation.failure is None for s in steps)
    assert {c.model for c in chains} == {"m (constrained)"}


def test_a_constrained_model_without_functions_says_what_is_missing(folder: Path) -> None:
    with (
        LocalModel.load(folder, constrained=True, device="cpu") as model,
        pytest.raises(ConfigError, match="needs to know the functions"),
    ):
        model.submit(Request(chain="a", messages=PROMPT))


def test_a_parameter_that_no_schema_describes_is_refused_by_name() -> None:
    class Odd:
        pass

    def odd(value: object = Odd()) -> str:
        """Odd."""
        return str(value)

    odd.__annotations__["value"] = Odd
    made = function(example="odd()", trusted=True)(odd)
    with pytest.raises(ConfigError, match="no grammar can be made for odd"):
        CONSTRAINERS["byte-level"].constraint(FunctionSet([made]))


def test_without_llguidance_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"rightcall\[constrained\]"):
        Constrainer(TOKENIZERS["byte-level"], 400, [2])
