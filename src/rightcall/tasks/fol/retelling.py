"""A problem told anew, and its chains with it: what the augmentations of all tasks share whose chains
formalise a text.

A `Telling` knows how a task's questions are told and what decides them. The functions below it are the
operations without the language: the formulas, labels and answers in a chain's calls are exchanged, and
all else stays as the model wrote it. Every reply is executed on the way, since what a chain answers
follows what it is told (a `stop` that repeated the verdict repeats the new one).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from rightcall.augment.operation import Original, Rejected, Variant
from rightcall.augment.written import Literal, Written, edited, quoted, written_call
from rightcall.chain import JSON, Chain, Observation, Problem
from rightcall.errors import CallError
from rightcall.functions import FunctionSet, parse_calls
from rightcall.tasks.fol import prover
from rightcall.tasks.fol.formula import (
    Formula,
    constants,
    negated,
    parse,
    predicates,
    to_text,
)
from rightcall.tool_calls import call_text

ANSWERS = ("True", "False", "Unknown")
_OPPOSITE = {"True": "False", "False": "True", "Unknown": "Unknown"}
_DECIDING = ("goal", "claim")
_AFTER_PREMISES = (*_DECIDING, "derive", "stop")
_ORDER = re.compile(
    r"\d|\b(first|second|third|fourth|fifth|last|next|previous|above|below|following|order)\b", re.I
)
_GOAL_TALK = re.compile(r"\b(goal|statement|claim|true|false|unknown|negation|opposite)\b", re.I)
_LABEL = re.compile(r"\bP(\d+)\b", re.I)


class LeftOut(Exception):
    """A chain cannot be carried over. The reason is counted: a short phrase, no names or numbers."""


# --- problems -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """A problem's text, and what it says."""

    sentences: tuple[str, ...]
    statement: str
    premises: tuple[str, ...]
    """The gold formula of each sentence."""
    goal: str

    def __post_init__(self) -> None:
        if len(self.sentences) != len(self.premises):
            raise Rejected("sentences and formulas differ in number")

    @property
    def text(self) -> str:
        return "\n".join([*self.sentences, self.statement])


@dataclass(frozen=True)
class Telling:
    """How a task tells its problems, and what decides them."""

    read: Callable[[Problem], Told]
    """Raises `Rejected` for a question that is not told so, or has no gold formulas."""
    problem: Callable[[Problem, Told, str], Problem]
    """The problem with another text and this answer: question, gold and metadata are made anew."""
    decide: Callable[[Told], str | None]
    """The answer that the gold formulas give; None if they give none."""
    meaning: Callable[[str], str | None]
    """The answer that an observation of `goal` means; None if it means none."""
    premise: Callable[[int, str, str], tuple[JSON, ...]] = lambda number, formula, sentence: (formula,)
    """Arguments of `premise` for the sentence of this number (from 1)."""
    numbered: bool = False
    """`premise` takes the number of its sentence."""


def gold_told(problem: Problem, sentences: Sequence[str], statement: str) -> Told:
    """A question's parts with the formulas of the metadata. Raises `Rejected`."""
    premises, goal = problem.metadata.get("premises"), problem.metadata.get("goal")
    if premises is None or goal is None:
        raise Rejected("no gold formulas")
    return Told(tuple(sentences), statement, tuple(premises), goal)


def known_label(telling: Telling, problem: Problem) -> Told:
    """A problem's parts, if its formulas give its answer. Raises `Rejected`."""
    told = telling.read(problem)
    if telling.decide(told) != problem.answer:
        raise Rejected("the formulas do not give the label")
    return told


