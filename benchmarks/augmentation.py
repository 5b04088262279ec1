"""What does augmentation bring? One student, one budget of trained tokens, with it and without.

    python -m benchmarks.augmentation                       # 3 seeds, both tasks of the demo
    python -m benchmarks.augmentation --seeds 1 --tasks math

For each seed a few problems are collected on as in the demo. Then the student is trained as in the demo
(SFT on whole chains, DPO on single steps from there) on pairs of the chains as they are, of these and
one family of operations, and of these and all, each cut (or repeated) to as many trained tokens. Every
model solves the same held-out problems with the functions as the task shows them, and some of them with
the functions in other orders, and in other orders under other names. All is kept in
`build/augmentation`; called again, it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from benchmarks.learning import places
from benchmarks.measure import machine, table

from rightcall.augment import AugmentConfig, augment, load_operation, original_of
from rightcall.chain import Chain, ChainStore, Problem
from rightcall.compare import compare
from rightcall.config import load_config
from rightcall.evaluate import Evaluation, evaluate, summarise
from rightcall.functions import FunctionSet
from rightcall.models.spec import ModelSpec, open_model
from rightcall.models.weights import load_tokenizer
from rightcall.pairs import PreferencePair, make_pairs, write_pairs
from rightcall.pairs.pair import words_of_model
from rightcall.run import STAGES, Place, tuned
from rightcall.stats import mean

FAMILIES: dict[str, tuple[str, ...]] = {
    "off": (),
    "problems": ("rename", "permute", "distract", "negate", "rewrite", "renumber"),
    "functions": ("shuffle_functions", "rename_functions", "drop_functions", "add_functions"),
    "corruptions": (
        *("wrong_function", "wrong_argument", "skipped_step"),
        *("early_stop", "ignored_observation", "unparsable_call"),
    ),
}
ARMS = (*FAMILIES, "all")
SHOWN_OTHERWISE: dict[str, tuple[str, ...]] = {
    "shuffled": ("shuffle_functions",),
    "shown": ("rename_functions", "shuffle_functions"),
}
"""View → what is done to the functions, beside the view "plain" of the functions as they are."""
SETS = 4
"""Other function sets that the held-out problems of such a view are spread over."""


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    problems: int = 60
    """Training problems."""
    tests: int = 200
    tests_otherwise: int = 60
    """Of these, with functions shown otherwise: chains that fail there use up their budget."""
    sft_tokens: int = 12_000
    """Trained tokens of the chosen chains."""
    dpo_tokens: int = 8_000
    """Trained tokens, both sides."""


def operations(place: Place, arm: str) -> dict[str, float]:
    """Of an arm: every operation of its families that the task has, twice a problem."""
    families = list(FAMILIES) if arm == "all" else [arm]
    known = {**place.task.operations}
    names = [n for family in families for n in FAMILIES[family]]
    return {n: 2.0 for n in names if n in known or n not in FAMILIES["problems"]}


def augmented(place: Place, arm: str, folder: Path) -> list[Path]:
    """The files of chains that an arm pairs."""
    files = [place.chains("teacher"), place.chains("student")]
    wanted = operations(place, arm)
    if not wanted:
        return files
    made = folder / "augmented.jsonl"
    if not made.exists():
        report = augment(
            place.task,
            place.task.function_set(place.settings.functions),
            place.problems("train"),
            _chains(files),
            AugmentConfig(operations=wanted, seed=place.seed),
            made,
            test=[*place.problems("validation"), *place.problems("test")],
        )
        (folder / "augment.json").write_text(report.model_dump_json(indent=1))
    return [*files, made]


def _chains(files: Sequence[Path]) -> Iterator[Chain]:
    for file in files:
        yield from ChainStore(file).latest()


def cut(
    pairs: Sequence[PreferencePair], budget: int, place: Place, sides: Sequence[str]
) -> tuple[list[PreferencePair], int]:
    """The first pairs that fill the budget of trained tokens, and how often to go through them."""
    tokenizer = load_tokenizer(place.settings.models.student.weights)
    taken: list[PreferencePair] = []
    spent = 0
    for pair in pairs:
        if spent >= budget:
            return taken, 1
        taken.append(pair)
        words = [word for side in sides for word in words_of_model(getattr(pair, side))]
        spent += sum(len(tokenizer.encode(word, add_special_tokens=False)) + 1 for word in words)
    return taken, max(1, round(budget / max(1, spent)))


def arm(place: Place, name: str, amounts: Amounts) -> dict[str, Any]:
    """Train and evaluate one arm; what it took and what came out."""
    from rightcall.train.trainer import train

    folder = place.folder / "arms" / name
    folder.mkdir(parents=True, exist_ok=True)
    files = augmented(place, name, folder)
    student = place.settings.models.student
    start, counts = student, {}
    for method, strategy, budget, sides in (
        ("sft", "chain", amounts.sft_tokens, ("chosen",)),
        ("dpo", "step", amounts.dpo_tokens, ("chosen", "rejected")),
    ):
        settings = place.settings.pairs.model_copy(
            update={"strategies": {strategy: 1.0}, "mix_sources": True}
        )
        pairs = list(make_pairs(_chains(files), settings))
        taken, epochs = cut(pairs, budget, place, sides)
        write_pairs(taken, folder / f"{method}.pairs.jsonl", test=place.problems("test"))
        config = getattr(place.settings.train, method).model_copy(
            update={"strategies": (), "epochs": epochs}
        )
        out = folder / method
        train(config, start.weights, folder / f"{method}.pairs.jsonl", out, adapter=start.adapter)
        start = tuned(student, out)
        counts[method] = (len(taken), len(pairs), epochs)
    return {"counts": counts, **measured(place, start, folder, amounts)}


def measured(place: Place, spec: ModelSpec, folder: Path, amounts: Amounts) -> dict[str, Any]:
    """A model with the functions as they are, and as they never were."""
    problems = place.problems("test")[: amounts.tests]
    with open_model(spec, problems) as model:
        plain = evaluate(
            place.setting("arm"), model, problems, folder / "eval.jsonl", place.settings.evaluate
        )
        made = {"plain": plain}
        problems = problems[: amounts.tests_otherwise]
        for view, names in SHOWN_OTHERWISE.items():
            chains: list[Chain] = []
            for number, functions in enumerate(shown_otherwise(place, problems, names)):
                setting = replace(place.setting("arm"), functions=functions)
                path = folder / f"{view}-{number}.jsonl"
                evaluate(setting, model, problems[number::SETS], path, place.settings.evaluate)
                chains += ChainStore(path).latest()
            budgets = place.settings.evaluate.budgets_for(place.task)
            made[view] = summarise(chains, problems=problems, budgets=budgets)
    return made


def shown_otherwise(
    place: Place, problems: Sequence[Problem], names: Sequence[str]
) -> list[FunctionSet]:
    """The task's functions after these operations."""
    made = []
    for number in range(SETS):
        rng = Random(f"shown otherwise {place.seed} {number}")
        functions = place.task.function_set(place.settings.functions)
        for name in names:
            original = original_of(place.task, functions, problems[number])
            functions = load_operation(place.task, name)(original, rng).functions or functions
        made.append(functions)
    return made


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    tasks: Annotated[str, typer.Option(help="Of the demo, comma-separated.")] = "fol,math",
    problems: Annotated[int, typer.Option(help="Training problems.")] = Amounts.problems,
    root: Annotated[Path, typer.Option()] = Path("build/augmentation"),
) -> None:
    """Run what is not done yet and print the tables."""
    amounts = Amounts(problems=problems)
    record: list[dict[str, Any]] = []
    for seed in range(seeds):
        config = load_config("examples/demo.toml", [f"name=demo-{seed}", f"seed={seed}"])
        chosen = {name: run for name, run in config.tasks.items() if name in tasks.split(",")}
        for name, run in chosen.items():
            wanted = run.problems.model_copy(update={"train": amounts.problems})
            chosen[name] = run.model_copy(update={"problems": wanted})
        for place in places(config.model_copy(update={"tasks": chosen}), root):
            for stage in ("problems", "collect teacher", "collect student"):
                STAGES[stage](place)
            base = measured(place, place.settings.models.student, place.folder / "base", amounts)
            record.append(_row(seed, place, "base", {}, base, {}))
            before = {"base": base}
            for name in ARMS:
                made = arm(place, name, amounts)
                record.append(_row(seed, place, name, before, made, made["counts"]))
                before.setdefault("off", made)
                typer.echo(f"{seed} {place.folder.name} {name}: {record[-1]}", err=True)
    typer.echo(table(HEAD, [tuple(row[key] for key in HEAD) for row in record]))
    typer.echo("\nMeans over seeds\n")
    typer.echo(table(MEANS, list(_means(record))))
    (root / "augmentation.json").write_text(
        json.dumps({"machine": machine(), "rows": record}, indent=1)
    )


