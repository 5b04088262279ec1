"""Math word problems: exact functions, a generator with gold chains, answers compared as values."""

from rightcall.tasks.math.generator import generate
from rightcall.tasks.math.task import MathTask

__all__ = ["MathTask", "generate"]
