"""Chains and pairs in the forms of other programs, and back."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightcall import cli
from rightcall.chain import Chain, ChainStore, Judgement, Outcome, Problem, StopReason
from rightcall.errors import ConfigError, DataError
from rightcall.exporting import chain_rows, pair_rows, write
from rightcall.functions import FunctionSet, Role, Stop, function
from rightcall.importing import Place, Recorded, RecordedCall, import_chains, read_log
from rightcall.importing.openai_chat import openai_chat
from rightcall.models.scripted import Scripted
from rightcall.native import Invocation, Said
from rightcall.pairs import make_pairs, read_pairs, write_pairs
from rightcall.rollout import Budget, Job, Setting, rollouts
from rightcall.task import Task
from rightcall.tool_calls import call_text, named_arguments, named_text, read_call
from toys import SumTask

SUMS = str(Path(__file__).with_name("toys.py")) + ":SumTask"


@function(example="keep(1, [2], more=None)", trusted=True)
def keep(first: Any, second: Any = 0, *, more: Any = 1) -> str:
    """Show what was given."""
    return repr((first, second, more))


@function(example='gather("a", 1, 2)', trusted=True)
def gather(name: str, *numbers: float) -> str:
    """Show numbers."""
    return f"{name}{list(numbers)}"


@function(example='stop("5")', role=Role.FLOW, trusted=True)
def stop(answer: str) -> Stop:
    """End."""
    return Stop(answer)


class Anything(Task):
    """One problem, for functions that take anything."""

    name = "anything"
    instruction = "Do anything."
    functions = (keep, gather, stop)
    subsets = {"short": ("keep", "stop")}

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        yield Problem(id="one", question="What?", answer="5")


TASK = Anything()


def played(
    *replies: str,
    task: Task = TASK,
    subset: str | None = None,
    steps: int = 20,
    dialect: str = "python",
) -> Chain:
    """The chain of a model that replies so, on a task's first training problem."""
    functions, budget = task.function_set(subset), Budget(steps=steps)
    setting = Setting(task, functions, "teacher", budget=budget, dialect=dialect)
    problem = next(task.problems("train", 1))
    return next(rollouts(setting, Scripted(list(replies), name="large"), [Job(problem)]))


def imported_again(chains: list[Chain], folder: Path, task: Task = TASK) -> list[Chain]:
    """Chains after a way out and back, in order."""
    rows = list(chain_rows(chains, task))
    entries = [
        (Place(file="log", line=number), one)
        for number, row in enumerate(rows, 1)
        for one in openai_chat(json.loads(json.dumps(row)), Place(file="log", line=number))
    ]
    out = folder / "again.jsonl"
    out.unlink(missing_ok=True)
    problems, dialect = task.problems("train", 1), chains[0].dialect
    report = import_chains(entries, task, problems, out, dialect=dialect)
    assert report.different == ()
    assert report.unreadable == report.without_problem == ()
    return sorted(ChainStore(out).latest(), key=lambda chain: chain.sample)


def essence(chain: Chain) -> list[Any]:
    return [
        [(step.reply, step.call, step.observation) for step in chain.steps],
        chain.answer,
        chain.outcome,
        chain.prompt,
    ]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=3
        )
    ),
    max_leaves=5,
)
KEEP_CALLS = st.builds(
    lambda args, kwargs: call_text("keep", args, kwargs),
    st.lists(JSON_VALUES, max_size=4),
    st.dictionaries(st.sampled_from(["first", "second", "more", "other"]), JSON_VALUES, max_size=3),
)
GATHER_CALLS = st.builds(
    lambda args, kwargs: call_text("gather", args, kwargs),
    st.lists(st.text("ab", max_size=2) | st.floats(-1e9, 1e9), max_size=4),
    st.dictionaries(st.sampled_from(["name", "numbers"]), JSON_VALUES, max_size=1),
)
SPELLINGS = st.sampled_from(
    [
        "keep( 1,2 )",
        "keep(second = 2, first=1)",
        "keep('a')",
        'keep("""a""", \'b\')',
        " keep(1)\n",
        "keep(\n    1,\n)",
        "keep(0x10, 1e3, more=(1,))",
        "keep(True, 1.0)",
        "keep(-0.0)",
        "gather('a', None)",
        "gather('a', numbers=None)",
        "gather(name='a', numbers=[1])",
        "keep(1)(2)",
        "print(keep(1))",
        "`keep(1)`",
        "keep(1).",
        "<think>keep(2)</think>\nkeep( 1 )",
        "Error: keep(1)",
        "the answer is keep(1)",
    ]
)
REPLIES = st.one_of(
    KEEP_CALLS,
    SPELLINGS,
    GATHER_CALLS,
    st.just("I think that I keep it.\nkeep(1)"),
    st.just("keep(1) keep(2)"),
    st.just("nothing(1, two=2)"),
    st.just("keep(1"),
    st.just(""),
    st.just("Hm."),
    st.just("```\nkeep( 1,2 )\n```"),
)


