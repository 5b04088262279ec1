"""Pairs: who may be chosen, who may be rejected, and what the file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightcall.chain import Chain, Message, Observation, Problem, StopReason
from rightcall.dialects import DIALECTS, PythonCalls
from rightcall.errors import ConfigError, DataError, FailureKind
from rightcall.pairs import (
    PairConfig,
    PreferencePair,
    check_leaks,
    make_pairs,
    pair_statistics,
    read_pairs,
    write_pairs,
)
from toys import chain, step

STEPS = PairConfig(strategies={"step": 1.0})
RIGHT = chain("add(1, 1)", 'stop("2")')
WRONG = chain("add(1, 2)", 'stop("3")', right=False)


def pairs_of(*chains: Chain, **config: Any) -> list[PreferencePair]:
    return list(make_pairs(chains, PairConfig(**config)))


def replies(messages: tuple[Any, ...]) -> list[str]:
    return [m["content"] for m in messages if m["role"] == "assistant"]


def test_a_chain_pair_holds_all_turns_after_the_problem_but_not_the_observation_of_the_stop() -> None:
    (pair,) = pairs_of(RIGHT, WRONG)
    assert pair.prompt == RIGHT.prompt
    assert [m["role"] for m in pair.chosen] == ["assistant", "user", "assistant"]
    assert replies(pair.chosen) == ["add(1, 1)", 'stop("2")']
    assert replies(pair.rejected) == ["add(1, 2)", 'stop("3")']
    assert (pair.chosen_chain, pair.rejected_chain) == (RIGHT.key, WRONG.key)
    assert pair.question == "What is 1 + 1?"


def test_a_chain_that_ran_out_of_budget_ends_with_its_last_reply() -> None:
    endless = chain("add(1, 1)", "add(1, 1)", right=False, stop_reason=StopReason.STEP_BUDGET)
    (pair,) = pairs_of(RIGHT, endless)
    assert pair.rejected[-1] == {"role": "assistant", "content": "add(1, 1)"}
    assert pair.rejected_error == "step_budget"


def test_a_step_pair_is_one_reply_each_after_the_common_conversation() -> None:
    right = chain("add(1, 1)", "record(2)", 'stop("2")')
    wrong = chain("add(1, 1)", "record(3)", 'stop("3")', right=False)
    (pair,) = make_pairs([right, wrong], STEPS)
    assert replies(pair.prompt) == ["add(1, 1)"]
    assert pair.prompt[-1] == {"role": "user", "content": "ok"}
    assert [m["content"] for m in pair.chosen] == ["record(2)"]
    assert [m["content"] for m in pair.rejected] == ["record(3)"]


def test_a_step_pair_is_classed_by_the_failure_of_the_rejected_call() -> None:
    bad = chain("add(1, 1)", step("ad(1)", "Error", FailureKind.UNKNOWN_FUNCTION), right=False)
    (pair,) = make_pairs([RIGHT, bad], STEPS)
    assert pair.rejected_error == "unknown_function"


@pytest.mark.parametrize(
    "wrong",
    [
        chain("add(1, 1)", right=False, stop_reason=StopReason.STEP_BUDGET),
        chain(step("add(1, 1)", "another"), 'stop("9")', right=False),
        chain("add(1,  1)", 'stop("9")', right=False),
    ],
    ids=["one continues the other", "observations differ", "the same call in other words"],
)
def test_chains_without_a_real_parting_of_ways_make_no_step_pair(wrong: Chain) -> None:
    dropped: Counter[str] = Counter()
    assert list(make_pairs([RIGHT, wrong], STEPS, dropped)) == []
    assert dropped == {"problem whose chains make no pair": 1}


def test_errored_and_cut_chains_are_never_rejected() -> None:
    errored = chain("add(1, 2)", right=False, errored=True, stop_reason=StopReason.MODEL_ERROR)
    cut = chain("add(1, ", right=False, stop_reason=StopReason.REPLY_TRUNCATED)
    unparsed = step("add(1", "Error", FailureKind.UNPARSABLE)
    out = chain("add(1, 1)", unparsed, right=False, stop_reason=StopReason.TOKEN_BUDGET)
    silent = chain(right=False, stop_reason=StopReason.CONTEXT_WINDOW)
    dropped: Counter[str] = Counter()
    assert list(make_pairs([RIGHT, errored, cut, out, silent], dropped=dropped)) == []
    assert dropped["errored chain"] == 1
    assert dropped["wrong chain with a cut or no reply"] == 3
    assert dropped["problem without a wrong chain"] == 1


def test_chosen_needs_the_right_answer_and_the_right_process() -> None:
    lucky = chain('stop("2")', process=False)
    sound = chain("add(1, 1)", 'stop("2")', process=True)
    (pair,) = pairs_of(lucky, sound)
    assert (pair.chosen_chain, pair.rejected_chain) == (sound.key, lucky.key)
    assert pair.rejected_error == "wrong_process"
    assert pair.evidence == "a step is wrong"
    assert pairs_of(lucky, sound, reject_right_answer_wrong_process=False) == []
    assert pairs_of(lucky, WRONG) == []
    assert len(pairs_of(lucky, WRONG, require_process=False)) == 1
    assert pairs_of(lucky, sound, require_process=False) == []


def test_the_student_is_chosen_where_it_is_right_and_the_teacher_where_it_is_not() -> None:
    taught = chain("add(1, 1)", "record(2)", 'stop("2")', source="teacher")
    other = chain("add(1, 9)", 'stop("10")', right=False, problem="p2")
    other_taught = chain("add(1, 1)", 'stop("2")', problem="p2", source="teacher")
    made = {p.problem_id: p.chosen_source for p in pairs_of(RIGHT, WRONG, taught, other, other_taught)}
    assert made == {"p1": "student", "p2": "teacher"}
    only = pairs_of(RIGHT, WRONG, taught, sources_chosen=("teacher",), sources_rejected=("student",))
    assert [(p.chosen_source, p.rejected_source) for p in only] == [("teacher", "student")]


def test_chains_of_a_source_that_was_not_asked_for_are_counted_as_such() -> None:
    dropped: Counter[str] = Counter()
    shown = chain("add(1, 1)", 'stop("2")', source="gold")
    other = chain("add(1, 1)", 'stop("2")', source="gold", problem="p2")
    assert list(make_pairs([shown, WRONG, other], dropped=dropped)) == []
    assert dropped == {"source not asked for: gold": 2, "problem without a right chain": 1}


def test_pairs_are_capped_per_problem_and_use_different_chains_first() -> None:
    rights = [chain("add(1, 1)", f"record({i})", 'stop("2")') for i in range(3)]
    wrongs = [chain(f"add(1, {i})", 'stop("7")', right=False) for i in range(3)]
    made = pairs_of(*rights, *wrongs, max_per_problem=3)
    assert len({p.chosen_chain for p in made}) == len({p.rejected_chain for p in made}) == 3
    assert len(pairs_of(*rights, *wrongs, max_per_problem=50)) == 9


def test_the_order_of_the_chains_does_not_matter() -> None:
    chains = [
        chain(f"add({i % 3}, {p})", 'stop("2")', right=i < 2, problem=f"p{p}", question=f"q{p}")
        for i in range(4)
        for p in range(5)
    ]
    assert pairs_of(*chains) == pairs_of(*reversed(chains))
    assert pairs_of(*chains) == pairs_of(*chains, *chains)


def test_the_same_texts_make_one_pair() -> None:
    again = [chain("add(1, 1)", 'stop("2")', sample=i) for i in range(3)]
    dropped: Counter[str] = Counter()
    assert len(list(make_pairs([*again, WRONG], dropped=dropped))) == 1
    twin = [c.model_copy(update={"problem_id": "p9", "key": c.key[::-1]}) for c in (RIGHT, WRONG)]
    assert len(list(make_pairs([RIGHT, WRONG, *twin], dropped=dropped))) == 1
    assert dropped["duplicate"] == 1


def test_strategies_mix_by_weight() -> None:
    chains = [
        c
        for p in range(200)
        for c in (
            chain("add(1, 1)", f"record({p})", 'stop("2")', problem=f"p{p}"),
            chain("add(1, 1)", f"add(7, {p})", 'stop("3")', problem=f"p{p}", right=False),
        )
    ]
    config = {"strategies": {"chain": 3.0, "step": 1.0}, "max_per_problem": 1}
    counts = Counter(p.strategy for p in pairs_of(*chains, **config))
    assert counts.total() == 200
    assert 0.65 < counts["chain"] / 200 < 0.85


def test_balance_takes_evenly_from_the_groups() -> None:
    chains = [
        c
        for p in range(60)
        for c in (
            chain("add(1, 1)", f"record({p})", 'stop("2")', problem=f"p{p}", difficulty=1 + (p < 10)),
            chain(f"add(1, {p})", 'stop("3")', problem=f"p{p}", right=False, difficulty=1 + (p < 10)),
        )
    ]
    made = pairs_of(*chains, max_pairs=20, balance=("difficulty",))
    assert Counter(p.difficulty for p in made) == {1: 10, 2: 10}
    assert len(pairs_of(*chains, max_pairs=30, balance=("difficulty",))) == 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategies": {"chian": 1.0}}, "Did you mean 'chain'"),
        ({"strategies": {"chain": 0.0}}, "no pairing strategy has a weight"),
        ({"strategies": {"chain": -1.0}}, "negative"),
        ({"balance": ("error",)}, "balance needs max_pairs"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairConfig(**settings)


def test_a_test_question_among_the_pairs_is_refused_up_to_case_and_spacing() -> None:
    pairs = pairs_of(RIGHT, WRONG)
    clean = [Problem(id="t1", question="What is 1 - 1?", answer="0")]
    assert check_leaks(pairs, clean) == 1
    with pytest.raises(DataError, match=r"1 test questions are in the training data.*t2"):
        check_leaks(pairs, [*clean, Problem(id="t2", question="what  is 1 + 1", answer="2")])


def test_a_leak_leaves_no_pairs_file_and_an_old_one_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    leaked = [Problem(id="t", question="what is 1 + 1", answer="2")]
    for before in (False, True):
        if before:
            path.write_text("old")
        with pytest.raises(DataError, match="test questions are in the training data"):
            write_pairs(pairs_of(RIGHT, WRONG), path, test=leaked)
        assert [p.read_text() for p in tmp_path.iterdir()] == ["old"] * before


token_ids = st.lists(st.one_of(st.none(), st.lists(st.integers(0, 10**6), min_size=1).map(tuple)))


@given(texts=st.lists(st.text(), min_size=2, max_size=2), ids=token_ids.map(tuple))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ids: Any
) -> None:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    (pair,) = pairs_of(RIGHT, WRONG)
    pair = pair.model_copy(
        update={
            "chosen": ({"role": "assistant", "content": texts[0]},),
            "evidence": texts[1],
            "chosen_ids": ids,
        }
    )
    assert write_pairs([pair], path) == 1
    assert list(read_pairs(path)) == [pair]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(pairs_of(RIGHT, WRONG), path)
    with path.open("a") as file:
        file.write('{"prompt": []}\n')
    with pytest.raises(DataError, match=r"line 2, is not a preference pair"):
        list(read_pairs(path))


def test_a_failed_write_leaves_no_half_file(tmp_path: Path) -> None:
    def broken() -> Any:
        yield from pairs_of(RIGHT, WRONG)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_pairs(broken(), tmp_path / "pairs.jsonl")
    assert list(tmp_path.iterdir()) == []


def with_ids(source: Chain, start: int) -> Chain:
    steps = [
        s.model_copy(update={"token_ids": tuple(range(start, start + 2 + i))})
        for i, s in enumerate(source.steps)
    ]
    return source.model_copy(update={"steps": tuple(steps)})


def test_statistics_show_lengths_errors_and_trivial_pairs() -> None:
    endless = chain(*["add(1, 1)"] * 4, right=False, stop_reason=StopReason.STEP_BUDGET, problem="p2")
    silent = chain(step("well", "Error", FailureKind.NO_CALL), right=False, problem="p3")
    slow = chain(step("add(3, 1)", "Error", FailureKind.TIME_LIMIT), right=False, problem="p4")
    guess = chain("add(1, 1)", 'stop("3")', right=False)
    rights = [
        RIGHT,
        *(RIGHT.model_copy(update={"problem_id": f"p{i}", "key": f"k{i}"}) for i in (2, 3, 4)),
    ]
    rights[0] = with_ids(rights[0], 5)
    dropped: Counter[str] = Counter()
    pairs = list(make_pairs([*rights, with_ids(guess, 9), endless, silent, slow], dropped=dropped))
    found = pair_statistics([*pairs, pairs[0]], dropped)
    assert (found.pairs, found.problems, found.duplicates) == (5, 4, 1)
    assert found.function_failed >= 1
    assert found.trivial["no_call"] >= 1
    assert found.trivial["last_word"] >= 1
    assert found.characters is not None
    assert found.characters.maximum == 36
    assert found.tokens is not None
    assert found.tokens.chosen_mean == 5.0
    assert found.turns is not None
    assert 0 < found.turns.chosen_longer < 1
    assert sum(found.errors.values()) == 5
    assert type(found).model_validate_json(found.model_dump_json()) == found
    assert found.table().row_count > 10


def test_statistics_of_no_pairs_are_empty_rather_than_an_error() -> None:
    found = pair_statistics([])
    assert (found.pairs, found.characters, found.length_correlation) == (0, None, None)


def mixed_pairs() -> list[PreferencePair]:
    """Rows with and without ids, evidence and difficulty: what a column type could trip over."""
    plain = pairs_of(RIGHT, WRONG)
    rich = pairs_of(
        with_ids(chain("add(2, 1)", 'stop("2")', problem="p2", difficulty=3), 7),
        with_ids(chain('stop("2")', problem="p2", process=False, difficulty=3), 8),
    )
    steps = list(make_pairs([with_ids(RIGHT, 3), chain("add(1, 1)", 'stop("4")', right=False)], STEPS))
    return [*plain, *rich, *steps]


@pytest.mark.parametrize("order", [1, -1])
def test_a_pairs_file_opens_as_a_data_set_whatever_its_first_rows_lack(
    tmp_path: Path, order: int
) -> None:
    from datasets import load_dataset

    files = [str(tmp_path / f"{index}.jsonl") for index in range(3)]
    for pair, path in zip(mixed_pairs()[::order], files, strict=True):
        write_pairs([pair], path)
    together = load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path))
    assert [PreferencePair.model_validate(row) for row in together] == mixed_pairs()[::order]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library that is tried out, not ours
def test_trl_trains_one_step_on_a_pairs_file_as_it_is(tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from tiny_models import build_tiny

    folder = tmp_path / "model"
    build_tiny("llama", folder)
    write_pairs(mixed_pairs(), tmp_path / "pairs.jsonl")
    data = load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=3,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    result = trainer.train()
    assert result.global_step == 1
    assert result.training_loss == pytest.approx(0.6931, abs=1e-3)


class Loud(PythonCalls):
    name = "loud"

    def observation(self, observation: Observation) -> Message:
        return Message(role="user", content=f"{observation.text}!")


def test_observations_of_a_chain_are_shown_as_its_dialect_showed_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = chain(step("add(1, 1)", "2"), 'stop("2")')
    (pair,) = pairs_of(right, WRONG)
    assert pair.chosen[1] == {"role": "user", "content": Observation(text="2").text}
    shouted, unknown = (WRONG.model_copy(update={"dialect": name}) for name in ("loud", "pithon"))
    monkeypatch.setitem(DIALECTS, "loud", Loud())
    assert pairs_of(right, shouted) == []
    (pair,) = pairs_of(right.model_copy(update={"dialect": "loud"}), shouted)
    assert pair.chosen[1] == {"role": "user", "content": "2!"}
    with pytest.raises(DataError, match=r"unknown dialect.*Did you mean 'python'"):
        pairs_of(right.model_copy(update={"dialect": "pithon"}), unknown)
