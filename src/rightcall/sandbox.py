"""Untrusted calls in a worker process that can really be stopped.

`run` sends a call to a persistent worker, started when first needed and used again: a call that
loops, allocates without end or dies takes its worker with it and nothing else. Workers are fresh
interpreters, never forks (this process may hold threads and torch), and end with this process. Their
environment lacks what looks like a secret there (see `_environment`), and what they print is thrown
away. Files and the network are *not* blocked: a function can read and write what you can. This
guards against what a *model* asks for and against mistakes, not against hostile function code.

The protocol: frames of an 8-byte length and a pickle, over a socket pair. A function is sent once
per worker (`load`, with the values its globals have then), its arguments at every call.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.machinery
import io
import os
import pickle
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import cloudpickle

from rightcall.errors import CallError, DefinitionError, FailureKind

MAX_MESSAGE_BYTES = 16 * 2**20
"""Of a result with its states, and of arguments."""
MAX_IDLE_WORKERS = 4
CALLS_PER_WORKER = 10_000
"""A worker is replaced after so many calls, which bounds what functions may leak."""
START_SECONDS = 60.0
"""For an interpreter to start, and for a function's own imports."""

_MAX_ERROR_CHARACTERS = 20_000
_HEADER = struct.Struct("!Q")
_SECRET = re.compile(
    r"(^|_)(API)?(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|CRED|AUTH|PAT)S?(_|$)",
    re.IGNORECASE,
)
"""Names of environment variables that hold secrets: OPENAI_API_KEY, HF_TOKEN, GITHUB_PAT, ..."""
_SECRET_VALUE = re.compile(r"^\w[\w+.-]*://[^/@\s]+@")
"""A URL with a password in it."""
_withheld: set[str] = set()
"""Further names, of whatever shape."""


class Raised(Exception):
    """The function raised an error of its own; the text is `TypeName: message`."""