@given(st.lists(REPLIES, max_size=4))
def test_the_way_out_and_back_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, replies: list[str]
) -> None:
    chain = played(*replies, 'stop("5")')
    (again,) = imported_again([chain], tmp_path_factory.mktemp("again"))
    assert essence(again) == essence(chain)


def called(name: str, arguments: dict[str, Any]) -> str:
    return str(Said("", (Invocation(name, arguments),)))


NATIVE_CALLS = st.builds(
    called,
    st.sampled_from(["keep", "gather", "nothing", "functions.keep", "two words"]),
    st.dictionaries(st.sampled_from(["first", "more", "name", "numbers", "a-b"]), JSON_VALUES),
)
NATIVE_REPLIES = st.one_of(
    NATIVE_CALLS,
    st.builds("{}\n{}".format, st.sampled_from(["I keep it.", "  So. ", "keep(1)"]), NATIVE_CALLS),
    st.builds("{}\n{}".format, NATIVE_CALLS, NATIVE_CALLS),
    st.sampled_from(
        [
            "",
            "Hm.",
            " keep(1)",
            'stop("5")',
            "<tool_call>\n{",
            '<tool_call>{"name": "stop"}</tool_call>',
        ]
    ),
)


@given(st.lists(NATIVE_REPLIES, max_size=4))
def test_the_way_out_and_back_of_native_chains_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, replies: list[str]
) -> None:
    chain = played(*replies, called("stop", {"answer": "5"}), dialect="native")
    (again,) = imported_again([chain], tmp_path_factory.mktemp("again"))
    assert essence(again) == essence(chain)


def test_only_a_reply_that_its_message_does_not_tell_is_kept_beside_the_messages() -> None:
    spelled = ["keep(1, 2)", "keep( 1,2 )", "I keep: keep(1)", "Hm.", 'stop("5")']
    (row,) = chain_rows([played(*spelled)], TASK)
    assert row["replies"] == ["", "keep( 1,2 )", "", "", ""]
    said = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
    assert said == ["", "", "I keep: keep(1)", "Hm.", ""]


def test_a_reply_beside_messages_that_were_changed_is_not_believed(tmp_path: Path) -> None:
    (row,) = chain_rows([played("keep( 1,2 )", 'stop("5")')], TASK)
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = '{"first": 3}'
    (made,) = openai_chat(row, Place(file="log", line=1))
    problems = TASK.problems("train", 1)
    import_chains([(Place(file="log", line=1), made)], TASK, problems, tmp_path / "c")
    (chain,) = ChainStore(tmp_path / "c")
    assert chain.steps[0].reply == "keep(3)"


def test_chains_that_did_not_stop_come_back_as_they_are(tmp_path: Path) -> None:
    chains = [played("keep(1)", "keep(2)", steps=2), played("Hm.", "Hm.", steps=2)]
    again = imported_again(chains, tmp_path)
    assert [essence(chain) for chain in again] == [essence(chain) for chain in chains]
    assert {chain.stop_reason for chain in again} == {StopReason.RECORD_ENDED}


class Silent(SumTask):
    """Sums of which only the answer is judged."""

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        return Judgement()


