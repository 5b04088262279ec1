"""What a collection will ask of a model, before anything is sent: calls, tokens, money.

No model is opened and no request made. Prompts are written as they will be and measured in characters;
the rest is assumed (see `Habits`), or taken from chains that are there already. The prices of a
server's own prompt cache are left out of account: where it has one, less is paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from rich.table import Table

from rightcall.chain import Chain, ChainStore, Frozen, Outcome, Problem
from rightcall.conduct import counterfactual
from rightcall.config import RunConfig, TaskRun
from rightcall.dialects import DIALECTS
from rightcall.errors import ConfigError
from rightcall.evaluate import counterfactual_path
from rightcall.models import Sampling
from rightcall.models.spec import ModelSpec
from rightcall.models.usage import Cap, Price, Usage
from rightcall.report.data import ROLES
from rightcall.rollout import Budget, Enough, Setting
from rightcall.task import load_task
from rightcall.terminal import table
from rightcall.train.trainer import TrainConfig, at_most

FEW = 8
"""Chains from which habits are measured; of fewer they are assumed."""


class Habits(Frozen):
    """How a model goes about a problem."""

    characters_per_token: float = 4.0
    """Of prompts: about right for English."""
    steps: float | None = None
    """Calls of a chain; if not known, as many as the gold chain has."""
    pairs: float | None = None
    """Mean of steps × (steps − 1) / 2: how often a turn is read again."""
    reply: float | None = None
    """Tokens of a reply; if not known, as many as a call of the gold chain."""
    observation: float = 20.0
    """Tokens by which a prompt grows at a step, beside the reply."""
    right: float | None = None
    """Share of chains that are right for the right reason; if not known, all samples are counted."""
    chains: int = 0
    """That it was measured on; 0 if it is assumed."""

    def __str__(self) -> str:
        if self.chains:
            measured = f"{self.steps:.1f} calls of {self.reply:.0f} tokens, {self.right:.0%} right"
            return f"measured on {self.chains} chains: {measured}"
        return (
            f"assumed: {self.characters_per_token:g} characters a token, calls as in the gold chain "
            f"(else {STEPS} of {REPLY} tokens), {self.observation:g} tokens an observation, all samples"
        )


STEPS, REPLY = 6, 40
"""Calls of a chain, and tokens of a reply, where there is no gold chain either."""


class Estimate(Frozen):
    """What is still to be asked."""

    label: str
    model: str
    chains: int
    there: int
    """Chains that are finished already."""
    usage: Usage
    money: float | None
    """None without a price."""
    cap: Cap | None = None
    habits: Habits


def estimate(
    label: str,
    setting: Setting,
    problems: Iterable[Problem],
    samples: int,
    spec: ModelSpec,
    path: Path,
    enough: Enough | None = None,
) -> Estimate:
    """Of a collection of `setting.source`'s chains into `path`."""
    habits = measured(chain for chain in _finished(path) if chain.source == setting.source)
    there = _there(path, setting.source, samples)
    chains = 0.0
    total = _Tokens()
    for problem in problems:
        had = there.get(problem.id, [])
        left = expected_samples(habits.right, had, samples, enough)
        if left:
            total.add(setting, problem, habits, left)
        chains += left
    return _estimate(label, spec, chains, sum(map(len, there.values())), total, habits)


def estimate_probes(
    label: str, setting: Setting, problems: Sequence[Problem], count: int, spec: ModelSpec, path: Path
) -> Estimate:
    """Of the probes beside the greedy chains at `path`: the chains of so many problems go on from a
    replaced observation. At most, as not every chain can be probed."""
    habits = measured(chain for chain in _finished(path) if chain.source == setting.source)
    there = {chain.problem_id for chain in _finished(counterfactual_path(path))}
    left = [problem for problem in counterfactual.asked(problems, count) if problem.id not in there]
    total = _Tokens()
    for problem in left:
        total.add(setting, problem, habits, 1.0, probes=True)
    return _estimate(label, spec, len(left), len(there), total, habits)


def _estimate(
    label: str, spec: ModelSpec, chains: float, there: int, total: _Tokens, habits: Habits
) -> Estimate:
    usage = total.usage()
    name = spec.name or spec.model or spec.kind
    money = spec.price.of(usage) if isinstance(spec.price, Price) else None
    return Estimate(
        label=label, cap=spec.cap, model=name, chains=round(chains), there=there, usage=usage,
        money=money, habits=habits,
    )  # fmt: skip


