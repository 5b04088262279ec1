"""The command line, called as a user calls it."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rightcall import __version__, cli, terminal
from rightcall.chain import ChainStore
from rightcall.errors import ModelError
from rightcall.functions import Function, FunctionSet
from rightcall.models import Request
from rightcall.pairs import read_pairs
from rightcall.rollout import Job, Setting, rollouts
from rightcall.task import BUILT_IN, load_task
from toys import Played, SumTask, chain

DATES = str(Path(__file__).parents[1] / "examples" / "my_task.py") + ":Dates"
SUMS = str(Path(__file__).with_name("toys.py")) + ":SumTask"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def rightcall(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["rightcall", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    """Right chains of a teacher, wrong ones of a student, on three problems."""
    path = tmp_path / "chains.jsonl"
    made = []
    for problem in ("p1", "p2", "p3"):
        asked = {"problem": problem, "question": f"What is 1 + 1, {problem}?"}
        made.append(chain("add(1, 1)", 'stop("2")', source="teacher", **asked))
        made.append(chain("add(1, 2)", 'stop("3")', right=False, **asked))
    ChainStore(path).append(made)
    return path


def test_help_names_every_command(rightcall: Command) -> None:
    ended = rightcall("--help")
    assert ended.code == 0
    for command in (
        "tasks", "solve", "collect", "search", "tree", "pairs", "train", "evaluate", "compare",
        "report", "run",
    ):  # fmt: skip
        assert f"\n  {command} " in ended.out
        assert rightcall(command, "--help").code == 0


def test_the_version_is_told(rightcall: Command) -> None:
    assert rightcall("--version").out == f"rightcall {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tasks", "show", "fool"), "error: unknown task: 'fool'. Did you mean 'fol'?"),
        (("solve", "no.module:X"), "error: no such module: 'no.module'. A file is written"),
        (("tasks", "show", "rightcall.nothing:X"), "error: no such module: 'rightcall.nothing'"),
        (("tasks", "check", SUMS, "--functions", "shrt"), "no function subset of that name: 'shrt'"),
        (("tasks", "show", "nofile.py:Task"), "error: no such file: 'nofile.py'."),
        (
            ("tasks", "show", DATES, "test-0-7777"),
            "error: no such problem in dates, test",
        ),
        (("tasks", "show", SUMS, "--functions", "shrt"), "no function subset of that name: 'shrt'"),
        (("tasks", "show", DATES, "--option", "colour=1"), "does not take these options"),
        (("solve", DATES, "--model", "http://localhost:1/v1"), "needs a model's name"),
        (("run", "none.toml"), "error: the run file cannot be read: 'none.toml'"),
        (("pairs", "stats", "none.jsonl"), "error: there is no pairs file: 'none.jsonl'"),
        (("pairs", "make", "none.jsonl", "--out", "x"), "error: no such file or folder: 'none.jsonl'"),
        (("compare", "a.jsonl", "b.jsonl"), "error: no such file or folder: 'a.jsonl'"),
        (("report", "nowhere"), "error: no such file or folder: 'nowhere'"),
        (("tasks", "shw"), "No such command 'shw'"),
        (("solve",), "Missing argument"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    rightcall: Command,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = rightcall(*arguments)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_tasks_lists_the_built_in_ones_for_people_and_programs(rightcall: Command) -> None:
    table = json.loads(rightcall("tasks", "list", "--json").out)
    assert {"fol", "math", "gsm8k"} <= table.keys()
    assert rightcall("tasks").out == rightcall("tasks", "list").out
    for task, facts in table.items():
        assert facts["functions"]
        assert task in rightcall("tasks").out


def test_tasks_lists_presets_with_their_options(rightcall: Command) -> None:
    table = json.loads(rightcall("tasks", "list", "--json").out)
    assert table["fol"]["presets"] == {"tiny-fol": {"words": 32, "made_up": 0.0}}
    assert "  preset  tiny-fol: words = 32, made_up = 0.0\n" in rightcall("tasks").out
    assert "tiny-math" in rightcall("tasks").out


def test_show_executes_the_gold_chain_of_the_chosen_functions(rightcall: Command) -> None:
    shown = rightcall("tasks", "show", "math", "0", "--functions", "calculator").out
    assert "calculate(" in shown
    assert "Error" not in shown


def test_an_unknown_problem_is_answered_with_the_three_nearest(rightcall: Command) -> None:
    ended = rightcall("tasks", "show", DATES, "test-0-7777")
    assert re.search(r"The nearest are test-0-77\d?, [\w-]+, [\w-]+\.$", ended.err.strip())


def test_a_step_before_a_model_error_is_shown_once(
    rightcall: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rightcall.models import spec

    def failing(request: Request) -> str | ModelError:
        return "add(2000, 7)" if len(request.messages) == 2 else ModelError("gone")

    monkeypatch.setattr(spec, "open_model", lambda *_: Played(failing))
    ended = rightcall("solve", SUMS)
    assert ended.code == 1
    assert ended.out.count("add(2000, 7)") == 1
    assert "gone" in ended.out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.fol.task=nope", "unknown task: 'nope'"),
        ("tasks.fol.options.wrods=3", "does not take these options"),
        ("tasks.fol.options.words=3", "at least 20 words"),
        ("tasks.fol.functions=prov", "no function subset of that name: 'prov'. Did you mean 'prove'"),
        ("tasks.math.options.families=['shoping']", "Did you mean 'shopping'?"),
    ],
)
def test_checking_a_run_file_looks_at_its_tasks_too(
    rightcall: Command, override: str, message: str
) -> None:
    demo = Path(__file__).parents[1] / "examples" / "demo.toml"
    ended = rightcall("run", demo, "--check", "--set", override)
    assert ended.code == 2
    assert message in ended.err
    assert ended.out == ""


def test_show_gives_the_prompt_and_executes_gold_chains(rightcall: Command) -> None:
    shown = rightcall("tasks", "show", SUMS, "0", "test-0-1").out
    assert "add(a: int, b: int): Add two numbers. Example: add(2, 3) -> 5" in shown
    assert "add(2000, 7)\n     → 2007\n" in shown
    assert "gold answer: 2008" in shown


def test_check_passes_a_sound_task_and_fails_a_broken_one(rightcall: Command, tmp_path: Path) -> None:
    sound = rightcall("tasks", "check", DATES, "--count", "20")
    assert (sound.code, sound.err) == (0, "")
    source = Path(DATES.removesuffix(":Dates")).read_text()
    broken = tmp_path / "broken.py"
    broken.write_text(source.replace("answer=str(days)", "answer=str(days + 1)"))
    ended = rightcall("tasks", "check", f"{broken}:Dates", "--count", "20", "--json")
    assert ended.code == 1
    assert any(finding["failed"] for finding in json.loads(ended.out)["findings"])


def test_solve_shows_every_step_and_the_verdict(rightcall: Command) -> None:
    ended = rightcall("solve", SUMS, "--model", "gold", "--problem", "3")
    assert ended.code == 0
    assert [line for line in ended.out.splitlines() if line] == [
        "test-0-3",
        "What is 2003 + 7?",
        "  1  add(2003, 7)",
        "     → 2010",
        '  2  stop("2010")',
        "     → 2010",
        "answer: 2010   ✔ correct, process right",
        ended.out.splitlines()[-1],
    ]
    assert ended.out.splitlines()[-1].startswith("stopped; 2 steps, ")


def test_solve_gives_the_whole_chain_as_json(rightcall: Command) -> None:
    ended = rightcall("solve", SUMS, "--model", "gold", "--problem", "test-0-3", "--json")
    made = json.loads(ended.out)
    assert made["outcome"] == "correct"
    assert [step["reply"] for step in made["steps"]] == ["add(2003, 7)", 'stop("2010")']


def test_a_question_of_ones_own_is_not_judged_and_a_failed_model_is_told(rightcall: Command) -> None:
    ended = rightcall("solve", SUMS, "--model", "gold", "--question", "What is 1 + 1?")
    assert ended.code == 1
    assert "no answer   not judged" not in ended.out
    assert "the script has no reply" in ended.out


def test_model_text_cannot_steer_the_terminal(rightcall: Command, tmp_path: Path) -> None:
    source = Path(DATES.removesuffix(":Dates")).read_text()
    hostile = tmp_path / "hostile.py"
    hostile.write_text(source.replace('f"How many', 'f"\\x1b[2J[red]How many'))
    shown = rightcall("tasks", "show", f"{hostile}:Dates").out
    assert "\x1b" not in shown
    assert r"\x1b[2J[red]How many" in shown


def test_collect_is_resumed_and_adds_nothing(rightcall: Command, tmp_path: Path) -> None:
    out = tmp_path / "chains.jsonl"
    arguments = ("collect", SUMS, "--model", "gold", "--count", 3, "--samples", 2, "--out", out)
    first = rightcall(*arguments)
    assert first.code == 0
    assert "100.0%" in first.out
    written = out.read_bytes()
    assert len(written.splitlines()) == 6
    assert rightcall(*arguments).out == first.out
    assert out.read_bytes() == written


def test_chains_may_take_the_tasks_largest_budget_unless_told_otherwise(
    rightcall: Command, tmp_path: Path
) -> None:
    arguments = ("collect", "rules", "--model", "gold", "--count", 30, "--samples", 1)
    arguments = (*arguments, "--temperature", 0, "--out")
    assert rightcall(*arguments, tmp_path / "whole.jsonl").code == 0
    assert rightcall(*arguments, tmp_path / "cut.jsonl", "--steps", 20).code == 0
    lengths = [len(chain.steps) for chain in ChainStore(tmp_path / "whole.jsonl")]
    assert max(lengths) > 20
    cut = [len(chain.steps) for chain in ChainStore(tmp_path / "cut.jsonl")]
    assert sorted(cut) == sorted(min(20, n) for n in lengths)


def test_pairs_are_made_counted_and_checked_for_leaks(
    rightcall: Command, chains: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pairs.jsonl"
    assert rightcall("pairs", "make", chains, "--out", out).code == 0
    assert len(list(read_pairs(out))) == 3
    statistics = json.loads(rightcall("pairs", "stats", out, "--json").out)
    assert statistics["sources"] == {"teacher > student": 3}
    assert rightcall("pairs", "make", chains, "--out", out, "--set", "strategies={step=1}").code == 0
    assert {pair.strategy for pair in read_pairs(out)} == {"step"}
    test = tmp_path / "problems.jsonl"
    test.write_text('{"id": "t", "question": "what is 1 + 1 p2", "answer": "2"}\n')
    leaking = rightcall("pairs", "make", chains, "--out", out, "--test", test)
    assert leaking.code == 2
    assert "test questions are in the training data" in leaking.err


@pytest.mark.parametrize("how", [(), ("--dry-run",)])
def test_no_training_starts_on_a_test_problem(
    rightcall: Command, chains: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    pairs, test, out = (tmp_path / name for name in ("pairs.jsonl", "problems.jsonl", "tuned"))
    rightcall("pairs", "make", chains, "--out", pairs)
    arguments = ("train", pairs, "--out", out, *how, "--test", test)
    assert "no such file or folder" in rightcall(*arguments).err
    test.write_text('{"id": "t", "question": "what is 1 + 1 p2", "answer": "2"}\n')
    leaking = rightcall(*arguments)
    assert leaking.code == 2
    assert "1 test questions are in the training data, the first is problem t" in leaking.err
    assert not out.exists()
    test.write_text('{"id": "t", "question": "what is 1 + 2", "answer": "3"}\n')
    assert rightcall("train", pairs, "--out", out, "--dry-run", "--test", test).code == 0


def test_leaks_are_looked_for_in_all_problems_that_there_are(
    rightcall: Command, tmp_path: Path
) -> None:
    def line(number: int, question: str) -> str:
        return json.dumps({"question": question, "answer": f"#### {number}"}) + "\n"

    ann, bob = "Ann has {} red pens on her desk.", "Bob has as many and {} more."
    for split, text, numbers in (
        ("train", f"{ann} {bob} How many has Bob?", range(3001)),
        ("test", f"{bob} {ann} How many has Bob?", range(2900, 3001)),
    ):
        lines = (line(2 * n, text.format(n, n)) for n in numbers)
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    arguments = ("tasks", "leaks", "gsm8k", "--option", f"path={tmp_path}", "--json")
    found = rightcall(*arguments)
    assert found.code == 1
    assert {leak["kind"] for leak in json.loads(found.out)["leaks"]} == {"reordered"}
    some = rightcall(*arguments, "--count", 2000)
    assert json.loads(some.out)["train"] == 2000 < json.loads(found.out)["train"]


@pytest.mark.parametrize("task", ["tiny-math", "rules", "reasoning_gym"])
def test_leaks_are_looked_for_in_some_problems_of_those_without_end(
    rightcall: Command, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rightcall.cli.ENDLESS", 50)
    generated = json.loads(rightcall("tasks", "leaks", task, "--json").out)
    assert generated["train"] == generated["test"] == 50


def test_a_file_to_look_for_leaks_in_is_named_where_it_cannot_be_read(
    rightcall: Command, tmp_path: Path
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_bytes(b'{"id": "\xff"}\n')
    ended = rightcall("tasks", "leaks", SUMS, "--train", file)
    assert (ended.code, "problems.jsonl, line 1, is not a Problem" in ended.err) == (2, True)


def test_strategies_are_compared_in_one_table(rightcall: Command, chains: Path) -> None:
    shown = rightcall("pairs", "compare", chains).out
    assert shown.splitlines()[2].split() == ["chain", "step", "first_error", "repair"]
    some = rightcall("pairs", "compare", chains, "--strategy", "step", "--json")
    assert json.loads(some.out)["step"]["pairs"] == 3
    assert "Did you mean 'step'?" in rightcall("pairs", "compare", chains, "--strategy", "stp").err


def wrong_sums(path: Path, count: int) -> Path:
    """A student's wrong chains of the problems that `collect` would ask."""
    task = SumTask()
    setting = Setting(task, task.function_set(), "student", seed=1)
    jobs = [Job(problem) for problem in task.problems("train", count)]
    wrong = Played(lambda request: "record(1)" if len(request.messages) == 2 else 'stop("0")')
    ChainStore(path).append(rollouts(setting, wrong, jobs))
    return path


