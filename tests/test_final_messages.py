"""The answer in a final message: right or wrong where it is told, and no label where it is not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rightcall.chain import Chain, ChainStore, Outcome, Problem
from rightcall.importing import ImportReport, Place, Recorded, import_chains
from rightcall.importing.answers import READ, WHOLE, answer_of, is_clear, may_answer, read_final
from rightcall.importing.openai_chat import openai_chat
from rightcall.task import Task, load_task
from test_importing import called, chains_of, conversation, imported
from toys import SumTask

PLACE = Place(file="log.jsonl", line=1)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # labels, with markdown or without
        ("So Tina has 170.4 dollars left.\n\nAnswer: 170.4", "170.4"),
        ("The answer is 170.4.", "170.4"),
        ("**Answer**: 5", "5"),
        ("**Answer**\n5", "5"),
        ("### Final Answer\n\n5 apples", "5 apples"),
        ("**Final Answer:**\n\\[\n\\boxed{5}\n\\]", "5"),
        ("__Answer:__ 5", "5"),
        ("Answer = 5", "5"),
        ("- 2 + 3 = 5\n- so **the answer is: 5**", "5"),
        ("**Answer:** $170.40 per day, of 3. Thanks!", "$170.40 per day, of 3"),
        ("The answer is\n\n**True**", "True"),
        ("The answer is 5 because 2 + 3 = 5.", "5"),
        ("The final answer is 5, so the answer is correct.", "5"),
        ("The answer: **5**\n\nI hope this answer is helpful!", "5"),
        ("The answer is 5. Sorry for the long explanation!", "5"),
        ("I apologize for the confusion. The answer is 5.", "5"),
        ("The answer is approximately 3.33.", "approximately 3.33"),
        ("The answer is -7.", "-7"),
        ("The answer is −7 °C.", "−7 °C"),
        ("The answer is 25%.", "25%"),
        ("The answer is 3/4 of a cup.", "3/4 of a cup"),
        ("The answer is €1,250.50.", "€1,250.50"),
        ("#### 1,200", "1,200"),
        ("First answer: 5. No.\n#### 1,200", "1,200"),
        ("#### Step 1: add\n2 + 3 = 5\n#### Answer\n5", "5"),
        # LaTeX
        ("\\boxed{170.4}", "170.4"),
        ("The final answer is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("Hence \\[ x = \\boxed{12} \\]", "12"),
        ("First \\boxed{3}.\nThen the result is \\boxed{12}.", "12"),
        ("The answer is $12$.", "12"),
        ("The answer is \\(12\\).", "12"),
        ("The answer is \\text{no}.", "no"),
        # bold
        ("**170.4**", "170.4"),
        ("The total is **5**. **Note**: exact.", "5"),
        ("2 + 3 = **5**, an **odd** number", "5"),
        ("**Step 1**: add.\nTina has **5 apples**.\n\n**Note:** none", "5 apples"),
        ("**Step 1**: 3 * 4 = **12**\n**Step 2**: 12 + 5 = **17**\n\nSo she pays **$17**.", "$17"),
        ("Ann buys 3 pens at $4 each. She pays **$12** in total.", "$12"),
        ("The difference is **-3 degrees**.", "-3 degrees"),
        ("The statement is **False**.", "False"),
        ("The correct option is **B**.", "B"),
        ("It ends on **March 1, 2024**.", "March 1, 2024"),
        ("It ends on **2024-03-01**.", "2024-03-01"),
        # options, verdicts and words
        ("The answer is (B) 150 m.", "(B) 150 m"),
        ("The correct answer is option C.", "C"),
        ("The correct choice is (D).", "(D)"),
        ("Answer: B", "B"),
        ('The answer is "True".', "True"),
        ("The answer is 'B'.", "B"),
        ("**5**\n\nExplanation: 2 + 3 = 5", "5"),
        ("The answer is \\boxed{\\text{B}}.", "B"),
        ("Answer: No, because Bob is not red.", "No"),
        ("The answer is Yes, Bob is red.", "Yes"),
        ("Answer: Uncertain.", "Uncertain"),
        ("The answer is Alice.", "Alice"),
        ("The answer is not known.", "not known"),
        ("The answer is: not all cats are red.", "not all cats are red"),
        # denials and corrections
        ("The answer is not 5 but 6.", "6"),
        ("The answer isn't 5, it's 6 apples.", "6 apples"),
        ("The answer is **not 5**. It is **6**.", "6"),
        ("The answer is not \\boxed{5} but \\boxed{6}.", "6"),
        ("The answer is 6, not 5.", "6"),
        ("The answer is 6 rather than 5.", "6"),
        ("The answer is 5? No, the answer is not 5.\nThe answer is 6", "6"),
        ("The answer is 6.\nThe answer is not 5.", "6"),
        ("The answer is not 5.\nIt is **6**.", "6"),
        ("The answer is not True but False.", "False"),
        ("The answer is 5. Wait, actually the answer is 6.", "6"),
        ("My first answer: 5. I made a mistake there. The answer is 6.", "6"),
    ],
)
def test_the_answer_is_read_from_the_final_message(text: str, answer: str) -> None:
    assert (answer_of(text), read_final(text)) == (answer, (answer, READ))
    (made,) = openai_chat(conversation({"role": "assistant", "content": text}), PLACE)
    assert (made.final, made.final_message, made.notes) == (answer, text, (READ,))


@pytest.mark.parametrize(
    "text",
    [
        "**5** of them are red, so the total is 6",
        "The answer is 6. My earlier answer: 5 was wrong.",
        "The answer is 5. Wait, I forgot the tax.",
        "The answer is **5**. Actually, let me recheck: it is 6.",
        "She pays **$5**. Oops, that is wrong.",
        "The answer is 5. No, it is 6.",
        "For Ann the answer is 5, for Ben the answer is 7.",
        "Ann has **3** pens and Ben has **4**.",
        "He has **12** apples.\nOf these **7** are red.",
        "It is **6**, not **5**.",
        "I **really** cannot tell **which of the two it is**:",
        "No idea.",
        "I'm sorry, but I can't help with 2 + 3.",
        "The answer is not 5.",
        "The answer isn't (B).",
        "Answer: not true",
        "The answer might not be 5.",
        "It is not 5.",
        "It could be 5.",
        "It is at least 5.",
        "The answer is more than 5.",
        "Answer: at most 5",
    ],
)
def test_an_answer_in_doubt_is_not_read(text: str) -> None:
    assert (answer_of(text), read_final(text)) == (None, (None, ""))
    (made,) = openai_chat(conversation({"role": "assistant", "content": text}), PLACE)
    assert (made.final, made.final_message, made.notes) == (None, text, ())


@pytest.mark.parametrize(
    ("text", "answer", "how"),
    [
        ("170.4 dollars are left.", "170.4 dollars are left.", WHOLE),
        ("$170.40", "$170.40", WHOLE),
        ("Alice", "Alice", WHOLE),
        ("1 2 3\n4 5 6", "1 2 3\n4 5 6", WHOLE),
        ("I **hope** so.", "I **hope** so.", WHOLE),
        ("I hope that this answer is helpful.", "I hope that this answer is helpful.", WHOLE),
        ("It is False.", "False", READ),
        ("Yes, Bob is red.", "Yes", READ),
        ("No.", "No", READ),
        ("The statement is unknown.", "unknown", READ),
    ],
)
def test_a_message_may_be_nothing_but_the_answer(text: str, answer: str, how: str) -> None:
    assert (answer_of(text), read_final(text)) == (None, (answer, how))


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 5" + " " * 200_000 + "x",
        "The answer is not" + " \t" * 100_000 + "5 but 6",
        "\n" * 200_000 + "x",
        "The final answer is " * 10_000,
        "The answer is not " * 10_000,
        "The answer is 1 " * 10_000,
        "\\boxed{" * 20_000,
        "**1** " * 20_000,
        "**a" * 30_000,
        "$" * 50_000,
    ],
)
def test_a_long_message_takes_no_long(text: str) -> None:
    began = time.monotonic()
    read_final(text)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("said", "gold", "told"),
    [
        ("6", "5", True),
        ("6 apples", "5", True),
        ("3 books and 4 pens", "7", False),
        ("Alice", "5", False),
        ("5 apples", "5", False),  # a task that compares texts calls it wrong
        ("False", "True", True),
        ("Yes", "True", False),
        ("uncertain", "Unknown", False),
        ("not known", "Unknown", False),
        ("C", "B", True),
        ("(B)", "B", False),
        ("(C) 150 m", "B", True),
        ("150 m", "B", False),
        ("2024-03-01", "2024-03-02", True),
        ("March 1, 2024", "2024-03-01", False),
        ("Bob", "Alice", True),
        ("It is Alice.", "Alice", False),
        ("5", "Alice", False),
        ("the one who came first of all", "Alice", False),
    ],
)
def test_a_wrong_answer_is_one_of_the_golds_kind_and_not_the_gold_itself(
    said: str, gold: str, told: bool
) -> None:
    assert is_clear(said, gold, right=False, whole=False) is told
    assert is_clear(said, gold, right=True, whole=False)


def test_a_long_message_with_the_right_number_somewhere_is_not_right() -> None:
    text = "Of the many ways to look at this problem I like the one that takes 5 of these long steps."
    assert not may_answer(text, "5")
    assert not is_clear(text, "5", right=True, whole=True)
    assert is_clear("5 apples are left.", "5", right=True, whole=True)


def labels_of(
    task: Task, problem: Problem, texts: Sequence[str], out: Path
) -> tuple[ImportReport, list[Chain]]:
    entries = [
        (Place(file="log.jsonl", line=line), one.model_copy(update={"problem_id": problem.id}))
        for line, text in enumerate(texts, 1)
        for one in openai_chat(
            {
                "messages": [
                    {"role": "user", "content": problem.question},
                    {"role": "assistant", "tool_calls": [called("add", '{"a": 2, "b": 3}')]},
                    {"role": "tool", "tool_call_id": "c1", "content": "5"},
                    {"role": "assistant", "content": text},
                ]
            },
            PLACE,
        )
    ]
    report = import_chains(entries, task, [problem], out)
    return report, sorted(ChainStore(out).latest(), key=lambda chain: chain.sample)


RIGHT = [
    "**Answer**: 5", "**Answer**\n5", "The total is **5**. **Note**: exact.",
    "2 + 3 = **5**, an **odd** number", "The answer: **5**\n\nI hope this answer is helpful!",
    "The final answer is 5, so the answer is correct.", "5", "She has $5.00.", "**5 apples**",
    "\\boxed{5}", "#### 5", "The answer is \\(\\frac{10}{2}\\).", "The answer is 5 apples.",
]  # fmt: skip
AMBIGUOUS = [
    "**5** of them are red, so the total is 6", "The answer is 6. My earlier answer: 5 was wrong.",
    "The answer is not 5.", "The answer is correct.", "Is it **odd**?", "I cannot solve this.",
    "First there were 2 of them and then 3 more came.", "The answer is Alice.", "It is true.",
]  # fmt: skip
WRONG = ["The answer is 6.", "**6**", "6", "There are 6 left.", "The answer is not 5 but 6."]


def test_right_wrong_and_not_told(tmp_path: Path) -> None:
    problem = Problem(id="one", question="What is 2 plus 3?", answer="5", metadata={"flags": []})
    texts = [*RIGHT, *AMBIGUOUS, *WRONG]
    report, chains = labels_of(load_task("math"), problem, texts, tmp_path / "c")
    told = [Outcome.CORRECT] * len(RIGHT) + [Outcome.INCORRECT] * len(WRONG)
    assert [chain.outcome for chain in chains] == told
    assert [one.text for one in report.ambiguous] == AMBIGUOUS
    assert [one.place.line for one in report.ambiguous] == [
        *range(len(RIGHT) + 1, len(RIGHT) + len(AMBIGUOUS) + 1)
    ]
    assert (report.records, report.chains) == (len(texts), len(texts) - len(AMBIGUOUS))
    counts, *_, shown = [table for table in report.tables() if table.title]
    assert ("final message without a clear answer", len(AMBIGUOUS)) in counts.rows
    assert shown.title == f"Final message without a clear answer, no chain: {len(AMBIGUOUS)}"
    assert shown.rows[0][0] == AMBIGUOUS[0]
    assert shown.rows[0][3].line == len(RIGHT) + 1
    before = (tmp_path / "c").read_bytes()
    again, _ = labels_of(load_task("math"), problem, texts, tmp_path / "c")
    assert again.model_copy(update={"already_there": 0}) == report
    assert (tmp_path / "c").read_bytes() == before


def test_a_message_that_the_stop_function_does_not_take_is_not_told(tmp_path: Path) -> None:
    dates = load_task(str(Path(__file__).parents[1] / "examples" / "my_task.py") + ":Dates")
    (problem,) = dates.problems("train", 1)
    entries = [
        (PLACE, Recorded(problem_id=problem.id, calls=(), final=said, final_message=message))
        for said, message in (("30 days", "The answer is 30 days."), (problem.answer, "Answer: N"))
    ]
    report = import_chains(entries, dates, [problem], tmp_path / "c")
    assert [one.text for one in report.ambiguous] == ["The answer is 30 days."]
    assert [chain.outcome for chain in ChainStore(tmp_path / "c")] == [Outcome.CORRECT]


def test_an_answer_that_an_importer_gives_is_one(tmp_path: Path) -> None:
    entry = (PLACE, Recorded(problem_id="train-0-0", calls=(), final="none of the two"))
    report, (chain,) = imported([entry], tmp_path / "c")
    assert (chain.outcome, report.ambiguous) == (Outcome.INCORRECT, ())
    assert report.notes == {"final answer that is none by the task, wrong for that": 1}


def test_words_after_a_stop_change_nothing(tmp_path: Path) -> None:
    record = conversation(
        {"role": "assistant", "tool_calls": [called("stop", '{"answer": "7"}')]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        {"role": "assistant", "content": "I cannot say more."},
    )
    report, (chain,) = chains_of(tmp_path, record)
    assert (chain.outcome, report.ambiguous) == (Outcome.CORRECT, ())


def test_attempts_that_are_not_told_keep_their_numbers_and_give_no_problem(tmp_path: Path) -> None:
    texts = ("Hm, 3 or 4.", "7")
    said = [openai_chat(conversation({"role": "assistant", "content": one}), PLACE) for one in texts]
    task = SumTask()
    entries = [(PLACE, one) for made in said for one in made]
    import_chains(entries, task, task.problems("train", 1), tmp_path / "c")
    assert [chain.sample for chain in ChainStore(tmp_path / "c")] == [1]
    lost = [(PLACE, one.model_copy(update={"gold": "7"})) for _, one in entries[:1]]
    report = import_chains(lost, task, [], tmp_path / "d", own_problems=True)
    assert (report.own_problems, report.chains, len(report.ambiguous)) == (0, 0, 1)
    assert "no final message of the log tells an answer" in str(report.nothing())
