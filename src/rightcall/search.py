"""First-error search: after which step of a wrong chain can the policy no longer recover?

From a prefix of the chain, k rollouts are made with the policy itself. If one of them ends well the
prefix can be recovered from; if none does, it is *not recovered in k tries* (which bounds the chance
that it can be, see `FirstError.upper`, and proves nothing). The place where the one turns into the
other is found by binary search, as OmegaPRM does (Luo et al. 2024, arXiv 2406.06592).

Binary search assumes that it does not get better again: after a prefix that cannot be recovered from
no longer one can. That holds by definition for what *can* happen, and may fail for what was seen in k
tries; whatever any rollout shows is kept, so a prefix that some rollout passed through to a good end
is never called lost.

The result is nothing but more chains, in an ordinary chains file. The tree of all chains then shows
where values fall to 0 (`StepTree.first_error`), and the pairing strategies read it there.

A problem is searched in rounds. The tree of what is known asks for the next prefixes, of all its
wrong chains together, so that a prefix they share is probed once; when all rollouts of a round are
in, the tree is grown anew. What a round asks for therefore depends on no timing, and a killed search
repeats the same rounds from its file without asking a model. The rounds of many problems run side by
side, so that the model's batch stays full.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from rightcall.chain import ByProblem, Chain, ChainStore, Frozen, Outcome, Problem, digest
from rightcall.dialects import DIALECTS
from rightcall.errors import DataError
from rightcall.models import ChatModel
from rightcall.rollout import Job, Setting, chain_key, rollouts
from rightcall.tree import Node, StepTree, ended_well, step_trees

MAX_PLANNED = 48
"""Steps between which the cheapest plan of probes is computed; longer stretches are halved."""


class SearchConfig(Frozen):
    """How first errors are searched for."""

    rollouts: int = Field(0, ge=0)
    """Rollouts from each probed prefix; 0 leaves the search out."""
    chains: int = Field(2, ge=1)
    """Wrong chains of a problem that are searched, at most."""
    any_model: bool = False
    """Search chains that another model made, too. What is then found is where the model of the search
    no longer recovers, which says nothing of where the chain's own model would have."""


class FirstError(Frozen):
    """The first step of a wrong chain that it was not recovered from."""

    chain: str
    """Its key."""
    task: str
    problem_id: str
    step: int
    """0-based."""
    steps: int
    """Of the chain."""
    tries: int
    """Other chains that went on from there; all ended badly."""
    upper: float
    """Upper end of Wilson's 95% interval for the share that would end well, by these tries: 0 where
    nothing can follow, because the step ended the chain."""
    recovered_before: float
    """Value of the step before."""


def first_error(tree: StepTree[Chain], key: str, tries: int) -> FirstError | None:
    """What a tree knows of a chain's first error: see `StepTree.first_error`."""
    node = tree.first_error(key, tries)
    if node is None or node.parent is None:
        return None
    from rightcall.stats import wilson_interval  # scipy

    chain, tried = tree.chains[key], tree.tries(key, node)
    return FirstError(
        chain=key,
        task=chain.task,
        problem_id=chain.problem_id,
        step=node.depth - 1,
        steps=len(chain.steps),
        tries=tried,
        upper=0.0 if node.final else wilson_interval(0, tried).high,
        recovered_before=tree.nodes[node.parent].value,
    )


# --- which prefixes are probed ------------------------------------------------------------------


def next_probes(tree: StepTree[Chain], searched: Sequence[str], tries: int) -> list[Node]:
    """The prefixes to roll out from next, for chains that did not end well: one for each chain whose
    first error is still open, each prefix once. Empty when nothing is left to ask."""
    shared = Counter(index for key in searched for index in tree.paths[key])
    found = {}
    for key in searched:
        node = _probe(tree, key, tries, shared)
        if node is not None:
            found[node.index] = node
    return [node for _, node in sorted(found.items())]


def _probe(tree: StepTree[Chain], key: str, tries: int, shared: Mapping[int, int]) -> Node | None:
    path = tree.path(key)
    if not tree.root.recovered or path[-1].recovered:
        return None
    low = max(node.depth for node in path if node.recovered)
    high = next((node.depth for node in path if tree.lost(key, node, tries)), None)
    if high is None:  # the last reply was cut: what stands before it may be recovered from
        high = len(path)
    if high - low == 1:
        return None
    left = [step.completion_tokens or 1 for step in tree.chains[key].steps]
    cost = [(sum(left[node.depth :]) + 1) / shared[node.index] for node in path]
    return path[cheapest_split(low, high, cost)]


