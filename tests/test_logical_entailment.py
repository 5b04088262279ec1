"""Logical entailment: reading, gold chains, labels, what an answer means."""

import pytest

from rightcall.chain import Outcome
from rightcall.check import check_task, gold_chain
from rightcall.errors import DataError
from rightcall.task import Proved, Refuted
from rightcall.tasks.logical_entailment import LogicalEntailmentTask, problem_of

LINES = ("(p>(q>r)),((p&q)>r),1,0,0,0", "(p>(q>r)),(p>(q&r)),0,0,0,0", "(p&~(p)),q,1,0,0,0")


@pytest.fixture
def task(tmp_path):
    (tmp_path / "validate.txt").write_text("\n".join(LINES) + "\n")
    (tmp_path / "test_exam.txt").write_text("p,(p|q),1,0,0,0\n\np,~(p),0,0,0,0\n")
    return LogicalEntailmentTask(str(tmp_path / "validate.txt"))


def test_a_line_becomes_a_problem_with_a_gold_chain():
    problem = problem_of(LINES[0], "here")
    assert problem.question == "First: (p>(q>r))\nSecond: ((p&q)>r)"
    assert problem.gold == ('premise("p -> q -> r")', 'goal("p & q -> r")', 'stop("True")')
    assert problem.difficulty == 3


@pytest.mark.parametrize("line", LINES)
def test_a_gold_chain_is_right_whatever_the_prover_calls_it(task, line):
    problem = problem_of(line, "here")
    chain = gold_chain(task, task.function_set(), problem)
    assert chain.outcome is Outcome.CORRECT
    assert chain.judgement.process_correct is True
    assert task.prove(problem) == Proved()


def test_an_answer_against_the_provers_verdict_is_a_wrong_step(task):
    problem = problem_of(LINES[1], "here")
    calls = [*problem.gold[:2], 'stop("True")']
    chain = gold_chain(task, task.function_set(), problem, calls)
    assert chain.outcome is Outcome.INCORRECT
    assert chain.judgement.wrong_steps == (2,)


def test_a_slip_in_a_formula_is_a_wrong_step(task):
    problem = problem_of(LINES[1], "here")
    chain = gold_chain(task, task.function_set(), problem, ['premise("q")', *problem.gold[1:]])
    assert chain.judgement.process_correct is False
    assert chain.judgement.wrong_steps == (0,)


def test_a_wrong_label_is_refuted(task):
    assert isinstance(task.prove(problem_of("p,q,1", "here")), Refuted)


def test_the_splits_come_from_the_files_and_otherwise_from_a_hash(task):
    assert len(list(task.problems("test"))) == 2
    assert len(list(task.problems("train"))) + len(list(task.problems("validation"))) == 3
    folder = LogicalEntailmentTask(str(task.data.path.parent))
    assert len(list(folder.problems("validation"))) == 3
    with pytest.raises(DataError, match="the train problems are missing"):
        list(folder.problems("train"))


@pytest.mark.parametrize("line", ["p,q", "p,q,2", "(p,q,1", "words"])
def test_a_line_that_is_no_entailment_is_named(line):
    with pytest.raises(DataError, match="line 1, is no entailment problem"):
        problem_of(line, "file, line 1,")


def test_a_path_is_needed():
    with pytest.raises(DataError, match="is read from files"):
        next(LogicalEntailmentTask().problems("train"))


def test_a_sample_of_the_real_data_is_checked_without_a_failure(shared_data):
    file = shared_data / "logical_entailment" / "validate.txt"
    report = check_task(LogicalEntailmentTask(str(file)), 60)
    assert report.ok
    assert report.without_gold == report.unverified == 0
    assert report.problems == {"train": 60, "validation": 60, "test": 60}


@pytest.mark.slow
def test_all_5000_real_problems_are_read_and_the_labels_of_a_sample_are_proved(shared_data):
    """`rightcall tasks check` proves as many as it is asked to."""
    task = LogicalEntailmentTask(str(shared_data / "logical_entailment"))
    assert len(list(task.problems("validation"))) == 5000
    sample = list(task.problems("validation", 250))
    assert {p.answer for p in sample} == {"True", "False"}
    assert [p.id for p in sample if task.prove(p) != Proved()] == []
