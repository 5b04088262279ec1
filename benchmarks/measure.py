"""Measuring: contestants in processes of their own, interleaved, compared by medians of ratios.

    with Contestant("ours", make_ours, size) as ours, Contestant("theirs", make_theirs, size) as theirs:
        runs = interleaved([ours, theirs], rounds=5)
    ratio(runs["theirs"], runs["ours"], "cpu")      # how many times less CPU time ours takes

`make(*arguments)` runs in the contestant's process, outside the clock: it imports, loads, and returns
the work. What the work returns is kept beside its times; if it is a function, that is called when the
clock has stopped. A machine whose speed drifts, or that
others use, slows neighbours in the same round alike: so ratios are taken within rounds, and their
median is what counts. The figures depend on the machine; `limit` ties them to what it can do at best.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Self

Figures = dict[str, Any]
"""What a piece of work says about itself: JSON values."""

Work = Callable[..., Figures | Callable[[], Figures]]

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Run:
    """One run of one contestant."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of all threads of the process: what a busy machine changes little."""
    peak_mb: float
    """Largest resident memory of the process during the run, in MiB; libraries and weights included."""
    start_mb: float
    """Resident memory when the run began."""
    device_mb: float | None = None
    """Largest memory that tensors took on a CUDA device, in MiB."""
    figures: Figures = field(default_factory=dict)


class Contestant:
    """Work in a process of its own: `make(*arguments)` is called there, and must be importable.

    `threads`: of torch and of the libraries under it. `python`: another interpreter, with libraries of
    its own, that runs the work instead; what it prints is thrown away. Raises `RuntimeError` with the
    other process's traceback if it fails.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., Work],
        *arguments: Any,
        threads: int | None = None,
        python: str | None = None,
    ) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = (
            context.Process(target=_serve, args=(theirs, make, arguments, threads), daemon=False)
            if python is None
            else _Elsewhere(python, theirs.fileno())
        )
        self._process.start()
        theirs.close()
        try:
            if python is not None:
                self._send((make, arguments, threads))
            self._await()
        except BaseException:
            self.close()
            raise

    def run(self, *arguments: Any) -> Run:
        """Do the work once, called with these arguments."""
        self._send(arguments)
        done: Run = self._await()
        return done

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()

    def _send(self, message: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # its end is said by `_await`
            self._pipe.send(message)

    def _await(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):  # the latter, where it ended before it read
            self._process.join(10)
            kind, value = "error", f"its process ended with code {self._process.exitcode}"
        if kind == "error":
            raise RuntimeError(f"{self.name}: {value}")
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Elsewhere:
    """A process of another interpreter, as `multiprocessing` would have it."""

    def __init__(self, python: str, pipe: int) -> None:
        self._command = [python, "-c", f"from benchmarks.measure import serve; serve({pipe})"]
        self._pipe = pipe

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            cwd=Path(__file__).parents[1],
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            pass_fds=[self._pipe],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def join(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()


def serve(number: int) -> None:
    """The other interpreter's side: what to make comes first. `number`: its end of the pipe."""
    pipe = Connection(number)
    _serve(pipe, *pipe.recv())


def _serve(
    pipe: Connection, make: Callable[..., Work], arguments: Sequence[Any], threads: int | None
) -> None:
    try:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        work = make(*arguments)
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", measured(work, *pipe.recv())))
    except (EOFError, BrokenPipeError):
        return
    except BaseException:
        pipe.send(("error", traceback.format_exc()))


