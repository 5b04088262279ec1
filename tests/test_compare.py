"""Comparison: paired by problem, mismatches refused, interval before p-value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

import toys
from rightcall.chain import ChainStore
from rightcall.compare import (
    Comparison,
    across_tasks,
    compare,
    comparison_table,
    evaluation_table,
    p_text,
)
from rightcall.errors import ConfigError, DataError
from rightcall.evaluate import Evaluation, summarise
from rightcall.stats import holm, mcnemar_p, problems_needed, wilcoxon_p

BASE = [1] * 12 + [0] * 18
TUNED = [1] * 10 + [0] * 2 + [1] * 14 + [0] * 4


def evaluation(
    right: Sequence[int], source: str, *, task: str = "sums", long: Sequence[int] = (), errored: int = 0
) -> Evaluation:
    """One greedy chain a problem, the solved ones two steps long; those in `long` take three."""
    chains = [
        toys.chain(*["record(1)"] * (2 if i in long else 1), "add(1, 1)", right=bool(r),
                   problem=f"p{i:02}", source=source, errored=i < errored)
        for i, r in enumerate(right)
    ]  # fmt: skip
    return summarise([c.model_copy(update={"task": task}) for c in chains], budgets=(2, 3))


def test_a_comparison_done_by_hand() -> None:
    made = compare(evaluation(BASE, "base"), evaluation(TUNED, "tuned"))
    d = made.headline
    assert (made.a, made.b, made.problems) == ("base", "tuned", 30)
    assert (d.a, d.b, d.difference) == pytest.approx((12 / 30, 24 / 30, 12 / 30))
    assert (d.wins, d.losses, d.ties) == (14, 2, 14)
    assert d.mcnemar_p == mcnemar_p(14, 2) == pytest.approx(2 * (1 + 16 + 120) / 2**16)
    assert d.wilcoxon_p == wilcoxon_p(BASE, TUNED)
    assert 0.1 < d.low < 0.4 < d.high < 0.65
    assert made.needed["0.1"] == problems_needed(0.1, 16 / 30)
    assert list(made.results) == ["2", "3", "pooled", "right reason"]


def test_swapping_the_models_mirrors_the_result() -> None:
    one = compare(evaluation(BASE, "base"), evaluation(TUNED, "tuned")).headline
    other = compare(evaluation(TUNED, "tuned"), evaluation(BASE, "base")).headline
    assert other.difference == -one.difference
    assert (other.wins, other.losses) == (one.losses, one.wins)
    assert other.wilcoxon_p == pytest.approx(one.wilcoxon_p)


def test_budgets_are_compared_each_and_pooled() -> None:
    """The tuned model needs a third step on four problems: wrong at two steps, right at three."""
    made = compare(evaluation(BASE, "base"), evaluation(TUNED, "tuned", long=range(4)))
    assert made.results["2"].b == pytest.approx(20 / 30)
    assert made.results["3"].b == pytest.approx(24 / 30)
    assert made.results["pooled"].b == pytest.approx(22 / 30)
    assert made.results["pooled"].mcnemar_p is None
    assert made.results["pooled"].wilcoxon_p < 0.05


def test_samples_are_compared_where_both_models_have_them() -> None:
    def with_samples(source: str, right: int) -> Evaluation:
        greedy = [toys.chain("add(1, 1)", problem=f"p{i}", source=source) for i in range(8)]
        drawn = [
            toys.chain("add(1, 1)", problem=f"p{i}", source=source, sample=s, right=s < right)
            for i in range(8)
            for s in range(4)
        ]
        return summarise(greedy, drawn)

    made = compare(with_samples("base", 1), with_samples("tuned", 3))
    assert made.results["sampled"].difference == pytest.approx(0.5)
    assert made.results["sampled"].wilcoxon_p == pytest.approx(2 / 2**8)
    assert "sampled" not in compare(with_samples("base", 1), evaluation_of_eight()).results


def evaluation_of_eight() -> Evaluation:
    return summarise([toys.chain("add(1, 1)", problem=f"p{i}", source="tuned") for i in range(8)])


def test_different_problem_sets_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"only base has p28, p29; only tuned has none"):
        compare(evaluation(BASE, "base"), evaluation(TUNED[:28], "tuned"))


def test_different_tasks_and_budgets_are_refused() -> None:
    with pytest.raises(DataError, match="different task"):
        compare(evaluation(BASE, "base"), evaluation(TUNED, "tuned", task="fol"))
    other = summarise([toys.chain("add(1, 1)", problem="p00")], budgets=(5,))
    with pytest.raises(DataError, match="different budget"):
        compare(evaluation(BASE, "base"), other)


def test_errored_problems_are_refused_or_left_out_on_both_sides() -> None:
    base, tuned = evaluation(BASE, "base"), evaluation(TUNED, "tuned", errored=2)
    with pytest.raises(DataError, match="2 problems have an errored chain"):
        compare(base, tuned)
    made = compare(base, tuned, drop_errored=True)
    assert made.dropped == ("p00", "p01")
    assert made.problems == 28
    assert made.headline.a == pytest.approx(10 / 28)
    nothing = base.model_copy(update={"scores": base.scores[:2], "errored": ("p00", "p01")})
    with pytest.raises(DataError, match="no problem is left"):
        compare(nothing, nothing, drop_errored=True)


def test_files_are_compared_like_evaluations(tmp_path: Path) -> None:
    paths = tmp_path / "base.jsonl", tmp_path / "tuned.jsonl"
    for path, right in zip(paths, (BASE, TUNED), strict=True):
        ChainStore(path).append(
            toys.chain("add(1, 1)", right=bool(r), problem=f"p{i:02}", source=path.stem)
            for i, r in enumerate(right)
        )
    made = compare(*paths)
    assert made.budgets == (10, 20)
    assert (made.headline.wins, made.headline.losses) == (14, 2)


def test_holm_adjusts_across_tasks_within_the_same_question() -> None:
    fol = compare(evaluation(BASE, "base", task="fol"), evaluation(TUNED, "tuned", task="fol"))
    math = compare(evaluation(BASE, "base", task="math"), evaluation(BASE[::-1], "tuned", task="math"))
    control = compare(evaluation(BASE, "control", task="fol"), evaluation(TUNED, "tuned", task="fol"))
    adjusted = across_tasks([fol, math, control])
    p = {"fol": fol.headline.wilcoxon_p, "math": math.headline.wilcoxon_p}
    assert [c.headline.wilcoxon_holm for c in adjusted[:2]] == list(holm(p).values())
    assert adjusted[0].headline.wilcoxon_holm == pytest.approx(2 * p["fol"])
    assert adjusted[2].headline.wilcoxon_holm == control.headline.wilcoxon_p
    assert adjusted[0].results["pooled"].mcnemar_holm is None
    assert fol.headline.wilcoxon_holm is None
    with pytest.raises(ConfigError, match="given twice"):
        across_tasks([fol, fol])


def test_a_comparison_is_reproducible_json() -> None:
    made = compare(evaluation(BASE, "base"), evaluation(TUNED, "tuned"))
    again = compare(evaluation(BASE, "base"), evaluation(TUNED, "tuned"))
    assert made.model_dump_json() == again.model_dump_json()
    assert Comparison.model_validate_json(made.model_dump_json()) == made
    fields = list(json.loads(made.model_dump_json())["results"]["3"])
    assert fields.index("low") < fields.index("wilcoxon_p")


def test_tables_show_figures_with_the_interval_before_the_p_value() -> None:
    base, tuned = evaluation(BASE, "base"), evaluation(TUNED, "tuned")
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(comparison_table(across_tasks([compare(base, tuned)])))
        console.print(evaluation_table({"base": base, "tuned": tuned}))
        text = console.export_text()
    row = next(line for line in text.splitlines() if " 3 " in line and "tuned − base" in line)
    assert row.index("+40.0 [") < row.index("0.0042")
    assert "14/2/14" in row
    assert "80.0% [62.7%, 90.5%]" in text


def test_p_values_are_shown_as_people_read_them() -> None:
    assert [p_text(p) for p in (None, 1.0, 0.0423, 0.001, 0.00042, 3.3e-21)] == [
        "–", "1", "0.042", "0.001", "4e-4", "3e-21",
    ]  # fmt: skip
