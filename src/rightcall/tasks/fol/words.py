"""The vocabulary of generated theories: real words, and made-up ones that nobody has seen.

A word is written in a formula exactly as it stands in the text, so that a model can copy it:
adjectives and singular nouns stay as they are, verbs keep the third person ("likes").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words("""
    able active agile alert amber ancient angry anxious awake aware bald bent big bitter black
    bland blue blunt bold bored brave brief bright brisk broad brown busy calm careful cheap cheerful
    chilly civil clean clear clever cloudy clumsy cold compact cool crisp cruel curious curly cute damp
    dark deep dense dizzy drowsy dry dull dusty eager early elegant empty fair faint famous fancy fast
    fierce firm flat fluffy fond foolish fragile frail free fresh friendly full funny furry gentle
    giant glad gloomy golden good grand gray green grim grumpy happy hard harsh healthy heavy helpful
    hidden hollow honest hot huge humble hungry icy idle jealous jolly keen kind large late lazy lean
    light little lively lonely long loud loyal lucky mean mellow messy mild modest moist moody muddy
    narrow nasty neat nervous new nice noble noisy numb odd old open pale patient pink plain playful
    pleasant polite poor proud pure purple quick quiet rare raw red rich ripe rough round royal rude
    rusty sad safe salty scared shallow sharp shiny short shy silent silly simple sleepy slim slow
    small smart smooth sober soft solid sour spicy steep stiff still strange strict strong stubborn
    sturdy sweet swift tall tame tender thick thin thirsty tidy timid tiny tired tough vague vast warm
    wary weak wealthy weary weird wet white wide wild wise witty yellow young
""")
NOUNS = _words("""
    actor ant apple artist badger baker banker bat bear beaver bee beetle bird book bottle box boy
    camel carrot cat chef clerk cow crab crow dancer deer dentist doctor dog dolphin donkey dragon
    driver duck eagle elephant falcon farmer ferret fish flower fox frog gardener girl goat goose guard
    hamster hawk hedgehog heron horse hunter insect judge kitten lamb lawyer lemon lion lizard lynx
    mammal miner monkey mouse musician nurse orchid otter owl painter parrot penguin pilot pirate plant
    player plum poet puppy queen rabbit raven reptile robot rose sailor scholar seal shark sheep singer
    snail snake soldier spider squirrel stone student swan teacher tiger toad toy tree tulip turtle
    vehicle walrus weaver whale whistle wizard wolf worm writer zebra
""")
VERBS = _words("""
    admires amuses avoids blames calls chases comforts copies defends envies fears feeds follows
    forgives greets guards helps hates heals hears hires ignores invites judges knows leads likes loves
    mentors misses needs observes obeys paints pities praises protects pushes remembers respects saves
    scares sees serves supports teaches thanks tolerates trusts visits wants warns watches
""")
NAMES = _words("""
    Aaron Abby Adam Alan Alice Amir Amy Andrew Anne Arthur Basil Ben Bella Beth Bob Boris Bruno Carl
    Carla Cecil Charlie Chloe Clara Colin Dana Dave David Diana Dina Dora Edgar Elena Ella Emma Eric
    Erin Ethan Eva Felix Fiona Frank Fred Gary George Gina Grace Greta Hana Harry Hector Helen Henry
    Hugo Ian Igor Ines Iris Ivan Jack Jacob James Jane Jill Joan John Julia Karen Karl Kate Kevin Kim
    Lara Laura Leo Liam Lily Linda Lisa Lucas Lucy Luke Marco Maria Mark Mary Max Maya Mia Mike Mona
    Nadia Nina Nora Oleg Oliver Olga Omar Oscar Paul Peter Petra Quinn Rachel Ralph Rita Robin Rosa
    Ruth Sally Sam Sara Simon Sofia Susan Tara Ted Tina Tom Uma Vera Victor Wanda Wendy Will Yara
    Zoe
