"""The functions of the math tasks: exact arithmetic and the flow of the chain."""

from __future__ import annotations

from rightcall.functions import Role, Stop, function
from rightcall.tasks.math import expressions
from rightcall.tasks.math.numbers import Answer, Number, Percent, bounded, rounded, show


@function(example="add(2, 3)", trusted=True)
def add(a: Number, b: Number) -> str:
    """a + b."""
    return show(bounded(a + b))


@function(example="subtract(7, 3)", trusted=True)
def subtract(a: Number, b: Number) -> str:
    """a - b."""
    return show(bounded(a - b))


@function(example="multiply(4, 12)", trusted=True)
def multiply(a: Number, b: Number) -> str:
    """a times b."""
    return show(bounded(a * b))


@function(example="divide(9, 2)", trusted=True)
def divide(a: Number, b: Number) -> str:
    """a divided by b, exact."""
    return show(bounded(expressions.divided(a, b)))


@function(example="percent_of(25, 80)", trusted=True)
def percent_of(percent: Percent, number: Number) -> str:
    """percent % of number."""
    return show(bounded(percent * number / 100))


@function(example="percent_change(80, 100)", trusted=True)
def percent_change(old: Number, new: Number) -> str:
    """By how many percent new is above old."""
    return show(bounded(expressions.divided((new - old) * 100, old)))


@function(example="round_to(2.345, 2)", trusted=True)
def round_to(number: Number, digits: int = 0) -> str:
    """Round to digits decimals, halves away from zero."""
    return show(rounded(number, digits))


@function(example="calculate('(3 + 4.5) * 2')", trusted=True)
def calculate(expression: str) -> str:
    """The exact value of an expression with + - * / // % ** and brackets."""
    return show(expressions.compute(expressions.parse(expression)))


@function(example="reason('First find the cost.')", role=Role.FLOW, trusted=True)
def reason(thought: str) -> str:
    """Note a thought."""
    del thought
    return "noted"


@function(example="stop(43)", role=Role.FLOW, trusted=True)
def stop(answer: Answer) -> Stop:
    """End with the answer."""
    return Stop(str(answer))


TRUSTED = (
    add,
    subtract,
    multiply,
    divide,
    percent_of,
    percent_change,
    round_to,
    calculate,
    reason,
    stop,
)
"""All but `solve_equation`: they are bounded, and defining them starts no worker process."""
