"""The function `solve_equation`: exact solutions by sympy, from a parsed tree (never from text).

It stands alone because it is untrusted: defining it runs its example, which starts a worker process
and imports sympy there. Tasks import it when a run's functions include it. sympy is
imported here, not in the call, so that its import does not count as the call's time.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import sympy

from rightcall.errors import CallError
from rightcall.functions import Limits, function
from rightcall.tasks.math.expressions import Tree, compute, names_in, split_equation
from rightcall.tasks.math.numbers import show

MAX_POWER = 8


def solutions(equation: str, unknown: str) -> list[str]:
    """All real solutions as text; `["every x"]` for an identity. Raises `CallError` for an equation
    that is malformed, has other names, or has no exact solution here."""
    left, right = split_equation(equation)
    mentioned = names_in(left) | names_in(right)
    if mentioned != {unknown}:
        raise CallError(
            f"the equation must be in the unknown {unknown!r} alone",
            value=sorted(mentioned),
            remedy="Put numbers for the other names, or name the unknown.",
        )
    difference = sympy.together(_symbolic(("subtract", left, right), sympy.Symbol(unknown, real=True)))
    if sympy.simplify(difference) == 0:
        return [f"every {unknown}"]
    try:
        found = sympy.solve(difference)
    except NotImplementedError as error:
        raise CallError("no exact solution was found", remedy="Use a simpler equation.") from error
    return [_text(solution) for solution in found]


def _text(solution: Any) -> str:
    return show(Fraction(int(solution.p), int(solution.q))) if solution.is_Rational else str(solution)


def _symbolic(tree: Tree, symbol: Any) -> Any:
    if not names_in(tree):
        value = compute(tree)
        return sympy.Rational(value.numerator, value.denominator)
    if isinstance(tree, str):
        return symbol
    operator, *operands = tree
    if operator == "power":
        return _symbolic(operands[0], symbol) ** _exponent(operands[1])
    first, *rest = (_symbolic(operand, symbol) for operand in operands)
    match operator:
        case "add":
            return first + rest[0]
        case "subtract":
            return first - rest[0]
        case "multiply":
            return first * rest[0]
        case "divide":
            return first / rest[0]
        case "negative":
            return -first
        case "percent":
            return first / 100
    raise CallError("// and % cannot be solved for", remedy="Write the equation without them.")


def _exponent(tree: Tree) -> int:
    value = None if names_in(tree) else compute(tree)
    if value is None or value.denominator != 1 or abs(value) > MAX_POWER:
        raise CallError(
            "unusable exponent",
            value=value and str(value),
            remedy=f"Use a whole exponent from -{MAX_POWER} to {MAX_POWER}.",
        )
    return int(value)


@function(example="solve_equation('2*x + 3 = 11')", limits=Limits(seconds=5, memory_mb=1024))
def solve_equation(equation: str, unknown: str = "x") -> str:
    """All real solutions of an equation in one unknown."""
    found = solutions(equation, unknown)
    return " or ".join(found) if found else "no real solution"
