"""Chains → preference pairs: who is right, who is wrong, and what may be learned from the two.

    chains.jsonl → (by problem) right and wrong chains → a strategy → PreferencePair → pairs.jsonl

A pairing strategy is a function in `STRATEGIES`; to add one, write it and add a line there.
A pairs file is opened by `datasets.load_dataset("json", ...)` and taken by `trl.DPOTrainer` as it
is: no column is ever null and none changes its type from row to row.
"""

from __future__ import annotations

import os
import random
import re
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from rightcall.chain import Chain, Frozen, Message, Outcome, Problem, Step, StopReason, digest, seed_of
from rightcall.dialects import DIALECTS, Dialect, conversation
from rightcall.errors import ConfigError, DataError, FailureKind, nearest

if TYPE_CHECKING:
    from rich.table import Table

WRONG_ANSWER = "wrong_answer"
WRONG_PROCESS = "wrong_process"

FUNCTION_FAILED = frozenset({FailureKind.TIME_LIMIT, FailureKind.MEMORY_LIMIT, FailureKind.DIED})
"""Failures that may be the function's fault rather than the model's: worth a look before training."""


def _read_ids(turns: Any) -> Any:
    if not isinstance(turns, str):
        return turns
    return tuple(tuple(int(i) for i in turn.split()) or None for turn in turns.split(";")[:-1])


def _write_ids(turns: tuple[tuple[int, ...] | None, ...]) -> str:
    return "".join(" ".join(map(str, turn or ())) + ";" for turn in turns)


TurnIds = Annotated[
    tuple[tuple[int, ...] | None, ...],
    BeforeValidator(_read_ids),
    PlainSerializer(_write_ids, return_type=str, when_used="json"),
]
"""Sampled ids of each assistant turn, stop token included; None where the backend did not tell.
In a file they are one string such as "12 7 2;8 2;" (";" alone for an unknown turn): Arrow infers
its columns from the first rows, and a list that is empty there could hold nothing later."""


class PreferencePair(Frozen):
    """Two continuations of one conversation, the first to be preferred."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    """Begins and ends with an assistant turn; observations in between are user turns."""
    rejected: tuple[Message, ...]
    task: str
    problem_id: str
    strategy: str
    chosen_source: str
    """Role of the model that wrote it: teacher, student, ..."""
    rejected_source: str
    chosen_chain: str
    """Key of the chain it comes from."""
    rejected_chain: str
    rejected_error: str
    """Class of error: `wrong_answer`, `wrong_process` or the stop reason, then the kinds of failed
    calls, e.g. `step_budget+no_call`. Of a step pair whose rejected call failed: that kind."""
    evidence: str = ""
    """What the task says against the rejected chain, "; " between sentences."""
    answer: str = ""
    """The answer of the chosen chain, which is right."""
    difficulty: int = 0
    """Of the problem; 0 if unknown."""
    prompt_ids: TurnIds = ()
    """Sampled ids of the assistant turns in the prompt (step pairs have some)."""
    chosen_ids: TurnIds = ()
    """Of the assistant turns in `chosen`, one entry each."""
    rejected_ids: TurnIds = ()

    @property
    def question(self) -> str:
        """The problem's text: the user turn before the first reply."""
        before = []
        for message in self.prompt:
            if message["role"] == "assistant":
                break
            before.append(message)
        return before[-1]["content"] if before else ""

    @property
    def failures(self) -> frozenset[FailureKind]:
        """Kinds of failed calls on the rejected side."""
        kinds = {str(kind): kind for kind in FailureKind}
        return frozenset(kinds[part] for part in self.rejected_error.split("+") if part in kinds)


