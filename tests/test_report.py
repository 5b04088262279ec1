"""The report: one page, whole, escaped, and looked at in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toys
from report_run import make_run
from rightcall.augment import AugmentReport
from rightcall.augment.augmentation import Tally
from rightcall.chain import Chain, ChainStore, Message, Observation, Outcome, Step, StopReason
from rightcall.conduct import Conduct, FunctionUse
from rightcall.errors import DataError, FailureKind
from rightcall.rate import rate
from rightcall.report import RunData, TaskData, load_run, render_report, write_report
from rightcall.report.page import pick, pick_replaced
from rightcall.report.plots import curves, ending
from rightcall.report.text import MAX_CHARACTERS, bounded, visible

HOSTILE = (
    "</pre><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>"
    '" onload="window.pwned=3 {{ 7*7 }}</style><svg onload=window.pwned=4>'
    "<a href='javascript:window.pwned=5'>x</a>\u202etxt\x1b[31m"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo", count=24)


@pytest.fixture(scope="module")
def run(folder: Path) -> RunData:
    return load_run(folder)


@pytest.fixture(scope="module")
def page(run: RunData) -> str:
    return render_report(run)


def test_a_whole_run_is_read(run: RunData) -> None:
    assert [t.name for t in run.tasks] == ["fol", "math"]
    for task in run.tasks:
        assert list(task.evaluations) == ["base", "teacher", "control", "tuned"]
        assert [(c.a, c.b) for c in task.comparisons] == [
            ("base", "tuned"),
            ("control", "tuned"),
            ("teacher", "tuned"),
            ("base", "control"),
        ]
        assert all(d.wilcoxon_holm is not None for c in task.comparisons for d in c.results.values())
        assert set(task.metrics) == {"sft", "dpo"}
        assert task.selections[""].best == "checkpoint-60"
        assert (task.missing, task.notes) == ((), ())


def test_budgets_are_those_of_the_runs_config(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=12, tasks=["math"])
    (made / "config.toml").write_text("[tasks.math.evaluate]\nbudgets = [5, 20]\n")
    assert load_run(made).tasks[0].evaluations["base"].views == ("5", "20", "pooled")
    assert load_run(made, budgets=[20]).tasks[0].evaluations["base"].views == ("20",)


def test_the_page_shows_the_figures(run: RunData, page: str) -> None:
    d = run.tasks[0].comparisons[0].headline
    assert f"{100 * d.difference:+.1f} <small>points" in page
    for text in (
        "right for the right reason",
        "wins / losses / ties",
        "exact formalisations",
        "pass@4",
        "Checkpoint kept",
        "rewards/margins",
        "student &gt; student",
        "difficulty 3",
    ):
        assert text in page
    assert page.count('<svg aria-hidden="true"') + page.count("<svg ") > 10
    assert page.index("95% interval") < page.index("Wilcoxon p =")


def test_the_same_run_gives_the_same_bytes(folder: Path, page: str) -> None:
    assert render_report(load_run(folder)) == page


def test_the_page_holds_no_address_and_forbids_requests(page: str) -> None:
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", without_namespaces)
    assert "http://" not in without_namespaces.replace("http://www.w3.org/", "")
    assert "https://" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "script-src 'sha256-" in policy[1]


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", page) + re.findall(r'href="#([^"]+)"', page)
    assert set(used) <= set(ids)


def test_figures_follow_the_pages_colours(page: str) -> None:
    figures = "".join(re.findall(r'<div class="plot".*?</svg>', page, flags=re.DOTALL))
    assert "var(--tuned)" in figures
    assert "currentColor" in figures
    assert not re.search(
        r"#[0-9a-f]{6}\b(?!\))", re.sub(r'(id|href)="[^"]*"|url\([^)]*\)', "", figures)
    )


def test_examples_are_chosen_by_hash_within_quota(run: RunData) -> None:
    task = run.tasks[0]
    chosen = pick(task, 12)
    assert chosen is not None
    assert (chosen.before, chosen.after) == ("base", "tuned")
    kinds = [e.kind for e in chosen.shown]
    assert 1 <= kinds.count("fixed") <= 6
    assert kinds.count("broken") <= 3
    assert pick(task, 12) == chosen
    assert all(e.question and e.gold for e in chosen.shown)
    total = sum(
        1
        for i, c in task.chains["base"].items()
        if c.outcome == "incorrect" and task.chains["tuned"][i].outcome == "correct"
    )
    assert chosen.totals["fixed"] == total
    assert pick(task, 0) is None


def test_the_page_says_how_functions_were_used(run: RunData, page: str) -> None:
    made = run.tasks[0].evaluations["tuned"]
    assert made.counterfactual is not None
    assert made.conduct is not None
    assert made.counterfactual.probed == 8
    assert (made.counterfactual.follows.value, made.counterfactual.unchanged.value) == (0.625, 0.25)
    usage = page[page.index("How the functions were used") :]
    for text in (
        "answered before the evidence",
        "exact formalisations",
        "8 of 9",
        "the answer follows it",
        f"{made.counterfactual.follows.low:.1%} – {made.counterfactual.follows.high:.1%}",
        "Calls of each function",
        "the model reads 1234 there",
    ):
        assert text in usage


def test_chains_with_a_replaced_observation_are_shown_of_each_verdict(run: RunData) -> None:
    shown = pick_replaced(run.tasks[0], 3)
    assert {one.verdict for one in shown} == {"follows", "unchanged", "other"}
    assert {one.role for one in shown} == {"tuned"}
    assert all(one.before.key == one.after.origin.parent for one in shown if one.after.origin)
    assert pick_replaced(run.tasks[0], 0) == ()


def test_the_page_shows_accuracy_by_round_with_intervals(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=8, tasks=["math"])
    selection = json.loads((made / "math/selection.json").read_text())
    values = {"sft": 20, "round 10": 60, "round 2": 80, "dpo": 40, "round 1": 80}
    table = {}
    for name, right in values.items():
        share = rate([1.0] * right + [0.0] * (100 - right)).model_dump()
        candidates = [{**selection["candidates"][0], "accuracy": share, "right_reason": share}]
        table[name] = {**selection, "best": "checkpoint-20", "candidates": candidates}
    (made / "math/selection.json").write_text(json.dumps(table))
    run = load_run(made)
    assert list(run.tasks[0].rounds) == ["dpo", "round 1", "round 2", "round 10"]
    page = render_report(run)
    by_round = page[page.index("Accuracy by on-policy round") :].partition("</figure>")[0]
    rows = re.findall(r"<tr.*?</tr>", by_round, flags=re.DOTALL)[1:]
    assert [re.findall(r"<th[^>]*>([\w ]+)", row)[0].strip() for row in rows] == list(
        run.tasks[0].rounds
    )
    assert ["kept" in row for row in rows] == [False, True, False, False], "of equals the first"
    interval = rate([1.0] * 80 + [0.0] * 20)
    assert f"{interval.low:.1%} – {interval.high:.1%}" in rows[1]
    assert by_round.count("<svg ") == 1
    assert render_report(load_run(made)) == page


def test_a_run_without_rounds_or_augmentation_shows_neither(run: RunData, page: str) -> None:
    assert run.tasks[0].rounds == {}
    assert run.tasks[0].augmented is None
    assert "on-policy round" not in page
    assert "Augmentation <span>" not in page


def test_the_page_shows_what_augmentation_made(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=8, tasks=["math"])
    tally = Tally(asked=20, problems=17, right=31, wrong=4, rejected={"<b>two</b> numbers": 3})
    report = AugmentReport(operations={"renumber": tally}, originals=20)
    (made / "math/augment.json").write_text(report.model_dump_json())
    run = load_run(made)
    assert run.tasks[0].augmented == report
    shown = render_report(run).partition("Augmentation <span>")[2].partition("</figure>")[0]
    for text in ("20 problems", "renumber", ">17<", ">31<", "&lt;b&gt;two&lt;/b&gt; numbers (3)"):
        assert text in shown
    (made / "math/augment.json").write_text('{"operations": 3}')
    (note,) = load_run(made).tasks[0].notes
    assert "augment.json cannot be read" in note


def test_a_run_of_an_earlier_version_has_a_page_without_probes(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=8, tasks=["math"])
    for beside in (
        *made.glob("math/eval/*.circumstances.json"),
        *made.glob("math/eval/*factual.jsonl"),
    ):
        beside.unlink()
    run = load_run(made)
    assert run.tasks[0].notes == ()
    page = render_report(run)
    assert "answered before the evidence" in page
    assert "the answer follows it" not in page


def test_a_spoilt_file_beside_an_evaluation_becomes_a_note(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=8, tasks=["math"])
    (made / "math" / "eval" / "base.circumstances.json").write_text("{")
    task = load_run(made).tasks[0]
    assert "base.circumstances.json cannot be read" in task.notes[0]
    assert task.evaluations["base"].counterfactual is None
    assert task.evaluations["tuned"].counterfactual is not None


def test_missing_parts_are_shown_as_missing(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=12, tasks=["fol"])
    shutil.rmtree(made / "fol" / "train")
    for part in ("eval/teacher.jsonl", "eval/control.jsonl", "eval/tuned.jsonl", "problems.test.jsonl"):
        (made / "fol" / part).unlink()
    text = render_report(load_run(made))
    assert "6 parts of the run folder missing" in text
    assert "fol/eval/tuned.jsonl" in text
    assert "Nothing to compare yet" in text


def test_a_run_without_any_evaluation_still_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[tasks.fol]\n")
    path = write_report(load_run(tmp_path), tmp_path / "deep" / "report.html")
    assert "No model was evaluated on this task yet" in path.read_text()
    with pytest.raises(DataError, match="not a run folder"):
        load_run(tmp_path / "deep")


def test_unreadable_and_unequal_parts_become_notes(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=12, tasks=["fol"])
    task = made / "fol"
    (task / "pairs.json").write_text("{")
    (task / "selection.json").write_text('{"best": 3}')
    with (task / "train" / "dpo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')
    (task / "eval" / "control.jsonl").write_text("{}\n")
    kept = list(ChainStore(task / "eval" / "tuned.jsonl"))
    (task / "eval" / "tuned.jsonl").unlink()
    ChainStore(task / "eval" / "tuned.jsonl").append(kept[:-2])
    notes = "\n".join(load_run(made).tasks[0].notes)
    for fault in (
        "pairs.json cannot be read",
        "selection.json cannot be read",
        "line 17 is not JSON",
        "control: ",
        "tuned: 2 problems were not attempted",
        "the problem sets differ",
    ):
        assert fault in notes


def test_a_line_nested_too_deep_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", count=6, tasks=["fol"])
    task = folder / "fol"
    deep = "[" * 100_000 + "]" * 100_000
    with (task / "train" / "dpo" / "metrics.jsonl").open("a") as file:
        file.write(deep + "\n")
    (task / "selection.json").write_text(deep)
    notes = load_run(folder).tasks[0].notes
    assert any("is not JSON and was left out" in note for note in notes)
    assert any("selection.json cannot be read" in note for note in notes)


def test_a_config_that_cannot_be_read_is_said_on_the_page(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=6, tasks=["fol"])
    (made / "config.toml").write_text("name = [")
    run = load_run(made)
    assert "config.toml cannot be read" in run.tasks[0].notes[0]
    assert "config.toml cannot be read" in render_report(run)


def test_errored_chains_are_reported_and_left_out_on_both_sides(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", count=12, tasks=["fol"])
    path = made / "fol" / "eval" / "tuned.jsonl"
    kept = list(ChainStore(path))
    path.unlink()
    broken = kept[0].model_copy(
        update={"outcome": Outcome.ERRORED, "stop_reason": StopReason.MODEL_ERROR}
    )
    ChainStore(path).append([broken, *kept[1:]])
    task = load_run(made).tasks[0]
    assert task.comparisons[0].dropped == (broken.problem_id,)
    assert "1 chains errored" in task.notes[0]
    assert "1 left out on both sides" in render_report(RunData("x", (task,)))


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        (toys.chain("add(1, 1)"), "right"),
        (toys.chain("add(1, 1)", process=False), "lucky"),
        (toys.chain("add(1, 1)", right=False), "wrong"),
        (toys.chain("add(1, 1)", right=False, stop_reason=StopReason.STEP_BUDGET), "steps"),
        (toys.chain("add(1, 1)", right=False, stop_reason=StopReason.CONTEXT_WINDOW), "cut"),
    ],
)
def test_every_chain_ends_in_one_class(chain: Chain, kind: str) -> None:
    assert ending(chain) == kind


def test_curves_leave_out_what_is_no_curve() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss": 1.0, "epoch": 0.1, "note": "x", "ok": True, "once": 3},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": 0.5, "<b>$x$": 1},
        {"step": 4, "loss": 0.4, "<b>$x$": 2},
    ]
    svg = curves("c", rows)
    assert svg is not None
    assert ">loss<" in svg
    assert "&lt;b&gt;$x$" in svg
    assert "once" not in svg
    assert "epoch" not in svg
    assert curves("c", rows[:1]) is None


def test_long_and_invisible_text_is_bounded_and_made_visible() -> None:
    assert bounded("a" * (MAX_CHARACTERS + 5)).endswith("[5 characters not shown]")
    assert visible("a\x00\x1b\u202eb\n") == "a␀␛⟨U+202E⟩b\n"


# --- in a browser ---------------------------------------------------------------------------------


def hostile_run(folder: Path) -> RunData:
    """Every place that takes text from a model or a file holds an attack."""
    made = make_run(folder, count=14, tasks=["fol"])
    run = load_run(made)
    task = run.tasks[0]
    step = Step(
        reply=HOSTILE,
        observation=Observation(text=HOSTILE, failure=FailureKind.NO_CALL),
    )

    def spoiled(chain: Chain) -> Chain:
        update: dict[str, Any] = {
            "steps": (step, *chain.steps),
            "answer": HOSTILE,
            "model": HOSTILE,
            "prompt": (Message(role="system", content=HOSTILE), Message(role="user", content=HOSTILE)),
            "judgement": chain.judgement.model_copy(update={"evidence": (HOSTILE,)}),
        }
        return chain.model_copy(update=update)

    evil = {r: {i: spoiled(c) for i, c in chains.items()} for r, chains in task.chains.items()}
    probed = {r: {i: spoiled(c) for i, c in chains.items()} for r, chains in task.probed.items()}
    used = Conduct(
        chains=1,
        functions={HOSTILE: FunctionUse(calls=1, share=1.0, failed=1, failure_rate=1.0)},
        repeating_chains=rate([0.0]),
        repeated_calls=0.0,
    )
    evaluations = {
        r: e.model_copy(update={"model": HOSTILE, "measures": {HOSTILE: 0.5}, "conduct": used})
        for r, e in task.evaluations.items()
    }
    problems = {
        i: p.model_copy(update={"question": HOSTILE, "answer": HOSTILE})
        for i, p in task.problems.items()
    }
    metrics = {"dpo": [{"step": i, HOSTILE: i} for i in range(5)]}
    spoilt = TaskData(
        **{
            **vars(task),
            "chains": evil,
            "probed": probed,
            "evaluations": evaluations,
            "problems": problems,
            "name": HOSTILE,
            "metrics": metrics,
            "pairs": {HOSTILE: HOSTILE},
            "notes": (HOSTILE,),
            "missing": (HOSTILE,),
        }
    )
    return RunData(name=HOSTILE, tasks=(spoilt,), config=HOSTILE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()


def saved(page: str, folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(page)
    return path


class Opened:
    """A page in the browser, with all it complained about and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(120_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(path.as_uri())

    def asked_outside(self) -> list[str]:
        return [u for u in self.requests[1:] if not u.startswith("data:")]


def test_the_page_loads_quietly_and_fits_wide_and_narrow(
    browser: Any, run: RunData, tmp_path: Path
) -> None:
    path = write_report(run, tmp_path / "report.html")
    for width, scheme in ((1200, "light"), (360, "dark")):
        opened = Opened(browser, path, viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert opened.complaints == []
        assert opened.asked_outside() == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        assert opened.page.locator(".plot svg").first.bounding_box()["width"] > 200
        ink = opened.page.evaluate("getComputedStyle(document.querySelector('.plot text')).fill")
        assert ink == opened.page.evaluate("getComputedStyle(document.body).color")
        opened.page.close()


def test_filters_show_one_kind_and_find_words(
    browser: Any, run: RunData, page: str, tmp_path: Path
) -> None:
    examples = pick(run.tasks[0], 12)
    assert examples is not None
    kind = examples.shown[-1].kind
    opened = Opened(browser, saved(page, tmp_path)).page
    box = opened.locator("[data-browser]").first
    everything = box.locator(".example").count()
    shown = box.locator(".example:visible")
    assert shown.count() == everything == len(examples.shown)
    assert kind != examples.shown[0].kind
    box.locator(f"button[data-kind={kind}]").click()
    assert 0 < shown.count() < everything
    assert set(shown.evaluate_all("all => all.map(e => e.dataset.kind)")) == {kind}
    assert box.locator(f"button[data-kind={kind}]").get_attribute("aria-pressed") == "true"
    box.locator("button[data-kind='']").click()
    box.locator("input").fill(f"{examples.shown[1].problem_id} ")
    assert 1 <= shown.count() < everything
    assert f"{shown.count()} of {everything} shown" in box.locator("output").inner_text()
    box.locator("input").fill("no such words")
    assert shown.count() == 0
    opened.close()


def test_hostile_text_is_inert_everywhere(browser: Any, tmp_path: Path) -> None:
    path = write_report(hostile_run(tmp_path / "run"), tmp_path / "report.html", title=HOSTILE)
    opened = Opened(browser, path)
    opened.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert opened.page.evaluate("window.pwned") is None
    assert opened.complaints == []
    assert opened.asked_outside() == []
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("script").count() == 1
    assert opened.page.locator("[onload], [onerror], a[href^=javascript]").count() == 0
    text = opened.page.locator("pre.reply").first.inner_text()
    assert "<script>window.pwned=1</script>" in text
    assert "{{ 7*7 }}" in text
    assert "⟨U+202E⟩" in text
    opened.page.close()


def test_the_policy_stops_a_foreign_script(browser: Any, page: str, tmp_path: Path) -> None:
    """Were escaping ever to fail, the browser still refuses."""
    injected = page.replace("</main>", "<script>window.pwned=1</script></main>")
    opened = Opened(browser, saved(injected, tmp_path))
    assert opened.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in c for c in opened.complaints)
    opened.page.close()
