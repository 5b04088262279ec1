"""The agent loop, written once: `attempt` advances one chain, `rollouts` drives many, `collect`
makes it durable.

    prompt (task, functions with examples, problem) → reply → call → observation → ... → stop
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path

from pydantic import Field

from rightcall.chain import (
    JSON,
    Chain,
    ChainStore,
    Frozen,
    Judgement,
    Outcome,
    Problem,
    Step,
    StopReason,
    digest,
    seed_of,
)
from rightcall.dialects import DIALECTS, conversation
from rightcall.errors import DataError, ModelError
from rightcall.functions import FunctionSet, States
from rightcall.models import ChatModel, Reply, Request, Sampling
from rightcall.task import Task


class Budget(Frozen):
    """When a chain is stopped from outside."""

    steps: int = Field(20, ge=1)
    """The paper's n_max."""
    tokens: int = Field(4096, ge=1)
    """Tokens the model may generate over the whole chain."""


@dataclass(frozen=True)
class Setting:
    """What all chains of a collection share."""

    task: Task
    functions: FunctionSet
    source: str
    """The role of the model: teacher, student, ..."""
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    seed: int = 0
    dialect: str = "python"


@dataclass(frozen=True)
class Job:
    """One chain to make. `replies` are played before the model is asked: a rollout from a prefix,
    whose state is rebuilt by re-execution."""

    problem: Problem
    sample: int = 0
    replies: tuple[Step, ...] = field(default=())


def chain_key(setting: Setting, model: str, job: Job) -> str:
    """Identifies an attempt by what is known to determine it: the task's name, fingerprint and
    options, the functions, the problem, the model's name and all settings. What it cannot see is
    other weights under the same `name`, other code of `verify` and `judge`, and other versions of
    libraries: after such a change, collect into another file."""
    return digest(
        setting.task.name,
        setting.task.fingerprint,
        _options(setting.task),
        setting.functions.fingerprint,
        setting.source,
        setting.sampling.model_dump(),
        setting.budget.model_dump(),
        setting.seed,
        setting.dialect,
        model,
        job.problem.id,
        job.problem.question,
        job.problem.answer,
        job.sample,
        [s.reply for s in job.replies],
    )


def _options(task: Task) -> dict[str, JSON]:
    """The arguments of a task's constructor that it keeps under their own names, where they are
    plain values (no paths: the same problems elsewhere are the same)."""
    kept = {name: vars(task)[name] for name in signature(type(task)).parameters if name in vars(task)}
    plain = (bool, int, float, str, list, tuple, dict)
    return {name: value for name, value in kept.items() if isinstance(value, plain)}


def attempt(setting: Setting, model: str, job: Job) -> Generator[Request, Reply | ModelError, Chain]:
    """One chain as a coroutine: yields requests, is sent replies, returns the finished chain."""
    dialect = DIALECTS[setting.dialect]
    key = chain_key(setting, model, job)
    seed = seed_of(setting.task.name, setting.seed, job.problem.id, job.sample, setting.source)
    prompt = dialect.prompt(setting.task.instruction, setting.functions, job.problem)
    states: States = {}
    steps: list[Step] = []
    answer: str | None = None
    error: str | None = None
    started = time.monotonic()
    pending = list(job.replies)

    def next_turn() -> Generator[Request, Reply | ModelError, Reply | ModelError]:
        spent = sum(s.completion_tokens for s in steps)
        room = max(1, min(setting.sampling.max_tokens, setting.budget.tokens - spent))
        return (
            yield Request(
                chain=key,
                messages=conversation(prompt, steps, dialect),
                completions=tuple(s.token_ids for s in steps),
                sampling=setting.sampling.model_copy(update={"max_tokens": room}),
                seed=seed_of(seed, len(steps)),
            )
        )

    while True:
        if pending:
            recorded = pending.pop(0)
            reply: Reply | ModelError = Reply(
                text=recorded.reply,
                token_ids=recorded.token_ids,
                prompt_tokens=recorded.prompt_tokens,
                completion_tokens=recorded.completion_tokens,
            )
        else:
            recorded = None
            reply = yield from next_turn()
        if isinstance(reply, ModelError):
            stop_reason, error = StopReason.MODEL_ERROR, str(reply)
            break
        if reply.finish_reason == "context":
            stop_reason = StopReason.CONTEXT_WINDOW
            break
        result = dialect.run(reply.text, setting.functions, states)
        if recorded is not None and result.observation != recorded.observation:
            raise DataError(
                f"re-executing step {len(steps) + 1} of a recorded prefix gave another observation",
                value=result.observation.text,
                remedy=f"It was recorded as {recorded.observation.text!r}: the functions have changed.",
            )
        steps.append(
            Step(
                reply=reply.text,
                call=result.call,
                observation=result.observation,
                token_ids=reply.token_ids,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
            )
        )
        spent = sum(s.completion_tokens for s in steps)
        if reply.finish_reason == "length":
            out = spent >= setting.budget.tokens
            stop_reason = StopReason.TOKEN_BUDGET if out else StopReason.REPLY_TRUNCATED
            break
        if result.answer is not None:
            stop_reason, answer = StopReason.STOPPED, result.answer
            break
        if spent >= setting.budget.tokens:
            stop_reason = StopReason.TOKEN_BUDGET
            break
        if len(steps) >= setting.budget.steps:  # last: a chain cut to fewer steps stays derivable
            stop_reason = StopReason.STEP_BUDGET
            break

    chain = Chain(
        key=key,
        task=setting.task.name,
        problem_id=job.problem.id,
        sample=job.sample,
        source=setting.source,
        model=model,
        dialect=setting.dialect,
        seed=seed,
        prompt=prompt,
        steps=tuple(steps),
        stop_reason=stop_reason,
        answer=answer,
        outcome=Outcome.ERRORED if error else Outcome.INCORRECT,
        difficulty=job.problem.difficulty,
        error=error,
        seconds=time.monotonic() - started,
    )
    return chain if error else judged(setting.task, job.problem, chain)


