"""A real server for tests: `transformers serve` in a thread of this process."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import requests

PATIENCE = 120
"""Seconds that it may take to start: a busy machine is not a failure."""


class Server:
    """Serves the model of a folder. `prompts` is for whoever watches what it generates from."""

    def __init__(self, folder: Path) -> None:
        from transformers.cli.serve import Serve

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self.prompts: list[tuple[int, ...]] = []
        self._serve = Serve(
            force_model=str(folder), host="127.0.0.1", port=port, device="cpu", dtype="float32",
            non_blocking=True, log_level="error",
        )  # fmt: skip
        self._wait(f"http://127.0.0.1:{port}/health")

    def _wait(self, health: str) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if requests.get(health, timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.1)
        raise TimeoutError(health)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self._serve.kill_server()
