"""Logic programs as Logic-LM has large models write them (Pan et al. 2023, arXiv 2305.12295).

    Facts:  Cold(Bob, True) ::: Bob is cold.
    Rules:  Cold($x, True) && Smart($x, False) >>> Red($x, True) ::: If something is cold and ...
    Query:  Red(Bob, True)

becomes `premise(1, "cold(Bob)")`, `premise(2, "forall x (cold(x) & ~smart(x) -> red(x))")`,
`goal("red(Bob)")`. Programs with `Premises` and a `Conclusion` in first-order logic (FOLIO) become
`premise(formula)` and `goal(formula)`. The models wrote programs only, which were run by others: the
chain stops with what the goal gives.

A statement is put with the sentence that it states: by its annotation, else by its words. Names are
spelled as the text has them, wherever that keeps different names different. What does not parse stays
as the model wrote it and becomes a failing call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from rightcall.errors import CallError, DataError
from rightcall.importing.recorded import Place, Recorded, RecordedCall
from rightcall.tasks.fol.formula import (
    And,
    Atom,
    Constant,
    ForAll,
    Formula,
    Implies,
    Not,
    Term,
    Variable,
    conjunction,
    leaves,
    parse,
    terms,
    to_text,
)
from rightcall.tasks.rules.english import sentences, singular, third_person
from rightcall.tasks.rules.task import as_spelled
from rightcall.tool_calls import call_text

ANSWERS = ("True", "False", "Unknown")
_HEADER = re.compile(r"[^\w]*(\w+)[^\w]*:[^\w]*")
_SECTIONS = {
    "facts": "facts", "fact": "facts", "rules": "rules", "rule": "rules", "premises": "premises",
    "query": "query", "conclusion": "conclusion",
}  # fmt: skip


def logic_lm(record: Mapping[str, Any], place: Place) -> Iterator[Recorded]:
    """One attempt for each program of a record; the model's name is the end of the file's."""
    options = dict(option.split(") ", 1) for option in record["options"])
    gold = {"Uncertain": "Unknown"}.get(said := options[record["answer"]], said)
    for sample, text in enumerate(record["raw_logic_programs"]):
        program = Program.read(text)
        if "conclusion" in program.kinds or "premises" in program.kinds:
            calls, notes = _first_order(program)
            where = {"question": _question(record)}
        else:
            calls, notes = _rules(program, record["context"], _statement(record["question"]))
            where = {"problem_id": record["id"]}
        yield Recorded(
            **where,
            gold=gold,
            model=record.get("model") or Path(place.file).stem.rpartition("_")[2],
            sample=sample,
            calls=tuple(RecordedCall(reply=call) for call in calls),
            answers=ANSWERS,
            notes=tuple(notes),
        )


def _statement(question: str) -> str:
    return question.rpartition("?")[2].strip()


def _question(record: Mapping[str, Any]) -> str:
    return f"{record['context']}\nStatement: {_statement(record['question'])}"


# --- the program --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A statement as the model wrote it."""

    kind: str
    """The section: facts, rules, premises, query, conclusion."""
    text: str
    note: str = ""
    """The sentence that the model put beside it."""


@dataclass(frozen=True)
class Program:
    """The sections of a program that state something."""

    lines: tuple[Line, ...]
    left_out: int = 0
    """Lines of sections that do not, but for the list of predicates."""

    @classmethod
    def read(cls, text: str) -> Program:
        if not isinstance(text, str):
            raise DataError("a program is no text", value=text)
        found: list[Line] = []
        kind, left_out = "", 0
        for line in map(str.strip, text.splitlines()):
            if (header := _HEADER.fullmatch(line)) is not None:
                kind = header[1].lower()
            elif kind in _SECTIONS and line:
                said, _, note = line.partition(":::")
                found.append(Line(_SECTIONS[kind], said.strip(), note.strip()))
            elif line and kind != "predicates":
                left_out += 1
        return cls(tuple(found), left_out)

    @property
    def kinds(self) -> set[str]:
        return {line.kind for line in self.lines}

    def of(self, *kinds: str) -> list[Line]:
        return [line for line in self.lines if line.kind in kinds]

    @property
    def notes(self) -> list[str]:
        return ["line outside of the program left out"] * self.left_out


# --- first-order programs -----------------------------------------------------------------------


