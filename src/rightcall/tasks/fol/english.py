"""Logical content → an English sentence together with its formula.

Every function takes what is to be said and a random generator that picks one of several phrasings,
and returns a `Sentence`: the text and its formula. The formula names its atoms in the order of the
text wherever logic allows, and with the text's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from random import Random

from rightcall.tasks.fol.formula import (
    And,
    Atom,
    Constant,
    Exists,
    ForAll,
    Formula,
    Iff,
    Implies,
    Not,
    Or,
    Variable,
    Xor,
    constants,
    predicates,
)  # fmt: skip
from rightcall.tasks.fol.words import Word, WordKind

ANY = "x"
"""The term that stands for the thing a rule or an existential sentence is about."""
OTHER = "y"


@dataclass(frozen=True)
class Literal:
    """A property of one thing or a relation between two, said or denied."""

    word: Word
    terms: tuple[str, ...]
    """Names (capitalised), or `ANY` / `OTHER`."""
    positive: bool = True

    @property
    def subject(self) -> str:
        return self.terms[0]

    @property
    def is_relation(self) -> bool:
        return len(self.terms) == 2

    @property
    def formula(self) -> Formula:
        terms = tuple(Variable(t) if t in (ANY, OTHER) else Constant(t) for t in self.terms)
        atom = Atom(self.word.text, terms)
        return atom if self.positive else Not(atom)

    def __invert__(self) -> Literal:
        return replace(self, positive=not self.positive)

    def about(self, subject: str) -> Literal:
        """The same said of another subject."""
        return replace(self, terms=(subject, *self.terms[1:]))


@dataclass(frozen=True)
class Rule:
    """Whatever satisfies the body satisfies the head; literals are about `ANY`."""

    body: tuple[Literal, ...]
    head: tuple[Literal, ...]
    body_joint: str = "and"
    head_joint: str = "and"
    both_ways: bool = False

    @property
    def formula(self) -> Formula:
        body, head = combined(self.body, self.body_joint), combined(self.head, self.head_joint)
        return ForAll(ANY, Iff(body, head) if self.both_ways else Implies(body, head))


@dataclass(frozen=True)
class Sentence:
    text: str
    """Ends with its full stop."""
    formula: Formula
    constructs: tuple[str, ...] = ()
    """What of logic it uses: "negation", "exclusive or", "relation", ..."""

    @property
    def symbols(self) -> frozenset[str]:
        """The predicates and names that it mentions."""
        named = {name for name, _ in predicates(self.formula)}
        return frozenset(named | constants(self.formula))


def combined(literals: Sequence[Literal], joint: str) -> Formula:
    """Literals joined by "and", "or" or "xor"."""
    return reduce(_JOINTS[joint], [literal.formula for literal in literals])


_JOINTS: dict[str, Callable[[Formula, Formula], Formula]] = {"and": And, "or": Or, "xor": Xor}


# --- phrases ------------------------------------------------------------------------------------


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def listed(items: Sequence[str], joint: str) -> str:
    """ "a", "a and b", "a, b and c" """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {joint} {items[-1]}"


def _complement(literal: Literal) -> str:
    """What follows "is": "cold", "not cold", "a cat"."""
    noun = literal.word.kind is WordKind.NOUN
    shown = with_article(literal.word.text) if noun else literal.word.text
    return shown if literal.positive else f"not {shown}"


def speakable(literal: Literal) -> bool:
    """Whether a phrase can say it as it is: "does not like" would not be the formula's word."""
    return literal.positive or not literal.is_relation


def _in_order(literals: Sequence[Literal]) -> tuple[Literal, ...]:
    """Properties before relations, denials after what is said: "cold and not red and likes Anne"
    cannot be misread."""
    return tuple(sorted(literals, key=lambda one: (one.is_relation, not one.positive)))


