"""What the client costs beside the waiting: chains from a server that answers after a fixed time.

    python -m benchmarks.teacher_overhead            64 problems x 8 chains x 6 steps, 512 at once
    python -m benchmarks.teacher_overhead --quick    an eighth of it

rightcall     `rollouts` over `OpenAICompatible`: calls parsed and run, answers verified, chains made
openai        the official asynchronous client alone, conversations of the same length, no call parsed:
              the least that anything built on it takes
aiohttp       the same over bare aiohttp, no reply checked: the least that ours could take

and, each in an environment of its own (`--peer NAME=PYTHON`: its interpreter), other frameworks that
let models call functions, on the same problems (`benchmarks.teacher_peers`):

microchain    an agent per chain, in 512 threads
inspect_ai    a task with a tool, eight epochs
verifiers     a `ToolEnv`, eight rollouts per example

    python -m benchmarks.teacher_overhead --peer microchain=/tmp/microchain/bin/python

The server has a process of its own, does nothing but wait, and counts the requests. The bound is the
time that the waiting alone takes, steps × latency, as if everything else took none. CPU per step is
that of the client's process, threads included, the server's not.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import multiprocessing
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    Contestant,
    Figures,
    Run,
    Work,
    interleaved,
    median,
    ratio,
    table,
    write_json,
)
from benchmarks.teacher_peers import INSTRUCTION, PEERS, Load, make_peer

from rightcall.chain import Problem
from rightcall.functions import Role, Stop, function
from rightcall.models import Sampling
from rightcall.models.openai_compatible import OpenAICompatible
from rightcall.rollout import Budget, Job, Setting, rollouts
from rightcall.task import Task

STEPS = 6
SLOTS = 512
SAMPLES = 8
LATENCIES = (0.02, 1.0)
"""Seconds: the server's fixed time, first one that no server has, then what a large model takes."""
REPLIES = [*(f"add({n}, {n + 1})" for n in range(STEPS - 1)), f'stop("{2 * STEPS - 3}")']
"""Turn by turn, to who reads calls from the text."""
TOOL_REPLIES = [
    *(
        {"content": None, "tool_calls": [{
            "id": f"call_{n}", "type": "function",
            "function": {"name": "add", "arguments": json.dumps({"a": n, "b": n + 1})},
        }]}
        for n in range(STEPS - 1)
    ),
    {"content": f"{2 * STEPS - 3}"},
]  # fmt: skip
"""To who sends tools."""


