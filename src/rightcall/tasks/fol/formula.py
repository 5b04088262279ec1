"""First-order formulas without function symbols: data, a parser, a canonical printer. (One file,
because a change to the language is a change to all three.)

**Names.** A name is letters, digits and `_`, and after the first of them also `'`, `+`, `-` before a
letter or digit, and a dot before a digit (`well-read`, `c++`, `y42.3`). It is a variable if an
enclosing quantifier binds it and a constant otherwise; one formula cannot use a name as both. The
words of the language (all, forall, some, exists, not, and, or, xor, implies, iff) are no names, in
any case. A predicate without arguments is a proposition.

**Spellings.** `∀ forall all`, `∃ exists some`, `¬ ~ - ! not`, `∧ & and /\\`, `∨ | or \\/`,
`⊕ ^ xor`, `→ -> => > implies`, `↔ <-> <=> iff`, `= ==`, `≠ !=`.

**Binding**, strongest first (the grammar is `formula.lark`): negation and quantifiers, then ∧, then ∨
and ⊕ alike (from the left), then → (from the right), then ↔. `a ⊕ b ⊕ c` is parity, not "exactly
one".

**Reach of a quantifier.** `∀x (P(x)) → Q` binds the bracket only. `∀x. P(x) → Q(x)` and
`∀x P(x) → Q(x)` bind everything to their right; FOLIO writes the last form and means it so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from rightcall.errors import CallError

MAX_CHARACTERS = 4000
MAX_DEPTH = 100
"""Nesting of operators and quantifiers. Everything that walks a formula recurses this deep."""
MAX_TERMS = 16
"""Arguments of a predicate. What is written out over a finite domain grows with them."""

Style: TypeAlias = Literal["ascii", "unicode"]


class FormulaError(CallError):
    """A text is no formula, or formulas do not fit together. A model reads it and can mend it.

    `position` is the index in the text where reading failed, or None if no place is to blame.
    """

    def __init__(
        self, fault: str, *, value: object = None, remedy: str = "", position: int | None = None
    ) -> None:
        super().__init__(fault, value=value, remedy=remedy)
        self.position = position

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_error, (self.fault, self.value, self.remedy, self.position)


def _rebuild_error(fault: str, value: object, remedy: str, position: int | None) -> FormulaError:
    return FormulaError(fault, value=value, remedy=remedy, position=position)


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    name: str


Term: TypeAlias = Variable | Constant


@dataclass(frozen=True, slots=True)
class Atom:
    predicate: str
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Equals:
    left: Term
    right: Term


@dataclass(frozen=True, slots=True)
class Not:
    body: Formula


@dataclass(frozen=True, slots=True)
class And:
    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Or:
    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Xor:
    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Implies:
    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Iff:
    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class ForAll:
    variable: str
    body: Formula


@dataclass(frozen=True, slots=True)
class Exists:
    variable: str
    body: Formula


Binary: TypeAlias = And | Or | Xor | Implies | Iff
Quantified: TypeAlias = ForAll | Exists
Formula: TypeAlias = Atom | Equals | Not | Binary | Quantified


def conjunction(formulas: Sequence[Formula]) -> Formula:
    """All of them, joined by ∧ from the left. At least one is needed."""
    return reduce(And, formulas)


def disjunction(formulas: Sequence[Formula]) -> Formula:
    """Any of them, joined by ∨ from the left. At least one is needed."""
    return reduce(Or, formulas)


# --- what a formula mentions --------------------------------------------------------------------


def leaves(formula: Formula) -> Iterator[Atom | Equals]:
    """The atoms and equations, from left to right, as often as they occur."""
    stack: list[Formula] = [formula]
    while stack:
        match stack.pop():
            case (Atom() | Equals()) as leaf:
                yield leaf
            case Not(body) | ForAll(_, body) | Exists(_, body):
                stack.append(body)
            case And(left, right) | Or(left, right) | Xor(left, right):
                stack += (right, left)
            case Implies(left, right) | Iff(left, right):
                stack += (right, left)


def terms(leaf: Atom | Equals) -> tuple[Term, ...]:
    """The terms of an atom or equation, in order."""
    return leaf.terms if isinstance(leaf, Atom) else (leaf.left, leaf.right)


def negated(formula: Formula) -> Formula:
    """Its negation, without a double one."""
    return formula.body if isinstance(formula, Not) else Not(formula)


def predicates(formula: Formula) -> set[tuple[str, int]]:
    """Name and number of arguments of every predicate."""
    return {(p.predicate, len(p.terms)) for p in leaves(formula) if isinstance(p, Atom)}


def constants(formula: Formula) -> set[str]:
    """The names of individuals."""
    return {t.name for leaf in leaves(formula) for t in terms(leaf) if isinstance(t, Constant)}


def check_arities(formulas: Iterable[Formula]) -> None:
    """Refuse a predicate used with different numbers of arguments (`FormulaError`)."""
    seen: dict[str, int] = {}
    for formula in formulas:
        for name, arity in sorted(predicates(formula)):
            if seen.setdefault(name, arity) != arity:
                raise FormulaError(
                    f"predicate {name} is used with {seen[name]} and with {arity} arguments",
                    value=to_text(formula),
                    remedy="Give each predicate one number of arguments.",
                )


# --- printing -----------------------------------------------------------------------------------

_SIGNS: dict[Style, dict[type, str]] = {
    "ascii": {
        ForAll: "forall ", Exists: "exists ", Not: "~", And: " & ", Or: " | ", Xor: " ^ ",
        Implies: " -> ", Iff: " <-> ", Equals: " = ", Constant: " != ",
    },
    "unicode": {
        ForAll: "∀", Exists: "∃", Not: "¬", And: " ∧ ", Or: " ∨ ", Xor: " ⊕ ",
        Implies: " → ", Iff: " ↔ ", Equals: " = ", Constant: " ≠ ",
    },
}  # fmt: skip
_STRENGTH: dict[type, int] = {Iff: 1, Implies: 2, Or: 3, Xor: 3, And: 4}
_UNIT = 5


def to_text(formula: Formula, style: Style = "ascii") -> str:
    """The canonical text, with the fewest brackets that read well.

    `parse(to_text(f)) == f` for every closed formula in which no name is both variable and
    constant, in both styles. Quantified bodies are bracketed unless they are quantified themselves;
    ∨ beside ⊕ is bracketed although the grammar would not need it.

    >>> to_text(parse("∀x. Cold(x) ∧ Smart(x) → Red(x)"))
    'forall x (Cold(x) & Smart(x) -> Red(x))'
    """
    signs = _SIGNS[style]
    match formula:
        case Atom(predicate, arguments):
            return f"{predicate}({', '.join(t.name for t in arguments)})" if arguments else predicate
        case Equals(left, right):
            return f"{left.name}{signs[Equals]}{right.name}"
        case Not(Equals(left, right)):
            return f"{left.name}{signs[Constant]}{right.name}"
        case Not(body):
            return signs[Not] + _bracketed(body, _UNIT, style)
        case ForAll(variable, body) | Exists(variable, body):
            inner = to_text(body, style)
            inner = inner if isinstance(body, ForAll | Exists) else f"({inner})"
            return f"{signs[type(formula)]}{variable} {inner}"
        case _:
            return _binary_text(formula, style)


def _binary_text(formula: Binary, style: Style) -> str:
    kind = type(formula)
    strength = _STRENGTH[kind]
    from_left = kind is not Implies
    left = _bracketed(formula.left, strength + (not from_left), style, beside=kind)
    right = _bracketed(formula.right, strength + from_left, style, beside=kind)
    return left + _SIGNS[style][kind] + right


def _bracketed(formula: Formula, least: int, style: Style, beside: type | None = None) -> str:
    text = to_text(formula, style)
    kind = type(formula)
    mixed = beside in (Or, Xor) and kind in (Or, Xor) and kind is not beside
    return f"({text})" if mixed or _STRENGTH.get(kind, _UNIT) < least else text


# --- parsing ------------------------------------------------------------------------------------


class _WideQuantifier:
    """Puts the dot into `∀x P(x) → Q(x)`, so that the grammar sees one way to write a wide reach."""

    always_accept = ("_DOT",)
    _KEEP = frozenset({"LPAR", "RPAR", "_DOT", "FORALL", "EXISTS"})

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        awaiting = ""  # what may still belong to the quantifier's list of variables
        for token in stream:
            kind = token.type
            if kind in ("FORALL", "EXISTS"):
                awaiting = "NAME"
            elif awaiting and kind == awaiting:
                awaiting = "COMMA" if kind == "NAME" else "NAME"
            elif awaiting == "COMMA":
                awaiting = ""
                if kind not in self._KEEP:
                    yield Token.new_borrow_pos("_DOT", ".", token)
            else:
                awaiting = ""
            yield token


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = files("rightcall.tasks.fol").joinpath("formula.lark").read_text("utf-8")
    return Lark(grammar, parser="lalr", lexer="basic", postlex=_WideQuantifier())


@lru_cache(maxsize=8192)
def parse(text: str) -> Formula:
    """Read a formula in any accepted spelling. Raises `FormulaError`.

    >>> parse("all x.(Cold(x) -> -Red(x))") == parse("∀x (Cold(x) → ¬Red(x))")
    True
    """
    if len(text) > MAX_CHARACTERS:
        raise FormulaError(
            f"the formula has {len(text)} characters, {MAX_CHARACTERS} are read",
            remedy="State it in several shorter formulas.",
            position=MAX_CHARACTERS,
        )
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _explained(text, error) from None
    return _Reader(text).formula(tree)


_BINARY: dict[str, type[Binary]] = {"and": And, "or": Or, "xor": Xor, "implies": Implies, "iff": Iff}


class _Reader:
    """A parse tree to a formula: decides which names are variables."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.bound: set[str] = set()
        self.loose: dict[str, Token] = {}

    def formula(self, start: Tree[Token]) -> Formula:
        roots: list[Any] = start.children
        made = self._formula(roots[0], frozenset(), 0)
        self._check_scopes()
        return made

    def _formula(self, tree: Tree[Token], scope: frozenset[str], depth: int) -> Formula:
        if depth > MAX_DEPTH:
            raise FormulaError(
                f"the formula is nested more than {MAX_DEPTH} deep",
                value=self.text[:60],
                remedy="State it in several formulas.",
            )
        kind = tree.data
        parts: list[Any] = tree.children
        if kind == "atom":
            arguments = parts[1].children if parts[1] else ()
            if len(arguments) > MAX_TERMS:
                raise FormulaError(
                    f"predicate {parts[0]} has {len(arguments)} arguments, {MAX_TERMS} are read",
                    value=_excerpt(self.text, parts[0].start_pos or 0),
                    remedy="Use predicates of few arguments.",
                    position=parts[0].start_pos,
                )
            return Atom(str(parts[0]), tuple([self._term(t, scope) for t in arguments]))
        if kind in _BINARY:
            left, right = parts
            deeper = depth + 1
            return _BINARY[kind](
                self._formula(left, scope, deeper), self._formula(right, scope, deeper)
            )
        if kind == "not":
            return Not(self._formula(parts[0], scope, depth + 1))
        if kind in ("equals", "differs"):
            same = Equals(self._term(parts[0], scope), self._term(parts[1], scope))
            return same if kind == "equals" else Not(same)
        return self._quantified(tree, scope, depth)

    def _quantified(self, tree: Tree[Token], scope: frozenset[str], depth: int) -> Formula:
        make = ForAll if tree.data == "forall" else Exists
        parts: list[Any] = tree.children
        names = [str(name) for name in parts[1].children]
        self.bound.update(names)
        made = self._formula(parts[2], scope.union(names), depth + len(names))
        for name in reversed(names):
            made = make(name, made)
        return made

    def _term(self, token: Token, scope: frozenset[str]) -> Term:
        name = str(token)
        if name in scope:
            return Variable(name)
        self.loose.setdefault(name, token)
        return Constant(name)

    def _check_scopes(self) -> None:
        for name, token in self.loose.items():
            if name not in self.bound:
                continue
            position = token.start_pos or 0
            raise FormulaError(
                f"{name} is used outside the reach of its quantifier at character {position + 1}",
                value=_excerpt(self.text, position),
                remedy="Put all that it binds in one pair of brackets after the quantifier.",
                position=position,
            )


