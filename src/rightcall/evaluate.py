"""Evaluation: greedy (and sampled) chains on held-out problems → one `Evaluation`.

    evaluate(setting, model, problems, path) → path (chains, JSONL, resumable) → Evaluation

**One rollout, every step budget.** A chain never learns its budget: the prompt does not name it
and the seeds do not depend on it. So a chain under a budget of 10 is the first ten steps of the
same chain under 20, and one rollout at the largest budget settles all smaller ones (`at_budget`).
"Pooled" is a problem's mean over the budgets, as the paper pools n_max = 10 and 20.

**Errored is not wrong.** A chain whose model failed is listed in `Evaluation.errored`, enters no
rate, and is redone when `evaluate` is called again.

**How, not only whether.** `Evaluation.conduct` says what the chains did with their functions, and
`Evaluation.counterfactual` whether answers follow what functions say (see `rightcall.conduct`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain as flatten
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, field_validator

from rightcall.chain import (
    Chain,
    ChainStore,
    Frozen,
    Judgement,
    Outcome,
    Problem,
    StopReason,
)
from rightcall.collecting import Collector, InProcess
from rightcall.conduct import (
    Conduct,
    Counterfactual,
    CounterfactualPlan,
    ShownFunction,
    conduct,
    counterfactual,
    shown_functions,
)
from rightcall.errors import ConfigError, DataError, FailureKind, first_fault
from rightcall.files import write_whole
from rightcall.models import ChatModel, Sampling
from rightcall.rate import Rate, rate
from rightcall.rollout import Budget, Job, Setting, chain_key
from rightcall.stats import mean, pass_at_k
from rightcall.task import BUDGETS, Task

POOLED = "pooled"

K = TypeVar("K", FailureKind, StopReason)

Chains = dict[tuple[str, int], Chain]
"""One finished or errored chain for each (problem id, sample)."""


class EvaluateConfig(Frozen):
    """How models are evaluated; the same for every role, or nothing can be compared."""

    budgets: tuple[int, ...] | None = None
    """Step budgets that are reported; chains are rolled out once, at the largest. None for the task's
    own: see `budgets_for`."""
    samples: int = Field(0, ge=0)
    """Sampled chains per problem, beside the greedy one."""
    temperature: float = Field(1.0, gt=0)
    """Of the sampled chains."""
    tokens: int = Field(4096, ge=1)
    """Tokens a chain may generate."""
    max_tokens: int = Field(256, ge=1)
    """Tokens of one reply."""
    counterfactual: int = Field(0, ge=0)
    """Problems on which one observation is replaced, to see whether the answer follows it."""

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, budgets: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if budgets is None else _checked_budgets(budgets)

    def budgets_for(self, task: Task) -> tuple[int, ...]:
        """Step budgets, ascending, under which this task is evaluated."""
        return task.budgets if self.budgets is None else self.budgets


class ProblemScore(Frozen):
    """What one problem adds: the row that comparisons pair by. Views are "10", "20", "pooled"."""

    problem_id: str
    difficulty: int | None = None
    correct: dict[str, float]
    """View → 1 or 0, or the mean of them where budgets are pooled."""
    right_reason: dict[str, float]
    """View → the same, where the process must not be known to be wrong either."""
    sampled: float | None = None
    """Share of the sampled chains that are correct, at the largest budget."""


class Evaluation(Frozen):
    """One model in one role on one set of problems."""

    task: str
    source: str
    """The role: base, teacher, control, tuned."""
    model: str
    budgets: tuple[int, ...]
    """Step budgets, ascending. Figures without a view are at the largest."""
    scores: tuple[ProblemScore, ...]
    """Sorted by problem id."""
    errored: tuple[str, ...] = ()
    """Problems whose greedy chain errored: in no rate."""
    unfinished: tuple[str, ...] = ()
    """Problems asked for that have no chain yet: in no rate."""

    accuracy: dict[str, Rate]
    """By view."""
    right_reason: dict[str, Rate]
    """By view: right answers reached by a process not known to be wrong."""
    by_difficulty: dict[str, dict[str, Rate]]
    """View → difficulty (as text, "unknown" where a problem has none) → accuracy."""
    measures: dict[str, float]
    """The task's own measures, averaged over the chains that have them."""

    steps: float
    """Mean per chain."""
    tokens: float
    """Generated tokens, mean per chain."""
    calls: int
    """Steps of all chains together: what `invalid_call_rate` is a share of."""
    invalid_call_rate: float
    failures: dict[FailureKind, int]
    """Failed calls by kind."""
    stop_reasons: dict[StopReason, int]

    samples: int = 0
    """Sampled chains per problem: the fewest any scored problem has."""
    errored_samples: int = 0
    sampled_accuracy: Rate | None = None
    """Mean over problems of the share of correct samples."""
    pass_at: dict[int, float] = {}
    """k → unbiased pass@k, mean over problems."""

    conduct: Conduct | None = None
    """How the functions were used in the greedy chains; None in files of earlier versions."""
    counterfactual: Counterfactual | None = None
    """Whether answers follow replaced observations; None if that was not asked for."""

    @property
    def headline(self) -> str:
        """The view of the largest budget."""
        return str(self.budgets[-1])

    @property
    def views(self) -> tuple[str, ...]:
        return views(self.budgets)


