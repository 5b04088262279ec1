"""The tiny models: tokenizer, corpus, pretraining, and what is shipped."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from rightcall.functions import parse_calls
from rightcall.models import Sampling
from rightcall.models.local import LocalModel
from rightcall.rendering import Rendered, Renderer
from rightcall.rollout import Budget, Job, Setting, rollouts
from rightcall.task import load_task
from rightcall.tiny import NAMES, corpus, path
from rightcall.tiny.build import TASKS, problems
from rightcall.tiny.pretrain import Shape, batch_loss, new_model, orthogonal, pretrain
from rightcall.tiny.tokenizer import train_tokenizer

TEXTS = (
    "Bob is cold. If something is cold and smart then it is red. All red things are not cold.",
    'premise("forall x (cold(x) & smart(x) -> red(x))")',
    "Anna buys 12 pens at 3.5 dollars each. How many dollars is that?",
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 40, vocab_size=420)


@given(text=st.text(max_size=60))
def test_any_text_survives_a_round_trip_through_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_word_is_the_same_tokens_in_a_sentence_and_in_a_formula(tokenizer):
    sentence = tokenizer.tokenize("All cold things are red. Bob is cold.")
    formula = tokenizer.tokenize('premise("forall x (cold(x) -> red(x))")')
    assert {"cold", "red"} <= set(sentence) & set(formula)


def test_digits_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("multiply(1234, 50.75)").count("5") == 2


@pytest.mark.parametrize("name", ["fol", "math"])
def test_a_gold_row_trains_the_calls_and_nothing_else(name, tokenizer):
    task = load_task(name, **TASKS[name])
    renderer = Renderer(tokenizer)
    chosen = list(problems(task, 6, 8, seed=3))
    for row, problem in zip(
        corpus.rows(task, iter(chosen), renderer, mistakes=False, seed=0), chosen, strict=True
    ):
        words = [i for i, own in zip(row.ids, row.trained, strict=True) if own]
        assert tokenizer.decode(words).split("<|end|>")[:-1] == list(problem.gold)


@pytest.mark.parametrize("name", ["fol", "math"])
def test_each_declared_mistake_is_made_somewhere_and_changes_the_calls(name):
    task = load_task(name, **TASKS[name])
    chosen = list(problems(task, 60, 10, seed=5))
    for mistake, share in corpus.MISTAKES[name]:
        changed = [
            made
            for problem in chosen
            if (made := mistake(problem, list(problem.gold[:-1]), random.Random(1))) is not None
        ]
        assert 0 < share < 1
        assert changed, mistake.__name__
        assert all(made != list(p.gold[:-1]) for made, p in zip(changed, chosen, strict=False))


def test_mistaken_chains_are_executed_and_often_end_in_a_wrong_answer():
    task = load_task("math", **TASKS["math"])
    functions = task.function_set()
    wrong = 0
    for problem in problems(task, 80, 0, seed=9):
        calls = corpus.with_mistakes("math", problem, random.Random(problem.id))
        last = corpus.conversation(task, functions, problem, calls)[-1]["content"]
        wrong += not task.verify(problem, str(parse_calls(last)[0].args[0]))
    assert 8 < wrong < 60


def _rows(tokenizer, count=4):
    task = load_task("math", **TASKS["math"])
    chosen = problems(task, count, 0, seed=2)
    return list(corpus.rows(task, chosen, Renderer(tokenizer), mistakes=False, seed=0))


def test_sharing_the_system_turn_gives_the_loss_of_the_plain_model(tokenizer):
    model = new_model(Shape(32, 2, 4, 64), tokenizer, seed=0)
    rows = _rows(tokenizer)
    system = rows[0].ids[: rows[0].ids.index(tokenizer.eos_token_id) + 1]
    total, count = torch.tensor(0.0), 0
    for row in rows:
        ids, own = torch.tensor([row.ids]), torch.tensor(row.trained)
        logits = model(ids).logits[0, :-1][own[1:]]
        total = total + functional.cross_entropy(logits, ids[0, 1:][own[1:]], reduction="sum")
        count += int(own.sum())
    torch.testing.assert_close(batch_loss(model, system, rows), total / count, rtol=1e-4, atol=1e-5)


def test_without_the_system_turn_the_loss_is_that_of_conversations_that_begin_behind_it(tokenizer):
    model = new_model(Shape(32, 2, 4, 64), tokenizer, seed=0)
    rows = _rows(tokenizer)
    system = rows[0].ids[: rows[0].ids.index(tokenizer.eos_token_id) + 1]
    start = len(system)
    short = [Rendered(row.ids[start:], row.trained[start:]) for row in rows]
    empty = batch_loss(model, (), short, with_system=False)
    torch.testing.assert_close(batch_loss(model, system, rows, with_system=False), empty)
    assert not torch.isclose(batch_loss(model, system, rows), empty, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_system", [True, False])
def test_pretraining_lowers_the_loss_and_repeats_exactly(tokenizer, with_system, dtype):
    rows = _rows(tokenizer, 8)

    def run():
        model = new_model(Shape(32, 2, 4, 64), tokenizer, seed=0)
        settings = {"batch_tokens": 600, "log": 10_000, "with_system": with_system, "dtype": dtype}
        progress = pretrain(model, rows, 20_000, **settings)
        assert model.dtype == torch.float32
        assert model.config._attn_implementation == "sdpa"
        return progress.losses, model.lm_head.weight.detach()

    (losses, weights), (again, same) = run(), run()
    assert losses[-1] < 0.85 * losses[0]
    assert losses == again
    torch.testing.assert_close(weights, same, rtol=0, atol=0)


@given(rows=st.integers(2, 12), columns=st.integers(2, 12), seed=st.integers(0, 99))
def test_orthogonal_brings_singular_values_near_one(rows, columns, seed):
    matrix = torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    before = torch.linalg.svdvals(matrix / matrix.norm())
    after = torch.linalg.svdvals(orthogonal(matrix))
    assert after.max() < 1.3
    assert after[before > 0.05].min() > 0.6


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("teacher", load_task("math", **TASKS["math"])),
        ("student", load_task("math", **TASKS["math"])),
        ("rules", load_task("rules", sentences=(2, 8))),
    ],
    ids=NAMES,
)
def test_a_shipped_model_reasons_with_calls_that_parse(name, task):
    setting = Setting(task, task.function_set(), "card", Sampling(max_tokens=64), Budget(steps=10))
    with LocalModel.load(path(name), threads=1) as model:
        chains = list(rollouts(setting, model, [Job(p) for p in task.problems("validation", 12, 4)]))
    assert sum(len(chain.failures) for chain in chains) <= 2
    assert sum(chain.outcome == "correct" for chain in chains) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_is_safetensors_with_a_card_and_nothing_to_run(name):
    files = {file.name for file in path(name).iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= files
    assert not [f for f in files if f.endswith((".py", ".bin", ".pt", ".pickle", ".pkl"))]
    assert sum(file.stat().st_size for file in path(name).iterdir()) < 6e6


def test_rows_of_several_tasks_never_share_a_batch(tokenizer):
    from rightcall.tiny.pretrain import _batches

    end = tokenizer.eos_token_id
    rows = [
        Rendered((task, end, 9, 9 + i % 3, end), (False, False, False, True, True))
        for i in range(20)
        for task in (5, 6)
    ]
    batches = _batches(rows, 40, random.Random(0))
    for _ in range(12):
        system, batch = next(batches)
        assert {row.ids[:2] for row in batch} == {system}