def cheapest_split(low: int, high: int, cost: Sequence[float]) -> int:
    """Where to probe between a depth that is recovered from and one that is not.

    Every depth in `low + 1 .. high` is held equally likely to be the first that is not, and the
    expected cost of finding it is least. `cost[d]` is that of a probe at depth d: a deep prefix
    leaves less to sample, and one that several searched chains share serves them all.

    >>> cheapest_split(0, 4, [1, 1, 1, 1, 1])
    2
    >>> cheapest_split(0, 4, [1, 9, 9, 1, 1])
    3
    """
    if high - low > MAX_PLANNED:
        return (low + high) // 2
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for width in range(1, high - low + 1):
        for a in range(low, high - width + 1):
            b = a + width
            best[a, b] = min(
                (
                    (
                        cost[m] + (m - a) / width * best[a, m][0] + (b - m) / width * best[m, b][0],
                        abs(2 * m - a - b),
                        m,
                    )
                    for m in range(a + 1, b)
                ),
                default=(0.0, 0, a),
            )[::2]
    return best[low, high][1]


# --- the search ---------------------------------------------------------------------------------


@dataclass
class SearchResult:
    """What a search found. `store` holds the rollouts."""

    store: ChainStore
    errors: list[FirstError] = field(default_factory=list)
    """Of the searched chains whose first error is known now."""
    searched: int = 0
    """Wrong chains that were searched."""
    rollouts: int = 0
    """Rollouts that the search rests on, those of earlier calls included."""
    unfinished: int = 0
    """Problems with errored rollouts: call again, they are redone."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why chains and problems were not searched."""

    def figures(self) -> dict[str, int]:
        """What was searched, what was found, and at which steps (from 1)."""
        at = Counter(error.step + 1 for error in self.errors)
        return {
            "wrong chains searched": self.searched,
            "first error found": len(self.errors),
            "rollouts": self.rollouts,
            "problems with errored rollouts (call again)": self.unfinished,
            **{f"left out: {why}": count for why, count in sorted(self.left_out.items())},
            **{f"first error at step {step}": count for step, count in sorted(at.items())},
        }


def search(
    setting: Setting,
    model: ChatModel,
    problems: Iterable[Problem],
    chains: Iterable[Chain],
    config: SearchConfig,
    path: str | Path,
    *,
    require_process: bool = True,
    on_chain: Callable[[Chain], None] | None = None,
) -> SearchResult:
    """Search wrong chains of `setting.source` for their first errors; the rollouts are appended to
    `path` as they finish.

    `chains` are those collected so far, of any role: what another role's chain recovered from is
    recovered from. `setting` and `model` are the policy whose rollouts these are: the model that made
    the chains of this source, unless `config.any_model`; give it the sampling and the budget that it
    collected them with, which chains do not record. Searched are at most `config.chains` distinct
    wrong chains of each problem that has a right one.

    Killed and called again with the same arguments it keeps what is finished, repeats nothing, and
    ends with the same set. Memory holds the problems under way and an index of the others. Raises
    `DataError` if re-executing a prefix gives another observation than its chain recorded, and if
    the chains were made with other functions or the wrong ones by another model.
    """
    if config.rollouts < 1:
        raise DataError("a search needs rollouts", value=config.rollouts, remedy="For example 4.")
    result = SearchResult(ChainStore(path))
    with ByProblem() as collected, ByProblem() as known:
        for chain in chains:
            if chain.outcome is not Outcome.ERRORED:
                collected.put(chain)
        for chain in result.store.latest():
            if chain.outcome is not Outcome.ERRORED:
                known.put(chain)
        rounds = _Rounds(setting, model.name, config, require_process, collected, known, result)
        with closing(rollouts(setting, model, rounds.jobs(problems))) as made:
            result.store.append(_taken(made, rounds, on_chain))
    result.errors.sort(key=lambda error: (error.problem_id, error.chain))
    return result


def _taken(
    made: Iterator[Chain], rounds: _Rounds, on_chain: Callable[[Chain], None] | None
) -> Iterator[Chain]:
    for chain in made:
        yield chain  # to the file first: the search goes on from what is there
        rounds.take(chain)
        if on_chain is not None:
            on_chain(chain)


@dataclass
class _Searched:
    """A problem under way."""

    problem: Problem
    chains: list[Chain]
    """Collected, and the rollouts of finished rounds."""
    wrong: list[str]
    """Keys of the chains that are searched."""
    known: dict[str, Chain]
    """Rollouts that the file held before."""
    waiting: dict[str, Job] = field(default_factory=dict)
    """The rollouts of this round that are not in, by key."""
    made: list[Chain] = field(default_factory=list)
    """Those that are."""


