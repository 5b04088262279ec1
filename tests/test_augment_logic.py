"""Operations on problems of logic: what they make is executed, proved and read again."""

import re
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.augment import Made, Original, Rejected, carry_out, original_of, play
from rightcall.chain import ChainStore, Outcome, Problem
from rightcall.importing.recorded import load_importer, read_logs
from rightcall.importing.reexecution import import_chains
from rightcall.task import Proved, Task, load_task
from rightcall.tasks.fol import generator, prover
from rightcall.tasks.fol.formula import constants, parse, predicates, to_text
from rightcall.tasks.fol.retelling import aligned, opposite_formula
from rightcall.tasks.fol.rewriting import LAWS, has_law, rewriting, rewritings
from rightcall.tasks.fol.wording import Renaming, Unlinked, kinds, words_of
from rightcall.tasks.fol.words import WordKind
from rightcall.tasks.folio import problem_of as story_of
from rightcall.tasks.logical_entailment import problem_of as entailment_of
from rightcall.tasks.rules.english import Reader
from rightcall.tasks.rules.task import problem_of as rules_problem

OPERATIONS = ("rename", "permute", "distract", "negate", "rewrite")
FOL = load_task("fol", provers=1)
RULES = load_task("rules", sentences=(5, 12))


@cache
def fol_problem(index: int) -> Problem:
    return generator.generate(3, "train", index, provers=1)


@cache
def rules_of_index(index: int) -> Problem:
    return list(RULES.problems("train", index + 1, 4))[index]


def original(task: Task, problem: Problem, *replies: list[str], subset: str | None = None) -> Original:
    functions = task.function_set(subset)
    chains = [play(task, functions, problem, one, source=f"s{i}") for i, one in enumerate(replies)]
    return original_of(task, functions, problem, chains)


def carried(task: Task, made: Original, name: str, seed: int = 0) -> Made:
    return carry_out(made, name, task.operations[name], Random(seed))


def replies(made: Made, chain: int = 0) -> list[str]:
    return [step.reply for step in made.chains[chain].steps]


def told(problem: Problem) -> tuple[list[str], str]:
    return [*problem.metadata["premises"], problem.metadata["goal"]], problem.question


def pairs_of_names(old: Problem, new: Problem) -> list[tuple[str, str]]:
    """The names of formulas in the order in which they stand there, old and new."""
    found = []
    for before, after in zip(told(old)[0], told(new)[0], strict=True):
        split = re.compile(r"[\w-]+")
        found += zip(split.findall(before), split.findall(after), strict=True)
    return found


# --- every operation --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("subset", ["prove", "derive"])
@settings(max_examples=5)
@given(index=st.integers(0, 14), seed=st.integers(0, 10**6))
def test_what_is_made_of_a_theory_is_right_again_and_proved(
    name: str, subset: str, index: int, seed: int
) -> None:
    before = original(FOL, fol_problem(index), subset=subset)
    made = carried(FOL, before, name, seed)
    assert [chain.right_for_the_right_reason for chain in made.chains] == [True]
    assert FOL.prove(made.problem) == Proved()
    assert made.problem.gold[-1] == f'stop("{made.problem.answer}")'
    assert play(FOL, FOL.function_set(), made.problem, made.problem.gold).right_for_the_right_reason
    again = carried(FOL, before, name, seed)
    assert (again.problem, replies(again)) == (made.problem, replies(made))


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=10)
@given(index=st.integers(0, 14), seed=st.integers(0, 10**6))
def test_what_is_made_of_rules_is_right_again_and_reads_back(name: str, index: int, seed: int) -> None:
    problem = rules_of_index(index)
    try:
        made = carried(RULES, original(RULES, problem), name, seed)
    except Rejected:
        assert name in ("rewrite", "distract")
        return
    new = made.problem
    assert [chain.right_for_the_right_reason for chain in made.chains] == [True]
    assert RULES.prove(new) == Proved()
    reader = Reader(new.metadata["sentences"])
    read = [*reader.formulas(), reader.formula(new.metadata["statement"])]
    assert [to_text(one).lower() for one in read] == [one.lower() for one in told(new)[0]]
    assert play(RULES, RULES.function_set(), new, new.gold).right_for_the_right_reason