class PairConfig(Frozen):
    """Which pairs are made."""

    strategies: dict[str, float] = Field(default_factory=lambda: {"chain": 1.0})
    """Strategy → weight: how often it is asked first for a problem's next pair."""
    sources_chosen: tuple[str, ...] = ("student", "teacher")
    """In order of preference: a problem's chosen chains come from the first source that has a right
    one (on-policy where possible, the teacher's where the student has none)."""
    sources_rejected: tuple[str, ...] = ("student", "teacher")
    """In order of preference, like `sources_chosen`."""
    require_process: bool = True
    """Chosen chains need a right answer *and* nothing known against their process; a task that
    cannot judge the process has nothing against it."""
    reject_right_answer_wrong_process: bool = True
    """Chains that were right for a wrong reason may be rejected. On, because otherwise nothing
    tells the model that a wrong formalisation is wrong when the answer comes out right. Needs
    `require_process`."""
    max_per_problem: int = Field(default=2, ge=1)
    max_pairs: int | None = Field(default=None, ge=1)
    """Of the whole set; None for all."""
    balance: tuple[Literal["difficulty", "error", "answer", "strategy"], ...] = ()
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


# --- strategies ---------------------------------------------------------------------------------

Strategy = Callable[[Chain, Chain], PreferencePair | None]
"""A right and a wrong chain of one problem and one dialect → their pair, or None if they make none."""


def chain_pair(right: Chain, wrong: Chain) -> PreferencePair | None:
    """Whole chains (the paper's pairs): all turns after the problem, to the last reply. The
    observation of a stop is nobody's turn and is left out."""
    if right.prompt != wrong.prompt or not right.steps or not wrong.steps:
        return None
    return _pair("chain", right, wrong, 0, slice(0, None), error_class(wrong))


def step_pair(right: Chain, wrong: Chain) -> PreferencePair | None:
    """The first turn in which two chains part: their common conversation, then one reply each.

    None if one chain continues the other, if the same reply was answered differently (then the
    prefix is not the same), or if the two replies make the same call in other words.
    """
    if right.prompt != wrong.prompt:
        return None
    for index, (good, bad) in enumerate(zip(right.steps, wrong.steps, strict=False)):
        if good.reply != bad.reply:
            if good.call is not None and good.call == bad.call:
                return None
            failure = bad.observation.failure
            error = str(failure) if failure else error_class(wrong)
            return _pair("step", right, wrong, index, slice(index, index + 1), error)
        if good.observation != bad.observation:
            return None
    return None


def _pair(
    strategy: str, right: Chain, wrong: Chain, common: int, turns: slice, error: str
) -> PreferencePair:
    dialect = _dialect(right)
    return PreferencePair(
        prompt=conversation(right.prompt, right.steps[:common], dialect),
        chosen=conversation((), right.steps[turns], dialect)[:-1],
        rejected=conversation((), wrong.steps[turns], dialect)[:-1],
        task=right.task,
        problem_id=right.problem_id,
        strategy=strategy,
        chosen_source=right.source,
        rejected_source=wrong.source,
        chosen_chain=right.key,
        rejected_chain=wrong.key,
        rejected_error=error,
        evidence="; ".join(wrong.judgement.evidence),
        answer=right.answer or "",
        difficulty=right.difficulty or 0,
        prompt_ids=_ids(right.steps[:common]),
        chosen_ids=_ids(right.steps[turns]),
        rejected_ids=_ids(wrong.steps[turns]),
    )


def _dialect(chain: Chain) -> Dialect:
    if chain.dialect not in DIALECTS:
        raise DataError(
            "a chain has an unknown dialect",
            value=chain.dialect,
            remedy=nearest(chain.dialect, DIALECTS),
        )
    return DIALECTS[chain.dialect]


def _ids(steps: Sequence[Step]) -> tuple[tuple[int, ...] | None, ...]:
    return tuple(step.token_ids for step in steps)


STRATEGIES: dict[str, Strategy] = {"chain": chain_pair, "step": step_pair}


def error_class(chain: Chain) -> str:
    """What is wrong with a chain, for counting and balancing: see `PreferencePair.rejected_error`."""
    if chain.outcome is Outcome.CORRECT:
        label = WRONG_PROCESS
    elif chain.stop_reason is StopReason.STOPPED:
        label = WRONG_ANSWER
    else:
        label = str(chain.stop_reason)
    return "+".join([label, *sorted({str(kind) for kind in chain.failures})])


