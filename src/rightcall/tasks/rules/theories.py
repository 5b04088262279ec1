"""Theories of facts and rules, sentence by sentence with their formulas, out of words of our own:
`Traits` (people or things with traits, which may like and see each other) and `Kinds` (a taxonomy with
exceptions). Nouns, verbs and adjectives are ordinary words or invented ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from rightcall.tasks.fol.formula import (
    Atom,
    Constant,
    ForAll,
    Formula,
    Implies,
    Not,
    Term,
    Variable,
    conjunction,
    negated,
)
from rightcall.tasks.fol.words import Lexicon, WordKind
from rightcall.tasks.rules.chaining import Literal
from rightcall.tasks.rules.english import X, is_singular, singular, third_person

KINDS = ("traits", "relations", "kinds")


@dataclass(frozen=True)
class Size:
    """What theories are drawn from."""

    sentences: tuple[int, int] = (5, 22)
    """Fewest and most."""
    made_up: float = 0.4
    """Share of theories with invented words."""
    kinds: tuple[str, ...] = KINDS


@dataclass(frozen=True)
class Told:
    """A sentence and its formula."""

    text: str
    formula: Formula


# --- words --------------------------------------------------------------------------------------


def plural(noun: str) -> str:
    """
    >>> [plural(noun) for noun in ("cat", "butterfly", "wumpus", "sheep")]
    ['cats', 'butterflies', 'wumpuses', 'sheep']
    """
    if noun.split()[-1] in UNCHANGED:
        return noun
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else noun + "s"


def plain_form(verb: str) -> str:
    """
    >>> [plain_form(verb) for verb in ("likes", "chases", "pities", "watches")]
    ['like', 'chase', 'pity', 'watch']
    """
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    return verb[:-2] if verb.endswith(("ches", "shes", "xes", "sses", "zzes")) else verb[:-1]


def with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


_ONSETS = (
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p ph pl pr qu r s sh sk sl sn sp st t th tr v"
    " w x y z"
)
_CODAS = (
    "b bb ck d dd f ff g gg k l ll lt m mm mp n nd ng nk nn nt p pp r rb rk rm rn rr rt s sk ss st t th"
    " tt x z zz"
)
_VOWELS = "a e i o u a e i o u ai ea ee ia io oa oo ou y"
_ENDINGS = (
    "able al an ant ar ate ed el en er est et ia ic id in ine ing is ish ite ium le o on or ous um us y"
)
_SYLLABLES = (1, 1, 2, 2, 2, 3, 3, 4, 5)


def invented(rng: Random) -> str:
    """A pronounceable word of 3 to 14 letters, of more shapes than `rightcall.tasks.fol.words` makes:
    what is to be learned is to copy any word."""
    onsets, codas, vowels, endings = (text.split() for text in (_ONSETS, _CODAS, _VOWELS, _ENDINGS))
    while True:
        parts: list[str] = []
        for _ in range(rng.choice(_SYLLABLES)):
            onset = rng.choice(onsets) if parts or rng.random() < 0.85 else ""
            vowel = rng.choice(vowels)
            parts.append(onset + vowel + (rng.choice(codas) if rng.random() < 0.4 else ""))
        if rng.random() < 0.2:
            parts.append(rng.choice(parts))
        word = "".join(parts) + (rng.choice(endings) if rng.random() < 0.4 else "")
        if 3 <= len(word) <= 14 and word not in _RESERVED:
            return word


_RESERVED = frozenset(
    "all and are does each every exists false for forall goal iff implies not people premise some"
    " someone something statement stop the then they thing things true unknown xor".split()
)


class Words:
    """The words of one theory, each of them once; with `made_up` most are invented, otherwise few."""

    def __init__(self, rng: Random, made_up: bool) -> None:
        self._rng = rng
        self._lexicon = Lexicon(rng, made_up=False)
        self._invented = 0.9 if made_up else 0.1
        self._used: set[str] = set()

    def _fresh(self, known: Callable[[], str], fits: Callable[[str], bool] = lambda word: True) -> str:
        while True:
            word = invented(self._rng) if self._rng.random() < self._invented else known()
            if fits(word) and word.lower() not in self._used:
                self._used.add(word.lower())
                return word

    def adjective(self) -> str:
        """Now and then one of two parts: "six-legged"."""
        word = self._fresh(lambda: self._lexicon.word(WordKind.ADJECTIVE).text, is_no_plural)
        return f"{word}-{self._stem()}ed" if self._rng.random() < 0.08 else word

    def noun(self, regular: bool = True) -> str:
        """One whose plural says its singular, unless any will do; now and then of two words: "real
        number"."""
        word = self._fresh(
            lambda: self._lexicon.word(WordKind.NOUN).text,
            lambda word: not regular or (singular(plural(word)) == word and word not in _IRREGULAR),
        )
        if regular and self._rng.random() < 0.06 and (left := set(UNCHANGED) - self._used):
            word = self._rng.choice(sorted(left))
            self._used.add(word)
        if self._rng.random() < 0.35:
            return f"{self._fresh(lambda: self._lexicon.word(WordKind.ADJECTIVE).text)} {word}"
        return word

    def _stem(self) -> str:
        return self._fresh(lambda: self._lexicon.word(WordKind.NOUN).text)

    def verb(self) -> tuple[str, str]:
        """Third person and plain form."""
        plain = self._fresh(lambda: plain_form(self._lexicon.verb().text))
        return third_person(plain), plain

    def name(self) -> str:
        if self._rng.random() < 0.12:
            return _number(self._rng)
        return self._fresh(self._lexicon.name).capitalize()