def judged(task: Task, problem: Problem, chain: Chain) -> Chain:
    """The chain with its outcome and judgement set by the task; errored chains stay errored."""
    if chain.outcome is Outcome.ERRORED:
        return chain
    right = chain.answer is not None and task.verify(problem, chain.answer)
    judgement: Judgement = task.judge(problem, chain)
    return chain.model_copy(
        update={"outcome": Outcome.CORRECT if right else Outcome.INCORRECT, "judgement": judgement}
    )


def rollouts(setting: Setting, model: ChatModel, jobs: Iterable[Job]) -> Generator[Chain, None, None]:
    """Chains for jobs, as they finish, with up to `model.capacity` in flight. Closing the
    iterator early releases the chains still running. Raises `DataError` if two jobs are the same."""
    waiting = iter(jobs)
    seen: set[str] = set()
    running: dict[str, Generator[Request, Reply | ModelError, Chain]] = {}

    def once(key: str, job: Job) -> None:
        if key in seen:
            raise DataError(
                "the same chain is asked for twice",
                value=f"problem {job.problem.id}, sample {job.sample}",
                remedy="Give every problem once, under an id of its own.",
            )
        seen.add(key)

    def start(job: Job) -> Chain | None:
        chain = attempt(setting, model.name, job)
        try:
            request = next(chain)
        except StopIteration as ended:
            once(ended.value.key, job)
            return ended.value  # type: ignore[no-any-return]
        once(request.chain, job)
        running[request.chain] = chain
        model.submit(request)
        return None

    try:
        while True:
            while len(running) < model.capacity and (job := next(waiting, None)) is not None:
                if (finished := start(job)) is not None:
                    yield finished
            if not running:
                return
            for request, reply in model.poll():
                try:
                    model.submit(running[request.chain].send(reply))
                except StopIteration as ended:
                    del running[request.chain]
                    model.release(request.chain)
                    yield ended.value
    finally:
        for key in running:
            model.release(key)


def solve(
    task: Task,
    problem: Problem,
    model: ChatModel,
    *,
    functions: str | Sequence[str] | None = None,
    sampling: Sampling = Sampling(),
    budget: Budget = Budget(),
    source: str = "model",
    seed: int = 0,
) -> Chain:
    """One problem, one chain."""
    setting = Setting(task, task.function_set(functions), source, sampling, budget, seed)
    return next(rollouts(setting, model, [Job(problem)]))


def collect(
    setting: Setting,
    model: ChatModel,
    problems: Iterable[Problem],
    samples: int,
    path: str | Path,
    on_chain: Callable[[Chain], None] | None = None,
) -> ChainStore:
    """`samples` chains for each problem, appended to `path` as they finish.

    Killed and called again with the same arguments it keeps what is finished, redoes errored
    chains, and ends with the same set: file order may differ, keys do not. Readers take the last
    line of a key (a redone chain follows its errored one).
    """
    store = ChainStore(path)
    done = _finished_keys(store)
    jobs = (
        job
        for problem in problems
        for sample in range(samples)
        if chain_key(setting, model.name, job := Job(problem, sample)) not in done
    )

    def reported(chains: Iterator[Chain]) -> Iterator[Chain]:
        for chain in chains:
            yield chain
            if on_chain is not None:
                on_chain(chain)

    with closing(rollouts(setting, model, jobs)) as chains:
        store.append(reported(chains))
    return store


def finished(
    setting: Setting, model: str, problems: Iterable[Problem], samples: int, path: str | Path
) -> int:
    """How many chains of such a collection a file already holds, errored ones not counted."""
    done = _finished_keys(ChainStore(path))
    if not done:
        return 0
    return sum(
        chain_key(setting, model, Job(problem, sample)) in done
        for problem in problems
        for sample in range(samples)
    )


def _finished_keys(store: ChainStore) -> set[str]:
    return {key for key, outcome in store.outcomes().items() if outcome is not Outcome.ERRORED}
