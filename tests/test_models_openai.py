"""The server backend against a server that misbehaves on purpose, and against a real one."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from local_server import LocalHandler, LocalServer
from rightcall.chain import Message, Outcome
from rightcall.errors import ConfigError, ModelError
from rightcall.models import Reply, Request, Sampling
from rightcall.models.completions import retry_after, same_model
from rightcall.models.openai_compatible import OpenAICompatible
from rightcall.rollout import Budget, Job, Setting, rollouts
from tiny_models import build_tiny
from toys import SumTask

KEY = "sk-very-secret-value"
USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


CALLS = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}]
TOOLS = '[{"type": "function", "function": {"name": "add", "parameters": {}}}]'
CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'


class FaultServer(LocalServer):
    """Answers each request with the next act of its script; the last one repeats."""

    def __init__(self, *acts: Callable[[Handler], None]) -> None:
        self.acts = list(acts)
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.organizations: list[str | None] = []
        super().__init__(Handler)


class Handler(LocalHandler):
    server: FaultServer

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.server.times.append(time.monotonic())
        self.server.keys.append(self.headers["authorization"])
        self.server.organizations.append(self.headers["openai-organization"])
        acts = self.server.acts
        (acts.pop(0) if len(acts) > 1 else acts[0])(self)


def says(
    text: str | list[Any] | None,
    finish: str | None = "stop",
    usage: dict[str, Any] | None = USAGE,
    model: str = "m",
    **message: Any,
) -> Callable[[Handler], None]:
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text},
    }
    choice["message"].update(message)
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }
    return lambda handler: handler.send(json.dumps(body))


def fails(status: int, message: str = "no", **headers: str) -> Callable[[Handler], None]:
    body = json.dumps({"error": {"message": message, "type": "t", "code": None}})
    return lambda handler: handler.send(body, status, **headers)


def sends(body: str, kind: str = "application/json") -> Callable[[Handler], None]:
    return lambda handler: handler.send(body, content_type=kind)


def hangs(handler: Handler) -> None:
    handler.server.stopping.wait(20)


def cuts(handler: Handler) -> None:
    """Promises more than it sends, then hangs up."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id":')


def request(chain: str = "a", **fields: Any) -> Request:
    return Request(chain=chain, messages=(Message(role="user", content="hello"),), **fields)


def answer(
    server: FaultServer, asked: Request | None = None, **options: Any
) -> tuple[Reply | ModelError, OpenAICompatible]:
    options = {"max_retries": 2, "timeout": 5.0, "api_key_env": "OPENAI_API_KEY", **options}
    with OpenAICompatible("m", server.url, **options) as model:
        model.submit(asked or request())
        ((_, reply),) = model.poll()
    return reply, model


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("rightcall.models.pace.FIRST_WAIT", 0.01)


def test_a_request_carries_sampling_seed_and_key() -> None:
    with FaultServer(says("add(2, 3)")) as server:
        asked = request(sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=7), seed=2**62 + 5)
        reply, _ = answer(server, asked, extra={"top_k": 4})
    assert reply == Reply(text="add(2, 3)", prompt_tokens=11, completion_tokens=3)
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 7,
            "seed": 5,
            "top_k": 4,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_tokens_that_a_server_does_not_count_are_estimated(usage: dict[str, int] | None) -> None:
    with FaultServer(says("x" * 41, usage=usage), says("", usage=usage)) as server:
        reply, _ = answer(server)
        empty, _ = answer(server)
    assert isinstance(reply, Reply)
    assert (reply.prompt_tokens, reply.completion_tokens) == (2, 11)
    assert isinstance(empty, Reply)
    assert empty.completion_tokens == 1


