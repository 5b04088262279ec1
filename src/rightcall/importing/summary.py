"""What an import found: counted, compared with what was recorded, and every difference listed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from pydantic import Field

from rightcall.chain import JSON, Chain, Frozen, Outcome
from rightcall.errors import DataError
from rightcall.importing.answers import is_clear, may_answer
from rightcall.importing.recorded import Place, Recorded, Unreadable
from rightcall.tasks.math.numbers import read_number

SHOWN = 10
"""Of each list on the terminal; a report file has them all."""
LONGEST = 120
"""Characters of a cell there: what a model wrote may be endless."""


class Table(NamedTuple):
    """A table to be shown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class Difference(Frozen):
    """A call whose result, as recorded, is not what our function gave."""

    kind: Literal["rounded", "different"]
    place: Place
    model: str
    problem_id: str
    step: int
    """From 1."""
    reply: str
    recorded: str
    computed: str


class Disagreement(Frozen):
    """An attempt of which the publisher's verdict is not ours."""

    place: Place
    model: str
    problem_id: str
    answer: str | None
    """What the chain stopped with."""
    gold: str
    published: bool


class Unmatched(Frozen):
    """An attempt at a problem that the task does not have."""

    place: Place
    problem: str
    """Its id, or the beginning of its question."""
    why: str = ""
    asked: str = ""
    """What the log asks, where the task has a problem of that id but with another question."""
    known: str = ""
    """That question."""


class LeftOut(Frozen):
    """A record that is no attempt of its own."""

    place: Place
    why: str


class Refused(Frozen):
    """An attempt at a problem of the log's own that the task cannot judge."""

    place: Place
    problem_id: str
    fault: str
    remedy: str


class OtherGold(Frozen):
    """A right answer of the log's that is not right by the task: once for each problem and answer."""

    place: Place
    problem_id: str
    recorded: str
    gold: str


class MalformedCall(Frozen):
    """A part of a record that could not be read as a call, and is none in the chain."""

    place: Place
    model: str
    problem_id: str
    text: str


class AmbiguousAnswer(Frozen):
    """An attempt whose answer cannot be told from its final message: neither right nor wrong."""

    place: Place
    model: str
    problem_id: str
    text: str


class ModelFigures(Frozen):
    """The attempts of one model. Shares are of `chains`."""

    chains: int = 0
    clean: int = 0
    """No call failed: a program parses."""
    answered: int = 0
    """It came to an answer: a program executes."""
    correct: int = 0
    """The answer is right: it agrees with gold."""
    right_reason: int = 0
    """And nothing is known against the process."""
    published: int = 0
    """Attempts with a verdict of the publisher's."""
    agreed: int = 0
    """Of these: our verdict is the same."""