@settings(max_examples=12)
@given(index=st.integers(0, 14), seed=st.integers(0, 10**6), task=st.sampled_from(["fol", "rules"]))
def test_renaming_is_one_to_one_and_leaves_no_old_word(index: int, seed: int, task: str) -> None:
    old = fol_problem(index) if task == "fol" else rules_of_index(index)
    made_of = FOL if task == "fol" else RULES
    new = carried(made_of, original(made_of, old), "rename", seed).problem
    pairs = {(a.lower(), b.lower()) for a, b in pairs_of_names(old, new)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    names = {b for text in told(new)[0] for b in re.findall(r"[\w-]+(?=\()", text)}
    words = words_of(new.question.replace("-", "_"))
    for name in names:  # every name is found in the text in one of its forms
        stem = name.replace("-", "_").split("_")[-1].lower()[:-2]
        assert any(word.startswith(stem) or stem in word for word in words)


@settings(max_examples=8)
@given(index=st.integers(0, 14), seed=st.integers(0, 10**6))
def test_permuting_keeps_the_sentences_and_distracting_adds_to_them(index: int, seed: int) -> None:
    for made_of, problem in ((FOL, fol_problem(index)), (RULES, rules_of_index(index))):
        before = original(made_of, problem)
        permuted = carried(made_of, before, "permute", seed).problem
        gold, new = told(problem)[0], told(permuted)[0]
        assert sorted(new) == sorted(gold)
        assert new != gold
        assert new[-1] == gold[-1]
        try:
            more = carried(made_of, before, "distract", seed).problem
        except Rejected:
            continue
        kept = [one for one in told(more)[0] if one in gold]
        assert kept == gold
        added = [parse(one) for one in told(more)[0] if one not in gold]
        assert 1 <= len(added) <= 3
        known = set().union(*(predicates(parse(one)) for one in gold))
        assert not known & set().union(*map(predicates, added))


def test_the_opposite_of_a_statement_has_the_opposite_answer() -> None:
    flipped = {"True": "False", "False": "True", "Unknown": "Unknown"}
    for index in range(14):
        for made_of, problem in ((FOL, fol_problem(index)), (RULES, rules_of_index(index))):
            new = carried(made_of, original(made_of, problem), "negate").problem
            assert new.answer == flipped[problem.answer]
            before, after = parse(problem.metadata["goal"]), parse(new.metadata["goal"])
            assert prover.equivalent(parse(opposite_formula(to_text(before))), after)


# --- chains -----------------------------------------------------------------------------------------

CATS = rules_problem(
    "cats",
    ["Sheep are cold.", "Every cat is a sheep.", "Max is a cat.", "Cold things are not red."],
    "Max is red.",
    "False",
)
"""With a plural that is like its singular, and a sentence that begins with a trait."""


def test_words_change_in_every_form_with_their_capital_and_article() -> None:
    renaming = Renaming(
        {"cat": "owl", "cats": "owls", "likes": "fears", "like": "fear", "bob": "Anne", "old": "icy"}
    )
    assert (
        renaming.text("Cats like Bob. A cat likes an old hat.")
        == "Owls fear Anne. An owl fears an icy hat."
    )
    assert renaming.text("Every Old Cat is bob's.") == "Every icy owl is anne's."
    assert renaming.formula("forall x (Cat(x) & ~likes(x, Bob) -> old(bob))") == (
        "forall x (Owl(x) & ~fears(x, Anne) -> icy(anne))"
    )
    assert renaming.formula("is_old_cat(Bob)") == "is_icy_owl(Anne)"
    with pytest.raises(Unlinked):
        renaming.formula("dog(Bob)")


def test_a_plural_that_is_like_its_singular_is_told_from_it() -> None:
    made = carried(RULES, original(RULES, CATS), "rename")
    first, second, third, _ = made.problem.metadata["sentences"]
    kind = re.fullmatch(r"forall x \((\w+)\(x\) -> .*", made.problem.metadata["premises"][0])
    assert kind is not None
    noun = kind[1].replace("_", " ")
    assert first.lower().startswith(noun[:-1])
    assert not first.lower().startswith(f"{noun} ")
    assert re.search(rf" an? {noun}\.", second)
    assert third != "Max is a cat."


def test_nouns_are_told_from_adjectives_by_where_they_stand() -> None:
    said = [
        "There is a cold, red cat.", "Tom is a dog, big and wise.", "All big things are odd.",
        "Every owl is odd.", "No wise pet is a toy.", "Ann likes every fox.",
    ]  # fmt: skip
    words = "cold red cat dog big wise odd owl pet toy fox".split()
    nouns = {word for word, used in kinds(said, words).items() if used == {WordKind.NOUN}}
    assert nouns == {"cat", "dog", "owl", "pet", "toy", "fox"}


def simple() -> Problem:
    """Three sentences whose formulas are known."""
    sentences = ["Every cat is red.", "Tom is a cat.", "Anne is old."]
    premises = ["forall x (cat(x) -> red(x))", "cat(Tom)", "old(Anne)"]
    return Problem(
        id="simple",
        question=generator.question_of(sentences, "Tom is red."),
        answer="True",
        gold=(*(f'premise("{one}")' for one in premises), 'goal("red(Tom)")', 'stop("True")'),
        metadata={"premises": premises, "goal": "red(Tom)"},
    )


RIGHT = list(simple().gold)
SKIPPED = [*RIGHT[:2], 'goal("red(Tom)")', 'stop("True")']
OTHER_WAY = ['premise("forall x (red(x) -> cat(x))")', *RIGHT[1:4], 'stop("Unknown")']
AGAINST = [*RIGHT[:4], 'stop("False")']
MENDED = [RIGHT[0], 'premise("cat(Tom")', *RIGHT[1:]]
STYLED = ["premise(formula='forall x (cat(x) -> red(x))')", *RIGHT[1:4], "stop(answer='True')"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_wrong_chains_come_along_and_stay_wrong(name: str) -> None:
    before = original(FOL, simple(), RIGHT, SKIPPED, OTHER_WAY, AGAINST, MENDED, STYLED)
    made = carried(FOL, before, name, 5)
    worth = {chain.key: chain.right_for_the_right_reason for chain in before.chains}
    assert len(made.chains) == 6
    assert not made.left_out
    for chain in made.chains:
        assert chain.origin is not None
        assert chain.right_for_the_right_reason == worth[chain.origin.parent]
        assert chain.stop_reason == "stopped"


def test_an_answer_follows_the_verdict_that_it_repeated_and_else_the_label() -> None:
    before = original(FOL, simple(), RIGHT, OTHER_WAY, AGAINST)
    made = carried(FOL, before, "negate")
    answers = {chain.source: (chain.answer, chain.outcome) for chain in made.chains}
    assert answers == {
        "s0": ("False", Outcome.CORRECT),
        "s1": ("Unknown", Outcome.INCORRECT),
        "s2": ("True", Outcome.INCORRECT),
    }


def test_calls_keep_their_way_of_writing() -> None:
    made = carried(FOL, original(FOL, simple(), STYLED), "negate")
    assert replies(made)[0] == "premise(formula='forall x (cat(x) -> red(x))')"
    assert replies(made)[-1] == "stop(answer='False')"
    assert replies(made)[-2] == 'goal("~red(Tom)")'


DERIVED = [
    *RIGHT[:3], 'claim("red(Tom)")', 'reason("P1 applies to Tom, a cat by P2.")',
    'derive("red(Tom)", "P1", "P2")', 'stop("True")',
]  # fmt: skip


def test_labels_follow_the_premises_in_derivations_and_thoughts() -> None:
    made = carried(FOL, original(FOL, simple(), DERIVED, subset="derive"), "permute", 1)
    said = replies(made)
    rule = 1 + next(i for i, one in enumerate(said) if "forall" in one)
    fact = 1 + next(i for i, one in enumerate(said) if "cat(Tom)" in one)
    assert said[4] == f'reason("P{rule} applies to Tom, a cat by P{fact}.")'
    assert said[5] == 'derive("red(Tom)", "P{}", "P{}")'.format(*sorted((rule, fact)))
    assert {rule, fact} != {1, 2} or rule == 2


def test_thoughts_are_renamed_too() -> None:
    made = carried(FOL, original(FOL, simple(), DERIVED, subset="derive"), "rename", 1)
    names = constants(parse(made.problem.metadata["goal"]))
    assert not {"Tom", "cat"} & set(re.findall(r"\w+", replies(made)[4]))
    assert names <= set(re.findall(r"\w+", replies(made)[4]))


@pytest.mark.parametrize(
    ("name", "reply", "reason"),
    [
        ("permute", 'The first sentence: premise("forall x (cat(x) -> red(x))")', "order of sentences"),
        ("negate", 'The statement is clear: goal("red(Tom)")', "about the statement"),
        ("rename", 'premise("forall x (kat(x) -> red(x))")', "not in the text"),
        ("distract", 'premise("cat(Tom)") goal("red(Tom)")', "several calls"),
    ],
)
def test_a_chain_that_cannot_follow_is_left_out_with_a_reason(
    name: str, reply: str, reason: str
) -> None:
    place = 3 if name == "negate" else 0
    odd = [*RIGHT[:place], reply, *RIGHT[place + 1 :]]
    made = carried(FOL, original(FOL, simple(), RIGHT, odd), name)
    assert len(made.chains) == 1
    assert len(made.left_out) == 1
    assert reason in made.left_out[0]


def test_words_beside_a_call_stay_and_are_renamed() -> None:
    spoken = ['Tom is a cat, so: premise("cat(Tom)")', RIGHT[0], *RIGHT[2:]]
    made = carried(FOL, original(FOL, simple(), spoken), "rename", 2)
    name = min(constants(parse(made.problem.metadata["goal"])))
    found = re.fullmatch(r'(\w+) is an? (\w+), so: premise\("(\w+)\((\w+)\)"\)', replies(made)[0])
    assert found is not None
    assert (found[1], found[2]) == (found[4], found[3])
    assert found[1] == name


def test_what_was_tried_from_all_premises_is_tried_from_the_added_ones_too() -> None:
    problem = simple().model_copy(update={"answer": "Unknown"})
    problem = problem.model_copy(
        update={
            "question": generator.question_of(["Every cat is red.", "Anne is old."], "Anne is red."),
            "metadata": {"premises": ["forall x (cat(x) -> red(x))", "old(Anne)"], "goal": "red(Anne)"},
        }
    )
    made = carried(FOL, original(FOL, problem, subset="derive"), "distract", 3)
    premises = sum(one.startswith("premise") for one in replies(made))
    everything = ", ".join(f'"P{number}"' for number in range(1, premises + 1))
    assert premises > 2
    assert [one for one in replies(made) if everything in one] == replies(made)[-3:-1]


def test_a_recorded_formula_belongs_to_its_sentence_however_it_is_written() -> None:
    gold = ["cat(Tom)", "forall x (cat(x) -> red(x))", "old(Anne)"]
    assert aligned(["forall y (~red(y) -> ~cat(y))", "old( Anne )", "cat(Anne)"], gold) == [1, 2, 0]
    assert aligned(["cat(Tom)", "dog(Tom)"], gold) == [0, None]


# --- equivalent formulas ----------------------------------------------------------------------------

FORMULAS = [
    "forall x (cat(x) & ~old(x) -> red(x) | wet(x))", "~exists x (cat(x) & red(x))", "~(a | ~b) & c",
    "exists x (cat(x) & forall y (likes(x, y) -> red(y)))", "a ^ (b <-> ~~c)", "~forall x (~red(x))",
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("text", FORMULAS)
def test_a_law_changes_no_meaning(law: object, text: str) -> None:
    formula = parse(text)
    assert callable(law)
    for other in rewritings(formula, law):  # type: ignore[arg-type]
        assert prover.equivalent(formula, other) is True


def test_a_fact_has_no_law_and_is_hardly_ever_doubly_denied() -> None:
    fact = parse("red(Tom)")
    assert not has_law(fact)
    assert has_law(parse("cat(Tom) -> red(Tom)"))
    made = [rewriting(fact, Random(seed)) for seed in range(400)]
    assert {to_text(one) for one in made if one is not None} == {"~~red(Tom)"}
    assert sum(one is None for one in made) > 350


def test_rewritten_rules_only_exchange_their_conditions() -> None:
    problem = rules_problem(
        "two", ["Red, cold things are nice.", "Bob is red.", "Bob is cold."], "Bob is nice.", "True"
    )
    made = carried(RULES, original(RULES, problem), "rewrite")
    assert replies(made)[0] == 'premise(1, "forall x (cold(x) & Red(x) -> nice(x))")'
    assert made.problem.question == problem.question
    with pytest.raises(Rejected, match="no rule with two conditions"):
        carried(RULES, original(RULES, CATS), "rewrite")


# --- stories and entailments ------------------------------------------------------------------------

STORY = {
    "premises": ["All students love books.", "James is a student.", "Maria is not James."],
    "premises-FOL": ["∀x (Student(x) → LoveBooks(x))", "Student(james)", "¬(maria = james)"],
    "conclusion": "Students like James love books.",
    "conclusion-FOL": "LoveBooks(james)",
    "label": "True",
}


def story(**other: object) -> Original:
    task = load_task("folio", path=str(Path(__file__).parent))
    return original_of(task, task.function_set(), story_of({**STORY, **other}, "here"))


def test_people_of_a_story_get_other_given_names() -> None:
    made = carried(story().task, story(), "rename")
    names = {term.capitalize() for term in constants(parse(made.problem.metadata["premises"][2]))}
    assert not {"James", "Maria"} & names
    assert len(names) == 2
    assert names <= set(re.findall(r"\w+", made.problem.question))
    with pytest.raises(Rejected, match="a pronoun"):
        carried(story().task, story(conclusion="James loves his books."), "rename")


def test_a_sentence_that_refers_back_keeps_its_place() -> None:
    made = carried(story().task, story(), "permute")
    assert sorted(made.problem.question.split("\n")) == sorted(story().problem.question.split("\n"))
    back = [*STORY["premises"][:2], "He is not Maria."]
    with pytest.raises(Rejected, match="refers back"):
        carried(story().task, story(premises=back), "permute")


@pytest.mark.parametrize(
    ("conclusion", "begins"),
    [
        ("James loves books.", "James loves"),
        ("Students are readers.", "students are"),
        ("If James is a student, he reads.", "if James"),
        ("Everyone reads.", "everyone"),
    ],
)
def test_a_denied_statement_keeps_the_capital_of_names_alone(conclusion: str, begins: str) -> None:
    made = carried(story().task, story(conclusion=conclusion), "negate")
    last = made.problem.question.split("\n")[-1]
    assert re.match(rf"Statement: It is not (true|the case) that {begins}", last)
    assert made.problem.answer == "False"
    assert made.problem.metadata["goal"] == "~LoveBooks(james)"


def test_added_sentences_of_a_story_are_written_as_its_formulas_are() -> None:
    made = carried(story().task, story(), "distract", 4)
    new = [
        one
        for one in made.problem.metadata["premises"]
        if one not in story().problem.metadata["premises"]
    ]
    assert new
    for text in new:
        assert all(name[0].isupper() for name, _ in predicates(parse(text)))
        assert all(name.islower() for name in constants(parse(text)))


@pytest.mark.parametrize("name", ["rename", "rewrite"])
def test_entailments_get_other_letters_and_other_formulas(name: str) -> None:
    task = load_task("logical_entailment", path=str(Path(__file__)))
    for line in ("(p&q),(q|r),1", "(p>q),(q>p),0", "(p&~(p)),s,1"):
        problem = entailment_of(line, "here")
        made = carried(task, original_of(task, task.function_set(), problem), name, 8)
        assert made.problem.answer == problem.answer
        assert made.chains[0].right_for_the_right_reason
        assert (made.problem.question != problem.question) == (name == "rename")


def test_a_problem_whose_formulas_are_unknown_is_left_alone() -> None:
    bare = simple().model_copy(update={"metadata": {}})
    for name in OPERATIONS:
        with pytest.raises(Rejected, match="no gold formulas"):
            carried(FOL, original(FOL, bare), name)


# --- public data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["proofwriter", "prontoqa", "folio"])
def test_recorded_chains_keep_their_worth(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = {"proofwriter": "proofwriter_owa_d5"}.get(name, name)
    task = load_task(name, path=str(shared_data / folder))
    problems = {problem.id: problem for problem in task.problems("test", 8)}
    logs = sorted((shared_data / "recorded").glob(f"logic_lm_{name}_gpt-3*"))
    import_chains(
        read_logs(load_importer("logic_lm"), logs), task, problems.values(), tmp_path / "c.jsonl"
    )
    chains = list(ChainStore(tmp_path / "c.jsonl"))
    kept = 0
    for problem in problems.values():
        mine = [chain for chain in chains if chain.problem_id == problem.id]
        before = original_of(task, task.function_set(), problem, mine)
        worth = {chain.key: chain.right_for_the_right_reason for chain in before.chains}
        for operation in task.operations:
            try:
                made = carried(task, before, operation)
            except Rejected:
                continue
            kept += 1
            assert isinstance(task.prove(made.problem), Proved)
            for chain in made.chains:
                assert chain.origin is not None
                assert chain.right_for_the_right_reason >= worth[chain.origin.parent]
    assert kept >= 20
