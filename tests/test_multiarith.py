"""MultiArith: reading, the only plan that gives the answer, templates kept in one split."""

import json
from fractions import Fraction

import pytest

from rightcall.check import check_task, gold_chain
from rightcall.errors import DataError
from rightcall.tasks.math.search import only_plan
from rightcall.tasks.multiarith import MultiArithTask, problem_of

SWEETS = "Debby had 32 sweets while her sister had 42. If they ate 35, how many do they have left?"


@pytest.mark.parametrize(
    ("question", "answer", "plan"),
    [
        (SWEETS, 39, ("32 + 42", "74 - 35")),
        ("There are 9 tables with 2 women and 6 men at each. How many people?", 72, ("2 + 6", "9 * 8")),
        ("Of 85 files 40 are deleted, 5 fit a folder. How many folders?", 9, ("85 - 40", "45 / 5")),
        ("Ann has 2 cups and 2 plates. How many things?", 4, None),
        ("Ann has 3 cups and 4 plates. How many things?", 8, None),
        ("Ann has a cup. How many has she?", 1, None),
        ("1 and 2 and 3 and 4 and 5 make how many?", 15, None),
    ],
)
def test_a_plan_is_found_only_where_nothing_else_gives_the_answer(question, answer, plan):
    assert only_plan(question, Fraction(answer)) == plan


def test_a_searched_plan_is_a_gold_chain_and_says_where_it_comes_from():
    problem = problem_of({"input": SWEETS, "target": 39}, "here")
    assert problem.gold == ('calculate("32 + 42")', 'calculate("74 - 35")', "stop(39)")
    assert problem.metadata["searched"] is True
    assert problem_of({"input": SWEETS, "target": 39}, "here", search=False).gold == ()


def test_both_spellings_of_the_fields_are_read():
    assert problem_of({"question": SWEETS, "final_ans": "39"}, "here") == problem_of(
        {"input": SWEETS, "target": 39.0}, "there"
    )


@pytest.mark.parametrize("record", [{}, {"question": "q"}, {"question": "q", "final_ans": "many"}])
def test_what_is_no_problem_is_named_with_its_place(record):
    with pytest.raises(DataError, match="line 2, is no MultiArith problem"):
        problem_of(record, "file, line 2,")


@pytest.fixture
def file(tmp_path):
    names = ("Ann", "Ben", "Carla", "Dan")
    rows = [
        {
            "question": f"{name} had {n + 2} {'red ' * t}cups and got {n + t + 4} more. How many?",
            "final_ans": str(2 * n + t + 6),
        }
        for t in range(40)
        for n, name in enumerate(names)
    ]
    (tmp_path / "multiarith.json").write_text(json.dumps(rows))
    return tmp_path / "multiarith.json"


def test_problems_of_one_template_are_in_one_split(file):
    task = MultiArithTask(str(file))
    splits = [list(task.problems(split)) for split in ("train", "validation", "test")]
    templates = [{p.question.count("red") for p in split} for split in splits]
    assert sum(map(len, splits)) == 160
    assert all(splits)
    assert sum(map(len, templates)) == 40


def test_a_test_file_of_its_own_is_the_test_split(file):
    rows = [{"question": "Ann had 2 cups and got 4 more. How many?", "final_ans": "6"}]
    (file.parent / "test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    task = MultiArithTask(str(file))
    assert [p.question for p in task.problems("test")] == [rows[0]["question"]]
    assert sum(1 for s in ("train", "validation") for _ in task.problems(s)) == 159


def test_the_plan_in_other_words_is_right_and_another_one_is_not_called_wrong(file):
    task = MultiArithTask(str(file))
    problem = problem_of({"input": SWEETS, "target": 39}, "here")
    functions = task.function_set()

    def judged(*calls):
        return gold_chain(task, functions, problem, calls).judgement.process_correct

    assert judged('calculate("42 - 35 + 32")', "stop(39)") is True
    assert judged('calculate("40 - 1")', "stop(39)") is None
    assert judged("stop(39)") is False


def test_the_real_data_set_is_checked_without_a_failure(shared_data):
    report = check_task(MultiArithTask(str(shared_data / "multiarith")), None)
    assert report.ok
    assert sum(report.problems.values()) == 580
    assert report.figures["gold chains found by search, confirmed by nobody"] == 386
