"""Solutions in GSM8K's style (Cobbe et al. 2021): prose with `<<9*2=18>>` annotations and a last line
`A: 18` or `#### 18`.

Each annotation becomes a `calculate` with the annotated value as its recorded result, the last line a
`stop`, of which nothing is recorded but its argument. An annotation that is not closed, or without a
value, is no call; it is noted and listed. A record has a `question`, the gold solution as
`ground_truth` (or `answer`), and either one `solution` or one field for each model:
`{"175b_finetuning": {"solution": ..., "is_correct": false}}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rightcall.chain import Problem
from rightcall.errors import DataError
from rightcall.importing.recorded import Place, Recorded, RecordedCall
from rightcall.tasks.gsm8k import problem_of
from rightcall.tasks.math.numbers import read_number, show

_ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")
_BROKEN = re.compile(rf"(?!{_ANNOTATION.pattern})<<[^<>\n]*(?:>>)?")
UNREADABLE = "annotation that cannot be read"
_FINAL = re.compile(r"^(?:A:|####)[ \t]*(.*?)[ \t]*$", re.MULTILINE)


def gsm8k_annotated(record: Mapping[str, Any], place: Place) -> Iterator[Recorded]:
    """One attempt for each solution of a record."""
    question = record["question"]
    gold = record.get("ground_truth", record.get("answer"))
    problem = _problem(question, gold, place) if isinstance(gold, str) else None
    solutions = _solutions(record)
    if not solutions:
        raise DataError("no solution in the record", value=sorted(record))
    for model, solution in solutions.items():
        text = solution["solution"]
        final = _FINAL.findall(text)
        calculations = _calculations(text)
        malformed = [found[0].strip() for found in _BROKEN.finditer(text)]
        notes = [UNREADABLE] * len(malformed)
        yield Recorded(
            question=question,
            problem=problem,
            gold=problem.answer if problem else None,
            model=model,
            calls=(*calculations, *(_stop(answer) for answer in final[-1:])),
            correct=solution.get("is_correct"),
            notes=(*notes, *(() if final else ("no final answer",))),
            malformed_calls=tuple(malformed),
        )


def _solutions(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if isinstance(record.get("solution"), str):
        return {str(record.get("model", "recorded")): record}
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, Mapping) and "solution" in value
    }


def _calculations(text: str) -> list[RecordedCall]:
    return [
        RecordedCall(reply=f"calculate({json.dumps(left.strip())})", result=right.strip())
        for left, right in _ANNOTATION.findall(text)
    ]


def _stop(answer: str) -> RecordedCall:
    """A stop with the number, as the task's gold chains write it; with the text if it is none."""
    number = read_number(answer)
    said = answer if number is None else show(number)
    literal = said if number is not None and "/" not in said else json.dumps(said, ensure_ascii=False)
    return RecordedCall(reply=f"stop({literal})")


def _problem(question: str, gold: str, place: Place) -> Problem:
    """The record as a problem of its own, marked: it is no problem of the task's splits, and may be
    one of a test split that is not at hand."""
    final = _FINAL.findall(gold)
    if not final:
        raise DataError("the gold solution has no final answer", value=gold[-80:])
    answer = f"{_FINAL.sub('', gold).rstrip()}\n#### {final[-1]}"
    made = problem_of({"question": question, "answer": answer}, str(place))
    return made.model_copy(update={"metadata": {**made.metadata, "origin": f"log {place.file}"}})
