"""Chains in flat memory: what is sorted on disk, and pairs from files of every sort."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import chain as joined
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks import streaming
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from chain_sets import chain_sets
from rightcall.chain import (
    Call,
    Chain,
    ChainFiles,
    ChainStore,
    Judgement,
    Observation,
    Origin,
    Outcome,
    Step,
    StopReason,
)
from rightcall.errors import DataError, FailureKind
from rightcall.pairs import STRATEGIES, PairConfig, PreferencePair, compare_strategies, make_pairs
from rightcall.pairs.outline import (
    Head,
    JudgementOutline,
    ObservationOutline,
    OriginOutline,
    Outline,
    StepOutline,
)
from rightcall.pairs.pair import words_of_model
from rightcall.spill import PARTS, Seen, Sorter
from toys import chain, step

HASHES = st.integers(0, 2**64 - 1)
ALL = PairConfig(strategies=dict.fromkeys(STRATEGIES, 1.0), max_per_problem=4)


@given(st.lists(st.tuples(HASHES, st.integers(0, 255))))
def test_records_come_back_in_order_as_often_as_asked(records: list[tuple[int, int]]) -> None:
    with Sorter("B") as sorter:
        for record in records:
            sorter.add(*record)
        assert list(sorter) == list(sorter) == sorted(records)


def test_more_records_than_wait_in_memory_come_back_in_order() -> None:
    generator = random.Random(0)
    records = [(generator.getrandbits(64), n) for n in range(500 * PARTS)]
    with Sorter("Q") as sorter:
        for record in records:
            sorter.add(*record)
        assert list(sorter) == sorted(records)


@given(st.lists(st.one_of(HASHES, st.integers(1, 5)), max_size=200))
def test_a_number_is_new_once(numbers: list[int]) -> None:
    seen, known = Seen(), set[int]()
    for number in numbers:
        assert seen.add(number) is ((number or 1) not in known)
        known.add(number or 1)
    assert len(seen) == len(known)


def test_many_numbers_are_remembered() -> None:
    generator, seen = random.Random(0), Seen()
    numbers = [generator.getrandbits(64) for _ in range(20_000)]
    assert all(seen.add(number) for number in numbers)
    assert not any(seen.add(number) for number in numbers)


# --- files ----------------------------------------------------------------------------------------


def mixed(folder: Path) -> list[Path]:
    """Two files: redone errored chains, repeated keys within and between them, a cut last line, chains
    that were cut, problems without a contrast, repairs, a source that nobody asks for."""
    chains: list[Chain] = []
    for number in range(12):
        problem = {"problem": f"p{number}", "question": f"What is {number} + 1?"}
        for sample in range(4):
            right = (number + sample) % 4 < number % 5
            reply = f"record({sample % 3})"
            answer = 'stop("2")' if right else f'stop("{sample}")'
            made: dict[str, Any] = {**problem, "right": right, "sample": sample}
            made["source"] = ("student", "teacher")[sample % 2]
            failed = step("record(1", "Error: it is never closed", FailureKind.UNPARSABLE)
            first = failed if number % 3 == 0 and sample == 1 else "add(1, 1)"
            chains.append(chain(first, reply, answer, **made))
        cut = chain("add(1, 1)", right=False, stop_reason=StopReason.REPLY_TRUNCATED, **problem)
        chains += [cut, chain("add(2, 2)", right=False, source="nobody", **problem)]
    errored = [
        c.model_copy(update={"outcome": Outcome.ERRORED, "error": "gone", "steps": ()})
        for c in chains[::5]
    ]
    random.Random(1).shuffle(chains)
    half = len(chains) // 2
    one, two = folder / "one.jsonl", folder / "two.jsonl"
    ChainStore(one).append([*errored, *chains[:half], *chains[:3], *errored[:2]])
    lost = chain("add(1, 1)", errored=True, problem="p3", question="What is 3 + 1?")
    ChainStore(two).append([lost, *chains[half - 4 :], errored[0]])
    with two.open("ab") as file:
        file.write(chains[0].model_dump_json().encode()[:-40])
    return [one, two]


@pytest.mark.parametrize(
    "config",
    [
        PairConfig(),
        ALL,
        PairConfig(strategies={"repair": 1.0}, require_process=False),
        PairConfig(strategies={"step": 1.0}, mix_sources=True, max_pairs=5, balance=("error",)),
        PairConfig(sources_chosen=("teacher",), sources_rejected=("student",)),
    ],
    ids=["chain", "all", "repair", "step", "sources"],
)
def test_files_make_the_pairs_of_their_chains(tmp_path: Path, config: PairConfig) -> None:
    files = mixed(tmp_path)
    every = list(joined.from_iterable(ChainStore(file).latest() for file in files))
    from_files, from_memory = Counter[str](), Counter[str]()
    expected = list(make_pairs(every, config, from_memory))
    assert list(make_pairs(ChainFiles(files), config, from_files)) == expected
    assert expected
    assert from_files == from_memory
    assert from_files["errored chain"] == sum(c.outcome is Outcome.ERRORED for c in every) > 0
    assert from_files["chain given twice"] > 0


def test_comparing_strategies_reads_the_files_once_for_each(tmp_path: Path) -> None:
    files = mixed(tmp_path)
    every = [c for file in files for c in ChainStore(file).latest()]
    assert compare_strategies(ChainFiles(files), ALL) == compare_strategies(every, ALL)


@given(chain_sets(rollouts=True))
def test_problems_that_are_passed_over_unread_would_have_made_no_pair(chains: list[Chain]) -> None:
    """A config with an unknown strategy reads everything: see `_NEEDED`."""
    for name, strategy in [*STRATEGIES.items()]:
        config = PairConfig(strategies={name: 1.0})
        expected, dropped, told = list(make_pairs(chains, config)), Counter[str](), Counter[str]()
        STRATEGIES["another"] = strategy
        try:
            asked = PairConfig(strategies={"another": 1.0})
            read = list(make_pairs(chains, asked, dropped))
        finally:
            del STRATEGIES["another"]
        list(make_pairs(chains, config, told))
        assert read == expected
        assert dropped == told


@given(chain_sets(rollouts=True), st.data())
def test_a_pair_has_what_its_chains_have(chains: list[Chain], data: st.DataObject) -> None:
    """Pairs are made of outlines; here of the chains themselves."""
    ids = st.none() | st.lists(st.integers(0, 2**40), min_size=1, max_size=3).map(tuple)
    chains = [
        made.model_copy(
            update={
                "steps": tuple(s.model_copy(update={"token_ids": data.draw(ids)}) for s in made.steps),
                "judgement": made.judgement.model_copy(update={"evidence": ("It's so.", "\u2028é")}),
                "difficulty": data.draw(st.none() | st.integers(1, 9)),
            }
        )
        for made in chains
    ]
    by_key = {made.key: made for made in chains}
    for pair in make_pairs(chains, ALL):
        assert PreferencePair.model_validate(pair.model_dump()) == pair
        assert PreferencePair.model_validate_json(pair.model_dump_json()) == pair
        right, wrong = by_key[pair.chosen_chain], by_key[pair.rejected_chain]
        said = {s.reply: s for s in right.steps}
        start = len(pair.prompt_ids)
        assert pair.prompt[: len(right.prompt)] == right.prompt
        assert pair.prompt_ids == tuple(s.token_ids for s in right.steps[:start])
        if pair.strategy == "chain":
            assert pair.chosen_ids == tuple(s.token_ids for s in right.steps)
            assert pair.rejected_ids == tuple(s.token_ids for s in wrong.steps)
            assert words_of_model(pair.chosen) == [s.reply for s in right.steps]
            assert words_of_model(pair.rejected) == [s.reply for s in wrong.steps]
        else:
            assert {*words_of_model(pair.chosen)} <= {*said}
        assert pair.difficulty == (right.difficulty or 0)
        if pair.strategy != "repair":
            assert pair.evidence == "; ".join(wrong.judgement.evidence)
            assert pair.answer == right.answer


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ((), ""),
        ((None,), ";"),
        (((12, 7, 2), None, (8,)), "12 7 2;;8;"),
        ((None, (0,), None), ";0;;"),
    ],
)
def test_token_ids_are_one_text_in_a_file(ids: Any, text: str) -> None:
    right, wrong = chain("add(1, 1)", 'stop("2")'), chain('stop("3")', right=False)
    (pair,) = make_pairs([right, wrong])
    written = pair.model_copy(update={"prompt_ids": ids}).model_dump_json()
    assert json.loads(written)["prompt_ids"] == text
    assert PreferencePair.model_validate_json(written).prompt_ids == ids


def two_lines(path: Path, old: str = "", new: str = "") -> ChainFiles:
    """A right and a wrong chain in a file; of the latter, this in place of that."""
    failed = step("add(1)", "Error: an argument is missing", FailureKind.MISSING_ARGUMENT)
    right = chain("add(1, 1)", 'stop("2")').model_dump_json()
    failed = failed.model_copy(update={"call": Call(name="add", args=(1,))})
    wrong = chain(failed, "add(2, 1)", 'stop("3")', right=False).model_dump_json()
    assert old in wrong
    path.write_text(f"{right}\n{wrong.replace(old, new, 1)}\n", errors="surrogateescape")
    return ChainFiles([path])


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ('"judgement":', '"judgment":', "judgment"),
        ('"process_correct":', '"process_corect":', "process_corect"),
        ('"token_ids":', '"ids":', "ids"),
        ('"cut":', '"cutoff":', "cutoff"),
        ('"kwargs":', '"keywords":', "keywords"),
        ('"sample":0,', "", "sample"),
        ('"model":', '"":null,"model":', ""),
        ('"reply":', '"":null,"reply":', ""),
        ('"reply":"', '"reply":"\udcff', "reply"),
        ('"given_steps":0', '"given_steps":-1', "given_steps"),
        ('"sample":0', '"sample":"first"', "sample"),
        ('"model":"toy"', '"model":5', "model"),
        ('"seed":0', '"seed":null', "seed"),
        ('"error":null', '"error":5', "error"),
        ('"seconds":0.0', '"seconds":"long"', "seconds"),
        ('"renamed":{}', '"renamed":{"a":1}', "renamed"),
        ('"measures":{}', '"measures":[]', "measures"),
        ('"cut":0', '"cut":[]', "cut"),
        ('"prompt_tokens":0', '"prompt_tokens":{}', "prompt_tokens"),
        ('"completion_tokens":0', '"completion_tokens":0.5', "completion_tokens"),
        ('"token_ids":null', '"token_ids":["x"]', "token_ids"),
        ('"call":{"name":"add","args":[1],"kwargs":{}}', '"call":"add"', "call"),
    ],
)
def test_what_a_chain_does_not_have_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, name: str
) -> None:
    files = two_lines(tmp_path / "c.jsonl", old, new)
    with pytest.raises(DataError, match=r"c\.jsonl, line 2, is not a chain") as caught:
        list(make_pairs(files, ALL))
    if name != "reply":
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("struct", "model"),
    [
        (Head, Chain),
        (Outline, Chain),
        (StepOutline, Step),
        (ObservationOutline, Observation),
        (JudgementOutline, Judgement),
        (OriginOutline, Origin),
    ],
)
def test_an_outline_has_the_fields_of_its_model(struct: Any, model: type[BaseModel]) -> None:
    assert struct.__struct_config__.forbid_unknown_fields
    fields = [(field.encode_name, field.required) for field in msgspec.structs.fields(struct)]
    assert fields == [(name, field.is_required()) for name, field in model.model_fields.items()]


@pytest.mark.parametrize("ids", ['["12"]', "[12.0]", "[12]"])
def test_token_ids_in_other_words_are_read(tmp_path: Path, ids: str) -> None:
    files = two_lines(tmp_path / "c.jsonl", '"token_ids":null', f'"token_ids":{ids}')
    (pair,) = make_pairs(files)
    assert pair.rejected_ids == ((12,), None, None)


def test_a_line_that_is_no_chain_is_named_with_its_file(tmp_path: Path) -> None:
    path = mixed(tmp_path)[0]
    count = path.read_bytes().count(b"\n")
    with path.open("ab") as file:
        file.write(b'{"key": "a"}\n')
    with pytest.raises(DataError, match=rf"one\.jsonl, line {count + 1}, is not a chain"):
        list(make_pairs(ChainFiles([path])))


def test_a_chain_in_other_words_is_read_as_one(tmp_path: Path) -> None:
    right = chain("add(1, 1)", 'stop("2")')
    wrong = chain("add(1, 2)", 'stop("3")', right=False)
    path = tmp_path / "c.jsonl"
    lines = [
        made.model_dump_json().replace('"given_steps":0', '"given_steps":"0"')
        for made in (right, wrong)
    ]
    path.write_text("\n".join(lines) + "\n")
    assert list(make_pairs(ChainFiles([path]))) == list(make_pairs([right, wrong]))


def test_counts_are_those_of_the_latest_lines(tmp_path: Path) -> None:
    for file in mixed(tmp_path):
        store = ChainStore(file)
        assert store.counts() == Counter(store.outcomes().values())
        assert [c.key for c in store.latest()] == [*dict.fromkeys(c.key for c in store.latest())]
        assert {c.key: c.outcome for c in store.latest()} == store.outcomes()


def test_the_chains_of_the_benchmark_are_chains_and_make_pairs(tmp_path: Path) -> None:
    made = [
        chain("add(1, 1)", f'stop("{n}")', right=n == 2, sample=n, question="What is 1 + 1?")
        for n in range(4)
    ]
    path = tmp_path / "c.jsonl"
    streaming.write_chains(path, streaming.contrasting(streaming.by_problem(made)), 64, 4)
    assert len({c.key for c in ChainStore(path)}) == 64
    assert Counter(Counter(c.problem_id for c in ChainStore(path)).values()) == {4: 16}
    figures = streaming.pairing()(str(path), str(tmp_path / "pairs.jsonl"), 64)
    assert figures["pairs"] == 2 * 16
