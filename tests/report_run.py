"""A run folder as the stages leave it, with hand-made chains: what the report's tests read."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rightcall.chain import (
    Call,
    Chain,
    ChainStore,
    Judgement,
    Message,
    Observation,
    Origin,
    Outcome,
    Problem,
    Step,
    StopReason,
    digest,
)
from rightcall.conduct import CounterfactualPlan, ShownFunction
from rightcall.conduct.counterfactual import OPERATION
from rightcall.errors import FailureKind
from rightcall.evaluate import (
    Candidate,
    Circumstances,
    Selection,
    circumstances_path,
    counterfactual_path,
)
from rightcall.functions import Role
from rightcall.rate import Rate

SKILL = {"base": 0.56, "teacher": 0.93, "control": 0.86, "tuned": 0.92}
"""Share of problems of middle difficulty a role solves."""

Written = tuple[str, str] | tuple[str, str, FailureKind]


def make_run(
    folder: Path, *, count: int = 60, tasks: Sequence[str] = ("fol", "math"), seed: int = 0
) -> Path:
    """All files of a finished run on `count` problems a task."""
    budgets = "\n".join(f"[tasks.{t}.evaluate]\nbudgets = [10, 20]\n" for t in tasks)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(f'name = "demo"\nseed = {seed}\n\n{budgets}')
    for task in tasks:
        _make_task(folder / task, task, count, random.Random(f"{task}/{seed}"))
    return folder


def _make_task(folder: Path, task: str, count: int, rng: random.Random) -> None:
    make = _fol if task == "fol" else _math
    made = [make(i, rng) for i in range(count)]
    folder.mkdir()
    lines = [p.model_dump_json() for p, _, _ in made]
    (folder / "problems.test.jsonl").write_text("\n".join(lines) + "\n")
    for role in SKILL:
        greedy = [_chain(task, role, 0, p, good, bad, rng) for p, good, bad in made]
        ChainStore(folder / "eval" / f"{role}.jsonl").append(greedy)
        drawn = [_chain(task, role, s, p, good, bad, rng) for p, good, bad in made for s in range(4)]
        ChainStore(folder / "eval" / f"{role}.samples.jsonl").append(drawn)
        _probes(folder / "eval" / f"{role}.jsonl", greedy)
    _training(folder, rng)


def _chain(
    task: str,
    role: str,
    sample: int,
    problem: Problem,
    good: Sequence[Written],
    bad: Sequence[Written],
    rng: random.Random,
) -> Chain:
    easier = 0.08 * (3 - (problem.difficulty or 3))
    right = rng.random() < SKILL[role] + easier
    written = good if right else bad
    slow = not right and rng.random() < 0.25
    steps = [_step(*w) for w in written]
    if rng.random() < (0.2 if role == "base" else 0.05):
        wrong = (
            "premise(cold(x)",
            "Error: the call does not parse ('(' was never closed): "
            "'premise(cold(x)'. Write name(argument, ...) with literal arguments.",
            FailureKind.UNPARSABLE,
        )
        steps.insert(min(1, len(steps) - 1), _step(*wrong))
    if slow:
        filler = _step('think("I should look again.")', "noted")
        steps = [*steps[:-1], *[filler] * 20][:20]
    process = rng.random() < (0.75 if role == "base" else 0.96)
    return Chain(
        key=digest(task, role, sample, problem.id),
        task=task,
        problem_id=problem.id,
        sample=sample,
        source=role,
        model="tiny:teacher" if role == "teacher" else f"runs/demo/{task}/{role}",
        seed=0,
        prompt=(
            Message(role="system", content=SYSTEM[task]),
            Message(role="user", content=problem.question),
        ),
        steps=tuple(steps),
        stop_reason=StopReason.STEP_BUDGET if slow else StopReason.STOPPED,
        answer=None if slow else steps[-1].observation.text,
        outcome=Outcome.CORRECT if right else Outcome.INCORRECT,
        judgement=Judgement(
            process_correct=right and process,
            evidence=() if right and process else ("premise 2 is not equivalent to the gold formula",),
            measures={"exact_formalisations": 1.0 if right and process else rng.choice([0.6, 0.8])},
        ),
        difficulty=problem.difficulty,
    )


def _probes(path: Path, greedy: Sequence[Chain]) -> None:
    """The first eight chains went on from a replaced last result: a few did not look, one slipped."""
    stopped = [chain for chain in greedy if chain.answer is not None][:8]
    went_on = [_replaced(chain, index) for index, chain in enumerate(stopped)]
    ChainStore(counterfactual_path(path)).append(went_on)
    plan = CounterfactualPlan(
        looked_at=9, probes=tuple(c.key for c in went_on), left_out={"stopped without an answer": 1}
    )
    shown = [ShownFunction(name=n, role=Role.SOLVE, stateful=n == "premise") for n in SHOWN]
    made = Circumstances(functions=tuple(shown), counterfactual=plan)
    circumstances_path(path).write_text(made.model_dump_json())


def _replaced(chain: Chain, index: int) -> Chain:
    at = len(chain.steps) - 2
    answer = ("1234", chain.answer, "nothing")[(index > 4) + (index > 6)]
    seen = chain.steps[at].observation.model_copy(update={"text": "1234"})
    steps = (
        *chain.steps[:at],
        chain.steps[at].model_copy(update={"observation": seen}),
        _step(f'stop("{answer}")', str(answer)),
    )
    measures = {"follows": float(index <= 4), "unchanged": float(4 < index <= 6)}
    return chain.model_copy(
        update={
            "key": digest("probe", chain.key),
            "steps": steps,
            "given_steps": at + 1,
            "answer": answer,
            "outcome": Outcome.INCORRECT,
            "origin": Origin(operation=OPERATION, parent=chain.key, root=chain.problem_id),
            "judgement": Judgement(measures=measures, evidence=("the model reads 1234 there",)),
        }
    )


def _step(reply: str, observation: str, failure: FailureKind | None = None) -> Step:
    call = (
        None
        if failure
        else Call(name=reply.split("(")[0], args=(reply[reply.index("(") + 1 : -1].strip("'\""),))
    )
    return Step(
        reply=reply,
        call=call,
        observation=Observation(text=observation, failure=failure),
        prompt_tokens=180,
        completion_tokens=len(reply) // 3 + 1,
    )


SHOWN = ("premise", "goal", "decide", "add", "subtract", "multiply", "stop")
SYSTEM = {
    "fol": "Decide whether the statement follows from the text. Formalise every sentence, state "
    "the goal, have the prover decide, then stop.\nReply with one function call at a time.\n"
    "Functions:\n"
    "premise(formula: str): Record a premise. Example: premise('cold(Anne)') -> premise 1: cold(Anne)\n"
    "goal(formula: str): State what is to be decided.\ndecide(): Ask the prover."
    "\nstop(answer: str): End.",
    "math": "Solve the problem step by step.\nReply with one function call at a time.\nFunctions:\n"
    "multiply(a: float, b: float): Multiply two numbers. Example: multiply(2, 3) -> 6\n"
    "stop(answer): End.",
}


def _fol(index: int, rng: random.Random) -> tuple[Problem, list[Written], list[Written]]:
    names, words = (
        ["Anne", "Bob", "Charlie", "Dave", "Fiona"],
        ["cold", "smart", "kind", "quiet", "rough", "young"],
    )
    who, hops = rng.choice(names), rng.randint(1, 5)
    chain = rng.sample(words, min(6, hops + 1))
    rules = list(pairwise(chain))
    text = [f"{who} is {chain[0]}."] + [f"All {a} people are {b}." for a, b in rules]
    question = " ".join(text) + f" True, False or Unknown: {who} is {chain[-1]}."
    good: list[Written] = [(f'premise("{chain[0]}({who})")', f"premise 1: {chain[0]}({who})")]
    for number, (a, b) in enumerate(rules, 2):
        good.append(
            (f'premise("forall x ({a}(x) -> {b}(x))")', f"premise {number}: ∀x ({a}(x) → {b}(x))")
        )
    good.append((f'goal("{chain[-1]}({who})")', f"goal: {chain[-1]}({who})"))
    good += [("decide()", "entailed: the goal follows from the premises"), ('stop("True")', "True")]
    bad = list(good)
    a, b = rules[-1]
    bad[len(rules)] = (
        f'premise("forall x ({b}(x) -> {a}(x))")',
        f"premise {len(rules) + 1}: ∀x ({b}(x) → {a}(x))",
    )
    bad[-2:] = [
        ("decide()", f"undecided: a world where {who} is not {chain[-1]} fits every premise"),
        ('stop("Unknown")', "Unknown"),
    ]
    return (
        Problem(id=f"fol-test-0-{index}", question=question, answer="True", difficulty=hops),
        good,
        bad,
    )


def _math(index: int, rng: random.Random) -> tuple[Problem, list[Written], list[Written]]:
    boxes, each, sold, price = (
        rng.randint(3, 9),
        rng.randint(6, 24),
        rng.randint(2, 12),
        rng.randint(2, 9),
    )
    question = (
        f"A baker fills {boxes} boxes with {each} rolls each, eats {sold} of them "
        "and "
        f"sells the rest for {price} dollars a roll. How many dollars does the baker earn?"
    )
    total, left = boxes * each, boxes * each - sold
    good: list[Written] = [
        (f"multiply({boxes}, {each})", str(total)),
        (f"subtract({total}, {sold})", str(left)),
        (f"multiply({left}, {price})", str(left * price)),
        (f'stop("{left * price}")', str(left * price)),
    ]
    bad: list[Written] = [
        good[0],
        (f"add({total}, {sold})", str(total + sold)),
        (f"multiply({total + sold}, {price})", str((total + sold) * price)),
        (f'stop("{(total + sold) * price}")', str((total + sold) * price)),
    ]
    gold = Problem(
        id=f"math-test-0-{index}", question=question, answer=str(left * price), difficulty=2 + index % 4
    )
    return gold, good, bad


def _training(folder: Path, rng: random.Random) -> None:
    for stage, start in (("sft", 1.1), ("dpo", 0.693)):
        rows = []
        for step in range(5, 85, 5):
            row = {"step": step, "loss": start * 0.97**step + 0.05 * rng.random(), "epoch": step / 80}
            row |= {"grad_norm": 2 + rng.random(), "learning_rate": 2e-5 * (1 - step / 85)}
            if stage == "dpo":
                row |= {"rewards/accuracies": 1 - 0.5 * 0.96**step, "rewards/margins": step / 40}
            rows.append(row)
        path = folder / "train" / stage / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    statistics = {
        "pairs": 640,
        "problems": 371,
        "strategies": {"chain": 402, "step": 238},
        "sources": {"student > student": 512, "teacher > student": 128},
        "characters": {"chosen_mean": 211.4, "rejected_mean": 198.02, "chosen_longer": 0.53},
        "duplicates": 0,
        "length_correlation": 0.87,
    }
    (folder / "pairs.json").write_text(json.dumps(statistics))
    candidates = tuple(
        Candidate(
            name=name,
            accuracy=_rate(v),
            right_reason=_rate(v - 0.02),
            invalid_call_rate=0.01,
            steps=6.2,
            stop_reasons={StopReason.STOPPED: 100},
        )
        for name, v in (
            ("checkpoint-20", 0.71),
            ("checkpoint-40", 0.88),
            ("checkpoint-60", 0.93),
            ("checkpoint-80", 0.93),
        )
    )
    made = Selection(best="checkpoint-60", problems=100, candidates=candidates)
    (folder / "selection.json").write_text(made.model_dump_json())


def _rate(value: float) -> Rate:
    return Rate(value=value, low=value - 0.07, high=min(1.0, value + 0.05), total=100)
