"""The commands of the pages that say most of them, run in order in an empty folder.

What stands for something that is not here is replaced: a server by one of this machine that plays a
model, hub ids and `path/to/...` by a tiny model, large counts by small ones. Workers are on the one Ray
cluster that all tests have.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_server import LocalHandler, LocalServer
from native_models import tool_tokenizer
from test_docs import ROOT, blocks, execute, shell
from tiny_models import build_tiny

PAGES = ("tool-calling", "your-student", "serving", "teachers", "your-logs", "cluster")

NOT_RUN = {
    "pip install": "fetches from the network",
    "vllm serve": "needs a GPU",
    "transformers serve": "serves until it is stopped: tests/test_serving.py has it",
    "rightcall run examples/llama-3.1-8b.toml --set": "trains for hours on weights from the hub",
}
"""Beginnings of commands that are not run, and why."""

SMALLER = {
    "collect": ["--count", "2", "--samples", "1", "--steps", "2", "--max-tokens", "8"],
    "evaluate": ["--count", "2", "--set", "budgets=[2]", "--set", "max_tokens=8"],
    "train": ["--set", "max_steps=1"],
    "parity": ["--with", "served/math"],  # the server plays another model
}
"""Put behind a command; of an option given twice the last one counts."""

HUB_IDS = re.compile(r"\b(Qwen|mistralai|meta-llama)/[\w.-]+")


class Player(LocalHandler):
    """Stops at once, natively where it is shown functions."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        call = {
            "id": "x",
            "type": "function",
            "function": {"name": "stop", "arguments": '{"answer": "1"}'},
        }
        said = {"content": None, "tool_calls": [call]} if "tools" in body else {"content": "stop('1')"}
        message = {"role": "assistant", **said}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        self.send(json.dumps({"model": body["model"], "choices": [choice], "usage": usage}))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`path/to` with what the pages have there."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    place = tmp_path_factory.mktemp("models") / "path" / "to"
    tokenizer = tool_tokenizer("qwen2_5")
    build_tiny("qwen2", place / "model", vocab=len(tokenizer), layers=1, context=1 << 16)
    tokenizer.save_pretrained(place / "model")
    (place / "base").symlink_to(place / "model")
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(place / "model"), lora).save_pretrained(
        place / "adapter"
    )
    return place


@pytest.fixture
def folder(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are run: with what a user has by then."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "path").symlink_to(models.parent)
    (tmp_path / "run.toml").write_text('name = "mine"\n[tasks.tiny-math]\n')
    turns = [{"role": "system", "content": "Solve."}, {"role": "user", "content": "What is 1 + 1?"}]
    with (tmp_path / "pairs.jsonl").open("w") as file:
        for wrong in range(3, 7):
            sides = {
                side: [{"role": "assistant", "content": f"stop('{answer}')"}]
                for side, answer in (("chosen", 2), ("rejected", wrong))
            }
            file.write(json.dumps({"prompt": turns, **sides, "strategy": "step"}) + "\n")
    return tmp_path


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer(Player) as running:
        yield running


def commands(page: str) -> Iterator[tuple[str, str]]:
    yield from shell(ROOT / "docs" / f"{page}.md")


def write_modules(page: str) -> None:
    """The Python of a page that begins with the name of its file."""
    for block in blocks(ROOT / "docs" / f"{page}.md", "python"):
        if named := re.match(r"# (\w+\.py)\n", block):
            Path(named[1]).write_text(block)


def not_run(command: str) -> str | None:
    return next((begin for begin in NOT_RUN if command.startswith(begin)), None)


def replaced(command: str, url: str) -> list[str]:
    command = command.replace("http://localhost:8000/v1", url).replace("openai#", f"{url}#")
    command = HUB_IDS.sub("path/to/model", command)
    return shlex.split(re.sub(r"\s#.*", "", command))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_do_what_they_say(
    page: str, folder: Path, server: LocalServer, request: pytest.FixtureRequest
) -> None:
    if any("--cluster" in command for command in commands(page)):
        request.getfixturevalue("ray_cluster")
    if page == "serving":
        execute(["collect", "tiny-math", "-m", "gold", *SMALLER["collect"],
                 "--out", "chains/student.jsonl"], "its chains")  # fmt: skip
    write_modules(page)
    executed = 0
    for command, text in commands(page):
        if not_run(command):
            continue
        program, *arguments = replaced(command, server.url)
        if program == "cat":
            Path(arguments[1]).write_text(text)
            continue
        name = next((name for name in SMALLER if name in arguments), "")
        arguments += SMALLER.get(name, [])
        if program == "accelerate":
            launch(arguments, command)
        else:
            assert program == "rightcall"
            execute(arguments, command)
        if program != "accelerate" and "--out" in arguments and "--dry-run" not in arguments:
            assert Path(arguments[arguments.index("--out") + 1]).exists(), command
        executed += 1
    assert executed >= 2


def launch(arguments: list[str], line: str) -> None:
    """`accelerate`, on this machine's processor."""
    _, *rest = arguments
    program = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    rest[rest.index("--out") + 1] += f"-{len(list(Path().glob('tuned*')))}"  # both name one folder
    done = subprocess.run(
        [*program, *rest], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"


def test_what_is_not_run_stands_on_a_page() -> None:
    begun = {not_run(command) for page in PAGES for command, _ in commands(page)}
    assert set(NOT_RUN) <= begun
