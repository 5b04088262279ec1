"""Figures of finished chains: what was called, what became of the results, when it was answered.

They need no rollout of their own. Each says in its docstring what it cannot see. Errored chains enter
none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction

from rightcall.chain import JSON, Chain, Frozen, Outcome, Step, StopReason
from rightcall.conduct.values import (
    Value,
    answer_value,
    arguments,
    mentions,
    numbers_in,
    read,
    result_text,
)
from rightcall.functions import FunctionSet, Role
from rightcall.rate import Rate, rate

MAX_RESULT = 40
"""Characters of a text result whose use is looked for; a longer one is read rather than handed on."""


class ShownFunction(Frozen):
    """What must be known of a function that the chains were offered."""

    name: str
    """As it was shown."""
    role: Role
    stateful: bool
    """It works on the chain's state: what it did is seen by later calls without being named in them."""


def shown_functions(functions: FunctionSet) -> tuple[ShownFunction, ...]:
    """The functions of a set, in order."""
    return tuple(
        ShownFunction(name=made.name, role=made.role, stateful=bool(made.state_parameters))
        for made in functions
    )


class FunctionUse(Frozen):
    """How one function was used."""

    calls: int
    """Steps that called it, those refused or failed included."""
    share: float
    """Of all such steps of all functions."""
    failed: int
    failure_rate: float
    """Of its calls."""


class Conduct(Frozen):
    """How the functions were used in finished chains."""

    chains: int
    """Chains that the figures rest on."""
    coverage: float | None = None
    """Share of the shown functions that were called at least once in all the chains together; None if
    it is not known which were shown. A function that no problem needs lowers it just as one that the
    model has forgotten."""
    functions: dict[str, FunctionUse]
    """By name, as shown. Names that were never shown are among the failed calls, not here."""
    results: int = 0
    """Results whose use was looked for: numbers and short texts that solving functions without a state
    gave. Where none is counted, `unused_results` is None."""
    unused_results: float | None = None
    """Share of those whose value stands neither in a later call nor in the answer. It cannot see a
    value that was used in other words or after a sum in the head (which counts as unused), nor a
    coincidence (an argument that happens to be the same number counts as its use), nor what a state
    hands on."""
    early_answers: Rate | None = None
    """Share of the chains stopped with an answer in which no result before had said that answer: what
    was not computed or decided yet, or never. Not counted is a chain that the task finds right in its
    process. It cannot tell an answer that was put into other words (rounded, given in another unit, or
    "True" for a derivation) from one out of the head, nor see one that some result said by chance. None
    if no chain was stopped with an answer."""
    repeating_chains: Rate
    """Share of the chains that make a call again, with the same arguments by value, after it ran. A
    call without arguments that is answered differently is none: it reads on. It cannot see that the
    state had changed in between, nor the same arguments given by name and by place."""
    repeated_calls: float
    """Share of all calls that ran."""


def conduct(chains: Iterable[Chain], shown: Sequence[ShownFunction] | None = None) -> Conduct:
    """How the functions were used in `chains`. Without `shown` there is no coverage, and nothing is
    known of unused results."""
    finished = [chain for chain in chains if chain.outcome is not Outcome.ERRORED]
    uses = _uses(finished, shown)
    solving = {one.name for one in shown or () if one.role is Role.SOLVE and not one.stateful}
    used = [one for chain in finished for one in _results_used(chain, solving)]
    stopped = [one for chain in finished if (one := answered_early(chain)) is not None]
    repeats = [_repetitions(chain) for chain in finished]
    ran = sum(_ran(step) for chain in finished for step in chain.steps)
    return Conduct(
        chains=len(finished),
        coverage=sum(use.calls > 0 for use in uses.values()) / len(shown) if shown else None,
        functions=uses,
        results=len(used),
        unused_results=used.count(False) / len(used) if used else None,
        early_answers=rate([float(early) for early in stopped]) if stopped else None,
        repeating_chains=rate([float(count > 0) for count in repeats]),
        repeated_calls=sum(repeats) / ran if ran else 0.0,
    )


def _ran(step: Step) -> bool:
    return step.call is not None and step.observation.failure is None


# --- which functions ------------------------------------------------------------------------------


def _uses(chains: Sequence[Chain], shown: Sequence[ShownFunction] | None) -> dict[str, FunctionUse]:
    called: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for chain in chains:
        for step in chain.steps:
            if step.call is not None:
                called[step.call.name] += 1
                failed[step.call.name] += step.observation.failure is not None
    if shown is None:  # what ran at least once is a function
        names = sorted(name for name in called if called[name] > failed[name])
    else:
        names = [one.name for one in shown]
    total = sum(called[name] for name in names)
    return {
        name: FunctionUse(
            calls=called[name],
            share=called[name] / total if total else 0.0,
            failed=failed[name],
            failure_rate=failed[name] / called[name] if called[name] else 0.0,
        )
        for name in names
    }


# --- what became of the results -------------------------------------------------------------------


def _results_used(chain: Chain, solving: set[str]) -> list[bool]:
    """Whether each result was used, of those whose use can be looked for."""
    found = []
    for index, step in enumerate(chain.steps):
        if step.call is not None and step.call.name in solving and _ran(step):
            values = _results(result_text(step.observation))
            if values:
                found.append(any(_used_after(chain, index, value) for value in values))
    return found


def _results(text: str) -> set[Value]:
    """The values that may be handed on: the whole text if it is a number, the numbers in it, or a short
    text itself."""
    value = read(text)
    if isinstance(value, str):
        numbers: set[Value] = {*numbers_in(text)}
        return numbers or ({value} if len(value) <= MAX_RESULT else set())
    return set() if value is None else {value}


def _used_after(chain: Chain, index: int, value: Value) -> bool:
    later = [step.call for step in chain.steps[index + 1 :] if step.call is not None]
    if any(mentions(given, value) for call in later for given in arguments(call)):
        return True
    return chain.answer is not None and mentions(chain.answer, value)


# --- when it was answered -------------------------------------------------------------------------


def answered_early(chain: Chain) -> bool | None:
    """Whether a chain stopped with what no result had said; None if it did not stop with an answer. See
    `Conduct.early_answers`."""
    if chain.stop_reason is not StopReason.STOPPED or chain.answer is None:
        return None
    value = answer_value(chain.answer)
    if value is None or chain.judgement.process_correct:
        return value is None
    return not any(mentions(result_text(s.observation), value) for s in chain.steps[:-1] if _ran(s))


# --- repetitions ----------------------------------------------------------------------------------


def _repetitions(chain: Chain) -> int:
    """Calls that had run before in this chain, with the same arguments."""
    seen: set[Hashable] = set()
    repeated = 0
    for step in chain.steps:
        if step.call is None or not _ran(step):
            continue
        given = tuple(_compared(one) for one in arguments(step.call))
        identity = (step.call.name, tuple(step.call.kwargs), given or step.observation.text)
        repeated += identity in seen
        seen.add(identity)
    return repeated


def _compared(given: JSON) -> Hashable:
    """Numbers by value, anything else as it was written."""
    value = read(given)
    return value if isinstance(value, Fraction) else (type(given).__name__, given)
