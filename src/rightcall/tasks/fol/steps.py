"""A proof as a chain of steps: each follows from few premises and what was derived before.

The generator's theories are chains of rules, one hop after another. Here such a chain is found again
from the formulas alone, with the prover: what the goal needs, then rule by rule what it gives about the
names at hand (or, in a theory without names, about all or some things of a sort that the goal speaks
of).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from rightcall.tasks.fol import prover
from rightcall.tasks.fol.formula import (
    And,
    Atom,
    Constant,
    Exists,
    ForAll,
    Formula,
    Iff,
    Implies,
    Not,
    Variable,
    constants,
    predicates,
)  # fmt: skip


@dataclass(frozen=True)
class ProofStep:
    """A formula and the names of those that it follows from: P1, P2, ... D1, D2, ..."""

    formula: Formula
    names: tuple[str, ...]


def proof(premises: Sequence[Formula], goal: Formula) -> list[ProofStep] | None:
    """Steps of which the last gives the goal; None if the prover does not find that it follows.

    Every step is needed by a later one, and every name by its step.
    """
    given = {f"P{number}": formula for number, formula in enumerate(premises, 1)}
    if not _follows(given.values(), goal):
        return None
    needed = _needed(given, goal)
    known = {name: formula for name, formula in needed.items() if not _is_rule(formula)}
    if _quantified(goal):  # a chain about a sort starts from the rules for that sort
        sort = predicates(_scope(goal))
        known |= {name: one for name, one in needed.items() if predicates(one) & sort}
    rules = {name: formula for name, formula in needed.items() if name not in known}
    named = sorted(frozenset().union(*map(constants, (*needed.values(), goal))))
    steps: list[ProofStep] = []
    while (
        len(rules) > (0 if _quantified(goal) else 1)
        and (found := _next_step(known, rules, named, goal)) is not None
    ):
        rule, step = found
        del rules[rule]
        steps.append(step)
        known[f"D{len(steps)}"] = step.formula
        if step.formula == goal:
            break
    if not steps or steps[-1].formula != goal:
        steps.append(ProofStep(goal, tuple(_needed({**known, **rules}, goal))))
    return _pruned(steps)


def _next_step(
    known: Mapping[str, Formula],
    rules: Mapping[str, Formula],
    named: Sequence[str],
    goal: Formula,
) -> tuple[str, ProofStep] | None:
    """What one more rule gives: the goal if it can, otherwise a literal that another rule or the goal
    can make use of."""
    for name, rule in rules.items():
        basis = {**known, name: rule}
        later = [goal, *(other for label, other in rules.items() if label != name)]
        useful = predicates(rule) & frozenset().union(*map(predicates, later))
        for candidate in (goal, *_candidates(sorted(useful), named, goal)):
            if not _follows(basis.values(), candidate):
                continue
            names = tuple(_needed(basis, candidate))
            if name in names and len(names) > 1:
                return name, ProofStep(candidate, names)
    return None


def _candidates(
    useful: Sequence[tuple[str, int]], named: Sequence[str], goal: Formula
) -> Iterator[Formula]:
    """Literals with these predicates: about names or, where the goal has a quantifier, about all or
    some things of a sort that it speaks of."""
    names = [Constant(name) for name in named]
    for predicate, arity in useful:
        for terms in product(names, repeat=arity):
            atom = Atom(predicate, terms)
            yield from (atom, Not(atom))
        for others in product(names, repeat=arity - 1):
            yield from _about_sorts(Atom(predicate, (Variable("x"), *others)), goal)


def _about_sorts(atom: Atom, goal: Formula) -> Iterator[Formula]:
    if not _quantified(goal):
        return
    universal = isinstance(goal, ForAll) or (isinstance(goal, Not) and isinstance(goal.body, Exists))
    for sort, arity in sorted(predicates(goal)):
        if arity == 1 and sort != atom.predicate:
            scope = Atom(sort, (Variable("x"),))
            for literal in (atom, Not(atom)):
                if universal:
                    yield ForAll("x", Implies(scope, literal))
                else:
                    yield Exists("x", And(scope, literal))


def _scope(goal: Formula) -> Formula:
    """The sort of things that a quantified goal speaks of: what it names first."""
    body = goal.body if isinstance(goal, Not) else goal
    inner = body.body if isinstance(body, (ForAll, Exists)) else body
    return inner.left if isinstance(inner, (And, Implies)) else inner


def _quantified(goal: Formula) -> bool:
    return isinstance(goal.body if isinstance(goal, Not) else goal, (ForAll, Exists))


def _is_rule(formula: Formula) -> bool:
    """Whether it speaks of all or some things, or says what follows from what."""
    return isinstance(formula, (ForAll, Exists, Implies, Iff))


def _follows(premises: Iterable[Formula], goal: Formula) -> bool:
    return prover.consistent((*premises, Not(goal))) is False


def _needed(given: Mapping[str, Formula], goal: Formula) -> dict[str, Formula]:
    """As few of the formulas as still entail the goal: none of them can be left out."""
    kept = dict(given)
    for name in given:
        rest = {other: formula for other, formula in kept.items() if other != name}
        if _follows(rest.values(), goal):
            kept = rest
    return kept


def _pruned(steps: Sequence[ProofStep]) -> list[ProofStep]:
    """The steps that the last one rests on, with their names counted anew."""
    wanted = {len(steps)}
    for number in range(len(steps), 0, -1):
        if number in wanted:
            wanted |= {int(n[1:]) for n in steps[number - 1].names if n.startswith("D")}
    names = {f"D{old}": f"D{new}" for new, old in enumerate(sorted(wanted), 1)}
    return [
        ProofStep(steps[n - 1].formula, tuple(names.get(name, name) for name in steps[n - 1].names))
        for n in sorted(wanted)
    ]
