"""Contestants of the benchmarks: work in other processes, and under other interpreters."""

from __future__ import annotations

import os
import shutil
import sys
import venv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmarks import measure


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has no libraries."""
    place = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(place, symlinks=True)
    return str(place / "bin" / "python")


def evaluating(expression: str, python: str | None) -> Any:
    """A contestant whose work is to evaluate an expression."""
    return measure.Contestant("it", partial, eval, expression, python=python)


def ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_contestant_works_under_the_interpreter_that_it_is_given(
    bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    found = "__import__('importlib.util').util.find_spec('torch') is not None"
    expression = (
        "{'prefix': __import__('sys').prefix, 'process': __import__('os').getpid(), "
        f"'path': __import__('os').environ.get('PYTHONPATH'), 'torch': {found}}}"
    )
    with evaluating(expression, bare) as contestant:
        runs = measure.interleaved([contestant], 2)["it"]
    seen = [run.figures for run in runs]
    assert [figures["prefix"] for figures in seen] == [str(Path(bare).parents[1])] * 2
    assert seen[0]["prefix"] != sys.prefix
    assert seen[0]["process"] == seen[1]["process"] != os.getpid()
    assert ended(seen[0]["process"])
    assert not seen[0]["torch"]
    assert seen[0]["path"] is None
    for run in runs:
        assert min(run.wall, run.cpu, run.start_mb) > 0
        assert run.peak_mb >= run.start_mb
        assert run.device_mb is None


def test_what_is_not_said_as_a_figure_is_said_nowhere(
    bare: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with measure.Contestant("loud", partial, print, python=bare) as contestant:
        contestant.run("so many words")
    assert capfd.readouterr().out == ""


def test_figures_may_be_counted_after_the_clock_has_stopped(bare: str) -> None:
    with evaluating("lambda: {'answer': 42}", bare) as contestant:
        assert contestant.run().figures == {"answer": 42}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_work_that_fails_says_where(bare: str, elsewhere: bool) -> None:
    failing = evaluating("1 / 0", bare if elsewhere else None)
    with failing as contestant, pytest.raises(RuntimeError, match=r"(?s)^it: .*ZeroDivisionError"):
        contestant.run()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_cannot_be_made_says_why_and_leaves_no_process(bare: str, elsewhere: bool) -> None:
    started = "raise ValueError(f'in {__import__(\"os\").getpid()}.')"
    python = bare if elsewhere else None
    with pytest.raises(RuntimeError, match=r"(?s)^it: .*ValueError: in \d+\.") as raised:
        measure.Contestant("it", exec, started, python=python)
    process = int(str(raised.value).rpartition("ValueError: in ")[2].strip().rstrip("."))
    assert ended(process)


def test_an_interpreter_that_ends_at_once_is_told_of() -> None:
    with pytest.raises(RuntimeError, match="it: its process ended with code 1"):
        evaluating("1", shutil.which("false"))
