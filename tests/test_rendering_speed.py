"""The fast path of `Renderer` against its definition: every prefix through the template."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.errors import RenderingError
from rightcall.rendering import Renderer
from tiny_models import build_tokenizer

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
