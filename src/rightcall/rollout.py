"""The agent loop, written once: `attempt` advances one chain, `rollouts` drives many, `collect`
makes it durable.

    prompt (task, functions with examples, problem) → reply → call → observation → ... → stop
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from inspect import signature
from pathlib import Path
from typing import Any

from pydantic import Field

from rightcall.chain import (
    JSON,
    Chain,
    ChainStore,
    Frozen,
    Judgement,
    Message,
    Origin,
    Outcome,
    Problem,
    Step,
    StopReason,
    digest,
    seed_of,
)
from rightcall.dialects import DIALECTS, Dialect, conversation
from rightcall.errors import ConfigError, DataError, ModelError, RenderingError, nearest
from rightcall.functions import FunctionSet, Result, States
from rightcall.models import ChatModel, Reply, Request, Sampling
from rightcall.sandbox import MAX_IDLE_WORKERS
from rightcall.task import Task, task_errors

PATIENCE_SECONDS = 0.25
"""For the calls of a round in worker processes, before the model goes on without their chains."""


class Budget(Frozen):
    """When a chain is stopped from outside."""

    steps: int = Field(20, ge=1)
    """The paper's n_max."""
    tokens: int = Field(4096, ge=1)
    """Tokens the model may generate over the whole chain."""


class Enough(Frozen):
    """When a problem needs no further sample."""

    right: int = Field(ge=0)
    """Chains with a right answer and nothing known against their process."""
    wrong: int = Field(ge=0)
    """Chains that ended otherwise."""

    def missing(self, right: int, wrong: int) -> int:
        """How many further samples there must be at least."""
        return max(0, self.right - right) + max(0, self.wrong - wrong)


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
    """How functions are shown and calls are written: a name in `rightcall.dialects.DIALECTS`."""

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise ConfigError(
                "no such dialect", value=self.dialect, remedy=nearest(self.dialect, DIALECTS)
            )

    def playable(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        """The problems with gold chains that use the setting's functions alone: what a gold player
        can play."""
        for problem in problems:
            gold = tuple(self.task.gold(problem, self.functions))
            yield problem.model_copy(update={"gold": gold})


@dataclass(frozen=True)
class Job:
    """One chain to make. `replies` are played before the model is asked: a rollout from a prefix,
    whose state is rebuilt by re-execution."""

    problem: Problem
    sample: int = 0
    replies: tuple[Step, ...] = field(default=())
    origin: Origin | None = None
    """Of the chain, where augmentation makes it."""
    observed: str | None = None
    """What the model reads after the last of `replies` instead of what the call gave. The functions'
    state knows nothing of it, and such a chain is not judged: its process is not what it seems."""


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
        *([] if job.observed is None else [job.observed]),
    )


def _options(task: Task) -> dict[str, JSON]:
    """The arguments of a task's constructor that it keeps under their own names, where they are
    plain values (no paths: the same problems elsewhere are the same)."""
    kept = {name: vars(task)[name] for name in _arguments(type(task)) if name in vars(task)}
    plain = (bool, int, float, str, list, tuple, dict)
    return {name: value for name, value in kept.items() if isinstance(value, plain)}


@cache
def _arguments(task: type[Task]) -> tuple[str, ...]:
    return tuple(signature(task).parameters)


@dataclass(frozen=True)
class PendingCall:
    """A reply whose call is to be run."""

    chain: str
    run: Callable[[], Result]
    isolated: bool
    """It goes to a worker process, where it may take long; any other is run at once."""


Attempt = Generator[Request | PendingCall, Reply | ModelError | Result | None, Chain]
"""A chain as a coroutine: it yields what it waits for and is sent what came of it."""


@dataclass
class _Conversation:
    """A chain being made."""

    setting: Setting
    key: str
    seed: int
    prompt: tuple[Message, ...]
    steps: list[Step] = field(default_factory=list)
    states: States = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.setting.dialect]

    @property
    def spent(self) -> int:
        return sum(step.completion_tokens for step in self.steps)

    def request(self) -> Request:
        sampling = self.setting.sampling
        room = max(1, self.setting.budget.tokens - self.spent)
        if room < sampling.max_tokens:
            sampling = sampling.model_copy(update={"max_tokens": room})
        # Without validation, which would go through the whole conversation at every turn.
        return Request.model_construct(
            chain=self.key,
            messages=conversation(self.prompt, self.steps, self.dialect),
            completions=tuple(step.token_ids for step in self.steps),
            sampling=sampling,
            seed=seed_of(self.seed, len(self.steps)),
            functions=self.setting.functions,
            tools=self.dialect.tools(self.setting.functions),
        )

    def call(self, reply: Reply) -> PendingCall:
        functions = self.setting.functions
        return PendingCall(
            chain=self.key,
            run=partial(self.dialect.run, reply.text, functions, self.states),
            isolated=self.dialect.isolated(reply.text, functions),
        )

    def record(self, reply: Reply, result: Result) -> None:
        self.steps.append(
            Step(
                reply=reply.text,
                call=result.call,
                observation=result.observation,
                token_ids=reply.token_ids,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
            )
        )

    def stop_reason(self, reply: Reply, result: Result) -> StopReason | None:
        """Why the chain ends after the step just recorded, if it does."""
        out = self.spent >= self.setting.budget.tokens
        if reply.finish_reason == "length":
            return StopReason.TOKEN_BUDGET if out else StopReason.REPLY_TRUNCATED
        if result.answer is not None:
            return StopReason.STOPPED
        if out:
            return StopReason.TOKEN_BUDGET
        # Last: a chain cut to fewer steps stays derivable.
        return StopReason.STEP_BUDGET if len(self.steps) >= self.setting.budget.steps else None


