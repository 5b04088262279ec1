"""The task `aqua`: algebra word problems with five options (Ling et al. 2017, arXiv 1705.04146).

Read from local files (`question`, `options`, `rationale`, `correct`; JSON lines) or from the hub
(`deepmind/aqua_rat`). The rationales are prose. Where equations in one re-execute and lead to the right
option's value, they become the gold chain. The data is crowd-sourced and not clean: what contradicts
itself is kept, flagged, and has no gold chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rightcall.chain import Chain, Judgement, Problem
from rightcall.task import Proved, Refuted
from rightcall.tasks.math.answers import same_value
from rightcall.tasks.math.answers import values as answer_values
from rightcall.tasks.math.expressions import parse
from rightcall.tasks.math.numbers import read_number, show
from rightcall.tasks.math.plans import Calculation, Plan, unsourced
from rightcall.tasks.math.renaming import rename
from rightcall.tasks.math.word_problems import WordProblems, numbers_of, value_of
from rightcall.tasks.reading import DataSet, Hub, Record, fields, no_problem, problem_id

OTHER_OPTION = "rationale names another option"
TWINS = "two options are the same"
_OPTION = re.compile(r"\s*\(?([A-E])\s*[).:]\s*(.*)", re.S)
_LETTER = re.compile(
    r"(?:(?:the\s+)?(?:option|answer|choice)\s*(?:is\s*)?:?\s*)?\(?([A-E])\s*[).:]?", re.I
)
_NAMED = re.compile(
    r"(?:answer|ans|option|choice)\s*(?:is|:|-|=|\s)*\(?([A-E])(?![\w'’])(?!\s*[=+*/^])", re.I
)
_EQUATION = re.compile(
    r"(?<![\w.,)%/])((?:[\d.,]|[-+*/()×÷%$\s])*\d[\s)%]*[-+*/×÷](?:[\d.,]|[-+*/()×÷%$\s])*[\d)%])\s*"
    r"=\s*\$?\s*(-?\d[\d,]*(?:\.\d+)?)(?![\w/*^(])"
)


class AquaTask(WordProblems):
    """Algebra with five options (AQuA-RAT, Ling et al. 2017, arXiv 1705.04146).

    `path` is a folder with the data set's files, or one file of training problems; without
    it the data set is loaded from the hub. Of one file, by a hash of the question, a tenth is
    validation, and a fifth test. So it is with the development file of a folder without a training
    file, which `tasks check` says.

    The answer is a letter; an option's own text or value is accepted too.
    """

    name = "aqua"
    operations = {"rename": rename}
    instruction = (
        "Solve the problem. Do each calculation with a function, then stop with the letter of the "
        "right option."
    )
    subsets = {**WordProblems.subsets, "solver": ("calculate", "solve_equation", "reason", "stop")}
    default_subset = "solver"
    proof = "options that the data's own rationale calculates"

    def __init__(self, path: str | None = None) -> None:
        data = DataSet.at(
            path,
            name="aqua",
            read=problem_of,
            files={"train": ["train.json*"], "validation": ["dev.json*"], "test": ["test.json*"]},
            hub=Hub(
                "deepmind/aqua_rat",
                "raw",
                {"train": "train", "validation": "validation", "test": "test"},
            ),
            shares={"validation": 10, "test": 20},
        )
        development = None if data.has("train") else data.first_file("validation")
        self.data = data if development is None else replace(data, path=development)
        self.without_training_file = development is not None

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """The seed orders the problems, so that `count` draws a sample."""
        return self.data.problems(split, count, seed)

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether an answer is the right letter, or says what the right option says and no other; of a
        problem whose options are not told apart, whether it has the gold answer's value."""
        if "options" not in problem.metadata:
            return super().verify(problem, answer)
        return chosen(problem.metadata["options"], answer) == problem.answer

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """Right if the plan that leads to the chosen option's value is the rationale's in other words;
        otherwise unknown: options may well be tried, or excluded."""
        options = problem.metadata.get("options", {})
        letter = None if chain.answer is None else chosen(options, chain.answer)
        if letter is None or not answer_values(options[letter]):
            return Judgement()
        stem = {"question": problem.metadata["stem"], "answer": options[problem.answer]}
        found = super().judge(
            problem.model_copy(update=stem), chain.model_copy(update={"answer": options[letter]})
        )
        return found if found.process_correct else Judgement(measures=found.measures)

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """Whether the rationale names and calculates the option: what the data set says of itself, not
        a proof. None where no equation of the rationale gives the option."""
        if OTHER_OPTION in problem.metadata.get("flags", ()):
            return Refuted("the rationale names another option")
        return Proved() if problem.metadata.get("annotations") else None

    def report(self, problems: Sequence[Problem]) -> dict[str, int | float]:
        """How many rationales calculate the right option."""
        found = sum(bool(problem.gold) for problem in problems)
        share = found / len(problems) if problems else 0.0
        figures = {"gold chains from rationales": found, "share of problems": share}
        if self.without_training_file:
            figures["no training file: all are the development file's"] = len(problems)
        return figures