def test_a_server_of_ones_own_gets_a_key_only_if_one_was_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OWN_KEY", "sk-own")
    with FaultServer(says("x"), fails(401)) as server:
        answer(server, api_key_env=None)
        refused, _ = answer(server, api_key_env=None)
        answer(server, api_key_env="OWN_KEY")
    assert server.keys == [None, None, "Bearer sk-own"]
    assert server.organizations == [None] * 3
    assert "Name the environment variable that holds its key in api_key_env" in str(refused)
    with pytest.raises(ConfigError, match="NOT_SET"):
        OpenAICompatible("m", server.url, api_key_env="NOT_SET")
    monkeypatch.setenv("OWN_KEY", "sk-own\n")
    with pytest.raises(ConfigError, match="line break") as refused_key:
        OpenAICompatible("m", server.url, api_key_env="OWN_KEY")
    assert "sk-own" not in str(refused_key.value)


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")

    async def headers(model: OpenAICompatible) -> dict[str, str]:
        async with model._session() as session:
            return dict(session.headers)

    with OpenAICompatible("m") as model:
        assert str(model._url) == "https://api.openai.com/v1/chat/completions"
        sent = asyncio.run(headers(model))
    assert sent["Authorization"] == f"Bearer {KEY}"
    assert sent["OpenAI-Organization"] == "org-of-mine"


def test_the_length_field_can_be_the_newer_one() -> None:
    with FaultServer(says("x")) as server:
        answer(server, request(), length_field="max_completion_tokens")
    assert server.bodies[0]["max_completion_tokens"] == 256
    assert "max_tokens" not in server.bodies[0]


def test_fields_that_a_server_refuses_can_be_omitted() -> None:
    with FaultServer(says("x")) as server:
        answer(server, request(seed=5), omit=["seed", "top_p"])
    assert server.bodies[0].keys() == {"model", "messages", "temperature", "max_tokens"}


def body(**fields: object) -> Callable[[Handler], None]:
    return lambda handler: handler.send(json.dumps(fields), 400)


@pytest.mark.parametrize(
    ("act", "options", "remedy"),
    [
        (body(error={"message": "no seed", "param": "top_p"}), {}, 'omit = ["top_p"]'),
        (body(error={"message": "Unrecognized argument: seed"}), {}, 'omit = ["seed"]'),
        (body(detail=[{"loc": ["body", "seed"]}, {"loc": ["top_p"]}]), {}, 'omit = ["seed", "top_p"]'),
        (body(message={"detail": "temperature"}), {}, 'omit = ["temperature"]'),
        (body(error="seed and top_p"), {"omit": ["seed"]}, 'omit = ["top_p"]'),
        (fails(422, "seedling"), {}, "left out with omit"),
        (
            fails(400, "Use 'max_completion_tokens' instead"),
            {},
            'length_field = "max_completion_tokens"',
        ),
    ],
)
def test_a_refusal_names_the_field_that_is_refused_and_how_to_leave_it_out(
    act: Callable[[Handler], None], options: dict[str, Any], remedy: str
) -> None:
    with FaultServer(act) as server:
        reply, _ = answer(server, **options)
    assert isinstance(reply, ModelError)
    assert remedy in reply.remedy
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "fault", [fails(429), fails(500), fails(503), cuts], ids=["429", "500", "503", "cut"]
)
def test_passing_faults_are_retried(fault: Callable[[Handler], None]) -> None:
    with FaultServer(fault, fault, says("ok")) as server:
        reply, _ = answer(server)
    assert isinstance(reply, Reply)
    assert reply.text == "ok"
    assert len(server.bodies) == 3


def test_retry_after_is_honoured() -> None:
    with FaultServer(fails(429, retry_after="0.6"), says("ok")) as server:
        reply, _ = answer(server)
    assert isinstance(reply, Reply)
    assert server.times[1] - server.times[0] >= 0.6