def _first_order(program: Program) -> tuple[list[str], list[str]]:
    """Premises in the program's order, those with the same sentence beside them joined."""
    calls: list[str] = []
    notes = program.notes
    groups: dict[str, list[Formula]] = {}
    for number, line in enumerate(program.of("premises", "facts", "rules")):
        try:
            made = parse(line.text)
        except CallError:
            notes.append(_UNPARSED)
            groups[line.text] = []
        else:
            groups.setdefault(line.note or str(number), []).append(made)
    for name, formulas in groups.items():
        notes += [_JOINED] * max(0, len(formulas) - 1)
        calls.append(call_text("premise", [to_text(conjunction(formulas)) if formulas else name]))
    calls += [
        call_text("goal", [_written(line.text)]) for line in program.of("conclusion", "query")[:1]
    ]
    return calls, notes


def _written(text: str) -> str:
    try:
        return to_text(parse(text))
    except CallError:
        return text


_UNPARSED = "statement that does not parse"
_TWICE = "statement made twice of one sentence, kept once"
_JOINED = "statement joined to another of its sentence"
_HOMELESS = "statement of no sentence, put with the nearest"


# --- rule programs ------------------------------------------------------------------------------


def _rules(program: Program, context: str, statement: str) -> tuple[list[str], list[str]]:
    """Premises with the number of their sentence, in the text's order, then the goal."""
    notes = program.notes
    theory = sentences(context)
    stated = [_read(line) for line in program.of("facts", "rules", "query")]
    names = Names.of(stated, f"{context} {statement}")
    aligned: dict[int, list[tuple[Line, Formula | None]]] = {}
    for line, formula, number, home in align(
        [(line, formula) for line, formula in stated if line.kind != "query"], theory
    ):
        aligned.setdefault(number, []).append((line, formula))
        if formula is None:
            notes.append(_UNPARSED)
        elif not home:
            notes.append(_HOMELESS)
    calls = []
    for number, lines in sorted(aligned.items()):
        raw = [line.text for line, formula in lines if formula is None]
        formulas = [names.spelled(formula) for _, formula in lines if formula is not None]
        once = list(dict.fromkeys(formulas))
        notes += [_TWICE] * (len(formulas) - len(once)) + [_JOINED] * max(0, len(once) - 1)
        calls += [call_text("premise", [number + 1, text]) for text in raw]
        if once:
            made = as_spelled(to_text(conjunction(once)), theory[number])
            calls.append(call_text("premise", [number + 1, made]))
    for line, formula in [one for one in stated if one[0].kind == "query"][:1]:
        said = line.text if formula is None else to_text(names.spelled(formula))
        calls.append(call_text("goal", [said]))
    return calls, notes


def _read(line: Line) -> tuple[Line, Formula | None]:
    """The line with its formula, names as the model wrote them; None if it does not parse."""
    try:
        made = _statement_formula(line.text)
        return line, made if parse(to_text(_plain(made))) else None
    except (_Unparsable, CallError):
        return line, None


class _Unparsable(Exception):
    """Not of the language of rule programs."""


def _statement_formula(text: str) -> Formula:
    """`A && B >>> C` closed by "for all"; `A` alone is a fact."""
    sides = text.rstrip(".").split(">>>")
    if len(sides) > 2:
        raise _Unparsable
    parts = [conjunction([_literal(one) for one in side.split("&&")]) for side in sides]
    made = parts[0] if len(parts) == 1 else Implies(*parts)
    variables = dict.fromkeys(
        term.name for leaf in leaves(made) for term in terms(leaf) if isinstance(term, Variable)
    )
    return reduce(lambda body, name: ForAll(name, body), reversed(variables), made)


_NEGATION = re.compile(r"[!~¬∼-]\s*(.+)")
_NOT = re.compile(r"not\s*\((.+)\)", re.IGNORECASE)
_EQUATION = re.compile(r"(.+\))\s*=\s*(True|False)")
_ATOM = re.compile(r"([A-Za-z][\w '-]*?)\s*\(([^()]*)\)")
_NAME = re.compile(r"[\"']?(\w[\w '-]*?)[\"']?")


def _literal(text: str) -> Formula:
    """`Cold(Bob, True)`, `Likes(Cat, Dog, False)`, `Cold(Bob)`, and their negations."""
    text = text.strip()
    if found := _NEGATION.fullmatch(text):
        return _negated(_literal(found[1]))
    if found := _EQUATION.fullmatch(text):
        return _signed(_literal(found[1]), found[2])
    if found := _NOT.fullmatch(text):
        inner, bracket, sign = found[1].rpartition(")")
        if not bracket:
            raise _Unparsable
        made = _negated(_literal(inner + ")"))
        return _signed(made, sign.strip(", ")) if sign.strip(", ") else made
    if (found := _ATOM.fullmatch(text)) is None:
        raise _Unparsable
    *arguments, last = [one.strip() for one in found[2].split(",")]
    if last in ("True", "False"):
        return _signed(Atom(found[1], tuple(map(_term, arguments))), last)
    return Atom(found[1], tuple(map(_term, [*arguments, last])))