class ImportReport(Frozen):
    """The outcome of an import, whichever part of it was done before."""

    task: str
    functions: tuple[str, ...]
    records: int
    """Attempts in the log; records that are unreadable or none are not counted."""
    chains: int
    """Attempts that are chains now; those of `records` that are not are in the lists below."""
    already_there: int
    """Of the chains: imported before."""
    duplicates: tuple[Place, ...]
    """Attempts that the log holds twice."""
    without_problem: tuple[Unmatched, ...]
    unreadable: tuple[Unreadable, ...]
    refused: tuple[Refused, ...] = ()
    """Attempts at problems of the log's own that the task cannot judge."""
    left_out: tuple[LeftOut, ...] = ()
    """Records that are no attempts of their own."""
    own_problems: int
    """Problems that the log itself gave."""
    looked_in: str = ""
    """Where the problems were looked for."""
    calls: int
    """Re-executed."""
    failed: int
    """Calls that gave an error."""
    unknown_functions: dict[str, int] = Field(default_factory=dict)
    """Name → calls, of functions that the task does not have."""
    exact: int
    """The recorded result came out again, as text or as a number."""
    rounded: tuple[Difference, ...]
    """The recorded number is ours, rounded or cut at its last decimal."""
    different: tuple[Difference, ...]
    unrecorded: int
    """Calls without a recorded result."""
    disagreements: tuple[Disagreement, ...]
    other_golds: tuple[OtherGold, ...] = ()
    notes: dict[str, int]
    """What importers had to decide."""
    ambiguous: tuple[AmbiguousAnswer, ...] = ()
    """Attempts that became no chain, as their answer cannot be told from the final message."""
    malformed_calls: tuple[MalformedCall, ...] = ()
    """Parts of records that are no calls, although they begin as such."""
    models: dict[str, ModelFigures] = Field(default_factory=dict)
    classical: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Model → what the prover says of its formulas → chains, where that was asked for."""

    def tables(self) -> list[Table]:
        """What to show of it, the longest lists and texts cut."""
        made = [self._counts(), self._by_model(), *self._lists()]
        return [
            Table(title, columns, [tuple(map(_cell, row)) for row in rows])
            for title, columns, rows in made
        ]

    def nothing(self) -> DataError | None:
        """If there is no chain: why, as far as can be said."""
        if self.chains:
            return None
        if not self.records:
            faults = [*(one.fault for one in self.unreadable), *(one.why for one in self.left_out)]
            return DataError(
                "no record of the log is an attempt that can be read",
                value=_cell(faults[0].rstrip(".")) if faults else None,
                remedy="It may be a log for another importer.",
            )
        if self.refused:
            first = self.refused[0]
            return DataError(first.fault, value=f"problem {first.problem_id}", remedy=first.remedy)
        if len(self.ambiguous) == self.records:
            return DataError(
                "no final message of the log tells an answer",
                value=_cell(self.ambiguous[0].text),
                remedy="An importer of your own may read them: it gives the answer as `final`.",
            )
        known = sum(bool(one.known) for one in self.without_problem)
        several = sum(one.why == MANY for one in self.without_problem)
        remedy = (
            "The task or its data may be others than the log's. More problems: --split, --count,"
            " --problems FILE, or --own-problems for records that have a gold answer."
        )
        if known == len(self.without_problem):
            remedy = "The ids are known, but ask other questions: it is a log of other data."
        elif several == len(self.without_problem):
            remedy = (
                "In all the user speaks several times: the field `question` must say which is meant."
            )
        return DataError(
            f"no attempt in the log is at a problem of task {self.task}",
            value=", ".join(filter(None, [f"{self.records} in the log", self.looked_in])),
            remedy=remedy,
        )

    def _counts(self) -> Table:
        compared = self.exact + len(self.rounded) + len(self.different)
        rows: list[tuple[str, object]] = [
            ("attempts in the log", self.records),
            ("chains", self.chains),
            ("  of these imported before", self.already_there),
            ("held twice, imported once", len(self.duplicates)),
            ("without a problem", len(self.without_problem)),
            ("final message without a clear answer", len(self.ambiguous)),
            ("with a problem that the task cannot judge", len(self.refused)),
            ("unreadable records", len(self.unreadable)),
            *(
                (f"no attempt: {why}", count)
                for why, count in sorted(Counter(one.why for one in self.left_out).items())
            ),
            ("problems that the log itself gave", self.own_problems),
            ("calls re-executed", self.calls),
            ("  of these failed", self.failed),
            ("results compared", compared),
            ("  the same", self.exact),
            ("  rounded in the log", len(self.rounded)),
            ("  different", len(self.different)),
            ("calls without a recorded result", self.unrecorded),
            *((f"note: {note}", count) for note, count in sorted(self.notes.items())),
        ]
        return Table(f"Import into {self.task}", ["", "count"], rows)

    def _by_model(self) -> Table:
        rows = [
            (
                model,
                found.chains,
                *(
                    f"{count} ({share(count, found.chains)})"
                    for count in (found.clean, found.answered, found.correct, found.right_reason)
                ),
                f"{found.agreed} of {found.published}" if found.published else "",
            )
            for model, found in sorted(self.models.items())
        ]
        columns = ["model", "chains", "all calls run", "answered", "correct", "right reason"]
        return Table("", [*columns, "publisher agrees"], rows)

    def _lists(self) -> list[Table]:
        lists: list[tuple[str, list[str], Sequence[tuple[object, ...]]]] = [
            (
                "Functions that the task does not have; an importer of your own renames them"
                " (docs/your-logs.md)",
                ["function", "calls"],
                [*self.unknown_functions.items()],
            ),
            (
                "Results that came out different",
                ["call", "recorded", "computed", "where"],
                [(d.reply, d.recorded, d.computed, d.place) for d in self.different],
            ),
            (
                "The publisher's verdict is another",
                ["answer", "gold", "published", "model", "where"],
                [
                    (d.answer, d.gold, "right" if d.published else "wrong", d.model, d.place)
                    for d in self.disagreements
                ],
            ),
            (
                "Without a problem" + (f" ({self.looked_in})" if self.looked_in else ""),
                ["problem", "why", "where"],
                [(d.problem, d.why, d.place) for d in self.without_problem if not d.known],
            ),
            (
                "Id known, question differs",
                ["problem", "the log asks", "the task asks", "where"],
                [(d.problem, d.asked, d.known, d.place) for d in self.without_problem if d.known],
            ),
            (
                "The log's right answer is not right by the task",
                ["problem", "the log", "the task", "where"],
                [(d.problem_id, d.recorded, d.gold, d.place) for d in self.other_golds],
            ),
            (
                "Final message without a clear answer, no chain",
                ["final message", "model", "problem", "where"],
                [(one.text, one.model, one.problem_id, one.place) for one in self.ambiguous],
            ),
            (
                "Could not be read, and left out",
                ["text", "model", "problem", "where"],
                [(u.text, u.model, u.problem_id, u.place) for u in self.malformed_calls],
            ),
            ("Held twice", ["where"], [(place,) for place in self.duplicates]),
            ("No attempts", ["why", "where"], [(one.why, one.place) for one in self.left_out]),
            (
                "Problems that the task cannot judge",
                ["problem", "fault", "where"],
                [(one.problem_id, one.fault, one.place) for one in self.refused],
            ),
            ("Unreadable", ["fault", "where"], [(d.fault, d.place) for d in self.unreadable]),
        ]
        return [
            Table(f"{title}: {_first(len(rows))}", columns, rows[:SHOWN])
            for title, columns, rows in lists
            if rows
        ]


def _cell(value: object) -> object:
    """What a table shows of a value."""
    if not isinstance(value, str) or len(value) <= LONGEST:
        return value
    return f"{value[:LONGEST]}… ({len(value)} characters)"


def _first(count: int) -> str:
    return str(count) if count <= SHOWN else f"the first {SHOWN} of {count}"


def share(count: int, total: int) -> str:
    """A share in percent."""
    return f"{count / total:.1%}" if total else "-"


MANY = "several turns of the user: the field `question` must say which is the problem"
AFTER_STOP = "final message after a stop left out"
NO_ANSWER = "final answer that is none by the task, wrong for that"

_FLOAT_ERROR = Fraction(1, 10**12)


_WRITTEN = re.compile(r"\d(?:\.(?P<decimals>\d*))?(?:[eE](?P<power>[+-]?\d+))?[\s$€£]*(?P<percent>%?)$")


def same_result(recorded: str, computed: str) -> Literal["exact", "rounded", "different"]:
    """How a recorded result is ours. Numbers are compared as values. A recorded one is rounded if it is
    at most half a unit of its last digit away (at half a unit, away from zero, as in school); or, if it
    shows decimals, cut after the last of them; or no further away than floating point is (1e-12). What
    is recorded as JSON is compared as a whole, and then what stands in it as the only value or as the
    `result`; an `error` is no result.

    >>> same_result("3.33", "10/3"), same_result("$9.00", "9"), same_result("1", "1.5")
    ('rounded', 'exact', 'different')
    >>> same_result('{"result": 38}', "38")
    'exact'
    """
    kinds = (_same_text(one, computed) for one in (recorded, *_in_json(recorded)))
    return next((kind for kind in kinds if kind != "different"), "different")


_RESULT = ("result", "output")
"""Names of what a tool gave, in an object that says more."""


def _in_json(recorded: str) -> list[str]:
    """What is recorded as JSON, and the result in it, as our functions would show them."""
    try:
        # Numbers as they are written, too: their decimals say how they were rounded.
        written, value = (json.loads(recorded, parse_float=kind) for kind in (str, float))
    except (ValueError, RecursionError):
        return []
    pairs = zip(_unwrapped(written), _unwrapped(value), strict=True)
    return [str(exact) if isinstance(exact, (list, dict)) else str(text) for text, exact in pairs]


def _unwrapped(value: JSON) -> Iterator[JSON]:
    """A value in JSON, and the result in it, if need be in several objects."""
    yield value
    while isinstance(value, dict):
        only = [name for name in value if name != "error"] if len(value) == 1 else []
        names = only or [name for name in _RESULT if name in value]
        if not names:
            return
        value = value[names[0]]
        yield value


def _same_text(recorded: str, computed: str) -> Literal["exact", "rounded", "different"]:
    if recorded.strip() == computed.strip():
        return "exact"
    stated, value = read_number(recorded), read_number(computed)
    if stated is None or value is None:
        return "different"
    if stated == value:
        return "exact"
    if abs(stated - value) <= abs(value) * _FLOAT_ERROR:
        return "rounded"
    written = None if "/" in recorded else _WRITTEN.search(recorded.strip())
    return "rounded" if written is not None and _rounds(stated, value, written) else "different"


def _rounds(stated: Fraction, value: Fraction, written: re.Match[str]) -> bool:
    """Whether a number with so many decimals is a value, rounded or cut."""
    shown = len(written["decimals"] or "")
    unit = Fraction(10) ** (int(written["power"] or 0) - shown - 2 * bool(written["percent"]))
    away = abs(stated - value)
    grew = abs(stated) > abs(value)
    if away < unit / 2 or (away == unit / 2 and grew):
        return True
    return shown > 0 and away < unit and not grew


def is_label_clear(recorded: Recorded, gold: str, chain: Chain) -> bool:
    """Whether a chain is right or wrong for sure: not where no answer was read in its final message, or
    something else than an answer to the problem."""
    message, said = recorded.final_message, recorded.final
    if not message or (chain.answer is not None and len(chain.steps) <= len(recorded.calls)):
        return True
    right = chain.outcome is Outcome.CORRECT
    if said is None or chain.answer is None:
        return False
    return is_clear(said, gold, right=right, whole=said == message)


class Tally:
    """Counts attempts as they become chains."""

    def __init__(self, task: str, functions: Sequence[str]) -> None:
        self.task, self.functions = task, tuple(functions)
        self.records = self.chains = self.already_there = 0
        self.calls = self.failed = self.unrecorded = 0
        self.kinds: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.models: dict[str, Counter[str]] = {}
        self.differences: list[Difference] = []
        self.other_golds: dict[tuple[str, str], OtherGold] = {}
        self.disagreements: list[Disagreement] = []
        self.malformed_calls: list[MalformedCall] = []
        self.ambiguous: list[AmbiguousAnswer] = []
        self.duplicates: list[Place] = []
        self.without_problem: list[Unmatched] = []
        self.unreadable: list[Unreadable] = []
        self.refused: list[Refused] = []
        self.left_out: list[LeftOut] = []
        self.own: set[str] = set()

    def chain(self, place: Place, recorded: Recorded, gold: str, chain: Chain, *, fresh: bool) -> None:
        self.chains += 1
        self.already_there += not fresh
        self._compare(place, recorded, chain)
        self._figures(recorded, chain)
        self._final(recorded, gold, chain)
        self.malformed_calls += (
            MalformedCall(place=place, model=chain.model, problem_id=chain.problem_id, text=text)
            for text in recorded.malformed_calls
        )
        right = chain.outcome is Outcome.CORRECT
        if recorded.correct is not None and recorded.correct is not right:
            self.disagreements.append(
                Disagreement(
                    place=place,
                    model=chain.model,
                    problem_id=chain.problem_id,
                    answer=chain.answer,
                    gold=gold,
                    published=recorded.correct,
                )
            )

    def is_clear(self, place: Place, recorded: Recorded, gold: str, chain: Chain) -> bool:
        """Whether the chain's outcome can be trusted; if not, it is none, and the attempt is listed."""
        if is_label_clear(recorded, gold, chain):
            return True
        self.ambiguous.append(
            AmbiguousAnswer(
                place=place,
                model=chain.model,
                problem_id=chain.problem_id,
                text=recorded.final_message,
            )
        )
        return False

    def other_gold(self, place: Place, problem_id: str, recorded: str, gold: str) -> None:
        made = OtherGold(place=place, problem_id=problem_id, recorded=recorded, gold=gold)
        self.other_golds.setdefault((problem_id, recorded), made)

    def _final(self, recorded: Recorded, gold: str, chain: Chain) -> None:
        """What became of a final answer."""
        if recorded.final is None:
            return
        wrong = chain.outcome is Outcome.INCORRECT
        if len(chain.steps) <= len(recorded.calls):
            self.notes[AFTER_STOP] += 1
        elif chain.answer is None or (wrong and not may_answer(recorded.final, gold)):
            self.notes[NO_ANSWER] += 1

    def _compare(self, place: Place, recorded: Recorded, chain: Chain) -> None:
        self.calls += len(chain.steps)
        self.failed += len(chain.failures)
        self.unrecorded += len(chain.steps) - min(len(chain.steps), len(recorded.calls))
        if left := len(recorded.calls) - len(chain.steps):
            self.notes["calls after the chain's end, not run"] += max(0, left)
        for number, (said, step) in enumerate(zip(recorded.calls, chain.steps, strict=False), 1):
            if said.name is not None and said.name not in self.functions:
                self.unknown[said.name] += 1
            if said.result is None:
                self.unrecorded += 1
                continue
            kind = same_result(said.result, step.observation.text)
            self.kinds[kind] += 1
            if kind != "exact":
                self.differences.append(
                    Difference(
                        kind=kind,
                        place=place,
                        model=chain.model,
                        problem_id=chain.problem_id,
                        step=number,
                        reply=step.reply,
                        recorded=said.result,
                        computed=step.observation.text,
                    )
                )

    def _figures(self, recorded: Recorded, chain: Chain) -> None:
        right = chain.outcome is Outcome.CORRECT
        counts = self.models.setdefault(chain.model, Counter())
        counts["chains"] += 1
        counts["clean"] += not chain.failures
        counts["answered"] += chain.answer is not None
        counts["correct"] += right
        counts["right_reason"] += chain.right_for_the_right_reason
        counts["published"] += recorded.correct is not None
        counts["agreed"] += recorded.correct is right

    def report(self, looked_in: str) -> ImportReport:
        return ImportReport(
            task=self.task,
            functions=self.functions,
            records=self.records,
            chains=self.chains,
            already_there=self.already_there,
            duplicates=tuple(self.duplicates),
            without_problem=tuple(self.without_problem),
            unreadable=tuple(self.unreadable),
            refused=tuple(self.refused),
            left_out=tuple(self.left_out),
            own_problems=len(self.own),
            looked_in=looked_in,
            calls=self.calls,
            failed=self.failed,
            unknown_functions=dict(self.unknown.most_common()),
            exact=self.kinds["exact"],
            rounded=tuple(one for one in self.differences if one.kind == "rounded"),
            different=tuple(one for one in self.differences if one.kind == "different"),
            unrecorded=self.unrecorded,
            disagreements=tuple(self.disagreements),
            other_golds=tuple(self.other_golds.values()),
            notes={note: count for note, count in self.notes.items() if count},
            ambiguous=tuple(self.ambiguous),
            malformed_calls=tuple(self.malformed_calls),
            models={model: ModelFigures(**counts) for model, counts in self.models.items()},
        )