class Circumstances(Frozen):
    """What the chains of an evaluation do not say themselves; a file beside them."""

    budgets: tuple[int, ...] = BUDGETS
    """What was reported."""
    functions: tuple[ShownFunction, ...]
    """What the chains were offered, in order."""
    counterfactual: CounterfactualPlan | None = None
    """None if nothing was probed."""


def views(budgets: Sequence[int]) -> tuple[str, ...]:
    """Each budget as text, and `pooled` where there are several."""
    names = tuple(str(b) for b in budgets)
    return (*names, POOLED) if len(names) > 1 else names


def at_budget(chain: Chain, steps: int) -> Chain:
    """The chain as a rollout with a budget of `steps` would have left it.

    A chain that needed more is cut there: no answer, incorrect, `STEP_BUDGET`, and no judgement
    (`rollout.judged` gives the one a real rollout has). Errored chains stay errored. Its `key`
    and `seconds` remain those of the chain that was run.

    Raises `DataError` if the chain itself ran out of a smaller budget, which tells nothing here.
    """
    taken = len(chain.steps)
    if chain.outcome is Outcome.ERRORED:
        return chain
    if taken < steps and chain.stop_reason is StopReason.STEP_BUDGET:
        raise DataError(
            f"a chain of {chain.problem_id} was rolled out with a smaller step budget",
            value=taken,
            remedy=f"Evaluate with a budget of at least {steps} steps.",
        )
    # The check for a full context comes with the request for the next reply, past this budget.
    next_was_asked = chain.stop_reason is StopReason.CONTEXT_WINDOW
    if taken < steps or (taken == steps and not next_was_asked):
        return chain
    return chain.model_copy(
        update={
            "steps": chain.steps[:steps],
            "stop_reason": StopReason.STEP_BUDGET,
            "answer": None,
            "outcome": Outcome.INCORRECT,
            "judgement": Judgement(),
        }
    )


def evaluate(
    setting: Setting,
    model: ChatModel | Collector,
    problems: Sequence[Problem],
    path: str | Path,
    config: EvaluateConfig = EvaluateConfig(),
    on_chain: Callable[[Chain], None] | None = None,
) -> Evaluation:
    """Greedy chains for all problems into `path`; the config's samples and probes beside it.

    `eval/base.jsonl` gets `eval/base.samples.jsonl`, `eval/base.counterfactual.jsonl` and
    `eval/base.circumstances.json` as neighbours. Sampling and budget are the
    config's, whatever the setting's own. Called again it keeps what is finished and redoes errored
    chains. Raises `DataError` if a file holds chains of the same problems under other settings:
    figures are never mixed.
    """
    by = model if isinstance(model, Collector) else InProcess(model)
    budgets = config.budgets_for(setting.task)
    greedy = replace(
        setting,
        budget=Budget(steps=max(budgets), tokens=config.tokens),
        sampling=Sampling(temperature=0.0, max_tokens=config.max_tokens),
    )
    drawn = replace(
        greedy, sampling=Sampling(temperature=config.temperature, max_tokens=config.max_tokens)
    )
    chains = _rolled_out(greedy, by, problems, 1, Path(path), on_chain)
    beside = samples_path(path)
    samples = _rolled_out(drawn, by, problems, config.samples, beside, on_chain)
    probes, plan = counterfactual.plan(greedy, by.name, problems, chains, config.counterfactual)
    made = Circumstances(
        budgets=budgets,
        functions=shown_functions(setting.functions),
        counterfactual=plan if config.counterfactual else None,
    )
    write_whole(circumstances_path(path), made.model_dump_json(indent=2))
    probed = by.probe(greedy, probes, counterfactual_path(path), on_chain)
    return summarise(
        chains,
        samples,
        problems=problems,
        budgets=budgets,
        circumstances=made,
        probed=probed,
    )


