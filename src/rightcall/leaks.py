"""Test questions in training data: the same ones, and nearly the same ones.

Three kinds are told apart, from the plainest to the least certain:

- *exact*: the same words, up to case, punctuation and spacing;
- *reordered*: the same sentences in another order;
- *near*: nearly the same words with the same numbers, so that a word was exchanged, put in or left
  out. The similarity is 1 less the share of words to be edited (of the longer question).

**Numbers must agree** (3 and "three" are the same), unless told otherwise: two word problems that
one template has made with other numbers are two problems, and knowing the answer of one does not give
that of the other. `numbers=False` finds them too, which tells whether a test is on known templates.

An exact one is a leak. A near one may be none: where the answers differ, the word that was exchanged
is the one that matters (a "not", another name). So each says whether the answers are the same.

**Cost.** Every near pair is found. Test questions with the same numbers and about the same length are
held against a training question by how many words they have in common, for thousands at once;
`rapidfuzz` compares the few that remain. 100,000 training and 5,000 test word
problems take some 20 seconds on one core. The worst case, texts without numbers, all of one length
and of few words, takes 5 ms a training question (against 5,000).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    """A question's words, without case, punctuation and spacing.

    >>> normalised("Ann  has 3 apples;\\nhow many?")
    'ann has 3 apples how many'
    """
    return " ".join(re.findall(r"\w+|[^\w\s.,;:!?'\"]", question.casefold()))


class Kind(StrEnum):
    """How a training question is like a test question."""

    EXACT = "exact"
    REORDERED = "reordered"
    NEAR = "near"


class Leak(Frozen):
    """A test problem and the training item that is most like it."""

    kind: Kind
    similarity: float
    """1 for an exact or reordered one, otherwise from the threshold up."""
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
        """No test question is in the training data word for word, in whatever order of sentences."""
        return not self.of(Kind.EXACT) and not self.of(Kind.REORDERED)

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
    best: dict[int, Leak] = {}
    count = 0
    for count, item in enumerate(train, 1):
        for place, leak in known.like(item, count):
            if place not in best or _rank(leak) > _rank(best[place]):
                best[place] = leak
    return LeakReport(
        train=count, test=len(known.problems), leaks=tuple(best[place] for place in sorted(best))
    )


def _rank(leak: Leak) -> tuple[int, float, bool]:
    plainest = -list(Kind).index(leak.kind)
    return plainest, leak.similarity, leak.same_answer is not False


@dataclass(frozen=True)
class _Text:
    """A question as it is compared."""

    sentences: tuple[str, ...]
    words: tuple[str, ...]
    numbers: tuple[str, ...]
    """Sorted; empty where they need not agree."""

    @classmethod
    def of(cls, question: str, numbers: bool) -> _Text:
        parts = [normalised(part) for part in re.split(r"(?<=[.?!])\s+|\n", question)]
        words = [str(NUMBER_WORDS.get(word, word)) for part in parts for word in part.split()]
        found = sorted(word for word in words if _is_number(word))
        if found and not numbers:
            words = ["#" if _is_number(word) else word for word in words]
        return cls(tuple(filter(None, parts)), tuple(words), tuple(found) if numbers else ())

    @property
    def exact(self) -> str:
        """As `normalised` gives it."""
        return " ".join(self.sentences)

    @property
    def sorted(self) -> tuple[str, ...]:
        return tuple(sorted(self.sentences))


def _is_number(word: str) -> bool:
    return any(character.isdigit() for character in word)


class _Index:
    """Test problems, ready to be found by what is like them."""

    def __init__(self, problems: Sequence[Problem], threshold: float, numbers: bool) -> None:
        self.problems = problems
        self.threshold = threshold
        self.with_numbers = numbers
        self.texts = [_Text.of(problem.question, numbers) for problem in problems]
        self.exact: dict[str, list[int]] = defaultdict(list)
        self.sorted: dict[tuple[str, ...], list[int]] = defaultdict(list)
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, text in enumerate(self.texts):
            self.exact[text.exact].append(place)
            self.sorted[text.sorted].append(place)
            groups[text.numbers].append(place)
        self.groups = {key: _Group(places, self.texts) for key, places in groups.items()}
        """Those whose numbers agree."""

    def like(self, item: Asked | str, number: int) -> Iterator[tuple[int, Leak]]:
        """The places of the problems that a training item is like, and how."""
        question = item if isinstance(item, str) else item.question
        text = _Text.of(question, self.with_numbers)
        found = {place: (Kind.NEAR, similarity) for place, similarity in self._near(text)}
        found |= dict.fromkeys(self.sorted.get(text.sorted, ()), (Kind.REORDERED, 1.0))
        found |= dict.fromkeys(self.exact.get(text.exact, ()), (Kind.EXACT, 1.0))
        for place, (kind, similarity) in found.items():
            problem = self.problems[place]
            yield (
                place,
                Leak(
                    kind=kind,
                    similarity=similarity,
                    test_id=problem.id,
                    train_item=_name(item, number),
                    test_question=problem.question,
                    train_question=question,
                    same_answer=item.answer == problem.answer if isinstance(item, Problem) else None,
                ),
            )

    def _near(self, text: _Text) -> Iterator[tuple[int, float]]:
        from rapidfuzz.distance import Levenshtein

        if self.threshold == 1 or text.numbers not in self.groups:
            return
        least = self.threshold - 1e-9
        for place in self.groups[text.numbers].alike(text, least):
            words = self.texts[place].words
            similarity = Levenshtein.normalized_similarity(text.words, words, score_cutoff=least)
            if similarity >= least:
                yield place, similarity


class _Group:
    """Test questions by length, their words and pairs of neighbouring words counted."""

    def __init__(self, places: Sequence[int], texts: Sequence[_Text]) -> None:
        import numpy as np

        self.places = sorted(places, key=lambda place: len(texts[place].words))
        listed = [texts[place].words for place in self.places]
        self.lengths = np.array([len(words) for words in listed])
        self.words = np.stack([_counts(words) for words in listed], axis=1)
        self.pairs = np.stack([_counts(_neighbours(words)) for words in listed])

    def alike(self, text: _Text, least: float) -> list[int]:
        """The places of those that may be as similar as that to a text: an edit takes away one shared
        word at most, and two shared pairs of neighbours."""
        import numpy as np

        length = len(text.words)
        start, end = np.searchsorted(self.lengths, [length * least, length / least + 1e-9])
        if start == end:
            return []
        longer = np.maximum(self.lengths[start:end], length)
        words = np.minimum(self.words[:, start:end], _counts(text.words)[:, None])
        left = np.flatnonzero(words.sum(axis=0, dtype=np.uint16) >= least * longer)
        if not left.size:
            return []
        pairs = np.minimum(self.pairs[start + left], _counts(_neighbours(text.words)))
        may = pairs.sum(axis=1, dtype=np.uint16) >= longer[left] * (2 * least - 1) - 1
        return [self.places[start + i] for i in left[may]]


def _neighbours(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(words))


def _counts(things: Sequence[Hashable]) -> NDArray[np.uint16]:
    """How many things fall into each bucket. Different ones may fall into the same one: that makes two
    texts look more alike, never less."""
    import numpy as np

    buckets = [hash(thing) % _BUCKETS for thing in things]
    return np.bincount(buckets, minlength=_BUCKETS).astype(np.uint16)


def _name(item: Asked | str, number: int) -> str:
    return str(getattr(item, "id", None) or getattr(item, "problem_id", None) or f"item {number}")
