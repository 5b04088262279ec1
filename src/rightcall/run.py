"""A whole run: every stage of every task, from one config to the report.

    runs/NAME/config.toml                    the resolved config
    runs/NAME/TASK/problems.{train,validation,test}.jsonl
    runs/NAME/TASK/chains/{teacher,student,search,augmented}.jsonl
    runs/NAME/TASK/problems.augmented.jsonl, augment.json   what augmentation made, and its figures
    runs/NAME/TASK/pairs.jsonl, pairs.json   the pairs and their statistics
    runs/NAME/TASK/train/{sft,dpo}/          the model or adapter, checkpoints/, metrics.jsonl
    runs/NAME/TASK/rounds/N/{chains,pairs}.jsonl, pairs.json, train/   the on-policy rounds
    runs/NAME/TASK/selection/, selection.json   validation chains; the checkpoints that were kept
    runs/NAME/TASK/eval/{base,teacher,control,tuned}.jsonl, .samples.jsonl, .counterfactual.jsonl
    runs/NAME/TASK/comparison.json           paired, Holm-adjusted across the tasks
    runs/NAME/TASK/stages.jsonl              the stages that are done, with their seconds
    runs/NAME/usage.jsonl                    what models behind servers have used, for prices and caps
    runs/NAME/report.html

A stage reads files and writes files; its line in `stages.jsonl` comes last. Called again, a run
skips the stages that have their line and calls the others again: collecting, training and
evaluating continue where they were cut, the rest is redone.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

from rightcall import terminal
from rightcall.augment import augment, load_operation, operations_of
from rightcall.chain import Chain, ChainFiles, ChainStore, Frozen, Outcome, Problem, seed_of
from rightcall.cluster import TaskSpec, collector, gather
from rightcall.collecting import Collector
from rightcall.config import Collect, RunConfig, TaskRun, differing_keys, dump_config, load_config
from rightcall.dialects import DIALECTS
from rightcall.errors import ConfigError, DataError
from rightcall.evaluate import Selection, counterfactual_path, evaluate, samples_path, select
from rightcall.files import read_lines, write_whole
from rightcall.models import Sampling
from rightcall.models.spec import ModelSpec, open_model
from rightcall.models.weights import load_tokenizer
from rightcall.pairs import (
    PairConfig,
    PairStatistics,
    check_leaks,
    make_pairs,
    pair_statistics,
    read_pairs,
    write_pairs,
)
from rightcall.rendering import Renderer
from rightcall.report import RunData, load_run, write_report
from rightcall.report.data import ROLES
from rightcall.rollout import Budget, Setting, finished
from rightcall.search import SearchResult, search
from rightcall.task import SPLITS, Task, load_task
from rightcall.train.data import reasons
from rightcall.train.trainer import TrainConfig, Weights, train


class StageDone(Frozen):
    """A line of `stages.jsonl`."""

    stage: str
    seconds: float
    """Of the call that finished it; earlier, interrupted calls are not counted."""
    summary: str


@dataclass(frozen=True)
class Place:
    """One task of a run: its settings, and where its files are."""

    settings: TaskRun
    task: Task
    seed: int
    folder: Path

    def problems(self, split: str) -> list[Problem]:
        """The run's problems of a split, as the first stage wrote them."""
        return list(read_lines(self.folder / f"problems.{split}.jsonl", Problem))

    def chains(self, role: str) -> Path:
        return self.folder / "chains" / f"{role}.jsonl"

    @property
    def pairs(self) -> Path:
        return self.folder / "pairs.jsonl"

    def training(self, method: str) -> Path:
        """Where a training is: `sft`, `dpo`, or `round N`."""
        number = _round_number(method)
        return self.round(number) / "train" if number else self.folder / "train" / method

    def round(self, number: int) -> Path:
        return self.folder / "rounds" / str(number)

    def evaluation(self, role: str) -> Path:
        return self.folder / "eval" / f"{role}.jsonl"

    def selections(self) -> dict[str, Selection]:
        """Training method → the checkpoint that was chosen."""
        path = self.folder / "selection.json"
        table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {name: Selection.model_validate_json(json.dumps(made)) for name, made in table.items()}

    def candidates(self, method: str) -> dict[str, Path]:
        """Checkpoint name → its folder, oldest first; `final` is the end of training."""
        folder = self.training(method)
        steps = sorted(int(p.name.rpartition("-")[2]) for p in folder.glob("checkpoints/checkpoint-*"))
        last = json.loads((folder / "train.json").read_text(encoding="utf-8"))["result"]["steps"]
        earlier = {f"checkpoint-{n}": folder / "checkpoints" / f"checkpoint-{n}" for n in steps}
        earlier.pop(f"checkpoint-{last}", None)  # the same weights as the final ones
        return {**earlier, "final": folder}

    def kept(self, method: str) -> Path:
        """Folder of the checkpoint that was chosen."""
        return self.candidates(method)[self.selections()[method].best]

    def best(self, before: int | None = None) -> str:
        """Of the DPO training and the rounds (before that round), the one whose model did best on the
        validation problems; of equals the first."""
        names = [name for name in self.selections() if name != "sft"]
        names = [name for name in names if before is None or _round_number(name) < before]
        kept = {name: self.selections()[name].kept for name in sorted(names, key=_round_number)}
        return max(kept, key=lambda name: kept[name].right_reason.value)

    def first(self) -> ModelSpec:
        """What the first DPO training began with."""
        student = self.settings.models.student
        return tuned(student, self.kept("sft")) if self.settings.train.dpo_from == "sft" else student

    def model(self, role: str) -> ModelSpec:
        """Who plays a role of the evaluation."""
        models = self.settings.models
        if role == "teacher":
            return models.teacher
        if role == "base":
            return models.student
        return tuned(models.student, self.kept("sft" if role == "control" else self.best()))

    def setting(
        self, source: str, sampling: Sampling = Sampling(), budget: Budget = Budget()
    ) -> Setting:
        functions = self.task.function_set(self.settings.functions)
        dialect = self.settings.dialect
        return Setting(self.task, functions, source, sampling, budget, self.seed, dialect)

    def done(self) -> dict[str, StageDone]:
        return {line.stage: line for line in read_lines(self.folder / "stages.jsonl", StageDone)}

    def mark(self, line: StageDone) -> None:
        lines = [*self.done().values(), line]
        write_whole(self.folder / "stages.jsonl", "".join(f"{x.model_dump_json()}\n" for x in lines))


