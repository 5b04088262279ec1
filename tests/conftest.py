"""Fixtures for all tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from rightcall import cluster

# A busy machine is not a failure, and a run of the tests is the same every time.
settings.register_profile("rightcall", deadline=None, derandomize=True)
settings.load_profile("rightcall")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets beside the repository; tests that need it skip without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public data sets are not beside this repository")
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that outlive a test, and are made before it has a cache of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RIGHTCALL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches, nor another test's."""
    monkeypatch.setenv("RIGHTCALL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One cluster of this machine, with room for four workers, for all tests: it takes long to start.
    In the end all processes that Ray began here are reaped, even if they take long to die."""
    pytest.importorskip("ray")
    from ray._private import worker

    patient = subprocess.Popen.wait

    def in_vain(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout == 1:  # what Ray gives a process that is told to end
            raise subprocess.TimeoutExpired(process.args, timeout)
        return patient(process, timeout)

    with pytest.MonkeyPatch.context() as busy, cluster._connected(cluster.ClusterConfig(workers=4), 4):
        begun = [info.process for some in worker._global_node.all_processes.values() for info in some]
        yield
        busy.setattr(subprocess.Popen, "wait", in_vain)
    assert begun
    assert all(process.returncode is not None for process in begun)
