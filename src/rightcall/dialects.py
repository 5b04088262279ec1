"""Dialects: how functions are shown to a model and how it writes its calls.

`PythonCalls` is the paper's: descriptions with worked examples in the first message, one call in
Python syntax per reply, the observation as the next user turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rightcall.chain import Message, Observation, Problem, Step
from rightcall.functions import FunctionSet, Result, States


class Dialect(Protocol):
    """What the agent loop needs to talk to a model."""

    name: str

    def prompt(self, instruction: str, functions: FunctionSet, problem: Problem) -> tuple[Message, ...]:
        """The messages before the first reply. The first one is the same for all problems."""

    def observation(self, observation: Observation) -> Message:
        """The turn that carries an observation back."""

    def run(self, reply: str, functions: FunctionSet, states: States) -> Result:
        """Parse a reply and run its call."""

    def isolated(self, reply: str, functions: FunctionSet) -> bool:
        """Whether that call goes to a worker process, where it may take long."""


class PythonCalls:
    """One call per reply, written as in Python: `add(2, 3)`."""

    name = "python"

    def prompt(self, instruction: str, functions: FunctionSet, problem: Problem) -> tuple[Message, ...]:
        shown = "\n".join(f.help for f in functions)
        return (
            Message(
                role="system",
                content=f"{instruction}\nReply with one function call at a time.\nFunctions:\n{shown}",
            ),
            Message(role="user", content=problem.question),
        )

    def observation(self, observation: Observation) -> Message:
        return Message(role="user", content=observation.text)

    def run(self, reply: str, functions: FunctionSet, states: States) -> Result:
        return functions.reply(reply, states)

    def isolated(self, reply: str, functions: FunctionSet) -> bool:
        return functions.isolated(reply)


def conversation(
    prompt: Sequence[Message], steps: Sequence[Step], dialect: Dialect
) -> tuple[Message, ...]:
    """A chain's messages: the prompt, then reply and observation in turn."""
    turns: list[Message] = list(prompt)
    for step in steps:
        turns.append(Message(role="assistant", content=step.reply))
        turns.append(dialect.observation(step.observation))
    return tuple(turns)


DIALECTS: dict[str, Dialect] = {"python": PythonCalls()}