@dataclass
class _Rounds:
    """Hands out the jobs of all problems and takes their chains in."""

    setting: Setting
    model: str
    config: SearchConfig
    require_process: bool
    collected: ByProblem
    known: ByProblem
    result: SearchResult
    running: dict[str, _Searched] = field(default_factory=dict)
    """Problem id → problem, for those that wait for rollouts."""
    queue: deque[Job] = field(default_factory=deque)

    def jobs(self, problems: Iterable[Problem]) -> Iterator[Job | None]:
        """What to roll out next. A problem is begun when those under way ask for nothing."""
        fresh = iter(problems)
        while True:
            while not self.queue and (problem := next(fresh, None)) is not None:
                self._begin(problem)
            if self.queue:
                yield self.queue.popleft()
            elif self.running:
                yield None  # their rollouts are being made
            else:
                return

    def take(self, chain: Chain) -> None:
        """Take a finished rollout in; with the last one of its round, ask for the next round."""
        searched = self.running[chain.problem_id]
        job = searched.waiting.pop(chain.key)
        if chain.given_steps < len(job.replies):
            raise DataError(
                "a rollout ended inside its prefix",
                value=f"problem {chain.problem_id}, {chain.stop_reason}",
                remedy="Search with the step and token budgets that the chains were collected with.",
            )
        searched.made.append(chain)
        if not searched.waiting:
            del self.running[chain.problem_id]
            self._advance(searched)

    def _begin(self, problem: Problem) -> None:
        chains = self._of_this_prompt(problem)
        wrong = self._wrong(chains)
        if not chains or not wrong:
            return
        if not any(ended_well(chain, self.require_process) for chain in chains):
            self.result.left_out["problem without a right chain"] += 1
            return
        self.result.searched += len(wrong)
        known = {c.key: c for c in self.known.chains(self.setting.task.name, problem.id)}
        self._advance(_Searched(problem, chains, wrong, known))

    def _of_this_prompt(self, problem: Problem) -> list[Chain]:
        setting = self.setting
        dialect = DIALECTS[setting.dialect]
        prompt = dialect.prompt(setting.task.instruction, setting.functions, problem)
        shown = (dialect.name, prompt, dialect.tools(setting.functions))
        every = self.collected.chains(setting.task.name, problem.id)
        chains = [c for c in every if (c.dialect, c.prompt, c.schemas) == shown]
        if every and not chains:
            raise DataError(
                "the chains were made with another prompt",
                value=f"problem {problem.id}",
                remedy="Search with the functions, the dialect and the task they were collected with.",
            )
        return chains

    def _wrong(self, chains: Sequence[Chain]) -> list[str]:
        """Keys of distinct wrong chains of the source, in an order that nothing but the seed
        decides."""
        texts: dict[tuple[str, ...], str] = {}
        for chain in sorted(chains, key=lambda c: digest(self.setting.seed, c.key)):
            if chain.source != self.setting.source or ended_well(chain, self.require_process):
                continue
            if len(chain.steps) > chain.maybe_cut:
                self._check_model(chain)
                texts.setdefault(tuple(step.reply for step in chain.steps), chain.key)
        if (more := len(texts) - self.config.chains) > 0:
            self.result.left_out["more chains of one problem"] += more
        return list(texts.values())[: self.config.chains]

    def _check_model(self, chain: Chain) -> None:
        if chain.model != self.model and not self.config.any_model:
            raise DataError(
                "the wrong chains were made by another model",
                value=chain.model,
                remedy=f"The search would go on with {self.model!r}: give the model that made them "
                "and its chains alone, or set any_model (--any-model; in a run search.any_model).",
            )

    def _advance(self, searched: _Searched) -> None:
        """The rounds that known rollouts answer, then the jobs of the first one that they do not."""
        while True:
            self.result.rollouts += len(searched.made)
            if any(chain.outcome is Outcome.ERRORED for chain in searched.made):
                self.result.unfinished += 1
                return
            searched.chains += searched.made
            (tree,) = step_trees(searched.chains, require_process=self.require_process)
            jobs = self._round(tree, searched)
            if not jobs:
                break
            searched.made = [searched.known[key] for key in jobs if key in searched.known]
            searched.waiting = {key: job for key, job in jobs.items() if key not in searched.known}
            if searched.waiting:
                self.running[searched.problem.id] = searched
                self.queue.extend(searched.waiting.values())
                return
        found = (first_error(tree, key, self.config.rollouts) for key in searched.wrong)
        self.result.errors += [error for error in found if error is not None]

    def _round(self, tree: StepTree[Chain], searched: _Searched) -> dict[str, Job]:
        """Every job of the next round, by the key of its chain. k rollouts from each prefix whatever
        the first ones show: stopping at a success would bias the values."""
        jobs = {}
        for node in next_probes(tree, searched.wrong, self.config.rollouts):
            prefix = tree.chains[node.chains[0]].steps[: node.depth]
            for sample in range(self.config.rollouts):
                job = Job(searched.problem, sample, prefix)
                jobs[chain_key(self.setting, self.model, job)] = job
        return jobs
