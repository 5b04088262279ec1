"""The recipe: tokenizer, corpora, pretraining of teacher and student, model cards.

Run it with `python -m rightcall.tiny`. What a stage makes is kept in the work folder, and the stage
is skipped when it is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from rightcall.chain import Outcome, Problem
from rightcall.models import Sampling
from rightcall.models.local import LocalModel
from rightcall.rendering import Rendered, Renderer
from rightcall.rollout import Budget, Job, Setting, rollouts
from rightcall.task import PRESETS, Task, load_task
from rightcall.tasks.fol import generator
from rightcall.tiny import corpus
from rightcall.tiny.pretrain import Shape, new_model, pretrain
from rightcall.tiny.tokenizer import train_tokenizer

SEED = 20_261_122
"""Of the corpus. The demo draws its problems with other seeds, and its test problems from the
test split, which shares no question with the train split used here."""
VOCABULARY = 1536
SHAPES = {
    "teacher": Shape(hidden=192, layers=4, heads=6, intermediate=512),
    "student": Shape(hidden=128, layers=4, heads=4, intermediate=384),
}
TASKS: dict[str, dict[str, Any]] = dict(PRESETS.values())
"""The options under which the tiny models know their tasks."""
THEORIES, STORIES = TASKS["fol"], TASKS["math"]
CORPORA = {  # name: task, rows, sentences at most, mistakes
    "fol-short": ("fol", 9_000, 5, False),
    "fol-full": ("fol", 20_000, 12, False),
    "math": ("math", 24_000, 0, False),
    "fol-mistakes": ("fol", 5_000, 12, True),
    "math-mistakes": ("math", 6_000, 0, True),
}

PHASES = {  # model: (name, corpora, million tokens, peak learning rate, final share of it)
    "teacher": (
        ("short", ("fol-short", "math"), 1.3, 3e-3, 0.8),
        ("full", ("fol-full", "math"), 3.2, 2.4e-3, 0.0),
        ("more", ("fol-full", "fol-full", "math"), 2.0, 2e-3, 0.0),
    ),
    "student": (
        ("short", ("fol-short", "math"), 1.6, 4e-3, 0.8),
        ("full", ("fol-full", "math"), 4.0, 3.2e-3, 0.1),
        ("more", ("fol-full", "fol-full", "math"), 2.6, 2.4e-3, 0.1),
        ("mistakes", ("fol-mistakes", "math-mistakes"), 0.6, 1e-3, 0.0),
    ),
}


MEASURED_ON = 200
"""Validation problems of each task behind the figures of a model card."""


def problems(task: Task, count: int, sentences: int, seed: int) -> Iterator[Problem]:
    """Train problems for a corpus; theories are unproved here: `corpus.rows` runs every chain, and
    drops those that do not reach their label."""
    if task.name == "math":
        return load_task("math", **STORIES).problems("train", count, seed)
    size = generator.Size(max_sentences=sentences, **THEORIES)
    return (generator.generate(seed, "train", i, size=size, provers=0) for i in range(count))


def build_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(_texts(), VOCABULARY).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _texts() -> Iterator[str]:
    for name in ("fol", "math"):
        task = load_task(name)
        made = (
            task.problems("train", 4_000, SEED) if name == "math" else problems(task, 4_000, 12, SEED)
        )
        for problem in made:
            yield from (problem.question, *problem.gold)
        for shown in task.function_set():
            yield from [shown.help, task.instruction] * 50


def build_corpus(name: str, folder: Path, renderer: Renderer) -> list[Rendered]:
    path = folder / f"{name}.npz"
    if not path.exists():
        task_name, count, sentences, mistakes = CORPORA[name]
        task = load_task(task_name)
        seed = SEED + list(CORPORA).index(name)
        started = time.monotonic()
        chosen = problems(task, count, sentences, seed)
        _save(path, list(corpus.rows(task, chosen, renderer, mistakes=mistakes, seed=seed)))
        print(f"corpus {name}: {time.monotonic() - started:.0f} s", flush=True)
    return _load(path)


def _save(path: Path, rows: Sequence[Rendered]) -> None:
    np.savez_compressed(
        path,
        ids=np.concatenate([np.array(row.ids, dtype=np.uint16) for row in rows]),
        trained=np.concatenate([np.array(row.trained) for row in rows]),
        lengths=np.array([len(row.ids) for row in rows]),
    )


def _load(path: Path) -> list[Rendered]:
    with np.load(path, allow_pickle=False) as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        ids, trained = np.split(stored["ids"], ends), np.split(stored["trained"], ends)
    return [Rendered(tuple(i.tolist()), tuple(t.tolist())) for i, t in zip(ids, trained, strict=True)]


def build_model(name: str, folder: Path, renderer: Renderer) -> LlamaForCausalLM:
    """All phases of a model; each is kept as `NAME-PHASE` in the folder and skipped if there."""
    model = new_model(SHAPES[name], renderer.tokenizer, SEED)
    for number, (phase, corpora, millions, rate, final) in enumerate(PHASES[name]):
        kept = folder / f"{name}-{phase}"
        if kept.exists():
            model = LlamaForCausalLM.from_pretrained(kept)
            continue
        rows = [row for part in corpora for row in build_corpus(part, folder, renderer)]
        pretrain(
            model,
            rows,
            int(millions * 1e6),
            rate=rate,
            final=final,
            batch_tokens=4096,
            seed=SEED + number,
            name=f"{name} {phase}",
            dtype=torch.float32,  # so that any processor can make the shipped weights again
        )
        model.save_pretrained(kept)
        renderer.tokenizer.save_pretrained(kept)

    return model


def ship(name: str, model: LlamaForCausalLM, renderer: Renderer, output: Path, seed: int = 7) -> str:
    """Write a model as the package ships it (float16 safetensors, tokenizer, card); its measures."""
    folder = output / name
    model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    renderer.tokenizer.save_pretrained(folder)
    measured = {task: _measure(folder, task, seed) for task in TASKS}
    (folder / "README.md").write_text(_card(name, model, measured), encoding="utf-8")
    return f"{name}: {measured}"


def _measure(folder: Path, name: str, seed: int) -> dict[str, float]:
    """Greedy rollouts on validation problems."""
    task = load_task(name, **TASKS[name])
    setting = Setting(
        task, task.function_set(), "card", Sampling(max_tokens=96), Budget(steps=20, tokens=1024)
    )
    with LocalModel.load(folder) as model:
        jobs = [Job(problem) for problem in task.problems("validation", MEASURED_ON, seed)]
        chains = list(rollouts(setting, model, jobs))
    return {
        "right answers": sum(c.outcome is Outcome.CORRECT for c in chains) / len(chains),
        "and right for the right reason": sum(c.right_for_the_right_reason for c in chains)
        / len(chains),
        "calls that failed": sum(len(c.failures) for c in chains) / sum(len(c.steps) for c in chains),
    }


def _card(name: str, model: LlamaForCausalLM, measured: dict[str, dict[str, float]]) -> str:
    environment = Environment(
        loader=PackageLoader("rightcall.tiny", "."), undefined=StrictUndefined, autoescape=False
    )
    erring = any("mistakes" in part for _, parts, *_ in PHASES[name] for part in parts)
    return environment.get_template("card.md.jinja").render(
        name=name,
        parameters=model.num_parameters(),
        shape=SHAPES[name],
        vocabulary=model.config.vocab_size,
        families=len(STORIES["families"]),
        phases=PHASES[name],
        count=MEASURED_ON,
        measured=measured,
        mistakes=[
            (task, (mistake.__doc__ or "").strip(), share)
            for task in TASKS
            for mistake, share in corpus.MISTAKES[task]
        ]
        if erring
        else [],
    )


def build(work: Path, output: Path) -> None:
    """Everything, from nothing. What stands in `work` already is not made again."""
    work.mkdir(parents=True, exist_ok=True)
    renderer = Renderer(build_tokenizer(work / "tokenizer"))
    for name in SHAPES:
        model = build_model(name, work, renderer)
        print(ship(name, model, renderer, output), flush=True)
