"""The task `folio`: stories that people wrote, with statements that are true, false or unknown and
formulas for the sentences (Han et al. 2022, arXiv 2209.00840).

Read from local files (JSON lines, `premises`, `conclusion`, `label` and, where there are formulas,
`premises-FOL` and `conclusion-FOL`) or from the hub (`yale-nlp/FOLIO`). A gold chain is made where
every formula parses and the prover finds the label from them. The data set is known not to be
perfect; a problem whose formulas do not parse, contradict each other or give another label is kept
and flagged, has no gold chain, and is left out on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rightcall.chain import Chain, Judgement, Problem
from rightcall.errors import CallError
from rightcall.task import Proved, Refuted
from rightcall.tasks.fol import prover
from rightcall.tasks.fol.augmentation import STORY_OPERATIONS
from rightcall.tasks.fol.formula import Formula, check_arities, parse, to_text
from rightcall.tasks.fol.prover import Verdict
from rightcall.tasks.fol.task import Formalising, against_prover, read_answer
from rightcall.tasks.reading import DataSet, Hub, Record, fields, no_problem, problem_id

MALFORMED = "a formula is malformed"
UNEVEN = "sentences and formulas differ in number"
CONTRADICTION = "premises contradict each other"
OTHER_LABEL = "formulas do not give the label"
PATIENT = 20.0
"""Seconds for a decision: which problems have a gold chain must not depend on how busy a machine is."""
_LABELS = {
    Verdict.ENTAILED: "True",
    Verdict.CONTRADICTED: "False",
    Verdict.UNDECIDED: "Unknown",
}


class FolioTask(Formalising):
    """Stories with statements in first-order logic (FOLIO, Han et al. 2022, arXiv 2209.00840).

    `path` is a folder with the training and the validation file, or one of training
    problems; without it the data set is loaded from the hub. `known_bad="drop"` leaves out the
    problems whose formulas are known to be wrong.

    The data's validation file is the test split; validation is a tenth of the training stories,
    chosen by a hash of the premises. All statements about one story are in one split.
    """

    name = "folio"
    operations = STORY_OPERATIONS
    proof = "labels that the data's own formulas give"

    def __init__(self, path: str | None = None, known_bad: Literal["keep", "drop"] = "keep") -> None:
        self.known_bad = known_bad
        self.data = DataSet.at(
            path,
            name="folio",
            read=problem_of,
            files={"train": ["*train*.json*"], "test": ["*validation*.json*"]},
            hub=Hub("yale-nlp/FOLIO", splits={"train": "train", "test": "validation"}),
            group=lambda problem: str(problem.metadata["story"]),
        )

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """The seed orders the problems, so that `count` draws a sample."""
        keep = None if self.known_bad == "keep" else lambda problem: not problem.metadata["flags"]
        return self.data.problems(split, count, seed, keep)

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """Right if every sentence was recorded as the data has it, wrong if the answer is not what
        the prover said. Of other formulas nothing is known: the names of predicates are free, and
        there is more than one way to put a sentence."""
        if problem.metadata.get("flags"):
            return Judgement()
        found = super().judge(problem, chain)
        astray = against_prover(chain)
        last = (len(chain.steps) - 1,) if astray else ()
        right = found.process_correct or (False if astray else None)
        return found.model_copy(update={"process_correct": right, "wrong_steps": last})

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """The label, from the data's formulas by Z3 and by cvc5; None where they are not all there."""
        return super().prove(problem) if "goal" in problem.metadata else None

    def report(self, problems: Sequence[Problem]) -> dict[str, int | float]:
        """How many stories there are, and what their formulas are worth."""
        with_goal = [problem for problem in problems if problem.metadata.get("formalised")]
        agreed = sum(bool(problem.gold) for problem in with_goal)
        return {
            "stories": len({problem.metadata.get("story", problem.id) for problem in problems}),
            "statements with a formula": len(with_goal),
            "of these, label given by the formulas": agreed / len(with_goal) if with_goal else 1.0,
        }


# --- reading ------------------------------------------------------------------------------------


def problem_of(record: Record, place: str) -> Problem:
    """A problem from a record of the data set; `place` names it in errors."""
    conclusion, label = fields(record, place, "FOLIO", "conclusion", "label")
    sentences, texts = _texts(record.get("premises")), _texts(record.get("premises-FOL"))
    answer = read_answer(label)
    if not sentences or answer is None:
        needed = "Needed are 'premises' and a 'label' that is True, False, Unknown or Uncertain"
        raise no_problem(place, "FOLIO", record, needed)
    goal = str(record.get("conclusion-FOL") or "").strip()
    flag, premises = _premises(sentences, texts) if texts else (None, [])
    stated, goal_flag = _goal(premises, goal, answer) if goal and flag is None else (None, None)
    flags = [found for found in (flag, goal_flag) if found]
    written = [to_text(one) for one in premises] if flag is None else []
    metadata = {
        "story": problem_id("story", *sentences),
        "formalised": bool(goal),
        "flags": flags,
        **({"premises": written} if written else {}),
        **({"goal": to_text(stated)} if stated is not None else {}),
    }
    return Problem(
        id=problem_id("folio", *sentences, conclusion),
        question="\n".join([*sentences, f"Statement: {conclusion}"]),
        answer=answer,
        gold=_gold(written, to_text(stated), answer) if stated is not None and not flags else (),
        difficulty=len(sentences),
        metadata=metadata,
    )


def _texts(found: object) -> list[str]:
    """A list of texts: the files hold lists, the hub one text with a sentence a line."""
    listed = found.splitlines() if isinstance(found, str) else found
    return [str(text).strip() for text in listed] if isinstance(listed, list) else []


def _premises(sentences: Sequence[str], texts: Sequence[str]) -> tuple[str | None, list[Formula]]:
    """The formulas of a story, or what is wrong with them."""
    try:
        made = [parse(text) for text in texts]
        check_arities(made)
    except CallError:
        return MALFORMED, []
    if prover.consistent(made, seconds=PATIENT) is False:
        return CONTRADICTION, made
    return (UNEVEN if len(made) != len(sentences) else None), made


def _goal(premises: Sequence[Formula], text: str, answer: str) -> tuple[Formula | None, str | None]:
    """The formula of a statement, and what is wrong with it."""
    try:
        made = parse(text)
        verdict = prover.decide(premises, made, seconds=PATIENT, countermodel=False).verdict
    except CallError:
        return None, MALFORMED
    return made, None if _LABELS.get(verdict) == answer else OTHER_LABEL


def _gold(premises: Sequence[str], goal: str, answer: str) -> tuple[str, ...]:
    return (*(f'premise("{text}")' for text in premises), f'goal("{goal}")', f'stop("{answer}")')
