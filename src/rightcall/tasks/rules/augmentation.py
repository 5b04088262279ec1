"""What augmentation does with theories of facts and rules: `rules`, `proofwriter` and `prontoqa`.

Each operation changes the numbered sentences and, with them, the formulas of all chains (see
`rightcall.tasks.fol.retelling`). The label is found again by forward chaining over the new gold
formulas, and the new text must be read as these formulas by `rightcall.tasks.rules.english`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from rightcall.augment.operation import Operation, Original, Rejected, Variant
from rightcall.chain import Problem
from rightcall.errors import CallError, DataError
from rightcall.tasks.fol.formula import (
    And,
    Constant,
    ForAll,
    Formula,
    Implies,
    conjunction,
    constants,
    negated,
    parse,
    predicates,
    to_text,
)
from rightcall.tasks.fol.retelling import (
    ANSWERS,
    LeftOut,
    Telling,
    Told,
    denied,
    distracted,
    exchanged_gold,
    gold_told,
    known_label,
    permuted,
    read,
    renamed,
    rewritten,
)
from rightcall.tasks.fol.wording import Renaming, Unlinked, words_of
from rightcall.tasks.rules.chaining import decide, literal_of, same_rules
from rightcall.tasks.rules.english import Reader, third_person
from rightcall.tasks.rules.task import Theory, as_spelled, problem_of
from rightcall.tasks.rules.theories import (
    Kinds,
    Size,
    Thing,
    Traits,
    Words,
    plain_form,
    plural,
)
from rightcall.tasks.rules.theories import Told as Said

MOST_ADDED = 3
"""Distracting sentences."""
DRAWS = 20
"""Sets of new words that are tried."""


# --- how problems are told --------------------------------------------------------------------------


def _read(problem: Problem) -> Told:
    theory = Theory.of(problem.question)
    if not theory.sentences or not theory.statement:
        raise Rejected("a question of another form")
    return gold_told(problem, theory.sentences, theory.statement)


def _problem(problem: Problem, told: Told, answer: str) -> Problem:
    formulas = [parse(text) for text in told.premises]
    made = problem_of(
        problem.id, told.sentences, told.statement, answer, formulas, parse(told.goal),
        depth=problem.difficulty,
    )  # fmt: skip
    return made.model_copy(update={"metadata": {**problem.metadata, **made.metadata}})


def _decided(told: Told) -> str | None:
    try:
        premises = [parse(text.lower()) for text in told.premises]
        return decide(premises, parse(told.goal.lower()))
    except CallError:
        return None


RULES = Telling(
    read=_read,
    problem=_problem,
    decide=_decided,
    meaning=lambda observation: observation if observation in ANSWERS else None,
    premise=lambda number, formula, sentence: (number, as_spelled(formula, sentence)),
    numbered=True,
)


def _reads_as_told(told: Told) -> bool:
    """Whether the sentences are read as their formulas."""
    reader = Reader(told.sentences)
    try:
        made = [*reader.formulas(), reader.formula(told.statement)]
    except DataError:
        return False
    gold = [parse(text.lower()) for text in (*told.premises, told.goal)]
    return all(
        same_rules(parse(to_text(one).lower()), other) for one, other in zip(made, gold, strict=True)
    )


def _readable(original: Original) -> Told:
    told = known_label(RULES, original.problem)
    if not _reads_as_told(told):
        raise Rejected("a sentence is not read as its formula")
    return told


# --- rename -----------------------------------------------------------------------------------------


def rename(original: Original, rng: Random) -> Variant:
    """Other words for all traits, kinds, verbs and individuals, in every form that the text and the
    chains have of them.

    "Wumpuses are cold. Max is a wumpus." becomes "Lynxes are shy. Anne is a lynx.", and
    `Wumpus(x)` becomes `Lynx(x)`.
    """
    told = _readable(original)
    units = _units(told)
    for _ in range(DRAWS):
        renaming = _renaming(rng, units, told, _made_up(original, rng))
        if renaming is None:
            continue
        new = _exchanged(told, renaming)
        if _reads_as_told(new):
            return _renamed(original, told, new, renaming)
    raise Rejected("no words that are read back")


def _exchanged(told: Told, renaming: Renaming) -> Told:
    try:
        return Told(
            tuple(map(renaming.text, told.sentences)),
            renaming.text(told.statement),
            tuple(map(renaming.formula, told.premises)),
            renaming.formula(told.goal),
        )
    except Unlinked:
        raise Rejected("a name is not in the text") from None


def _renamed(original: Original, told: Told, new: Told, renaming: Renaming) -> Variant:
    def formula(text: str) -> str:
        try:
            return renaming.formula(text)
        except Unlinked:
            raise LeftOut("a name is not in the text") from None

    return renamed(original, RULES, told, new, renaming.text, formula)


def _size(original: Original) -> Size | None:
    size = getattr(original.task, "size", None)
    return size if isinstance(size, Size) else None


def _made_up(original: Original, rng: Random) -> bool:
    return rng.random() < (_size(original) or Size).made_up


@dataclass(frozen=True)
class _Unit:
    """A name of the formulas, as the text uses it."""

    phrase: str
    """In lower case, its words with blanks between them."""
    kind: str
    """ "verb", "noun", "adjective", "thing" ("the cat"), "name" or "number"."""
    plain: tuple[str, ...] = ()
    """Of a verb, its other form."""


def _units(told: Told) -> list[_Unit]:
    formulas = [parse(text) for text in (*told.premises, told.goal)]
    predicated = sorted({p for one in formulas for p in predicates(one)})
    individuals = sorted({name for one in formulas for name in constants(one)})
    units = {name: _predicate(name, arity, told, predicated) for name, arity in predicated}
    for name in individuals:
        unit = _individual(name, told)
        if unit.phrase in {one.phrase for one in units.values()}:
            raise Rejected("a word has two meanings")
        units[name] = unit
    return list(units.values())


def _predicate(name: str, arity: int, told: Told, predicated: Sequence[tuple[str, int]]) -> _Unit:
    phrase = name.replace("_", " ")
    if arity == 2:
        known = [word for word in sorted(words_of(told.text)) if third_person(word) == phrase]
        return _Unit(phrase, "verb", tuple(known) or (_plain(phrase),))
    if arity != 1:
        raise Rejected("a predicate of another kind")
    longer = [n.replace("_", " ") for n, _ in predicated if n.startswith(f"{name}_")]
    return _Unit(phrase, "noun" if _is_noun(phrase, longer, told.text) else "adjective")


def _is_noun(phrase: str, longer: Sequence[str], text: str) -> bool:
    """Whether a kind or a trait: by its article, or its plural. "Every real" shows nothing where
    "real number" is a kind of its own."""
    for other in longer:
        text = re.sub(rf"\b{other}(?![\w-])", "", text, flags=re.I)
    words = rf"(?:an?|each|every) {re.escape(phrase)}(?![\w-])"
    many = rf"(?<![\w-]){re.escape(plural(phrase))}(?![\w-])"
    return bool(re.search(rf"\b{words}|{many}", text, re.I))


def _plain(verb: str) -> str:
    """Raises `Rejected` for a verb whose forms are not regular."""
    plain = plain_form(verb)
    if third_person(plain) != verb:
        raise Rejected("a verb of unknown form")
    return plain


def _individual(name: str, told: Told) -> _Unit:
    phrase = name.replace("_", " ")
    if phrase.isdigit():
        return _Unit(phrase, "number")
    if re.search(rf"\bthe {re.escape(phrase)}(?![\w-])", told.text, re.I):
        return _Unit(phrase.lower(), "thing")
    return _Unit(phrase.lower(), "name")


def _renaming(rng: Random, units: Sequence[_Unit], told: Told, made_up: bool) -> Renaming | None:
    """New words in all forms; None if two of them would be one, or one is in the text already."""
    words = Words(rng, made_up)
    forms: dict[str, str] = {}
    plurals: dict[str, str] = {}
    for unit in units:
        old, new = _forms(unit), _new_forms(rng, unit, words)
        if set(old) & forms.keys():
            raise Rejected("a word has two meanings")
        if unit.kind == "noun" and old[0] == old[1]:
            plurals[old[0]] = new[1]
            old, new = old[:1], new[:1]
        forms |= dict(zip(old, new, strict=True))
    spoken = [word for form in {*forms.values(), *plurals.values()} for word in form.lower().split()]
    kept = words_of(told.text) - {word for form in forms for word in form.split()}
    if kept & set(spoken) or len({form.lower() for form in forms.values()}) != len(forms):
        return None
    return Renaming(forms, plurals)


def _forms(unit: _Unit) -> list[str]:
    if unit.kind == "noun":
        return [unit.phrase, plural(unit.phrase)]
    return [unit.phrase, *unit.plain]


def _new_forms(rng: Random, unit: _Unit, words: Words) -> list[str]:
    """The new word in the forms of the old one."""
    if unit.kind == "verb":
        third, plain = words.verb()
        return [third, *(plain for _ in unit.plain)]
    if unit.kind == "noun":
        noun = words.noun()
        return [noun, plural(noun)]
    if unit.kind == "adjective":
        return [words.adjective()]
    if unit.kind == "thing":
        return [words.noun(regular=False)]
    if unit.kind == "number":
        return [str(rng.randrange(10 ** (len(unit.phrase) - 1), 10 ** len(unit.phrase)))]
    while (name := words.name()).isdigit():
        pass
    return [name]


# --- permute, distract ------------------------------------------------------------------------------


def permute(original: Original, rng: Random) -> Variant:
    """The sentences in another order with other numbers, and the premises of all chains with them."""
    return permuted(original, rng, RULES)


def distract(original: Original, rng: Random) -> Variant:
    """One to three sentences more, about kinds of their own, or about the same individuals and traits
    of their own: "Bob is gaudy.", "If something is gaudy then it is prim." Each chain records them
    too."""
    told = _readable(original)
    size = _size(original)
    room = min(MOST_ADDED, size.sentences[1] - len(told.sentences) if size else MOST_ADDED)
    if room < 1:
        raise Rejected("the theory is as long as it may be")
    units = _units(told)
    count = rng.randint(1, room)
    for _ in range(DRAWS):
        said = _distracting(rng, units, told, count, _made_up(original, rng))
        if said is None:
            continue
        added = [(one.text, one.formula) for one in said]
        whole = replace(
            told,
            sentences=(*told.sentences, *(one.text for one in said)),
            premises=(*told.premises, *(to_text(one.formula) for one in said)),
        )
        if _reads_as_told(whole):
            return distracted(original, rng, RULES, added)
    raise Rejected("no words that are read back")


def _distracting(
    rng: Random, units: Sequence[_Unit], told: Told, count: int, made_up: bool
) -> list[Said] | None:
    """None where a word of theirs is in the text."""
    words = Words(rng, made_up)
    things = _things(told)
    if any(unit.kind == "noun" for unit in units):
        said = _kinds(rng, words, things, count)
    else:
        said = _traits(rng, words, things, any(unit.kind == "verb" for unit in units), count)
    mine = {word for unit in units for form in _forms(unit) for word in form.split()}
    individuals = {word for thing in things for word in thing.text.lower().split()}
    new = {word for one in said for word in words_of(one.text)} - individuals
    return None if new & (mine - individuals) else said


def _things(told: Told) -> list[Thing]:
    found = []
    for name in sorted({n for text in (*told.premises, told.goal) for n in constants(parse(text))}):
        the = _individual(name, told).kind == "thing"
        found.append(Thing(f"the {name.replace('_', ' ')}" if the else name, Constant(name)))
    return found


def _kinds(rng: Random, words: Words, things: Sequence[Thing], count: int) -> list[Said]:
    name = rng.choice(things) if things and rng.random() < 0.5 else Thing.named(words.name())
    nouns = [words.noun() for _ in range(3)]
    adjectives = [words.adjective() for _ in range(2)]
    return Kinds(rng, words, nouns, adjectives, name).theory(count)


def _traits(
    rng: Random, words: Words, things: Sequence[Thing], related: bool, count: int
) -> list[Said]:
    adjectives = [words.adjective() for _ in range(5)]
    verbs = [words.verb() for _ in range(2)] if related else []
    made = Traits(rng, related, words, list(things), adjectives, verbs, rng.choice((0.0, 0.2)))
    said: dict[str, Said] = {}
    while len(said) < count:
        one = made.fact() if rng.random() < 0.6 else made.rule()
        said.setdefault(one.text, one)
    return list(said.values())


# --- negate -----------------------------------------------------------------------------------------


def negate(original: Original, rng: Random) -> Variant:
    """The opposite statement, and the opposite goal in all chains: "Bob is cold." becomes "Bob is not
    cold.", "The cat does not see the dog." becomes "The cat sees the dog."""
    del rng
    told = _readable(original)
    goal = to_text(negated(parse(told.goal)))
    statement = _opposite(told)
    if not _reads_as_told(replace(told, statement=statement, goal=goal)):
        raise Rejected("the opposite is not read as such")
    return denied(original, RULES, statement, goal)


def _opposite(told: Told) -> str:
    literal, statement = literal_of(parse(told.goal)), told.statement
    if len(literal.terms) == 1:
        if literal.positive:
            return re.sub(r" is ", " is not ", statement, count=1)
        return statement.replace(" is not ", " is ", 1)
    verb = literal.predicate
    known = [word for word in sorted(words_of(told.text)) if third_person(word) == verb]
    plain = known[0] if known else _plain(verb)
    if literal.positive:
        return statement.replace(f" {verb} ", f" does not {plain} ", 1)
    return statement.replace(f" does not {plain} ", f" {verb} ", 1)


# --- rewrite ----------------------------------------------------------------------------------------


def rewrite(original: Original, rng: Random) -> Variant:
    """The conditions of rules in another order: `forall x (cold(x) & red(x) -> nice(x))` becomes
    `forall x (red(x) & cold(x) -> nice(x))`. A contraposition is another rule where rules only go
    forward."""
    told = known_label(RULES, original.problem)
    if not any(_conditions(parse(text)) for text in told.premises):
        raise Rejected("no rule with two conditions")
    other: dict[Formula, Formula] = {}

    def exchange(text: str) -> str:
        made = read(text)
        if made is None:
            return text
        plain = parse(text.lower())
        if plain not in other:
            other[plain] = _reordered(plain, rng)
        return _as_written(to_text(other[plain]), text)

    return rewritten(original, RULES, exchange, exchanged_gold(original, exchange))


def _conditions(formula: Formula) -> list[Formula]:
    """The conditions of a rule that has two or more."""
    body = formula
    while isinstance(body, ForAll):
        body = body.body
    return _joined(body.left) if isinstance(body, Implies) and isinstance(body.left, And) else []


def _joined(formula: Formula) -> list[Formula]:
    return [*_joined(formula.left), *_joined(formula.right)] if isinstance(formula, And) else [formula]


def _reordered(formula: Formula, rng: Random) -> Formula:
    if isinstance(formula, ForAll):
        return ForAll(formula.variable, _reordered(formula.body, rng))
    conditions = _conditions(formula)
    if not conditions or not isinstance(formula, Implies) or len(set(conditions)) < 2:
        return formula
    order = list(conditions)
    while order == conditions:
        rng.shuffle(order)
    return Implies(conjunction(order), formula.right)


def _as_written(text: str, like: str) -> str:
    """With the capitals of another text of the same words."""
    spelled = {name.lower(): name for name in reversed(re.findall(r"[\w'+-]*\w", like))}
    return re.sub(r"[\w'+-]*\w", lambda found: spelled.get(found[0], found[0]), text)


OPERATIONS: Mapping[str, Operation] = {
    "rename": rename,
    "permute": permute,
    "distract": distract,
    "negate": negate,
    "rewrite": rewrite,
}
