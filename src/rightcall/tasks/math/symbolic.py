"""math-verify's comparison of answers, for a worker process with limits (see `answers`).

It stands alone so that the worker's import of math-verify is not counted as the call's time.
"""

from __future__ import annotations

from math_verify import parse, verify


def symbolically_equal(gold: str, answer: str) -> bool:
    """math-verify's verdict. Its own time limits need signals of the main thread: none are set
    here, the caller's worker has limits."""
    wanted = parse(f"${gold}$", parsing_timeout=None)
    given = parse(
        answer if "$" in answer or "\\boxed" in answer else f"${answer}$", parsing_timeout=None
    )
    return bool(verify(wanted, given, timeout_seconds=None))
