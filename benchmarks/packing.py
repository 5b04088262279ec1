"""How fast sequences become a prefix tree: raw tokens a second, on one core.

    python -m benchmarks.packing
    python -m benchmarks.packing --pairs runs/demo/fol/pairs.jsonl

`pack` is the tree alone, of arrays that are there. `batch` is all that a training does between its rows
and the model: arrays of the rows, their parts of `pack_tokens` at most, the tree and the tensors of
each. Peer of `pack`: the same tree token by token in dictionaries, as one would write it first. A run
is twenty problems of the same shape, or twenty times the pairs of a file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from benchmarks.dpo_step import SHAPES, Side, Source, made_up, pairs, rows_of
from benchmarks.measure import Figures, Run, machine, measured, median, ratio, table, write_json

from rightcall.train.batches import collate_tree, packs
from rightcall.train.config import TrainConfig
from rightcall.train.data import Row
from rightcall.train.packing import pack

PROBLEMS = 20
"""In each run: one takes a millisecond, and taken again and again it would lie in the caches."""


def packed(sides: list[Side]) -> Figures:
    """The tree alone."""
    made = pack(sides)
    return {"raw": made.raw, "unique": made.unique}


def batched(rows: list[Row]) -> Figures:
    """What a training does with the rows of a step before the model sees them."""
    most = TrainConfig().pack_tokens
    made = [collate_tree(rows, part) for part in packs(rows, range(len(rows)), most)]
    return {"raw": sum(b["raw"] for b in made), "unique": sum(b["computed"] for b in made)}


def dictionaries(sides: list[Side]) -> Figures:
    """A trie of dictionaries."""
    root: dict[int, Any] = {}
    count = 0
    for ids, _ in sides:
        node = root
        for token in ids.tolist():
            if token not in node:
                node[token] = {}
                count += 1
            node = node[token]
    return {"raw": sum(len(ids) for ids, _ in sides), "unique": count}


def each(work: Callable[[Any], Figures], problems: list[Any]) -> Figures:
    """All problems, one after the other, as a training has them."""
    made = [work(problem) for problem in problems]
    return {key: sum(figures[key] for figures in made) for key in ("raw", "unique")}


def compared(source: Source, rounds: int) -> dict[str, list[Run]]:
    """Every way to a tree, in turn."""
    if isinstance(source, str):
        problems = [list(pairs(source))] * PROBLEMS
    else:
        problems = [list(made_up(source, seed)) for seed in range(PROBLEMS)]
    sides = [[side for _, *both in made for side in both] for made in problems]
    rows = [list(rows_of(made)) for made in problems]
    runs: dict[str, list[Run]] = {"pack": [], "batch": [], "dictionaries": []}
    for _ in range(rounds):
        runs["pack"].append(measured(each, packed, sides))
        runs["batch"].append(measured(each, batched, rows))
        runs["dictionaries"].append(measured(each, dictionaries, sides))
    figures = [run.figures for made in runs.values() for run in made]
    if any(found != figures[0] for found in figures):
        raise SystemExit(f"the ways to a tree disagree: {figures}")
    return runs


def main(
    file: Annotated[Path | None, typer.Option("--pairs", help="Real pairs, too.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    out: Annotated[Path, typer.Option(help="Folder of the JSON file.")] = Path("build/benchmarks"),
) -> None:
    """Measure and print."""
    sources: dict[str, Source] = {"high": SHAPES["high"], "low": SHAPES["low"]}
    if file is not None:
        sources["real"] = str(file)
    runs = {name: compared(source, rounds) for name, source in sources.items()}
    lines = []
    for name, made in runs.items():
        raw, unique = (made["pack"][0].figures[key] for key in ("raw", "unique"))
        pack_speed, batch_speed = (raw / median(made[way], "cpu") / 1e6 for way in ("pack", "batch"))
        times = ratio(made["dictionaries"], made["pack"], "cpu")
        lines.append((name, raw, unique, pack_speed, times, batch_speed))
    head = ("pairs", "raw tokens", "unique", "pack, M tokens/s", "x dictionaries", "batch, M tokens/s")
    typer.echo(machine()["cpu"])
    typer.echo(table(head, lines))
    flat = {f"{name}: {way}": made[way] for name, made in runs.items() for way in made}
    write_json(out / "packing.json", "packing", flat, problems=PROBLEMS)


if __name__ == "__main__":
    typer.run(main)
