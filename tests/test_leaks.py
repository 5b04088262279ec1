"""The leak guard: exact, reordered and near; what is none; that none is missed."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from rich.console import Console

from rightcall.chain import Problem
from rightcall.errors import ConfigError
from rightcall.leaks import Kind, find_leaks
from rightcall.task import load_task

QUESTION = "Ann buys 3 pens for 2 dollars each and a book for 9 dollars. How much does she pay in all?"


def problem(question, answer="15", name="t"):
    return Problem(id=name, question=question, answer=answer)


def kind(train, test=QUESTION, **options):
    leaks = find_leaks([train], [problem(test)], **options).leaks
    return leaks[0].kind if leaks else None


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (QUESTION, Kind.EXACT),
        (QUESTION.upper().replace(".", "  ;"), Kind.EXACT),
        (
            " ".join(reversed(QUESTION.partition(". ")[::2])),
            Kind.REORDERED,
        ),
        (QUESTION.replace("Ann", "Ben"), Kind.NEAR),
        (QUESTION.replace("3 pens", "three pens"), Kind.NEAR),
        (QUESTION.replace(" in all", ""), Kind.NEAR),
        (QUESTION.replace("3 pens", "4 pens"), None),
        (QUESTION.replace("3 pens", "four pens"), None),
        (QUESTION.replace("Ann", "Ben").replace("she", "he").replace("book", "cup"), None),
        ("Something else altogether.", None),
    ],
)
def test_what_is_a_leak_and_what_is_not(train, expected):
    assert kind(train) == expected


@pytest.mark.parametrize(
    "wrapped",
    [
        "Solve this carefully, step by step. {} Put the answer in a box.",
        "Q: What is 2 and 3? A: 5\n\nQ: {}\nA:",
        "{} And how much would she pay for two of each?",
        "x {}",
    ],
)
def test_a_test_question_within_a_longer_text_is_found(wrapped):
    train = wrapped.format(QUESTION)
    assert kind(train, threshold=1) is Kind.CONTAINED
    assert not find_leaks([train], [problem(QUESTION)], threshold=1).ok
    assert kind(train.replace("3 pens", "4 pens"), threshold=1) is None


def test_a_short_question_or_a_part_of_one_is_not_looked_for_in_longer_texts():
    assert kind("They ask: what is 2 and 3? Then they rest.", "What is 2 and 3?") is None
    assert kind(QUESTION.partition(". ")[0], QUESTION) is None


def test_every_test_question_that_begins_alike_is_found_in_a_longer_text():
    tests = [problem(f"{QUESTION} Then {'and then ' * n}she rests.", name=str(n)) for n in range(4)]
    report = find_leaks([f"Well: {tests[3].question}", f"Now: {tests[1].question} So."], tests)
    assert {leak.test_id for leak in report.of(Kind.CONTAINED)} == {"1", "3"}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("A house is $1,000 and 25% more.", "A house is $1000 and 25 percent more."),
        ("A house is $1,250,000.00 now.", "A house is $1250000 now."),
        ("Of 12 take .5 times 12.", "Of 12 take 0.50 times 12."),
        ("She has ３ pens and １２ cups.", "She has 3 pens and 12 cups."),
        ("She\u200b has 3\u200d pens\ufeff and cups.", "She has 3 pens and cups."),
        ("A ﬁne day of 3 pens.", "A fine day of 3 pens."),
    ],
)
def test_how_a_number_or_a_character_is_written_makes_no_difference(train, test):
    assert kind(train, test) is Kind.EXACT


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Take 2.5 of them and go.", "Take 2, 5 of them and go."),
        ("Take 1,000 of them and go.", "Take 1, 0 of them and go."),
        ("Take 0.5 of them and go.", "Take 5 of them and go."),
        ("Take 10 of them and go.", "Take 1 of them and go."),
    ],
)
def test_other_numbers_stay_other_numbers(train, test):
    assert kind(train, test) is None


def test_a_template_of_many_problems_is_compared_once_and_each_problem_is_named(monkeypatch):
    """Every test problem, with a training item of the same answer where there is one."""
    compared = []
    plain = Levenshtein.normalized_similarity
    monkeypatch.setattr(
        Levenshtein,
        "normalized_similarity",
        lambda *given, **options: compared.append(1) or plain(*given, **options),
    )

    def made(n, name):
        text = f"Bob has {n} apples and Tom gives him {n + 1} more, how many has he in all his bags?"
        return problem(text, str(n % 7), f"{name}{n}")

    train, test = [made(n, "a") for n in range(300)], [made(n, "b") for n in range(1000, 1100)]
    report = find_leaks(train, test, numbers=False)
    assert len(compared) == len(train)
    assert [leak.test_id for leak in report.leaks] == [one.id for one in test]
    assert all(leak.same_answer and leak.similarity == 1 for leak in report.of(Kind.NEAR))
    assert {leak.train_item for leak in report.leaks} == {f"a{n}" for n in range(7)}


def test_templates_with_other_numbers_are_found_when_asked_for():
    train = QUESTION.replace("3", "7").replace("9", "12")
    assert kind(train) is None
    assert kind(train, numbers=False) is Kind.NEAR


def test_the_threshold_says_how_near_is_near():
    train = QUESTION.replace("Ann", "Ben").replace("book", "cup").replace("she", "he")
    assert kind(train, threshold=0.8) is Kind.NEAR
    assert kind(QUESTION.replace("Ann", "Ben"), threshold=1) is None
    assert kind(QUESTION, threshold=1) is Kind.EXACT
    with pytest.raises(ConfigError, match="threshold"):
        find_leaks([], [], threshold=0.4)


def test_a_test_problem_is_reported_once_with_what_is_most_like_it():
    train = [
        problem(QUESTION.replace("Ann", "Ben"), "15", "far"),
        problem(QUESTION.replace("dollars each", "coins each").replace("Ann", "Eva"), "15", "farther"),
        problem("Other words.", "1", "none"),
    ]
    report = find_leaks(train, [problem(QUESTION, name="a"), problem("Nothing like it.", name="b")])
    assert (report.train, report.test) == (3, 2)
    (leak,) = report.leaks
    assert (leak.test_id, leak.train_item, leak.same_answer) == ("a", "far", True)
    assert leak.similarity == pytest.approx(1 - 1 / 21)
    assert report.ok
    exact = find_leaks([*train, QUESTION], [problem(QUESTION, name="a")])
    assert exact.leaks[0].kind is Kind.EXACT
    assert exact.leaks[0].train_item == "item 4"
    assert not exact.ok


def test_another_answer_is_said():
    train = problem(QUESTION.replace("pay in", "not pay in"), "0", "x")
    assert find_leaks([train], [problem(QUESTION)]).leaks[0].same_answer is False


def test_a_report_can_be_printed():
    report = find_leaks([QUESTION.replace("Ann", "Ben")], [problem(QUESTION, name="[a]")])
    console = Console(width=160, color_system=None)
    with console.capture() as captured:
        console.print(report)
    assert "[a] like item 1" in captured.get()


WORDS = st.lists(st.sampled_from("red big cold 3 4 not cat".split()), min_size=8, max_size=30)


@settings(max_examples=60)
@given(st.lists(WORDS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_no_near_pair_is_missed(texts, rnd):
    """Against every pair compared."""
    edited = []
    for words in texts:
        copy = list(words)
        for _ in range(rnd.randint(0, 3)):
            copy[rnd.randrange(len(copy))] = rnd.choice(["red", "new", "big"])
        edited.append(copy)
    test = [problem(" ".join(words), name=str(i)) for i, words in enumerate(edited)]
    found = {
        leak.test_id for leak in find_leaks((" ".join(w) for w in texts), test, threshold=0.8).leaks
    }
    expected = {
        str(i)
        for i, one in enumerate(edited)
        for two in texts
        if sorted(w for w in one if w.isdigit()) == sorted(w for w in two if w.isdigit())
        and Levenshtein.normalized_similarity(one, two) >= 0.8 - 1e-9
    }
    assert found == expected


@pytest.mark.parametrize("task", ["math", "tiny-math", "fol", "tiny-fol"])
def test_the_generated_tasks_share_no_question_between_train_and_test(task):
    made = load_task(task, **({"provers": 0} if "fol" in task else {}))
    report = find_leaks(made.problems("train", 300), made.problems("test", 100))
    assert report.ok
    assert len(report.leaks) <= 2


def test_a_planted_neighbour_is_found_among_many():
    rnd = random.Random(0)
    made = load_task("math")
    test = list(made.problems("test", 60))
    train = [p.question for p in made.problems("train", 300)]
    planted = rnd.sample(test, 5)
    train += [p.question.replace(" is ", " was ", 1).replace("How ", "Just how ", 1) for p in planted]
    found = {leak.test_id for leak in find_leaks(train, test, threshold=0.85).leaks}
    assert {p.id for p in planted} <= found


def test_real_data_with_a_name_exchanged_is_found(shared_data):
    import json

    lines = (shared_data / "multiarith" / "multiarith.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    train = [row["input"] for row in rows[::2]]
    test = [problem(r["input"], str(r["target"]), str(i)) for i, r in enumerate(rows[1::2])]
    assert find_leaks(train, test).of(Kind.NEAR)