@pytest.mark.parametrize("dialect", ["python", "native"])
@pytest.mark.parametrize("words", ["", "I add."])
def test_the_way_out_and_back_keeps_how_the_process_was_judged(
    tmp_path: Path, words: str, dialect: str
) -> None:
    task, place = Silent(), Place(file="log", line=1)
    call = RecordedCall(reply=words, name="calculator", arguments={"text": "0+7"})
    log = Recorded(problem_id="train-0-0", model="large", calls=(call,), final="7")
    problems = task.problems("train", 1)
    import_chains([(place, log)], task, problems, tmp_path / "c", dialect=dialect)
    (doubted,) = ChainStore(tmp_path / "c")
    assert doubted.judgement.process_correct is False
    collected = doubted.model_copy(update={"judgement": Judgement()})
    for chain, said in ((doubted, "wrong"), (collected, "")):
        (row,) = chain_rows([chain], task)
        assert row["process"] == said
        (again,) = imported_again([chain], tmp_path, task)
        assert essence(again) == essence(chain)
        assert again.judgement == chain.judgement


def test_arguments_are_those_that_were_given_and_no_others() -> None:
    (row,) = chain_rows([played("keep(None)", "gather('a')", 'stop("5")')], TASK)
    calls = [turn["tool_calls"][0]["function"] for turn in row["messages"] if "tool_calls" in turn]
    assert calls == [
        {"name": "keep", "arguments": '{"first": null}'},
        {"name": "gather", "arguments": '{"name": "a"}'},
        {"name": "stop", "arguments": '{"answer": "5"}'},
    ]


def test_a_row_holds_what_the_api_wants() -> None:
    (row,) = chain_rows([played("keep(1, 2)", "Hm.", "I stop: stop('5')")], TASK)
    system, user, first, result, words, error, last, answer = row["messages"]
    assert (system["content"], user["content"]) == ("Do anything.", "What?")
    assert (first["content"], first["tool_calls"][0]["id"]) == ("", "call_1")
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "(1, 2, 1)"}
    assert words == {"role": "assistant", "content": "Hm."}
    assert (error["role"], error["content"][:6]) == ("user", "Error:")
    assert (last["content"], last["tool_calls"][0]["id"]) == ("I stop: stop('5')", "call_3")
    assert answer["content"] == "5"
    assert row["tools"] == [made.schema for made in Anything.functions]
    assert (row["model"], row["outcome"], row["answer"]) == ("large", "correct", "5")


def test_the_tools_of_a_row_are_those_that_its_prompt_shows() -> None:
    (row,) = chain_rows([played('stop("5")', subset="short")], TASK)
    assert [tool["function"]["name"] for tool in row["tools"]] == ["keep", "stop"]


def test_only_the_chains_that_were_asked_for_are_written() -> None:
    task = SumTask()
    right = played("add(0, 7)", 'stop("7")', task=task)
    lucky, wrong = played('stop("7")', task=task), played('stop("8")', task=task)
    errored = right.model_copy(update={"outcome": Outcome.ERRORED, "error": "gone"})
    chains = [right, lucky, wrong, errored]
    assert [len(list(chain_rows(chains, task, keep))) for keep in ("all", "correct", "right")] == [
        3,
        2,
        1,
    ]
    with pytest.raises(ConfigError, match=r"no such choice.*'rihgt'.*'right'"):
        list(chain_rows(chains, task, "rihgt"))


def test_a_turn_that_may_have_been_cut_is_left_out() -> None:
    chain = played("keep(1)", 'stop("5")')
    cut = chain.model_copy(update={"stop_reason": StopReason.REPLY_TRUNCATED})
    (row,) = chain_rows([cut], TASK)
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant", "tool"]


def test_chains_of_another_task_or_of_other_functions_are_refused() -> None:
    chain = played('stop("5")')
    with pytest.raises(DataError, match="a chain of another task than sums"):
        list(chain_rows([chain], SumTask()))
    changed = Anything()
    changed.instruction = "Do something."
    with pytest.raises(DataError, match="the prompt shows no functions of task anything"):
        list(chain_rows([chain], changed))


