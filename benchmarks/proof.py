"""The proof on real problems: chains that large models left behind tune a student of two million
parameters.

    python -m benchmarks.proof --data FOLDER          # about two hours
    python -m benchmarks.proof --data FOLDER --quick  # every stage, minutes, figures of no meaning

FOLDER holds `proofwriter/dev.json` and `prontoqa/*.jsonl` (problems) and
`recorded/logic_lm_proofwriter_*.jsonl` (what GPT-4, GPT-3.5 and text-davinci-003 wrote for the
ProofWriter problems); `docs/proof.md` says where they come from. What a stage made is kept in the work
folder, and the stage is skipped when it is there.

    base      pretrained on generated theories (task `rules`), at the end with typical mistakes
    recorded  the programs of the large models, executed again as chains, on the problems to learn from
    own       the student's own chains on the same problems and on generated ones
    prompted  the base before its last step, without the mistakes: evaluated only
    control   SFT of the base on all right chains
    tuned     DPO from the control on single steps, right against wrong, its own and the recorded ones
    test      half of ProofWriter's theories and all of PrOntoQA, of which nothing was trained
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
import typer
from benchmarks.measure import machine, table
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rightcall.chain import Chain, ChainStore, Problem
from rightcall.compare import RIGHT_REASON, Comparison, compare
from rightcall.dialects import DIALECTS, conversation
from rightcall.evaluate import EvaluateConfig, Evaluation, evaluate
from rightcall.importing import import_chains, load_importer, read_logs
from rightcall.models import Sampling
from rightcall.models.spec import ModelSpec, open_model
from rightcall.pairs import PairConfig, make_pairs, write_pairs
from rightcall.rendering import Rendered, Renderer
from rightcall.rollout import Budget, Setting, collect
from rightcall.stats import mean
from rightcall.task import Task
from rightcall.tasks.rules import ProntoQaTask, ProofWriterTask, RulesTask
from rightcall.tasks.rules.theories import invented
from rightcall.tiny import corpus
from rightcall.tiny.pretrain import Shape, new_model, pretrain
from rightcall.tiny.tokenizer import SPECIAL_TOKENS, with_chat_template
from rightcall.train.trainer import TrainConfig, train

Views = dict[str, float]
SEED = 4_101
MADE_UP = 0.6
"""Share of the generated theories with invented words."""
KINDS = ("traits", "relations", "kinds", "kinds")
"""Of generated theories: the last have the most words to copy."""
SHAPE = Shape(hidden=192, layers=4, heads=6, intermediate=512)


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    short: int = 24_000
    """Theories of 2 to 6 sentences that pretraining begins with."""
    full: int = 8_000
    """Theories of 6 to 24 sentences."""
    mistaken: int = 4_000
    """Theories of any size, read with mistakes."""
    words: int = 4_000
    """Theories whose words become tokens."""
    short_tokens: float = 5e6
    full_tokens: float = 7e6
    prompted_tokens: float = 2e6
    """Of any size, behind the functions' descriptions, which are left out before."""
    mistaken_tokens: float = 0.6e6
    generated: int = 400
    """Generated problems that the student's own chains are collected on, besides ProofWriter's."""
    samples: int = 2
    """Chains of the student per problem."""
    on_policy: int = 100
    """Problems of each kind that the control's own chains are collected on."""
    limit: int | None = None
    """Of ProofWriter's training problems, and of each set of test problems."""


QUICK = Amounts(
    short=60,
    full=30,
    mistaken=30,
    words=1_000,
    short_tokens=4e4,
    full_tokens=4e4,
    prompted_tokens=2e4,
    mistaken_tokens=2e4,
    generated=12,
    samples=2,
    limit=12,
)

# --- tokenizer ------------------------------------------------------------------------------------