# --- turns ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One reply, with the call in it."""

    reply: str
    written: Written | None = None
    name: str = ""
    """Of the function called, as the task names it; "" if there is no call."""
    parameters: tuple[str, ...] = ()
    """Of that function, in order."""
    observation: Observation | None = None
    """What the original was told; None for a turn that it did not have."""

    @classmethod
    def of(cls, reply: str, functions: FunctionSet, observation: Observation | None = None) -> Turn:
        written = written_call(reply, functions)
        if written is None:
            return cls(reply, observation=observation)
        made = functions.by_name.get(written.call.name)
        shown = [n for n in made.parameters if n not in made.state_parameters] if made else []
        name = functions.task_names.get(written.call.name, written.call.name)
        return cls(reply, written, name, tuple(shown), observation)

    @property
    def ran(self) -> bool:
        return self.observation is not None and self.observation.failure is None

    @property
    def words(self) -> str:
        """What the reply says beside the call, and in a thought."""
        thought = self.text("thought") if self.name == "reason" else None
        return f"{self.written.words if self.written else self.reply} {thought or ''}".strip()

    def argument(self, parameter: str) -> Literal | None:
        """The literal that is this argument."""
        if self.written is None or parameter not in self.parameters:
            return None
        places = (parameter, self.parameters.index(parameter))
        found = (one for one in self.written.literals if one.whole and one.argument in places)
        return next(found, None)

    def text(self, parameter: str) -> str | None:
        found = self.argument(parameter)
        return found.value if found is not None and isinstance(found.value, str) else None

    def with_values(self, values: Mapping[Literal, JSON], words: Callable[[str], str] = str) -> str:
        """The reply with other literals, and its words mapped."""
        if self.written is None:
            return words(self.reply)
        start, end = self.written.start, self.written.end
        edits = [
            (one.start - start, one.end - start, _spelled(value, one))
            for one, value in values.items()
            if value != one.value
        ]
        before, after = self.reply[:start], self.reply[end:]
        return words(before) + edited(self.written.source, edits) + words(after)


def _spelled(value: JSON, like: Literal) -> str:
    return quoted(value, like.source) if isinstance(value, str) else repr(value)


Change = Callable[[list[Turn]], list[Turn]]
"""A chain's turns → those of the variant. Raises `LeftOut`."""


def _turns(chain: Chain, functions: FunctionSet) -> list[Turn]:
    for step in chain.steps:
        if step.call is not None and len(parse_calls(step.reply, known=functions.by_name)) > 1:
            raise LeftOut("several calls in a reply")
    return [Turn.of(step.reply, functions, step.observation) for step in chain.steps]


def retold(
    original: Original,
    telling: Telling,
    told: Told,
    change: Change,
    *,
    new_label: bool = False,
    problem: Problem | None = None,
) -> Variant:
    """The variant with this text, its label decided, and every chain changed and played.

    Where `new_label`, an answer that no verdict gave becomes its opposite; otherwise a label that comes
    out as another is `Rejected`. `problem` is the variant's, if it is not the one that `telling` makes.
    """
    answer = telling.decide(told)
    if answer is None or (answer != original.problem.answer and not new_label):
        raise Rejected("the prover gives no label" if answer is None else "the label changes")
    made = problem or telling.problem(original.problem, told, answer)
    opposite = _OPPOSITE if new_label else {}
    replies: dict[str, Sequence[str]] = {}
    left_out: list[str] = []
    for chain in original.chains:
        try:
            turns = change(_turns(chain, original.functions))
            replies[chain.key] = _followed(original, telling, made, turns, opposite)
        except LeftOut as reason:
            left_out.append(str(reason))
    return Variant(made, replies, left_out=tuple(left_out))


def _followed(
    original: Original,
    telling: Telling,
    problem: Problem,
    turns: Sequence[Turn],
    opposite: Mapping[str, str],
) -> list[str]:
    """The replies, executed, with the answer that follows: the verdict's where the original repeated
    it."""
    states, replies = original.task.begin(problem), []
    said: str | None = None
    says: str | None = None
    for turn in turns:
        reply = turn.reply
        answer = turn.argument("answer") if turn.name == "stop" and turn.ran else None
        if answer is not None and turn.observation is not None:
            stopped = turn.observation.text
            follows = said is not None and telling.meaning(said) == stopped
            new = telling.meaning(says or "") if follows else opposite.get(stopped, stopped)
            if new is None:
                raise LeftOut("no verdict to follow")
            reply = turn.with_values({answer: new}) if new != stopped else reply
        result = original.functions.reply(reply, states)
        replies.append(reply)
        if turn.name == "goal" and result.observation.failure is None and turn.observation is not None:
            said, says = turn.observation.text, result.observation.text
    return replies


