"""The sandbox: what a call cannot do to us, whatever it does."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rightcall import sandbox
from rightcall.chain import Call, Observation
from rightcall.errors import CallError, DefinitionError, FailureKind
from rightcall.functions import FunctionSet, Limits, State, States, function
from rightcall.task import load_task
from toys import Tally


def run(
    call: Callable[..., Any], *args: Any, seconds: float = 20.0, memory_mb: int = 256, **kwargs: Any
) -> Any:
    return sandbox.run(call, list(args), kwargs, (), seconds=seconds, memory_mb=memory_mb)[0]


def failure(call: Callable[..., Any], *args: Any, **limits: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        run(call, *args, **limits)
    return caught.value


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int, seconds: float = 10.0) -> bool:
    for _ in range(int(seconds * 50)):
        if not alive(pid):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(autouse=True, scope="module")
def _end_workers() -> Iterator[None]:
    yield
    sandbox.close()


def test_a_call_runs_in_another_process_which_is_used_again() -> None:
    first, second = run(os.getpid), run(lambda: os.getpid())
    assert first == second != os.getpid()


def test_arguments_go_and_values_come_back() -> None:
    assert run(lambda a, *rest, key: [a, rest, key], 1, "é", None, key={"x": [1.5]}) == [
        1,
        ("é", None),
        {"x": [1.5]},
    ]


def test_a_changed_state_comes_back_and_ours_is_left_alone() -> None:
    def note(number: float, tally: Tally) -> None:
        tally.numbers.append(number)

    mine = Tally([1.0])
    _, changed = sandbox.run(
        note, [], {"number": 2.0, "tally": mine}, ("tally",), seconds=20, memory_mb=256
    )
    assert changed == {"tally": Tally([1.0, 2.0])}
    assert type(changed["tally"]) is Tally
    assert mine == Tally([1.0])


def forever() -> None:
    while True:
        pass


def test_a_loop_is_stopped_and_its_process_is_gone() -> None:
    pid = run(os.getpid)
    error = failure(forever, seconds=0.2)
    assert error.kind is FailureKind.TIME_LIMIT
    assert "0.2 s" in str(error)
    assert error.remedy
    assert not alive(pid)
    assert run(lambda: 7) == 7


def test_what_a_stopped_call_started_is_stopped_too(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def start_and_wait(path: str) -> None:
        with open(path, "w") as file:
            file.write(str(subprocess.Popen(["sleep", "600"]).pid))
        time.sleep(600)

    run(lambda: None)  # warm, so that the second is the call's alone
    assert failure(start_and_wait, str(note), seconds=3).kind is FailureKind.TIME_LIMIT
    assert wait_until_gone(int(note.read_text()))


def test_memory_without_end_is_refused() -> None:
    def hoard() -> int:
        kept = []
        while True:
            kept.append(bytearray(10_000_000))

    error = failure(hoard, memory_mb=100)
    assert error.kind is FailureKind.MEMORY_LIMIT
    assert "100 MB" in str(error)
    assert failure(lambda: len([0] * 10**12)).kind is FailureKind.MEMORY_LIMIT
    assert run(lambda: len(bytearray(10**8))) == 10**8


@pytest.mark.parametrize(
    ("die", "how"),
    [
        (lambda: os._exit(3), "exit status 3"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda: ctypes.string_at(0), "SIGSEGV"),
    ],
)
def test_a_death_is_told_with_its_cause(die: Callable[[], Any], how: str) -> None:
    error = failure(die)
    assert (error.kind, error.value) == (FailureKind.DIED, how)
    assert error.remedy
    assert run(lambda: 1) == 1


def test_an_idle_worker_that_was_killed_is_replaced() -> None:
    pid = run(os.getpid)
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone(pid)
    assert run(os.getpid) != pid


def test_a_functions_own_error_comes_as_its_text() -> None:
    with pytest.raises(sandbox.Raised, match=r"^ZeroDivisionError: division by zero$"):
        run(lambda: 1 / 0)
    with pytest.raises(sandbox.Raised, match=r"^SystemExit: 3$"):
        run(sys.exit, 3)


def test_an_error_that_cannot_be_pickled_or_shown_still_comes_as_text() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

        def __reduce__(self) -> Any:
            raise TypeError

    def fail() -> None:
        raise Odd

    with pytest.raises(sandbox.Raised, match=r"^Odd: "):
        run(fail)


def test_a_call_error_keeps_its_parts_even_if_its_value_cannot_be_sent() -> None:
    def refuse(value: object) -> None:
        raise CallError("no", value=value, remedy="Try 1.")

    error = failure(refuse, [2])
    assert (error.fault, error.value, error.remedy) == ("no", [2], "Try 1.")
    error = failure(lambda: refuse(threading.Lock()))
    assert "lock" in str(error.value)


def test_a_result_that_cannot_be_sent_is_a_typed_failure() -> None:
    error = failure(threading.Lock)
    assert error.kind is FailureKind.FUNCTION_ERROR
    assert "cannot be sent back" in str(error)
    error = failure(lambda: bytes(sandbox.MAX_MESSAGE_BYTES + 1))
    assert "limit" in str(error)


def test_a_function_that_cannot_be_sent_is_its_authors_mistake() -> None:
    lock = threading.Lock()

    with pytest.raises(DefinitionError, match="trusted=True"):
        run(lambda: lock.locked())


def test_what_a_function_prints_does_not_reach_us(capfd: pytest.CaptureFixture[str]) -> None:
    def talk() -> int:
        print("hello")
        print("world", file=sys.stderr)
        os.write(1, b"raw")
        return len(sys.stdin.read())

    assert run(talk) == 0
    assert capfd.readouterr() == ("", "")


def test_secrets_do_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "apikey"):
        monkeypatch.setenv(name, "hush")
    for name in ("GITHUB_PAT", "SSH_PASSPHRASE", "NPM_AUTH"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("DATABASE_URL", "postgres://me:hush@db/x")
    monkeypatch.setenv("MONKEY_COUNT", "3")
    seen = run(lambda: dict(os.environ))
    assert not any("hush" in value for value in seen.values())
    assert seen["MONKEY_COUNT"] == "3"


def test_a_variable_that_was_named_as_a_key_is_withheld_from_now_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox.close()
    monkeypatch.setattr(sandbox, "_withheld", set())
    monkeypatch.setenv("TEACHER_ACCESS", "hush")
    assert run(lambda: os.environ.get("TEACHER_ACCESS")) == "hush"
    sandbox.withhold("TEACHER_ACCESS")
    assert run(lambda: os.environ.get("TEACHER_ACCESS")) is None


def test_threads_call_side_by_side() -> None:
    results: dict[int, int] = {}

    def work(number: int) -> None:
        for _ in range(20):
            results[number] = run(lambda n: n * n, number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: 0, 1: 1, 2: 4}


def test_a_worker_is_replaced_after_its_share_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    monkeypatch.setattr(sandbox, "CALLS_PER_WORKER", 2)
    pids = [run(os.getpid) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert not alive(pids[0])


def script(text: str) -> subprocess.Popen[str]:
    prelude = (
        "import os, sys, time\nfrom rightcall import sandbox\n"
        "def call(f, *a, seconds=20):\n"
        "    return sandbox.run(f, list(a), {}, (), seconds=seconds, memory_mb=256)[0]\n"
    )
    return subprocess.Popen([sys.executable, "-c", prelude + text], stdout=subprocess.PIPE, text=True)


def test_workers_end_when_the_program_ends() -> None:
    with script("print(call(os.getpid))") as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
    assert program.returncode == 0
    assert not alive(pid)


@pytest.mark.parametrize("busy", [False, True])
def test_workers_end_when_the_program_is_killed(busy: bool) -> None:
    then = "call(time.sleep, 600, seconds=0.5)" if busy else "time.sleep(600)"
    with script(f"print(call(os.getpid), flush=True)\nsandbox.START_SECONDS = 9\n{then}") as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        time.sleep(0.1)
        program.kill()
    assert wait_until_gone(pid)


def test_a_forked_child_gets_workers_of_its_own() -> None:
    text = """
