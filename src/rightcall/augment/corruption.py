"""Right chains made wrong as a weak model errs, for tasks whose teacher is too good to err.

One error is made, and the rest of the chain follows from it: where a later call rests on what was
observed, it goes on with what is observed now, up to the answer. Each corruption is executed and judged
while it is made, at up to `MAX_TRIES` places of a chain, until it is shown to be wrong.

A right answer may come by luck, above all where there are two or three to choose from. A wrong answer
is preferred; where no try gives one, a chain counts that the task's judge finds wrong although its
answer is right, and if there is none either, nothing is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain as chain_of
from itertools import combinations, zip_longest
from random import Random

from rightcall.augment.misreading import EXPRESSION, is_calculation, misread, names_in
from rightcall.augment.operation import Operation, Original, Rejected, Variant
from rightcall.augment.values import (
    FAMILIES,
    Key,
    alternatives,
    key_of,
    label_of,
    like,
    number_of,
    numbers_in,
    worth,
)
from rightcall.augment.written import Literal, Written, edited, quoted, written_call
from rightcall.chain import Call, Chain, Outcome, Step, StopReason
from rightcall.dialects import DIALECTS
from rightcall.errors import CallError, FailureKind
from rightcall.functions import Function, FunctionSet, Role, bind
from rightcall.rollout import judged

MAX_TRIES = 16
"""Executions of one chain."""
REPEATS = (2, 4)
"""How often a call that does not parse is made in all, where the chain never gets beyond it."""
ONWARD_SHARE = 0.7
"""Of the chains with a broken call that go on without it, where they can."""
KNOWN_FIRST = 0.6
"""Of the values that are taken for another one, how many the model had before its eyes; the others are
slips of calculation."""
MOST_OTHERS = 3
"""Values that are tried in the place of one."""


# --- a chain as it is to be played ----------------------------------------------------------------


@dataclass(frozen=True)
class _Turn:
    """A reply of the right chain, or what stands in its place."""

    reply: str
    """As the right chain would write it: what it observed is put in when it is played."""
    observed: str | None = None
    """What the right chain observed here; None where no later call rests on it."""
    fails: bool = False
    """It did, or is to, fail."""
    believed: Mapping[str, str] = field(default_factory=dict)
    """Value of the right chain → what is taken for it from here on, whatever was observed."""
    goes_on: bool = True
    """Of a call that is left as it is whatever was observed before: no."""


Script = tuple[_Turn, ...]


@dataclass(frozen=True)
class _Right:
    """A right chain, with its calls in place."""

    original: Original
    chain: Chain
    written: tuple[Written | None, ...]
    turns: Script

    @classmethod
    def of(cls, original: Original, chain: Chain) -> _Right:
        turns = tuple(
            _Turn(step.reply, step.observation.text, fails=step.observation.failure is not None)
            for step in chain.steps
        )
        written = tuple(written_call(step.reply, original.functions) for step in chain.steps)
        return cls(original, chain, written, turns)

    @property
    def last(self) -> int:
        """The step that stops."""
        return len(self.turns) - 1

    def function(self, index: int) -> Function:
        call = self.chain.steps[index].call
        assert call is not None
        return self.original.functions.by_name[call.name]

    def value(self, index: int) -> str:
        return worth(self.chain.steps[index].observation.text)

    def places(self) -> list[int]:
        """The steps that do something and could be done wrong."""
        return [
            index
            for index, step in enumerate(self.chain.steps[:-1])
            if self.written[index] is not None
            and step.observation.failure is None
            and self.function(index).role is not Role.FLOW
        ]

    def uses(self, index: int) -> bool:
        """Whether a later call rests on what this step observed."""
        wanted = {key_of(self.value(index)): self.value(index)}
        later = (one for one in self.written[index + 1 :] if one is not None)
        return any(_put_in(literal, wanted) is not None for one in later for literal in one.literals)

    def known(self, index: int) -> list[str]:
        """What a model could take for this step's value: what it had in the call, then what it had
        observed."""
        own = self.written[index]
        inside: list[str] = []
        for literal in own.literals if own is not None else ():
            text = str(literal.value)
            inside += numbers_in(text) if is_calculation(text) else [text]
        before = [self.value(earlier) for earlier in reversed(range(index))]
        return inside + (before if label_of(self.value(index)) or not inside else [])

    def others(self, index: int, rng: Random) -> list[str]:
        """Some values of the same kind as this step's."""
        value = self.value(index)
        known, slips = alternatives(value, self.known(index), self.told)
        rng.shuffle(known)
        rng.shuffle(slips)
        first = [known, slips] if rng.random() < KNOWN_FIRST else [slips, known]
        found = (one for one in chain_of(*first) if like(one, value))
        different = {key_of(one): one for one in found if key_of(one) != key_of(value)}
        return [*different.values()][:MOST_OTHERS]

    @property
    def told(self) -> str:
        return f"{self.original.task.instruction}\n{self.original.problem.question}"


