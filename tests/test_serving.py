"""Exported models behind a real server: `transformers serve` in this process, and what it read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_server import LocalHandler, LocalServer
from native_models import FAMILY, NOTATION, tool_tokenizer
from rightcall.chain import Chain, Outcome
from rightcall.errors import ConfigError
from rightcall.functions import Role, Stop, function
from rightcall.models.local import LocalModel
from rightcall.models.openai_compatible import OpenAICompatible
from rightcall.models.scripted import GoldPlayer, Scripted
from rightcall.models.spec import ModelSpec, open_model
from rightcall.native import VLLM_PARSERS
from rightcall.rollout import Budget, Job, Sampling, Setting, rollouts
from rightcall.serving import export_model, parity, prompt_reader
from rightcall.train.config import TrainConfig
from rightcall.train.trainer import train
from served import Server
from tiny_models import build_tiny
from toys import SumTask, add


@function(example='stop("5")', role=Role.FLOW, trusted=True)
def stop(answer: str) -> Stop:
    """End with an answer."""
    return Stop(answer)


class Sums(SumTask):
    """With a stop that takes text alone: `transformers serve` casts an argument to any other type that
    its schema has beside text."""

    functions = (add, stop)
    subsets = {}


TASK = Sums()
SETTING = Setting(
    TASK, TASK.function_set(None), "student", Sampling(max_tokens=64), Budget(steps=4),
    dialect="native",
)  # fmt: skip
ARCHITECTURE = {"qwen": "qwen2", "llama": "llama", "mistral": "mistral"}
TEMPLATES = ("qwen2_5", "llama3_2", "mistral_3")


@pytest.fixture(scope="module", params=TEMPLATES)
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return Taught(request.param, tmp_path_factory.mktemp(request.param))


class Taught:
    """A tiny model with random weights that has learned a gold chain by heart, as an adapter."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.base = name, folder, folder / "base"
        tokenizer = tool_tokenizer(name)
        build_tiny(ARCHITECTURE[FAMILY[name]], self.base, vocab=len(tokenizer), hidden=64)
        tokenizer.save_pretrained(self.base)
        self.problems = list(SETTING.playable(TASK.problems("train", 1)))
        player = GoldPlayer(self.problems)
        self.gold = list(rollouts(SETTING, player, [Job(problem) for problem in self.problems]))
        rows = [
            {
                "prompt": list(chain.prompt),
                "completion": [
                    {"role": "assistant", "content": chain.steps[0].reply},
                    {"role": "tool", "content": chain.steps[0].observation.text},
                    {"role": "assistant", "content": chain.steps[1].reply},
                ],
                "schemas": chain.schemas,
            }
            for chain in self.gold
        ]
        data = folder / "sft.jsonl"
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        config = TrainConfig(
            method="sft", tune="full", learning_rate=3e-3, epochs=40, batch_size=1, max_length=4096,
            scheduler="constant",
        )  # fmt: skip
        self.full = train(config, self.base, data, folder / "full", device="cpu").output
        more = config.model_copy(update={"tune": "lora", "epochs": 2, "learning_rate": 1e-4})
        self.adapter = train(more, self.full, data, folder / "adapter", device="cpu").output

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(model=str(self.full), adapter=str(self.adapter), threads=1)


def chains_of(model: Any, problems: Any) -> list[Chain]:
    made = rollouts(SETTING, model, [Job(problem) for problem in problems])
    return sorted(made, key=lambda chain: chain.problem_id)


def test_a_student_that_learned_native_chains_calls_its_functions(taught: Taught) -> None:
    with open_model(taught.spec) as model:
        made = chains_of(model, taught.problems)
    assert [chain.outcome for chain in made] == [Outcome.CORRECT]
    for chain, gold in zip(made, taught.gold, strict=True):
        assert [step.reply for step in chain.steps] == [step.reply for step in gold.steps]
        assert all(step.token_ids for step in chain.steps)


@pytest.fixture
def served(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Path]]:
    from transformers import GenerationMixin

    folder = taught.folder / "served"
    if not folder.exists():
        export_model(taught.spec, folder)
    generate = GenerationMixin.generate

    with Server(folder) as server:

        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            server.prompts.append(tuple(ids[0].tolist()))
            return generate(self, *args, **kwargs)

        monkeypatch.setattr(GenerationMixin, "generate", watched)
        yield server, folder


@pytest.mark.filterwarnings("ignore")
def test_the_same_chains_give_identical_prompts_and_calls_here_and_behind_a_server(
    taught: Taught, served: tuple[Server, Path]
) -> None:
    server, folder = served
    with (
        LocalModel.load(folder, threads=1) as here,
        OpenAICompatible(str(folder), server.url, capacity=1, max_retries=0) as there,
    ):
        made = parity(here, there, taught.gold)
        assert made.turns == 2
        assert made.differences == []
        assert (made.by_ids, made.compared) == (0, "prompts of the same length")
        assert made.holds
        rendered = [
            here.renderer.render(request.messages, reply_next=True, tools=request.tools).ids
            for request in _asked(taught.gold)
        ]
        assert server.prompts == rendered
        solved = chains_of(there, taught.problems)
    assert [chain.outcome for chain in solved] == [Outcome.CORRECT]
    for chain, gold in zip(solved, taught.gold, strict=True):
        assert [step.call for step in chain.steps] == [step.call for step in gold.steps]


