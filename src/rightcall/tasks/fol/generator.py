"""Theories with a question whose answer is proved, not assumed.

A theory starts as a chain of reasoning: a base (what is given about one thing) and one hop after
another, each a rule with the side facts it needs. The goal asks about the chain's end. For
"Unknown" the chain is broken: a needed sentence is missing, reversed, or about somebody else.
Distracting facts and rules fill up. The provers then have the last word: a theory whose intended
label is not proved, or that contradicts itself, is thrown away and the next attempt is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from rightcall.chain import Problem, digest, seed_of
from rightcall.errors import ConfigError
from rightcall.tasks.fol import english, prover
from rightcall.tasks.fol.derivation import Derivation, advance, named_base, unnamed_base
from rightcall.tasks.fol.english import ANY, Literal, Rule, Sentence
from rightcall.tasks.fol.formula import Formula, Not, to_text
from rightcall.tasks.fol.words import Lexicon

LABELS = ("True", "False", "Unknown")
SPLITS = ("train", "validation", "test")
MADE_UP_SHARE = 0.3
"""Share of problems whose predicates (and, half of the time, names) are invented, by default."""
MIN_SENTENCES = 3
MAX_ATTEMPTS = 500


@dataclass(frozen=True)
class Size:
    """How large a theory may be, and out of how many words it is made."""

    hops: tuple[int, int] = (1, 5)
    """Fewest and most rule applications from what is given to the goal. A chain of n hops needs at
    least n + 1 sentences: hops that do not fit `max_sentences` are left out."""
    max_sentences: int = 12
    """The goal not counted; there are at least `MIN_SENTENCES`."""
    words: int | None = None
    """Words of each kind in use; None for all of them."""
    made_up: float = MADE_UP_SHARE
    """Share of theories whose predicates are invented words."""

    def __post_init__(self) -> None:
        fewest, most = self.hops
        if not 1 <= fewest <= most <= 5:
            raise ConfigError("hops lie between 1 and 5, the fewest first", value=self.hops)
        if self.words is not None and self.words < 20:
            raise ConfigError("a theory needs at least 20 words of each kind", value=self.words)
        if not 0 <= self.made_up <= 1:
            raise ConfigError("a share lies between 0 and 1", value=self.made_up)
        if self.max_sentences < max(MIN_SENTENCES, fewest + 1):
            raise ConfigError(
                "too few sentences", value=self.max_sentences,
                remedy=f"{fewest} hops need at least {max(MIN_SENTENCES, fewest + 1)}.",
            )  # fmt: skip

    @property
    def hop_counts(self) -> range:
        return range(self.hops[0], min(self.hops[1], self.max_sentences - 1) + 1)


@dataclass(frozen=True)
class Theory:
    """Sentences in the order of the text, and the goal."""

    sentences: tuple[Sentence, ...]
    goal: Sentence
    hops: int
    made_up: bool

    @property
    def question(self) -> str:
        return question_of([sentence.text for sentence in self.sentences], self.goal.text)

    @property
    def formulas(self) -> tuple[Formula, ...]:
        return tuple(sentence.formula for sentence in self.sentences)

    @property
    def key(self) -> str:
        return theory_key([sentence.text for sentence in self.sentences], self.goal.text)

    @property
    def is_fair(self) -> bool:
        """The premises mention every predicate and name of the goal: what they do not mention would
        be unknown at a glance."""
        return self.goal.symbols <= _symbols(self.sentences)

    @property
    def split(self) -> str:
        """A theory belongs to one split by its text alone, so splits cannot share one."""
        return SPLITS[int(self.key, 16) % len(SPLITS)]


ASKED = "True, false or unknown: "


def question_of(sentences: Sequence[str], statement: str) -> str:
    """What the model reads: the sentences, and the statement on a line of its own."""
    return f"{' '.join(sentences)}\n{ASKED}{statement}"


def theory_key(sentences: Sequence[str], statement: str) -> str:
    """The same for two theories with the same sentences in another order."""
    return digest(sorted(sentence.lower() for sentence in sentences), statement.lower())


# --- goals ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draft:
    """A chain's sentences with a goal that they settle as `True` or `False`."""

    chain: Derivation
    goal: Sentence


