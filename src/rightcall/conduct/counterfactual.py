"""Counterfactual observations: does the answer follow what the functions say?

In a finished greedy chain one result is replaced by a plausible other value, and the model goes on from
there, greedily, with the same budget. The functions' state knows nothing of it.

    add(12, 30) → 42   multiply(42, 2) → 84   stop("84")      the chain
    add(12, 30) → 57   multiply(57, 2) → 114  stop("114")     its answer follows
    add(12, 30) → 57   multiply(42, 2) → 84   stop("84")      unchanged: the model did not look

**Follows** means: it gives the answer that the chain's own later calls lead to from the replaced value.
That answer is computed before the model is asked (`_expected`): in the calls after it the new value
stands where the old one stood, and they are run again.

**Which result.** One whose value leads to the answer, and nothing else in the chain or the question has
that value: then it is plain where it was used. So it must run, be a number (or a text that *is* the
answer, such as a verdict), and the expected answer must differ. Of the results for which that holds one
is drawn, by a seed of the run's seed and the problem's id alone.

**Which value.** A number becomes another of the same kind, sign and number of digits; a text becomes
another that the same function gave in other chains and that the chain can stop with. A task may say it
itself: `Task.counterfactual`. A text that only tells something, such as the next sentence, is none.

What this cannot see: a model that notices the contradiction and computes again counts as unchanged; one
that takes another way from there on counts as other; a chain whose answer rests on no single result is
not probed, and how many those are is said.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random

from rightcall.chain import (
    JSON,
    Chain,
    ChainStore,
    Frozen,
    Judgement,
    Origin,
    Outcome,
    Problem,
    Step,
    StopReason,
    digest,
    seed_of,
)
from rightcall.conduct.values import (
    Value,
    answer_value,
    arguments,
    call_with,
    mentions,
    numbers_in,
    read,
    result_text,
)
from rightcall.functions import Result, States
from rightcall.models import ChatModel
from rightcall.rate import Rate, rate
from rightcall.rollout import Job, Setting, chain_key, finished_keys, rollouts
from rightcall.task import task_errors

OPERATION = "counterfactual observation"
"""In `Chain.origin` of the chains that go on from a replaced observation."""
MAX_TRIES = 24
"""Other values that are tried for one result."""
MAX_DIGITS = 15

Texts = Mapping[str, Sequence[str]]
"""Function → the texts that it gave in all chains, sorted."""


class CounterfactualPlan(Frozen):
    """Which chains of an evaluation were probed."""

    looked_at: int
    """Problems whose chains were looked at."""
    probes: tuple[str, ...]
    """Keys of the chains that go on from a replaced observation."""
    left_out: dict[str, int]
    """Why the other chains could not be probed, with how many."""


class Counterfactual(Frozen):
    """What became of the answers when one observation was replaced."""

    looked_at: int
    """Problems whose chains were looked at."""
    left_out: dict[str, int]
    """Why chains could not be probed, with how many."""
    errored: int = 0
    """Probes whose model failed, or that were not made yet: in no rate."""
    follows: Rate
    """Share of the probed chains whose answer is what the same calls lead to from the new value."""
    unchanged: Rate
    """Share whose answer is the one before."""
    other: Rate
    """Share with another answer, or none."""

    @property
    def probed(self) -> int:
        """Chains that the shares are taken over."""
        return self.follows.total


@dataclass(frozen=True)
class Probe:
    """One replaced observation."""

    problem: Problem
    chain: Chain
    """The greedy chain as it was."""
    step: int
    """Index of the step whose observation is replaced."""
    observed: str
    """What the model reads there."""
    expected: str
    """The answer that the same calls then lead to."""

    @property
    def job(self) -> Job:
        return Job(
            self.problem,
            replies=self.chain.steps[: self.step + 1],
            origin=Origin(operation=OPERATION, parent=self.chain.key, root=self.problem.root),
            observed=self.observed,
        )


# --- what is probed -------------------------------------------------------------------------------


def plan(
    setting: Setting, model: str, problems: Sequence[Problem], chains: Iterable[Chain], count: int
) -> tuple[dict[str, Probe], CounterfactualPlan]:
    """The probes of `count` problems by the key of their chain, and the plan to keep beside them.

    `chains` are the greedy chains of all problems.
    """
    by_problem = {chain.problem_id: chain for chain in chains}
    chosen = asked((p for p in problems if p.id in by_problem), count)
    texts = texts_by_function(by_problem.values())
    probes: dict[str, Probe] = {}
    left_out: Counter[str] = Counter()
    for problem in chosen:
        found = probe_of(setting, problem, by_problem[problem.id], texts)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            probes[chain_key(setting, model, found.job)] = found
    made = CounterfactualPlan(
        looked_at=len(chosen), probes=tuple(probes), left_out=dict(sorted(left_out.items()))
    )
    return probes, made


def asked(problems: Iterable[Problem], count: int) -> list[Problem]:
    """So many problems, by the hash of their id: a smaller count takes some of those of a larger one,
    and every model is asked about the same."""
    return sorted(problems, key=lambda problem: digest(problem.id))[:count]


def probe_of(setting: Setting, problem: Problem, chain: Chain, texts: Texts) -> Probe | str:
    """A chain's probe, or why there is none."""
    if chain.outcome is Outcome.ERRORED:
        return "errored"
    if chain.stop_reason is not StopReason.STOPPED or chain.answer is None:
        return "stopped without an answer"
    rng = Random(seed_of("counterfactual", setting.seed, problem.id))
    steps = list(range(len(chain.steps) - 1))
    rng.shuffle(steps)
    for step in steps:
        if not _single(problem, chain, step):
            continue
        made = _best(setting, problem, chain, step, _others(setting, problem, chain, step, texts, rng))
        if made is not None:
            return made
    return "no single result leads to the answer"


