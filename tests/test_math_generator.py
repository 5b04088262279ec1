"""The generated word problems and their gold chains."""

import re
from collections import Counter
from fractions import Fraction
from itertools import islice

import pytest

from rightcall.chain import Chain, Outcome, Step, StopReason
from rightcall.check import check_task
from rightcall.errors import ConfigError
from rightcall.task import Proved, Refuted, load_task
from rightcall.tasks.math import MathTask, generate
from rightcall.tasks.math.families import FAMILIES
from rightcall.tasks.math.generator import split_of, stream
from rightcall.tasks.math.numbers import decimals, read_number

TASK = MathTask()
FUNCTIONS = TASK.function_set()
OTHER = {
    "add": "subtract",
    "subtract": "add",
    "multiply": "divide",
    "divide": "multiply",
    "percent_of": "add",
}


@pytest.fixture(scope="module")
def problems():
    return list(TASK.problems("train", len(FAMILIES) * 5, seed=3))


def play(problem, calls):
    states, steps, answer = {}, [], None
    for call in calls:
        result = FUNCTIONS.reply(call, states)
        steps.append(Step(reply=call, call=result.call, observation=result.observation))
        answer = result.answer
    return Chain(
        key="k",
        task="math",
        problem_id=problem.id,
        sample=0,
        source="test",
        model="scripted",
        seed=0,
        prompt=(),
        steps=tuple(steps),
        answer=answer,
        outcome=Outcome.INCORRECT,
        stop_reason=StopReason.STOPPED if answer is not None else StopReason.STEP_BUDGET,
    )


def test_gold_chains_reach_the_answer_by_a_right_plan(problems):
    for problem in problems:
        chain = play(problem, problem.gold)
        assert not chain.failures
        assert TASK.verify(problem, chain.answer)
        verdict = TASK.judge(problem, chain)
        assert verdict.process_correct is True, problem
        assert verdict.measures == {"results_used": 1, "numbers_sourced": 1, "answer_from_call": 1}


def test_a_dropped_calculation_is_judged_wrong_even_with_the_right_answer(problems):
    for problem in problems:
        for left_out in range(len(problem.gold) - 1):
            calls = [call for i, call in enumerate(problem.gold) if i != left_out]
            assert TASK.judge(problem, play(problem, calls)).process_correct is False, (
                problem,
                left_out,
            )


def test_a_wrong_operation_is_judged_wrong_even_with_the_right_answer(problems):
    for problem in problems:
        for changed in range(len(problem.gold) - 1):
            calls = list(problem.gold)
            name = calls[changed].split("(")[0]
            calls[changed] = calls[changed].replace(name, OTHER[name])
            assert TASK.judge(problem, play(problem, calls)).process_correct is False, (problem, calls)


def test_the_gold_expression_proves_the_answer(problems):
    assert all(TASK.prove(problem) == Proved() for problem in problems)
    wrong = problems[0].model_copy(update={"answer": "1"})
    assert isinstance(TASK.prove(wrong), Refuted)


def test_the_same_arguments_give_the_same_problems():
    assert list(TASK.problems("validation", 40, seed=5)) == list(
        TASK.problems("validation", 40, seed=5)
    )
    assert generate(5, "test", 17) == generate(5, "test", 17)


def test_a_known_problem_does_not_change():
    problem = generate(0, "test", 0)
    assert problem.id == "shopping-91964ed184016b26"
    assert problem.question == (
        "Tina goes to the shop and takes 9 books. Each costs 4.4 dollars. "
        "How many dollars are left if Tina had 210 dollars at first?"
    )
    assert problem.gold == ("multiply(9, 4.4)", "subtract(210, 39.6)", "stop(170.4)")


def test_other_seeds_give_other_problems():
    first, second = ({p.question for p in TASK.problems("train", 200, seed=s)} for s in (0, 1))
    assert len(first & second) < 10


def test_splits_share_no_question_and_no_set_of_numbers():
    drawn = {
        split: list(TASK.problems(split, 300, seed=seed))
        for seed, split in enumerate(("train", "validation", "test"))
    }
    for split, found in drawn.items():
        assert {split_of(p.question) for p in found} == {split}
    questions = [p.question for found in drawn.values() for p in found]
    assert len(set(questions)) == len(questions)


def test_no_problem_comes_twice():
    few = MathTask(families=["ages"], steps=(2, 2))
    questions = [p.question for p in few.problems("train", 2000)]
    assert len(set(questions)) == 2000


def test_families_and_steps_are_balanced(problems):
    assert len(FAMILIES) >= 16
    cells = Counter((p.metadata["family"], p.difficulty) for p in problems)
    assert set(cells.values()) == {1}
    assert len(cells) == len(FAMILIES) * 5


def test_difficulty_is_the_number_of_calculations(problems):
    assert all(p.difficulty == len(p.gold) - 1 for p in problems)


def test_steps_and_families_can_be_chosen():
    some = MathTask(steps=(3, 4), families=["shopping", "ages"])
    found = list(some.problems("test", 20))
    assert {p.difficulty for p in found} == {3, 4}
    assert {p.metadata["family"] for p in found} == {"shopping", "ages"}


def test_numbers_are_sensible_and_written_as_in_the_calls(problems):
    for problem in problems:
        answer = read_number(problem.answer)
        assert answer is not None
        assert 0 < answer <= 5000
        assert (decimals(answer) or 0) <= 2
        numbers = problem.metadata["numbers"].values()
        assert len(set(numbers)) == len(numbers)
        for text in numbers:
            assert text in problem.question
            assert Fraction(text) <= 5000


def test_about_four_in_ten_problems_have_a_number_too_many():
    found = islice(stream(0, "train"), 1500)
    share = sum(p.metadata["distractors"] for p in found) / 1500
    assert 0.35 < share < 0.47


def test_numbers_that_are_not_needed_stand_in_no_gold_call():
    for problem in TASK.problems("train", 200):
        if problem.metadata["distractors"]:
            *_, last = problem.metadata["numbers"]
            assert last not in problem.metadata["expression"]


def test_questions_are_plain_sentences(problems):
    for problem in problems:
        assert problem.question.endswith("?")
        assert "  " not in problem.question
        assert "{" not in problem.question


@pytest.mark.parametrize("subset", ["calculator", "arithmetic", "all"])
def test_every_subset_of_functions_has_gold_chains_that_are_right_for_the_right_reason(
    subset: str,
) -> None:
    report = check_task(TASK, 25, subset=subset)
    assert report.ok, report.findings
    assert report.without_gold == 0


def test_functions_that_cannot_solve_a_problem_have_no_gold_chain() -> None:
    report = check_task(TASK, 2, subset=["reason", "stop"])
    assert report.without_gold == 6
    assert report.ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3}, "option steps of task math is wrong: 3"),
        ({"steps": ["a", "b"]}, "option steps of task math is wrong"),
        ({"steps": [1, 2, 3]}, "steps needs two numbers"),
        ({"steps": [5, 99]}, "no problems have these numbers of steps"),
        ({"families": "shoping"}, "unknown family: 'shoping'. Did you mean 'shopping'?"),
        ({"families": ["shopping", "wage"]}, "unknown family: 'wage'. Did you mean 'wages'?"),
        ({"families": 3}, "option families of task math is wrong: 3"),
    ],
)
def test_wrong_options_are_refused_at_once_with_the_value(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_task("math", **options)


def test_one_family_needs_no_list() -> None:
    one = load_task("math", families="shopping", steps=[2, 3])
    assert {p.metadata["family"] for p in one.problems("train", 6)} == {"shopping"}
