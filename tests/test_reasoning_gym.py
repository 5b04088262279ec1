"""Tasks of reasoning-gym: splits, their own scoring, what may be evaluated."""

import sys

import pytest

pytest.importorskip("reasoning_gym")

from rightcall.chain import Outcome
from rightcall.check import check_task, gold_chain
from rightcall.errors import ConfigError, DataError, EndlessSplit
from rightcall.task import Proved, load_task
from rightcall.tasks.gym_scoring import UNUSABLE, dataset, evaluates, harmless
from rightcall.tasks.reasoning_gym import ReasoningGymTask


def test_a_generators_problems_are_solved_with_exact_functions_and_scored_by_itself():
    task = load_task("reasoning_gym", generator="chain_sum", max_terms=3)
    problem = next(task.problems("train", 1))
    chain = gold_chain(task, task.function_set(), problem)
    assert chain.outcome is Outcome.CORRECT
    assert chain.judgement.measures == {"score": 1.0}
    assert len(problem.metadata) == 2
    assert not task.verify(problem, "no number")
    assert task.prove(problem) == Proved()


def test_no_question_is_in_two_splits_although_seeds_overlap():
    """There are 100 sums of two digits, so that every seed leads to most of them."""
    task = ReasoningGymTask("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    splits = [
        {p.question for seed in (0, 1) for p in task.problems(split, 1000, seed)}
        for split in ("train", "validation", "test")
    ]
    assert all(splits)
    assert len(set().union(*splits)) == sum(map(len, splits))
    assert 150 < sum(map(len, splits)) <= 200


def test_the_same_arguments_give_the_same_problems():
    task = ReasoningGymTask("leg_counting")
    assert list(task.problems("test", 5, 3)) == list(
        ReasoningGymTask("leg_counting").problems("test", 5, 3)
    )
    assert list(task.problems("test", 5, 3)) != list(task.problems("test", 5, 4))
    assert list(task.problems("test", 0)) == []


def test_a_task_passes_its_check():
    report = check_task(ReasoningGymTask("chain_sum"), 4)
    assert report.ok
    assert report.without_gold == report.unverified == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "chain_som"}, "Did you mean 'chain_sum'"),
        ({"max_term": 3}, "Did you mean 'max_terms'"),
        ({"min_terms": 5, "max_terms": 2}, "refuses these settings"),
    ],
)
def test_a_wrong_option_is_answered_with_the_right_one(options, message):
    with pytest.raises(ConfigError, match=message):
        load_task("reasoning_gym", **options)


@pytest.mark.parametrize(
    ("generator", "reason"),
    [
        ("rubiks_cube", "tells no answer"),
        ("ransom_note", "other problems in every process"),
        ("composite", "mixture"),
    ],
)
def test_a_generator_that_makes_no_task_is_refused_with_the_reason(generator, reason):
    with pytest.raises(ConfigError, match=f"cannot be used: .*{reason}.*{generator}"):
        ReasoningGymTask(generator)


def test_only_generators_that_there_are_are_refused():
    from reasoning_gym.factory import DATASETS

    assert DATASETS.keys() >= UNUSABLE.keys()


def test_a_count_is_needed():
    with pytest.raises(EndlessSplit, match="without end"):
        next(ReasoningGymTask().problems("train"))


def test_a_generator_with_a_single_question_has_no_three_splits():
    one = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    task = ReasoningGymTask("chain_sum", **one)
    question = next(task.problems("train", 1))
    task._problem = lambda seed, index: question  # type: ignore[method-assign]
    with pytest.raises(DataError, match="too few questions"):
        list(task.problems("test", 1))


def test_without_the_package_the_command_is_told(monkeypatch):
    monkeypatch.delitem(sys.modules, "rightcall.tasks.gym_scoring", raising=False)
    import rightcall.tasks

    monkeypatch.delattr(rightcall.tasks, "gym_scoring", raising=False)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install .rightcall\[reasoning-gym\]"):
        ReasoningGymTask()


@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('true')",
        "().__class__.__base__",
        "open(name)",
        "exec(x)",
        "x.real",
        "[f(c) for c in x]",
        "(lambda: 1)()",
        "f'{x}'",
        "(print)(1)",
        "ｅxec(x)",
    ],
)
def test_an_answer_that_could_do_more_than_calculate_is_never_evaluated(answer):
    assert not harmless(answer)


def test_a_hostile_answer_to_a_generator_that_evaluates_is_wrong_and_does_nothing(tmp_path):
    task = ReasoningGymTask("spiral_matrix")
    problem = next(task.problems("train", 1))
    target = tmp_path / "made"
    assert not task.verify(problem, f"open({str(target)!r}, 'w')")
    assert not target.exists()
    assert task.verify(problem, problem.answer)
    assert evaluates(type(dataset("spiral_matrix", "{}", 0)).__module__)
    assert not evaluates(type(dataset("chain_sum", "{}", 0)).__module__)
