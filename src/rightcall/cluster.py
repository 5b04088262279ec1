"""Chains made by workers on Ray: each opens the model itself and writes a file of its own.

    with collector(ClusterConfig(workers=4, gpus=1), spec, TaskSpec("math"), setting, problems) as by:
        by.collect(setting, problems, samples, "chains/teacher.jsonl")

The problems are dealt out to the workers once, one after the other. While they work, their files lie
in `chains/teacher.shards/`; in the end the target file takes in what it lacks of them, by key, and
they are deleted. A chain's key and seed know nothing of workers, so the set is that of one process.

Nothing hangs on a worker's life. When one dies, a fresh one takes over its problems and reads the files
of all before it; a chain that is finished in any of them is not made again. When everything dies, the
next call takes the files in before it begins, be it with other workers or without any.

**A cap** of a model behind a server is split evenly: what it leaves, divided by the workers. Each
counts in a file that its successor goes on with, so that all together stay within the cap whoever dies.
"""

from __future__ import annotations

import fcntl
import importlib.util
import inspect
import logging
import math
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from rightcall import terminal
from rightcall.chain import JSON, Chain, ChainStore, Frozen, Problem
from rightcall.collecting import Collector, InProcess
from rightcall.conduct.counterfactual import Probe, probed
from rightcall.errors import CapReached, ConfigError, DataError, ModelError
from rightcall.models import ChatModel
from rightcall.models.spec import ModelSpec, open_model
from rightcall.models.usage import Cap, Ledger, Usage
from rightcall.rollout import Enough, Job, Setting, chain_key, collect
from rightcall.task import load_task

MAX_DEATHS = 3
"""Workers that may die one after the other on the same problems without finishing a chain."""
POLL_SECONDS = 0.2
LOCK_SECONDS = 5.0
"""How long a worker that was told to end is waited for before its file is left for the next call."""
OBJECT_STORE = 80 << 20
"""Bytes of a local cluster's shared memory, nearly the least that Ray takes: problems pass through it,
chains do not."""


class ClusterConfig(Frozen):
    """Who makes chains: this process, or workers on Ray."""

    workers: int = Field(0, ge=0)
    """Processes that each open the model; 0: this process alone, without Ray."""
    address: str | None = None
    """Of a running Ray cluster, "auto" for the one that this machine is part of; default: one is begun
    on this machine, for this process alone, and ends with it."""
    gpus: float = Field(0, ge=0)
    """Of each worker; it sees no others. A fraction shares one."""
    cpus: float = Field(1, ge=0)
    """Of each worker: what Ray reckons with when it places them."""


@dataclass(frozen=True)
class TaskSpec:
    """What a worker loads its task by: functions cannot always be sent, and code is not to be."""

    task: str
    options: Mapping[str, JSON] = field(default_factory=dict)
    functions: str | Sequence[str] | None = None

    def setting(self, like: _Terms) -> Setting:
        task = load_task(self.task, **self.options)
        return replace(like.setting, task=task, functions=task.function_set(self.functions))


@dataclass(frozen=True)
class _Terms:
    """A `Setting` without its task and functions, to be sent."""

    setting: Setting

    @classmethod
    def of(cls, setting: Setting) -> _Terms:
        nothing: Any = None
        return cls(replace(setting, task=nothing, functions=nothing))


@contextmanager
def collector(
    config: ClusterConfig,
    spec: ModelSpec,
    task: TaskSpec,
    setting: Setting,
    problems: Sequence[Problem],
    *,
    usage_path: Path | None = None,
) -> Iterator[Collector]:
    """Who makes the chains of these problems, as a config says. `setting` is one that they will be made
    under: all of them have its task and functions, which are those of `task`.

    Raises `ConfigError` if Ray is not installed or its cluster too small, and `DataError` if a worker's
    task, functions or model are not those that are seen here.
    """
    take_in(usage_path)
    if not config.workers:
        with open_model(spec, setting.playable(problems), usage_path=usage_path) as model:
            yield InProcess(model, before=gather)
        return
    count = max(1, min(config.workers, len(problems)))
    with _connected(config, count), ExitStack() as held:
        workers = Workers(config, spec, task, setting, problems, count, usage_path)
        held.callback(take_in, usage_path)
        held.callback(workers.close)
        workers.open()
        yield workers


