"""The shipped tiny models, trained from scratch: a teacher and a smaller, imperfect student for the
demo, and `rules`, which formalises ProofWriter and PrOntoQA.

`python -m rightcall.tiny` rebuilds the first two from this package's own problem generators:
tokenizer, corpus, pretraining, checks, model cards. `docs/proof.md` tells how the third was made.
"""

from __future__ import annotations

from pathlib import Path

from rightcall.errors import DefinitionError, nearest

NAMES = ("teacher", "student", "rules")


def path(name: str) -> Path:
    """The folder of a shipped model, one of `NAMES`, as `from_pretrained` takes it."""
    if name not in NAMES:
        raise DefinitionError("no shipped model of that name", value=name, remedy=nearest(name, NAMES))
    return Path(__file__).parent / name
