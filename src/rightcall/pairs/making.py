"""Chains → pairs: who may be chosen, who may be rejected, and how many are taken from each problem."""

from __future__ import annotations

import random
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from rightcall.chain import Chain, Frozen, Outcome, StopReason, digest, seed_of
from rightcall.errors import ConfigError, nearest
from rightcall.pairs.gathering import Entry, Gathered
from rightcall.pairs.outline import Head, Outline
from rightcall.pairs.pair import PreferencePair, identity, texts
from rightcall.pairs.statistics import PairStatistics, pair_statistics
from rightcall.pairs.strategies import STRATEGIES, Sides, Strategy
from rightcall.spill import Seen
from rightcall.tree import StepTree, ended_well, step_trees


class PairConfig(Frozen):
    """Which pairs are made."""

    strategies: dict[str, float] = Field(default_factory=lambda: {"chain": 1.0})
    """Strategy → weight: how often it is asked first for a problem's next pair."""
    sources_chosen: tuple[str, ...] = ("student", "teacher")
    """In order of preference: a problem's chosen chains come from the first source that has a right
    one (on-policy where possible, the teacher's where the student has none)."""
    sources_rejected: tuple[str, ...] = ("student", "teacher", "corrupted")
    """In order of preference, like `sources_chosen`: chains that augmentation made wrong come last,
    where nobody erred."""
    mix_sources: bool = False
    """Take a problem's chains of all these sources rather than of the first that has any."""
    require_process: bool = True
    """Chosen chains need a right answer *and* nothing known against their process; a task that
    cannot judge the process has nothing against it."""
    reject_right_answer_wrong_process: bool = True
    """Chains that were right for a wrong reason may be rejected. On, because otherwise nothing
    tells the model that a wrong formalisation is wrong when the answer comes out right. Needs
    `require_process`."""
    min_rollouts: int = Field(default=4, ge=1)
    """How many other chains must have gone on from a wrong chain's step, all in vain, before it is
    known as one that is not recovered from (`first_error`; a step that ended its chain needs none)."""
    max_per_problem: int = Field(default=2, ge=1)
    max_pairs: int | None = Field(default=None, ge=1)
    """Of the whole set; None for all."""
    balance: tuple[Literal["difficulty", "error", "answer", "strategy", "basis"], ...] = ()
    """With `max_pairs`: take as evenly as possible from the groups these columns make."""
    seed: int = 0

    @model_validator(mode="after")
    def _known(self) -> PairConfig:
        for name, weight in self.strategies.items():
            if name not in STRATEGIES:
                raise ConfigError("unknown strategy", value=name, remedy=nearest(name, STRATEGIES))
            if weight < 0:
                raise ConfigError(f"the weight of strategy {name!r} is negative", value=weight)
        if not any(self.strategies.values()):
            raise ConfigError("no pairing strategy has a weight", value=self.strategies)
        if self.balance and self.max_pairs is None:
            raise ConfigError(
                "balance needs max_pairs", value=self.balance, remedy="Say how many pairs to take."
            )
        return self


def make_pairs(
    chains: Iterable[Chain], config: PairConfig = PairConfig(), dropped: Counter[str] | None = None
) -> Iterator[PreferencePair]:
    """Pairs from the chains of any number of problems, in any order; of files, give `ChainFiles`.

    The same chains in another order give the same pairs. Memory holds one problem's chains at a time:
    the others stay in their files (or wait in a temporary one). Of a chain no more is read, and
    checked, than pairs take, and of one that no pair may come of no more than shows that.
    `dropped`, if given, counts what made no pair, and why.
    """
    dropped = Counter() if dropped is None else dropped
    with _gathered(chains, config) as kept:
        yield from _pairs(kept, config, dropped)


def compare_strategies(
    chains: Iterable[Chain], config: PairConfig = PairConfig(), names: Sequence[str] = ()
) -> dict[str, PairStatistics]:
    """Strategy → what the set is made of that it alone makes of the same chains under `config`, its
    caps included. All strategies if none is named."""
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        remedy = nearest(unknown[0], STRATEGIES)
        raise ConfigError("unknown strategy", value=unknown[0], remedy=remedy)
    found = {}
    asked = dict.fromkeys(names or STRATEGIES, 1.0)
    with _gathered(chains, config.model_copy(update={"strategies": asked})) as kept:
        for name in asked:
            dropped: Counter[str] = Counter()
            alone = config.model_copy(update={"strategies": {name: 1.0}})
            found[name] = pair_statistics(_pairs(kept, alone, dropped), dropped)
    return found


def _gathered(chains: Iterable[Chain], config: PairConfig) -> Gathered:
    return Gathered(chains, config.seed, _kind_by(config))


