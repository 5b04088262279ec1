"""The URL of a server, checked before it is kept or shown."""

from __future__ import annotations

import re

from rightcall.errors import ConfigError
from rightcall.settings import without_user


def checked_url(text: str) -> str:
    """The URL of a server. Raises `ConfigError` if it is none, or holds a user or password, which
    would end up in files and messages."""
    if not (re.match(r"https?://[^\s/]+", text) and text.isprintable()):
        raise ConfigError(
            "not the URL of a server",
            value=without_user(text),
            remedy="Like http://localhost:8000/v1.",
        )
    if without_user(text) != text:
        raise ConfigError(
            "a URL with a user or password",
            value=without_user(text),
            remedy="Name the environment variable that holds a key in api_key_env.",
        )
    return text
