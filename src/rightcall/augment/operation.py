"""What an operation of augmentation is: one function from a problem with its chains to a variant.

    def operation(original: Original, rng: Random) -> Variant:  # raises `Rejected`

It only proposes. `rightcall.augment.augment` executes the proposed replies in the agent loop, has the
task judge them, and keeps nothing whose label that does not show. Operations are of two kinds:

- a *variant* of the problem: other words, other numbers, other functions. All its chains are carried
  over, right and wrong ones, each with the same changes; what they are worth is found by execution, and
  a right chain that comes out wrong disproves the variant.
- a *corruption* (`corrupts=True`): the same problem, a right chain made wrong. It is kept if execution
  shows that it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from rightcall.chain import Chain, Problem
from rightcall.functions import FunctionSet
from rightcall.task import Task


class Rejected(Exception):
    """This operation makes nothing of this problem or chain. The reason is counted: a short phrase
    without names or numbers."""


@dataclass(frozen=True)
class Original:
    """A problem and its chains, as an operation gets them."""

    task: Task
    functions: FunctionSet
    problem: Problem
    chains: tuple[Chain, ...]
    """Right ones (for the right reason) first, their calls in Python syntax. None is errored or cut
    within a reply."""
    dialect: str = "python"
    """In which they were made, and what is made of them will be."""

    @property
    def right(self) -> tuple[Chain, ...]:
        return tuple(chain for chain in self.chains if chain.right_for_the_right_reason)


@dataclass(frozen=True)
class Variant:
    """What an operation proposes."""

    problem: Problem
    """With its question, answer, gold and metadata as they are now; the id and the origin are set
    later. The answer is what the operation proved or computed, never what the original had."""
    replies: Mapping[str, Sequence[str]]
    """Key of a chain of the original → its replies on this variant. A chain that cannot be carried
    over is left out."""
    functions: FunctionSet | None = None
    """What the prompt shows; None for the original's."""
    corrupts: bool = False
    """The problem is the same, and every reply list is to be wrong."""
    left_out: tuple[str, ...] = ()
    """Reasons why chains were left out, one each."""


Operation = Callable[[Original, Random], Variant]
