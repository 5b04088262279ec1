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

from rightcall.chain import ByProblem, Chain, ChainStore, Outcome, Problem, digest
from rightcall.errors import DataError, ModelError
from rightcall.functions import Function, FunctionSet, Role, Stop
from rightcall.importing.recorded import Place, Recorded, RecordedCall, Unreadable
from rightcall.importing.summary import ImportReport, Tally, Unplaced
from rightcall.leaks import normalised
from rightcall.models import ChatModel, Reply, Request
from rightcall.rollout import Budget, Job, Setting, chain_key, rollouts
from rightcall.task import Task
from rightcall.tool_calls import call_text, named_text, spoken

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
    on_chain: Callable[[Problem, Chain], None] | None = None,
    looked_in: str = "",
) -> ImportReport:
    """Append a chain to `out` for every attempt, and report on all of them.

    An attempt belongs to the problem with its id or its question; `problems` are read as far as that
    needs. With `own_problems`, a record that has a gold answer may be the problem itself, where the
    task has none such. Called again, it keeps what is there and ends with the same set and the
    same report. `on_chain` is called with every attempt's problem and chain, new or not. Raises
    `DataError` where the log contradicts itself or what was imported from it before.
    """
    chosen = task.function_set(functions)
    made = _Import(
        setting=Setting(task, chosen, source, budget=_BUDGET),
        known=_Known(task, problems, own_problems),
        tally=Tally(task.name, [one.name for one in chosen]),
        on_chain=on_chain,
    )
    store = ChainStore(out)
    with ByProblem() as there:
        for chain in store.latest():
            if chain.outcome is not Outcome.ERRORED:
                there.put(chain)
        store.append(made.chains(recorded, there))
    return made.tally.report(looked_in)


def every_problem(task: Task, splits: Sequence[str], count: int, seed: int = 0) -> Iterator[Problem]:
    """The first `count` problems of each split; a split whose data is not there has none."""
    for split in splits:
        try:
            yield from task.problems(split, count, seed)
        except DataError:
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

    def of(self, recorded: Recorded) -> tuple[Problem, bool] | None:
        """The attempt's problem, and whether it is the record's own."""
        found = self._find(recorded)
        if found is not None:
            return found, False
        own = self._made(recorded) if self._own else None
        return None if own is None else (own, True)

    def _find(self, recorded: Recorded) -> Problem | None:
        while (found := self._indexed(recorded)) is None:
            fresh = next(self._rest, None)
            if fresh is None:
                return None
            self._by_id.setdefault(fresh.id, fresh)
            self._by_question.setdefault(normalised(fresh.question), fresh)
        return found

    def _indexed(self, recorded: Recorded) -> Problem | None:
        """An id whose question is another one is not that problem."""
        question = recorded.question or (recorded.problem and recorded.problem.question)
        asked = normalised(question) if question else None
        by_id = self._by_id.get(recorded.problem_id or "")
        if by_id is not None and asked in (None, normalised(by_id.question)):
            return by_id
        return self._by_question.get(asked) if asked else None

    def _made(self, recorded: Recorded) -> Problem | None:
        if recorded.problem is not None:
            return recorded.problem
        if recorded.question is None or recorded.gold is None:
            return None
        return Problem(
            id=recorded.problem_id or f"{self._task.name}-{digest(normalised(recorded.question))}",
            question=recorded.question,
            answer=recorded.gold,
            metadata={"origin": "log", "flags": []},
        )


# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Attempt:
    """A record with its problem and its place among the chains."""

    place: Place
    recorded: Recorded
    job: Job
    key: str