UNCHANGED = "bison cod deer elk fish moose salmon sheep shrimp squid swine trout".split()
"""Nouns whose plural is the singular."""
_IRREGULAR = ("wolf",)


def _number(rng: Random) -> str:
    """A number's name: of up to six digits, often the same ones again."""
    digits = rng.sample("0123456789", rng.randint(2, 10))
    first = rng.choice([digit for digit in digits if digit != "0"])
    return first + "".join(rng.choice(digits) for _ in range(rng.randint(0, 5)))


def is_no_plural(word: str) -> bool:
    """Whether an adjective cannot be taken for a plural noun."""
    return not word.endswith("s") or is_singular(word)


@dataclass(frozen=True)
class Thing:
    """An individual: a name, or "the cat"."""

    text: str
    term: Constant

    @classmethod
    def named(cls, name: str) -> Thing:
        return cls(name, Constant(name))

    @classmethod
    def the(cls, noun: str) -> Thing:
        return cls(f"the {noun}", Constant(noun.replace(" ", "_")))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _predicate(words: str) -> str:
    return words.replace(" ", "_").lower()


# --- theories of individuals --------------------------------------------------------------------


@dataclass
class Traits:
    """People or things with traits and, in `relations`, what they do to each other."""

    rng: Random
    related: bool
    words: Words
    things: list[Thing] = field(default_factory=list)
    adjectives: list[str] = field(default_factory=list)
    verbs: list[tuple[str, str]] = field(default_factory=list)
    negation: float = 0.0

    @classmethod
    def drawn(cls, rng: Random, related: bool, made_up: bool) -> Traits:
        words = Words(rng, made_up)
        made = cls(rng, related, words)
        animals = related != (rng.random() < 0.15)
        for _ in range(rng.randint(2, 4)):
            made.things.append(
                Thing.the(words.noun(regular=False)) if animals else Thing.named(words.name())
            )
        made.adjectives = [
            words.adjective() for _ in range(rng.randint(3, 5) if related else rng.randint(4, 7))
        ]
        made.verbs = [words.verb() for _ in range(rng.randint(2, 3))] if related else []
        made.negation = rng.choice((0.0, 0.15, 0.3))
        return made

    def _denied(self) -> bool:
        return self.rng.random() < self.negation

    def _said(self, subject: str, term: Term, many: bool, denied: bool) -> tuple[str, Formula]:
        """A clause about a subject; `many` if it takes the plain verb ("they")."""
        if self.verbs and self.rng.random() < 0.5:
            verb, plain = self.rng.choice(self.verbs)
            other = self.rng.choice(self.things)
            atom: Formula = Atom(verb, (term, other.term))
            if denied:
                return f"{subject} {'do' if many else 'does'} not {plain} {other.text}", Not(atom)
            return f"{subject} {plain if many else verb} {other.text}", atom
        adjective = self.rng.choice(self.adjectives)
        atom = Atom(_predicate(adjective), (term,))
        verb = "are" if many else "is"
        return f"{subject} {verb} {'not ' if denied else ''}{adjective}", Not(atom) if denied else atom

    def fact(self) -> Told:
        thing = self.rng.choice(self.things)
        text, formula = self._said(thing.text, thing.term, False, self._denied())
        return Told(_sentence(text), formula)

    def rule(self) -> Told:
        roll = self.rng.random()
        if not self.related and roll < 0.5:
            return self._of_a_kind()
        return self._about_one() if roll > 0.85 else self._if()

    def _of_a_kind(self) -> Told:
        """Red, cold things are nice."""
        listed = self.rng.sample(self.adjectives, self.rng.choice((1, 1, 2, 2, 3)) + 1)
        *conditions, said = listed
        denied = self._denied()
        every = "all " if self.rng.random() < 0.5 else ""
        who = self.rng.choice(("things", "people"))
        text = f"{every}{', '.join(conditions)} {who} are {'not ' if denied else ''}{said}"
        return Told(_sentence(text), _for_all(conditions, said, denied))

    def _if(self) -> Told:
        """If something is cold and it likes the cat then it is nice."""
        who, again = self.rng.choice((("something", "it"), ("someone", "they")))
        many = again == "they"
        conditions: list[Formula] = []
        texts: list[str] = []
        for number in range(self.rng.choice((1, 1, 2, 2, 3))):
            denied = self._denied() and number > 0
            shared = not self.related or (len(texts) == 1 and self._shares(texts[0]))
            subject = again if texts else who
            text, formula = self._condition(subject, number, many, denied, shared)
            if _settled(formula, conditions):
                return self._if()
            texts.append(text)
            conditions.append(formula)
        text, said = self._conclusion(again, many)
        if _settled(said, conditions):
            return self._if()
        made = ForAll("x", Implies(conjunction(conditions), said))
        return Told(_sentence(f"if {' and '.join(texts)} then {text}"), made)

    def _shares(self, first: str) -> bool:
        """Whether the second condition leaves out "it is": "something is cold and not nice"."""
        return first.startswith("some") and " is " in first and self.rng.random() < 0.4

    def _condition(
        self, subject: str, number: int, many: bool, denied: bool, shared: bool
    ) -> tuple[str, Formula]:
        if number and self.related and self.rng.random() < 0.3:
            thing = self.rng.choice(self.things)
            return self._said(thing.text, thing.term, False, denied)
        if number and shared:  # "is cold and not nice"
            adjective = self.rng.choice(self.adjectives)
            atom = Atom(_predicate(adjective), (X,))
            return f"{'not ' if denied else ''}{adjective}", Not(atom) if denied else atom
        return self._said(subject, X, many and number > 0, denied)

    def _conclusion(self, again: str, many: bool) -> tuple[str, Formula]:
        denied = self._denied()
        if self.related and self.rng.random() < 0.3:
            thing = self.rng.choice(self.things)
            return self._said(thing.text, thing.term, False, denied)
        return self._said(again, X, many, denied)

    def _about_one(self) -> Told:
        """If Bob is cold and Bob is nice then Bob is red."""
        thing = self.rng.choice(self.things)
        parts = []
        for _ in range(self.rng.choice((2, 2, 3))):
            one = thing if self.rng.random() < 0.7 else self.rng.choice(self.things)
            parts.append(self._said(one.text, one.term, False, self._denied()))
        *conditions, (text, said) = parts
        if _settled(said, [formula for _, formula in conditions]):
            return self._about_one()
        made = Implies(conjunction([formula for _, formula in conditions]), said)
        return Told(_sentence(f"if {' and '.join(t for t, _ in conditions)} then {text}"), made)

    def theory(self, length: int) -> list[Told]:
        rules = max(1, round(length * self.rng.uniform(0.3, 0.5)))
        facts = _distinct(self.fact, length - rules)
        told = [*facts, *_distinct(self.rule, rules)]
        if self.rng.random() < 0.2:
            self.rng.shuffle(told)
        return told

    def statement(self, literal: Literal) -> str:
        subject, *others = (_text_of(term, self.things) for term in literal.terms)
        if others:
            plain = dict(self.verbs)[literal.predicate]
            middle = literal.predicate if literal.positive else f"does not {plain}"
            return _sentence(f"{subject} {middle} {others[0]}")
        adjective = next(a for a in self.adjectives if _predicate(a) == literal.predicate)
        return _sentence(f"{subject} is {'' if literal.positive else 'not '}{adjective}")

    def literals(self) -> Iterator[Literal]:
        for thing in self.things:
            for adjective in self.adjectives:
                yield Literal(_predicate(adjective), (thing.term,), True)
            for verb, _ in self.verbs:
                yield from (Literal(verb, (thing.term, other.term), True) for other in self.things)


