"""The paired statistics agree with scipy, with sums done by hand, and with simulation."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from rightcall.errors import DataError
from rightcall.stats import (
    Interval,
    bootstrap_interval,
    holm,
    mcnemar_p,
    pass_at_k,
    problems_needed,
    wilcoxon_p,
    wilson_interval,
)

scores = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_agrees_with_scipy(total: int, share: float) -> None:
    successes = int(share * total)
    reference = scipy_stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
    made = wilson_interval(successes, total)
    assert (made.low, made.high) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_wilson_takes_fractional_successes_and_nothing_at_all() -> None:
    below, between, above = (wilson_interval(s, 20) for s in (7, 7.5, 8))
    assert below.low < between.low < above.low
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)
    with pytest.raises(DataError, match="between 0 and the total"):
        wilson_interval(3, 2)


def test_wilcoxon_matches_all_sign_flips_done_by_hand() -> None:
    """Six distinct differences: the p-value is a count over 2^6 sign patterns."""
    difference = np.array([0.1, -0.2, 0.3, 0.4, 0.5, 0.6])
    ranks = np.arange(1, 7)
    observed = ranks[difference > 0].sum()
    sums = [ranks[np.array(signs)].sum() for signs in product([True, False], repeat=6)]
    p = 2 * min(np.mean([s >= observed for s in sums]), np.mean([s <= observed for s in sums]))
    assert wilcoxon_p(np.zeros(6), difference) == pytest.approx(p)
    assert p == 2 * 3 / 64


@pytest.mark.parametrize(
    "difference", [[1, 1, -1, 2, 2, 3], [0.5, 0.5, 0.5, -0.5], [1, -2, 3, 4, -5, 6, 7]]
)
def test_wilcoxon_of_few_tied_scores_agrees_with_scipys_permutations(difference: list[float]) -> None:
    method = scipy_stats.PermutationMethod(n_resamples=np.inf)
    reference = scipy_stats.wilcoxon(difference, method=method).pvalue
    assert wilcoxon_p(np.zeros(len(difference)), difference) == pytest.approx(reference)


def test_wilcoxon_of_many_distinct_scores_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for count in (14, 50, 51, 300):
        difference = rng.normal(0.2, 1, count)
        reference = scipy_stats.wilcoxon(difference).pvalue
        assert wilcoxon_p(np.zeros(count), difference) == pytest.approx(reference, rel=1e-9)


def test_wilcoxon_of_many_binary_scores_is_the_uncorrected_mcnemar_z() -> None:
    a = [0] * 40 + [1] * 15 + [1] * 200
    b = [1] * 40 + [0] * 15 + [1] * 200
    z = (40 - 15) / math.sqrt(40 + 15)
    assert wilcoxon_p(a, b) == pytest.approx(2 * scipy_stats.norm.sf(z), rel=1e-9)


def test_wilcoxon_of_few_binary_scores_is_the_exact_sign_test() -> None:
    assert wilcoxon_p([0] * 8 + [1], [1] * 8 + [0]) == pytest.approx(mcnemar_p(8, 1))


@given(scores)
@settings(max_examples=40, deadline=None)
def test_wilcoxon_ignores_zeros_and_is_symmetric(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T / 4
    p = wilcoxon_p(a, b)
    assert 0 < p <= 1
    assert wilcoxon_p(b, a) == pytest.approx(p)
    assert wilcoxon_p([*a, 0.5, 1.0], [*b, 0.5, 1.0]) == pytest.approx(p)


def test_no_difference_anywhere_gives_one() -> None:
    assert wilcoxon_p([0, 1, 1], [0, 1, 1]) == 1.0
    assert mcnemar_p(0, 0) == 1.0


def test_thirds_that_differ_by_rounding_tie() -> None:
    """0.3 - 0.1 and 0.9 - 0.7 differ in the last bit; they are the same improvement."""
    assert wilcoxon_p([0.1, 0.7, 0.5], [0.3, 0.9, 0.3]) == pytest.approx(mcnemar_p(2, 1))


def test_mcnemar_matches_binomial_sums_done_by_hand() -> None:
    assert mcnemar_p(9, 1) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar_p(1, 9) == mcnemar_p(9, 1)
    assert mcnemar_p(5, 5) == 1.0
    assert mcnemar_p(6, 0) == pytest.approx(2 / 2**6)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy(method: str) -> None:
    rng = np.random.default_rng(7)
    a = rng.random(120) < 0.5
    b = np.where(rng.random(120) < 0.3, True, a)
    reference = scipy_stats.bootstrap(
        (b.astype(float) - a,), np.mean, method=method, n_resamples=20_000, rng=1, batch=1000
    ).confidence_interval
    made = bootstrap_interval(a, b, method=method, resamples=20_000, seed=2)  # type: ignore[arg-type]
    assert (made.low, made.high) == pytest.approx((reference.low, reference.high), abs=0.009)


def test_bootstrap_is_reproducible_and_mirrors_its_sign() -> None:
    a, b = [0, 0, 1, 0, 1, 0.5, 0, 0], [1, 0, 1, 1, 0, 1, 1, 0]
    made = bootstrap_interval(a, b, seed=3)
    assert made == bootstrap_interval(a, b, seed=3)
    assert made.low < np.mean(b) - np.mean(a) < made.high
    mirrored = bootstrap_interval(b, a, seed=3)
    assert mirrored.low == pytest.approx(-made.high, abs=0.07)


def test_bootstrap_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        a = (rng.random(150) < 0.6).astype(float)
        b = np.where(rng.random(150) < 0.25, 1.0, a)  # true mean gain: 0.25 * 0.4
        made = bootstrap_interval(a, b, seed=trial, resamples=2000)
        hits += made.low <= 0.1 <= made.high
    assert 0.90 <= hits / 300 <= 0.985


def test_equal_differences_have_an_interval_without_width() -> None:
    assert bootstrap_interval([0, 0], [1, 1]) == Interval(1.0, 1.0)


def test_unpaired_or_unfinished_scores_are_refused() -> None:
    with pytest.raises(DataError, match="equally long"):
        wilcoxon_p([0, 1], [0])
    with pytest.raises(DataError, match="non-empty"):
        bootstrap_interval([], [])
    with pytest.raises(DataError, match="finite"):
        wilcoxon_p([0, math.nan], [0, 1])


def test_holm_matches_the_textbook_steps() -> None:
    """0.01 * 4, 0.02 * 3, 0.03 * 2 (held up by the step before), 0.04 * 1 (held up too)."""
    adjusted = holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02})
    assert list(adjusted) == ["d", "a", "c", "b"]
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06})
    assert holm({}) == {}
    assert holm({"x": 0.7, "y": 0.9}) == {"x": 1.0, "y": 1.0}


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), max_size=8))
def test_holm_never_lowers_nor_reorders(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert all(adjusted[n] >= p_values[n] and adjusted[n] <= 1 for n in p_values)
    ordered = sorted(p_values, key=lambda n: p_values[n])
    assert all(adjusted[x] <= adjusted[y] for x, y in pairwise(ordered))


def test_problems_needed_matches_connors_formula_by_hand() -> None:
    """δ = .1, ψ = .3: (1.959964 √.3 + .841621 √.29)² / .01 = 233.02."""
    assert problems_needed(0.1, 0.3) == 234
    assert problems_needed(-0.1, 0.3) == 234
    assert problems_needed(0.05, 0.3) > 4 * 233
    assert problems_needed(0.1, 0.0) == problems_needed(0.1, 0.1)
    with pytest.raises(DataError, match="shares of problems"):
        problems_needed(0.0, 0.3)


def exact_power(problems: int, gain: float, discordance: float, *, alpha: float = 0.05) -> float:
    """Chance that the *exact* McNemar test on n `problems` gives p ≤ α for a true `gain`.

    The number m of discordant problems is Binomial(n, ψ); given m, wins are Binomial(m, (ψ + δ) /
    2ψ) and the test rejects at or beyond its critical value. No approximation is made, except
    that m within 1e-9 of either tail is left out.
    """
    psi, delta = max(discordance, abs(gain)), abs(gain)
    first, last = (scipy_stats.binom.ppf(q, problems, psi) for q in (1e-9, 1 - 1e-9))
    m = np.arange(int(first), int(last) + 1)
    # The largest c with 2 P(X ≤ c) ≤ α; the test rejects when losses ≤ c or wins ≤ c.
    critical = scipy_stats.binom.ppf(alpha / 2, m, 0.5)
    critical = np.where(2 * scipy_stats.binom.cdf(critical, m, 0.5) <= alpha, critical, critical - 1)
    share = (psi + delta) / (2 * psi)
    rejects = scipy_stats.binom.cdf(critical, m, 1 - share) + scipy_stats.binom.cdf(critical, m, share)
    return float((scipy_stats.binom.pmf(m, problems, psi) * rejects).sum())


@pytest.mark.parametrize(("gain", "discordance"), [(0.1, 0.3), (0.05, 0.15), (0.2, 0.4)])
def test_the_number_needed_gives_about_the_power_asked_for(gain: float, discordance: float) -> None:
    assert 0.74 <= exact_power(problems_needed(gain, discordance), gain, discordance) <= 0.82


def test_that_power_agrees_with_simulation() -> None:
    rng = np.random.default_rng(0)
    trials = 4000
    cells = rng.multinomial(80, [0.25, 0.10, 0.65], size=trials)
    seen = np.mean([mcnemar_p(int(w), int(lost)) <= 0.05 for w, lost, _ in cells])
    assert exact_power(80, 0.15, 0.35) == pytest.approx(seen, abs=0.025)


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    exact = 1 - math.comb(n - correct, k) / math.comb(n, k)
    assert pass_at_k(n, correct, k) == pytest.approx(exact, abs=1e-12)


def test_pass_at_more_than_was_sampled_is_refused() -> None:
    with pytest.raises(DataError, match="k ≤ samples"):
        pass_at_k(4, 1, 5)