def _pairs(kept: Gathered, config: PairConfig, dropped: Counter[str]) -> Iterator[PreferencePair]:
    if config.max_pairs is None:
        yield from _all_pairs(kept, config, dropped)
        return
    spare: Counter[str] = Counter()
    labels = (_group(pair, config.balance) for pair in _all_pairs(kept, config, spare))
    taken = _evenly(labels, config.max_pairs, random.Random(seed_of("pairs", config.seed)))
    dropped["over max_pairs"] += len(taken) - sum(taken)
    for index, pair in enumerate(_all_pairs(kept, config, dropped)):
        if taken[index]:
            yield pair


def _all_pairs(kept: Gathered, config: PairConfig, dropped: Counter[str]) -> Iterator[PreferencePair]:
    seen = Seen()
    for entries in kept.problems(dropped, {*config.sources_chosen, *config.sources_rejected}):
        if (nothing := _hopeless(entries, kept.sources, config)) is not None:
            dropped[nothing] += 1
            continue
        outlines = map(kept.outline, entries)
        chains = sorted(outlines, key=lambda c: (digest(config.seed, c.key), c.key))
        material = _material(chains, config, dropped)
        before = len(seen)
        generator = random.Random(seed_of("pairs", config.seed, chains[0].task, chains[0].problem_id))
        try:
            yield from _problem_pairs(material, config, generator, seen, dropped)
        except ValidationError:  # a call, or token ids, that are none
            kept.check(entries)
            raise
        if len(seen) == before:
            dropped[material.nothing] += 1


# --- problems without a contrast ----------------------------------------------------------------

_RIGHT, _WRONG, _UNSURE, _FAILED = 2, 4, 8, 16
"""What a head tells of a chain: it ended well; it may be rejected; whether it may be rejected cannot be
told; it has a failed call."""

_CORRECT = Outcome.CORRECT
_MAYBE_CUT = (StopReason.REPLY_TRUNCATED, StopReason.TOKEN_BUDGET)

_NEEDED = {"chain": _RIGHT | _WRONG, "step": _RIGHT | _WRONG, "first_error": _RIGHT | _WRONG}
_NEEDED["repair"] = _FAILED
"""Strategy → what a problem's chains must show before it can make a pair; of others all are asked."""

_FAILURE = re.compile(rb'"failure"\s*:\s*"')


def _kind_by(config: PairConfig) -> Callable[[Head], int]:
    """What heads tell of chains, under a config."""
    require_process, repairs = config.require_process, config.strategies.get("repair", 0) > 0
    right_answer = _WRONG if _rejects_process(config) else 0

    def kind(head: Head) -> int:
        failed = _FAILED if repairs and _FAILURE.search(bytes(head.steps)) else 0
        if head.outcome is _CORRECT:
            well = not require_process or head.right_for_the_right_reason
            return failed | (_RIGHT if well else right_answer)
        unsure = head.stop_reason in _MAYBE_CUT or bytes(head.steps) == b"[]"
        return failed | (_UNSURE if unsure else _WRONG)

    return kind


def _hopeless(entries: Sequence[Entry], sources: Sequence[str], config: PairConfig) -> str | None:
    """Why a problem's chains make no pair, where their heads tell so."""
    shown = 0
    for number, kinds in _by_source(entries).items():
        shown |= kinds & _FAILED
        shown |= kinds & _RIGHT if sources[number] in config.sources_chosen else 0
        shown |= kinds & _WRONG if sources[number] in config.sources_rejected else 0
        if kinds & _UNSURE:
            return None
    asked = [name for name, weight in config.strategies.items() if weight > 0]
    if any(shown & (needed := _NEEDED.get(name, 0)) == needed for name in asked):
        return None
    if not shown & _RIGHT:
        return _NO_RIGHT
    return _NO_WRONG if not shown & _WRONG else _NO_PAIR


def _by_source(entries: Iterable[Entry]) -> dict[int, int]:
    """Source → what any of its chains shows."""
    found: dict[int, int] = {}
    for entry in entries:
        found[entry.source] = found.get(entry.source, 0) | entry.kind
    return found


# --- the two sides ------------------------------------------------------------------------------


_NO_RIGHT = "problem without a right chain"
_NO_WRONG = "problem without a wrong chain"
_NO_PAIR = "problem whose chains make no pair"


@dataclass(frozen=True)
class _Material:
    """A problem's trees, each with the chains that may stand on either side."""

    trees: list[tuple[StepTree[Outline], Sides]]
    nothing: str
    """What to say if no pair comes of it."""


