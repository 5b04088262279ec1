"""Pairing strategies: where in a step tree one continuation is to be preferred to another.

A strategy is a function of a tree and of the chains that may stand on each side; it gives its best
pairs first. To add one, write it and add a line to `STRATEGIES`.

- `chain`: a right and a wrong chain, whole (the paper's pairs; two branches at the root).
- `step`: the turn where a right and a wrong chain part, if the tree says that the right one's step is
  worth more, or the task that the wrong one's is wrong, or augmentation made it so.
- `first_error`: the first step of a wrong chain that is known not to be recovered from, against the
  best step in its place.
- `repair`: a call that failed, against the call that succeeded next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import tee
from math import lcm
from typing import TypeVar

from rightcall.chain import CORRUPTED, Call, Outcome, StopReason
from rightcall.dialects import DIALECTS, Dialect, conversation
from rightcall.errors import DataError, nearest
from rightcall.pairs.outline import Outline, StepOutline
from rightcall.pairs.pair import Basis, PreferencePair
from rightcall.pairs.repairs import ends_with_call, repairs
from rightcall.tree import Node, StepTree, Turn, assured_gap, whole_steps

WRONG_ANSWER = "wrong_answer"
WRONG_PROCESS = "wrong_process"

T = TypeVar("T")


@dataclass(frozen=True)
class Sides:
    """The chains of a tree that may be learned from, in the order in which they are to be used."""

    right: Sequence[Outline]
    """May be chosen: they ended well, and their source is the preferred one."""
    wrong: Sequence[Outline]
    """May be rejected."""
    whole_right: Sequence[Outline]
    """Like `right`, of the chains made from the start: rollouts from a prefix are no attempts."""
    whole_wrong: Sequence[Outline]
    repairable: Sequence[Outline]
    """May be on both sides, however they ended; those that ended well come first."""
    min_rollouts: int
    """See `PairConfig`."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Counts what made no pair, and why."""


Strategy = Callable[[StepTree[Outline], Sides], Iterator[PreferencePair]]
"""The pairs of a problem, the best first."""


def chain_pairs(tree: StepTree[Outline], sides: Sides) -> Iterator[PreferencePair]:
    """Whole chains (the paper's pairs): all turns after the problem, to the last reply. The
    observation of a stop is nobody's turn and is left out."""
    for right, wrong in _combinations(sides.whole_right, sides.whole_wrong):
        if right.steps and wrong.steps:
            every = slice(0, None)
            error = error_class(wrong)
            yield _pair("chain", Basis.OUTCOME, tree, (right, every), (wrong, every), error)


def step_pairs(tree: StepTree[Outline], sides: Sides) -> Iterator[PreferencePair]:
    """The turns in which a right and a wrong chain part: their common conversation, then a reply each.

    The chosen step must be worth more than the rejected one, or the task must judge the rejected
    one to be wrong and the values not deny it, or augmentation must have made it wrong and nobody have
    gone there; a step that the task judges wrong is never chosen. No pair if the two make the same call
    in other words. Steps that the task judges come first, then those that were made wrong, then the
    gaps that are both large and well counted (`assured_gap`); another rejected step before the same
    one again.

    Takes time that grows with the steps, not with their combinations: those of one parent are ranked
    once for all rejected siblings of the same values, and looked at as far as pairs are asked for.
    """
    chosen, judged = _chosen_steps(tree, sides.right), _judged_steps(tree, sides.wrong)
    corrupted = _corrupted_steps(tree, sides.wrong)
    rejected = {**_steps(tree, sides.wrong), **corrupted, **judged}
    waiting: list[tuple[int, Node, Iterator[Node]]] = []
    for parent in (node for node in tree.nodes if len(node.children) > 1):
        children = tree.children(parent)
        goods = [node for node in children if node.index in chosen]
        ranked: dict[tuple[int, int, bool], _Alternatives] = {}
        for bad in (node for node in children if goods and node.index in rejected):
            known = [bad.index in judged, bad.index in corrupted and not bad.counted]
            alike = (bad.ended_well, bad.counted, any(known))
            if alike not in ranked:
                ranked[alike] = _Alternatives.by_gap(goods, bad, any(known))
            rank = known.index(True) if any(known) else len(known)
            waiting.append((rank, bad, ranked[alike].to(bad)))
    while waiting:
        found = []
        for rank, bad, goods_left in waiting:
            if (good := next(goods_left, None)) is not None:
                found.append(
                    (rank, -assured_gap(good, bad), good.index, bad.index, good, bad, goods_left)
                )
        found.sort(key=lambda f: f[:4])
        for rank, _, _, _, good, bad, _ in found:
            basis = (Basis.PROCESS, Basis.CORRUPTION, Basis.VALUES)[rank]
            yield _step_pair("step", basis, tree, good, chosen[good.index], bad, rejected[bad.index])
        waiting = [(rank, bad, goods_left) for rank, _, _, _, _, bad, goods_left in found]


