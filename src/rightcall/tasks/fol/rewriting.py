"""Formulas that say the same: contraposition, De Morgan's laws, negated quantifiers, double negation,
and sides exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from rightcall.tasks.fol.formula import (
    And,
    Atom,
    Exists,
    ForAll,
    Formula,
    Iff,
    Implies,
    Not,
    Or,
    Xor,
    negated,
)

Law = Callable[[Formula], Formula | None]
"""A formula → one of the same meaning, made at its outermost operator; None where it does not apply."""


def contraposed(formula: Formula) -> Formula | None:
    """a -> b  ≡  ~b -> ~a"""
    match formula:
        case Implies(left, right):
            return Implies(negated(right), negated(left))
    return None


def exchanged(formula: Formula) -> Formula | None:
    """a & b  ≡  b & a, and so for |, ^ and <->"""
    match formula:
        case And(left, right) | Or(left, right) | Xor(left, right) | Iff(left, right):
            return type(formula)(right, left)
    return None


def de_morgan(formula: Formula) -> Formula | None:
    """~(a & b)  ≡  ~a | ~b;  ~(a | b)  ≡  ~a & ~b; and back"""
    match formula:
        case Not(And(left, right)):
            return Or(negated(left), negated(right))
        case Not(Or(left, right)):
            return And(negated(left), negated(right))
        case And(Not(left), Not(right)):
            return Not(Or(left, right))
        case Or(Not(left), Not(right)):
            return Not(And(left, right))
    return None


def through_quantifier(formula: Formula) -> Formula | None:
    """~exists x a  ≡  forall x ~a, and back; forall x (a -> b)  ≡  ~exists x (a & ~b)"""
    match formula:
        case Not(ForAll(variable, body)):
            return Exists(variable, _denied(body))
        case Not(Exists(variable, body)):
            return ForAll(variable, _denied(body))
        case ForAll(variable, body):
            return Not(Exists(variable, _denied(body)))
        case Exists(variable, body):
            return Not(ForAll(variable, _denied(body)))
    return None


def _denied(body: Formula) -> Formula:
    """The negation as one says it of a kind: of "a -> b" it is "a & ~b", of "a & b" "a -> ~b"."""
    match body:
        case Implies(left, right):
            return And(left, negated(right))
        case And(left, right):
            return Implies(left, negated(right))
    return negated(body)


def doubly_denied(formula: Formula) -> Formula | None:
    """a  ≡  ~~a"""
    match formula:
        case Not(Not(body)):
            return body
        case Atom():
            return Not(Not(formula))
    return None


LAWS: dict[Law, float] = {
    contraposed: 3, exchanged: 3, de_morgan: 3, through_quantifier: 3, doubly_denied: 0.15,
}  # fmt: skip
"""With how often each is used of those that apply."""
DOUBLY_DENIED = 0.05
"""Share of the formulas that are doubly denied, of those where no other law applies: facts."""


def rewritings(formula: Formula, law: Law) -> Iterator[Formula]:
    """The formula with a law applied once, at each place where it applies."""
    whole = law(formula)
    if whole is not None:
        yield whole
    match formula:
        case Not(body):
            yield from (Not(one) for one in rewritings(body, law))
        case ForAll(variable, body) | Exists(variable, body):
            yield from (type(formula)(variable, one) for one in rewritings(body, law))
        case And(left, right) | Or(left, right) | Xor(left, right):
            yield from (replace(formula, left=one) for one in rewritings(left, law))
            yield from (replace(formula, right=one) for one in rewritings(right, law))
        case Implies(left, right) | Iff(left, right):
            yield from (replace(formula, left=one) for one in rewritings(left, law))
            yield from (replace(formula, right=one) for one in rewritings(right, law))


def has_law(formula: Formula) -> bool:
    """Whether it can be said another way without a double negation."""
    laws = (law for law in LAWS if law is not doubly_denied)
    return any(one != formula for law in laws for one in rewritings(formula, law))


def rewriting(formula: Formula, rng: Random) -> Formula | None:
    """One other formula of the same meaning; None if no law applies or none is drawn. Which law applies
    is drawn first, then where."""
    ways = {law: [one for one in rewritings(formula, law) if one != formula] for law in LAWS}
    laws = [law for law, found in ways.items() if found]
    if not laws or (laws == [doubly_denied] and rng.random() > DOUBLY_DENIED):
        return None
    law = rng.choices(laws, [LAWS[one] for one in laws])[0]
    return rng.choice(ways[law])
