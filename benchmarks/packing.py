"""How fast sequences become a prefix tree: raw tokens a second, on one core.

    python -m benchmarks.packing
    python -m benchmarks.packing --pairs runs/demo/fol/pairs.jsonl

Peer: building the same tree token by token in dictionaries, as one would write it first.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from benchmarks.dpo_step import SHAPES, Side, Source, pairs
from benchmarks.measure import machine, table

from rightcall.train.packing import pack


def dictionaries(sides: list[Side]) -> int:
    """Unique tokens, by a trie of dictionaries."""
    root: dict[int, Any] = {}
    count = 0
    for ids, _ in sides:
        node = root
        for token in ids.tolist():
            if token not in node:
                node[token] = {}
                count += 1
            node = node[token]
    return count


def main(
    file: Annotated[Path | None, typer.Option("--pairs", help="Real pairs, too.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 9,
) -> None:
    """Measure and print."""
    sources: dict[str, Source] = {"high": SHAPES["high"], "low": SHAPES["low"]}
    if file is not None:
        sources["real"] = str(file)
    rows = []
    for name, source in sources.items():
        sides = [side for _, chosen, rejected in pairs(source) for side in (chosen, rejected)]
        ours, theirs = [], []
        for _ in range(rounds):
            started = time.process_time()
            packed = pack(sides)
            ours.append(time.process_time() - started)
            started = time.process_time()
            unique = dictionaries(sides)
            theirs.append(time.process_time() - started)
        assert unique == packed.unique
        best, peer = statistics.median(ours), statistics.median(theirs)
        rows.append((name, packed.raw, packed.unique, packed.raw / best / 1e6, peer / best))
    typer.echo(machine()["cpu"])
    typer.echo(table(("pairs", "raw tokens", "unique", "million raw tokens/s", "x dictionaries"), rows))


if __name__ == "__main__":
    typer.run(main)
