"""`run.toml` → frozen, typed objects; and the resolved copy that a run keeps.

A stage's settings stand at the head of the stage that uses them; this file only puts them
together. What stands at the top of a file (`[models]`, `[collect]`, `[search]`, `[augment]`, `[pairs]`,
`[train]`, `[rounds]`, `[evaluate]`, `[cluster]`) holds for every task; the same table under
`[tasks.NAME]` overrides it key by key. After loading, every task carries its complete settings:

    config = load_config("examples/demo.toml", ["seed=3", "tasks.fol.train.dpo.beta=0.2"])
    config.tasks["fol"].train.dpo.beta
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BeforeValidator, Field, model_validator

from rightcall.augment.config import AugmentConfig
from rightcall.chain import JSON, Frozen
from rightcall.cluster import ClusterConfig
from rightcall.errors import ConfigError
from rightcall.evaluate import EvaluateConfig
from rightcall.models import Sampling
from rightcall.models.spec import ModelSpec
from rightcall.pairs import PairConfig
from rightcall.rollout import Budget, Enough
from rightcall.search import SearchConfig
from rightcall.settings import Table, checked, flat, merged, set_key
from rightcall.task import step_budgets
from rightcall.train.trainer import TrainConfig


def _spec(value: object) -> object:
    try:
        return ModelSpec.parse(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from error


Model = Annotated[ModelSpec, BeforeValidator(_spec)]
"""A `ModelSpec`, written as a table or in short as text (`"tiny:teacher"`)."""


class Models(Frozen):
    """Who plays which role. Teacher, base and tuned are roles, not kinds of models."""

    teacher: Model = ModelSpec.parse("tiny:teacher")
    """The large model whose chains are learned from."""
    student: Model = ModelSpec.parse("tiny:student")
    """The small model that is tuned; as it is given here it is the `base` of the evaluation."""


class Problems(Frozen):
    """How many problems of each split a run uses; the first so many, by the run's seed."""

    train: int = Field(400, ge=1)
    """Chains are collected on these."""
    validation: int = Field(100, ge=1)
    """The checkpoint that is kept is chosen by rollouts on these."""
    test: int = Field(300, ge=1)
    """Seen by the evaluation alone."""


class Collect(Frozen):
    """Chains of one role on the training problems."""

    chains: tuple[str, ...] = ()
    """Files of chains that are there already, such as an import's; nothing is collected then."""
    samples: int = Field(4, ge=0)
    """Chains per problem; 0 leaves the role out."""
    enough: Enough | None = None
    """Stop sampling a problem as soon as it has so many right and wrong chains; `samples` is then the
    most."""
    problems: int | None = Field(None, ge=1)
    """Only the first so many training problems; all of them if not given."""
    temperature: float = Field(1.0, ge=0)
    """Warm by default: samples of a problem should differ."""
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(256, ge=1)
    """Tokens per reply at most."""
    steps: int = Field(20, ge=1)
    """Calls per chain at most; in a run the largest of the task's budgets unless given."""
    tokens: int = Field(4096, ge=1)
    """Tokens per chain at most."""

    @model_validator(mode="after")
    def _different_samples(self) -> Self:
        if self.samples > 1 and not self.temperature:
            raise ConfigError(
                "at temperature 0 all samples of a problem are the same",
                value=f"samples = {self.samples}",
                remedy="Set a temperature, or samples = 1.",
            )
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)

    @property
    def budget(self) -> Budget:
        return Budget(steps=self.steps, tokens=self.tokens)


class CollectBoth(Frozen):
    """Chains come from the teacher and, on-policy, from the student itself."""

    teacher: Collect = Collect()
    student: Collect = Collect()


class Pairs(PairConfig):
    """`PairConfig` of a run: whole chains for the control, single steps for DPO."""

    strategies: dict[str, float] = Field(default_factory=lambda: {"chain": 1.0, "step": 1.0})


class Sft(TrainConfig):
    """`TrainConfig` of the control."""

    method: Literal["sft"] = "sft"
    strategies: tuple[str, ...] = ("chain",)
    """Whole chains, each once."""


class Dpo(TrainConfig):
    """`TrainConfig` of the tuned model."""

    method: Literal["dpo"] = "dpo"
    strategies: tuple[str, ...] = ("step",)
    """What differs is what was wrong; of whole chains most is right on both sides."""


class Train(Frozen):
    """The two trainings of a run: a control that sees only what is chosen, and DPO."""

    sft: Sft = Sft()
    dpo: Dpo = Dpo()
    dpo_from: Literal["base", "sft"] = "sft"
    """Where DPO starts: warm, at the SFT control, or at the untouched student."""


