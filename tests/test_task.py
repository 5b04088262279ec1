"""Loading tasks: built-in ones, presets, files; and every way in which a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rightcall.errors import ConfigError, DefinitionError, RightCallError
from rightcall.task import BUILT_IN, PRESETS, Task, load_task
from rightcall.tiny.build import TASKS

HEAD = """
from rightcall import Problem, Stop, Task, function

@function(example="stop(3)", role="flow", trusted=True)
def stop(answer: int) -> Stop:
    '''End with the answer.'''
    return Stop(str(answer))

class Base(Task):
    name = "mine"
    instruction = "Solve it."
    functions = (stop,)

    def problems(self, split, count=None, seed=0):
        yield Problem(id=split, question=split, answer="3")
"""


def loaded(folder: Path, body: str, **options: object) -> Task:
    (folder / "mine.py").write_text(HEAD + body, encoding="utf-8")
    return load_task(f"{folder / 'mine.py'}:Mine", **options)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("class Mine(Base:\n    pass", r"cannot be imported \(mine.py, line \d+\): 'SyntaxError"),
        ("nothing_of_this_name\n", r"cannot be imported \(mine.py, line \d+\): .*NameError"),
        (
            "class Mine(Task):\n    instruction = ''\n    functions = (stop,)\n"
            "    problems = Base.problems",
            "task Mine has no name",
        ),
        (
            "class Mine(Task):\n    name = 'm'\n    instruction = ''\n    problems = Base.problems",
            "task Mine has no functions",
        ),
        (
            "class Mine(Task):\n    name = 'm'\n    functions = (stop,)\n    problems = Base.problems",
            "task Mine has no instruction",
        ),
        (
            "class Mine(Task):\n    name = 'm'\n    instruction = ''\n    functions = (stop,)",
            "task Mine lacks a method: 'problems'",
        ),
        (
            "class Mine(Base):\n    budgets = (10, 0)",
            r"budgets of task Mine are not ascending numbers of steps: \(10, 0\)",
        ),
        ("class Mine(Base):\n    budgets = 20", "not ascending numbers of steps: 20"),
        ("class Mine(Base):\n    budgets = (True,)", "not ascending numbers of steps"),
        ("class Mine(Base):\n    budgets = (20, 10)", "not ascending numbers of steps"),
        (
            "class Mine(Base):\n    functions = (stop, len)",
            "functions of task Mine holds something else: <built-in function len>",
        ),
        (
            "class Mine(Base):\n    def __init__(self):\n        len(3)",
            r"the constructor of task .* failed \(mine.py, line \d+\): \"TypeError: object of",
        ),
        (
            "@function(example='f(1)', role='solver', trusted=True)\ndef f(a: int) -> int:\n"
            "    '''Give a.'''\n    return a",
            "f has no such role: 'solver'. Did you mean 'solve'",
        ),
        ("class Other(Base):\n    pass", "has no Task of that name: 'Mine'"),
    ],
    ids=[
        "syntax error",
        "name error",
        "no name",
        "no functions",
        "no instruction",
        "no problems",
        "no budget",
        "a budget alone",
        "a truth as budget",
        "descending budgets",
        "no function",
        "failing constructor",
        "a function's role",
        "another class",
    ],
)
def test_a_wrong_definition_is_named_with_its_place(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        loaded(tmp_path, body)


OPTIONS = """
class Mine(Base):
    def __init__(self, hops: int = 1, names: list[str] | None = None, other=0):
        self.hops = hops
"""


def test_options_go_to_the_constructor_as_they_are(tmp_path: Path) -> None:
    assert vars(loaded(tmp_path, OPTIONS, hops=3, other="x")) == {"hops": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop": 3}, "does not take these options.*Did you mean 'hops'?"),
        ({"hops": "many"}, "option hops of task .* is wrong: 'many'. Input should be a valid integer"),
        ({"hops": "3"}, r"option hops of task .* is wrong: '3'. It is a text \(int\)"),
        ({"names": "Bob"}, "option names of task .* is wrong: 'Bob'"),
    ],
)
def test_wrong_options_are_a_config_error(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, OPTIONS, **options)


def test_a_list_may_stand_for_a_tuple_as_no_toml_file_can_hold_one(tmp_path: Path) -> None:
    body = "class Mine(Base):\n    def __init__(self, hops: tuple[int, int]):\n        self.hops = hops"
    assert vars(loaded(tmp_path, body, hops=[1, 2])) == {"hops": [1, 2]}


def test_a_failed_file_may_be_mended_and_loaded_again(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError):
        loaded(tmp_path, "class Mine(Base:")
    assert loaded(tmp_path, "class Mine(Base):\n    pass").name == "mine"


def test_an_error_of_the_projects_own_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(RightCallError, match=r"^too many$|^too many\.$"):
        loaded(tmp_path, "from rightcall.errors import ConfigError\nraise ConfigError('too many')")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_built_in_task_with_options(name: str) -> None:
    task, options = PRESETS[name]
    assert task in BUILT_IN
    preset, plain = load_task(name), load_task(task, **options)
    assert preset.name == plain.name == task
    assert list(preset.problems("test", 3)) == list(plain.problems("test", 3))


def test_options_go_over_those_of_a_preset() -> None:
    few = load_task("tiny-math", families=["shopping"])
    assert {p.metadata["family"] for p in few.problems("test", 3)} == {"shopping"}
    assert max(p.difficulty or 0 for p in few.problems("test", 8)) <= 5


def test_the_tiny_models_are_trained_on_the_presets() -> None:
    assert dict(PRESETS.values()) == TASKS


def test_an_unknown_task_is_answered_with_the_nearest_preset_too() -> None:
    with pytest.raises(DefinitionError, match="Did you mean 'tiny-fol'"):
        load_task("tiny-fool")
