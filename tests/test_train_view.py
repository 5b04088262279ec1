from rightcall.rendering import Rendered, Renderer
from rightcall.train.view import token_texts, tokens_text
from tiny_models import build_tokenizer

MESSAGES = [
    {"role": "user", "content": "is 1 < 2? [bold]naïve 🦊"},
    {"role": "assistant", "content": "stop('<b>1</b> 🦊')"},
]


def test_token_texts_join_to_the_conversation_even_where_characters_span_tokens():
    tokenizer = build_tokenizer()
    rendered = Renderer(tokenizer).render(MESSAGES)
    shown = list(token_texts(rendered, tokenizer))
    assert "".join(text for text, _ in shown) == tokenizer.decode(rendered.ids)
    assert "".join(text for text, on in shown if on) == "stop('<b>1</b> 🦊')<|im_end|>"


def test_the_terminal_view_shows_markup_as_text_and_defuses_control_characters():
    tokenizer = build_tokenizer()
    messages = [MESSAGES[0], {"role": "assistant", "content": "\x1b[31mred"}]
    view = tokens_text(Renderer(tokenizer).render(messages), tokenizer)
    assert "[bold]naïve" in view.plain
    assert "\x1b" not in view.plain
    assert any("green" in str(span.style) for span in view.spans)


def test_half_a_character_at_the_end_is_still_shown():
    tokenizer = build_tokenizer()
    ids = tokenizer.encode("🦊")
    assert len(ids) > 1
    shown = list(token_texts(Rendered(tuple(ids[:-1]), (True,) * (len(ids) - 1)), tokenizer))
    assert len(shown) == 1
