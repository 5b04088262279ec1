"""The shipped tiny models: a teacher and a smaller, imperfect student, trained from scratch.

`python -m rightcall.tiny` rebuilds both from nothing but this package's own problem generators:
tokenizer, corpus, pretraining, checks, model cards.
"""

from __future__ import annotations

from pathlib import Path

from rightcall.errors import DefinitionError, nearest

NAMES = ("teacher", "student")


def path(name: str) -> Path:
    """The folder of a shipped model (`"teacher"` or `"student"`), as `from_pretrained` takes it."""
    if name not in NAMES:
        raise DefinitionError("no shipped model of that name", value=name, remedy=nearest(name, NAMES))
    return Path(__file__).parent / name
