"""Imports go down only, and what is heavy is imported only where models run."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rightcall

SOURCE = Path(rightcall.__file__).parent

LAYERS = (
    {"errors", "stats", "spill"},
    {"chain", "settings", "files", "sandbox", "leaks", "rate"},
    {"functions", "native"},
    {"dialects", "task", "rendering", "models", "tree", "tool_calls"},
    {"rollout", "search", "tasks", "augment"},
    {
        "pairs",
        "train",
        "conduct",
        "collecting",
        "evaluate",
        "compare",
        "report",
        "check",
        "importing",
        "exporting",
        "serving",
    },
    {"config", "terminal", "cluster"},
    {"tree_view", "estimate"},
    {"run"},
    {"cli"},
    {"__main__"},
)
"""A module imports from its own layer or a lower one. `tiny` is the recipe that made the shipped
models: it may use anything, and only its path is used by others."""

HEAVY = {
    "torch", "transformers", "peft", "datasets", "numpy", "scipy", "sympy", "z3", "cvc5", "matplotlib",
    "aiohttp", "openai", "math_verify",
}  # fmt: skip


def layer(module: str) -> int:
    """Of `rightcall.X.Y`: the layer that holds X."""
    part = module.split(".")[1]
    return next(n for n, names in enumerate(LAYERS) if part in names)


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("rightcall", *path.relative_to(SOURCE).with_suffix("").parts)
        if len(parts) > 2 and parts[1] == "tiny":
            continue
        name = ".".join(parts).removesuffix(".__init__")
        if name != "rightcall":
            yield name, path


def imported(path: Path) -> Iterator[str]:
    """Every module of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("rightcall."))
        elif isinstance(node, ast.ImportFrom) and node.module == "rightcall":
            yield from (
                f"rightcall.{alias.name}" for alias in node.names if alias.name != "__version__"
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rightcall."):
            yield str(node.module)


@pytest.mark.parametrize(
    ("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else value.name
)
def test_a_module_imports_only_from_its_layer_or_below(name: str, path: Path) -> None:
    upward = [
        other for other in imported(path) if other != "rightcall.tiny" and layer(other) > layer(name)
    ]
    assert upward == []


STARTING = ("rightcall", "rightcall.cli")
BEFORE_MODELS = tuple(
    f"rightcall.{name}" for name in ("functions", "task", "rollout", "pairs", "config", "models.spec")
)
LOADED = """
import importlib, json, sys
seen = {}
for name in sys.argv[1:]:
    importlib.import_module(name)
    seen[name] = sorted({module.partition(".")[0] for module in sys.modules})
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Module → the libraries that a fresh interpreter has loaded when it has imported this module and
    those before it."""
    command = [sys.executable, "-c", LOADED, *STARTING, *BEFORE_MODELS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {module: set(names) for module, names in json.loads(done.stdout).items()}


@pytest.mark.parametrize("module", STARTING)
def test_the_command_line_starts_without_any_heavy_library(
    module: str, loaded: dict[str, set[str]]
) -> None:
    assert "rightcall" in loaded[module]
    assert loaded[module] & {*HEAVY, "pydantic"} == set()


@pytest.mark.parametrize("module", BEFORE_MODELS)
def test_torch_is_not_imported_before_models_run(module: str, loaded: dict[str, set[str]]) -> None:
    assert "pydantic" in loaded[module]
    assert loaded[module] & {"torch", "transformers", "peft"} == set()


def test_every_public_name_is_there_and_is_what_its_module_says() -> None:
    for name in rightcall.__all__:
        home = importlib.import_module(f"rightcall.{rightcall._HOME[name]}")
        assert getattr(rightcall, name) is getattr(home, name)


def test_the_public_names_are_the_same_for_people_and_for_the_type_checker() -> None:
    tree = ast.parse(Path(rightcall.__file__).read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    checked = {
        alias.name: str(node.module).removeprefix("rightcall.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert checked == rightcall._HOME
    assert sorted(rightcall.__all__) == sorted(rightcall._HOME)
    assert set(rightcall.__all__) <= set(dir(rightcall))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sovle'"):
        _ = rightcall.sovle
