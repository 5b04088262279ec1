"""Recorded attempts → chains: every call is run again by our functions, in the agent loop, and every
answer judged by the task. What was recorded as a result is compared and never believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import Parameter
from itertools import islice
from pathlib import Path
from typing import get_type_hints

from rightcall.chain import ByProblem, Chain, ChainStore, Outcome, Problem, StopReason, digest
from rightcall.dialects import DIALECTS
from rightcall.errors import DataError, DefinitionError, MissingSplit
from rightcall.functions import Function, FunctionSet, Role, Stop
from rightcall.importing.process import with_process_check
from rightcall.importing.recorded import Place, Recorded, Unreadable
from rightcall.importing.replies import in_replies
from rightcall.importing.summary import (
    MANY,
    ImportReport,
    LeftOut,
    Refused,
    Tally,
    Unmatched,
    is_label_clear,
)
from rightcall.leaks import normalised
from rightcall.models import Reply, Request
from rightcall.models.scripted import Replay
from rightcall.rollout import Budget, Job, Setting, chain_key, rollouts
from rightcall.task import Task, task_errors
from rightcall.tool_calls import call_text

MAX_STEPS = 10_000
"""Of a recorded chain; it ends where its record does."""
_BATCH = 256
"""Attempts in memory at once."""
_BUDGET = Budget(steps=MAX_STEPS, tokens=10**9)

Entry = tuple[Place, Recorded] | Unreadable


def import_chains(
    recorded: Iterable[Entry],
    task: Task,
    problems: Iterable[Problem],
    out: str | Path,
    *,
    source: str = "teacher",
    functions: str | Sequence[str] | None = None,
    own_problems: bool = False,
    skip_bad: bool = False,
    on_chain: Callable[[Problem, Chain], None] | None = None,
    looked_in: str = "",
    dialect: str = "python",
) -> ImportReport:
    """Append a chain to `out` for every attempt, and report on all of them.

    An attempt belongs to the problem with its id or its question; `problems` are read as far as that
    needs. With `own_problems`, a record that has a gold answer may be the problem itself, where the
    task has none such; one that the task cannot judge is a `DataError`, or listed as unreadable if
    `skip_bad`. Called again, it keeps what is there and ends with the same set and the
    same report. `on_chain` is called with every attempt's problem and chain, new or not, in the log's
    order. Raises `DataError` where the log contradicts itself or what was imported from it before. No
    empty file is left.
    """
    chosen = task.function_set(functions)
    made = _Import(
        setting=Setting(task, chosen, source, budget=_BUDGET, dialect=dialect),
        known=_Known(task, problems, own_problems),
        skip_bad=skip_bad,
        tally=Tally(task.name, [one.name for one in chosen]),
        on_chain=on_chain,
    )
    store = ChainStore(out)
    new = not store.path.exists()
    with ByProblem() as there:
        for chain in store.latest():
            if chain.outcome is not Outcome.ERRORED:
                there.put(chain)
        try:
            store.append(made.chains(recorded, there))
        finally:
            if new and store.path.is_file() and not store.path.stat().st_size:
                store.path.unlink()
    return made.tally.report(looked_in)


def every_problem(task: Task, splits: Sequence[str], count: int, seed: int = 0) -> Iterator[Problem]:
    """The first `count` problems of each split; a split whose data is not there has none."""
    for split in splits:
        try:
            yield from task.problems(split, count, seed)
        except MissingSplit:
            if len(splits) == 1:
                raise


# --- which problem ------------------------------------------------------------------------------


class _Known:
    """The task's problems, read as far as attempts ask for them, by id and by question."""

    def __init__(self, task: Task, problems: Iterable[Problem], own: bool) -> None:
        self._task = task
        self._rest = iter(problems)
        self._own = own
        self._by_id: dict[str, Problem] = {}
        self._by_question: dict[str, Problem] = {}

    def of(self, place: Place, recorded: Recorded) -> _Found | Unmatched:
        """The attempt's problem, or why there is none."""
        found = self._find(recorded)
        if found is not None:
            return found
        named = recorded.problem_id or (recorded.question or "")[:200]
        if (known := self._by_id.get(recorded.problem_id or "")) is not None:
            asked = _asked(recorded)[:_SHOWN]
            question = known.question[:_SHOWN]
            return Unmatched(place=place, problem=named, why=OTHER, asked=asked, known=question)
        if recorded.later:
            return Unmatched(place=place, problem=named, why=MANY)
        if not self._own:
            return Unmatched(place=place, problem=named)
        if (made := self._made(recorded)) is None:
            return Unmatched(place=place, problem=named)
        return _Found(made, recorded, own=True)

    def _find(self, recorded: Recorded) -> _Found | None:
        """By id or question, the last question of a conversation before the others."""
        readings = [(one, normalised(_asked(one))) for one in _readings(recorded)]
        (_, last), *_ = readings
        wanted = recorded.problem_id or ""
        self._read_until(lambda: wanted in self._by_id or last in self._by_question)
        if (problem := self._by_id.get(wanted)) is not None:
            for reading, asked in readings:
                if _asks(asked, problem):
                    return _Found(problem, reading.without_later())
            self._read_until(lambda: last in self._by_question)
        for reading, asked in readings:
            if asked in self._by_question and (asked == last or not _ended(reading)):
                return _Found(self._by_question[asked], reading.without_later())
        return None

    def _read_until(self, found: Callable[[], bool]) -> None:
        while not found() and (fresh := next(self._rest, None)) is not None:
            self._by_id.setdefault(fresh.id, fresh)
            self._by_question.setdefault(normalised(fresh.question), fresh)

    def _made(self, recorded: Recorded) -> Problem | None:
        if recorded.problem is not None:
            return recorded.problem
        if not recorded.question or not recorded.gold:
            return None
        return Problem(
            id=recorded.problem_id or f"{self._task.name}-{digest(normalised(recorded.question))}",
            question=recorded.question,
            answer=recorded.gold,
            metadata={"origin": "log", "flags": []},
        )