def _signed(formula: Formula, sign: str) -> Formula:
    if sign not in ("True", "False"):
        raise _Unparsable
    return formula if sign == "True" else _negated(formula)


def _negated(formula: Formula) -> Formula:
    return formula.body if isinstance(formula, Not) else Not(formula)


def _term(text: str) -> Term:
    if text.startswith("$") and text[1:].isidentifier():
        return Variable(text[1:])
    if (found := _NAME.fullmatch(text)) is None:
        raise _Unparsable
    return Constant(found[1])


# --- names --------------------------------------------------------------------------------------


def words_of(name: str) -> list[str]:
    """The words of a name: of "BaldEagle", "bald eagle", "bald_eagle", "The bald eagle".

    >>> words_of("BaldEagle"), words_of("The bald eagle"), words_of("real_number")
    (['bald', 'eagle'], ['bald', 'eagle'], ['real', 'number'])
    """
    found = re.findall(r"[A-Z]?[^\W_A-Z]+|[A-Z]+(?![^\W_A-Z])|\d+", name)
    words = [word.lower() for word in found] or [name.lower()]
    return words[1:] if words[0] == "the" and len(words) > 1 else words


def _plain(formula: Formula) -> Formula:
    """With every name of one word, so that the grammar can be asked about the rest."""
    return _renamed(
        formula, lambda name, _: "_".join(words_of(name)), lambda name: "_".join(words_of(name))
    )


def _renamed(formula: Formula, predicate: Any, constant: Any) -> Formula:
    match formula:
        case Atom(name, arguments):
            made = (
                Constant(constant(term.name)) if isinstance(term, Constant) else term
                for term in arguments
            )
            return Atom(predicate(name, len(arguments)), tuple(made))
        case Not(body):
            return Not(_renamed(body, predicate, constant))
        case ForAll(variable, body):
            return ForAll(variable, _renamed(body, predicate, constant))
        case And(left, right) | Implies(left, right):
            sides = (_renamed(side, predicate, constant) for side in (left, right))
            return type(formula)(*sides)
    raise TypeError(formula)


@dataclass(frozen=True)
class Names:
    """How a program's names are spelled: as the text has them, nouns in the singular and verbs in the
    third person. Names that the program keeps apart stay apart, but for case, spaces and "the"."""

    predicates: Mapping[tuple[str, int], str]
    constants: Mapping[str, str]

    @classmethod
    def of(cls, stated: Iterable[tuple[Line, Formula | None]], text: str) -> Names:
        found = [leaf for _, formula in stated if formula is not None for leaf in leaves(formula)]
        atoms = [leaf for leaf in found if isinstance(leaf, Atom)]
        lower = f" {_normal(text)} "
        kinds = dict.fromkeys((atom.predicate, len(atom.terms)) for atom in atoms)
        wanted = {kind: _regular(words_of(kind[0]), kind[1], lower) for kind in kinds}
        plain = {kind: "_".join(words_of(kind[0])) for kind in kinds}
        sharing: dict[str, set[str]] = {}
        for kind, name in wanted.items():
            sharing.setdefault(name, set()).add(plain[kind])
        names = {t.name for atom in atoms for t in atom.terms if isinstance(t, Constant)}
        return cls(
            predicates={
                kind: name if len(sharing[name]) == 1 else plain[kind] for kind, name in wanted.items()
            },
            constants={name: _as_in_text(name, text) for name in names},
        )

    def spelled(self, formula: Formula) -> Formula:
        return _renamed(
            formula,
            lambda name, arity: self.predicates[name, arity],
            lambda name: self.constants[name],
        )


def _regular(words: Sequence[str], arity: int, text: str) -> str:
    """A predicate's name in the form of the task's own formulas, if the text has the word at all."""
    *rest, last = words
    if arity == 1:
        other = singular(last)
        known = any(f" {' '.join([*rest, form])} " in text for form in (last, other))
    else:
        other = last if _is_third_person(last) else third_person(last)
        known = any(f" {form} " in text for form in (other, f"they {last}", f"not {last}"))
    return "_".join([*rest, other if known else last])


def _is_third_person(verb: str) -> bool:
    return any(third_person(base) == verb for base in (verb[:-1], verb[:-2], f"{verb[:-3]}y") if base)