def predicate(literals: Sequence[Literal], joint: str) -> str:
    """ "is cold and not red", "is a cat and likes Anne", "is either cold or red, but not both" """
    if joint == "xor":
        if any(one.is_relation for one in literals):
            return f"either {listed([_alone(one) for one in literals], 'or')}, but not both"
        return f"is either {listed([_complement(one) for one in literals], 'or')}, but not both"
    if any(one.is_relation for one in literals):
        return listed([_alone(one) for one in literals], joint)
    return f"is {listed([_complement(one) for one in literals], joint)}"


def _alone(literal: Literal) -> str:
    if literal.is_relation:
        return f"{literal.word.text} {literal.terms[1]}"
    return f"is {_complement(literal)}"


def clause(literal: Literal) -> str:
    """ "Bob is cold", "Bob likes Anne" """
    return f"{literal.subject} {_alone(literal)}"


# --- facts --------------------------------------------------------------------------------------


def fact(rng: Random, literals: Sequence[Literal], joint: str = "and") -> Sentence:
    """One or more literals about the same name."""
    if len(literals) == 1:
        return _single_fact(rng, literals[0])
    ordered = _in_order(literals)
    phrase = predicate(ordered, joint)
    if joint == "and" and len(ordered) == 2 and rng.random() < 0.25 and not ordered[1].is_relation:
        phrase = phrase.replace("is ", "is both ", 1)
    return Sentence(f"{ordered[0].subject} {phrase}.", combined(ordered, joint), _kinds(ordered, joint))


def _single_fact(rng: Random, literal: Literal) -> Sentence:
    if not literal.positive and (literal.is_relation or rng.random() < 0.2):
        opening = rng.choice(["It is not true that", "It is false that", "It is not the case that"])
        text = f"{opening} {clause(~literal)}."
    else:
        text = f"{clause(literal)}."
    return Sentence(text, literal.formula, _kinds([literal]))


def existential(rng: Random, literals: Sequence[Literal]) -> Sentence:
    """Something there is of which all the literals hold; at least two of them."""
    nouns = [one for one in literals if one.word.kind is WordKind.NOUN and one.positive]
    if nouns:
        rest = _in_order([one for one in literals if one is not nouns[0]])
        ordered = (nouns[0], *rest)
        noun = nouns[0].word.text
        texts = [
            f"Some {noun} {predicate(rest, 'and')}.",
            f"At least one {noun} {predicate(rest, 'and')}.",
            f"There is {with_article(noun)} that {predicate(rest, 'and')}.",
        ]
        if all(one.word.kind is WordKind.ADJECTIVE and one.positive for one in rest):
            described = ", ".join(one.word.text for one in rest)
            if rng.random() < 0.4:
                ordered = (*rest, nouns[0])
                texts = [f"There is {with_article(f'{described} {noun}')}."]
    else:
        ordered = _in_order(literals)
        said = predicate(ordered, "and")
        texts = [
            f"Something {said}.",
            f"There is something that {said}.",
            f"At least one thing {said}.",
        ]
    formula = Exists(ANY, combined(ordered, "and"))
    return Sentence(rng.choice(texts), formula, ("existential", *_kinds(ordered)))


# --- rules --------------------------------------------------------------------------------------

Phrasing = Callable[[Random, Rule], tuple[str, Rule] | None]
"""Says a rule, perhaps with its body reordered; None if this phrasing does not fit it."""


def rule(rng: Random, said: Rule) -> Sentence:
    """A universal rule in one of the phrasings that fit it."""
    said = replace(
        said,
        body=_in_order(rng.sample(said.body, len(said.body))),
        head=_in_order(said.head),
    )
    for phrasing in rng.sample(_PHRASINGS, len(_PHRASINGS)):
        if (made := phrasing(rng, said)) is not None:
            text, ordered = made
            return Sentence(text, ordered.formula, _rule_kinds(ordered))
    raise ValueError(f"no phrasing fits {said}")