def _round_number(method: str) -> int:
    """Of "round N"; 0 for any other training."""
    return int(method.removeprefix("round ")) if method.startswith("round ") else 0


# --- the stages: each reads files, writes files, and says in a line what came out ----------------


def write_problems(place: Place) -> str:
    """The problems of every split, once for all later stages."""
    counts = place.settings.problems
    for split in SPLITS:
        wanted = getattr(counts, split)
        problems = list(place.task.problems(split, wanted, place.seed))
        if not problems:
            raise DataError(f"task {place.task.name} has no problems in its {split} split")
        lines = (problem.model_dump_json() for problem in problems)
        write_whole(place.folder / f"problems.{split}.jsonl", "".join(f"{line}\n" for line in lines))
    checked = check_leaks(
        [*place.problems("train"), *place.problems("validation")], place.problems("test")
    )
    return f"{checked} problems to learn from, none of them among {len(place.problems('test'))} tests"


def collect_role(role: str) -> Callable[[Place], str]:
    """The stage that collects a role's chains on the training problems."""

    def stage(place: Place) -> str:
        settings: Collect = getattr(place.settings.collect, role)
        if settings.chains:
            return take_chains(place, role, settings)
        if not settings.samples:
            return "left out"
        spec: ModelSpec = getattr(place.settings.models, role)
        return _collected(place, role, spec, settings, place.chains(role))

    return stage


def _collected(place: Place, role: str, spec: ModelSpec, settings: Collect, path: Path) -> str:
    """A model's chains on the training problems, into a file."""
    problems = place.problems("train")[: settings.problems]
    setting = place.setting(role, settings.sampling, settings.budget)
    with _opened(place, spec, setting, problems) as by:
        gather(path)
        had = finished(setting, by.name, problems, settings.samples, path)
        with terminal.progress(role, len(problems) * settings.samples, had) as on_chain:
            once = partial(
                by.collect, setting, problems, settings.samples, path, on_chain, enough=settings.enough
            )
            store = once()
            if _errored(store):  # a second try, of the errored chains and nothing else
                once()
    _check_errored(store, place.settings.tolerate_errored)
    counts = store.counts()
    return ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)


