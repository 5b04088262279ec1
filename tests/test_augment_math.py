"""Word problems with other numbers, names and things: what is right stays right."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.augment import Made, Original, Rejected, carry_out, original_of, play
from rightcall.chain import Chain, Outcome, Problem
from rightcall.functions import parse_calls
from rightcall.task import Proved, load_task
from rightcall.tasks.gsm8k import Gsm8kTask, problem_of
from rightcall.tasks.math.answers import same_value
from rightcall.tasks.math.augmentation import LARGEST_RATIO, renumber
from rightcall.tasks.math.common_knowledge import constants, times_told
from rightcall.tasks.math.generator import generate, split_of
from rightcall.tasks.math.linking import Text
from rightcall.tasks.math.mentions import (
    LARGEST_WORD,
    Unreadable,
    mentions,
    number_word,
    rewritten,
    word_value,
    written_as,
)
from rightcall.tasks.math.numbers import read_number, show
from rightcall.tasks.math.renaming import MEN, WOMEN, exchanged, rename
from rightcall.tasks.multiarith import problem_of as multiarith_problem

TASK = Gsm8kTask()
MATH = load_task("math")


def problem(question: str, *annotations: str) -> Problem:
    """A problem as GSM8K has it; the last annotation gives the answer."""
    marked = "\n".join(f"<<{one}>>" for one in annotations)
    answer = annotations[-1].rpartition("=")[2]
    return problem_of({"question": question, "answer": f"{marked}\n#### {answer}"}, "here")


NUTS = problem(
    "Ann has 13 bags of 12 nuts and eats 25% of them. How many nuts are left?",
    "13*12=156",
    "156*0.25=39",
    "156-39=117",
)


def made_of(one: Problem, seed: int = 0, *more: list[str]) -> Made:
    """The variant of a problem and its gold chain, or the one that says why there is none."""
    return carry_out(original(one, *more), "renumber", renumber, Random(seed))


def original(one: Problem, *more: list[str]) -> Original:
    functions = TASK.function_set()
    chains = [play(TASK, functions, one, list(one.gold))] if one.gold else []
    chains += [
        play(TASK, functions, one, replies, source=f"student{number}")
        for number, replies in enumerate(more)
    ]
    return original_of(TASK, functions, one, chains)


def reason(one: Problem) -> str:
    with pytest.raises(Rejected) as rejected:
        renumber(original(one), Random(0))
    return str(rejected.value)


def numbers_in(text: str) -> list[Fraction]:
    return [mention.value for mention in mentions(text)]


def replies(chain: Chain) -> list[str]:
    return [step.reply for step in chain.steps]


# --- numbers in a text ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "fixed"),
    [
        ("She has 48 apples.", 48, False),
        ("It costs $1,250.", 1250, False),
        ("He pays $2.50 each.", Fraction(5, 2), False),
        ("It is $.75 a line.", Fraction(3, 4), False),
        ("Twenty-five people came.", 25, False),
        ("They sold 20% of them.", 20, False),
        ("A 64-ounce can.", 64, False),
        ("She eats half of it.", Fraction(1, 2), True),
        ("She eats 2/3 of it.", Fraction(2, 3), True),
        ("She eats two-thirds of it.", Fraction(2, 3), True),
        ("He ran 2 1/2 miles.", Fraction(5, 2), True),
        ("A dozen came.", 12, True),
        ("He has twice that.", 2, True),
        ("It has 4 legs.", 4, True),
        ("On May 12 it rained.", 12, True),
        ("In 1995 it rained.", 1995, True),
        ("He takes Route 66 home.", 66, True),
        ("On the 5th day.", 5, True),
        ("It opens at 7 a.m. there.", 7, True),
        ("She has one apple.", 1, True),
        ("A $20 bill.", 20, True),
        ("They get 50% of it.", 50, True),
    ],
)
def test_a_number_of_a_text_is_read_with_whether_it_may_change(
    text: str, value: Fraction, fixed: bool
) -> None:
    (found,) = mentions(text)
    assert (found.value, found.fixed) == (value, fixed)
    assert text[found.start : found.end] == found.text


@pytest.mark.parametrize(
    "text",
    [
        "The ratio is 3:1 now.",
        "It takes 7-9 days.",
        "He is 5'10 tall.",
        "A 10K run.",
        "2 and a half.",
        "Two hundred fifty.",
        "At -5 degrees.",
    ],
)
def test_a_number_in_an_unusual_form_is_not_guessed(text: str) -> None:
    with pytest.raises(Unreadable):
        mentions(text)


@pytest.mark.parametrize("text", ["She has 48 apples.", "A big 1,250 and two-thirds.", "$.75 a line"])
def test_a_text_with_its_own_numbers_is_itself(text: str) -> None:
    assert rewritten(text, [(m, m.value) for m in mentions(text) if not m.fixed]) == text


@pytest.mark.parametrize(
    ("text", "new", "wanted"),
    [
        ("an 8-ounce can", 6, "a 6-ounce can"),
        ("a $7 cake", 8, "an $8 cake"),
        ("Three cats", 5, "Five cats"),
        ("twenty-one cats", 34, "thirty-four cats"),
        ("$1,200 each", 950, "$950 each"),
        ("$950 each", 1200, "$1200 each"),
        ("$2.50 each", Fraction(7, 2), "$3.50 each"),
    ],
)
def test_a_new_number_takes_the_form_of_the_old_one(text: str, new: Fraction, wanted: str) -> None:
    (found,) = mentions(text)
    assert rewritten(text, [(found, Fraction(new))]) == wanted


@given(st.integers(0, LARGEST_WORD))
def test_number_words_are_read_as_they_are_written(value: int) -> None:
    assert word_value(number_word(value)) == value


@given(st.fractions(0, 10_000, max_denominator=100), st.sampled_from(["7", "1,000", "2.5", ".75"]))
def test_a_written_number_has_its_value(value: Fraction, pattern: str) -> None:
    value = Fraction(round(value * 100), 100)
    assert read_number(written_as(pattern, value)) == value


def test_constants_are_those_that_a_text_speaks_of() -> None:
    assert 60 in constants("How many minutes are 3 hours?")
    assert 60 not in constants("Three dogs and four cats")
    assert 12 in constants("two dozen eggs")
    assert times_told(Fraction(2), "two dogs eat half of it, the cat twice as much") == 2


# --- other numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_renumbered_problem_has_other_numbers_and_what_they_give(seed: int) -> None:
    made = made_of(NUTS, seed)
    bags, each, percent = numbers_in(made.problem.question)
    nuts = bags * each
    assert made.problem.answer == show(nuts - nuts * percent / 100)
    assert made.problem.question != NUTS.question
    assert re.sub(r"\d+", "#", made.problem.question) == re.sub(r"\d+", "#", NUTS.question)
    assert [chain.outcome for chain in made.chains] == [Outcome.CORRECT]
    assert made.chains[0].judgement.process_correct
    assert isinstance(TASK.prove(made.problem), Proved)


def test_a_renumbered_problem_depends_on_the_seed_alone() -> None:
    assert made_of(NUTS, 3).problem == made_of(NUTS, 3).problem
    assert len({made_of(NUTS, seed).problem.question for seed in range(8)}) > 4


def test_annotations_and_gold_calls_are_those_of_the_new_numbers() -> None:
    new = made_of(NUTS).problem
    for (left, right), text in zip(new.metadata["annotations"], new.gold, strict=False):
        assert parse_calls(text)[0].args == (left,)
        assert same_value(right, show(read_number(right) or Fraction(0)))
    assert new.gold[-1] == f"stop({new.answer})"
    assert new.metadata["answer_from_call"] is True


def test_equal_numbers_change_together() -> None:
    one = problem(
        "Al reads 30 pages on each of 30 days. How many pages does he read in the 30 days?", "30*30=900"
    )
    found = {value for seed in range(5) for value in numbers_in(made_of(one, seed).problem.question)}
    assert len(found - {30}) > 0
    for seed in range(5):
        assert len(set(numbers_in(made_of(one, seed).problem.question))) == 1


def test_constants_of_the_world_stay() -> None:
    one = problem("A pump fills 45 cups a minute. How many in 5 hours?", "5*60=300", "300*45=13500")
    made = made_of(one)
    cups, hours = numbers_in(made.problem.question)
    assert made.problem.answer == show(cups * hours * 60)


def test_what_is_left_of_a_percentage_is_linked_to_it() -> None:
    one = problem("Jo has 200 pens and sells 20%. How many are left?", "200*.8=160")
    for seed in range(5):
        made = made_of(one, seed)
        pens, percent = numbers_in(made.problem.question)
        assert made.problem.answer == show(pens * (100 - percent) / 100)


def test_whole_numbers_stay_whole_at_every_step() -> None:
    one = problem(
        "Half of the 48 boys and a third of the 27 girls swim. How many swim?",
        "48/2=24",
        "27/3=9",
        "24+9=33",
    )
    for seed in range(10):
        boys, girls = (v for v in numbers_in(made_of(one, seed).problem.question) if v.denominator == 1)
        assert boys % 2 == 0
        assert girls % 3 == 0


def test_the_larger_stays_the_larger() -> None:
    one = problem("Mo has 14 cows and 12 sheep. How many more cows?", "14-12=2")
    for seed in range(20):
        cows, sheep = numbers_in(made_of(one, seed).problem.question)
        assert cows > sheep


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (
            problem("Al has 6 cats. 13 dogs, too. He gets 6*4 in all.", "6+13=19"),
            "a number in an unusual form",
        ),
        (problem("Al has 6 cats and 13 dogs, and 25 fish. Cats and dogs?", "6+13=19"), "no call uses"),
        (problem("Al has 6 cats and 13 dogs. All?", "6+13=19", "19+31=50"), "from nowhere"),
        (problem("Al has 6 cats and 13 dogs. All?", "6*13=78", "6+13=19"), "nothing uses"),
        (
            problem("Al has 5 bags of 5 and 25 more, in 15 boxes.", "5*5=25", "25+25=50", "50-15=35"),
            "the text tells",
        ),
        (
            problem(
                "Al has 2 bags of 5 nuts, 10 tins of 10 figs.", "2*5=10", "10*10=100", "10+100=110"
            ),
            "a result or a number of the text",
        ),
        (
            problem("Al is 38 years old, his mother is 60. How much older?", "60-38=22"),
            "ages that have to fit each other",
        ),
        (problem("He walks to Box 12 and on to Box 30.", "30-12=18"), "no number may change"),
        (problem("Al worked out 2*2 in his head, twice that?", "2*2=4", "4*2=8"), "unusual form"),
        (problem("Six nuts fell, one more of Al's. Twice Al's?", "2*2=4", "4*6=24"), "from nowhere"),
    ],
)
def test_what_is_not_certain_is_rejected_with_the_reason(one: Problem, why: str) -> None:
    assert why in reason(one)


def test_a_problem_without_calculations_is_rejected() -> None:
    bare = NUTS.model_copy(update={"gold": ()})
    with pytest.raises(Rejected, match="no calculation"):
        renumber(original(bare), Random(0))


def test_a_right_chain_does_for_a_problem_without_a_gold_chain() -> None:
    bare = NUTS.model_copy(update={"gold": (), "metadata": {}})
    made = made_of(bare, 0, list(NUTS.gold))
    assert made.chains[0].outcome is Outcome.CORRECT
    assert made.problem.gold == ()


def test_wrong_chains_are_carried_over_and_judged_anew() -> None:
    wrong = ['calculate("13 * 12")', 'calculate("156 + 12")', "stop(168)"]
    other = ['I add 13 and 12.\ncalculate("13+12")', "stop(25)"]
    made = made_of(NUTS, 1, wrong, other)
    bags, each, percent = numbers_in(made.problem.question)
    by_parent = {chain.source: chain for chain in made.chains}
    assert by_parent["student0"].outcome is Outcome.INCORRECT
    assert replies(by_parent["student1"]) == [
        f'I add {bags} and {each}.\ncalculate("{bags}+{each}")',
        f"stop({bags + each})",
    ]
    assert percent != 25 or bags + each != 25


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (['calculate("13*17")', "stop(221)"], "a number from nowhere"),
        (["I give up.", "stop(3)"], "a reply without a call"),
        (['reason("twelve nuts each")', 'calculate("13*12")', "stop(156)"], "a number in words"),
        (['calculate("13/12")', "stop(1.08)"], "a number from nowhere"),
    ],
)
def test_a_chain_whose_numbers_are_not_certain_is_left_out(chain: list[str], why: str) -> None:
    made = made_of(NUTS, 0, chain)
    assert made.left_out == (why,)
    assert len(made.chains) == 1


def test_multiarith_is_renumbered_by_its_searched_plan() -> None:
    question = "Debby had 32 sweets, her sister 42. They ate 35. How many are left?"
    one = multiarith_problem({"question": question, "final_ans": "39"}, "here")
    made = made_of(one)
    first, second, eaten = numbers_in(made.problem.question)
    assert made.problem.answer == show(first + second - eaten)
    assert len(made.problem.metadata["annotations"]) == 2


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 5))
def test_a_generated_problem_re_executes_to_its_label_and_stays_in_its_split(
    index: int, seed: int
) -> None:
    one = generate(5, "train", index)
    given_ = original_of(MATH, MATH.function_set(), one)
    try:
        made = carry_out(given_, "renumber", renumber, Random(seed))
    except Rejected:
        return
    assert all(chain.right_for_the_right_reason for chain in made.chains)
    assert isinstance(MATH.prove(made.problem), Proved)
    assert split_of(made.problem.question) == "train"
    assert 1 / LARGEST_RATIO <= Fraction(made.problem.answer) / Fraction(one.answer) <= LARGEST_RATIO


def test_most_generated_problems_can_be_renumbered() -> None:
    found = 0
    for index in range(40):
        one = generate(6, "train", index)
        try:
            renumber(original_of(MATH, MATH.function_set(), one), Random(index))
        except Rejected:
            continue
        found += 1
    assert found >= 30


@pytest.mark.parametrize(
    ("question", "annotations"),
    [
        ("There are 30 pets, 12 cats and 18 dogs. A cat eats 2 fish. Fish?", ["12*2=24"]),
        ("Sue is 5 days a week at school and the other 2 days at home. Hours?", ["5*2=10"]),
        ("The first-place team has 12 wins, the next one 15. Wins?", ["12+15=27"]),
    ],
)
def test_numbers_that_have_to_fit_each_other_are_left_alone(
    question: str, annotations: list[str]
) -> None:
    assert reason(problem(question, *annotations)) == "numbers that have to fit each other"


def test_numbers_worked_out_in_the_head_are_no_constants() -> None:
    """Each chain holds a number that looks like one of common knowledge, but changes with the text."""
    shares = problem("He has 200 kg of trout and 50% more salmon. All?", "200+100=300", "300+200=500")
    assert reason(shares) == "a number from nowhere"
    discount = problem("A plant is $10 less a 10% discount. How much?", "10-1=9")
    assert reason(discount) in ("a number from nowhere", "a number that no call uses")
    trees = problem("5 fell, one more oak than pine. Twice the oaks?", "2*3=6", "6+5=11")
    assert reason(trees) == "a number from nowhere"


def test_a_part_of_what_is_divided_stays_whole() -> None:
    one = problem("3 bags hold 49 ounces each. A set weighs 7 ounces. Sets?", "3*49=147", "147/7=21")
    for seed in range(10):
        bags, ounces, weight = numbers_in(made_of(one, seed).problem.question)
        assert bags * ounces % weight == 0
        assert ounces % weight == 0


def test_percentages_that_make_a_whole_stay() -> None:
    one = problem("Of 200 pets 60% are cats and 40% dogs. How many cats?", "200*0.6=120")
    for seed in range(5):
        assert {60, 40} < set(numbers_in(made_of(one, seed).problem.question))


def test_a_number_that_an_ordinal_goes_on_from_stays() -> None:
    one = problem("He read 10 chapters of 40 pages and 25 of the 11th.", "10*40=400", "400+25=425")
    for seed in range(5):
        chapters, pages, rest, _ = numbers_in(made_of(one, seed).problem.question)
        assert chapters == 10
        assert {pages, rest} != {Fraction(40), Fraction(25)}


def test_a_small_number_that_calls_use_too_often_does_not_change() -> None:
    """Three people have it all, at 3 dollars for the ice cream and 7 for the cake."""
    one = problem(
        "Cake is $7, ice cream $3. Al and both friends have all.", "3*7=21", "3*3=9", "21+9=30"
    )
    assert reason(one) == "a number from nowhere"


def test_a_result_that_may_be_a_constant_is_no_argument() -> None:
    one = problem(
        "3 doses of 500 mg in 2 tablets. How many grams?", "2*500=1000", "3*1000=3000", "3000/1000=3"
    )
    assert "a result or" in reason(one)


def test_what_a_unit_is_stays() -> None:
    one = problem("A brush is 12 inches long. There are 2.5 cm per inch. How many cm?", "12*2.5=30")
    for seed in range(5):
        inches, each = numbers_in(made_of(one, seed).problem.question)
        assert each == Fraction(5, 2)
        assert inches != 12


@given(st.text(alphabet="0123456789 .,%$/-'abAB:onetwohlf", max_size=60))
def test_any_text_is_read_or_rejected(text: str) -> None:
    try:
        read = Text.of(text)
    except Rejected:
        return
    same = rewritten(text, [(m, m.value) for m in read.mentions if not m.fixed])
    assert [m.value for m in mentions(same)] == [m.value for m in read.mentions]


# --- other names and things -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "new", "wanted"),
    [
        ("James' cat", {"James": "Eric"}, "Eric's cat"),
        ("Ann’s cat", {"Ann": "Laura"}, "Laura’s cat"),
        ("An apple, apples. APPLES", {"apple": "pear", "apples": "pears"}, "A pear, pears. PEARS"),
        ("Pears. A pear", {"pear": "apple", "pears": "apples"}, "Apples. An apple"),
        ("Anna and Ann", {"Ann": "Laura"}, "Anna and Laura"),
        ("Tom gives Al 3", {"Tom": "Al", "Al": "Tom"}, "Al gives Tom 3"),
    ],
)
def test_words_are_exchanged_with_what_depends_on_them(
    text: str, new: dict[str, str], wanted: str
) -> None:
    assert exchanged(text, new) == wanted


def renamed(question: str, seed: int = 0) -> str:
    one = problem(question, "3+4=7")
    return carry_out(original(one), "rename", rename, Random(seed)).problem.question


def test_renaming_touches_no_number_and_no_answer() -> None:
    question = "Tom has 3 apples and gives Lisa's brother 4 apples. How many apples are these?"
    one = problem(question, "3+4=7")
    made = carry_out(original(one), "rename", rename, Random(1))
    assert made.problem.answer == "7"
    assert numbers_in(made.problem.question) == [3, 4]
    assert not {"Tom", "Lisa", "apples"} & set(re.findall(r"\w+", made.problem.question))
    assert [chain.outcome for chain in made.chains] == [Outcome.CORRECT]


def test_names_in_a_chain_follow_those_of_the_problem() -> None:
    one = problem("Lisa has 3 cats and 4 dogs. How many pets has Lisa?", "3+4=7")
    chain = ['reason("Lisa has cats and dogs")', 'calculate("3+4")', "stop(7)"]
    made = carry_out(original(one, chain), "rename", rename, Random(0))
    name = made.problem.question.split()[0]
    said = [replies(one)[0] for one in made.chains if one.source == "student0"]
    assert said == [f'reason("{name} has cats and dogs")']


@pytest.mark.parametrize(
    "question",
    [
        "The Jordan River has 3 fish and 4 frogs. How many animals?",
        "Mr. Thomas has 3 cats and 4 dogs. How many pets?",
        "Thomas Smith has 3 cats and 4 dogs. How many pets?",
        "Lisa has 3 letters in her bag and 4 on the table. How many?",
        "An apple tree has 3 apples, then 4 more. How many apples?",
        "There are 3 red and 4 green ones, the rest are orange. How many?",
    ],
)
def test_a_name_or_thing_that_may_be_part_of_something_else_stays(question: str) -> None:
    with pytest.raises(Rejected, match="no name or thing"):
        renamed(question)


def test_names_keep_their_gender_and_do_not_collide() -> None:
    for seed in range(20):
        text = renamed("Lisa has 3 cats. Tom has 4 dogs. How many pets has she, and he?", seed)
        her, his = re.findall(r"(?<!^)\b[A-Z]\w+|^[A-Z]\w+", text)[:2]
        assert her in WOMEN
        assert his in MEN


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("math", {"renumber", "rename"}),
        ("gsm8k", {"renumber", "rename"}),
        ("multiarith", {"renumber", "rename"}),
        ("aqua", {"rename"}),
    ],
)
def test_each_task_has_the_operations_that_are_sound_for_it(name: str, operations: set[str]) -> None:
    assert set(load_task(name).operations) == operations


# --- the data sets --------------------------------------------------------------------------------


def test_much_of_gsm8k_can_be_renumbered_and_all_of_it_re_executes(shared_data: Path) -> None:
    task = Gsm8kTask(str(shared_data / "gsm8k" / "train.jsonl"))
    kept = 0
    for number, one in enumerate(task.problems("train", 40, seed=4)):
        given_ = original_of(task, task.function_set(), one)
        try:
            made = carry_out(given_, "renumber", renumber, Random(number))
        except Rejected:
            continue
        kept += 1
        assert all(chain.right_for_the_right_reason for chain in made.chains)
        assert isinstance(task.prove(made.problem), Proved)
    assert kept >= 14


def test_aqua_keeps_its_options_consistent_when_renamed(shared_data: Path) -> None:
    task = load_task("aqua", path=str(shared_data / "aqua"))
    kept = 0
    for one in task.problems("train", 150):
        try:
            made = rename(Original(task, task.function_set(), one, ()), Random(0))
        except Rejected:
            continue
        kept += 1
        new = made.problem
        lines = [f"{letter}) {text}" for letter, text in new.metadata["options"].items()]
        assert new.question == "\n".join([new.metadata["stem"], *lines])
        assert new.answer == one.answer
    assert kept >= 10


def test_a_percentage_that_no_call_uses_is_not_taken_for_a_fixed_number_like_it() -> None:
    """The tip, 20% of 10.5, was worked out in the head; the 20 that is called is the bill."""
    tip = problem(
        "Kim orders a $10 meal and a $2.5 drink. She gives a 20% tip. She pays with a $20 bill. "
        "How much change does she get back?",
        "10+2.5=12.5",
        "12.5+2.5=15",
        "20-15=5",
    )
    assert reason(tip) == "a number that no call uses"


def test_what_is_the_most_stays_the_most() -> None:
    """No call compares: the text does."""
    months = problem(
        "Of 330 brushes 53 went in January, 67 in February and 46 in March, half of what was left in "
        "April and half in May. How many more were it in the busiest month than in the slowest?",
        "53+67+46=166",
        "330-166=164",
        "164/2=82",
        "82-46=36",
    )
    for seed in range(20):
        made = made_of(months, seed)
        _, first, second, third, *_ = (int(n) for n in re.findall(r"\d+", made.problem.question))
        april = int(made.chains[0].steps[2].observation.text)
        assert april > max(first, second)
        assert third < min(first, second)
