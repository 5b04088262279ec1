"""Chains and pairs → files that other programs train on.

    openai   conversations with `tool_calls` (JSON lines), the tools beside them
    trl      preference pairs (prompt, chosen, rejected) or SFT conversations, for TRL
    parquet  the same rows in columns

Calls become `tool_calls` with the arguments that the model gave and no others: as JSON text, as the API
has them (and as columns must: those of objects would be filled up with nulls); for TRL as objects,
which chat templates write. A turn whose text is not just its call keeps
the text beside it, and a turn that makes no call by name stays text. Rows of chains have in `replies`
the model's exact text where that is spelled otherwise; so `openai_chat` reads everything back.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rightcall.augment.shown import functions_in
from rightcall.chain import JSON, Chain, Message, Outcome, Problem
from rightcall.dialects import DIALECTS, conversation
from rightcall.errors import ConfigError, DataError, nearest
from rightcall.functions import FunctionSet
from rightcall.native import Said, read, structured, tools_of
from rightcall.pairs import PreferencePair
from rightcall.task import Task
from rightcall.tool_calls import is_bare, named_arguments, named_text, read_call

Turn = dict[str, JSON]
"""A message in the form of the OpenAI API."""
Row = dict[str, JSON]

KEPT: dict[str, Callable[[Chain], bool]] = {
    "all": lambda chain: True,
    "correct": lambda chain: chain.outcome is Outcome.CORRECT,
    "right": lambda chain: chain.right_for_the_right_reason,
}
"""Which chains: all, those with a right answer, those that are right for the right reason."""


# --- messages -----------------------------------------------------------------------------------


class Native:
    """Turns conversations of a task, as chains and pairs hold them, into `tool_calls`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._sets: dict[str, FunctionSet] = {}
        self._subsets = [task.default_subset, "all", *task.subsets]

    def form(
        self, schemas: str, prompt: Sequence[Message], *others: Sequence[Message]
    ) -> tuple[list[list[Turn]], list[JSON]]:
        """A conversation and what may follow it in the API's form, and the tools. `schemas`: of the
        functions, where calls are native; else the prompt shows them."""
        if schemas:
            before = _as_sent(prompt)
            after = [_as_sent([*prompt, *other])[len(before) :] for other in others]
            return [before, *after], [*tools_of(schemas)]
        functions = self.functions(prompt)
        said = sum(message["role"] == "assistant" for message in prompt)
        # A prompt may end with the observation of its last call: the calls are numbered through.
        after = [self.turns(other, functions, said + 1) for other in others]
        return [self.turns(prompt, functions), *after], tools(functions)

    def functions(self, prompt: Sequence[Message]) -> FunctionSet:
        """The functions that a prompt shows. Raises `DataError` if no subset of the task's is shown so:
        the task has changed since, or it is another one."""
        shown = prompt[0]["content"] if prompt else ""
        if shown not in self._sets:
            self._sets[shown] = self._found(shown)
        return self._sets[shown]

    def _found(self, shown: str) -> FunctionSet:
        nothing = Problem(id="", question="", answer="")
        for subset in self._subsets:
            functions = self.task.function_set(subset)
            for dialect in DIALECTS.values():
                said = dialect.prompt(self.task.instruction, functions, nothing)[0]["content"]
                if said == shown:
                    return functions
        if (otherwise := functions_in(shown, self.task)) is not None:
            return otherwise
        raise DataError(
            f"the prompt shows no functions of task {self.task.name} as they are now",
            value=shown[:200],
            remedy="Give the task and the options with which the chains were collected.",
        )

    def turns(self, messages: Sequence[Message], functions: FunctionSet, first: int = 1) -> list[Turn]:
        """A conversation in the API's form; `first` numbers its first call."""
        made: list[Turn] = []
        pending = None
        for message in messages:
            if message["role"] == "system":
                made.append({"role": "system", "content": self.task.instruction})
            elif message["role"] == "assistant":
                pending = f"call_{first}"
                made.append(said := _assistant(message["content"], functions, pending))
                first += 1
                pending = pending if "tool_calls" in said else None
            elif pending is not None:
                made.append({"role": "tool", "tool_call_id": pending, "content": message["content"]})
                pending = None
            else:
                made.append({"role": message["role"], "content": message["content"]})
        return made


