"""A teacher behind a server: faults, a cache, a cap, and what a collection will cost.

The server solves sums, some of them wrongly, as the seed of a request says: the same request has the
same reply, whatever befalls the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from local_server import LocalHandler, LocalServer
from rightcall.chain import Chain, ChainStore, Outcome, Problem, StopReason
from rightcall.config import differing_keys, resolve
from rightcall.errors import CapReached, ConfigError, ModelError
from rightcall.estimate import FEW, estimate, estimate_run, expected_samples
from rightcall.models import Reply, Request, Sampling
from rightcall.models.openai_compatible import OpenAICompatible
from rightcall.models.pace import Pace
from rightcall.models.replies import MAX_LINE, ReplyCache, request_key
from rightcall.models.spec import ModelSpec, open_model
from rightcall.models.usage import Cap, Ledger, Price, Usage
from rightcall.rollout import Budget, Enough, Setting, collect
from rightcall.run import Place, collect_role, write_problems
from toys import Played, SumTask

SUMS = str(Path(__file__).with_name("toys.py")) + ":SumTask"
KEY = "sk-very-secret-value"
PROMPT_TOKENS, COMPLETION_TOKENS = 40, 10
"""Of every reply, as the server counts."""

Fault = Callable[["Handler"], None]


Befalls = Callable[[bytes, int], Fault | None]
"""Of a request's body and the number of the attempt."""


class Teacher(LocalServer):
    """Solves sums; `fault` says what befalls an attempt instead, if anything does."""

    def __init__(
        self, fault: Callable[[bytes, int], Fault | None] = lambda body, attempt: None
    ) -> None:
        self.fault = fault
        self.attempts: Counter[bytes] = Counter()
        self.faults = 0
        self.replies = 0
        self.lock = threading.Lock()
        super().__init__(Handler)


class Handler(LocalHandler):
    server: Teacher
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked: dict[str, Any] = json.loads(body)
        with self.server.lock:
            self.server.attempts[body] += 1
            fault = self.server.fault(body, self.server.attempts[body])
            self.server.faults += fault is not None
            self.server.replies += fault is None
        (fault or solves)(self)


