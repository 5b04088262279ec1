"""Generated theories: their labels, their balance, their splits, and their English."""

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.chain import Problem
from rightcall.functions import States
from rightcall.task import Proved
from rightcall.tasks.fol import FolTask
from rightcall.tasks.fol.english import ANY, Literal, Rule, existential, fact, rule
from rightcall.tasks.fol.formula import constants, parse, predicates, to_text
from rightcall.tasks.fol.generator import LABELS, SPLITS, Size, Theory, cell, generate, problems, theory
from rightcall.tasks.fol.words import ADJECTIVES, NAMES, NOUNS, VERBS, Word, WordKind, invented

SAMPLE = 100


@pytest.fixture(scope="module")
def unproved() -> list[Problem]:
    """Many problems, cheaply."""
    return list(problems(1, "train", 900, provers=0))


def drawn(seed: int) -> Theory:
    hops, label = cell("train", 0, seed)
    return theory(Random(seed), hops, label)


# --- problems -----------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_problems() -> None:
    assert list(problems(3, "test", 20, provers=0)) == list(problems(3, "test", 20, provers=0))


def test_fewer_problems_are_the_first_of_more() -> None:
    assert list(problems(3, "train", 5, provers=0)) == list(problems(3, "train", 20, provers=0))[:5]


def test_provers_only_reject_and_never_change_a_problem() -> None:
    unchecked, checked = (list(problems(4, "train", 15, provers=n)) for n in (0, 2))
    assert len({p.id for p in unchecked} & {p.id for p in checked}) >= 13


def test_other_seeds_give_other_problems() -> None:
    texts = [{p.question for p in problems(seed, "train", 50, provers=0)} for seed in (1, 2)]
    assert not texts[0] & texts[1]


def test_labels_are_proved_by_both_provers() -> None:
    task = FolTask(provers=2)
    assert [task.prove(problem) for problem in task.problems("validation", 20)] == [Proved()] * 20


def test_gold_chains_execute_to_the_label() -> None:
    task = FolTask(provers=1)
    for problem in task.problems("train", SAMPLE):
        functions, states = task.function_set("prove"), States()
        results = [functions.reply(call, states) for call in problem.gold]
        said = [result.observation.text for result in results]
        count = len(problem.metadata["premises"])
        assert said == [*(f"P{i}" for i in range(1, count + 1)), problem.answer, problem.answer]
        assert results[-1].answer == problem.answer


def test_every_block_of_problems_holds_each_label_and_number_of_hops_once() -> None:
    cells = [cell("train", 0, index) for index in range(45)]
    for block in (cells[:15], cells[15:30], cells[30:]):
        assert sorted(block) == sorted((h, label) for h in range(1, 6) for label in LABELS)
    assert cells[:15] != cells[15:30]


def test_problems_have_the_label_and_hops_of_their_cell(unproved: list[Problem]) -> None:
    told = [(problem.difficulty, problem.answer) for problem in unproved]
    assert told == [cell("train", 1, index) for index in range(len(unproved))]


def test_splits_share_no_question_and_no_split_repeats_one(unproved: list[Problem]) -> None:
    splits = {"train": unproved}
    for split in ("validation", "test"):
        splits[split] = list(problems(1, split, 200, provers=0))
    keys = {name: {_normal(p.question) for p in made} for name, made in splits.items()}
    assert all(len(keys[name]) == len(splits[name]) for name in splits)
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]


def _normal(question: str) -> tuple[str, ...]:
    text, goal = question.lower().split("\n")
    return (*sorted(text.split(". ")), goal)


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 10_000), st.randoms())
def test_a_theory_belongs_to_one_split_in_any_order(seed: int, rng: Random) -> None:
    made = drawn(seed)
    shuffled = Theory(
        tuple(rng.sample(made.sentences, len(made.sentences))), made.goal, made.hops, made.made_up
    )
    assert made.split == shuffled.split
    assert made.split in SPLITS


def test_a_question_that_is_taken_is_not_given_again() -> None:
    first = generate(0, "train", 7, provers=0)
    second = generate(0, "train", 7, provers=0, taken={first.metadata["theory"]})
    assert first.question != second.question
    assert (first.answer, first.difficulty) == (second.answer, second.difficulty)


def test_ids_are_unique(unproved: list[Problem]) -> None:
    assert len({problem.id for problem in unproved}) == len(unproved)


@pytest.mark.parametrize("size", [Size(), Size((1, 2), 4), Size((1, 1), 3), Size((4, 5), 7)])
def test_theories_keep_to_their_size(size: Size) -> None:
    for problem in problems(2, "train", 60, size=size, provers=0):
        assert 3 <= len(problem.metadata["premises"]) <= size.max_sentences
        assert problem.difficulty in size.hop_counts


def test_every_construct_of_the_logic_occurs(unproved: list[Problem]) -> None:
    seen = Counter(c for problem in unproved for c in problem.metadata["constructs"])
    wanted = ["negation", "conjunction", "disjunction", "exclusive or", "relation", "existential",
              "equivalence", "conditional", "nested quantifiers"]  # fmt: skip
    assert {name: seen[name] >= 20 for name in wanted} == dict.fromkeys(wanted, True)


