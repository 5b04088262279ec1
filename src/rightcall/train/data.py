"""Files of pairs or conversations → token rows.

A row is refused rather than mended: a side that is missing, a prompt that is not a token prefix of its
completion, a side without a trained token, or a length beyond the limit never becomes a silently cut or
empty example. Left out, and said to be, are pairs that teach nothing, as `pairs make` leaves them out:
one whose sides are alike has no gradient, and one that came before would only weigh more (`epochs` is
for that). So is a pair that was made of chains, where a template that carries chains cannot carry these
(two calls in a reply, words beside a call): nobody wrote it for this template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from rightcall.chain import Message, Problem, digest
from rightcall.errors import DataError, RenderingError, first_fault
from rightcall.pairs import TurnIds, check_leaks
from rightcall.rendering import Rendered, Renderer

Method = Literal["dpo", "sft"]


_TURNS = ("messages", "prompt", "completion", "chosen", "rejected")
_CALLS = "tool_calls"


class Record(BaseModel):
    """What training reads of a line: a pair, `prompt` + `completion`, or whole `messages`. Other
    columns are for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    messages: tuple[Message, ...] = ()
    prompt: tuple[Message, ...] = ()
    completion: tuple[Message, ...] = ()
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    prompt_ids: TurnIds = ()
    """Sampled ids of each assistant turn, where known: tokens are then trained as they were said."""
    chosen_ids: TurnIds = ()
    rejected_ids: TurnIds = ()
    schemas: str = ""
    """JSON text of the functions' schemas, where they are shown through the template."""
    strategy: str = ""
    """How the pair was made, where it says so."""
    task: str = ""
    problem_id: str = ""
    root: str = ""
    """Id of the problem that augmentation made this one of in the end; empty if it made none."""

    @property
    def question(self) -> str:
        """The problem's text: the last turn before the first reply."""
        before = self._before
        return before[-1]["content"] if before else ""

    @property
    def _before(self) -> tuple[Message, ...]:
        """What stands before the first reply."""
        given = (*self.prompt, *self.messages)
        first = next((i for i, m in enumerate(given) if m["role"] == "assistant"), len(given))
        return given[:first]

    @property
    def problem(self) -> str:
        """What rows of one problem have in common, and with it most of their tokens."""
        if self.problem_id:
            return f"{self.task}/{self.problem_id}"
        shown = [self.schemas] if self.schemas else []
        return digest(*shown, [dict(m) for m in self._before])

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: object) -> object:
        """Columns that a table library filled with null are columns that are not there. Calls beside
        the words of a turn are not read: a row that has some would train the words alone."""
        if not isinstance(fields, dict):
            return fields
        for name in _TURNS:
            turns = fields[name] if isinstance(fields.get(name), list) else []
            if any(isinstance(turn, dict) and turn.get("tool_calls") for turn in turns):
                raise PydanticCustomError(_CALLS, "A turn has its calls in `tool_calls`")
        return {name: value for name, value in fields.items() if value is not None}

    def sides(self, method: Method) -> tuple[Side, ...]:
        """The conversations to train on: chosen and rejected, or the one that SFT imitates."""
        prompt, wanted = self.prompt, self.chosen or self.completion
        if self.messages and not wanted:
            first = next(
                (i for i, m in enumerate(self.messages) if m["role"] == "assistant"), len(self.messages)
            )
            prompt, wanted = self.messages[:first], self.messages[first:]
        preferred = Side(prompt, wanted, self.prompt_ids, self.chosen_ids, self.schemas)
        if method == "sft":
            return (preferred,)
        rejected = Side(prompt, self.rejected, self.prompt_ids, self.rejected_ids, self.schemas)
        return (preferred, rejected)


