"""Settings as tables: TOML in, overrides on top, typed objects out.

Wrong keys and wrong types are a `ConfigError` that names the whole path of the key.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rightcall.errors import ConfigError, nearest

Table = dict[str, Any]
"""A TOML table as `tomllib` reads it."""


def set_key(table: Table, override: str) -> None:
    """Apply `a.b=value` to a table in place. The value is a TOML literal; what is none is text."""
    path, equals, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise ConfigError("not an override", value=override, remedy="Write it as a.b=value.")
    for depth, key in enumerate(keys[:-1], 1):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"{'.'.join(keys[:depth])} is a value, not a table",
                value=override,
                remedy="Override it as a whole.",
            )
    table[keys[-1]] = _literal(text.strip())


def _literal(text: str) -> Any:
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if read.keys() == {"value"} else text


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """`base` with the keys of `over`; tables are merged, everything else replaced.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    made = dict(base)
    for key, value in over.items():
        old = made.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        made[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return made


M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], table: Mapping[str, Any], *, at: str = "") -> M:
    """A table as a `model`. Strict: `"5"` is no number. The first fault is a `ConfigError` that
    names the key's whole path (under `at`) and, for an unknown key, the nearest known one."""
    for key, value in flat(table).items():
        if any(isinstance(one, float) and not math.isfinite(one) for one in _leaves(value)):
            shown = ".".join([*([at] if at else []), key])
            raise ConfigError(f"{shown} is wrong", value=value, remedy="Give a finite number.")
    try:
        return model.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    shown = ".".join([*([at] if at else []), *path])
    if first["type"] == "extra_forbidden":
        raise ConfigError("unknown key", value=shown, remedy=nearest(path[-1], _keys(model, path[:-1])))
    if first["type"] == "missing":
        raise ConfigError("missing key", value=shown, remedy="It has no default.")
    message = first["msg"].removeprefix("Value error, ")
    value = without_user(first["input"]) if isinstance(first["input"], str) else first["input"]
    raise ConfigError(f"{shown} is wrong", value=value, remedy=message.rstrip(".") + ".")


def _leaves(value: Any) -> Iterable[Any]:
    """What stands in lists and tables inside of a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return [value]
    return [leaf for one in value for leaf in _leaves(one)]


def _keys(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """The keys of the table at `path` inside `model`."""
    here: Any = model
    for part in path:
        found = _table_type(here.model_fields[part].annotation) if part in here.model_fields else None
        if found is None:
            return []
        here = found
    return list(here.model_fields)


def _table_type(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((t for a in typing.get_args(annotation) if (t := _table_type(a))), None)


def without_user(url: str) -> str:
    """A URL fit to be shown.

    >>> without_user("http://me:secret@host/v1")
    'http://***@host/v1'
    """
    return re.sub(r"//[^/\s]*@", "//***@", url)


def flat(table: Mapping[str, Any], prefix: str = "") -> Table:
    """Dotted key → value.

    >>> flat({"a": {"b": 1}, "c": {}})
    {'a.b': 1, 'c': {}}
    """
    made: Table = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            made |= flat(value, f"{prefix}{key}.")
        else:
            made[f"{prefix}{key}"] = value
    return made
