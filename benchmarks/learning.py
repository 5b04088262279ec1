"""Do better pairs teach better? One student, one budget of trained tokens, four ways to pair.

    python -m benchmarks.learning                       # 3 seeds, both tasks of the demo
    python -m benchmarks.learning --seeds 1 --tasks math

For each seed the demo runs once, with a first-error search, so that all ways pair the same chains. Then
DPO starts at the same model with the same settings, on pairs of whole chains, of single steps, of first
errors, and on a mixture, each cut (or repeated) to the same number of trained tokens; and each tuned
model solves the same held-out problems. All is kept in `build/learning`; called again, it goes on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from benchmarks.measure import machine, table

from rightcall.chain import ChainStore
from rightcall.compare import compare
from rightcall.config import RunConfig, load_config
from rightcall.evaluate import Evaluation, evaluate, load_evaluation
from rightcall.models.spec import open_model
from rightcall.pairs import PreferencePair, make_pairs, write_pairs
from rightcall.run import Place, run_all, tuned
from rightcall.stats import mean
from rightcall.task import load_task

ARMS: dict[str, dict[str, float]] = {
    "chain": {"chain": 1.0},
    "step": {"step": 1.0},
    "first_error": {"first_error": 1.0},
    "mixed": {"chain": 1.0, "step": 2.0, "first_error": 2.0, "repair": 1.0},
}
"""Name → weights of the pairing strategies."""


def places(config: RunConfig, root: Path) -> list[Place]:
    return [
        Place(run, load_task(run.task, **run.options), config.seed, root / config.name / name)
        for name, run in config.tasks.items()
    ]


def trained_tokens(pairs: Iterable[PreferencePair]) -> list[int]:
    """Of both sides of each pair: the tokens that the model itself said."""
    return [sum(len(turn or ()) for turn in (*pair.chosen_ids, *pair.rejected_ids)) for pair in pairs]


def cut(pairs: Sequence[PreferencePair], budget: int) -> tuple[list[PreferencePair], float]:
    """The first pairs that fill the budget of trained tokens; or all, if they are too few. And how
    often to go through them."""
    taken: list[PreferencePair] = []
    spent = 0
    for pair, tokens in zip(pairs, trained_tokens(pairs), strict=True):
        if spent >= budget:
            return taken, 1.0
        taken.append(pair)
        spent += tokens
    return taken, budget / max(1, spent)


def arm(place: Place, name: str, weights: dict[str, float], start: str, budget: int) -> dict[str, Any]:
    """Train and evaluate one way of pairing; what it took and what came out."""
    from rightcall.train.trainer import train

    folder = place.folder / "arms" / f"{start}-{budget}" / name
    chains = (
        c for role in ("teacher", "student", "search") for c in ChainStore(place.chains(role)).latest()
    )
    settings = place.settings.pairs.model_copy(update={"strategies": weights})
    pairs = list(make_pairs(chains, settings))
    taken, epochs = cut(pairs, budget)
    write_pairs(taken, folder / "pairs.jsonl", test=place.problems("test"))
    student = place.settings.models.student
    if start == "sft":
        student = tuned(student, place.kept("sft"))
    config = place.settings.train.dpo.model_copy(update={"strategies": ()})
    if epochs != 1:  # the last one in part
        steps = -(-len(taken) // (config.batch_size * config.accumulation))
        length = {"epochs": math.ceil(epochs), "max_steps": max(1, round(epochs * steps))}
        config = config.model_copy(update=length)
    started = time.monotonic()
    result = train(config, student.weights, folder / "pairs.jsonl", folder / "model")
    seconds = time.monotonic() - started
    spec = tuned(place.settings.models.student, folder / "model")
    problems = place.problems("test")
    with open_model(spec, problems) as model:
        made = evaluate(
            place.setting(f"{start} {name}"),
            model,
            problems,
            folder / "eval.jsonl",
            place.settings.evaluate,
        )
    (folder / "evaluation.json").write_text(made.model_dump_json())
    return {
        "pairs": len(taken),
        "of": len(pairs),
        "epochs": round(epochs, 1),
        "trained_tokens": round(epochs * sum(trained_tokens(taken))),
        "searched_tokens": _searched(place) if "first_error" in weights else 0,
        "seconds": round(seconds, 1) if result.seconds else None,
        "evaluation": made,
    }


def _searched(place: Place) -> int:
    """Tokens that the rollouts of the search sampled."""
    return sum(
        step.completion_tokens or 0
        for chain in ChainStore(place.chains("search")).latest()
        for step in chain.steps[chain.given_steps :]
    )


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    tasks: Annotated[str, typer.Option(help="Of the demo, comma-separated.")] = "fol,math",
    start: Annotated[
        str, typer.Option(help="Where DPO starts: base, or the SFT control (sft).")
    ] = "base",
    budget: Annotated[int, typer.Option(help="Trained tokens, both sides.")] = 12_000,
    rate: Annotated[float, typer.Option(help="Learning rate of DPO.")] = 3e-5,
    root: Annotated[Path, typer.Option()] = Path("build/learning"),
) -> None:
    """Run what is not done yet and print the table."""
    rows, record = [], []
    for seed in range(seeds):
        config = load_config(
            "examples/demo.toml",
            [
                f"name=demo-{seed}",
                f"seed={seed}",
                "search.rollouts=4",
                "search.chains=1",
                f"train.dpo.learning_rate={rate}",
            ],
        )
        chosen = {name: run for name, run in config.tasks.items() if name in tasks.split(",")}
        config = config.model_copy(update={"tasks": chosen})
        run_all(config, root)
        for place in places(config, root):
            found = {name: arm(place, name, weights, start, budget) for name, weights in ARMS.items()}
            before: Evaluation = load_evaluation(
                place.evaluation("base" if start == "base" else "control"),
                problems=place.problems("test"),
                budgets=place.settings.evaluate.budgets_for(place.task),
            )
            for name, made in found.items():
                after: Evaluation = made.pop("evaluation")
                view = compare(before, after).results[after.headline]
                record.append(
                    {
                        "seed": seed,
                        "task": place.folder.name,
                        "pairs from": name,
                        **made,
                        "accuracy": after.accuracy[after.headline].value,
                        "right_reason": after.right_reason[after.headline].value,
                        "gain": view.difference,
                        "low": view.low,
                        "high": view.high,
                        "invalid": after.invalid_call_rate,
                    }
                )
                rows.append(_row(record[-1]))
    typer.echo(table(HEAD, rows))
    typer.echo("\nMeans over seeds\n")
    typer.echo(table(("task", "pairs from", "accuracy", "right reason", "gain"), _means(record)))
    root.mkdir(parents=True, exist_ok=True)
    (root / f"learning-{start}.json").write_text(
        json.dumps({"machine": machine(), "rows": record}, indent=1)
    )


HEAD = (
    *("task", "seed", "pairs from", "accuracy %", "right reason %", "gain over start, points"),
    *("invalid calls %", "pairs", "epochs", "trained tokens", "searched tokens", "s"),
)


def _row(made: dict[str, Any]) -> tuple[object, ...]:
    gain, low, high = (f"{100 * made[key]:+.1f}" for key in ("gain", "low", "high"))
    return (
        *(made["task"], made["seed"], made["pairs from"]),
        *(f"{100 * made[key]:.1f}" for key in ("accuracy", "right_reason")),
        f"{gain} [{low}, {high}]",
        f"{100 * made['invalid']:.2f}",
        *(made[key] for key in ("pairs", "epochs", "trained_tokens", "searched_tokens", "seconds")),
    )


def _means(record: list[dict[str, Any]]) -> Iterable[tuple[object, ...]]:
    for task in dict.fromkeys(made["task"] for made in record):
        for name in ARMS:
            mine = [made for made in record if (made["task"], made["pairs from"]) == (task, name)]
            values = (mean([m[k] for m in mine]) for k in ("accuracy", "right_reason", "gain"))
            yield task, name, *(f"{100 * value:.1f}" for value in values)


if __name__ == "__main__":
    typer.run(main)
