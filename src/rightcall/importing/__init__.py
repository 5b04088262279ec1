"""Logs that exist already → chains.

    log → importer (one function) → Recorded → the agent loop runs every call again → chains.jsonl

`IMPORTERS` names those that come with the package; a user's own is `path/to/file.py:function`.
"""

from __future__ import annotations

from rightcall.importing.recorded import (
    IMPORTERS,
    Importer,
    Place,
    Recorded,
    RecordedCall,
    Unreadable,
    load_importer,
    read_log,
    read_logs,
)
from rightcall.importing.reexecution import every_problem, import_chains
from rightcall.importing.summary import Difference, ImportReport, ModelFigures

__all__ = [
    "IMPORTERS",
    "Difference",
    "ImportReport",
    "Importer",
    "ModelFigures",
    "Place",
    "Recorded",
    "RecordedCall",
    "Unreadable",
    "every_problem",
    "import_chains",
    "load_importer",
    "read_log",
    "read_logs",
]