_FUNCTION_WORDS = (
    "a all an and are do does each every if is it not people some someone something the then they"
    " things"
).split()
_INNER = "|".join(_FUNCTION_WORDS)
_FIRST = "|".join(word.capitalize() for word in _FUNCTION_WORDS)
_ES, _S = "(?<=.s|.x|.z|ch|sh)es", "(?<![usy])s"
_SPLIT = "|".join(
    (
        rf"\b(?:{_FIRST})(?: (?:{_INNER}))*\b ",  # "If something is "
        rf"(?: (?:{_INNER})\b)+ ?",  # " is not "
        r"forall [a-z] \(",
        r"\([a-z]\)",
        r"\([a-z], ",
        r"\d",
        # A plural's ending is one token with what follows it: no letter within a word looks like it.
        rf"(?<=[A-Za-z])(?:ies|ys|{_ES}|{_S})(?:(?: (?:{_INNER})\b)+ ?|[.,][ \n]?|[ \n])",
        # A stem is the same tokens in singular and plural: "like" "s", "wumpus" "es", "hors" "e",
        # "butterfl" "y", "butterfl" "ies", "monke" "ys".
        rf"[A-Za-z]{{2,}}?(?=(?:ies|ys?|{_ES}?|{_S})\b)|[A-Za-z]+",
        r" ?[^\sA-Za-z0-9]+[ \n]?",
        r"\s",
    )
)
RARE = 40
"""A word that our theories have less often is spelled, too, and so is one that only the prompt has."""
PIECES = 500
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def build_tokenizer(folder: Path, theories: int) -> PreTrainedTokenizerBase:
    """Words that our own vocabulary has are one token each, any other is spelled letter by letter: so
    all that is to be copied is copied by the same few tokens."""
    if not (folder / "tokenizer.json").exists():
        _made_tokenizer(theories).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _made_tokenizer(theories: int) -> PreTrainedTokenizerFast:
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts: Counter[str] = Counter()
    for text in _theories(theories):
        counts.update(piece for piece, _ in split.pre_tokenize_str(text))
    for text in _prompt():
        found = (piece for piece, _ in split.pre_tokenize_str(text) if not piece.isalpha())
        counts.update(dict.fromkeys(found, RARE))
    whole = [piece for piece, times in sorted(counts.items()) if times >= RARE and len(piece) > 1]
    spelled = Tokenizer(models.BPE())
    rng = Random(SEED)
    spelled.train_from_iterator(
        (invented(rng) for _ in range(40_000)),
        trainers.BpeTrainer(
            vocab_size=len(ALPHABET) + PIECES,
            initial_alphabet=ALPHABET,
            max_token_length=4,
            show_progress=False,
        ),
    )
    learned = json.loads(spelled.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    listed = [*SPECIAL_TOKENS, *pieces, *whole]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(listed))}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return with_chat_template(tokenizer)


def _theories(count: int) -> Iterator[str]:
    for problem in RulesTask(made_up=0.0).problems("train", count, SEED):
        yield from (problem.question, *problem.gold, *problem.metadata["sentences"])


def _prompt() -> Iterator[str]:
    task = RulesTask()
    yield task.instruction
    yield from (shown.help for shown in task.function_set())


# --- the base -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """A part of pretraining."""

    rows: Callable[[], list[Rendered]]
    tokens: float
    rate: float
    final: float
    """Share of the rate at the end."""
    with_system: bool = True


def build_base(work: Path, amounts: Amounts) -> Path:
    """Pretrained on gold chains of generated theories, short ones first; at the end on chains in which
    typical mistakes were carried out (see `rightcall.tiny.corpus.MISTAKES`)."""
    renderer = Renderer(build_tokenizer(work / "tokenizer", amounts.words))
    rows = cache(partial(_rows, renderer))

    def of_any_size() -> list[Rendered]:
        return rows(amounts.short, (2, 6), 1) + 2 * rows(amounts.full, (6, 24), 2)

    phases = {
        "short": Phase(lambda: rows(amounts.short, (2, 6), 1), amounts.short_tokens, 4e-3, 0.8, False),
        "full": Phase(of_any_size, amounts.full_tokens, 3.2e-3, 0.5, False),
        "prompted": Phase(of_any_size, amounts.prompted_tokens, 1.6e-3, 0.05),
        "base": Phase(
            lambda: rows(amounts.mistaken, (2, 24), 3, mistakes=True),
            amounts.mistaken_tokens,
            1e-3,
            0.0,
        ),
    }
    model = new_model(SHAPE, renderer.tokenizer, SEED)
    for number, (name, phase) in enumerate(phases.items()):
        if (work / name / "config.json").exists():
            model = LlamaForCausalLM.from_pretrained(work / name)
            continue
        pretrain(
            model,
            phase.rows(),
            int(phase.tokens),
            rate=phase.rate,
            final=phase.final,
            batch_tokens=4096,
            seed=number + 1,
            name=name,
            with_system=phase.with_system,
        )
        renderer.tokenizer.save_pretrained(work / name)
        model.save_pretrained(work / name)
    return work / "base"


