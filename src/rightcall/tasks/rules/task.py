"""Theories of facts and rules, told sentence by sentence: what `rules`, `proofwriter` and `prontoqa`
share.

The model formalises: one `premise` for each numbered sentence, then the statement as the `goal`. What
follows is found by forward chaining (see `rightcall.tasks.rules.chaining`). Each `premise` is answered
with the sentence that comes next, so that the model reads what it writes about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rightcall.chain import Chain, Judgement, Problem
from rightcall.errors import CallError
from rightcall.functions import Role, State, function
from rightcall.task import Proved, Refuted, Task
from rightcall.tasks.fol.formula import Formula, check_arities, parse, to_text
from rightcall.tasks.fol.task import stop
from rightcall.tasks.rules.chaining import decide, literal_of, rules_of, same_rules
from rightcall.tasks.rules.english import Reader

STATEMENT = "Statement: "


# --- the text and what is made of it ------------------------------------------------------------


def question_of(sentences: Sequence[str], statement: str) -> str:
    """What the model reads: numbered sentences, then the statement.

    >>> print(question_of(["Bob is cold."], "Bob is red."))
    1. Bob is cold.
    Statement: Bob is red.
    """
    numbered = [f"{number}. {text}" for number, text in enumerate(sentences, 1)]
    return "\n".join([*numbered, STATEMENT + statement])


@dataclass
class Theory(State):
    """The text of one problem, and the sentences that are formalised so far, by number."""

    sentences: tuple[str, ...] = ()
    statement: str = ""
    premises: dict[int, Formula] = field(default_factory=dict)

    @classmethod
    def of(cls, question: str) -> Theory:
        """Of a question as `question_of` writes it."""
        told = re.findall(r"^\d+\. (.*)$", question, re.MULTILINE)
        stated = re.search(rf"^{STATEMENT}(.*)$", question, re.MULTILINE)
        return cls(tuple(told), stated[1] if stated else "")

    def after(self, number: int) -> str:
        """The numbered sentence that follows, or the statement."""
        if number < len(self.sentences):
            return f"{number + 1}. {self.sentences[number]}"
        return STATEMENT + self.statement

    def read(self, formula: str, instead_of: int | None = None) -> Formula:
        """Parse without regard to case, and check that predicates are used as in the other premises."""
        made = parse(formula.lower())
        others = (one for number, one in self.premises.items() if number != instead_of)
        check_arities([*others, made])
        return made


def _example() -> Theory:
    theory = Theory.of("1. Cold things are red.\n2. Bob is cold.\nStatement: Bob is red.")
    theory.premises[1] = parse("forall x (cold(x) -> red(x))")
    return theory


# --- functions ----------------------------------------------------------------------------------


@function(
    example='premise(1, "forall x (cold(x) & ~smart(x) -> red(x))")', trusted=True, given=_example
)
def premise(number: int, formula: str, theory: Theory) -> str:
    """Record the sentence of this number as a formula: a fact or a rule, with forall x, ~, &, ->."""
    if not 1 <= number <= len(theory.sentences):
        raise CallError(
            "there is no sentence of that number",
            value=number,
            remedy=f"The sentences are numbered from 1 to {len(theory.sentences)}.",
        )
    made = theory.read(formula, instead_of=number)
    rules_of(made)
    theory.premises[number] = made
    return theory.after(number)


def _example_of_a_goal() -> Theory:
    theory = _example()
    theory.premises[2] = parse("cold(bob)")
    return theory


@function(example='goal("red(Bob)")', role=Role.VERIFY, trusted=True, given=_example_of_a_goal)
def goal(formula: str, theory: Theory) -> str:
    """State the goal and check it against the premises."""
    if not theory.premises:
        raise CallError("no premise is recorded", remedy="Record each sentence with premise(...).")
    made = theory.read(formula)
    literal_of(made)
    return decide(theory.premises.values(), made)


# --- judging ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Told:
    """What a finished chain put down."""

    premises: dict[int, tuple[int, str]]
    """Number → the last step that recorded it, and the formula."""
    every: tuple[tuple[int, int, str], ...]
    """(step, number, formula) of every record."""
    goals: tuple[tuple[int, str, str], ...]
    """(step, formula, verdict)."""

    @classmethod
    def of(cls, chain: Chain) -> _Told:
        every, goals = [], []
        for index, step in enumerate(chain.steps):
            if step.call is None or step.observation.failure:
                continue
            given = dict(zip(_PARAMETERS.get(step.call.name, ()), step.call.args, strict=False))
            given |= step.call.kwargs
            if step.call.name == "premise":
                every.append((index, int(given["number"]), str(given["formula"])))
            elif step.call.name == "goal":
                goals.append((index, str(given["formula"]), step.observation.text))
        return cls({n: (index, text) for index, n, text in every}, tuple(every), tuple(goals))


_PARAMETERS = {"premise": ("number", "formula"), "goal": ("formula",)}


def _equal(one: str, other: str) -> bool:
    return same_rules(parse(one.lower()), parse(other.lower()))


class RuleTask(Task):
    """Numbered sentences and a statement that is true, false or unknown."""

    instruction = (
        "Is the statement true, false or unknown, given the sentences? "
        "Write every sentence as a formula with the text's own words, then the statement as the goal."
    )
    functions = (premise, goal, stop)
    budgets = (16, 32)
    proof = "labels reached from the gold formulas by forward chaining"

    def states(self, problem: Problem) -> Sequence[State]:
        return (Theory.of(problem.question),)

    def verify(self, problem: Problem, answer: str) -> bool:
        return answer.strip().rstrip(".").lower() == problem.answer.lower()

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """The process is right if every sentence and the goal have the gold formula, up to the order of
        conditions and the names of variables, and the answer is what `goal` said.

        Wrong steps are those that recorded or stated another formula than the gold one, a goal stated
        while a sentence was missing, and a stop with another answer than `goal` gave.
        """
        gold, gold_goal = problem.metadata.get("premises"), problem.metadata.get("goal")
        if gold is None or gold_goal is None:
            return Judgement()
        told = _Told.of(chain)
        wrong = [i for i, number, text in told.every if not _equal(gold[number - 1], text)]
        exact = {number for number, (i, _) in told.premises.items() if i not in wrong}
        missing = [n for n in range(1, len(gold) + 1) if n not in told.premises]
        stated = told.goals[-1] if told.goals else None
        right_goal = stated is not None and _equal(gold_goal, stated[1])
        wrong += [i for i, text, _ in told.goals if not _equal(gold_goal, text)]
        if stated is not None and missing and stated[0] not in wrong:
            wrong.append(stated[0])
        against = stated is not None and chain.answer is not None and chain.answer != stated[2]
        if against:
            wrong.append(len(chain.steps) - 1)
        return Judgement(
            process_correct=right_goal and not against and len(exact) == len(gold),
            evidence=tuple(_evidence(gold, told, exact, missing, right_goal, against)),
            measures={"exact_formalisations": (len(exact) + right_goal) / (len(gold) + 1)},
            wrong_steps=tuple(sorted(set(wrong))),
        )

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """The label, reached from the gold formulas by forward chaining; None without them."""
        if not {"premises", "goal"} <= problem.metadata.keys():
            return None
        premises = [parse(text.lower()) for text in problem.metadata["premises"]]
        verdict = decide(premises, parse(problem.metadata["goal"].lower()))
        if verdict == problem.answer:
            return Proved()
        return Refuted(f"the label is {problem.answer}, forward chaining says {verdict}")


def _evidence(
    gold: Sequence[str],
    told: _Told,
    exact: set[int],
    missing: Sequence[int],
    right_goal: bool,
    against: bool,
) -> list[str]:
    found = [f"{len(exact)} of {len(gold)} sentences have the gold formula."]
    if missing:
        found.append(f"Not recorded: {', '.join(map(str, missing))}.")
    off = sorted(set(told.premises) - exact)
    found += [f"Sentence {n} should be {gold[n - 1]}." for n in off[:3]]
    if not right_goal:
        found.append("The goal is not the statement's." if told.goals else "No goal was stated.")
    if against:
        found.append("The answer is not what the goal gave.")
    return found


def as_spelled(formula: str, sentence: str) -> str:
    """A formula's text with a capital where the sentence begins with the predicate: what is copied from
    the text is copied as it stands there.

    >>> as_spelled("forall x (red(x) & cold(x) -> nice(x))", "Red, cold things are nice.")
    'forall x (Red(x) & cold(x) -> nice(x))'
    """
    opening = sentence[0].lower() + sentence[1:]
    for name in re.findall(r"[\w-]+(?=\()", formula):
        stem = name[:-1] if name.endswith("y") else name  # butterflies
        if sentence[0].isupper() and opening.replace(" ", "_").startswith(stem):
            return re.sub(rf"(?<![\w-]){re.escape(name)}(?=\()", name.capitalize(), formula, count=1)
    return formula


def problem_of(
    id: str,
    sentences: Sequence[str],
    statement: str,
    answer: str,
    formulas: Sequence[Formula] | None = None,
    goal_formula: Formula | None = None,
    **metadata: object,
) -> Problem:
    """A problem with its gold chain. Without formulas the sentences are read by `Reader`, which raises
    `DataError` for one that it cannot read. `difficulty` is left to the caller's metadata."""
    reader = Reader(sentences)
    gold = list(formulas) if formulas is not None else reader.formulas()
    stated = goal_formula if goal_formula is not None else reader.formula(statement)
    texts = [to_text(one) for one in gold]
    calls = [
        f'premise({number}, "{as_spelled(text, sentence)}")'
        for number, (text, sentence) in enumerate(zip(texts, sentences, strict=True), 1)
    ]
    depth = metadata.pop("depth", None)
    return Problem(
        id=id,
        question=question_of(sentences, statement),
        answer=answer,
        gold=(*calls, f'goal("{to_text(stated)}")', f'stop("{answer}")'),
        difficulty=depth if isinstance(depth, int) else None,
        metadata={
            "sentences": list(sentences),
            "statement": statement,
            "premises": texts,
            "goal": to_text(stated),
            **metadata,
        },
    )