def read(text: str) -> Formula | None:
    try:
        return parse(text)
    except CallError:
        return None


# --- other names ----------------------------------------------------------------------------------


def renamed(
    original: Original, telling: Telling, told: Told, new: Told, text: Callable[[str], str],
    formula: Callable[[str], str],
) -> Variant:  # fmt: skip
    """The variant whose text is `new`; `text` and `formula` rename what chains say and write."""

    def change(turns: list[Turn]) -> list[Turn]:
        return [_renamed_turn(turn, original.functions, text, formula) for turn in turns]

    return retold(original, telling, new, change)


def _renamed_turn(
    turn: Turn, functions: FunctionSet, text: Callable[[str], str], formula: Callable[[str], str]
) -> Turn:
    values: dict[Literal, JSON] = {}
    for parameter, exchange in (("formula", formula), ("thought", text)):
        literal, value = turn.argument(parameter), turn.text(parameter)
        if literal is not None and value is not None:
            values[literal] = exchange(value)
    return Turn.of(turn.with_values(values, text), functions, turn.observation)


# --- another order, more sentences ----------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """What stands at a place of the new text: a sentence of the old one, or a new one."""

    old: int | None
    sentence: str
    formula: str


def arranged(original: Original, telling: Telling, told: Told, places: Sequence[Place]) -> Variant:
    """The variant with these sentences, in this order. A chain's premises are put in the order of the
    text, new ones among them; sentence numbers and the labels P1, P2, ... follow."""
    new = replace(
        told,
        sentences=tuple(place.sentence for place in places),
        premises=tuple(place.formula for place in places),
    )

    def change(turns: list[Turn]) -> list[Turn]:
        return _Arranging(original.functions, telling, told, places).change(turns)

    return retold(original, telling, new, change)


def permuted(original: Original, rng: Random, telling: Telling) -> Variant:
    """The sentences in another order."""
    told = known_label(telling, original.problem)
    count = len(told.sentences)
    if len(set(told.sentences)) < 2:
        raise Rejected("a single sentence")
    order = list(range(count))
    while [told.sentences[old] for old in order] == list(told.sentences):
        rng.shuffle(order)
    places = [Place(old, told.sentences[old], told.premises[old]) for old in order]
    return arranged(original, telling, told, places)


def distracted(
    original: Original, rng: Random, telling: Telling, added: Sequence[tuple[str, Formula]]
) -> Variant:
    """The text with more sentences here and there, each given with its formula."""
    told = known_label(telling, original.problem)
    old = zip(told.sentences, told.premises, strict=True)
    places = [Place(number, sentence, formula) for number, (sentence, formula) in enumerate(old)]
    for sentence, formula in added:
        places.insert(rng.randint(0, len(places)), Place(None, sentence, to_text(formula)))
    return arranged(original, telling, told, places)


@dataclass(frozen=True)
class _Block:
    """A recorded premise and what led to it: failed attempts, thoughts."""

    turns: tuple[Turn, ...]
    place: int
    """In the new text."""
    number: int | None
    """Which of the chain's premises it was (from 1); None for a new one."""