def _literal_goal(rng: Random, end: Literal, holds: bool) -> Sentence:
    return english.fact(rng, [end if holds else ~end])


def _compound_goal(rng: Random, end: Literal, known: Literal, holds: bool) -> Sentence:
    """A conjunction, disjunction or exclusive or of the chain's end with a known literal."""
    joint = rng.choice(["and", "or", "xor"])
    said = {
        ("and", True): (end, known), ("and", False): (~end, known),
        ("or", True): (end, ~known), ("or", False): (~end, ~known),
        ("xor", True): (end, ~known), ("xor", False): (end, known),
    }[joint, holds]  # fmt: skip
    if not all(english.speakable(one) for one in said):
        return _literal_goal(rng, end, holds)
    return english.fact(rng, rng.sample(said, 2), joint)


def _sort_goal(rng: Random, sort: Literal, end: Literal, holds: bool, universal: bool) -> Sentence:
    """ "Every cat is red." or "Some cat is red.", whichever the chain settles as wanted.

    A chain about every cat proves universal goals and refutes existential ones; a chain about one
    cat does the reverse.
    """
    sort, end = sort.about(ANY), end.about(ANY)
    if universal == holds:
        return english.rule(rng, Rule((sort,), (end if universal else ~end,)))
    return english.existential(rng, [sort, ~end if universal else end])


def _named_draft(rng: Random, words: Lexicon, hops: int, room: int, holds: bool) -> Draft:
    chain = named_base(rng, words, room)
    advance(chain, hops)
    end = chain.at
    known = [g for g in chain.given if g.subject == end.subject and not g.is_relation]
    if known and rng.random() < 0.35 and not (end.is_relation and not end.positive):
        side = rng.choice(known)
        if side.positive and rng.random() < 0.5:
            goal = _sort_goal(rng, side, end, holds, universal=False)
        else:
            goal = _compound_goal(rng, end, side, holds)
        if end.is_relation:
            goal = _literal_goal(rng, end, holds)
    else:
        goal = _literal_goal(rng, end, holds)
    return Draft(chain, goal)


def _sort_draft(rng: Random, words: Lexicon, hops: int, room: int, holds: bool) -> Draft:
    """A chain about every thing of a sort, or about one that is only said to exist."""
    chain, sort = unnamed_base(rng, words, room)
    universal = rng.random() < 0.5
    if not universal:
        chain.at = chain.trait(0.9)
        chain.needed.append(english.existential(rng, [sort, chain.at]))
    advance(chain, hops)
    return Draft(chain, _sort_goal(rng, sort, chain.at, holds, universal))


# --- breaking a chain, filling up -------------------------------------------------------------------


def _broken(rng: Random, words: Lexicon, chain: Derivation) -> list[Sentence]:
    """The needed sentences with one of them reversed, about somebody else, or left out."""
    sentences = list(chain.needed)
    draw = rng.random()
    reversible = [said for said in chain.rules if all(english.speakable(one) for one in said.head)]
    if reversible and draw < 0.35:
        said = rng.choice(reversible)
        place = next(i for i, s in enumerate(sentences) if s.formula == said.formula)
        sentences[place] = english.rule(rng, Rule(said.head, said.body))
    elif chain.facts and draw < 0.6:
        stated, literals, joint = rng.choice(chain.facts)
        name = words.name()
        others = [one.about(name) for one in literals]
        sentences[sentences.index(stated)] = english.fact(rng, others, joint)
    else:
        sentences.remove(rng.choice(sentences))
    return sentences


