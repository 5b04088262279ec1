import json
from pathlib import Path

import pytest

from rightcall.chain import Origin, Problem
from rightcall.errors import DataError, RenderingError
from rightcall.rendering import Rendered, Renderer
from rightcall.train.data import check_unseen, load_rows, read_records, reasons
from tiny_models import build_tokenizer

PROMPT = [
    {"role": "system", "content": "Reply with one function call at a time."},
    {"role": "user", "content": "Tom has 12 apples and buys 30 more. How many?"},
]
CHOSEN = [
    {"role": "assistant", "content": "add(12, 30)"},
    {"role": "user", "content": "The result is 42."},
    {"role": "assistant", "content": "stop(42)"},
]
REJECTED = [{"role": "assistant", "content": "stop(12)"}]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(**more) -> dict:
    return {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED, "problem_id": "p1", **more}


def load(path, tokenizer, **options):
    return load_rows(path, Renderer(tokenizer), **{"method": "dpo", "max_length": 500, **options})


def words(tokenizer, rendered: Rendered) -> str:
    kept = [token for token, on in zip(rendered.ids, rendered.trained, strict=True) if on]
    return tokenizer.decode(kept)


def test_trained_tokens_decode_to_exactly_the_models_own_words(tmp_path, tokenizer):
    (row,) = load(write(tmp_path / "p.jsonl", pair()), tokenizer).rows
    assert words(tokenizer, row.chosen) == "add(12, 30)<|im_end|>stop(42)<|im_end|>"
    assert row.rejected is not None
    assert words(tokenizer, row.rejected) == "stop(12)<|im_end|>"


def test_without_masking_observations_everything_after_the_prompt_is_trained(tmp_path, tokenizer):
    path = write(tmp_path / "p.jsonl", pair())
    (row,) = load(path, tokenizer, mask_observations=False).rows
    assert "The result is 42." in words(tokenizer, row.chosen)
    assert "apples" not in words(tokenizer, row.chosen)


def test_assistant_turns_of_a_step_pairs_prompt_are_not_trained(tmp_path, tokenizer):
    step = pair(prompt=PROMPT + CHOSEN[:2], chosen=CHOSEN[2:], rejected=REJECTED)
    (row,) = load(write(tmp_path / "p.jsonl", step), tokenizer).rows
    assert words(tokenizer, row.chosen) == "stop(42)<|im_end|>"
    assert "add(12, 30)" in tokenizer.decode(row.chosen.ids)


def test_sampled_ids_are_trained_as_they_were_said(tmp_path, tokenizer):
    said = [*[tokenizer.encode(c)[0] for c in "stop(12)"], tokenizer.eos_token_id]
    plain = (*tokenizer.encode("stop(12)"), tokenizer.eos_token_id)
    assert tuple(said) != plain
    path = write(tmp_path / "p.jsonl", pair(rejected_ids=[said]))
    (row,) = load(path, tokenizer).rows
    assert row.rejected is not None
    kept = [t for t, on in zip(row.rejected.ids, row.rejected.trained, strict=True) if on]
    assert kept == said


def test_sampled_ids_in_the_prompt_keep_it_a_prefix(tmp_path, tokenizer):
    said = [*[tokenizer.encode(c)[0] for c in "add(12, 30)"], tokenizer.eos_token_id]
    row = pair(
        prompt=PROMPT + CHOSEN[:2],
        chosen=CHOSEN[2:],
        rejected=REJECTED,
        prompt_ids=" ".join(map(str, said)) + ";",
    )
    (made,) = load(write(tmp_path / "p.jsonl", row), tokenizer).rows
    assert words(tokenizer, made.chosen) == "stop(42)<|im_end|>"
    text = " ".join(map(str, made.chosen.ids))
    assert " ".join(map(str, said)) in text


def test_a_completion_that_begins_with_an_observation_is_refused(tmp_path, tokenizer):
    path = write(tmp_path / "p.jsonl", pair(rejected=[{"role": "user", "content": "no"}, *REJECTED]))
    with pytest.raises(RenderingError, match="not a token prefix"):
        load(path, tokenizer)


@pytest.mark.parametrize(
    ("row", "method", "missing"),
    [
        (pair(rejected=[]), "dpo", "line 1, has no `rejected`"),
        (pair(rejected=None, strategy="chain"), "dpo", "line 1, has no `rejected`"),
        (pair(chosen=[]), "dpo", "line 1, has no `chosen`"),
        ({"prompt": PROMPT, "completion": CHOSEN}, "dpo", "line 1, has no `rejected`"),
        (pair(chosen=None), "sft", "line 1, has no `chosen`, `completion` or `messages`"),
        ({"messages": PROMPT}, "sft", "line 1, has no assistant turn in its `messages`"),
    ],
)
def test_a_row_without_a_side_is_refused_by_the_name_of_that_side(
    tmp_path, tokenizer, row, method, missing
):
    with pytest.raises(DataError, match=missing):
        load(write(tmp_path / "p.jsonl", row), tokenizer, method=method)