@dataclass(frozen=True)
class Side:
    """A prompt and one completion of it."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    prompt_ids: TurnIds = ()
    completion_ids: TurnIds = ()
    schemas: str = ""


@dataclass(frozen=True)
class Row:
    """One unit of training: a pair, or a single conversation for SFT."""

    name: str
    """Where it comes from, for messages to people: `pairs.jsonl, line 3`."""
    chosen: Rendered
    rejected: Rendered | None = None
    problem: str = ""
    """Rows of one problem are trained together."""

    @property
    def sequences(self) -> tuple[Rendered, ...]:
        return (self.chosen,) if self.rejected is None else (self.chosen, self.rejected)

    @property
    def length(self) -> int:
        """Tokens of the longer side."""
        return max(len(sequence.ids) for sequence in self.sequences)


@dataclass(frozen=True)
class Rows:
    """What a file gave."""

    rows: tuple[Row, ...]
    too_long: tuple[str, ...] = ()
    """Names of the rows that were left out because they exceed the length limit."""
    repeated: int = 0
    """Rows left out because the same tokens came before (SFT: one chain is chosen in many pairs)."""
    unfit: dict[str, str] = field(default_factory=dict)
    """Names of the pairs that were left out for another reason, and which: the template cannot carry
    them, their sides are alike, or the same pair came before."""


def read_records(path: str | Path) -> Iterator[tuple[str, Record]]:
    """The lines of a JSONL file with their names. Raises `DataError` on a line that is no record."""
    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such training file", value=str(path))
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            name = f"{path.name}, line {number}"
            if not line.strip():
                continue
            try:
                yield name, Record.model_validate_json(line)
            except ValidationError as error:
                exported = error.errors()[0]["type"] == _CALLS
                raise DataError(
                    f"{name}, is not a training row",
                    value=first_fault(error),
                    remedy="Exports are for other programs: give the pairs file that this is made of."
                    if exported
                    else "A row has `prompt`, `chosen` and `rejected` (lists of messages), or for "
                    "SFT also `prompt` and `completion`, or `messages`.",
                ) from error


def check_unseen(path: str | Path, test: Iterable[Problem]) -> None:
    """Hold a training file against test problems. Raises `DataError` if a row asks one of them, or
    belongs to a relative of one (see `check_leaks`); rows of one's own may ask it in any user turn."""
    if held := list(test):
        check_leaks(_asked(path), held)


def _asked(path: str | Path) -> Iterator[Record | str]:
    for _, record in read_records(path):
        yield record
        if not record.strategy:
            turns = (*record.prompt, *record.messages, *record.completion)
            yield from (turn["content"] for turn in turns if turn["role"] == "user")


def render_side(renderer: Renderer, side: Side, *, mask_observations: bool, name: str) -> Rendered:
    """Tokens of prompt and completion; trained are the model's words in the completion.

    With `mask_observations` false everything after the prompt is trained, observations and the
    template's own marks included. Raises `RenderingError` if the prompt is not a token prefix of
    the whole, or if nothing would be trained.
    """
    earlier = sum(m["role"] == "assistant" for m in side.prompt)
    ids = (*side.prompt_ids, *[None] * (earlier - len(side.prompt_ids)))
    turns = (*side.prompt, *side.completion)
    try:
        prompt = renderer.render(side.prompt, ids, reply_next=True, tools=side.schemas)
        whole = renderer.render(turns, (*ids, *side.completion_ids), tools=side.schemas)
    except RenderingError as error:
        raise RenderingError(
            f"{name}: {error.fault}", value=error.value, remedy=error.remedy
        ) from error
    start = len(prompt.ids)
    if whole.ids[:start] != prompt.ids:
        raise RenderingError(
            f"{name}: the prompt is not a token prefix of its completion",
            value=renderer.tokenizer.decode(list(prompt.ids[-12:])),
            remedy="A completion begins with an assistant turn; the template may only append.",
        )
    words = whole.trained[start:] if mask_observations else (True,) * (len(whole.ids) - start)
    if not any(words):
        raise RenderingError(
            f"{name}: no token of this row would be trained",
            value=side.completion,
            remedy="A completion needs at least one assistant turn.",
        )
    return Rendered(whole.ids, (False,) * start + words)