def take_chains(place: Place, role: str, settings: Collect) -> str:
    """The chains of some files that are of the training problems, under this role. Raises `DataError`
    if a file is not there or there is none of them."""
    asked = {problem.id: problem.question for problem in place.problems("train")[: settings.problems]}
    store = ChainStore(place.chains(role))
    there = set(store.outcomes())
    others = 0

    def ours() -> Iterator[Chain]:
        nonlocal others
        for file in settings.chains:
            if not Path(file).is_file():
                raise DataError(
                    "there is no such file of chains", value=file, remedy="Import a log first."
                )
            for chain in ChainStore(file).latest():
                of_ours = asked.get(chain.problem_id) == chain.prompt[-1]["content"]
                others += not of_ours
                if of_ours and chain.task == place.task.name and chain.key not in there:
                    there.add(chain.key)
                    yield chain.model_copy(update={"source": role})

    store.append(ours())
    if not there:
        raise DataError(
            f"no chain of these files is of one of the {len(asked)} training problems",
            value=", ".join(settings.chains),
            remedy="Their problems must be in the train split, with the same ids and questions.",
        )
    counts = store.counts()
    said = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)
    return f"{said}; {others} chains of other problems left out"


@contextmanager
def _opened(
    place: Place, spec: ModelSpec, setting: Setting, problems: Sequence[Problem]
) -> Iterator[Collector]:
    """A role's model, here or with the workers of the run; what a server's model used is counted in the
    run's folder, for all of its tasks, and said, however it ends."""
    counted = place.folder.parent / "usage.jsonl"
    task = TaskSpec(place.settings.task, place.settings.options, place.settings.functions)
    cluster = place.settings.cluster
    with collector(cluster, spec, task, setting, problems, usage_path=counted) as by:
        try:
            yield by
        finally:
            if by.used:
                terminal.say(f"{place.folder.name} {setting.source}: {by.used}")


def _errored(store: ChainStore) -> int:
    return store.counts()[Outcome.ERRORED]


def _check_errored(store: ChainStore, tolerated: float) -> None:
    counts = store.counts()
    errored, all_of_them = counts[Outcome.ERRORED], counts.total()
    if errored > tolerated * all_of_them:
        raise DataError(
            f"{errored} of {all_of_them} chains errored",
            value=next(chain.error for chain in store.latest() if chain.outcome is Outcome.ERRORED),
            remedy="Run again: they are redone.",
        )


def search_errors(place: Place) -> str:
    """Rollouts of the student from the prefixes of its wrong chains: where was its first error?"""
    config = place.settings.search
    if not config.rollouts:
        return "left out"
    how = place.settings.collect.student
    problems = place.problems("train")[: how.problems]
    setting = place.setting("student", how.sampling, how.budget)
    path = place.chains("search")
    with open_model(place.settings.models.student, setting.playable(problems)) as model:

        def once() -> SearchResult:
            chains = _chains(place, "teacher", "student")
            process = place.settings.pairs.require_process
            with terminal.progress("search", None) as on_chain:
                return search(
                    setting, model, problems, chains, config, path,
                    require_process=process, on_chain=on_chain,
                )  # fmt: skip

        result = once()
        if result.unfinished:  # a second try, of the errored rollouts and what rests on them
            result = once()
    _check_errored(result.store, place.settings.tolerate_errored)
    found = f"first error of {len(result.errors)} of {result.searched} wrong chains"
    return f"{found}, {result.rollouts} rollouts"


def _chains(place: Place, *files: str) -> ChainFiles:
    return ChainFiles(place.chains(name) for name in files)


def vary(place: Place) -> str:
    """Augmentation of both roles' chains: other problems with their chains, and corrupted chains."""
    asked = place.settings.augment
    wanted = {name: ratio for name, ratio in asked.operations.items() if ratio}
    here = {name: wanted[name] for name in wanted if _is_of(place.task, name)}
    lacking = ", ".join(name for name in wanted if name not in here)
    others = f"; not of this task: {lacking}" if lacking else ""
    if not here:
        return f"left out{others}"
    config = asked.model_copy(update={"operations": here})
    problems_out = place.folder / "problems.augmented.jsonl"
    for cut in (place.chains("augmented"), problems_out):  # this stage is redone, not gone on with
        cut.unlink(missing_ok=True)
    made = augment(
        place.task,
        place.task.function_set(place.settings.functions),
        place.problems("train"),
        _chains(place, "teacher", "student"),
        config,
        place.chains("augmented"),
        problems_out=problems_out,
        test=[*place.problems("validation"), *place.problems("test")],
        dialect=place.settings.dialect,
    )
    write_whole(place.folder / "augment.json", made.model_dump_json(indent=2))
    return f"{made.chains} chains of {made.originals} problems{others}"


