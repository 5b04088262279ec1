"""Rendering: exactly the model's own words are trained, and what was sampled is what is trained."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightcall.chain import Message
from rightcall.errors import RenderingError
from rightcall.rendering import Rendered, Renderer
from tiny_models import CHAT_TEMPLATE, build_tokenizer


@cache
def renderer(template: str = CHAT_TEMPLATE) -> Renderer:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return Renderer(tokenizer)


def messages(*contents: str) -> list[Message]:
    """A system turn, then user and assistant in turn."""
    roles = ["system", *["user", "assistant"] * len(contents)]
    return [Message(role=r, content=c) for r, c in zip(roles, contents, strict=False)]


CHAIN = messages("Solve.", "What is 2 + 3?", "add(2, 3)", "5", "stop('5')")


def decoded(rendered: Rendered, *, trained: bool) -> str:
    chosen = [i for i, t in zip(rendered.ids, rendered.trained, strict=True) if t is trained]
    return str(renderer().tokenizer.decode(chosen))


def test_exactly_the_replies_and_their_stop_tokens_are_trained() -> None:
    rendered = renderer().render(CHAIN)
    assert decoded(rendered, trained=True) == "add(2, 3)<|im_end|>stop('5')<|im_end|>"
    rest = decoded(rendered, trained=False)
    assert "What is 2 + 3?" in rest
    assert "<|im_start|>user\n5<|im_end|>" in rest


def test_the_whole_is_the_templates_own_text() -> None:
    made = renderer()
    for reply_next in (False, True):
        conversation = CHAIN if not reply_next else CHAIN[:-1]
        ids = made.render(conversation, reply_next=reply_next).ids
        assert made.tokenizer.decode(ids) == made.text(conversation, reply_next=reply_next)


content = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=12)


@given(st.lists(content, min_size=3, max_size=8))
def test_what_the_model_saw_before_a_reply_begins_what_is_trained(contents: list[str]) -> None:
    whole = messages(*contents)
    whole = whole if whole[-1]["role"] == "assistant" else whole[:-1]
    if len(whole) < 3:
        return
    rendered = renderer().render(whole)
    for index, message in enumerate(whole):
        if message["role"] == "assistant":
            seen = renderer().render(whole[:index], reply_next=True).ids
            assert rendered.ids[: len(seen)] == seen
            assert rendered.trained[len(seen)]
            assert not rendered.trained[len(seen) - 1]


def test_sampled_ids_are_kept_even_where_the_text_would_be_tokenised_otherwise() -> None:
    made = renderer()
    stop = made.tokenizer.eos_token_id
    letters = [made.tokenizer.encode(c, add_special_tokens=False)[0] for c in "add(2, 3)"]
    sampled = (*letters, stop)
    plain, kept = made.render(CHAIN), made.render(CHAIN, [sampled, None])
    assert kept.ids != plain.ids
    assert made.tokenizer.decode(kept.ids) == made.tokenizer.decode(plain.ids)
    start = kept.trained.index(True)
    assert kept.ids[start : start + len(sampled)] == sampled
    assert decoded(kept, trained=True) == decoded(plain, trained=True)


def test_a_prompt_trains_nothing() -> None:
    rendered = renderer().render(CHAIN[:2], reply_next=True)
    assert not any(rendered.trained)
    assert len(rendered.ids) == len(rendered.trained) > 0


BODY = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (BODY + "{{ m['content'] }}\n{% endfor %}" + GENERATION, "without a stop token"),
        (
            BODY + "{{ m['content'] if loop.last else '' }}<|im_end|>\n{% endfor %}" + GENERATION,
            "rewrites earlier turns",
        ),
        (CHAT_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>A:"), "rewrites earlier turns"),
    ],
    ids=["no stop token", "history emptied", "another generation prompt"],
)
def test_a_template_that_cannot_be_trained_on_is_refused(template: str, message: str) -> None:
    with pytest.raises(RenderingError, match=message):
        renderer(template).render(CHAIN)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(RenderingError, match="no chat template"):
        Renderer(tokenizer)


@pytest.mark.parametrize("conversation", [[], [Message(role="assistant", content="Hi")]])
def test_a_conversation_begins_with_a_turn_that_is_not_the_models(conversation: list[Message]) -> None:
    with pytest.raises(RenderingError, match="must begin with a turn"):
        renderer().render(conversation, reply_next=True)
