"""How many word problems of GSM8K get other numbers, why the others do not, and a sample to read.

    python -m benchmarks.renumbering --data FOLDER             FOLDER has gsm8k/train.jsonl
    python -m benchmarks.renumbering --data FOLDER --sample 100 --seed 7

Every problem of the file is tried once, with its gold chain. What counts as renumbered was executed in
the agent loop with the new numbers, judged by the task, and held against its proof. Whether the new
problem makes sense only a reader can tell: the sample is drawn, by the seed, from all that were
renumbered, and the seed draws the numbers, too.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.measure import table

from rightcall.augment import Made, Rejected, carry_out, original_of
from rightcall.chain import Problem, seed_of
from rightcall.task import Task, load_task
from rightcall.tasks.math.augmentation import renumber


@dataclass(frozen=True)
class Renumbered:
    """A problem before and after."""

    old: Problem
    new: Problem

    def __str__(self) -> str:
        calls = [" ; ".join(problem.gold) for problem in (self.old, self.new)]
        return f"before: {self.old.question}\n  {calls[0]}\nafter:  {self.new.question}\n  {calls[1]}\n"


def renumbered(task: Task, problem: Problem, seed: int) -> Made:
    """The variant of a problem. Raises `Rejected`."""
    original = original_of(task, task.function_set(), problem)
    if not original.chains:
        raise Rejected("no calculation is known")
    rng = Random(seed_of("renumbering", seed, problem.id))
    return carry_out(original, "renumber", renumber, rng)


def problems_of(task: Task) -> Iterator[Problem]:
    """All of the training file: a part of it is the task's validation split."""
    yield from task.problems("train")
    yield from task.problems("validation")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    task = load_task("gsm8k", path=str(options.data / "gsm8k" / "train.jsonl"))
    rejected: Counter[str] = Counter()
    found: list[Renumbered] = []
    for problem in problems_of(task):
        try:
            found.append(Renumbered(problem, renumbered(task, problem, options.seed).problem))
        except Rejected as reason:
            rejected[str(reason)] += 1
    total = len(found) + rejected.total()
    rows: list[Sequence[object]] = [("renumbered", len(found), f"{len(found) / total:.1%}")]
    rows += [(why, count, f"{count / total:.1%}") for why, count in rejected.most_common()]
    print(table(["GSM8K, training file", "problems", "share"], rows))
    sample = Random(options.seed).sample(found, min(options.sample, len(found)))
    for number, one in enumerate(sample, 1):
        print(f"\n{number}. {one}", end="")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k/train.jsonl")
    parser.add_argument("--sample", type=int, default=50, help="how many are printed")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