def _is_of(task: Task, operation: str) -> bool:
    """Whether a task's chains can undergo an operation; one in a file is for all."""
    return ":" in operation or operation in operations_of(task)


def pair(place: Place) -> str:
    """Preference pairs of both roles' chains, of the search and of augmentation, checked against the
    test problems."""
    chains = _chains(place, "teacher", "student", "search", "augmented")
    statistics, dropped = _paired(place, chains, place.pairs, place.settings.pairs)
    if not statistics.pairs:
        raise DataError(
            "the chains made no pair",
            value=dict(dropped),
            remedy="Collect more samples per problem, or at a higher temperature.",
        )
    return f"{statistics.pairs} pairs of {statistics.problems} problems"


def _paired(
    place: Place, chains: Iterable[Chain], path: Path, config: PairConfig
) -> tuple[PairStatistics, Counter[str]]:
    """Pairs into a file with their statistics beside it, and what made none."""
    dropped: Counter[str] = Counter()
    write_pairs(make_pairs(chains, config, dropped), path, test=place.problems("test"))
    statistics = pair_statistics(read_pairs(path), dropped)
    write_whole(path.with_suffix(".json"), statistics.model_dump_json(indent=2))
    return statistics, dropped


def tune(method: str) -> Callable[[Place], str]:
    """The stage that trains the control (`sft`) or the tuned model (`dpo`)."""

    def stage(place: Place) -> str:
        config: TrainConfig = getattr(place.settings.train, method)
        start = place.first() if method == "dpo" else place.settings.models.student
        return _trained(place, method, config, start, place.pairs)

    return stage


def _trained(
    place: Place,
    method: str,
    config: TrainConfig,
    start: ModelSpec,
    pairs: Path,
    reference: ModelSpec | None = None,
) -> str:
    """A training from a model, held to another one if that is given."""
    with terminal.training(method) as on_log:
        result = train(
            config,
            start.weights,
            pairs,
            place.training(method),
            adapter=start.adapter,
            chat_template=start.chat_template,
            reference=Weights(reference.weights, reference.adapter) if reference else None,
            test=place.problems("test"),
            device=start.device,
            on_log=on_log,
            on_estimate=terminal.say_memory,
        )
    left_out = f", {len(result.too_long)} too long" if result.too_long else ""
    left_out += f", left out: {reasons(result.unfit)}" if result.unfit else ""
    speed = f", {result.tokens / result.seconds:,.0f} tokens/s" if result.seconds else ""
    return f"{result.steps} steps on {result.rows} rows{left_out}{speed}"


def choose(method: str) -> Callable[[Place], str]:
    """The stage that keeps the checkpoint with the best rollouts on the validation problems."""

    def stage(place: Place) -> str:
        student = place.settings.models.student
        problems = place.problems("validation")
        candidates = {
            name: partial(open_model, tuned(student, folder))
            for name, folder in place.candidates(method).items()
        }
        wanted = place.settings.evaluate
        setting = place.setting(
            method,
            Sampling(max_tokens=wanted.max_tokens),
            Budget(steps=max(wanted.budgets_for(place.task)), tokens=wanted.tokens),
        )
        with terminal.progress(f"choose {method}", len(candidates) * len(problems)) as on_chain:
            folder = place.folder / "selection" / method
            selection = select(candidates, setting, problems, folder, on_chain)
        table = {name: s.model_dump(mode="json") for name, s in place.selections().items()}
        table[method] = selection.model_dump(mode="json")
        write_whole(place.folder / "selection.json", json.dumps(table, indent=2))
        kept = next(c for c in selection.candidates if c.name == selection.best)
        return f"{selection.best} of {len(candidates)}, {kept.right_reason} on validation"

    return stage


def measure(role: str) -> Callable[[Place], str]:
    """The stage that evaluates a role on the test problems."""

    def stage(place: Place) -> str:
        if role == "teacher" and place.settings.collect.teacher.chains:
            return "left out: its chains were made elsewhere"
        wanted = place.settings.evaluate
        problems = place.problems("test")
        path = place.evaluation(role)
        files = (path, samples_path(path), counterfactual_path(path))
        stores = [ChainStore(file) for file in files]
        wished = len(problems) * (1 + wanted.samples) + min(wanted.counterfactual, len(problems))
        with (
            _opened(place, place.model(role), place.setting(role), problems) as by,
            terminal.progress(role, wished) as on_chain,
        ):
            result = evaluate(place.setting(role), by, problems, path, wanted, on_chain)
            if any(map(_errored, stores)):  # a second try, of the errored chains and nothing else
                result = evaluate(place.setting(role), by, problems, path, wanted, on_chain)
        for store in stores:
            _check_errored(store, place.settings.tolerate_errored)
        return f"{result.accuracy[result.headline]} on {len(result.scores)} test problems"

    return stage


