"""Text from models and files, made fit for the page. Escaping is the template's work, not done here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rightcall.chain import JSON, Step

MAX_CHARACTERS = 2_000
"""Of one reply or observation; what is left out is said."""

_CONTROL = {c: chr(0x2400 + c) for c in range(32) if chr(c) not in "\n\t"} | {127: "␡"}
_BIDI = {c: f"⟨U+{c:04X}⟩" for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F)}


def visible(text: str) -> str:
    """Control characters and direction marks made visible: a reply must not rearrange the page."""
    return text.translate(_CONTROL | _BIDI)


def bounded(text: str, most: int = MAX_CHARACTERS) -> str:
    """Text for the page, cut visibly where it is too long."""
    cut = len(text) - most
    return visible(text) if cut <= 0 else f"{visible(text[:most])}… [{cut} characters not shown]"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with a real minus sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def read_as(step: Step) -> str:
    """The call that was read from a reply, where the reply is more than that call."""
    if step.call is None:
        return ""
    text = str(step.call)
    plain = re.sub(r"\s|['\"]", "", step.reply)
    return "" if re.sub(r"\s|['\"]", "", text) == plain else text


def flattened(table: Mapping[str, JSON], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested tables, as rows; what is empty is left out."""
    for key, value in table.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name} · ")
        elif isinstance(value, float):
            yield name, f"{value:.4g}"
        elif value is not None:
            yield name, str(value)
