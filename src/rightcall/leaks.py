"""Test questions in training data: the same ones, and nearly the same ones.

Five kinds are told apart, from the plainest to the least certain:

- *exact*: the same words, up to case, punctuation, spacing and how a number is written (`1,000` and
  `1000`, `25%` and `25 percent`);
- *related*: augmentation made one of the other, or both of the same problem;
- *reordered*: the same sentences in another order;
- *contained*: a test question of 8 words or more stands word for word in a longer training text, such
  as a prompt with examples, or two questions in one;
- *near*: nearly the same words with the same numbers, so that a word was exchanged, put in or left
  out. The similarity is 1 less the share of words to be edited (of the longer question).

**Numbers must agree** (3 and "three" are the same), unless told otherwise: two word problems that
one template has made with other numbers are two problems, and knowing the answer of one does not give
that of the other. `numbers=False` finds them too, which tells whether a test is on known templates.

An exact one is a leak. A near one may be none: where the answers differ, the word that was exchanged
is the one that matters (a "not", another name). So each says whether the answers are the same.

**Cost.** Every near pair is found. Each distinct text is compared once: test questions with the same
numbers and about the same length are held against a training question by how many words they have in
common, for thousands at once; `rapidfuzz` compares the few that remain.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from rightcall.chain import Frozen, Problem
from rightcall.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

NEAR = 0.9
"""Of ten words one may differ."""
SHOWN = 5
LONG = 8
"""Words that a test question needs, to be looked for within longer texts: fewer may well be chance."""
_BUCKETS = 128
_COUNTING = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
NUMBER_WORDS = {word: value for value, word in enumerate(_COUNTING, 1)} | {
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
    "hundred": 100,
    "thousand": 1000,
    "dozen": 12,
}
"""Numbers that a text may write as words."""


def normalised(question: str) -> str:
    """A question's words, without case, punctuation, spacing, invisible characters and forms of
    characters (full width, ligatures).

    >>> normalised("Ann  has 3 apples;\\nhow many?")
    'ann has 3 apples how many'
    """
    return " ".join(re.findall(r"\w+|[^\w\s.,;:!?'\"]", _visible(question).casefold()))


def _visible(text: str) -> str:
    """The text in compatibility form, without characters of no width."""
    if text.isascii():
        return text
    shown = unicodedata.normalize("NFKC", text)
    return "".join(character for character in shown if unicodedata.category(character) != "Cf")


def _words(text: str) -> list[str]:
    """The words of a text, as `normalised` has them, but with every number in one form and one piece.

    >>> _words("$1,000.50 is .5% or 0.50 percent")
    ['$', '1000.5', 'is', '0.5', '%', 'or', '0.5', '%']
    """
    text = re.sub(r"\bper\s?cent\b", "%", text.casefold())
    text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda n: n[0].replace(",", ""), text)
    text = re.sub(r"(?<![\w.])\.(?=\d)", "0.", text)
    text = re.sub(r"(?<![\d.])(\d+)(?:\.0+|(\.\d*?[1-9])0*)(?![\d.]*\d)", r"\1\2", text)
    return re.findall(r"\d+\.\d+|\w+|[^\w\s.,;:!?'\"]", text)


class Kind(StrEnum):
    """How a training question is like a test question."""

    EXACT = "exact"
    RELATED = "related"
    REORDERED = "reordered"
    CONTAINED = "contained"
    NEAR = "near"


class Leak(Frozen):
    """A test problem and the training item that is most like it."""

    kind: Kind
    similarity: float
    """From the threshold up for a near one; 1 for the others."""
    test_id: str
    train_item: str
    """The id of a problem or of a pair's problem, or the number of a bare question."""
    test_question: str
    train_question: str
    same_answer: bool | None = None
    """None where the training item has no gold answer."""


