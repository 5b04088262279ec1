"""Theories of facts and rules: forward chaining, the controlled English, and the tasks on them."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.chain import Outcome, Problem
from rightcall.errors import CallError, ConfigError, DataError, FailureKind
from rightcall.models.scripted import GoldPlayer, Scripted
from rightcall.rollout import Budget, solve
from rightcall.task import Proved, Refuted, load_task
from rightcall.tasks.fol.formula import parse, to_text
from rightcall.tasks.rules import ProntoQaTask, ProofWriterTask, RulesTask
from rightcall.tasks.rules import chaining as chaining_module
from rightcall.tasks.rules.chaining import Literal, decide, known
from rightcall.tasks.rules.english import Reader, sentences, singular, third_person
from rightcall.tasks.rules.generator import generate
from rightcall.tasks.rules.task import as_spelled, problem_of, question_of
from rightcall.tasks.rules.theories import plain_form, plural


def decided(premises: str, goal: str) -> str:
    return decide([parse(text) for text in premises.split("; ")], parse(goal))


# --- forward chaining ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("premises", "goal", "answer"),
    [
        ("cold(bob)", "cold(bob)", "True"),
        ("cold(bob)", "~cold(bob)", "False"),
        ("~cold(bob)", "cold(bob)", "False"),
        ("cold(bob)", "red(bob)", "Unknown"),
        ("cold(bob); forall x (cold(x) -> red(x))", "red(bob)", "True"),
        ("cold(bob); forall x (cold(x) -> red(x) & ~nice(x))", "nice(bob)", "False"),
        ("cold(bob); forall x (cold(x) -> red(x)); forall x (red(x) -> ~big(x))", "big(bob)", "False"),
        ("cold(bob); cold(bob) & red(bob) -> nice(bob)", "nice(bob)", "Unknown"),
        ("likes(cat, dog); forall x forall y (likes(x, y) -> likes(y, x))", "likes(dog, cat)", "True"),
        ("forall x (cold(x)); red(bob)", "cold(bob)", "True"),
        ("cold(bob); forall x forall y (cold(x) -> likes(x, y)); red(dog)", "likes(bob, dog)", "True"),
    ],
)
def test_a_goal_is_true_if_it_is_known_and_false_if_its_opposite_is(
    premises: str, goal: str, answer: str
) -> None:
    assert decided(premises, goal) == answer


def test_what_is_not_known_is_not_taken_for_false() -> None:
    assert decided("cold(bob); forall x (~red(x) -> nice(x))", "nice(bob)") == "Unknown"


def test_rules_are_not_used_backwards() -> None:
    theory = "~red(bob); forall x (cold(x) -> red(x))"
    assert decided(theory, "cold(bob)") == "Unknown"  # classical logic says False


def test_the_depth_of_a_literal_is_the_number_of_steps_to_it() -> None:
    rules = ["a(bob)", "forall x (a(x) -> b(x))", "forall x (b(x) -> c(x))"]
    found = known([parse(text) for text in rules])
    assert {literal.predicate: depth for literal, depth in found.items()} == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    "text", ["cold(bob) | red(bob)", "exists x (cold(x))", "forall x (cold(x) <-> red(x))", "bob = rex"]
)
def test_a_premise_that_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(CallError, match="neither a fact nor a rule"):
        decide([parse(text)], parse("cold(bob)"))


@pytest.mark.parametrize("text", ["cold(bob) & red(bob)", "forall x (cold(x))"])
def test_a_goal_that_is_no_literal_is_refused(text: str) -> None:
    with pytest.raises(CallError, match="not a statement about individuals"):
        decide([parse("cold(bob)")], parse(text))


def test_a_theory_that_would_take_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaining_module, "MAX_WORK", 1000)
    facts = [parse(f"p(c{number}, c{number + 1})") for number in range(40)]
    rule = parse("forall x forall y forall z (p(x, y) & p(y, z) -> p(x, z))")
    with pytest.raises(CallError, match="too many"):
        decide([*facts, rule], parse("p(c0, c40)"))


@st.composite
def small_theories(draw: st.DrawFn) -> list[str]:
    """Propositional in effect: three traits of two individuals."""
    literal = st.tuples(st.booleans(), st.sampled_from("abc")).map(
        lambda p: ("" if p[0] else "~") + p[1]
    )
    facts = [
        f"{draw(literal)}({draw(st.sampled_from(['i', 'j']))})" for _ in range(draw(st.integers(1, 3)))
    ]
    rules = []
    for _ in range(draw(st.integers(0, 4))):
        body = " & ".join(f"{draw(literal)}(x)" for _ in range(draw(st.integers(1, 2))))
        rules.append(f"forall x ({body} -> {draw(literal)}(x))")
    return facts + rules


@given(small_theories())
def test_what_is_known_is_closed_and_everything_in_it_has_a_ground(theory: list[str]) -> None:
    rules = [rule for text in theory for rule in chaining_module.rules_of(parse(text))]
    found = known([parse(text) for text in theory])

    def ways(name: str) -> list[tuple[set[Literal], set[Literal]]]:
        values = {"x": chaining_module.Constant(name)}
        return [
            ({c.at(values) for c in rule.conditions}, {c.at(values) for c in rule.conclusions})
            for rule in rules
        ]

    individuals = {term.name for literal in found for term in literal.terms}  # type: ignore[union-attr]
    applied = [way for name in individuals for way in ways(name)]
    for conditions, conclusions in applied:
        assert not conditions <= found.keys() or conclusions <= found.keys()
    for literal, depth in found.items():
        grounds = [c for c, conclusions in applied if literal in conclusions and c <= found.keys()]
        assert any(max((found[c] for c in ground), default=-1) < max(depth, 1) for ground in grounds)


# --- English ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "formula"),
    [
        ("Bob is not cold.", "~cold(Bob)"),
        ("The bald eagle likes the cat.", "likes(bald_eagle, cat)"),
        ("The cat does not chase the bald eagle.", "~chases(cat, bald_eagle)"),
        ("Stella is a yumpus.", "yumpus(Stella)"),
        ("Red, cold things are not nice.", "forall x (red(x) & cold(x) -> ~nice(x))"),
        ("All quiet people are smart.", "forall x (quiet(x) -> smart(x))"),
        ("Every prime number is a real number.", "forall x (prime_number(x) -> real_number(x))"),
        ("Painted ladies are butterflies.", "forall x (painted_lady(x) -> butterfly(x))"),
        ("Wumpuses are nervous.", "forall x (wumpus(x) -> nervous(x))"),
        (
            "If someone is red and not big then they see Bob.",
            "forall x (red(x) & ~big(x) -> sees(x, Bob))",
        ),
        (
            "If something likes the cat and the cat is red then it does not need the dog.",
            "forall x (likes(x, cat) & red(cat) -> ~needs(x, dog))",
        ),
        ("If Bob is cold and Bob is nice then Bob is red.", "cold(Bob) & nice(Bob) -> red(Bob)"),
    ],
)
def test_a_sentence_is_read(sentence: str, formula: str) -> None:
    assert to_text(Reader([sentence]).formula(sentence)) == formula


def test_a_sentence_of_another_form_is_refused_with_its_text() -> None:
    with pytest.raises(DataError, match="no known form: 'Colourless ideas sleep"):
        Reader([]).formula("Colourless ideas sleep.")


def test_words_go_there_and_back() -> None:
    for noun in ("cat", "butterfly", "wumpus", "box", "sheep", "horse", "beach"):
        assert singular(plural(noun)) in (noun, "hors")
    for verb in ("like", "chase", "pity", "watch", "play"):
        assert plain_form(third_person(verb)) == verb


def test_sentences_are_told_apart() -> None:
    assert sentences("Bob is cold. Red things are nice.") == ["Bob is cold.", "Red things are nice."]


@given(st.integers(0, 10_000))
@settings(max_examples=150, deadline=None)
def test_generated_sentences_are_read_as_they_were_meant(index: int) -> None:
    problem = generate(7, "train", index)
    told = [*problem.metadata["sentences"], problem.metadata["statement"]]
    meant = [*problem.metadata["premises"], problem.metadata["goal"]]
    reader = Reader(problem.metadata["sentences"])
    assert [to_text(reader.formula(text)).lower() for text in told] == [text.lower() for text in meant]


# --- the tasks ----------------------------------------------------------------------------------

COLD = problem_of(
    "cold", ["Red, cold things are nice.", "Bob is red.", "Bob is cold."], "Bob is nice.", "True"
)


def played(*calls: str, problem: Problem = COLD):  # type: ignore[no-untyped-def]
    return solve(RulesTask(), problem, Scripted(list(calls)))


RIGHT = (
    'premise(1, "forall x (Red(x) & cold(x) -> nice(x))")',
    'premise(2, "red(Bob)")',
    'premise(3, "cold(Bob)")',
    'goal("nice(Bob)")',
    'stop("True")',
)


def test_the_text_is_read_out_sentence_by_sentence() -> None:
    chain = played(*RIGHT)
    assert [step.observation.text for step in chain.steps] == [
        "2. Bob is red.",
        "3. Bob is cold.",
        "Statement: Bob is nice.",
        "True",
        "True",
    ]
    assert chain.outcome is Outcome.CORRECT
    assert chain.judgement.process_correct is True
    assert COLD.gold == RIGHT


def test_equivalent_formulas_in_any_case_are_right() -> None:
    other = 'premise(1, "∀y (COLD(y) ∧ red(y) → Nice(y))")'
    assert played(other, *RIGHT[1:]).judgement.process_correct is True


def test_a_wrong_formula_is_a_wrong_step_even_if_the_answer_is_right() -> None:
    chain = played('premise(1, "forall x (red(x) -> nice(x))")', *RIGHT[1:])
    assert chain.outcome is Outcome.CORRECT
    assert chain.judgement.process_correct is False
    assert chain.judgement.wrong_steps == (0,)
    assert chain.judgement.measures["exact_formalisations"] == 0.75
    assert "should be forall x (red(x) & cold(x) -> nice(x))" in " ".join(chain.judgement.evidence)


def test_a_corrected_premise_replaces_the_wrong_one() -> None:
    chain = played('premise(1, "forall x (red(x) -> nice(x))")', *RIGHT)
    assert chain.judgement.process_correct is True
    assert chain.judgement.wrong_steps == (0,)


def test_a_goal_stated_too_early_and_an_answer_against_it_are_wrong_steps() -> None:
    chain = played(RIGHT[0], RIGHT[1], 'goal("nice(Bob)")', 'stop("True")')
    assert [step.observation.text for step in chain.steps][2] == "Unknown"
    assert chain.judgement.wrong_steps == (2, 3)
    assert "Not recorded: 3." in chain.judgement.evidence


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ('premise(4, "red(Bob)")', FailureKind.FUNCTION_ERROR),
        ('premise(1, "red(Bob")', FailureKind.FUNCTION_ERROR),
        ('premise(1, "red(Bob) | cold(Bob)")', FailureKind.FUNCTION_ERROR),
        ('goal("red(Bob)")', FailureKind.FUNCTION_ERROR),
        ('premise("one", "red(Bob)")', FailureKind.WRONG_TYPE),
    ],
)
def test_a_call_that_fails_changes_nothing(call: str, kind: FailureKind) -> None:
    chain = played(call, *RIGHT)
    assert chain.steps[0].observation.failure is kind
    assert chain.judgement.process_correct is True


def test_a_predicate_keeps_its_number_of_arguments() -> None:
    chain = played(RIGHT[0], 'premise(2, "red(Bob, Bob)")', *RIGHT[1:])
    assert "with 1 and with 2 arguments" in chain.steps[1].observation.text


def test_a_question_of_ones_own_is_read_out_as_well() -> None:
    question = question_of(["Bob is cold."], "Bob is cold.")
    problem = Problem(id="mine", question=question, answer="True")
    chain = played('premise(1, "cold(Bob)")', 'goal("cold(Bob)")', 'stop("True")', problem=problem)
    assert chain.steps[0].observation.text == "Statement: Bob is cold."
    assert chain.judgement.process_correct is None


def test_names_are_spelled_as_the_sentence_begins() -> None:
    formula = "forall x (painted_lady(x) -> butterfly(x))"
    assert as_spelled(formula, "Painted ladies are butterflies.").startswith(
        "forall x (Painted_lady(x)"
    )
    assert as_spelled(formula, "Each painted lady is a butterfly.") == formula
    assert as_spelled("cold(Cole)", "Cole is cold.") == "cold(Cole)"


@pytest.mark.parametrize("kind", ["traits", "relations", "kinds"])
def test_every_kind_of_theory_is_solved_by_its_gold_chain(kind: str) -> None:
    task = RulesTask(kinds=[kind], sentences=[3, 12])
    problems = list(task.problems("test", 40, 1))
    answers = set()
    for problem in problems:
        chain = solve(task, problem, GoldPlayer([problem]), budget=Budget(steps=30))
        assert chain.right_for_the_right_reason
        assert isinstance(task.prove(problem), Proved)
        answers.add(problem.answer)
    assert answers == {"True", "False", "Unknown"}


def test_a_wrong_label_is_refuted() -> None:
    wrong = COLD.model_copy(update={"answer": "False"})
    assert isinstance(RulesTask().prove(wrong), Refuted)


def test_splits_share_no_theory_and_a_seed_gives_the_same_problems() -> None:
    task = RulesTask()
    splits = {split: [p.question for p in task.problems(split, 50)] for split in ("train", "test")}
    assert not set(splits["train"]) & set(splits["test"])
    assert splits["test"] == [p.question for p in RulesTask().problems("test", 50)]


@pytest.mark.parametrize(
    "options", [{"sentences": [5]}, {"sentences": [9, 3]}, {"sentences": [0, 3]}, {"kinds": ["trait"]}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        load_task("rules", **options)


# --- the public data sets -----------------------------------------------------------------------


def test_proofwriter_problems_come_from_files_split_by_their_theory(tmp_path: Path) -> None:
    question = "Based on the above information, is the following statement true, false, or unknown? "
    rows = [
        {
            "id": f"theory-{number}-{letter}",
            "context": f"Bob is cold. The cat likes Bob. {word} things are nice.",
            "question": question + said,
            "options": ["A) True", "B) False", "C) Unknown"],
            "answer": letter,
        }
        for number, word in enumerate(
            ("Cold", "Red", "Big", "Kind", "Round", "Green", "Rough", "Young")
        )
        for said, letter in (
            ("Bob is cold.", "A"),
            ("Bob is not cold.", "B"),
            ("The cat is cold.", "C"),
        )
    ]
    file = tmp_path / "train.json"
    file.write_text(json.dumps(rows))
    task = ProofWriterTask(str(file), shares={"validation": 30, "test": 30})
    theories = {
        split: {tuple(p.metadata["sentences"]) for p in task.problems(split)}
        for split in ("train", "validation", "test")
    }
    assert sum(map(len, theories.values())) == 8
    assert all(not a & b for a, b in itertools.combinations(theories.values(), 2))
    found = next(task.problems("train"))
    assert isinstance(task.prove(found), Proved)
    assert found.id.startswith("theory-")


def test_a_record_that_is_no_problem_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(
        '[{"id": "a", "context": "Bob is cold.", "question": "True? Bob is red.", "answer": "E"}]'
    )
    with pytest.raises(DataError, match=r"train\.json, record 1"):
        list(ProofWriterTask(str(file)).problems("train"))


@pytest.mark.parametrize(
    ("task", "record", "right"),
    [
        ("prontoqa", {"id": "ProofWriter_AttNoneg_Q1"}, "proofwriter"),
        ("prontoqa", {"id": "a", "options": ["A) True", "B) False", "C) Unknown"]}, "proofwriter"),
        ("proofwriter", {"id": "ProntoQA_1"}, "prontoqa"),
        ("proofwriter", {"id": "a", "options": ["A) True", "B) False"]}, "prontoqa"),
        ("proofwriter", {"id": "a", "query": "True or false: Bob is red."}, "prontoqa"),
    ],
)
def test_problems_of_the_one_data_set_are_not_taken_for_the_other(
    tmp_path: Path, task: str, record: dict[str, object], right: str
) -> None:
    given = {"context": "Bob is cold.", "question": "True or false? Bob is red.", "answer": "B"}
    file = tmp_path / "train.json"
    file.write_text(json.dumps([{**given, **record}]))
    with pytest.raises(DataError, match=f"record 1, is a problem of {right}, not of {task}"):
        list(load_task(task, path=str(file)).problems("train"))


def test_prontoqa_problems_of_both_kinds_of_file_are_read(tmp_path: Path) -> None:
    one = {
        "id": "ProntoQA_1",
        "context": "Wumpuses are dull. Rex is a wumpus.",
        "question": "Is the following statement true or false? Rex is not dull.",
        "answer": "B",
    }
    other = {
        "id": "example1",
        "question": "Each cat is a feline. Felines are not bony. Rex is a cat.",
        "query": "True or false: Rex is not bony.",
        "answer": "True",
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(one) + "\n" + json.dumps(other) + "\n")
    task = ProntoQaTask(str(tmp_path), shares={"test": 100})
    problems = {p.metadata["statement"]: p for p in task.problems("test")}
    assert problems["Rex is not dull."].answer == "False"
    assert problems["Rex is not bony."].answer == "True"
    assert all(isinstance(task.prove(p), Proved) for p in problems.values())


@pytest.mark.parametrize(
    ("context", "statement"),
    [
        ("Bob is cold. Whenever it rains, Bob swims! Cold things are red.", "Bob is red."),
        ("Bob is cold. Cold things are red.", "Whoever is cold, is it red"),
        ("Bob is cold. ??? Cold things are red.", "Bob is red."),
        ("Bob is cold. If then red. Is.", "Bob is red."),
        ("Bob likes the cat. If likes then likes. Bob is likes.", "Bob is red."),
    ],
)
@pytest.mark.parametrize("name", ["proofwriter", "prontoqa"])
def test_a_problem_with_a_sentence_of_no_known_form_is_kept_and_flagged(
    tmp_path: Path, name: str, context: str, statement: str
) -> None:
    rows = [
        {"id": id, "context": told, "question": f"True or false? {said}", "answer": "A"}
        for id, told, said in (
            ("read", "Bob is cold. Cold things are red.", "Bob is red."),
            ("unread", context, statement),
        )
    ]
    file = tmp_path / "train.json"
    file.write_text(json.dumps(rows))
    task = load_task(name, path=str(file), shares={"train": 100})
    problems = {p.id: p for p in task.problems("train")}
    assert "flags" not in problems["read"].metadata
    found = problems["unread"]
    assert found.metadata["flags"] == ["a sentence of no known form"]
    assert (found.gold, task.prove(found)) == ((), None)
    chain = solve(task, found, Scripted(['stop("True")']))
    assert (chain.outcome, chain.judgement.process_correct) == (Outcome.CORRECT, None)
    assert set(task.report([*problems.values()]).values()) <= {0}


def test_every_label_of_proofwriter_is_reached_by_forward_chaining(shared_data: Path) -> None:
    folder = str(shared_data / "proofwriter_owa_d5")
    task = ProofWriterTask(folder)
    problems = [p for split in ("train", "validation", "test") for p in task.problems(split)]
    assert len(problems) > 3500
    assert all(isinstance(task.prove(problem), Proved) for problem in problems)


def test_every_label_of_prontoqa_is_reached_by_forward_chaining(shared_data: Path) -> None:
    task = ProntoQaTask(str(shared_data / "prontoqa"), shares={"test": 100})
    problems = list(task.problems("test"))
    assert len(problems) == 600
    assert all(isinstance(task.prove(problem), Proved) for problem in problems)


def test_a_seeded_order_draws_a_sample(shared_data: Path) -> None:
    task = ProntoQaTask(str(shared_data / "prontoqa"))
    first, second = ([p.id for p in task.problems("test", 20, seed)] for seed in (0, 1))
    assert first != second
    assert len(set(first)) == 20