def _rows(
    renderer: Renderer, count: int, sentences: tuple[int, int], seed: int, *, mistakes: bool = False
) -> list[Rendered]:
    task = RulesTask(sentences=sentences, made_up=MADE_UP, kinds=KINDS)
    problems = task.problems("train", count, SEED + seed)
    return list(corpus.rows(task, problems, renderer, mistakes=mistakes, seed=SEED + seed))


# --- chains and training --------------------------------------------------------------------------


BUDGET = Budget(steps=32, tokens=2048)


def chains_of(
    spec: ModelSpec,
    wanted: Sequence[tuple[Task, Sequence[Problem]]],
    samples: int,
    path: Path,
    seed: int,
) -> None:
    """The student's own chains, at temperature 1."""
    for task, problems in wanted:
        setting = Setting(task, task.function_set(), "student", Sampling(max_tokens=96), BUDGET, seed)
        with open_model(spec, problems) as model:
            collect(setting, model, problems, samples, path)


def right_ones(paths: Iterable[Path], file: Path) -> int:
    """Every right chain (answer and process) once, as messages for SFT."""
    dialect = DIALECTS["python"]
    seen: set[str] = set()
    with file.open("w", encoding="utf-8") as out:
        for chain in _chains(paths):
            if chain.right_for_the_right_reason:
                messages = conversation(chain.prompt, chain.steps, dialect)
                seen.add(json.dumps({"messages": list(messages[:-1])}))
        out.writelines(f"{line}\n" for line in sorted(seen))
    return len(seen)


def _chains(paths: Iterable[Path]) -> Iterator[Chain]:
    for path in paths:
        yield from ChainStore(path).latest()


def spec_of(folder: Path, name: str, threads: int) -> ModelSpec:
    return ModelSpec(model=str(folder), name=name, capacity=128, threads=threads)


# --- the command ----------------------------------------------------------------------------------


def main(
    data: Annotated[Path, typer.Option(help="The folder of problems and recorded programs.")],
    work: Annotated[Path, typer.Option()] = Path("build/proof"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(min=1, help="More help little at this size.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Little of everything.")] = False,
    ship_to: Annotated[
        Path | None, typer.Option("--ship", help="Where the tuned model goes, in half precision.")
    ] = None,
) -> None:
    """Run what is not done yet and print the tables."""
    typer.echo(prove(data, work, seed, threads, QUICK if quick else Amounts()))
    if ship_to is not None:
        ship(work / f"seed-{seed}", ship_to)


