"""Word problems from a seed: the same arguments give the same problem on every machine.

A problem belongs to the split that the numbers of its text decide, so splits share no question
whatever their names and wording, and however many problems are drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from random import Random

from rightcall.chain import Problem, digest, seed_of
from rightcall.errors import ConfigError, nearest
from rightcall.tasks.math.families import FAMILIES
from rightcall.tasks.math.stories import (
    Draft,
    Quantity,
    Story,
    Unfit,
    calculations,
    call_text,
    check,
    expression,
)

NOISE_SHARE = 0.42
"""Share of problems with a number that is not needed."""
_BUCKETS = ("train", "train", "validation", "test")
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_ATTEMPTS = 10_000


def split_of(question: str) -> str:
    """The split a question belongs to, by the numbers in it alone (half of all are "train")."""
    numbers = " ".join(sorted(_DIGITS.findall(question)))
    return _BUCKETS[sha256(numbers.encode()).digest()[0] % len(_BUCKETS)]


def generate(
    seed: int,
    split: str,
    index: int,
    *,
    steps: tuple[int, int] = (2, 6),
    families: Sequence[str] | None = None,
) -> Problem:
    """Problem `index` of a split. Consecutive indices go round the numbers of steps and, within
    each, round the families, so that any run of them is balanced."""
    names = _families(families)
    low, high = _steps(steps, names)
    count = low + index % (high - low + 1)
    able = [name for name in names if count in FAMILIES[name].steps]
    family = able[(index // (high - low + 1)) % len(able)]
    rng = Random(seed_of("math", split, seed, index, family, count))
    for _ in range(_ATTEMPTS):
        try:
            return _problem(rng, split, family, count)
        except Unfit:
            continue
    raise ConfigError("no problem of this family fits", value=f"{family}, {count} steps, {split}")


def stream(
    seed: int, split: str, *, steps: tuple[int, int] = (2, 6), families: Sequence[str] | None = None
) -> Iterator[Problem]:
    """Problems of a split without end and without repetition."""
    seen: set[str] = set()
    index = 0
    while True:
        problem = generate(seed, split, index, steps=steps, families=families)
        index += 1
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem


def check_choice(steps: tuple[int, int], families: Sequence[str] | None) -> None:
    """Raises `ConfigError` for a family that is not there, or numbers of steps that none has."""
    _steps(steps, _families(families))


def _families(families: Sequence[str] | None) -> Sequence[str]:
    for name in families or ():
        if name not in FAMILIES:
            raise ConfigError("unknown family", value=name, remedy=nearest(name, FAMILIES))
    return tuple(families or FAMILIES)


def _steps(steps: tuple[int, int], names: Sequence[str]) -> tuple[int, int]:
    low, high = steps
    possible = {count for name in names for count in FAMILIES[name].steps}
    if low > high or not set(range(low, high + 1)) <= possible:
        raise ConfigError(
            "no problems have these numbers of steps",
            value=steps,
            remedy=f"Choose (low, high) within {min(possible)} and {max(possible)}.",
        )
    return low, high


def _problem(rng: Random, split: str, family: str, count: int) -> Problem:
    """One draw; raises `Unfit` if it makes no sensible problem, or one of another split."""
    draft = Draft(rng)
    story = FAMILIES[family].write(draft, count)
    steps = calculations(story.result)
    if len(steps) != count:
        raise AssertionError(f"{family} gave {len(steps)} calculations, {count} were asked for")
    needed = len(draft.numbers)
    sentences = _with_noise(draft, story)
    check(draft, steps)
    question = " ".join([*sentences, story.question])
    if split_of(question) != split:
        raise Unfit
    return Problem(
        id=f"{family}-{digest(question)}",
        question=question,
        answer=str(story.result),
        gold=(*map(call_text, steps), f"stop({story.result})"),
        difficulty=count,
        metadata={
            "family": family,
            "expression": expression(story.result),
            "numbers": {name: str(quantity) for name, quantity in draft.numbers.items()},
            "distractors": len(draft.numbers) - needed,
        },
    )


def _with_noise(draft: Draft, story: Story) -> list[str]:
    sentences = list(story.sentences)
    if story.noise and draft.chance(NOISE_SHARE):
        number: Quantity = draft.number(2, 90)
        place = int(draft.rng.random() * (len(sentences) + 1))
        sentences.insert(place, draft.pick(story.noise).format(number))
    return sentences