def test_pairs_that_teach_nothing_are_left_out_and_named(tmp_path, tokenizer):
    """One whose sides are alike has no gradient; one that came before would weigh twice."""
    alike, other = pair(rejected=CHOSEN), pair(rejected=[{"role": "assistant", "content": "stop(30)"}])
    made = load(write(tmp_path / "p.jsonl", pair(), alike, other, pair(), alike), tokenizer)
    assert [row.name for row in made.rows] == ["p.jsonl, line 1", "p.jsonl, line 3"]
    assert made.unfit == {
        "p.jsonl, line 2": "the chosen and the rejected side are alike",
        "p.jsonl, line 4": "the same pair came before",
        "p.jsonl, line 5": "the chosen and the rejected side are alike",
    }
    assert reasons(made.unfit) == (
        "2 the chosen and the rejected side are alike (first: p.jsonl, line 2), "
        "1 the same pair came before (p.jsonl, line 4)"
    )
    assert not load(tmp_path / "p.jsonl", tokenizer, method="sft").unfit


def test_rows_that_are_too_long_are_refused_or_named_but_never_cut(tmp_path, tokenizer):
    long = pair(rejected=[{"role": "assistant", "content": "stop(1)" * 100}])
    path = write(tmp_path / "p.jsonl", pair(), long)
    with pytest.raises(DataError, match="1 of 2 rows are longer than 150 tokens"):
        load(path, tokenizer, max_length=150)
    kept = load(path, tokenizer, max_length=150, too_long="drop")
    assert len(kept.rows) == 1
    assert kept.too_long == ("p.jsonl, line 2",)


def test_sft_takes_every_chosen_chain_once(tmp_path, tokenizer):
    other = pair(rejected=[{"role": "assistant", "content": "stop(30)"}])
    rows = load(write(tmp_path / "p.jsonl", pair(), other), tokenizer, method="sft")
    assert len(rows.rows) == 1
    assert rows.repeated == 1
    assert rows.rows[0].rejected is None


def test_sft_reads_messages_and_prompt_with_completion_alike(tmp_path, tokenizer):
    shapes = [{"messages": PROMPT + CHOSEN}, {"prompt": PROMPT, "completion": CHOSEN}]
    made = [
        load(write(tmp_path / f"{i}.jsonl", row), tokenizer, method="sft").rows[0].chosen
        for i, row in enumerate(shapes)
    ]
    assert made[0] == made[1]
    assert words(tokenizer, made[0]) == "add(12, 30)<|im_end|>stop(42)<|im_end|>"


def test_a_malformed_line_is_named(tmp_path):
    path = write(tmp_path / "p.jsonl", pair())
    path.write_text(path.read_text() + '{"prompt": 3}\n')
    with pytest.raises(DataError, match=r"p\.jsonl, line 2"):
        list(read_records(path))


@pytest.mark.parametrize("side", ["messages", "chosen", "prompt"])
def test_a_row_whose_calls_stand_beside_its_words_is_refused(tmp_path, side):
    call = {"id": "c", "type": "function", "function": {"name": "stop", "arguments": "{}"}}
    turns = [*PROMPT, {"role": "assistant", "content": "", "tool_calls": [call]}]
    path = write(tmp_path / "p.jsonl", pair(), pair(**{side: turns}))
    with pytest.raises(DataError, match=r"line 2, is not a training row.*give the pairs file"):
        list(read_records(path))
    plain = [{**turn, "tool_calls": None} for turn in CHOSEN]
    assert len(list(read_records(write(path, pair(chosen=plain))))) == 1


def test_an_empty_file_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match="nothing to train on"):
        load(write(tmp_path / "p.jsonl"), tokenizer)


def test_a_training_takes_the_pairs_of_the_strategies_it_names_and_says_what_there_is(
    tmp_path, tokenizer
):
    said = [{"rejected": [{"role": "assistant", "content": f"stop({i})"}]} for i in range(3)]
    made = zip(said, ("chain", "step", "step"), strict=True)
    path = write(tmp_path / "pairs.jsonl", *[pair(strategy=s, **side) for side, s in made])
    assert len(load(path, tokenizer).rows) == 3
    assert len(load(path, tokenizer, strategies=("step",)).rows) == 2
    with pytest.raises(DataError, match="'chain': 1, 'step': 2"):
        load(path, tokenizer, strategies=("first",))


ASKED = Problem(id="t1", question="tom has 12 apples, and buys 30 more: how many", answer="42")
VARIANT = Problem(
    id="p1~rename.0.1",
    question="Ann has 12 pens and buys 30 more. How many?",
    answer="42",
    origin=Origin(operation="rename", parent="p1", root="p1"),
)
EARLIER = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]


@pytest.mark.parametrize(
    ("row", "test"),
    [
        (pair(), ASKED),
        (pair(strategy="chain"), ASKED),
        (pair(strategy="chain"), VARIANT),
        (pair(problem_id="p9~rename.0.1", root="t1"), ASKED.model_copy(update={"question": "Who?"})),
        ({"messages": [*PROMPT, *CHOSEN]}, ASKED),
        ({"messages": [*EARLIER, *PROMPT, *CHOSEN]}, ASKED),
        ({"prompt": EARLIER, "completion": [*PROMPT, *CHOSEN]}, ASKED),
    ],
)
def test_rows_of_a_test_problem_or_its_relatives_are_refused(tmp_path, row, test):
    other = Problem(id="t2", question="What is 1 + 1?", answer="2")
    path = write(tmp_path / "p.jsonl", pair(prompt=EARLIER[:1]), row)
    check_unseen(path, [other])
    with pytest.raises(DataError, match=f"the training data, the first is problem {test.id}: "):
        check_unseen(path, [other, test])
