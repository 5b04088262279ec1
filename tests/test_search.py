"""First-error search: exact where recoverability is known, resumable, and never a guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightcall.chain import Chain, ChainStore, Observation, Outcome, Problem, StopReason
from rightcall.errors import DataError, ModelError
from rightcall.models import Reply, Request, Sampling
from rightcall.pairs import PairConfig, make_pairs
from rightcall.rollout import Budget, Job, Setting, rollouts
from rightcall.search import SearchConfig, SearchResult, cheapest_split, search
from rightcall.tree import StepTree
from toys import Played, SumTask, solver

TASK = SumTask()
FATAL = "record(13)"
K = 3
CONFIG = SearchConfig(rollouts=K, chains=9)


def setting(**changes: Any) -> Setting:
    return Setting(TASK, TASK.function_set(), **{"source": "student", **changes})


def said(request: Request) -> list[str]:
    return [m["content"] for m in request.messages if m["role"] == "assistant"]


def policy(request: Request) -> str:
    """Recovers from everything but `FATAL`, which it never recovers from. What it does on the way
    depends on the seed."""
    if FATAL in said(request):
        return 'stop("0")'
    a, b = request.messages[1]["content"][8:-1].split(" + ")
    if request.messages[-1]["content"] == str(int(a) + int(b)):
        return f'stop("{int(a) + int(b)}")'
    return f"record({request.seed % 5})" if request.seed % 3 == 0 else f"add({a}, {b})"


def played(replies: Sequence[str], problem: Problem, **changes: Any) -> Chain:
    """The chain of a model that says just this."""
    model = Played(lambda request: replies[len(said(request))])
    (made,) = rollouts(setting(**changes), model, [Job(problem)])
    return made


def wrong(problem: Problem, before: int, after: int, note: int = 1) -> Chain:
    """A chain whose step `before` (0-based) is the fatal one."""
    steps = [f"record({note})"] * before + [FATAL] + ["record(2)"] * after + ['stop("0")']
    return played(steps, problem, seed=before + 100 * after + 10_000 * note)


def right(problem: Problem) -> Chain:
    (made,) = rollouts(setting(), Played(solver), [Job(problem)])
    return made


def problems(count: int) -> list[Problem]:
    return list(TASK.problems("train", count))


def searched(
    path: Path, chains: Iterable[Chain], *, model: Played | None = None, count: int = 1, **changes: Any
) -> SearchResult:
    return search(
        changes.pop("setting", setting()),
        model or Played(policy, capacity=4),
        problems(count),
        chains,
        changes.pop("config", CONFIG),
        path,
        **changes,
    )


def stripped(chains: Iterable[Chain]) -> list[Chain]:
    return sorted((c.model_copy(update={"seconds": 0.0}) for c in chains), key=lambda c: c.key)


# --- what it finds ------------------------------------------------------------------------------


@given(before=st.integers(0, 7), after=st.integers(0, 7))
def test_the_first_error_is_found_exactly_where_the_policy_stops_to_recover(
    tmp_path_factory: pytest.TempPathFactory, before: int, after: int
) -> None:
    path = tmp_path_factory.mktemp("search") / "search.jsonl"
    (problem,) = problems(1)
    chain = wrong(problem, before, after)
    result = searched(path, [right(problem), chain])
    (error,) = result.errors
    assert (error.chain, error.step, error.steps) == (chain.key, before, before + after + 2)
    assert error.tries == K
    assert error.upper == pytest.approx(0.5615, abs=1e-4)  # Wilson, 0 of 3
    assert error.recovered_before > 0
    rolled = list(result.store)
    assert len(rolled) == result.rollouts <= K * (before + after + 1)
    assert {c.outcome is Outcome.CORRECT for c in rolled if c.given_steps <= before} <= {True}
    assert {c.outcome is Outcome.CORRECT for c in rolled if c.given_steps > before} == {False}


def test_a_last_step_that_is_wrong_is_certain_without_rollouts_from_it(tmp_path: Path) -> None:
    (problem,) = problems(1)
    chain = played(["record(1)", "record(2)", 'stop("0")'], problem, seed=1)
    (error,) = searched(tmp_path / "s.jsonl", [right(problem), chain]).errors
    assert (error.step, error.upper, error.tries) == (2, 0.0, 0)


def test_the_found_step_makes_a_pair_that_says_what_it_rests_on(tmp_path: Path) -> None:
    (problem,) = problems(1)
    chains = [right(problem), wrong(problem, 3, 2)]
    result = searched(tmp_path / "s.jsonl", chains)
    config = PairConfig(strategies={"first_error": 1.0}, max_per_problem=1, min_rollouts=K)
    (pair,) = make_pairs([*chains, *result.store], config)
    assert [m["content"] for m in pair.rejected] == [FATAL]
    assert [m["content"] for m in pair.prompt if m["role"] == "assistant"] == ["record(1)"] * 3
    assert (pair.basis, pair.rejected_value, pair.rejected_count) == ("rollouts", 0.0, K + 1)
    assert pair.chosen_value == 1.0
    assert list(make_pairs(chains, config)) == []


def test_only_wrong_chains_of_the_role_are_searched_and_only_where_something_is_right(
    tmp_path: Path,
) -> None:
    first, second, third = problems(3)
    chains = [
        right(first),
        wrong(first, 1, 1),
        wrong(first, 1, 1, note=4),
        wrong(second, 1, 1),
        right(third),
        wrong(third, 1, 1).model_copy(update={"source": "teacher"}),
    ]
    result = searched(tmp_path / "s.jsonl", chains, count=3, config=SearchConfig(rollouts=K, chains=1))
    assert result.searched == len(result.errors) == 1
    assert {c.problem_id for c in result.store} == {first.id}
    assert result.left_out == {
        "more chains of one problem": 1,
        "problem without a right chain": 1,
    }
    figures = result.figures()
    assert figures["left out: problem without a right chain"] == 1
    assert figures["first error at step 2"] == 1


def test_right_answers_by_a_wrong_process_are_searched_only_where_the_process_counts(
    tmp_path: Path,
) -> None:
    (problem,) = problems(1)
    lucky = played(["record(1)", f'stop("{problem.answer}")'], problem, seed=1)
    assert lucky.outcome is Outcome.CORRECT
    chains = [right(problem), lucky]
    assert searched(tmp_path / "a.jsonl", chains).searched == 1
    assert searched(tmp_path / "b.jsonl", chains, require_process=False).searched == 0


def test_a_chain_with_a_cut_reply_is_searched_before_it(tmp_path: Path) -> None:
    (problem,) = problems(1)

    def cut_after_fatal(request: Request) -> str | Reply:
        if len(said(request)) < 3:
            return ["record(1)", FATAL, "record(2)"][len(said(request))]
        return Reply(text="add(1, ", finish_reason="length")

    (chain,) = rollouts(setting(seed=1), Played(cut_after_fatal), [Job(problem)])
    assert chain.stop_reason is StopReason.REPLY_TRUNCATED
    (error,) = searched(tmp_path / "s.jsonl", [right(problem), chain]).errors
    assert error.step == 1


# --- how it is made -----------------------------------------------------------------------------


def many(count: int) -> list[Chain]:
    return [
        c
        for index, problem in enumerate(problems(count))
        for c in (right(problem), wrong(problem, index % 4, 5), wrong(problem, 3, index % 3, note=4))
    ]


def test_the_rollouts_are_ordinary_chains_each_prefix_probed_k_times(tmp_path: Path) -> None:
    (problem,) = problems(1)
    chains = [right(problem), wrong(problem, 4, 1), wrong(problem, 4, 3)]
    result = searched(tmp_path / "s.jsonl", chains)
    made = list(result.store)
    prefixes = Counter(tuple(s.reply for s in c.steps[: c.given_steps]) for c in made)
    assert set(prefixes.values()) == {K}
    assert len({c.key for c in made}) == len({c.seed for c in made}) == len(made)
    assert {c.source for c in made} == {"student"}
    assert all(1 <= c.given_steps <= len(c.steps) for c in made)
    # two searches, one first error: what they share is asked once
    assert [e.step for e in result.errors] == [4, 4]
    alone = searched(tmp_path / "alone.jsonl", chains[:2])
    assert result.rollouts < 2 * alone.rollouts
    assert StepTree.of([*chains, *made]).root.counted == 3


def test_what_is_found_does_not_depend_on_how_many_are_in_flight(tmp_path: Path) -> None:
    chains = many(6)
    one, full = (
        searched(tmp_path / f"{n}.jsonl", chains, count=6, model=Played(policy, capacity=n))
        for n in (1, 50)
    )
    assert stripped(one.store) == stripped(full.store)
    assert one.errors == full.errors
    assert len(one.errors) == one.searched == 12


def test_the_searches_of_many_problems_fill_the_model(tmp_path: Path) -> None:
    model = Played(policy, capacity=20)
    searched(tmp_path / "s.jsonl", many(10), count=10, model=model)
    assert model.most_open == 20
    assert not model.open


class Killed(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize("survivors", [1, 4, 17])
def test_a_killed_search_loses_nothing_and_repeats_nothing(tmp_path: Path, survivors: int) -> None:
    chains = many(4)
    told: list[Chain] = []

    def kill(chain: Chain) -> None:
        told.append(chain)
        if len(told) == survivors:
            raise Killed

    path = tmp_path / "killed.jsonl"
    with pytest.raises(Killed):
        searched(path, chains, count=4, on_chain=kill)
    kept = [c.key for c in ChainStore(path)]
    assert len(kept) == survivors
    result = searched(path, chains, count=4)
    whole = searched(tmp_path / "whole.jsonl", chains, count=4)
    keys = [c.key for c in ChainStore(path)]
    assert keys[:survivors] == kept
    assert len(set(keys)) == len(keys)
    assert stripped(result.store) == stripped(whole.store)
    assert result.errors == whole.errors
    assert result.rollouts == whole.rollouts == len(keys)
    silent = Played(policy)
    again = searched(path, chains, count=4, model=silent)
    assert (silent.most_open, again.errors) == (0, whole.errors)


def test_an_errored_rollout_is_no_failure_and_is_redone(tmp_path: Path) -> None:
    chains = many(3)
    path = tmp_path / "s.jsonl"
    broken = problems(3)[1].question

    def overloaded(request: Request) -> str | ModelError:
        return ModelError("overloaded") if request.messages[1]["content"] == broken else policy(request)

    first = searched(path, chains, count=3, model=Played(overloaded, capacity=3))
    assert first.unfinished == 1
    assert len(first.errors) == 4
    second = searched(path, chains, count=3)
    whole = searched(tmp_path / "whole.jsonl", chains, count=3)
    assert (second.unfinished, second.errors) == (0, whole.errors)
    assert stripped(second.store.latest()) == stripped(whole.store)


# --- what it refuses ----------------------------------------------------------------------------


def test_a_prefix_that_now_gives_another_observation_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(1)
    chain = wrong(problem, 3, 3)
    other = chain.steps[0].model_copy(update={"observation": Observation(text="7 recorded")})
    changed = chain.model_copy(update={"steps": (other, *chain.steps[1:])})
    with pytest.raises(DataError, match="step 1 of a recorded prefix gave another observation"):
        searched(tmp_path / "s.jsonl", [right(problem), changed])


def test_chains_of_other_functions_are_refused(tmp_path: Path) -> None:
    (problem,) = problems(1)
    other = Setting(TASK, TASK.function_set("short"), "student")
    with pytest.raises(DataError, match=r"made with another prompt.*Search with the functions"):
        searched(tmp_path / "s.jsonl", [right(problem), wrong(problem, 1, 1)], setting=other)


def test_a_smaller_budget_than_the_chains_had_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(1)
    small = setting(budget=Budget(steps=2))
    with pytest.raises(DataError, match=r"ended inside its prefix.*budgets"):
        searched(tmp_path / "s.jsonl", [right(problem), wrong(problem, 5, 3)], setting=small)


def test_wrong_chains_of_another_model_are_refused_unless_asked_for(tmp_path: Path) -> None:
    """What a search finds is where *its* model recovers."""
    (problem,) = problems(1)
    chains = [right(problem).model_copy(update={"source": "teacher", "model": "large"})]
    theirs = wrong(problem, 2, 3).model_copy(update={"model": "small@1"})
    with pytest.raises(DataError, match=r"another model: 'small@1'.*'played'.*--any-model.*any_model"):
        searched(tmp_path / "s.jsonl", [*chains, theirs])
    assert not list(ChainStore(tmp_path / "s.jsonl"))
    assert searched(tmp_path / "s.jsonl", [*chains, wrong(problem, 2, 3)]).searched == 1
    asked = CONFIG.model_copy(update={"any_model": True})
    (error,) = searched(tmp_path / "t.jsonl", [*chains, theirs], config=asked).errors
    assert (error.chain, error.step) == (theirs.key, 2)


def test_a_model_that_was_trained_on_goes_on_from_its_own_chains_alone(tmp_path: Path) -> None:
    """Rounds leave chains of one source by several models."""
    (problem,) = problems(1)
    first, second = wrong(problem, 2, 3), wrong(problem, 1, 3, note=4)
    tuned = second.model_copy(update={"model": "played+tuned@2"})
    with pytest.raises(DataError, match=r"another model: 'played'.*'played\+tuned@2'"):
        searched(
            tmp_path / "s.jsonl", [right(problem), first, tuned],
            model=Played(policy, name="played+tuned@2"),
        )  # fmt: skip
    model = Played(policy, name="played+tuned@2")
    result = searched(tmp_path / "s.jsonl", [right(problem), tuned], model=model)
    assert [error.step for error in result.errors] == [1]


def test_a_search_without_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a search needs rollouts"):
        searched(tmp_path / "s.jsonl", [], config=SearchConfig())


# --- which prefix is probed ---------------------------------------------------------------------


@given(
    st.integers(0, 5).flatmap(
        lambda low: st.tuples(
            st.just(low),
            st.integers(low + 2, low + 70),
            st.lists(st.floats(0.1, 100), min_size=80, max_size=80),
        )
    ),
    st.integers(0, 1000),
)
def test_splitting_always_narrows_until_the_boundary_is_found(
    case: tuple[int, int, list[float]], draw: int
) -> None:
    low, high, cost = case
    first_bad = low + 1 + draw % (high - low)
    while high - low > 1:
        middle = cheapest_split(low, high, cost)
        assert low < middle < high
        low, high = (middle, high) if middle < first_bad else (low, middle)
    assert high == first_bad


def test_probes_of_equal_cost_halve_and_a_cheap_one_is_taken_first() -> None:
    assert cheapest_split(0, 16, [1.0] * 17) == 8
    assert cheapest_split(0, 4, [1, 9, 9, 1, 1]) == 3
    assert cheapest_split(0, 200, [1.0] * 201) == 100


def test_rollouts_from_a_prefix_do_not_repeat_the_chain_they_come_from() -> None:
    (problem,) = problems(1)
    drawn: dict[str, int] = {}

    def note(name: str) -> Any:
        def script(request: Request) -> str:
            if len(said(request)) == 1:
                drawn[name] = request.seed
            return "record(1)" if not said(request) else 'stop("0")'

        return script

    sampled = setting(sampling=Sampling(temperature=1.0))
    (whole,) = rollouts(sampled, Played(note("whole")), [Job(problem)])
    (again,) = rollouts(sampled, Played(note("prefix")), [Job(problem, replies=whole.steps[:1])])
    assert drawn["whole"] != drawn["prefix"]
    assert (whole.given_steps, again.given_steps) == (0, 1)
