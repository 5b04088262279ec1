"""Requests and responses as gateways, the Batch API and the Responses API log them: one chain for each
reply, conversations logged in several records counted once, nothing lost silently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rightcall.chain import Chain, Outcome, StopReason
from rightcall.errors import DataError, FailureKind
from rightcall.importing import ImportReport, Place, Recorded, Unreadable, read_log, read_logs
from rightcall.importing.openai_chat import CUT, EMPTY, PARALLEL, openai_chat
from rightcall.pairs import make_pairs
from test_importing import NOTHING_RAN, answers_only, called, imported, write_log

ASKED = {"role": "user", "content": "What is 0 + 7?"}
ADDS = {"role": "assistant", "content": None, "tool_calls": [called("add", '{"a": 0, "b": 7}')]}
BACK = {"role": "tool", "tool_call_id": "c1", "content": "7"}
SAYS = {"role": "assistant", "content": "The answer is 7."}
SHORTER = "conversation that a longer record has, too"


def request(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": [{"role": "system", "content": "Add."}, *turns], **fields}


def response(*messages: dict[str, Any], finish: Any = "stop", **fields: Any) -> dict[str, Any]:
    choices = [{"index": i, "message": m, "finish_reason": finish} for i, m in enumerate(messages)]
    return {"id": "r", "object": "chat.completion", "model": "gpt-1", "choices": choices, **fields}


WHOLE = {"request": request(ASKED, ADDS, BACK), "response": response(SAYS)}


def chains_of(tmp_path: Path, *records: Any) -> tuple[ImportReport, list[Chain]]:
    log = write_log(tmp_path / "log.jsonl", *records)
    return imported(list(read_log(openai_chat, log)), tmp_path / "c.jsonl")


def replies(chain: Chain) -> list[str]:
    return [step.reply for step in chain.steps]


def left_out(report: ImportReport) -> list[tuple[str, int]]:
    return [(one.why, one.place.line) for one in report.left_out]


# --- requests and responses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        WHOLE,
        {"body": WHOLE["request"], "response": {"status_code": 200, "body": WHOLE["response"]}},
        {"request": {"method": "POST", "body": WHOLE["request"]}, "response": WHOLE["response"]},
        {"request": json.dumps(WHOLE["request"]), "response": {"body": json.dumps(WHOLE["response"])}},
        {**WHOLE["request"], "response": WHOLE["response"], "status": "success", "error_str": None},
        {**WHOLE["request"], "choices": WHOLE["response"]["choices"]},
        {**WHOLE, "messages": None, "body": None, "custom_id": None, "error": None, "output": None},
    ],
)
def test_a_request_with_its_response_is_one_conversation(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    report, (chain,) = chains_of(tmp_path, record)
    assert replies(chain) == ["add(0, 7)", 'stop("7")']
    assert (chain.outcome, report.exact, report.left_out) == (Outcome.CORRECT, 1, ())
    assert chain.model in ("gpt", "gpt-1")


def test_fields_beside_a_request_are_those_beside_messages(tmp_path: Path) -> None:
    record = {
        **WHOLE,
        "gold": 8,
        "problem_id": "train-0-0",
        "model": "mine",
        "sample": 4,
        "correct": True,
    }
    report, (chain,) = chains_of(tmp_path, record)
    assert (chain.model, chain.sample, report.models["mine"].agreed) == ("mine", 4, 1)
    assert report.other_golds[0].recorded == "8"


def test_each_choice_is_a_chain_of_its_own(tmp_path: Path) -> None:
    wrong = {"role": "assistant", "content": "The answer is 8."}
    record = {"request": request(ASKED, n=3), "response": response(SAYS, wrong, SAYS)}
    report, chains = chains_of(tmp_path, record)
    made = sorted(chains, key=lambda chain: chain.sample)
    assert [(chain.sample, chain.answer) for chain in made] == [(0, "7"), (1, "8"), (2, "7")]
    assert (report.records, report.duplicates) == (3, ())


def test_a_parquet_log_of_requests_is_read(tmp_path: Path) -> None:
    rows = [
        {
            "request": json.dumps(WHOLE["request"]),
            "response": json.dumps(WHOLE["response"]),
            "gold": "7",
        },
        {"request": json.dumps(request(ASKED)), "response": None, "gold": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    entries = list(read_log(openai_chat, tmp_path / "log.parquet"))
    report, (chain,) = imported(entries, tmp_path / "c.jsonl")
    assert chain.outcome is Outcome.CORRECT
    assert left_out(report) == [("request without a response", 2)]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"request": request(ASKED)}, "request without a response"),
        ({"request": request(ASKED), "response": {}}, "request without a response"),
        ({**WHOLE, "response": {"error": {"message": "Slow down.", "code": 429}}}, "(429)"),
        ({**WHOLE, "response": {"status_code": 500, "body": "<html>"}}, "request that failed (500)"),
        ({**WHOLE, "response": None, "error": "timeout"}, "request that failed (error)"),
        ({**request(ASKED), "response": None, "status": "failure"}, "request that failed (error)"),
        ({**WHOLE, "response": response(SAYS, finish="error")}, "request that failed (error)"),
        ({**WHOLE, "response": response(SAYS, finish="content_filter")}, "content filter"),
        ({"input": "What is 0 + 7?", "output": [], "status": "failed"}, "request that failed (failed)"),
        ({"input": "?", "output": [], "status": "in_progress"}, "request that failed (in_progress)"),
    ],
)
def test_what_is_no_reply_of_the_model_is_counted_and_no_chain(
    tmp_path: Path, record: dict[str, Any], why: str
) -> None:
    report, (chain,) = chains_of(tmp_path, record, WHOLE)
    assert chain.outcome is Outcome.CORRECT
    (one,) = report.left_out
    assert why in one.why
    assert (one.place.line, report.records, report.unreadable) == (1, 1, ())
    counts, *_, listed = report.tables()
    assert (f"no attempt: {one.why}", 1) in counts.rows
    assert listed.title == "No attempts: 1"


def test_a_log_of_failures_alone_says_so(tmp_path: Path) -> None:
    report, chains = chains_of(tmp_path, {"request": request(ASKED)})
    assert chains == []
    assert "request without a response" in str(report.nothing())


ITEM = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 0, "b": 7}'}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({**WHOLE, "response": "data: {}\n\ndata: {}"}, "response is no JSON object: 'data: {}"),
        ({**WHOLE, "response": [7]}, "response is no JSON object"),
        ({**WHOLE, "request": 7}, "request is no JSON object: '7'"),
        (
            {**WHOLE, "response": {"data": []}},
            "neither choices nor output: ['data']. Responses of chat",
        ),
        ({**WHOLE, "response": {"choices": []}}, "the response has no choice"),
        ({**WHOLE, "response": {"choices": "7"}}, "choices is no list: '7'"),
        ({**WHOLE, "response": {"choices": [7]}}, "choice 1 has no message of the model: '7'"),
        ({**WHOLE, "response": {"choices": [{"delta": {}}]}}, "Put what was streamed together"),
        ({**WHOLE, "response": response({"role": "user"})}, "choice 1 has no message of the model"),
        (
            {**WHOLE, "response": response(SAYS, finish=None)},
            "the reply is whole: 'finish_reason or status = null",
        ),
        ({**WHOLE, "response": response(SAYS, finish="odd")}, 'or status = "odd"'),
        ({"request": {"prompt": "?"}, "response": response(SAYS)}, "the request has no messages"),
        ({"request": {"messages": "?"}, "response": response(SAYS)}, "messages is no list: '?'"),
        ({"request": request(7), "response": response(SAYS)}, "turn 2 has no known role"),
        ({"response": response(SAYS)}, "It should stand in `request` or `body`"),
        ({"custom_id": "a", "response": {"body": response(SAYS)}}, "Give the batch's input file, too"),
        ({**request(ASKED), "response": "7"}, "response is no JSON object"),
        ({"input": [7], "output": []}, "item 1 of input and output is of a kind that is not read: '7'"),
        ({"input": "?", "output": [{"type": "web_search_call"}]}, "not read: 'web_search_call'"),
        ({"input": [{"type": "item_reference", "id": "x"}], "output": []}, "'item_reference'"),
        ({"input": "?", "output": [{"type": "function_call"}]}, "a field is missing: 'call_id'"),
        ({"input": "?", "output": [{"type": "function_call", "call_id": "c"}]}, "missing: 'name'"),
        ({"input": "?", "output": "7"}, "output is no list: '7'"),
        ({"input": {"messages": []}, "output": []}, "input is no list"),
        ({"input": "?", "output": [], "status": "odd"}, 'or status = "odd"'),
        ({"input": "?", "output": [], "previous_response_id": "resp_0"}, "does not stand before it"),
        ({"input": "?", "output": [], "conversation": {"id": "x"}}, "that only the server has"),
    ],
)
def test_a_broken_shape_is_named_with_its_line_or_listed(
    tmp_path: Path, record: dict[str, Any], fault: str
) -> None:
    log = write_log(tmp_path / "log.jsonl", WHOLE, record)
    with pytest.raises(DataError, match=r"log\.jsonl, line 2, cannot be imported") as error:
        list(read_log(openai_chat, log))
    assert fault in str(error.value)
    first, second = read_log(openai_chat, log, skip_bad=True)
    assert not isinstance(first, Unreadable)
    assert isinstance(second, Unreadable)


# --- replies that were cut -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ({"content": "Let me see: 0 and 7 make **8** or"}, "length"),
        ({"content": None, "reasoning_content": "Hm"}, "length"),
        ({"content": None, "tool_calls": [called("add", '{"a": 0, "b"')]}, "max_tokens"),
        ({"content": None, "tool_calls": [called("stop", '{"answer": "8"}')]}, "length"),
    ],
)
def test_a_cut_reply_ends_its_chain_and_is_no_wrong_answer(
    tmp_path: Path, message: dict[str, Any], finish: str
) -> None:
    cut = {"request": request(ASKED, ADDS, BACK), "response": response(message, finish=finish)}
    report, chains = chains_of(tmp_path, cut, WHOLE)
    chain, right = sorted(chains, key=lambda chain: chain.sample)
    assert (chain.stop_reason, chain.maybe_cut, chain.answer) == (
        StopReason.REPLY_TRUNCATED,
        True,
        None,
    )
    assert chain.steps[0].reply == "add(0, 7)"
    assert report.notes[CUT] == 1
    assert right.outcome is Outcome.CORRECT
    assert list(make_pairs([chain, right])) == []
    again = imported(list(read_log(openai_chat, tmp_path / "log.jsonl")), tmp_path / "c.jsonl")[0]
    assert again.already_there == 2


def test_of_a_cut_turn_with_several_calls_only_the_last_was_cut(tmp_path: Path) -> None:
    calls = [called("add", '{"a": 0, "b": 7}'), called("stop", '{"answer": "', "c2")]
    record = {"request": request(ASKED), "response": response({"tool_calls": calls}, finish="length")}
    _, (chain,) = chains_of(tmp_path, record)
    assert [step.observation.failure for step in chain.steps] == [None, FailureKind.UNPARSABLE]
    assert chain.stop_reason is StopReason.REPLY_TRUNCATED


def test_a_cut_call_does_not_make_the_process_wrong(tmp_path: Path) -> None:
    calls = [called("add", '{"a": 0')]
    record = {"request": request(ASKED), "response": response({"tool_calls": calls}, finish="length")}
    log = write_log(tmp_path / "log.jsonl", record)
    _, (chain,) = answers_only(list(read_log(openai_chat, log)), tmp_path / "c.jsonl")
    assert NOTHING_RAN not in chain.judgement.evidence


# --- one conversation in several records ---------------------------------------------------------


def test_of_one_conversation_in_several_records_the_longest_is_the_chain(tmp_path: Path) -> None:
    thinks = {
        **ADDS,
        "content": "<think>Hm.</think>I add.",
        "reasoning_content": "Hm.",
        "refusal": None,
    }
    echoed = {
        "role": "assistant",
        "content": "I add.",
        "tool_calls": [called("add", '{"b":7,"a":0}', "x")],
    }
    first = {"request": request(ASKED), "response": response(thinks, finish="tool_calls")}
    second = {
        "request": request(ASKED, echoed, {**BACK, "tool_call_id": "x"}),
        "response": response(SAYS),
    }
    second["request"]["messages"][0] = {"role": "system", "content": "Add. It is Monday."}
    for order in ([first, second], [second, first]):
        report, (chain,) = chains_of(tmp_path, *order)
        assert replies(chain) == ["I add.\nadd(0, 7)", 'stop("7")']
        assert left_out(report) == [(SHORTER, order.index(first) + 1)]
        assert (report.records, report.chains, report.notes.keys() - {EMPTY}) == (
            1, 1, {"answer read from the final message"}
        )  # fmt: skip
        (tmp_path / "c.jsonl").unlink()


def test_of_several_choices_those_that_nothing_goes_on_from_are_chains(tmp_path: Path) -> None:
    other = {"role": "assistant", "tool_calls": [called("add", '{"a": 7, "b": 0}')]}
    first = {"request": request(ASKED), "response": response(ADDS, other, finish="tool_calls")}
    report, chains = chains_of(tmp_path, first, WHOLE)
    assert sorted(map(replies, chains)) == [["add(0, 7)", 'stop("7")'], ["add(7, 0)"]]
    assert left_out(report) == [(SHORTER, 1)]


def test_an_importer_of_ones_own_on_top_has_the_longest_too(tmp_path: Path) -> None:
    def mine(record: Mapping[str, Any], place: Place) -> Iterator[Recorded]:
        for one in openai_chat(record, place):
            yield one.model_copy(update={"model": "mine"})

    first = {"request": request(ASKED), "response": response(ADDS, finish="tool_calls")}
    log = write_log(tmp_path / "log.jsonl", first, WHOLE, {"request": request(ASKED)})
    report, (chain,) = imported(list(read_log(mine, log)), tmp_path / "c.jsonl")
    assert (chain.model, len(report.left_out)) == ("mine", 2)


def test_the_same_conversation_twice_is_two_attempts(tmp_path: Path) -> None:
    first = {"request": request(ASKED), "response": response(ADDS, finish="tool_calls")}
    report, chains = chains_of(tmp_path, first, first, WHOLE, WHOLE)
    assert [replies(chain) for chain in chains] == [["add(0, 7)", 'stop("7")']] * 2
    assert left_out(report) == [(SHORTER, 1), (SHORTER, 2)]


FOLLOWING = {"role": "user", "content": "What is 1 + 7?"}
EIGHT = {"role": "assistant", "content": "8"}
URGED = {"role": "user", "content": "Are you sure?"}


def test_an_answer_that_the_user_replied_to_is_an_attempt_of_its_own(tmp_path: Path) -> None:
    talk = [ASKED, ADDS, BACK, SAYS, FOLLOWING, EIGHT, URGED]
    records = [
        WHOLE,
        {"request": request(*talk[:5]), "response": response(EIGHT)},
        {"request": request(*talk), "response": response(EIGHT)},
    ]
    report, chains = chains_of(tmp_path, *records)
    assert sorted((chain.problem_id, chain.answer) for chain in chains) == [
        ("train-0-0", "7"),
        ("train-0-1", "8"),
    ]
    assert (report.left_out, report.records) == ((), 3)
    assert "the field `question` must say" in report.without_problem[0].why


def test_where_records_name_their_problem_the_longest_of_each_counts(tmp_path: Path) -> None:
    talk = [ASKED, ADDS, BACK, SAYS, FOLLOWING, EIGHT, URGED]
    one, two = {"problem_id": "train-0-0"}, {"question": "What is 1 + 7?"}
    records = [
        WHOLE | one,
        {"request": request(*talk[:5]), "response": response(EIGHT), **two},
        {"request": request(*talk), "response": response(EIGHT), **two},
    ]
    report, chains = chains_of(tmp_path, *records)
    assert [(chain.problem_id, len(chain.steps)) for chain in chains] == [
        ("train-0-0", 2),
        ("train-0-1", 2),
    ]
    assert left_out(report) == [(SHORTER, 2)]


def test_the_conversation_of_another_model_is_another_one(tmp_path: Path) -> None:
    first = {"request": request(ASKED), "response": response(ADDS, finish="tool_calls", model="small")}
    report, chains = chains_of(tmp_path, first, WHOLE)
    assert sorted(chain.model for chain in chains) == ["gpt-1", "small"]
    assert report.left_out == ()


def test_a_text_that_the_agent_loop_answered_is_no_attempt(tmp_path: Path) -> None:
    hm, error = {"role": "assistant", "content": "Hm."}, {"role": "user", "content": "Error: no call."}
    first = {"request": request(ASKED), "response": response(hm)}
    second = {"request": request(ASKED, hm, error), "response": response(SAYS)}
    report, (chain,) = chains_of(tmp_path, first, second)
    assert replies(chain) == ["Hm.", 'stop("7")']
    assert left_out(report) == [(SHORTER, 1)]


def test_conversations_that_are_given_whole_are_never_left_out(tmp_path: Path) -> None:
    whole = [{"messages": [ASKED, ADDS]}, {"messages": [ASKED, ADDS, BACK, SAYS]}]
    report, chains = chains_of(tmp_path, *whole)
    assert (len(chains), report.left_out) == (2, ())


def test_a_log_whose_conversations_have_grown_is_refused(tmp_path: Path) -> None:
    first = {"request": request(ASKED), "response": response(ADDS, finish="tool_calls")}
    chains_of(tmp_path, first)
    with pytest.raises(DataError, match="The log has changed: import it into another file"):
        chains_of(tmp_path, first, WHOLE)


# --- batches -------------------------------------------------------------------------------------


def batch(custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def answered(custom_id: str, body: dict[str, Any], status: int = 200, **fields: Any) -> dict[str, Any]:
    made = {"status_code": status, "request_id": "q", "body": body}
    return {"id": "b", "custom_id": custom_id, "response": made, "error": None, **fields}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_batch_is_its_input_file_and_its_output_file_in_any_order(
    tmp_path: Path, order: Sequence[int]
) -> None:
    asks = [batch(name, request(ASKED)) | {"gold": "7"} for name in "abcd"]
    given = [
        answered("c", {"error": {"message": "No.", "code": "bad"}}, 400),
        answered("b", response({"role": "assistant", "content": "8"})),
        answered("a", response(SAYS)),
    ]
    files = [write_log(tmp_path / "in.jsonl", *asks), write_log(tmp_path / "out.jsonl", *given)]
    entries = list(read_logs(openai_chat, [files[index] for index in order]))
    report, chains = imported(entries, tmp_path / "c.jsonl")
    assert [chain.answer for chain in chains] == ["8", "7"]
    assert sorted(str(one.place) + " " + one.why for one in report.left_out) == [
        "in.jsonl, line 4 request without a response",
        "out.jsonl, line 1 request that failed (400)",
    ]
    assert report.other_golds == ()


def test_a_custom_id_of_two_batches_is_refused(tmp_path: Path) -> None:
    asks = [batch("a", request(ASKED)), batch("a", request(ASKED, ADDS, BACK))]
    log = write_log(tmp_path / "log.jsonl", *asks, answered("a", response(SAYS)))
    with pytest.raises(DataError, match=r"line 3.*a custom_id stands for several requests.*on its own"):
        list(read_log(openai_chat, log))


# --- the Responses API ---------------------------------------------------------------------------

GAVE = {"type": "function_call_output", "call_id": "c1", "output": "7"}
MESSAGE = {
    "type": "message", "role": "assistant", "status": "completed",
    "content": [{"type": "output_text", "text": "The answer is 7.", "annotations": []}],
}  # fmt: skip
THOUGHT = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "stop(9)"}]}


def test_items_of_the_responses_api_become_calls_and_an_answer(tmp_path: Path) -> None:
    items = [ASKED, THOUGHT, ITEM, GAVE]
    given = {
        "object": "response",
        "model": "gpt-1",
        "status": "completed",
        "output": [THOUGHT, MESSAGE],
    }
    asks = {"model": "gpt", "instructions": "Add.", "input": items}
    for record in (
        {**asks, **given},
        {"request": asks, "response": given},
        {"messages": items, "response": given, "status": "success"},
        {"request": {**asks, "instructions": [{"role": "developer", "content": "Add."}]}, **given},
        {"input": items, "output": [MESSAGE]},
    ):
        report, (chain,) = chains_of(tmp_path, record)
        assert replies(chain) == ["add(0, 7)", 'stop("7")']
        assert (chain.outcome, report.exact) == (Outcome.CORRECT, 1)
        (tmp_path / "c.jsonl").unlink()


def test_parallel_calls_and_words_of_one_response_are_one_turn(tmp_path: Path) -> None:
    words = {**MESSAGE, "content": [{"type": "output_text", "text": "I add twice."}]}
    also = {**ITEM, "call_id": "c2", "arguments": '{"a": 1, "b": 1}'}
    back = [{**GAVE, "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]}, GAVE]
    record = {
        "input": [ASKED, words, THOUGHT, ITEM, THOUGHT, also, *back],
        "output": [{**words, "phase": "commentary"}, MESSAGE],
    }
    report, (chain,) = chains_of(tmp_path, record)
    assert replies(chain) == ["I add twice.\nadd(0, 7)", "add(1, 1)", 'stop("7")']
    assert (report.exact, report.different, report.notes[PARALLEL]) == (2, (), 1)


def test_a_custom_tool_of_the_responses_api_is_called_with_its_text(tmp_path: Path) -> None:
    stops = {"type": "custom_tool_call", "call_id": "c1", "name": "stop", "input": "7"}
    _, (chain,) = chains_of(tmp_path, {"input": "What is 0 + 7?", "output": [stops]})
    assert chain.outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []},
        {"status": "incomplete", "incomplete_details": None, "output": [THOUGHT]},
        {"status": "incomplete", "output": [{**MESSAGE, "status": "incomplete"}]},
        {"output": [{**ITEM, "arguments": '{"a', "status": "incomplete"}]},
    ],
)
def test_an_incomplete_response_is_cut(tmp_path: Path, fields: dict[str, Any]) -> None:
    report, (chain,) = chains_of(tmp_path, {"input": "What is 0 + 7?", **fields})
    assert (chain.stop_reason, chain.answer) == (StopReason.REPLY_TRUNCATED, None)
    assert report.notes == {CUT: 1} | ({"arguments that are no JSON object: a call that fails": 1}
                                       if "arguments" in str(fields) else {})  # fmt: skip


def test_an_incomplete_response_may_be_withheld(tmp_path: Path) -> None:
    why = {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    report, _ = chains_of(tmp_path, {"input": "What is 0 + 7?", "output": [MESSAGE], **why})
    assert left_out(report) == [("reply withheld by a content filter", 1)]


def test_a_response_of_thoughts_alone_is_no_answer(tmp_path: Path) -> None:
    report, (chain,) = chains_of(tmp_path, {"input": "What is 0 + 7?", "output": [THOUGHT]})
    assert (chain.answer, chain.stop_reason) == (None, StopReason.RECORD_ENDED)
    assert report.notes == {EMPTY: 1}


def test_responses_that_repeat_their_input_are_one_conversation(tmp_path: Path) -> None:
    first = {"input": "What is 0 + 7?", "output": [THOUGHT, ITEM]}
    second = {"input": [ASKED, ITEM, GAVE], "output": [MESSAGE]}
    report, (chain,) = chains_of(tmp_path, first, second)
    assert replies(chain) == ["add(0, 7)", 'stop("7")']
    assert left_out(report) == [(SHORTER, 1)]


def test_responses_that_go_on_from_an_earlier_one_are_put_together(tmp_path: Path) -> None:
    failed = {"request": {"input": "?"}, "response": {"status_code": 500, "body": "No."}}
    first = {"id": "resp_1", "input": "What is 0 + 7?", "output": [THOUGHT, ITEM]}
    second = {
        "request": {"previous_response_id": "resp_1", "input": [GAVE]},
        "response": {"id": "resp_2", "previous_response_id": "resp_1", "output": [MESSAGE]},
    }
    third = {"previous_response_id": "resp_2", "input": "What is 1 + 7?", "output": [MESSAGE]}
    log = (failed, first, second, third)
    report, chains = chains_of(tmp_path, *log)
    assert [replies(chain) for chain in chains] == [["add(0, 7)", 'stop("7")'], ['stop("7")']]
    assert [chain.problem_id for chain in chains] == ["train-0-0", "train-0-1"]
    assert left_out(report) == [("request that failed (500)", 1), (SHORTER, 2)]
    late = write_log(tmp_path / "late.jsonl", second, first)
    with pytest.raises(DataError, match=r"line 1.*does not stand before it.*resp_1"):
        list(read_log(openai_chat, late))
