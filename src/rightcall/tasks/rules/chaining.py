"""Facts and rules, closed under forward chaining: ProofWriter's open-world semantics.

A literal is known if it is stated or some rule gives it from known literals. "Not" is a literal of its
own: "the cat is not green" is known only where it is stated or derived, never for lack of the opposite
(Tafjord et al. 2021, arXiv 2012.13048). A statement is true if it is known, false if its opposite is,
and unknown otherwise. That is weaker than classical logic, which also reasons by cases and backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

from rightcall.errors import CallError
from rightcall.tasks.fol.formula import (
    And,
    Atom,
    Constant,
    ForAll,
    Formula,
    Implies,
    Not,
    Term,
    Variable,
    to_text,
)

MAX_WORK = 200_000
"""Attempts to match a condition with a known literal, over a whole theory."""
MAX_VARIABLES = 3
"""Of a rule: what is tried grows with the number of individuals to this power."""


@dataclass(frozen=True, slots=True)
class Literal:
    predicate: str
    terms: tuple[Term, ...]
    positive: bool

    @property
    def opposite(self) -> Literal:
        return Literal(self.predicate, self.terms, not self.positive)

    def at(self, values: Mapping[str, Constant]) -> Literal:
        """With its variables replaced."""
        terms = (values[t.name] if isinstance(t, Variable) else t for t in self.terms)
        return Literal(self.predicate, tuple(terms), self.positive)


@dataclass(frozen=True, slots=True)
class Rule:
    """From all conditions, all conclusions, whatever the variables stand for. A fact has neither
    conditions nor variables."""

    variables: tuple[str, ...]
    conditions: tuple[Literal, ...]
    conclusions: tuple[Literal, ...]


@lru_cache(maxsize=65_536)
def rules_of(formula: Formula) -> tuple[Rule, ...]:
    """A formula as a rule, or a conjunction as one for each of its parts. Raises `CallError` if one is
    neither a fact nor a rule."""
    if isinstance(formula, And):
        return rules_of(formula.left) + rules_of(formula.right)
    return (_rule(formula),)


def _rule(formula: Formula) -> Rule:
    variables, body = [], formula
    while isinstance(body, ForAll):
        variables.append(body.variable)
        body = body.body
    if len(variables) > MAX_VARIABLES:
        raise CallError(f"a rule has at most {MAX_VARIABLES} variables", value=to_text(formula))
    if isinstance(body, Implies):
        return Rule(tuple(variables), _literals(body.left, formula), _literals(body.right, formula))
    return Rule(tuple(variables), (), _literals(body, formula))


def same_rules(one: Formula, other: Formula) -> bool:
    """Whether two formulas are the same rules, up to the names of variables and the order and
    repetition of conditions. That is finer than equivalence in classical logic: a rule and its
    contraposition derive different things here."""
    return _normal(one) == _normal(other)


@lru_cache(maxsize=65_536)
def _normal(formula: Formula) -> frozenset[tuple[frozenset[Literal], Literal]]:
    return frozenset(
        min((_renamed(rule, conclusion, order) for order in permutations(rule.variables)), key=_order)
        for rule in rules_of(formula)
        for conclusion in rule.conclusions
    )


def _order(rule: tuple[frozenset[Literal], Literal]) -> tuple[list[str], str]:
    return sorted(map(str, rule[0])), str(rule[1])


def _renamed(
    rule: Rule, conclusion: Literal, order: Sequence[str]
) -> tuple[frozenset[Literal], Literal]:
    """With the variables named by their place in an order."""
    names = {name: Variable(f"x{place}") for place, name in enumerate(order)}

    def renamed(literal: Literal) -> Literal:
        terms = (names[t.name] if isinstance(t, Variable) else t for t in literal.terms)
        return Literal(literal.predicate, tuple(terms), literal.positive)

    return frozenset(map(renamed, rule.conditions)), renamed(conclusion)


def literal_of(formula: Formula) -> Literal:
    """A formula as a literal without variables. Raises `CallError` for any other."""
    found = _literal(formula)
    if found is None or any(isinstance(term, Variable) for term in found.terms):
        raise CallError(
            "the goal is not a statement about individuals",
            value=to_text(formula),
            remedy="Write it as red(Bob), ~red(Bob) or likes(cat, dog).",
        )
    return found


def _literals(formula: Formula, whole: Formula) -> tuple[Literal, ...]:
    if isinstance(formula, And):
        return _literals(formula.left, whole) + _literals(formula.right, whole)
    found = _literal(formula)
    if found is None:
        raise CallError(
            "this is neither a fact nor a rule",
            value=to_text(whole),
            remedy="Write cold(Bob), or forall x (cold(x) & ~nice(x) -> red(x)).",
        )
    return (found,)


def _literal(formula: Formula) -> Literal | None:
    match formula:
        case Atom(predicate, terms):
            return Literal(predicate, terms, True)
        case Not(Atom(predicate, terms)):
            return Literal(predicate, terms, False)
    return None


def known(formulas: Iterable[Formula]) -> dict[Literal, int]:
    """Every known literal with its depth: 0 if stated, else one more than the deepest condition of
    the first rule application that gave it. Raises `CallError` beyond `MAX_WORK`."""
    rules = [rule for formula in formulas for rule in rules_of(formula)]
    everybody = sorted({c for rule in rules for c in _individuals(rule)}, key=lambda one: one.name)
    found = {
        lit: 0
        for rule in rules
        if not rule.variables and not rule.conditions
        for lit in rule.conclusions
    }
    search = _Search(found)
    depth = 0
    while True:
        depth += 1
        fresh = {
            conclusion
            for rule in rules
            if rule.variables or rule.conditions
            for values in search.matches(rule, everybody)
            for conclusion in (one.at(values) for one in rule.conclusions)
            if conclusion not in found
        }
        if not fresh:
            return found
        for literal in fresh:
            search.add(literal, depth)


def _individuals(rule: Rule) -> Iterator[Constant]:
    for literal in (*rule.conditions, *rule.conclusions):
        yield from (term for term in literal.terms if isinstance(term, Constant))


class _Search:
    """Known literals by predicate and sign, and the ways in which rules apply to them."""

    def __init__(self, found: dict[Literal, int]) -> None:
        self._found = found
        self._by_kind: dict[tuple[str, bool], list[Literal]] = {}
        self._work = 0
        for literal in found:
            self._by_kind.setdefault((literal.predicate, literal.positive), []).append(literal)

    def add(self, literal: Literal, depth: int) -> None:
        self._found[literal] = depth
        self._by_kind.setdefault((literal.predicate, literal.positive), []).append(literal)

    def matches(self, rule: Rule, everybody: Sequence[Constant]) -> Iterator[dict[str, Constant]]:
        """Every way to satisfy the conditions; variables that occur in none take every individual."""
        ways: list[dict[str, Constant]] = [{}]
        for condition in rule.conditions:
            ways = [way for before in ways for way in self._satisfied(condition, before)]
            if not ways:
                return
        for name in rule.variables:
            if name not in ways[0]:
                ways = [{**way, name: one} for way in ways for one in everybody]
                self._count(len(ways))
            if not ways:
                return
        yield from ways

    def _satisfied(
        self, condition: Literal, values: dict[str, Constant]
    ) -> Iterator[dict[str, Constant]]:
        candidates = self._by_kind.get((condition.predicate, condition.positive), ())
        self._count(len(candidates))
        for literal in candidates:
            if (more := _unified(condition.terms, literal.terms, values)) is not None:
                yield more

    def _count(self, tried: int) -> None:
        self._work += tried
        if self._work > MAX_WORK:
            raise CallError(
                "the rules are too many to be followed",
                remedy="Write rules with fewer variables.",
            )


def _unified(
    pattern: Sequence[Term], terms: Sequence[Term], values: dict[str, Constant]
) -> dict[str, Constant] | None:
    if len(pattern) != len(terms):
        return None
    made = dict(values)
    for wanted, given in zip(pattern, terms, strict=True):
        assert isinstance(given, Constant)
        if isinstance(wanted, Variable):
            if made.setdefault(wanted.name, given) != given:
                return None
        elif wanted != given:
            return None
    return made


def decide(formulas: Iterable[Formula], goal: Formula) -> str:
    """ "True", "False" or "Unknown". Where a theory gives a literal and its opposite, both are known,
    and the goal as it is stated counts first."""
    stated, everything = literal_of(goal), known(formulas)
    if stated in everything:
        return "True"
    return "False" if stated.opposite in everything else "Unknown"