def run(
    call: Callable[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    state_names: tuple[str, ...],
    *,
    seconds: float,
    memory_mb: int,
) -> tuple[Any, dict[str, Any]]:
    """Call `call(*args, **kwargs)` in a worker; its value, and the keyword arguments named in
    `state_names` as the call left them (the caller's own are untouched, whatever happens).

    Raises `CallError` when the call raised one, passed a limit, died, or gave something that
    cannot be sent back; `Raised` when it raised anything else; `DefinitionError` when the function
    itself cannot be sent. `memory_mb` is what the call may allocate on top of its worker.
    """
    if _POOL is None:  # already inside a worker, under its limits
        value = call(*args, **kwargs)
        return value, {name: kwargs[name] for name in state_names}
    types = [type(kwargs[name]) for name in state_names]
    key, blob = _shipped(call, types)
    arguments = _packed_arguments(args, kwargs, types)
    worker = _POOL.take()
    try:
        worker.load(call, key, blob)
        reply = worker.call(key, arguments, state_names, seconds, memory_mb)
    except BaseException:  # an interrupt too: what the worker is doing now is unknown
        _POOL.discard(worker)
        raise
    if reply[0] == "memory":
        _POOL.discard(worker)
    else:
        _POOL.give_back(worker)
    return _opened(reply, types, memory_mb)


def _packed_arguments(args: list[Any], kwargs: dict[str, Any], types: Sequence[type]) -> bytes:
    try:
        packed = _dumps((args, kwargs), types)
    except Exception as error:
        raise CallError(
            "the arguments or the state cannot be sent to the function's process",
            value=_described(error),
        ) from error
    if len(packed) > MAX_MESSAGE_BYTES:
        raise CallError("the arguments and the state are too large", value=f"{len(packed)} bytes")
    return packed


def _opened(
    reply: tuple[Any, ...], types: Sequence[type], memory_mb: int
) -> tuple[Any, dict[str, Any]]:
    match reply:
        case ("value", blob):
            try:
                value, states = _loads(blob, types)
            except Exception as error:
                raise _unsendable(_described(error)) from error
            return value, states
        case ("call_error", blob):
            raise pickle.loads(blob)
        case ("raised", text):
            raise Raised(text)
        case ("memory",):
            raise CallError(
                "the call used too much memory",
                value=f"limit {memory_mb} MB",
                remedy="Ask for something smaller.",
                kind=FailureKind.MEMORY_LIMIT,
            )
        case ("unsendable", text):
            raise _unsendable(text)
    raise AssertionError(reply)


def _unsendable(reason: str) -> CallError:
    return CallError(
        "the function's result cannot be sent back",
        value=reason,
        remedy="Ask for something smaller or simpler.",
    )


def _described(error: BaseException) -> str:
    """`TypeName: message`, also of an error whose message fails."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = f"{type(error).__name__}: (its message cannot be shown)"
    return text[:_MAX_ERROR_CHARACTERS]


# --- functions are shipped once -----------------------------------------------------------------

_blobs: weakref.WeakKeyDictionary[Callable[..., Any], tuple[int, str, bytes]] = (
    weakref.WeakKeyDictionary()
)


def _shipped(call: Callable[..., Any], states: Sequence[type]) -> tuple[str, bytes]:
    """A function's key and pickle, remembered as long as the function lives and its module gains
    no names: an example runs before the names below its function are there. The types of its
    states go along, so that their imports are not on the call's time."""
    names = len(getattr(call, "__globals__", ()))
    known = _blobs.get(call)
    if known is None or known[0] != names:
        _by_value_if_unimportable(call, *states)
        try:
            blob = cloudpickle.dumps((call, states))
        except Exception as error:
            raise _cannot_ship(call, _described(error)) from error
        known = _blobs[call] = names, hashlib.sha256(blob).hexdigest(), blob
    return known[1], known[2]


def _cannot_ship(call: Callable[..., Any], reason: str) -> DefinitionError:
    return DefinitionError(
        f"function {getattr(call, '__name__', call)} cannot be sent to its worker process",
        value=reason,
        remedy="Make what it needs inside it, or declare it trusted=True to run it in this process.",
    )


def _by_value_if_unimportable(*things: Any) -> None:
    """Have a file that was loaded by its path pickled by value: a worker cannot import it."""
    for thing in things:
        module = sys.modules.get(getattr(thing, "__module__", None) or "")
        if module is None or module.__name__ in cloudpickle.list_registry_pickle_by_value():
            continue
        top = module.__name__.partition(".")[0]
        if getattr(module, "__file__", None) and importlib.machinery.PathFinder.find_spec(top) is None:
            cloudpickle.register_pickle_by_value(module)


# --- this side ----------------------------------------------------------------------------------


class _Worker:
    """One interpreter, one call at a time."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _start_text(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(os.environ),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # one process group to kill; no Ctrl-C from our terminal
            )
        self.loaded: set[str] = set()
        self.calls = 0
        try:
            _receive(self.socket, time.monotonic() + START_SECONDS)
        except (OSError, EOFError) as error:
            self.kill()
            raise RuntimeError(f"a worker process did not start ({self._end()})") from error

    def load(self, call: Callable[..., Any], key: str, blob: bytes) -> None:
        """Make a function known to this worker."""
        if key in self.loaded:
            return
        try:
            reply = self._exchange(("load", key, blob), START_SECONDS)
        except (OSError, EOFError) as error:
            raise _cannot_ship(call, "its worker died or did not answer") from error
        if reply[0] != "loaded":
            raise _cannot_ship(call, reply[1])
        self.loaded.add(key)

    def call(
        self, key: str, arguments: bytes, state_names: tuple[str, ...], seconds: float, memory_mb: int
    ) -> tuple[Any, ...]:
        """The worker's reply. After a `CallError` it is of no use any more."""
        self.calls += 1
        try:
            return self._exchange(("call", key, arguments, state_names, seconds, memory_mb), seconds)
        except TimeoutError as error:
            raise CallError(
                "the call took too long",
                value=f"limit {seconds:g} s",
                remedy="Ask for something smaller.",
                kind=FailureKind.TIME_LIMIT,
            ) from error
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.kill()
            raise CallError(
                "the function's process died",
                value=self._end(),
                remedy="Try other arguments.",
                kind=FailureKind.DIED,
            ) from error

    def _exchange(self, message: object, seconds: float) -> tuple[Any, ...]:
        deadline = time.monotonic() + seconds
        _send(self.socket, message, deadline)
        reply: tuple[Any, ...] = _receive(self.socket, deadline)
        return reply

    def _end(self) -> str:
        """How the process ended, in words. A process that ended by itself keeps its own status
        although `kill` came after."""
        status = self.process.wait()
        if status >= 0:
            return f"exit status {status}"
        known = {s.value for s in signal.Signals}
        return signal.Signals(-status).name if -status in known else f"signal {-status}"

    def kill(self) -> None:
        """End the process with all it started, and reap it. The group's number stays taken until
        then, so that nobody else can be hit."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.socket.close()

    def forget(self) -> None:
        """In a forked child: the worker is the parent's."""
        self.socket.close()
        self.process.returncode = 0  # or Popen warns that it was not waited for


class _Pool:
    """The workers of this process: as many as there are threads in `run` at once."""

    def __init__(self) -> None:
        self.idle: list[_Worker] = []
        self.busy: set[_Worker] = set()
        self.lock = threading.Lock()

    def take(self) -> _Worker:
        """An idle worker that lives, or a new one."""
        while True:
            with self.lock:
                worker = self.idle.pop() if self.idle else None
            if worker is None:
                worker = _Worker()
            elif _dead(worker):
                worker.kill()
                continue
            with self.lock:
                self.busy.add(worker)
            return worker

    def give_back(self, worker: _Worker) -> None:
        with self.lock:
            self.busy.discard(worker)
            keep = worker.calls < CALLS_PER_WORKER and len(self.idle) < MAX_IDLE_WORKERS
            if keep:
                self.idle.append(worker)
        if not keep:
            worker.kill()

    def discard(self, worker: _Worker) -> None:
        with self.lock:
            self.busy.discard(worker)
        worker.kill()

    def drop_idle(self) -> None:
        with self.lock:
            workers = [*self.idle]
            self.idle.clear()
        for worker in workers:
            worker.kill()

    def close(self) -> None:
        """End all workers, those of other threads too: the interpreter is shutting down."""
        with self.lock:
            workers = [*self.idle, *self.busy]
            self.idle.clear()
            self.busy.clear()
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        """In a forked child: begin anew. The lock may have been held when the fork came."""
        for worker in [*self.idle, *self.busy]:
            worker.forget()
        self.__init__()  # type: ignore[misc]


def _dead(worker: _Worker) -> bool:
    """Whether an idle worker has gone: its socket has something to say only then."""
    readable, _, _ = select.select([worker.socket], [], [], 0)
    return bool(readable)


def withhold(name: str) -> None:
    """Keep an environment variable from all workers that start from now on, and replace those that
    have it and are idle."""
    if name not in _withheld:
        _withheld.add(name)
        if _POOL is not None and name in os.environ:
            _POOL.drop_idle()


def close() -> None:
    """End all worker processes now; the next call starts a new one. Called at exit."""
    if _POOL is not None:
        _POOL.close()


_POOL: _Pool | None = _Pool()
"""None inside a worker, where calls run directly."""

atexit.register(close)
os.register_at_fork(after_in_child=lambda: _POOL.forget() if _POOL is not None else None)


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Ours without variables whose name or value looks like a secret, or that a model was told to
    take its key from; one thread a library, whose address space counts; a fixed hash seed, so that
    the order of a set does not change from worker to worker."""
    kept = {name: value for name, value in own.items() if not _is_secret(name, value)}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}


def _is_secret(name: str, value: str) -> bool:
    return name in _withheld or bool(_SECRET.search(name) or _SECRET_VALUE.search(value))


def _start_text(descriptor: int) -> str:
    path = [entry or os.getcwd() for entry in sys.path]
    return (
        f"import sys; sys.path[:] = {path!r}; "
        f"from rightcall import sandbox; sandbox._serve({descriptor})"
    )


# --- pickles ------------------------------------------------------------------------------------


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes the types of a function's states as numbers: both sides know them. A class that goes
    by value with every call would cost milliseconds and come back as another class."""

    def __init__(self, file: BinaryIO, types: Sequence[type]) -> None:
        super().__init__(file)
        self.numbers = {kind: number for number, kind in enumerate(types)}

    def persistent_id(self, obj: Any) -> int | None:
        return self.numbers.get(obj) if isinstance(obj, type) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, types: Sequence[type]) -> None:
        super().__init__(file)
        self.types = types

    def persistent_load(self, pid: int) -> type:
        return self.types[pid]