mine = call(os.getpid)
child = os.fork()
if child == 0:
    other = call(os.getpid)
    os._exit(0 if other != mine else 1)
_, status = os.waitpid(child, 0)
print(status, call(os.getpid) == mine)
"""
    with script(text) as program:
        assert program.stdout is not None
        assert program.stdout.read().split() == ["0", "True"]


def test_functions_of_the_main_script_are_sent_by_value() -> None:
    with script(
        "def double(x): return helper(x)\ndef helper(x): return 2 * x\nprint(call(double, 4))"
    ) as p:
        assert p.stdout is not None
        assert p.stdout.read() == "8\n"


TASK_FILE = '''
from dataclasses import dataclass, field
from rightcall.functions import State, function
from rightcall.task import Task

SCALE = 10

@dataclass
class Notes(State):
    lines: list[str] = field(default_factory=list)

@function(example="note('a')")
def note(line: str, notes: Notes) -> int:
    """Note a line."""
    notes.lines.append(line)
    return len(notes.lines) if line == "a" else scaled(len(notes.lines))

def scaled(number: int) -> int:
    return SCALE * number

class Mine(Task):
    name = "mine"
    instruction = "Note."
    functions = [note]
    def problems(self, split, count=None, seed=0):
        return iter(())
'''


def test_a_task_file_loaded_by_its_path_runs_sandboxed_with_its_state(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(TASK_FILE)
    functions = load_task(f"{tmp_path / 'my_task.py'}:Mine").function_set()
    states: States = {}
    call = Call(name="note", args=("x",))
    texts = [functions.run(call, states).observation.text for _ in range(3)]
    assert texts == ["10", "20", "30"]
    ((kind, state),) = states.items()
    assert type(state) is kind
    assert state.lines == ["x"] * 3  # type: ignore[attr-defined]


class Book(State):
    def __init__(self) -> None:
        self.pages = 0


def both(call: Callable[..., Any], example: str, reply: str) -> tuple[Observation, Observation]:
    """What a call gives in a worker and in this process."""
    made = [
        FunctionSet([function(example=example, trusted=trusted)(call)]).reply(reply, {}).observation
        for trusted in (False, True)
    ]
    return made[0], made[1]


def test_a_function_fails_with_the_same_words_in_a_worker_as_here() -> None:
    def divide(a: float, b: float) -> float:
        """Divide."""
        return a / b

    def pick(items: list[int], index: int) -> int:
        """Pick."""
        if index < 0:
            raise CallError("no such index", value=index, remedy="Count from 0.")
        return items[index]

    for there, here in (
        both(divide, "divide(1, 2)", "divide(1, 0)"),
        both(pick, "pick([1], 0)", "pick([1], 5)"),
        both(pick, "pick([1], 0)", "pick([1], -1)"),
    ):
        assert there == here
        assert there.failure is FailureKind.FUNCTION_ERROR


def test_a_stopped_call_leaves_the_state_it_found() -> None:
    @function(example="write(1)", limits=Limits(seconds=2))
    def write(pages: int, book: Book) -> int:
        """Write pages."""
        book.pages += pages
        while pages < 0:
            pass
        return book.pages

    functions, states = FunctionSet([write]), {}
    assert functions.reply("write(2)", states).observation.text == "2"
    assert functions.reply("write(-1)", states).observation.failure is FailureKind.TIME_LIMIT
    assert functions.reply("write(2)", states).observation.text == "4"


def test_a_sandboxed_function_may_use_another() -> None:
    def inner() -> int:
        return sandbox.run(lambda: os.getpid(), [], {}, (), seconds=5, memory_mb=64)[0]  # type: ignore[no-any-return]

    assert run(inner) == run(os.getpid)
