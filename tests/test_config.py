"""Run files: typed, complete, and refused with the key's path when they are wrong."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rightcall import __version__
from rightcall.config import RunConfig, TaskRun, differing_keys, dump_config, load_config, resolve
from rightcall.errors import ConfigError
from rightcall.evaluate import EvaluateConfig
from rightcall.settings import flat, merged, set_key
from rightcall.task import load_task

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL: dict[str, Any] = {"name": "small", "tasks": {"math": {}}}


def small(**changes: Any) -> RunConfig:
    return resolve(merged(SMALL, changes))


def test_the_smallest_run_file_is_complete() -> None:
    config = small()
    math = config.tasks["math"]
    assert config.rightcall == __version__
    assert math.task == "math"
    assert math.models.teacher.model == "tiny:teacher"
    assert math.train.sft.method == "sft"
    assert math.train.dpo.method == "dpo"
    assert math.collect.student.temperature > 0


def test_a_table_at_the_top_holds_for_all_tasks_and_a_task_overrides_it_by_key() -> None:
    config = small(
        train={"dpo": {"beta": 0.3, "epochs": 2}},
        tasks={"fol": {"train": {"dpo": {"beta": 0.7}}}, "math": {}},
    )
    assert config.tasks["math"].train.dpo.beta == 0.3
    assert config.tasks["fol"].train.dpo.beta == 0.7
    assert config.tasks["fol"].train.dpo.epochs == 2


def test_steps_are_as_many_as_the_task_may_need_unless_given() -> None:
    rules = small(tasks={"theories": {"task": "rules"}}).tasks["theories"]
    steps = max(rules.evaluate.budgets)
    assert steps > 20
    assert (rules.collect.teacher.steps, rules.collect.student.steps) == (steps, steps)
    assert small().tasks["math"].evaluate.budgets == (10, 20)
    given = small(collect={"student": {"steps": 5}}, evaluate={"budgets": [4]}, tasks={"rules": {}})
    rules = given.tasks["rules"]
    assert (rules.collect.student.steps, rules.evaluate.budgets) == (5, (4,))
    assert rules.collect.teacher.steps == steps


def test_the_seed_of_the_run_is_the_seed_of_its_stages_unless_they_name_their_own() -> None:
    config = small(seed=7, train={"dpo": {"seed": 1}})
    math = config.tasks["math"]
    assert (math.pairs.seed, math.train.sft.seed, math.train.dpo.seed) == (7, 7, 1)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("sead", "seed"),
        ("collect.student.sample", "samples"),
        ("train.dpo.learningrate", "learning_rate"),
        ("pairs.strategy", "strategies"),
        ("models.teecher", "teacher"),
        ("tasks.math.functoins", "functions"),
        ("tasks.math.train.dpo.epoch", "epochs"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_the_nearest_name(path: str, remedy: str) -> None:
    table = deepcopy(SMALL)
    set_key(table, f"{path}=1")
    with pytest.raises(ConfigError) as caught:
        resolve(table)
    assert str(caught.value) == f"unknown key: {path!r}. Did you mean {remedy!r}?"


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ('seed="7"', "seed is wrong: '7'"),
        ("evaluate.samples=1.5", "evaluate.samples is wrong: 1.5"),
        ("tasks.math.problems.test=0", "tasks.math.problems.test is wrong: 0"),
        ("tasks.math=3", "tasks.math is wrong: 3"),
        ('train.dpo_from="teacher"', "train.dpo_from is wrong: 'teacher'"),
        ('models.student="http://localhost:1/v1"', "models.student is wrong: 'http://localhost:1/v1'"),
        ('name="../elsewhere"', "name is wrong"),
        ("pairs.max_per_problem=true", "pairs.max_per_problem is wrong: True"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(override: str, fault: str) -> None:
    table = deepcopy(SMALL)
    set_key(table, override)
    with pytest.raises(ConfigError) as caught:
        resolve(table)
    assert str(caught.value).startswith(fault)


@pytest.mark.parametrize("number", ["1e400", "inf", "-inf", "nan"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    table = deepcopy(SMALL)
    set_key(table, f"train.dpo.learning_rate={number}")
    with pytest.raises(ConfigError, match=r"train.dpo.learning_rate is wrong: .*Give a finite"):
        resolve(table)


def test_setting_one_key_of_a_table_leaves_its_other_defaults_as_they_are() -> None:
    whole = small().tasks["math"]
    part = small(
        collect={"student": {"max_tokens": 99}}, evaluate={"tokens": 99}, train={"sft": {"epochs": 3}}
    ).tasks["math"]
    assert part.collect.student == whole.collect.student.model_copy(update={"max_tokens": 99})
    assert part.evaluate == whole.evaluate.model_copy(update={"tokens": 99})
    assert part.train.sft == whole.train.sft.model_copy(update={"epochs": 3})


def test_a_run_needs_a_name_and_a_task() -> None:
    with pytest.raises(ConfigError, match="missing key: 'name'"):
        resolve({"tasks": {"math": {}}})
    with pytest.raises(ConfigError, match="tasks is wrong"):
        resolve({"name": "none", "tasks": {}})


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.name)
def test_the_resolved_copy_reads_back_to_the_same_run(example: Path, tmp_path: Path) -> None:
    config = load_config(example)
    copy = tmp_path / "config.toml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config
    assert f'rightcall = "{__version__}"' in copy.read_text()


def test_overrides_are_toml_literals_and_everything_else_is_text() -> None:
    table: dict[str, Any] = {}
    for override in ("a.b=3", "a.c=[1, 2]", 'd="x"', "e=tiny:student", "f=true", "a.g={h = 1.5}", "i="):
        set_key(table, override)
    assert table == {
        "a": {"b": 3, "c": [1, 2], "g": {"h": 1.5}},
        "d": "x",
        "e": "tiny:student",
        "f": True,
        "i": "",
    }


def test_an_override_cannot_smuggle_in_other_keys() -> None:
    table: dict[str, Any] = {}
    set_key(table, "a=1\nb=2")
    assert table == {"a": "1\nb=2"}


@pytest.mark.parametrize("override", ["novalue", "=3", "a..b=3", ".=1"])
def test_what_is_no_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="not an override"):
        set_key({}, override)


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a\.b is a value"):
        set_key({"a": {"b": 1}}, "a.b.c=2")


def test_a_missing_or_broken_file_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(broken)


def test_two_runs_differ_by_key_and_the_report_is_no_difference() -> None:
    one = small()
    other = small(seed=1, report={"title": "x"}, tasks={"math": {"train": {"dpo": {"beta": 0.5}}}})
    assert differing_keys(one, one) == ()
    assert differing_keys(one, small(report={"title": "x"})) == ()
    assert differing_keys(one, other) == (
        "seed",
        "tasks.math.augment.seed",
        "tasks.math.pairs.seed",
        "tasks.math.train.dpo.beta",
        "tasks.math.train.dpo.seed",
        "tasks.math.train.sft.seed",
    )


KEYS = st.sampled_from("abc")
VALUES = st.integers(0, 9) | st.dictionaries(KEYS, st.integers(0, 9), max_size=2)
TABLES = st.dictionaries(KEYS, VALUES, max_size=2)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(TABLES, TABLES)
def test_merging_keeps_what_is_not_overridden_and_takes_what_is(base: Any, over: Any) -> None:
    before = repr(base)
    made = merged(base, over)
    assert repr(base) == before
    assert merged(made, over) == made
    for key, value in flat(over).items():
        if value != {}:
            assert flat(made)[key] == value
    for key in base.keys() - over.keys():
        assert made[key] == base[key]


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers() | st.booleans() | st.text("ab'\"\\ =#[]", max_size=8) | st.lists(st.integers()))
def test_any_toml_literal_survives_an_override(value: Any) -> None:
    literal = tomli_w.dumps({"v": value}).removeprefix("v = ").strip()
    table: dict[str, Any] = {}
    set_key(table, f"a.b={literal}")
    assert table == {"a": {"b": value}}


def test_settings_made_in_python_go_by_the_tasks_budgets() -> None:
    settings = TaskRun(task="rules")
    rules = load_task("rules")
    assert settings.evaluate.budgets_for(rules) == rules.budgets != (10, 20)
    assert EvaluateConfig(budgets=(4, 2)).budgets_for(rules) == (2, 4)
    with pytest.raises(ConfigError, match="budgets"):
        small(evaluate={"budgets": []})