def test_a_rest_may_be_given_in_milliseconds_in_seconds_or_as_a_date() -> None:
    now = 1_800_000_000.0
    date = formatdate(now + 30, usegmt=True)
    assert retry_after({"Retry-After-Ms": "250", "Retry-After": "1"}, now) == 0.25
    assert retry_after({"Retry-After": "2.5"}, now) == 2.5
    assert retry_after({"Retry-After": date}, now) == 30
    assert retry_after({"Retry-After": formatdate(now - 30, usegmt=True)}, now) == 0
    assert retry_after({"Retry-After": "soon"}, now) is None
    assert retry_after({}, now) is None


def test_one_refusal_lets_all_requests_rest() -> None:
    with (
        FaultServer(fails(429, retry_after="0.5"), says("ok")) as server,
        OpenAICompatible("m", server.url, capacity=1) as model,
    ):
        model.submit(request("a"))
        model.submit(request("b"))
        answered = 0
        while answered < 2:
            answered += len(model.poll())
    assert len(server.times) == 3
    assert server.times[1] - server.times[0] >= 0.5


def test_a_server_that_wants_a_long_rest_is_left_alone_and_the_message_says_so() -> None:
    with FaultServer(fails(429, retry_after="600")) as server:
        reply, _ = answer(server, max_retries=3)
    assert isinstance(reply, ModelError)
    assert "left alone for 600 seconds" in str(reply)
    assert "raise max_retries" not in str(reply)
    assert len(server.bodies) == 1


def test_a_server_that_hangs_is_given_up_and_asked_again() -> None:
    with FaultServer(hangs, says("ok")) as server:
        reply, _ = answer(server, timeout=1)
    assert isinstance(reply, Reply)
    assert len(server.bodies) == 2


def test_faults_that_outlast_the_retries_are_model_errors() -> None:
    for act, said in (
        (fails(500), "answered 500"),
        (fails(429), "lower the capacity"),
        (hangs, "did not answer in time"),
        (cuts, "cannot talk to the server"),
    ):
        with FaultServer(act) as server:
            reply, _ = answer(server, max_retries=1, timeout=0.3 if act is hangs else 60)
        assert isinstance(reply, ModelError)
        assert said in str(reply)
        assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (fails(401, f"Incorrect API key provided: {KEY}"), "environment variable OPENAI_API_KEY"),
        (fails(404, "no such model"), "model's name"),
        (fails(400, "bad temperature"), "bad temperature"),
        (fails(402), "answered 402"),
        (fails(429, "You exceeded your quota: insufficient_quota"), "insufficient_quota"),
        (fails(301, location="http://other/v1?key=hunter2"), "http://other/v1'"),
        (says("x", "content_filter"), "content filter"),
        (says("x", "SAFETY"), "content filter"),
        (says("x", None), "finish_reason = null"),
        (says("x", model="n"), "another model than 'm'"),
        (says("x", "brevity"), """finish_reason = "brevity\""""),
        (says(None, "tool_calls", tool_calls=CALLS), "Switch its tool parser off"),
    ],
)
def test_what_retries_cannot_mend_is_a_model_error_at_once(
    act: Callable[[Handler], None], said: str
) -> None:
    with FaultServer(act) as server:
        reply, model = answer(server)
    assert isinstance(reply, ModelError)
    assert said in str(reply)
    assert len(server.bodies) == 1
    assert KEY not in str(reply) + repr(reply) + repr(model)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (sends("{not json"), "not a chat completion"),
        (sends("<html>hello</html>", "text/html"), "not a chat completion"),
        (sends("[" * 100_000), "not a chat completion"),
        (sends("{}"), "no choices"),
        (sends('{"choices": []}'), "no choices"),
        (sends('{"choices": [null]}'), "no message"),
        (sends('{"choices": "x"}'), "no choices"),
        (sends('{"choices": [{"finish_reason": "stop", "message": {"content": 5}}]}'), "not text"),
        (sends('{"choices": [{"message": null}]}'), "no message"),
        (sends("[1, 2]"), "no choices"),
        (says("x" * 1_000_001), "too long"),
        (says("x", "error"), "gave a reply up"),
    ],
)
def test_what_is_no_reply_of_the_model_is_asked_again_a_few_times(
    act: Callable[[Handler], None], said: str
) -> None:
    with FaultServer(act, says("ok")) as server:
        mended, _ = answer(server)
    assert isinstance(mended, Reply)
    assert mended.text == "ok"
    with FaultServer(act) as server:
        reply, _ = answer(server, max_retries=9)
    assert isinstance(reply, ModelError)
    assert said in str(reply)
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", True),
        ("gpt-4-0613", "gpt-4-0613", True),
        ("mistral-large-latest", "mistral-large-2411", True),
        ("openai/gpt-4o", "gpt-4o-2024-08-06", True),
        ("/models/tiny", "tiny@main", True),
        ("llama3", "llama3:latest", True),
        ("gpt-4", "gpt-4-turbo", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o-mini", "gpt-4o", False),
    ],
)
def test_a_dated_version_of_a_model_is_that_model_and_a_sibling_is_not(
    asked: str, answered: str, same: bool
) -> None:
    assert same_model(asked, answered) is same


