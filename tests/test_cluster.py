"""Chains made by workers on Ray: the same as without, whoever dies.

The server of `test_teachers` stands in for a model that several workers can ask.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from rightcall import cluster
from rightcall.chain import Chain, ChainStore, Outcome
from rightcall.cli import app
from rightcall.cluster import ClusterConfig, TaskSpec, collector, gather, shards
from rightcall.collecting import Collector
from rightcall.config import differing_keys, resolve
from rightcall.errors import CapReached, ConfigError, DataError, ModelError
from rightcall.evaluate import EvaluateConfig, evaluate
from rightcall.models import Sampling
from rightcall.models.scripted import GoldPlayer
from rightcall.models.spec import ModelSpec
from rightcall.models.usage import Cap, Ledger, Price
from rightcall.rollout import Budget, Enough, Setting, collect
from test_teachers import COMPLETION_TOKENS, PROMPT_TOKENS, SUMS, Handler, Teacher, solves
from toys import SumTask

TASK = SumTask()
PLACE = TaskSpec(SUMS)
TWO = ClusterConfig(workers=2)
SETTING = Setting(
    TASK, TASK.function_set(), "teacher", Sampling(temperature=1.0, max_tokens=16), Budget(steps=4)
)
CAPACITY = 2
PROBLEMS = list(TASK.problems("train", 6))


@pytest.fixture(scope="session")
def server() -> Iterator[Teacher]:
    with Teacher() as server:
        yield server


@pytest.fixture(scope="session")
def workers(ray_cluster: None, server: Teacher) -> Iterator[Collector]:
    """Two workers for all tests that need none of their own."""
    with opened(teacher(server)) as by:
        yield by


def opened(
    spec: ModelSpec, workers: int = 2, usage: Path | None = None
) -> AbstractContextManager[Collector]:
    return collector(
        ClusterConfig(workers=workers, cpus=0), spec, PLACE, SETTING, PROBLEMS, usage_path=usage
    )


def teacher(server: Teacher, **settings: Any) -> ModelSpec:
    return ModelSpec.parse(f"{server.url}#m", **{"max_retries": 0, "capacity": CAPACITY, **settings})


def said(store: ChainStore) -> dict[str, Chain]:
    """Key → chain, without its time."""
    return {chain.key: chain.model_copy(update={"seconds": 0.0}) for chain in store.latest()}


def alone(tmp_path: Path, spec: ModelSpec, samples: int = 3) -> ChainStore:
    with opened(spec, workers=0) as by:
        return by.collect(SETTING, PROBLEMS, samples, tmp_path / "alone.jsonl")


def test_two_workers_make_the_chains_of_one_process(
    tmp_path: Path, server: Teacher, workers: Collector
) -> None:
    seen: list[Chain] = []
    expected = said(alone(tmp_path, teacher(server)))
    store = workers.collect(SETTING, PROBLEMS, 3, tmp_path / "c.jsonl", seen.append)
    asked = server.replies
    workers.collect(SETTING, PROBLEMS, 3, tmp_path / "c.jsonl", seen.append)
    assert server.replies == asked
    assert said(store) == expected
    assert len(expected) == 18
    assert sorted(chain.key for chain in seen) == sorted(expected)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_sampling_until_it_is_enough_takes_the_same_samples(
    tmp_path: Path, server: Teacher, workers: Collector
) -> None:
    made = []
    with opened(teacher(server), 0) as one:
        for by, name in ((one, "one"), (workers, "two")):
            path = tmp_path / f"{name}.jsonl"
            store = by.collect(SETTING, PROBLEMS, 8, path, enough=Enough(right=1, wrong=1))
            made.append(said(store))
    assert made[0] == made[1]
    assert len(made[0]) < 8 * len(PROBLEMS)


def test_workers_evaluate_as_one_process_does(
    tmp_path: Path, server: Teacher, workers: Collector
) -> None:
    config = EvaluateConfig(budgets=(2, 4), samples=2, counterfactual=3, max_tokens=16)
    with opened(teacher(server), 0) as one:
        results = [
            evaluate(SETTING, by, PROBLEMS, tmp_path / name / "base.jsonl", config)
            for by, name in ((one, "one"), (workers, "two"))
        ]
    assert results[0] == results[1]
    assert results[0].counterfactual is not None
    assert results[0].counterfactual.probed > 0
    assert {p.name for p in (tmp_path / "two").iterdir()} == {
        p.name for p in (tmp_path / "one").iterdir()
    }


@pytest.mark.parametrize("name", ["one", "two"])
def test_what_workers_left_is_taken_in_by_the_next_call_with_or_without_workers(
    tmp_path: Path, server: Teacher, workers: Collector, name: str
) -> None:
    kept = list(said(alone(tmp_path, teacher(server))).values())
    path = tmp_path / "c.jsonl"
    errored = kept[9].model_copy(update={"outcome": Outcome.ERRORED, "error": "gone"})
    left = shards(path) / "0-node-1.chains.jsonl"
    ChainStore(path).append(kept[:4])
    ChainStore(left).append([*kept[3:9], errored])
    with left.open("ab") as file:
        file.write(b'{"key": "cut')
    asked = server.replies
    with opened(teacher(server), 0) as one:
        store = (one if name == "one" else workers).collect(SETTING, PROBLEMS, 3, path)
    assert said(store) == {chain.key: chain for chain in kept}
    assert server.replies - asked == 2 * 9
    assert not shards(path).exists()


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost_or_asked_twice(
    tmp_path: Path, server: Teacher, workers: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, killed = tmp_path / "c.jsonl", set[int]()

    def slowly(handler: Handler) -> None:
        time.sleep(0.02)
        solves(handler)

    def kill_one(chain: Chain) -> None:
        if not killed:
            name = cluster.chain_files(path)[0].name
            killed.add(int(name.removesuffix(".chains.jsonl").rpartition("-")[2]))
            os.kill(*killed, signal.SIGKILL)

    expected = said(alone(tmp_path, teacher(server), 8))
    server.attempts.clear()
    monkeypatch.setattr(server, "fault", lambda body, attempt: slowly)
    store = workers.collect(SETTING, PROBLEMS, 8, path, kill_one)
    assert killed
    assert said(store) == expected
    assert len(list(store)) == len(expected) == 48
    # At most the steps of the chains that were under way in that worker.
    assert sum(count > 1 for count in server.attempts.values()) <= 2 * CAPACITY


def test_a_worker_that_would_make_other_chains_is_refused() -> None:
    said = cluster._Opened("m", "a key")
    said.check(cluster._Opened("m", "a key"))
    with pytest.raises(DataError, match="a worker would make other chains"):
        said.check(cluster._Opened("m", "another"))


@pytest.mark.usefixtures("ray_cluster")
def test_more_than_the_cluster_has_is_refused() -> None:
    greedy = ClusterConfig(workers=2, gpus=8)
    made = collector(greedy, ModelSpec.parse("gold"), PLACE, SETTING, PROBLEMS)
    with pytest.raises(ConfigError, match="too few GPUs for 2 workers of 8 each"), made:
        pass


@pytest.mark.usefixtures("ray_cluster")
def test_that_workers_wait_for_what_others_use_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    cluster._check_room(TWO, 2)
    assert "1 CPUs of the cluster are free: workers wait for more" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_together_stay_within_a_cap_and_go_on_when_it_is_raised(tmp_path: Path) -> None:
    usage, path = tmp_path / "usage.jsonl", tmp_path / "c.jsonl"
    each = PROMPT_TOKENS + COMPLETION_TOKENS
    with Teacher() as server:
        spec = teacher(server, cap=Cap(tokens=14 * each), capacity=1)
        reached = pytest.raises(CapReached, match="the cap of 700 tokens is reached")
        with reached, opened(spec, usage=usage) as by:
            by.collect(SETTING, PROBLEMS, 3, path)
        assert 0 < server.replies <= 14
        assert Ledger("m", usage).total.requests == server.replies
        more = spec.model_copy(update={"cap": Cap(tokens=100 * each)})
        with opened(more, usage=usage) as by:
            store = by.collect(SETTING, PROBLEMS, 3, path)
            assert by.used.startswith(f"{server.replies:,} requests")
        assert Ledger("m", usage).total.requests == server.replies
        expected = said(alone(tmp_path, teacher(server)))
    assert said(store) == expected
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_server_that_refuses_ends_the_collection_with_its_own_message(tmp_path: Path) -> None:
    refused = Teacher(lambda body, attempt: lambda handler: handler.send("{}", 401))
    with refused as server, opened(teacher(server)) as by, pytest.raises(ModelError, match="401"):
        by.collect(SETTING, PROBLEMS, 1, tmp_path / "c.jsonl")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_commands_take_workers(tmp_path: Path) -> None:
    many = [*("--model", "gold", "--count", "4", "--cluster", "workers=2", "--cluster", "cpus=0")]
    out = tmp_path / "c.jsonl"
    once = ["-k", "1", "--temperature", "0"]
    app(["collect", SUMS, "--out", str(out), *once, *many], standalone_mode=False)
    assert [chain.outcome for chain in ChainStore(out)] == [Outcome.CORRECT] * 4
    out = tmp_path / "eval.jsonl"
    app(["evaluate", SUMS, "--out", str(out), *many], standalone_mode=False)
    assert len(list(ChainStore(out))) == 4


# --- without Ray --------------------------------------------------------------------------------


def test_without_ray_workers_are_refused_and_one_process_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    refused = pytest.raises(ConfigError, match=r"Ray is not installed.*rightcall\[ray\]")
    with refused, opened(ModelSpec.parse("gold")):
        pass
    with opened(ModelSpec.parse("gold"), workers=0) as by:
        store = by.collect(SETTING, PROBLEMS, 1, tmp_path / "c.jsonl")
    assert len(list(store)) == 6


def test_this_process_first_takes_in_what_workers_left(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    left = list(collect(SETTING, GoldPlayer(PROBLEMS), PROBLEMS, 1, tmp_path / "made.jsonl"))[:2]
    ChainStore(shards(path) / "0-node-0.chains.jsonl").append(left)
    made: list[Chain] = []
    with opened(ModelSpec.parse("gold"), workers=0) as by:
        store = by.collect(SETTING, PROBLEMS, 1, path, made.append)
    assert len(made) == 4
    assert {chain.key for chain in store} == {chain.key for chain in (*left, *made)}
    assert not shards(path).exists()


def test_a_file_that_a_worker_still_writes_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    made = list(collect(SETTING, GoldPlayer(PROBLEMS), PROBLEMS, 1, tmp_path / "made.jsonl"))
    busy, done = (shards(path) / f"{n}-node-{n}.chains.jsonl" for n in (0, 1))
    ChainStore(done).append(made[3:])

    def chains() -> Iterator[Chain]:
        yield from made[:2]
        gather(path)
        yield made[2]

    ChainStore(busy).append(chains())
    assert [chain.key for chain in ChainStore(path)] == [chain.key for chain in made[3:]]
    gather(path)
    assert {chain.key for chain in ChainStore(path)} == {chain.key for chain in made}
    assert not shards(path).exists()


def test_a_cap_is_shared_out_from_what_is_left_of_it(tmp_path: Path) -> None:
    usage = tmp_path / "usage.jsonl"
    line = '{"model": "m", "usage": {"requests": 1, "prompt_tokens": 60, "completion_tokens": 40}}'
    usage.write_text(f"{line}\n")
    price = Price(prompt=1e6, completion=1e6)
    spec = ModelSpec.parse("http://127.0.0.1:1/v1#m", price=price, cap=Cap(tokens=301, money=120.0))
    assert cluster._share_of_cap(spec, usage, 2).cap == Cap(tokens=100, money=10.0)
    with pytest.raises(CapReached, match="is reached"):
        cluster._share_of_cap(spec, usage, 202)
    with pytest.raises(ConfigError, match="needs a file"):
        cluster._share_of_cap(spec, None, 2)


def test_workers_are_no_difference_between_runs() -> None:
    one, other = ({"name": "n", "tasks": {"math": {}}, "cluster": {"workers": n}} for n in (0, 4))
    assert differing_keys(resolve(one), resolve(other)) == ()