@given(st.lists(JSON_VALUES, max_size=3), st.dictionaries(st.just("more"), JSON_VALUES))
def test_a_call_by_name_is_read_as_it_was_given(args: list[Any], kwargs: dict[str, Any]) -> None:
    functions = FunctionSet(Anything.functions)
    call = read_call(call_text("keep", args, kwargs), functions)
    assert call is not None
    given_names = named_arguments(call, functions)
    if len(args) > 2:
        assert given_names is None
    else:
        assert given_names is not None
        assert read_call(named_text("keep", given_names, functions), functions) == call


# --- data sets ----------------------------------------------------------------------------------


def mixed() -> list[Chain]:
    task = SumTask()
    return [
        played("add(0, 7)", 'stop("7")', task=task),
        played("add(0, 7)", "Hm.", 'stop("8")', task=task).model_copy(update={"key": "b"}),
    ]


def test_a_folder_gets_the_data_and_its_card(tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = chain_rows(mixed(), SumTask())
    made = write(rows, tmp_path / "set", form="openai", what="chains", made="Chains.")
    assert [path.name for path in made.files] == ["train.jsonl", "README.md"]
    card = (tmp_path / "set" / "README.md").read_text()
    assert "# 2 chains of function calls" in card
    assert "| incorrect | 1 |" in card
    assert "# license:" in card
    loaded = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 2


def test_only_names_of_data_files_are_files(tmp_path: Path) -> None:
    made = write(
        chain_rows(mixed(), SumTask()), tmp_path / "gpt-4.1", form="openai", what="chains", made=""
    )
    assert made.files[0] == tmp_path / "gpt-4.1" / "train.jsonl"
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="there is a file where the folder is to be"):
        write([], tmp_path / "taken", form="openai", what="chains", made="")


def test_a_row_has_the_right_answer_where_its_problem_is_at_hand() -> None:
    task = SumTask()
    (row, _) = chain_rows(mixed(), task, problems=task.problems("train", 1))
    assert (row["gold"], row["question"], row["sample"]) == ("7", "What is 0 + 7?", 0)
    (row, _) = chain_rows(mixed(), task, problems=[])
    assert row["gold"] == ""
    (row, _) = chain_rows(mixed(), task)
    assert "gold" not in row


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = list(chain_rows(mixed(), SumTask()))
    file = tmp_path / "chains.parquet"
    write(rows, file, form="parquet", what="chains", made="")
    for row, read in zip(rows, pq.read_table(file).to_pylist(), strict=True):
        turns = [{k: v for k, v in turn.items() if v is not None} for turn in read["messages"]]
        assert turns == row["messages"]
        assert json.loads(read["tools"]) == row["tools"]
        assert read["outcome"] == row["outcome"]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("form", ["openai", "trl", "parquet"])
def test_every_form_of_chains_is_read_back_to_the_same_replies(tmp_path: Path, form: str) -> None:
    chains = [played("keep( 1,2 )", "Hm.", "gather('a', None)", 'stop("5")'), played("stop('5')")]
    file = tmp_path / ("rows.parquet" if form == "parquet" else "rows.jsonl")
    write(chain_rows(chains, TASK), file, form=form, what="chains", made="")
    out = tmp_path / "again.jsonl"
    report = import_chains(read_log(openai_chat, file), TASK, TASK.problems("train", 1), out)
    again = sorted(ChainStore(out), key=lambda chain: chain.sample)
    assert [essence(chain) for chain in again] == [essence(chain) for chain in chains]
    assert report.different == ()


def test_what_cannot_be_imported_says_what_to_do(tmp_path: Path) -> None:
    pairs, folder = tmp_path / "pairs.jsonl", tmp_path / "set"
    write_pairs(make_pairs(mixed()), pairs)
    write(pair_rows(read_pairs(pairs), SumTask()), folder, form="parquet", what="pairs", made="")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b"{}"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and so on")
    for log, fault in (
        (pairs, "line 1.*preference pair, not a conversation. Chains are imported, and pairs made"),
        (folder / "train.parquet", "train.parquet, record 1.*preference pair, not a conversation"),
        (folder, "the log is a folder.*Give the files in it: train.parquet"),
        (tmp_path / "packed.gz", "the log is no text.*unpack it"),
        (tmp_path / "cut.parquet", "a Parquet file that cannot be read.*It may be cut"),
    ):
        with pytest.raises(DataError, match=fault):
            list(read_log(openai_chat, log))


