"""The task `multiarith`: arithmetic word problems in two steps (Roy and Roth 2015, arXiv 1608.01413).

Read from local files (JSON lines or a list, a question with a number as its answer) or from the hub
(`ChilleD/MultiArith`). The data says nothing of how an answer is reached. Where exactly one calculation
with the question's numbers gives it, that one becomes the gold chain: a good guess, though nobody has
confirmed it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rightcall.chain import Problem
from rightcall.leaks import normalised
from rightcall.tasks.math.augmentation import renumber
from rightcall.tasks.math.numbers import read_number, show
from rightcall.tasks.math.renaming import rename
from rightcall.tasks.math.search import only_plan
from rightcall.tasks.math.word_problems import WordProblems, stop_call, value_of
from rightcall.tasks.reading import DataSet, Hub, Record, no_problem, problem_id

_QUESTION = ("question", "input")
_ANSWER = ("final_ans", "target", "answer")


class MultiArithTask(WordProblems):
    """Arithmetic word problems of two steps and more (MultiArith, Roy and Roth 2015).

    `path` is a folder with a training and a test file, or one file; without it the data
    set is loaded from the hub. Of one file a fifth is test and a tenth validation, by a hash of the
    template: 120 texts make the 600 problems, with other numbers and names, and those of one text are
    in one split. (The hub's splits share them.) `search=False` does without gold chains.
    """

    name = "multiarith"
    operations = {"renumber": renumber, "rename": rename}

    def __init__(self, path: str | None = None, search: bool = True) -> None:
        data = DataSet.at(
            path,
            name="multiarith",
            read=lambda record, place: problem_of(record, place, search=search),
            files={"train": ["train.json*", "multiarith.json*"], "test": ["test.json*"]},
            hub=Hub("ChilleD/MultiArith"),
            shares={"validation": 10, "test": 20},
        )
        self.data = data if data.has("test") else replace(data, group=_template)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """The seed orders the problems, so that `count` draws a sample."""
        return self.data.problems(split, count, seed)

    def report(self, problems: Sequence[Problem]) -> dict[str, int | float]:
        """How many gold chains there are, all of them found by search."""
        found = sum(bool(problem.gold) for problem in problems)
        share = found / len(problems) if problems else 0.0
        return {"gold chains found by search, confirmed by nobody": found, "share of problems": share}


def _template(problem: Problem) -> str:
    """A question without its numbers and names."""
    text = re.sub(r"\b[A-Z]\w*('s)?", "Name", re.sub(r"\d+", "0", problem.question))
    return normalised(text)


def problem_of(record: Record, place: str, *, search: bool = True) -> Problem:
    """A problem from a record of the data set; `place` names it in errors."""
    given = record if isinstance(record, dict) else {}
    question = next((given[name] for name in _QUESTION if isinstance(given.get(name), str)), "").strip()
    answer = next((str(given[name]) for name in _ANSWER if given.get(name) is not None), "")
    number = read_number(answer)
    if not question or number is None:
        raise no_problem(place, "MultiArith", record, "Needed are a 'question' and its 'final_ans'")
    steps = (only_plan(question, number) or ()) if search else ()
    calls = [f'calculate("{step}")' for step in steps]
    return Problem(
        id=problem_id("multiarith", question),
        question=question,
        answer=show(number),
        gold=(*calls, stop_call(number)) if calls else (),
        metadata={
            "annotations": [[step, show(value)] for step in steps if (value := value_of(step))],
            "searched": bool(calls),
        },
    )
