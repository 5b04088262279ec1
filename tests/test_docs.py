"""Every example in the README and the docs runs, or is read by the program it is for."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from rightcall import config
from rightcall.chain import ChainStore, Outcome
from rightcall.cli import app
from rightcall.config import RunFile, TaskRun, load_config, resolve
from rightcall.models.spec import ModelSpec
from rightcall.settings import merged
from rightcall.task import load_task

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text for tag, text in found if tag == language]


def commands() -> Iterator[str]:
    for page in PAGES:
        yield from (command for command, _ in shell(page))


def shell(page: Path) -> Iterator[tuple[str, str]]:
    """The commands of a page, each with the text that it is given (`<<'END'`)."""
    for block in blocks(page, "sh"):
        lines = iter(block.replace("\\\n", " ").splitlines())
        for line in lines:
            command, given, end = line.partition(" <<'END'")
            assert not end, line
            text = "\n".join(iter(lines.__next__, "END")) if given else ""
            if command.strip():
                yield command, text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_python_examples_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / f"{page.stem.replace('-', '_')}_examples.py"
    source.write_text("\n\n".join(blocks(page, "python")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, source.stem, module)
    spec.loader.exec_module(module)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_run_files_of_a_page_load(page: Path) -> None:
    for block in blocks(page, "toml"):
        table = tomllib.loads(block)
        resolve(merged({"name": "example", "tasks": {"math": {}}}, table))


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_shell_example_is_a_command_that_exists(command: str) -> None:
    program, *arguments = shlex.split(re.sub(r"\s#.*", "", command))
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(arguments) <= set(targets)
    elif program == "rightcall":
        assert_parses(arguments)
    elif program == "accelerate":
        assert (ROOT / arguments[arguments.index("--config_file") + 1]).is_file()
        assert_parses(arguments[arguments.index("rightcall") + 1 :])
    elif program == "cat":
        assert arguments[0] == ">"
    else:
        assert program in {"pip", "vllm", "python", "transformers"}


def assert_parses(arguments: list[str]) -> None:
    """The arguments are those of a command: parsed, not run."""
    command = typer.main.get_command(app)
    names = []
    while hasattr(command, "commands"):
        names.append(arguments[0])
        assert arguments[0] in command.commands
        command = command.commands[arguments.pop(0)]
        if not arguments and hasattr(command, "commands"):
            return
    context = command.make_context(" ".join(names), arguments)
    if context.params.get("model"):
        ModelSpec.parse(context.params["model"])


SMALLER = {
    "collect": ["--count", "6"],
    "search": ["--count", "6", "--rollouts", "2"],
    "train": ["--set", "max_steps=2"],
    "evaluate": ["--count", "4"],
    "check": ["--count", "5"],
}
"""Put behind a command of the README, so that it takes seconds; of an option given twice the last one
counts. Nothing else is changed."""
ELSEWHERE = ("http://", "run")
"""What is not executed here: a command that needs a server, and the demo itself."""


@pytest.mark.slow
def test_the_commands_of_the_readme_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = [line for block in blocks(PAGES[0], "sh") for line in block.splitlines()]
    executed = []
    for line in lines:
        program, *arguments = shlex.split(re.sub(r"\s#.*", "", line)) or [""]
        left_out = any(a in ELSEWHERE or a.startswith(ELSEWHERE[0]) for a in arguments)
        if program == "rightcall" and not left_out:
            command = next((name for name in SMALLER if name in arguments[:2]), "")
            execute([*arguments, *SMALLER.get(command, [])], line)
            executed.append(line)
    assert len(executed) >= 12
    tuned = list(ChainStore(tmp_path / "eval" / "tuned.jsonl"))
    assert len(tuned) == 4
    assert {chain.outcome for chain in tuned} <= {Outcome.CORRECT, Outcome.INCORRECT}


def execute(arguments: list[str], line: str) -> None:
    try:
        code = app(arguments, prog_name="rightcall", standalone_mode=False)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{line}: {error}") from error
    assert code in (None, 0), line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_readme_shows_the_example_task_as_it_is() -> None:
    example = (ROOT / "examples" / "my_task.py").read_text(encoding="utf-8")
    assert example in blocks(ROOT / "README.md", "python")
    tree = ast.parse(example)
    code = [line for line in ast.unparse(_without_docstrings(tree)).splitlines() if line.strip()]
    assert len(code) <= 22


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return tree


def test_the_map_of_the_tree_names_every_module_and_no_other() -> None:
    tree = next(b for b in blocks(ROOT / "README.md", "text") if b.startswith("src/rightcall/"))
    named = set(re.findall(r"^  (\w+(?:\.py|/))", tree, re.M))
    package = ROOT / "src" / "rightcall"
    real = {p.name for p in package.glob("*.py") if p.name != "__init__.py"}
    real |= {f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists()}
    assert named == real


def test_the_configuration_page_names_every_key() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    models = [RunFile, TaskRun, ModelSpec]
    models += [config.Problems, config.Collect, config.SearchConfig, config.PairConfig, config.Train]
    models += [config.TrainConfig, config.EvaluateConfig, config.Report]
    missing = [
        f"{model.__name__}.{key}"
        for model in models
        for key in model.model_fields
        if f"`{key}`" not in page
    ]
    assert missing == []


def test_the_example_task_is_a_task() -> None:
    task = load_task(str(ROOT / "examples" / "my_task.py") + ":Dates")
    questions = [
        [p.question for p in task.problems(split, 200)] for split in ("train", "validation", "test")
    ]
    assert len(set().union(*questions)) == 600


def test_the_demo_uses_the_shipped_models_on_both_tasks() -> None:
    demo = load_config(ROOT / "examples" / "demo.toml")
    assert demo.tasks.keys() == {"fol", "math"}
    for task in demo.tasks.values():
        assert task.models.teacher.model == "tiny:teacher"
        assert task.models.student.model == "tiny:student"
        assert task.problems.test >= 300


def test_no_text_holds_what_a_merge_left() -> None:
    texts = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("examples/*")]
    left = [
        f"{text.name}:{number}"
        for text in texts
        if text.is_file()
        for number, line in enumerate(text.read_text(encoding="utf-8").splitlines(), 1)
        if line.startswith(("<<<<<<<", ">>>>>>>")) or line == "======="
    ]
    assert len(texts) > 20
    assert not left
