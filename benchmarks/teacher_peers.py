"""The workload of `benchmarks.teacher_overhead` in other agent frameworks, as their users write it.

Each `make_…` runs in an interpreter that has the framework, and nothing of ours beside this file and
`measure`. The problems are the same: add five times, then answer. Who speaks the provider's tool calls
gets tool calls; microchain reads a call from the text, as `rightcall` does.
"""

# No `annotations` of `__future__` here: microchain shows a model the classes that it finds in them.

import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Figures, Work

INSTRUCTION = "Add numbers, one pair after another, and stop with the last sum. " * 10


MOST_PROBLEMS = 1024
"""For who wants to know all problems beforehand."""


@dataclass(frozen=True)
class Load:
    """What everybody does."""

    url: str
    samples: int
    slots: int
    steps: int
    """Of a chain: calls of `add`, then the answer."""

    @property
    def answer(self) -> str:
        return str(2 * self.steps - 3)

    def questions(self, problems: int) -> list[str]:
        return [f"Problem {index}: go on." for index in range(problems)]


def make_microchain(load: Load) -> Work:
    """It waits for a reply and has no notion of several chains: so one agent per chain, in as many
    threads as there are slots."""
    from microchain import LLM, Agent, Engine, Function, OpenAIChatGenerator

    class add(Function):  # type: ignore[misc]  # the name is what the model calls
        description = "Add two numbers"
        example_args = [2, 3]

        def __call__(self, a: int, b: int) -> int:
            return a + b

    class stop(Function):  # type: ignore[misc]
        description = "End with an answer"
        example_args = ["5"]

        def __call__(self, answer: str) -> str:
            self.engine.state["answer"] = answer
            self.engine.stop()
            return answer

    generator = OpenAIChatGenerator(
        model="m", api_key="none", api_base=load.url, temperature=0, max_tokens=256, timeout=600
    )

    def chain(question: str) -> int:
        engine = Engine(state={})
        engine.register(add())
        engine.register(stop())
        agent = Agent(llm=LLM(generator=generator), engine=engine)
        agent.system_prompt = f"{INSTRUCTION}\n{engine.help}"
        agent.prompt = question
        agent.run(iterations=load.steps + 1)
        assert engine.state["answer"] == load.answer
        return sum(turn["role"] == "assistant" for turn in agent.history)

    def work(problems: int) -> Figures:
        with ThreadPoolExecutor(load.slots) as pool:
            steps = sum(pool.map(chain, load.questions(problems) * load.samples))
        return {"steps": steps}

    return work


def make_inspect_ai(load: Load) -> Work:
    """A task of its own with a tool, `samples` epochs; its log is written, as it always is."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate, system_message, use_tools
    from inspect_ai.tool import tool

    @tool  # type: ignore[untyped-decorator]
    def add() -> Any:
        async def execute(a: int, b: int) -> int:
            """Add two numbers.

            Args:
                a: The first.
                b: The second.
            """
            return a + b

        return execute

    def work(problems: int) -> Callable[[], Figures]:
        task = Task(
            dataset=[Sample(input=q, target=load.answer) for q in load.questions(problems)],
            solver=[system_message(INSTRUCTION), use_tools(add()), generate()],
            scorer=match(),
        )
        folder = tempfile.TemporaryDirectory()
        (log,) = eval(
            task,
            model=get_model("openai-api/local/m", base_url=load.url, api_key="none"),
            epochs=load.samples,
            max_samples=load.slots,
            max_connections=load.slots,
            temperature=0,
            max_tokens=256,
            seed=1,
            log_dir=folder.name,
            log_realtime=False,
            display="none",
        )

        def checked() -> Figures:
            with folder:  # from where the samples are read only now
                samples = log.samples or []
                assert len(samples) == problems * load.samples, log.error
                assert all(sample.scores["match"].value == "C" for sample in samples)
            turns = [turn for sample in samples for turn in sample.messages]
            return {"steps": sum(turn.role == "assistant" for turn in turns)}

        return checked

    return work


def make_verifiers(load: Load) -> Work:
    """Its `ToolEnv`, in one process; later versions than 0.2 start a program for every chain."""
    os.environ["PEER_KEY"] = "none"
    import verifiers as vf
    from datasets import Dataset

    vf.setup_logging("ERROR")

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def right(completion: Any, answer: str) -> float:
        """Whether the last turn is the answer."""
        return float(completion[-1].content == answer)

    rows = [{"question": q, "answer": load.answer} for q in load.questions(MOST_PROBLEMS)]
    env = vf.ToolEnv(
        tools=[add],
        max_turns=load.steps + 1,
        dataset=Dataset.from_list(rows),
        system_prompt=INSTRUCTION,
        rubric=vf.Rubric(funcs=[right]),
    )
    client = vf.ClientConfig(api_key_var="PEER_KEY", api_base_url=load.url)

    def work(problems: int) -> Figures:
        made = env.evaluate_sync(
            client,
            "m",
            sampling_args={"temperature": 0.0, "max_tokens": 256, "seed": 1},
            num_examples=problems,
            rollouts_per_example=load.samples,
            max_concurrent=load.slots,
        )
        assert len(made["outputs"]) == problems * load.samples
        assert all(output["reward"] == 1.0 for output in made["outputs"])
        turns = [turn for output in made["outputs"] for turn in output["completion"]]
        return {"steps": sum(_role(turn) == "assistant" for turn in turns)}

    return work


def _role(turn: Any) -> str:
    return str(turn["role"] if isinstance(turn, dict) else turn.role)


PEERS = {
    "microchain": ("microchain-python", make_microchain),
    "inspect_ai": ("inspect-ai", make_inspect_ai),
    "verifiers": ("verifiers", make_verifiers),
}
"""Package that is imported → its distribution, its work."""


def make_peer(name: str, load: Load) -> Work:
    """The work of one of them, which says its version."""
    distribution, make = PEERS[name]
    work, version = make(load), importlib.metadata.version(distribution)

    def named(problems: int) -> Callable[[], Figures]:
        made = work(problems)
        return lambda: {**(made() if callable(made) else made), "version": version}

    return named
