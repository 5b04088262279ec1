"""Does a goal follow? Decided by Z3 on the quantified formulas, with a countermodel in words.

Standard first-order semantics: the domain is never empty, it may be infinite, and different
constants may name the same individual (nothing is distinct unless stated).

**Soundness.** A verdict is given only when every satisfiability question it rests on was answered;
whatever is left open is `GAVE_UP`. Where Z3 cannot tell (it looks for infinite models in vain), a
finite model found by `finite_model` counts as the answer "satisfiable".

**Limits.** `seconds` bounds the whole decision: each check gets the time that is left, the short ones
as a limit on Z3's own units of work (at their slowest rate, so that time may be overrun a
little on a busy machine), and `MAX_MEMORY_MB`. Z3 itself looks at its limits, between inference steps:
prompt in practice, but nothing outside of Z3 would end a step that never does. The task's functions
are trusted and run in this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import z3

from rightcall.tasks.fol import finite_model
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
    Variable,
    Xor,
    check_arities,
)

DEFAULT_SECONDS = 2.0
QUICK_WORK = 100_000
"""Z3's `rlimit` units for its first try at quantifiers: some 50 ms, and no timer thread."""
MAX_MEMORY_MB = 2048


class Verdict(StrEnum):
    """How a goal stands to its premises."""

    ENTAILED = "entailed"
    CONTRADICTED = "contradicted"
    """The premises entail its negation."""
    UNDECIDED = "undecided"
    """The premises entail neither."""
    INCONSISTENT = "inconsistent"
    """The premises contradict each other, so they entail everything."""
    GAVE_UP = "gave_up"


@dataclass(frozen=True)
class Decision:
    verdict: Verdict
    countermodel: str | None = None
    """A case where the premises hold and the goal does not, in words; None if there is none (or
    no small one)."""


def decide(
    premises: Sequence[Formula],
    goal: Formula,
    *,
    seconds: float = DEFAULT_SECONDS,
    countermodel: bool = True,
) -> Decision:
    """Whether closed premises entail a closed goal. Raises `FormulaError` if a predicate is used with
    different numbers of arguments. Repeated questions are answered from memory. Without
    `countermodel` none is looked for, which is faster.

    >>> from rightcall.tasks.fol.formula import parse
    >>> decide([parse("∀x (Cat(x) → Red(x))"), parse("Cat(Tom)")], parse("Red(Tom)")).verdict.value
    'entailed'
    >>> decide([parse("Cat(Tom)")], parse("Red(Tom)")).countermodel
    'Tom is Cat, not Red; nothing else holds'
    """
    return _decide(tuple(premises), goal, seconds, countermodel)


def equivalent(left: Formula, right: Formula, *, seconds: float = DEFAULT_SECONDS) -> bool | None:
    """Whether two formulas hold in the same models; None if that was not settled. A predicate with
    another number of arguments is another predicate."""
    if left == right:
        return True
    differ = _satisfiable((Xor(left, right),), time.monotonic() + seconds)
    return None if differ is None else not differ


def consistent(formulas: Sequence[Formula], *, seconds: float = DEFAULT_SECONDS) -> bool | None:
    """Whether formulas can hold together; None if that was not settled. Raises `FormulaError` as
    `decide` does."""
    check_arities(formulas)
    return _satisfiable(tuple(formulas), time.monotonic() + seconds)


@lru_cache(maxsize=4096)
def _decide(
    premises: tuple[Formula, ...], goal: Formula, seconds: float, countermodel: bool
) -> Decision:
    check_arities([*premises, goal])
    deadline = time.monotonic() + seconds
    may_hold, may_fail = _outcomes(premises, goal, deadline)
    if may_hold is None or may_fail is None:
        return Decision(Verdict.GAVE_UP)
    if not may_fail:
        return Decision(Verdict.ENTAILED if may_hold else Verdict.INCONSISTENT)
    verdict = Verdict.UNDECIDED if may_hold else Verdict.CONTRADICTED
    return Decision(verdict, _countermodel(premises, goal, deadline) if countermodel else None)


