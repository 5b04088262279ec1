"""Step trees: the chains of one problem, merged wherever they begin with the same steps.

    prompt ── premise("cold(Bob)") ─┬─ premise("forall x (cold(x) -> red(x))") ── ...   4 of 4 well
                                    └─ premise("forall x (red(x) -> cold(x))") ── ...   0 of 3 well

A node is a step with all that came before it. Its *value* is the share of the chains from there on
that ended well, which is what a preference between two next steps can rest on.

Which chains count for a node: every chain that went on from it by the policy's own sampling. A chain
made from the start counts at all of its nodes. A rollout from a prefix (`Chain.given_steps`) counts
at the end of its prefix and below, but not above: somebody chose to start it there, so counting it
at its forced ancestors would bias their values towards the place that was looked at. A chain that
augmentation made wrong counts nowhere: no policy went there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

from rightcall.chain import CORRUPTED, Call, Message, Outcome
from rightcall.errors import DataError, FailureKind

if TYPE_CHECKING:
    from rightcall.stats import Interval


class Read(Protocol):
    """What a tree needs of an `Observation`."""

    @property
    def text(self) -> str: ...
    @property
    def failure(self) -> FailureKind | None: ...


class Turn(Protocol):
    """What a tree needs of a `Step`."""

    @property
    def reply(self) -> str: ...
    @property
    def call(self) -> Call | None: ...
    @property
    def observation(self) -> Read: ...


class Attempted(Protocol):
    """What a tree needs of a `Chain`."""

    @property
    def key(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def problem_id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def dialect(self) -> str: ...
    @property
    def schemas(self) -> str: ...
    @property
    def prompt(self) -> tuple[Message, ...]: ...
    @property
    def steps(self) -> Sequence[Turn]: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def given_steps(self) -> int: ...
    @property
    def maybe_cut(self) -> bool: ...
    @property
    def right_for_the_right_reason(self) -> bool: ...


C = TypeVar("C", bound=Attempted)


class Ended(Protocol):
    """What tells how a chain ended."""

    @property
    def outcome(self) -> Outcome: ...
    @property
    def right_for_the_right_reason(self) -> bool: ...


Identity = tuple[str, str, FailureKind | None]
"""What makes two steps the same: the reply, the observation's text, and whether and why it failed."""


class Node(msgspec.Struct, frozen=True, gc=False):
    """A step in its place, or the root (the prompt)."""

    index: int
    """In `StepTree.nodes`; a parent's is smaller than its children's."""
    parent: int | None
    depth: int
    """Steps from the prompt to here: 0 for the root."""
    step: Turn | None
    """None for the root. Token ids are those of the first chain, by key, that has the step."""
    children: tuple[int, ...]
    chains: tuple[str, ...]
    """Keys of all chains through here, sorted."""
    counted: int
    """Chains that count here (see the module)."""
    ended_well: int
    """Those of them that ended well."""
    recovered: bool
    """Some chain through here ended well, counted or not: it is not too late. Never true below a
    node where it is false."""
    final: bool
    """A chain ended here and nothing can follow: a stop, or the end of a budget."""

    @property
    def value(self) -> float:
        """Share of the counted chains that ended well; 0 where none is counted."""
        return self.ended_well / self.counted if self.counted else 0.0

    @property
    def interval(self) -> Interval:
        """Wilson's 95% interval of the value."""
        return _interval(self.ended_well, self.counted)


@lru_cache(maxsize=4096)
def _interval(successes: int, total: int) -> Interval:
    from rightcall.stats import wilson_interval  # scipy: a second that other commands need not wait

    return wilson_interval(successes, total)


def assured_gap(better: Node, worse: Node) -> float:
    """The lower end of the 95% interval of `better.value - worse.value`: a large gap and many chains
    both raise it. It is below 0 for almost all gaps that rest on a few chains, so it serves to rank
    gaps rather than to test them.

    Source: R. G. Newcombe, Interval estimation for the difference between independent proportions,
    Statistics in Medicine 17 (1998), method 10.
    """
    below = better.value - better.interval.low
    above = worse.interval.high - worse.value
    return better.value - worse.value - math.hypot(below, above)