def test_premises_mention_whatever_the_goal_speaks_of(unproved: list[Problem]) -> None:
    for problem in unproved:
        asked, told = problem.metadata["goal"], " ".join(problem.metadata["premises"])
        assert set(re.findall(r"\w+", asked)) <= {*re.findall(r"\w+", told), "forall", "exists", "x"}


def test_about_three_in_ten_theories_are_of_made_up_words(unproved: list[Problem]) -> None:
    share = sum(problem.metadata["made_up_words"] for problem in unproved) / len(unproved)
    assert 0.24 < share < 0.36


@pytest.mark.parametrize(
    "sign",
    [
        lambda p: p.metadata["goal"].startswith("~"),
        lambda p: len(p.metadata["premises"]) > 6,
        lambda p: "made-up" if p.metadata["made_up_words"] else "real",
        lambda p: p.metadata["goal"].split("(")[0],
        lambda p: sum(text.count("~") for text in p.metadata["premises"]) > 2,
    ],
    ids=["negated goal", "length", "made-up words", "shape of the goal", "negations"],
)
def test_no_surface_sign_gives_the_label_away(unproved: list[Problem], sign) -> None:  # type: ignore[no-untyped-def]
    groups: dict[object, Counter[str]] = {}
    for problem in unproved:
        value = sign(problem)
        if isinstance(value, str) and not value.startswith(("forall", "exists", "made", "real")):
            value = "atom"
        groups.setdefault(value, Counter())[problem.answer] += 1
    guessed = sum(max(labels.values()) for labels in groups.values()) / len(unproved)
    assert guessed < 0.42  # one third is chance


# --- words --------------------------------------------------------------------------------------


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 100_000))
def test_formulas_use_the_texts_own_words_and_read_back(seed: int) -> None:
    made = drawn(seed)
    for sentence in (*made.sentences, made.goal):
        words = set(re.findall(r"[A-Za-z]+", sentence.text))
        assert {name for name, _ in predicates(sentence.formula)} | constants(sentence.formula) <= words
        assert parse(to_text(sentence.formula)) == sentence.formula
        assert sentence.text.endswith(".")
        assert sentence.text[0].isupper()


def test_the_vocabulary_is_rich_and_unambiguous() -> None:
    assert len(ADJECTIVES) >= 150
    assert len(NOUNS) >= 80
    assert len(VERBS) >= 25
    assert len(NAMES) >= 80
    words = [word.lower() for word in ADJECTIVES + NOUNS + VERBS + NAMES]
    assert [word for word, count in Counter(words).items() if count > 1] == []


@pytest.mark.parametrize("kind", ["adjective", "noun", "verb", "name"])
def test_invented_words_are_many_and_in_no_vocabulary(kind: str) -> None:
    rng = Random(0)
    made = {invented(rng, kind) for _ in range(500)}
    assert len(made) > 300
    assert not made & set(ADJECTIVES + NOUNS + VERBS)


# --- English ------------------------------------------------------------------------------------

CAT, COLD, RED = (
    Literal(Word(text, kind), (ANY,))
    for text, kind in [
        ("cat", WordKind.NOUN), ("cold", WordKind.ADJECTIVE), ("red", WordKind.ADJECTIVE),
    ]
)  # fmt: skip
LIKES = Literal(Word("likes", WordKind.VERB), (ANY, "Anne"))


def phrasings(said: Rule) -> dict[str, str]:
    made = [rule(Random(seed), said) for seed in range(300)]
    return {sentence.text: to_text(sentence.formula) for sentence in made}


def test_a_rule_is_said_in_many_ways_with_the_formula_in_the_texts_order() -> None:
    said = phrasings(Rule((COLD, CAT), (~RED,)))
    assert said["No cold cat is red."] == "forall x (cold(x) & cat(x) -> ~red(x))"
    assert said["Every cat that is cold is not red."] == "forall x (cat(x) & cold(x) -> ~red(x))"
    assert said["If someone is cold and a cat then they are not red."].startswith("forall x (cold(x)")
    assert len(said) > 12


def test_exclusive_or_is_said_in_full() -> None:
    said = phrasings(Rule((COLD,), (RED, CAT), head_joint="xor"))
    formulas = {"forall x (cold(x) -> red(x) ^ cat(x))", "forall x (cold(x) -> cat(x) ^ red(x))"}
    assert set(said.values()) <= formulas
    assert all("either" in text and "but not both" in text for text in said)


def test_a_denied_relation_keeps_the_verbs_form() -> None:
    about_bob = ~LIKES.about("Bob")
    said = {fact(Random(seed), [about_bob]).text for seed in range(50)}
    assert "It is not true that Bob likes Anne." in said
    assert all("likes" in text for text in said | set(phrasings(Rule((CAT,), (~LIKES,)))))


def test_existential_sentences_name_their_noun_first_or_last() -> None:
    made = {existential(Random(seed), [RED, CAT]) for seed in range(80)}
    said = {sentence.text: to_text(sentence.formula) for sentence in made}
    assert said["There is a red cat."] == "exists x (red(x) & cat(x))"
    assert said["Some cat is red."] == "exists x (cat(x) & red(x))"