# --- the files of workers ---------------------------------------------------------------------------


def shards(path: str | Path) -> Path:
    """The folder of a target's worker files: `teacher.jsonl` → `teacher.shards`."""
    return Path(path).with_suffix(".shards")


def chain_files(path: str | Path) -> list[Path]:
    """The workers' files of chains for a target that are there now."""
    return sorted(shards(path).glob("*.chains.jsonl"))


def gather(path: str | Path, seconds: float = 0.0) -> None:
    """Take the workers' files into the target, by key, and delete them; those that a worker still has
    open after so many seconds stay where they are."""
    with ExitStack() as locked:
        free = [file for file in chain_files(path) if _claimed(file, locked, seconds)]
        if free:
            ChainStore(path).merge([ChainStore(file) for file in free])
        for file in free:
            file.unlink()
    with suppress(OSError):  # not there, or not empty
        shards(path).rmdir()


def _claimed(file: Path, locked: ExitStack, seconds: float) -> bool:
    """Whether nobody writes a file, which is then ours."""
    opened = locked.enter_context(file.open("rb+"))
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        else:
            return True


def take_in(usage_path: Path | None) -> None:
    """Take the workers' counts of usage into the common one. A kill between the two steps would count
    twice: rather that than a cap that is passed."""
    if usage_path is None:
        return
    for file in sorted(shards(usage_path).glob("*.usage.jsonl")):
        with usage_path.open("ab", buffering=0) as target:
            target.write(b"\n" * (target.tell() > 0) + file.read_bytes())
        file.unlink()
    with suppress(OSError):
        shards(usage_path).rmdir()


def _share_of_cap(spec: ModelSpec, usage_path: Path | None, workers: int) -> ModelSpec:
    """The model with what its cap leaves to each worker."""
    if spec.cap is None:
        return spec
    if usage_path is None:
        raise ConfigError(
            "a cap over several workers needs a file that counts what they use",
            value=str(spec.cap),
            remedy="Leave the cap out, or have one process make the chains: workers = 0.",
        )
    used = Ledger(spec.name or spec.model, usage_path).total
    tokens = None if spec.cap.tokens is None else (spec.cap.tokens - used.tokens) // workers
    spent = spec.price.of(used) if spec.price else 0.0
    money = None if spec.cap.money is None else (spec.cap.money - spent) / workers
    if (tokens is not None and tokens < 1) or (money is not None and money <= 0):
        raise _cap_reached(spec, used)
    return spec.model_copy(update={"cap": Cap(tokens=tokens, money=money)})


def _cap_reached(spec: ModelSpec, used: Usage) -> CapReached:
    return CapReached(
        f"the cap of {spec.cap} is reached, or a worker's share of it ({used.described(spec.price)})",
        remedy="What is finished is kept. Called again, what is left is shared out anew; for more, "
        "raise cap: unfinished chains are redone, and nothing else is asked for again.",
    )


# --- a worker ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """What a worker says when it has opened its model."""

    model: str
    key: str
    """Of the first chain of its first problem: equal only where everything that determines it is."""

    def check(self, expected: _Opened) -> None:
        """Raises `DataError` if other chains would be made than expected."""
        if self != expected:
            raise DataError(
                "a worker would make other chains than this process, or than other workers",
                value=f"model {self.model}, expected {expected.model}",
                remedy="Give all nodes the same versions of rightcall, of the task and of the model.",
            )


@dataclass(frozen=True)
class _Assignment:
    """What a worker is told when it is hired."""

    number: int
    spec: ModelSpec
    task: TaskSpec
    terms: _Terms
    problems: Sequence[Problem]
    usage_path: Path | None
    folder: str
    """The working folder: relative paths of models, tasks and data are seen from it."""
    expected: _Opened | None = None
    """What its predecessor said."""


