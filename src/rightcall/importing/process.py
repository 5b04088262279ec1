"""Right answers beside calls of which none ran: where a task says nothing of the process, that does."""

from __future__ import annotations

from rightcall.chain import Chain, Step
from rightcall.functions import FunctionSet, Role
from rightcall.importing.recorded import Recorded, RecordedCall

NOTHING_RAN = "None of its recorded calls could be executed."


def with_process_check(chain: Chain, recorded: Recorded, functions: FunctionSet) -> Chain:
    """The chain, its process judged wrong if the task says nothing of it and calls were recorded, stops
    and thoughts aside, none of which could be executed. `recorded` has its calls as `in_replies` gives
    them. Our own exports keep their label: they are only judged so if they were before."""
    if chain.judgement.process_correct is not None or (
        recorded.verbatim and not recorded.process_wrong
    ):
        return chain
    steps = chain.steps[:-1] if chain.maybe_cut else chain.steps
    turns = [
        (step, call)
        for step, call in zip(steps, recorded.calls, strict=False)
        if not _is_flow(step, call, functions)
    ]
    # In an export of ours a call may stand in the words of a turn.
    called = any(call.name is not None or recorded.process_wrong for _, call in turns)
    if not called or any(step.observation.failure is None for step, _ in turns):
        return chain
    evidence = (*chain.judgement.evidence, NOTHING_RAN)
    judgement = chain.judgement.model_copy(update={"process_correct": False, "evidence": evidence})
    return chain.model_copy(update={"judgement": judgement})


def _is_flow(step: Step, call: RecordedCall, functions: FunctionSet) -> bool:
    """Whether a call is of a function that computes nothing, such as a stop."""
    name = call.name if step.call is None else step.call.name
    made = functions.by_name.get(name or "")
    return made is not None and made.role is Role.FLOW