class Tokenizing(LocalHandler):
    """Chat completions of a fixed reply; prompts are as long as a test says, and told by `/tokenize` as
    vLLM does, if they are told."""

    ids: list[int]
    counted: int
    told: bool

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/tokenize":
            assert body["messages"][0]["role"] == "system"
            shown = json.dumps({"count": len(self.ids), "tokens": self.ids})
            return self.send(shown if self.told else "{}", 200 if self.told else 404)
        message = {"role": "assistant", "content": "stop('5')"}
        self.send(
            json.dumps(
                {
                    "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                    "usage": {"prompt_tokens": self.counted, "completion_tokens": 2},
                }
            )
        )
        return None


@pytest.mark.parametrize(
    ("ids", "counted", "told", "compared", "parted"),
    [
        ([7, 8, 9], 3, True, "the same prompt, token by token", None),
        ([7, 1, 9], 3, True, "the same prompt, token by token", 1),
        ([7, 1, 9], 3, False, "prompts of the same length", None),
        ([7, 1], 3, True, "prompts of the same length", None),  # not of what was generated from
    ],
)
def test_prompts_are_compared_token_by_token_where_a_server_tells_them(
    ids: list[int], counted: int, told: bool, compared: str, parted: int | None
) -> None:
    (chain,) = rollouts(
        Setting(TASK, TASK.function_set(None), "student"), Scripted(["stop('5')"]),
        [Job(problem) for problem in TASK.problems("train", 1)],
    )  # fmt: skip
    handler = type("Handler", (Tokenizing,), {"ids": ids, "counted": counted, "told": told})
    with LocalServer(handler) as server:
        spec = ModelSpec.parse(f"{server.url}#m")
        with open_model(spec) as one, open_model(spec) as other:
            made = parity(
                one, other, [chain], readers=(lambda request: (7, 8, 9), prompt_reader(other, spec))
            )
    assert (made.turns, made.compared) == (1, compared)
    assert made.holds is (parted is None)
    assert [found.parted for found in made.differences] == ([] if parted is None else [parted])


def _asked(chains: list[Chain]) -> Any:
    from rightcall.serving import _requests

    return list(_requests(chains, 100, 8))


# --- export ---------------------------------------------------------------------------------------


def test_an_exported_model_says_how_it_is_served(taught: Taught, tmp_path: Path) -> None:
    made = export_model(taught.spec, tmp_path / "made")
    notation = NOTATION[FAMILY[taught.name]]
    assert made.notation == notation
    vllm, transformers = made.commands
    assert vllm.endswith(f"--enable-auto-tool-choice --tool-call-parser {VLLM_PARSERS[notation]}")
    assert transformers == f"transformers serve {tmp_path / 'made'}"
    assert vllm in (tmp_path / "made" / "README.md").read_text()
    generation = json.loads((tmp_path / "made" / "generation_config.json").read_text())
    with LocalModel.load(tmp_path / "made", threads=1) as model:
        assert set(generation["eos_token_id"]) == set(model.renderer.stop_ids)
        assert (generation["temperature"], generation.get("top_k", 0)) == (1.0, 0)
        assert model.tokenizer.response_template["fields"]["tool_calls"]


def test_merged_weights_say_what_the_adapter_on_its_base_says(taught: Taught, tmp_path: Path) -> None:
    export_model(taught.spec, tmp_path / "made")
    with open_model(taught.spec) as one, LocalModel.load(tmp_path / "made", threads=1) as two:
        assert parity(one, two, taught.gold).holds
    with open_model(taught.spec) as one, open_model(ModelSpec(model=str(taught.base))) as two:
        assert not parity(one, two, taught.gold).holds


def test_an_adapter_alone_is_exported_with_its_template(taught: Taught, tmp_path: Path) -> None:
    made = export_model(taught.spec, tmp_path / "alone", adapter_only=True)
    (command,) = made.commands
    assert f"vllm serve {taught.full} --enable-lora" in command
    assert (tmp_path / "alone" / "chat_template.jinja").exists()
    spec = taught.spec.model_copy(update={"adapter": str(tmp_path / "alone")})
    with open_model(taught.spec) as one, open_model(spec) as two:
        assert parity(one, two, taught.gold).holds


def test_a_model_without_tool_calling_is_exported_for_the_python_dialect(tmp_path: Path) -> None:
    made = export_model(ModelSpec.parse("tiny:student"), tmp_path / "student")
    assert made.notation is None
    assert made.commands[0] == f"vllm serve {tmp_path / 'student'}"
    assert "python dialect" in (tmp_path / "student" / "README.md").read_text()


def test_an_export_does_not_overwrite_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    spec = ModelSpec.parse("tiny:student")
    with pytest.raises(ConfigError, match="the folder exists"):
        export_model(spec, tmp_path / "there")
    with pytest.raises(ConfigError, match="has no adapter"):
        export_model(spec, tmp_path / "new", adapter_only=True)
    with pytest.raises(ConfigError, match="cannot load"):
        export_model(ModelSpec(model=str(tmp_path / "there")), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_commands_export_and_compare(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rightcall.cli import app

    run = CliRunner().invoke
    out = run(app, ["export", "model", "tiny:student", str(tmp_path / "made")])
    assert out.exit_code == 0, out.output
    assert "vllm serve" in out.output.replace("\n", " ")
    chains = str(tmp_path / "chains.jsonl")
    asked = ["collect", "tiny-math", "-m", "tiny:student", "--count", "12", "-k", "1", "--out", chains]
    assert run(app, asked).exit_code == 0
    same = run(app, ["parity", chains, "-m", "tiny:student", "--with", str(tmp_path / "made")])
    assert same.exit_code == 0, same.output
    assert "the same prompt, token by token" in same.output
    other = run(app, ["parity", chains, "-m", "tiny:student", "--with", "tiny:teacher"])
    assert other.exit_code == 1
    assert "replies" in other.output
