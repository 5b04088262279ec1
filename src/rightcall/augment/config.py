"""What a run file says about augmentation."""

from __future__ import annotations

from pydantic import Field, field_validator

from rightcall.chain import Frozen
from rightcall.errors import ConfigError


class AugmentConfig(Frozen):
    """What is made of a run's chains."""

    operations: dict[str, float] = Field(default_factory=dict)
    """Operation → how many variants it makes of a problem on average: 0.5 is one of every second
    problem. Known are the task's own (`Task.operations`), those of any task, and `file.py:function`."""
    seed: int = Field(0, ge=0)

    @field_validator("operations")
    @classmethod
    def _not_negative(cls, operations: dict[str, float]) -> dict[str, float]:
        for name, ratio in operations.items():
            if not 0 <= ratio <= 100:
                raise ConfigError(
                    f"the ratio of operation {name!r} is out of range",
                    value=ratio,
                    remedy="Give the number of variants per problem, 0 to 100.",
                )
        return operations
