"""The tiny models' corpus: gold chains of generated problems, and declared typical mistakes.

Every chain is executed: observations are what the functions gave. A mistaken chain is the gold
chain with one misreading carried out consistently, re-executed to wherever it leads. Mistakes are
tied to what a reader trips over (a kind of sentence, a last step), so that a model trained on them
errs as people's texts err: often, in some places, and not for lack of ability.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from random import Random

from rightcall.chain import Message, Problem
from rightcall.dialects import DIALECTS
from rightcall.functions import FunctionSet, parse_calls
from rightcall.rendering import Rendered, Renderer
from rightcall.task import Task
from rightcall.tasks.fol.formula import (
    And,
    Atom,
    ForAll,
    Formula,
    Implies,
    Not,
    Or,
    Xor,
    parse,
    to_text,
)
from rightcall.tasks.rules.task import as_spelled

Mistake = Callable[[Problem, list[str], Random], list[str] | None]
"""Gold calls → mistaken calls, or None where this mistake cannot be made. The last call, the stop,
is left out on both sides: it follows from what the functions answer."""


def conversation(
    task: Task, functions: FunctionSet, problem: Problem, calls: Sequence[str]
) -> list[Message]:
    """The calls executed one by one, as the agent loop would have it, then a stop with the last
    observation as the answer."""
    dialect = DIALECTS["python"]
    messages = list(dialect.prompt(task.instruction, functions, problem))
    states = task.begin(problem)
    last = ""
    for call in calls:
        result = dialect.run(call, functions, states)
        messages.append(Message(role="assistant", content=call))
        messages += dialect.observations(call, result.observation)
        last = result.observation.text
    messages.append(Message(role="assistant", content=_stop(problem, last)))
    return messages


def _stop(problem: Problem, observed: str) -> str:
    if problem.answer in ("True", "False", "Unknown"):
        return f'stop("{observed if observed in ("True", "False", "Unknown") else "Unknown"}")'
    return f"stop({observed})" if re.fullmatch(r"-?[\d.]+", observed) else f'stop("{observed}")'


# --- mistakes in formalising ----------------------------------------------------------------------


def _misread(
    problem: Problem, calls: list[str], misread: Callable[[str, Formula], Formula | None]
) -> list[str] | None:
    """The chain with every sentence that `misread` trips over read wrongly."""
    sentences = re.split(r"(?<=\.)\s", problem.question.split("\n")[0])
    changed = list(calls)
    for index, sentence in enumerate(sentences):
        formula = misread(sentence, parse(problem.metadata["premises"][index]))
        if formula is not None:
            changed[index] = f'premise("{to_text(formula)}")'
    return changed if changed != calls else None


def reversed_implication(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """ "All A are B" read as "all B are A"."""
    del rng

    def misread(sentence: str, formula: Formula) -> Formula | None:
        match formula:
            case ForAll(x, Implies(left, right)) if re.match(r"(All|Any|Every|Each)", sentence):
                return ForAll(x, Implies(right, left))
        return None

    return _misread(problem, calls, misread)


def lost_negation(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """ "No A is B" read as "all A are B"."""
    del rng

    def misread(sentence: str, formula: Formula) -> Formula | None:
        match formula:
            case ForAll(x, Implies(left, Not(right))) if re.match(r"(No|Nothing|None)\b", sentence):
                return ForAll(x, Implies(left, right))
        return None

    return _misread(problem, calls, misread)


def inclusive_or(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """ "Either A or B, but not both" read as "A or B"."""
    del rng

    def misread(sentence: str, formula: Formula) -> Formula | None:
        del sentence
        match formula:
            case Xor(left, right):
                return Or(left, right)
        return None

    return _misread(problem, calls, misread)


def skipped_sentence(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """One sentence is not formalised."""
    drop = rng.randrange(len(calls) - 1)
    return calls[:drop] + calls[drop + 1 :] if len(calls) > 2 else None


# --- mistakes in formalising facts and rules ------------------------------------------------------


def _rewritten(
    problem: Problem, calls: list[str], misread: Callable[[str, Formula], Formula | None]
) -> list[str] | None:
    """The chain of a rule task with every sentence that `misread` trips over read wrongly."""
    changed = list(calls)
    told = zip(problem.metadata["sentences"], problem.metadata["premises"], strict=True)
    for index, (sentence, text) in enumerate(told):
        formula = misread(sentence, parse(text))
        if formula is not None:
            changed[index] = f'premise({index + 1}, "{as_spelled(to_text(formula), sentence)}")'
    return changed if changed != calls else None


def dropped_condition(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """Of several conditions only the first is read."""
    del rng

    def misread(sentence: str, formula: Formula) -> Formula | None:
        del sentence
        match formula:
            case ForAll(x, Implies(And(left, _), right)):
                return ForAll(x, Implies(_first(left), right))
        return None

    return _rewritten(problem, calls, misread)


def _first(formula: Formula) -> Formula:
    return _first(formula.left) if isinstance(formula, And) else formula


def unread_not(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """ "Not" in the conclusion of a rule is passed over."""
    del rng

    def misread(sentence: str, formula: Formula) -> Formula | None:
        del sentence
        match formula:
            case ForAll(x, Implies(left, Not(right))):
                return ForAll(x, Implies(left, right))
        return None

    return _rewritten(problem, calls, misread)


def swapped_roles(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """Who does it to whom is swapped in facts: "the cat likes the dog" read as "the dog likes the
    cat"."""
    del rng

    def misread(sentence: str, formula: Formula) -> Formula | None:
        del sentence
        match formula:
            case Atom(name, (one, other)):
                return Atom(name, (other, one))
            case Not(Atom(name, (one, other))):
                return Not(Atom(name, (other, one)))
        return None

    return _rewritten(problem, calls, misread)


