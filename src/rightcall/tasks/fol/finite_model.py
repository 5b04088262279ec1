"""Small models of a set of formulas, found by writing the quantifiers out over a finite domain.

The domain is one individual per constant plus as few nameless ones as will do. Nothing keeps two
constants from naming the same individual: where `=` occurs it is an equivalence that the predicates
respect, and a class of equal individuals counts as one.

A model found is a real one, so the formulas are consistent. Finding none proves nothing in general;
but without `=` and with no existential inside a universal (signs counted) Herbrand's theorem says
that one nameless individual per existential is enough, and then the search decides (`settle`).

Among the models of the smallest size the one returned is *least*: in alphabetical order each fact is
false if it can be. That makes it short, and the same whatever Z3's search did before.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product
from typing import TypeAlias

import z3

from rightcall.tasks.fol.formula import (
    And,
    Atom,
    Equals,
    Exists,
    ForAll,
    Formula,
    Iff,
    Implies,
    Not,
    Or,
    Xor,
    constants,
    leaves,
    predicates,
)

MAX_NAMELESS = 3
WORK_PER_SECOND = 400_000
"""Z3's `rlimit` units: what it does in a second at its slowest (hard propositional problems)."""
MAX_GROUND = 20_000
"""Nodes of the written-out formulas; more is given up (about a tenth of a second)."""

Fact: TypeAlias = tuple[str, tuple[str, ...]]
"""A predicate (or "=") and the individuals it holds of."""

_NAMELESS = ("someone", "someone else", "a third one", "a fourth one")


@dataclass(frozen=True)
class Model:
    individuals: tuple[str, ...]
    """Constants in alphabetical order, then nameless ones."""
    facts: frozenset[Fact]
    """What holds; every other fact is false."""


class _TooLarge(Exception):
    """The formulas written out exceed MAX_GROUND nodes or the time is up."""


def least_model(formulas: Sequence[Formula], *, seconds: float, context: z3.Context) -> Model | None:
    """The least model with at most MAX_NAMELESS nameless individuals, or None if there is none, or
    it is too large to look for, or time is up."""
    named = _named(formulas)
    deadline = time.monotonic() + seconds
    try:
        for nameless in range(0 if named else 1, MAX_NAMELESS + 1):
            search = _Search(formulas, _individuals(named, nameless), deadline, context)
            if (found := search.least()) is not None:
                return found
    except _TooLarge:
        pass
    return None


def settle(
    premises: Sequence[Formula], goal: Formula, *, seconds: float, context: z3.Context
) -> tuple[bool, bool] | None:
    """Whether the premises can hold with the goal, and without it; None where a finite domain cannot
    tell (see the module's docstring), is too large, or time is up."""
    nameless = sum((_witnesses(premise)[0] for premise in premises), start=max(_witnesses(goal)))
    if nameless > MAX_NAMELESS:
        return None
    named = _named([*premises, goal])
    individuals = _individuals(named, int(nameless) if named else max(1, int(nameless)))
    try:
        search = _Search(premises, individuals, time.monotonic() + seconds, context, goal=goal)
        return search.satisfiable("goal"), search.satisfiable("(not goal)")
    except _TooLarge:
        return None


def _named(formulas: Sequence[Formula]) -> list[str]:
    return sorted(set().union(*map(constants, formulas)))


def _individuals(named: Sequence[str], nameless: int) -> tuple[str, ...]:
    return (*named, *[name for name in _NAMELESS if name not in named][:nameless])