# --- on-policy rounds -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """The best model so far collects chains, is trained on what it did, and is measured."""

    number: int
    """From 1."""

    @property
    def name(self) -> str:
        return f"round {self.number}"

    def stages(self) -> dict[str, Callable[[Place], str]]:
        parts = (self.collect, self.pair, self.train, self.choose)
        return {f"{self.name} {part.__name__}": self._if_there(part) for part in parts}

    def _if_there(self, part: Callable[[Place], str]) -> Callable[[Place], str]:
        """There is a round as long as the one before it helped."""

        def stage(place: Place) -> str:
            before = f"round {self.number - 1}" if self.number > 1 else "dpo"
            if before not in place.selections():
                return f"left out: there was no {before}"
            if place.best(self.number) != before:
                return f"left out: {before} did not help"
            return part(place)

        return stage

    def _model(self, place: Place) -> ModelSpec:
        return tuned(place.settings.models.student, place.kept(place.best(self.number)))

    def collect(self, place: Place) -> str:
        """Chains of the best model so far."""
        path = place.round(self.number) / "chains.jsonl"
        # Seeds of its own: a model that has hardly changed would draw the same chains again.
        drawn = replace(place, seed=seed_of("round", self.number, place.seed))
        return _collected(drawn, "student", self._model(place), place.settings.collect.student, path)

    def pair(self, place: Place) -> str:
        """Pairs of these chains, and of the teacher's where `pairs.sources_chosen` asks for them."""
        folder, wanted = place.round(self.number), place.settings.pairs
        trained = place.settings.train.dpo.strategies or tuple(wanted.strategies)
        weights = {name: weight for name, weight in wanted.strategies.items() if name in trained}
        chains = ChainFiles([folder / "chains.jsonl", place.chains("teacher")])
        statistics, _ = _paired(
            place,
            chains,
            folder / "pairs.jsonl",
            wanted.model_copy(update={"strategies": weights}),
        )
        return f"{statistics.pairs} pairs of {statistics.problems} problems"

    def train(self, place: Place) -> str:
        """DPO on these pairs, as `rounds` says where from and held to what."""
        pairs = place.round(self.number) / "pairs.jsonl"
        if next(read_pairs(pairs), None) is None:
            return "left out: the chains made no pair"
        how, best, first = place.settings.rounds, self._model(place), place.first()
        start = best if how.start == "current" else first
        reference = best if how.reference == "previous" else first
        other = None if reference == start else reference
        return _trained(place, self.name, place.settings.train.dpo, start, pairs, other)

    def choose(self, place: Place) -> str:
        """The checkpoint that does best on the validation problems."""
        if not (place.training(self.name) / "train.json").exists():
            return "left out: the chains made no pair"
        return choose(self.name)(place)


STAGES: dict[str, Callable[[Place], str]] = {
    "problems": write_problems,
    "collect teacher": collect_role("teacher"),
    "collect student": collect_role("student"),
    "search": search_errors,
    "augment": vary,
    "pairs": pair,
    "train sft": tune("sft"),
    "choose sft": choose("sft"),
    "train dpo": tune("dpo"),
    "choose dpo": choose("dpo"),
}
"""The stages of a task, in order, up to the rounds."""
EVALUATIONS = {f"evaluate {role}": measure(role) for role in ROLES}
"""The stages that end a task; then all tasks are compared and the report is written."""


def stages_of(settings: TaskRun) -> dict[str, Callable[[Place], str]]:
    """Every stage of a task, in order."""
    rounds: dict[str, Callable[[Place], str]] = {}
    for number in range(1, settings.rounds.count + 1):
        rounds |= Round(number).stages()
    return {**STAGES, **rounds, **EVALUATIONS}


# --- a run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunResult:
    """What a finished run gave."""

    folder: Path
    report: Path
    data: RunData
    """Evaluations and comparisons of every task."""
    seconds: dict[str, dict[str, float]]
    """Task → stage → seconds."""


