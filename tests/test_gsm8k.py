"""GSM8K: reading, gold chains, annotations, judgement."""

import json

import pytest
from rich.console import Console

from rightcall.chain import Chain, Outcome, Step, StopReason
from rightcall.check import check_task
from rightcall.errors import DataError
from rightcall.task import Proved, Refuted, Task
from rightcall.tasks.gsm8k import Gsm8kTask, annotation_report, compare, problem_of

ROW = {
    "question": "A pen costs $2.50 and a book costs 4 times as much. Ben buys twelve pens and a book. "
    "How much does he pay?",
    "answer": "Book: 2.5*4=$<<2.5*4=10>>10\nPens: $<<12*2.5=30>>30\nAll: $<<30+10=40>>40\n#### 40",
}


def row(number, answer="x <<48/2=24>>24\n#### 24"):
    return {"question": f"Question {number}: half of 48?", "answer": answer}


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.jsonl", [row(i) for i in range(200)] + [row(0), row(999)])
    write(tmp_path / "test.jsonl", [row(1000), row(999)])
    return tmp_path


def play(task, problem, calls):
    functions, states, steps, answer = task.function_set(), {}, [], None
    for call in calls:
        result = functions.reply(call, states)
        steps.append(Step(reply=call, call=result.call, observation=result.observation))
        answer = result.answer
    return Chain(
        key="k",
        task="gsm8k",
        problem_id=problem.id,
        sample=0,
        source="test",
        model="scripted",
        seed=0,
        prompt=(),
        steps=tuple(steps),
        answer=answer,
        outcome=Outcome.INCORRECT,
        stop_reason=StopReason.STOPPED if answer is not None else StopReason.STEP_BUDGET,
    )


def test_annotations_become_a_gold_chain():
    problem = problem_of(ROW, "here")
    assert problem.gold == (
        'calculate("2.5*4")',
        'calculate("12*2.5")',
        'calculate("30+10")',
        "stop(40)",
    )
    assert problem.difficulty == 3
    assert problem.metadata["answer_from_call"] is True


def test_an_answer_no_call_produced_is_flagged():
    problem = problem_of({"question": "q", "answer": "<<1+1=2>>2, so 3\n#### 3"}, "here")
    assert problem.metadata["answer_from_call"] is False
    assert problem.metadata["flags"] == ["answer is no call's result"]
    assert problem.gold == ()


def test_a_problem_without_annotations_has_no_gold_chain():
    problem = problem_of({"question": "q", "answer": "It is 1,000.\n#### 1,000"}, "here")
    assert (problem.gold, problem.answer, problem.difficulty) == ((), "1000", None)


def test_splits_share_no_question_and_repeats_are_dropped(folder):
    task = Gsm8kTask(str(folder))
    train, validation, test = (list(task.problems(s)) for s in ("train", "validation", "test"))
    assert len(train) + len(validation) == 200
    assert 5 < len(validation) < 45
    assert len(test) == 2
    ids = [p.id for p in (*train, *validation, *test)]
    assert len(set(ids)) == len(ids)
    assert any("999" in p.question for p in test)


def test_count_and_seed_draw_a_sample(folder):
    task = Gsm8kTask(str(folder))
    assert list(task.problems("train", 5, seed=1)) == list(task.problems("train", 5, seed=1))
    assert list(task.problems("train", 5, seed=1)) != list(task.problems("train", 5, seed=2))


def test_validation_does_not_depend_on_the_other_problems(folder, tmp_path):
    whole = {p.id for p in Gsm8kTask(str(folder)).problems("validation")}
    half = write(tmp_path / "half.jsonl", [row(i) for i in range(100)])
    part = {p.id for p in Gsm8kTask(str(half)).problems("validation")}
    assert part
    assert part <= whole


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        Gsm8kTask(str(tmp_path / "nowhere"))
    write(tmp_path / "train.jsonl", [row(1)])
    with pytest.raises(DataError, match="test problems are missing"):
        list(Gsm8kTask(str(tmp_path)).problems("test"))
    (tmp_path / "train.jsonl").write_text("{not json\n")
    with pytest.raises(DataError, match="line 1, is not JSON"):
        list(Gsm8kTask(str(tmp_path)).problems("train"))
    write(tmp_path / "train.jsonl", [{"question": "q", "answer": "no mark"}])
    with pytest.raises(DataError, match="line 1, is no GSM8K problem"):
        list(Gsm8kTask(str(tmp_path)).problems("train"))


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match="give a local folder"):
        list(Gsm8kTask().problems("train", 1))