def counterfactual_path(path: str | Path) -> Path:
    """Where the chains with a replaced observation lie: `base.jsonl` → `base.counterfactual.jsonl`."""
    return Path(path).with_suffix(".counterfactual.jsonl")


def circumstances_path(path: str | Path) -> Path:
    """Where it is said what was shown and probed: `base.jsonl` → `base.circumstances.json`."""
    return Path(path).with_suffix(".circumstances.json")


def samples_path(path: str | Path) -> Path:
    """Where the sampled chains lie: `base.jsonl` → `base.samples.jsonl`."""
    return Path(path).with_suffix(".samples.jsonl")


def load_evaluation(
    path: str | Path,
    *,
    problems: Sequence[Problem] | None = None,
    budgets: Sequence[int] = (),
) -> Evaluation:
    """The evaluation of chains already in files: greedy at `path`, sampled beside it if any; under the
    budgets that were reported, or the paper's, unless others are given."""
    circumstances = read_circumstances(path)
    known = circumstances.budgets if circumstances else BUDGETS
    return summarise(
        read_chains(path).values(),
        read_chains(samples_path(path)).values(),
        problems=problems,
        budgets=budgets or known,
        circumstances=circumstances,
        probed=read_probed(path),
    )


def read_circumstances(path: str | Path) -> Circumstances | None:
    """What lies beside the chains at `path`; None if nothing does. Raises `DataError` if it cannot be
    read."""
    beside = circumstances_path(path)
    if not beside.exists():
        return None
    try:
        return Circumstances.model_validate_json(beside.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{beside} cannot be read",
            value=first_fault(error),
            remedy="Delete it and evaluate again: finished chains are kept.",
        ) from error


def read_probed(path: str | Path) -> list[Chain]:
    """The chains with a replaced observation that belong to the chains at `path`; none without their
    plan."""
    made = read_circumstances(path)
    if made is None or made.counterfactual is None:
        return []
    keys = set(made.counterfactual.probes)
    return [chain for chain in ChainStore(counterfactual_path(path)).latest() if chain.key in keys]


def read_chains(path: str | Path) -> Chains:
    """Chains of a file by problem and sample; none if there is no file.

    Raises `DataError` if a problem was attempted under two settings: which one counts is not to
    be guessed.
    """
    found: Chains = {}
    for chain in ChainStore(path).latest():
        slot = (chain.problem_id, chain.sample)
        if slot in found:
            raise _mixed_settings(path, chain.problem_id)
        found[slot] = chain
    return found