def _if_then(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    if said.both_ways or not _plain(said):
        return None
    body, head = predicate(said.body, said.body_joint), predicate(said.head, said.head_joint)
    texts = [f"If something {body} then it {head}.", f"If something {body}, it {head}."]
    if head.startswith("is "):
        texts.append(f"If someone {body} then they are {head.removeprefix('is ')}.")
    return rng.choice(texts), said


def _everything(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    if said.both_ways or not _plain(said):
        return None
    body, head = predicate(said.body, said.body_joint), predicate(said.head, said.head_joint)
    opening = rng.choice(["Everything that", "Anything that", "Everyone who", "Whatever"])
    return f"{opening} {body} {head}.", said


def _all_things(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    adjectives = all(one.word.kind is WordKind.ADJECTIVE for one in (*said.body, *said.head))
    if not adjectives or said.both_ways:
        return None
    head = predicate(said.head, said.head_joint).replace("is ", "are ", 1)
    body = predicate(said.body, said.body_joint).replace("is ", "are ", 1)
    texts = [f"Things that {body} {head}.", f"All things that {body} {head}."]
    if said.body_joint == "and" and all(one.positive for one in said.body):
        described = ", ".join(one.word.text for one in said.body)
        texts += [f"All {described} things {head}.", f"All {described} people {head}."]
    return rng.choice(texts), said


def _every_noun(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    named = _noun_first(said)
    if named is None or not _plain(said):
        return None
    described, ordered = _noun_phrase(rng, named)
    head = predicate(ordered.head, ordered.head_joint)
    opening = rng.choice(["Every", "Each", "Any"])
    text = f"{opening} {described} {head}."
    if rng.random() < 0.2:
        text = f"If something is {with_article(described)} then it {head}."
    return text, ordered


def _no_noun(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    named = _noun_first(said)
    if named is None or not _denies(said):
        return None
    described, ordered = _noun_phrase(rng, named)
    return f"No {described} {_alone(~said.head[0])}.", ordered


def _nothing(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    if not _denies(said) or said.both_ways or not _speakable_body(said):
        return None
    opening = rng.choice(["Nothing that", "No one who"])
    return f"{opening} {predicate(said.body, said.body_joint)} {_alone(~said.head[0])}.", said


def _if_and_only_if(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    if not said.both_ways:
        return None
    body, head = predicate(said.body, said.body_joint), predicate(said.head, said.head_joint)
    opening = rng.choice(["Something", "A thing"])
    return f"{opening} {body} if and only if it {head}.", said


def _liked_by(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    """Rules with "Bob likes x" as their body: "Everything that Bob likes is red." """
    first = said.body[0]
    if len(said.body) > 1 or not (first.is_relation and first.terms[1] == ANY):
        return None
    relation, head = f"{first.subject} {first.word.text}", predicate(said.head, said.head_joint)
    texts = [f"Everything that {relation} {head}.", f"If {relation} something then it {head}."]
    return rng.choice([*texts, f"Whatever {relation} {head}."]), said


def _likes_every(rng: Random, said: Rule) -> tuple[str, Rule] | None:
    """Rules with "Bob likes x" as their head: "Bob likes everything that is red." """
    last = said.head[0]
    if len(said.head) > 1 or not (last.is_relation and last.terms[1] == ANY) or not last.positive:
        return None
    relation, body = f"{last.subject} {last.word.text}", predicate(said.body, said.body_joint)
    texts = [f"{relation} everything that {body}.", f"If something {body} then {relation} it."]
    named = _noun_first(said)
    if named is not None:
        described, ordered = _noun_phrase(rng, named)
        return f"{relation} every {described}.", ordered
    return rng.choice(texts), said


_PHRASINGS: list[Phrasing] = [
    _if_then, _everything, _all_things, _every_noun, _no_noun, _nothing, _if_and_only_if, _liked_by,
    _likes_every,
]  # fmt: skip


def _speakable_body(said: Rule) -> bool:
    return all(speakable(one) and one.subject == ANY for one in said.body)


def _plain(said: Rule) -> bool:
    """Everything in it can be said of "it"."""
    return _speakable_body(said) and all(speakable(one) and one.subject == ANY for one in said.head)


def _denies(said: Rule) -> bool:
    return len(said.head) == 1 and not said.head[0].positive and said.head[0].subject == ANY


def _noun_first(said: Rule) -> Rule | None:
    """The rule with a noun heading its body, if it has one and joins by "and"."""
    if said.body_joint == "or" or said.both_ways or not _speakable_body(said):
        return None
    for one in said.body:
        if one.word.kind is WordKind.NOUN and one.positive:
            return replace(said, body=(one, *(other for other in said.body if other is not one)))
    return None


def _noun_phrase(rng: Random, said: Rule) -> tuple[str, Rule]:
    """ "cat", "cold cat" or "cat that is cold", for a rule whose body starts with the noun."""
    noun, rest = said.body[0], said.body[1:]
    if not rest:
        return noun.word.text, said
    adjectives = all(one.word.kind is WordKind.ADJECTIVE and one.positive for one in rest)
    if adjectives and rng.random() < 0.5:
        described = ", ".join(one.word.text for one in rest)
        return f"{described} {noun.word.text}", replace(said, body=(*rest, noun))
    return f"{noun.word.text} that {predicate(rest, 'and')}", said


# --- conditionals about named things, rules about pairs --------------------------------------------


def conditional(rng: Random, body: Sequence[Literal], head: Literal) -> Sentence:
    """ "If Bob is cold and Anne is red then Carl is kind." """
    condition = listed([clause(one) for one in body], "and")
    texts = [f"If {condition} then {clause(head)}.", f"If {condition}, {clause(head)}."]
    formula = Implies(combined(body, "and"), head.formula)
    return Sentence(rng.choice(texts), formula, ("conditional", *_kinds([*body, head])))


def existential_conditional(rng: Random, noun: Literal, other: Literal, head: Literal) -> Sentence:
    """ "If some cat is red then Bob is cold." """
    opening = rng.choice(["some", "any", "at least one"])
    text = f"If {opening} {noun.word.text} {_alone(other)} then {clause(head)}."
    formula = Implies(Exists(ANY, And(noun.formula, other.formula)), head.formula)
    return Sentence(text, formula, ("existential", "conditional", *_kinds([noun, other, head])))


def mutual(relation: Word) -> Sentence:
    """The relation is symmetric."""
    verb = relation.text
    forth, back = Literal(relation, (ANY, OTHER)), Literal(relation, (OTHER, ANY))
    return Sentence(
        f"If one thing {verb} another thing then that other thing {verb} the first one.",
        ForAll(ANY, ForAll(OTHER, Implies(forth.formula, back.formula))),
        ("relation", "nested quantifiers"),
    )


def relates_to_something(rng: Random, relation: Word, head: Literal) -> Sentence:
    """ "Everything that likes something is red." """
    held = Exists(OTHER, Literal(relation, (ANY, OTHER)).formula)
    said = predicate([head], "and")
    texts = [
        f"Everything that {relation.text} something {said}.",
        f"If something {relation.text} anything then it {said}.",
    ]
    kinds = ("relation", "nested quantifiers", *_kinds([head]))
    return Sentence(rng.choice(texts), ForAll(ANY, Implies(held, head.formula)), kinds)


# --- what a sentence uses -------------------------------------------------------------------------

_JOINT_NAMES = {"and": "conjunction", "or": "disjunction", "xor": "exclusive or"}


def _kinds(literals: Sequence[Literal], joint: str = "and") -> tuple[str, ...]:
    found = []
    if any(not one.positive for one in literals):
        found.append("negation")
    if any(one.is_relation for one in literals):
        found.append("relation")
    if len(literals) > 1:
        found.append(_JOINT_NAMES[joint])
    return tuple(found)


def _rule_kinds(said: Rule) -> tuple[str, ...]:
    way = ("equivalence",) if said.both_ways else ("rule",)
    return way + _kinds(said.body, said.body_joint) + _kinds(said.head, said.head_joint)