def test_a_file_of_the_other_kind_is_named_with_the_command_for_it(
    rightcall: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    chains, pairs = tmp_path / "chains.jsonl", tmp_path / "pairs.jsonl"
    ChainStore(chains).append(mixed())
    write_pairs(make_pairs(mixed()), pairs)
    code, shown = rightcall("export", "pairs", chains, "--task", SUMS, "--out", tmp_path / "x.jsonl")
    assert (code, "a chains file is no pairs file" in shown) == (2, True)
    assert f"rightcall pairs make {chains}" in shown
    assert f"rightcall export chains {chains}" in shown
    code, shown = rightcall("export", "chains", pairs, "--task", SUMS, "--out", tmp_path / "x.jsonl")
    assert (code, "a pairs file is no chains file" in shown) == (2, True)
    assert f"rightcall export pairs {pairs}" in shown
    code, shown = rightcall("pairs", "make", pairs, "--out", tmp_path / "x.jsonl")
    assert (code, "a pairs file is no chains file" in shown) == (2, True)
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("form", ["trl", "parquet"])
def test_an_export_of_pairs_is_not_taken_for_a_pairs_file(tmp_path: Path, form: str) -> None:
    pairs = pair_rows(make_pairs(mixed()), SumTask())
    (file, _) = write(pairs, tmp_path / "set", form=form, what="pairs", made="").files
    with pytest.raises(DataError, match=r"an export of pairs is no pairs file.*was exported"):
        list(read_pairs(file))


def test_a_file_holds_what_its_name_says(tmp_path: Path) -> None:
    for name, form in (("a.parquet", "openai"), ("a.jsonl", "parquet")):
        with pytest.raises(ConfigError, match=rf"the form {form} is not what a file of that name"):
            write([{}], tmp_path / name, form=form, what="chains", made="")
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "chains.jsonl"
    write(chain_rows(mixed(), SumTask()), file, form="openai", what="chains", made="")
    before = file.read_bytes()
    with pytest.raises(DataError, match="another task"):
        write(chain_rows([*mixed(), played("keep(1)", 'stop("5")')], SumTask()), file,
              form="openai", what="chains", made="")  # fmt: skip
    with pytest.raises(DataError, match="nothing to write"):
        write([], file, form="openai", what="chains", made="")
    with pytest.raises(ConfigError, match=r"no such form.*'openai'"):
        write([], file, form="opnai", what="chains", made="")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("form", ["openai", "parquet"])
@pytest.mark.parametrize("fails", [False, True])
def test_an_export_of_nothing_leaves_no_folder_behind(tmp_path: Path, form: str, fails: bool) -> None:
    chains = [played("keep(1)", 'stop("4")')]
    if fails:
        chains = [played('stop("5")'), *mixed()]
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "new" / "deeper", tmp_path / "there"):
        with pytest.raises(DataError, match="another task" if fails else "nothing to write"):
            write(chain_rows(chains, TASK, "right"), out, form=form, what="chains", made="So.")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_the_sides_of_a_pair_go_on_from_its_prompt(tmp_path: Path) -> None:
    pairs = list(make_pairs(mixed()))
    (row, *_) = pair_rows(pairs, SumTask())
    assert row["prompt"][0]["content"] == "Add."
    for side in ("chosen", "rejected"):
        turns = [*row["prompt"], *row[side]]
        ids = [turn["tool_calls"][0]["id"] for turn in turns if "tool_calls" in turn]
        assert len(set(ids)) == len(ids)
        assert row[side][0]["role"] == row[side][-1]["role"] == "assistant"


TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] }}{{ c['function']['arguments'] }}"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library that is tried out, not ours
@pytest.mark.parametrize("template", ["qwen2_5_training", "llama3_2"])
def test_templates_write_the_arguments_of_rows_for_trl_once_and_without_nulls(
    tmp_path: Path, template: str
) -> None:
    import trl
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl.data_utils import maybe_apply_chat_template

    from tiny_models import build_tiny

    build_tiny("llama", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    templates = Path(trl.__file__).with_name("chat_templates")
    tokenizer.chat_template = (templates / f"{template}.jinja").read_text()
    file = tmp_path / "pairs.jsonl"
    write(pair_rows(make_pairs(mixed()), SumTask()), file, form="trl", what="pairs", made="")
    data = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path))
    key = "parameters" if template == "llama3_2" else "arguments"
    names = ("prompt", "chosen", "rejected", "tools")
    made = maybe_apply_chat_template({name: data[0][name] for name in names}, tokenizer)
    said = made["chosen"] + made["rejected"]
    written = re.findall(rf'"{key}": (.*?)\}}(?:\n</tool_call>|<\|eot_id\|>)', said)
    assert {"answer": "7"} in [json.loads(one) for one in written]
    for one in written:
        assert json.loads(one).keys() in ({"a", "b"}, {"answer"})
    assert "null" not in said


def test_arguments_are_objects_for_trl_and_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "chains.jsonl"
    write(chain_rows(mixed(), SumTask()), file, form="trl", what="chains", made="")
    (row, _) = map(json.loads, file.read_text().splitlines())
    calls = [turn["tool_calls"][0]["function"] for turn in row["messages"] if "tool_calls" in turn]
    assert [call["arguments"] for call in calls] == [{"a": 0, "b": 7}, {"answer": "7"}]
    (again,) = openai_chat(row, Place(file="log", line=1))
    assert [call.arguments for call in again.calls] == [{"a": 0, "b": 7}, {"answer": "7"}]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library that is tried out, not ours
def test_trl_trains_one_step_on_an_exported_preference_set(tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from tiny_models import build_tiny

    folder = tmp_path / "model"
    build_tiny("llama", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    file = tmp_path / "pairs.jsonl"
    write(pair_rows(make_pairs(mixed()), SumTask()), file, form="trl", what="pairs", made="")
    data = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path))
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=data,
        processing_class=tokenizer,
    )
    result = trainer.train()
    assert result.global_step == 1
    assert result.training_loss == pytest.approx(0.6931, abs=1e-3)


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def rightcall(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command line in this process: its exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rightcall", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out + err

    return run


def test_the_commands_write_chains_and_pairs(
    rightcall: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    chains, pairs = tmp_path / "chains.jsonl", tmp_path / "pairs.jsonl"
    ChainStore(chains).append(mixed())
    write_pairs(make_pairs(mixed()), pairs)
    code, shown = rightcall(
        "export", "chains", chains, "--task", SUMS, "--keep", "right", "--out", tmp_path / "out.jsonl"
    )
    assert (code, "left out: not right" in shown) == (0, True)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
    code, _ = rightcall("export", "pairs", pairs, "--task", SUMS, "--out", tmp_path / "set")
    assert code == 0
    row = json.loads((tmp_path / "set" / "train.jsonl").read_text().splitlines()[0])
    assert {"prompt", "chosen", "rejected", "tools"} <= row.keys()
    code, shown = rightcall("export", "chains", tmp_path, "--out", tmp_path / "x.jsonl")
    assert (code, "chains are read from files" in shown) == (2, True)
    code, shown = rightcall("export", "chains", chains, "--out", tmp_path / "x.jsonl")
    assert (code, "unknown task" in shown) == (2, True)


def test_a_choice_that_leaves_no_chain_says_what_was_left_out(
    rightcall: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    chains = tmp_path / "c.jsonl"
    wrong = [one for one in mixed() if one.outcome is Outcome.INCORRECT]
    ChainStore(chains).append(wrong)
    arguments = ("export", "chains", chains, "--task", SUMS, "--out", tmp_path / "new")
    code, shown = rightcall(*arguments, "--keep", "right")
    assert (code, (tmp_path / "new").exists()) == (2, False)
    assert f"no chain is left to export: {{'not right': {len(wrong)}}}" in shown
    assert "--keep all" in shown
    assert rightcall(*arguments)[0] == 0