@dataclass(frozen=True)
class _Arranging:
    """How one chain follows the new order of sentences."""

    functions: FunctionSet
    telling: Telling
    told: Told
    places: Sequence[Place]

    def change(self, turns: list[Turn]) -> list[Turn]:
        recorded = [i for i, turn in enumerate(turns) if turn.name == "premise" and turn.ran]
        if not recorded:
            raise LeftOut("no premise is recorded")
        last = recorded[-1] + 1
        if any(turn.name in _AFTER_PREMISES for turn in turns[:last]):
            raise LeftOut("a premise after the goal")
        decides = any(turn.name in _DECIDING for turn in turns[last:])
        blocks = self._blocks(turns[:last], self._sentences(turns, recorded))
        end = max(block.place for block in blocks)
        new = [
            _Block((self._new_premise(place),), place, None)
            for place in range(len(self.places))
            if self.places[place].old is None and (decides or place < end)
        ]
        ordered = sorted([*blocks, *new], key=lambda block: block.place)
        labels = {b.number: place for place, b in enumerate(ordered, 1) if b.number is not None}
        added = [place for place, b in enumerate(ordered, 1) if b.number is None]
        inside = [turn for block in ordered for turn in block.turns]
        return [self._turn(turn, labels, added) for turn in (*inside, *turns[last:])]

    def _blocks(self, turns: Sequence[Turn], sentences: Mapping[int, int | None]) -> list[_Block]:
        """One for each premise; what belongs to no sentence stays behind the premise before."""
        place_of = {place.old: number for number, place in enumerate(self.places)}
        blocks: list[_Block] = []
        start = 0
        for index in sorted(sentences):
            sentence = sentences[index]
            before = blocks[-1].place if blocks else -1
            place = place_of[sentence] if sentence is not None else before
            blocks.append(_Block(tuple(turns[start : index + 1]), place, len(blocks) + 1))
            start = index + 1
        return blocks

    def _sentences(self, turns: Sequence[Turn], recorded: Sequence[int]) -> dict[int, int | None]:
        """Index of a recorded premise's turn → its sentence (from 0); None if it is of none."""
        if self.telling.numbered:
            return {index: self._number(turns[index]) for index in recorded}
        texts = [turns[index].text("formula") or "" for index in recorded]
        return dict(zip(recorded, aligned(texts, self.told.premises), strict=True))

    def _number(self, turn: Turn) -> int | None:
        literal = turn.argument("number")
        try:
            number = int(literal.value) - 1 if literal is not None else -1
        except (TypeError, ValueError):
            return None
        return number if 0 <= number < len(self.told.sentences) else None

    def _new_premise(self, place: int) -> Turn:
        shown = next(n for n, own in _own_names(self.functions).items() if own == "premise")
        one = self.places[place]
        arguments = self.telling.premise(place + 1, one.formula, one.sentence)
        return Turn.of(call_text(shown, arguments), self.functions)

    def _turn(self, turn: Turn, labels: Mapping[int, int], added: Sequence[int]) -> Turn:
        """With numbers and labels as they are now."""
        if turn.observation is None:
            return turn

        def words(text: str) -> str:
            said = _LABEL.sub(lambda found: f"P{labels.get(int(found[1]), int(found[1]))}", text)
            if _ORDER.search(_LABEL.sub("", text)):
                raise LeftOut("words about the order of sentences")
            return said

        values: dict[Literal, JSON] = {}
        if turn.name == "premise" and self.telling.numbered:
            literal, old = turn.argument("number"), self._number(turn)
            if literal is not None and old is not None:
                values[literal] = next(n for n, p in enumerate(self.places, 1) if p.old == old)
        thought, said = turn.argument("thought"), turn.text("thought")
        if thought is not None and said is not None:
            values[thought] = words(said)
        if turn.name == "derive":
            values |= _relabelled(turn, labels)
        reply = turn.with_values(values, words)
        if turn.name == "derive" and added:
            reply = _from_everything(Turn.of(reply, self.functions), turn, labels, added)
        return Turn.of(reply, self.functions, turn.observation)


def _own_names(functions: FunctionSet) -> dict[str, str]:
    """Name shown → the task's name, of every function."""
    return {name: functions.task_names.get(name, name) for name in functions.by_name}


def _names(turn: Turn) -> list[Literal]:
    """The literals that name what a derivation follows from."""
    literals = turn.written.literals if turn.written else ()
    return [one for one in literals if isinstance(one.argument, int) and one.argument > 0 and one.whole]


def _labels(turn: Turn) -> list[str]:
    return [str(one.value).strip().upper() for one in _names(turn)]


def _relabelled(turn: Turn, labels: Mapping[int, int]) -> dict[Literal, JSON]:
    """The premises that a derivation names, by their new labels; in order where they were in order."""
    places = [one for one in _names(turn) if _LABEL.fullmatch(str(one.value).strip())]
    old = [int(str(one.value).strip()[1:]) for one in places]
    new = [labels.get(number, number) for number in old]
    new = sorted(new) if old == sorted(old) else new
    return {one: f"P{number}" for one, number in zip(places, new, strict=True)}


