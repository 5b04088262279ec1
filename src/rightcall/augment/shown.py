from __future__ import annotations

from rightcall.augment.operation import Operation

SHOWN: dict[str, Operation] = {}