# --- making pairs -------------------------------------------------------------------------------


def make_pairs(
    chains: Iterable[Chain], config: PairConfig = PairConfig(), dropped: Counter[str] | None = None
) -> Iterator[PreferencePair]:
    """Pairs from the chains of any number of problems, in any order, from any number of files.

    The same chains in another order give the same pairs. Memory holds one problem's chains and an
    index at a time: the chains themselves wait in a temporary file. `dropped`, if given, counts
    what made no pair, and why.
    """
    dropped = Counter() if dropped is None else dropped
    with ExitStack() as cleanup:
        sources = {*config.sources_chosen, *config.sources_rejected}
        groups = _Spool(cleanup, chains, sources, dropped)
        if config.max_pairs is None:
            yield from _all_pairs(groups, config, dropped)
            return
        spare: Counter[str] = Counter()
        labels = [_group(pair, config.balance) for pair in _all_pairs(groups, config, spare)]
        taken = _evenly(labels, config.max_pairs, random.Random(seed_of("pairs", config.seed)))
        dropped["over max_pairs"] += len(labels) - len(taken)
        for index, pair in enumerate(_all_pairs(groups, config, dropped)):
            if index in taken:
                yield pair


class _Spool:
    """Chains on disk, read back problem by problem; errored chains, repeats and chains of other
    sources left out."""

    def __init__(
        self, cleanup: ExitStack, chains: Iterable[Chain], sources: set[str], dropped: Counter[str]
    ) -> None:
        self.file = cleanup.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self.places: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
        seen: set[str] = set()
        end = 0
        for chain in chains:
            if chain.outcome is Outcome.ERRORED:
                dropped["errored chain"] += 1
            elif chain.source not in sources:
                dropped[f"source not asked for: {chain.source}"] += 1
            elif chain.key in seen:
                dropped["chain given twice"] += 1
            else:
                seen.add(chain.key)
                self.places[chain.task, chain.problem_id].append((chain.key, end))
                end += self.file.write(chain.model_dump_json().encode() + b"\n")

    def problems(self, seed: int) -> Iterator[tuple[tuple[str, str], list[Chain]]]:
        """Every problem with its chains, in an order that depends on the seed alone."""
        for problem in sorted(self.places, key=lambda p: digest(seed, *p)):
            yield problem, [self._read(place) for _, place in sorted(self.places[problem])]

    def _read(self, place: int) -> Chain:
        self.file.seek(place)
        return Chain.model_validate_json(self.file.readline())


def _all_pairs(groups: _Spool, config: PairConfig, dropped: Counter[str]) -> Iterator[PreferencePair]:
    seen: set[str] = set()
    for problem, chains in groups.problems(config.seed):
        generator = random.Random(seed_of("pairs", config.seed, *problem))
        right, wrong = _right(chains, config), _wrong(chains, config, dropped)
        if not right:
            dropped["problem without a right chain"] += 1
        elif not wrong:
            dropped["problem without a wrong chain"] += 1
        else:
            yield from _problem_pairs(right, wrong, config, generator, seen, dropped)


def _right(chains: Sequence[Chain], config: PairConfig) -> list[Chain]:
    def good(chain: Chain) -> bool:
        if config.require_process:
            return chain.right_for_the_right_reason
        return chain.outcome is Outcome.CORRECT

    return _preferred([chain for chain in chains if good(chain)], config.sources_chosen)


def _wrong(chains: Sequence[Chain], config: PairConfig, dropped: Counter[str]) -> list[Chain]:
    also_process = config.require_process and config.reject_right_answer_wrong_process

    def bad(chain: Chain) -> bool:
        if chain.outcome is Outcome.CORRECT:
            return also_process and not chain.right_for_the_right_reason
        if not chain.steps or _maybe_cut(chain):
            dropped["wrong chain with a cut or no reply"] += 1
            return False
        return True

    return _preferred([chain for chain in chains if bad(chain)], config.sources_rejected)