@dataclass(frozen=True)
class _End:
    """How a chain ended."""

    reason: StopReason
    answer: str | None = None
    error: str | None = None


def attempt(setting: Setting, model: str, job: Job) -> Attempt:
    """One chain: yields requests and calls, is sent replies and results, returns the finished chain."""
    started = time.monotonic()
    # Without its prefix in the seed, a rollout would draw what the chain of that sample drew there.
    prefix = [digest([s.reply for s in job.replies])] if job.replies else []
    place = (setting.task.name, setting.seed, job.problem.id, job.sample, setting.source)
    made = _Conversation(
        setting,
        key=chain_key(setting, model, job),
        seed=seed_of(*place, *prefix),
        prompt=DIALECTS[setting.dialect].prompt(
            setting.task.instruction, setting.functions, job.problem
        ),
        states=setting.task.begin(job.problem),
    )
    end = yield from _turns(made, job)
    chain = Chain(
        key=made.key,
        task=setting.task.name,
        problem_id=job.problem.id,
        sample=job.sample,
        source=setting.source,
        model=model,
        dialect=setting.dialect,
        seed=made.seed,
        prompt=made.prompt,
        schemas=made.dialect.tools(setting.functions),
        steps=tuple(made.steps),
        stop_reason=end.reason,
        answer=end.answer,
        outcome=Outcome.ERRORED if end.error else Outcome.INCORRECT,
        difficulty=job.problem.difficulty,
        error=end.error,
        seconds=time.monotonic() - started,
        given_steps=min(len(job.replies), len(made.steps)),
        origin=job.origin,
        renamed=setting.functions.task_names,
    )
    judge = _verified if job.observed is not None else judged
    return chain if end.error else judge(setting.task, job.problem, chain)


def _turns(made: _Conversation, job: Job) -> Generator[Request | PendingCall, Any, _End]:
    """Turn after turn, the recorded ones first, until the chain ends."""
    recorded = iter(job.replies)
    while True:
        given = next(recorded, None)
        reply = _replayed(given) if given is not None else (yield made.request())
        if isinstance(reply, ModelError):
            return _End(StopReason.MODEL_ERROR, error=str(reply))
        if reply.finish_reason == "context":
            return _End(StopReason.CONTEXT_WINDOW)
        if reply.finish_reason == "template":
            return _End(StopReason.TEMPLATE)
        if reply.finish_reason == "end":
            return _End(StopReason.RECORD_ENDED)
        result = yield made.call(reply)
        if given is not None and result.observation != given.observation:
            number = len(made.steps) + 1
            raise DataError(
                f"re-executing step {number} of a recorded prefix gave another observation",
                value=result.observation.text,
                remedy=f"It was recorded as {given.observation.text!r}: the functions have changed.",
            )
        if job.observed is not None and len(made.steps) + 1 == len(job.replies):
            shown = result.observation.model_copy(update={"text": job.observed})
            result = replace(result, observation=shown)
        made.record(reply, result)
        if (reason := made.stop_reason(reply, result)) is not None:
            return _End(reason, result.answer if reason is StopReason.STOPPED else None)


def _replayed(step: Step) -> Reply:
    return Reply(
        text=step.reply,
        token_ids=step.token_ids,
        prompt_tokens=step.prompt_tokens,
        completion_tokens=step.completion_tokens,
    )


def judged(task: Task, problem: Problem, chain: Chain) -> Chain:
    """The chain with its outcome and judgement set by the task; errored chains stay errored. Raises
    `DefinitionError` if `verify` or `judge` fails."""
    if chain.outcome is Outcome.ERRORED:
        return chain
    chain = _verified(task, problem, chain)
    with task_errors(task, problem, "judge", chain.answer):
        judgement: Judgement = task.judge(problem, _with_task_names(chain))
    return chain.model_copy(update={"judgement": judgement})


