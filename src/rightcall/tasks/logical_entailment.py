"""The task `logical_entailment`: does one propositional formula entail another? (Evans et al. 2018,
arXiv 1802.08535).

Read from the data set's text files, a line `A,B,E,...` each: E says whether A entails B. The formulas
are written with `~`, `&`, `|` and `>`, which the formula language reads too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rightcall.chain import Chain, Judgement, Problem
from rightcall.errors import CallError
from rightcall.task import Proved, Refuted
from rightcall.tasks.fol import prover
from rightcall.tasks.fol.augmentation import PAIR_OPERATIONS
from rightcall.tasks.fol.formula import parse, predicates, to_text
from rightcall.tasks.fol.prover import Verdict
from rightcall.tasks.fol.task import (
    CONTRADICTION,
    GOLD_FORMULAS,
    Formalising,
    goal,
    premise,
    prover_said,
    stop,
)
from rightcall.tasks.reading import DataSet, Record, no_problem, problem_id

_LABELS = {"0": "False", "1": "True"}
_FOLLOWS = {Verdict.ENTAILED, Verdict.INCONSISTENT}
"""What contradicts itself entails everything."""


class LogicalEntailmentTask(Formalising):
    """Does one propositional formula entail another? (Evans et al. 2018, arXiv 1802.08535.)

    `path` is a folder with the data set's files (`train.txt`,
    `validate.txt`, `test_*.txt`), or one file of training problems. Validation is a tenth of the
    training problems where there is no `validate.txt`; a file is needed for each other split.
    """

    name = "logical_entailment"
    operations = PAIR_OPERATIONS
    instruction = (
        "Does the first formula entail the second? Of the signs, ~ means not, & and, | or, > implies. "
        "Record the first formula with premise, state the second one as the goal, and stop with "
        "True if it follows and with False if it does not. What contradicts itself entails everything."
    )
    functions = (premise, goal, stop)
    subsets = {}
    default_subset = "all"

    def __init__(self, path: str | None = None) -> None:
        self.data = DataSet.at(
            path,
            name=self.name,
            read=problem_of,
            files={"train": ["train.txt"], "validation": ["validate.txt"], "test": ["test_*.txt"]},
        )

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """The seed orders the problems, so that `count` draws a sample."""
        return self.data.problems(split, count, seed)

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """Right if formulas equivalent to the two were recorded and the answer is what the prover's
        verdict on them means (see `Formalising`)."""
        said = prover_said(chain)
        meant = None if said is None else str(said in ("True", CONTRADICTION))
        if meant is not None and chain.answer == meant:
            chain = chain.model_copy(update={"answer": said})
        return super().judge(problem, chain)

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """The label, by Z3 and by cvc5; None where the formulas are not known."""
        if not problem.metadata.keys() >= GOLD_FORMULAS:
            return None
        from rightcall.tasks.fol import second_prover  # cvc5 is loaded only where it is asked

        first, second = [parse(problem.metadata["premises"][0])], parse(problem.metadata["goal"])
        verdicts = {
            "Z3": prover.decide(first, second, countermodel=False).verdict,
            "cvc5": second_prover.decide(first, second),
        }
        for engine, verdict in verdicts.items():
            if str(verdict in _FOLLOWS) != problem.answer:
                return Refuted(f"the label is {problem.answer}, {engine} says: {verdict.value}")
        return Proved()

    def report(self, problems: Sequence[Problem]) -> dict[str, int | float]:
        """The share of entailments."""
        entailed = sum(problem.answer == "True" for problem in problems)
        return {"entailed": entailed / len(problems) if problems else 0.0}


def problem_of(record: Record, place: str) -> Problem:
    """A problem from a line of the data set; `place` names it in errors."""
    parts = [part.strip() for part in str(record).split(",")]
    if len(parts) < 3 or parts[2] not in _LABELS:
        raise no_problem(place, "entailment", record, "Needed are two formulas and 0 or 1: p,(p|q),1")
    try:
        first, second = parse(parts[0]), parse(parts[1])
    except CallError as error:
        raise no_problem(place, "entailment", record, str(error).rstrip(".")) from error
    answer = _LABELS[parts[2]]
    calls = (f'premise("{to_text(first)}")', f'goal("{to_text(second)}")', f'stop("{answer}")')
    return Problem(
        id=problem_id("entailment", *parts[:2]),
        question=f"First: {parts[0]}\nSecond: {parts[1]}",
        answer=answer,
        gold=calls,
        difficulty=len(predicates(first) | predicates(second)),
        metadata={"premises": [to_text(first)], "goal": to_text(second)},
    )