def test_the_hub_is_read_like_files(monkeypatch):
    import datasets

    rows = {"train": [row(1), row(2), ROW], "test": [row(2)]}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: rows[split])
    task = Gsm8kTask()
    everything = [p for s in ("train", "validation", "test") for p in task.problems(s)]
    assert len(everything) == 3
    assert [p.question for p in task.problems("test")] == [row(2)["question"]]


@pytest.mark.parametrize(
    ("expression", "result", "kind"),
    [
        ("48/2", "24", "exact"),
        ("10/3", "3.33", "rounded"),
        ("20/3", "6.67", "rounded"),
        ("20/3", "6.66", "rounded"),
        ("7/2", "3", "rounded"),
        ("7/2", "5", "mismatched"),
        ("10/3", "3.3399", "mismatched"),
        ("2 apples", "2", "unreadable"),
        ("1/0", "0", "unreadable"),
        ("20%*50", "10", "exact"),
        ("1,000+.5", "1,000.50", "exact"),
    ],
)
def test_annotations_are_exact_rounded_mismatched_or_unreadable(expression, result, kind):
    assert compare(expression, result) == kind


def test_a_wrong_annotation_is_a_fault():
    problem = problem_of({"question": "q", "answer": "<<2+2=5>>5\n#### 5"}, "here")
    report = annotation_report([problem, problem_of(ROW, "here")])
    assert (report.annotations, report.exact, report.mismatched) == (4, 3, 1)
    assert report.reexecuted == 0.75
    assert "2+2=5" in report.faults[0]
    task = Gsm8kTask.__new__(Gsm8kTask)
    verdict = task.prove(problem)
    assert isinstance(verdict, Refuted)
    assert "2+2=5" in verdict.reason
    assert task.prove(problem_of(ROW, "here")) == Proved()


def test_an_answer_that_no_annotation_gives_is_not_called_proved():
    task = Gsm8kTask.__new__(Gsm8kTask)
    for answer in ("<<2+2=4>>4 and one\n#### 5", "Five.\n#### 5"):
        assert task.prove(problem_of({"question": "q", "answer": answer}, "here")) is None
    assert task.proof != Task.proof


@pytest.mark.parametrize(
    ("calls", "right", "wrong_steps"),
    [
        (('calculate("2.5*4")', 'calculate("12*2.5")', 'calculate("30+10")', "stop(40)"), True, ()),
        (('calculate("2.5*(4+12)")', "stop('$40.00')"), True, ()),
        (("calculate('$2.50 x 4 + 12 * 2.50')", "stop('40 dollars')"), True, ()),
        (('calculate("12-4")', 'calculate("2.5*(4+12)")', "stop(40)"), True, (0,)),
        (('calculate("2.5*4")', "stop(40)"), False, (1,)),
        (("stop(40)",), False, (0,)),
        (('calculate("50-10")', "stop(40)"), None, ()),
    ],
)
def test_the_gold_plan_in_other_words_is_right_and_other_plans_are_unknown(
    tmp_path, calls, right, wrong_steps
):
    task = Gsm8kTask(str(write(tmp_path / "train.jsonl", [ROW])))
    problem = problem_of(ROW, "here")
    chain = play(task, problem, calls)
    assert task.verify(problem, chain.answer)
    assert task.judge(problem, chain).process_correct is right
    assert task.judge(problem, chain).wrong_steps == wrong_steps


@pytest.fixture(scope="module")
def real(shared_data):
    task = Gsm8kTask(str(shared_data / "gsm8k" / "train.jsonl"))
    return task, [*task.problems("train"), *task.problems("validation")]


@pytest.mark.slow
def test_nearly_all_real_annotations_reexecute(real):
    report = annotation_report(real[1])
    assert report.problems == 7473
    assert report.annotations > 23_000
    assert report.reexecuted >= 0.995
    assert 0.05 < 1 - report.answer_from_call / report.problems < 0.07


def test_a_check_reports_how_annotations_reexecute(folder):
    report = check_task(Gsm8kTask(str(folder)), 3)
    assert report.figures["annotations re-executed"] == 1.0
    assert report.figures["annotations"] == report.figures["annotations exact"] > 0
    console = Console(width=160, color_system=None)
    with console.capture() as captured:
        console.print(report)
    assert "100.00%" in next(s for s in captured.get().splitlines() if "annotations re-executed" in s)


@pytest.mark.slow
def test_real_gold_chains_reach_the_answer(real):
    task, problems = real
    for problem in problems[:300]:
        if not problem.gold:
            continue
        chain = play(task, problem, problem.gold)
        assert not chain.failures
        assert task.verify(problem, chain.answer)
        assert task.judge(problem, chain).process_correct is problem.metadata["answer_from_call"]