# --- playing it -----------------------------------------------------------------------------------


class _Unfit(Exception):
    """A script fails where no weak model's chain would, or cannot be written down."""


@dataclass
class _Beliefs:
    """Value of the right chain → what this chain takes for it."""

    told: dict[Key, str] = field(default_factory=dict)
    differs: bool = False
    """Something is not what it is in the right chain."""

    def learn(self, right: str, now: str) -> None:
        self.told[key_of(right)] = now
        self.differs = self.differs or key_of(now) != key_of(right)

    def carried(self, reply: str, functions: FunctionSet) -> str:
        """A reply of the right chain with what is believed now."""
        written = written_call(reply, functions) if self.differs else None
        if written is None:
            return reply
        edits = []
        for literal in written.literals:
            now = _put_in(literal, self.told)
            if now is not None and now != literal.source:
                edits.append((literal.start, literal.end, now))
        made = written.edited(edits) if edits else reply
        if edits and written_call(made, functions) is None:
            raise _Unfit
        return made


_TOKEN = re.compile(r"(?<![\w.,])(?:\d+(?:\.\d+)?|[A-Z]\d+)(?![\w,]*\d)(?!\w)")


def _put_in(literal: Literal, told: Mapping[Key, str]) -> str | None:
    """A literal's source with what is believed; None if nothing is believed of it."""
    text = str(literal.value)
    now = told.get(key_of(text))
    if now is not None:
        return _as_source(now, literal) if key_of(now) != key_of(text) else literal.source
    if not isinstance(literal.value, str):
        return None
    found = [one for one in _TOKEN.finditer(text) if key_of(one[0]) in told]
    if not found:
        return None
    calculated = EXPRESSION.fullmatch(text) is not None
    edits = []
    for one in found:
        now = told[key_of(one[0])]
        if calculated and number_of(now) is None:
            raise _Unfit
        bare = not calculated or re.fullmatch(r"\d+(\.\d+)?", now) or text == one[0]
        edits.append((*one.span(), now if bare else f"({now})"))
    return quoted(edited(text, edits), literal.source)


def _as_source(value: str, literal: Literal) -> str:
    """A value as it is written in the place of a literal."""
    if isinstance(literal.value, str):
        return quoted(value, literal.source)
    plain = re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", value)
    return value if plain else quoted(value)


@dataclass(frozen=True)
class _Played:
    steps: tuple[Step, ...]
    answer: str | None
    sensible: bool
    """Every value that was observed could have stood in the place of the right one."""


def _play(right: _Right, script: Script) -> _Played:
    """Execute a script turn by turn; each turn goes on with what the earlier ones observed. Raises
    `_Unfit`."""
    original = right.original
    dialect = DIALECTS[right.chain.dialect]
    states = original.task.begin(original.problem)
    beliefs, steps, sensible = _Beliefs(), [], True
    for turn in script:
        for value, now in turn.believed.items():
            beliefs.learn(value, now)
        carried = beliefs.carried(turn.reply, original.functions) if turn.goes_on else turn.reply
        result = dialect.run(carried, original.functions, states)
        if (result.observation.failure is not None) is not turn.fails:
            raise _Unfit
        steps.append(Step(reply=carried, call=result.call, observation=result.observation))
        if result.answer is not None:
            return _Played(tuple(steps), result.answer, sensible)
        if turn.observed is not None:
            before, now = worth(turn.observed), worth(result.observation.text)
            sensible = sensible and like(now, before)
            beliefs.learn(before, now)
    return _Played(tuple(steps), None, sensible)


