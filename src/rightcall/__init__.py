"""RightCall: functions → chains → preference pairs → a tuned small model → paired proof.

The public names are below; each is imported when it is first used, so `import rightcall` is light.
Every stage is also a module of its own: `rightcall.rollout`, `tree`, `search`, `pairs`,
`train`, `evaluate`, `compare`, `report`, `run`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rightcall.chain import Chain, ChainStore, Problem
    from rightcall.config import load_config
    from rightcall.errors import CallError, RightCallError
    from rightcall.functions import State, Stop, function
    from rightcall.models.spec import open_model
    from rightcall.pairs import make_pairs
    from rightcall.rollout import solve
    from rightcall.run import run_all
    from rightcall.task import Task, load_task

__version__ = "0.1.0"

_HOME = {
    "CallError": "errors",
    "Chain": "chain",
    "ChainStore": "chain",
    "Problem": "chain",
    "RightCallError": "errors",
    "State": "functions",
    "Stop": "functions",
    "Task": "task",
    "function": "functions",
    "load_config": "config",
    "load_task": "task",
    "make_pairs": "pairs",
    "open_model": "models.spec",
    "run_all": "run",
    "solve": "rollout",
}
"""Public name → the module it lives in."""

__all__ = [
    "CallError",
    "Chain",
    "ChainStore",
    "Problem",
    "RightCallError",
    "State",
    "Stop",
    "Task",
    "function",
    "load_config",
    "load_task",
    "make_pairs",
    "open_model",
    "run_all",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rightcall' has no attribute {name!r}")
    value = getattr(import_module(f"rightcall.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