def _as_sent(messages: Sequence[Message]) -> list[Turn]:
    """A native conversation in the API's form. Keys and types are those of every other row: a table
    library would fill columns up."""
    turns = structured(messages, "text")
    for turn in turns:
        turn.pop("name", None)
        turn["content"] = turn["content"] or ""
    return turns


def _assistant(reply: str, functions: FunctionSet, name: str) -> Turn:
    """A turn of the model. The text stays where the call does not say it all."""
    call = read_call(reply, functions)
    given = None if call is None else named_arguments(call, functions)
    if call is None or given is None:
        return {"role": "assistant", "content": reply}
    return {
        "role": "assistant",
        "content": "" if is_bare(reply) else reply,
        "tool_calls": [
            {
                "id": name,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(given, ensure_ascii=False),
                },
            }
        ],
    }


def tools(functions: FunctionSet) -> list[JSON]:
    """The schemas of functions, as the API takes them."""
    return [made.schema for made in functions]


# --- rows ---------------------------------------------------------------------------------------


def chain_rows(
    chains: Iterable[Chain],
    task: Task,
    keep: str = "all",
    skipped: Counter[str] | None = None,
    problems: Iterable[Problem] | None = None,
) -> Iterator[Row]:
    """A row for each chain: `messages`, `tools`, and what it is; with `problems` also its `gold` answer
    (empty if its problem is not among them). Errored chains are left out; so is a last turn that may
    have been cut."""
    if keep not in KEPT:
        raise ConfigError("no such choice of chains", value=keep, remedy=nearest(keep, KEPT))
    native, left = Native(task), Counter[str]() if skipped is None else skipped
    numbers: set[tuple[str, str, int]] = set()
    answers = None if problems is None else {one.id: one.answer for one in problems}
    for chain in chains:
        if chain.task != task.name:
            raise DataError(
                f"a chain of another task than {task.name}", value=f"{chain.task}, {chain.key}"
            )
        if chain.outcome is Outcome.ERRORED:
            left["errored"] += 1
        elif not KEPT[keep](chain):
            left[f"not {keep}"] += 1
        else:
            row = _chain_row(chain, native)
            row["sample"] = _number(chain, numbers)
            yield row if answers is None else {**row, "gold": answers.get(chain.problem_id, "")}


def _number(chain: Chain, taken: set[tuple[str, str, int]]) -> int:
    """The chain's sample number, or the next that is free: chains of several collections may share
    one, and a reader takes them for the same attempt."""
    number = chain.sample
    while (chain.model, chain.problem_id, number) in taken:
        number += 1
    taken.add((chain.model, chain.problem_id, number))
    return number


def _chain_row(chain: Chain, native: Native) -> Row:
    steps = chain.steps[:-1] if chain.maybe_cut else chain.steps
    messages = conversation(chain.prompt, steps, DIALECTS[chain.dialect])
    (turns,), shown = native.form(chain.schemas, messages)
    functions = None if chain.schemas else native.functions(chain.prompt)
    said = [turn for turn in turns[len(chain.prompt) :] if turn["role"] == "assistant"]
    return {
        "messages": turns,
        "tools": shown,
        "task": chain.task,
        "problem_id": chain.problem_id,
        "question": chain.prompt[-1]["content"],
        "model": chain.model,
        "sample": chain.sample,
        "source": chain.source,
        "key": chain.key,
        "answer": chain.answer or "",
        "outcome": chain.outcome.value,
        "right_for_the_right_reason": chain.right_for_the_right_reason,
        "process": _PROCESS[chain.judgement.process_correct],
        "dialect": chain.dialect,
        "replies": [
            _untold(step.reply, turn, functions) for step, turn in zip(steps, said, strict=True)
        ],
    }