class _Worker:
    """Runs in a process of its own, as a Ray actor."""

    def __init__(self, told: _Assignment) -> None:
        self._told = told
        self._model: ChatModel | None = None

    def open(self) -> _Opened:
        told = self._told
        if not Path(told.folder).is_dir():
            raise DataError(
                "a worker does not see the working folder",
                value=f"{told.folder} on {socket.gethostname()}",
                remedy="Run in a folder that all nodes share, under the same path.",
            )
        os.chdir(told.folder)
        self._base = told.task.setting(told.terms)
        self._model = open_model(
            told.spec, self._base.playable(told.problems), usage_path=told.usage_path
        )
        key = chain_key(self._base, self._model.name, Job(told.problems[0]))
        said = _Opened(self._model.name, key)
        if told.expected is not None:
            said.check(told.expected)
        return said

    def collect(self, terms: _Terms, path: Path, samples: int, enough: Enough | None) -> None:
        """The chains of its problems that no file has."""
        setting, model = self._under(terms)
        own, others = self._files(path)
        try:
            collect(setting, model, self._told.problems, samples, own, enough=enough, known=others)
        finally:
            _keep_count(model)

    def probe(self, terms: _Terms, path: Path, probes: Mapping[str, Probe]) -> None:
        """The chains of these probes that no file has."""
        setting, model = self._under(terms)
        own, others = self._files(path)
        try:
            probed(setting, model, probes, own, known=others)
        finally:
            _keep_count(model)

    def close(self) -> None:
        """Free the model, whose usage is written then."""
        if self._model is not None:
            self._model.close()

    def _under(self, terms: _Terms) -> tuple[Setting, ChatModel]:
        if self._model is None:  # it took over in the middle of things
            self.open()
        assert self._model is not None
        like = replace(terms.setting, task=self._base.task, functions=self._base.functions)
        return like, self._model

    def _files(self, path: Path) -> tuple[Path, list[Path]]:
        own = shards(path) / f"{self._told.number}-{socket.gethostname()}-{os.getpid()}.chains.jsonl"
        return own, [path, *(file for file in chain_files(path) if file != own)]


def _keep_count(model: ChatModel) -> None:
    from rightcall.models.openai_compatible import OpenAICompatible

    if isinstance(model, OpenAICompatible):
        model.keep_count()


# --- the workers together ---------------------------------------------------------------------------