# --- explaining what does not parse -------------------------------------------------------------

_MEANINGS = {
    "NAME": "a name", "RPAR": "')'", "LPAR": "'('", "COMMA": "','", "_DOT": "'.'",
    "_AND": "an operator such as '&' or '->'", "FORALL": "a quantifier", "_NOT": "'~'",
    "_EQUALS": "'='", "$END": "the end",
}  # fmt: skip


def _excerpt(text: str, position: int, width: int = 24) -> str:
    """The text around a position, which is marked with `<here>`."""
    before = text[max(0, position - width) : position]
    after = text[position : position + width]
    cut_before = "..." if position > width else ""
    cut_after = "..." if position + width < len(text) else ""
    return f"{cut_before}{before}<here>{after}{cut_after}"


def _explained(text: str, error: UnexpectedInput) -> FormulaError:
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    position = len(text) if at_end else (error.pos_in_stream or 0)
    fault, remedy = _fault(text, position, error)
    return FormulaError(
        f"the formula does not parse at character {position + 1}: {fault}",
        value=_excerpt(text, position),
        remedy=remedy,
        position=position,
    )


def _fault(text: str, position: int, error: UnexpectedInput) -> tuple[str, str]:
    if not text.strip():
        return "it is empty", "Write a formula such as forall x (cat(x) -> likes(x, Bob))."
    if isinstance(error, UnexpectedCharacters):
        return f"{text[position]!r} is not part of the language", _LANGUAGE
    assert isinstance(error, UnexpectedToken)
    expected = error.accepts or error.expected
    wanted = [words for kind, words in _MEANINGS.items() if kind in expected]
    remedy = "Expected " + " or ".join(wanted) + "." if wanted else _LANGUAGE
    if position == len(text):
        return "it ends too early", remedy
    if error.token.type == "LPAR" and re.search(r"\([^()]*\w\s*$", text[:position]):
        return "a term has arguments", "Terms are names; write a relation such as likes(x, Bob)."
    if error.token.type == "RPAR" and "RPAR" not in expected:
        return "unexpected ')'", remedy if "NAME" in expected else "It closes no bracket."
    return f"unexpected {str(error.token)!r}", remedy


_LANGUAGE = "Use forall x (...), exists x (...), ~, &, |, ^, ->, <->, =, and names."
