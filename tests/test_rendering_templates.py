"""Chat templates as published models have them: what can be rendered by appending only is, and what
rewrites history is refused with the reason. Each template follows the logic of its family."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from native_models import OF_MODEL, tool_tokenizer
from rightcall.chain import Message
from rightcall.config import load_config
from rightcall.dialects import DIALECTS
from rightcall.errors import RenderingError
from rightcall.models.local import LocalModel
from rightcall.rendering import Renderer
from rightcall.task import load_task
from tiny_models import build_tiny, build_tokenizer

END = "<|im_end|>"
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LLAMA_3 = (
    "{%- set ns = namespace(first='Date: today\n\n') %}"
    "{%- if messages[0].role == 'system' %}{%- set ns.first = ns.first + messages[0].content | trim %}"
    "{%- set messages = messages[1:] %}{%- endif %}"
    "<|im_start|>system\n\n{{ ns.first }}<|im_end|>"
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{%- endif %}"
)

MISTRAL_3 = (  # the system text goes into the last user turn, and only if that ends the conversation
    "{%- if messages[0].role == 'system' %}{%- set said = messages[0].content %}"
    "{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}"
    "{%- for m in rest %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{%- if m.role == 'user' %}"
    "{%- if loop.last and said is defined %}{{- '[INST] ' + said + '\n\n' + m.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + m.content | trim + '<|im_end|>' }}{%- endif %}"
    "{%- endfor %}"
)

GEMMA_2 = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "<|im_start|>{{ role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)

DEAF = CHATML.replace("for m in messages", "for m in messages if m.role != 'system'")

QWEN_3 = (  # reasoning is kept after the last question alone, and there even if it is empty
    "{%- set ns = namespace(last=0) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{%- for m in messages %}{%- set thought = '' %}{%- set words = m.content %}"
    "{%- if '</think>' in words %}{%- set thought = words.split('</think>')[0].split('<think>')[-1] %}"
    "{%- set words = words.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + words }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + words }}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

CHAIN = [
    Message(role="system", content="Solve."),
    Message(role="user", content="What is 2 + 3?"),
    Message(role="assistant", content="add(2, 3)"),
    Message(role="user", content="5"),
    Message(role="assistant", content="stop('5')"),
]
FOLDED = [Message(role="user", content="Solve.\n\nWhat is 2 + 3?"), *CHAIN[2:]]


def renderer(template: str) -> Renderer:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return Renderer(tokenizer)


def trained_text(made: Renderer, messages: list[Message]) -> str:
    rendered = made.render(messages)
    chosen = [i for i, t in zip(rendered.ids, rendered.trained, strict=True) if t]
    return str(made.tokenizer.decode(chosen))


APPENDING = {"chatml": CHATML, "llama-3": LLAMA_3}
FOLDING = {"mistral-v0.3": MISTRAL_3, "gemma-2": GEMMA_2, "system turn dropped": DEAF}


@pytest.mark.parametrize("name", [*APPENDING, *FOLDING])
def test_every_prompt_of_a_chain_begins_the_whole(name: str) -> None:
    made = renderer((APPENDING | FOLDING)[name])
    made.check()
    whole = made.render(CHAIN)
    for end in (2, 4):
        seen = made.render(CHAIN[:end], reply_next=True).ids
        assert whole.ids[: len(seen)] == seen
        assert "Solve." in made.tokenizer.decode(seen)
    assert trained_text(made, CHAIN).replace(" ", "") == f"add(2,3){END}stop('5'){END}"


@pytest.mark.parametrize("name", APPENDING)
def test_a_system_turn_that_stays_in_its_place_is_left_there(name: str) -> None:
    made = renderer(APPENDING[name])
    alone = made.tokenizer.apply_chat_template(CHAIN, tokenize=False)
    assert made.text(CHAIN, reply_next=False) == alone


@pytest.mark.parametrize("name", FOLDING)
def test_a_system_turn_that_is_refused_moved_or_dropped_begins_the_first_question(name: str) -> None:
    made = renderer(FOLDING[name])
    alone = made.tokenizer.apply_chat_template(FOLDED, tokenize=False)
    assert made.text(CHAIN, reply_next=False) == alone
    assert made.render(CHAIN) == made.render(FOLDED)
    assert CHAIN[0]["role"] == "system"


def test_a_conversation_of_a_system_turn_alone_is_folded_too() -> None:
    made = renderer(GEMMA_2)
    assert "Solve." in made.text(CHAIN[:1], reply_next=True)


def test_folding_is_decided_by_the_template_and_not_by_the_conversation() -> None:
    """The first prompt of Mistral's template looks right without folding; the second shows it."""
    made = renderer(MISTRAL_3)
    first, second = (made.render(CHAIN[:end], reply_next=True).ids for end in (2, 4))
    assert second[: len(first)] == first


def test_a_template_that_rewrites_reasoning_is_refused_before_the_first_chain() -> None:
    with pytest.raises(RenderingError, match=r"rewrites earlier turns.*<think>"):
        renderer(QWEN_3).check()


def test_a_template_that_takes_no_second_question_is_refused_with_its_own_words() -> None:
    template = (
        "{% if messages | selectattr('role', 'equalto', 'user') | list | length > 1 %}"
        "{{ raise_exception('one question only') }}{% endif %}" + CHATML
    )
    with pytest.raises(RenderingError, match="one question only"):
        renderer(template).check()


def two_ends() -> PreTrainedTokenizerFast:
    """As Gemma's: the tokenizer's EOS ends a text, another special token ends a turn."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"eos_token": AddedToken("<eos>", special=True)})
    tokenizer.chat_template = GEMMA_2
    return tokenizer


def test_the_special_token_that_ends_the_templates_turns_is_a_stop_token() -> None:
    made = Renderer(two_ends())
    made.check()
    ends = {made.tokenizer.convert_tokens_to_ids(t) for t in (END, "<eos>")}
    assert made.stop_ids == ends
    assert trained_text(made, CHAIN) == f"add(2, 3){END}stop('5'){END}"


def test_a_template_that_uses_the_eos_token_adds_no_stop_token() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "<|pad|><|im_end|>")
    assert Renderer(tokenizer).stop_ids == {tokenizer.eos_token_id}


def test_stop_tokens_that_are_given_are_taken_as_they_are() -> None:
    tokenizer = two_ends()
    made = Renderer(tokenizer, [tokenizer.eos_token_id])
    assert made.stop_ids == {tokenizer.eos_token_id}
    with pytest.raises(RenderingError, match="without a stop token"):
        made.check()


def test_a_local_model_whose_template_is_of_no_use_is_refused_when_it_is_opened(
    tmp_path: Path,
) -> None:
    folder = build_tiny("llama", tmp_path, hidden=16, layers=1, heads=2, kv_heads=1)
    (folder / "chat_template.jinja").write_text(QWEN_3, encoding="utf-8")
    with pytest.raises(RenderingError, match="rewrites earlier turns"):
        LocalModel.load(folder, device="cpu")


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.stem != "demo"], ids=lambda p: p.stem)
def test_the_template_of_an_examples_student_carries_its_chains(path: Path) -> None:
    for task in load_config(path).tasks.values():
        made = Renderer(tool_tokenizer(OF_MODEL[task.models.student.model]))
        loaded = load_task(task.task, **task.options)
        functions = loaded.function_set(task.functions)
        made.check(DIALECTS[task.dialect].tools(functions))
