"""The task `gsm8k`: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168).

The data set's calculator annotations, `<<48/2=24>>`, become gold chains: one `calculate("48/2")`
each, then `stop`. A problem whose annotations do not come to its answer is flagged and has no gold
chain: it would end with a number from nowhere.

Read from local JSON lines (fields `question`, `answer`) or from the hub (`openai/gsm8k`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rightcall.chain import Problem
from rightcall.task import Proved, Refuted
from rightcall.tasks.math.augmentation import renumber
from rightcall.tasks.math.numbers import read_number, show
from rightcall.tasks.math.renaming import rename
from rightcall.tasks.math.word_problems import WordProblems, stop_call, value_of
from rightcall.tasks.reading import DataSet, Hub, Record, fields, no_problem, problem_id

_ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")


class Gsm8kTask(WordProblems):
    """Grade-school word problems (GSM8K, Cobbe et al. 2021, arXiv 2110.14168).

    `path` is a folder with `train.jsonl` and `test.jsonl`, or one file of training
    problems; without it the data set is loaded from the hub.

    Validation is a tenth of the training problems, chosen by a hash of the question. Repeated
    questions are kept once, and a training question that is also in test is left out.
    """

    name = "gsm8k"
    operations = {"renumber": renumber, "rename": rename}
    proof = "answers given by the data's own annotations"

    def __init__(self, path: str | None = None) -> None:
        self.data = DataSet.at(
            path,
            name="gsm8k",
            read=problem_of,
            files={"train": ["train.jsonl"], "test": ["test.jsonl"]},
            hub=Hub("openai/gsm8k", "main"),
        )

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """The seed orders the problems, so that `count` draws a sample."""
        return self.data.problems(split, count, seed)

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """Whether the annotations re-execute and one of them gives the answer: what the data set says
        of itself, not a proof. None where no annotation gives the answer."""
        faults = [
            f"{expression}={result} ({kind})"
            for expression, result in problem.metadata.get("annotations", ())
            if (kind := compare(expression, result)) in ("mismatched", "unreadable")
        ]
        if faults:
            return Refuted(f"annotations do not re-execute: {'; '.join(faults)}")
        return Proved() if problem.metadata.get("answer_from_call") else None

    def report(self, problems: Sequence[Problem]) -> dict[str, int | float]:
        """How the annotations re-execute."""
        found = annotation_report(problems)
        return {
            "annotations": found.annotations,
            "annotations re-executed": found.reexecuted,
            "annotations exact": found.exact,
            "annotations rounded": found.rounded,
            "annotations mismatched": found.mismatched,
            "annotations unreadable": found.unreadable,
            "problems without annotations": found.without_annotations,
            "answers that a call gave": found.answer_from_call / found.problems if problems else 1.0,
        }


# --- reading ------------------------------------------------------------------------------------


def problem_of(row: Record, place: str) -> Problem:
    """A problem from a row of the data set; `place` names it in errors."""
    question, answer = fields(row, place, "GSM8K", "question", "answer")
    if "####" not in answer:
        raise no_problem(place, "GSM8K", row, "Needed is an 'answer' with '####'")
    final = answer.rpartition("####")[2].strip()
    number = read_number(final)
    annotations = [(left.strip(), right.strip()) for left, right in _ANNOTATION.findall(answer)]
    calls = [f"calculate({json.dumps(left)})" for left, _ in annotations]
    from_call = number is not None and any(value_of(a) == number for a, _ in reversed(annotations))
    flags = [] if from_call else ["answer is no call's result"]
    if any(compare(left, right) in ("mismatched", "unreadable") for left, right in annotations):
        flags.append("annotation does not re-execute")
    return Problem(
        id=problem_id("gsm8k", question),
        question=question,
        answer=final if number is None else show(number),
        gold=(*calls, stop_call(number)) if number is not None and calls and not flags else (),
        difficulty=len(annotations) or None,
        metadata={
            "annotations": [list(pair) for pair in annotations],
            "answer_from_call": from_call,
            "flags": flags,
        },
    )


# --- annotations --------------------------------------------------------------------------------


def compare(expression: str, result: str) -> str:
    """`exact`, `rounded`, `mismatched` or `unreadable`.

    Rounded: the annotated result has d decimals and is less than one unit of the last of them away
    from the exact value, so it was rounded or cut there (`10/3=3.33`, `7/2=3`).
    """
    value, stated = value_of(expression), read_number(result)
    if value is None or stated is None:
        return "unreadable"
    if value == stated:
        return "exact"
    places = len(result.partition(".")[2].rstrip("%"))
    return "rounded" if abs(value - stated) < Fraction(1, 10**places) else "mismatched"


@dataclass(frozen=True)
class AnnotationReport:
    """How the annotations of problems re-execute."""

    problems: int
    without_annotations: int
    """Problems that have none: their gold chain is unknown."""
    annotations: int
    exact: int
    rounded: int
    mismatched: int
    unreadable: int
    answer_from_call: int
    """Problems whose final answer is the result of an annotated calculation."""
    faults: tuple[str, ...]
    """The mismatched and unreadable ones, with the problem's id."""

    @property
    def reexecuted(self) -> float:
        """Share of annotations whose value was reproduced, exact or rounded."""
        return (self.exact + self.rounded) / self.annotations if self.annotations else 1.0


def annotation_report(problems: Iterable[Problem]) -> AnnotationReport:
    """Re-execute every annotation of GSM8K problems and count."""
    counts = {"exact": 0, "rounded": 0, "mismatched": 0, "unreadable": 0}
    total = bare = produced = 0
    faults: list[str] = []
    for problem in problems:
        total += 1
        annotations = problem.metadata.get("annotations", ())
        bare += not annotations
        produced += bool(problem.metadata.get("answer_from_call"))
        for expression, result in annotations:
            kind = compare(expression, result)
            counts[kind] += 1
            if kind in ("mismatched", "unreadable"):
                faults.append(f"{problem.id}: {expression}={result} ({kind})")
    return AnnotationReport(
        problems=total,
        without_annotations=bare,
        annotations=sum(counts.values()),
        **counts,
        answer_from_call=produced,
        faults=tuple(faults),
    )
