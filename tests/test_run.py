"""A whole run on toys: every stage, killed in the middle, resumed, refused with other settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rightcall import cluster, collecting, run
from rightcall.chain import Chain, ChainStore, Outcome, Problem
from rightcall.config import Rounds, RunConfig, load_config
from rightcall.errors import ConfigError, DataError, ModelError, RenderingError
from rightcall.files import read_lines
from rightcall.models import ChatModel, Request
from rightcall.models.spec import ModelSpec, open_model
from rightcall.pairs import PairConfig, make_pairs, read_pairs, write_pairs
from rightcall.rollout import Job, Setting, collect, rollouts
from rightcall.run import (
    EVALUATIONS,
    STAGES,
    Place,
    Round,
    RunResult,
    _claimed,
    collect_role,
    measure,
    pair,
    run_all,
    search_errors,
    tune,
    tuned,
    write_problems,
)
from rightcall.search import SearchConfig
from rightcall.train.trainer import train
from tiny_models import build_tiny
from toys import Played, Script, SumTask, chain, solver

pytestmark = [
    pytest.mark.slow,
    # peft's own call of a deprecated name
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

CONFIG = """
name = "toy"
seed = 5

[models]
teacher = "gold"
student = {{ model = "{student}", capacity = 4 }}

[collect]
teacher.samples = 1
student = {{ samples = 2, max_tokens = 48, steps = 2 }}

[train.sft]
batch_size = 4
save_every = 1

[train.dpo]
batch_size = 2
save_every = 1
gradient_checkpointing = false

[evaluate]
budgets = [1, 2]
samples = 1
max_tokens = 6

[tasks.sums]
task = "{toys}:SumTask"
problems = {{ train = 6, validation = 2, test = 4 }}
"""


WHOLE = [*STAGES, *EVALUATIONS]


def finished_stages(folder: Path) -> list[str]:
    path = folder / "stages.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["stage"] for line in lines]


def run_and_kill(config: Path, root: Path, when_done: str) -> None:
    """Start the command line in another process and kill it once a stage is done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rightcall.cli", "run", str(config), "--root", str(root)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while when_done not in finished_stages(root / "toy" / "sums"):
        if process.poll() is not None:
            _, log = process.communicate()
            pytest.fail(f"the run ended by itself: {log}")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def ends_its_turns(student: Path) -> Path:
    """Make a random model end most of its turns: its replies are noise, but whole."""
    model = AutoModelForCausalLM.from_pretrained(student)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] += 20
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[model.config.eos_token_id, 0] = 2
    model.save_pretrained(student)
    return student


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    student = ends_its_turns(build_tiny("llama", folder / "student", hidden=16, layers=1))
    path = folder / "toy.toml"
    path.write_text(CONFIG.format(student=student, toys=Path(__file__).with_name("toys.py")))
    return path


@pytest.fixture(scope="module")
def config(config_file: Path) -> RunConfig:
    return load_config(config_file)


@pytest.fixture(scope="module")
def resumed(config: RunConfig, config_file: Path) -> RunResult:
    """A run killed while it trained, then run again."""
    root = config_file.parent / "runs"
    run_and_kill(config_file, root, "pairs")
    assert finished_stages(root / "toy" / "sums")[-1] != WHOLE[-1]
    return run_all(config, root)


def test_a_killed_run_goes_on_and_finishes_every_stage_once(resumed: RunResult) -> None:
    assert finished_stages(resumed.folder / "sums") == WHOLE
    assert list(resumed.seconds["sums"]) == WHOLE


def test_every_file_of_a_run_is_where_the_docs_say(resumed: RunResult) -> None:
    folder = resumed.folder
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {
        "config.toml",
        "report.html",
        "sums/problems.train.jsonl",
        "sums/problems.validation.jsonl",
        "sums/problems.test.jsonl",
        "sums/chains/teacher.jsonl",
        "sums/chains/student.jsonl",
        "sums/pairs.jsonl",
        "sums/pairs.json",
        *(f"sums/train/{method}/metrics.jsonl" for method in ("sft", "dpo")),
        *(f"sums/train/{method}/train.json" for method in ("sft", "dpo")),
        "sums/train/dpo/reference.safetensors",
        "sums/selection.json",
        "sums/comparison.json",
        *(f"sums/eval/{role}.jsonl" for role in ("base", "teacher", "control", "tuned")),
        *(f"sums/eval/{role}.samples.jsonl" for role in ("base", "teacher", "control", "tuned")),
    } <= files
    assert not [name for name in files if name.endswith(".partial")]


