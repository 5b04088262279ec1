"""First-order logic: formalise a theory told in English, state the goal, have it proved.

`formula` is the language, `prover` and `second_prover` decide what follows, `steps` finds proofs step
by step, `generator` makes problems out of `words` and `english`, and `task` holds the functions a model
calls.
"""

from rightcall.tasks.fol.task import FolTask

__all__ = ["FolTask"]