def prove(data: Path, work: Path, seed: int, threads: int, amounts: Amounts) -> str:
    """All stages; the tables."""
    torch.set_num_threads(threads)
    clock = Clock()
    work.mkdir(parents=True, exist_ok=True)
    base = build_base(work, amounts)
    clock.done("base")

    proofwriter = ProofWriterTask(_dev(data), shares={"validation": 10, "test": 50})
    prontoqa = ProntoQaTask(str(data / "prontoqa"), shares={"test": 100})
    rules = RulesTask(made_up=MADE_UP, kinds=KINDS)
    learned = list(proofwriter.problems("train", amounts.limit, seed))
    generated = list(rules.problems("train", amounts.generated, SEED + 10 + seed))
    tests: dict[str, tuple[Task, list[Problem]]] = {
        task.name: (task, list(task.problems("test", amounts.limit, seed)))
        for task in (proofwriter, prontoqa)
    }
    _check_leaks([*learned, *generated], [p for _, problems in tests.values() for p in problems])

    recorded = work / "recorded.jsonl"
    logs = sorted((data / "recorded").glob("logic_lm_proofwriter_*.jsonl"))
    import_chains(read_logs(load_importer("logic_lm"), logs), proofwriter, learned, recorded)
    clock.done("recorded")

    runs = work / f"seed-{seed}"
    runs.mkdir(exist_ok=True)
    wanted = [(proofwriter, learned), (rules, generated)]
    own = runs / "base.chains.jsonl"
    chains_of(spec_of(base, "base", threads), wanted, amounts.samples, own, seed)
    clock.done("own chains of the base")
    rows = right_ones([recorded, own], runs / "right.jsonl")
    sft = TrainConfig(method="sft", tune="full", learning_rate=2e-4, epochs=2, batch_size=16, seed=seed)
    control = train(sft, base, runs / "right.jsonl", runs / "control").output
    clock.done(f"SFT on {rows} right chains")

    on_policy = runs / "control.chains.jsonl"
    some = [(task, problems[: amounts.on_policy]) for task, problems in wanted]
    chains_of(spec_of(control, "control", threads), some, amounts.samples, on_policy, seed)
    clock.done("own chains of the control")
    settings = PairConfig(strategies={"step": 1.0}, mix_sources=True, max_per_problem=4, seed=seed)
    made = write_pairs(
        make_pairs(_chains([recorded, own, on_policy]), settings),
        runs / "pairs.jsonl",
        test=[p for _, problems in tests.values() for p in problems],
    )
    dpo = TrainConfig(tune="full", learning_rate=1e-5, batch_size=8, seed=seed)
    tuned = train(dpo, control, runs / "pairs.jsonl", runs / "tuned").output
    clock.done(f"DPO on {made} pairs")

    roles = {"prompted": work / "prompted", "base": base, "control": control, "tuned": tuned}
    found = {
        (task.name, role): _evaluation(task, problems, spec_of(folder, role, threads), runs, role)
        for task, problems in tests.values()
        for role, folder in roles.items()
    }
    clock.done("evaluation")
    teachers = _teachers(proofwriter, tests[proofwriter.name][1], logs, work / "recorded.test.jsonl")
    (runs / "proof.json").write_text(
        json.dumps(
            {
                "machine": machine(),
                "seconds": clock.seconds,
                "learned": len(learned),
                "teachers": teachers,
                "results": [
                    {"task": task, "role": role, **_figures(made)}
                    for (task, role), made in found.items()
                ],
                "gains": [
                    _against_base(found, task, role).model_dump()
                    for task, role in found
                    if role != "base"
                ],
            },
            indent=1,
        )
    )
    return _tables(found, teachers, clock, base)


def _dev(data: Path) -> str:
    """Of the two names that the folder is known by, the one that is there."""
    folders = [data / name for name in ("proofwriter", "proofwriter_owa_d5")]
    return str(next((f for f in folders if f.is_dir()), folders[0]) / "dev.json")


def _check_leaks(training: Sequence[Problem], test: Sequence[Problem]) -> None:
    """No theory is trained and tested."""
    trained = {tuple(sorted(problem.metadata["sentences"])) for problem in training}
    shared = [p.id for p in test if tuple(sorted(p.metadata["sentences"])) in trained]
    if shared:
        raise SystemExit(f"theories in training and test: {shared[:5]}")


def _evaluation(
    task: Task, problems: Sequence[Problem], spec: ModelSpec, folder: Path, role: str
) -> Evaluation:
    setting = Setting(task, task.function_set(), role)
    config = EvaluateConfig(budgets=(BUDGET.steps,), max_tokens=96, tokens=BUDGET.tokens)
    with open_model(spec, problems) as model:
        return evaluate(setting, model, problems, folder / f"{task.name}.{role}.jsonl", config)


def _teachers(
    task: Task, problems: Sequence[Problem], logs: Sequence[Path], path: Path
) -> list[dict[str, Any]]:
    """What the recorded models did on the test problems."""
    import_chains(read_logs(load_importer("logic_lm"), logs), task, problems, path)
    by_model: dict[str, list[Chain]] = {}
    for chain in ChainStore(path).latest():
        by_model.setdefault(chain.model, []).append(chain)
    return [
        {
            "model": name,
            "problems": len(chains),
            "accuracy": sum(c.outcome == "correct" for c in chains) / len(chains),
            "exact": sum(bool(c.judgement.process_correct) for c in chains) / len(chains),
        }
        for name, chains in sorted(by_model.items())
    ]


def _figures(made: Evaluation) -> dict[str, Any]:
    view = made.headline
    return {
        "problems": len(made.scores),
        "accuracy": made.accuracy[view].value,
        "right_reason": made.right_reason[view].value,
        "invalid": made.invalid_call_rate,
    }


