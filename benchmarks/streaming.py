"""How fast do chains become pairs, and in how much memory?

    python -m benchmarks.streaming            100,000 and 1,000,000 chains
    python -m benchmarks.streaming --quick    5,000 and 50,000
    python -m benchmarks.streaming --chains 200000

Chains are those that the shipped student (three of four) and teacher make of the longer problems of
`math`, at temperature 1, again and again under other keys, ids and questions, in the order in which a
collection of 64 problems at a time would leave them. In the set `collected` as many problems have both
right and wrong chains as those models leave, about a quarter; of the others the heads of the lines are
enough. In `contrast` every problem has both: all chains have to be read, and most make two pairs.

Each size is run in a process of its own that does what `pairs make` does: read the file, write the
pairs, and read these for their statistics. The peak is that of this process. Times are CPU times.

The machine-readable record is `build/benchmarks/streaming.json`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from benchmarks.measure import Contestant, Figures, Run, Work, median, table, write_json

from rightcall.chain import Chain, ChainFiles
from rightcall.models import Sampling
from rightcall.models.spec import open_model
from rightcall.pairs import (
    PairConfig,
    PreferencePair,
    make_pairs,
    pair_statistics,
    read_pairs,
    write_pairs,
)
from rightcall.rollout import Setting, collect
from rightcall.stats import mean
from rightcall.task import load_task

SEED_PROBLEMS = 200
ROLES = {"student": 12, "teacher": 4}
SAMPLES = sum(ROLES.values())
HOPS = 5
"""Of the problems: their chains have about six steps."""
AT_ONCE = 64
STRATEGIES = {"chain": 1.0, "step": 1.0}
"""Those of a run."""


def seed_chains(folder: Path) -> list[Chain]:
    """Real chains, collected once."""
    task = load_task("math")
    problems = (p for p in task.problems("train", 40 * SEED_PROBLEMS) if (p.difficulty or 0) >= HOPS)
    chosen = list(islice(problems, SEED_PROBLEMS))
    for role, samples in ROLES.items():
        setting = Setting(task, task.function_set(None), role, Sampling(temperature=1.0))
        with open_model(f"tiny:{role}") as model:
            store = collect(setting, model, chosen, samples, folder / "seed.jsonl")
    return list(store.latest())


@dataclass(frozen=True)
class Template:
    """A chain's line without what tells it from others: key, id, end of the question."""

    parts: tuple[bytes, bytes, bytes, bytes]

    @classmethod
    def of(cls, chain: Chain) -> Template:
        system, user = chain.prompt
        marked = chain.model_copy(
            update={
                "key": "<KEY>",
                "problem_id": f"{chain.problem_id}-<ID>",
                "prompt": (system, {**user, "content": f"{user['content']} (<QUESTION>)"}),
            }
        )
        text = marked.model_dump_json().encode() + b"\n"
        before, rest = text.split(b"<KEY>")
        middle, rest = rest.split(b"<ID>")
        question, end = rest.split(b"<QUESTION>")
        return cls((before, middle, question, end))

    def line(self, key: int, number: int) -> bytes:
        before, middle, question, end = self.parts
        said = b"%d" % number
        return b"".join((before, b"%016x" % key, middle, said, question, said, end))


def by_problem(chains: Iterable[Chain]) -> list[list[Chain]]:
    found: dict[str, list[Chain]] = {}
    for chain in chains:
        found.setdefault(chain.problem_id, []).append(chain)
    return list(found.values())


def contrasting(problems: list[list[Chain]]) -> list[list[Chain]]:
    """Those that have both right and wrong chains."""
    return [some for some in problems if len({c.right_for_the_right_reason for c in some}) == 2]