class LeakReport(Frozen):
    """What of a test is in the training data: one leak for each test problem that is, the plainest."""

    train: int
    test: int
    leaks: tuple[Leak, ...]

    def of(self, kind: Kind) -> tuple[Leak, ...]:
        return tuple(leak for leak in self.leaks if leak.kind is kind)

    @property
    def ok(self) -> bool:
        """No test question is in the training data word for word, in whatever order of sentences, or
        within a longer text, and no relative of a test problem is."""
        return all(leak.kind is Kind.NEAR for leak in self.leaks)

    def table(self) -> Table:
        """For the terminal."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=f"{self.test} test problems, {self.train} training items")
        for name in ("kind", "test problems", "with the same answer", "the first, nearest first"):
            table.add_column(name, justify="right" if name.startswith(("test", "with")) else "left")
        for kind in Kind:
            found = sorted(self.of(kind), key=lambda leak: -leak.similarity)
            same = sum(leak.same_answer is not False for leak in found)
            first = [f"{leak.test_id} like {leak.train_item} ({leak.similarity:.2f})" for leak in found]
            shown = "\n".join(escape(text) for text in first[:SHOWN])
            table.add_row(kind.value, str(len(found)), str(same), shown)
        return table

    def __rich__(self) -> Table:
        return self.table()


class Asked(Protocol):
    """What has a question: a problem, a preference pair."""

    @property
    def question(self) -> str: ...


def find_leaks(
    train: Iterable[Asked | str],
    test: Iterable[Problem],
    *,
    threshold: float = NEAR,
    numbers: bool = True,
) -> LeakReport:
    """What of `test` is in `train`, and how near. Training items are read one at a time.

    `threshold`, from 0.5 to 1, is the least similarity of near ones; at 1 there are none. With
    `numbers=False` numbers need not agree. Raises `ConfigError`.
    """
    if not 0.5 <= threshold <= 1:
        raise ConfigError("threshold out of range", value=threshold, remedy="Give 0.5 to 1.")
    known = _Index(list(test), threshold, numbers)
    count = 0
    for count, item in enumerate(train, 1):
        known.hold_against(item, count)
    return LeakReport(train=count, test=len(known.problems), leaks=tuple(known.leaks()))


@dataclass(frozen=True)
class _Text:
    """A question as it is compared."""

    sentences: tuple[str, ...]
    spelled: tuple[str, ...]
    """Its words, number words as digits."""
    words: tuple[str, ...]
    """The same, but without the numbers where they need not agree."""
    numbers: tuple[str, ...]
    """Sorted; empty where they need not agree."""

    @classmethod
    def of(cls, question: str, numbers: bool) -> _Text:
        parts = [_words(part) for part in re.split(r"(?<=[.?!])\s+|\n", _visible(question))]
        spelled = tuple(str(NUMBER_WORDS.get(word, word)) for part in parts for word in part)
        found = sorted(filter(_is_number, spelled))
        words = spelled
        if found and not numbers:
            words = tuple("#" if _is_number(word) else word for word in spelled)
        sentences = tuple(" ".join(part) for part in parts if part)
        return cls(sentences, spelled, words, tuple(found) if numbers else ())

    @property
    def exact(self) -> str:
        return " ".join(self.sentences)

    @property
    def sorted(self) -> tuple[str, ...]:
        return tuple(sorted(self.sentences))


def _is_number(word: str) -> bool:
    return any(character.isdigit() for character in word)


@dataclass(frozen=True)
class _Found:
    """A training item that is like some test problems."""

    number: int
    item: Asked | str

    @property
    def question(self) -> str:
        return self.item if isinstance(self.item, str) else self.item.question

    @property
    def answer(self) -> str | None:
        """The gold answer, where it has one."""
        return self.item.answer if isinstance(self.item, Problem) else None


@dataclass
class _Likeness:
    """The test problems of one text, and the training items that are most like it so far."""

    answers: set[str] = field(default_factory=set)
    """The gold answers of the test problems."""
    similarity: float = 0.0
    first: _Found | None = None
    by_answer: dict[str | None, _Found] = field(default_factory=dict)
    """The first of them with each of the answers, and the first without an answer."""

    def offer(self, similarity: float, found: _Found) -> None:
        if similarity < self.similarity:
            return
        if similarity > self.similarity:
            self.similarity, self.first, self.by_answer = similarity, found, {}
        if found.answer is None or found.answer in self.answers:
            self.by_answer.setdefault(found.answer, found)

    def best(self, answer: str) -> _Found | None:
        """The first item, of those with no other answer if there are any."""
        agreeing = [self.by_answer[key] for key in (answer, None) if key in self.by_answer]
        return min(agreeing, key=lambda found: found.number, default=self.first)


class _Index:
    """Test problems, ready to be found by what is like them. Those of one text are one entry."""

    def __init__(self, problems: Sequence[Problem], threshold: float, numbers: bool) -> None:
        self.problems = problems
        self.threshold = threshold
        self.with_numbers = numbers
        self.texts = [_Text.of(problem.question, numbers) for problem in problems]
        self.likenesses: dict[tuple[Kind, Hashable], _Likeness] = defaultdict(_Likeness)
        lengths: dict[tuple[str, ...], set[int]] = defaultdict(set)
        groups: dict[tuple[str, ...], dict[tuple[str, ...], None]] = defaultdict(dict)
        self.augmented = {problem.root for problem in problems if problem.origin}
        for problem, text in zip(problems, self.texts, strict=True):
            for key in _keys(problem, text):
                self.likenesses[key].answers.add(problem.answer)
            groups[text.numbers][text.words] = None
            if len(text.spelled) >= LONG:
                lengths[text.spelled[:LONG]].add(len(text.spelled))
        self.lengths = dict(lengths)
        """How long the test questions are that begin with these words."""
        self.groups = {key: _Group(list(texts)) for key, texts in groups.items()}
        """Those whose numbers agree."""

    def hold_against(self, item: Asked | str, number: int) -> None:
        """Note what a training item is like."""
        found = _Found(number, item)
        text = _Text.of(found.question, self.with_numbers)
        root, made = kinship(item)
        if (made or root in self.augmented) and (Kind.RELATED, root) in self.likenesses:
            self.likenesses[Kind.RELATED, root].offer(1.0, found)
        for key, similarity in self._like(text):
            if key in self.likenesses:
                self.likenesses[key].offer(similarity, found)

    def _like(self, text: _Text) -> Iterator[tuple[tuple[Kind, Hashable], float]]:
        yield (Kind.EXACT, text.exact), 1.0
        yield (Kind.REORDERED, text.sorted), 1.0
        for part in self._parts(text.spelled):
            yield (Kind.CONTAINED, part), 1.0
        for words, similarity in self._near(text):
            yield (Kind.NEAR, words), similarity

    def _parts(self, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """What in a text may be a whole test question, which is shorter."""
        for start in range(len(words) - LONG + 1):
            for length in self.lengths.get(words[start : start + LONG], ()):
                if length < len(words):
                    yield words[start : start + length]

    def _near(self, text: _Text) -> Iterator[tuple[tuple[str, ...], float]]:
        from rapidfuzz.distance import Levenshtein

        if self.threshold == 1 or text.numbers not in self.groups:
            return
        least = self.threshold - 1e-9
        for words in self.groups[text.numbers].alike(text.words, least):
            similarity = Levenshtein.normalized_similarity(text.words, words, score_cutoff=least)
            if similarity >= least:
                yield words, similarity

    def leaks(self) -> Iterator[Leak]:
        """The plainest and nearest for each test problem that has any."""
        for problem, text in zip(self.problems, self.texts, strict=True):
            for key in _keys(problem, text):
                likeness = self.likenesses[key]
                if (found := likeness.best(problem.answer)) is not None:
                    yield Leak(
                        kind=key[0],
                        similarity=likeness.similarity,
                        test_id=problem.id,
                        train_item=_name(found.item, found.number),
                        test_question=problem.question,
                        train_question=found.question,
                        same_answer=None if found.answer is None else found.answer == problem.answer,
                    )
                    break


def _keys(problem: Problem, text: _Text) -> list[tuple[Kind, Hashable]]:
    """By what each kind of likeness to a test question is found, in the order of the kinds."""
    by_kind: dict[Kind, Hashable] = {
        Kind.EXACT: text.exact,
        Kind.RELATED: problem.root,
        Kind.REORDERED: text.sorted,
        Kind.CONTAINED: text.spelled,
        Kind.NEAR: text.words,
    }
    return [(kind, by_kind[kind]) for kind in Kind]


class _Group:
    """Texts by length, their words and pairs of neighbouring words counted."""

    def __init__(self, texts: Sequence[tuple[str, ...]]) -> None:
        import numpy as np

        self.texts = sorted(texts, key=len)
        self.lengths = np.array([len(words) for words in self.texts])
        self.words = np.stack([_counts(words) for words in self.texts], axis=1)
        self.pairs = np.stack([_counts(_neighbours(words)) for words in self.texts])

    def alike(self, words: tuple[str, ...], least: float) -> list[tuple[str, ...]]:
        """Those that may be as similar as that to a text: an edit takes away one shared word at most,
        and two shared pairs of neighbours."""
        import numpy as np

        length = len(words)
        start, end = np.searchsorted(self.lengths, [length * least, length / least + 1e-9])
        if start == end:
            return []
        longer = np.maximum(self.lengths[start:end], length)
        shared = np.minimum(self.words[:, start:end], _counts(words)[:, None])
        left = np.flatnonzero(shared.sum(axis=0, dtype=np.uint16) >= least * longer)
        if not left.size:
            return []
        pairs = np.minimum(self.pairs[start + left], _counts(_neighbours(words)))
        may = pairs.sum(axis=1, dtype=np.uint16) >= longer[left] * (2 * least - 1) - 1
        return [self.texts[start + i] for i in left[may]]


def _neighbours(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(words))


def _counts(things: Sequence[Hashable]) -> NDArray[np.uint16]:
    """How many things fall into each bucket. Different ones may fall into the same one: that makes two
    texts look more alike, never less."""
    import numpy as np

    buckets = [hash(thing) % _BUCKETS for thing in things]
    return np.bincount(buckets, minlength=_BUCKETS).astype(np.uint16)


def kinship(item: Asked | str) -> tuple[str | None, bool]:
    """Id of the problem that a training item was made of in the end, and whether augmentation made it;
    None for a bare question."""
    id, root = _id(item), getattr(item, "root", None)
    return (root or id, bool(root) and root != id)


def _id(item: Asked | str) -> str | None:
    return getattr(item, "id", None) or getattr(item, "problem_id", None)


def _name(item: Asked | str, number: int) -> str:
    return _id(item) or f"item {number}"
