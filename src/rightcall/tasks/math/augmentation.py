"""Word problems with other numbers: every number of a calculation is traced to the text, the text gets
other numbers, and the calculations are run again.

Each number in a call has its *sources*: numbers of the text in the forms in which a call may hold them
(20% also as 0.2 and, of what is left, as 80), earlier results, and constants of the world, which stay
(60 minutes, 2 for "twice"). **All sources of a number must agree** on what it is with the new numbers;
so it never matters which of them was meant. Equal numbers of a text change together. A number that may
also be a constant stays. What remains ambiguous is rejected, and so is a text with a number that no
call uses, whose part in the story is then unknown.

New numbers are near the old ones and as round; what follows from them has to stay of the same kind at
every step of every calculation: whole numbers whole, the larger larger, parts below one, within
`LARGEST_RATIO` of what it was.

What cannot be seen from a text (that three friends are named one by one) is guarded by rules that leave
such numbers as they are: precision goes before recall. `benchmarks.renumbering` counts and prints.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from random import Random

from rightcall.augment.operation import Original, Rejected, Variant
from rightcall.chain import Chain, Problem
from rightcall.errors import CallError
from rightcall.functions import parse_calls
from rightcall.tasks.math.common_knowledge import AGES, CEILINGS, FAMILY, RANGES, RANKS
from rightcall.tasks.math.expressions import Tree
from rightcall.tasks.math.generator import split_of
from rightcall.tasks.math.linking import Guide, Source, Text, run, settle, sources_of
from rightcall.tasks.math.mentions import WORDS, Mention, rewritten, written_as
from rightcall.tasks.math.numbers import decimals, read_number, show
from rightcall.tasks.math.plans import calculation_of
from rightcall.tool_calls import call_text, read_call

TRIES = 400
LARGEST_RATIO = Fraction(3)
"""No result is more than so many times what it was, or less than that part of it."""
_LOW, _HIGH = Fraction(13, 20), Fraction(8, 5)
"""How far a number of the text may go, as a share of what it was."""

# --- new numbers ----------------------------------------------------------------------------------


def _step(value: Fraction) -> Fraction:
    """How round a number is: of 1, 5, 10, 50, ... the largest that divides it and leaves it three."""
    size = Fraction(1)
    while decimals(value / size) != 0:
        size /= 10
    best = size
    while size * 3 <= value:
        for step in (size, size * 5 / 2 if size < 1 else size, size * 5):
            if (value / step).denominator == 1 and step * 3 <= value:
                best = max(best, step)
        size *= 10
    return best


def _candidates(mention: Mention) -> list[Fraction]:
    """Other values for a number of the text, itself among them."""
    value, whole = mention.value, mention.value.denominator == 1
    if mention.percent and value >= 100:
        return [value]
    low, high = _limits(mention)
    step = _step(value)
    if mention.money and not whole and (value * 100) % 100 >= 95:
        step = Fraction(1)  # a price of .99 stays one
    first = low + (value - low) % step
    found = [first + step * i for i in range(int((high - first) / step) + 1)] if first <= high else []
    return [v for v in found if (v.denominator == 1) == whole and _fits(mention, v)]


def _limits(mention: Mention) -> tuple[Fraction, Fraction]:
    """Between which values a number of the text stays."""
    value = mention.value
    low, high = value * _LOW, value * _HIGH
    if value.denominator == 1:
        low, high = max(low, Fraction(2)), max(high, value + 1)
    if mention.percent:
        low, high = max(low, Fraction(2)), min(high, Fraction(95))
    if mention.word:
        high = min(high, Fraction(20 if value <= 20 else 90))
    for pattern, bottom, top in RANGES:
        if re.match(pattern, mention.after) and bottom <= value <= top:
            low, high = max(low, Fraction(bottom)), min(high, Fraction(top))
    return low, high


def _fits(mention: Mention, value: Fraction) -> bool:
    """Whether a value can be written in a number's form."""
    if mention.word:
        return value.denominator == 1 and (value <= 20 or value % 10 == 0 or "-" in mention.text)
    places = len(str(int(value)))
    longer = places > len(str(int(mention.value)))
    return not (longer and (places == 4 or (places > 4 and "," not in mention.text)))


@dataclass(frozen=True)
class Renumbering:
    """New values for the numbers of a text and for the results of its calculations."""

    guide: Guide
    values: Mapping[str, Fraction]
    """By the names of groups and results."""

    @property
    def question(self) -> str:
        """The text with its new numbers."""
        text = self.guide.text
        new = [(m, self.values[name]) for name, group in text.groups.items() for m in group]
        return rewritten(text.question, new)

    @property
    def answer(self) -> Fraction:
        return self.values[self.guide.answer[0]]