def texts_by_function(chains: Iterable[Chain]) -> Texts:
    """What each function said in some chains."""
    found: dict[str, set[str]] = defaultdict(set)
    for chain in chains:
        for step in chain.steps:
            if step.call is not None and _whole(step):
                found[step.call.name].add(result_text(step.observation))
    return {name: sorted(texts) for name, texts in found.items()}


def _whole(step: Step) -> bool:
    """It ran, and its observation is all that the function said."""
    seen = step.observation
    return step.call is not None and seen.failure is None and not seen.cut


def _single(problem: Problem, chain: Chain, step: int) -> bool:
    """Whether a step's result is the only place that its value can have come from."""
    made = chain.steps[step]
    value = read(result_text(made.observation))
    if value is None or not _whole(made) or result_text(made.observation) != made.observation.text:
        return False
    if isinstance(value, Fraction) and abs(value) in numbers_in(problem.question):
        return False
    told = (s for i, s in enumerate(chain.steps[:-1]) if i != step and s.call is not None)
    if any(mentions(result_text(other.observation), value) for other in told):
        return False
    before = [s.call for s in chain.steps[: step + 1] if s.call is not None]
    return not any(mentions(given, value) for call in before for given in arguments(call))


def _others(
    setting: Setting, problem: Problem, chain: Chain, step: int, texts: Texts, rng: Random
) -> list[str]:
    """What the step could as well have been answered with, in the order in which it is tried."""
    made = chain.steps[step]
    with task_errors(setting.task, problem, "counterfactual"):
        said = setting.task.counterfactual(problem, chain, step)
    if said is not None:
        return [] if said == made.observation.text else [said]
    value = read(made.observation.text)
    if isinstance(value, Fraction):
        found = numbers_like(made.observation.text, rng)
    elif chain.answer is not None and made.call is not None and answer_value(chain.answer) == value:
        found = [text for text in texts.get(made.call.name, ()) if read(text) != value]
        rng.shuffle(found)
    else:
        found = []
    said_before = [*_said(chain), problem.question if isinstance(value, Fraction) else ""]
    known = frozenset[Fraction]().union(*(numbers_in(str(one)) for one in said_before))

    def is_new(text: str) -> bool:
        other = read(text)
        if isinstance(other, Fraction):
            return abs(other) not in known
        return other is not None and not any(mentions(one, other) for one in said_before)

    return [text for text in found if is_new(text)][:MAX_TRIES]