@dataclass(frozen=True)
class Distractors:
    """Sentences around a theory's own words that do not bear on its goal.

    Facts bring new names or new properties; a rule has a condition that nothing meets or a
    conclusion that nothing uses, often next to a word of the theory, so that it seems to matter.
    """

    rng: Random
    words: Lexicon
    mentioned: tuple[Literal, ...]
    """Properties that the theory is about."""
    names: tuple[str, ...]

    def sentence(self) -> Sentence:
        kinds: dict[Callable[[], Sentence], float] = {
            self._fact: 3, self._same_of_another: 1.5, self._relation: 1, self._existential: 0.8,
            self._pair: 1, self._idle_rule: 2, self._blocked_rule: 1.5, self._unmet_rule: 1,
        }  # fmt: skip
        return self.rng.choices(list(kinds), list(kinds.values()))[0]()

    def unmet_rule(self, head: Literal) -> Sentence:
        """A rule to this conclusion, from a condition that nothing meets."""
        return english.rule(self.rng, Rule((self._fresh(),), (head.about(ANY),)))

    def fact_about(self, name: str) -> Sentence:
        return english.fact(self.rng, [self._fresh(name)])

    def _fresh(self, about: str = ANY, positive: float = 0.85) -> Literal:
        return Literal(self.words.trait(), (about,), self.rng.random() < positive)

    def _theirs(self) -> Literal:
        return self.rng.choice(self.mentioned).about(ANY) if self.mentioned else self._fresh()

    def _name(self) -> str:
        return self.rng.choice([*self.names, self.words.name()])

    def _fact(self) -> Sentence:
        return self.fact_about(self._name())

    def _same_of_another(self) -> Sentence:
        return english.fact(self.rng, [self._theirs().about(self.words.name())])

    def _relation(self) -> Sentence:
        pair = self.rng.sample([self._name(), self.words.name()], 2)
        return english.fact(self.rng, [Literal(self.words.verb(), tuple(pair))])

    def _existential(self) -> Sentence:
        return english.existential(self.rng, [self._fresh(), self._fresh()])

    def _pair(self) -> Sentence:
        name = self._name()
        joint = self.rng.choice(["or", "xor", "and"])
        return english.fact(self.rng, [self._fresh(name), self._fresh(name)], joint)

    def _idle_rule(self) -> Sentence:
        return english.rule(self.rng, Rule((self._theirs(),), (self._fresh(),)))

    def _blocked_rule(self) -> Sentence:
        return english.rule(self.rng, Rule((self._theirs(), self._fresh()), (self._fresh(),)))

    def _unmet_rule(self) -> Sentence:
        return self.unmet_rule(self._theirs())


def _filled(
    rng: Random, words: Lexicon, draft: Draft, sentences: list[Sentence], count: int
) -> tuple[Sentence, ...]:
    """With distractors up to `count` sentences, shuffled. What the goal speaks of and nothing
    mentions any more is mentioned by the first of them: its absence would give the answer away."""
    chain = draft.chain
    literals = [*chain.given, chain.at]
    properties = tuple(one for one in literals if not one.is_relation)
    names = tuple(sorted({t for one in literals for t in one.terms if t != ANY}))
    distractors = Distractors(rng, words, properties, names)
    filled = list(sentences)
    absent = draft.goal.symbols - _symbols(filled)
    filled += [distractors.unmet_rule(one) for one in literals if one.word.text in absent]
    absent = draft.goal.symbols - _symbols(filled)
    filled += [distractors.fact_about(name) for name in names if name in absent]
    while len(filled) < count:
        filled.append(distractors.sentence())
    rng.shuffle(filled)
    return tuple(filled)


def _symbols(sentences: Sequence[Sentence]) -> frozenset[str]:
    return frozenset().union(*(sentence.symbols for sentence in sentences))


def theory(rng: Random, hops: int, label: str, size: Size = Size()) -> Theory:
    """A theory meant to have this label; nothing is proved yet."""
    made_up = rng.random() < size.made_up
    words = Lexicon(rng, made_up, size.words)
    room = min(3, size.max_sentences - hops - 1)
    holds = rng.random() < 0.5 if label == "Unknown" else label == "True"
    make = _named_draft if rng.random() < 0.82 else _sort_draft
    draft = make(rng, words, hops, room, holds)
    needed = len(draft.chain.needed)
    sentences = list(draft.chain.needed)
    if label == "Unknown":
        sentences = _broken(rng, words, draft.chain)
    count = min(size.max_sentences, max(MIN_SENTENCES, needed + rng.choice((0, 1, 2, 2, 3))))
    filled = _filled(rng, words, draft, sentences, count)
    return Theory(filled, draft.goal, hops, made_up)


