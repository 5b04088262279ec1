"""The proof on real problems: its tokenizer, and every stage with little of everything."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks import proof

from rightcall.chain import ChainStore
from rightcall.rollout import Budget
from rightcall.tasks.rules import RulesTask
from rightcall.tiny.pretrain import Shape


def test_a_word_is_the_same_tokens_in_a_sentence_and_in_its_formula(
    tmp_path: Path,
) -> None:
    tokenizer = proof.build_tokenizer(tmp_path, 200)
    for word, sentence, formula in (
        ("Wumpus", "Wumpuses are dull.", "forall x (Wumpus(x) -> dull(x))"),
        ("lepidopteran", "The mouse likes the lepidopteran.", "likes(mouse, lepidopteran)"),
        ("Cat", "Cats are not kind.", "forall x (Cat(x) -> ~kind(x))"),
    ):
        pieces, said, written = (" ".join(tokenizer.tokenize(t)) for t in (word, sentence, formula))
        assert f" {pieces} " in f" {said} "
        assert f" {pieces} " in f" {written} "
    text = RulesTask(made_up=1.0)
    for problem in text.problems("train", 20):
        ids = tokenizer(problem.question).input_ids
        assert tokenizer.decode(ids) == problem.question


@pytest.mark.slow
def test_every_stage_runs_from_nothing_to_the_tables(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "SHAPE", Shape(hidden=32, layers=1, heads=2, intermediate=32))
    monkeypatch.setattr(proof, "BUDGET", Budget(steps=8, tokens=400))
    tokens = dict.fromkeys(("short_tokens", "full_tokens", "prompted_tokens", "mistaken_tokens"), 2e3)
    little = proof.Amounts(
        short=8, full=6, mistaken=6, words=60, **tokens, generated=2, samples=1, limit=4
    )
    tables = proof.prove(shared_data, tmp_path, 0, 1, little)
    rows = [re.sub(r"\s+", " ", line) for line in tables.splitlines()]
    for name in ("| proofwriter | base |", "| prontoqa | tuned |", "| gpt-4 |", "| text-davinci-003 |"):
        assert any(row.startswith(name) for row in rows)
    recorded = list(ChainStore(tmp_path / "recorded.jsonl").latest())
    tested = {
        chain.problem_id
        for chain in ChainStore(tmp_path / "seed-0" / "proofwriter.base.jsonl").latest()
    }
    assert len(recorded) == 12  # three models on each of the training problems
    assert len(tested) == 4
    assert not tested & {chain.problem_id for chain in recorded}
    learned = (tmp_path / "seed-0" / "right.jsonl").read_text().splitlines()
    assert sum(chain.right_for_the_right_reason for chain in recorded) >= len(learned) > 0
    assert json.loads(learned[0])["messages"][-1]["content"].startswith("stop(")
