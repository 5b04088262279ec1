"""ProofWriter and PrOntoQA, formalised sentence by sentence.

Both are told in controlled English, which `rightcall.tasks.rules.english` reads: the gold formulas are
its readings, for the data sets ship none. That a reading is right shows in the labels: forward
chaining over the gold formulas reaches them (`rightcall tasks check proofwriter` counts). A problem
with a sentence that is not read is kept without gold formulas, flagged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rightcall.chain import Problem
from rightcall.errors import CallError, DataError
from rightcall.tasks.fol import prover
from rightcall.tasks.fol.formula import Formula, check_arities, parse, to_text
from rightcall.tasks.fol.prover import Verdict
from rightcall.tasks.reading import DataSet, Hub, fields, no_problem, problem_id
from rightcall.tasks.rules.augmentation import OPERATIONS
from rightcall.tasks.rules.chaining import literal_of, rules_of
from rightcall.tasks.rules.english import Reader, sentences
from rightcall.tasks.rules.task import RuleTask, problem_of, question_of

UNREAD = "a sentence of no known form"
"""The flag of a problem without gold formulas: a sentence or the statement is not read."""

_LETTERS = {"A": "True", "B": "False", "C": "Unknown"}
_OPTIONS = {"proofwriter": 3, "prontoqa": 2}
"""How many options a problem has."""
_ANSWERS = ("True", "False", "Unknown")
_CLASSICAL = {
    Verdict.ENTAILED: "True",
    Verdict.CONTRADICTED: "False",
    Verdict.UNDECIDED: "Unknown",
    Verdict.INCONSISTENT: "contradiction",
    Verdict.GAVE_UP: "undecided in time",
}


class _FromData(RuleTask):
    """Problems from files or the hub, split by their theory: the statements about one theory are never
    in two splits."""

    operations = OPERATIONS
    data: DataSet

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """See `DataSet.problems`."""
        return self.data.problems(split, count, seed)


def _theory(problem: Problem) -> str:
    return problem_id("theory", *problem.metadata["sentences"])


class ProofWriterTask(_FromData):
    """Facts and rules, open world (ProofWriter, Tafjord et al. 2021, arXiv 2012.13048).

    `path` is a folder with `train.json` and `dev.json` (the test split), or one file of training
    problems: lists or lines of objects with `id`, `context`, `question`, `answer`. `shares` says how
    many percent of the training problems make a split of which there is no file.
    """

    name = "proofwriter"

    def __init__(self, path: str | None = None, shares: Mapping[str, int] | None = None) -> None:
        self.shares = dict(shares) if shares is not None else None
        self.data = DataSet.at(
            path,
            name=self.name,
            read=proofwriter_problem,
            files={"train": ("train.json*",), "test": ("dev.json*", "test.json*")},
            hub=Hub("renma/ProofWriter", splits={"train": "validation"}),
            group=_theory,
            shares=shares,
        )

    def report(self, problems: Sequence[Problem]) -> dict[str, int | float]:
        """How many labels classical logic decides otherwise: it reasons by cases and backwards, where
        the data set's rules only go forward."""
        told = [p for p in problems if {"premises", "goal"} <= p.metadata.keys()]
        return {"classical logic differs": sum(classical(p) != p.answer for p in told)}


def classical(problem: Problem) -> str:
    """What a prover for classical logic says of the gold formulas."""
    premises = tuple(parse(text) for text in problem.metadata["premises"])
    verdict = prover.decide(premises, parse(problem.metadata["goal"]), countermodel=False).verdict
    return _CLASSICAL[verdict]


def proofwriter_problem(record: Any, place: str) -> Problem:
    """From an object of the data set's files. Raises `DataError`."""
    _refuse_other(record, place, "proofwriter")
    id, context, question, answer = fields(
        record, place, "ProofWriter", "id", "context", "question", "answer"
    )
    return _problem(id, context, question, answer, place, record)


class ProntoQaTask(_FromData):
    """Kinds of things and their traits (PrOntoQA, Saparov and He 2023, arXiv 2210.01240).

    Read are Logic-LM's problems about made-up kinds (`context`, `question`, `answer`) and those about
    real kinds with chains of thought (`question`, `query`, `answer`). `path` is a folder with
    `*.jsonl` or `*.json` files, or one file. `shares` says how many percent of the theories are
    validation and test.
    """

    name = "prontoqa"

    def __init__(self, path: str | None = None, shares: Mapping[str, int] | None = None) -> None:
        self.shares = dict(shares) if shares is not None else None
        self.data = DataSet.at(
            path,
            name=self.name,
            read=prontoqa_problem,
            files={"train": ("*.json", "*.jsonl")},
            hub=Hub("renma/ProntoQA", splits={"train": "validation"}),
            group=_theory,
            shares={"validation": 10, "test": 50} if shares is None else shares,
        )


def prontoqa_problem(record: Any, place: str) -> Problem:
    """From an object of either kind of file: with `context` and `question`, or with the theory as
    `question` and the statement as `query`. Raises `DataError`."""
    _refuse_other(record, place, "prontoqa")
    if isinstance(record, dict) and "query" in record:
        theory, query, answer = fields(record, place, "PrOntoQA", "question", "query", "answer")
        return _problem(problem_id("prontoqa", theory, query), theory, query, answer, place, record)
    id, context, question, answer = fields(
        record, place, "PrOntoQA", "id", "context", "question", "answer"
    )
    return _problem(id, context, question, answer, place, record)


def _refuse_other(record: Any, place: str, name: str) -> None:
    """Both are told in the same words, and each can be read as the other: its id tells them apart, and
    the number of options."""
    if not isinstance(record, dict):
        return
    id, options = str(record.get("id", "")).lower(), record.get("options")
    count = len(options) if isinstance(options, list) else None
    signs = [task for task in _OPTIONS if id.startswith(task)]
    signs += ["prontoqa"] if "query" in record else []
    signs += [task for task, number in _OPTIONS.items() if number == count]
    if signs and signs[0] != name:
        raise DataError(
            f"{place} is a problem of {signs[0]}, not of {name}",
            value=str(record)[:80],
            remedy=f"Use the task {signs[0]}.",
        )


def _problem(id: str, context: str, question: str, answer: str, place: str, record: Any) -> Problem:
    """The statement is the last sentence of the question, after "true or false?" or "True or
    false:"."""
    statement = question.rpartition("?")[2].rpartition(":")[2].strip()
    label = _LETTERS.get(answer, answer)
    if label not in _ANSWERS or not statement:
        raise no_problem(
            place,
            "ProofWriter or PrOntoQA",
            record,
            "Needed is an answer A, B, C, True, False or Unknown",
        )
    told = sentences(context)
    try:
        return problem_of(id, told, statement, label, *_formulas(told, statement))
    except (CallError, DataError):
        return Problem(
            id=id,
            question=question_of(told, statement),
            answer=label,
            metadata={"sentences": told, "statement": statement, "flags": [UNREAD]},
        )


def _formulas(told: Sequence[str], statement: str) -> tuple[list[Formula], Formula]:
    """The gold formulas and the goal, as the task's functions take them. Raises `CallError` or
    `DataError`."""
    reader = Reader(told)
    premises, stated = reader.formulas(), reader.formula(statement)
    again = [parse(to_text(one).lower()) for one in (*premises, stated)]
    check_arities(again)
    for one in again[:-1]:
        rules_of(one)
    literal_of(again[-1])
    return premises, stated