def _witnesses(formula: Formula) -> tuple[float, float]:
    """How many individuals must be able to bear out the existentials of a formula, and of its
    negation; infinite where no number is known to do: beside `=`, and where an existential lies in
    a universal. Both at once, since each side of ↔ and ⊕ counts under both signs."""
    match formula:
        case Atom():
            return 0, 0
        case Equals():
            return math.inf, math.inf
        case Not(body):
            plain, negated = _witnesses(body)
            return negated, plain
        case ForAll(_, body):
            plain, negated = _witnesses(body)
            return (math.inf if plain else 0), 1 + negated
        case Exists(_, body):
            plain, negated = _witnesses(body)
            return 1 + plain, (math.inf if negated else 0)
    left, right = _witnesses(formula.left), _witnesses(formula.right)
    match formula:
        case Xor() | Iff():
            both = sum((*left, *right))
            return both, both
        case Implies():
            return left[1] + right[0], left[0] + right[1]
    return left[0] + right[0], left[1] + right[1]


class _Search:
    """One domain: every fact is a Boolean `b0`, `b1`, ... of Z3. The formulas reach Z3 as SMT-LIB
    text, which it reads many times faster than its Python objects can be made."""

    def __init__(
        self,
        formulas: Sequence[Formula],
        individuals: tuple[str, ...],
        deadline: float,
        context: z3.Context,
        *,
        goal: Formula | None = None,
    ) -> None:
        self.individuals = individuals
        self.deadline = deadline
        self.context = context
        self.size = 0
        self.facts: dict[Fact, str] = {}
        written = [self.ground(formula, {}) for formula in formulas]
        if any(isinstance(leaf, Equals) for formula in formulas for leaf in leaves(formula)):
            written += self._equality(set().union(*map(predicates, formulas)))
        self.certain = {text for text in written if text.startswith("b")}
        names = list(self.facts.values())
        if goal is not None:
            written.append(f"(= goal {self.ground(goal, {})})")
            names = [*self.facts.values(), "goal"]
        self.solver = z3.SolverFor("QF_FD", ctx=context)
        self.solver.set("phase", "always_false")  # so that the first model is nearly least
        declared = "".join(f"(declare-const {name} Bool)" for name in names)
        self.solver.from_string(declared + _asserted(written))

    # --- writing out ---

    def ground(self, formula: Formula, values: dict[str, str]) -> str:
        """The formula over this domain in SMT-LIB; `values` says whom the variables stand for."""
        self._count()
        match formula:
            case Atom(predicate, arguments):
                return self.fact(predicate, tuple([values.get(t.name, t.name) for t in arguments]))
            case Equals(left, right):
                return self.same(values.get(left.name, left.name), values.get(right.name, right.name))
            case Not(body):
                return f"(not {self.ground(body, values)})"
            case ForAll(variable, body) | Exists(variable, body):
                cases = [self.ground(body, {**values, variable: i}) for i in self.individuals]
                return f"({'and' if isinstance(formula, ForAll) else 'or'} {' '.join(cases)})"
            case _:
                left_text, right_text = (
                    self.ground(formula.left, values),
                    self.ground(formula.right, values),
                )
                return f"({_OPERATORS[type(formula)]} {left_text} {right_text})"

    def fact(self, predicate: str, individuals: tuple[str, ...]) -> str:
        return self.facts.setdefault((predicate, individuals), f"b{len(self.facts)}")

    def same(self, left: str, right: str) -> str:
        if left == right:
            return "true"
        return self.fact("=", tuple(sorted((left, right), key=self.individuals.index)))

    def _equality(self, used: set[tuple[str, int]]) -> list[str]:
        """`=` is transitive (reflexive and symmetric by `same`), and equals share their facts."""
        axioms = []
        for a, b, c in permutations(self.individuals, 3):
            self._count(3)
            axioms.append(f"(=> (and {self.same(a, b)} {self.same(b, c)}) {self.same(a, c)})")
        for (predicate, arity), (a, b) in product(sorted(used), combinations(self.individuals, 2)):
            for place in range(arity):
                for others in product(self.individuals, repeat=arity - 1):
                    self._count(3)
                    before, after = others[:place], others[place:]
                    one = self.fact(predicate, (*before, a, *after))
                    other = self.fact(predicate, (*before, b, *after))
                    axioms.append(f"(=> {self.same(a, b)} (= {one} {other}))")
        return axioms

    def _count(self, nodes: int = 1) -> None:
        self.size += nodes
        if self.size > MAX_GROUND:
            raise _TooLarge

    # --- solving ---

    def least(self) -> Model | None:
        """Facts are made false one by one, in order; only those the last model needs cost a check."""
        if not self.satisfiable():
            return None
        needed = self._true_in_model()
        true: set[Fact] = set()
        settled: list[str] = []
        for fact in sorted(self.facts, key=lambda fact: (fact[0] != "=", fact)):
            name = self.facts[fact]
            if name in needed and name not in self.certain:
                self.solver.from_string(_asserted(settled))
                settled = []
                if self.satisfiable(f"(not {name})"):
                    needed = self._true_in_model()
            if name in needed:
                true.add(fact)
            settled.append(name if name in needed else f"(not {name})")
        return Model(self.individuals, frozenset(true))

    def satisfiable(self, literal: str = "") -> bool:
        """Whether the formulas can hold, and with them `name` or `(not name)`."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _TooLarge
        # No timeout: Z3 starts a thread for one, which costs more than most of these checks.
        self.solver.set("rlimit", max(1, int(left * WORK_PER_SECOND)))
        variable = z3.Bool(literal.removeprefix("(not ").removesuffix(")"), self.context)
        assumed = [z3.Not(variable) if literal.startswith("(") else variable] if literal else []
        answer = self.solver.check(*assumed)
        if answer == z3.unknown:
            raise _TooLarge
        return bool(answer == z3.sat)

    def _true_in_model(self) -> set[str]:
        return set(_TRUE.findall(self.solver.model().sexpr()))


def _asserted(written: Sequence[str]) -> str:
    return "".join(f"(assert {line})" for line in written)


_OPERATORS: dict[type, str] = {And: "and", Or: "or", Xor: "xor", Implies: "=>", Iff: "="}
_TRUE = re.compile(r"\(define-fun (b\d+) \(\) Bool\s+true\)")


# --- in words -----------------------------------------------------------------------------------

MAX_WORDS = 320
"""Characters of a model in words."""


def in_words(model: Model, goal: Formula) -> str:
    """Who exists, what holds of whom, and what that the goal asks about does not.

    For example "Bob is cold, not red; someone is cat; likes(Bob, Anne); nothing else holds". Longer
    ones are cut after a whole fact, and say so.
    """
    clauses = _clauses(model, goal)
    shown: list[str] = []
    for clause in clauses:
        if shown and sum(map(len, shown)) + len(clause) > MAX_WORDS:
            break
        shown.append(clause)
    left = len(clauses) - len(shown)
    ending = f"and {left} more such clauses" if left else "nothing else holds"
    return "; ".join([*shown, ending])


def _clauses(model: Model, goal: Formula) -> list[str]:
    asked = predicates(goal)
    about = constants(goal)
    clauses = [
        f"{name} is {'true' if (name, ()) in model.facts else 'not true'}"
        for name in sorted(
            {p for p, arity in asked if not arity} | {p for p, who in model.facts if not who}
        )
    ]
    for individual in model.individuals:
        holds = sorted(p for p, who in model.facts if who == (individual,))
        in_question = individual in about or (holds and not about)
        lacks = sorted(p for p, arity in asked if arity == 1 and in_question)
        said = [*holds, *(f"not {p}" for p in lacks if p not in holds)]
        if said:
            clauses.append(f"{individual} is {', '.join(said)}")
        elif individual in _NAMELESS and not any(individual in who for _, who in model.facts):
            if not any(arity for _, arity in asked) and not any(who for _, who in model.facts):
                continue  # nothing is about individuals
            clauses.append(f"{individual} exists")
    for predicate, who in sorted(model.facts):
        if predicate == "=":
            clauses.append(" = ".join(who))
        elif len(who) > 1:
            clauses.append(f"{predicate}({', '.join(who)})")
    return clauses
