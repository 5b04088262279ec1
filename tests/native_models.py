"""Tokenizers with the chat templates of published tool-calling models, for tests.

The templates of Qwen and Llama are those that TRL ships. Mistral's is written after the logic of that
of v0.3, which was not at hand: system text and tools at the last question, alternation, calls with ids,
and results as they are, without quotes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tiny_models import build_tokenizer

MISTRAL_3 = (  # the tools stand before the last user turn; calls have ids of nine characters
    "{{- bos_token }}"
    "{%- if messages[0].role == 'system' %}{%- set said = messages[0].content %}"
    "{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}"
    "{%- set asked = rest | selectattr('role', 'equalto', 'user') | list %}"
    "{%- set ns = namespace(turn=0) %}"
    "{%- for m in rest %}"
    "{%- if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is not defined) %}"
    "{%- if (m.role == 'user') != (ns.turn % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}{%- set ns.turn = ns.turn + 1 %}"
    "{%- endif %}{%- endfor %}"
    "{%- for m in rest %}"
    "{%- if m.role == 'user' %}"
    "{%- if tools is not none and m == asked[-1] %}"
    "{{- '[AVAILABLE_TOOLS] [' }}{%- for tool in tools %}"
    '{{- \'{"type": "function", "function": {\' }}'
    "{%- for key, value in tool.function.items() if key != 'return' %}"
    "{%- if value is string %}{{- '\"' + key + '\": \"' + value + '\"' }}"
    "{%- else %}{{- '\"' + key + '\": ' + value | tojson }}{%- endif %}"
    "{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- '}}' }}"
    "{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' }}{%- endif %}{%- endfor %}"
    "{{- '[/AVAILABLE_TOOLS]' }}{%- endif %}"
    "{%- if loop.last and said is defined %}{{- '[INST] ' + said + '\n\n' + m.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}"
    "{%- elif m.tool_calls is defined and m.tool_calls is not none %}"
    "{{- '[TOOL_CALLS] [' }}{%- for call in m.tool_calls %}"
    "{%- set made = call.function | tojson %}{{- made[:-1] }}"
    "{%- if call.id | length != 9 %}{{- raise_exception('ids have nine characters') }}{%- endif %}"
    "{{- ', \"id\": \"' + call.id + '\"}' }}{%- if not loop.last %}{{- ', ' }}{%- endif %}"
    "{%- endfor %}{{- ']' + eos_token }}"
    "{%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}"
    "{%- elif m.role == 'tool' %}"
    '{{- \'[TOOL_RESULTS] {"content": \' + m.content | string + \', "call_id": "\' + m.tool_call_id }}'
    "{{- '\"}[/TOOL_RESULTS]' }}"
    "{%- endif %}{%- endfor %}"
)

SPECIAL = {
    "llama": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "mistral": [
        *("<s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ],
    "qwen": [],
}
FAMILY = {
    "qwen2_5": "qwen",
    "qwen3": "qwen",
    "qwen3_instruct_2507": "qwen",
    "qwen3_training": "qwen",
    "llama3_1": "llama",
    "llama3_2": "llama",
    "mistral_3": "mistral",
}
OF_MODEL = {
    "Qwen/Qwen2.5-0.5B-Instruct": "qwen2_5",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2_5",
    "Qwen/Qwen3-4B": "qwen3",
    "Qwen/Qwen3-4B-Instruct-2507": "qwen3_instruct_2507",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3_1",
    "meta-llama/Llama-3.2-1B-Instruct": "llama3_2",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral_3",
}
"""Hub id → the template that it is published with."""
NOTATION = {"qwen": "hermes", "llama": "llama", "mistral": "mistral"}


def template(name: str) -> str:
    if name == "mistral_3":
        return MISTRAL_3
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def tool_tokenizer(name: str, vocab: int = 400) -> PreTrainedTokenizerFast:
    """A small tokenizer with a published template and its family's special tokens."""
    made = build_tokenizer(vocab)
    family = FAMILY[name]
    if special := SPECIAL[family]:
        made.add_special_tokens({"additional_special_tokens": special, "bos_token": special[0]})
    if family == "llama":
        made.eos_token = "<|eot_id|>"
    if family == "qwen":
        made.add_tokens([AddedToken(t, special=False) for t in ("<tool_call>", "</tool_call>")])
    made.chat_template = template(name)
    return made
