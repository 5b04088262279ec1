"""The public fake and the player of gold chains."""

from __future__ import annotations

import pytest

from rightcall.chain import Message, Outcome, StopReason
from rightcall.errors import ModelError
from rightcall.models import Reply, Request
from rightcall.models.scripted import GoldPlayer, Scripted
from rightcall.rollout import Job, Setting, rollouts, solve
from toys import SumTask

TASK = SumTask()
SETTING = Setting(TASK, TASK.function_set(), "teacher")


def request(chain: str, *contents: str) -> Request:
    """A conversation: user and assistant in turn."""
    roles = ("user", "assistant")
    return Request(
        chain=chain,
        messages=tuple(Message(role=roles[i % 2], content=c) for i, c in enumerate(contents)),
    )


def test_the_gold_player_solves_every_problem_right_in_any_order() -> None:
    problems = list(TASK.problems("train", 10))
    with GoldPlayer(problems, capacity=3) as model:
        chains = list(rollouts(SETTING, model, [Job(p) for p in reversed(problems)]))
    assert [c.outcome for c in chains] == [Outcome.CORRECT] * 10
    assert all(
        tuple(s.reply for s in c.steps) == p.gold
        for c, p in zip(chains, reversed(problems), strict=True)
    )


def test_a_sequence_is_played_turn_by_turn_to_each_chain() -> None:
    model = Scripted(["one", "two"])
    for asked in (request("a", "q"), request("b", "q", "one", "seen")):
        model.submit(asked)
    assert [(r.chain, reply.text) for r, reply in model.poll() if isinstance(reply, Reply)] == [
        ("a", "one"),
        ("b", "two"),
    ]
    assert model.poll() == []


def test_a_chain_that_outlives_its_script_is_errored_not_wrong() -> None:
    problem = next(TASK.problems("train", 1))
    chain = solve(TASK, problem, Scripted(["add(0, 7)"]))
    assert (chain.outcome, chain.stop_reason) == (Outcome.ERRORED, StopReason.MODEL_ERROR)
    assert "no reply for this turn: 2" in str(chain.error)
    assert len(chain.steps) == 1


def test_an_unknown_conversation_and_a_scripted_failure_are_model_errors() -> None:
    model = Scripted({"known": [ModelError("server gone")]})
    model.submit(request("a", "known"))
    model.submit(request("b", "strange"))
    faults = [reply.fault for _, reply in model.poll() if isinstance(reply, ModelError)]
    assert faults == ["server gone", "no script for this conversation"]


def test_a_function_may_script_whole_replies_and_raise_failures() -> None:
    def script(asked: Request) -> Reply:
        if asked.chain == "b":
            raise ModelError("down")
        return Reply(text="x", finish_reason="length", completion_tokens=9)

    model = Scripted(script)
    model.submit(request("a", "q"))
    model.submit(request("b", "q"))
    (_, first), (_, second) = model.poll()
    assert first == Reply(text="x", finish_reason="length", completion_tokens=9)
    assert isinstance(second, ModelError)
    assert [r.chain for r in model.requests] == ["a", "b"]


@pytest.mark.parametrize("capacity", [1, 4])
def test_a_released_chain_is_not_answered(capacity: int) -> None:
    model = Scripted(["x"], capacity=capacity)
    model.submit(request("a", "q"))
    model.release("a")
    assert model.poll() == []