def _said(chain: Chain) -> list[JSON]:
    """Everything that stands in the calls and the results of a chain."""
    results: list[JSON] = [result_text(step.observation) for step in chain.steps]
    calls = [step.call for step in chain.steps if step.call is not None]
    return results + [given for call in calls for given in arguments(call)]


def numbers_like(text: str, rng: Random) -> list[str]:
    """Other numbers of the same kind, sign and number of digits, written in the same way.

    >>> numbers_like("42", Random(0))[:3], numbers_like("$1,250.50", Random(0))[:2]
    (['70', '69', '77'], ['$1,828.89', '$1,536.02'])
    """
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        return []
    places = match["decimals"] or ""
    digits = match["whole"].replace(",", "") + places
    if len(digits) > MAX_DIGITS:
        return []
    bottom = int(match["bottom"] or 1)
    unit = 10 ** len(places) if places and not places.strip("0") else 1
    found = []
    for size in _sizes(int(digits), unit, rng):
        if (places and unit == 1 and size % 10 == 0) or (bottom > 1 and math.gcd(size, bottom) > 1):
            continue
        shown = str(size).rjust(len(places) + 1, "0")
        whole, decimals = shown[: len(shown) - len(places)], shown[len(shown) - len(places) :]
        grouped = f"{int(whole):,}" if "," in match["whole"] else whole
        point = f".{decimals}" if places else ""
        under = f"/{bottom}" if match["bottom"] else ""
        found.append(f"{match['before']}{grouped}{point}{under}{match['after']}")
    return found


_WRITTEN = re.compile(
    r"(?P<before>[-+−]?\s?[$€£]?)(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<decimals>\d+))?"
    r"(?:/(?P<bottom>[1-9]\d{0,8}))?(?P<after>\s?%?)",
    re.ASCII,
)


