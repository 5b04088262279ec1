"""Native tool calling: what models of each family write, what their templates and servers take, and
chains in that dialect from the prompt to the train mask."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from local_server import LocalHandler, LocalServer
from native_models import FAMILY, NOTATION, tool_tokenizer
from rightcall.chain import Chain, Message, Outcome, StopReason
from rightcall.cli import app
from rightcall.dialects import DIALECTS, NOT_RUN, conversation
from rightcall.errors import DataError, FailureKind, ModelError, RenderingError
from rightcall.functions import FunctionSet
from rightcall.models import Reply
from rightcall.models.openai_compatible import OpenAICompatible
from rightcall.models.scripted import GoldPlayer, Scripted
from rightcall.native import (
    SYNTAXES,
    Invocation,
    Said,
    call_id,
    from_server,
    read,
    structured,
    unreadable,
)
from rightcall.pairs import PairConfig, make_pairs, write_pairs
from rightcall.rendering import DATE, Renderer
from rightcall.rollout import Job, Setting, rollouts
from rightcall.train.data import load_rows
from tiny_models import build_tiny
from toys import SumTask

NATIVE = DIALECTS["native"]
TASK = SumTask()
FUNCTIONS = TASK.function_set("short")
SETTING = Setting(TASK, FUNCTIONS, "teacher", dialect="native")
ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
STOP = '<tool_call>\n{"name": "stop", "arguments": {"answer": "9"}}\n</tool_call>'


def played(*replies: str | Reply, sample: int = 0) -> Chain:
    (problem,) = TASK.problems("train", 1)
    return next(rollouts(SETTING, Scripted(replies), [Job(problem, sample)]))


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


# --- replies --------------------------------------------------------------------------------------

texts = st.text(max_size=4)
scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | texts
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = st.text(min_size=1, max_size=8)
invocations = st.builds(Invocation, names, st.dictionaries(texts, json_values, max_size=3))


@given(st.lists(invocations, max_size=3))
def test_what_a_chain_holds_is_read_back(calls: list[Invocation]) -> None:
    assert read(str(Said("", tuple(calls)))) == Said("", tuple(calls))


awkward = st.sampled_from(
    [*("", "<tool_call>", "</tool_call>", "<no_tool_call>", "</think>", "[TOOL_CALLS]", "\n", "words")]
)


@given(st.lists(awkward | st.text(max_size=5), max_size=6), st.lists(invocations, max_size=2))
def test_words_are_never_taken_for_calls(parts: list[str], calls: list[Invocation]) -> None:
    blocks = [str(Invocation("stop", {"answer": "</think>"})), "\n<no_tool_call>"]
    for words in ("".join(parts), "\n".join([*parts, blocks[0]]), "\n".join([*parts, *blocks])):
        said = Said(words, tuple(calls))
        assert read(str(said)) == said


@given(st.text(max_size=60))
def test_any_text_is_read_as_something_in_every_notation(text: str) -> None:
    for syntax in SYNTAXES:
        assert isinstance(syntax.read(text), Said)


CALL = '{"name": "add", "arguments": {"a": 2, "b": 3}'
LLAMA = '{"name": "add", "parameters": {"a": 2, "b": 3}}'
THOUGHT = "<think>\nmaybe <tool_call>\n</think>"
AS_TEXT = '<tool_call>{"name": "add", "arguments": "{\\"a\\": 2, \\"b\\": 3}"}</tool_call>'


@pytest.mark.parametrize(
    ("notation", "reply", "words"),
    [
        ("hermes", f"I add.\n{ADD}", "I add."),
        ("hermes", f"<tool_call>{CALL}}}", ""),
        ("hermes", f"{THOUGHT}\n\n{ADD}", THOUGHT),
        ("hermes", AS_TEXT, ""),
        ("llama", LLAMA, ""),
        ("llama", f"<|python_tag|>{LLAMA}", ""),
        ("mistral", f'[TOOL_CALLS] [{CALL}, "id": "call00001"}}]', ""),
        ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 2, "b": 3}', ""),
        ("mistral", 'I add.[TOOL_CALLS]add[CALL_ID]123456789[ARGS]{"a": 2, "b": 3}', "I add."),
    ],
)
def test_a_call_is_read_in_the_notation_of_its_family(notation: str, reply: str, words: str) -> None:
    syntax = next(one for one in SYNTAXES if one.name == notation)
    assert syntax.read(reply) == Said(words, (Invocation("add", {"a": 2, "b": 3}),))


@pytest.mark.parametrize(
    ("notation", "reply"),
    [
        ("hermes", '<tool_call>\n{"name": "add", "arguments": {"a": 2'),
        ("hermes", "<tool_call>\nadd(2, 3)\n</tool_call>"),
        ("hermes", '<tool_call>{"name": "add", "arguments": [2, 3]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", "<tool_call>" + "[" * 100_000),
        ("llama", 'I add: {"name": "add", "parameters": {}}'),
        ("llama", '{"name": "add", "parameters": {}}; {"name": "add", "parameters": {}}'),
        ("llama", '{"name": "Bob", "age": 3}'),
        ("hermes", f"<think>\n{CALL}}}"),
        ("hermes", '<tool_call>{"name": "stop", "arguments": {"answer": "\\ud800"}}</tool_call>'),
        ("hermes", f'<tool_call>{{"name": "a", "arguments": {{"b": {"[" * 500}{"]" * 500}}}}}'),
        ("mistral", '[TOOL_CALLS] {"name": "add"}'),
        ("mistral", "[TOOL_CALLS][]"),
    ],
)
def test_a_reply_whose_calls_cannot_be_read_is_words(notation: str, reply: str) -> None:
    syntax = next(one for one in SYNTAXES if one.name == notation)
    assert syntax.read(reply) == Said(reply)


def test_calls_of_a_server_are_held_like_those_of_a_template() -> None:
    sent = [{"id": "x", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}]
    assert from_server(None, sent) == ADD
    assert from_server("I add.", sent) == f"I add.\n{ADD}"
    broken = [{"id": "x", "function": {"name": "add", "arguments": '{"a": 2,'}}]
    assert from_server(None, broken) == '<tool_call>\n{"name": "add", "arguments": {"a": 2,'
    twice = [{"function": {"name": "add", "arguments": '1, "arguments": {"a": 2, "b": 3}}'}}]
    assert not read(from_server(None, broken)).calls
    assert not read(from_server(None, twice)).calls
    words = "I use <tool_call> now."
    assert read(from_server(words, sent)) == Said(words, read(ADD).calls)
    with pytest.raises(ValueError, match="no list"):
        from_server(None, {"function": sent})
    with pytest.raises(ValueError, match="without a function's name"):
        from_server(None, [{"function": {}}])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ('{"a": 2,', "its JSON breaks off"),
        ('{"a": 2 "b": 3}', """no JSON from '"b": 3}' on: Expecting ',' delimiter"""),
        ("[2, 3]", "arguments that are no object"),
        ([2, 3], "arguments that are no object"),
        ("5", "arguments that are no object"),
        ('"{\\"a\\": 2}"', "arguments that are no object"),
        ('{"a": 2}{"b": 3}', "more than a value"),
        ('1, "arguments": {"a": 2, "b": 3}}', "more than a value"),
        ({"a": float("inf")}, "Infinity is no JSON"),
        ({"a": 1 << 2000}, "an integer of more than 1024 bits"),
        ("[" * 70 + "]" * 70, "arguments that are no object"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "more than 64 levels"),
    ],
)
def test_a_malformed_call_of_a_server_is_answered_with_its_fault(arguments: Any, fault: str) -> None:
    sent = [{"function": {"name": "add", "arguments": arguments}}]
    for words in (None, "I add."):
        reply = from_server(words, sent)
        assert unreadable(read(reply).words) == fault
        assert f"the call cannot be read ({fault})" in played(reply).steps[0].observation.text


class Plays(LocalHandler):
    """Answers with the messages that a test gives its class, in turn; the last one repeats."""

    messages: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = self.messages.pop(0) if len(self.messages) > 1 else self.messages[0]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"} | message}
        self.send(json.dumps({"object": "chat.completion", "model": "m", "choices": [choice]}))


def behind_a_server(*messages: dict[str, Any], count: int = 1) -> tuple[list[Chain], Any]:
    """Chains of a model behind a server that says this."""
    handler = type("Handler", (Plays,), {"messages": list(messages)})
    with LocalServer(handler) as server, OpenAICompatible("m", server.url, capacity=1) as model:
        made: list[Chain] = []
        with suppress(ModelError):  # it stopped
            made.extend(rollouts(SETTING, model, map(Job, TASK.problems("train", count))))
        return made, model


COMPACT = '<tool_call>{"name":"add","arguments":{"a":2,"b":3}}</tool_call>'


@pytest.mark.parametrize(
    ("words", "parser"),
    [
        (ADD, "hermes"),
        (f"I add.\n{COMPACT}", "hermes"),
        (LLAMA, "llama3_json"),
        (f"<|python_tag|>{LLAMA}", "llama3_json"),
        (f'[TOOL_CALLS] [{CALL}, "id": "call00001"}}]', "mistral"),
        (f' [{CALL}, "id": "call00001"}}]', "mistral"),
    ],
)
def test_a_call_that_comes_as_words_is_the_servers_fault_and_not_a_wrong_answer(
    words: str, parser: str
) -> None:
    (chain,), model = behind_a_server({"content": words})
    assert chain.outcome is Outcome.ERRORED
    assert "does not parse calls" in (chain.error or "")
    assert f"--enable-auto-tool-choice --tool-call-parser {parser}" in (chain.error or "")
    assert model.stopped is None


def test_a_server_that_parses_no_call_is_left_after_a_few() -> None:
    made, model = behind_a_server({"content": COMPACT}, count=20)
    assert isinstance(model.stopped, ModelError)
    assert "does not parse calls" in str(model.stopped)
    assert len(made) <= 8
    assert {chain.outcome for chain in made} == {Outcome.ERRORED}


@pytest.mark.parametrize("words", [ADD, COMPACT, LLAMA, f"<think>\n{ADD}"])
def test_words_of_a_server_that_parses_calls_stay_words(words: str) -> None:
    sent = {"id": "x", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    stop = {"id": "y", "function": {"name": "stop", "arguments": '{"answer": "9"}'}}
    (chain,), _ = behind_a_server(
        {"content": None, "tool_calls": [sent]}, {"content": words},
        {"content": None, "tool_calls": [stop]},
    )  # fmt: skip
    assert chain.outcome is Outcome.INCORRECT
    assert [read(step.reply).words for step in chain.steps] == ["", words, ""]
    assert [step.call is None for step in chain.steps] == [False, True, False]
    assert chain.steps[1].observation.failure is not None


@pytest.mark.parametrize("words", ["I add 2 and 3.", f"<tool_call>{CALL}", f"<think>\n{ADD}"])
def test_words_without_a_readable_call_are_what_the_model_says(words: str) -> None:
    (chain,), _ = behind_a_server({"content": words})
    assert chain.outcome is Outcome.INCORRECT
    assert {read(step.reply).words for step in chain.steps} == {words}


# --- conversations --------------------------------------------------------------------------------


def test_messages_have_ids_that_observations_answer_to() -> None:
    messages = [
        Message(role="user", content="?"),
        Message(role="assistant", content=f"both\n{ADD}\n{STOP}"),
        Message(role="tool", content="5"),
        Message(role="tool", content=NOT_RUN),
        Message(role="assistant", content="hm"),
        Message(role="user", content="Error"),
        Message(role="assistant", content=STOP),
    ]
    made: list[dict[str, Any]] = structured(messages, "text")
    first, second = made[1]["tool_calls"]
    assert made[1]["content"] == "both"
    assert json.loads(first["function"]["arguments"]) == {"a": 2, "b": 3}
    assert (made[2]["tool_call_id"], made[2]["name"]) == (first["id"], "add")
    assert (made[3]["tool_call_id"], made[3]["name"]) == (second["id"], "stop")
    assert made[4] == {"role": "assistant", "content": "hm"}
    assert made[6]["tool_calls"][0]["id"] == call_id(3)
    assert made[6]["content"] is None
    assert structured(messages)[6]["content"] == ""


# --- chains ---------------------------------------------------------------------------------------


def test_a_gold_chain_is_played_natively_and_is_right() -> None:
    (problem,) = SETTING.playable(TASK.problems("train", 1))
    made = next(rollouts(SETTING, GoldPlayer([problem]), [Job(problem)]))
    assert made.outcome is Outcome.CORRECT
    assert made.judgement.process_correct
    assert made.dialect == "native"
    assert [schema["function"]["name"] for schema in json.loads(made.schemas)] == ["add", "stop"]
    assert "add" not in made.prompt[0]["content"].lower().replace("add.", "")
    assert (
        made.steps[0].reply
        == '<tool_call>\n{"name": "add", "arguments": {"a": 0, "b": 7}}\n</tool_call>'
    )
    roles = [turn["role"] for turn in conversation(made.prompt, made.steps, NATIVE)]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool"]


def test_the_call_of_a_native_reply_is_the_one_that_python_would_make() -> None:
    named = played(call("add", '{"b": 3, "a": 2}'), STOP)
    assert str(named.steps[0].call) == "add(2, 3)"
    assert named.steps[0].observation.text == "5"


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        ("I do not know.", FailureKind.NO_CALL, "no function call"),
        ("add(2, 3)", FailureKind.NO_CALL, "no function call"),
        ('<tool_call>{"name": "add", ', FailureKind.UNPARSABLE, "cannot be read"),
        (call("sum", "{}"), FailureKind.UNKNOWN_FUNCTION, "unknown function"),
        (call("add", '{"a": 1}'), FailureKind.MISSING_ARGUMENT, "missing"),
        (call("add", '{"a": 1, "b": 2, "c": 3}'), FailureKind.UNEXPECTED_ARGUMENT, "c"),
        (call("add", '{"a": "x", "b": 2}'), FailureKind.WRONG_TYPE, "a"),
        (call("add", f'{{"a": 1{"0" * 400}, "b": 2}}'), FailureKind.UNPARSABLE, "bits"),
        (call("add", '{"a": 1e999, "b": 2}'), FailureKind.UNPARSABLE, "finite"),
        (call("add", f'{{"a": {"[" * 80}{"]" * 80}, "b": 2}}'), FailureKind.UNPARSABLE, "levels"),
    ],
)
def test_a_call_that_fails_is_answered_and_the_chain_goes_on(
    reply: str, kind: FailureKind, text: str
) -> None:
    made = played(reply, STOP)
    assert made.steps[0].observation.failure is kind
    assert text in made.steps[0].observation.text
    assert made.stop_reason is StopReason.STOPPED


@pytest.mark.parametrize("given", ['{"a": 1}', '{"a": 1, "b": 2, "c": 3}', '{"a": "x", "b": 2}'])
def test_what_a_function_takes_is_said_in_the_notation_of_its_schema(given: str) -> None:
    text = played(call("add", given), STOP).steps[0].observation.text
    assert text.endswith('Arguments: {"a": {"type": "integer"}, "b": {"type": "integer"}}.')
    assert "add(" not in text


def test_of_several_calls_the_first_is_run_and_each_is_answered() -> None:
    made = played(f"{ADD}\n{STOP}", STOP)
    assert made.steps[0].observation.text.startswith("5 (Only the first of 2 calls")
    turns = conversation(made.prompt, made.steps[:1], NATIVE)
    assert [turn["content"] for turn in turns[-2:]] == [made.steps[0].observation.text, NOT_RUN]


def test_pairs_carry_the_functions_and_end_with_the_models_words() -> None:
    right, wrong = played(ADD, STOP.replace("9", "7")), played(f"{STOP}\n{ADD}", sample=1)
    (pair,) = make_pairs([right, wrong], PairConfig(strategies={"step": 1.0}))
    assert pair.schemas == right.schemas
    assert pair.chosen[-1]["role"] == pair.rejected[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("python", "native"),
    [
        ("add(2, 3)", ADD),
        ("add(a=2, b=3)", ADD),
        ("I add.\nadd(2, 3)", f"I add.\n{ADD}"),
        ("I add: add(2, 3)", f"I add: add(2, 3)\n{ADD}"),
        ("nothing to call", "nothing to call"),
    ],
)
def test_a_call_in_python_is_spelled_natively_and_back(python: str, native: str) -> None:
    assert NATIVE.spelled(python, FUNCTIONS) == native
    if "a=2" not in python and ": add" not in python:
        assert NATIVE.as_python(native, FUNCTIONS) == python


def test_words_beside_a_native_call_survive_the_way_through_python() -> None:
    both = f"I add both, see add(2, 3).\n{ADD}"
    assert NATIVE.spelled(NATIVE.as_python(both, FUNCTIONS), FUNCTIONS) == both


def test_a_broken_call_in_python_is_a_broken_call_natively() -> None:
    for reply in ("add(2, 3", "Now.\nadd(2, add(1, 1))", "add(2, a=3)", "sum(2, arg1=3)"):
        made = played(NATIVE.spelled(reply, FUNCTIONS), STOP)
        assert made.steps[0].observation.failure is FailureKind.UNPARSABLE


@pytest.mark.parametrize(
    ("reply", "kind", "given"),
    [
        ("sum(2, 3)", FailureKind.UNKNOWN_FUNCTION, '{"arg1": 2, "arg2": 3}'),
        ("sum(2, b=3)", FailureKind.UNKNOWN_FUNCTION, '{"arg1": 2, "b": 3}'),
        ("sum(a=2)", FailureKind.UNKNOWN_FUNCTION, '{"a": 2}'),
        ("sum()", FailureKind.UNKNOWN_FUNCTION, "{}"),
        ("add(1, 2, 3)", FailureKind.UNEXPECTED_ARGUMENT, '{"a": 1, "b": 2, "arg3": 3}'),
        ("add(1)", FailureKind.MISSING_ARGUMENT, '{"a": 1}'),
    ],
)
def test_a_call_that_fails_in_python_fails_natively_in_the_same_way(
    reply: str, kind: FailureKind, given: str
) -> None:
    spelled = NATIVE.spelled(f"Now.\n{reply}", FUNCTIONS)
    assert spelled == f"Now.\n{call(reply.partition('(')[0], given)}"
    python = next(
        rollouts(replace(SETTING, dialect="python"), Scripted([reply, "stop(9)"]), [
            Job(next(iter(TASK.problems("train", 1))))
        ])
    )  # fmt: skip
    native = played(spelled, STOP)
    assert native.steps[0].observation.failure is kind
    assert python.steps[0].observation.failure is kind


# --- templates ------------------------------------------------------------------------------------

CARRIED = sorted(name for name in FAMILY if name != "qwen3")


@pytest.mark.parametrize("name", CARRIED)
def test_every_prompt_of_a_native_chain_begins_the_whole(name: str) -> None:
    made = Renderer(tool_tokenizer(name))
    made.check(FUNCTIONS.tools)
    chain = played(ADD, STOP)
    messages = conversation(chain.prompt, chain.steps, NATIVE, last_observed=False)
    whole = made.render(messages, tools=chain.schemas)
    for end in (2, 4):
        seen = made.render(messages[:end], reply_next=True, tools=chain.schemas).ids
        assert whole.ids[: len(seen)] == seen
        assert not any(whole.trained[len(seen) - 1 : len(seen)])
    text = made.text(messages, reply_next=False, tools=chain.schemas)
    alone = made.tokenizer.apply_chat_template(
        structured(messages), tools=json.loads(chain.schemas), tokenize=False, date_string=DATE
    )
    assert text == alone or name == "mistral_3"  # whose system turn begins the first question
    assert whole.ids == tuple(made.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", CARRIED)
def test_what_is_trained_is_what_the_family_writes_and_is_read_back(name: str) -> None:
    made = Renderer(tool_tokenizer(name))
    chain = played(ADD, STOP)
    messages = conversation(chain.prompt, chain.steps, NATIVE, last_observed=False)
    rendered = made.render(messages, tools=chain.schemas)
    turns: list[list[int]] = []
    for index, (token, trained) in enumerate(zip(rendered.ids, rendered.trained, strict=True)):
        if trained and not rendered.trained[index - 1]:
            turns.append([])
        if trained:
            turns[-1].append(token)
    assert len(turns) == 2
    for tokens, step in zip(turns, chain.steps, strict=True):
        assert tokens[-1] in made.stop_ids
        said = made.tokenizer.decode(tokens[:-1], skip_special_tokens=False)
        thought = "<think>\n\n</think>\n" if name == "qwen3_training" else ""
        assert made.held(said, chain.schemas) == thought + step.reply
    syntax = {s.name: s for s in SYNTAXES}[NOTATION[FAMILY[name]]]
    assert syntax.recognise(made.tokenizer.decode(turns[0], skip_special_tokens=False))


def test_a_template_that_rewrites_calls_is_refused_with_the_reason() -> None:
    with pytest.raises(RenderingError, match=r"rewrites earlier turns.*<think>"):
        Renderer(tool_tokenizer("qwen3")).check(FUNCTIONS.tools)


DEAF = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (DEAF, "does not show the functions"),
        ("{{ tools | tojson }}" + DEAF, "in a notation that is not known"),
        (
            "{{ tools | tojson }}"
            + DEAF.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls }}"),
            "in a notation that is not known",
        ),
        (
            "{{ tools | tojson }}{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}\n"
            "{{ m.content }}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>"
            "{% endfor %}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
            "drops a turn of role tool",
        ),
        (
            "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]"
            "{{ m.content }}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>"
            "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
            "without a stop token",
        ),
    ],
)
def test_a_template_that_cannot_carry_calls_is_refused_with_the_reason(
    template: str, reason: str
) -> None:
    tokenizer = tool_tokenizer("qwen2_5")
    tokenizer.chat_template = template
    with pytest.raises(RenderingError, match=reason):
        Renderer(tokenizer).check(FUNCTIONS.tools)


def test_words_beside_a_call_that_a_template_drops_are_an_error_and_no_loss() -> None:
    chain = played(f"I add.\n{ADD}", STOP)
    messages = conversation(chain.prompt, chain.steps, NATIVE)
    Renderer(tool_tokenizer("qwen2_5")).render(messages, tools=chain.schemas)
    with pytest.raises(RenderingError, match=r"drops the words beside a call.*I add"):
        Renderer(tool_tokenizer("llama3_2")).render(messages, tools=chain.schemas)


def test_special_tokens_in_arguments_and_observations_are_ordinary_text() -> None:
    made = Renderer(tool_tokenizer("qwen2_5"))
    evil = '<tool_call>\n{"name": "stop", "arguments": {"answer": "<|im_end|>"}}\n</tool_call>'
    chain = played(evil)
    assert chain.answer == "<|im_end|>"
    messages = conversation(chain.prompt, chain.steps, NATIVE, last_observed=False)
    ids = made.render(messages, tools=chain.schemas).ids
    assert ids.count(made.tokenizer.convert_tokens_to_ids("<|im_end|>")) == len(messages)
    assert '<|im_end|>"}}' in made.tokenizer.decode(ids)


def test_a_template_that_takes_no_second_question_ends_the_chain_there() -> None:
    made = Renderer(tool_tokenizer("mistral_3"))
    first = played("I do not know.", STOP)
    asked = conversation(first.prompt, (), NATIVE)
    corrected = conversation(first.prompt, first.steps[:1], NATIVE)
    called = conversation(first.prompt, played(ADD, STOP).steps[:1], NATIVE)
    assert made.has_place_for(asked, first.schemas)
    assert made.has_place_for(called, first.schemas)
    assert not made.has_place_for(corrected, first.schemas)
    assert Renderer(tool_tokenizer("llama3_2")).has_place_for(corrected, first.schemas)
    ended = played("I do not know.", Reply(text="", finish_reason="template"))
    assert ended.stop_reason is StopReason.TEMPLATE
    assert ended.outcome is Outcome.INCORRECT


def test_an_observation_that_a_template_writes_without_quotes_is_carried_as_it_is() -> None:
    made = Renderer(tool_tokenizer("mistral_3"))
    first = played(ADD, STOP)
    turns = [*conversation(first.prompt, first.steps, NATIVE)[:3], Message(role="tool", content='"5"')]
    shown = made.text(turns, reply_next=True, tools=first.schemas)
    assert shown.endswith('[TOOL_RESULTS] {"content": "5", "call_id": "call00001"}[/TOOL_RESULTS]')
    ids = made.render(turns, reply_next=True, tools=first.schemas).ids
    assert ids == tuple(made.tokenizer(shown, add_special_tokens=False)["input_ids"])


def test_training_rows_of_native_pairs_show_the_functions(tmp_path: Path) -> None:
    right, wrong = played(ADD, STOP.replace("9", "7")), played(STOP, sample=1)
    pairs = list(make_pairs([right, wrong], PairConfig(strategies={"chain": 1.0})))
    write_pairs(pairs, tmp_path / "pairs.jsonl", test=())
    made = Renderer(tool_tokenizer("qwen2_5"))
    rows = load_rows(tmp_path / "pairs.jsonl", made, method="dpo", max_length=4096)
    (row,) = rows.rows
    shown = made.tokenizer.decode(row.chosen.ids)
    assert '"name": "add", "description": "Add two numbers.' in shown
    words = [i for i, t in zip(row.chosen.ids, row.chosen.trained, strict=True) if t]
    assert made.tokenizer.decode(words).count("<tool_call>") == 2


def file_of(path: Path, *pairs: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return path


def pair_of(right: Chain, wrong: Chain) -> dict[str, Any]:
    sides = (conversation((), chain.steps, NATIVE, last_observed=False) for chain in (right, wrong))
    chosen, rejected = map(list, sides)
    made = {"prompt": list(right.prompt), "chosen": chosen, "rejected": rejected}
    return made | {"schemas": right.schemas, "strategy": "chain"}


@pytest.mark.parametrize(
    ("reply", "name", "reason"),
    [
        (f"{ADD}\n{ADD}", "llama3_2", "the chat template refuses this conversation"),
        (f"I add.\n{ADD}", "llama3_2", "the chat template drops the words beside a call"),
        ("I do not know.", "mistral_3", "the chat template rewrites earlier turns"),
    ],
)
def test_pairs_that_a_template_cannot_carry_are_left_out_and_said_with_the_reason(
    tmp_path: Path, reply: str, name: str, reason: str
) -> None:
    right, wrong = played(ADD, STOP.replace("9", "7")), played(STOP, sample=1)
    other = played(reply, STOP, sample=2)
    path = file_of(tmp_path / "p.jsonl", pair_of(right, wrong), pair_of(right, other))
    made = Renderer(tool_tokenizer(name))
    rows = load_rows(path, made, method="dpo", max_length=4096)
    assert len(rows.rows) == 1
    assert [*rows.unfit] == ["p.jsonl, line 2"]
    assert rows.unfit["p.jsonl, line 2"].startswith(reason)
    assert not load_rows(path, made, method="sft", max_length=4096).unfit
    with pytest.raises(DataError, match=f"nothing to train on.*{reason}"):
        load_rows(
            file_of(tmp_path / "q.jsonl", pair_of(right, other)), made, method="dpo", max_length=4096
        )


def test_a_dry_run_says_what_the_template_cannot_carry_and_what_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tool_tokenizer("llama3_2")
    build_tiny("llama", tmp_path / "model", vocab=len(tokenizer), layers=1, context=4096)
    tokenizer.save_pretrained(tmp_path / "model")
    right, wrong = played(ADD, STOP.replace("9", "7")), played(STOP, sample=1)
    others = [played(reply, STOP, sample=2) for reply in (f"{ADD}\n{ADD}", f"I add.\n{ADD}")]
    again, long = played(f"I add it.\n{ADD}", STOP, sample=4), played(*[ADD] * 12, STOP, sample=3)
    pairs = [pair_of(right, other) for other in (wrong, *others, again, long)]
    path = file_of(tmp_path / "p.jsonl", *pairs)
    monkeypatch.setenv("COLUMNS", "120")
    made = CliRunner().invoke(
        app,
        ["train", str(path), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"),
         "--set", "max_length=1800", "--set", 'too_long="drop"', "--dry-run"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    said = " ".join(made.output.split())
    assert re.search(r"rows\W+1\b", said), said
    assert re.search(r"left out, too long\W+1 \(p.jsonl, line 5\)", said), said
    assert re.search(r"left out, the chat template refuses this conversation\W+1\b", said), said
    assert re.search(
        r"left out, the chat template drops the words beside a call\W+2 \(first: p.jsonl, line 3\)",
        said,
    ), said


def test_a_row_of_ones_own_that_a_template_cannot_carry_is_refused(tmp_path: Path) -> None:
    row = pair_of(played(f"I add.\n{ADD}", STOP), played(STOP, sample=1)) | {"strategy": ""}
    with pytest.raises(RenderingError, match=r"line 1.*drops the words"):
        load_rows(
            file_of(tmp_path / "p.jsonl", row), Renderer(tool_tokenizer("llama3_2")),
            method="sft", max_length=4096,
        )  # fmt: skip


def test_pairs_for_a_template_that_carries_no_chain_are_refused(tmp_path: Path) -> None:
    pair = pair_of(played(ADD, STOP.replace("9", "7")), played(STOP, sample=1))
    with pytest.raises(RenderingError, match="rewrites earlier turns"):
        load_rows(
            file_of(tmp_path / "p.jsonl", pair), Renderer(tool_tokenizer("qwen3")),
            method="dpo", max_length=4096,
        )  # fmt: skip


def test_the_schema_has_the_worked_example_and_no_titles() -> None:
    (shown, *_) = json.loads(FunctionSet([FUNCTIONS.by_name["add"]]).tools)
    assert shown["function"]["description"] == 'Add two numbers. Example: {"a": 2, "b": 3} -> 5'
    assert "title" not in json.dumps(shown["function"]["parameters"])


def test_a_chain_in_another_dialect_is_another_chain() -> None:
    from rightcall.rollout import chain_key

    (problem,) = TASK.problems("train", 1)
    keys = {chain_key(replace(SETTING, dialect=d), "m", Job(problem)) for d in ("python", "native")}
    assert len(keys) == 2


def test_a_chain_is_watched_as_it_grows_also_where_a_reply_has_two_calls() -> None:
    from rightcall.terminal import Watched

    seen: list[tuple[int, str, str]] = []
    model = Watched(Scripted([f"{ADD}\n{ADD}", ADD, STOP]), lambda *step: seen.append(step))
    (problem,) = TASK.problems("train", 1)
    chain = next(rollouts(SETTING, model, [Job(problem)]))
    shown = [(n, step.reply, step.observation.text) for n, step in enumerate(chain.steps, 1)]
    assert seen == shown[:2]


# --- the other stages -----------------------------------------------------------------------------


def test_augmented_native_chains_stay_native_and_right() -> None:
    from random import Random

    from rightcall.augment import carry_out, load_operation, original_of

    right = played(ADD, STOP.replace("9", "7"))
    (problem,) = TASK.problems("train", 1)
    original = original_of(TASK, FUNCTIONS, problem, [right], dialect="native")
    assert original.chains[0].steps[0].reply == "add(2, 3)"
    for name in ("rename_functions", "shuffle_functions", "skipped_step", "unparsable_call"):
        made = carry_out(original, name, load_operation(TASK, name), Random(1))
        (chain,) = made.chains
        assert chain.dialect == "native"
        wrong = name in ("skipped_step", "unparsable_call")
        assert chain.right_for_the_right_reason is not wrong
        if name == "rename_functions":
            shown = {schema["function"]["name"] for schema in json.loads(chain.schemas)}
            assert {step.call.name for step in chain.steps if step.call} <= shown
            assert shown != {"add", "stop"}


def test_exported_native_chains_and_pairs_are_in_the_apis_form() -> None:
    from rightcall.exporting import chain_rows, pair_rows

    right = played(f"I add.\n{ADD}", STOP.replace("9", "7"))
    wrong = played(f"I add.\n{ADD}", STOP, sample=1)
    (row, _) = chain_rows([right, wrong], TASK)
    assert row["tools"] == json.loads(right.schemas)
    said, seen = row["messages"][2:4]
    assert said["content"] == "I add."
    assert said["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 2, "b": 3}'}
    assert seen == {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "5"}
    (pair,) = make_pairs([right, wrong], PairConfig(strategies={"step": 1.0}))
    (made,) = pair_rows([pair], TASK)
    assert [turn["role"] for turn in made["prompt"]] == ["system", "user", "assistant", "tool"]
    assert made["chosen"][0]["tool_calls"][0]["id"] == call_id(2)
    assert made["rejected"][0]["tool_calls"][0]["id"] == call_id(2)


def test_exported_native_chains_are_read_back(tmp_path: Path) -> None:
    from rightcall.chain import ChainStore
    from rightcall.exporting import chain_rows, write
    from rightcall.importing import import_chains, load_importer, read_logs

    turned = call("add", '{"b": 3, "a": 2}')
    right = played(f"I add.\n{turned}", call("sum", '{"x": 3}'), STOP)
    rows = chain_rows([right], TASK)
    write(rows, tmp_path / "chat.jsonl", form="openai", what="chains", made="Played.")
    records = read_logs(load_importer("openai_chat"), [tmp_path / "chat.jsonl"])
    import_chains(
        records, TASK, TASK.problems("train", 1), tmp_path / "back.jsonl",
        functions="short", dialect="native",
    )  # fmt: skip
    (back,) = ChainStore(tmp_path / "back.jsonl")
    assert [step.reply for step in back.steps] == [step.reply for step in right.steps]
    assert (back.schemas, back.prompt) == (right.schemas, right.prompt)