HEAD = (
    *("task", "seed", "chains", "accuracy %", "right reason %", "gain over base, points"),
    *("gain over off",),
    *("other order %", "gain there", "other names %", "gain with them", "SFT rows", "DPO rows"),
)
MEANS = ("task", "chains", "accuracy %", "right reason %", "other order %", "other names %")


def _row(
    seed: int,
    place: Place,
    name: str,
    before: dict[str, dict[str, Any]],
    made: dict[str, Any],
    counts: dict[str, tuple[int, int, int]],
) -> dict[str, Any]:
    plain: Evaluation = made["plain"]

    def gain(view: str, over: str = "base") -> str:
        if over not in before:
            return ""
        found = compare(before[over][view], made[view]).results[made[view].headline]
        return f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"

    def accuracy(view: str) -> str:
        found: Evaluation = made[view]
        return f"{100 * found.accuracy[found.headline].value:.1f}"

    rows = {m: f"{taken} of {there}, {epochs} times" for m, (taken, there, epochs) in counts.items()}
    return {
        "task": place.folder.name,
        "seed": seed,
        "chains": name,
        "accuracy %": accuracy("plain"),
        "right reason %": f"{100 * plain.right_reason[plain.headline].value:.1f}",
        "gain over base, points": gain("plain"),
        "gain over off": gain("plain", "off"),
        "other order %": accuracy("shuffled"),
        "gain there": gain("shuffled"),
        "other names %": accuracy("shown"),
        "gain with them": gain("shown"),
        "SFT rows": rows.get("sft", ""),
        "DPO rows": rows.get("dpo", ""),
    }


def _means(record: Sequence[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for task in dict.fromkeys(row["task"] for row in record):
        for name in ("base", *ARMS):
            mine = [row for row in record if (row["task"], row["chains"]) == (task, name)]
            yield task, name, *(f"{mean([float(row[key]) for row in mine]):.1f}" for key in MEANS[2:])


if __name__ == "__main__":
    typer.run(main)