def _drawn(guide: Guide, rng: Random, *, by_split: bool = False) -> Renumbering:
    """The first draw that fits. Raises `Rejected` with what the others most often failed for.

    `by_split`: the split of a generated problem is decided by its numbers, and must be the same.
    """
    text, old = guide.text, dict(guide.text.values)
    nodes = _evaluated(guide, old)
    choices = {name: _choices(text.groups[name]) for name in sorted(guide.free)}
    if all(len(values) < 2 for values in choices.values()):
        raise Rejected("no number may change")
    order = _order(guide, old)
    ceilings = [top for pattern, top in CEILINGS if re.search(pattern, text.question, re.I | re.S)]
    least = -(-len(choices) // 2)
    failed: Counter[str] = Counter()
    for _ in range(TRIES):
        new = {**text.values, **{name: rng.choice(values) for name, values in choices.items()}}
        if sum(new[name] != text.values[name] for name in choices) < least:
            failed["too few numbers may change"] += 1
            continue
        fault = _fault(guide, old, nodes, new, order) or _excess(old, new, ceilings)
        made = Renumbering(guide, new)
        if fault is None and by_split and split_of(made.question) != split_of(text.question):
            fault = "it would be of another split"
        if fault is None:
            return made
        failed[fault] += 1
    raise Rejected(f"no numbers fit: {failed.most_common(1)[0][0]}")


def _choices(group: Iterable[Mention]) -> list[Fraction]:
    """The values that equal numbers of the text may all have."""
    lists = [_candidates(mention) for mention in group]
    return [value for value in lists[0] if all(value in others for others in lists[1:])]


def _evaluated(guide: Guide, values: dict[str, Fraction]) -> list[list[Fraction]]:
    """The values of all parts of each calculation, whose result is put into `values`. Raises
    `CallError`."""
    found: list[list[Fraction]] = []
    for index, tree in enumerate(guide.trees):
        nodes: list[Fraction] = []
        values[f"r{index}"] = run(tree, values, nodes)
        found.append(nodes)
    return found


def _fault(
    guide: Guide,
    old: Mapping[str, Fraction],
    old_nodes: Sequence[Sequence[Fraction]],
    new: dict[str, Fraction],
    order: Iterable[tuple[str, str]],
) -> str | None:
    """What is wrong with new numbers; their results are put into `new`."""
    try:
        nodes = _evaluated(guide, new)
    except CallError:
        return "it cannot be calculated"
    for before, after in zip(old_nodes, nodes, strict=True):
        for one, other in zip(before, after, strict=True):
            if fault := _other_kind(one, other):
                return fault
    if any(len({s.value(new) for s in sources}) > 1 for sources in guide.alternatives):
        return "equal numbers no longer are"
    if len({new[name] for name in guide.answer}) > 1:
        return "equal numbers no longer are"
    if any(
        (old[a] < old[b]) != (new[a] < new[b]) or (new[a] == new[b]) != (old[a] == old[b])
        for a, b in order
    ):
        return "the larger became the smaller"
    if any(
        _whole_share(shares, old) and not _whole_share(shares, new)
        for shares in _shared_factors(guide.trees)
    ):
        return "a whole number became a fraction"
    if _distinct(guide, new) < _distinct(guide, old):
        return "different numbers became equal"
    if new[guide.answer[0]] == old[guide.answer[0]]:
        return "the answer stays the same"
    return None


def _shared_factors(trees: Sequence[Tree]) -> Iterator[tuple[Tree, Tree]]:
    """A factor of what is divided, and by what: of `3 * 49 / 7` also 49 / 7, which is as many pieces as
    fit into one of three bags, although no call says so."""
    for tree in trees:
        for part in _parts(tree):
            if part[0] != "divide":
                continue
            top = part[1]
            if isinstance(top, Source) and top.is_result:
                top = trees[int(top.quantity[1:])]
            if isinstance(top, tuple) and top[0] == "multiply":
                yield from ((factor, part[2]) for factor in top[1:])


def _parts(tree: Tree) -> Iterator[Tree]:
    if isinstance(tree, tuple):
        yield tree
        for operand in tree[1:]:
            yield from _parts(operand)


def _whole_share(share: tuple[Tree, Tree], values: Mapping[str, Fraction]) -> bool:
    factor, divisor = (run(tree, values, []) for tree in share)
    return divisor != 0 and (factor / divisor).denominator == 1


def _excess(
    old: Mapping[str, Fraction], new: Mapping[str, Fraction], ceilings: Iterable[int]
) -> str | None:
    if any(old[name] <= top < new[name] for top in ceilings for name in old):
        return "beyond what there is"
    return None


def _distinct(guide: Guide, values: Mapping[str, Fraction]) -> int:
    """How many different numbers there are: two that become equal could no longer be told apart."""
    return len({*values.values(), *(m.value for m in guide.text.mentions if m.fixed)})


def _other_kind(old: Fraction, new: Fraction) -> str | None:
    """Why a value is not of the kind of the one it takes the place of."""
    if (old > 0) != (new > 0) or (old < 0) != (new < 0):
        return "a sign changed"
    places, now = decimals(old), decimals(new)
    if places is not None and (now is None or now > places):
        return "a whole number became a fraction" if old.denominator == 1 else "more decimals"
    if (abs(old) < 1) != (abs(new) < 1) or (abs(old) == 1) != (abs(new) == 1):
        return "a part became more than a whole"
    if old and not 1 / LARGEST_RATIO <= abs(new / old) <= LARGEST_RATIO:
        return "out of proportion"
    return None


def _order(guide: Guide, old: Mapping[str, Fraction]) -> list[tuple[str, str]]:
    """Pairs whose order has to stay: numbers of the text that may count the same, and results; where
    the text ranks, any."""
    if re.search(RANKS, guide.text.question, re.I):
        return [*combinations(old, 2)]
    groups = list(guide.text.groups)
    found = [(a, b) for a, b in combinations(groups, 2) if _comparable(guide.text, a, b)]
    results = [name for name in old if name.startswith("r")]
    return [*found, *combinations(results, 2)]


def _comparable(text: Text, one: str, other: str) -> bool:
    units = [{m.unit for m in text.groups[name]} for name in (one, other)]
    if units[0] & units[1]:
        return True
    return any("" in a and not b <= {"money", "percent"} for a, b in (units, units[::-1]))


# --- calls with new numbers -----------------------------------------------------------------------

_IN_CALL = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?![\d.]*\w)|(?<![\w.])\.\d+"
)
"""A number in the text of a call, or beside it."""


