"""Augmentation: what is proposed is executed, and kept only if execution bears it out."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rightcall.augment import (
    AugmentConfig,
    Original,
    Rejected,
    Variant,
    augment,
    carry_out,
    load_operation,
    original_of,
    play,
)
from rightcall.augment.operation import Operation
from rightcall.chain import CORRUPTED, Chain, ChainStore, Outcome, Problem, StopReason
from rightcall.config import resolve
from rightcall.errors import ConfigError, DataError, DefinitionError
from rightcall.files import read_lines
from rightcall.functions import FunctionSet
from rightcall.leaks import Kind, find_leaks
from rightcall.pairs import Basis, PairConfig, check_leaks, make_pairs
from rightcall.run import Place, _check_operations, run_all, vary, write_problems
from rightcall.task import Task
from toys import SumTask

TASK = SumTask()
FUNCTIONS = TASK.function_set()


def numbers(problem: Problem) -> tuple[int, int]:
    a, b = problem.question[8:-1].split(" + ")
    return int(a), int(b)


def swapped(original: Original, rng: Random) -> Variant:
    """What is 1 + 7? becomes What is 7 + 1?"""
    a, b = numbers(original.problem)
    question = f"What is {b} + {a}?"

    def moved(chain: Chain) -> list[str]:
        return [step.reply.replace(f"({a}, {b})", f"({b}, {a})") for step in chain.steps]

    problem = original.problem.model_copy(
        update={"question": question, "gold": (f"add({b}, {a})", f'stop("{a + b}")')}
    )
    return Variant(problem, {chain.key: moved(chain) for chain in original.chains})


def same(original: Original, rng: Random) -> Variant:
    """Nothing."""
    return Variant(original.problem, {c.key: [s.reply for s in c.steps] for c in original.chains})


def forgotten(original: Original, rng: Random) -> Variant:
    """The answer is copied although the numbers are others."""
    a, b = numbers(original.problem)
    problem = original.problem.model_copy(update={"question": f"What is {a + 1} + {b}?"})
    return Variant(problem, {c.key: [s.reply for s in c.steps] for c in original.chains})


def off_by_one(original: Original, rng: Random) -> Variant:
    """stop("8") becomes stop("9")."""
    right = original.right[0]
    wrong = [*(step.reply for step in right.steps[:-1]), f'stop("{int(right.answer or 0) + 1}")']
    return Variant(original.problem, {right.key: wrong}, corrupts=True)


def not_wrong(original: Original, rng: Random) -> Variant:
    """A corruption that corrupts nothing."""
    return Variant(
        original.problem,
        {c.key: [s.reply for s in c.steps] for c in original.right},
        corrupts=True,
    )


def picky(original: Original, rng: Random) -> Variant:
    """Makes something of every other problem."""
    if numbers(original.problem)[0] % 2:
        raise Rejected("an odd number")
    return swapped(original, rng)


def broken(original: Original, rng: Random) -> Variant:
    """Fails."""
    raise ValueError("never mind")


class Varied(SumTask):
    operations = {"swap": swapped, "off_by_one": off_by_one, "picky": picky, "broken": broken}


@pytest.fixture
def problem() -> Problem:
    return next(TASK.problems("train", 1, 3))


@pytest.fixture
def original(problem: Problem) -> Original:
    wrong = play(TASK, FUNCTIONS, problem, ["add(1, 1)", 'stop("2")'], source="student")
    return original_of(TASK, FUNCTIONS, problem, [wrong, gold(problem)])


def gold(problem: Problem) -> Chain:
    return play(TASK, FUNCTIONS, problem, problem.gold)


def rejected(original: Original, operation: Operation) -> str:
    with pytest.raises(Rejected) as found:
        carry_out(original, "name", operation, Random(0))
    return str(found.value)


# --- one problem ----------------------------------------------------------------------------------


def test_a_variant_carries_over_every_chain_and_each_is_judged_anew(original: Original) -> None:
    made = carry_out(original, "swap", swapped, Random(0), 2)
    assert made.problem.id == f"{original.problem.id}~swap.2"
    assert made.problem.origin is not None
    assert made.problem.origin.model_dump() == {
        "operation": "swap", "parent": original.problem.id, "root": original.problem.id,
    }  # fmt: skip
    for old, new in zip(original.chains, made.chains, strict=True):
        assert (new.source, new.outcome, new.answer) == (old.source, old.outcome, old.answer)
        assert new.origin is not None
        assert (new.origin.parent, new.root) == (old.key, original.problem.id)
        assert new.problem_id == made.problem.id
        assert made.problem.question in new.prompt[-1]["content"]
    assert made.chains[0].steps[0].reply == "add(7, 30000)"


def test_a_variant_of_a_variant_has_the_same_root(original: Original) -> None:
    once = carry_out(original, "swap", swapped, Random(0))
    again = carry_out(
        original_of(TASK, FUNCTIONS, once.problem, once.chains), "swap", swapped, Random(0)
    )
    assert again.problem.root == original.problem.id
    assert again.problem.origin is not None
    assert again.problem.origin.parent == once.problem.id


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (same, "nothing has changed"),
        (forgotten, "the label is refuted"),
        (not_wrong, "still right"),
    ],
)
def test_what_execution_does_not_bear_out_is_rejected(
    operation: Operation, reason: str, original: Original
) -> None:
    assert rejected(original, operation) == reason


def test_a_right_chain_that_comes_out_wrong_disproves_its_variant(original: Original) -> None:
    def half(original: Original, rng: Random) -> Variant:
        made = swapped(original, rng)
        return Variant(made.problem, {key: replies[:1] for key, replies in made.replies.items()})

    assert rejected(original, half) == "a right chain comes out wrong"


def test_a_variant_without_any_chain_is_rejected(original: Original) -> None:
    def none(original: Original, rng: Random) -> Variant:
        return Variant(swapped(original, rng).problem, {})

    assert rejected(original, none) == "no chain could be carried over"


def test_a_corruption_is_wrong_and_of_the_same_problem(original: Original) -> None:
    made = carry_out(original, "off_by_one", off_by_one, Random(0))
    (chain,) = made.chains
    assert chain.outcome is Outcome.INCORRECT
    assert chain.source == CORRUPTED
    assert chain.problem_id == original.problem.id == made.problem.id
    assert chain.origin is not None
    assert chain.origin.operation == "off_by_one"


def test_a_chain_whose_replies_do_not_stop_ends_with_them(problem: Problem) -> None:
    chain = play(TASK, FUNCTIONS, problem, problem.gold[:1])
    assert chain.stop_reason is StopReason.RECORD_ENDED
    assert chain.outcome is Outcome.INCORRECT


def test_without_chains_the_gold_one_is_played(problem: Problem) -> None:
    made = original_of(TASK, FUNCTIONS, problem)
    assert [chain.outcome for chain in made.chains] == [Outcome.CORRECT]
    assert made.right == made.chains


def test_an_operation_that_fails_is_named_with_its_problem(original: Original) -> None:
    with pytest.raises(DefinitionError, match=r"name failed on problem train-3-0.*never mind"):
        carry_out(original, "name", broken, Random(0))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda original, rng: None, "gave no Variant"),
        (lambda original, rng: Variant(original.problem, {"other": ["x"]}), "has not: 'other'"),
        (
            lambda original, rng: Variant(original.problem, {original.chains[0].key: "add(1, 2)"}),
            "no texts",
        ),
    ],
)
def test_an_operation_that_gives_something_else_is_named_with_its_problem(
    original: Original, made: Operation, message: str
) -> None:
    with pytest.raises(DefinitionError, match=f"operation mine .*{message}") as error:
        carry_out(original, "mine", made, Random(0))
    assert original.problem.id in str(error.value)


def test_a_new_label_needs_something_that_shows_it(original: Original) -> None:
    """No right chain, and a task that proves nothing: then the gold chain of the variant does."""

    class Unproved(SumTask):
        def prove(self, problem: Problem) -> Any:
            return None

    wrong = Original(Unproved(), FUNCTIONS, original.problem, original.chains[1:])

    def without_gold(original: Original, rng: Random) -> Variant:
        made = swapped(original, rng)
        return Variant(made.problem.model_copy(update={"gold": ()}), made.replies)

    def mislabelled(original: Original, rng: Random) -> Variant:
        made = swapped(original, rng)
        return Variant(made.problem.model_copy(update={"answer": "-1"}), made.replies)

    assert not carry_out(wrong, "name", swapped, Random(0)).chains[0].right_for_the_right_reason
    assert carry_out(wrong, "name", same_but_fewer_functions, Random(0)).chains
    for operation in (without_gold, mislabelled):
        assert rejected(wrong, operation) == "nothing shows that the label is right"


def same_but_fewer_functions(original: Original, rng: Random) -> Variant:
    """The question stays, and so does its label."""
    functions = FunctionSet([*reversed(original.functions.functions)])
    return Variant(original.problem, same(original, rng).replies, functions)


def test_renamed_functions_are_judged_under_the_names_of_the_task(original: Original) -> None:
    def other_names(original: Original, rng: Random) -> Variant:
        shown = FunctionSet([f.renamed(f"my_{f.name}") for f in original.functions])
        replies = {c.key: [f"my_{s.reply}" for s in c.steps] for c in original.chains}
        return Variant(original.problem, replies, shown)

    made = carry_out(original, "rename", other_names, Random(0))
    right, wrong = made.chains
    assert right.right_for_the_right_reason, "the judge looks for a call of add"
    assert wrong.outcome is Outcome.INCORRECT
    assert right.steps[0].call is not None
    assert right.steps[0].call.name == "my_add"
    assert right.renamed == {"my_add": "add", "my_record": "record", "my_stop": "stop"}
    assert "my_add(2, 3)" in right.prompt[0]["content"]
    assert " add(" not in right.prompt[0]["content"]
    assert made.problem.question == original.problem.question


# --- files ----------------------------------------------------------------------------------------


def made_files(
    tmp_path: Path, operations: dict[str, float], *, seed: int = 0, name: str = "out", **given: Any
) -> tuple[Any, list[Chain], list[Problem]]:
    task = Varied()
    problems = list(task.problems("train", 8, 3))
    report = augment(
        task,
        task.function_set(),
        given.pop("problems", problems),
        map(gold, problems),
        AugmentConfig(operations=operations, seed=seed),
        tmp_path / f"{name}.jsonl",
        problems_out=tmp_path / f"{name}.problems.jsonl",
        **given,
    )
    chains = list(ChainStore(tmp_path / f"{name}.jsonl"))
    return report, chains, list(read_lines(tmp_path / f"{name}.problems.jsonl", Problem))


def test_every_variant_is_written_with_its_problem_and_counted(tmp_path: Path) -> None:
    report, chains, problems = made_files(tmp_path, {"swap": 1, "off_by_one": 1, "picky": 1})
    assert {c.problem_id for c in chains if c.source != CORRUPTED} == {p.id for p in problems}
    swap, wrong, picky = (report.operations[name] for name in ("swap", "off_by_one", "picky"))
    assert (swap.problems, swap.right, swap.wrong) == (8, 8, 0)
    assert (wrong.problems, wrong.right, wrong.wrong) == (8, 0, 8)
    assert picky.rejected == {"it was made before": 4, "an odd number": 4}
    assert report.chains == len(chains) == 16
    assert report.originals == 8
    assert len({chain.key for chain in chains}) == 16


def test_ratios_below_one_take_some_problems_and_above_one_several_variants(tmp_path: Path) -> None:
    half, _, _ = made_files(tmp_path, {"off_by_one": 0.5})
    assert 1 <= half.operations["off_by_one"].asked <= 7
    twice, _, _ = made_files(tmp_path, {"swap": 2}, name="twice")
    assert twice.operations["swap"].asked == 16
    assert twice.operations["swap"].rejected == {"it was made before": 8}
    none, chains, _ = made_files(tmp_path, {"swap": 0}, name="none")
    assert (none.operations["swap"].asked, chains) == (0, [])


def test_the_same_seed_makes_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _, chains, _ = made_files(tmp_path, {"swap": 0.5}, seed=seed, name=name)
        texts.append([chain.model_copy(update={"seconds": 0}) for chain in chains])
    assert texts[0] == texts[1] != texts[2]


def several_wrong(original: Original, rng: Random) -> Variant:
    """Another wrong answer at each call."""
    right = original.right[0]
    wrong = [*(step.reply for step in right.steps[:-1]), f'stop("{rng.randint(10**6, 10**9)}")']
    return Variant(original.problem, {right.key: wrong}, corrupts=True)


def test_several_corruptions_of_a_chain_are_several_chains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Varied, "operations", {"several": several_wrong})
    chains = [
        chain
        for seed in (0, 1)
        for chain in made_files(tmp_path, {"several": 3}, seed=seed, name=f"s{seed}")[1]
    ]
    assert len({chain.key for chain in chains}) == len({str(c.answer) for c in chains}) == 2 * 3 * 8


def test_variants_of_another_seed_are_other_problems(tmp_path: Path) -> None:
    _, _, one = made_files(tmp_path, {"swap": 1}, seed=1, name="one")
    _, _, two = made_files(tmp_path, {"swap": 1}, seed=2, name="two")
    assert not {problem.id for problem in one} & {problem.id for problem in two}


def texts_of(tmp_path: Path) -> list[str]:
    return [(tmp_path / name).read_text() for name in ("out.jsonl", "out.problems.jsonl")]


def test_what_the_files_hold_already_stays_and_is_not_written_again(tmp_path: Path) -> None:
    _, swapped_ones, problems = made_files(tmp_path, {"swap": 1})
    first = texts_of(tmp_path)
    _, both, _ = made_files(tmp_path, {"off_by_one": 1})
    assert both[:8] == swapped_ones
    assert {chain.source for chain in both[8:]} == {CORRUPTED}
    second = texts_of(tmp_path)
    assert second[0].startswith(first[0])
    report, _, again = made_files(tmp_path, {"swap": 1, "off_by_one": 1})
    assert (report.chains, again) == (16, problems)
    assert texts_of(tmp_path) == second


def raised(original: Original, rng: Random) -> Variant:
    """What is 1 + 7? becomes What is 2 + 7?"""
    a, b = numbers(original.problem)
    gold = (f"add({a + 1}, {b})", f'stop("{a + 1 + b}")')
    update = {"question": f"What is {a + 1} + {b}?", "answer": str(a + 1 + b), "gold": gold}
    return Variant(original.problem.model_copy(update=update), {c.key: gold for c in original.chains})


def failing_later(original: Original, rng: Random) -> Variant:
    if numbers(original.problem)[0] % 10 == 5:
        raise TypeError("a five")
    return swapped(original, rng)


@pytest.mark.parametrize(
    ("name", "other", "fault"),
    [("swap", raised, "another question under the id"), ("later", failing_later, "a five")],
)
def test_files_to_be_added_to_are_as_they_were_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: Operation, fault: str
) -> None:
    made_files(tmp_path, {"swap": 1})
    before = texts_of(tmp_path)
    monkeypatch.setattr(Varied, "operations", {name: other})
    with pytest.raises((DataError, DefinitionError), match=fault):
        made_files(tmp_path, {name: 1})
    assert texts_of(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_relatives_of_test_problems_are_not_augmented(tmp_path: Path) -> None:
    task = Varied()
    problems = list(task.problems("train", 8, 3))
    with pytest.raises(DataError, match="relative of a test problem"):
        made_files(tmp_path, {"swap": 1}, test=[problems[2]])
    assert not (tmp_path / "out.jsonl").exists()
    asked = problems[0].model_copy(update={"id": "other", "question": "What is 7 + 30000?"})
    report, chains, _ = made_files(tmp_path, {"swap": 1}, test=[asked])
    assert report.operations["swap"].rejected == {"it is a test question": 1}
    assert len(chains) == 7


def test_chains_that_do_not_fit_are_passed_over_and_counted(tmp_path: Path) -> None:
    task = Varied()
    problems = list(task.problems("train", 8, 3))[:2]
    report, _, _ = made_files(tmp_path, {"swap": 1}, problems=problems)
    assert report.originals == 2
    assert report.passed_over == {"of a problem that is not given": 6}
    chain = gold(problems[0])
    others: dict[str, dict[str, Any]] = {
        "corrupted before": {"source": CORRUPTED},
        "errored": {"outcome": Outcome.ERRORED},
        "cut within a reply, or without one": {"steps": ()},
        "of another task": {"task": "other"},
        "of another question under a problem's id": {"prompt": gold(problems[1]).prompt},
        "of functions under other names": {"renamed": {"plus": "add"}},
        "given twice": {},
    }
    given = [chain, *(chain.model_copy(update=update) for update in others.values())]
    wanted = AugmentConfig(operations={"swap": 1})
    report = augment(task, FUNCTIONS, problems, given, wanted, tmp_path / "few.jsonl")
    assert (report.chains, report.passed_over) == (1, dict.fromkeys(others, 1))
    assert "Chains passed over" in str(report.table().caption)


def test_chains_of_which_none_fits_are_refused_with_the_reasons(tmp_path: Path) -> None:
    problems = list(TASK.problems("train", 2, 3))
    others = map(gold, TASK.problems("train", 4, 9))
    with pytest.raises(DataError, match=r"none is of one of the 2 .*not given': 4.* seed"):
        augment(Varied(), FUNCTIONS, problems, others, AugmentConfig(), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


# --- leaks and pairs ------------------------------------------------------------------------------


def test_the_leak_guards_see_through_augmentation(original: Original) -> None:
    made = carry_out(original, "swap", swapped, Random(0))
    for train, test in ((made.problem, original.problem), (original.problem, made.problem)):
        with pytest.raises(DataError, match="test questions are in the training data"):
            check_leaks([train], [test])
        report = find_leaks([train], [test])
        assert [leak.kind for leak in report.leaks] == [Kind.RELATED]
        assert not report.ok
    other = next(TASK.problems("test", 1))
    assert check_leaks([made.problem], [other]) == 1
    assert find_leaks([made.problem], [other]).ok


def test_pairs_of_augmented_chains_name_their_root_and_operation_and_leak_like_problems(
    original: Original,
) -> None:
    made = carry_out(original, "swap", swapped, Random(0))
    (pair,) = make_pairs(made.chains)
    assert (pair.root, pair.operation) == (original.problem.id, "swap")
    with pytest.raises(DataError, match="test questions are in the training data"):
        check_leaks([pair], [original.problem])


def test_corrupted_chains_are_rejected_ones_where_nobody_erred(original: Original) -> None:
    wrong = carry_out(original, "off_by_one", off_by_one, Random(0)).chains
    right = original.right
    (pair,) = make_pairs([*right, *wrong])
    assert (pair.rejected_source, pair.operation, pair.root) == (CORRUPTED, "off_by_one", "")
    steps = PairConfig(strategies={"step": 1.0})
    (pair,) = make_pairs([*right, *wrong], steps)
    assert (pair.basis, pair.rejected[-1]["content"]) == (Basis.CORRUPTION, 'stop("30008")')
    assert (pair.chosen_count, pair.rejected_count) == (1, 0), "no policy went there"
    config = PairConfig(max_per_problem=5)
    sources = {pair.rejected_source for pair in make_pairs([*original.chains, *wrong], config)}
    assert sources == {"student"}, "real mistakes come first"


# --- by name, in a run ----------------------------------------------------------------------------


def test_operations_are_found_by_name_and_in_a_users_file(tmp_path: Path) -> None:
    assert load_operation(Varied(), "swap") is swapped
    file = tmp_path / "mine.py"
    file.write_text("def shout(original, rng): ...\n")
    assert load_operation(TASK, f"{file}:shout").__name__ == "shout"
    for name, message in (
        ("swop", "did you mean 'swap'"),
        (f"{file}:whisper", "no such function"),
    ):
        with pytest.raises(ConfigError, match=f"(?i){message}"):
            load_operation(Varied(), name)


@pytest.mark.parametrize("ratio", [-0.1, 101])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="ratio of operation 'swap'"):
        AugmentConfig(operations={"swap": ratio})


def test_a_run_augments_its_chains_and_pairs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(
        {
            "name": "varied",
            "augment": {"operations": {"swap": 1.0, "off_by_one": 1.0}},
            "models": {"teacher": "gold"},
            "tasks": {"sums": {"task": f"{__file__}:Varied", "problems": {"train": 4, "test": 2}}},
        }
    )
    place = Place(config.tasks["sums"], Varied(), 0, tmp_path)
    write_problems(place)
    ChainStore(place.chains("teacher")).append(map(gold, place.problems("train")))
    assert vary(place) == "8 chains of 4 problems"
    figures = json.loads((tmp_path / "augment.json").read_text())
    assert figures["operations"]["swap"]["problems"] == 4
    assert len(list(read_lines(tmp_path / "problems.augmented.jsonl", Problem))) == 4
    nothing = Place(
        config.tasks["sums"].model_copy(update={"augment": AugmentConfig()}), TASK, 0, tmp_path
    )
    assert vary(nothing) == "left out"


def test_a_run_passes_over_operations_of_its_other_tasks_and_refuses_unknown_ones(
    tmp_path: Path,
) -> None:
    table: dict[str, Any] = {
        "name": "varied",
        "augment": {"operations": {"swap": 1.0}},
        "tasks": {
            "sums": {"task": f"{__file__}:Varied"},
            "math": {"task": "tiny-math", "augment": {"operations": {"off_by_one": 0.0}}},
        },
    }
    config = resolve(table)
    tasks: dict[str, Task] = {"sums": Varied(), "math": TASK}
    _check_operations(config, tasks)
    place = Place(config.tasks["math"], TASK, 0, tmp_path)
    assert vary(place) == "left out; not of this task: swap"
    for ratio in (0.5, 0.0):
        table["tasks"]["math"]["augment"]["operations"]["nonsense"] = ratio
        with pytest.raises(ConfigError, match="no operation of that name: 'nonsense'"):
            run_all(resolve(table), tmp_path)
        assert not (tmp_path / "varied").exists(), "it is found before anything is done"


def test_an_operation_that_is_switched_off_must_be_there_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no operation of that name: 'swop'.*'swap'"):
        made_files(tmp_path, {"off_by_one": 1, "swop": 0})
    assert list(tmp_path.iterdir()) == []
