"""The generators of `reasoning_gym` and their own scoring, as a worker process runs it.

It stands alone because it is untrusted: several scorers evaluate the answer as Python (`eval`, or
sympy's `parse_expr`, which does). So they run under limits of time and memory, and those that may
evaluate are given nothing but literals and plain arithmetic (`harmless`). The package is imported
here, not in the call, so that its import does not count as the call's time.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from functools import lru_cache
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from rightcall.errors import ConfigError, nearest

CHUNK = 500
"""Entries that are made with one seed."""
UNUSABLE = {
    **dict.fromkeys(
        ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"),
        "it tells no answer to its problems",
    ),
    **dict.fromkeys(
        ("isomorphic_strings", "list_functions", "polynomial_multiplication", "ransom_note"),
        "the same seed gives other problems in every process",
    ),
    "composite": "it is a mixture of other generators",
}
"""Generators that make no task, and why (of those of version 0.1)."""
_EVALUATES = re.compile(r"\b(?:eval|exec|parse_expr|sympify|parse_latex)\s*\(")
_SUSPECT = re.compile(r"""__|["'\[\]{}:@\\;`]|\.\s*[A-Za-z_]|\)\s*\(""")
_CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
_KNOWN = {
    "sqrt",
    "exp",
    "log",
    "ln",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
}


@lru_cache(maxsize=64)
def dataset(generator: str, config: str, seed: int) -> Any:
    """The entries of a generator, with its settings as JSON text. Raises `ConfigError`."""
    if generator not in DATASETS:
        raise ConfigError("unknown generator", value=generator, remedy=nearest(generator, DATASETS))
    if generator in UNUSABLE:
        raise ConfigError(
            f"this generator cannot be used: {UNUSABLE[generator]}",
            value=generator,
            remedy="Name another one.",
        )
    settings = json.loads(config)
    known = inspect.signature(DATASETS[generator][1]).parameters.keys() - {"seed", "size"}
    if strange := sorted(settings.keys() - known):
        raise ConfigError(
            f"{generator} has no such setting", value=strange[0], remedy=nearest(strange[0], known)
        )
    try:
        return reasoning_gym.create_dataset(generator, seed=seed, size=CHUNK, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"{generator} refuses these settings: {error}", value=settings) from error


def score(generator: str, config: str, seed: int, index: int, answer: str) -> float:
    """What the generator's own scorer gives an answer, in [0, 1]; 0 for an answer that may not be
    evaluated."""
    entries = dataset(generator, config, seed)
    entry = entries[index]
    if answer != str(entry["answer"]) and evaluates(type(entries).__module__) and not harmless(answer):
        return 0.0
    return float(entries.score_answer(answer, entry))


@lru_cache(maxsize=256)
def evaluates(module: str) -> bool:
    """Whether the module of a generator evaluates anything, which may be the answer."""
    return bool(_EVALUATES.search(inspect.getsource(sys.modules[module])))


def harmless(answer: str) -> bool:
    """Whether evaluating a text can do nothing but calculate: it is a literal, or has neither
    attributes, strings, subscripts nor calls but those of common mathematical functions.

    >>> [harmless(text) for text in ("[1, 2]", "(3 + 4) * x**2", "sin(x) + C", "a b c")]
    [True, True, True, True]
    >>> [harmless(text) for text in ("open(x)", "().__class__", "x.real", "[c for c in x]")]
    [False, False, False, False]
    """
    try:
        ast.literal_eval(answer)
        return True
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        called = {name for name in _CALL.findall(answer) if len(name) > 1}
        return answer.isascii() and not _SUSPECT.search(answer) and called <= _KNOWN