def _replaced(text: str, values: Iterable[Fraction]) -> str:
    """A text with other values for its numbers, each written as the one before."""
    rest = iter(values)
    return _IN_CALL.sub(lambda match: written_as(_pattern(match[0]), next(rest)), text)


def _pattern(number: str) -> str:
    """What of a number in a call is a matter of style: with `4.50` decimals are, with `4.5` not."""
    return number if number.endswith("0") else re.sub(r"\d*$", "", number) if "." in number else number


def _values_in(text: str) -> list[Fraction]:
    return [Fraction(found.replace(",", "")) for found in _IN_CALL.findall(text)]


class _LeftOut(Exception):
    """A chain cannot be carried over, with the reason."""


def _carried(original: Original, chain: Chain, made: Renumbering) -> list[str]:
    """The replies of a chain with the new numbers. Raises `_LeftOut`."""
    sources = _traced(chain, made.guide.text)
    states = original.task.begin(original.problem)
    values = {name: made.values[name] for name in made.guide.text.groups}
    replies: list[str] = []
    for index, step in enumerate(chain.steps):
        new = [{source.value(values) for source in found} for found in sources[index]]
        if any(len(found) != 1 for found in new):
            raise _LeftOut("a number with two possible sources")
        try:
            replies.append(_replaced(step.reply, (found.pop() for found in new)))
        except ValueError:
            raise _LeftOut("a number that cannot be written") from None
        call = read_call(replies[-1], original.functions)
        if call is None:
            raise _LeftOut("a reply that is no call now")
        observation = original.functions.run(call, states).observation
        if observation.failure != step.observation.failure:
            raise _LeftOut("a call that fails only with one of the numbers")
        result = read_number(observation.text)
        if read_number(step.observation.text) is not None and observation.failure is None:
            if result is None:
                raise _LeftOut("a result that is no number now")
            values[f"r{index}"] = result
    return replies


def _traced(chain: Chain, text: Text) -> list[list[set[Source]]]:
    """Of each number in each reply, what it may be. Raises `_LeftOut`."""
    results: dict[str, Fraction] = {}
    found: list[list[set[Source]]] = []
    for index, step in enumerate(chain.steps):
        if step.call is None:
            raise _LeftOut("a reply without a call")
        if _has_number_word(step.reply):
            raise _LeftOut("a number in words")
        last = chain.answer is not None and index == len(chain.steps) - 1
        found.append([_sources_in_reply(text, v, results, last) for v in _values_in(step.reply)])
        result = read_number(step.observation.text)
        if step.observation.failure is None and result is not None and not last:
            results[f"r{index}"] = result
    ends = {s.quantity for sources in found[-1] for s in sources} if chain.answer is not None else set()
    settle([sources for own in found for sources in own], set(results) - ends)
    return found