class Workers(Collector):
    """Workers with a model each, as long as this is open."""

    def __init__(
        self,
        config: ClusterConfig,
        spec: ModelSpec,
        task: TaskSpec,
        setting: Setting,
        problems: Sequence[Problem],
        count: int,
        usage_path: Path | None,
    ) -> None:
        self._config, self._spec, self._setting = config, spec, setting
        self._usage_path = usage_path
        share = _share_of_cap(spec, usage_path, count)
        self._assignments = [
            _Assignment(
                number,
                share,
                _absolute(task),
                _Terms.of(setting),
                problems[number::count],
                _usage_file(usage_path, number),
                os.getcwd(),
            )
            for number in range(count)
        ]
        self._place = {p.id: number for number, a in enumerate(self._assignments) for p in a.problems}
        self._actors: list[Any] = []
        self.name = ""

    def open(self) -> None:
        """Have every worker open its model."""
        self._actors = [self._hired(assignment) for assignment in self._assignments]
        opened: dict[int, _Opened] = {}
        self._drive(lambda number, actor: actor.open.remote(), opened.__setitem__)
        self.name = opened[0].model
        for number, assignment in enumerate(self._assignments):
            key = chain_key(self._setting, self.name, Job(assignment.problems[0]))
            opened[number].check(_Opened(self.name, key))
            self._assignments[number] = replace(assignment, expected=opened[number])

    def collect(
        self,
        setting: Setting,
        problems: Sequence[Problem],
        samples: int,
        path: str | Path,
        on_chain: Callable[[Chain], None] | None = None,
        *,
        enough: Enough | None = None,
    ) -> ChainStore:
        if {problem.id for problem in problems} != self._place.keys():
            raise DataError("workers make chains of the problems that they were opened with")
        target, terms = Path(path).absolute(), _Terms.of(setting)
        with self._shared(target, on_chain) as watch:
            self._drive(lambda _, w: w.collect.remote(terms, target, samples, enough), watch=watch)
        return ChainStore(path)

    def probe(
        self,
        setting: Setting,
        probes: Mapping[str, Probe],
        path: str | Path,
        on_chain: Callable[[Chain], None] | None = None,
    ) -> list[Chain]:
        target, terms = Path(path).absolute(), _Terms.of(setting)
        dealt: list[dict[str, Probe]] = [{} for _ in self._assignments]
        for key, probe in probes.items():
            dealt[self._place[probe.problem.id]][key] = probe
        with self._shared(target, on_chain) as watch:
            self._drive(lambda number, w: w.probe.remote(terms, target, dealt[number]), watch=watch)
        return [chain for chain in ChainStore(path).latest() if chain.key in probes]

    def close(self) -> None:
        """End the workers; what they used is counted and said in `used`."""
        import ray

        closing = [actor.close.remote() for actor in self._actors]
        ray.wait(closing, num_returns=len(closing), timeout=LOCK_SECONDS)
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    @property
    def used(self) -> str:  # type: ignore[override]  # counted, not set
        if self._spec.kind != "openai" or self._usage_path is None:
            return ""
        return f"{self._used().described(self._spec.price)} in all"

    def _used(self) -> Usage:
        """By all workers, and before them."""
        name, path = self._spec.name or self._spec.model, self._usage_path
        used = Ledger(name, path).total
        for file in sorted(shards(path).glob("*.usage.jsonl")) if path else ():
            used += Ledger(name, file).total
        return used

    @contextmanager
    def _shared(
        self, target: Path, on_chain: Callable[[Chain], None] | None
    ) -> Iterator[Callable[[], set[int]]]:
        """The target's worker files: taken in before and after, and watched in between."""
        gather(target)
        watch = _Watch(target, on_chain)
        shards(target).mkdir(parents=True, exist_ok=True)
        try:
            yield watch
            watch()
        finally:
            gather(target, LOCK_SECONDS)

    def _hired(self, assignment: _Assignment) -> Any:
        import ray

        actor = ray.remote(num_cpus=self._config.cpus, num_gpus=self._config.gpus)(_Worker)
        return actor.remote(assignment)

    def _drive(
        self,
        begin: Callable[[int, Any], Any],
        on_result: Callable[[int, Any], None] = lambda number, result: None,
        watch: Callable[[], set[int]] = lambda: set(),
    ) -> None:
        """Let every worker do one thing. One that dies is replaced; errors of the user's are raised, a
        cap when the other workers have ended."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        under_way = {begin(n, actor): n for n, actor in enumerate(self._actors)}
        deaths = [0] * len(self._actors)
        capped = False
        while under_way:
            ended, _ = ray.wait([*under_way], timeout=POLL_SECONDS)
            for number in watch():
                deaths[number] = 0
            for reference in ended:
                number = under_way.pop(reference)
                try:
                    on_result(number, ray.get(reference))
                except (RayActorError, OutOfMemoryError) as error:
                    deaths[number] += 1
                    if deaths[number] > MAX_DEATHS:
                        raise _dead(error) from error
                    self._actors[number] = self._hired(self._assignments[number])
                    under_way[begin(number, self._actors[number])] = number
                except RayTaskError as error:
                    if not isinstance(error.cause, CapReached):
                        raise error.cause from None
                    capped = True
        if capped:
            raise _cap_reached(self._spec, self._used())


def _dead(error: Exception) -> ModelError:
    return ModelError(
        f"{MAX_DEATHS + 1} workers died one after the other without finishing a chain",
        value=str(error).partition("\n")[0][:300],
        remedy="Ray's logs say more (/tmp/ray/session_latest/logs of the node); is there memory for "
        "the model? What is finished is kept.",
    )


class _Watch:
    """Reads the chains that workers have written since it was last called."""

    def __init__(self, target: Path, on_chain: Callable[[Chain], None] | None) -> None:
        self._target = target
        self._on_chain = on_chain
        self._read: dict[Path, int] = {}

    def __call__(self) -> set[int]:
        """The numbers of these workers."""
        grown = {file for file in chain_files(self._target) if self._more(file)}
        return {int(file.name.partition("-")[0]) for file in grown}

    def _more(self, file: Path) -> bool:
        before = self._read.get(file, 0)
        with file.open("rb") as opened:
            opened.seek(before)
            new = opened.read()
        new = new[: new.rfind(b"\n") + 1]
        self._read[file] = before + len(new)
        for line in new.splitlines() if self._on_chain else ():
            self._on_chain(Chain.model_validate_json(line))  # type: ignore[misc]  # see the line above
        return bool(new)


def _absolute(task: TaskSpec) -> TaskSpec:
    """The task with a file's name as seen from everywhere."""
    place, _, name = task.task.rpartition(":")
    return replace(task, task=f"{Path(place).resolve()}:{name}") if place.endswith(".py") else task