def completion(text: str, model: str = "m", finish: str = "stop") -> str:
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    details = {"prompt_tokens_details": {"cached_tokens": PROMPT_TOKENS // 4}}
    return json.dumps({"model": model, "choices": [choice], "usage": {**usage, **details}})


def solves(handler: Handler) -> None:
    """Adds, then stops with the sum or, where the seed says so, with another number."""
    last = handler.asked["messages"][-1]["content"]
    if last.startswith("What"):
        a, b = last[8:-1].split(" + ")
        handler.send(completion(f"add({a}, {b})"))
    else:
        handler.send(completion(f'stop("{int(last) + (handler.asked["seed"] % 3 == 0)}")'))


def hangs(handler: Handler) -> None:
    handler.server.stopping.wait(20)


def cuts(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id":')
    handler.close_connection = True


FAULTS: tuple[Fault, ...] = (
    lambda handler: handler.send("{}", 429, retry_after="0.02"),
    lambda handler: handler.send("{}", 429),
    lambda handler: handler.send("oh", 500),
    lambda handler: handler.send("{garbage"),
    lambda handler: handler.send(completion("stop('0')", model="another")),
    lambda handler: handler.send(completion("stop('0')", finish="content_filter")),
    lambda handler: handler.send(completion("stop('0')", finish="error")),
    lambda handler: handler.send('{"choices": []}'),
    cuts,
    hangs,
)


def faulty(share: float) -> Befalls:
    """A share of the attempts fails, by a hash of the request and the number of the attempt."""

    def fault(body: bytes, attempt: int) -> Fault | None:
        drawn = int.from_bytes(hashlib.sha256(body + bytes([attempt])).digest()[:8], "big")
        return FAULTS[drawn % len(FAULTS)] if (drawn >> 16) % 1000 < 1000 * share else None

    return fault


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rightcall.models.pace.FIRST_WAIT", 0.01)


def setting(source: str = "teacher", seed: int = 0) -> Setting:
    task = SumTask()
    sampling = Sampling(temperature=1.0, max_tokens=COMPLETION_TOKENS)
    return Setting(task, task.function_set(), source, sampling, Budget(steps=4), seed)


def problems(count: int = 10) -> list[Problem]:
    return list(SumTask().problems("train", count))


def told(store: ChainStore) -> dict[str, object]:
    """What chains say, but for how long they took."""
    return {chain.key: chain.model_copy(update={"seconds": 0.0}) for chain in store.latest()}


def collected(url: str, path: Path, count: int = 10, samples: int = 4, **options: Any) -> ChainStore:
    with OpenAICompatible("m", url, capacity=8, timeout=0.5, **options) as model:
        return collect(setting(), model, problems(count), samples, path)


def test_a_server_that_fails_three_times_in_ten_gives_the_chains_of_a_healthy_one(
    tmp_path: Path,
) -> None:
    with Teacher() as server:
        healthy = told(collected(server.url, tmp_path / "healthy.jsonl"))
    with Teacher(faulty(0.3)) as server:
        for _ in range(6):
            store = collected(server.url, tmp_path / "faulty.jsonl")
            for key, chain in told(store).items():
                assert isinstance(chain, Chain)
                assert chain.outcome is Outcome.ERRORED or chain == healthy[key]
            if Outcome.ERRORED not in store.outcomes().values():
                break
        assert server.faults > 20
    assert told(store) == healthy
    assert Counter(store.outcomes().values()).keys() == {Outcome.CORRECT, Outcome.INCORRECT}


def test_no_thread_and_no_request_outlives_the_model() -> None:
    with Teacher(lambda body, attempt: hangs) as server:
        model = OpenAICompatible("m", server.url, capacity=4)
        for name in "abcdef":
            model.submit(Request(chain=name, messages=({"role": "user", "content": "What is 1 + 1?"},)))
        while sum(server.attempts.values()) < 4:
            time.sleep(0.01)
        model.release("a")
        model.close()
        assert not [t for t in threading.enumerate() if t.name == "rightcall-requests"]
        assert sum(server.attempts.values()) <= 5  # "e" may have begun when "a" made room


def test_a_refused_key_ends_a_collection_at_once(tmp_path: Path) -> None:
    with Teacher(lambda body, attempt: lambda handler: handler.send("{}", 401)) as server:
        with pytest.raises(ModelError, match="answered 401"):
            collected(server.url, tmp_path / "chains.jsonl", count=100)
        assert sum(server.attempts.values()) <= 8
    assert len(list(ChainStore(tmp_path / "chains.jsonl"))) <= 8


def test_a_server_that_is_gone_ends_a_collection_rather_than_every_chain_of_it(tmp_path: Path) -> None:
    with Teacher(lambda body, attempt: lambda handler: handler.send("{}", 500)) as server:
        with pytest.raises(ModelError, match="answered 500"):
            collected(server.url, tmp_path / "chains.jsonl", count=100, max_retries=1)
        assert len(server.attempts) < 40


def limit(rate: float, burst: float, **headers: str) -> Befalls:
    """So many requests a second, and no more than `burst` at once."""
    left, last = burst, time.monotonic()

    def fault(body: bytes, attempt: int) -> Fault | None:  # under the server's lock
        nonlocal left, last
        now = time.monotonic()
        left, last = min(burst, left + (now - last) * rate), now
        if left < 1:
            return lambda handler: handler.send("{}", 429, **headers)
        left -= 1
        return None

    return fault


@pytest.mark.parametrize("headers", [{}, {"retry_after_ms": "120"}, {"retry_after": "1"}])
def test_a_limit_of_requests_costs_time_and_no_chain(
    headers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rightcall.models.pace.FIRST_WAIT", 0.2)
    with Teacher(limit(rate=8, burst=8, **headers)) as server:
        with OpenAICompatible("m", server.url, capacity=64) as model:
            store = collect(setting(), model, problems(10), 2, tmp_path / "chains.jsonl")
        assert server.replies == 40
        assert server.faults < 160
    assert Outcome.ERRORED not in store.outcomes().values()


def test_limits_that_outlast_all_patience_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rightcall.models.openai_compatible.LONGEST_REST", 0.1)
    refused = partial(Handler.send, body="{}", status=429, retry_after="0.03")
    with Teacher(lambda body, attempt: refused) as server:
        store = collected(server.url, tmp_path / "chains.jsonl", count=1, samples=1)
        assert 3 <= sum(server.attempts.values()) <= 5
    assert store.counts()[Outcome.ERRORED] == 1


def test_fewer_are_open_after_a_burst_of_refusals_and_more_with_each_answer() -> None:
    async def widths() -> Iterator[float]:
        pace, seen = Pace(8), []
        async with pace.turn() as one, pace.turn() as other:
            pace.refused(one, None)
            pace.refused(other, None)  # of the same burst
            seen.append(pace._width)
        async with pace.turn() as third:
            pace.refused(third, None)
            seen.append(pace._width)
        for _ in range(100):
            pace.answered()
            seen.append(pace._width)
        return iter(seen)

    first, second, *rest = asyncio.run(widths())
    assert (first, second, rest[-1]) == (4, 2, 8)
    assert rest == sorted(rest)


def echo(**fields: Any) -> str:
    return json.dumps({"model": "m", **json.loads(completion("x")), **fields})


def choice(finish: str | None = "stop", **message: Any) -> list[dict[str, Any]]:
    return [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}]


ECHOES: dict[str, Fault] = {
    "an error": lambda handler: handler.send(echo(error={"message": f"bad key {KEY}", "code": 401})),
    "an error without a code": lambda handler: handler.send(echo(error=f"bad key {KEY}")),
    "no choices": lambda handler: handler.send(json.dumps({"detail": KEY})),
    "a long answer": lambda handler: handler.send(json.dumps({"x": "x" * 184 + KEY, "choices": 0})),
    "no text": lambda handler: handler.send(echo(choices=choice(content={"key": KEY}))),
    "no call": lambda handler: handler.send(echo(choices=choice(content=KEY, tool_calls=[KEY]))),
    "a finish": lambda handler: handler.send(echo(choices=choice(KEY, content="x"))),
    "a model": lambda handler: handler.send(echo(model=f"gateway of {KEY}")),
    "a reply": lambda handler: handler.send(echo(choices=choice(content=f"add({KEY})"))),
    "no JSON": lambda handler: handler.send(f"<html>{KEY}"),
    "a redirect": lambda handler: handler.send("", 302, location=f"http://host/{KEY}/"),
    "a refusal": lambda handler: handler.send(KEY, 400),
    "a long refusal": lambda handler: handler.send("x" * 290 + KEY, 400),
    "a refused key": lambda handler: handler.send(json.dumps({"error": {"message": KEY}}), 401),
    "a failure": lambda handler: handler.send(json.dumps({"message": KEY, "code": KEY}), 500),
    "a long wait": lambda handler: handler.send(KEY, 429, retry_after="9999"),
}


@pytest.mark.parametrize("name", ECHOES)
def test_a_key_that_the_server_echoes_is_in_no_chain_and_in_no_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    said = ""
    asked = replace(setting(), dialect="native" if name == "no call" else "python")
    with Teacher(lambda body, attempt: ECHOES[name]) as server:
        options: dict[str, Any] = {"api_key_env": "MY_KEY", "max_retries": 1}
        with OpenAICompatible("m", server.url, **options) as model:
            try:
                collect(asked, model, problems(2), 1, tmp_path / "chains.jsonl")
            except ModelError as error:
                said = f"{error} {error!r} {error.__cause__} {error.__context__}"
            stopped = model.stopped is not None
    written = (tmp_path / "chains.jsonl").read_text()
    # What stops the model may be heard before the second chain is begun.
    assert written.count("\n") in ([1, 2] if stopped else [2])
    for length in range(8, len(KEY)):
        assert KEY[:length] not in written + said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"message": "Incorrect API key", "code": 401}, "answered 401 (Incorrect API key"),
        ({"message": "no credit", "code": "402"}, "answered 402 (no credit"),
        ({"message": "try later", "code": 503}, "answered 503 (try later"),
        ({"message": "oh", "code": "teapot"}, "answered with an error (oh teapot)"),
        ("oh", 'answered with an error ({"error": "oh"'),
    ],
)
def test_an_error_in_an_answer_of_200_is_that_error(error: object, said: str, tmp_path: Path) -> None:
    body = json.dumps({"error": error, "choices": []})
    with Teacher(lambda body_, attempt: lambda handler: handler.send(body)) as server:
        store = None
        with contextlib.suppress(ModelError):
            store = collected(server.url, tmp_path / "chains.jsonl", count=1, samples=1, max_retries=1)
    store = store or ChainStore(tmp_path / "chains.jsonl")
    ((chain,),) = [[*store.latest()]]
    assert said in str(chain.error)