def estimate_table(estimates: Sequence[Estimate]) -> Table:
    """One row each, and their sum."""
    columns = ["model", "there", "chains", "calls", "prompt tokens", "completion tokens", "money"]
    rows = []
    for made in estimates:
        used, money = made.usage, "–" if made.money is None else f"{made.money:.2f}"
        counts = (made.there, made.chains, used.requests, used.prompt_tokens, used.completion_tokens)
        rows.append([made.label, made.model, *(f"{count:,}" for count in counts), money])
    if len(rows) > 1:
        paid = [made.money for made in estimates if made.money is not None]
        rows.append(["all", *[""] * 6, f"{sum(paid):.2f}" if paid else "–"])
    return table("Estimate: nothing was sent", ["", *columns], rows)


def notes(estimates: Sequence[Estimate]) -> Iterator[str]:
    """What the estimates rest on, and which caps will not do."""
    for habits in dict.fromkeys(str(made.habits) for made in estimates):
        yield f"{', '.join(e.label for e in estimates if str(e.habits) == habits)}: {habits}"
    for model, cap in dict.fromkeys((made.model, made.cap) for made in estimates):
        own = [made for made in estimates if (made.model, made.cap) == (model, cap)]
        tokens = sum(made.usage.tokens for made in own)
        money = sum(made.money or 0.0 for made in own)
        over = cap is not None and (tokens > (cap.tokens or tokens) or money > (cap.money or money))
        if over:
            yield f"{model}: the cap of {cap} would stop it before its end."


class _Tokens:
    """A sum over chains; numbers of chains may be fractions."""

    def __init__(self) -> None:
        self.calls = self.prompt = self.completion = 0.0

    def add(
        self,
        setting: Setting,
        problem: Problem,
        habits: Habits,
        chains: float,
        *,
        probes: bool = False,
    ) -> None:
        """So many chains of a problem; of probes, what comes after any of the first n − 1 of n steps:
        n / 2 calls on average, which read n (2n − 1) / 6 turns."""
        dialect = DIALECTS[setting.dialect]
        turns = dialect.prompt(setting.task.instruction, setting.functions, problem)
        letters = len(dialect.tools(setting.functions)) + sum(len(turn["content"]) for turn in turns)
        first = letters / habits.characters_per_token
        gold = () if habits.chains else tuple(setting.task.gold(problem, setting.functions))
        likely = float(len(gold) or STEPS) if habits.steps is None else habits.steps
        steps = min(likely, setting.budget.steps)
        pairs = steps * (steps - 1) / 2 if habits.pairs is None else habits.pairs
        reply = habits.reply
        if reply is None:
            reply = sum(map(len, gold)) / len(gold) / habits.characters_per_token + 1 if gold else REPLY
        calls = steps
        if probes:
            calls, pairs = (steps / 2, steps * (2 * steps - 1) / 6) if steps >= 2 else (0.0, 0.0)
        self.calls += chains * calls
        self.prompt += chains * (calls * first + pairs * (reply + habits.observation))
        self.completion += chains * calls * reply

    def usage(self) -> Usage:
        return Usage(
            requests=round(self.calls),
            prompt_tokens=round(self.prompt),
            completion_tokens=round(self.completion),
        )


def measured(chains: Iterable[Chain]) -> Habits:
    """Habits as seen in chains; those assumed if they are few."""
    count = right = steps = again = reply = letters = tokens = 0
    grown = 0
    for chain in chains:
        if not chain.steps:
            continue
        count += 1
        right += chain.right_for_the_right_reason
        steps += len(chain.steps)
        again += len(chain.steps) * (len(chain.steps) - 1) // 2
        reply += chain.completion_tokens
        letters += len(chain.schemas) + sum(len(turn["content"]) for turn in chain.prompt)
        tokens += chain.steps[0].prompt_tokens
        for one, after in zip(chain.steps, chain.steps[1:], strict=False):
            grown += max(0, after.prompt_tokens - one.prompt_tokens - one.completion_tokens)
    if count < FEW:
        return Habits()
    return Habits(
        characters_per_token=letters / tokens if tokens else 4.0,
        steps=steps / count,
        pairs=again / count,
        reply=reply / steps,
        observation=grown / (steps - count) if steps > count else 0.0,
        right=right / count,
        chains=count,
    )


