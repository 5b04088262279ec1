"""What classical logic says of formalisations: the prover's verdict beside that of the task's own
`goal`, which may follow another semantics (ProofWriter's open world only chains forward)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rightcall.chain import Chain, Problem
from rightcall.errors import CallError, ConfigError
from rightcall.functions import FunctionSet
from rightcall.importing.summary import Table, share
from rightcall.tasks.fol.formula import Formula, parse
from rightcall.tasks.fol.prover import Verdict, decide
from rightcall.tool_calls import named_arguments

_ANSWERS = {
    Verdict.ENTAILED: "True",
    Verdict.CONTRADICTED: "False",
    Verdict.UNDECIDED: "Unknown",
}


def classical_answer(chain: Chain, functions: FunctionSet) -> str | None:
    """What the prover finds from the premises and the goal that a chain recorded: "True", "False" or
    "Unknown"; None if there is no goal, the premises contradict each other, or it gave up."""
    premises: dict[object, str] = {}
    stated = None
    for index, step in enumerate(chain.steps):
        given = named_arguments(step.call, functions) if step.call is not None else None
        if step.call is None or given is None or step.observation.failure is not None:
            continue
        if step.call.name == "premise":
            premises[given.get("number", index)] = str(given["formula"])
        elif step.call.name == "goal":
            stated = str(given["formula"])
    if stated is None:
        return None
    numbered = "number" in functions.by_name["premise"].parameters
    read = _read_lower if numbered else parse  # tasks with numbers take no heed of case
    try:
        theory = tuple(map(read, premises.values()))
        return _ANSWERS.get(decide(theory, read(stated), countermodel=False).verdict)
    except CallError:
        return None


def _read_lower(text: str) -> Formula:
    return parse(text.lower())


class ClassicalTally:
    """Counts, for each model, how often the prover agrees with gold and with the chain's own answer.
    Raises `ConfigError` for functions that state no formulas."""

    def __init__(self, functions: FunctionSet) -> None:
        if not {"premise", "goal"} <= functions.by_name.keys():
            raise ConfigError(
                "the prover needs a task whose chains state formulas",
                value=sorted(functions.by_name),
                remedy="Leave the prover out, or choose functions with premise and goal.",
            )
        self._functions = functions
        self._models: dict[str, Counter[str]] = {}

    def add(self, problem: Problem, chain: Chain) -> None:
        answer = classical_answer(chain, self._functions)
        counts = self._models.setdefault(chain.model, Counter())
        counts["chains"] += 1
        counts["decided"] += answer is not None
        counts["agrees with gold"] += answer == problem.answer
        counts["same as the chain's answer"] += answer is not None and answer == chain.answer

    def figures(self) -> Mapping[str, Mapping[str, int]]:
        """Model → what → chains."""
        return self._models

    def table(self) -> Table:
        columns = ("chains", "decided", "agrees with gold", "same as the chain's answer")
        rows = [
            (model, *(f"{found[c]} ({share(found[c], found['chains'])})" for c in columns))
            for model, found in sorted(self._models.items())
        ]
        return Table("The same formulas in classical logic, by the prover", ["model", *columns], rows)