def _sizes(size: int, unit: int, rng: Random) -> list[int]:
    """Other whole numbers of as many digits, between half and twice the size; round ones first where
    it is round itself."""
    digits = len(str(size))
    low, high = max(10 ** (digits - 1), size // 2), min(10**digits - 1, 2 * size)
    if digits == 1:
        low, high = 2, 9
    zeros = len(str(size)) - len(str(size).rstrip("0"))
    found: list[int] = []
    for step in dict.fromkeys((10**zeros, unit)):
        scale = math.lcm(step, unit)
        some = range(-(-low // scale) * scale, high + 1, scale)
        found += rng.sample(some, min(2 * MAX_TRIES, len(some)))
    return [one for one in dict.fromkeys(found) if one != size]


# --- what the same calls lead to ------------------------------------------------------------------


def _best(
    setting: Setting, problem: Problem, chain: Chain, step: int, others: Sequence[str]
) -> Probe | None:
    """The probe with the first other value from which all later results stay of their kind; if there
    is none, with the first that the calls can be run with."""
    fallback = None
    for observed in others:
        found = _expected(setting, problem, chain, step, observed)
        if found is None:
            continue
        expected, same_kind = found
        made = Probe(problem, chain, step, observed, expected)
        if same_kind:
            return made
        fallback = fallback or made
    return fallback


def _expected(
    setting: Setting, problem: Problem, chain: Chain, step: int, observed: str
) -> tuple[str, bool] | None:
    """The answer that the chain's own calls lead to from another value, and whether all results on the
    way are of the same kind as before.

    None if a call fails with it, if it is not plain where a changed result was used, or if the answer
    remains what it was.
    """
    functions = setting.functions
    stateful = {made.name for made in functions if made.state_parameters}
    states = _states_after(setting, problem, chain, step, stateful)
    swaps = {_value(chain.steps[step]): observed}
    same_kind = True
    for index, later in enumerate(chain.steps[step + 1 :], step + 1):
        if later.call is None or later.observation.failure is not None:
            continue
        call = call_with(later.call, swaps)
        if call == later.call and call.name not in stateful and index < len(chain.steps) - 1:
            continue
        result = functions.run(call, states)
        if result.observation.failure is not None:
            return None
        if result.answer is not None:
            differs = answer_value(result.answer) != answer_value(chain.answer or "")
            return (result.answer, same_kind) if differs else None
        if read(result.observation.text) != _value(later):
            if not _single(problem, chain, index):
                return None
            swaps[_value(later)] = result.observation.text
            same_kind &= _kind(result) == _kind(Result(later.call, later.observation))
    return None


def _states_after(
    setting: Setting, problem: Problem, chain: Chain, step: int, stateful: set[str]
) -> States:
    """The functions' states after a step. Only calls that work on them are run again."""
    states = setting.task.begin(problem)
    for made in chain.steps[: step + 1]:
        if made.call is not None and made.observation.failure is None and made.call.name in stateful:
            setting.functions.run(made.call, states)
    return states


def _value(step: Step) -> Value:
    return read(result_text(step.observation)) or ""


def _kind(result: Result) -> tuple[str, int]:
    """Whether a number is whole, decimal or a fraction, and its sign; of anything else nothing."""
    text = result_text(result.observation)
    value = read(text)
    if not isinstance(value, Fraction):
        return "text", 0
    sign = (value > 0) - (value < 0)
    if value.denominator == 1:
        return "whole", sign
    return ("fraction" if "/" in text else "decimal"), sign


# --- asking the model -----------------------------------------------------------------------------


def probed(
    setting: Setting,
    model: ChatModel,
    probes: Mapping[str, Probe],
    path: str | Path,
    on_chain: Callable[[Chain], None] | None = None,
    *,
    known: Sequence[str | Path] = (),
) -> list[Chain]:
    """Let the model go on from each replaced observation; the chains are appended to `path`, with what
    became of the answer as their judgement. Called again it keeps what is finished, there or in a file
    of `known`, and redoes errored ones."""
    store = ChainStore(path)
    done = set().union(*map(finished_keys, [store, *map(ChainStore, known)]))
    jobs = [probe.job for key, probe in probes.items() if key not in done]

    def told(chains: Iterator[Chain]) -> Iterator[Chain]:
        for chain in chains:
            yield with_verdict(chain, probes[chain.key])
            if on_chain is not None:
                on_chain(chain)

    if jobs:
        with closing(rollouts(setting, model, jobs)) as chains:
            store.append(told(chains))
    return [chain for chain in store.latest() if chain.key in probes]


def with_verdict(chain: Chain, probe: Probe) -> Chain:
    """The chain that went on, judged by what became of the answer."""
    if chain.outcome is Outcome.ERRORED:
        return chain
    follows = _answers(chain, probe.expected)
    unchanged = not follows and _answers(chain, probe.chain.answer or "")
    was = result_text(probe.chain.steps[probe.step].observation)
    said = "follows" if follows else "is the one before" if unchanged else "is another"
    judgement = Judgement(
        measures={"follows": float(follows), "unchanged": float(unchanged)},
        evidence=(
            f"Step {probe.step + 1} was answered {was}; the model reads {probe.observed} there.",
            f"The same calls then lead to {probe.expected}. The answer {said}.",
        ),
    )
    return chain.model_copy(update={"judgement": judgement})


def _answers(chain: Chain, answer: str) -> bool:
    return chain.answer is not None and answer_value(chain.answer) == answer_value(answer)


def counted(made: CounterfactualPlan, chains: Iterable[Chain]) -> Counterfactual:
    """The shares over the chains of a plan that are finished."""
    keys = set(made.probes)
    of_plan = {chain.key: chain for chain in chains if chain.key in keys}
    measures = [
        chain.judgement.measures for chain in of_plan.values() if chain.outcome is not Outcome.ERRORED
    ]
    follows = [one.get("follows", 0.0) for one in measures]
    unchanged = [one.get("unchanged", 0.0) for one in measures]
    return Counterfactual(
        looked_at=made.looked_at,
        left_out=made.left_out,
        errored=len(made.probes) - len(measures),
        follows=rate(follows),
        unchanged=rate(unchanged),
        other=rate([1.0 - a - b for a, b in zip(follows, unchanged, strict=True)]),
    )
