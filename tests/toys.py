"""Small doubles that tests share: a task of sums, a model that plays replies, and hand-made chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rightcall.chain import (
    Chain,
    Judgement,
    Message,
    Observation,
    Outcome,
    Problem,
    Step,
    StopReason,
    digest,
)
from rightcall.errors import FailureKind, ModelError
from rightcall.functions import FunctionSet, Role, State, Stop, function
from rightcall.models import ChatModel, Reply, Request
from rightcall.task import Proved, Refuted, Task


@dataclass
class Tally(State):
    """What a chain has recorded so far."""

    numbers: list[float] = field(default_factory=list)


@function(example="add(2, 3)", trusted=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@function(example="record(4)", trusted=True)
def record(number: float, tally: Tally) -> str:
    """Record a number."""
    tally.numbers.append(number)
    return f"{len(tally.numbers)} recorded"


@function(example='stop("5")', role=Role.FLOW, trusted=True)
def stop(answer: str | int) -> Stop:
    """End with an answer."""
    return Stop(str(answer))


class SumTask(Task):
    """What is a + b? The process is right if `add` was called."""

    name = "sums"
    instruction = "Add."
    functions = (add, record, stop)
    subsets = {"short": ("add", "stop")}

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        offset = {"train": 0, "validation": 1000, "test": 2000}[split] + 10_000 * seed
        for index in range(10 if count is None else count):
            a, b = offset + index, 7
            yield Problem(
                id=f"{split}-{seed}-{index}",
                question=f"What is {a} + {b}?",
                answer=str(a + b),
                gold=(f"add({a}, {b})", f'stop("{a + b}")'),
                difficulty=1 + index % 2,
            )

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        added = any(step.call is not None and step.call.name == "add" for step in chain.steps)
        return Judgement(process_correct=added, evidence=() if added else ("add was not called",))

    def prove(self, problem: Problem) -> Proved | Refuted:
        a, b = (int(word) for word in problem.question[8:-1].split(" + "))
        return Proved() if str(a + b) == problem.answer else Refuted(f"the sum is {a + b}")


Script = Callable[[Request], "str | Reply | ModelError"]


class Played(ChatModel):
    """Replies computed from the request by a function; counts what is in flight."""

    def __init__(self, script: Script, *, capacity: int = 1, name: str = "played") -> None:
        self.script, self.capacity, self.name = script, capacity, name
        self.open: list[Request] = []
        self.most_open = 0
        self.released: list[str] = []

    def submit(self, request: Request) -> None:
        assert request.chain not in {r.chain for r in self.open}
        self.open.append(request)
        self.most_open = max(self.most_open, len(self.open))

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        answered, self.open = self.open, []
        return [(request, self._reply(request)) for request in answered]

    def _reply(self, request: Request) -> Reply | ModelError:
        given = self.script(request)
        if isinstance(given, str):
            return Reply(text=given, completion_tokens=len(given.split()), prompt_tokens=1)
        return given

    def release(self, chain: str) -> None:
        self.released.append(chain)


def solver(request: Request) -> str:
    """Solves a `SumTask` problem in two turns."""
    if request.messages[-1]["content"].startswith("What"):
        a, b = request.messages[-1]["content"][8:-1].split(" + ")
        return f"add({a}, {b})"
    return f'stop("{request.messages[-1]["content"]}")'


PROMPT = (Message(role="system", content="Add."), Message(role="user", content="What is 1 + 1?"))


def step(reply: str, observation: str = "ok", failure: FailureKind | None = None) -> Step:
    """A step whose call is parsed from the reply where it can be."""
    call = None if failure else FunctionSet(SumTask.functions).reply(reply, {}).call
    return Step(reply=reply, call=call, observation=Observation(text=observation, failure=failure))


def chain(
    *replies: str | Step,
    right: bool = True,
    process: bool | None = None,
    source: str = "student",
    problem: str = "p1",
    question: str | None = None,
    stop_reason: StopReason = StopReason.STOPPED,
    errored: bool = False,
    difficulty: int | None = None,
    answer: str = "2",
    sample: int = 0,
) -> Chain:
    """A chain with these replies, as a collection would have stored it."""
    steps: Sequence[Step] = [r if isinstance(r, Step) else step(r) for r in replies]
    outcome = Outcome.ERRORED if errored else Outcome.CORRECT if right else Outcome.INCORRECT
    asked = PROMPT if question is None else (PROMPT[0], Message(role="user", content=question))
    return Chain(
        key=digest([s.reply for s in steps], right, source, problem, errored, sample, process),
        task="sums",
        problem_id=problem,
        sample=sample,
        source=source,
        model="toy",
        seed=0,
        prompt=asked,
        steps=tuple(steps),
        stop_reason=stop_reason,
        answer=answer if stop_reason is StopReason.STOPPED else None,
        outcome=outcome,
        judgement=Judgement(
            process_correct=process, evidence=("a step is wrong",) if process is False else ()
        ),
        difficulty=difficulty,
    )
