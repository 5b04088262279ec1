"""Which tokens are trained? The coloured view that answers it, in a terminal.

Trained tokens are green, the others grey; tokens alternate in shade so that their bounds show.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from rightcall.rendering import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TERMINAL = {True: ("black on green3", "black on dark_sea_green2"), False: ("grey62", "grey50")}


def token_texts(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """The text of each token and whether it is trained, with special tokens shown.

    Tokens that hold only part of a character are shown together, once the character is whole.
    """
    waiting: list[int] = []
    trained = False
    for token, now in zip(rendered.ids, rendered.trained, strict=True):
        if waiting and now != trained:
            yield _decoded(tokenizer, waiting), trained
            waiting = []
        waiting.append(token)
        trained = now
        text = _decoded(tokenizer, waiting)
        if not text.endswith("\ufffd"):
            yield text, trained
            waiting = []
    if waiting:
        yield _decoded(tokenizer, waiting), trained


def tokens_text(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> Text:
    """For a terminal: trained tokens black on green. Model text is never read as markup."""
    view = Text()
    for index, (text, trained) in enumerate(token_texts(rendered, tokenizer)):
        view.append(_visible(text), style=_TERMINAL[trained][index % 2])
    return view


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _visible(text: str) -> str:
    """Without control characters: what a model wrote must not steer a terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)
