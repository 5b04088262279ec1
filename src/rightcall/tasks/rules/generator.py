"""Theories of facts and rules with statements whose answer is known.

Three kinds, alike in grammar to the public data sets: `traits` (people and their traits), `relations`
(things that like and see each other) and `kinds` (a taxonomy with exceptions). See
`rightcall.tasks.rules.theories`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

from rightcall.chain import Problem, digest, seed_of
from rightcall.errors import ConfigError, EndlessSplit, nearest
from rightcall.task import SPLITS
from rightcall.tasks.fol.formula import Atom, Not
from rightcall.tasks.rules.augmentation import OPERATIONS
from rightcall.tasks.rules.chaining import Literal, known
from rightcall.tasks.rules.task import RuleTask, problem_of
from rightcall.tasks.rules.theories import KINDS, Kinds, Size, Told, Traits

TRIES = 50
"""Theories thrown away, at most, for want of a statement of the wanted answer and depth."""


def generate(seed: int, split: str, index: int, size: Size = Size()) -> Problem:
    """The problem of that number: the same arguments give the same problem."""
    rng = Random(seed_of("rules", split, seed, index))
    answer = rng.choice(("True", "False", "Unknown"))
    for attempt in count():
        made = _drawn(rng, size)
        length = rng.randint(*size.sentences)
        theory = made if isinstance(made, Traits) else None
        told = made.theory(length) if theory else _retold(made, rng, length)
        found = _question(rng, made, told, answer, anything=attempt >= TRIES)
        if found is None:
            continue
        literal, depth, actual = found
        statement = made.statement(literal)
        atom = Atom(literal.predicate, literal.terms)
        texts = [one.text for one in told]
        return problem_of(
            f"rules-{digest(texts, statement)}",
            texts,
            statement,
            actual,
            [one.formula for one in told],
            atom if literal.positive else Not(atom),
            depth=depth,
        )
    raise AssertionError("unreachable")


def _drawn(rng: Random, size: Size) -> Traits | Kinds:
    kind = rng.choice(size.kinds)
    made_up = rng.random() < size.made_up
    if kind == "kinds":
        return Kinds.drawn(rng, made_up, rng.randint(*size.sentences))
    return Traits.drawn(rng, kind == "relations", made_up)


def _retold(made: Traits | Kinds, rng: Random, length: int) -> list[Told]:
    return list({one.text: one for one in made.theory(length)}.values())


def _question(
    rng: Random, made: Traits | Kinds, told: Sequence[Told], answer: str, anything: bool
) -> tuple[Literal, int, str] | None:
    """A literal whose answer is the wanted one (or any), its depth, and the answer; None if there is
    none, or if the theory contradicts itself."""
    found = known([one.formula for one in told])
    if any(literal.opposite in found for literal in found):
        return None
    asked: dict[str, list[tuple[Literal, int]]] = {"True": [], "False": [], "Unknown": []}
    for plain in made.literals():
        literal = plain if rng.random() < 0.5 else plain.opposite
        if literal in found:
            asked["True"].append((literal, found[literal]))
        elif literal.opposite in found:
            asked["False"].append((literal, found[literal.opposite]))
        else:
            asked["Unknown"].append((literal, 0))
    if anything:
        answer = next(a for a in rng.sample(sorted(asked), 3) if asked[a])
    if not asked[answer]:
        return None
    depth = rng.choice(sorted({depth for _, depth in asked[answer]}))
    literal, depth = rng.choice([one for one in asked[answer] if one[1] == depth])
    return literal, depth, answer


class RulesTask(RuleTask):
    """Generated theories of facts and rules with a statement.

    `sentences` (fewest, most) bounds a theory's size: short theories first make a curriculum.
    `made_up` is the share of theories with invented words, and `kinds` says which kinds are drawn:
    traits, relations, kinds.
    """

    name = "rules"
    operations = OPERATIONS

    def __init__(
        self,
        sentences: Sequence[int] = Size.sentences,
        made_up: float = Size.made_up,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        if len(sentences) != 2 or not 2 <= sentences[0] <= sentences[1]:
            raise ConfigError("a theory has 2 sentences or more: fewest, most", value=list(sentences))
        for kind in kinds:
            if kind not in KINDS:
                raise ConfigError("no such kind of theory", value=kind, remedy=nearest(kind, KINDS))
        self.size = Size((sentences[0], sentences[1]), made_up, tuple(kinds))

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """See `Task`. The generator never ends, so a count is needed."""
        if split not in SPLITS:
            raise ConfigError("no split of that name", value=split, remedy=nearest(split, SPLITS))
        if count is None:
            raise EndlessSplit(
                "rules problems are generated without end", remedy="Say how many you want."
            )
        return (generate(seed, split, index, self.size) for index in range(count))