""")

_ONSETS = ["b", "br", "c", "d", "dr", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl", "r",
           "s", "st", "t", "tr", "v", "w", "y", "z", ""]  # fmt: skip
_VOWELS = ["a", "e", "i", "o", "u", "oo", "ea", "ai"]
_SECOND_ONSETS = ["b", "bl", "br", "d", "dr", "fl", "l", "m", "n", "pl", "pr", "st", "tr", "v", "z"]
_CODAS = ["", "", "l", "m", "n", "p", "r", "x", "mp", "nt", "rk", "b", "st"]
_ENDINGS = {
    "adjective": ["y", "ish", "ous", "ent"],
    "noun": ["us", "le", "er", "in", "ot", "a"],
    "verb": ["s", "les", "es", "ates"],
    "name": ["a", "o", "in", "el", "us", "y"],
}
_TAKEN = frozenset(
    _words("""
    a all an and any anyone anything as at be but by each either every everyone everything exists
    false first for forall goal if iff implies in is it known no not nothing of on only or premise
    second some someone something stop than that the then there they thing things true unknown
    whatever with xor""")
) | frozenset(ADJECTIVES + NOUNS + VERBS)


class WordKind(StrEnum):
    ADJECTIVE = "adjective"
    NOUN = "noun"
    VERB = "verb"


@dataclass(frozen=True)
class Word:
    """A predicate as the text spells it; a verb relates two things, the others describe one."""

    text: str
    kind: WordKind


def invented(rng: Random, kind: str) -> str:
    """A pronounceable word that is in no vocabulary, e.g. "dromplish"; names are capitalised.

    `kind` is "adjective", "noun", "verb" or "name".
    """
    while True:
        first = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(("", "", "l", "m", "n", "r"))
        second = rng.choice(_SECOND_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        word = first + second + rng.choice(_ENDINGS[kind])
        if 6 <= len(word) <= 10 and word not in _TAKEN:
            return word.capitalize() if kind == "name" else word


@cache
def _some(stock: tuple[str, ...], count: int | None) -> tuple[str, ...]:
    """`count` words spread evenly over a stock; all of them for None."""
    if count is None or count >= len(stock):
        return stock
    return tuple(stock[i * len(stock) // count] for i in range(count))


class NoWordLeft(Exception):
    """A theory needs more words of a kind than there are."""


class Lexicon:
    """Hands out the words of one theory, none of them twice.

    With `made_up` every predicate is invented, and half of the time the names are too. `words`
    bounds the stock of each kind; `taken` are words that are not handed out. Raises `NoWordLeft` where
    the stock is used up.
    """

    def __init__(
        self, rng: Random, made_up: bool, words: int | None = None, taken: Iterable[str] = ()
    ) -> None:
        self._rng = rng
        self._words = words
        self._made_up = made_up
        self._made_up_names = made_up and rng.random() < 0.5
        self._used = {word.lower() for word in taken}

    def word(self, kind: WordKind) -> Word:
        stock = {WordKind.ADJECTIVE: ADJECTIVES, WordKind.NOUN: NOUNS, WordKind.VERB: VERBS}[kind]
        return Word(self._fresh(kind.value, stock, self._made_up), kind)

    def trait(self) -> Word:
        """An adjective, or less often a noun."""
        return self.word(WordKind.ADJECTIVE if self._rng.random() < 0.72 else WordKind.NOUN)

    def verb(self) -> Word:
        return self.word(WordKind.VERB)

    def name(self) -> str:
        return self._fresh("name", NAMES, self._made_up_names)

    def _fresh(self, kind: str, stock: tuple[str, ...], made_up: bool) -> str:
        known = _some(stock, self._words)
        if not made_up and all(word.lower() in self._used for word in known):
            raise NoWordLeft(kind)
        while True:
            word = invented(self._rng, kind) if made_up else self._rng.choice(known)
            if word.lower() not in self._used:
                self._used.add(word.lower())
                return word
