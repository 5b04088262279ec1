"""Checking a task: what is sound passes, and each kind of defect is found and named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rightcall.chain import Chain, Judgement, Problem
from rightcall.check import CheckReport, check_task, gold_chain
from rightcall.errors import DataError, DefinitionError, MissingSplit
from rightcall.functions import FunctionSet, Stop, function
from rightcall.task import Proved, Task, load_task
from toys import SumTask


class Altered(SumTask):
    """A `SumTask` whose problems pass through `alter`."""

    def alter(self, split: str, index: int, problem: Problem) -> Problem:
        return problem

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        for index, problem in enumerate(super().problems(split, count, seed)):
            yield self.alter(split, index, problem)


def altered(**changes: Any) -> Task:
    """The second training problem has these fields instead."""

    class Once(Altered):
        def alter(self, split: str, index: int, problem: Problem) -> Problem:
            hit = split == "train" and index == 1
            return problem.model_copy(update=changes) if hit else problem

    return Once()


def failures(report: CheckReport) -> dict[str, tuple[str, ...]]:
    return {finding.what: finding.first for finding in report.findings if finding.failed}


def shown(report: CheckReport) -> str:
    console = Console(width=160, color_system=None)
    with console.capture() as captured:
        console.print(report)
    return captured.get()


def test_a_sound_task_passes() -> None:
    report = check_task(SumTask(), 4)
    assert report.ok
    assert failures(report) == {}
    assert report.problems == {"train": 4, "validation": 4, "test": 4}
    assert {finding.what: finding.checked for finding in report.findings} == {
        "gold chains re-executed": 12,
        "labels proved": 12,
        "odd answers judged": 5,
        "examples run": 3,
        "ids unique": 12,
        "splits disjoint": 12,
        "same seed, same problems": 12,
    }
    assert "4 train, 4 validation, 4 test problems" in shown(report)


def test_a_gold_chain_is_run_like_a_models_and_judged() -> None:
    task = SumTask()
    problem = next(task.problems("train"))
    chain = gold_chain(task, task.function_set(), problem)
    assert chain.right_for_the_right_reason
    assert [step.observation.text for step in chain.steps] == ["7", "7"]


@pytest.mark.parametrize(
    ("gold", "fault"),
    [
        (("add(1, x)", 'stop("8")'), "call 1, add(1, x): Error: an argument is not a literal"),
        (("add(1, 7)",), "the chain does not stop"),
        (("add(1, 7)", 'stop("9")'), "the chain answers '9', gold is '8'"),
        (("add(1, 7)", 'stop("8")', "add(1, 1)"), "the chain stops at call 2 of 3"),
        (('stop("8")',), "the process is judged wrong: add was not called"),
    ],
)
def test_a_gold_chain_that_fails_is_named_with_its_fault(gold: tuple[str, ...], fault: str) -> None:
    report = check_task(altered(gold=gold), 3)
    assert not report.ok
    (first,) = failures(report)["gold chains re-executed"]
    assert first.startswith(f"train-0-1: {fault}")


def test_a_wrong_label_is_found_without_the_gold_chain() -> None:
    report = check_task(altered(answer="9", gold=()), 3)
    assert failures(report) == {"labels proved": ("train-0-1: the sum is 8",)}
    assert report.without_gold == 1


def test_a_repeated_id_is_found() -> None:
    assert failures(check_task(altered(id="test-0-0"), 2)) == {"ids unique": ("test-0-0: 2 problems",)}


def test_a_question_in_two_splits_is_found_up_to_case_and_spacing() -> None:
    question = "WHAT\tis 2001 +  7?"
    report = check_task(altered(question=question, gold=()), 3)
    assert failures(report)["splits disjoint"] == (
        "train-0-1 (train), test-0-1 (test): the same question",
    )


def test_problems_that_change_from_run_to_run_are_found() -> None:
    class Restless(Altered):
        runs = 0

        def alter(self, split: str, index: int, problem: Problem) -> Problem:
            self.runs += 1
            return problem.model_copy(update={"metadata": {"run": self.runs}})

    report = check_task(Restless(), 1)
    assert list(failures(report)) == ["same seed, same problems"]


def test_an_example_that_gives_something_else_now_is_found() -> None:
    counter = iter(range(100))

    @function(example="tick()", trusted=True)
    def tick() -> int:
        """Count on."""
        return next(counter)

    class Ticking(SumTask):
        functions = (*SumTask.functions, tick)

    assert failures(check_task(Ticking(), 1)) == {"examples run": ("tick: tick() gave 0, now 1",)}


def test_an_example_that_fails_now_is_found() -> None:
    broken = False

    @function(example="halt()", role="flow", trusted=True)
    def halt() -> Stop:
        """Stop."""
        if broken:
            raise ValueError("gone")
        return Stop("")

    class Halting(SumTask):
        functions = (*SumTask.functions, halt)

    broken = True
    (first,) = failures(check_task(Halting(), 1))["examples run"]
    assert first == "halt: halt() fails: halt failed: ValueError: gone."


def test_a_flagged_problem_is_counted_and_excused() -> None:
    report = check_task(altered(answer="9", metadata={"flags": ["label in doubt"]}), 3)
    assert report.ok
    assert report.flagged == {"label in doubt": 1}
    assert [(f.excused, f.failed) for f in report.findings[:2]] == [(1, 0), (1, 0)]
    assert report.findings[1].what == "labels proved"
    assert "train-0-1: the sum is 8" in shown(report)
    assert "label in doubt" in shown(report)


def test_only_the_functions_of_a_subset_are_used() -> None:
    report = check_task(SumTask(), 2, subset="short")
    assert report.functions == ("add", "stop")
    ran = {finding.what: finding.checked for finding in report.findings}
    assert ran["examples run"] == 3
    lacking = check_task(SumTask(), 2, subset=["stop"])
    assert lacking.ok
    assert (lacking.without_gold, lacking.unverified) == (6, 0)
    assert "no gold chain with these functions" in shown(lacking)


class Unproved(SumTask):
    """Nothing is known of its labels but the gold chains, which need `add`."""

    def prove(self, problem: Problem) -> None:
        return None


def test_what_a_task_cannot_prove_is_not_counted_as_proved() -> None:
    report = check_task(Unproved(), 2)
    assert {finding.what: finding.checked for finding in report.findings}["labels proved"] == 0
    assert report.ok
    assert report.unverified == 0
    assert "neither re-executed nor proved" not in shown(report)


def test_labels_that_nothing_speaks_for_are_warned_of() -> None:
    report = check_task(Unproved(), 2, subset=["stop"])
    assert report.unverified == 6
    assert "labels neither re-executed nor proved" in shown(report)


def test_a_task_may_give_other_gold_chains_for_other_functions() -> None:
    class Recording(SumTask):
        def gold(self, problem: Problem, functions: FunctionSet) -> tuple[str, ...]:
            return ("record(1)", problem.gold[-1])

        def judge(self, problem: Problem, chain: Chain) -> Judgement:
            return Judgement()

    report = check_task(Recording(), 2, subset=["record", "stop"])
    assert report.ok
    assert report.without_gold == 0


def test_a_verdict_that_cannot_stand_an_odd_answer_is_found() -> None:
    class Fragile(SumTask):
        def verify(self, problem: Problem, answer: str) -> bool:
            return float(answer) == float(problem.answer)

    report = check_task(Fragile(), 2)
    (first, *_) = failures(report)["odd answers judged"]
    assert "verify of task sums failed with ValueError" in first
    assert "test_check.py, line" in first
    assert list(failures(report)) == ["odd answers judged"]


def test_a_proof_that_fails_is_a_finding_and_one_that_says_nothing_a_definition_error() -> None:
    class Failing(SumTask):
        def prove(self, problem: Problem) -> Proved:
            raise KeyError("total")

    (first, *_) = failures(check_task(Failing(), 1))["labels proved"]
    assert "prove of task sums failed with KeyError: 'total'" in first

    class Old(SumTask):
        def prove(self, problem: Problem) -> Any:
            return "the sum is 8"

    with pytest.raises(DefinitionError, match="prove of task sums gave something else"):
        check_task(Old(), 1)


def test_a_task_without_problems_is_not_in_order() -> None:
    assert not check_task(SumTask(), 0).ok


def test_a_report_is_read_back_from_its_json() -> None:
    report = check_task(altered(answer="9"), 2)
    assert CheckReport.model_validate_json(report.model_dump_json()) == report


def test_a_split_without_data_is_named_and_the_others_are_checked() -> None:
    class Partly(SumTask):
        lost: tuple[str, ...] = ("test",)

        def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
            if split in self.lost:
                raise MissingSplit("no such file", value=split)
            return super().problems(split, count, seed)

    report = check_task(Partly(), 2)
    assert report.ok
    assert report.missing == {"test": "no such file: 'test'."}
    assert "test is missing" in shown(report)
    everything = Partly()
    everything.lost = ("train", "validation", "test")
    with pytest.raises(MissingSplit, match="no such file: 'train'"):
        check_task(everything, 2)


def test_a_record_that_cannot_be_read_is_not_taken_for_a_missing_split(tmp_path: Path) -> None:
    good = {"question": "What is 2 and 3?", "answer": "<<2+3=5>>5\n#### 5"}
    rows = [json.dumps({**good, "question": f"{n}? {good['question']}"}) for n in range(30)]
    train = tmp_path / "train.jsonl"
    train.write_text("\n".join([*rows, '{"question": 7}']))
    with pytest.raises(DataError, match=r"train\.jsonl, line 31, is no GSM8K problem"):
        check_task(load_task("gsm8k", path=str(tmp_path)), 2)
    train.write_text("\n".join(rows))
    assert list(check_task(load_task("gsm8k", path=str(tmp_path)), 2).missing) == ["test"]
    (tmp_path / "test.jsonl").write_text("no JSON")
    with pytest.raises(DataError, match=r"test\.jsonl, line 1, is not JSON"):
        check_task(load_task("gsm8k", path=str(tmp_path)), 2)


def test_a_gold_chain_longer_than_the_largest_budget_is_a_fault() -> None:
    class Hasty(SumTask):
        budgets = (1,)

    first = failures(check_task(Hasty(), 2))["gold chains re-executed"][0]
    assert "takes 2 calls, the largest budget is 1" in first