def _verified(task: Task, problem: Problem, chain: Chain) -> Chain:
    """The chain with its outcome set by the task."""
    with task_errors(task, problem, "verify", chain.answer):
        right = chain.answer is not None and task.verify(problem, chain.answer)
    return chain.model_copy(update={"outcome": Outcome.CORRECT if right else Outcome.INCORRECT})


def _with_task_names(chain: Chain) -> Chain:
    """The chain with its calls named as the task names its functions."""
    if not chain.renamed:
        return chain
    steps = []
    for step in chain.steps:
        if step.call is not None and (own := chain.renamed.get(step.call.name)) is not None:
            step = step.model_copy(update={"call": step.call.model_copy(update={"name": own})})
        steps.append(step)
    return chain.model_copy(update={"steps": tuple(steps)})


class _Calls:
    """Calls that are out in worker processes while the model goes on with other chains.

    A round waits for its own calls a moment: nearly all are done by then and go on in the order in
    which they were asked for, so that what a model has in its batch does not hang on their timing.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._out: dict[Future[Result], str] = {}
        self._fresh: list[Future[Result]] = []

    def __len__(self) -> int:
        return len(self._out)

    def send(self, call: PendingCall) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(MAX_IDLE_WORKERS, thread_name_prefix="rightcall-call")
        future = self._pool.submit(call.run)
        self._out[future] = call.chain
        self._fresh.append(future)

    def done(self, *, at_least_one: bool) -> list[tuple[str, Result]]:
        """The chains whose calls are done, with the results."""
        wait(self._fresh, timeout=PATIENCE_SECONDS)
        self._fresh.clear()
        if at_least_one:
            wait(self._out, return_when=FIRST_COMPLETED)
        ready = [future for future in self._out if future.done()]
        return [(self._out.pop(future), future.result()) for future in ready]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def rollouts(
    setting: Setting, model: ChatModel, jobs: Iterable[Job | None]
) -> Generator[Chain, None, None]:
    """Chains for jobs, as they finish, with up to `model.capacity` in flight. Closing the
    iterator early releases the chains still running. Raises `DataError` if two jobs are the same, and
    what `model.stopped` says as soon as the chains under way have ended after it was set.

    Jobs are asked for as there is room. A job of None says "none for now": more are asked for once
    the next chain is finished, so that jobs may depend on the chains given so far. A call in a worker
    process that takes long holds up its own chain only.
    """
    waiting = iter(jobs)
    seen: set[str] = set()
    running: dict[str, Attempt] = {}
    opened: set[str] = set()
    calls = _Calls()

    def start(job: Job) -> Chain | None:
        key = chain_key(setting, model.name, job)
        if key in seen:
            raise DataError(
                "the same chain is asked for twice",
                value=f"problem {job.problem.id}, sample {job.sample}",
                remedy="Give every problem once, under an id of its own.",
            )
        seen.add(key)
        running[key] = attempt(setting, model.name, job)
        return advance(key, None)

    def advance(key: str, answer: Reply | ModelError | Result | None) -> Chain | None:
        """Let a chain go on until it waits for the model or a worker; the chain if it has ended."""
        try:
            asked = running[key].send(answer)
            while isinstance(asked, PendingCall) and not asked.isolated:
                asked = running[key].send(asked.run())
        except StopIteration as ended:
            del running[key]
            release(key)
            return ended.value  # type: ignore[no-any-return]
        if isinstance(asked, PendingCall):
            calls.send(asked)
            return None
        opened.add(key)
        try:
            model.submit(asked)
        except RenderingError as error:  # of this conversation: the other chains go on
            return advance(key, ModelError("the conversation cannot be rendered", value=str(error)))
        return None

    def release(key: str) -> None:
        if key in opened:
            opened.remove(key)
            model.release(key)

    try:
        while True:
            while (
                model.stopped is None
                and len(running) < model.capacity
                and (job := next(waiting, None)) is not None
            ):
                if (finished := start(job)) is not None:
                    yield finished
            if not running and model.stopped is not None:
                raise model.stopped
            if not running:
                return
            if len(running) > len(calls):
                for request, reply in model.poll():
                    if (finished := advance(request.chain, reply)) is not None:
                        yield finished
            for key, result in calls.done(at_least_one=len(running) == len(calls) > 0):
                if (finished := advance(key, result)) is not None:
                    yield finished
    finally:
        calls.close()
        for key in [*opened]:
            release(key)


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
    dialect: str = "python",
) -> Chain:
    """One problem, one chain."""
    setting = Setting(task, task.function_set(functions), source, sampling, budget, seed, dialect)
    return next(rollouts(setting, model, [Job(problem)]))


def collect(
    setting: Setting,
    model: ChatModel,
    problems: Iterable[Problem],
    samples: int,
    path: str | Path,
    on_chain: Callable[[Chain], None] | None = None,
    *,
    enough: Enough | None = None,
    known: Sequence[str | Path] = (),
) -> ChainStore:
    """`samples` chains for each problem (fewer if that is `enough`), appended to `path` as they finish.

    Killed and called again with the same arguments it keeps what is finished, redoes errored
    chains, and ends with the same set: file order may differ, keys do not. Readers take the last
    line of a key (a redone chain follows its errored one). A chain that is finished in a file of
    `known` is not made again, and not written.
    """
    store = ChainStore(path)
    stores = [store, *map(ChainStore, known)]
    done = set().union(*map(finished_keys, stores)) if enough is None else set()
    adaptive = None if enough is None else _Adaptive(setting, model.name, samples, enough, stores)
    jobs: Iterator[Job | None] = (
        job
        for problem in problems
        for sample in range(samples)
        if chain_key(setting, model.name, job := Job(problem, sample)) not in done
    )
    if adaptive is not None:
        jobs = adaptive.jobs(problems)

    def reported(chains: Iterator[Chain]) -> Iterator[Chain]:
        for chain in chains:
            if adaptive is not None:
                adaptive.ended(chain)
            yield chain
            if on_chain is not None:
                on_chain(chain)

    with closing(rollouts(setting, model, jobs)) as chains:
        store.append(reported(chains))
    return store


@dataclass
class _Sampled:
    """A problem whose samples are not enough yet."""

    problem: Problem
    begun: int = 0
    out: int = 0
    """Samples under way, or errored: they may still become right or wrong."""
    right: int = 0
    wrong: int = 0


class _Adaptive:
    """Samples of a problem until there are enough right and wrong ones.

    A sample is begun when it will be needed however those before it end. So the samples that are taken
    are those of drawing one by one, whichever ends first and wherever a run was cut, and yet they run
    side by side. An errored one holds its place until it is redone.
    """

    def __init__(
        self,
        setting: Setting,
        model: str,
        samples: int,
        enough: Enough,
        stores: Iterable[ChainStore],
    ) -> None:
        self._setting = setting
        self._model = model
        self._samples = samples
        self._enough = enough
        self._known = {
            chain.key: chain.right_for_the_right_reason
            for store in stores
            for chain in store.latest()
            if chain.outcome is not Outcome.ERRORED
        }
        self._open: dict[str, _Sampled] = {}
        self._due: deque[_Sampled] = deque()
        """Problems of which a chain has ended."""

    def jobs(self, problems: Iterable[Problem]) -> Iterator[Job | None]:
        for problem in problems:
            yield from self._going_on()
            yield from self._next(_Sampled(problem))
        while True:
            yield from self._going_on()
            yield None

    def ended(self, chain: Chain) -> None:
        if chain.outcome is Outcome.ERRORED:
            return
        sampled = self._open[chain.problem_id]
        sampled.out -= 1
        self._count(sampled, chain.right_for_the_right_reason)
        self._due.append(sampled)

    def _going_on(self) -> Iterator[Job]:
        while self._due:
            yield from self._next(self._due.popleft())

    def _next(self, sampled: _Sampled) -> Iterator[Job]:
        """The samples that are needed in any case."""
        self._open[sampled.problem.id] = sampled
        while sampled.begun < self._samples and self._missing(sampled) > sampled.out:
            job = Job(sampled.problem, sampled.begun)
            sampled.begun += 1
            right = self._known.get(chain_key(self._setting, self._model, job))
            if right is None:
                sampled.out += 1
                yield job
            else:
                self._count(sampled, right)
        if not sampled.out:
            self._open.pop(sampled.problem.id, None)

    def _missing(self, sampled: _Sampled) -> int:
        return self._enough.missing(sampled.right, sampled.wrong)

    @staticmethod
    def _count(sampled: _Sampled, right: bool) -> None:
        sampled.right += right
        sampled.wrong += not right


def finished(
    setting: Setting, model: str, problems: Iterable[Problem], samples: int, path: str | Path
) -> int:
    """How many chains of such a collection a file already holds, errored ones not counted."""
    done = finished_keys(ChainStore(path))
    if not done:
        return 0
    return sum(
        chain_key(setting, model, Job(problem, sample)) in done
        for problem in problems
        for sample in range(samples)
    )


def finished_keys(store: ChainStore) -> set[str]:
    """The keys of a file's chains, errored ones left out."""
    return {key for key, outcome in store.outcomes().items() if outcome is not Outcome.ERRORED}