_PROCESS = {True: "right", False: "wrong", None: ""}
"""How a chain's process was judged, in a row; nothing where the task could not tell."""


def _untold(reply: str, turn: Turn, functions: FunctionSet | None) -> str:
    """The reply, if its turn alone would be read back as another; otherwise nothing. `functions`:
    those shown, where calls are Python."""
    if functions is None:
        said = read(reply)
        told = len(said.calls) == 1 and reply == str(Said(said.words.rstrip(), said.calls))
        return "" if told else reply
    if not turn.get("tool_calls") or turn["content"]:
        return ""
    made = turn["tool_calls"][0]["function"]
    return "" if named_text(made["name"], json.loads(made["arguments"]), functions) == reply else reply


def pair_rows(pairs: Iterable[PreferencePair], task: Task) -> Iterator[Row]:
    """A row for each pair: `prompt`, `chosen`, `rejected`, `tools`, and where it comes from."""
    native = Native(task)
    for pair in pairs:
        (prompt, chosen, rejected), shown = native.form(
            pair.schemas, pair.prompt, pair.chosen, pair.rejected
        )
        yield {
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "tools": shown,
            "task": pair.task,
            "problem_id": pair.problem_id,
            "strategy": pair.strategy,
            "basis": pair.basis.value,
            "chosen_source": pair.chosen_source,
            "rejected_source": pair.rejected_source,
        }


def as_text_column(row: Row) -> Row:
    """The row with `tools` as JSON text: schemas differ from function to function, and a column of
    them would be filled up with nulls. TRL reads either form."""
    return {**row, "tools": json.dumps(row["tools"], ensure_ascii=False)}


def _with_objects(row: Row) -> Row:
    """The row with the arguments of its calls as objects, for chat templates, which write them as
    JSON."""
    return {key: _opened(value) if key in _TURNS else value for key, value in row.items()}


_TURNS = ("messages", "prompt", "chosen", "rejected")


def _opened(turns: Any) -> JSON:
    return [
        turn | {"tool_calls": [_call_opened(call) for call in turn["tool_calls"]]}
        if turn.get("tool_calls")
        else turn
        for turn in turns
    ]


def _call_opened(call: Mapping[str, Any]) -> JSON:
    made = call["function"]
    return {**call, "function": {**made, "arguments": json.loads(made["arguments"])}}


# --- files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What an export wrote."""

    files: tuple[Path, ...]
    rows: int
    counts: Mapping[str, Mapping[str, int]]
    """Column → value → rows, of the columns that tell rows apart."""


_COUNTED = (
    "task", "model", "source", "outcome", "right_for_the_right_reason", "strategy", "basis",
    "chosen_source", "rejected_source",
)  # fmt: skip


def write(rows: Iterable[Row], out: str | Path, *, form: str, what: str, made: str) -> Written:
    """Write rows as `openai` or `trl` (JSON lines) or as `parquet`: to a file, if `out` ends with
    .jsonl, .json or .parquet, else to a folder with a data set card. `what` is "chains" or "pairs";
    `made` is a sentence for the card about how they were made. A file appears whole or not at all.
    Raises `ConfigError`; `DataError` if there is no row: then nothing is left behind."""
    if form not in FORMS:
        raise ConfigError("no such form", value=form, remedy=nearest(form, FORMS))
    out = Path(out)
    suffix = ".parquet" if form == "parquet" else ".jsonl"
    file = out if out.suffix in _FILES else out / f"train{suffix}"
    if (file.suffix == ".parquet") is not (form == "parquet"):
        raise ConfigError(
            f"the form {form} is not what a file of that name holds",
            value=str(out),
            remedy=f"Give a file that ends with {suffix}, a folder, or another form (--as).",
        )
    if file != out and out.is_file():
        raise ConfigError(
            "there is a file where the folder is to be",
            value=str(out),
            remedy=f"Give another folder, or a file that ends with {suffix}.",
        )
    counts: dict[str, Counter[str]] = {}
    if form != "openai":
        rows = map(as_text_column, rows)
    if form == "trl":
        rows = map(_with_objects, rows)
    counted = _counted(rows, counts)
    number = _whole(file, _write_parquet if form == "parquet" else _write_lines, counted)
    files = [file]
    if file != out:
        card = out / "README.md"
        card.write_text(data_card(what, made, form, number, counts), encoding="utf-8")
        files.append(card)
    return Written(tuple(files), number, counts)