def test_a_model_may_be_served_under_another_name() -> None:
    with FaultServer(says("ok", model="n")) as server:
        for name in ("n", "*"):
            reply, _ = answer(server, served_as=name)
            assert isinstance(reply, Reply)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "the request exceeds the available context size",
        "prompt is too long: 5000 tokens > 4096 maximum",
    ],
)
def test_a_conversation_too_long_for_the_server_ends_as_context(message: str) -> None:
    with FaultServer(fails(400, message)) as server:
        reply, _ = answer(server)
    assert reply == Reply(text="", finish_reason="context")


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_cut_reply_says_so_by_whatever_name_and_even_without_text(finish: str) -> None:
    with FaultServer(says("par", finish), says(None, finish)) as server:
        first, _ = answer(server)
        second, _ = answer(server)
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (first.text, first.finish_reason) == ("par", "length")
    assert (second.text, second.finish_reason) == ("", "length")


@pytest.mark.parametrize("finish", ["stop", "STOP", "eos", "end_turn", "stop_sequence", "COMPLETE"])
def test_a_reply_that_the_model_ended_is_whole_by_whatever_name(finish: str) -> None:
    with FaultServer(says("add(2, 3)", finish)) as server:
        reply, _ = answer(server)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason) == ("add(2, 3)", "stop")


@pytest.mark.parametrize(
    ("act", "tools", "text"),
    [
        (says(None), "", ""),
        (says(None, refusal="no"), "", ""),
        (says(None, tool_calls=[]), TOOLS, ""),
        (says(None, reasoning_content="hm"), TOOLS, ""),
        (says([{"type": "text", "text": "add("}, {"type": "text", "text": "2, 3)"}]), "", "add(2, 3)"),
        (says([{"type": "thinking", "thinking": []}, {"type": "text", "text": "x"}]), "", "x"),
        (says([]), "", ""),
        (says("add(2, 3)", tool_calls=CALLS), "", "add(2, 3)"),
        (says(None, "tool_calls", tool_calls=CALLS), TOOLS, CALLED),
        (says(None, "function_call", function_call=CALLS[0]["function"]), TOOLS, CALLED),
    ],
)
def test_a_reply_may_be_empty_in_parts_or_a_call(
    act: Callable[[Handler], None], tools: str, text: str
) -> None:
    with FaultServer(act) as server:
        reply, _ = answer(server, request(tools=tools))
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason) == (text, "stop")
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"tool_calls": {"function": "add"}}, "tool_calls are no list: "),
        ({"tool_calls": ["add"]}, "tool call 1 is one without a function's name: "),
        ({"tool_calls": [*CALLS, {"function": {}}]}, "tool call 2 is one without a function's name: "),
        ({"function_call": "add"}, "tool call 1 is one without a function's name: "),
        ({"content": {"text": "add"}}, "the server's reply is not text: "),
    ],
)
def test_a_malformed_message_is_told_by_its_fault(message: dict[str, Any], said: str) -> None:
    with FaultServer(says(message.pop("content", None), **message)) as server:
        reply, _ = answer(server, request(tools=TOOLS), max_retries=0)
    assert isinstance(reply, ModelError)
    assert said in str(reply)
    assert "base_url" not in str(reply)