def test_an_error_in_an_answer_of_200_may_say_that_the_conversation_is_too_long(tmp_path: Path) -> None:
    body = json.dumps({"error": {"message": "maximum context length is 4096 tokens"}})
    with Teacher(lambda body_, attempt: lambda handler: handler.send(body)) as server:
        store = collected(server.url, tmp_path / "chains.jsonl", count=1, samples=1)
    assert [chain.stop_reason for chain in store.latest()] == [StopReason.CONTEXT_WINDOW]


@pytest.mark.parametrize("status", [400, 403, 404, 422, 200])
def test_a_collection_ends_when_all_conversations_are_refused_alike(
    status: int, tmp_path: Path
) -> None:
    def refuses(handler: Handler) -> None:
        said = {"error": {"message": "extra field: seed", "input": handler.asked["seed"]}}
        handler.send(completion("x", "other") if status == 200 else json.dumps(said), status)

    with Teacher(lambda body, attempt: refuses) as server:
        with pytest.raises(ModelError) as caught:
            collected(server.url, tmp_path / "chains.jsonl", count=100, samples=8)
        assert sum(server.attempts.values()) <= 40  # the samples of the first problems
    assert status == 200 or str(status) in str(caught.value)
    assert status not in (400, 422) or 'omit = ["seed"]' in str(caught.value)