def _maybe_cut(chain: Chain) -> bool:
    """Whether the last reply may have been cut: the model did not choose to end it there, so
    neither its end nor the stop token after it may be learned from."""
    if chain.stop_reason is StopReason.REPLY_TRUNCATED:
        return True
    return (
        chain.stop_reason is StopReason.TOKEN_BUDGET and chain.steps[-1].observation.failure is not None
    )


def _preferred(chains: Sequence[Chain], sources: Sequence[str]) -> list[Chain]:
    """The distinct chains of the first source that has any."""
    for source in sources:
        texts = {
            tuple(s.reply for s in chain.steps): chain for chain in chains if chain.source == source
        }
        if texts:
            return list(texts.values())
    return []


def _problem_pairs(
    right: list[Chain],
    wrong: list[Chain],
    config: PairConfig,
    generator: random.Random,
    seen: set[str],
    dropped: Counter[str],
) -> Iterator[PreferencePair]:
    """Up to `max_per_problem` pairs, each from the strategy drawn by weight, or the next one that
    still has a pair; different chains first."""
    generator.shuffle(right)
    generator.shuffle(wrong)
    names = [name for name, weight in config.strategies.items() if weight > 0]
    waiting = {name: _candidates(STRATEGIES[name], right, wrong) for name in names}
    for made in range(config.max_per_problem):
        first = generator.choices(names, [config.strategies[name] for name in names])[0]
        for name in [first, *(n for n in names if n != first)]:
            pair = next((p for p in waiting[name] if _fresh(p, seen, dropped)), None)
            if pair is not None:
                yield pair
                break
        else:
            if not made:
                dropped["problem whose chains make no pair"] += 1
            return


def _candidates(
    strategy: Strategy, right: Sequence[Chain], wrong: Sequence[Chain]
) -> Iterator[PreferencePair]:
    for good, bad in _combinations(right, wrong):
        pair = strategy(good, bad) if good.dialect == bad.dialect else None
        if pair is not None:
            yield pair