def test_half_a_surrogate_pair_in_a_reply_is_replaced_so_that_chains_can_be_written() -> None:
    with FaultServer(says("stop('\ud83d')")) as server:
        assert b"ud83d" in json.dumps("\ud83d").encode()  # what goes over the wire
        reply, _ = answer(server)
    assert isinstance(reply, Reply)
    assert reply.text == "stop('\ufffd')"
    assert "\ufffd" in reply.model_dump_json()


def test_capacity_requests_are_open_at_once_and_no_more() -> None:
    lock, level, highest, full = threading.Lock(), [0], [0], threading.Event()

    def counted(handler: Handler) -> None:
        with lock:
            level[0] += 1
            highest[0] = max(highest[0], level[0])
            if level[0] == 3:
                full.set()
        full.wait(60)
        time.sleep(0.05)  # for a fourth to come, if it may
        with lock:
            level[0] -= 1
        says("ok")(handler)

    with FaultServer(counted) as server, OpenAICompatible("m", server.url, capacity=3) as model:
        for index in range(7):
            model.submit(request(f"c{index}"))
        answered = 0
        while answered < 7:
            answered += len(model.poll())
    assert highest[0] == 3


def test_a_released_chain_is_not_answered() -> None:
    with FaultServer(says("ok")) as server, OpenAICompatible("m", server.url) as model:
        model.submit(request("a"))
        model.release("a")
        model.submit(request("b"))
        assert [asked.chain for asked, _ in model.poll()] == ["b"]
        assert model.poll() == []


def test_the_hosted_service_needs_a_key_and_a_server_of_ones_own_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        OpenAICompatible("m")
    with FaultServer(says("ok")) as server:
        reply, _ = answer(server, api_key_env=None)
    assert isinstance(reply, Reply)
    for wrong in ("localhost:8000", "http://host\x00/v1"):
        with pytest.raises(ConfigError, match="not the URL"):
            OpenAICompatible("m", wrong)


def test_a_dead_server_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with OpenAICompatible("m", f"http://127.0.0.1:{port}/v1?x=hunter2", max_retries=0) as model:
        model.submit(request())
        ((_, reply),) = model.poll()
    assert isinstance(reply, ModelError)
    assert f"127.0.0.1:{port}/v1" in str(reply)
    assert "hunter2" not in str(reply)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the server, not ours
def test_a_rollout_against_a_real_server_gives_the_local_models_replies(tmp_path: Path) -> None:
    from rightcall.models.local import LocalModel
    from served import Server

    folder = build_tiny("llama", tmp_path / "tiny")
    task = SumTask()
    setting = Setting(task, task.function_set(), "student", Sampling(max_tokens=6), Budget(steps=3))
    jobs = [Job(problem) for problem in task.problems("train", 2)]
    with (
        Server(folder) as server,
        OpenAICompatible(str(folder), server.url, name="m", capacity=2, max_retries=1) as model,
    ):
        served = {chain.problem_id: chain for chain in rollouts(setting, model, jobs)}
        assert all(chain.completion_tokens > 0 for chain in served.values())
    with LocalModel.load(folder, name="m", device="cpu") as local:
        own = {chain.problem_id: chain for chain in rollouts(setting, local, jobs)}
    assert all(chain.outcome is not Outcome.ERRORED for chain in served.values())
    for problem, chain in served.items():
        assert [s.reply for s in chain.steps] == [s.reply for s in own[problem].steps]
        assert chain.stop_reason == own[problem].stop_reason
