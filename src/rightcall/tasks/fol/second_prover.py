"""The same question put to cvc5, by an encoding of its own: a check on `prover`, verdicts only.

Nothing of the Z3 side is shared but the words of the verdict. Two satisfiability questions settle a
goal: can the premises hold with it, can they hold without it? Each is asked plainly first and, if
cvc5 cannot tell, once more in its finite-model mode.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import cvc5
from cvc5 import Kind

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
    Term,
    Xor,
    check_arities,
)
from rightcall.tasks.fol.prover import Verdict

_MODES: tuple[Mapping[str, str], ...] = ({"finite-model-find": "true"}, {})
_KINDS: dict[type, Kind] = {
    And: Kind.AND, Or: Kind.OR, Xor: Kind.XOR, Implies: Kind.IMPLIES, Iff: Kind.EQUAL,
}  # fmt: skip


def decide(premises: Sequence[Formula], goal: Formula, *, seconds: float = 2.0) -> Verdict:
    """Whether closed premises entail a closed goal, in at most about `seconds`. Raises
    `FormulaError` if a predicate is used with different numbers of arguments."""
    check_arities([*premises, goal])
    deadline = time.monotonic() + seconds
    with_goal = _can_hold([*premises, goal], deadline)
    without_goal = _can_hold([*premises, Not(goal)], deadline)
    if with_goal is None or without_goal is None:
        return Verdict.GAVE_UP
    if with_goal:
        return Verdict.UNDECIDED if without_goal else Verdict.ENTAILED
    return Verdict.CONTRADICTED if without_goal else Verdict.INCONSISTENT


def _can_hold(formulas: Sequence[Formula], deadline: float) -> bool | None:
    for tries_left, mode in zip((2, 1), _MODES, strict=True):
        seconds = (deadline - time.monotonic()) / tries_left
        if seconds <= 0:
            return None
        answer = _Question(mode, seconds).ask(formulas)
        if answer is not None:
            return answer
    return None


class _Question:
    """One satisfiability question, with a term manager and solver that live as long as it does."""

    def __init__(self, mode: Mapping[str, str], seconds: float) -> None:
        self.terms = cvc5.TermManager()
        self.solver = cvc5.Solver(self.terms)
        self.solver.setLogic("UF")
        self.solver.setOption("tlimit-per", str(max(1, int(seconds * 1000))))
        for option, value in mode.items():
            self.solver.setOption(option, value)
        self.thing = self.terms.mkUninterpretedSort("Thing")
        self.symbols: dict[tuple[str, int], Any] = {}
        """Predicates under their number of arguments; constants under -1."""

    def ask(self, formulas: Sequence[Formula]) -> bool | None:
        for formula in formulas:
            self.solver.assertFormula(self.encode(formula, {}))
        answer = self.solver.checkSat()
        return None if answer.isUnknown() else bool(answer.isSat())

    def encode(self, formula: Formula, bound: Mapping[str, Any]) -> Any:
        match formula:
            case Atom(name, arguments):
                symbol = self._symbol(name, len(arguments))
                if not arguments:
                    return symbol
                return self.terms.mkTerm(
                    Kind.APPLY_UF, symbol, *[self._term(t, bound) for t in arguments]
                )
            case Equals(left, right):
                return self.terms.mkTerm(Kind.EQUAL, self._term(left, bound), self._term(right, bound))
            case Not(body):
                return self.terms.mkTerm(Kind.NOT, self.encode(body, bound))
            case ForAll(name, body) | Exists(name, body):
                variable = self.terms.mkVar(self.thing, name)
                kind = Kind.FORALL if isinstance(formula, ForAll) else Kind.EXISTS
                variables = self.terms.mkTerm(Kind.VARIABLE_LIST, variable)
                return self.terms.mkTerm(kind, variables, self.encode(body, {**bound, name: variable}))
            case _:
                sides = self.encode(formula.left, bound), self.encode(formula.right, bound)
                return self.terms.mkTerm(_KINDS[type(formula)], *sides)

    def _term(self, term: Term, bound: Mapping[str, Any]) -> Any:
        return bound[term.name] if term.name in bound else self._symbol(term.name, -1)

    def _symbol(self, name: str, arity: int) -> Any:
        key = (name, arity)
        if key not in self.symbols:
            truth = self.terms.getBooleanSort()
            sort = self.thing if arity < 0 else truth
            if arity > 0:
                sort = self.terms.mkFunctionSort([self.thing] * arity, truth)
            self.symbols[key] = self.terms.mkConst(sort, name)
        return self.symbols[key]
