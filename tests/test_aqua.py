"""AQuA: options read and chosen, gold chains from rationales, flags."""

import json

import pytest

from rightcall.chain import Outcome
from rightcall.check import check_task, gold_chain
from rightcall.errors import DataError
from rightcall.task import Proved, Refuted
from rightcall.tasks.aqua import OTHER_OPTION, TWINS, AquaTask, chosen, problem_of

ROW = {
    "question": "A shirt of $20 is 15% off. What is paid for 2 shirts?",
    "options": ["A)$17", "B)$34", "C)$40", "D)$0.34", "E)None of these"],
    "rationale": "One costs 20 - 15% * 20 = 17.\nBoth cost 17*2 = 34 dollars.\nAnswer: B",
    "correct": "B",
}


def other(**change):
    return {**ROW, **change}


@pytest.fixture
def task(tmp_path):
    file = tmp_path / "dev.jsonl"
    file.write_text(
        json.dumps(ROW) + "\n" + json.dumps(other(question="Another?", rationale="")) + "\n"
    )
    return AquaTask(str(file))


def test_a_rationale_that_calculates_the_option_becomes_the_gold_chain():
    problem = problem_of(ROW, "here")
    assert problem.gold == ('calculate("20 - 15% * 20")', 'calculate("17*2")', 'stop("B")')
    assert problem.question.splitlines()[1:3] == ["A) $17", "B) $34"]


def test_gold_calls_are_written_with_plain_signs():
    rationale = "One costs $20 - $20 × 15% = $17.\nBoth cost $17 × 2 = 34 dollars."
    problem = problem_of(other(rationale=rationale), "here")
    assert problem.gold == ('calculate("20 - 20 * 15%")', 'calculate("17 * 2")', 'stop("B")')
    assert problem.metadata["annotations"] == [["20 - 20 * 15%", "17"], ["17 * 2", "34"]]


def test_a_folder_with_nothing_but_the_development_file_is_read_and_that_is_said(tmp_path, task):
    rows = [other(question=f"{number}: {ROW['question']}") for number in range(40)]
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = AquaTask(str(tmp_path))
    splits = [{p.id for p in folder.problems(s)} for s in ("train", "validation", "test")]
    assert all(splits)
    assert sum(map(len, splits)) == len(set().union(*splits)) == 40
    said = "no training file: all are the development file's"
    assert check_task(folder, None).figures[said] == 40
    (tmp_path / "train.jsonl").write_text(json.dumps(ROW))
    both = AquaTask(str(tmp_path))
    assert len(list(both.problems("validation"))) == 40
    assert said not in both.report([])


@pytest.mark.parametrize(
    "rationale",
    [
        "It is clear.",
        "17*2 = 35, so B",
        "17*2 = 34",
        "It is 20*2 = 40 without.",
        "x = 34",
    ],
)
def test_a_rationale_that_does_not_is_no_gold_chain(rationale):
    assert problem_of(other(rationale=rationale), "here").gold == ()


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"rationale": "17*2 = 34. ANSWER : C"}, OTHER_OPTION),
        ({"rationale": "So the correct option is D"}, OTHER_OPTION),
        ({"options": ["A)$34", "B)$34"]}, TWINS),
    ],
)
def test_a_record_that_contradicts_itself_is_flagged(task, change, flag):
    problem = problem_of(other(**change), "here")
    assert problem.metadata["flags"] == [flag]
    assert problem.gold == ()
    assert (flag == OTHER_OPTION) == isinstance(task.prove(problem), Refuted)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("Option B.", "B"),
        ("the answer is B", "B"),
        ("B) $34", "B"),
        ("34", "B"),
        ("$34.00", "B"),
        ("none of these", "E"),
        ("B) $17", None),
        ("F", None),
        ("35", None),
        ("34%", None),
        ("A or B", None),
        ("", None),
    ],
)
def test_an_option_is_chosen_by_letter_text_or_value(answer, letter):
    assert chosen(problem_of(ROW, "here").metadata["options"], answer) == letter


def test_a_gold_chain_is_right_and_a_letter_is_enough(task):
    problem = problem_of(ROW, "here")
    functions = task.function_set()
    chain = gold_chain(task, functions, problem)
    assert chain.outcome is Outcome.CORRECT
    assert chain.judgement.process_correct is True
    guess = gold_chain(task, functions, problem, ['stop("b")'])
    assert guess.outcome is Outcome.CORRECT
    assert guess.judgement.process_correct is None
    assert gold_chain(task, functions, problem, ["stop(17)"]).outcome is Outcome.INCORRECT


def test_a_label_is_called_proved_only_where_the_rationale_calculates_it(task):
    assert task.prove(problem_of(ROW, "here")) == Proved()
    assert task.prove(problem_of(other(rationale=""), "here")) is None


@pytest.mark.parametrize("change", [{"correct": "F"}, {"options": ["12"]}, {"options": None}])
def test_what_is_no_problem_is_named_with_its_place(change):
    with pytest.raises(DataError, match="line 4, is no AQuA problem"):
        problem_of(other(**change), "file, line 4,")


def test_the_real_data_set_is_checked_without_a_failure(shared_data):
    report = check_task(AquaTask(str(shared_data / "aqua" / "dev.jsonl")), None)
    assert report.ok
    assert sum(report.problems.values()) == 254
    assert report.figures["gold chains from rationales"] == 33
    assert report.unverified == 254 - 33