def measured(work: Work, *arguments: Any) -> Run:
    """Call `work` once in this process."""
    cuda = _cuda()
    gc.collect()
    _reset_peak()
    if cuda is not None:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
    start = _memory_mb("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    figures = work(*arguments)
    if cuda is not None:
        cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    device = None if cuda is None else cuda.max_memory_allocated() / 2**20
    peak = _memory_mb("VmHWM")
    return Run(wall, cpu, peak, start, device, figures() if callable(figures) else figures)


def interleaved(
    contestants: Iterable[Contestant],
    rounds: int,
    *arguments: Any,
    warm_up: int = 1,
    on_run: Callable[[str, int, Run], None] | None = None,
) -> dict[str, list[Run]]:
    """`rounds` runs of each, in turn, the order reversed in every other round; `warm_up` rounds
    before them are not kept. `on_run(name, round, run)` follows the progress."""
    line = list(contestants)
    runs: dict[str, list[Run]] = {c.name: [] for c in line}
    for number in range(-warm_up, rounds):
        for contestant in line if number % 2 == 0 else reversed(line):
            run = contestant.run(*arguments)
            if on_run is not None:
                on_run(contestant.name, number, run)
            if number >= 0:
                runs[contestant.name].append(run)
    return runs


def ratio(
    slower: Sequence[Run], faster: Sequence[Run], clock: Clock, *, per: str | None = None
) -> float:
    """The median over rounds of how many times longer `slower` took; `per` names the figure that says
    how much each did, where that is not the same."""
    pairs = zip(slower, faster, strict=True)
    return statistics.median(_cost(s, clock, per) / _cost(f, clock, per) for s, f in pairs)


def _cost(run: Run, clock: Clock, per: str | None) -> float:
    seconds = run.wall if clock == "wall" else run.cpu
    return seconds if per is None else seconds / float(run.figures[per])


def median(runs: Sequence[Run], name: str) -> float:
    """Of a field of `Run`, or of a figure that the work returned."""
    own = name in Run.__dataclass_fields__
    return statistics.median(float(getattr(run, name) if own else run.figures[name]) for run in runs)


def gemm_flops(
    shape: tuple[int, int, int] = (1024, 1024, 1024),
    *,
    dtype: str = "float32",
    device: str = "cpu",
    seconds: float = 0.5,
    clock: Clock = "wall",
) -> float:
    """FLOP/s of a matrix product `[m, k] @ [k, n]` at its best during so many seconds, with the
    threads that torch has now: the limit of whatever is made of such products. By the clock `cpu` they
    are FLOP in a second of processor time, which work that shares the processor does not lower."""
    import torch

    m, k, n = shape
    kind = getattr(torch, dtype)
    a, b = torch.randn(m, k, dtype=kind, device=device), torch.randn(k, n, dtype=kind, device=device)
    out = torch.empty(m, n, dtype=kind, device=device)
    cuda = _cuda() if device.startswith("cuda") else None

    now = time.perf_counter if clock == "wall" else time.process_time

    def once() -> float:
        started = now()
        torch.mm(a, b, out=out)
        if cuda is not None:
            cuda.synchronize()
        return now() - started

    once()
    best, end = once(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, once())
    return 2.0 * m * n * k / best


def machine() -> Figures:
    """What the figures were made on."""
    import torch
    import transformers

    cuda = _cuda()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": None if cuda is None else cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }


def write_json(path: Path, benchmark: str, runs: Mapping[str, Sequence[Run]], **more: Any) -> None:
    """One file: the machine, every run, and whatever else there is to say."""
    record = {
        "benchmark": benchmark,
        "machine": machine(),
        **more,
        "runs": {name: [asdict(run) for run in made] for name, made in runs.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with aligned columns; floats to three digits, None as a dash."""
    cells = [list(map(str, head)), *([_shown(cell) for cell in row] for row in rows)]
    width = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width[0], *("-" * (w - 1) + ":" for w in width[1:])]
    return "\n".join(f"| {' | '.join(_aligned(row, width))} |" for row in (cells[0], rule, *cells[1:]))


def _aligned(row: Sequence[str], width: Sequence[int]) -> list[str]:
    """The first column to the left, numbers to the right."""
    return [
        cell.rjust(w) if i else cell.ljust(w)
        for i, (cell, w) in enumerate(zip(row, width, strict=True))
    ]


def _shown(cell: object) -> str:
    if cell is None:
        return "–"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def _cuda() -> Any:
    """torch.cuda where it is loaded and in use."""
    import sys

    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _memory_mb(field_name: str) -> float:
    """VmRSS or VmHWM (its peak). Where there is no /proc, the peak since the process began."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.splitlines() if line.startswith(field_name))
    return int(line.split()[1]) / 1024


def _reset_peak() -> None:
    # Elsewhere than on Linux the peak is then that since the process began.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "unknown")