# --- problems ---------------------------------------------------------------------------------------


def cell(split: str, seed: int, index: int, size: Size = Size()) -> tuple[int, str]:
    """The hops and label of the problem at an index: every block of consecutive problems holds
    each combination once, in an order of its own."""
    cells = [(hops, label) for hops in size.hop_counts for label in LABELS]
    block, place = divmod(index, len(cells))
    Random(seed_of("fol", "order", split, seed, block)).shuffle(cells)
    return cells[place]


def generate(
    seed: int,
    split: str,
    index: int,
    *,
    size: Size = Size(),
    provers: int = 2,
    taken: frozenset[str] | set[str] = frozenset(),
) -> Problem:
    """The problem at an index of a split: the same arguments give the same problem.

    `provers=2` has the label proved by Z3 and by cvc5, `provers=1` by Z3 alone (faster; for large
    corpora), `provers=0` leaves it as constructed, unproved (fewer than 1% are then wrong). `taken`
    holds keys of theories that must not come again.
    """
    hops, label = cell(split, seed, index, size)
    for attempt in range(MAX_ATTEMPTS):
        rng = Random(seed_of("fol", split, seed, index, attempt))
        made = theory(rng, hops, label, size)
        if made.split != split or made.key in taken or not made.is_fair:
            continue
        if len(made.sentences) <= size.max_sentences and proved(made, label, provers):
            return problem(made, label, f"{split}-{seed}-{index}-{made.key[:6]}")
    raise ConfigError(
        f"no theory in {MAX_ATTEMPTS} attempts",
        value=(hops, label, size),
        remedy="Ask for fewer problems, or for larger theories.",
    )


def problems(
    seed: int, split: str, count: int, *, size: Size = Size(), provers: int = 2
) -> Iterator[Problem]:
    """The first `count` problems of a split, no two with the same sentences and goal."""
    taken: set[str] = set()
    for index in range(count):
        made = generate(seed, split, index, size=size, provers=provers, taken=taken)
        taken.add(made.metadata["theory"])
        yield made


_HOLDS_AND_FAILS = {"True": (True, False), "False": (False, True), "Unknown": (True, True)}
"""Label → whether the goal can hold, and whether it can fail, where the premises do."""


def proved(made: Theory, label: str, provers: int) -> bool:
    """Whether as many provers as asked for give the label (and find the premises consistent)."""
    goal = made.goal.formula
    if provers > 0:
        claims = zip((goal, Not(goal)), _HOLDS_AND_FAILS[label], strict=True)
        if any(prover.consistent((*made.formulas, one)) is not can for one, can in claims):
            return False
    if provers > 1:
        from rightcall.tasks.fol import second_prover  # cvc5 is loaded only where it is asked

        return second_prover.decide(made.formulas, goal) is _VERDICTS[label]
    return True


_VERDICTS = {
    "True": prover.Verdict.ENTAILED,
    "False": prover.Verdict.CONTRADICTED,
    "Unknown": prover.Verdict.UNDECIDED,
}


def problem(made: Theory, label: str, name: str) -> Problem:
    """The theory as a problem with its gold chain."""
    premises = [to_text(formula) for formula in made.formulas]
    goal = to_text(made.goal.formula)
    calls = [f'premise("{text}")' for text in premises]
    constructs = sorted({c for s in (*made.sentences, made.goal) for c in s.constructs})
    return Problem(
        id=name, question=made.question, answer=label,
        gold=(*calls, f'goal("{goal}")', f'stop("{label}")'),
        difficulty=made.hops,
        metadata={
            "premises": premises, "goal": goal, "hops": made.hops, "constructs": constructs,
            "made_up_words": made.made_up, "theory": made.key,
        },
    )  # fmt: skip
