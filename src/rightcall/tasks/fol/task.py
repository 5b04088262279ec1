"""The task `fol`: its functions, its verdict on answers, and its judgement of formalisations.

The model does what language needs: it formalises each sentence, states the goal, and chooses. The
prover does the rest. No function takes the problem's text. Three subsets of functions:

- `prove` (default): premise, goal, stop. The prover decides the goal.
- `derive`: premise, claim, derive, reason, stop. Nothing decides the goal: the model must derive it,
  or its negation, step by step; the prover checks each step.
- `all`: every function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from rightcall.chain import Chain, Judgement, Problem
from rightcall.errors import CallError, ConfigError, EndlessSplit, nearest
from rightcall.functions import Function, FunctionSet, Role, State, Stop, function
from rightcall.task import SPLITS, Proved, Refuted, Task
from rightcall.tasks.fol import generator, prover
from rightcall.tasks.fol.augmentation import FOL_OPERATIONS
from rightcall.tasks.fol.formula import (
    Formula,
    Not,
    check_arities,
    constants,
    negated,
    parse,
    predicates,
    to_text,
)  # fmt: skip
from rightcall.tasks.fol.prover import Verdict

OUT_OF_TIME = "Undecided within the time limit"
_REFUTED = "Refuted:"
CONTRADICTION = "The premises contradict each other"
_ANSWERS = {"true": "True", "false": "False", "unknown": "Unknown", "uncertain": "Unknown"}


# --- state --------------------------------------------------------------------------------------


@dataclass
class Proof(State):
    """What one chain has recorded so far."""

    premises: dict[str, Formula] = field(default_factory=dict)
    """P1, P2, ... as the model formalised them."""
    derived: dict[str, Formula] = field(default_factory=dict)
    """D1, D2, ... as the prover confirmed them."""
    goal: Formula | None = None

    def read(self, formula: str) -> Formula:
        """Parse a formula and check that it uses predicates as the premises do."""
        made = parse(formula)
        check_arities([*self.premises.values(), made])
        return made

    def named(self, label: str) -> Formula:
        known = self.premises | self.derived
        made = known.get(label.strip().upper())
        if made is None:
            raise CallError("no formula of that name", value=label, remedy=nearest(label, known))
        return made


def _example(*premises: str) -> Proof:
    return Proof({f"P{i}": parse(text) for i, text in enumerate(premises, 1)})


# --- what functions say (their examples run when they are defined, so this comes first) -----------

_SHOWN = {
    Verdict.ENTAILED: "True",
    Verdict.CONTRADICTED: "False",
    Verdict.UNDECIDED: "Unknown",
    Verdict.INCONSISTENT: CONTRADICTION,
    Verdict.GAVE_UP: OUT_OF_TIME,
}


def _stated(formula: str, proof: Proof) -> Formula:
    if not proof.premises:
        raise CallError("no premise is recorded", remedy="Record each sentence with premise(...).")
    proof.goal = proof.read(formula)
    return proof.goal


def _stray_predicate(proof: Proof, formula: Formula) -> str | None:
    """A predicate of the goal that no premise has: most often a slip of spelling."""
    known = set().union(*(predicates(one) for one in proof.premises.values()))
    return min((name for name, _ in predicates(formula) - known), default=None)


def _refusal(decision: prover.Decision) -> str:
    if decision.verdict is Verdict.INCONSISTENT:
        return CONTRADICTION
    if decision.verdict is Verdict.GAVE_UP:
        return OUT_OF_TIME
    return f"{_REFUTED} {decision.countermodel or 'it does not follow'}"


def read_answer(text: str) -> str | None:
    """True, False or Unknown as a model may write it; None if it is none of them."""
    return _ANSWERS.get(text.strip().rstrip(".").lower())


# --- functions ----------------------------------------------------------------------------------


@function(example='premise("forall x (cold(x) & ~smart(x) -> red(x))")', trusted=True)
def premise(formula: str, proof: Proof) -> str:
    """Record one sentence as a formula: forall x, exists x, ~, &, |, ^ (either, not both), ->, <->."""
    made = proof.read(formula)
    label = f"P{len(proof.premises) + 1}"
    proof.premises[label] = made
    return label


@function(
    example='goal("red(Bob)")', role=Role.VERIFY, trusted=True,
    given=lambda: _example("forall x (cold(x) -> red(x))", "cold(Bob)"),
)  # fmt: skip
def goal(formula: str, proof: Proof) -> str:
    """State the goal and check it against the premises."""
    made = _stated(formula, proof)
    verdict = prover.decide(tuple(proof.premises.values()), made, countermodel=False).verdict
    if verdict is Verdict.UNDECIDED and (stray := _stray_predicate(proof, made)):
        return f"Unknown: no premise mentions {stray}"
    return _SHOWN[verdict]


@function(
    example='claim("red(Bob)")', role=Role.VERIFY, trusted=True,
    given=lambda: _example("cold(Bob)"),
)  # fmt: skip
def claim(formula: str, proof: Proof) -> str:
    """State the goal, without checking it: derive it or its negation next."""
    _stated(formula, proof)
    return "G"


@function(
    example='derive("red(Bob)", "P1", "P2")', trusted=True,
    given=lambda: _example("forall x (cold(x) -> red(x))", "cold(Bob)"),
)  # fmt: skip
def derive(formula: str, *names: str, proof: Proof) -> str:
    """Prove a formula from the named premises and derived formulas; refuted with a case if it
    does not follow."""
    made = proof.read(formula)
    if not names:
        raise CallError(
            "no formula is named that it follows from", remedy='Name them: derive(formula, "P1", "P2").'
        )
    decision = prover.decide(tuple(proof.named(name) for name in names), made)
    if decision.verdict is not Verdict.ENTAILED:
        return _refusal(decision)
    label = f"D{len(proof.derived) + 1}"
    proof.derived[label] = made
    return label


@function(example='reason("P1 applies to Bob.")', role=Role.FLOW, trusted=True)
def reason(thought: str) -> str:
    """Record a thought."""
    del thought
    return "noted"


@function(example='stop("True")', role=Role.FLOW, trusted=True)
def stop(answer: str) -> Stop:
    """End with the answer: True, False or Unknown."""
    made = read_answer(answer)
    if made is None:
        raise CallError("not an answer", value=answer, remedy="Answer True, False or Unknown.")
    return Stop(made)


# --- judging a formalisation ----------------------------------------------------------------------


@lru_cache(maxsize=65_536)
def same_meaning(left: str, right: str) -> bool:
    """Whether two formula texts are provably equivalent.

    Formulas that name different predicates or constants count as different, and so do formulas
    whose equivalence the prover cannot settle in time.
    """
    return left == right or _same(parse(left), parse(right))


def _same(one: Formula, other: Formula) -> bool:
    if predicates(one) != predicates(other) or constants(one) != constants(other):
        return False
    return prover.equivalent(one, other) is True


def unmatched(gold: Sequence[str], recorded: Sequence[str]) -> tuple[list[str], list[str]]:
    """The gold formulas with no equivalent recorded one, and the recorded ones left over.

    Matching is one to one. Equal texts are matched first, so that the usual case costs nothing.
    """
    extra = list(recorded)
    missing = [text for text in gold if not _took(extra, text)]
    still_missing = []
    for text in missing:
        twin = next((other for other in extra if same_meaning(text, other)), None)
        if twin is None:
            still_missing.append(text)
        else:
            extra.remove(twin)
    return still_missing, extra


def _took(texts: list[str], text: str) -> bool:
    if text not in texts:
        return False
    texts.remove(text)
    return True


_DERIVED = re.compile(r"D\d+\b")
"""What a proved step is answered with."""


@dataclass(frozen=True)
class Record:
    """What a finished chain put down, as texts."""

    premises: tuple[str, ...]
    derived: tuple[str, ...]
    goal: str | None
    checked: bool
    """The prover decided the goal; otherwise it was only claimed."""
    premise_steps: tuple[int, ...]
    """The step of each premise."""
    goals: tuple[tuple[int, str], ...]
    """Every goal with its step; the last one counts."""
    refuted: tuple[int, ...]
    """Steps whose derivation the prover refuted, those of `open_ends` left out."""
    open_ends: tuple[tuple[int, str], ...]
    """What the prover refuted from all premises, the goal or its negation, with its step."""

    @classmethod
    def of(cls, chain: Chain) -> Record:
        done: dict[str, list[tuple[int, str]]] = {"premise": [], "derive": [], "goal": [], "claim": []}
        refuted: list[tuple[int, str, set[str]]] = []
        for index, step in enumerate(chain.steps):
            if step.call is None or step.observation.failure or step.call.name not in done:
                continue
            text = _formula_argument(step.call.args, step.call.kwargs)
            if step.call.name != "derive" or _DERIVED.match(step.observation.text):
                done[step.call.name].append((index, text))
            elif step.observation.text.startswith(_REFUTED):
                refuted.append((index, text, {str(name).strip().upper() for name in step.call.args}))
        goals = sorted(done["goal"] + done["claim"])
        everything = {f"P{number}" for number in range(1, len(done["premise"]) + 1)}
        either = [Not(parse(goals[-1][1])), parse(goals[-1][1])] if goals else []
        open_ends = [
            (index, text)
            for index, text, names in refuted
            if everything <= names and any(_same(one, parse(text)) for one in either)
        ]
        return cls(
            premises=tuple(text for _, text in done["premise"]),
            derived=tuple(text for _, text in done["derive"]),
            goal=goals[-1][1] if goals else None,
            checked=bool(goals) and goals[-1] in done["goal"],
            premise_steps=tuple(index for index, _ in done["premise"]),
            goals=tuple(goals),
            refuted=tuple(i for i, text, _ in refuted if (i, text) not in open_ends),
            open_ends=tuple(open_ends),
        )

    def steps_of(self, texts: Sequence[str]) -> list[int]:
        """The steps that recorded these premises; the later ones where a text was recorded again."""
        left = list(texts)
        return [
            index
            for index, text in zip(reversed(self.premise_steps), reversed(self.premises), strict=True)
            if _took(left, text)
        ]


def _formula_argument(args: Sequence[object], kwargs: dict[str, object]) -> str:
    return str(args[0] if args else kwargs["formula"])


def _settled(record: Record, answer: str | None) -> bool | None:
    """Whether a claimed goal was settled as the answer says: it or its negation was derived; or, for
    "Unknown", both were tried from all premises and refuted. None where "Unknown" rests on less."""
    if record.checked or record.goal is None:
        return True
    stated = parse(record.goal)
    if answer == "Unknown":
        refuted = [parse(text) for _, text in record.open_ends]
        both = all(any(_same(one, other) for other in refuted) for one in (stated, Not(stated)))
        return True if both else None
    wanted = stated if answer == "True" else Not(stated)
    return any(_same(wanted, parse(text)) for text in (*record.derived, *record.premises))


def prover_said(chain: Chain) -> str | None:
    """What the prover answered to the goal stated last; None if it was never asked."""
    said = [
        step.observation.text.partition(":")[0]
        for step in chain.steps
        if step.call is not None and step.call.name == "goal" and step.observation.failure is None
    ]
    return said[-1] if said else None


def against_prover(chain: Chain) -> bool:
    """Whether a chain stopped with another answer than the prover gave to the goal stated last."""
    said = prover_said(chain)
    return said in _ANSWERS.values() and chain.answer not in (None, said)


# --- the task -------------------------------------------------------------------------------------


GOLD_FORMULAS = {"premises", "goal"}
"""The metadata of a problem whose formulas are known."""


class Formalising(Task):
    """What the tasks have in common whose texts are formalised and decided by the prover: functions,
    answers, and the judgement by the gold formulas, `metadata["premises"]` and `metadata["goal"]`."""

    instruction = (
        "Is the last statement true, false or unknown, given the sentences before it? "
        "Write every sentence as a formula with the text's own words."
    )
    functions: Sequence[Function] = (premise, goal, claim, derive, reason, stop)
    subsets = {
        "prove": ("premise", "goal", "stop"),
        "derive": ("premise", "claim", "derive", "reason", "stop"),
    }
    default_subset = "prove"

    def verify(self, problem: Problem, answer: str) -> bool:
        return read_answer(answer) == read_answer(problem.answer)

    def judge(self, problem: Problem, chain: Chain) -> Judgement:
        """The process is right if each gold formula, the goal included, has an equivalent recorded
        one and nothing else was recorded; and, where the goal was only claimed, if it was derived. Of
        an "Unknown" for a goal that was only claimed it cannot tell, unless the goal and its negation
        were both tried from all premises.

        Wrong steps are those that recorded a formula which no gold one (or no other than an earlier
        premise) is equivalent to, stated another goal, stated the goal before a sentence that was then
        never recorded, tried a derivation that the prover refuted, or stopped with another answer
        than the prover had given or the derivations show.
        """
        gold, gold_goal = problem.metadata.get("premises"), problem.metadata.get("goal")
        if gold is None or gold_goal is None:
            return Judgement()
        record = Record.of(chain)
        missing, extra = unmatched(gold, record.premises)
        goal_exact = record.goal is not None and same_meaning(gold_goal, record.goal)
        settled = _settled(record, chain.answer)
        exact = len(gold) - len(missing) + goal_exact
        evidence = [f"{exact} of {len(gold) + 1} formalised exactly"]
        evidence += [f"missing: {text}" for text in missing]
        evidence += [f"not in the text: {text}" for text in extra]
        if not goal_exact:
            evidence.append(f"goal is not: {record.goal}" if record.goal else "no goal stated")
        if record.derived:
            evidence.append(f"{len(record.derived)} steps proved")
        if record.refuted:
            evidence.append(f"{len(record.refuted)} derivations refuted")
        if settled is None:
            evidence.append("that nothing can be derived was not tried")
        elif not settled:
            evidence.append("the answer was not derived")
        elif against_prover(chain):
            evidence.append("the answer is not the prover's")
        wrong = {*record.steps_of(extra), *record.refuted}
        wrong |= {index for index, text in record.goals if not same_meaning(gold_goal, text)}
        if missing and not extra and record.goals:
            wrong.add(record.goals[-1][0])
        if chain.answer is not None and (settled is False or against_prover(chain)):
            wrong.add(len(chain.steps) - 1)
        return Judgement(
            process_correct=settled if not missing and not extra and goal_exact else False,
            evidence=tuple(evidence),
            measures={"exact_formalisations": exact / (len(gold) + 1)},
            wrong_steps=tuple(sorted(wrong)),
        )

    def gold(self, problem: Problem, functions: FunctionSet) -> Sequence[str]:
        """Where nothing decides the goal, a derivation that the prover finds step by step; for
        "Unknown", the goal and its negation tried in vain."""
        if "goal" in functions.by_name or not functions.by_name.keys() >= _DERIVING:
            return super().gold(problem, functions)
        return _derivation(problem) if problem.metadata.keys() >= GOLD_FORMULAS else ()

    def prove(self, problem: Problem) -> Proved | Refuted | None:
        """The label, proved again from the gold formulas by Z3 and by cvc5; None without them."""
        if not problem.metadata.keys() >= GOLD_FORMULAS:
            return None
        from rightcall.tasks.fol import second_prover  # cvc5 is loaded only where it is asked

        premises = tuple(parse(text) for text in problem.metadata["premises"])
        stated = parse(problem.metadata["goal"])
        verdicts = {
            "Z3": prover.decide(premises, stated).verdict,
            "cvc5": second_prover.decide(premises, stated),
        }
        for engine, verdict in verdicts.items():
            if _SHOWN[verdict] != problem.answer:
                return Refuted(f"the label is {problem.answer}, {engine} says: {_SHOWN[verdict]}")
        return Proved()


class FolTask(Formalising):
    """Theories told in English with a statement that is true, false or unknown.

    `hops` (fewest, most) and `max_sentences` bound a theory's size: short theories first make a
    curriculum. `provers` says how labels are proved: 2 (by Z3 and by cvc5), 1 (by Z3) or 0 (not).
    `words` bounds how many words of each kind theories are made of (20 or more; None for all), and
    `made_up` is the share of theories whose predicates are invented words.
    """

    name = "fol"
    operations = FOL_OPERATIONS

    def __init__(
        self,
        hops: Sequence[int] = (1, 5),
        max_sentences: int = 12,
        provers: int = 2,
        words: int | None = None,
        made_up: float = generator.MADE_UP_SHARE,
    ) -> None:
        self.size = generator.Size(_pair(hops), max_sentences, words, made_up)
        if provers not in (0, 1, 2):
            raise ConfigError("labels are proved by 0, 1 or 2 provers", value=provers)
        self.provers = provers

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
        """See `Task`. The generator never ends, so a count is needed."""
        if split not in SPLITS:
            raise ConfigError("no split of that name", value=split, remedy=nearest(split, SPLITS))
        if count is None:
            raise EndlessSplit(
                "fol problems are generated without end", remedy="Say how many you want."
            )
        return generator.problems(seed, split, count, size=self.size, provers=self.provers)


_DERIVING = {"premise", "claim", "derive", "stop"}


def _derivation(problem: Problem) -> tuple[str, ...]:
    """Gold calls without `goal`; empty if the prover finds no proof."""
    from rightcall.tasks.fol.steps import proof

    texts, goal = problem.metadata["premises"], parse(problem.metadata["goal"])
    opening = (*(f'premise("{text}")' for text in texts), f'claim("{problem.metadata["goal"]}")')
    everything = [f"P{number}" for number in range(1, len(texts) + 1)]
    if problem.answer == "Unknown":
        tries = [_derive_call(one, everything) for one in (goal, negated(goal))]
        return (*opening, *tries, 'stop("Unknown")')
    found = proof([parse(text) for text in texts], goal if problem.answer == "True" else negated(goal))
    calls = [_derive_call(step.formula, step.names) for step in found or ()]
    return (*opening, *calls, f'stop("{problem.answer}")') if calls else ()


def _derive_call(formula: Formula, names: Sequence[str]) -> str:
    parts = ", ".join(f'"{part}"' for part in (to_text(formula), *names))
    return f"derive({parts})"


def _pair(values: Sequence[int]) -> tuple[int, int]:
    if len(values) != 2:
        raise ConfigError("a range needs its least and its most", value=values)
    return values[0], values[1]
