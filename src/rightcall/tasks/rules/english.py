"""The controlled English of rule theories, read without a model: a sentence → its formula.

Read are the sentences of ProofWriter (Tafjord et al. 2021, arXiv 2012.13048) and PrOntoQA (Saparov and
He 2023, arXiv 2210.01240):

    Bob is not cold.   The bald eagle likes the cat.   Stella is a yumpus.
    Red, cold things are nice.   All quiet people are not smart.   Every prime number is a real number.
    If something likes the cat and it is not red then it does not see the dog.
    If Bob is cold and Bob is nice then Bob is red.

Names follow the text: `cold(Bob)`, `likes(bald_eagle, cat)`, `prime_number(x)`. Nouns are singular,
verbs in the third person, and words of one noun are joined by `_`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rightcall.errors import DataError
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
)

X = Variable("x")
_ANYTHING = ("something", "someone")
_AGAIN = ("it", "they")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its full stop."""
    return [found.strip() for found in re.findall(r"[^.]+\.", text)]


# --- words --------------------------------------------------------------------------------------


def singular(noun: str) -> str:
    """A regular plural's singular: cats, butterflies, wumpuses, boxes, sheep.

    >>> [singular(word) for word in ("numbers", "butterflies", "wumpuses", "boxes", "sheep")]
    ['number', 'butterfly', 'wumpus', 'box', 'sheep']
    """
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if re.search(r"(s|x|z|ch|sh)es$", noun):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not is_singular(noun) else noun


def is_singular(word: str) -> bool:
    """Whether a word in -s is no plural: an adjective such as "nervous", a noun such as "wumpus"."""
    return bool(re.search(r"(us|ss|is)$", word))


def third_person(verb: str) -> str:
    """
    >>> [third_person(verb) for verb in ("like", "chase", "pity", "watch")]
    ['likes', 'chases', 'pities', 'watches']
    """
    if re.search(r"(s|x|z|ch|sh|o)$", verb):
        return verb + "es"
    return re.sub(r"y$", "ie", verb) + "s" if re.search(r"[^aeiou]y$", verb) else verb + "s"


def _joined(words: Sequence[str]) -> str:
    return "_".join(words)


def _noun(words: Sequence[str], plural: bool) -> str:
    """The predicate of a noun of one or more words, of which the last has the plural."""
    *rest, last = words
    return _joined([*rest, singular(last) if plural else last]).lower()


# --- reading ------------------------------------------------------------------------------------


def read(text: str) -> list[Formula]:
    """The formulas of a text's sentences, in order. Raises `DataError` for a sentence of no known
    form."""
    return Reader(sentences(text)).formulas()


@dataclass(frozen=True)
class Reader:
    """Reads the sentences of one text, since what is a noun shows elsewhere in the text."""

    theory: Sequence[str]

    def formulas(self) -> list[Formula]:
        return [self.formula(sentence) for sentence in self.theory]

    def formula(self, sentence: str) -> Formula:
        """Of a sentence of the text, or of a statement about it."""
        text = sentence.strip().rstrip(".")
        try:
            if text.startswith("If "):
                return self._rule(text)
            if (made := self._about_a_kind(text)) is not None:
                return made
            return self._clause(text)
        except (_NoSuchForm, ValueError, IndexError):  # the latter: a clause without words
            raise DataError(
                "a sentence of no known form",
                value=sentence,
                remedy="See rightcall.tasks.rules.english for the forms that are read.",
            ) from None

    def _rule(self, text: str) -> Formula:
        condition, found, conclusion = text.removeprefix("If ").partition(" then ")
        if not found:
            raise _NoSuchForm
        parts = condition.split(" and ")
        clauses: list[Formula] = []
        for part in parts:
            shared = re.fullmatch(r"(not )?([\w-]+)", part)
            clauses.append(self._clause(f"{self._subject(parts[0])} is {part}" if shared else part))
        made = Implies(conjunction(clauses), self._clause(conclusion))
        general = bool(re.search(rf"\b({'|'.join(_ANYTHING)})\b", condition.lower()))
        return ForAll("x", made) if general else made

    @staticmethod
    def _subject(clause: str) -> str:
        """Of a clause with "is" or "are": what comes before."""
        return re.split(r" (?:is|are) ", clause)[0]

    def _clause(self, text: str) -> Formula:
        """A subject and what is said of it."""
        if copula := re.fullmatch(r"(.+?) (?:is|are) (not )?((?:an? )?.+)", text):
            subject, denied, said = copula.groups()
            made: Formula = Atom(self._trait(said), (self._individual(subject),))
            return Not(made) if denied else made
        if denial := re.fullmatch(r"(.+?) (?:does|do) not ([\w-]+) (.+)", text):
            subject, verb, thing = denial.groups()
            terms = self._individual(subject), self._individual(thing)
            return Not(Atom(third_person(verb).lower(), terms))
        relation = re.fullmatch(r"(.+) ([\w-]+) (the .+|[A-Z0-9][\w-]*)", text)
        if relation is None:
            raise _NoSuchForm
        subject, verb, thing = relation.groups()
        verb = third_person(verb) if subject.lower() == "they" else verb
        return Atom(verb.lower(), (self._individual(subject), self._individual(thing)))

    def _individual(self, text: str) -> Term:
        words = text.split()
        if text.lower() in (*_ANYTHING, *_AGAIN):
            return X
        if words[0].lower() == "the" and 2 <= len(words) <= 3:
            return Constant(_joined(words[1:]))
        if len(words) == 1 and (words[0][0].isupper() or words[0][0].isdigit()):
            return Constant(words[0])
        raise _NoSuchForm

    @staticmethod
    def _trait(said: str) -> str:
        """The predicate of "cold", "a wumpus", "a prime number"."""
        words = said.split()
        if words[0] in ("a", "an"):
            return _noun(words[1:], plural=False)
        if len(words) != 1:
            raise _NoSuchForm
        return words[0].lower()

    def _about_a_kind(self, text: str) -> Formula | None:
        """ "Each cat is nice", "cats are animals", "red, cold things are nice"; None if it is a fact
        about an individual."""
        if kind := re.fullmatch(r"(?:Each|Every) (.+?) is (not )?(.+)", text):
            subject, denied, said = kind.groups()
            return self._for_all([_noun(subject.split(), plural=False)], denied, self._trait(said))
        kind = re.fullmatch(r"(?:All )?(.+?) are (not )?(.+)", text)
        if kind is None:
            return None
        subject, denied, said = kind.groups()
        if traits := re.fullmatch(r"(.+?) (?:things|people)", subject):
            listed = re.split(r",? and |, ?", traits[1])
            return self._for_all([word.lower() for word in listed], denied, said.lower())
        noun = _noun(subject.split(), plural=True)
        return self._for_all([noun], denied, self._plural_trait(said.split()))

    def _plural_trait(self, words: Sequence[str]) -> str:
        """What is said of many: a plural noun, which becomes singular, or an adjective."""
        if len(words) > 1 or words[0] in ("sheep",):
            return _noun(words, plural=True)
        return words[0].lower() if is_singular(words[0]) else singular(words[0]).lower()

    @staticmethod
    def _for_all(conditions: Sequence[str], denied: str | None, said: str) -> Formula:
        head: Formula = Atom(said, (X,))
        body = conjunction([Atom(name, (X,)) for name in conditions])
        return ForAll("x", Implies(body, Not(head) if denied else head))


class _NoSuchForm(Exception):
    """The sentence is not of the form that is being tried."""