# --- mistakes in calculating ----------------------------------------------------------------------

_CONFUSED = {"divide": "multiply", "percent_of": "multiply"}


def skipped_step(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """The last calculation is forgotten where it takes something away."""
    del problem, rng
    return calls[:-1] if len(calls) > 1 and calls[-1].startswith("subtract") else None


def wrong_operation(problem: Problem, calls: list[str], rng: Random) -> list[str] | None:
    """The last calculation multiplies where it should divide or take a percentage."""
    del problem, rng
    name = parse_calls(calls[-1])[0].name
    return [*calls[:-1], calls[-1].replace(name, _CONFUSED[name], 1)] if name in _CONFUSED else None


MISTAKES: dict[str, tuple[tuple[Mistake, float], ...]] = {
    "fol": (
        (reversed_implication, 0.66),
        (lost_negation, 0.66),
        (inclusive_or, 0.66),
        (skipped_sentence, 0.04),
    ),
    "math": ((skipped_step, 0.62), (wrong_operation, 0.3)),
    "rules": (
        (dropped_condition, 0.35),
        (unread_not, 0.35),
        (swapped_roles, 0.2),
        (skipped_sentence, 0.03),
    ),
}
"""Per task: each mistake and the share of the chains that offer it in which it is made."""


def with_mistakes(task: str, problem: Problem, rng: Random) -> list[str]:
    """The problem's calls with each of the task's mistakes made at its stated rate."""
    calls = list(problem.gold[:-1])
    for mistake, share in MISTAKES[task]:
        if rng.random() < share and (changed := mistake(problem, calls, rng)) is not None:
            calls = changed
    return calls


def rows(
    task: Task, problems: Iterator[Problem], renderer: Renderer, *, mistakes: bool, seed: int
) -> Iterator[Rendered]:
    """Rendered conversations. A gold chain that does not reach the gold answer is left out."""
    functions = task.function_set()
    for problem in problems:
        rng = Random(f"{seed}/{problem.id}")
        calls = with_mistakes(task.name, problem, rng) if mistakes else list(problem.gold[:-1])
        messages = conversation(task, functions, problem, calls)
        answer = parse_calls(messages[-1]["content"])[0].args[0]
        if mistakes or task.verify(problem, str(answer)):
            yield renderer.render(messages)
