"""What do on-policy rounds bring? Rounds 0 to 3 from one first training, by what each is held to.

    python -m benchmarks.rounds                       # 3 seeds, both tasks of the demo
    python -m benchmarks.rounds --seeds 1 --tasks math --start sft

For each seed the demo runs up to its DPO training, which is round 0. From there the best model so far
collects chains, is trained on the pairs they make, and is measured on the validation problems, until a
round does not help; once held to the model before (`previous`), once to the one that round 0 began with
(`base`). Every round's model solves the same held-out problems. All is kept in `build/rounds`; called
again, it goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from benchmarks.learning import places
from benchmarks.measure import machine, table

from rightcall.compare import compare
from rightcall.config import Rounds, load_config
from rightcall.evaluate import Evaluation, evaluate
from rightcall.models.spec import open_model
from rightcall.run import STAGES, Place, Round, tuned

REFERENCES = ("previous", "base")


def first_training(place: Place) -> None:
    """Every stage up to the choice of the DPO checkpoint, once."""
    if (place.folder / "selection.json").exists() and "dpo" in place.selections():
        return
    for stage in STAGES.values():
        stage(place)


def with_rounds(place: Place, reference: str, count: int) -> Place:
    """A copy of a place whose rounds are held to that, with its rounds done."""
    folder = place.folder.with_name(f"{place.folder.name}-{reference}")
    if not folder.exists():
        shutil.copytree(place.folder, folder)
    rounds = Rounds(count=count, reference=reference)
    settings = place.settings.model_copy(update={"rounds": rounds})
    other = replace(place, settings=settings, folder=folder)
    for number in range(1, count + 1):
        if f"round {number}" not in other.selections():
            for stage in Round(number).stages().values():
                typer.echo(stage(other), err=True)
    return other


def measured(place: Place, name: str) -> Evaluation:
    """The model that a training kept, on the held-out problems."""
    problems = place.problems("test")
    spec = tuned(place.settings.models.student, place.kept(name))
    path = place.folder / "rounds.eval" / f"{name}.jsonl"
    with open_model(spec, problems) as model:
        return evaluate(place.setting(name), model, problems, path, place.settings.evaluate)


def rows_of(seed: int, place: Place, reference: str) -> Iterator[dict[str, Any]]:
    before = measured(place, "dpo")
    for name in ("dpo", *(n for n in place.selections() if n.startswith("round"))):
        made = measured(place, name)
        view = compare(before, made).results[made.headline]
        kept = place.selections()[name].kept
        gain = f"{100 * view.difference:+.1f} [{100 * view.low:+.1f}, {100 * view.high:+.1f}]"
        yield {
            "task": place.folder.name.partition("-")[0],
            "seed": seed,
            "held to": reference,
            "round": 0 if name == "dpo" else int(name.removeprefix("round ")),
            "validation, right reason": str(kept.right_reason),
            "test accuracy %": f"{100 * made.accuracy[made.headline].value:.1f}",
            "test right reason %": f"{100 * made.right_reason[made.headline].value:.1f}",
            "gain over round 0, points": "" if name == "dpo" else gain,
            "kept": "*" if name == place.best() else "",
        }


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    tasks: Annotated[str, typer.Option(help="Of the demo, comma-separated.")] = "fol,math",
    start: Annotated[
        str, typer.Option(help="Where round 0 starts: base, or the control (sft).")
    ] = "base",
    rate: Annotated[float, typer.Option(help="Learning rate of DPO.")] = 3e-5,
    count: Annotated[int, typer.Option(min=1, help="Rounds after the first training.")] = 3,
    root: Annotated[Path, typer.Option()] = Path("build/rounds"),
) -> None:
    """Run what is not done yet and print the table."""
    record: list[dict[str, Any]] = []
    for seed in range(seeds):
        changes = [
            *(f"name=demo-{start}-{seed}", f"seed={seed}", f"train.dpo_from={start}"),
            f"train.dpo.learning_rate={rate}",
        ]
        config = load_config("examples/demo.toml", changes)
        chosen = {name: run for name, run in config.tasks.items() if name in tasks.split(",")}
        for place in places(config.model_copy(update={"tasks": chosen}), root):
            first_training(place)
            for reference in REFERENCES:
                record += rows_of(seed, with_rounds(place, reference, count), reference)
                typer.echo(table(tuple(record[-1]), [tuple(record[-1].values())]), err=True)
    typer.echo(table(tuple(record[0]), [tuple(row.values()) for row in record]))
    (root / f"rounds-{start}.json").write_text(
        json.dumps({"machine": machine(), "rows": record}, indent=1)
    )


if __name__ == "__main__":
    typer.run(main)