class _Verdict(IntEnum):
    """How good a corruption is; the lowest is the best."""

    WRONG = 0
    STRANGE = 1
    """The answer is wrong, and on the way to it a value of another kind came up, such as a negative
    number of things."""
    LUCKY = 2
    """The answer is right, the process is not."""
    RIGHT = 3


def _verdict(right: _Right, played: _Played) -> _Verdict:
    stop = StopReason.STOPPED if played.answer is not None else StopReason.RECORD_ENDED
    update = {
        "steps": played.steps,
        "answer": played.answer,
        "stop_reason": stop,
        "renamed": right.original.functions.task_names,
    }
    chain = judged(right.original.task, right.original.problem, right.chain.model_copy(update=update))
    if chain.outcome is not Outcome.CORRECT:
        return _Verdict.WRONG if played.sensible else _Verdict.STRANGE
    return _Verdict.RIGHT if chain.right_for_the_right_reason else _Verdict.LUCKY


# --- from scripts to an operation -----------------------------------------------------------------

Kind = Callable[[_Right, Random], Iterable[Sequence[Script]]]
"""A chain → for each of its places, the scripts that err there."""


def _corrupted(original: Original, rng: Random, kind: Kind, nothing: str) -> Variant:
    """Every distinct right chain made wrong where that is possible."""
    if not original.right:
        raise Rejected("no right chain")
    replies: dict[str, Sequence[str]] = {}
    seen: set[tuple[str, ...]] = set()
    reasons = []
    for chain in original.right:
        said = tuple(step.reply for step in chain.steps)
        if said in seen:
            continue
        seen.add(said)
        try:
            replies[chain.key] = _wrong_replies(_Right.of(original, chain), rng, kind, nothing)
        except Rejected as reason:
            reasons.append(str(reason))
    if not replies:
        raise Rejected(reasons[0])
    return Variant(original.problem, replies, corrupts=True, left_out=tuple(reasons))


def _wrong_replies(right: _Right, rng: Random, kind: Kind, nothing: str) -> list[str]:
    """The best of the scripts that are tried, or the first that leaves nothing to wish for."""
    best, found = _Verdict.RIGHT, []
    tried = 0
    for script in _spread(kind(right, rng), rng):
        if (tried := tried + 1) > MAX_TRIES:
            break
        try:
            played = _play(right, script)
        except _Unfit:
            continue
        verdict = _verdict(right, played)
        if verdict < best:
            best, found = verdict, [step.reply for step in played.steps]
        if best is _Verdict.WRONG:
            break
    if not found:
        raise Rejected("no try of it is wrong" if tried else nothing)
    return found


def _spread(places: Iterable[Sequence[Script]], rng: Random) -> Iterator[Script]:
    """One script of each place in turn, the places in any order."""
    orders = [list(scripts) for scripts in places if scripts]
    rng.shuffle(orders)
    for turn in zip_longest(*orders):
        yield from (script for script in turn if script is not None)


def _instead(right: _Right, index: int, reply: str) -> Script:
    """The chain with another reply at one step."""
    turn = _Turn(reply, right.turns[index].observed)
    return (*right.turns[:index], turn, *right.turns[index + 1 :])


# --- another function -----------------------------------------------------------------------------


def wrong_function(original: Original, rng: Random) -> Variant:
    """A call of another function that takes the same arguments: `multiply(11, 12)` becomes
    `add(11, 12)`, and what was 132 is 23 from there on."""
    return _corrupted(original, rng, _wrong_functions, "no other function takes these arguments")


def _wrong_functions(right: _Right, rng: Random) -> Iterator[list[Script]]:
    used = {step.call.name for step in right.chain.steps if step.call is not None}
    for index in right.places():
        written = right.written[index]
        assert written is not None
        others = [
            made.name
            for made in right.original.functions
            if _takes_the_same(made, right.function(index), written.call)
        ]
        rng.shuffle(others)
        if rng.random() < 0.5:  # what the chain has use for is the likelier mistake
            others.sort(key=lambda name: name not in used)
        end = written.start + len(written.call.name)
        yield [_instead(right, index, written.edited([(written.start, end, name)])) for name in others]