def chosen(options: Mapping[str, str], answer: str) -> str | None:
    """The letter of the option that an answer names, by letter, text or value; None if it is none, or
    may be more than one.

    >>> options = {"A": "100 m", "B": "150 m", "C": "none"}
    >>> [chosen(options, text) for text in ("b", "(B)", "B) 150 m", "150", "None", "Z", "A or B")]
    ['B', 'B', 'B', 'B', 'C', None, None]
    """
    answer = answer.strip()
    if match := _LETTER.fullmatch(answer):
        return match[1].upper() if match[1].upper() in options else None
    if match := _OPTION.fullmatch(answer):
        return match[1] if _plain(options.get(match[1], "")) == _plain(match[2]) else None
    found = [letter for letter, text in options.items() if _plain(text) == _plain(answer)]
    found = found or [letter for letter, text in options.items() if same_value(text, answer)]
    return found[0] if len(found) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.lower().rstrip(". ").split())


# --- reading ------------------------------------------------------------------------------------


def problem_of(record: Record, place: str) -> Problem:
    """A problem from a record of the data set; `place` names it in errors."""
    question, correct = fields(record, place, "AQuA", "question", "correct")
    listed = record.get("options")
    read = [_OPTION.fullmatch(str(one)) for one in listed] if isinstance(listed, list) else []
    options = {match[1]: match[2].strip() for match in read if match}
    if correct not in options or len(options) < len(read):
        needed = "Needed are 'options' such as 'A)12', and one of their letters as 'correct'"
        raise no_problem(place, "AQuA", record, needed)
    rationale = str(record.get("rationale") or "")
    flags = _flags(options, correct, rationale)
    steps = [] if flags else _calculations(question, rationale, options[correct])
    calls = tuple(f'calculate("{expression}")' for expression, _ in steps)
    return Problem(
        id=problem_id("aqua", question, *options.values()),
        question="\n".join([question, *(f"{letter}) {text}" for letter, text in options.items())]),
        answer=correct,
        gold=(*calls, f'stop("{correct}")') if calls else (),
        metadata={
            "stem": question,
            "options": options,
            "annotations": [list(step) for step in steps],
            "flags": flags,
        },
    )


def _flags(options: Mapping[str, str], correct: str, rationale: str) -> list[str]:
    named = [letter.upper() for letter in _NAMED.findall(rationale)]
    texts = [_plain(text) for text in options.values()]
    found = {
        OTHER_OPTION: bool(named) and named[-1] != correct,
        TWINS: texts.count(_plain(options[correct])) > 1,
    }
    return [flag for flag, holds in found.items() if holds]


def _plain_signs(expression: str) -> str:
    """With `*` and `/`, without currency: as calls are written.

    >>> _plain_signs("($4 × 10)  ÷ 2")
    '(4 * 10) / 2'
    """
    return " ".join(expression.translate(str.maketrans("×÷", "*/", "$")).split())


def _calculations(question: str, rationale: str, option: str) -> list[tuple[str, str]]:
    """The equations of a rationale that re-execute, up to the first that gives the option's value, with
    their results. None of them if there is no such equation, or if one of them has a number from
    nowhere: the rationale is then told in words that no call shows."""
    wanted = answer_values(option)
    found: list[Calculation] = []
    texts: list[tuple[str, str]] = []
    for match in _EQUATION.finditer(rationale):
        expression, result = _plain_signs(match[1]), read_number(match[2])
        value = value_of(expression)
        if value is None or value != result:
            continue
        found.append(Calculation(parse(expression), value))
        texts.append((expression, show(value)))
        if value in wanted:
            return [] if unsourced(Plan(tuple(found), wanted), numbers_of(question)) else texts
    return []