def _dumps(value: object, types: Sequence[type]) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, types).dump(value)
    return buffer.getvalue()


def _loads(blob: bytes, types: Sequence[type]) -> Any:
    return _Unpickler(io.BytesIO(blob), types).load()


# --- frames -------------------------------------------------------------------------------------


def _send(connection: socket.socket, message: object, deadline: float | None) -> None:
    body = pickle.dumps(message)
    connection.settimeout(_left(deadline))
    connection.sendall(_HEADER.pack(len(body)) + body)


def _receive(connection: socket.socket, deadline: float | None) -> Any:
    """The next message. Raises TimeoutError, EOFError when the other side is gone, or OSError."""
    (length,) = _HEADER.unpack(_read(connection, _HEADER.size, deadline))
    if length > MAX_MESSAGE_BYTES + 2**20:
        raise OSError("a message is too large")
    return pickle.loads(_read(connection, length, deadline))


def _read(connection: socket.socket, count: int, deadline: float | None) -> bytes:
    parts = []
    while count:
        connection.settimeout(_left(deadline))
        part = connection.recv(min(count, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


# --- the worker's side --------------------------------------------------------------------------


def _serve(descriptor: int) -> None:
    """The life of a worker: ready, then one reply to each message, until the other side is gone."""
    global _POOL
    _POOL = None
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    functions: dict[str, tuple[Callable[..., Any], Sequence[type]]] = {}
    with suppress(EOFError, ConnectionError):
        _send(connection, ("ready",), None)
        while True:
            message = _receive(connection, None)
            if message[0] == "load":
                reply = _load(functions, message[1], message[2])
            else:
                reply = _guarded(*functions[message[1]], *message[2:])
            _send(connection, reply, None)


def _load(
    functions: dict[str, tuple[Callable[..., Any], Sequence[type]]], key: str, blob: bytes
) -> tuple[Any, ...]:
    try:
        functions[key] = pickle.loads(blob)
    except BaseException as error:
        return "failed", _described(error)
    return ("loaded",)


def _guarded(
    call: Callable[..., Any],
    types: Sequence[type],
    arguments: bytes,
    state_names: tuple[str, ...],
    seconds: float,
    memory_mb: int,
) -> tuple[Any, ...]:
    """Run a call under its limits and say how it went."""
    # Should the other side be killed meanwhile, nobody stops a call that loops: the alarm does.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + 2)
    try:
        args, kwargs = _loads(arguments, types)
        with _memory_limit(memory_mb):
            value = call(*args, **kwargs)
            return _packed_result(value, {name: kwargs[name] for name in state_names}, types)
    except MemoryError:
        return ("memory",)
    except CallError as error:
        return _packed_call_error(error)
    except BaseException as error:  # SystemExit too is the function's own
        return "raised", _described(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _memory_limit(memory_mb: int) -> Iterator[None]:
    """Limit the address space to what is in use now and `memory_mb` more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + memory_mb * 2**20
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Bytes of address space in use. On systems without /proc the peak of resident memory, which
    is less: the limit is then tighter."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _packed_result(value: Any, states: dict[str, Any], types: Sequence[type]) -> tuple[Any, ...]:
    try:
        blob = _dumps((value, states), types)
    except MemoryError:
        raise
    except Exception as error:
        return "unsendable", _described(error)
    if len(blob) > MAX_MESSAGE_BYTES:
        return "unsendable", f"{len(blob)} bytes, limit {MAX_MESSAGE_BYTES}"
    return "value", blob


def _packed_call_error(error: CallError) -> tuple[Any, ...]:
    try:
        return "call_error", cloudpickle.dumps(error)
    except Exception:  # its value is at fault: only its text matters to the model
        plain = CallError(error.fault, value=repr(error.value), remedy=error.remedy, kind=error.kind)
        return "call_error", cloudpickle.dumps(plain)
