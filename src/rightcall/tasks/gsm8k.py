"""The task `gsm8k`: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168).

The data set's calculator annotations, `<<48/2=24>>`, become gold chains: one `calculate("48/2")`
each, then `stop`. Read from local JSON lines (fields `question`, `answer`) or from the hub
(`openai/gsm8k`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from rightcall.chain import Chain, Judgement, Problem, digest, seed_of
from rightcall.errors import CallError, ConfigError, DataError, nearest
from rightcall.task import SPLITS, Proved, Refuted
from rightcall.tasks.math.answers import values as answer_values
from rightcall.tasks.math.expressions import compute, parse
from rightcall.tasks.math.numbers import decimals, read_number, show
from rightcall.tasks.math.plans import (
    Calculation,
    Numbers,
    Plan,
    evidence,
    read_plan,
    readings,
    rerun,
    same_plan,
    unused,
)
from rightcall.tasks.math.task import ExactMath

HUB_ID = "openai/gsm8k"
VALIDATION_PERCENT = 10
_ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")
_CONSTANTS = (1, 2, 3, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)
"""Numbers that need no source in the question: units of time and measure, halves, percentages."""
_COUNTING = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
_WORDS = {word: Fraction(value) for value, word in enumerate(_COUNTING, 1)} | {
    "thirty": Fraction(30),
    "forty": Fraction(40),
    "fifty": Fraction(50),
    "sixty": Fraction(60),
    "seventy": Fraction(70),
    "eighty": Fraction(80),
    "ninety": Fraction(90),
    "hundred": Fraction(100),
    "thousand": Fraction(1000),
    "dozen": Fraction(12),
    "half": Fraction(1, 2),
    "quarter": Fraction(1, 4),
    "fifth": Fraction(1, 5),
}


class Gsm8kTask(ExactMath):
    """GSM8K. `path` is a folder with `train.jsonl` and `test.jsonl`, or one file of training
    problems; without it the data set is loaded from the hub.

    Validation is a tenth of the training problems, chosen by a hash of the question. Repeated
    questions are kept once, and a training question that is also in test is left out.
    """

    name = "gsm8k"
    instruction = "Solve the problem. Do each calculation with a function, then stop with the answer."
    default_subset = "calculator"
    proof = "answers given by the data's own annotations"

    def __init__(self, path: str | None = None) -> None:
        self.path = Path(path) if path is not None else None
        if self.path is not None and not self.path.exists():
            raise DataError(
                "no such file or folder",
                value=str(self.path),
                remedy="Give train.jsonl, or the folder that holds train.jsonl and test.jsonl.",
            )

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """The seed orders the problems, so that `count` draws a sample."""
        if split not in SPLITS:
            raise ConfigError("unknown split", value=split, remedy=nearest(split, SPLITS))
        found = self._test if split == "test" else [p for p in self._train if _split_of(p) == split]
        ordered = sorted(found, key=lambda problem: seed_of("gsm8k", seed, problem.id))
        return islice(iter(ordered), count)

    @cached_property
    def _train(self) -> list[Problem]:
        held_out = {problem.id for problem in self._test_if_there}
        return [p for p in self._read("train") if p.id not in held_out]

    @cached_property
    def _test(self) -> list[Problem]:
        return self._read("test")

    @property
    def _test_if_there(self) -> list[Problem]:
        if self.path is None or (self._folder / "test.jsonl").is_file():
            return self._test
        return []

    @property
    def _folder(self) -> Path:
        assert self.path is not None
        return self.path if self.path.is_dir() else self.path.parent

    def _read(self, split: str) -> list[Problem]:
        if self.path is None:
            return _unique(problem_of(row, f"{HUB_ID}, {split}") for row in _hub_rows(split))
        file = (
            self.path if self.path.is_file() and split == "train" else self._folder / f"{split}.jsonl"
        )
        if not file.is_file():
            raise DataError(
                f"the {split} problems are missing",
                value=str(file),
                remedy=f"Put the data set's {split} file there, or leave out the path to use the hub.",
            )
        return _unique(problem_of(row, place) for place, row in _file_rows(file))

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """Right if the plan is the gold plan in other words (see `rightcall.tasks.math.plans`);
        wrong if the answer is no call's result; unknown for any other plan.

        Wrong steps are a stop with what no call gave and, in a plan that is right without them, the
        calculations that are used for nothing. Of wrong plans nothing more is known: a number that
        the question does not hold may be common knowledge.
        """
        numbers = Numbers.of(problem.question, (*_CONSTANTS, *_words_in(problem.question)))
        plan = read_plan(chain.steps, chain.answer)
        said, measures = evidence(plan, numbers)
        gold = _gold_on_trials(problem, numbers)
        process: bool | None = None
        wrong: tuple[int, ...] = ()
        if measures["answer_from_call"] < 1:
            process = False
            wrong = () if chain.answer is None else (len(chain.steps) - 1,)
        elif gold is not None and same_plan(plan, numbers, gold):
            process = True
            wrong = tuple(plan.steps[index] for index in unused(plan))
            said = ("With other numbers in the question the plan agrees with the gold plan.", *said)
        return Judgement(process_correct=process, evidence=said, measures=measures, wrong_steps=wrong)

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """Whether the annotations re-execute and one of them gives the answer: what the data set says
        of itself, not a proof. None where no annotation gives the answer."""
        faults = [
            f"{expression}={result} ({kind})"
            for expression, result in problem.metadata["annotations"]
            if (kind := compare(expression, result)) in ("mismatched", "unreadable")
        ]
        if faults:
            return Refuted(f"annotations do not re-execute: {'; '.join(faults)}")
        return Proved() if problem.metadata["answer_from_call"] else None

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


def problem_of(row: Mapping[str, Any], place: str) -> Problem:
    """A problem from a row of the data set; `place` names it in errors."""
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str) or "####" not in answer:
        raise DataError(
            f"{place} is no GSM8K problem",
            value=str(dict(row))[:80],
            remedy="Needed are the texts 'question' and 'answer', the latter with '####'.",
        )
    final = answer.rpartition("####")[2].strip()
    number = read_number(final)
    annotations = [(left.strip(), right.strip()) for left, right in _ANNOTATION.findall(answer)]
    calls = [f"calculate({json.dumps(left)})" for left, _ in annotations]
    from_call = number is not None and any(_value(a) == number for a, _ in reversed(annotations))
    flags = [] if from_call else ["answer is no call's result"]
    if any(compare(left, right) in ("mismatched", "unreadable") for left, right in annotations):
        flags.append("annotation does not re-execute")
    return Problem(
        id=f"gsm8k-{digest(_normal(question))}",
        question=question.strip(),
        answer=final if number is None else show(number),
        gold=(*calls, f"stop({json.dumps(final) if number is None else _literal(number)})")
        if calls
        else (),
        difficulty=len(annotations) or None,
        metadata={
            "annotations": [list(pair) for pair in annotations],
            "answer_from_call": from_call,
            "flags": flags,
        },
    )


def _literal(number: Fraction) -> str:
    """A number as an argument: a fraction needs quotes."""
    return show(number) if decimals(number) is not None else json.dumps(show(number))


def _normal(question: str) -> str:
    return " ".join(question.lower().split())


def _split_of(problem: Problem) -> str:
    place = sha256(_normal(problem.question).encode()).digest()[0] * 100 // 256
    return "validation" if place < VALIDATION_PERCENT else "train"


def _unique(problems: Iterable[Problem]) -> list[Problem]:
    return list({problem.id: problem for problem in problems}.values())


def _file_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{file}, line {number},"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{place} is not JSON", value=line[:80]) from error
            yield place, row if isinstance(row, dict) else {}


def _hub_rows(split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(HUB_ID, "main", split=split)
    except Exception as error:  # the client raises errors of several libraries when offline
        raise DataError(
            f"the data set could not be loaded ({type(error).__name__})",
            value=HUB_ID,
            remedy="Check the connection, or give a local folder as the task's path.",
        ) from error
    return rows


# --- annotations --------------------------------------------------------------------------------


def _value(expression: str) -> Fraction | None:
    try:
        return compute(parse(expression))
    except CallError:
        return None


def compare(expression: str, result: str) -> str:
    """`exact`, `rounded`, `mismatched` or `unreadable`.

    Rounded: the annotated result has d decimals and is less than one unit of the last of them away
    from the exact value, so it was rounded or cut there (`10/3=3.33`, `7/2=3`).
    """
    value, stated = _value(expression), read_number(result)
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
        bare += not problem.metadata["annotations"]
        produced += bool(problem.metadata["answer_from_call"])
        for expression, result in problem.metadata["annotations"]:
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


# --- the gold plan ------------------------------------------------------------------------------


def _words_in(question: str) -> Iterator[Fraction]:
    """The numbers that a question writes as words."""
    for word in re.findall(r"[a-z]+", question.lower()):
        if word in _WORDS:
            yield _WORDS[word]


def _gold_on_trials(problem: Problem, numbers: Numbers) -> list[Fraction] | None:
    """The gold plan's answers for other numbers in the question; None if the annotations are no
    plan: one is unreadable, or none gives the answer."""
    calculations = [
        Calculation(parse(left), value)
        for left, _ in problem.metadata["annotations"]
        if (value := _value(left)) is not None
    ]
    plan = Plan(tuple(calculations), answer_values(problem.answer))
    reading = next(readings(plan, numbers), None)
    if reading is None or len(calculations) < len(problem.metadata["annotations"]):
        return None
    try:
        return [rerun(plan, reading, values) for values in numbers.trials()]
    except CallError:
        return None
