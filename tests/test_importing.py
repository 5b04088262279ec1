"""Logs become chains: every call executed again, every answer judged, nothing lost silently."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightcall import cli
from rightcall.chain import ByProblem, Chain, ChainStore, Judgement, Outcome, Problem, StopReason
from rightcall.errors import ConfigError, DataError, DefinitionError, FailureKind
from rightcall.functions import function
from rightcall.importing import (
    ImportReport,
    Place,
    Recorded,
    RecordedCall,
    Unreadable,
    every_problem,
    import_chains,
    load_importer,
    read_log,
)
from rightcall.importing.logic_lm import Program, align, words_of
from rightcall.importing.logic_lm import logic_lm as logic_lm_importer
from rightcall.importing.openai_chat import openai_chat
from rightcall.importing.proving import ClassicalTally, classical_answer
from rightcall.importing.summary import same_result
from rightcall.task import BUILT_IN, PRESETS, load_task
from rightcall.tasks.fol.formula import parse
from rightcall.tasks.math.task import ExactMath
from rightcall.tool_calls import named_arguments
from toys import SumTask

PLACE = Place(file="log.jsonl", line=1)
SUMS = str(Path(__file__).with_name("toys.py")) + ":SumTask"


def attempt(*replies: str, **fields: Any) -> tuple[Place, Recorded]:
    """An attempt at the first training problem, "What is 0 + 7?"."""
    made = {"problem_id": "train-0-0", "model": "large", **fields}
    return PLACE, Recorded(calls=tuple(RecordedCall(reply=text) for text in replies), **made)


def imported(entries: Sequence[Any], out: Path, **options: Any) -> tuple[ImportReport, list[Chain]]:
    task = SumTask()
    report = import_chains(entries, task, every_problem(task, ("train",), 10), out, **options)
    return report, list(ChainStore(out).latest())


def write_log(path: Path, *records: Any) -> Path:
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# --- running again ------------------------------------------------------------------------------


def test_a_call_is_run_again_and_a_recorded_result_that_differs_is_reported(tmp_path: Path) -> None:
    calls = (
        RecordedCall(reply="add(0, 7)", result="8"),
        RecordedCall(reply='stop("7")', result="7"),
    )
    entry = (PLACE, Recorded(problem_id="train-0-0", model="large", calls=calls, correct=False))
    report, (chain,) = imported([entry], tmp_path / "c.jsonl")
    assert [step.observation.text for step in chain.steps] == ["7", "7"]
    assert chain.outcome is Outcome.CORRECT
    assert (chain.source, chain.model, chain.sample) == ("teacher", "large", 0)
    assert (report.calls, report.exact, report.rounded, report.failed) == (2, 1, (), 0)
    (different,) = report.different
    assert different.kind == "different"
    assert (different.reply, different.recorded, different.computed) == ("add(0, 7)", "8", "7")
    assert (different.step, str(different.place)) == (1, "log.jsonl, line 1")
    (other,) = report.disagreements
    assert (other.answer, other.gold, other.published) == ("7", "7", False)
    assert report.models["large"].agreed == 0


def test_a_final_answer_becomes_a_stop_and_a_record_without_one_ends_there(tmp_path: Path) -> None:
    entries = [attempt("add(0, 7)", final="7"), attempt("add(0, 7)"), attempt(final='say "hi"')]
    report, chains = imported(entries, tmp_path / "c.jsonl")
    right, endless, quoted = sorted(chains, key=lambda chain: chain.sample)
    assert right.steps[-1].reply == 'stop("7")'
    assert (right.outcome, right.stop_reason) == (Outcome.CORRECT, StopReason.STOPPED)
    assert (endless.outcome, endless.stop_reason) == (Outcome.INCORRECT, StopReason.RECORD_ENDED)
    assert endless.answer is None
    assert quoted.answer == 'say "hi"'
    assert (report.models["large"].answered, report.models["large"].chains) == (2, 3)


def test_the_answer_of_a_program_is_what_its_last_call_gives(tmp_path: Path) -> None:
    entries = [attempt("add(0, 7)", answers=("7", "8")), attempt("add(0, 1)", answers=("7", "8"))]
    _, (given_one, other) = imported(entries, tmp_path / "c.jsonl")
    assert given_one.answer == "7"
    assert other.answer is None


def test_a_failing_call_stays_in_its_chain(tmp_path: Path) -> None:
    report, (chain,) = imported([attempt("ad(0, 7)", "Hm.", 'stop("7")')], tmp_path / "c.jsonl")
    assert chain.failures == (FailureKind.UNKNOWN_FUNCTION, FailureKind.NO_CALL)
    assert chain.outcome is Outcome.CORRECT
    assert report.failed == 2
    assert report.models["large"].clean == 0


def test_calls_after_the_end_of_a_chain_are_counted(tmp_path: Path) -> None:
    report, (chain,) = imported([attempt('stop("7")', "add(1, 2)")], tmp_path / "c.jsonl")
    assert len(chain.steps) == 1
    assert report.notes == {"calls after the chain's end, not run": 1}


@pytest.mark.parametrize(
    ("recorded", "computed", "kind"),
    [
        ("7", "7", "exact"),
        (" $1,200.00", "1200", "exact"),
        ("3.33", "10/3", "rounded"),
        ("3.34", "10/3", "different"),
        ("3", "10/3", "rounded"),
        ("2", "1.5", "rounded"),
        ("1", "1.5", "different"),
        ("3", "3.5", "different"),
        ("0.66", "2/3", "rounded"),
        ("0.67", "2/3", "rounded"),
        ("0.68", "2/3", "different"),
        ("-0.66", "-2/3", "rounded"),
        ("66.7%", "2/3", "rounded"),
        ("66%", "2/3", "different"),
        ("6.7e-1", "2/3", "rounded"),
        ("3/2", "1.6", "different"),
        ("1.6666666666666665", "5/3", "rounded"),
        ("3.3", "3.5", "different"),
        ("7", "Error: no", "different"),
        ("noted", "note", "different"),
        ('{"result": 38}', "38", "exact"),
        ('{"result": {"value": "$38.00"}}', "38", "exact"),
        ('{"status": "ok", "output": 38, "seconds": 2}', "38", "exact"),
        ('"38"', "38", "exact"),
        ('{"result": 3.33}', "10/3", "rounded"),
        ("true", "True", "exact"),
        ('["a", 1]', "['a', 1]", "exact"),
        ('{"a": 1, "b": 38}', "38", "different"),
        ('{"a": 1, "b": 38}', "{'a': 1, 'b': 38}", "exact"),
        ('{"result": 39}', "38", "different"),
        ('{"result": 38}', "{'result': 38}", "exact"),
        ('{"a": 1}', "{'a': 1}", "exact"),
        ('{"output": 3, "error": null}', "{'output': 3, 'error': None}", "exact"),
        ('{"output": 3, "error": null}', "3", "exact"),
        ('{"result": {"a": 1}}', "{'a': 1}", "exact"),
        ('{"error": "5"}', "5", "different"),
        ('{"result": {"error": "5"}}', "5", "different"),
        ('{"result": 38}', "{'result': 39}", "different"),
        ('{"error": "no"}', "38", "different"),
        ("{}", "38", "different"),
        ("7.10", "7.14", "different"),
        ('{"result": 7.10}', "7.14", "different"),
        ('{"result": 7.1}', "7.14", "rounded"),
        ('{"result": NaN}', "38", "different"),
    ],
)
def test_a_recorded_result_is_compared_as_text_then_as_a_number(
    recorded: str, computed: str, kind: str
) -> None:
    assert same_result(recorded, computed) == kind


class AnswersOnly(SumTask):
    """Sums of which only the answer is judged."""

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        return Judgement(evidence=("Nothing is known.",))


NOTHING_RAN = "None of its recorded calls could be executed."


def answers_only(
    entries: Sequence[Any], out: Path, dialect: str = "python"
) -> tuple[ImportReport, list[Chain]]:
    task = AnswersOnly()
    problems = every_problem(task, ("train",), 10)
    report = import_chains(entries, task, problems, out, dialect=dialect)
    return report, sorted(ChainStore(out).latest(), key=lambda chain: chain.sample)


@pytest.mark.parametrize("dialect", ["python", "native"])
def test_a_right_answer_beside_calls_of_which_none_ran_is_not_right_for_the_right_reason(
    tmp_path: Path, dialect: str
) -> None:
    named = [
        RecordedCall(name="calculator", arguments={"expression": "0 + 7"}, result="7"),
        RecordedCall(reply="So:"),
        RecordedCall(name="calculator", broken="0 + 7"),
        RecordedCall(name="stop", arguments={"answer": "7"}),
    ]
    entries = [
        (PLACE, Recorded(problem_id="train-0-0", calls=tuple(named), verbatim=verbatim))
        for verbatim in (False, True)
    ]
    entries += [
        attempt("calculator('0 + 7')", 'stop("7")', model="recorded"),
        attempt("calculator(0 + 7)", model="recorded", final="7"),
        attempt("ad(0, 7)", "add(0, 7)", model="recorded", final="7"),
        attempt("Let me (think).", model="recorded", final="7"),
        attempt('stop("7")', model="recorded"),
        attempt(model="recorded", final="7"),
    ]
    report, chains = answers_only(entries, tmp_path / "c.jsonl", dialect)
    assert {chain.outcome for chain in chains} == {Outcome.CORRECT}
    judged = [chain.judgement.process_correct for chain in chains]
    assert judged == [False, None, False, False, None, None, None, None]
    assert chains[0].judgement.evidence == ("Nothing is known.", NOTHING_RAN)
    assert chains[1].judgement.evidence == ("Nothing is known.",)
    assert report.models["recorded"].right_reason == 5
    assert report.unknown_functions == {"calculator": 6, "ad": 1}
    before = (tmp_path / "c.jsonl").read_bytes()
    again, _ = answers_only(entries, tmp_path / "c.jsonl", dialect)
    assert again.model_copy(update={"already_there": 0}) == report
    assert (tmp_path / "c.jsonl").read_bytes() == before
    shown = next(one for one in report.tables() if one.title.startswith("Functions that the task"))
    assert "an importer of your own renames them (docs/your-logs.md)" in shown.title
    assert list(shown.rows) == [("calculator", 6), ("ad", 1)]


def test_a_task_that_judges_the_process_has_the_last_word(tmp_path: Path) -> None:
    _, (chain,) = imported([attempt("ad(0, 7)", 'stop("7")')], tmp_path / "c.jsonl")
    assert NOTHING_RAN not in chain.judgement.evidence


# --- which problem, which attempt ---------------------------------------------------------------


def test_a_problem_is_found_by_its_question_up_to_spacing_and_case(tmp_path: Path) -> None:
    entry = attempt('stop("8")', problem_id=None, question="what is  1 + 7")
    _, (chain,) = imported([entry], tmp_path / "c.jsonl")
    assert chain.problem_id == "train-0-1"


def test_an_id_whose_question_is_another_one_is_not_that_problem(tmp_path: Path) -> None:
    report, chains = imported([attempt(question="What is 5 + 5?")], tmp_path / "c.jsonl")
    assert chains == []
    (unplaced,) = report.without_problem
    assert (unplaced.problem, unplaced.why) == ("train-0-0", "id known, question differs")
    assert (unplaced.asked, unplaced.known) == ("What is 5 + 5?", "What is 0 + 7?")
    assert (report.records, report.chains) == (1, 0)
    assert "Id known, question differs: 1" in {table.title for table in report.tables()}


def test_an_id_whose_question_stands_among_other_words_is_that_problem(tmp_path: Path) -> None:
    asked = "Solve the following problem with tools.\n\nWhat is 0 + 7?\nThink first."
    _, (chain,) = imported([attempt('stop("7")', question=asked)], tmp_path / "c.jsonl")
    assert chain.problem_id == "train-0-0"
    report, chains = imported([attempt(question="What is 0 + 71?")], tmp_path / "d.jsonl")
    assert (chains, len(report.without_problem)) == ([], 1)


class NeedsMore(SumTask):
    """A task whose judge needs what no log has."""

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        return Judgement(process_correct=bool(problem.metadata["numbers"]))


def test_a_problem_of_the_log_that_the_task_cannot_judge_is_refused_or_listed(tmp_path: Path) -> None:
    known = SumTask().problems("train", 1)
    told = [one.model_copy(update={"metadata": {"numbers": [0, 7]}}) for one in known]
    own = attempt('stop("10")', problem_id="mine", question="What is 5 + 5?", gold="10")
    entries = [attempt('stop("7")'), own, attempt('stop("8")')]
    with pytest.raises(
        DataError, match=r"line 1, gives a problem that task sums cannot judge.*'numbers'"
    ):
        import_chains(entries, NeedsMore(), told, tmp_path / "a", own_problems=True)
    report = import_chains(entries, NeedsMore(), told, tmp_path / "b", own_problems=True, skip_bad=True)
    assert (report.records, report.chains, report.own_problems) == (3, 2, 0)
    assert report.unreadable == ()
    (bad,) = report.refused
    assert (bad.problem_id, str(bad.place)) == ("mine", "log.jsonl, line 1")
    assert report.nothing() is None
    alone = import_chains([own], NeedsMore(), [], tmp_path / "d", own_problems=True, skip_bad=True)
    assert (alone.records, alone.chains, len(alone.refused)) == (1, 0, 1)
    why = alone.nothing()
    assert why is not None
    assert "line 1, gives a problem that task sums cannot judge" in why.fault
    assert why.value == "problem mine"
    assert "give its whole problems" in str(why.remedy)
    assert "Problems that the task cannot judge: 1" in {table.title for table in alone.tables()}
    with pytest.raises(DefinitionError, match="judge of task sums failed"):
        import_chains(
            [attempt('stop("7")')], NeedsMore(), SumTask().problems("train", 1), tmp_path / "c"
        )


@pytest.mark.parametrize("name", [*BUILT_IN, *PRESETS])
def test_every_built_in_task_stands_a_problem_of_a_log(tmp_path: Path, name: str) -> None:
    task = load_task(name)
    right, wrong = (18, "19") if isinstance(task, ExactMath) else ("True", "False")
    record = {
        "messages": [
            {"role": "user", "content": "Ann has 2 bags of 9 nuts. How many nuts has she?"},
            {"role": "assistant", "tool_calls": [called("multiply", '{"a": 2, "b": 9}')]},
            {"role": "tool", "tool_call_id": "c1", "content": "18"},
            {"role": "assistant", "content": f"The answer is {right}."},
        ],
        "gold": right,
    }
    other = {**record, "gold": wrong, "problem_id": "other"}
    log = write_log(tmp_path / "log.jsonl", record, other)
    report = import_chains(read_log(openai_chat, log), task, [], tmp_path / "c", own_problems=True)
    assert (report.chains, report.unreadable) == (2, ())
    assert report.models["recorded"].correct == 1


def test_a_right_answer_of_the_log_that_the_task_does_not_take_is_listed_once(tmp_path: Path) -> None:
    entries = [attempt('stop("7")', gold="8"), attempt('stop("6")', gold="8"), attempt(gold="7")]
    report, _ = imported(entries, tmp_path / "c.jsonl")
    (other,) = report.other_golds
    assert (other.problem_id, other.recorded, other.gold) == ("train-0-0", "8", "7")


def test_a_record_with_a_gold_answer_is_a_problem_only_where_that_is_asked_for(tmp_path: Path) -> None:
    entry = attempt('stop("10")', problem_id=None, question="What is 5 + 5?", gold="10")
    report, chains = imported([entry], tmp_path / "a.jsonl")
    assert (chains, len(report.without_problem)) == ([], 1)
    told: list[Problem] = []
    report, chains = imported(
        [entry],
        tmp_path / "b.jsonl",
        own_problems=True,
        on_chain=lambda problem, chain: told.append(problem),
    )
    assert chains[0].outcome is Outcome.CORRECT
    assert report.own_problems == 1
    assert told[0].metadata["origin"] == "log"


def test_models_are_told_apart_and_attempts_are_numbered_as_they_come(tmp_path: Path) -> None:
    entries = [attempt('stop("7")'), attempt('stop("7")', model="other"), attempt('stop("6")')]
    report, chains = imported(entries, tmp_path / "c.jsonl")
    assert sorted((c.model, c.sample, c.answer) for c in chains) == [
        ("large", 0, "7"),
        ("large", 1, "6"),
        ("other", 0, "7"),
    ]
    assert {name: found.correct for name, found in report.models.items()} == {"large": 1, "other": 1}


def test_the_same_attempt_twice_is_imported_once_and_another_of_its_number_refused(
    tmp_path: Path,
) -> None:
    same = [attempt('stop("7")', sample=0)] * 3
    report, chains = imported(same, tmp_path / "a.jsonl")
    assert (len(chains), len(report.duplicates), report.records) == (1, 2, 3)
    with pytest.raises(DataError, match=r"line 1, is another attempt.*sample 0"):
        imported([*same, attempt('stop("8")', sample=0)], tmp_path / "b.jsonl")


def test_an_import_goes_on_where_it_was_killed_and_reports_on_all(tmp_path: Path) -> None:
    entries = [attempt(f'stop("{n}")') for n in range(5, 9)]
    whole, chains = imported(entries, tmp_path / "whole.jsonl")
    out = tmp_path / "part.jsonl"
    imported(entries[:2], out)
    out.write_bytes(out.read_bytes() + b'{"key": "cut')
    resumed, again = imported(entries, out)
    assert resumed.already_there == 2
    assert resumed.model_copy(update={"already_there": 0}) == whole
    assert {c.key: c.answer for c in again} == {c.key: c.answer for c in chains}
    before = out.read_bytes()
    imported(entries, out)
    assert out.read_bytes() == before


def test_what_was_there_before_does_not_change_the_report_or_the_file(tmp_path: Path) -> None:
    def entry(line: int, model: str) -> tuple[Place, Recorded]:
        calls = (RecordedCall(reply=f"add(0, {line})", result="x"), RecordedCall(reply="stop('8')"))
        said = Recorded(
            problem_id="train-0-0", model=model, calls=calls, gold=str(line % 2), correct=True
        )
        return Place(file="log.jsonl", line=line), said

    entries = [entry(line, "ab"[line % 2]) for line in range(1, 7)]
    whole, chains = imported(entries, tmp_path / "whole.jsonl")
    assert [one.place.line for one in whole.different] == [1, 2, 3, 4, 5, 6]
    assert [chain.model for chain in chains] == ["b", "a"] * 3
    for there in ([0, 3, 5], [1], [4, 2]):
        out = tmp_path / f"{there}.jsonl"
        ChainStore(out).append(chains[index] for index in there)
        resumed, _ = imported(entries, out)
        assert resumed.model_copy(update={"already_there": 0}) == whole


def test_an_import_that_fails_leaves_no_empty_file(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    log = write_log(tmp_path / "log.jsonl", "{not json")
    with pytest.raises(DataError, match="line 1"):
        imported(read_log(openai_chat, log), out)
    assert not out.exists()
    imported([attempt('stop("7")')], out)
    before = out.read_bytes()
    with pytest.raises(DataError, match="line 1"):
        imported(read_log(openai_chat, log), out)
    assert out.read_bytes() == before


def test_importing_again_reads_each_chain_once_however_many_a_problem_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [attempt('stop("7")') for _ in range(20)]
    imported(entries, tmp_path / "c.jsonl")
    read = []
    kept = ByProblem._read
    monkeypatch.setattr(ByProblem, "_read", lambda self, place: read.append(place) or kept(self, place))
    report, _ = imported(entries, tmp_path / "c.jsonl")
    assert (report.already_there, len(read)) == (20, 20)


def test_a_log_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    imported([attempt('stop("7")')], tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="is not what was imported from it before"):
        imported([attempt('stop("8")')], tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"final": "6"}, {"final": "7"}),
        ({"final": "6"}, {}),
        ({}, {"final": "7"}),
        ({"final": "6"}, {"final_message": "6 or 7."}),
        ({"final": "6", "calls": ("add(0, 7)", "add(1, 1)")}, {"final": "6"}),
        ({"answers": ("7",)}, {"answers": ("8",)}),
        ({"cut": True}, {}),
    ],
)
@pytest.mark.parametrize("dialect", ["python", "native"])
def test_a_log_with_another_end_has_changed_too(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], dialect: str
) -> None:
    def entry(fields: dict[str, Any]) -> tuple[Place, Recorded]:
        return attempt(*fields.pop("calls", ("add(0, 7)",)), **fields)

    old, new = entry(dict(before)), entry(dict(after))
    imported([old], tmp_path / "c.jsonl", dialect=dialect)
    imported([old], tmp_path / "c.jsonl", dialect=dialect)
    with pytest.raises(
        DataError, match=r"line 1, is not what was imported from it before.*another file"
    ):
        imported([new], tmp_path / "c.jsonl", dialect=dialect)


# --- reading ------------------------------------------------------------------------------------


def conversation(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What is 0 + 7?"}, *turns], **fields}


def called(name: str, arguments: str, id: str = "c1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


STOPPED = conversation({"role": "assistant", "content": "7"})


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("{not json", "line 2, cannot be imported: it is no JSON (Expecting"),
        ('{"messages": [{"role": "us', "it is no JSON (the line ends too early)"),
        ('{"messages": [', "it is no JSON (the line ends too early)"),
        ("[1]", "line 2, cannot be imported: the record is no JSON object"),
        ('{"text": 1}', "line 2, cannot be imported: a field is missing: 'messages'"),
        ('{"messages": [{"role": "boss"}]}', "turn 1 has no known role: 'boss'"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "a text is no UTF-8"),
        ('{"messages": [{"role": "assistant", "tool_calls": [7]}]}', "the importer failed"),
    ],
)
def test_a_bad_line_is_named_or_listed(tmp_path: Path, bad: str, fault: str) -> None:
    log = write_log(tmp_path / "log.jsonl", STOPPED, bad, STOPPED)
    with pytest.raises(DataError, match=r"log\.jsonl, line 2") as error:
        list(read_log(openai_chat, log))
    assert fault in str(error.value)
    found = list(read_log(openai_chat, log, skip_bad=True))
    assert [isinstance(one, Unreadable) for one in found] == [False, True, False]
    report, chains = imported(found, tmp_path / "c.jsonl")
    assert len(chains) == 2
    assert report.unreadable[0].place.line == 2


@pytest.mark.parametrize("before", ["", "\n ", "\ufeff"])
def test_a_log_may_be_one_json_list(tmp_path: Path, before: str) -> None:
    log = tmp_path / "log.json"
    log.write_text(before + json.dumps([STOPPED, STOPPED]), encoding="utf-8")
    assert [entry[0].line for entry in read_log(openai_chat, log)] == [1, 2]  # type: ignore[index]


def test_a_place_in_a_json_list_is_a_record(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text(json.dumps([STOPPED, {"text": 1}], indent=1), encoding="utf-8")
    fault = r"log\.json, record 2, cannot be imported: a field.*Mend the record, or skip such records"
    with pytest.raises(DataError, match=fault):
        list(read_log(openai_chat, log))
    found = list(read_log(openai_chat, log, skip_bad=True))
    assert [str(one.place) for one in found if isinstance(one, Unreadable)] == ["log.json, record 2"]


@pytest.mark.parametrize("before", ["", "\n ", "\ufeff"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_json_object_over_several_lines_is_said_to_be_one(
    tmp_path: Path, before: str, skip_bad: bool
) -> None:
    log = tmp_path / "log.json"
    shown = json.dumps(STOPPED, indent=2)
    for text, fault in (
        (
            shown,
            "the log is one JSON object over several lines.*One object a line is read, or one JSON",
        ),
        (f"{shown}\n{shown}\n", r"JSON objects over several lines.*in \[ \]"),
    ):
        log.write_text(before + text, encoding="utf-8")
        with pytest.raises(DataError, match=fault):
            list(read_log(openai_chat, log, skip_bad=skip_bad))


def test_a_cut_first_line_is_a_bad_line_alone(tmp_path: Path) -> None:
    for after in ("", "]", json.dumps(STOPPED)):
        log = write_log(tmp_path / "log.jsonl", '{"messages": [{"role":', after, STOPPED)
        found = list(read_log(openai_chat, log, skip_bad=True))
        assert isinstance(found[0], Unreadable)
        assert "the line ends too early" in found[0].fault
        assert not isinstance(found[-1], Unreadable)


def test_an_importer_of_ones_own_is_one_file(tmp_path: Path, rightcall: Callable[..., str]) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from rightcall.importing import Recorded, RecordedCall\n"
        "def sums(record, place):\n"
        "    calls = tuple(RecordedCall(reply=f'add({a}, {b})', result=str(a + b))"
        " for a, b in record['sums'])\n"
        "    yield Recorded(question=record['q'], calls=calls, final=record['a'])\n"
    )
    log = write_log(tmp_path / "log.jsonl", {"q": "What is 0 + 7?", "sums": [[0, 7]], "a": "7"})
    out = tmp_path / "chains.jsonl"
    shown = rightcall(
        "import", f"{mine}:sums", log, "--task", SUMS, "--count", 5, "--model", "large", "--out", out
    )
    (chain,) = ChainStore(out)
    assert (chain.model, chain.outcome) == ("large", Outcome.CORRECT)
    assert "large" in shown


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("openai", "unknown importer: 'openai'. Did you mean 'openai_chat'?"),
        ("nofile.py:f", "no such file: 'nofile.py'"),
        ("rightcall.importing.openai_chat:openai_chatt", "Did you mean 'openai_chat'?"),
    ],
)
def test_an_importer_that_is_not_there_is_named_with_the_nearest(spec: str, fault: str) -> None:
    with pytest.raises(DefinitionError) as error:
        load_importer(spec)
    assert fault in str(error.value)


# --- openai -------------------------------------------------------------------------------------


def chains_of(tmp_path: Path, *records: dict[str, Any]) -> tuple[ImportReport, list[Chain]]:
    log = write_log(tmp_path / "log.jsonl", *records)
    return imported(list(read_log(openai_chat, log)), tmp_path / "c.jsonl")


def test_tool_calls_are_run_again_and_parallel_ones_become_successive_steps(tmp_path: Path) -> None:
    record = conversation(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [called("add", '{"b": 7, "a": 0}'), called("add", '{"a": 1, "b": 1}', "c2")],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "tool", "tool_call_id": "c1", "content": "9"},
        {"role": "assistant", "content": "7"},
        model="gpt",
    )
    report, (chain,) = chains_of(tmp_path, record)
    assert [step.reply for step in chain.steps] == ["add(0, 7)", "add(1, 1)", 'stop("7")']
    assert chain.outcome is Outcome.CORRECT
    assert (report.exact, [d.recorded for d in report.different]) == (1, ["9"])
    assert report.notes == {
        "final message taken as the answer": 1,
        "turn with several calls, made successive steps": 1,
    }


def results_of(calls: list[dict[str, Any]], *back: dict[str, Any]) -> list[str | None]:
    record = conversation({"role": "assistant", "tool_calls": calls}, *back)
    (made,) = openai_chat(record, PLACE)
    return [call.result for call in made.calls]


def test_a_result_belongs_to_the_call_of_its_id_and_by_place_only_without_ids() -> None:
    two = [called("add", "{}", "a"), called("add", "{}", "b")]
    same = [called("add", "{}", "a"), called("add", "{}", "a")]
    first = {"role": "tool", "tool_call_id": "a", "content": "1"}
    second = {"role": "tool", "tool_call_id": "b", "content": "2"}
    assert results_of(two, second, first) == ["1", "2"]
    assert results_of(two, second) == [None, "2"]
    assert results_of(same, first, first | {"content": "2"}) == ["1", "2"]
    plain = {"role": "tool", "content": "1"}
    assert results_of(two, plain, plain | {"content": "2"}) == ["1", "2"]
    assert results_of(two, plain) == ["1", None]
    assert results_of(two[:1], first | {"content": None}) == [None]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>The answer is 3.</think>\n\nSo 37.", "So 37."),
        ("The answer is 3?\n</think>\n37", "37"),
        ("<think>\nThe answer is 3.\n</think>The answer is **37**.", "37"),
        ("<think>The answer is 3, or", None),
    ],
)
def test_thoughts_hold_no_answer(text: str, answer: str | None) -> None:
    (made,) = openai_chat(conversation({"role": "assistant", "content": text}), PLACE)
    assert made.final == answer


@pytest.mark.parametrize(
    ("gold", "read"),
    [(0, "0"), ("0", "0"), (0.0, "0.0"), ("", None), (None, None), (True, "True"), (False, "False")],
)
def test_a_right_answer_of_0_or_false_is_one(gold: Any, read: str | None) -> None:
    (made,) = openai_chat(conversation({"role": "assistant", "content": "0"}, gold=gold), PLACE)
    assert made.gold == read


def test_a_last_turn_without_words_is_no_answer(tmp_path: Path) -> None:
    silent = conversation({"role": "assistant", "content": None, "refusal": "I cannot."})
    report, (chain,) = chains_of(tmp_path, silent)
    assert (chain.answer, chain.stop_reason) == (None, StopReason.RECORD_ENDED)
    assert report.notes == {"last turn without words or a call, no answer": 1}


def test_what_the_user_says_to_a_turn_without_a_call_is_no_recorded_result(tmp_path: Path) -> None:
    record = conversation(
        {"role": "assistant", "content": "Which base?"},
        {"role": "user", "content": "base ten"},
        {"role": "assistant", "content": "7"},
        problem_id="train-0-0",
        question="What is 0 + 7?",
    )
    report, (chain,) = chains_of(tmp_path, record)
    assert [step.reply for step in chain.steps] == ["Which base?", 'stop("7")']
    assert (report.different, report.exact, report.unrecorded) == ((), 0, 2)


@pytest.mark.parametrize("begun", [[], [{"role": "assistant", "content": "8"}]])
def test_a_question_may_begin_as_the_agent_loops_own_words_do(
    tmp_path: Path, begun: list[dict[str, Any]]
) -> None:
    problem = Problem(id="log", question="Error: what is 0 + 7?", answer="7")
    asked = [EXAMPLE[0], *begun, {"role": "user", "content": problem.question}]
    record = {"messages": [*asked, {"role": "assistant", "content": "7"}]}
    log = write_log(tmp_path / "log.jsonl", record)
    import_chains(read_log(openai_chat, log), SumTask(), [problem], tmp_path / "c")
    (chain,) = ChainStore(tmp_path / "c")
    assert ([step.reply for step in chain.steps], chain.problem_id) == (['stop("7")'], "log")


EXAMPLE = [{"role": "user", "content": "What is 1 + 7?"}, {"role": "assistant", "content": "8"}]


def test_an_attempt_begins_at_the_last_question_that_is_a_problem(tmp_path: Path) -> None:
    record = conversation(
        {"role": "assistant", "tool_calls": [called("add", '{"a": 0, "b": 7}')]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        {"role": "user", "content": "Go on."},
        {"role": "assistant", "content": "7"},
    )
    record["messages"] = [*EXAMPLE, *record["messages"]]
    report, (chain,) = chains_of(tmp_path, record)
    assert (chain.problem_id, chain.outcome) == ("train-0-0", Outcome.CORRECT)
    assert [step.reply for step in chain.steps] == ["add(0, 7)", 'stop("7")']
    assert report.notes["turns before the last question left out"] == 1
    assert report.notes["words of the user after the first reply left out"] == 1


@pytest.mark.parametrize("calls", [0, 2])
def test_a_user_may_speak_again_before_the_first_reply_to_a_question(
    tmp_path: Path, calls: int
) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "What is 0 + 7?"},
        {"role": "user", "content": "Please be quick"},
        *[
            {"role": "assistant", "tool_calls": [called("add", '{"a": 0, "b": 7}')]},
            {"role": "assistant", "content": "I have added."},
        ][:calls],
        {"role": "assistant", "content": "The answer is 7."},
    ]
    report, (chain,) = chains_of(tmp_path, {"messages": turns})
    assert (chain.problem_id, chain.outcome) == ("train-0-0", Outcome.CORRECT)
    assert [step.reply for step in chain.steps] == [
        *["add(0, 7)", "I have added."][:calls],
        'stop("7")',
    ]
    assert report.notes["words of the user after the first reply left out"] == 1


def test_the_question_may_be_named_beside_the_messages(tmp_path: Path) -> None:
    record = conversation({"role": "assistant", "content": "10"}, gold="10", question="What is 5 + 5?")
    wrapped = {"role": "user", "content": "Now this one.\nWhat is 5 + 5?"}
    record["messages"] = [*EXAMPLE, wrapped, record["messages"][-1]]
    log = write_log(tmp_path / "log.jsonl", record)
    entries = list(read_log(openai_chat, log))
    report, (chain,) = imported(entries, tmp_path / "c.jsonl", own_problems=True)
    assert (chain.prompt[-1]["content"], chain.outcome) == ("What is 5 + 5?", Outcome.CORRECT)
    assert [step.reply for step in chain.steps] == ['stop("10")']
    del record["question"]
    log = write_log(tmp_path / "log.jsonl", record)
    report, chains = imported(list(read_log(openai_chat, log)), tmp_path / "d.jsonl", own_problems=True)
    assert chains == []
    assert "the field `question` must say" in report.without_problem[0].why


@pytest.mark.parametrize(
    ("call", "reply", "failure"),
    [
        (called("sub", '{"a": 1}'), "sub(a=1)", FailureKind.UNKNOWN_FUNCTION),
        (called("add", '{"a": 1'), 'add(**"{\\"a\\": 1")', FailureKind.UNPARSABLE),
        (called("add", "8, 3"), 'add(**"8, 3")', FailureKind.UNPARSABLE),
        (called("add", "a=9, b=3"), 'add(**"a=9, b=3")', FailureKind.UNPARSABLE),
        (
            called("add", '10, 3)\nstop("7'),
            'add(**"10, 3)\\nstop\\u0028\\"7")',
            FailureKind.UNPARSABLE,
        ),
        (called("add", "8, add(0, 7)"), 'add(**"8, add\\u00280, 7)")', FailureKind.UNPARSABLE),
        (called("sub", "add(0, 7)"), 'sub(**"add\\u00280, 7)")', FailureKind.UNPARSABLE),
        (called("add", "[0, 7]"), 'add(**"[0, 7]")', FailureKind.UNPARSABLE),
        (called("add", "null"), "add()", FailureKind.MISSING_ARGUMENT),
        (called("add", ""), "add()", FailureKind.MISSING_ARGUMENT),
        (called("add", '{"a": null, "b": 2}'), "add(None, 2)", FailureKind.WRONG_TYPE),
        (called("add", '{"a-b": 1}'), 'add(**{"a-b": 1})', FailureKind.UNPARSABLE),
        (called("add", '{"a": 1, "b": 2, "c": 3}'), "add(1, 2, c=3)", FailureKind.UNEXPECTED_ARGUMENT),
    ],
)
def test_a_wrong_tool_call_is_kept_as_a_call_that_failed(
    tmp_path: Path, call: dict[str, Any], reply: str, failure: FailureKind
) -> None:
    _, (chain,) = chains_of(tmp_path, conversation({"role": "assistant", "tool_calls": [call]}))
    assert [(s.reply, s.observation.failure) for s in chain.steps] == [(reply, failure)]


@function(example="say('Hm', 1)", trusted=True)
def say(text: str, *times: int, loud: bool = False) -> str:
    """Say a text."""
    return text


@function(example="total(2, 3)", trusted=True)
def total(a: int, b: int, times: int = 1, *more: int, note: str | None = "none") -> int:
    """Add, so many times."""
    return (a + b) * times + sum(more)


class TotalTask(SumTask):
    """Sums by a function that has defaults."""

    functions = (total, say, *SumTask.functions)


def made_again(
    tmp_path: Path, *turns: dict[str, Any], dialect: str = "python", **fields: Any
) -> tuple[ImportReport, Chain]:
    """The chain of a conversation about "What is 0 + 7?", by the functions of `TotalTask`."""
    log, task = write_log(tmp_path / "log.jsonl", conversation(*turns, **fields)), TotalTask()
    out = tmp_path / "made.jsonl"
    out.unlink(missing_ok=True)
    report = import_chains(
        read_log(openai_chat, log), task, every_problem(task, ("train",), 9), out, dialect=dialect
    )
    (chain,) = ChainStore(out)
    return report, chain


@pytest.mark.parametrize("dialect", ["python", "native"])
def test_a_null_for_what_has_a_default_is_read_as_not_given(tmp_path: Path, dialect: str) -> None:
    strict = '{"a": 0, "b": 7, "times": null, "more": null, "note": null}'
    turn = {"role": "assistant", "tool_calls": [called("total", strict)]}
    report, chain = made_again(tmp_path, turn, dialect=dialect)
    (step,) = chain.steps
    assert (step.observation.text, step.observation.failure) == ("7", None)
    assert "note" in step.reply  # which takes a null
    assert "times" not in step.reply
    assert report.notes == {"null for an argument that has a default, read as not given": 2}


@pytest.mark.parametrize("dialect", ["python", "native"])
def test_a_null_for_what_must_be_given_fails(tmp_path: Path, dialect: str) -> None:
    turn = {"role": "assistant", "tool_calls": [called("total", '{"a": null, "b": 7}')]}
    report, chain = made_again(tmp_path, turn, dialect=dialect)
    assert chain.failures == (FailureKind.WRONG_TYPE,)
    assert report.notes == {}


@pytest.mark.parametrize("dialect", ["python", "native"])
@pytest.mark.parametrize(
    "words", ["add(9, 9)", "print(3)", "I think:\nstop('7')", "add(", "<think>So", "Let me add."]
)
def test_words_beside_broken_arguments_are_never_run(tmp_path: Path, words: str, dialect: str) -> None:
    call = called("add", '{"a": 0')
    turn = {"role": "assistant", "content": words, "tool_calls": [call]}
    _, chain = made_again(tmp_path, turn, dialect=dialect)
    assert chain.failures == (FailureKind.UNPARSABLE,)


@pytest.mark.parametrize("dialect", ["python", "native"])
@pytest.mark.parametrize("name", ["now stop", "stop(7) or add", "my.server.stop it", "", "7"])
def test_a_name_that_no_function_can_have_is_an_unknown_one(
    tmp_path: Path, name: str, dialect: str
) -> None:
    turn = {"role": "assistant", "tool_calls": [called(name, '{"answer": "7"}')]}
    _, chain = made_again(tmp_path, turn, dialect=dialect)
    assert chain.answer is None
    assert chain.failures in [(FailureKind.UNKNOWN_FUNCTION,), (FailureKind.UNPARSABLE,)]


def test_a_call_inside_of_the_arguments_of_one_that_fails_is_not_run(tmp_path: Path) -> None:
    call = called("sub", '{"a-b": "add(0, 7)"}')
    _, chain = made_again(tmp_path, {"role": "assistant", "tool_calls": [call]})
    assert chain.failures == (FailureKind.UNPARSABLE,)


NASTY = [
    "", "add(9, 9)", "stop('7')", "I add: add(9, 9).", "```\nstop(7)\n```", "<think>", "</think>",
    "add(", "\"", "''", "(", ")", "sub(add(9, 9))", "\n", "stop", "null", "{", "**", "#",
    '{"a": 9, "b": 9}',
    '<tool_call>\n{"name": "stop", "arguments": {"answer": "7"}}\n</tool_call>', "</tool_call>",
    '[TOOL_CALLS][{"name": "stop", "arguments": {"answer": "7"}}]',
    '{"name": "stop", "parameters": {}}', "record(9)", "record(number=9)", "I record: record(9).",
    "total(9, 9)", '{"number": 9}',
    '<tool_call>\n{"name": "record", "arguments": {"number": 9}}\n</tool_call>',
    '[TOOL_CALLS][{"name": "record", "arguments": {"number": 9}}]',
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(NASTY), max_size=3).map(" ".join)


@given(
    words=TEXTS,
    name=st.sampled_from(["record", "records", "functions.record"]) | TEXTS,
    arguments=TEXTS | st.dictionaries(st.sampled_from(["number", "a-b"]), TEXTS).map(json.dumps),
    dialect=st.sampled_from(["python", "native"]),
    exact=TEXTS,
)
def test_no_other_call_than_the_recorded_one_is_ever_run(
    tmp_path_factory: pytest.TempPathFactory,
    words: str,
    name: str,
    arguments: str,
    dialect: str,
    exact: str,
) -> None:
    turn = {"role": "assistant", "content": words, "tool_calls": [called(name, arguments)]}
    _, chain = made_again(tmp_path_factory.mktemp("c"), turn, replies=[exact], dialect=dialect)
    (step,) = chain.steps
    if step.call is None or step.observation.failure is FailureKind.UNKNOWN_FUNCTION:
        return
    assert step.call.name == name.removeprefix("functions.")
    sent = json.loads(arguments.strip() or "{}") or {}
    functions = TotalTask().function_set()
    unset = functions.by_name[step.call.name].without_null
    assert named_arguments(step.call, functions) == {
        key: value for key, value in sent.items() if value is not None or key not in unset
    }


def test_words_beside_a_call_are_kept_unless_they_would_be_read_as_another(tmp_path: Path) -> None:
    def spoken(words: str) -> dict[str, Any]:
        call = called("add", '{"a": 0, "b": 7}')
        return conversation({"role": "assistant", "content": words, "tool_calls": [call]})

    report, chains = chains_of(tmp_path, spoken("I add."), spoken("add(0, b=7)"), spoken("add(9, 9)"))
    replies = [chain.steps[0].reply for chain in sorted(chains, key=lambda chain: chain.sample)]
    assert replies == ["I add.\nadd(0, 7)", "add(0, b=7)", "add(0, 7)"]
    assert {chain.steps[0].observation.text for chain in chains} == {"7"}
    assert report.notes == {"words beside a call left out: they would be read as another call": 1}


def test_the_first_form_of_function_calls_and_contents_in_parts_are_read(tmp_path: Path) -> None:
    record = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is 0 + 7?"}]},
            {"role": "assistant", "function_call": {"name": "add", "arguments": {"a": 0, "b": 7}}},
            {"role": "function", "name": "add", "content": "7"},
        ]
    }
    report, (chain,) = chains_of(tmp_path, record)
    assert (chain.steps[0].reply, report.exact) == ("add(0, 7)", 1)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": None}, {"type": "text", "text": "7"}],
        [{"type": "text", "text": {"value": "7", "annotations": []}}],
        [{"type": "refusal", "refusal": "No."}, "7"],
    ],
)
def test_parts_without_a_text_say_nothing(content: Any) -> None:
    (made,) = openai_chat(conversation({"role": "assistant", "content": content}), PLACE)
    assert made.final == "7"


@pytest.mark.parametrize(
    ("role", "part"),
    [
        ("assistant", {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 0, "b": 7}}),
        ("assistant", {"type": "tool_use", "id": "c1", "name": "add", "input": {}, "text": None}),
        ("user", {"type": "tool_result", "tool_use_id": "c1", "content": "7"}),
        ("user", {"type": "input_audio", "input_audio": {"data": ""}}),
        ("user", 7),
    ],
)
def test_a_part_of_a_kind_that_is_not_read_is_named_with_its_line_and_a_remedy(
    tmp_path: Path, role: str, part: Any
) -> None:
    turn = {"role": role, "content": [{"type": "text", "text": "So:"}, part]}
    log = write_log(tmp_path / "log.jsonl", STOPPED, conversation(turn))
    kind = part["type"] if isinstance(part, dict) else part
    fault = rf"line 2.*turn 2 has a part of a kind that is not read: {kind!r}.*calls as tool_calls"
    with pytest.raises(DataError, match=fault):
        list(read_log(openai_chat, log))
    assert isinstance(list(read_log(openai_chat, log, skip_bad=True))[1], Unreadable)


def test_pictures_and_thoughts_beside_a_text_say_nothing() -> None:
    kinds = ("image_url", "input_image", "image", "refusal", "thinking", "redacted_thinking")
    content = [*({"type": kind} for kind in kinds), {"type": "output_text", "text": "7"}, None]
    (made,) = openai_chat(conversation({"role": "assistant", "content": content}), PLACE)
    assert made.final == "7"


def test_a_list_that_a_tool_gave_is_its_result() -> None:
    back = {"role": "tool", "tool_call_id": "c1", "content": [{"a": 1}, 2]}
    assert results_of([called("add", "{}")], back) == ['[{"a": 1}, 2]']
    back = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "7"}]}
    assert results_of([called("add", "{}")], back) == ["7"]


def custom(name: str, text: str) -> dict[str, Any]:
    return {"id": "c1", "type": "custom", "custom": {"name": name, "input": text}}


@pytest.mark.parametrize("dialect", ["python", "native"])
def test_the_text_given_to_a_custom_tool_is_the_only_argument_of_its_function(
    tmp_path: Path, dialect: str
) -> None:
    turn = {"role": "assistant", "tool_calls": [custom("stop", 'seven "7"')]}
    report, chain = made_again(tmp_path, turn, dialect=dialect)
    assert chain.answer == 'seven "7"'
    assert report.notes == {"text given to a custom tool, taken as its function's only argument": 1}
    turn = {"role": "assistant", "tool_calls": [custom("say", "stop(7)")]}
    _, chain = made_again(tmp_path, turn, dialect=dialect)
    assert (chain.steps[0].observation.text, chain.answer) == ("stop(7)", None)
    for name, failure in (
        ("total", FailureKind.MISSING_ARGUMENT),
        ("code", FailureKind.UNKNOWN_FUNCTION),
    ):
        turn = {"role": "assistant", "tool_calls": [custom(name, "stop(7)")]}
        assert made_again(tmp_path, turn, dialect=dialect)[1].failures == (failure,)


@pytest.mark.parametrize("kind", [{"type": "file_search"}, {"type": "tool_call", "name": "add"}])
def test_a_tool_call_of_another_kind_is_named_with_its_line_and_a_remedy(
    tmp_path: Path, kind: dict[str, Any]
) -> None:
    record = conversation({"role": "assistant", "tool_calls": [{"id": "c1", **kind}]})
    log = write_log(tmp_path / "log.jsonl", record)
    with pytest.raises(DataError, match=r"line 1.*turn 2 has a tool call of a kind.*skip such lines"):
        list(read_log(openai_chat, log))


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("functions.add", "add(0, 7)"),
        ("my.server.add", "add(0, 7)"),
        ("functions.sub", "sub(a=0, b=7)"),
    ],
)
def test_a_namespace_before_a_functions_name_is_left_out(tmp_path: Path, name: str, reply: str) -> None:
    turn = {"role": "assistant", "tool_calls": [called(name, '{"a": 0, "b": 7}')]}
    report, chain = made_again(tmp_path, turn)
    assert chain.steps[0].reply == reply
    assert report.notes == {"namespace before a function's name left out": 1}


def test_an_id_may_be_a_number() -> None:
    (made,) = openai_chat(conversation({"role": "assistant", "content": "7"}, problem_id=17), PLACE)
    assert made.problem_id == "17"


# --- gsm8k --------------------------------------------------------------------------------------


def test_an_annotated_solution_is_executed_and_its_question_is_the_problem(tmp_path: Path) -> None:
    record = {
        "question": "Ann has 2 bags of 9 nuts. How many nuts has she?",
        "ground_truth": "She has 2*9 = <<2*9=18>>18 nuts.\nA: 18",
        "small": {"solution": "2*9 = <<2*9=19>>19\nA: 19", "is_correct": False},
        "large": {"solution": "2*9 = <<2*9=18>>18\n#### $18", "is_correct": True},
        "vague": {"solution": "Many.", "is_correct": False},
    }
    log = write_log(tmp_path / "log.jsonl", record)
    task = load_task("gsm8k")
    report = import_chains(
        read_log(load_importer("gsm8k_annotated"), log), task, [], tmp_path / "c", own_problems=True
    )
    chains = {chain.model: chain for chain in ChainStore(tmp_path / "c")}
    assert [step.reply for step in chains["large"].steps] == ['calculate("2*9")', "stop(18)"]
    assert chains["large"].right_for_the_right_reason
    assert chains["small"].outcome is Outcome.INCORRECT
    assert chains["vague"].stop_reason is StopReason.RECORD_ENDED
    assert [(d.recorded, d.computed) for d in report.different] == [("19", "18")]
    assert (report.disagreements, report.own_problems) == ((), 1)


def test_annotations_that_cannot_be_read_are_noted_and_stops_have_no_recorded_result() -> None:
    record = {
        "question": "?",
        "ground_truth": "A: 1",
        "solution": "<<3/4=0.75 <<83.3>> <<1+1=2>>2 <<4+\nA: 2",
    }
    (made,) = load_importer("gsm8k_annotated")(record, PLACE)
    assert [(call.reply, call.result) for call in made.calls] == [
        ('calculate("1+1")', "2"),
        ("stop(2)", None),
    ]
    assert made.notes == ("annotation that cannot be read",) * 3
    assert made.malformed_calls == ("<<3/4=0.75", "<<83.3>>", "<<4+")


def test_our_labels_agree_with_the_publishers_on_the_recorded_solutions(
    shared_data: Path, tmp_path: Path
) -> None:
    log = shared_data / "recorded" / "gsm8k_gpt3_solutions.jsonl"
    report = import_chains(
        read_log(load_importer("gsm8k_annotated"), log),
        load_task("gsm8k"),
        [],
        tmp_path / "c",
        own_problems=True,
    )
    assert (report.records, report.chains, report.own_problems) == (2640, 2640, 660)
    assert len(report.disagreements) <= 3
    compared = report.exact + len(report.rounded) + len(report.different)
    assert (report.calls, compared + report.unrecorded) == (10_900, 10_900)
    assert compared == 8267
    assert report.notes["annotation that cannot be read"] == 5
    assert [(one.place.line, one.text[:9]) for one in report.malformed_calls] == [
        (151, "<<3/440=0"),
        (151, "<<3/440=0"),
        (154, "<<6.66666"),
        (163, "<<41.472+"),
        (324, "<<83.3333"),
    ]
    shown = next(
        table for table in report.tables() if table.title == "Could not be read, and left out: 5"
    )
    assert shown.rows[0][1] == "6b_finetuning"
    assert 0 < len(report.different) < 80


# --- logic programs -----------------------------------------------------------------------------

CONTEXT = (
    "The bald eagle is cold. Bob needs the cat. Red, cold things are nice. "
    "If someone is nice then they need the cat. Bob is not red."
)
PROGRAM = """Predicates:
Cold($x, bool) ::: Is x cold?
Facts:
Cold(BaldEagle, True)
Red(Bob, False) ::: Bob is not red.
Need(Bob, Cat, True) ::: Bob needs the cat.
Rules:
Red($x, True) && Cold($x, True) >>> Nice($x, True)
Nice($x, True) >>> Need($x, Cat, True) ::: If someone is nice then they need the cat.
Query:
Nice(The bald eagle, False) ::: The bald eagle is not nice."""


def logic_record(program: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": "one",
        "context": CONTEXT,
        "question": "Is the following true, false, or unknown? The bald eagle is not nice.",
        "answer": "C",
        "options": ["A) True", "B) False", "C) Unknown"],
        "raw_logic_programs": [program],
        **fields,
    }


def replies_of(program: str, **fields: Any) -> list[str]:
    (made,) = logic_lm_importer(logic_record(program, **fields), Place(file="a_b_gpt.jsonl", line=1))
    assert (made.model, made.gold) == ("gpt", "Unknown")
    return [call.reply for call in made.calls]


def test_a_logic_program_becomes_premises_in_the_texts_order_and_words() -> None:
    assert replies_of(PROGRAM) == [
        'premise(1, "cold(bald_eagle)")',
        'premise(2, "needs(Bob, cat)")',
        'premise(3, "forall x (Red(x) & cold(x) -> nice(x))")',
        'premise(4, "forall x (nice(x) -> needs(x, cat))")',
        'premise(5, "~red(Bob)")',
        'goal("~nice(bald_eagle)")',
    ]


def test_statements_of_one_sentence_are_joined_and_those_of_none_put_with_the_nearest() -> None:
    program = "Facts:\nCold(Bald_Eagle, True)\nBig(Bald_Eagle, True)\nBlue(Bob)\nQuery:\nRed(Bob)"
    assert replies_of(program) == [
        'premise(1, "cold(bald_eagle) & big(bald_eagle)")',
        'premise(2, "blue(Bob)")',
        'goal("red(Bob)")',
    ]


def test_what_does_not_parse_stays_as_the_model_wrote_it() -> None:
    program = "Facts:\nBob is not red. ::: Bob is not red.\nQuery:\nTherefore it is false."
    assert replies_of(program) == [
        'premise(5, "Bob is not red.")',
        'goal("Therefore it is false.")',
    ]


@pytest.mark.parametrize(
    ("statement", "formula"),
    [
        ("Red(Bob, False)", "~red(Bob)"),
        ("!Red(Bob, True)", "~red(Bob)"),
        ("Not(Red(Bob, True))", "~red(Bob)"),
        ("not(Red(Bob), False)", "red(Bob)"),
        ("¬Red(Bob, False)", "red(Bob)"),
        ("Red(Bob) = False", "~red(Bob)"),
        ("Red('Bob', True)", "red(Bob)"),
        ("Red(Bob)", "red(Bob)"),
        ("Needs(Bob, cat)", "needs(Bob, cat)"),
        ("Need(Bob, The cat, False)", "~needs(Bob, cat)"),
    ],
)
def test_every_spelling_of_a_literal_is_read(statement: str, formula: str) -> None:
    assert replies_of(f"Facts:\nCold(Bob)\nQuery:\n{statement}")[-1] == f'goal("{formula}")'


def test_names_that_a_program_keeps_apart_stay_apart() -> None:
    program = (
        "Facts:\nNeed(Bob, Cat, True)\nRules:\nNeeds($x, Cat, True) >>> Red($x, True)\nQuery:\nRed(Bob)"
    )
    texts = " ".join(replies_of(program))
    assert "need(Bob, cat)" in texts
    assert "needs(x, cat)" in texts


def test_first_order_programs_keep_their_formulas_and_answer_as_the_prover_does(
    tmp_path: Path,
) -> None:
    program = (
        "Premises:\n∀x (Cat(x) → Red(x)) ::: All cats are red.\nCat(tom) ::: Tom is a cat.\n"
        "Red(f(tom)) ::: Odd.\nConclusion:\nRed(tom) ::: Tom is red."
    )
    question = "Is it true, false, or uncertain? Tom is red."
    record = logic_record(program, context="All cats are red. Tom is a cat. Odd.", question=question)
    record |= {"answer": "A"}
    log = write_log(tmp_path / "logic_lm_folio_gpt.jsonl", record)
    data = write_log(
        tmp_path / "data.jsonl",
        {
            "premises": ["All cats are red.", "Tom is a cat.", "Odd."],
            "conclusion": "Tom is red.",
            "label": "True",
        },
    )
    task = load_task("folio", path=str(data))
    problems = every_problem(task, ("train", "validation"), 10)
    report = import_chains(read_log(logic_lm_importer, log), task, problems, tmp_path / "c")
    (chain,) = ChainStore(tmp_path / "c")
    assert [step.reply for step in chain.steps] == [
        'premise("forall x (Cat(x) -> Red(x))")',
        'premise("Cat(tom)")',
        'premise("Red(f(tom))")',
        'goal("Red(tom)")',
        'stop("True")',
    ]
    assert chain.outcome is Outcome.CORRECT
    assert (report.failed, report.models["gpt"].clean) == (1, 0)
    assert classical_answer(chain, task.function_set()) == "True"


def test_a_rule_program_is_run_and_decided_in_both_semantics(tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    data.write_text(json.dumps([logic_record(PROGRAM)]), encoding="utf-8")
    log = write_log(tmp_path / "logic_lm_proofwriter_gpt.jsonl", logic_record(PROGRAM))
    task = load_task("proofwriter", path=str(data), shares={})
    report = import_chains(
        read_log(logic_lm_importer, log), task, task.problems("train"), tmp_path / "c"
    )
    (chain,) = ChainStore(tmp_path / "c")
    assert chain.right_for_the_right_reason
    assert chain.judgement.process_correct is True
    assert (report.failed, report.models["gpt"].correct) == (0, 1)
    assert classical_answer(chain, task.function_set()) == "Unknown"


def test_recorded_programs_of_gpt_4_are_executed(shared_data: Path, tmp_path: Path) -> None:
    log = shared_data / "recorded" / "logic_lm_prontoqa_gpt-4.jsonl"
    task = load_task("prontoqa", path=str(shared_data / "prontoqa"))
    problems = every_problem(task, ("train", "validation", "test"), 1000)
    report = import_chains(read_log(logic_lm_importer, log), task, problems, tmp_path / "c")
    figures = report.models["gpt-4"]
    assert (report.records, report.chains, len(report.without_problem)) == (100, 100, 0)
    assert (figures.clean, figures.answered) == (100, 100)
    assert figures.correct >= 80
    assert figures.right_reason >= 75


def test_the_names_of_a_program_are_cut_into_words() -> None:
    assert words_of("BaldEagle") == words_of("the bald_eagle") == ["bald", "eagle"]
    assert words_of("Wumpus") == ["wumpus"]


def test_lines_outside_of_a_program_are_counted() -> None:
    program = Program.read("Here it is.\nFacts:\nRed(Bob, True)\nAnswer:\nTrue")
    assert ([line.text for line in program.lines], program.left_out) == (["Red(Bob, True)"], 2)


@given(st.permutations(range(4)))
def test_rules_without_annotations_find_their_sentences_in_any_order(order: list[int]) -> None:
    theory = [
        "Every wumpus is a vumpus.",
        "Vumpuses are not red.",
        "Each vumpus is a zumpus.",
        "Zumpuses are sweet.",
    ]
    rules = [
        "forall x (Wumpus(x) -> Vumpus(x))",
        "forall x (Vumpus(x) -> ~Red(x))",
        "forall x (Vumpus(x) -> Zumpus(x))",
        "forall x (Zumpus(x) -> Sweet(x))",
    ]
    lines = Program.read("Rules:\n" + "\n".join(rules)).lines
    stated = [(lines[index], parse(rules[index])) for index in order]
    assert [number for _, _, number, _ in align(stated, theory)] == order


def test_the_prover_needs_functions_that_state_formulas() -> None:
    with pytest.raises(ConfigError, match="the prover needs a task whose chains state formulas"):
        ClassicalTally(SumTask().function_set())


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def rightcall(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command line in this process and gives what it printed."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["rightcall", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code in (0, None), err
        return out

    return run


def test_the_command_prints_tables_json_and_a_report_file(
    rightcall: Callable[..., str], tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.jsonl", STOPPED, {"messages": []}, conversation(model="\x1b[31m"))
    out = tmp_path / "chains.jsonl"
    command = ("import", "openai_chat", log, "--task", SUMS, "--split", "train", "--out", out)
    shown = rightcall(*command, "--skip-bad", "--report", tmp_path / "report.json")
    assert "attempts in the log" in shown
    assert "log.jsonl, line 2" in shown
    assert "\x1b" not in shown
    report = ImportReport.model_validate_json((tmp_path / "report.json").read_text())
    assert (report.chains, len(report.unreadable), report.already_there) == (2, 1, 0)
    again = json.loads(rightcall(*command, "--skip-bad", "--json"))
    assert again["already_there"] == 2


@pytest.fixture
def failing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs the command line in this process: its exit code, and what it printed."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["rightcall", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


OTHER = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]}


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        ([OTHER] * 3, "no attempt in the log is at a problem of task sums: '3 in the log, among the"),
        ([OTHER, {"messages": []}], "sums: '1 in the log"),
        ([OTHER | {"problem_id": "train-0-0"}], "it is a log of other data"),
        ([{"text": 1}], 'no record of the log is an attempt that can be read: "a field is missing'),
    ],
)
def test_an_import_of_which_nothing_became_a_chain_fails_and_says_why(
    failing: Callable[..., tuple[object, str, str]], tmp_path: Path, records: list[Any], fault: str
) -> None:
    log = write_log(tmp_path / "log.jsonl", *records)
    out, report = tmp_path / "chains.jsonl", tmp_path / "report.json"
    command = ("import", "openai_chat", log, "--task", SUMS, "--count", 3, "--skip-bad", "--out", out)
    code, shown, said = failing(*command, "--report", report, "--problems-out", tmp_path / "p.jsonl")
    assert (code, "attempts in the log" in shown) == (1, True)
    assert said.startswith("error: ")
    assert fault in said
    assert report.exists()
    assert not out.exists()
    assert not (tmp_path / "p.jsonl").exists()
    code, shown, said = failing(*command, "--json")
    assert (code, json.loads(shown)["chains"], fault in said) == (1, 0, True)


@pytest.mark.parametrize("text", ["", "\n\n", "[]", "\ufeff"])
def test_an_empty_log_is_an_error(
    failing: Callable[..., tuple[object, str, str]], tmp_path: Path, text: str
) -> None:
    log, full = tmp_path / "log.jsonl", write_log(tmp_path / "full.jsonl", STOPPED)
    log.write_text(text, encoding="utf-8")
    out = tmp_path / "chains.jsonl"
    command = ("import", "openai_chat", log, "--task", SUMS, "--count", 3, "--out", out)
    code, _, said = failing(*command)
    assert (code, said.startswith("error: the log is empty: [")) == (2, True)
    assert not out.exists()
    assert failing(*command, full)[0] == 0  # another one is not


def test_a_table_cuts_what_a_report_has_whole(rightcall: Callable[..., str], tmp_path: Path) -> None:
    digits = "7" * 4000
    call = called("add", f'{{"a": {digits}, "b": 0}}')
    back = {"role": "tool", "tool_call_id": "c1", "content": "8"}
    answer = {"role": "assistant", "content": "7"}
    turns = {"role": "assistant", "tool_calls": [call]}, back, answer
    log = write_log(tmp_path / "log.jsonl", conversation(*turns, gold=digits, model=digits))
    out, file = tmp_path / "chains.jsonl", tmp_path / "report.json"
    shown = rightcall(
        "import", "openai_chat", log, "--task", SUMS, "--count", 3, "--out", out, "--report", file
    )
    longest = max(map(len, re.findall(r"7+", re.sub(r"\s", "", shown))))
    assert 100 < longest <= 120
    report = ImportReport.model_validate_json(file.read_text())
    assert digits in report.different[0].reply
    assert report.other_golds[0].recorded == digits


def test_problems_that_a_log_gives_itself_are_written_beside_its_chains(
    rightcall: Callable[..., str], tmp_path: Path
) -> None:
    record = {
        "messages": [
            {"role": "user", "content": "What is 5 + 5?"},
            {"role": "assistant", "content": "10"},
        ],
        "gold": "10",
    }
    log = write_log(tmp_path / "log.jsonl", record)
    out = tmp_path / "chains.jsonl"
    rightcall(
        "import", "openai_chat", log, "--task", SUMS, "--count", 3, "--own-problems", "--out", out
    )
    problem = Problem.model_validate_json((tmp_path / "chains.problems.jsonl").read_text())
    assert (problem.answer, problem.metadata["origin"]) == ("10", "log")


def test_what_was_imported_goes_out_and_comes_back_under_the_same_keys(
    rightcall: Callable[..., str], tmp_path: Path
) -> None:
    record = {
        "question": "Ann has 2 bags of 9 nuts. How many nuts has she?",
        "ground_truth": "She has 2*9 = <<2*9=18>>18 nuts.\nA: 18",
        "large": {"solution": "2*9 = <<2*9=18>>18\n#### 18", "is_correct": True},
    }
    log = write_log(tmp_path / "log.jsonl", record, record | {"large": {"solution": "A: 17"}})
    made, row, back = (tmp_path / name for name in ("made.jsonl", "row.jsonl", "back.jsonl"))
    problems = tmp_path / "made.problems.jsonl"
    data = write_log(tmp_path / "data.jsonl", {"question": "What is 1 + 1?", "answer": "#### 2"})
    task = ("--task", "gsm8k", "-o", f"path={data}")
    rightcall("import", "gsm8k_annotated", log, *task, "--own-problems", "--out", made)
    rightcall("export", "chains", made, "--problems", problems, "--out", row)
    rows = [json.loads(line) for line in row.read_text().splitlines()]
    assert sorted((one["sample"], one["gold"]) for one in rows) == [(0, "18"), (1, "18")]
    row.write_text("".join(json.dumps(one) + "\n" for one in reversed(rows)))
    command = ("import", "openai_chat", row, *task, "--problems", problems)
    report = json.loads(rightcall(*command, "--out", back, "--json"))
    assert (report["chains"], report["own_problems"], report["other_golds"]) == (2, 0, [])
    before, after = ({c.key: c.judgement for c in ChainStore(path)} for path in (made, back))
    assert before == after