def summarise(
    chains: Iterable[Chain],
    samples: Iterable[Chain] = (),
    *,
    problems: Sequence[Problem] | None = None,
    budgets: Sequence[int] = BUDGETS,
    circumstances: Circumstances | None = None,
    probed: Iterable[Chain] = (),
) -> Evaluation:
    """Figures of greedy `chains` (one a problem) and of `samples` (several a problem).

    With `problems` only those count, and those without a chain are listed as unfinished. `probed` are
    the chains of `circumstances.counterfactual`. Without `circumstances`, as earlier versions left
    files, nothing is known of unused results and of functions that were never called.
    """
    ascending = _checked_budgets(budgets)
    wanted = None if problems is None else {p.id for p in problems}
    by_problem = _one_each(c for c in chains if wanted is None or c.problem_id in wanted)
    finished = {i: c for i, c in by_problem.items() if c.outcome is not Outcome.ERRORED}
    if by_problem and not finished:
        raise DataError(
            "every chain errored",
            value=next(iter(by_problem.values())).error,
            remedy="Mend that and evaluate again: they are redone.",
        )
    if not finished:
        raise DataError("no finished chains to evaluate", remedy="Evaluate the model first.")
    some = next(iter(finished.values()))
    drawn = _by_problem(c for c in samples if c.problem_id in finished)
    scores = tuple(_score(finished[i], drawn.get(i, ()), ascending) for i in sorted(finished))
    names = views(ascending)
    largest = [at_budget(finished[s.problem_id], ascending[-1]) for s in scores]
    steps = [step for chain in largest for step in chain.steps]
    failures = Counter(s.observation.failure for s in steps if s.observation.failure)
    plan = circumstances.counterfactual if circumstances else None
    return Evaluation(
        task=some.task,
        source=some.source,
        model=some.model,
        budgets=ascending,
        scores=scores,
        errored=tuple(sorted(set(by_problem) - set(finished))),
        unfinished=tuple(sorted((wanted or set()) - set(by_problem))),
        accuracy={v: rate([s.correct[v] for s in scores]) for v in names},
        right_reason={v: rate([s.right_reason[v] for s in scores]) for v in names},
        by_difficulty={v: _by_difficulty(scores, v) for v in names},
        measures=_averaged(largest),
        steps=mean([len(c.steps) for c in largest]),
        tokens=mean([c.completion_tokens for c in largest]),
        calls=len(steps),
        invalid_call_rate=sum(failures.values()) / len(steps) if steps else 0.0,
        failures=_by_count(failures),
        stop_reasons=_by_count(Counter(c.stop_reason for c in largest)),
        conduct=conduct(largest, circumstances.functions if circumstances else None),
        counterfactual=counterfactual.counted(plan, probed) if plan else None,
        **_sampled(scores, drawn, ascending[-1]),
    )


# --- choosing a checkpoint ------------------------------------------------------------------------


class Candidate(Frozen):
    """One checkpoint on the validation problems."""

    name: str
    accuracy: Rate
    right_reason: Rate
    invalid_call_rate: float
    steps: float
    stop_reasons: dict[StopReason, int]


class Selection(Frozen):
    """Which checkpoint was kept, and what every one of them did."""

    best: str
    problems: int
    """Validation problems each candidate was rolled out on."""
    candidates: tuple[Candidate, ...]
    """In the order they were given."""

    @property
    def kept(self) -> Candidate:
        """The best one."""
        return next(candidate for candidate in self.candidates if candidate.name == self.best)


def select(
    candidates: Mapping[str, Callable[[], ChatModel]],
    setting: Setting,
    problems: Sequence[Problem],
    folder: str | Path,
    on_chain: Callable[[Chain], None] | None = None,
) -> Selection:
    """The best checkpoint by greedy rollouts on *validation* problems.

    Best is the highest share of answers right for the right reason; of equals the earliest given.
    Each candidate is built by its factory, rolled out into `folder/NAME.jsonl` (resumable), and
    closed before the next. Training metrics take no part: they look healthy on models that have
    forgotten how to stop.

    Raises `DataError` if a candidate has errored chains: it would be judged on fewer problems.
    """
    if not candidates:
        raise ConfigError("there is no checkpoint to choose from")
    config = EvaluateConfig(
        budgets=(setting.budget.steps,),
        tokens=setting.budget.tokens,
        max_tokens=setting.sampling.max_tokens,
    )
    made = []
    for name, factory in candidates.items():
        with factory() as model:
            path = Path(folder) / f"{name}.jsonl"
            result = evaluate(setting, model, problems, path, config, on_chain)
        if result.errored:
            raise DataError(
                f"{len(result.errored)} validation chains of checkpoint {name} errored",
                value=result.errored[0],
                remedy="Run again: errored chains are redone.",
            )
        made.append(_candidate(name, result))
    best = max(made, key=lambda c: c.right_reason.value)
    return Selection(best=best.name, problems=len(problems), candidates=tuple(made))


def _candidate(name: str, result: Evaluation) -> Candidate:
    return Candidate(
        name=name,
        accuracy=result.accuracy[result.headline],
        right_reason=result.right_reason[result.headline],
        invalid_call_rate=result.invalid_call_rate,
        steps=result.steps,
        stop_reasons=result.stop_reasons,
    )


# --- rollouts -------------------------------------------------------------------------------------


def _checked_budgets(budgets: Sequence[int]) -> tuple[int, ...]:
    ascending = tuple(sorted(set(budgets)))
    if not ascending or ascending[0] < 1:
        raise ConfigError("step budgets must be positive", value=list(budgets))
    return ascending