def _as_in_text(name: str, text: str) -> str:
    """A constant as the text spells it, in lower case if it does so anywhere."""
    words = words_of(name)
    phrase = r"\s+".join(map(re.escape, words))
    found = re.findall(rf"(?<!\w){phrase}(?!\w)", text, re.IGNORECASE)
    spellings = ["_".join(one.split()) for one in found]
    own = "_".join(re.findall(r"[\w'-]+", name)) if len(words) == 1 else "_".join(words)
    return min(spellings, key=lambda one: not one.islower(), default=own)


# --- which sentence a statement states ----------------------------------------------------------

_SMALL_WORDS = frozenset(
    "a all an and are at do does each every if is it not no people someone something the then they"
    " thing things".split()
)
_ENOUGH = 0.5
"""Of the words of statement and sentence, how many they share at least."""


def align(
    stated: Sequence[tuple[Line, Formula | None]], theory: Sequence[str]
) -> list[tuple[Line, Formula | None, int, bool]]:
    """Each statement with the index of its sentence, and whether it belongs there: by the sentence
    beside it if the text has that; else by the words they share, the order of words, negation, and the
    order of statements. One that shares too little belongs nowhere: a fact is put with the nearest
    sentence about its individual, any other with the sentence of the statement before."""
    texts = [_normal(sentence) for sentence in theory]
    contents = [_content(sentence) for sentence in theory]
    used: set[int] = set()
    before = {"facts": -1, "rules": -1}
    made = []
    for line, formula in stated:
        same = [index for index, text in enumerate(texts) if text == _normal(line.note)]
        if same:
            best, home = next((index for index in same if index not in used), same[0]), True
        else:
            said = _said(formula, line)
            scores = [
                _shared(said, one)
                + 0.02 * (index not in used)
                + 0.01 * (index == before[line.kind] + 1)
                for index, one in enumerate(contents)
            ]
            best = max(range(len(theory)), key=lambda index: scores[index], default=0)
            home = bool(theory) and _jaccard(said.words, contents[best].words) >= _ENOUGH
            if not home:
                about = _about(formula, contents)
                best = max(before[line.kind], 0) if about is None else about
        used.add(best)
        before[line.kind] = best
        made.append((line, formula, best, home))
    return made


def _about(formula: Formula | None, contents: Sequence[_Content]) -> int | None:
    """The first sentence that names an individual of a fact."""
    atom = formula.body if isinstance(formula, Not) else formula
    if not isinstance(atom, Atom):
        return None
    names = {_stem(w) for t in atom.terms if isinstance(t, Constant) for w in words_of(t.name)}
    return next((i for i, one in enumerate(contents) if names & set(one.words)), None)


@dataclass(frozen=True)
class _Content:
    """The words that carry a sentence, in order."""

    words: tuple[str, ...]
    negations: int


def _normal(text: str) -> str:
    return " ".join(re.findall(r"[\w-]+", text.lower()))


def _content(text: str) -> _Content:
    words = re.findall(r"\w+", text.lower())
    return _Content(
        tuple(_stem(word) for word in words if word not in _SMALL_WORDS), words.count("not")
    )


def _stem(word: str) -> str:
    return singular(word).removesuffix("e")


def _said(formula: Formula | None, line: Line) -> _Content:
    """A statement's words in the order in which English has them."""
    if formula is None:
        return _content(f"{line.text} {line.note}")
    words: list[str] = []
    for leaf in leaves(formula):
        if not isinstance(leaf, Atom):
            continue
        first, *others = [t.name if isinstance(t, Constant) else "" for t in leaf.terms] or [""]
        for name in (first, leaf.predicate, *others):
            words += [_stem(word) for word in words_of(name) if word not in _SMALL_WORDS]
    found = _Content(tuple(word for word in words if word), _count_negations(formula))
    if not line.note:
        return found
    beside = _content(line.note)
    return beside if beside.words else found


def _count_negations(formula: Formula) -> int:
    match formula:
        case Not(body):
            return 1 + _count_negations(body)
        case ForAll(_, body):
            return _count_negations(body)
        case And(left, right) | Implies(left, right):
            return _count_negations(left) + _count_negations(right)
    return 0


def _shared(said: _Content, sentence: _Content) -> float:
    score = _jaccard(said.words, sentence.words)
    if said.words and sentence.words:
        score += 0.2 * (said.words[-1] == sentence.words[-1])
        score += 0.1 * (said.words[0] == sentence.words[0])
    return score + 0.05 * (said.negations == sentence.negations)


def _jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    left, right = set(one), set(other)
    return len(left & right) / len(left | right) if left | right else 0.0