def _parts(made: Evaluation) -> Iterator[tuple[str, tuple[list[Views], list[Views]]]]:
    """PrOntoQA's two sets of problems: answers and right reasons by problem."""
    if made.task != "prontoqa":
        return
    for part, of_part in (("made-up kinds", True), ("real kinds", False)):
        own = [s for s in made.scores if s.problem_id.startswith("ProntoQA") == of_part]
        if own:
            yield part, ([s.correct for s in own], [s.right_reason for s in own])


def _against_base(found: dict[tuple[str, str], Evaluation], task: str, role: str) -> Comparison:
    return compare(found[task, "base"], found[task, role])


def _tables(
    found: dict[tuple[str, str], Evaluation],
    teachers: Sequence[dict[str, Any]],
    clock: Clock,
    base: Path,
) -> str:
    rows, gains = [], []
    for (task, role), made in found.items():
        own = _figures(made)
        shares = [f"{100 * own[key]:.1f}" for key in ("accuracy", "right_reason", "invalid")]
        rows.append((task, role, own["problems"], *shares))
        for part, scores in _parts(made):
            right = (f"{100 * mean([s[made.headline] for s in view]):.1f}" for view in scores)
            rows.append((f"{task}, {part}", role, len(scores[0]), *right, ""))
        if role != "base":
            results = _against_base(found, task, role).results
            for what, view in (("answer", made.headline), (RIGHT_REASON, RIGHT_REASON)):
                gains.append((task, role, what, str(results[view]), f"{results[view].wilcoxon_p:.0e}"))
    head = ("task", "model", "problems", "accuracy %", "right reason %", "invalid calls %")
    recorded = [
        (one["model"], one["problems"], f"{100 * one['accuracy']:.1f}", f"{100 * one['exact']:.1f}")
        for one in teachers
    ]
    parameters = LlamaForCausalLM.from_pretrained(base).num_parameters()
    return "\n".join(
        (
            f"\n{parameters:,} parameters\n",
            table(head, rows),
            "\nGains over the base\n",
            table(("task", "model", "what", "difference", "Wilcoxon p"), gains),
            "\nThe recorded models on the same ProofWriter problems\n",
            table(("model", "problems", "accuracy %", "exact formalisation %"), recorded),
            "\nSeconds\n",
            table(("stage", "s"), list(clock.seconds.items())),
        )
    )


CARD = """---
license: apache-2.0
library_name: transformers
---
# RightCall tiny rules

A Llama of {parameters:,} parameters ({layers} layers, hidden size {hidden}, vocabulary {vocabulary}).
It writes the controlled English of ProofWriter and PrOntoQA as formulas, sentence by sentence, and lets
`goal` decide: the tasks `rules`, `proofwriter` and `prontoqa`, and nothing else.

Pretrained on theories that RightCall generates itself, then fine-tuned (SFT, then DPO on single steps)
on right and wrong chains: programs that GPT-4, GPT-3.5 and text-davinci-003 wrote for {learned}
ProofWriter problems (recorded by Logic-LM, MIT), executed again, and its own chains on these problems
and on generated ones. No text of PrOntoQA was trained on.

Greedy, with at most {steps} steps, on problems whose theories were not trained on, in percent:

| task | problems | right answers | and every sentence as gold | calls that failed |
|---|---|---|---|---|
{rows}

Made by `python -m benchmarks.proof --data FOLDER --ship FOLDER`. Licence: Apache-2.0.
"""


def ship(runs: Path, folder: Path) -> None:
    """The tuned model as the package ships it: float16 safetensors, tokenizer, card."""
    model = LlamaForCausalLM.from_pretrained(runs / "tuned")
    model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(runs / "tuned").save_pretrained(folder)
    made = json.loads((runs / "proof.json").read_text())
    figures = [one for one in made["results"] if one["role"] == "tuned"]
    rows = "\n".join(
        f"| {one['task']} | {one['problems']} | "
        + " | ".join(f"{100 * one[key]:.1f}" for key in ("accuracy", "right_reason", "invalid"))
        + " |"
        for one in figures
    )
    card = CARD.format(
        parameters=model.num_parameters(),
        layers=SHAPE.layers,
        hidden=SHAPE.hidden,
        vocabulary=model.config.vocab_size,
        learned=made["learned"],
        steps=BUDGET.steps,
        rows=rows,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


class Clock:
    """Seconds per stage of this call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def done(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 1)
        self._last = now
        typer.echo(f"{stage}: {self.seconds[stage]} s", err=True)


if __name__ == "__main__":
    typer.run(main)
