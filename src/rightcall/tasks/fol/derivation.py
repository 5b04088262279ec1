"""Chains of reasoning, built one hop after another: each hop is a rule and the side facts it needs.

A hop is a function of the derivation so far; to add a way of reasoning, write one and enter it
with its weight in `PROPERTY_HOPS` or `RELATION_HOPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from rightcall.tasks.fol import english
from rightcall.tasks.fol.english import ANY, Literal, Rule, Sentence
from rightcall.tasks.fol.words import Lexicon, WordKind


@dataclass
class Derivation:
    """A chain of reasoning being built: what it needs, and where it stands."""

    rng: Random
    words: Lexicon
    subject: str
    """A name; or `ANY` in chains about whatever a base formula describes."""
    at: Literal
    """What the last hop gave; a literal about the subject of the moment."""
    room: int
    """How many more side facts fit."""
    needed: list[Sentence] = field(default_factory=list)
    """Every sentence the proof uses; dropping any of them breaks it."""
    rules: list[Rule] = field(default_factory=list)
    """The plain rules among them (one literal to one literal), which can be reversed."""
    facts: list[tuple[Sentence, tuple[Literal, ...], str]] = field(default_factory=list)
    """The facts among them, with their literals and how those are joined."""
    given: list[Literal] = field(default_factory=list)
    """Literals that hold: about a name, because a fact says so; about `ANY`, by assumption."""
    ending: bool = False
    """The next hop is the last."""

    def trait(self, positive: float = 0.75) -> Literal:
        """A new property of the subject, denied now and then."""
        return Literal(self.words.trait(), (self.subject,), self.rng.random() < positive)

    def conclusion(self, positive: float = 0.75) -> Literal:
        """What a hop leads to. The last one is as often denied as said: otherwise a goal's "not"
        would give its label away."""
        return self.trait(0.5 if self.ending else positive)

    def general(self, literal: Literal) -> Literal:
        """The literal said of whatever a rule is about."""
        return literal.about(ANY)

    def give(self, *literals: Literal, joint: str = "and") -> None:
        """State side facts in a sentence of their own."""
        stated = english.fact(self.rng, literals, joint)
        self.needed.append(stated)
        self.facts.append((stated, literals, joint))
        if joint == "and":
            self.given.extend(literals)
        self.room -= 1

    def follow(self, said: Rule, to: Literal) -> None:
        """Use a rule, which leads to a new literal."""
        self.needed.append(english.rule(self.rng, said))
        if len(said.body) == len(said.head) == 1 and not said.both_ways:
            self.rules.append(said)
        self.at = to

    @property
    def named(self) -> bool:
        return self.subject != ANY


Hop = Callable[[Derivation], bool]
"""Adds one hop to a chain; False, with nothing changed, if it does not fit."""


def plain(chain: Derivation) -> bool:
    if not english.speakable(chain.at):
        return False
    to = chain.conclusion()
    chain.follow(Rule((chain.general(chain.at),), (chain.general(to),)), to)
    return True


def needs_more(chain: Derivation) -> bool:
    """A conjunction in the body, its other parts given as facts."""
    if not (chain.named and chain.room and english.speakable(chain.at)):
        return False
    count = 2 if chain.room > 1 and chain.rng.random() < 0.2 else 1
    sides = [chain.trait(0.8) for _ in range(count)]
    to = chain.conclusion()
    if count == 2 and chain.rng.random() < 0.7:
        chain.give(*sides)
    else:
        for side in sides:
            chain.give(side)
    body = tuple(chain.general(one) for one in (chain.at, *sides))
    chain.follow(Rule(body, (chain.general(to),)), to)
    return True


def either_will_do(chain: Derivation) -> bool:
    """A disjunction in the body."""
    if not english.speakable(chain.at):
        return False
    to, other = chain.conclusion(), chain.trait(0.9)
    body = (chain.general(chain.at), chain.general(other))
    chain.follow(Rule(body, (chain.general(to),), body_joint="or"), to)
    return True


def gives_both(chain: Derivation) -> bool:
    """A conjunction in the head."""
    if not english.speakable(chain.at):
        return False
    to, other = chain.conclusion(), chain.trait()
    head = (chain.general(to), chain.general(other))
    chain.follow(Rule((chain.general(chain.at),), head), to)
    return True


def one_remains(chain: Derivation) -> bool:
    """A disjunction or exclusive or in the head, the other side of it settled by a fact."""
    if not (chain.named and chain.room and english.speakable(chain.at)):
        return False
    exclusive = chain.rng.random() < 0.5
    to, other = chain.conclusion(0.9), chain.trait(0.9)
    head = (chain.general(to), chain.general(other))
    holds = exclusive and chain.rng.random() < 0.5
    chain.give(other if holds else ~other)
    joint = "xor" if exclusive else "or"
    chain.follow(Rule((chain.general(chain.at),), head, head_joint=joint), ~to if holds else to)
    return True


def backwards(chain: Derivation) -> bool:
    """Modus tollens: the rule's head fails, so its body does."""
    if chain.at.is_relation:
        return False
    to = chain.conclusion()
    chain.follow(Rule((chain.general(~to),), (chain.general(~chain.at),)), to)
    return True


def just_when(chain: Derivation) -> bool:
    if not english.speakable(chain.at):
        return False
    to = chain.conclusion()
    sides = [(chain.general(chain.at),), (chain.general(to),)]
    chain.rng.shuffle(sides)
    chain.follow(Rule(sides[0], sides[1], both_ways=True), to)
    return True