def test_a_collection_goes_on_where_some_conversations_are_refused_alike(tmp_path: Path) -> None:
    def some(body: bytes, attempt: int) -> Fault | None:
        refused = b"What is 1" in body
        return (lambda handler: handler.send("not this one", 400)) if refused else None

    with Teacher(some) as server, OpenAICompatible("m", server.url, capacity=1) as model:
        store = collect(setting(), model, reversed(problems(30)), 1, tmp_path / "chains.jsonl")
    assert 4 < store.counts()[Outcome.ERRORED] < 30


# --- the cache -------------------------------------------------------------------------------------


def test_the_same_chains_are_not_paid_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with Teacher() as server:
        options: dict[str, Any] = {"cache": True, "api_key_env": "MY_KEY", "extra": {"user": "someone"}}
        first = collected(server.url, tmp_path / "a.jsonl", **options)
        paid = server.replies
        assert told(collected(server.url, tmp_path / "b.jsonl", **options)) == told(first)
        assert server.replies == paid
        collected(server.url, tmp_path / "c.jsonl", cache=True, extra={"top_k": 4})
        assert server.replies == 2 * paid
    (file,) = Path(os.environ["RIGHTCALL_CACHE"]).glob("replies/*.jsonl")
    kept = file.read_text()
    assert kept.count("\n") == 2 * paid
    assert not any(secret in kept for secret in (KEY, "someone", "What is", "127.0.0.1"))
    assert file.stat().st_mode & 0o077 == 0


def test_samples_remain_different_where_no_seed_is_sent(tmp_path: Path) -> None:
    replies = iter(range(1000))

    def counts(handler: Handler) -> None:
        handler.send(completion(f'stop("{next(replies)}")'))

    with Teacher(lambda body, attempt: counts) as server:
        options: dict[str, Any] = {"cache": True, "omit": ["seed"]}
        store = collected(server.url, tmp_path / "a.jsonl", count=1, samples=4, **options)
        assert len({chain.answer for chain in store.latest()}) == 4
        again = collected(server.url, tmp_path / "b.jsonl", count=1, samples=4, **options)
        assert sum(server.attempts.values()) == 4
    assert told(again) == told(store)


def test_a_reply_that_is_withheld_is_paid_for_once(tmp_path: Path) -> None:
    filters: Fault = lambda handler: handler.send(completion("x", finish="content_filter"))  # noqa: E731
    with Teacher(lambda body, attempt: filters) as server:
        for _ in range(3):
            store = collected(server.url, tmp_path / "chains.jsonl", 2, 3, cache=True)
            errors = [chain.error for chain in store.latest()]
            assert errors == ["the server's content filter withheld the reply."] * 6
        assert sum(server.attempts.values()) == 6


def test_two_writers_of_a_cache_read_each_other_and_a_cut_line_costs_only_itself(
    tmp_path: Path,
) -> None:
    one, other = (ReplyCache(tmp_path / "cache", "http://server", "m") for _ in range(2))
    keys = [request_key("http://server", str(number).encode()) for number in range(4)]
    one.put(keys[0], Reply(text="zero"))
    assert other.get(keys[0]) == Reply(text="zero")
    with one.path.open("ab") as file:
        file.write(b'{"key":"' + keys[1].encode())
    other.put(keys[2], Reply(text="two", finish_reason="length"))
    assert one.get(keys[1]) is None
    assert one.get(keys[2]) == Reply(text="two", finish_reason="length")
    other.put(keys[3], Reply(text="x" * MAX_LINE))
    assert one.get(keys[3]) is None
    one.close()
    other.close()
    with pytest.raises(ConfigError, match="cannot be kept"):
        ReplyCache(one.path, "http://server", "m")


def test_what_is_paid_for_is_cached_unless_it_is_said_otherwise() -> None:
    price = {"price": {"prompt": 1, "completion": 2}}
    assert ModelSpec.parse("openai#m").cached
    assert ModelSpec.parse("http://host/v1#m", **price).cached
    assert not ModelSpec.parse("http://host/v1#m").cached
    assert not ModelSpec.parse("openai#m", cache=False).cached


# --- usage and the cap -----------------------------------------------------------------------------