def _material(chains: Sequence[Outline], config: PairConfig, dropped: Counter[str]) -> _Material:
    """`chains` are one problem's, in the order in which they are to be used."""
    right = [c for c in chains if ended_well(c, config.require_process)]
    wrong = [c for c in chains if _bad(c, config, dropped)]
    groups = {"repairable": _repairable(chains, config)}
    take = _mixed if config.mix_sources else _preferred
    for side, found, sources in (
        ("right", right, config.sources_chosen),
        ("wrong", wrong, config.sources_rejected),
    ):
        groups[side] = groups[f"whole_{side}"] = take(found, sources)
        whole = [chain for chain in found if not chain.given_steps]
        if len(whole) < len(found):
            groups[f"whole_{side}"] = take(whole, sources)
    trees = step_trees(chains, require_process=config.require_process)
    nothing = _NO_RIGHT if not groups["right"] else _NO_PAIR if groups["wrong"] else _NO_WRONG
    return _Material([(tree, _sides(tree, groups, config, dropped)) for tree in trees], nothing)


def _sides(
    tree: StepTree[Outline],
    groups: Mapping[str, Sequence[Outline]],
    config: PairConfig,
    dropped: Counter[str],
) -> Sides:
    own = {name: [c for c in group if c.key in tree.chains] for name, group in groups.items()}
    return Sides(**own, min_rollouts=config.min_rollouts, dropped=dropped)


def _bad(chain: Outline, config: PairConfig, dropped: Counter[str]) -> bool:
    if chain.outcome is _CORRECT:
        return _rejects_process(config) and not chain.right_for_the_right_reason
    if not chain.steps or chain.maybe_cut:
        dropped["wrong chain with a cut or no reply"] += 1
        return False
    return True


def _rejects_process(config: PairConfig) -> bool:
    return config.require_process and config.reject_right_answer_wrong_process


def _preferred(chains: Sequence[Outline], sources: Sequence[str]) -> list[Outline]:
    """The distinct chains of the first source that has any."""
    return next((found for source in sources if (found := _mixed(chains, (source,)))), [])


def _mixed(chains: Sequence[Outline], sources: Sequence[str]) -> list[Outline]:
    """The distinct chains of all these sources; of two that say the same, the earlier source's."""
    found: dict[tuple[str, ...], Outline] = {}
    for source in sources:
        for chain in chains:
            if chain.source == source:
                found.setdefault(tuple([s.reply for s in chain.steps]), chain)
    return list(found.values())


def _repairable(chains: Sequence[Outline], config: PairConfig) -> list[Outline]:
    """Chains that may stand on both sides, by order of the sources."""
    both = [source for source in config.sources_chosen if source in config.sources_rejected]
    return [chain for source in both for chain in chains if chain.source == source]


# --- taking pairs -------------------------------------------------------------------------------


def _problem_pairs(
    material: _Material,
    config: PairConfig,
    generator: random.Random,
    seen: Seen,
    dropped: Counter[str],
) -> Iterator[PreferencePair]:
    """Up to `max_per_problem` pairs, each from the strategy drawn by weight, or the next one that
    still has a pair."""
    names = [name for name, weight in config.strategies.items() if weight > 0]
    waiting = {name: _all_of(STRATEGIES[name], material) for name in names}
    for _ in range(config.max_per_problem):
        first = generator.choices(names, [config.strategies[name] for name in names])[0]
        for name in [first, *(n for n in names if n != first)]:
            pair = next((p for p in waiting[name] if _fresh(p, seen, dropped)), None)
            if pair is not None:
                yield pair
                break
        else:
            return


def _all_of(strategy: Strategy, material: _Material) -> Iterator[PreferencePair]:
    for tree, sides in material.trees:
        yield from strategy(tree, sides)


def _fresh(pair: PreferencePair, seen: Seen, dropped: Counter[str]) -> bool:
    if texts(pair.chosen) == texts(pair.rejected):
        dropped["chosen and rejected alike"] += 1
        return False
    if not seen.add(hash(identity(pair))):
        dropped["duplicate"] += 1
        return False
    return True


def _group(pair: PreferencePair, columns: Sequence[str]) -> tuple[object, ...]:
    values = {
        "difficulty": pair.difficulty,
        "error": pair.rejected_error,
        "answer": pair.answer,
        "strategy": pair.strategy,
        "basis": pair.basis,
    }
    return tuple(values[column] for column in columns)


def _evenly(labels: Iterable[tuple[object, ...]], count: int, generator: random.Random) -> bytearray:
    """For each item 1 if it is among `count` that are taken, as evenly over the labels as their numbers
    allow.

    >>> list(_evenly([("a",), ("a",), ("a",), ("b",)], 2, random.Random(0)))[3]
    1
    """
    members: dict[tuple[object, ...], array[int]] = defaultdict(lambda: array("L"))
    total = 0
    for index, label in enumerate(labels):
        members[label].append(index)
        total += 1
    for indices in members.values():
        generator.shuffle(indices)
    taken = bytearray(total)
    left = min(count, total)
    while left:
        for indices in sorted(members.values(), key=len):
            if indices and left:
                taken[indices.pop()] = 1
                left -= 1
    return taken