def _takes_the_same(other: Function, made: Function, call: Call) -> bool:
    """Whether a call of one function would be a call of the other too."""
    if other.name == made.name or other.role is Role.FLOW:
        return False
    if [kind for _, kind in _parameters(other)] != [kind for _, kind in _parameters(made)]:
        return False
    try:
        bind(other, call.model_copy(update={"name": other.name}))
    except CallError:
        return False
    return True


def _parameters(made: Function) -> list[tuple[str, tuple[object, bool]]]:
    """What a model fills in: name, and whether how many and which are needed."""
    return [
        (name, (parameter.kind, parameter.default is parameter.empty))
        for name, parameter in made.parameters.items()
        if name not in made.state_parameters
    ]


# --- another argument -----------------------------------------------------------------------------


def wrong_argument(original: Original, rng: Random) -> Variant:
    """A call with a wrong argument: `subtract(220, 132)` becomes `subtract(132, 220)` or, with another
    number of the text, `subtract(56, 132)`; a formula is misread, or another one's name is given."""
    return _corrupted(original, rng, _wrong_arguments, "no argument has another to stand in its place")


def _wrong_arguments(right: _Right, rng: Random) -> Iterator[list[Script]]:
    for index in right.places():
        written = right.written[index]
        assert written is not None
        likely = [*_swapped(written)]
        other: list[str] = []
        for literal in written.literals:
            slips = _misreadings(right, literal)
            (likely if slips else other).extend(
                written.edited([(literal.start, literal.end, source)])
                for source in slips or _other_sources(right, index, literal, rng)
            )
        rng.shuffle(likely)
        rng.shuffle(other)
        yield [_instead(right, index, reply) for reply in dict.fromkeys([*likely, *other])]


def _swapped(written: Written) -> Iterator[str]:
    """Two arguments of the same kind, exchanged."""
    whole = [literal for literal in written.literals if literal.whole]
    for one, other in combinations(whole, 2):
        if isinstance(one.value, str) is isinstance(other.value, str) and one.value != other.value:
            swap = [(one.start, one.end, other.source), (other.start, other.end, one.source)]
            yield written.edited(swap)


def _other_sources(right: _Right, index: int, literal: Literal, rng: Random) -> list[str]:
    """What else could stand in the place of a number, of a label, or of a text."""
    written, text = right.written[index], str(literal.value)
    assert written is not None
    inside = {key_of(str(one.value)) for one in written.literals}
    if number_of(text) is not None:
        others = [one for one in _around(right, index) if key_of(one) not in inside]
        miscopied = [one for one in alternatives(text, (), "")[1] if like(one, text)]
        found = [_as_source(one, literal) for one in others or miscopied]
    elif text in (earlier := [right.value(before) for before in range(index)]):
        others = [one for one in earlier if label_of(one) == label_of(text) and one not in inside]
        found = [quoted(one, literal.source) for one in others]
    elif is_calculation(text):
        found = [*_other_numbers(right, index, literal)]
    else:
        found = [quoted(one, literal.source) for one in _given_elsewhere(right, index, literal)]
    return rng.sample(found, min(MOST_OTHERS, len(found)))


def _other_numbers(right: _Right, index: int, literal: Literal) -> Iterator[str]:
    """An expression with another number in the place of one."""
    text = str(literal.value)
    inside = {key_of(one[0]) for one in _TOKEN.finditer(text)}
    for token in _TOKEN.finditer(text):
        for one in _around(right, index):
            if key_of(one) not in inside and re.fullmatch(r"\d+(\.\d+)?", one):
                yield quoted(edited(text, [(*token.span(), one)]), literal.source)


def _around(right: _Right, index: int) -> list[str]:
    """The numbers of the question, then those of earlier calls and observations."""
    found = numbers_in(right.original.problem.question)
    for earlier in range(index):
        written = right.written[earlier]
        found += [str(one.value) for one in written.literals] if written is not None else []
        found.append(right.value(earlier))
    return list({key_of(one): one for one in found if number_of(one) is not None}.values())