def _usage_file(usage_path: Path | None, number: int) -> Path | None:
    return None if usage_path is None else shards(usage_path.absolute()) / f"{number}.usage.jsonl"


# --- Ray --------------------------------------------------------------------------------------------


@contextmanager
def _connected(config: ClusterConfig, workers: int) -> Iterator[None]:
    """Ray, as a config says; a connection that this process has already is used as it is."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "Ray is not installed",
            value=f"cluster.workers = {config.workers}",
            remedy="pip install 'rightcall[ray]', or leave the workers out.",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # or workers yield to whatever else runs
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # no GPU asked for, none seen
    if config.address is None and "ray" not in sys.modules:  # read when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        _check_room(config, workers)
        yield
        return
    with _local(config, workers) if config.address is None else _joined(config.address):
        _check_room(config, workers)
        try:
            yield
        finally:
            _shut_down()


def _shut_down() -> None:
    """End Ray, and wait for the processes that it began here: by itself it waits for a second, and
    leaves them unreaped where the machine is busy."""
    import ray

    waits = "wait_for_processes" in inspect.signature(ray.shutdown).parameters
    ray.shutdown(**({"wait_for_processes": True} if waits else {}))


@contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            "no Ray cluster answers there",
            value=address,
            remedy=f"Start one (ray start --head), or leave the address out. {_first_line(error)}",
        ) from error
    yield


@contextmanager
def _local(config: ClusterConfig, workers: int) -> Iterator[None]:
    """A cluster of this machine, reachable from nowhere else and only with a token that nobody is told:
    whoever reaches Ray may run any code."""
    import ray
    from ray._private import ray_constants

    # Ray takes 127.0.0.1 to mean the machine's outer address, unless there can be no other node.
    several = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            address="local",
            num_cpus=max(1, math.ceil(workers * config.cpus)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several
    yield


def _check_room(config: ClusterConfig, workers: int) -> None:
    """Can the cluster as it is now have so many workers? Those that it cannot would wait forever; where
    others use what it has, it is said that they wait."""
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    for name, each in (("CPU", config.cpus), ("GPU", config.gpus)):
        if workers * each > there.get(name, 0):
            raise ConfigError(
                f"the cluster has too few {name}s for {workers} workers of {each:g} each",
                value=there.get(name, 0),
                remedy="Ask for fewer workers, or for less of each.",
            )
        if workers * each > free.get(name, 0):
            terminal.say(
                f"{free.get(name, 0):g} {name}s of the cluster are free: workers wait for more"
            )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