def first_error_pairs(tree: StepTree[Outline], sides: Sides) -> Iterator[PreferencePair]:
    """The first step of each wrong chain that is known not to be recovered from, against the step in
    its place that is worth most (by the lower end of its interval) and led to a right chain. See
    `StepTree.first_error`; the best-known errors come first. Steps that were tried too seldom to be
    known are counted in `Sides.dropped`."""
    chosen = _chosen_steps(tree, sides.right)
    found: dict[int, tuple[float, Node, Node, Outline]] = {}
    ranked: dict[int, _Alternatives] = {}
    open_ones: set[int] = set()
    for wrong in sides.wrong if chosen else ():
        bad = tree.turning_point(wrong.key)
        if bad is None or bad.parent is None or bad.index in found:
            continue
        if not tree.lost(wrong.key, bad, sides.min_rollouts):
            open_ones.add(bad.index)
            continue
        if bad.parent not in ranked:
            others = tree.children(tree.nodes[bad.parent])
            goods = [node for node in others if node.index in chosen and node.ended_well]
            goods.sort(key=lambda node: (-node.interval.low, node.index))
            ranked[bad.parent] = _Alternatives(goods)
        if (best := next(ranked[bad.parent].to(bad), None)) is not None:
            found[bad.index] = (-assured_gap(best, bad), best, bad, wrong)
    if seldom := len(open_ones - found.keys()):
        sides.dropped[f"first error tried too seldom (min_rollouts = {sides.min_rollouts})"] += seldom
    for _, good, bad, wrong in sorted(found.values(), key=lambda f: (f[0], f[2].index)):
        yield _step_pair("first_error", Basis.ROLLOUTS, tree, good, chosen[good.index], bad, wrong)


def repair_pairs(tree: StepTree[Outline], sides: Sides) -> Iterator[PreferencePair]:
    """A call that failed, against the call that succeeded next, placed where the failed one was.

    A failed call leaves the state as it was, so the later call would have succeeded there too. Its
    chain may have ended badly: the call is repaired all the same; but a repair that the task judges
    wrong, that gave a wrong answer, or after which nothing ended well although its prefix was
    recovered from, is none; nor is a reply that goes on after its call, which would be trained with
    it. What was repaired must be known to be the same thing (see `repairs`). Chains that ended well
    come first, then repairs after which another one did; within these, one kind of failure after the
    other.

    This is the one strategy whose chosen side is no conversation that took place: the failed calls
    between the two are left out.
    """
    by_rank: list[list[tuple[Outline, int, int]]] = [[], [], []]
    for chain in sides.repairable:
        for failed, mended in repairs(whole_steps(chain)):
            if _worth_learning(tree, chain, failed, mended, sides.min_rollouts):
                after = tree.path(chain.key)[mended + 1]
                rank = 0 if chain.key in tree.well else 1 if after.ended_well else 2
                by_rank[rank].append((chain, failed, mended))
    for found in by_rank:
        for chain, failed, mended in _varied(found, lambda f: f[0].steps[f[1]].observation.failure):
            observation = chain.steps[failed].observation
            yield _pair(
                "repair",
                Basis.REPAIR,
                tree,
                (chain, slice(mended, mended + 1)),
                (chain, slice(failed, failed + 1)),
                str(observation.failure),
                evidence=observation.text,
            )


STRATEGIES: dict[str, Strategy] = {
    "chain": chain_pairs,
    "step": step_pairs,
    "first_error": first_error_pairs,
    "repair": repair_pairs,
}