def _given_elsewhere(right: _Right, index: int, literal: Literal) -> list[str]:
    """What other calls of the same function have as this argument."""
    own = right.written[index]
    assert own is not None
    return [
        str(one.value)
        for other in right.written
        if other is not None and other.call.name == own.call.name
        for one in other.literals
        if one.argument == literal.argument
        and isinstance(one.value, str)
        and one.value != literal.value
    ]


def _misreadings(right: _Right, literal: Literal) -> list[str]:
    """A formula's or an expression's source, misread; nothing of any other literal."""
    if not isinstance(literal.value, str):
        return []
    made = [*misread(literal.value), *_other_names(right, literal.value)]
    return [quoted(one, literal.source) for one in made]


def _other_names(right: _Right, text: str) -> Iterator[str]:
    """A formula about another one than it is about, of those that the chain's formulas name."""
    known = {
        name: None
        for written in right.written
        if written is not None
        for literal in written.literals
        if isinstance(literal.value, str)
        for name, _ in names_in(literal.value)
    }
    for name, place in names_in(text):
        yield from (edited(text, [(*place, other)]) for other in known if other != name)


# --- a step left out ------------------------------------------------------------------------------


def skipped_step(original: Original, rng: Random) -> Variant:
    """A step is left out. Later steps that rest on it take another value instead, as one of its own
    numbers: without `subtract(220, 132)` it is `stop(220)`."""
    return _corrupted(original, rng, _skipped_steps, "no step can be left out")


def _skipped_steps(right: _Right, rng: Random) -> Iterator[list[Script]]:
    for index in right.places():
        before, after = right.turns[:index], right.turns[index + 1 :]
        yield [(*before, *rest) for rest in _without_value(right, index, after, rng)]


def _without_value(right: _Right, index: int, after: Script, rng: Random) -> list[Script]:
    """What comes after a step whose value is not known: with something else in its place."""
    if not right.uses(index):
        return [after]
    return [_believing(after, right.value(index), other) for other in right.others(index, rng)]


def _believing(turns: Script, value: str, other: str) -> Script:
    first, *rest = turns
    believed = {**first.believed, value: other}
    return (_Turn(first.reply, first.observed, first.fails, believed), *rest)


# --- an end too soon ------------------------------------------------------------------------------


def early_stop(original: Original, rng: Random) -> Variant:
    """The chain stops with an intermediate result; or, where such a result is no answer, before all is
    done that the answer rests on: the goal is stated although sentences are missing."""
    return _corrupted(original, rng, _early_stops, "there is no intermediate result")


def _early_stops(right: _Right, rng: Random) -> Iterator[list[Script]]:
    del rng
    places = right.places()
    answer = _answer_literal(right)
    stop = right.written[right.last]
    if answer is None or stop is None:
        return
    for index in places[:-1]:
        before, value = right.turns[: index + 1], right.value(index)
        if _could_answer(value, str(answer.value)):
            edit = (answer.start, answer.end, _as_source(value, answer))
            yield [(*before, _Turn(stop.edited([edit]), goes_on=False))]
        elif number_of(str(answer.value)) is None:
            skipped = [(*before, *right.turns[places[-1] :])] if places[-1] > index + 1 else []
            yield [*skipped, (*before, right.turns[right.last])]


def _answer_literal(right: _Right) -> Literal | None:
    """The answer in the call that stops."""
    stop = right.written[right.last]
    if stop is None or right.chain.answer is None:
        return None
    fitting = [
        one for one in stop.literals if key_of(str(one.value)) == key_of(right.chain.answer)
    ] or stop.literals
    return fitting[0] if fitting else None


def _could_answer(value: str, answer: str) -> bool:
    """Whether a value could be taken for the answer, though it is not."""
    if key_of(value) == key_of(answer):
        return False
    if number_of(answer) is not None:
        return number_of(value) is not None
    return any(value in family and answer in family for family in FAMILIES)


# --- an observation ignored -----------------------------------------------------------------------


def ignored_observation(original: Original, rng: Random) -> Variant:
    """The chain goes on, or stops, with another value than it observed: after `132` comes
    `subtract(220, 122)`, after `True` comes `stop("False")`."""
    return _corrupted(original, rng, _ignored, "no call rests on an observation")