@dataclass(frozen=True)
class _Found:
    """A problem, and the attempt at it: all of a record, or its part after the last question."""

    problem: Problem
    recorded: Recorded
    own: bool = False
    """The problem is the record's own."""


_SHOWN = 2000
OTHER = "id known, question differs"


def _readings(recorded: Recorded) -> list[Recorded]:
    """A conversation from its last question on, ..., from its first on."""
    return [*map(recorded.begun_at, reversed(range(len(recorded.later)))), recorded]


def _ended(recorded: Recorded) -> bool:
    """Whether the first question may have had its answer before the user spoke again: that it is a
    problem's does not say that the attempt is at it."""
    return any(count and recorded.calls[count - 1].name is None for count, _ in recorded.later)


def _asked(recorded: Recorded) -> str:
    return recorded.question or (recorded.problem.question if recorded.problem else "")


def _asks(asked: str, problem: Problem) -> bool:
    """Whether a record with a problem's id asks its question: alone, within other words, or not at
    all. Otherwise the id is another data set's."""
    return not asked or f" {normalised(problem.question)} " in f" {asked} "


# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Attempt:
    """A record with its problem and its place among the chains."""

    place: Place
    recorded: Recorded
    job: Job
    key: str
    own: bool


@dataclass
class _Import:
    """One import: what all its attempts share."""

    setting: Setting
    known: _Known
    skip_bad: bool
    tally: Tally
    on_chain: Callable[[Problem, Chain], None] | None

    def chains(self, recorded: Iterable[Entry], there: ByProblem) -> Iterator[Chain]:
        """The chains that are not there yet. They are made, and all are counted, in the log's order:
        whether some were there before does not change the report."""
        attempts = self._attempts(recorded)
        while batch := list(islice(attempts, _BATCH)):
            old = {one.key: chain for one in batch if (chain := self._old(one, there)) is not None}
            fresh = [one for one in batch if one.key not in old]
            made = {chain.key: chain for chain in self._made(fresh)}
            for one in batch:
                if one.key in old:
                    self._count(one, old[one.key], fresh=False)
                elif one.key in made and self._is_clear(one, made[one.key]):  # nor was it refused
                    yield made[one.key]
                    self._count(one, made[one.key], fresh=True)

    def _is_clear(self, one: _Attempt, chain: Chain) -> bool:
        return self.tally.is_clear(one.place, one.recorded, one.job.problem.answer, chain)

    def _made(self, attempts: Sequence[_Attempt]) -> Iterator[Chain]:
        for model in dict.fromkeys(one.recorded.model for one in attempts):
            yield from self._run({one.key: one for one in attempts if one.recorded.model == model})

    def _run(self, attempts: dict[str, _Attempt]) -> Iterator[Chain]:
        """The chains of one model's attempts."""
        left = dict(attempts)
        try:
            for chain in self._played(left.values()):
                del left[chain.key]
                yield chain
        except DefinitionError:
            if not any(one.own for one in left.values()):
                raise
        for one in left.values():  # one by one, to see which it is that cannot be judged
            yield from self._alone(one)

    def _played(self, attempts: Iterable[_Attempt]) -> Iterator[Chain]:
        records = {one.key: one.recorded for one in attempts}
        player = _Replay(next(iter(records.values())).model, records, self._stopping)
        for chain in rollouts(self.setting, player, [one.job for one in attempts]):
            yield with_process_check(chain, records[chain.key], self.setting.functions)

    def _alone(self, one: _Attempt) -> list[Chain]:
        """The chain of an attempt, none if its problem is the log's own and cannot be judged."""
        try:
            return list(self._played([one]))
        except DefinitionError as error:
            if not one.own:
                raise
            refused = DataError(
                f"{one.place}, gives a problem that task {self.setting.task.name} cannot judge:"
                f" {error.fault}",
                value=f"problem {one.job.problem.id}",
                remedy="The task needs more than a question and an answer: give its whole problems.",
            )
            if not self.skip_bad:
                raise refused from error
            self.tally.refused.append(
                Refused(
                    place=one.place,
                    fault=refused.fault,
                    problem_id=one.job.problem.id,
                    remedy=refused.remedy,
                )
            )
            return []

    def _count(self, one: _Attempt, chain: Chain, *, fresh: bool) -> None:
        self.tally.notes.update(one.recorded.notes)
        problem = one.job.problem
        if one.own:
            self.tally.own.add(problem.id)
        self.tally.chain(one.place, one.recorded, problem.answer, chain, fresh=fresh)
        if (said := one.recorded.gold) and not self._right(problem, said):
            self.tally.other_gold(one.place, problem.id, said, problem.answer)
        if self.on_chain is not None:
            self.on_chain(one.job.problem, chain)

    def _right(self, problem: Problem, gold: str) -> bool:
        with task_errors(self.setting.task, problem, "verify", gold):
            return self.setting.task.verify(problem, gold)

    def _attempts(self, recorded: Iterable[Entry]) -> Iterator[_Attempt]:
        """Every attempt that has a problem, once."""
        numbers: Counter[tuple[str, str]] = Counter()
        seen: dict[str, str] = {}
        for entry in recorded:
            if isinstance(entry, Unreadable):
                self.tally.unreadable.append(entry)
                continue
            place, said = entry
            if said.left_out:
                self.tally.left_out.append(LeftOut(place=place, why=said.left_out))
                continue
            self.tally.records += 1
            found = self.known.of(place, said)
            if isinstance(found, Unmatched):
                self.tally.without_problem.append(found)
                continue
            problem = found.problem
            one = in_replies(found.recorded, self.setting.functions, self.setting.dialect)
            number = numbers[one.model, problem.id]
            numbers[one.model, problem.id] += 1
            job = Job(problem, number if one.sample is None else one.sample)
            attempt = _Attempt(place, one, job, chain_key(self.setting, one.model, job), found.own)
            if self._again(attempt, seen):
                self.tally.duplicates.append(place)
                continue
            yield attempt

    @staticmethod
    def _again(one: _Attempt, seen: dict[str, str]) -> bool:
        recorded = one.recorded
        said = digest([call.reply for call in recorded.calls], recorded.final, recorded.final_message)
        before = seen.get(one.key)
        if before is None:
            seen[one.key] = said
            return False
        if before == said:
            return True
        raise DataError(
            f"{one.place}, is another attempt under the same number",
            value=f"model {one.recorded.model}, problem {one.job.problem.id}, sample {one.job.sample}",
            remedy="Leave the sample numbers out: attempts are numbered as they come.",
        )

    def _old(self, one: _Attempt, there: ByProblem) -> Chain | None:
        """The chain of this attempt that was imported before."""
        problem = one.job.problem.id
        found = there.get(self.setting.task.name, problem, one.key)
        if found is None:
            return None
        if not self._is_of(found, one):
            raise DataError(
                f"{one.place}, is not what was imported from it before",
                value=f"problem {problem}, chain {one.key}",
                remedy="The log has changed: import it into another file.",
            )
        return found

    def _is_of(self, chain: Chain, one: _Attempt) -> bool:
        """Whether an attempt would become this chain."""
        recorded, steps = one.recorded, chain.steps
        last = steps[: len(recorded.calls)][-1:]
        answer = _answer(recorded, last[0].observation.text if last else "")
        replies = [call.reply for call in recorded.calls]
        replies += [] if answer is None else [self._stopping(answer)]
        cut = chain.stop_reason is StopReason.REPLY_TRUNCATED
        ended = cut or chain.stop_reason is StopReason.RECORD_ENDED
        return (
            [step.reply for step in steps] == replies[: len(steps)]
            and not (ended and (len(steps) < len(replies) or cut is not recorded.cut))
            and is_label_clear(recorded, one.job.problem.answer, chain)
        )

    def _stopping(self, answer: str) -> str:
        """The reply that stops with an answer."""
        stop, dialect = stop_function(self.setting.functions), DIALECTS[self.setting.dialect]
        if stop is None:
            return answer
        return dialect.spelled(call_text(stop.name, (answer,)), self.setting.functions)