def to_relation(chain: Derivation) -> bool:
    """ "Every cat likes Anne." """
    if not english.speakable(chain.at) or (chain.ending and not chain.named):
        return False
    positive = not chain.ending or chain.rng.random() < 0.5
    to = Literal(chain.words.verb(), (chain.subject, chain.words.name()), positive)
    chain.follow(Rule((chain.general(chain.at),), (chain.general(to),)), to)
    return True


def is_object(chain: Derivation) -> bool:
    """ "Bob likes everything that is red." Bob becomes the subject."""
    if not chain.named or chain.at.is_relation:
        return False
    admirer, verb = chain.words.name(), chain.words.verb()
    head = Literal(verb, (admirer, ANY))
    chain.follow(Rule((chain.general(chain.at),), (head,)), Literal(verb, (admirer, chain.subject)))
    chain.subject = admirer
    return True


def of_object(chain: Derivation) -> bool:
    """ "Everything that Bob likes is red.": from "Bob likes Anne" to Anne."""
    at = chain.at
    if not (at.is_relation and at.positive and chain.named):
        return False
    chain.subject = at.terms[1]
    to = chain.conclusion()
    chain.follow(Rule((Literal(at.word, (at.terms[0], ANY)),), (chain.general(to),)), to)
    return True


def returned(chain: Derivation) -> bool:
    """A symmetric relation: from "Bob likes Anne" to "Anne likes Bob"."""
    at = chain.at
    if not (at.is_relation and at.positive and chain.named):
        return False
    chain.needed.append(english.mutual(at.word))
    chain.at = replace(at, terms=at.terms[::-1])
    chain.subject = chain.at.subject
    return True


def relates_at_all(chain: Derivation) -> bool:
    """ "Everything that likes something is red." """
    if not (chain.at.is_relation and chain.at.positive):
        return False
    to = chain.conclusion()
    head = chain.general(to)
    chain.needed.append(english.relates_to_something(chain.rng, chain.at.word, head))
    chain.at = to
    return True


def to_another(chain: Derivation) -> bool:
    """A conditional about names: "If Bob is cold and Bob likes Anne then Carl is kind." """
    if not (chain.named and english.speakable(chain.at)):
        return False
    body = [chain.at]
    if chain.room and chain.rng.random() < 0.3:
        side = chain.trait(0.8)
        chain.give(side)
        body.append(side)
    chain.subject = chain.words.name()
    to = chain.conclusion()
    chain.needed.append(english.conditional(chain.rng, body, to))
    chain.at = to
    return True


def if_some(chain: Derivation) -> bool:
    """ "If some cat is red then Carl is kind.", where the subject is a red cat."""
    if not (chain.named and chain.room and english.speakable(chain.at)):
        return False
    noun = Literal(chain.words.word(WordKind.NOUN), (chain.subject,))
    chain.give(noun)
    at = chain.at
    chain.subject = chain.words.name()
    to = chain.conclusion()
    chain.needed.append(english.existential_conditional(chain.rng, noun.about(ANY), at.about(ANY), to))
    chain.at = to
    return True


PROPERTY_HOPS: dict[Hop, float] = {
    plain: 5, needs_more: 4, either_will_do: 1.5, gives_both: 1, one_remains: 3, backwards: 1.5,
    just_when: 0.7, to_relation: 2.5, is_object: 0.8, to_another: 1, if_some: 0.6,
}  # fmt: skip
"""Hops from a property, with how often each is tried."""
RELATION_HOPS: dict[Hop, float] = {
    plain: 2, needs_more: 1, of_object: 2, returned: 0.5, relates_at_all: 1.5, either_will_do: 0.5,
    to_another: 0.7, one_remains: 0.5,
}  # fmt: skip
"""Hops from a relation."""


def advance(chain: Derivation, hops: int) -> None:
    for left in range(hops, 0, -1):
        chain.ending = left == 1
        choice = RELATION_HOPS if chain.at.is_relation else PROPERTY_HOPS
        while not chain.rng.choices(list(choice), list(choice.values()))[0](chain):
            pass


def named_base(rng: Random, words: Lexicon, room: int) -> Derivation:
    """A chain that starts from facts about a name."""
    name = words.name()
    if rng.random() < 0.22:
        start = Literal(words.verb(), (name, words.name()))
    else:
        start = Literal(words.trait(), (name,), rng.random() < 0.88)
    chain = Derivation(rng, words, name, start, room)
    draw = rng.random()
    if draw < 0.14 and room and not start.is_relation:
        other = chain.trait()
        exclusive = rng.random() < 0.6
        holds = exclusive and rng.random() < 0.5
        if holds:
            chain.at = ~start
        chain.give(start, other, joint="xor" if exclusive else "or")
        chain.give(other if holds else ~other)
        chain.room += 1
        return chain
    chain.give(*([start, chain.trait(0.8)] if draw < 0.3 else [start]))
    chain.room += 1
    return chain


def unnamed_base(rng: Random, words: Lexicon, room: int) -> tuple[Derivation, Literal]:
    """A chain about any thing of a sort, and that sort."""
    kind = WordKind.NOUN if rng.random() < 0.75 else WordKind.ADJECTIVE
    sort = Literal(words.word(kind), (ANY,))
    return Derivation(rng, words, ANY, sort, room, given=[sort]), sort