def _ignored(right: _Right, rng: Random) -> Iterator[list[Script]]:
    for index in right.places():
        if right.uses(index):
            done, after = right.turns[: index + 1], right.turns[index + 1 :]
            value = right.value(index)
            yield [(*done, *_believing(after, value, one)) for one in right.others(index, rng)]
    yield [*_other_verdicts(right)]


def _other_verdicts(right: _Right) -> Iterator[Script]:
    """Stops with another verdict, where the chain's own is what its observations come to, and no
    observation by itself: True once the goal is derived."""
    answer, stop = _answer_literal(right), right.written[right.last]
    if answer is None or stop is None or not right.places():
        return
    text = str(answer.value)
    if any(key_of(right.value(index)) == key_of(text) for index in right.places()):
        return
    for other in alternatives(text, (), right.told)[1]:
        if other != text and number_of(text) is None:
            edit = (answer.start, answer.end, _as_source(other, answer))
            yield (*right.turns[:-1], _Turn(stop.edited([edit]), goes_on=False))


# --- a call that does not parse -------------------------------------------------------------------


def unparsable_call(original: Original, rng: Random) -> Variant:
    """A call as small models break it: a bracket or a quote is missing, a sentence stands in its place,
    an argument is a call itself. The chain then repeats it to its end, or goes on without that step."""
    return _corrupted(original, rng, _unparsable, "no call can be broken")


def _unparsable(right: _Right, rng: Random) -> Iterator[list[Script]]:
    onward, stuck = [], []
    for index in [*right.places(), right.last]:
        before, after = right.turns[:index], right.turns[index + 1 :]
        for reply in _broken(right, index):
            turn = _Turn(reply, fails=True, goes_on=False)
            stuck.append((*before, *[turn] * rng.randint(*REPEATS)))
            if after:
                rests = _without_value(right, index, after, rng)
                onward += [(*before, turn, *rest) for rest in rests[:1]]
    rng.shuffle(onward)
    rng.shuffle(stuck)
    if rng.random() < ONWARD_SHARE:  # being stuck is always wrong: the last resort
        yield [*onward[: MAX_TRIES - 1], *stuck]
    else:
        yield stuck


def _broken(right: _Right, index: int) -> Iterator[str]:
    """A step's call as it does not parse."""
    written = right.written[index]
    if written is None:
        return
    source = written.source
    texts = [literal for literal in written.literals if isinstance(literal.value, str)]
    replies = [source[:-1], *_sentences(right, index, written)]
    for literal in texts:
        start, end = literal.start - written.start, literal.end - written.start
        replies.append(edited(source, [(end - 1, end, "")]))
        replies.append(edited(source, [(start, end, str(literal.value))]))
    if (nested := _nested(right, index, written)) is not None:
        replies.append(nested)
    yield from (reply for reply in replies if _does_not_parse(reply, right.original.functions))


def _does_not_parse(reply: str, functions: FunctionSet) -> bool:
    failure = (
        functions.reply(reply, {}).observation.failure
        if written_call(reply, functions) is None
        else None
    )
    return failure in (FailureKind.UNPARSABLE, FailureKind.NO_CALL)


def _sentences(right: _Right, index: int, written: Written) -> tuple[str, ...]:
    """What the call does in words."""
    given = " and ".join(str(literal.value) for literal in written.literals)
    if index == right.last:
        return (f"The answer is {given}.",)
    name = written.call.name
    return f"Next step: {name.replace('_', ' ')} {given}.", f"I will use {name} with {given}."


def _nested(right: _Right, index: int, written: Written) -> str | None:
    """The call with an earlier one in the place of what that one observed."""
    for earlier in reversed(range(index)):
        other = right.written[earlier]
        for literal in written.literals:
            if other is not None and key_of(str(literal.value)) == key_of(right.value(earlier)):
                place = (literal.start - written.start, literal.end - written.start)
                return edited(written.source, [(*place, other.source)])
    return None


CORRUPTIONS: dict[str, Operation] = {
    "wrong_function": wrong_function,
    "wrong_argument": wrong_argument,
    "skipped_step": skipped_step,
    "early_stop": early_stop,
    "ignored_observation": ignored_observation,
    "unparsable_call": unparsable_call,
}