def load_rows(
    path: str | Path,
    renderer: Renderer,
    *,
    method: Method,
    max_length: int,
    mask_observations: bool = True,
    too_long: Literal["refuse", "drop"] = "refuse",
    strategies: Collection[str] = (),
) -> Rows:
    """The rows of a file, in its order, as tokens and train masks; only the pairs of `strategies`, if
    any are named.

    A row longer than `max_length` tokens on either side is refused or dropped and named, never cut.
    SFT takes each conversation once, DPO each pair. Raises `DataError` on a row without a side that
    `method` needs, and `RenderingError` on one that cannot be rendered, unless it is a pair of some
    strategy and the template can carry other chains.
    """
    rows: list[Row] = []
    left_out: list[str] = []
    unfit: dict[str, str] = {}
    seen: set[tuple[Rendered, ...]] = set()
    repeated = 0
    met: Counter[str] = Counter()
    for name, record in read_records(path):
        met[record.strategy] += 1
        if strategies and record.strategy not in strategies:
            continue
        _check_sides(name, record, method)
        try:
            chosen, *rejected = (
                render_side(renderer, side, mask_observations=mask_observations, name=name)
                for side in record.sides(method)
            )
        except RenderingError as error:
            if not record.strategy:
                raise
            renderer.check(record.schemas)
            unfit[name] = error.fault.removeprefix(f"{name}: ")
            continue
        row = Row(name, chosen, rejected[0] if rejected else None, record.problem)
        if row.length > max_length:
            left_out.append(name)
        elif row.chosen == row.rejected:
            unfit[name] = "the chosen and the rejected side are alike"
        elif row.sequences in seen and method == "dpo":
            unfit[name] = "the same pair came before"
        elif row.sequences in seen:
            repeated += 1
        else:
            rows.append(row)
            seen.add(row.sequences)
    if left_out and too_long == "refuse":
        raise DataError(
            f"{len(left_out)} of {len(left_out) + len(rows) + repeated} rows are longer than "
            f"{max_length} tokens",
            value=left_out[:3],
            remedy='Raise max_length, shorten the chains, or set too_long="drop" to leave them out.',
        )
    if not rows:
        raise DataError(
            "there is nothing to train on",
            value=str(path),
            remedy=f"Pairs by strategy: {dict(met)}; asked for: {sorted(strategies) or 'all'}; "
            f"left out: {len(left_out)} too long, {reasons(unfit) or 'no others'}.",
        )
    return Rows(tuple(rows), tuple(left_out), repeated, unfit)


def _check_sides(name: str, record: Record, method: Method) -> None:
    missing = ""
    if not record.sides(method)[0].completion:
        missing = "`chosen`" if method == "dpo" else "`chosen`, `completion` or `messages`"
        missing = "assistant turn in its `messages`" if record.messages else missing
    elif method == "dpo" and not record.rejected:
        missing = "`rejected`"
    if missing:
        raise DataError(
            f"{name}, has no {missing}",
            value=[turns for turns in _TURNS if getattr(record, turns)],
            remedy="Each side of a pair is a list of messages that begins with an assistant turn; "
            'without pairs, train with method="sft".'
            if method == "dpo"
            else "What is imitated is a list of messages that begins with an assistant turn.",
        )


def reasons(unfit: Mapping[str, str]) -> str:
    """Why rows were left out, how many, and the first of them: `2 the same pair came before (first:
    pairs.jsonl, line 7)`."""
    why = by_reason(unfit)
    ordered = sorted(why, key=lambda reason: -len(why[reason]))
    return ", ".join(f"{len(why[r])} {r} ({first_of(why[r])})" for r in ordered)


def by_reason(unfit: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of the rows that were left out, under what was the reason."""
    found: dict[str, list[str]] = {}
    for name, reason in unfit.items():
        found.setdefault(reason, []).append(name)
    return found


def first_of(names: Sequence[str]) -> str:
    """Where to look: `pairs.jsonl, line 7`, or `first: pairs.jsonl, line 7` of several."""
    return names[0] if len(names) == 1 else f"first: {names[0]}"