def test_chains_come_from_both_roles_and_none_twice(resumed: RunResult) -> None:
    for role, samples, outcome in (("teacher", 1, Outcome.CORRECT), ("student", 2, Outcome.INCORRECT)):
        chains = list(ChainStore(resumed.folder / "sums" / "chains" / f"{role}.jsonl"))
        assert len({chain.key for chain in chains}) == len(chains) == 6 * samples
        assert {chain.source for chain in chains} == {role}
        assert {chain.outcome for chain in chains} == {outcome}


def opened_by(monkeypatch: pytest.MonkeyPatch, opening: Callable[..., ChatModel]) -> None:
    """Every stage gets its models from there."""
    for module in (run, cluster):
        monkeypatch.setattr(module, "open_model", opening)


def test_errored_chains_are_tried_a_second_time_and_nothing_else_is(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([ModelError("overloaded")])
    rounds: list[int] = []

    def once_overloaded(request: Request) -> str | ModelError:
        return next(failures, None) or solver(request)

    def counted(*args: Any, **options: Any) -> ChainStore:
        rounds.append(1)
        return collect(*args, **options)

    opened_by(monkeypatch, lambda *_, **__: Played(once_overloaded))
    monkeypatch.setattr(collecting, "collect", counted)
    place = Place(config.tasks["sums"], SumTask(), 5, tmp_path)
    write_problems(place)
    for role, tries in (("teacher", 2), ("student", 1)):
        rounds.clear()
        assert collect_role(role)(place).endswith("correct, 0 incorrect, 0 errored")
        assert len(rounds) == tries
    assert len(list(ChainStore(place.chains("teacher")))) == 7


def test_a_run_trains_on_no_test_problem(config: RunConfig, tmp_path: Path) -> None:
    """However it came into the pairs."""
    place = Place(config.tasks["sums"], SumTask(), 5, tmp_path)
    write_problems(place)
    asked = place.problems("test")[0]
    made = [
        chain(*asked.gold, question=asked.question),
        chain("add(1)", question=asked.question, right=False),
    ]
    write_pairs(make_pairs(made), place.pairs)
    with pytest.raises(DataError, match=f"the training data, the first is problem {asked.id}"):
        tune("sft")(place)
    assert not place.training("sft").exists()


def test_chains_made_elsewhere_take_the_place_of_a_teacher(config: RunConfig, tmp_path: Path) -> None:
    made = tmp_path / "import.jsonl"
    task = SumTask()
    problems = [*task.problems("train", 3, 5), *task.problems("test", 2, 5)]
    setting = Setting(task, task.function_set(), "gpt-4")
    collect(setting, Played(solver), problems, 1, made)
    settings = config.tasks["sums"].model_copy(deep=True)
    teacher = settings.collect.teacher.model_copy(update={"chains": (str(made),)})
    both = settings.collect.model_copy(update={"teacher": teacher})
    place = Place(settings.model_copy(update={"collect": both}), task, 5, tmp_path / "sums")
    write_problems(place)
    for _ in range(2):  # a stage that was cut is called again
        assert collect_role("teacher")(place) == (
            "3 correct, 0 incorrect, 0 errored; 2 chains of other problems left out"
        )
    chains = list(ChainStore(place.chains("teacher")))
    assert {chain.source for chain in chains} == {"teacher"}
    assert {chain.problem_id for chain in chains} == {problem.id for problem in problems[:3]}
    assert measure("teacher")(place).startswith("left out")
    assert not place.evaluation("teacher").exists()


def test_chains_of_no_training_problem_are_refused(config: RunConfig, tmp_path: Path) -> None:
    task = SumTask()
    (tmp_path / "none.jsonl").touch()
    for file, message in (("none.jsonl", "no chain of these files"), ("gone.jsonl", "no such file")):
        teacher = config.tasks["sums"].collect.teacher.model_copy(
            update={"chains": (str(tmp_path / file),)}
        )
        both = config.tasks["sums"].collect.model_copy(update={"teacher": teacher})
        settings = config.tasks["sums"].model_copy(update={"collect": both})
        place = Place(settings, task, 5, tmp_path / "sums")
        write_problems(place)
        with pytest.raises(DataError, match=message):
            collect_role("teacher")(place)


def test_a_search_finds_the_first_errors_and_the_pairs_rest_on_it(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsteady(request: Request) -> str:
        """Begins with a fatal step, or with one it always recovers from."""
        if len(request.messages) == 2 and request.seed % 3:
            return "record(13)"
        fatal = any(m["content"] == "record(13)" for m in request.messages)
        return 'stop("0")' if fatal else solver(request)

    opened_by(monkeypatch, lambda *_, **__: Played(unsteady, capacity=3))
    settings = config.tasks["sums"].model_copy(
        update={
            "search": SearchConfig(rollouts=4),
            "pairs": PairConfig(strategies={"first_error": 1.0}, max_per_problem=1),
        }
    )
    place = Place(settings, SumTask(), 5, tmp_path)
    write_problems(place)
    collect_role("teacher")(place)
    collect_role("student")(place)
    said = search_errors(place)
    wrong = {
        chain.problem_id
        for chain in ChainStore(place.chains("student"))
        if chain.outcome is Outcome.INCORRECT
    }
    right = {
        chain.problem_id
        for role in ("teacher", "student")
        for chain in ChainStore(place.chains(role))
        if chain.outcome is Outcome.CORRECT
    }
    both = wrong & right
    assert both
    assert said == f"first error of {len(both)} of {len(both)} wrong chains, {4 * len(both)} rollouts"
    assert pair(place) == f"{len(both)} pairs of {len(both)} problems"
    assert {(p.basis, p.rejected_count >= 5) for p in read_pairs(place.pairs)} == {("rollouts", True)}


def test_imported_chains_are_searched_by_the_student_only_if_that_is_asked_for(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_by(monkeypatch, lambda *_, **__: Played(solver, capacity=3))
    task = SumTask()
    problems = list(task.problems("train", 3, 5))

    def logged(model: str, reply: Script) -> list[Chain]:
        setting = Setting(task, task.function_set(), "log")
        return list(rollouts(setting, Played(reply, name=model), map(Job, problems)))

    log = [*logged("gpt-4", lambda _: 'stop("0")'), *logged("gpt-5", solver)]
    ChainStore(tmp_path / "log.jsonl").append(log)
    own = config.tasks["sums"]
    student = own.collect.student.model_copy(update={"chains": (str(tmp_path / "log.jsonl"),)})
    collect = own.collect.model_copy(update={"student": student})
    asked = SearchConfig(rollouts=4)
    settings = own.model_copy(update={"search": asked, "collect": collect})
    place = Place(settings, task, 5, tmp_path / "sums")
    write_problems(place)
    collect_role("student")(place)
    with pytest.raises(DataError, match=r"another model: 'gpt-4'.*'played'.*search.any_model"):
        search_errors(place)
    any_model = asked.model_copy(update={"any_model": True})
    place = replace(place, settings=settings.model_copy(update={"search": any_model}))
    assert search_errors(place).startswith("first error of 3 of 3 wrong chains")


def test_a_search_is_left_out_unless_it_is_asked_for(config: RunConfig, tmp_path: Path) -> None:
    place = Place(config.tasks["sums"], SumTask(), 5, tmp_path)
    assert search_errors(place) == "left out"
    assert not place.chains("search").exists()


def test_pairs_prefer_the_teacher_where_the_student_has_nothing_right(resumed: RunResult) -> None:
    pairs = list(read_pairs(resumed.folder / "sums" / "pairs.jsonl"))
    assert len(pairs) >= 6
    assert {(made.chosen_source, made.rejected_source) for made in pairs} == {("teacher", "student")}


def test_the_kept_checkpoint_was_chosen_on_validation_problems(resumed: RunResult) -> None:
    table = json.loads((resumed.folder / "sums" / "selection.json").read_text())
    assert table.keys() == {"sft", "dpo"}
    for method, selection in table.items():
        names = [candidate["name"] for candidate in selection["candidates"]]
        assert selection["best"] in names
        assert names[-1] == "final"
        assert len(names) > 1
        chains = ChainStore(resumed.folder / "sums" / "selection" / method / f"{names[0]}.jsonl")
        assert {chain.problem_id.split("-")[0] for chain in chains} == {"validation"}


def test_all_roles_are_evaluated_on_the_same_test_problems(resumed: RunResult) -> None:
    (task,) = resumed.data.tasks
    ids = {p.id for p in read_lines(resumed.folder / "sums" / "problems.test.jsonl", Problem)}
    assert len(ids) == 4
    assert task.evaluations.keys() == {"base", "teacher", "control", "tuned"}
    for evaluation in task.evaluations.values():
        assert {score.problem_id for score in evaluation.scores} == ids
        assert evaluation.samples == 1
    assert task.evaluations["teacher"].accuracy["2"].value == 1.0
    compared = json.loads((resumed.folder / "sums" / "comparison.json").read_text())
    assert [c["b"] for c in compared if c["a"] == "base"] == ["tuned", "control"]


def test_a_finished_run_repeats_nothing(resumed: RunResult, config: RunConfig) -> None:
    before = {p: p.stat().st_mtime_ns for p in resumed.folder.rglob("*.jsonl")}
    again = run_all(config, resumed.folder.parent)
    assert {p: p.stat().st_mtime_ns for p in resumed.folder.rglob("*.jsonl")} == before
    assert again.seconds == resumed.seconds


def test_a_run_with_other_settings_is_refused_with_the_keys(
    resumed: RunResult, config_file: Path
) -> None:
    other = load_config(config_file, ["tasks.sums.train.dpo.beta=0.5", "evaluate.samples=2"])
    with pytest.raises(
        ConfigError, match=r"tasks\.sums\.evaluate\.samples, tasks\.sums\.train\.dpo\.beta"
    ):
        run_all(other, resumed.folder.parent)


def test_what_the_report_alone_reads_may_change(resumed: RunResult, config_file: Path) -> None:
    retitled = run_all(load_config(config_file, ["report.title=Sums & more"]), resumed.folder.parent)
    assert "Sums &amp; more" in retitled.report.read_text()
    assert retitled.seconds == resumed.seconds


@pytest.mark.parametrize(
    ("student", "error", "message"),
    [("template", RenderingError, "rewrites earlier turns"), ("gold", ConfigError, "without weights")],
)
def test_a_student_that_cannot_be_trained_is_found_before_any_stage(
    config_file: Path, tmp_path: Path, student: str, error: type[Exception], message: str
) -> None:
    if student == "template":
        student = str(build_tiny("llama", tmp_path / "student", hidden=16, layers=1, heads=2))
        thoughtful = (
            "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}<think>{% endif %}"
            "{{ m.content }}<|im_end|>{% endfor %}"
        )
        (tmp_path / "student" / "chat_template.jinja").write_text(thoughtful)
    config = load_config(config_file, [f"models.student={student}"])
    with pytest.raises(error, match=message):
        run_all(config, tmp_path / "runs")
    assert finished_stages(tmp_path / "runs" / "toy" / "sums") == []


def test_two_processes_cannot_work_in_one_run(config: RunConfig, tmp_path: Path) -> None:
    with _claimed(tmp_path / "toy", config), pytest.raises(DataError, match="another process"):
        run_all(config, tmp_path)


def test_fresh_moves_the_old_run_aside(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "precious").write_text("hours of work")
    (tmp_path / "toy.1").mkdir()
    broken = config.model_copy(
        update={"tasks": {"sums": config.tasks["sums"].model_copy(update={"functions": "nope"})}}
    )
    with pytest.raises(Exception, match="no function subset"):
        run_all(broken, tmp_path, fresh=True)
    assert (tmp_path / "toy.2" / "precious").read_text() == "hours of work"


# --- on-policy rounds -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a task whose DPO training is done and chosen, by a student that is always wrong."""
    place = Place(config.tasks["sums"], SumTask(), 5, tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patched:
        opened_by(patched, improving(steps=()))
        for stage in ("problems", "collect teacher", "collect student", "pairs", "train sft"):
            STAGES[stage](place)
        for stage in ("choose sft", "train dpo", "choose dpo"):
            STAGES[stage](place)
    return place.folder


def with_rounds(config: RunConfig, trained: Path, folder: Path, **rounds: Any) -> Place:
    """A copy of what was trained, that is to have rounds."""
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    settings = config.tasks["sums"].model_copy(update={"rounds": Rounds(count=3, **rounds)})
    return Place(settings, SumTask(), 5, folder)


def improving(steps: tuple[str, ...]) -> Any:
    """Models by what they were trained in: those of the named rounds solve, any other is wrong."""

    def opened(spec: ModelSpec, problems: Any = (), **options: Any) -> Any:
        if spec.kind == "gold":
            return open_model(spec, problems)
        weights = spec.adapter or spec.model
        good = any(f"rounds/{step}/" in weights for step in steps)
        # once in a while each does the other thing, so that there is something to learn
        return Played(lambda r: solver(r) if good != (r.seed % 7 == 0) else 'stop("0")', name=weights)

    return opened


def run_rounds(place: Place) -> dict[str, str]:
    return {
        name: stage(place) for number in (1, 2, 3) for name, stage in Round(number).stages().items()
    }


def test_rounds_go_on_while_they_help_and_the_best_is_kept(
    config: RunConfig, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_by(monkeypatch, improving(steps=("1", "2")))
    place = with_rounds(config, trained, tmp_path)
    said = run_rounds(place)
    chosen = place.selections()
    assert [name for name in chosen if name.startswith("round")] == ["round 1", "round 2"]
    assert chosen["round 1"].kept.right_reason.value > chosen["dpo"].kept.right_reason.value
    assert place.best() == "round 1", "of equals the first"
    assert "rounds/1/train" in str(place.kept(place.best()))
    assert "rounds/1/train" in str(place.model("tuned").adapter)
    assert {said[f"round 3 {part}"] for part in ("collect", "pair", "train", "choose")} == {
        "left out: round 2 did not help"
    }
    chains = list(ChainStore(place.round(2) / "chains.jsonl"))
    assert {c.problem_id for c in chains} == {p.id for p in place.problems("train")}
    assert all("rounds/1/train" in chain.model for chain in chains), "collected from the best so far"
    seeds = [
        {chain.seed for chain in ChainStore(place.round(number) / "chains.jsonl")} for number in (1, 2)
    ]
    assert not seeds[0] & seeds[1], "no round draws what the one before drew"
    assert run_rounds(place) == said, "called again, it does nothing else"


def test_rounds_end_where_the_first_does_not_help(
    config: RunConfig, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_by(monkeypatch, improving(steps=()))
    place = with_rounds(config, trained, tmp_path)
    said = run_rounds(place)
    assert place.best() == "dpo"
    assert said["round 1 choose"].startswith(("checkpoint", "final"))
    assert {said["round 2 collect"], said["round 3 choose"]} == {
        "left out: round 1 did not help",
        "left out: there was no round 2",
    }


@pytest.mark.parametrize(
    ("start", "reference", "begins", "held_to"),
    [
        ("current", "previous", "train/dpo", None),
        ("current", "base", "train/dpo", "train/sft"),
        ("first", "previous", "train/sft", "train/dpo"),
        ("first", "base", "train/sft", None),
    ],
)
def test_a_round_begins_where_it_is_told_and_is_held_to_what_it_is_told(
    config: RunConfig,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    reference: str,
    begins: str,
    held_to: str | None,
) -> None:
    opened_by(monkeypatch, improving(steps=("1",)))
    place = with_rounds(config, trained, tmp_path, start=start, reference=reference)
    seen: list[tuple[str, Any]] = []

    def watched(*args: Any, adapter: str, reference: Any, **options: Any) -> Any:
        seen.append((adapter, reference))
        return train(*args, adapter=adapter, reference=reference, **options)

    monkeypatch.setattr(run, "train", watched)
    for stage in Round(1).stages().values():
        stage(place)
    ((adapter, other),) = seen
    assert begins in adapter
    assert (other is None) == (held_to is None)
    assert held_to is None or held_to in other.adapter


def test_a_tuned_model_is_an_adapter_over_the_student_or_full_weights(
    config: RunConfig, tmp_path: Path
) -> None:
    student = config.tasks["sums"].models.student
    assert tuned(student, tmp_path).model == str(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    adapted = tuned(student, tmp_path)
    assert (adapted.model, adapted.adapter) == (student.model, str(tmp_path))