def _combinations(right: Sequence[Chain], wrong: Sequence[Chain]) -> Iterator[tuple[Chain, Chain]]:
    """Every (right, wrong), such that the first ones share no chain where that is possible.

    >>> [a + b for a, b in _combinations("ab", "xy")]
    ['ax', 'by', 'ay', 'bx']
    """
    round_length = lcm(len(right), len(wrong))
    for k in range(len(right) * len(wrong)):
        yield right[k % len(right)], wrong[(k + k // round_length) % len(wrong)]


def _fresh(pair: PreferencePair, seen: set[str], dropped: Counter[str]) -> bool:
    if _texts(pair.chosen) == _texts(pair.rejected):
        dropped["chosen and rejected alike"] += 1
        return False
    identity = _identity(pair)
    if identity in seen:
        dropped["duplicate"] += 1
        return False
    seen.add(identity)
    return True


def _texts(messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages]


def _identity(pair: PreferencePair) -> str:
    return digest(_texts(pair.prompt), _texts(pair.chosen), _texts(pair.rejected))


def _group(pair: PreferencePair, columns: Sequence[str]) -> tuple[object, ...]:
    values = {
        "difficulty": pair.difficulty,
        "error": pair.rejected_error,
        "answer": pair.answer,
        "strategy": pair.strategy,
    }
    return tuple(values[column] for column in columns)


def _evenly(labels: Sequence[tuple[object, ...]], count: int, generator: random.Random) -> set[int]:
    """Indices of `count` items, as evenly over the labels as their numbers allow.

    >>> sorted(_evenly([("a",), ("a",), ("a",), ("b",)], 2, random.Random(0)))[1]
    3
    """
    members: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    for indices in members.values():
        generator.shuffle(indices)
    taken: set[int] = set()
    while len(taken) < min(count, len(labels)):
        for indices in sorted(members.values(), key=len):
            if indices and len(taken) < count:
                taken.add(indices.pop())
    return taken


# --- leaks --------------------------------------------------------------------------------------


def normalised(question: str) -> str:
    """A question's words, without case, punctuation and spacing.

    >>> normalised("Ann  has 3 apples;\\nhow many?")
    'ann has 3 apples how many'
    """
    return " ".join(re.findall(r"\w+|[^\w\s.,;:!?'\"]", question.casefold()))


def check_leaks(training: Iterable[PreferencePair | Problem | str], test: Iterable[Problem]) -> int:
    """How many training items were checked; a `DataError` if a test question is among them, word
    for word or up to case, punctuation and spacing."""
    forbidden = {normalised(problem.question): problem.id for problem in test}
    leaks: dict[str, str] = {}
    checked = 0
    for item in training:
        question = item if isinstance(item, str) else item.question
        checked += 1
        if (found := forbidden.get(normalised(question))) is not None:
            leaks[found] = question
    if leaks:
        first = next(iter(leaks))
        raise DataError(
            f"{len(leaks)} test questions are in the training data, the first is problem {first}",
            value=leaks[first][:200],
            remedy="Collect the training chains on the train split only.",
        )
    return checked


# --- files --------------------------------------------------------------------------------------


def write_pairs(
    pairs: Iterable[PreferencePair], path: str | os.PathLike[str], *, test: Iterable[Problem] = ()
) -> int:
    """Write a pairs file and say how many there are. The file appears whole or not at all: what was
    there stays if making the pairs fails, or if a question of `test` is among them (`DataError`)."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as file:
            count = check_leaks(_written(pairs, file), test)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return count


def _written(pairs: Iterable[PreferencePair], file: BinaryIO) -> Iterator[PreferencePair]:
    for pair in pairs:
        file.write(pair.model_dump_json().encode() + b"\n")
        yield pair


def read_pairs(path: str | os.PathLike[str]) -> Iterator[PreferencePair]:
    """The pairs of a file, one at a time. Raises `DataError` at a line that is not a pair."""
    source = Path(path)
    if not source.is_file():
        raise DataError("there is no pairs file", value=str(source), remedy="Make pairs first.")
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield PreferencePair.model_validate_json(line)
            except ValidationError as error:
                raise DataError(
                    f"{source}, line {number}, is not a preference pair",
                    value=str(error).splitlines()[0],
                    remedy="Make the pairs again.",
                ) from error


# --- statistics ---------------------------------------------------------------------------------


class Spread(Frozen):
    """A length on both sides of the pairs."""

    chosen_mean: float
    rejected_mean: float
    chosen_median: float
    rejected_median: float
    maximum: int
    chosen_longer: float
    """Share of pairs whose chosen side is longer; ties count half. Far from 0.5: a length bias that
    DPO will learn."""


class PairStatistics(Frozen):
    """What a pair set is made of, to be read before training on it."""

    pairs: int
    problems: int
    strategies: dict[str, int]
    sources: dict[str, int]
    """Counts of `chosen source > rejected source`."""
    errors: dict[str, int]
    """By class of the rejected side."""
    difficulties: dict[int, int]
    characters: Spread | None
    """Of the model's own words; None for an empty set, as below."""
    turns: Spread | None
    tokens: Spread | None
    """Sampled tokens, over the pairs where the backend told them."""
    length_correlation: float | None
    """Pearson's r of the two sides' characters; None where it is not defined."""
    duplicates: int
    """Pairs whose texts repeat an earlier one's."""
    trivial: dict[str, int]
    """`empty`: nothing was replied. `no_call`: a reply without a call. `last_word`: the two sides
    are one word apart, at the very end."""
    function_failed: int
    """Pairs whose rejected side holds a time limit, a memory limit or a dead worker: perhaps the
    function's failure rather than the model's."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Why other chains and pairs are not here, as counted by `make_pairs`."""

    def table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(title=f"{self.pairs} preference pairs of {self.problems} problems")
        table.add_column("what")
        table.add_column("value", justify="right")
        for name in ("strategies", "sources", "errors", "difficulties", "trivial", "dropped"):
            for key, count in getattr(self, name).items():
                table.add_row(f"{name}: {key}", str(count))
        for name in ("characters", "turns", "tokens"):
            spread: Spread | None = getattr(self, name)
            if spread is not None:
                table.add_row(
                    f"{name}, chosen / rejected (mean)",
                    f"{spread.chosen_mean:.1f} / {spread.rejected_mean:.1f}",
                )
                table.add_row(f"{name}: chosen is longer", f"{spread.chosen_longer:.0%}")
        table.add_row("duplicates", str(self.duplicates))
        table.add_row("the function failed", str(self.function_failed))
        return table


def pair_statistics(
    pairs: Iterable[PreferencePair], dropped: Counter[str] | None = None
) -> PairStatistics:
    """Statistics of a pair set, in one pass."""
    strategies: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    difficulties: Counter[int] = Counter()
    trivial: Counter[str] = Counter()
    lengths: dict[str, list[tuple[int, int]]] = defaultdict(list)
    problems: set[tuple[str, str]] = set()
    texts: set[str] = set()
    count = failed = 0
    for pair in pairs:
        count += 1
        strategies[pair.strategy] += 1
        sources[f"{pair.chosen_source} > {pair.rejected_source}"] += 1
        errors[pair.rejected_error] += 1
        difficulties[pair.difficulty] += 1
        trivial.update(_trivial(pair))
        failed += bool(pair.failures & FUNCTION_FAILED)
        problems.add((pair.task, pair.problem_id))
        texts.add(_identity(pair))
        for unit, both in _lengths(pair).items():
            lengths[unit].append(both)
    return PairStatistics(
        pairs=count,
        problems=len(problems),
        strategies=dict(strategies.most_common()),
        sources=dict(sources.most_common()),
        errors=dict(errors.most_common()),
        difficulties=dict(sorted(difficulties.items())),
        characters=_spread(lengths["characters"]),
        turns=_spread(lengths["turns"]),
        tokens=_spread(lengths["tokens"]),
        length_correlation=_correlation(lengths["characters"]),
        duplicates=count - len(texts),
        trivial=dict(trivial.most_common()),
        function_failed=failed,
        dropped=dict(dropped or {}),
    )


def _lengths(pair: PreferencePair) -> dict[str, tuple[int, int]]:
    chosen, rejected = _words_of_model(pair.chosen), _words_of_model(pair.rejected)
    made = {
        "characters": (sum(map(len, chosen)), sum(map(len, rejected))),
        "turns": (len(chosen), len(rejected)),
    }
    if all(pair.chosen_ids) and all(pair.rejected_ids) and pair.chosen_ids:
        made["tokens"] = (
            sum(len(ids or ()) for ids in pair.chosen_ids),
            sum(len(ids or ()) for ids in pair.rejected_ids),
        )
    return made


def _words_of_model(messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "assistant"]


def _trivial(pair: PreferencePair) -> Iterator[str]:
    chosen, rejected = _words_of_model(pair.chosen), _words_of_model(pair.rejected)
    if not "".join(rejected).strip():
        yield "empty"
    elif FailureKind.NO_CALL in pair.failures:
        yield "no_call"
    if len(chosen) > 1 and chosen[:-1] == rejected[:-1]:
        good, bad = (re.findall(r"\w+", turn) for turn in (chosen[-1], rejected[-1]))
        if good[:-1] == bad[:-1]:
            yield "last_word"


def _spread(lengths: Sequence[tuple[int, int]]) -> Spread | None:
    if not lengths:
        return None
    chosen, rejected = zip(*lengths, strict=True)
    return Spread(
        chosen_mean=statistics.fmean(chosen),
        rejected_mean=statistics.fmean(rejected),
        chosen_median=statistics.median(chosen),
        rejected_median=statistics.median(rejected),
        maximum=max(*chosen, *rejected),
        chosen_longer=statistics.fmean((a > b) + (a == b) / 2 for a, b in lengths),
    )


def _correlation(lengths: Sequence[tuple[int, int]]) -> float | None:
    if len({a for a, _ in lengths}) < 2 or len({b for _, b in lengths}) < 2:
        return None
    return statistics.correlation(*zip(*lengths, strict=True))
