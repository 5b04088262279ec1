"""Augmentation: a chain is a program, so change the problem and run it again.

`operation` says what one is, `shown` and `corruption` have those of any task, a task's own stand beside
the task (`Task.operations`), and `augmentation` executes and judges what they propose.
"""

from rightcall.augment.augmentation import (
    AugmentReport,
    Made,
    augment,
    carry_out,
    load_operation,
    operations_of,
    original_of,
    play,
)
from rightcall.augment.config import AugmentConfig
from rightcall.augment.operation import Operation, Original, Rejected, Variant

__all__ = [
    "AugmentConfig",
    "AugmentReport",
    "Made",
    "Operation",
    "Original",
    "Rejected",
    "Variant",
    "augment",
    "carry_out",
    "load_operation",
    "operations_of",
    "original_of",
    "play",
]
