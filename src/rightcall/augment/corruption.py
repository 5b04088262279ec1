from __future__ import annotations

from rightcall.augment.operation import Operation

CORRUPTIONS: dict[str, Operation] = {}