@function(example="add(2, 3)", trusted=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@function(example='stop("5")', role=Role.FLOW, trusted=True)
def stop(answer: str) -> Stop:
    """End with an answer."""
    return Stop(answer)


class Adding(Task):
    """Problems that all have the same chain."""

    name = "adding"
    instruction = INSTRUCTION
    functions = (add, stop)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        for index in range(count or 64):
            yield Problem(id=f"{index}", question=f"Problem {index}: go on.", answer=f"{2 * STEPS - 3}")


# --- the server ------------------------------------------------------------------------------------


@dataclass
class Desk:
    """What all connections share."""

    latency: float = 0.0
    """Seconds."""
    requests: int = 0
    """Since they were last asked for."""


class Waiting(asyncio.Protocol):
    """Answers a request after a fixed time, with the reply of its turn."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head = self.received.find(b"\r\n\r\n")
        found = re.search(rb"content-length: *(\d+)", self.received[: max(0, head)], re.I)
        if found is None or len(self.received) < (end := head + 4 + int(found[1])):
            return
        body, self.received = self.received[:end], self.received[end:]
        self.desk.requests += 1
        turn = body.count(b'"assistant"')
        said = TOOL_REPLIES[turn] if b'"tools"' in body else {"content": REPLIES[turn]}
        asyncio.get_running_loop().call_later(self.desk.latency, self.answer, said)

    def answer(self, said: Any) -> None:
        finish = "tool_calls" if "tool_calls" in said else "stop"
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **said}}
        usage = {"prompt_tokens": 300, "completion_tokens": 12, "total_tokens": 312}
        made = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        body = json.dumps({**made, "choices": [choice], "usage": usage}).encode()
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
        if not self.transport.is_closing():
            self.transport.write(f"{head}{len(body)}\r\n\r\n".encode() + body)


def serve(pipe: Connection) -> None:
    """Sends its port, then takes latencies, in seconds; told None it sends how many requests came."""
    desk = Desk()

    def told() -> None:
        said = pipe.recv()
        if said is None:
            pipe.send(desk.requests)
            desk.requests = 0
        else:
            desk.latency = said

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Waiting(desk), "127.0.0.1", 0, backlog=2048)
        pipe.send(server.sockets[0].getsockname()[1])
        loop.add_reader(pipe.fileno(), told)
        await server.serve_forever()

    asyncio.run(forever())


# --- the contestants -------------------------------------------------------------------------------


def make_rightcall(url: str) -> Work:
    task = Adding()
    setting = Setting(task, task.function_set(), "teacher", Sampling(), Budget(steps=STEPS + 1))

    def work(problems: int) -> Figures:
        jobs = [Job(p, sample) for p in task.problems("train", problems) for sample in range(SAMPLES)]
        with OpenAICompatible("m", url, capacity=SLOTS) as model:
            chains = list(rollouts(setting, model, jobs))
        assert all(chain.answer == f"{2 * STEPS - 3}" for chain in chains)
        return {"steps": sum(len(chain.steps) for chain in chains)}

    return work


Ask = Callable[[list[dict[str, str]]], Awaitable[str]]


def make_openai(url: str) -> Work:
    import openai

    async def all_of_them(problems: int) -> int:
        async with openai.AsyncOpenAI(
            api_key="none", base_url=url, http_client=openai.DefaultAsyncHttpxClient(limits=_limits())
        ) as client:

            async def ask(messages: list[dict[str, str]]) -> str:
                made = await client.chat.completions.create(
                    model="m",
                    messages=messages,  # type: ignore[arg-type]
                    temperature=0.0,
                    seed=1,
                    max_tokens=256,
                )
                return made.choices[0].message.content or ""

            return await _conversations(ask, problems)

    return lambda problems: {"steps": asyncio.run(all_of_them(problems))}


def _limits() -> Any:
    import httpx2  # what the official client sends with

    return httpx2.Limits(max_connections=SLOTS, max_keepalive_connections=SLOTS)


def make_aiohttp(url: str) -> Work:
    import aiohttp

    async def all_of_them(problems: int) -> int:
        connector = aiohttp.TCPConnector(limit=SLOTS)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask(messages: list[dict[str, str]]) -> str:
                fields = {"model": "m", "messages": messages, "seed": 1, "max_tokens": 256}
                async with session.post(f"{url}/chat/completions", json=fields) as response:
                    made = await response.json()
                return str(made["choices"][0]["message"]["content"])

            return await _conversations(ask, problems)

    return lambda problems: {"steps": asyncio.run(all_of_them(problems))}


async def _conversations(ask: Ask, problems: int) -> int:
    """Steps of conversations as long as ours, without calls: every observation is given."""

    async def one(problem: int) -> int:
        turns = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": f"Problem {problem}: go on."},
        ]
        for step in range(STEPS):
            turns.append({"role": "assistant", "content": await ask(turns)})
            turns.append({"role": "user", "content": str(2 * step + 1)})
        return STEPS

    return sum(await asyncio.gather(*(one(p) for p in range(problems) for _ in range(SAMPLES))))


MAKE = {"rightcall": make_rightcall, "openai": make_openai, "aiohttp": make_aiohttp}


def main(
    problems: int,
    rounds: int,
    only: list[str],
    peers: dict[str, str | None],
    latencies: Sequence[float],
    out: Path,
) -> None:
    """Measure, print, and write all runs. `peers`: the interpreters that have them; None, this one."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{pipe.recv()}/v1"
    load = Load(url, SAMPLES, SLOTS, STEPS)

    def counted(name: str, number: int, run: Run) -> None:
        pipe.send(None)
        run.figures["requests"] = pipe.recv()
        print(f"{name}, round {number}: {run.wall:.1f} s, CPU {run.cpu:.1f} s", file=sys.stderr)

    rows: list[tuple[object, ...]] = []
    written: dict[str, list[Run]] = {}
    contestants = [Contestant(name, MAKE[name], url) for name in only]
    contestants += [Contestant(n, make_peer, n, load, python=peers[n]) for n in peers]
    for contestant in contestants:
        counted(contestant.name, -1, contestant.run(1))
    for latency in latencies:
        pipe.send(latency)
        runs = interleaved(contestants, rounds, problems, warm_up=0, on_run=counted)
        bound = STEPS * latency * max(1.0, problems * SAMPLES / SLOTS)
        for name, own in runs.items():
            wall, cpu = median(own, "wall"), median(own, "cpu") / median(own, "steps")
            rows.append((f"{latency:g} s", f"{name} {own[0].figures.get('version', '')}".strip(),
                         int(median(own, "requests")), bound, wall, wall / bound, 1e3 * cpu,
                         ratio(own, runs[only[0]], "cpu")))  # fmt: skip
        written |= {f"{name}, {latency:g} s": own for name, own in runs.items()}
    for contestant in contestants:
        contestant.close()
    server.terminate()
    server.join()
    write_json(out, "teacher_overhead", written, problems=problems, samples=SAMPLES, slots=SLOTS)
    head = ("latency", "client", "requests", "bound, s", "wall, s", "x bound", "CPU ms/step", "x CPU")
    print(table(head, rows))


def found(given: list[str]) -> dict[str, str | None]:
    """The interpreters of the peers: those given as NAME=PYTHON, and this one where it has them."""
    peers: dict[str, str | None] = {}
    for part in given:
        name, _, peers[name] = part.partition("=")
    if unknown := sorted(peers.keys() - PEERS):
        raise SystemExit(f"--peer: no such peer ({', '.join(unknown)}); there are {', '.join(PEERS)}")
    for name in PEERS:
        if name not in peers and importlib.util.find_spec(name) is not None:
            peers[name] = None
        elif name not in peers:
            print(f"{name} is not measured: it is not installed here, and no --peer {name}=PYTHON")
    return peers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 problems, one round")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=MAKE, default=[*MAKE], help="of the first three")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--latency", type=float, nargs="+", default=LATENCIES, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/teacher_overhead.json"))
    asked = parser.parse_args()
    main(
        8 if asked.quick else asked.problems,
        1 if asked.quick else asked.rounds,
        asked.only,
        found(asked.peer),
        asked.latency,
        asked.out,
    )
    sys.exit(0)