class _Replay(Replay):
    """Plays recorded attempts, and stops where only the answer is missing."""

    def __init__(self, name: str, records: dict[str, Recorded], stopping: Callable[[str], str]) -> None:
        super().__init__({}, name=name, capacity=_BATCH)
        self._records = records
        self._stopping = stopping

    def reply(self, request: Request, turn: int) -> Reply:
        recorded = self._records[request.chain]
        if turn < len(recorded.calls):
            cut = recorded.cut and turn == len(recorded.calls) - 1
            return Reply(text=recorded.calls[turn].reply, finish_reason="length" if cut else "stop")
        answer = _answer(recorded, request.messages[-1]["content"]) if turn else recorded.final
        if turn > len(recorded.calls) or answer is None:
            return Reply(text="", finish_reason="end")
        return Reply(text=self._stopping(answer))


def _answer(recorded: Recorded, result: str) -> str | None:
    """What the chain stops with after its last recorded call, whose result this is."""
    if recorded.final is not None:
        return recorded.final
    said = result.strip().partition(":")[0]
    return said if said in recorded.answers else None


def stop_function(functions: FunctionSet) -> Function | None:
    """The function that ends a chain with an answer: its only argument."""
    for made in functions:
        shown = [p for name, p in made.parameters.items() if name not in made.state_parameters]
        needed = [p for p in shown if p.default is Parameter.empty]
        returns = get_type_hints(made.call).get("return")
        if made.role is Role.FLOW and returns is Stop and len(shown) >= 1 >= len(needed):
            return made
    return None