def test_money_counts_what_the_server_had_cached_at_its_own_price() -> None:
    used = Usage(requests=1, prompt_tokens=1_000_000, cached_tokens=400_000, completion_tokens=200_000)
    assert Price(prompt=2, cached=1, completion=10).of(used) == pytest.approx(1.2 + 0.4 + 2.0)
    assert Price(prompt=2, completion=10).of(used) == pytest.approx(4.0)
    assert used.described(Price(prompt=2, completion=10)) == (
        "1 requests, 1,000,000 prompt tokens (400,000 cached), 200,000 completion tokens, cost 4.0000"
    )


def test_usage_is_counted_over_processes(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    with Teacher() as server:
        for count in (3, 5):
            collected(server.url, tmp_path / "chains.jsonl", count=count, samples=1, usage_path=path)
        collected(server.url, tmp_path / "o.jsonl", count=1, samples=1, name="n", usage_path=path)
    with path.open("ab") as file:
        file.write(b'\n{"model":"m","usage":{"requ')
    assert Ledger("m", path).total == Usage(
        requests=10,
        prompt_tokens=10 * PROMPT_TOKENS,
        cached_tokens=10 * PROMPT_TOKENS // 4,
        completion_tokens=10 * COMPLETION_TOKENS,
    )


def burst_then_silence(out: Path, server: Teacher) -> subprocess.Popen[bytes]:
    """A collection in a process of its own, when it has read 20 replies and no more come."""
    server.fault = lambda body, attempt: hangs if server.replies >= 20 else None
    command = [*("-m", "rightcall", "collect", SUMS, "--out", out, "--count", 50)]
    model = ["--model", f"{server.url}#m", "--with", "capacity=32"]
    process = subprocess.Popen(list(map(str, [sys.executable, *command, *model])))
    deadline = time.monotonic() + 120
    while server.faults < 32:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_burst_of_replies_is_counted_soon_also_if_a_kill_comes_then(tmp_path: Path) -> None:
    usage = tmp_path / "chains.usage.jsonl"
    with Teacher() as server:
        process = burst_then_silence(tmp_path / "chains.jsonl", server)
        deadline = time.monotonic() + 120
        while Ledger("m", usage).total.requests < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
    assert Ledger("m", usage).total.requests == 20


def test_a_collection_that_is_terminated_ends_as_one_that_is_interrupted(tmp_path: Path) -> None:
    with Teacher() as server:
        process = burst_then_silence(tmp_path / "chains.jsonl", server)
        process.terminate()
        assert process.wait(timeout=30) > 0  # not by the signal itself
    assert Ledger("m", tmp_path / "chains.usage.jsonl").total.requests == 20


def test_a_cap_stops_a_collection_that_goes_on_when_it_is_raised(tmp_path: Path) -> None:
    path, usage = tmp_path / "chains.jsonl", tmp_path / "usage.jsonl"
    price = Price(prompt=10, completion=20)
    most = 30 * price.of(Usage(prompt_tokens=PROMPT_TOKENS, completion_tokens=COMPLETION_TOKENS))
    with Teacher() as server:
        options: dict[str, Any] = {"cache": True, "price": price, "usage_path": usage}
        with pytest.raises(CapReached, match=r"cap of 0\.018 of money is reached.*raise cap"):
            collected(server.url, path, cap=Cap(money=round(most, 6)), **options)
        assert 15 <= server.replies <= 30
        assert price.of(Ledger("m", usage).total) <= most
        ended = Counter(ChainStore(path).outcomes().values())
        assert ended[Outcome.ERRORED] <= 8
        with pytest.raises(CapReached):  # what was spent before counts
            collected(server.url, path, cap=Cap(money=round(most, 6)), **options)
        assert server.replies <= 30
        store = collected(server.url, path, cap=Cap(money=10 * most), **options)
        assert server.replies == 80
        assert max(server.attempts.values()) == 1
    with Teacher() as server:
        assert told(store).keys() == told(collected(server.url, tmp_path / "free.jsonl")).keys()
    assert Outcome.ERRORED not in store.outcomes().values()


def unusable(handler: Handler) -> None:
    handler.send(json.dumps({**json.loads(completion("x")), "choices": []}))


@pytest.mark.parametrize("fault", [unusable, lambda handler: handler.send(completion("x", "other"))])
def test_a_cap_holds_where_answers_are_paid_for_and_of_no_use(fault: Fault, tmp_path: Path) -> None:
    with (
        Teacher(lambda body, attempt: fault) as server,
        OpenAICompatible("m", server.url, capacity=8, cap=Cap(tokens=1500)) as model,
    ):
        with contextlib.suppress(ModelError):
            collect(setting(), model, problems(), 4, tmp_path / "chains.jsonl")
        used = model.usage
    assert used.requests == sum(server.attempts.values())
    assert 0 < used.tokens <= 1500


def test_another_model_than_asked_for_is_not_asked_again(tmp_path: Path) -> None:
    with Teacher(lambda body, attempt: lambda h: h.send(completion("x", "other"))) as server:
        collected(server.url, tmp_path / "chains.jsonl", count=1, samples=4)
        assert sum(server.attempts.values()) == 4


def test_a_cap_on_tokens_needs_no_price_and_one_on_money_does() -> None:
    ModelSpec.parse("http://host/v1#m", cap={"tokens": 5})
    needs = r"^a cap on money needs a price: 'cap.money = 5'. Set price.prompt and price.completion"
    with pytest.raises(ConfigError, match=needs):
        ModelSpec.parse("http://host/v1#m", cap={"money": 5})
    with pytest.raises(ConfigError, match="belongs to kind = 'openai'"):
        ModelSpec.parse("tiny:teacher", cap={"tokens": 5})
    with pytest.raises(ValidationError):
        Cap(tokens=0)


def test_a_run_file_can_omit_only_what_a_collection_can_do_without() -> None:
    def run(omit: list[str]) -> Any:
        spec = {"kind": "openai", "base_url": "http://host/v1", "model": "m", "omit": omit}
        return resolve({"name": "x", "models": {"teacher": spec}, "tasks": {"tiny-math": {}}})

    assert run(["top_p"]).tasks["tiny-math"].models.teacher.omit == ["top_p"]
    with pytest.raises(ConfigError, match="'messages'"):
        run(["messages"])


def test_a_run_goes_on_with_another_cap_but_not_with_another_model() -> None:
    def run(**teacher: object) -> Any:
        spec = {"kind": "openai", "base_url": "http://host/v1", "model": "m", **teacher}
        return resolve({"name": "x", "models": {"teacher": spec}, "tasks": {"tiny-math": {}}})

    raised = run(cap={"tokens": 5}, price={"prompt": 1.0, "completion": 1.0}, timeout=9.0, capacity=3)
    assert differing_keys(run(), raised) == ()
    assert differing_keys(run(), run(model="n")) == ("tasks.tiny-math.models.teacher.model",)


# --- adaptive sampling -----------------------------------------------------------------------------


def by_seed(request: Request) -> str:
    """Right, or wrong where the seed of the chain says so."""
    last = request.messages[-1]["content"]
    a, b = last[8:-1].split(" + ")
    return f'stop("{int(a) + int(b) + (request.seed % 3 == 0)}")'


class Answering(SumTask):
    """The process is not judged."""

    def judge(self, problem: Problem, chain: Chain) -> Any:
        return chain.judgement


def answering() -> Setting:
    task = Answering()
    return Setting(task, task.function_set(), "teacher", Sampling(temperature=1.0))


def one_by_one(store: ChainStore, enough: Enough, samples: int) -> set[tuple[str, int]]:
    """The chains that sampling one after another would have taken, of a file that has all."""
    right = {(c.problem_id, c.sample): c.outcome is Outcome.CORRECT for c in store.latest()}
    taken = set()
    for name in {problem for problem, _ in right}:
        ends: list[bool] = []
        while len(ends) < samples and enough.missing(sum(ends), len(ends) - sum(ends)):
            taken.add((name, len(ends)))
            ends.append(right[name, len(ends)])
    return taken


def taken(store: ChainStore) -> set[tuple[str, int]]:
    return {(chain.problem_id, chain.sample) for chain in store.latest()}


@given(
    right=st.integers(0, 3),
    wrong=st.integers(0, 3),
    samples=st.integers(1, 8),
    capacity=st.integers(1, 20),
    kills=st.lists(st.integers(1, 9), max_size=3),
)
def test_adaptive_samples_are_those_of_drawing_one_by_one_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    right: int,
    wrong: int,
    samples: int,
    capacity: int,
    kills: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("adaptive")
    enough, asked = Enough(right=right, wrong=wrong), problems(4)
    everything = collect(answering(), Played(by_seed, capacity=5), asked, samples, folder / "all")
    for kill in kills:
        seen = itertools.count(1)

        def dies(chain: Chain, seen: Iterator[int] = seen, kill: int = kill) -> None:
            if next(seen) == kill:
                raise KeyboardInterrupt

        model = Played(by_seed, capacity=capacity)
        with contextlib.suppress(KeyboardInterrupt):
            collect(answering(), model, asked, samples, folder / "some", dies, enough=enough)
    model = Played(by_seed, capacity=capacity)
    store = collect(answering(), model, asked, samples, folder / "some", enough=enough)
    assert taken(store) == one_by_one(everything, enough, samples)


def test_an_errored_sample_holds_its_place_until_it_is_redone(tmp_path: Path) -> None:
    fails = [True]

    def script(request: Request) -> str | ModelError:
        return ModelError("gone") if fails[0] and request.seed % 2 else by_seed(request)

    enough = Enough(right=1, wrong=1)
    path, model = tmp_path / "chains.jsonl", Played(script, capacity=3)
    first = collect(answering(), model, problems(), 8, path, enough=enough)
    assert Outcome.ERRORED in first.outcomes().values()
    fails[0] = False
    store = collect(answering(), model, problems(), 8, path, enough=enough)
    everything = collect(answering(), Played(by_seed), problems(), 8, tmp_path / "all")
    assert taken(store) == one_by_one(everything, enough, 8)


# --- the estimate ----------------------------------------------------------------------------------


def test_an_estimate_without_chains_goes_by_the_gold_chains(tmp_path: Path) -> None:
    spec = ModelSpec.parse("http://host/v1#m", price={"prompt": 2, "completion": 4})
    made = estimate("x", setting(), problems(), 4, spec, tmp_path / "none.jsonl")
    assert (made.chains, made.there, made.usage.requests) == (40, 0, 80)
    assert made.money == Price(prompt=2, completion=4).of(made.usage)
    assert made.habits.chains == 0
    assert "assumed: 4 characters a token" in str(made.habits)


def test_an_estimate_is_refined_by_the_chains_that_are_there(tmp_path: Path) -> None:
    path, spec = tmp_path / "chains.jsonl", ModelSpec.parse("http://host/v1#m")
    with Teacher() as server:
        had = collected(server.url, path, count=5)
        assert len(list(had)) >= FEW
        made = estimate("x", setting(), problems(10), 4, spec, path)
        replies = server.replies
        collected(server.url, path, count=10)
        assert made.usage.requests == server.replies - replies
    assert (made.chains, made.there, made.money) == (20, 20, None)
    assert made.usage.completion_tokens == made.usage.requests * COMPLETION_TOKENS
    whole = estimate("x", setting(), problems(10), 4, spec, path)
    assert (whole.chains, whole.usage) == (0, Usage())


@given(st.floats(0, 1), st.integers(0, 3), st.integers(0, 3), st.integers(1, 9))
def test_expected_samples_are_the_mean_over_all_ways_they_may_end(
    p: float, right: int, wrong: int, samples: int
) -> None:
    enough, mean = Enough(right=right, wrong=wrong), 0.0
    for ends in itertools.product([True, False], repeat=samples):
        drawn: list[bool] = []
        while len(drawn) < samples and enough.missing(sum(drawn), len(drawn) - sum(drawn)):
            drawn.append(ends[len(drawn)])
        mean += len(drawn) * p ** sum(ends) * (1 - p) ** (samples - sum(ends))
    assert expected_samples(p, [], samples, enough) == pytest.approx(mean, abs=1e-5)


def test_the_estimate_of_a_run_writes_nothing_and_knows_what_is_left_out(tmp_path: Path) -> None:
    config = resolve(
        {
            "name": "x",
            "models": {"teacher": "http://127.0.0.1:9/v1#m"},
            "collect": {"student": {"samples": 0}},
            "tasks": {"tiny-math": {"problems": {"train": 5, "test": 4}}},
        }
    )
    made = {one.label: one for one in estimate_run(config, tmp_path / "runs")}
    assert made.keys() == {
        "tiny-math: collect teacher",
        *(f"tiny-math: evaluate {role}" for role in ("base", "teacher", "control", "tuned")),
    }
    assert made["tiny-math: collect teacher"].chains == 20
    assert made["tiny-math: evaluate teacher"].chains == 4
    assert not (tmp_path / "runs").exists()


def test_the_estimate_of_a_run_counts_the_probes_of_its_evaluation(tmp_path: Path) -> None:
    server = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    config = resolve(
        {
            "name": "x",
            "models": {"teacher": {**server, "price": {"prompt": 1.0, "completion": 1.0}}},
            "evaluate": {"counterfactual": 3},
            "tasks": {"sums": {"task": SUMS, "problems": {"train": 5, "test": 4}}},
        }
    )
    made = {one.label: one for one in estimate_run(config, tmp_path)}
    whole, probes = made["sums: evaluate teacher"], made["sums: probe teacher"]
    assert (whole.chains, whole.usage.requests) == (4, 8)
    assert (probes.chains, probes.usage.requests) == (3, 3)  # of two calls the second
    assert whole.money
    assert probes.money
    assert probes.usage.completion_tokens < whole.usage.completion_tokens
    assert made["sums: probe base"].money is None


def test_a_run_counts_what_its_teacher_uses_and_stops_at_the_cap_until_it_is_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def place(tokens: int) -> Place:
        teacher = {"kind": "openai", "base_url": server.url, "model": "m", "cap": {"tokens": tokens}}
        table = {
            "models": {"teacher": {**teacher, "cache": True}},
            "collect": {"teacher": {"enough": {"right": 1, "wrong": 0}, "max_tokens": 10}},
            "tasks": {"sums": {"task": SUMS, "problems": {"train": 10, "validation": 2, "test": 2}}},
        }
        config = resolve({"name": "x", **table})
        return Place(config.tasks["sums"], SumTask(), 0, tmp_path / "runs" / "x" / "sums")

    with Teacher() as server:
        write_problems(place(1))
        with pytest.raises(CapReached):
            collect_role("teacher")(place(400))
        assert "requests" in capsys.readouterr().err
        summary = collect_role("teacher")(place(100_000))
        assert max(server.attempts.values()) == 1
    assert summary.startswith("10 correct")
    assert Ledger("m", tmp_path / "runs" / "x" / "usage.jsonl").total.requests == server.replies


# --- the command line ------------------------------------------------------------------------------


@pytest.fixture
def rightcall(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    from rightcall import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["rightcall", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_collect_estimates_then_stops_at_its_cap_and_says_how_to_go_on(
    rightcall: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "chains.jsonl"
    with Teacher() as server:
        command = ["collect", SUMS, "--out", out, "--model", f"{server.url}#m", "--count", 5]
        prices = ["--with", "price.prompt=1.0", "--with", "price.completion=2.0", "--max-tokens", 10]
        cap = ["--with", "cap.tokens=900"]
        code, said, _ = rightcall(*command, *prices, *cap, "--dry-run")
        assert "m: the cap of 900 tokens would stop it before its end." in said
        assert (code, server.replies, out.exists()) == (0, 0, False)
        assert "nothing was sent" in said
        assert "assumed" in said
        code, said, error = rightcall(*command, *prices, *cap)
        assert code == 2
        assert "the cap of 900 tokens is reached" in error
        assert "raise cap" in error
        assert "requests" in said
        assert "cost 0.00" in said
        code, said, _ = rightcall(*command, *prices, "--with", "cap.tokens=9000", "--enough", "1,0")
        assert code == 0
        assert "replies from the cache" in said
    code, _, error = rightcall(*command, "--enough", "two")
    assert code == 2
    assert "not two numbers" in error


def test_collect_and_evaluate_say_why_chains_errored_and_fail_if_all_did(
    rightcall: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    def refuses(handler: Handler) -> None:
        handler.send(json.dumps({"error": {"message": "Extra inputs: seed"}}), 422)

    out, count = tmp_path / "chains.jsonl", ["--count", 2, "--out"]
    with Teacher(lambda body, attempt: refuses) as server:
        model = ["--model", f"{server.url}#m"]
        code, _, error = rightcall("collect", SUMS, *count, out, *model)
        assert code == 2
        assert "8 × the server answered 422 (Extra inputs: seed)" in " ".join(error.split())
        assert "every chain errored" in error
        code, _, error = rightcall("evaluate", SUMS, *count, tmp_path / "eval.jsonl", *model)
        assert code == 2
        assert "2 × the server answered 422" in " ".join(error.split())
        assert 'omit = ["seed"]' in error
        server.fault = lambda body, attempt: refuses if json.loads(body)["seed"] % 2 else None
        code, _, error = rightcall("collect", SUMS, *count, out, *model)
        assert code == 0
        assert "chains errored" in error
        server.fault = lambda body, attempt: None
        code, _, error = rightcall("collect", SUMS, *count, out, *model, "--with", 'omit=["top_p"]')
        assert (code, "errored" in error) == (0, False)
        code, _, error = rightcall(
            "evaluate", SUMS, *count, tmp_path / "eval.jsonl", *model, "--with", 'omit=["top_p"]'
        )
        assert (code, "errored" in error) == (0, False)


def test_a_spec_opens_a_model_with_all_of_this(tmp_path: Path) -> None:
    with Teacher() as server:
        spec = ModelSpec.parse(
            f"{server.url}#m", cache=True, cap={"tokens": 10_000}, price={"prompt": 1, "completion": 1}
        )
        with open_model(spec, usage_path=tmp_path / "usage.jsonl") as model:
            store = collect(setting(), model, problems(2), 1, tmp_path / "chains.jsonl")
            assert "4 requests" in model.used
    assert len(list(store)) == 2
    assert Ledger("m", tmp_path / "usage.jsonl").total.requests == 4