def expected_samples(
    right: float | None, had: Sequence[bool], samples: int, enough: Enough | None
) -> float:
    """How many further chains a problem will take, if a chain is right with that probability. `had`:
    whether each chain that is there is right. At most, where nothing is known of the probability.

    >>> expected_samples(0.5, [], 100, Enough(right=1, wrong=0))
    2.0
    """
    left = max(0, samples - len(had))
    if enough is None:
        return float(left)
    rights, wrongs = sum(had), len(had) - sum(had)
    if enough.missing(rights, wrongs) == 0:
        return 0.0
    if right is None:
        return float(left)
    lacking = max(0, enough.right - rights), max(0, enough.wrong - wrongs)
    return round(_expected(right, *lacking, left), 6)


@cache
def _expected(p: float, right: int, wrong: int, left: int) -> float:
    if left == 0 or right == wrong == 0:
        return 0.0
    hit = _expected(p, max(0, right - 1), wrong, left - 1)
    miss = _expected(p, right, max(0, wrong - 1), left - 1)
    return 1 + p * hit + (1 - p) * miss


def _finished(path: Path) -> Iterator[Chain]:
    return (chain for chain in ChainStore(path).latest() if chain.outcome is not Outcome.ERRORED)


def _there(path: Path, source: str, samples: int) -> dict[str, list[bool]]:
    """Problem id → of each of its finished chains whether it is right."""
    there: dict[str, list[bool]] = {}
    for chain in _finished(path):
        if chain.source == source and chain.sample < samples:
            there.setdefault(chain.problem_id, []).append(chain.right_for_the_right_reason)
    return there


# --- of a run -------------------------------------------------------------------------------------


def estimate_run(config: RunConfig, root: Path) -> list[Estimate]:
    """The collections and evaluations of a run, as far as they can be known: what a search, on-policy
    rounds and the choice of checkpoints ask hangs on chains, and is asked of the student alone."""
    return [
        made
        for name, settings in config.tasks.items()
        for made in _estimate_task(name, settings, config.seed, root / config.name / name)
    ]


def memory_notes(config: RunConfig) -> Iterator[str]:
    """What the trainings of a run take at most. There are no pairs yet: so every row is as long as
    `max_length` allows, and shares nothing."""
    alike: dict[str, tuple[list[str], ModelSpec, TrainConfig]] = {}
    for name, settings in config.tasks.items():
        student = settings.models.student
        for trained in (settings.train.sft, settings.train.dpo):
            key = student.model_dump_json() + trained.model_dump_json()
            alike.setdefault(key, ([], student, trained))[0].append(name)
    for names, spec, training in alike.values():
        yield f"{', '.join(names)}: {training.method} {_memory_note(spec, training)}"


def _memory_note(student: ModelSpec, trained: TrainConfig) -> str:
    try:
        made, longest = at_most(trained, student.weights)
    except ConfigError as error:
        return f"would take memory that is not known: {error}"
    gib = [f"{size / 2**30:.1f} GiB" for size in (made.total, made.free or 0)]
    given = "" if trained.max_length else " (the model's window: set max_length)"
    return (
        f"would take at most {gib[0]} of {made.device} memory, {gib[1]} are free here; at most: rows "
        f"of {longest:,} tokens{given} that share nothing"
    )


def _estimate_task(name: str, settings: TaskRun, seed: int, folder: Path) -> Iterator[Estimate]:
    task = load_task(settings.task, **settings.options)
    functions, dialect = task.function_set(settings.functions), settings.dialect
    train = list(task.problems("train", settings.problems.train, seed))
    for role in ("teacher", "student"):
        how = getattr(settings.collect, role)
        if how.samples and not how.chains:
            setting = Setting(task, functions, role, how.sampling, how.budget, seed, dialect)
            yield estimate(
                f"{name}: collect {role}", setting, train[: how.problems], how.samples,
                getattr(settings.models, role), folder / "chains" / f"{role}.jsonl", how.enough,
            )  # fmt: skip
    test = list(task.problems("test", settings.problems.test, seed))
    wanted = settings.evaluate
    for role in ROLES:
        if role == "teacher" and settings.collect.teacher.chains:
            continue
        budget = Budget(steps=max(wanted.budgets_for(task)), tokens=wanted.tokens)
        sampling = Sampling(max_tokens=wanted.max_tokens)
        setting = Setting(task, functions, role, sampling, budget, seed, dialect)
        spec = settings.models.teacher if role == "teacher" else settings.models.student
        path = folder / "eval" / f"{role}.jsonl"
        yield estimate(f"{name}: evaluate {role}", setting, test, 1 + wanted.samples, spec, path)
        if wanted.counterfactual:
            label, count = f"{name}: probe {role}", wanted.counterfactual
            yield estimate_probes(label, setting, test, count, spec, path)
