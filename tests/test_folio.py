"""FOLIO: reading, gold chains where the formulas give the label, flags where they do not, splits."""

import json

import pytest

from rightcall.check import check_task, gold_chain
from rightcall.errors import DataError
from rightcall.task import Proved, Refuted
from rightcall.tasks.folio import CONTRADICTION, MALFORMED, OTHER_LABEL, UNEVEN, FolioTask, problem_of

ROW = {
    "premises": ["All cats are pets. ", "Tom is a cat."],
    "premises-FOL": ["∀x (Cat(x) → Pet(x))", "Cat(tom)"],
    "conclusion": "Tom is a pet.",
    "conclusion-FOL": "Pet(tom)",
    "label": "True",
}


def story(number, statement=0, **rest):
    return {**ROW, "premises": [f"Sentence {number}.", "Tom is a cat."], **rest} | {
        "conclusion": f"Statement {statement}."
    }


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "folio-train.jsonl", [story(i, j) for i in range(60) for j in range(3)])
    write(tmp_path / "folio-validation.jsonl", [story(0), story(100)])
    return tmp_path


def test_formulas_that_give_the_label_become_a_gold_chain():
    problem = problem_of(ROW, "here")
    assert problem.gold == (
        'premise("forall x (Cat(x) -> Pet(x))")',
        'premise("Cat(tom)")',
        'goal("Pet(tom)")',
        'stop("True")',
    )
    assert problem.question == "All cats are pets.\nTom is a cat.\nStatement: Tom is a pet."
    assert problem.metadata["flags"] == []


def test_the_rows_of_the_hub_are_read_too():
    joined = {**ROW, **{key: "\n".join(ROW[key]) for key in ("premises", "premises-FOL")}}
    assert problem_of(joined, "here") == problem_of(ROW, "there")


def test_uncertain_is_unknown():
    row = {**ROW, "label": "Uncertain", "conclusion-FOL": "Red(tom)"}
    assert problem_of(row, "here").answer == "Unknown"
    assert problem_of(row, "here").gold[-1] == 'stop("Unknown")'


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"premises-FOL": ["∀x (Cat(x) → Pet(x)))", "Cat(tom)"]}, MALFORMED),
        ({"premises-FOL": ["Cat(tom, tom)", "Cat(tom)"]}, MALFORMED),
        ({"conclusion-FOL": "Pet(tom"}, MALFORMED),
        ({"premises-FOL": ["¬Cat(tom)", "Cat(tom)"]}, CONTRADICTION),
        ({"premises-FOL": ["∀x (Cat(x) → Pet(x)) ∧ Cat(tom)"]}, UNEVEN),
        ({"label": "False"}, OTHER_LABEL),
    ],
)
def test_what_is_wrong_with_a_record_is_flagged_and_it_has_no_gold_chain(change, flag):
    problem = problem_of({**ROW, **change}, "here")
    assert problem.metadata["flags"] == [flag]
    assert problem.gold == ()


def test_flagged_problems_are_counted_and_dropped_on_request(folder):
    bad = {**ROW, "label": "False"}
    write(folder / "folio-validation.jsonl", [ROW, bad | {"conclusion": "It is so."}])
    kept, dropped = FolioTask(str(folder)), FolioTask(str(folder), known_bad="drop")
    assert len(list(kept.problems("test"))) == 2
    assert [p.gold[-1] for p in dropped.problems("test")] == ['stop("True")']
    report = check_task(kept, 300)
    assert report.ok
    assert report.flagged == {OTHER_LABEL: 1}
    assert next(f for f in report.findings if f.what == kept.proof).excused == 1
    assert report.figures["statements with a formula"] == 182


def test_a_story_is_in_one_split_whatever_is_said_about_it(folder):
    task = FolioTask(str(folder))
    stories = {
        s: {p.metadata["story"] for p in task.problems(s)} for s in ("train", "validation", "test")
    }
    assert len(stories["test"]) == 2
    assert 0 < len(stories["validation"]) < 25
    assert len(set().union(*stories.values())) == sum(map(len, stories.values())) == 61
    sizes = [sum(1 for _ in task.problems(split)) for split in stories]
    assert sum(sizes[:2]) == 59 * 3


def test_other_formulas_are_not_called_wrong_and_another_answer_than_the_provers_is(folder):
    task, problem = FolioTask(str(folder)), problem_of(ROW, "here")
    functions = task.function_set()

    def judged(*calls):
        return gold_chain(task, functions, problem, calls).judgement.process_correct

    renamed = [
        'premise("forall x (cat(x) -> animal(x))")',
        'premise("cat(tom)")',
        'goal("animal(tom)")',
    ]
    assert judged(*problem.gold) is True
    assert judged(*renamed, 'stop("True")') is None
    assert judged('premise("cat(tom)")', 'goal("pet(tom)")', 'stop("True")') is False


def test_a_label_is_proved_where_there_are_formulas(folder):
    task = FolioTask(str(folder))
    assert task.prove(problem_of(ROW, "here")) == Proved()
    assert isinstance(task.prove(problem_of({**ROW, "label": "False"}, "here")), Refuted)
    without = {key: value for key, value in ROW.items() if not key.endswith("FOL")}
    assert task.prove(problem_of(without, "here")) is None


@pytest.mark.parametrize("change", [{"label": "perhaps"}, {"premises": []}, {"conclusion": None}])
def test_what_is_no_problem_is_named_with_its_place(change):
    with pytest.raises(DataError, match="file, line 3, is no FOLIO problem"):
        problem_of({**ROW, **change}, "file, line 3,")


def test_the_real_data_set_is_checked_without_a_failure(shared_data):
    report = check_task(FolioTask(str(shared_data / "folio")), None)
    assert report.ok
    assert sum(report.problems.values()) == 1071
    assert report.problems["test"] == 68
    assert report.findings[0].checked == 61
    assert report.figures["of these, label given by the formulas"] == pytest.approx(61 / 68)
    assert report.flagged == {MALFORMED: 52, CONTRADICTION: 7, OTHER_LABEL: 4}
