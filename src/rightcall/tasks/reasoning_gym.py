"""The task `reasoning_gym`: any generator of the package `reasoning-gym`, scored with its own scorer
(Stojanovski et al. 2025, arXiv 2505.24760). The package is optional: `rightcall[reasoning-gym]`.

A generator makes its entry i from its seed + i, so neighbouring seeds share nearly all entries. Here
the splits draw from seeds far apart, and a hash of the question says to which split it belongs: a
question that two seeds lead to is still in one split only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import Any

from rightcall import sandbox
from rightcall.chain import Chain, Judgement, Problem, digest, seed_of
from rightcall.errors import CallError, ConfigError, EndlessSplit, MissingSplit, nearest
from rightcall.leaks import normalised
from rightcall.task import SPLITS, Proved, Refuted
from rightcall.tasks.math.numbers import read_number
from rightcall.tasks.math.task import ExactMath
from rightcall.tasks.math.word_problems import stop_call, value_of

_SEEDS = 2**30
"""Seeds of a split; those of all three are below 2 ** 32, the most that numpy takes."""
_TRAIN_PERCENT, _VALIDATION_PERCENT = 60, 20
_PATIENCE = 2000
"""Entries in a row without a new question after which a generator is taken to have no more."""
_SECONDS = 10.0
_MEMORY_MB = 1024


class ReasoningGymTask(ExactMath):
    """Problems of one of reasoning-gym's generators.

    It is named by `generator`; all other options are the generator's own
    settings (`max_terms=3`). The functions are those of the math tasks; a run chooses among them.
    """

    name = "reasoning_gym"
    instruction = "Solve the problem. Do each calculation with a function, then stop with the answer."
    default_subset = "calculator"
    proof = "answers that the generator's own scorer takes"

    def __init__(self, generator: str = "chain_sum", **settings: Any) -> None:
        try:
            from rightcall.tasks import gym_scoring
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "reasoning_gym":
                raise
            raise ConfigError(
                "the task reasoning_gym needs the package reasoning-gym",
                remedy='Install it: pip install "rightcall[reasoning-gym]"',
            ) from error
        self.generator = generator
        self.settings = json.dumps(settings, sort_keys=True)
        self.scoring = gym_scoring
        gym_scoring.dataset(generator, self.settings, 0)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """See `Task`. A generator does not end, so a count is needed; there are fewer where it has no
        more questions for a split, and a `MissingSplit` where it has none."""
        if split not in SPLITS:
            raise ConfigError("unknown split", value=split, remedy=nearest(split, SPLITS))
        if count is None:
            raise EndlessSplit(
                "reasoning_gym problems are generated without end", remedy="Say how many you want."
            )
        found = self._new(split, seed)
        first = list(islice(found, min(count, 1)))
        if count and not first:
            raise MissingSplit(
                f"{self.generator} has no {split} problems: it knows too few questions",
                remedy="Choose settings that give more.",
            )
        yield from first
        yield from islice(found, count - len(first))

    def _new(self, split: str, seed: int) -> Iterator[Problem]:
        """The questions that belong to a split, each once, in the order of its seeds."""
        width = _SEEDS - 2**24
        start = SPLITS.index(split) * _SEEDS + seed_of("reasoning_gym", self.generator, seed) % width
        seen: set[str] = set()
        idle = 0
        for entry in range(2**24):
            chunk, index = divmod(entry, self.scoring.CHUNK)
            problem = self._problem(start + chunk * self.scoring.CHUNK, index)
            key = normalised(problem.question)
            if key in seen or _split_of(key) != split:
                idle += 1
            else:
                idle = 0
                seen.add(key)
                yield problem
            if idle == _PATIENCE:
                return

    def _problem(self, seed: int, index: int) -> Problem:
        entry = self.scoring.dataset(self.generator, self.settings, seed)[index]
        question, answer = str(entry["question"]), str(entry["answer"])
        return Problem(
            id=f"{self.generator}-{digest(self.generator, question)}",
            question=question,
            answer=answer,
            gold=_gold(entry["metadata"].get("expression"), answer),
            metadata={"seed": seed, "index": index},
        )

    def score(self, problem: Problem, answer: str) -> float:
        """What the generator's scorer gives an answer, in [0, 1]; 0 where the scorer fails at it. Of a
        problem that no generator made, whether it has the gold answer's value."""
        if not {"seed", "index"} <= problem.metadata.keys():
            return float(super().verify(problem, answer))
        place = [problem.metadata["seed"], problem.metadata["index"]]
        try:
            found, _ = sandbox.run(
                self.scoring.score,
                [self.generator, self.settings, *place, answer],
                {},
                (),
                seconds=_SECONDS,
                memory_mb=_MEMORY_MB,
            )
        except (CallError, sandbox.Raised):  # a scorer may fail at what it was not written for
            return 0.0
        return min(max(float(found), 0.0), 1.0)

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether the scorer gives the full score; part of it is for what is only nearly right."""
        return self.score(problem, answer) >= 1

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """Nothing is known of the process; the score is a measure."""
        if chain.answer is None:
            return Judgement(measures={"score": 0.0})
        return Judgement(measures={"score": self.score(problem, chain.answer)})

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """Whether the scorer takes the generator's own answer; None where no generator made it."""
        if not {"seed", "index"} <= problem.metadata.keys():
            return None
        return Proved() if self.verify(problem, problem.answer) else Refuted("the scorer refuses it")


def _split_of(key: str) -> str:
    place = int.from_bytes(sha256(key.encode()).digest()[:4], "big") % 100
    if place < _TRAIN_PERCENT:
        return "train"
    return "validation" if place < _TRAIN_PERCENT + _VALIDATION_PERCENT else "test"


def _gold(expression: object, answer: str) -> tuple[str, ...]:
    """One calculation, for the generators that tell the expression behind a question."""
    number = read_number(answer)
    if not isinstance(expression, str) or number is None or value_of(expression) != number:
        return ()
    return (f"calculate({json.dumps(expression)})", stop_call(number))