def write_chains(path: Path, seed: list[list[Chain]], count: int, per_problem: int) -> None:
    """So many chains, as a collection leaves them: those of a problem near one another."""
    templates = [[Template.of(chain) for chain in some] for some in seed]
    rng = random.Random(0)
    with path.open("wb") as file:
        for start in range(0, count, AT_ONCE * per_problem):
            chosen = [
                (some[sample % len(some)], number)
                for number, sample in (
                    divmod(i, per_problem)
                    for i in range(start, min(count, start + AT_ONCE * per_problem))
                )
                for some in [templates[number % len(templates)]]
            ]
            rng.shuffle(chosen)
            file.writelines(t.line(rng.getrandbits(64), number) for t, number in chosen)


class Timed:
    """An iterable with the time that it took itself, to the first item and in all."""

    def __init__(self, items: Iterator[PreferencePair]) -> None:
        self._items = items
        self.first = self.all = 0.0

    def __iter__(self) -> Iterator[PreferencePair]:
        while True:
            started = time.process_time()
            item = next(self._items, None)
            self.all += time.process_time() - started
            self.first = self.first or self.all
            if item is None:
                return
            yield item


def pairing() -> Work:
    import rightcall.stats  # noqa: F401  loads scipy: a second that is not the chains'

    def work(chains: str, out: str, count: int) -> Figures:
        made = Timed(make_pairs(ChainFiles([chains]), PairConfig(strategies=STRATEGIES)))
        started = time.process_time()
        pairs = write_pairs(made, out)
        ended = time.process_time()
        pair_statistics(read_pairs(out))
        return {
            "chains": count,
            "bytes": Path(chains).stat().st_size,
            "pairs": pairs,
            "reading heads, s": made.first,
            "making pairs, s": made.all - made.first,
            "writing pairs, s": ended - started - made.all,
            "statistics, s": time.process_time() - ended,
        }

    return work


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A twentieth of it.")] = False,
    chains_of: Annotated[
        list[int] | None, typer.Option("--chains", min=1, help="A size of its own; may be repeated.")
    ] = None,
    per_problem: Annotated[int, typer.Option(min=2, help="Chains of a problem.")] = SAMPLES,
    rounds: Annotated[int, typer.Option(min=1)] = 1,
    folder: Annotated[Path, typer.Option()] = Path("build/streaming"),
    out: Annotated[Path, typer.Option()] = Path("build/benchmarks/streaming.json"),
) -> None:
    """Measure and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    collected = by_problem(seed_chains(folder))
    runs: dict[str, list[Run]] = {}
    sizes = chains_of or ((5_000, 50_000) if quick else (100_000, 1_000_000))
    for name, seed in (("collected", collected), ("contrast", contrasting(collected))):
        for count in sizes:
            chains, pairs = folder / "chains.jsonl", folder / "pairs.jsonl"
            write_chains(chains, seed, count, per_problem)
            made = runs[f"{name} {count:,}"] = []
            for _ in range(rounds):
                with Contestant(name, pairing) as contestant:
                    made.append(contestant.run(str(chains), str(pairs), count))
            chains.unlink()
            pairs.unlink()
    write_json(
        out, "streaming", runs, per_problem=per_problem, strategies=STRATEGIES,
        steps=mean([len(chain.steps) for some in collected for chain in some]),
    )  # fmt: skip
    typer.echo(table(HEAD, rows(runs)))


PARTS: tuple[str, ...] = ("reading heads, s", "making pairs, s", "writing pairs, s", "statistics, s")
HEAD = ("chains", "MB", "pairs", "chains per CPU-second", "with statistics", "peak MiB", *PARTS)


def rows(runs: dict[str, list[Run]]) -> Iterator[tuple[object, ...]]:
    for name, made in runs.items():
        chains, parts = median(made, "chains"), [median(made, part) for part in PARTS]
        yield (
            name,
            median(made, "bytes") / 1e6,
            median(made, "pairs"),
            chains / sum(parts[:3]),
            chains / sum(parts),
            median(made, "peak_mb"),
            *parts,
        )


if __name__ == "__main__":
    typer.run(main)