# --- taxonomies ---------------------------------------------------------------------------------


@dataclass
class Kinds:
    """Every wumpus is a vumpus; vumpuses are not cold; Max is a wumpus."""

    rng: Random
    words: Words
    nouns: list[str]
    adjectives: list[str]
    name: Thing
    others: list[Thing] = field(default_factory=list)
    """Whom the question is not about."""

    @classmethod
    def drawn(cls, rng: Random, made_up: bool, length: int) -> Kinds:
        words = Words(rng, made_up)
        nouns = [words.noun() for _ in range(max(2, length * 2 // 3))]
        adjectives = [words.adjective() for _ in range(max(2, length // 2))]
        name, *others = (Thing.named(words.name()) for _ in range(3))
        return cls(rng, words, nouns, adjectives, name, others)

    def _said(self, noun: str, of: str, denied: bool, is_noun: bool) -> Told:
        negation = "not " if denied else ""
        form = self.rng.choice(("each", "every", "many", "many"))
        if form == "many":
            said = plural(of) if is_noun else of
            text = f"{plural(noun)} are {negation}{said}"
        else:
            text = f"{form} {noun} is {negation}{with_article(of) if is_noun else of}"
        return Told(_sentence(text), _for_all([noun], of, denied))

    def theory(self, length: int) -> list[Told]:
        """A chain of kinds, each with a trait or two, and some that are beside the point."""
        start = self.rng.randrange(max(1, len(self.nouns) - 2))
        told: list[Told] = []
        for lower, upper in zip(self.nouns, self.nouns[1:], strict=False):
            told.append(self._said(lower, upper, False, True))
        while len(told) < length - 1:
            if self.others and self.rng.random() < 0.15:
                told.append(self._member(self.rng.choice(self.others), self.rng.choice(self.nouns)))
                continue
            noun, is_noun = self.rng.choice(self.nouns), self.rng.random() < 0.12
            of = self.rng.choice(self.nouns if is_noun else self.adjectives)
            if of != noun:
                told.append(self._said(noun, of, self.rng.random() < 0.45, is_noun))
        member = self._member(self.name, self.nouns[start])
        told = told[: length - 1]
        if self.rng.random() < 0.5:
            self.rng.shuffle(told)
        place = self.rng.choice((0, len(told), len(told)))
        return [*told[:place], member, *told[place:]]

    @staticmethod
    def _member(thing: Thing, noun: str) -> Told:
        said = _sentence(f"{thing.text} is {with_article(noun)}")
        return Told(said, Atom(_predicate(noun), (thing.term,)))

    def statement(self, literal: Literal) -> str:
        words = [*self.nouns, *self.adjectives]
        said = next(word for word in words if _predicate(word) == literal.predicate)
        said = with_article(said) if said in self.nouns else said
        return _sentence(f"{self.name.text} is {'' if literal.positive else 'not '}{said}")

    def literals(self) -> Iterator[Literal]:
        for word in (*self.nouns, *self.adjectives):
            yield Literal(_predicate(word), (self.name.term,), True)


def _for_all(conditions: Sequence[str], said: str, denied: bool) -> Formula:
    head: Formula = Atom(_predicate(said), (X,))
    body = conjunction([Atom(_predicate(name), (X,)) for name in conditions])
    return ForAll("x", Implies(body, Not(head) if denied else head))


def _settled(said: Formula, conditions: Sequence[Formula]) -> bool:
    """Whether a conclusion, or its opposite, is one of the conditions."""
    return said in conditions or negated(said) in conditions


def _distinct(draw: Callable[[], Told], wanted: int) -> list[Told]:
    """So many different sentences; fewer where they run out."""
    made: dict[str, Told] = {}
    for _ in range(20 * wanted):
        if len(made) >= wanted:
            break
        told = draw()
        made.setdefault(told.text, told)
    return list(made.values())


def _text_of(term: Term, things: Sequence[Thing]) -> str:
    assert not isinstance(term, Variable)
    return next(thing.text for thing in things if thing.term == term)