@dataclass
class _Import:
    """One import: what all its attempts share."""

    setting: Setting
    known: _Known
    tally: Tally
    on_chain: Callable[[Problem, Chain], None] | None

    def chains(self, recorded: Iterable[Entry], there: ByProblem) -> Iterator[Chain]:
        """The chains that are not there yet, batch by batch, as they are finished."""
        attempts = self._attempts(recorded)
        while batch := list(islice(attempts, _BATCH)):
            fresh: list[_Attempt] = []
            for one in batch:
                old = self._old(one, there)
                if old is None:
                    fresh.append(one)
                else:
                    self._count(one, old, fresh=False)
            for model in dict.fromkeys(one.recorded.model for one in fresh):
                own = {one.key: one for one in fresh if one.recorded.model == model}
                player = _Replay(model, {key: one.recorded for key, one in own.items()}, self._stop)
                for chain in rollouts(self.setting, player, [one.job for one in own.values()]):
                    yield chain
                    self._count(own[chain.key], chain, fresh=True)

    @property
    def _stop(self) -> Function | None:
        return stop_function(self.setting.functions)

    def _count(self, one: _Attempt, chain: Chain, *, fresh: bool) -> None:
        self.tally.notes.update(one.recorded.notes)
        self.tally.chain(one.place, one.recorded, one.job.problem.answer, chain, fresh=fresh)
        if self.on_chain is not None:
            self.on_chain(one.job.problem, chain)

    def _attempts(self, recorded: Iterable[Entry]) -> Iterator[_Attempt]:
        """Every attempt that has a problem, once."""
        numbers: Counter[tuple[str, str]] = Counter()
        seen: dict[str, str] = {}
        for entry in recorded:
            if isinstance(entry, Unreadable):
                self.tally.unreadable.append(entry)
                continue
            place, one = entry[0], _replies(entry[1], self.setting.functions)
            self.tally.records += 1
            found = self.known.of(one)
            if found is None:
                named = one.problem_id or (one.question or "")[:200]
                self.tally.without_problem.append(Unplaced(place=place, problem=named))
                continue
            problem, own = found
            if own:
                self.tally.own.add(problem.id)
            number = numbers[one.model, problem.id]
            numbers[one.model, problem.id] += 1
            job = Job(problem, number if one.sample is None else one.sample)
            attempt = _Attempt(place, one, job, chain_key(self.setting, one.model, job))
            if self._again(attempt, seen):
                self.tally.duplicates.append(place)
                continue
            yield attempt

    @staticmethod
    def _again(one: _Attempt, seen: dict[str, str]) -> bool:
        said = digest([call.reply for call in one.recorded.calls], one.recorded.final)
        if seen.setdefault(one.key, said) == said:
            again = f"{one.key} " in seen
            seen[f"{one.key} "] = said
            return again
        raise DataError(
            f"{one.place}, is another attempt under the same number",
            value=f"model {one.recorded.model}, problem {one.job.problem.id}, sample {one.job.sample}",
            remedy="Leave the sample numbers out: attempts are numbered as they come.",
        )

    def _old(self, one: _Attempt, there: ByProblem) -> Chain | None:
        """The chain of this attempt that was imported before."""
        problem = one.job.problem.id
        own = there.chains(self.setting.task.name, problem)
        found = next((chain for chain in own if chain.key == one.key), None)
        if found is None:
            return None
        said = [call.reply for call in one.recorded.calls]
        if any(step.reply != reply for step, reply in zip(found.steps, said, strict=False)):
            raise DataError(
                f"{one.place}, is not what was imported from it before",
                value=f"problem {problem}, chain {one.key}",
                remedy="The log has changed: import it into another file.",
            )
        return found


LEFT_OUT = "words beside a call left out: they would be read as another call"


def _replies(recorded: Recorded, functions: FunctionSet) -> Recorded:
    """The attempt with every call as a reply in Python syntax."""
    if all(call.name is None for call in recorded.calls):
        return recorded
    calls, notes = [], list(recorded.notes)
    for call in recorded.calls:
        if call.name is not None:
            reply = named_text(call.name, call.arguments, functions)
            if call.reply.strip():
                both = spoken(call.reply, call.name, call.arguments, functions)
                notes += [LEFT_OUT] if both is None else []
                reply = reply if both is None else both
            call = RecordedCall(reply=reply, result=call.result)
        calls.append(call)
    return recorded.model_copy(update={"calls": tuple(calls), "notes": tuple(notes)})


class _Replay(ChatModel):
    """Plays recorded attempts, by the key of their chain."""

    capacity = _BATCH

    def __init__(self, name: str, records: dict[str, Recorded], stop: Function | None) -> None:
        self.name = name
        self._records = records
        self._stop = stop
        self._open: list[Request] = []

    def submit(self, request: Request) -> None:
        self._open.append(request)

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        asked, self._open = self._open, []
        return [(request, self._reply(request)) for request in asked]

    def _reply(self, request: Request) -> Reply:
        recorded = self._records[request.chain]
        turn = sum(message["role"] == "assistant" for message in request.messages)
        if turn < len(recorded.calls):
            return Reply(text=recorded.calls[turn].reply)
        answer = _answer(recorded, request.messages[-1]["content"]) if turn else recorded.final
        if turn > len(recorded.calls) or answer is None:
            return Reply(text="", finish_reason="end")
        if self._stop is None:
            return Reply(text=answer)
        return Reply(text=call_text(self._stop.name, (answer,)))


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