# --- whole chains -------------------------------------------------------------------------------


def _combinations(right: Sequence[T], wrong: Sequence[T]) -> Iterator[tuple[T, T]]:
    """Every (right, wrong), such that the first ones share no chain where that is possible.

    >>> [a + b for a, b in _combinations("ab", "xy")]
    ['ax', 'by', 'ay', 'bx']
    """
    round_length = lcm(len(right), len(wrong))
    for k in range(len(right) * len(wrong)):
        yield right[k % len(right)], wrong[(k + k // round_length) % len(wrong)]


def error_class(chain: Outline) -> str:
    """What is wrong with a chain, for counting and balancing: see `PreferencePair.rejected_error`."""
    if chain.outcome is Outcome.CORRECT:
        label = WRONG_PROCESS
    elif chain.stop_reason is StopReason.STOPPED:
        label = WRONG_ANSWER
    else:
        label = str(chain.stop_reason)
    return "+".join([label, *sorted({str(kind) for kind in chain.failures})])


# --- steps --------------------------------------------------------------------------------------


def _steps(tree: StepTree[Outline], chains: Iterable[Outline]) -> dict[int, Outline]:
    """Node → the first chain through it."""
    found: dict[int, Outline] = {}
    for chain in chains:
        for index in tree.paths[chain.key][1:]:
            found.setdefault(index, chain)
    return found


def _chosen_steps(tree: StepTree[Outline], chains: Iterable[Outline]) -> dict[int, Outline]:
    """Node → the first chain through it in which the task does not judge that step to be wrong."""
    found: dict[int, Outline] = {}
    for chain in chains:
        wrong = set(chain.judgement.wrong_steps)
        for step, index in enumerate(tree.paths[chain.key][1:]):
            if step not in wrong:
                found.setdefault(index, chain)
    return found


def _judged_steps(tree: StepTree[Outline], chains: Iterable[Outline]) -> dict[int, Outline]:
    """Node → the first chain in which the task judges that step to be wrong."""
    found: dict[int, Outline] = {}
    for chain in chains:
        path = tree.paths[chain.key]
        for step in chain.judgement.wrong_steps:
            if step + 1 < len(path):
                found.setdefault(path[step + 1], chain)
    return found


def _corrupted_steps(tree: StepTree[Outline], chains: Iterable[Outline]) -> dict[int, Outline]:
    """Node → the first chain that augmentation made wrong there: where it leaves the chain that it is
    made of."""
    found: dict[int, Outline] = {}
    for chain in chains:
        if chain.source == CORRUPTED and chain.origin is not None:
            kept = set(tree.paths.get(chain.origin.parent, ()))
            own = (index for index in tree.paths[chain.key] if index not in kept)
            if kept and (first := next(own, None)) is not None:
                found.setdefault(first, chain)
    return found


class _Alternatives:
    """Steps that may be chosen after one conversation, the best first."""

    def __init__(self, ranked: Sequence[Node]) -> None:
        self._ranked = ranked
        self._to_call: dict[tuple[str, ...], Iterator[Node]] = {}

    @classmethod
    def by_gap(cls, goods: Iterable[Node], bad: Node, judged: bool) -> _Alternatives:
        """Those to be preferred to siblings of these values; the gap that is large and well counted
        comes first."""
        better = (node for node in goods if _preferred(node, bad, judged))
        return cls(sorted(better, key=lambda node: (-assured_gap(node, bad), node.index)))

    def to(self, bad: Node) -> Iterator[Node]:
        """Those that differ from a rejected step and do not make its call in other words. What all
        steps of that call pass over is passed over once."""
        call = _step(bad).call
        key = () if call is None else (call.name, repr(call.args), repr(call.kwargs))
        if key not in self._to_call:
            (self._to_call[key],) = tee((n for n in self._ranked if _other_call(_step(n), call)), 1)
        others, reply = copy(self._to_call[key]), _step(bad).reply
        # A reply that was answered differently: their prefixes are not the same.
        return (node for node in others if _step(node).reply != reply)


def _step(node: Node) -> Turn:
    if node.step is None:
        raise ValueError("the root is no step")
    return node.step


def _other_call(step: Turn, call: Call | None) -> bool:
    own = step.call
    return own is None or own != call


def _preferred(good: Node, bad: Node, judged: bool) -> bool:
    if judged:
        return good.value >= bad.value
    return bool(good.counted and bad.counted) and good.value > bad.value


def _varied(found: Sequence[T], kind: Callable[[T], object]) -> list[T]:
    """The same things, those of a kind not seen yet first.

    >>> _varied(["a1", "a2", "b1", "a3", "b2"], lambda text: text[0])
    ['a1', 'b1', 'a2', 'b2', 'a3']
    """
    seen: Counter[object] = Counter()
    rounds = []
    for item in found:
        rounds.append(seen[kind(item)])
        seen[kind(item)] += 1
    return [found[i] for i in sorted(range(len(found)), key=lambda i: rounds[i])]


# --- repairs ------------------------------------------------------------------------------------


def _worth_learning(
    tree: StepTree[Outline], chain: Outline, failed: int, mended: int, tries: int
) -> bool:
    if mended in chain.judgement.wrong_steps or not ends_with_call(chain, chain.steps[mended]):
        return False
    path = tree.path(chain.key)
    before, after = path[failed], path[mended + 1]
    return not (tree.lost(chain.key, after, tries) and (after.final or before.recovered))


# --- making a pair ------------------------------------------------------------------------------

Side = tuple[Outline, slice]
"""A chain and its steps on one side of a pair."""


def _step_pair(
    strategy: str,
    basis: Basis,
    tree: StepTree[Outline],
    good: Node,
    right: Outline,
    bad: Node,
    wrong: Outline,
) -> PreferencePair:
    turn = slice(good.depth - 1, good.depth)
    failure = wrong.steps[bad.depth - 1].observation.failure
    error = str(failure) if failure else error_class(wrong)
    return _pair(strategy, basis, tree, (right, turn), (wrong, turn), error)


def _pair(
    strategy: str,
    basis: Basis,
    tree: StepTree[Outline],
    chosen: Side,
    rejected: Side,
    error: str,
    evidence: str | None = None,
) -> PreferencePair:
    """The pair after the steps that stand before the rejected side's."""
    (right, good), (wrong, bad) = chosen, rejected
    dialect = _dialect(right)
    before = right.steps[: bad.start]
    chosen_node, rejected_node = _end(tree, chosen), _end(tree, rejected)
    return PreferencePair.model_construct(  # of checked parts
        prompt=conversation(right.prompt, before, dialect),
        chosen=conversation((), right.steps[good], dialect, last_observed=False),
        rejected=conversation((), wrong.steps[bad], dialect, last_observed=False),
        schemas=right.schemas,
        task=right.task,
        problem_id=right.problem_id,
        strategy=strategy,
        chosen_source=right.source,
        rejected_source=wrong.source,
        chosen_chain=right.key,
        rejected_chain=wrong.key,
        rejected_error=error,
        basis=basis,
        chosen_value=chosen_node.value,
        rejected_value=rejected_node.value,
        chosen_count=chosen_node.counted,
        rejected_count=rejected_node.counted,
        evidence="; ".join(wrong.judgement.evidence) if evidence is None else evidence,
        answer=(right.answer or "") if right.key in tree.well else "",
        difficulty=right.difficulty or 0,
        root=right.root if right.root != right.problem_id else "",
        operation=next((c.origin.operation for c in (wrong, right) if c.origin), ""),
        prompt_ids=_ids(before),
        chosen_ids=_ids(right.steps[good]),
        rejected_ids=_ids(wrong.steps[bad]),
    )


def _end(tree: StepTree[Outline], side: Side) -> Node:
    """The node of a side's last step."""
    chain, turns = side
    return tree.nodes[tree.paths[chain.key][-1 if turns.stop is None else turns.stop]]


def _dialect(chain: Outline) -> Dialect:
    if chain.dialect not in DIALECTS:
        raise DataError(
            "a chain has an unknown dialect",
            value=chain.dialect,
            remedy=nearest(chain.dialect, DIALECTS),
        )
    return DIALECTS[chain.dialect]


def _ids(steps: Sequence[StepOutline]) -> tuple[tuple[int, ...] | None, ...]:
    return tuple(step.token_ids for step in steps)
