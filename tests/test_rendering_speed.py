"""The fast path of `Renderer` against its definition: every prefix through the template."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native_models import FAMILY, tool_tokenizer
from rightcall.chain import Message
from rightcall.errors import RenderingError
from rightcall.native import Invocation, Said
from rightcall.rendering import Renderer
from tiny_models import build_tokenizer
from toys import SumTask

TOKENIZER = build_tokenizer()
ROLES = st.sampled_from(["system", "user", "assistant"])
CONVERSATIONS = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, ROLES, st.text(max_size=20)),
    min_size=1,
    max_size=8,
).filter(lambda messages: messages[0]["role"] != "assistant")
STRIPPING = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] | trim }}<|im_end|>"
    "{% else %}[INST] {{ m['content'] }}[/INST]{% endif %}{% endfor %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>"
    "{% else %}[{{ m['content'] }}]{% endif %}{% endfor %}"
)
MOVING = (
    "{% for m in messages %}{% if loop.last and m['role'] == 'user' %}(latest) {% endif %}"
    "{{ m['content'] }}{% if m['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ raise_exception('no user') }}{% endif %}"
    "{{ m['content'] }}<|im_end|>{% endfor %}"
)


def renderer(template: str | None = None) -> Renderer:
    tokenizer = build_tokenizer()
    if template:
        tokenizer.chat_template = template
    return Renderer(tokenizer)


def by_definition(made: Renderer, messages, reply_next: bool) -> list[str]:
    return made._pieces(messages, reply_next)


CHATML, INST = renderer(), renderer(STRIPPING)


@settings(max_examples=60, deadline=None)
@given(messages=CONVERSATIONS, reply_next=st.booleans(), made=st.sampled_from([CHATML, INST]))
def test_the_assembled_text_is_the_templates_own(messages, reply_next, made):
    fast = made._assembled(messages, reply_next)
    assert fast is None or fast == by_definition(made, messages, reply_next)


@pytest.mark.parametrize("made", [CHATML, INST], ids=["chatml", "stripping"])
def test_ordinary_conversations_take_the_fast_path(made):
    messages = [
        {"role": "user", "content": " two spaces "},
        {"role": "assistant", "content": " add(1, 2)\n"},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "stop(3)"},
    ]
    fast = made._assembled(messages, False)
    assert fast is not None
    assert fast == by_definition(made, messages, False)


def test_a_template_that_drops_earlier_reasoning_is_refused_only_where_it_does():
    made = renderer(FORGETFUL)
    question, observation = {"role": "user", "content": "q"}, {"role": "user", "content": "3"}
    plain = {"role": "assistant", "content": "add(1, 2)"}
    thought = {"role": "assistant", "content": "<think>hm</think>add(1, 2)"}
    assert made.render([question, plain, observation, plain]).ids
    with pytest.raises(RenderingError, match="rewrites earlier turns"):
        made.render([question, thought, observation, plain])


def test_a_template_that_moves_marks_to_the_last_turn_is_refused():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "add(1, 2)"}]
    with pytest.raises(RenderingError, match="rewrites earlier turns"):
        renderer(MOVING).render(messages)


def test_a_template_that_refuses_a_role_says_so_in_its_own_words():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "stop(1)"}]
    with pytest.raises(RenderingError, match="no user"):
        renderer(STRICT).render(messages)


def test_a_conversation_that_begins_with_the_assistant_is_refused():
    with pytest.raises(RenderingError, match="must begin"):
        renderer().render([{"role": "assistant", "content": "stop(1)"}])


def test_padding_asked_of_the_tokenizer_elsewhere_does_not_change_pieces():
    made = renderer()
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "stop(1)"}]
    expected = renderer().render(messages)
    made.tokenizer(["a", "b and c"], padding=True)
    assert made.render(messages) == expected


# --- with tools -----------------------------------------------------------------------------------

TOOLS = SumTask().function_set("short").tools


@cache
def native(name: str) -> Renderer:
    return Renderer(tool_tokenizer(name))


def call(name="add", **arguments) -> Invocation:
    return Invocation(name, arguments)


awkward = st.sampled_from(
    [
        *("", " ", "5", "é", "\n", '"', "<b>&'", "<|im_end|>", "</s>", "[INST]", "<|eot_id|>", "{}"),
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        *(
            '{"name": "add"',
            "<think>\nso\n</think>\n\n",
            "[TOOL_CALLS] ",
            "\ue000user\ue001",
            "call00001",
        ),
    ]
)
short = st.lists(awkward | st.text(max_size=6), max_size=3).map("".join)
value = st.recursive(
    short | st.integers() | st.booleans() | st.none() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(short, inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(
    Invocation,
    st.sampled_from(["add", "stop"]) | short.filter(bool),
    st.dictionaries(short, value, max_size=2),
)
said = st.builds(Said, st.just("") | short, st.lists(calls, min_size=1, max_size=1).map(tuple))
unusual = st.builds(Said, short, st.lists(calls, max_size=2).map(tuple))


@st.composite
def conversations(draw) -> list[Message]:
    """Chains of calls and their observations, now and then with none, several, or one left open."""
    turns = [
        Message(role="system", content=draw(short)),
        Message(role="user", content=draw(short)),
    ]
    for reply in draw(st.lists(st.one_of(said, said, said, unusual), min_size=1, max_size=5)):
        turns.append(Message(role="assistant", content=str(reply)))
        number = len(reply.calls) if draw(st.integers(0, 9)) else 2
        turns += [Message(role="tool", content=draw(short)) for _ in range(number)]
        if not number:
            turns.append(Message(role="user", content=draw(short)))
    return turns[: draw(st.integers(3, len(turns)))] if not draw(st.integers(0, 3)) else turns


def outcome(render):
    """What it gives, or why not."""
    try:
        return render()
    except RenderingError as error:
        return str(error)


class Slow(Renderer):
    """By the definition alone."""

    def _assembled(self, messages, reply_next, tools=""):
        return None


@cache
def slow(name: str) -> Renderer:
    return Slow(tool_tokenizer(name))


@pytest.mark.parametrize("name", FAMILY)
@settings(max_examples=100, deadline=None)
@given(messages=conversations(), reply_next=st.booleans())
def test_native_conversations_have_the_ids_and_masks_of_every_prefix(name, messages, reply_next):
    fast, definition = (
        outcome(lambda made=made: made.render(messages, reply_next=reply_next, tools=TOOLS))
        for made in (native(name), slow(name))
    )
    assert fast == definition


def chain(steps: int, words: str = "") -> list[Message]:
    turns = [Message(role="system", content="Solve."), Message(role="user", content="How much?")]
    for number in range(steps):
        reply = Said(words and f"{words} {number}", (call(a=number, b="é <b>"),))
        turns.append(Message(role="assistant", content=str(reply)))
        turns.append(Message(role="tool", content=f"{number} & more"))
    return turns[:-1]


def turns_shown(made: Renderer, messages: list[Message]) -> int:
    """How many turns a template is given, over all its runs, to render a conversation once."""
    shown = 0
    original = made._templated

    def counted(turns, reply_next, tools):
        nonlocal shown
        shown += len(turns)
        return original(turns, reply_next, tools)

    made._templated = counted
    made.render(messages, tools=TOOLS)
    return shown


THOUGHT = "<think>\nso\n</think>\n\nthen"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "") for name in FAMILY if name != "qwen3"),
        *((name, "so") for name in FAMILY if FAMILY[name] == "qwen" and name != "qwen3"),
        ("qwen3_training", THOUGHT),
        ("qwen2_5", THOUGHT),
    ],
)
def test_templates_are_given_each_turn_of_a_native_conversation_a_few_times(name, words):
    """And not with all that comes after it: the time grows with the length."""
    ten, forty = (turns_shown(Renderer(tool_tokenizer(name)), chain(n, words)) for n in (10, 40))
    assert forty < 4.5 * ten
    assert forty < 2 * len(chain(40))


def test_a_native_conversation_that_grows_is_not_rendered_anew():
    made = Renderer(tool_tokenizer("qwen2_5"))
    turns_shown(made, chain(39))
    assert turns_shown(made, chain(40)) < 2 * len(chain(40))


def test_a_template_whose_turns_depend_on_more_than_what_stands_before_them_is_run_on_every_prefix():
    tokenizer = tool_tokenizer("qwen2_5")
    turn = "{{- '<|im_start|>' + message.role }}"
    assert turn in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(
        turn, "{{- '<|im_start|>' + message.role + ' ' + loop.index | string }}"
    ).replace(
        "{{- '<|im_start|>assistant\\n' }}",
        "{{- '<|im_start|>assistant ' + (messages | length + 1) | string + '\\n' }}",
    )
    made = Renderer(tokenizer)
    messages = chain(4)
    assert made._assembled(messages, False, TOOLS) is None
    text = made.text(messages, reply_next=False, tools=TOOLS)
    assert "assistant 5\n" in text
    assert made.tokenizer.decode(made.render(messages, tools=TOOLS).ids) == text
