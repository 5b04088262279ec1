"""Chains: identity, the file that holds them, and what a kill may do to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rightcall.chain import Call, Chain, ChainStore, Outcome, Problem, StopReason, digest, seed_of
from rightcall.errors import DataError, FailureKind
from toys import chain, step

ONE = chain("add(1, 1)", 'stop("2")')
TWO = chain("add(1, 2)", 'stop("3")', right=False)
ERRORED = chain("add(1, 1)", errored=True, stop_reason=StopReason.MODEL_ERROR)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(reply=text, observation=text, ids=st.none() | st.lists(st.integers(0, 10**6)).map(tuple))
def test_a_chain_is_read_back_from_its_line_as_it_was(reply: str, observation: str, ids: Any) -> None:
    made = step(reply, observation).model_copy(update={"token_ids": ids})
    whole = ONE.model_copy(update={"steps": (*ONE.steps, made)})
    line = whole.model_dump_json()
    assert "\n" not in line
    assert Chain.model_validate_json(line) == whole


def test_data_is_frozen_and_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ONE.answer = "3"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Problem(id="p", question="q", answer="a", anser="b")  # type: ignore[call-arg]


def test_a_call_is_written_as_in_python() -> None:
    call = Call(name="f", args=(1, "it's", [None]), kwargs={"x": -2.5})
    assert str(call) == """f(1, "it's", [None], x=-2.5)"""


def test_right_for_the_right_reason_needs_both_and_doubt_counts_for_the_chain() -> None:
    assert chain("add(1, 1)", process=True).right_for_the_right_reason
    assert chain("add(1, 1)", process=None).right_for_the_right_reason
    assert not chain("add(1, 1)", process=False).right_for_the_right_reason
    assert not chain("add(1, 1)", process=True, right=False).right_for_the_right_reason


def test_a_chain_knows_its_failed_calls() -> None:
    bad = step("ad(1)", "Error", FailureKind.UNKNOWN_FUNCTION)
    assert chain("add(1, 1)", bad, bad).failures == (FailureKind.UNKNOWN_FUNCTION,) * 2


def test_digests_and_seeds_depend_on_every_part_and_on_nothing_else() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest("a", "b") != digest("ab") != digest(["a", "b"])
    assert seed_of("fol", "test", 7, 12) == seed_of("fol", "test", 7, 12)
    assert seed_of("fol", 1, 12) != seed_of("fol", 11, 2)
    seeds = {seed_of("fol", seed, index) for seed in range(30) for index in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)


# --- the store ----------------------------------------------------------------------------------


def test_a_store_gives_back_what_was_appended_over_several_openings(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "run" / "chains.jsonl")
    assert list(store) == []
    store.append([ONE])
    store.append([TWO])
    assert list(store) == [ONE, TWO]


def test_every_chain_is_on_disk_before_the_next_is_asked_for(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "chains.jsonl")
    seen = []

    def chains() -> Any:
        yield ONE
        seen.append(list(store))
        yield TWO

    store.append(chains())
    assert seen == [[ONE]]


@pytest.mark.parametrize("cut", [1, 10, 500])
def test_a_line_cut_by_a_kill_is_neither_read_nor_kept(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "chains.jsonl"
    ChainStore(path).append([ONE, TWO])
    path.write_bytes(path.read_bytes()[:-cut])
    store = ChainStore(path)
    assert list(store) == [ONE]
    store.append([TWO])
    assert list(store) == [ONE, TWO]


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_a_cut_line_of_any_length_is_dropped(tmp_path: Path, size: int) -> None:
    path = tmp_path / "chains.jsonl"
    ChainStore(path).append([ONE])
    whole = path.read_bytes()
    for content in (whole + b"x" * size, b"x" * size):
        path.write_bytes(content)
        ChainStore(path).append([TWO])
        assert list(ChainStore(path)) == ([ONE, TWO] if content.startswith(whole) else [TWO])


def test_a_line_that_is_no_chain_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    ChainStore(path).append([ONE])
    with path.open("a") as file:
        file.write('{"key": 1}\n')
    with pytest.raises(DataError, match=r"line 2, is not a chain"):
        list(ChainStore(path))


@pytest.mark.parametrize(
    "line",
    [
        b'{"key": "\xff"}',
        b'{"key": "a\xff", "outcome": "correct"}',
        b"\xff\xfe",
        b'{"key": 5}',
        b"[" * 9999,
    ],
)
@pytest.mark.parametrize("read", [ChainStore.outcomes, ChainStore.counts, ChainStore.latest])
def test_a_first_line_that_cannot_be_read_is_named_with_its_file(
    tmp_path: Path, line: bytes, read: Callable[[ChainStore], Iterable[object]]
) -> None:
    path = tmp_path / "chains.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(DataError, match=r"chains\.jsonl, line 1, is not a chain"):
        list(read(ChainStore(path)))
    with pytest.raises(DataError, match=r"chains\.jsonl, line 1, is not a chain"):
        ChainStore(tmp_path / "other.jsonl").merge([ChainStore(path)])


def test_latest_gives_every_chain_once_and_an_errored_one_only_if_it_stayed_so(
    tmp_path: Path,
) -> None:
    store = ChainStore(tmp_path / "chains.jsonl")
    redone = ERRORED.model_copy(update={"outcome": Outcome.CORRECT})
    other = ERRORED.model_copy(update={"key": "other"})
    again = ONE.model_copy(update={"seconds": 2.0})
    store.append([ERRORED, other, ONE, redone, other, again, ERRORED])
    assert list(store.latest()) == [redone, other, again]
    assert store.outcomes() == {
        ERRORED.key: Outcome.CORRECT,
        "other": Outcome.ERRORED,
        ONE.key: Outcome.CORRECT,
    }


def test_a_place_that_cannot_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "z.jsonl", tmp_path):
        with pytest.raises(DataError, match="chains cannot be written there") as error:
            ChainStore(place).append([])
        assert str(place) in str(error.value)


def test_a_second_writer_is_refused_while_readers_are_not(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    program = f"""
import sys
sys.path[:] = {sys.path!r}
from rightcall.chain import ChainStore
def chains():
    print("open", flush=True)
    sys.stdin.read()
    yield from ()
ChainStore({str(path)!r}).append(chains())
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(DataError, match="another process writes"):
            ChainStore(path).append([ONE])
        assert list(ChainStore(path)) == []
        other.communicate()
    ChainStore(path).append([ONE])
    assert list(ChainStore(path)) == [ONE]