def _sources_in_reply(
    text: Text, value: Fraction, results: Mapping[str, Fraction], last: bool
) -> set[Source]:
    """What a number of a reply may be; an answer is a result if it can be."""
    given = {Source(name) for name, known in results.items() if known == value}
    if last and given:
        return given
    try:
        return sources_of(text, value, results)
    except Rejected:
        raise _LeftOut("a number from nowhere") from None


def _has_number_word(reply: str) -> bool:
    """Whether a reply has a number in words; nothing tells where it is from."""
    return any(WORDS.get(word, 0) > 1 for word in re.findall(r"[a-z]+", reply.lower()))


# --- the operation --------------------------------------------------------------------------------


def renumber(original: Original, rng: Random) -> Variant:
    """Other numbers, and what follows from them.

    "Ann has 3 bags of 12 nuts and eats 5. How many are left?" with `multiply(3, 12)`,
    `subtract(36, 5)`, `stop(31)` becomes "Ann has 4 bags of 10 nuts and eats 7. ..." with
    `multiply(4, 10)`, `subtract(40, 7)`, `stop(33)`.
    """
    problem = original.problem
    answer = read_number(problem.answer)
    if answer is None:
        raise Rejected("the answer is no number")
    if re.search(AGES, problem.question, re.I) and re.search(FAMILY, problem.question, re.I):
        raise Rejected("ages that have to fit each other")
    try:
        guide = Guide.of(Text.of(problem.question), _calculations(original), answer, _idle(problem))
        made = _drawn(guide, rng, by_split="family" in problem.metadata)
    except CallError:
        raise Rejected("a call that is not traced") from None
    variant = _problem(problem, made)
    replies: dict[str, list[str]] = {}
    left_out: list[str] = []
    for chain in original.chains:
        try:
            replies[chain.key] = _carried(original, chain, made)
        except _LeftOut as reason:
            left_out.append(str(reason))
    return Variant(variant, replies, left_out=tuple(left_out))


def _calculations(original: Original) -> list[Tree]:
    """The calculations of the gold chain; of the first right chain where there is none."""
    calls = [parse_calls(text)[0] for text in original.problem.gold]
    if not calls and original.right:
        steps = original.right[0].steps
        calls = [s.call for s in steps if s.call is not None and s.observation.failure is None]
    made = [calculation_of(call, "") for call in calls]
    return [calculation.tree for calculation in made if calculation is not None]


def _idle(problem: Problem) -> frozenset[Fraction]:
    """The numbers of a generated problem that its expression does not use."""
    numbers, expression = problem.metadata.get("numbers", {}), problem.metadata.get("expression", "")
    used = set(re.findall(r"[a-z]", expression))
    return frozenset(Fraction(text) for name, text in numbers.items() if name not in used)


def _problem(problem: Problem, made: Renumbering) -> Problem:
    """The problem with new numbers in all that is known of it."""
    metadata = dict(problem.metadata)
    gold = _gold(problem, made)
    if "annotations" in metadata:
        metadata["annotations"] = [
            [parse_calls(text)[0].args[0], show(made.values[f"r{i}"])]
            for i, text in enumerate(gold[:-1])
        ]
    if "answer_from_call" in metadata:
        metadata["answer_from_call"] = bool(gold)
    if "numbers" in metadata:
        new = {value: made.values[name] for name, value in made.guide.text.values.items()}
        metadata["numbers"] = {
            name: show(new.get(Fraction(text), Fraction(text)))
            for name, text in metadata["numbers"].items()
        }
    update = {
        "question": made.question,
        "answer": show(made.answer),
        "gold": gold,
        "metadata": metadata,
    }
    return problem.model_copy(update=update)


def _gold(problem: Problem, made: Renumbering) -> tuple[str, ...]:
    """The gold calls with the new numbers; none if they are not known."""
    if not problem.gold:
        return ()
    *calls, end = problem.gold
    found: list[str] = []
    for text, tree in zip(calls, made.guide.trees, strict=True):
        sources = _leaf_sources(tree)
        if len(_values_in(text)) != len(sources):
            raise Rejected("a call that is not traced")
        found.append(_replaced(text, [source.value(made.values) for source in sources]))
    answer = show(made.answer)
    call = parse_calls(end)[0]
    return (*found, call_text(call.name, [json.loads(answer) if "/" not in answer else answer]))


def _leaf_sources(tree: Tree) -> list[Source]:
    if isinstance(tree, Source):
        return [tree]
    return [source for operand in tree[1:] for source in _leaf_sources(operand)]