def _outcomes(
    premises: tuple[Formula, ...], goal: Formula, deadline: float
) -> tuple[bool | None, bool | None]:
    """Whether the premises can hold with the goal and without it: by writing out the quantifiers
    where that is known to decide (which is faster), otherwise by Z3's own treatment of them."""
    if (seconds := _left(deadline)) <= 0:
        return None, None
    settled = finite_model.settle(premises, goal, seconds=seconds, context=_ENGINE.context)
    if settled is not None:
        return settled
    with_goal = _satisfiable((*premises, goal), deadline)
    return with_goal, _satisfiable((*premises, Not(goal)), deadline)


def _countermodel(premises: tuple[Formula, ...], goal: Formula, deadline: float) -> str | None:
    model = _small_model((*premises, Not(goal)), deadline)
    return None if model is None else finite_model.in_words(model, goal)


# --- Z3 -----------------------------------------------------------------------------------------


class _Engine(threading.local):
    """Z3's context and the formulas translated into it; one per thread, as Z3 demands."""

    def __init__(self) -> None:
        self.context = z3.Context()
        self.sort = z3.DeclareSort("Individual", self.context)
        self.closed: Callable[[Formula], Any] = lru_cache(maxsize=4096)(
            lambda formula: self.translate(formula)
        )

    def translate(self, formula: Formula) -> Any:
        match formula:
            case Atom(predicate, arguments):
                return self.predicate(predicate, len(arguments))(*map(self.term, arguments))
            case Equals(left, right):
                return self.term(left) == self.term(right)
            case Not(body):
                return z3.Not(self.translate(body))
            case ForAll(variable, body):
                return z3.ForAll([self.term(Variable(variable))], self.translate(body))
            case Exists(variable, body):
                return z3.Exists([self.term(Variable(variable))], self.translate(body))
        left, right = self.translate(formula.left), self.translate(formula.right)
        match formula:
            case And():
                return z3.And(left, right)
            case Or():
                return z3.Or(left, right)
            case Xor():
                return z3.Xor(left, right)
            case Implies():
                return z3.Implies(left, right)
            case Iff():
                return left == right

    def predicate(self, name: str, arity: int) -> Any:
        return z3.Function(f"{name}/{arity}", *[self.sort] * arity, z3.BoolSort(self.context))

    def term(self, term: Term) -> Any:
        mark = "?" if isinstance(term, Variable) else ""  # no name starts with a question mark
        return z3.Const(mark + term.name, self.sort)


_ENGINE = _Engine()


def _satisfiable(formulas: tuple[Formula, ...], deadline: float) -> bool | None:
    """None if neither Z3 nor the search for a small model settled it in time.

    Z3 answers nearly everything at once; where it does not, it is mostly because it builds an
    ever larger model of formulas that have a small one. So the small one is tried before Z3 gets
    the rest of the time.
    """
    answer = _checked(formulas, rlimit=QUICK_WORK)
    if answer is None and _small_model(formulas, deadline):
        return True
    if answer is None and (seconds := _left(deadline)) > 0:
        return _checked(formulas, timeout=max(1, int(seconds * 1000)))
    return answer


def _checked(formulas: tuple[Formula, ...], **limits: int) -> bool | None:
    """Z3's answer; None for unknown, out of time or out of memory."""
    solver = z3.SimpleSolver(ctx=_ENGINE.context)
    solver.set(max_memory=MAX_MEMORY_MB, **limits)
    try:
        solver.add([_ENGINE.closed(formula) for formula in formulas])
        answer = solver.check()
    except z3.Z3Exception:
        return None
    return None if answer == z3.unknown else bool(answer == z3.sat)


def _left(deadline: float) -> float:
    return deadline - time.monotonic()


def _small_model(formulas: tuple[Formula, ...], deadline: float) -> finite_model.Model | None:
    seconds = _left(deadline)
    return finite_model.least_model(formulas, seconds=seconds, context=_ENGINE.context)
