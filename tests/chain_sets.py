"""Random chains of one problem, judged by their texts alone, for property tests of trees and pairs."""

from __future__ import annotations

from hypothesis import strategies as st

from rightcall.chain import Call, Chain, Judgement, Observation, Step, StopReason
from rightcall.errors import FailureKind
from toys import chain, step

FAILED_ADD = Step(
    reply="add(1)",
    call=Call(name="add", args=(1,)),
    observation=Observation(text="Error: add needs b", failure=FailureKind.MISSING_ARGUMENT),
)
STEPS = (
    step("add(1, 1)", "2"),
    step("record(1)", "1 recorded"),
    step("record(2)", "a slip"),
    step("hm", "Error: no call", FailureKind.NO_CALL),
    FAILED_ADD,
)
"""The third one is what the task of these chains judges to be wrong."""


def judged_chain(
    taken: list[int], *, right: bool, source: str = "student", sample: int = 0, given: int = 0
) -> Chain:
    """A chain of these steps and a stop. It ended well if it is right and has no slip."""
    steps = [STEPS[i] for i in taken] + [step('stop("2")' if right else 'stop("3")')]
    slips = tuple(i for i, index in enumerate(taken) if index == 2)
    made = chain(*steps, right=right, source=source, sample=sample + 100 * given)
    judgement = Judgement(process_correct=not slips, wrong_steps=slips)
    return made.model_copy(
        update={
            "judgement": judgement,
            "given_steps": min(given, len(steps)),
            "key": f"{made.key}-{given}",
        }
    )


def cut(made: Chain) -> Chain:
    """The chain as if its last reply had been cut."""
    cut_step = step("add(1, ", "Error", FailureKind.UNPARSABLE)
    return chain(
        *made.steps[:-1], cut_step, right=False, stop_reason=StopReason.REPLY_TRUNCATED
    ).model_copy(update={"key": f"{made.key}-cut"})


def chain_sets(*, rollouts: bool) -> st.SearchStrategy[list[Chain]]:
    """Chains of one problem; with `rollouts` some were made from prefixes."""
    one = st.builds(
        judged_chain,
        st.lists(st.integers(0, len(STEPS) - 1), max_size=4),
        right=st.booleans(),
        source=st.sampled_from(["student", "teacher"]),
        sample=st.integers(0, 3),
        given=st.integers(0, 3) if rollouts else st.just(0),
    )
    return st.lists(one, min_size=1, max_size=14, unique_by=lambda c: c.key)
