"""The error model.

Four kinds of trouble, four boundaries; a message always says *fault, offending value, remedy*.

1. **A model's mistake** (a call that does not parse, an unknown function, a wrong argument, a
   function that loops) is *data*. It is raised as `CallError` inside `functions.py` and becomes a
   typed `Observation` there: the model reads it and can recover, the failed call stays in the
   chain. A `CallError` never leaves `FunctionSet.run`.
2. **An infrastructure failure** (server gone, a reply that never came) is `ModelError`. It crosses
   the backend boundary and ends the chain as *errored*, which is neither correct nor incorrect:
   such a chain is redone on resume and never becomes a preference.
3. **A user's mistake** (a bad config, a function without a docstring, files that do not belong
   together) is `DefinitionError`, `ConfigError` or `DataError`. The command line prints the message
   and exits with 2.
4. **A bug** is any other exception. Nothing catches it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import Any


class RightCallError(Exception):
    """Base of every error a user can meet: a fault, the offending value, a remedy."""

    def __init__(self, fault: str, *, value: object = None, remedy: str = "") -> None:
        self.fault = fault
        self.value = value
        self.remedy = remedy
        shown = "" if value is None else f": {value!r}"
        super().__init__(f"{fault}{shown}." + (f" {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_error, (type(self), self.fault, self.value, self.remedy)


def _rebuild_error(
    kind: type[RightCallError], fault: str, value: object, remedy: str
) -> RightCallError:
    return kind(fault, value=value, remedy=remedy)


class DefinitionError(RightCallError):
    """A function or task is defined wrongly. Boundary: import of the user's file."""


class ConfigError(RightCallError):
    """A setting is unknown, of the wrong type, or out of range. Boundary: loading a config."""


class DataError(RightCallError):
    """A file is malformed or files do not belong together. Boundary: reading a stage's input."""


class MissingSplit(DataError):
    """A task's data has no problems of a split. Boundary: what can do without that split."""


class EndlessSplit(ConfigError):
    """A task generates problems without end, and nobody said how many. Boundary: what can choose."""


class RenderingError(RightCallError):
    """A conversation cannot be turned into tokens and a train mask. Boundary: tokenisation."""


class ModelError(RightCallError):
    """A backend failed to give a reply. Boundary: `ChatModel`. The chain ends as errored."""


class FailureKind(StrEnum):
    """Why a call failed; stored with the observation, counted in reports."""

    NO_CALL = "no_call"
    UNPARSABLE = "unparsable"
    UNKNOWN_FUNCTION = "unknown_function"
    MISSING_ARGUMENT = "missing_argument"
    UNEXPECTED_ARGUMENT = "unexpected_argument"
    WRONG_TYPE = "wrong_type"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    DIED = "died"
    FUNCTION_ERROR = "function_error"


class CapReached(ModelError):
    """A model has used what it may. No further chain is begun; those under way end as errored."""


class Withheld(ModelError):
    """A server made a reply and does not show it. Asked again it would make, and bill, the same."""


class CallError(Exception):
    """A model's call failed. Functions raise it to tell the model what to mend; of any other
    exception of theirs the model reads the type and the message."""

    def __init__(
        self,
        fault: str,
        *,
        value: object = None,
        remedy: str = "",
        kind: FailureKind = FailureKind.FUNCTION_ERROR,
    ) -> None:
        self.fault = fault
        self.value = value
        self.remedy = remedy
        self.kind = kind
        shown = "" if value is None else f": {value!r}"
        super().__init__(f"{fault}{shown}." + (f" {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_call_error, (self.fault, self.value, self.remedy, self.kind)


def _rebuild_call_error(fault: str, value: object, remedy: str, kind: FailureKind) -> CallError:
    return CallError(fault, value=value, remedy=remedy, kind=kind)


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy that names the closest known name, or all of them when none is close.

    >>> nearest("ad", ["add", "stop"])
    "Did you mean 'add'?"
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return "Known: " + ", ".join(names) + "." if names else ""


def first_fault(error: Any) -> str:
    """Where a `pydantic.ValidationError` first found a fault, and which: `answer: Field required`."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])