def test_a_search_finds_first_errors_by_the_process_or_by_the_answer(
    rightcall: Command, tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right.jsonl", wrong_sums(tmp_path / "wrong.jsonl", 3)
    rightcall("collect", SUMS, "--model", "gold", "--count", 3, "--samples", 1, "--out", right)
    common = ("search", SUMS, right, wrong, "--model", "gold", "--count", 3, "-k", 4)
    out = tmp_path / "search.jsonl"
    refused = rightcall(*common, "--out", out)
    assert refused.code == 2
    assert "another model: 'played'" in refused.err
    common = (*common, "--any-model")
    found = rightcall(*common, "--out", out)
    assert found.code == 0
    # the gold player goes on with its second turn: a right answer without the sum having been made
    assert re.search(r"first error at step 1 +3\s", found.out)
    assert len(list(ChainStore(out))) == 12
    assert rightcall(*common, "--out", out).out == found.out
    by_answer = rightcall(*common, "--out", tmp_path / "other.jsonl", "--by", "answer")
    assert re.search(r"first error at step 2 +3\s", by_answer.out)
    pairs = tmp_path / "pairs.jsonl"
    config = ("--set", "strategies={first_error=1}")
    assert rightcall("pairs", "make", right, wrong, out, "--out", pairs, *config).code == 0
    assert {pair.basis for pair in read_pairs(pairs)} == {"rollouts"}
    assert "by process or by answer" in rightcall(*common, "--out", out, "--by", "luck").err


def test_a_tree_is_shown_or_drawn(rightcall: Command, chains: Path, tmp_path: Path) -> None:
    shown = rightcall("tree", chains, "--problem", "p2").out
    assert shown.startswith("What is 1 + 1, p2?\n")
    assert "1/2 prompt" in shown
    assert "0/1 add(1, 2)" in shown
    picture = tmp_path / "tree.svg"
    assert rightcall("tree", chains, "--svg", picture).out == f"{picture}\n"
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    lost = rightcall("tree", chains, "--problem", "p22")
    assert (lost.code, "Did you mean 'p2'?" in lost.err) == (2, True)


def test_a_wrong_setting_of_a_stage_is_refused_with_the_nearest_key(
    rightcall: Command, chains: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pairs.jsonl"
    ended = rightcall("pairs", "make", chains, "--out", out, "--set", "max_per_problm=1")
    assert ended.code == 2
    assert "Did you mean 'max_per_problem'?" in ended.err


def test_evaluate_and_compare_print_tables_and_json(rightcall: Command, tmp_path: Path) -> None:
    for source in ("base", "tuned"):
        out = tmp_path / f"{source}.jsonl"
        common = ("evaluate", SUMS, "--model", "gold", "--count", 4, "--source", source, "--out", out)
        shown = rightcall(*common, "--set", "counterfactual=4").out
        assert "100.0%" in shown
        assert "the answer is the one before" in shown  # who plays a record computes nothing
        assert json.loads(rightcall(*common, "--json").out)["accuracy"]["20"]["value"] == 1.0
    both = (tmp_path / "base.jsonl", tmp_path / "tuned.jsonl")
    assert "0/0/4" in rightcall("compare", *both).out
    assert json.loads(rightcall("compare", *both, "--json").out)["problems"] == 4


def test_output_off_a_terminal_is_plain_and_unwrapped(rightcall: Command) -> None:
    shown = rightcall("tasks", "show", SUMS, "0").out
    assert "\x1b" not in shown
    help_line = next(line for line in shown.splitlines() if line.startswith("record("))
    assert "Example: record(4) -> 1 recorded" in help_line


def test_a_run_file_can_be_looked_at_without_running(rightcall: Command) -> None:
    demo = Path(__file__).parents[1] / "examples" / "demo.toml"
    ended = rightcall("run", demo, "--check", "--set", "name=other", "--set", "seed=3")
    assert ended.code == 0
    assert 'name = "other"' in ended.out
    assert "seed = 3" in ended.out


def test_a_module_that_lacks_an_import_of_its_own_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "needy_tasks.py").write_text("import no_such_library\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            load_task("needy_tasks:Mine")


def test_a_problem_is_looked_for_by_id_no_further_than_it_is(
    rightcall: Command, tmp_path: Path
) -> None:
    lazy = tmp_path / "lazy.py"
    lazy.write_text(
        "from toys import SumTask\n"
        "class Costly(SumTask):\n"
        "    def problems(self, split, count=None, seed=0):\n"
        "        for index, problem in enumerate(super().problems(split, count, seed)):\n"
        "            assert index < 4\n"
        "            yield problem\n"
    )
    ended = rightcall("solve", f"{lazy}:Costly", "--model", "gold", "--problem", "test-0-3")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("fol", ["hops", "max_sentences", "provers", "words", "made_up"]),
        ("math", ["steps", "families"]),
        ("gsm8k", ["path"]),
    ],
)
def test_show_and_the_docs_name_every_option_of_a_task(
    task: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    target = BUILT_IN[task].split(":")
    kind = getattr(importlib.import_module(target[0]), target[1])
    assert list(inspect.signature(kind).parameters) == options
    terminal.show_task(terminal.out(), kind())
    shown = capsys.readouterr().out
    page = (Path(__file__).parents[1] / "docs" / "writing-a-task.md").read_text(encoding="utf-8")
    for option in options:
        assert f"\n  {option}: " in shown
        assert f"`{option}`" in kind.__doc__
        assert f"| `{task}` | `{option}` |" in page


def test_an_unjudged_task_chooses_functions_as_the_task_does() -> None:
    class Choosy(SumTask):
        @property
        def functions(self) -> Sequence[Function]:  # type: ignore[override]
            raise AssertionError("all functions were asked for")

        def function_set(self, subset: str | Sequence[str] | None = None) -> FunctionSet:
            return FunctionSet(SumTask.functions[:1])

    assert [made.name for made in terminal.Unjudged(Choosy()).function_set("short")] == ["add"]


def test_check_takes_a_subset_of_functions(rightcall: Command) -> None:
    made = rightcall("tasks", "check", SUMS, "--count", 3, "--functions", "short", "--json")
    assert (made.code, json.loads(made.out)["functions"]) == (0, ["add", "stop"])
    none = rightcall("tasks", "check", SUMS, "--count", 3, "--functions", "stop,record")
    assert none.code == 0
    assert "no gold chain with these functions" in none.out


def test_a_report_is_made_with_the_runs_own_settings_unless_others_are_given(
    rightcall: Command, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text('[report]\ntitle = "Sums of June"\n[tasks.sums]\n')
    page = tmp_path / "report.html"
    assert rightcall("report", tmp_path).code == 0
    assert "<title>Sums of June" in page.read_text(encoding="utf-8")
    assert rightcall("report", tmp_path, "--title", "Other").code == 0
    assert "<title>Other" in page.read_text(encoding="utf-8")


def test_samples_that_would_all_be_the_same_are_refused(rightcall: Command, tmp_path: Path) -> None:
    ended = rightcall(
        *("collect", "tiny-math", "--model", "gold", "--samples", 2, "--temperature", 0),
        *("--out", tmp_path / "chains.jsonl"),
    )
    assert ended.code == 2
    assert "at temperature 0 all samples of a problem are the same" in ended.err


def test_chains_that_make_no_pair_are_an_error_and_leave_no_file(
    rightcall: Command, tmp_path: Path
) -> None:
    empty = tmp_path / "chains.jsonl"
    empty.write_text("")
    ended = rightcall("pairs", "make", empty, "--out", tmp_path / "pairs.jsonl")
    assert ended.code == 2
    assert "the chains made no pair" in ended.err
    assert not (tmp_path / "pairs.jsonl").exists()


def test_augment_lists_operations_and_writes_over_nothing_that_it_reads(
    rightcall: Command, tmp_path: Path
) -> None:
    file, made = tmp_path / "gold.jsonl", tmp_path / "made.jsonl"
    rightcall("collect", SUMS, "--model", "gold", "--count", 2, "--out", file)
    text = file.read_text()
    listed = rightcall("augment", SUMS, file)
    assert "shuffle_functions" in listed.out
    assert "becomes `stop, add, subtract`." in " ".join(listed.out.split())
    wanted = ("augment", SUMS, file, "--count", 2, "--operation", "shuffle_functions")
    for out in (("--out", file), ("--out", made, "--problems-out", made)):
        refused = rightcall(*wanted, *out)
        assert (refused.code, file.read_text()) == (2, text)
        assert "a name of its own" in refused.err
    none = rightcall(*wanted, "--seed", 7, "--out", made)
    assert none.code == 2
    assert "none is of one of the 2 problems" in none.err
    assert not made.exists()
    assert rightcall(*wanted, "--out", made).code == 0
    assert len(made.read_text().splitlines()) >= 2
    text = made.read_text()
    other = ("augment", SUMS, file, "--count", 2, "--operation", "wrong_argument", "--out", made)
    assert rightcall(*other).code == 0
    assert made.read_text().startswith(text), "what is there stays"
    assert len(list(ChainStore(made))) > len(text.splitlines())
