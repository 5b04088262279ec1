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
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from rightcall.chain import Problem
from rightcall.rendering import Rendered, Renderer
from rightcall.task import Task, load_task
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
THEORIES: dict[str, Any] = {"words": 32, "made_up": 0.0}
"""A small vocabulary: copying words never seen is the hard part at this size."""
STORIES: dict[str, Any] = {
    "families": (
        "shopping savings sharing travel discount profit garden tickets comparison packing wages"
        " reading"
    ).split(),
    "steps": (2, 5),
}
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
    ),
    "student": (
        ("short", ("fol-short", "math"), 1.6, 4e-3, 0.8),
        ("full", ("fol-full", "math"), 4.0, 3.2e-3, 0.1),
        ("mistakes", ("fol-mistakes", "math-mistakes"), 0.8, 1e-3, 0.0),
    ),
}


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
        )
        model.save_pretrained(kept)
        renderer.tokenizer.save_pretrained(kept)

    return model