def _rolled_out(
    setting: Setting,
    by: Collector,
    problems: Sequence[Problem],
    samples: int,
    path: Path,
    on_chain: Callable[[Chain], None] | None,
) -> list[Chain]:
    expected = {
        (problem.id, sample): chain_key(setting, by.name, Job(problem, sample))
        for problem in problems
        for sample in range(samples)
    }
    if len(expected) != len(problems) * samples:
        raise DataError("two problems share an id", remedy="Results are paired by id.")
    if not samples:
        return []
    for slot, chain in read_chains(path).items():
        if slot in expected and expected[slot] != chain.key:
            raise _mixed_settings(path, chain.problem_id)
    by.collect(setting, problems, samples, path, on_chain)
    return [chain for slot, chain in read_chains(path).items() if slot in expected]


def _mixed_settings(path: str | Path, problem_id: str) -> DataError:
    return DataError(
        f"{path} holds chains of problem {problem_id} under other settings",
        remedy="The model, the functions, the budget or the problem changed: delete the file or "
        "evaluate into another.",
    )


# --- figures --------------------------------------------------------------------------------------


def _one_each(chains: Iterable[Chain]) -> dict[str, Chain]:
    found: dict[str, Chain] = {}
    for chain in chains:
        if chain.problem_id in found:
            raise DataError(
                "a problem has several greedy chains",
                value=chain.problem_id,
                remedy="Give sampled chains as samples.",
            )
        found[chain.problem_id] = chain
    return found


def _by_problem(chains: Iterable[Chain]) -> dict[str, list[Chain]]:
    found: dict[str, list[Chain]] = defaultdict(list)
    for chain in chains:
        found[chain.problem_id].append(chain)
    return dict(found)


def _score(chain: Chain, samples: Sequence[Chain], budgets: Sequence[int]) -> ProblemScore:
    cut = {str(b): at_budget(chain, b) for b in budgets}
    correct = {v: float(c.outcome is Outcome.CORRECT) for v, c in cut.items()}
    right_reason = {v: float(c.right_for_the_right_reason) for v, c in cut.items()}
    if len(budgets) > 1:
        correct[POOLED] = mean(list(correct.values()))
        right_reason[POOLED] = mean(list(right_reason.values()))
    drawn = _outcomes(samples, budgets[-1])
    return ProblemScore(
        problem_id=chain.problem_id,
        difficulty=chain.difficulty,
        correct=correct,
        right_reason=right_reason,
        sampled=mean(drawn) if drawn else None,
    )


def _outcomes(samples: Iterable[Chain], budget: int) -> list[bool]:
    finished = (at_budget(c, budget) for c in samples if c.outcome is not Outcome.ERRORED)
    return [c.outcome is Outcome.CORRECT for c in finished]


def _by_difficulty(scores: Sequence[ProblemScore], view: str) -> dict[str, Rate]:
    groups: dict[int | None, list[float]] = defaultdict(list)
    for score in scores:
        groups[score.difficulty].append(score.correct[view])
    known = {str(d): rate(groups[d]) for d in sorted(d for d in groups if d is not None)}
    return known | ({"unknown": rate(groups[None])} if None in groups else {})


def _averaged(chains: Sequence[Chain]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in flatten.from_iterable(c.judgement.measures.items() for c in chains):
        values[name].append(value)
    return {name: mean(values[name]) for name in sorted(values)}


def _by_count(counts: Counter[K]) -> dict[K, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _sampled(
    scores: Sequence[ProblemScore], drawn: Mapping[str, Sequence[Chain]], budget: int
) -> dict[str, Any]:
    """The fields of `Evaluation` that rest on sampled chains; none if there are none."""
    shares = [s.sampled for s in scores if s.sampled is not None]
    if not shares:
        return {}
    outcomes = [_outcomes(chains, budget) for chains in drawn.values()]
    outcomes = [o for o in outcomes if o]
    fewest = min(len(o) for o in outcomes)
    return {
        "samples": fewest,
        "errored_samples": sum(c.outcome is Outcome.ERRORED for cs in drawn.values() for c in cs),
        "sampled_accuracy": rate(shares),
        "pass_at": {k: mean([pass_at_k(len(o), sum(o), k) for o in outcomes]) for k in _ks(fewest)},
    }


def _ks(samples: int) -> list[int]:
    """1, 2, 4, … up to the number of samples, and that number."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})
