"""Words exchanged for others: in a text, in every form and with its capital and article, and in
formulas.

The names of formulas are the words of the text, those of one name joined by `_` (`bald_eagle`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rightcall.tasks.fol.words import WordKind

_NAME = re.compile(r"\w(?:[\w+'’]|-(?=\w)|\.(?=\d))*")
_VARIABLE = re.compile(r"[a-z]\d*")
_SIGNS = frozenset("forall exists all some not and or xor implies iff".split())
_SMALL = frozenset("a an are does do is it not of the they things".split())
_DETERMINED = re.compile(r"\b(an?|each|every|the|any|no|some|one)\s+$", re.I)


class Unlinked(Exception):
    """A formula has a name that is no word of the text."""


def words_of(text: str) -> set[str]:
    """The words of a text in lower case."""
    return {word.lower() for word in re.findall(r"[\w'-]+", text)}


def article(word: str) -> str:
    return "an" if word[0].lower() in "aeiou" else "a"


@dataclass(frozen=True)
class Renaming:
    """Words for words, all at once. A phrase is one or more words with single blanks."""

    forms: Mapping[str, str]
    """Each form of the old words, in lower case → the same form of the new one, as it is spelled within
    a sentence: names have a capital, all else has none."""
    plurals: Mapping[str, str] = field(default_factory=dict)
    """Of the forms that are singular and plural alike ("sheep"), the new plural."""
    strict: bool = True
    """Every name of a formula must be known; otherwise others stay as they are."""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.forms, key=lambda form: (-len(form), form))
        phrases = "|".join(r"\s+".join(map(re.escape, form.split())) for form in longest_first)
        return re.compile(
            rf"(?:(?<![\w-])(?P<article>an?)\s+)?(?<![\w-])(?P<phrase>{phrases})(?![\w-])", re.I
        )

    def text(self, text: str) -> str:
        """Every form in a text exchanged."""

        def exchanged(found: re.Match[str]) -> str:
            old, before = found["phrase"], found["article"]
            form = " ".join(old.lower().split())
            new = self.forms[form]
            if form in self.plurals and not before and not self._determined(text, found):
                new = self.plurals[form]
            if before:
                return f"{_capital_like(before, article(new))} {new}"
            return _capital_like(old, new) if _begins(text, found) or old.islower() else new

        return self._pattern.sub(exchanged, text)

    @staticmethod
    def _determined(text: str, found: re.Match[str]) -> bool:
        return _DETERMINED.search(text[: found.start("phrase")]) is not None

    def formula(self, text: str) -> str:
        """Every name in a formula exchanged, its spelling kept. Raises `Unlinked`."""
        return _NAME.sub(lambda found: self._name(found[0]), text)

    def _name(self, name: str) -> str:
        if name.lower() in _SIGNS:
            return name
        phrase = name.lower().replace("_", " ")
        if phrase in self.forms:
            return _capital_like(name, self.forms[phrase]).replace(" ", "_")
        if not self.strict or _VARIABLE.fullmatch(name):
            return name
        rest = self._pattern.sub(" ", phrase)
        if rest == phrase or set(rest.split()) - _SMALL:
            raise Unlinked(name)
        return self.text(name.replace("_", " ")).replace(" ", "_")


def _capital_like(old: str, new: str) -> str:
    """The new word with a capital where the old one has one, and none where a name was written without
    one."""
    if old[0].isupper():
        return new[0].upper() + new[1:]
    return new if new.islower() or not old[0].islower() else new.lower()


def _begins(text: str, found: re.Match[str]) -> bool:
    """Whether it begins a sentence: elsewhere only names have a capital, whatever the old word had."""
    return re.search(r"(^|[.!?:]|\n)\s*$", text[: found.start()]) is not None


# --- what is a noun -------------------------------------------------------------------------------

_BEFORE_NOUN = frozenset("a an every each any no some one".split())


def kinds(sentences: Iterable[str], traits: Iterable[str]) -> dict[str, set[WordKind]]:
    """Which of the words that say something of one thing are nouns, and which adjectives, as the
    sentences of `rightcall.tasks.fol.english` use them: both, if they are used as both."""
    known = set(traits)
    found: dict[str, set[WordKind]] = {word: set() for word in known}
    for sentence in sentences:
        tokens = re.findall(r"[\w'-]+|[^\w\s]", sentence)
        for place, token in enumerate(tokens):
            if token in known:
                noun = _is_noun(tokens, place, known)
                found[token].add(WordKind.NOUN if noun else WordKind.ADJECTIVE)
    return found


def _is_noun(tokens: Sequence[str], place: int, traits: set[str]) -> bool:
    before = tokens[place - 1].lower() if place else ""
    if before in traits:  # "cold cat"
        return True
    if before not in _BEFORE_NOUN:
        return False
    end = place + 1  # "a cold, red cat" but "a cat, red and cold"
    while end + 1 < len(tokens) and tokens[end] == "," and tokens[end + 1] in traits:
        end += 2
    return end >= len(tokens) or tokens[end] not in traits
