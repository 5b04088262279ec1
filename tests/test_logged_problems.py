"""Problems that a user's log made: an id, a question and an answer, and nothing else known."""

from __future__ import annotations

from pathlib import Path

import pytest

from rightcall.chain import Outcome, Problem
from rightcall.check import gold_chain
from rightcall.task import BUILT_IN, Task, load_task

FROM_FILES = {"proofwriter", "prontoqa", "gsm8k", "multiarith", "aqua", "folio", "logical_entailment"}
NUMERIC = {"math", "gsm8k", "multiarith", "aqua", "reasoning_gym"}


@pytest.fixture(params=sorted(BUILT_IN))
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Task:
    if request.param == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    options = {"path": str(tmp_path)} if request.param in FROM_FILES else {}
    return load_task(request.param, **options)


def logged(task: Task) -> Problem:
    if task.name in NUMERIC:
        return Problem(id="mine", question="Ann has 20 bags of 12 nuts. How many nuts?", answer="240")
    return Problem(id="mine", question="1. Bob is cold.\nStatement: Bob is cold.", answer="True")


def test_every_task_judges_a_problem_of_which_only_the_answer_is_known(task: Task) -> None:
    problem = logged(task)
    functions = task.function_set("all")
    calls = ['calculate("20 * 12")'] if task.name in NUMERIC else []
    stop = f'stop("{problem.answer}")'
    chain = gold_chain(task, functions, problem, [*calls, stop])
    assert chain.outcome is Outcome.CORRECT
    assert chain.judgement.process_correct is not True
    wrong = gold_chain(task, functions, problem, [*calls, 'stop("7")'])
    assert wrong.outcome is Outcome.INCORRECT


def test_of_such_a_problem_no_task_claims_a_proof_or_a_gold_chain(task: Task) -> None:
    problem = logged(task)
    assert task.prove(problem) is None
    assert not task.gold(problem, task.function_set())
    assert not task.gold(problem, task.function_set("all"))
    task.report([problem])
    assert task.verify(problem, f" {problem.answer} ")
