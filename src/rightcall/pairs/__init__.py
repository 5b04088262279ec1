"""Chains → preference pairs: who is right, who is wrong, and what may be learned from the two.

    chains.jsonl → step trees → a strategy → PreferencePair → pairs.jsonl

A pairing strategy is a function in `STRATEGIES`; to add one, write it and add a line there.
A pairs file is opened by `datasets.load_dataset("json", ...)` and taken by `trl.DPOTrainer` as it
is: no column is ever null and none changes its type from row to row.
"""

from __future__ import annotations

from rightcall.leaks import normalised
from rightcall.pairs.files import check_leaks, read_pairs, write_pairs
from rightcall.pairs.making import PairConfig, compare_strategies, make_pairs
from rightcall.pairs.pair import Basis, PreferencePair, TurnIds
from rightcall.pairs.statistics import PairStatistics, Spread, comparison_table, pair_statistics
from rightcall.pairs.strategies import STRATEGIES, Sides, Strategy, error_class

__all__ = [
    "STRATEGIES",
    "Basis",
    "PairConfig",
    "PairStatistics",
    "PreferencePair",
    "Sides",
    "Spread",
    "Strategy",
    "TurnIds",
    "check_leaks",
    "compare_strategies",
    "comparison_table",
    "error_class",
    "make_pairs",
    "normalised",
    "pair_statistics",
    "read_pairs",
    "write_pairs",
]