FORMS = ("openai", "trl", "parquet")
_FILES = (".jsonl", ".json", ".parquet")


def _counted(rows: Iterable[Row], counts: dict[str, Counter[str]]) -> Iterator[Row]:
    for row in rows:
        for column in _COUNTED:
            if column in row:
                counts.setdefault(column, Counter())[str(row[column])] += 1
        yield row


def _whole(file: Path, writer: Callable[[Path, Iterator[Row]], int], rows: Iterator[Row]) -> int:
    """Write a file, or nothing: then no folder is left for it, either."""
    new = [folder for folder in file.parents if not folder.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    try:
        number = writer(partial, rows)
        if not number:
            raise DataError("there is nothing to write", value=str(file))
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        with suppress(OSError):  # someone else has put something there
            for folder in new:
                folder.rmdir()
        raise
    return number


def _write_lines(file: Path, rows: Iterator[Row]) -> int:
    number = 0
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            number += 1
    return number


_ROWS_AT_ONCE = 1000


def _write_parquet(file: Path, rows: Iterator[Row]) -> int:
    """In groups of rows, all with the columns of `_schema`."""
    from itertools import islice

    import pyarrow as pa
    import pyarrow.parquet as pq

    number, writer = 0, None
    try:
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            number += len(batch)
            table = pa.Table.from_pylist(batch, schema=_schema(batch[0]))
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return number


def _schema(row: Row) -> Any:
    """The columns' types: known beforehand, as a first row may have no call."""
    import pyarrow as pa

    called = pa.struct([("name", pa.string()), ("arguments", pa.string())])
    call = pa.struct([("id", pa.string()), ("type", pa.string()), ("function", called)])
    turn = [("role", pa.string()), ("content", pa.string()), ("tool_call_id", pa.string())]
    turns = pa.list_(pa.struct([*turn, ("tool_calls", pa.list_(call))]))
    kinds = {list: turns, bool: pa.bool_(), int: pa.int64(), str: pa.string()}
    named = {"replies": pa.list_(pa.string())}
    return pa.schema([(name, named.get(name, kinds[type(value)])) for name, value in row.items()])


def data_card(
    what: str, made: str, form: str, rows: int, counts: Mapping[str, Mapping[str, int]]
) -> str:
    """A data set card (README.md) for the hub. The licence is the user's to choose."""
    from rightcall import __version__

    suffix = "parquet" if form == "parquet" else "jsonl"
    tables = [
        f"| {column.replace('_', ' ')} | rows |\n|---|---|\n"
        + "\n".join(f"| {_cell(value)} | {number} |" for value, number in sorted(found.items()))
        for column, found in counts.items()
    ]
    given = "objects" if form == "trl" else "JSON text"
    columns = "prompt, chosen, rejected" if what == "pairs" else "messages"
    replies = "- `replies`: the model's exact text of a turn, where its message does not tell it\n"
    replies = "" if what == "pairs" else replies
    return f"""---
# license: the licence is yours to choose; mind those of the problems and of the models
tags:
- function-calling
- tool-use
- rightcall
configs:
- config_name: default
  data_files:
  - split: train
    path: train.{suffix}
---

# {rows:,} {"preference pairs" if what == "pairs" else "chains of function calls"}

## Columns

- `{columns}`: conversations with `tool_calls` whose arguments are {given}
- `tools`: the schemas of the functions{"" if form == "openai" else ", as JSON text"}
{replies}- the rest: where a row comes from

## How it was made

{made} RightCall {__version__} executed every call and judged every answer; observations are what the
functions gave.

## What it holds

{(chr(10) * 2).join(tables)}
"""


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
