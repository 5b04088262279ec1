"""How a model uses its functions: figures that a right answer alone does not give away.

    values.py           what a result, an argument or an answer says: numbers by value, texts by word
    habits.py           figures of finished chains: coverage, unused results, early answers, repetitions
    counterfactual.py   one observation is replaced, and the model goes on: does its answer follow?
    table.py            all of it as rows, for the terminal and the page

A model that computes in its head and calls functions for show is right as often as an honest one. It
is not what a teacher should be imitated in, and it fails where its head does.
"""

from __future__ import annotations

from rightcall.conduct.counterfactual import Counterfactual, CounterfactualPlan
from rightcall.conduct.habits import Conduct, FunctionUse, ShownFunction, conduct, shown_functions

__all__ = [
    "Conduct",
    "Counterfactual",
    "CounterfactualPlan",
    "FunctionUse",
    "ShownFunction",
    "conduct",
    "shown_functions",
]