class Rounds(Frozen):
    """On-policy rounds after the first training: the tuned student collects chains, is trained on them,
    and is measured on the validation problems, until a round does not help."""

    count: int = Field(0, ge=0)
    """Rounds at most; 0 for none."""
    start: Literal["current", "first"] = "current"
    """Each training goes on from the best model so far, or begins where the first DPO training did."""
    reference: Literal["previous", "base"] = "previous"
    """What DPO holds a round's model to: the best model so far, so that each round may move as far
    again; or the model that the first DPO training began with, so that all rounds together may move as
    far as one."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.count and (self.start, self.reference) != ("current", "previous"):
            raise ConfigError(
                "settings of rounds have no effect without rounds",
                value="rounds.count = 0",
                remedy="Set rounds.count, or leave the table out.",
            )
        return self


class Report(Frozen):
    """What the report shows; may change without a new run."""

    title: str = ""
    examples: int = Field(12, ge=0)
    """Chains shown side by side per task."""


class Stages(Frozen):
    """The settings of every stage of a task."""

    models: Models = Models()
    dialect: Literal["python", "native"] = "python"
    """How functions are shown and calls are written, by every model: in the prompt and as in Python, or
    through the chat template and the API as the models' own tool calling has it."""
    collect: CollectBoth = CollectBoth()
    search: SearchConfig = SearchConfig()
    """Rollouts that find the first errors of the student's wrong chains, with its sampling and budget
    of `collect`; what counts as right is what `pairs.require_process` says."""
    augment: AugmentConfig = AugmentConfig()
    """What is made of the teacher's and the student's chains before pairs are made."""
    pairs: Pairs = Pairs()
    train: Train = Train()
    rounds: Rounds = Rounds()
    evaluate: EvaluateConfig = EvaluateConfig()
    cluster: ClusterConfig = ClusterConfig()
    """Workers that collect and evaluate instead of this process."""
    tolerate_errored: float = Field(0.02, ge=0, le=1)
    """Share of a stage's chains that may stay errored after a second try. They are left out: of the
    pairs, and of comparisons on both sides."""

    @model_validator(mode="after")
    def _searched_by_chance(self) -> Self:
        if self.search.rollouts and not self.collect.student.temperature:
            raise ConfigError(
                "a search needs rollouts that differ",
                value="collect.student.temperature = 0",
                remedy="Set a temperature, or search.rollouts = 0.",
            )
        return self

    @model_validator(mode="after")
    def _trained_on_what_is_made(self) -> Self:
        made = [name for name, weight in self.pairs.strategies.items() if weight > 0]
        for method in ("sft", "dpo"):
            for name in getattr(self.train, method).strategies:
                if name not in made:
                    raise ConfigError(
                        f"train.{method}.strategies names pairs that pairs.strategies does not make",
                        value=name,
                        remedy=f"Give {name!r} a weight there, or set train.{method}.strategies to "
                        f"{made} or to [] for all pairs.",
                    )
        return self


class TaskRun(Stages):
    """One task of a run, complete."""

    task: str
    """A built-in name, `path/to/file.py:Class` (seen from the working directory) or `module:Class`."""
    functions: str | tuple[str, ...] | None = None
    """A named subset or a list of the task's functions; its default if not given."""
    options: dict[str, JSON] = Field(default_factory=dict)
    """Arguments of the task's constructor."""
    problems: Problems = Problems()


class RunFile(Stages):
    """A run file as written: defaults for all tasks, then the tasks."""

    rightcall: str | None = None
    """The version that made a resolved copy; written by the program."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's folder is `runs/NAME`."""
    seed: int = Field(0, ge=0)
    """Of problems, chains, pairs and training, where those name no other."""
    report: Report = Report()
    tasks: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Table] = Field(min_length=1)
    """Settings of each task: those of `TaskRun`, `task` being the table's name unless given."""


class RunConfig(Frozen):
    """A run, resolved: nothing is left to defaults."""

    rightcall: str
    name: str
    seed: int
    report: Report
    tasks: dict[str, TaskRun]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run file and apply `a.b=value` overrides; `ConfigError` names the key at fault."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "the run file cannot be read", value=str(path), remedy=f"{error.strerror}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML", value=str(error)) from error
    for override in overrides:
        set_key(table, override)
    return resolve(table)


def resolve(table: Mapping[str, Any]) -> RunConfig:
    """A run file's table → the run with each task's settings complete."""
    file = checked(RunFile, table)
    seeds = {name: {"seed": file.seed} for name in ("augment", "pairs")}
    seeded = {**seeds, "train": {m: {"seed": file.seed} for m in ("sft", "dpo")}}
    shared = merged(seeded, {key: table[key] for key in Stages.model_fields if key in table})
    tasks = {}
    for name, own in file.tasks.items():
        given = {"task": name, **merged(shared, own)}
        settings = checked(TaskRun, given, at=f"tasks.{name}")
        tasks[name] = checked(TaskRun, merged(_of_task(settings.task), given), at=f"tasks.{name}")
    return RunConfig(
        rightcall=file.rightcall or _version(),
        name=file.name,
        seed=file.seed,
        report=file.report,
        tasks=tasks,
    )


def _of_task(task: str) -> dict[str, Any]:
    """The settings that hang on the task where the file does not give them."""
    budgets = step_budgets(task)
    steps = {"steps": max(budgets)}
    return {"collect": {"teacher": steps, "student": steps}, "evaluate": {"budgets": list(budgets)}}


def dump_config(config: Frozen) -> str:
    """TOML that `load_config` reads back to an equal config."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


REACHED = re.compile(
    r"\.models\.(teacher|student)\.(capacity|timeout|max_retries|cache|price|cap)(\.|$)|\.cluster\."
)
"""Keys that may change within a run: no chain hangs on them."""


def differing_keys(one: RunConfig, other: RunConfig) -> tuple[str, ...]:
    """Dotted keys on which two runs differ; what the report alone reads is no difference, nor is how a
    model is reached and what it may cost."""
    a, b = (flat(config.model_dump(mode="json", exclude={"report"})) for config in (one, other))
    differing = (key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return tuple(sorted(key for key in differing if not REACHED.search(key)))


def _version() -> str:
    from rightcall import __version__

    return __version__