@dataclass(frozen=True)
class StepTree(Generic[C]):
    """The chains of one problem that share task, dialect and prompt, merged by prefix."""

    nodes: tuple[Node, ...]
    """The root first, parents before children."""
    chains: dict[str, C]
    """By key."""
    paths: dict[str, tuple[int, ...]]
    """Key → the nodes of that chain, from the root: entry d is at depth d."""
    well: frozenset[str] = field(repr=False)
    """Keys of the chains that ended well."""

    @classmethod
    def of(cls, chains: Iterable[C], *, require_process: bool = True) -> StepTree[C]:
        """Merge chains; the same chains in any order give the same tree.

        A chain ended well if its answer is correct and, with `require_process`, nothing is known
        against its process. Errored chains and repeated keys are left out: no failure of the
        infrastructure is evidence. A chain whose last reply may have been cut ends, not well,
        before that reply: the budget is part of what values are about, but nobody chose where that
        reply ends, so it is no step to prefer or avoid.

        Takes time linear in the number of steps. Raises `DataError` if there is no chain, or if
        they do not belong to one problem and prompt.
        """
        distinct = {c.key: c for c in chains if c.outcome is not Outcome.ERRORED}
        if len({_place(chain) for chain in distinct.values()}) != 1:
            raise DataError(
                "a step tree needs chains of one problem, in one dialect, after one prompt",
                value=sorted({c.problem_id for c in distinct.values()}),
                remedy="Group them first: `step_trees`.",
            )
        return _grown(dict(sorted(distinct.items())), require_process)

    @property
    def root(self) -> Node:
        return self.nodes[0]

    @property
    def prompt(self) -> tuple[Message, ...]:
        return next(iter(self.chains.values())).prompt

    def children(self, node: Node) -> tuple[Node, ...]:
        return tuple(self.nodes[index] for index in node.children)

    def path(self, key: str) -> tuple[Node, ...]:
        """A chain's nodes, from the root."""
        return tuple(self.nodes[index] for index in self.paths[key])

    def tries(self, key: str, node: Node) -> int:
        """The counted chains at a node of a chain, without that chain: it is asked about because it
        failed, so it is no try."""
        chain = self.chains[key]
        return node.counted - (chain.given_steps <= node.depth and chain.source != CORRUPTED)

    def lost(self, key: str, node: Node, tries: int) -> bool:
        """Nothing that went on from a node of a chain ended well, in `tries` other chains or more; or
        nothing can go on."""
        return not node.recovered and (node.final or self.tries(key, node) >= tries)

    def first_error(self, key: str, tries: int) -> Node | None:
        """The first step of a chain that is known not to be recovered from: its prefix was still
        recovered from by some chain, and from it on all of at least `tries` other counted chains
        failed, or nothing could follow.

        None if the chain ended well, if nothing is known to recover from its very prompt, or if the
        first step that nobody was seen to recover from has been tried too seldom.
        """
        at = self.turning_point(key)
        return at if at is not None and self.lost(key, at, tries) else None

    def turning_point(self, key: str) -> Node | None:
        """The first step of a chain that no chain was seen to recover from, however seldom that was
        tried; None if there is none, or nothing is known to recover from the very prompt."""
        at = next((node for node in self.path(key) if not node.recovered), None)
        return at if at is not None and at.depth else None


class _Growing(msgspec.Struct, gc=False):
    """A node while chains are added."""

    parent: int | None
    depth: int
    step: Turn | None
    children: dict[Identity, int] = {}
    chains: list[str] = []
    counted: int = 0
    ended_well: int = 0
    recovered: bool = False
    final: bool = False


def _grown(chains: dict[str, C], require_process: bool) -> StepTree[C]:
    nodes = [_Growing(None, 0, None)]
    paths: dict[str, tuple[int, ...]] = {}
    well = frozenset(key for key, chain in chains.items() if ended_well(chain, require_process))
    for key, chain in chains.items():
        counts_from = math.inf if chain.source == CORRUPTED else chain.given_steps
        path, node, ended = [0], nodes[0], key in well
        steps = whole_steps(chain)
        for depth, step in enumerate((None, *steps)):
            if step is not None:
                observed = step.observation
                identity = (step.reply, observed.text, observed.failure)
                index = node.children.get(identity)
                if index is None:
                    index = node.children[identity] = len(nodes)
                    nodes.append(_Growing(path[-1], depth, step))
                path.append(index)
                node = nodes[index]
            node.chains.append(key)
            if depth >= counts_from:
                node.counted += 1
                node.ended_well += ended
            if ended:
                node.recovered = True
        node.final |= len(chain.steps) == len(steps) > 0
        paths[key] = tuple(path)
    return StepTree(tuple([_frozen(i, n) for i, n in enumerate(nodes)]), chains, paths, well)


def _frozen(index: int, node: _Growing) -> Node:
    return Node(
        index=index,
        parent=node.parent,
        depth=node.depth,
        step=node.step,
        children=tuple(node.children.values()),
        chains=tuple(node.chains),
        counted=node.counted,
        ended_well=node.ended_well,
        recovered=node.recovered,
        final=node.final,
    )


def whole_steps(chain: Attempted) -> Sequence[Turn]:
    """The steps whose reply the model ended itself."""
    return chain.steps[:-1] if chain.maybe_cut else chain.steps


def ended_well(chain: Ended, require_process: bool) -> bool:
    """Right for the right reason, or, without `require_process`, just right."""
    return chain.right_for_the_right_reason if require_process else chain.outcome is Outcome.CORRECT


def step_trees(chains: Iterable[C], *, require_process: bool = True) -> list[StepTree[C]]:
    """A tree for each problem, dialect and prompt; errored chains belong to none."""
    groups: dict[tuple[object, ...], dict[str, C]] = defaultdict(dict)
    for chain in sorted(chains, key=lambda c: c.key):
        if chain.outcome is not Outcome.ERRORED:
            groups[_place(chain)][chain.key] = chain
    return [_grown(group, require_process) for group in groups.values()]


def _place(chain: Attempted) -> tuple[str, ...]:
    place = [chain.task, chain.problem_id, chain.dialect, chain.schemas]
    for message in chain.prompt:
        place += message["role"], message["content"]
    return tuple(place)
