"""The formula language: what it accepts, what it means, how it prints, what it says when it fails."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.tasks.fol.formula import (
    MAX_CHARACTERS,
    And,
    Atom,
    Constant,
    Equals,
    Exists,
    ForAll,
    Formula,
    FormulaError,
    Iff,
    Implies,
    Not,
    Or,
    Term,
    Variable,
    Xor,
    check_arities,
    conjunction,
    constants,
    parse,
    predicates,
    to_text,
)

A, B, C = Atom("A"), Atom("B"), Atom("C")
X = Variable("x")


@pytest.mark.parametrize("text", [
    "∀x (Cold(x) ∧ Smart(x) → Red(x))", "∀x. Cold(x) ∧ Smart(x) → Red(x)",
    "∀x Cold(x) ∧ Smart(x) → Red(x)", "all x.(Cold(x) & Smart(x) -> Red(x))",
    "forall x (Cold(x) and Smart(x) => Red(x))", "Forall x: Cold(x) && Smart(x) --> Red(x).",
    "(∀x)((Cold(x) /\\ Smart(x)) > Red(x))", "FORALL x Cold(x) AND Smart(x) IMPLIES Red(x)",
])  # fmt: skip
def test_every_spelling_of_a_rule_reads_the_same(text: str) -> None:
    cold, smart, red = (Atom(name, (X,)) for name in ("Cold", "Smart", "Red"))
    assert parse(text) == ForAll("x", Implies(And(cold, smart), red))


@pytest.mark.parametrize(("signs", "kind"), [
    ("& && ∧ and /\\", And), ("| || ∨ or \\/", Or), ("^ ⊕ ⊻ xor", Xor),
    ("-> --> => ⇒ → > implies", Implies), ("<-> <=> ↔ ⇔ iff", Iff),
])  # fmt: skip
def test_every_spelling_of_an_operator_reads_the_same(signs: str, kind: type) -> None:
    for sign in signs.split():
        assert parse(f"A {sign} B") == kind(A, B)


def test_negation_has_five_spellings() -> None:
    assert {parse(f"{sign}A") for sign in ("~", "-", "¬", "!", "not ")} == {Not(A)}


def test_equations_and_their_negation() -> None:
    same = Equals(Constant("a"), Constant("b"))
    assert parse("a = b") == parse("a==b") == same
    assert parse("a != b") == parse("a ≠ b") == parse("~a = b") == Not(same)


def test_and_binds_before_or_before_implies_before_iff() -> None:
    assert parse("A <-> B -> C | A & ~B") == Iff(A, Implies(B, Or(C, And(A, Not(B)))))


def test_or_and_xor_group_from_the_left_and_implies_from_the_right() -> None:
    assert parse("A | B ^ C") == Xor(Or(A, B), C)
    assert parse("A -> B -> C") == Implies(A, Implies(B, C))


def test_a_bracket_ends_the_reach_of_a_quantifier_and_a_dot_does_not() -> None:
    p, q = Atom("P", (X,)), Atom("Q", (X,))
    assert parse("∀x (P(x)) → A") == Implies(ForAll("x", p), A)
    assert parse("∀x. (P(x)) → Q(x)") == ForAll("x", Implies(p, q))
    assert parse("~∃x. P(x) & Q(x)") == Not(Exists("x", And(p, q)))
    assert parse("∀x ∃y (P(x)) ∧ A") == And(ForAll("x", Exists("y", p)), A)


def test_several_variables_share_a_quantifier() -> None:
    assert parse("forall x, y likes(x, y)") == parse("∀x ∀y (likes(x, y))")


def test_a_name_is_a_variable_only_where_a_quantifier_binds_it() -> None:
    assert parse("P(x)") == Atom("P", (Constant("x"),))
    assert parse("∀bob (P(bob, Bob))") == ForAll("bob", Atom("P", (Variable("bob"), Constant("Bob"))))


def test_names_hold_digits_hyphens_apostrophes_and_decimal_dots() -> None:
    text = "Anti-abortion(k-12, y42.3billion, o'hara, 1995, c++, Zoë)"
    assert constants(parse(text)) == {"k-12", "y42.3billion", "o'hara", "1995", "c++", "Zoë"}


def test_a_name_may_begin_like_a_word_of_the_language() -> None:
    assert predicates(parse("allergic(Bob) & notes & order(exists1)")) == {
        ("allergic", 1), ("notes", 0), ("order", 1),
    }  # fmt: skip


@pytest.mark.parametrize(("text", "position", "words"), [
    ("", 0, "it is empty"),
    ("cold(Bob", 8, "ends too early"),
    ("cold(Bob))", 9, "unexpected ')'"),
    ("P & & Q", 4, "Expected a name"),
    ("P(f(x))", 3, "a term has arguments"),
    ("P $ Q", 2, "'$' is not part of the language"),
    ("P Q", 2, "Expected '(' or"),
    ("forall x", 8, "ends too early"),
    ("forall x (P(x)) -> Q(x)", 21, "outside the reach of its quantifier"),
])  # fmt: skip
def test_an_error_states_place_fault_and_remedy(text: str, position: int, words: str) -> None:
    with pytest.raises(FormulaError) as caught:
        parse(text)
    assert caught.value.position == position
    assert words in str(caught.value)
    assert f"{text[:position][-24:]}<here>" in str(caught.value)


def test_an_error_survives_pickling_with_its_position() -> None:
    with pytest.raises(FormulaError) as caught:
        parse("P &")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.position) == (str(caught.value), 3)


@pytest.mark.parametrize("text", [
    "~" * 300 + "A", "(" * 50 + "∀x " * 120 + "P(x)" + ")" * 50, " & ".join(["A"] * 300),
    "A" * (MAX_CHARACTERS + 1), "A -> " * 700 + "A",
])  # fmt: skip
def test_long_and_deep_formulas_are_refused_not_crashed_on(text: str) -> None:
    with pytest.raises(FormulaError, match=r"nested more than|characters"):
        parse(text)


def test_a_predicate_of_very_many_arguments_is_refused_at_its_place() -> None:
    assert parse(f"P({', '.join('a' * 16)})") == Atom("P", (Constant("a"),) * 16)
    with pytest.raises(FormulaError, match="predicate Q has 17 arguments, 16 are read") as raised:
        parse(f"P(a) & Q({', '.join('a' * 17)})")
    assert raised.value.position == 7


def test_many_brackets_around_little_are_read() -> None:
    assert parse("(" * 1500 + "A" + ")" * 1500) == A


@pytest.mark.parametrize(("text", "ascii_text", "unicode_text"), [
    ("∀x.(Cold(x) → ¬Red(x))", "forall x (Cold(x) -> ~Red(x))", "∀x (Cold(x) → ¬Red(x))"),
    ("exists x. cat(x) & likes(x,Bob)",
     "exists x (cat(x) & likes(x, Bob))", "∃x (cat(x) ∧ likes(x, Bob))"),
    ("forall x,y (P(x,y))", "forall x forall y (P(x, y))", "∀x ∀y (P(x, y))"),
    ("not (a = b)", "a != b", "a ≠ b"),
    ("((A & B) & C) | (A & (B & C))", "A & B & C | A & (B & C)", "A ∧ B ∧ C ∨ A ∧ (B ∧ C)"),
    ("(A | B) ^ C", "(A | B) ^ C", "(A ∨ B) ⊕ C"),
    ("(A -> B) -> (B -> C)", "(A -> B) -> B -> C", "(A → B) → B → C"),
    ("A iff (B iff C)", "A <-> (B <-> C)", "A ↔ (B ↔ C)"),
])  # fmt: skip
def test_the_canonical_text_has_few_brackets(text: str, ascii_text: str, unicode_text: str) -> None:
    assert to_text(parse(text)) == ascii_text
    assert to_text(parse(text), "unicode") == unicode_text


def _formulas() -> st.SearchStrategy[Formula]:
    """Closed formulas: built with constants u, v, w and names bound at random around them."""
    terms: st.SearchStrategy[Term] = st.builds(Constant, st.sampled_from(["Bob", "k-12", "u"]))
    atoms = st.builds(
        lambda name, arguments: Atom(name, tuple(arguments)),
        st.sampled_from(["P", "likes", "well-read", "x"]), st.lists(terms, max_size=3),
    )  # fmt: skip
    leaf = atoms | st.builds(Equals, terms, terms)
    return st.recursive(leaf, _wrap, max_leaves=12)


def _wrap(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    binary = st.sampled_from([And, Or, Xor, Implies, Iff])
    quantifier = st.sampled_from([ForAll, Exists])
    return (
        st.builds(Not, inner)
        | st.builds(lambda kind, left, right: kind(left, right), binary, inner, inner)
        | st.builds(
            lambda kind, name, body: kind(name, _bind(body, name)),
            quantifier, st.sampled_from(["x", "y"]), inner,
        )
    )  # fmt: skip


def _bind(formula: Formula, name: str) -> Formula:
    """Every constant `u` becomes the variable."""
    match formula:
        case Atom(predicate, arguments):
            return Atom(predicate, tuple(_bound(t, name) for t in arguments))
        case Equals(left, right):
            return Equals(_bound(left, name), _bound(right, name))
        case Not(body):
            return Not(_bind(body, name))
        case ForAll(variable, body) | Exists(variable, body):
            return type(formula)(variable, _bind(body, name) if variable != name else body)
        case _:
            return type(formula)(_bind(formula.left, name), _bind(formula.right, name))


def _bound(term: Term, name: str) -> Term:
    return Variable(name) if term == Constant("u") else term


@settings(deadline=None)
@given(_formulas())
def test_a_printed_formula_reads_back_as_itself_in_both_styles(formula: Formula) -> None:
    assert parse(to_text(formula)) == formula
    assert parse(to_text(formula, "unicode")) == formula


@settings(deadline=None)
@given(st.text(alphabet="PQxab()~&|^-><=∀∃., '$", max_size=40))
def test_any_text_is_read_or_refused_with_a_formula_error(text: str) -> None:
    try:
        formula = parse(text)
    except FormulaError as error:
        refusal = error.remedy
    else:
        refusal = to_text(formula)
        assert parse(refusal) == formula
    assert refusal


def test_what_a_formula_mentions() -> None:
    formula = conjunction([parse("∀x (likes(x, Bob) → cold(x))"), parse("rain"), parse("Bob = Tom")])
    assert predicates(formula) == {("likes", 2), ("cold", 1), ("rain", 0)}
    assert constants(formula) == {"Bob", "Tom"}


def test_a_predicate_with_two_numbers_of_arguments_is_refused_by_name() -> None:
    with pytest.raises(FormulaError, match="predicate likes is used with 1 and with 2 arguments"):
        check_arities([parse("likes(Bob)"), parse("likes(Bob, Tom)")])


def test_nearly_all_formulas_people_wrote_are_read(shared_data: Path) -> None:
    """Of the 1,649 formulas of FOLIO's training set 17 are malformed (unbalanced brackets, names with
    spaces or dots, variables out of reach)."""
    lines = (shared_data / "folio" / "folio-train.jsonl").read_text("utf-8").splitlines()
    texts = {text for line in lines for text in json.loads(line)["premises-FOL"]}
    refused = []
    for text in sorted(texts):
        try:
            formula = parse(text)
        except FormulaError:
            refused.append(text)
        else:
            assert parse(to_text(formula)) == formula
    assert (len(texts), len(refused)) == (1649, 17)