def run_all(config: RunConfig, root: str | Path = "runs", *, fresh: bool = False) -> RunResult:
    """Run what is not done yet of every stage of every task, then compare and report.

    The run's folder is `root/NAME`. Raises `ConfigError` if it holds another run, unless `fresh`,
    which moves it aside first; `DataError` if another process is at work in it.
    """
    folder = Path(root) / config.name
    tasks = {name: load_task(place.task, **place.options) for name, place in config.tasks.items()}
    _check_operations(config, tasks)
    if fresh:
        _set_aside(folder)
    with _claimed(folder, config):
        places = [
            Place(config.tasks[name], task, config.seed, folder / name) for name, task in tasks.items()
        ]
        for place in places:
            _check_student(place)
        for place in places:
            _run_task(place)
        data = load_run(folder)
        for task_data in data.tasks:
            compared = [c.model_dump(mode="json") for c in task_data.comparisons]
            write_whole(folder / task_data.name / "comparison.json", json.dumps(compared, indent=2))
        page = folder / "report.html"
        write_report(data, page, title=config.report.title, examples=config.report.examples)
    return RunResult(
        folder=folder,
        report=page,
        data=data,
        seconds={p.folder.name: {s: line.seconds for s, line in p.done().items()} for p in places},
    )


def _check_student(place: Place) -> None:
    """Can the student be trained on chains at all? Asked before the teacher's are paid for. Raises
    `ConfigError` for a model without weights here, `RenderingError` for a template of no use."""
    if "train dpo" not in place.done():
        student = place.settings.models.student
        renderer = Renderer(load_tokenizer(student.weights, student.template))
        setting = place.setting("student")
        renderer.check(DIALECTS[setting.dialect].tools(setting.functions))


def _check_operations(config: RunConfig, tasks: Mapping[str, Task]) -> None:
    """Is every operation of augmentation there, those that are switched off included? Asked before
    anything is done. One that only another task of the run has is passed over by the tasks that lack
    it. Raises `ConfigError` or
    `DefinitionError`."""
    known = {operation for task in tasks.values() for operation in operations_of(task)}
    for name, task in tasks.items():
        for operation in config.tasks[name].augment.operations:
            if operation not in known:
                load_operation(task, operation)


def _run_task(place: Place) -> None:
    place.folder.mkdir(parents=True, exist_ok=True)
    done = place.done()
    stages = stages_of(place.settings)
    for number, (name, stage) in enumerate(stages.items(), 1):
        head = f"{place.folder.name} {number:>2}/{len(stages)} {name:<17}"
        if name in done:
            terminal.say(f"{head} done before: {done[name].summary}", quiet=True)
            continue
        terminal.say(f"{head} ...")
        started = time.monotonic()
        summary = stage(place)
        line = StageDone(stage=name, seconds=round(time.monotonic() - started, 2), summary=summary)
        place.mark(line)
        terminal.say(f"{head} {summary} ({line.seconds:.1f} s)")


@contextmanager
def _claimed(folder: Path, config: RunConfig) -> Iterator[None]:
    """The run's folder for this process alone, holding this config."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError("another process is at work in this run", value=str(folder)) from error
        _keep_config(folder / "config.toml", config)
        yield


def _keep_config(path: Path, config: RunConfig) -> None:
    if path.exists():
        differing = differing_keys(load_config(path), config)
        if differing:
            shown = ", ".join(differing[:8]) + (" and more" if len(differing) > 8 else "")
            raise ConfigError(
                f"{path.parent} holds a run with other settings",
                value=shown,
                remedy="Set them back, choose another name, or begin anew with --fresh.",
            )
    write_whole(path, dump_config(config))


def _set_aside(folder: Path) -> None:
    """Move a run's folder to the first free `NAME.N` beside it."""
    if folder.exists():
        number = next(n for n in count(1) if not folder.with_name(f"{folder.name}.{n}").exists())
        folder.rename(folder.with_name(f"{folder.name}.{number}"))


def tuned(student: ModelSpec, folder: Path) -> ModelSpec:
    """The student with what a training left in `folder`: an adapter over it, or full weights, with
    which the chat template lies."""
    if (folder / "adapter_config.json").exists():
        return student.model_copy(update={"adapter": str(folder), "name": None})
    whole = {"model": str(folder), "adapter": None, "chat_template": None, "name": None}
    return student.model_copy(update=whole)