def _from_everything(turn: Turn, old: Turn, labels: Mapping[int, int], added: Sequence[int]) -> str:
    """What was tried from all premises is tried from the new ones too."""
    names = _names(turn)
    if not names or not {f"P{number}" for number in labels} <= set(_labels(old)):
        return turn.reply
    everything = sorted({*added, *labels.values()})
    others = [label for label in _labels(turn) if not _LABEL.fullmatch(label)]
    source = ", ".join(quoted(name) for name in (*(f"P{n}" for n in everything), *others))
    return turn.reply[: names[0].start] + source + turn.reply[names[-1].end :]


def aligned(texts: Sequence[str], gold: Sequence[str]) -> list[int | None]:
    """Of each recorded formula the gold one that it stands for: the same, else an equivalent one, else
    (if as many are left of both) the one that is left in its place."""
    found: list[int | None] = [None] * len(texts)
    free = list(range(len(gold)))
    for same in (_alike, _equivalent):
        for index, text in enumerate(texts):
            if found[index] is None:
                found[index] = next((n for n in free if same(text, gold[n])), None)
                free = [n for n in free if n != found[index]]
    rest = [index for index, number in enumerate(found) if number is None]
    if len(rest) == len(free):
        for index, number in zip(rest, free, strict=True):
            found[index] = number
    return found


def _alike(text: str, other: str) -> bool:
    return text == other or (read(text) is not None and read(text) == read(other))


def _equivalent(text: str, other: str) -> bool:
    one, two = read(text), read(other)
    if one is None or two is None or predicates(one) != predicates(two):
        return False
    return constants(one) == constants(two) and prover.equivalent(one, two) is True


# --- the opposite statement -----------------------------------------------------------------------


def denied(original: Original, telling: Telling, statement: str, goal: str) -> Variant:
    """The variant that asks for the opposite. A goal that was the statement's is the new statement's,
    any other is negated."""
    told = known_label(telling, original.problem)

    def change(turns: list[Turn]) -> list[Turn]:
        return [_denied_turn(turn, original.functions, told.goal, goal) for turn in turns]

    return retold(
        original, telling, replace(told, statement=statement, goal=goal), change, new_label=True
    )


def _denied_turn(turn: Turn, functions: FunctionSet, old: str, new: str) -> Turn:
    if _GOAL_TALK.search(turn.words) or (turn.words and turn.name in (*_DECIDING, "stop")):
        raise LeftOut("words about the statement")
    literal, text = turn.argument("formula"), turn.text("formula")
    if turn.name not in _DECIDING or literal is None or text is None:
        return turn
    value = new if _alike(text.lower(), old.lower()) else opposite_formula(text)
    return Turn.of(turn.with_values({literal: value}), functions, turn.observation)


def opposite_formula(text: str) -> str:
    """The negation of a formula in the style that it is written in."""
    made = read(text)
    if made is None:
        return f"~({text})"
    return to_text(negated(made), "unicode" if re.search("[¬∀∃∧∨⊕→↔]", text) else "ascii")


# --- equivalent formulas --------------------------------------------------------------------------


def rewritten(
    original: Original, telling: Telling, exchange: Callable[[str], str], gold: Sequence[str]
) -> Variant:
    """The same text with other formulas of the same meaning in all chains. `exchange` gives each
    formula's, the same for the same text; `gold` is the gold chain."""
    told = known_label(telling, original.problem)

    def change(turns: list[Turn]) -> list[Turn]:
        return [_exchanged(turn, original.functions, exchange) for turn in turns]

    problem = original.problem.model_copy(update={"gold": tuple(gold)})
    return retold(original, telling, told, change, problem=problem)


def _exchanged(turn: Turn, functions: FunctionSet, exchange: Callable[[str], str]) -> Turn:
    literal, text = turn.argument("formula"), turn.text("formula")
    if literal is None or text is None:
        return turn
    return Turn.of(turn.with_values({literal: exchange(text)}), functions, turn.observation)


def exchanged_gold(original: Original, exchange: Callable[[str], str]) -> tuple[str, ...]:
    """The gold chain with other formulas."""
    everything = FunctionSet(original.task.functions)
    turns = (Turn.of(text, everything) for text in original.problem.gold)
    return tuple(_exchanged(turn, everything, exchange).reply for turn in turns)
