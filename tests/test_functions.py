"""Functions: definition, parsing of replies, checking of arguments, and every way a call can fail."""

from __future__ import annotations

import ast
import gc
import random
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rightcall import functions as functions_module
from rightcall.chain import Call, Step
from rightcall.errors import CallError, DefinitionError, FailureKind
from rightcall.functions import (
    MAX_BROKEN_CALLS,
    MAX_OBSERVATION_CHARACTERS,
    MAX_REPLY_CHARACTERS,
    Function,
    FunctionSet,
    Limits,
    Role,
    States,
    Stop,
    bind,
    function,
    parse_calls,
)
from toys import Tally, add, record, stop

FUNCTIONS = FunctionSet([add, record, stop])


# --- definition ---------------------------------------------------------------------------------


def test_a_function_shows_its_signature_description_and_worked_example() -> None:
    @function(example="scale([1, 2], by=3)", trusted=True)
    def scale(values: list[float], by: float = 2.0, *, note: str | None = None) -> list[float]:
        """Multiply values.

        Not for the model.
        """
        return [value * by for value in values]

    assert scale.help == (
        "scale(values: list[float], by: float = 2.0, note: str | None = None): Multiply values. "
        "Example: scale([1, 2], by=3) -> [3.0, 6.0]"
    )
    assert scale([2.0]) == [4.0]
    parameters = scale.schema["function"]["parameters"]
    assert parameters["required"] == ["values"]
    assert parameters["properties"]["by"] == {"default": 2.0, "type": "number"}


def test_the_model_never_sees_state_parameters() -> None:
    assert record.signature == "record(number: float)"
    assert list(record.schema["function"]["parameters"]["properties"]) == ["number"]


def no_docstring(a: int) -> int:
    return a


def no_annotation(a) -> int:  # type: ignore[no-untyped-def]
    """Give a."""
    return a  # type: ignore[no-any-return]


def keywords(**anything: int) -> int:
    """Give anything."""
    return len(anything)


def fails(a: int) -> int:
    """Fail."""
    raise ValueError("always")


def unknown_type(a: Number) -> int:  # type: ignore[name-defined]  # noqa: F821
    """Give a."""
    return a  # type: ignore[no-any-return]


async def later(a: int) -> int:
    """Give a."""
    return a


def several(a: int) -> Iterator[int]:
    """Give a."""
    yield a


def positional(a: int, /) -> int:
    """Give a."""
    return a


def wrong_default(a: int, b: int = "x") -> int:  # type: ignore[assignment]
    """Give a."""
    return a


def unlike_default(a: int, b: int = "3") -> int:  # type: ignore[assignment]
    """Give a."""
    return a


def no_default(a: int, b: str = None) -> int:  # type: ignore[assignment]  # noqa: RUF013
    """Give a."""
    return a


@pytest.mark.parametrize(
    ("call", "worked", "message"),
    [
        (unknown_type, "unknown_type(1)", "an annotation of unknown_type cannot be read: .*Number"),
        (later, "later(1)", "later is a coroutine"),
        (several, "several(1)", "several is a generator"),
        (positional, "positional(1)", "parameter 'a' of positional is positional-only"),
        (wrong_default, "wrong_default(1)", "the default of 'b' of wrong_default is not .*: 'x'"),
        (unlike_default, "unlike_default(1)", "default of 'b' of unlike_default .*: '3'"),
        (no_default, "no_default(1)", "default of 'b' of no_default"),
        (no_docstring, "no_docstring(1)", "no docstring"),
        (no_annotation, "no_annotation(1)", "parameter 'a' of no_annotation has no type annotation"),
        (keywords, "keywords()", r"takes \*\*anything"),
        (fails, "fails(1)", "the example of fails fails: fails failed: ValueError: always"),
        (fails, "fails('x')", "the example of fails fails: argument 'a' of fails is wrong"),
        (fails, "other(1)", "is not one call of it"),
        (fails, "nothing", "is not one call of it"),
        (fails, "fails(1) fails(2)", "is not one call of it"),
    ],
)
def test_a_wrong_definition_is_refused_when_it_is_made(call: Any, worked: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        function(example=worked, trusted=True)(call)


def test_an_unknown_role_is_refused_with_the_nearest() -> None:
    with pytest.raises(DefinitionError, match=r"add has no such role: 'solver'. Did you mean 'solve'"):
        function(example="add(2, 3)", role="solver", trusted=True)(add.call)


def test_a_parameter_may_have_any_name_that_python_allows() -> None:
    @function(example="odd(1, _a=2, copy=3)", trusted=True)
    def odd(model_extra: int, _a: int, copy: int, schema: int = 4, __b: int = 5) -> str:
        """Give them all."""
        return f"{model_extra} {_a} {copy} {schema} {__b}"

    functions = FunctionSet([odd])
    assert odd.example_result == "1 2 3 4 5"
    assert functions.reply("odd(1, 2, 3, 4, 6)", {}).observation.text == "1 2 3 4 6"
    assert list(odd.schema["function"]["parameters"]["properties"])[:2] == ["model_extra", "_a"]
    refused = functions.reply("odd(1, 2, 3, argument_3=4)", {}).observation
    assert refused.failure is FailureKind.UNEXPECTED_ARGUMENT
    missing = functions.reply("odd(1, copy=2)", {}).observation.text
    assert "missing argument '_a'" in missing


def test_a_default_that_fits_is_used_as_it_is() -> None:
    @function(example="f()", trusted=True)
    def f(a: float = 2, b: str | None = None, c: list[int] = [1]) -> str:  # noqa: B006
        """Show them."""
        return repr((a, b, c))

    assert f.example_result == "(2, None, [1])"


def test_an_example_may_be_given_its_state() -> None:
    @function(example="total()", given=lambda: Tally([2, 3]), trusted=True)
    def total(tally: Tally) -> float:
        """Sum what was recorded."""
        return sum(tally.numbers)

    assert total.example_result == "5"


def test_a_set_refuses_two_functions_of_one_name_and_knows_its_subsets() -> None:
    with pytest.raises(DefinitionError, match="share a name"):
        FunctionSet([add, add])
    assert [made.name for made in FUNCTIONS.subset(["stop", "add"])] == ["stop", "add"]
    with pytest.raises(DefinitionError, match="Did you mean 'add'"):
        FUNCTIONS.subset(["ad"])


def test_a_fingerprint_follows_what_the_model_sees() -> None:
    def made(text: str) -> Function:
        def give(a: int) -> int:
            return a

        give.__doc__ = text
        return function(example="give(1)", trusted=True)(give)

    assert made("Give.").fingerprint == made("Give.").fingerprint != made("Return.").fingerprint


# --- parsing ------------------------------------------------------------------------------------

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: ast.parse(f"{name}_ = 0") is not None and not _is_keyword(name)
)


def _is_keyword(name: str) -> bool:
    import keyword

    return keyword.iskeyword(name)


calls = st.builds(
    Call,
    name=names,
    args=st.lists(values, max_size=3).map(tuple),
    kwargs=st.dictionaries(names, values, max_size=3),
)


@given(calls)
@example(Call(name="f", args=("a)b(\\'\"\n\t\u2028é𝕏", -1.5e300, -0.0, [[], {"": [None, True]}])))
def test_a_call_that_is_written_is_read_back(call: Call) -> None:
    assert parse_calls(str(call), known=[call.name]) == [call]


@given(
    calls, st.sampled_from(["```python\n{}\n```", "I will call {} now.", "> {}", "Step 1:\n{}\nDone"])
)
def test_a_call_is_found_in_prose_and_fences(call: Call, frame: str) -> None:
    assert parse_calls(frame.format(call), known=[call.name]) == [call]


@given(st.text(max_size=300) | st.text("add(stop)[]{}'\",=:\\ \n0123*-#", max_size=300))
def test_no_reply_raises_anything_but_a_call_error(text: str) -> None:
    result = FUNCTIONS.reply(text, {})
    assert isinstance(result.observation.text, str)
    if result.call is None:
        assert result.observation.failure in (FailureKind.NO_CALL, FailureKind.UNPARSABLE)


texts_of_literals = st.recursive(
    st.integers().map(str)
    | st.integers(0, 2**4000).map(hex)
    | st.integers(0, 2**5000).map(lambda n: f"-{n:#b}")
    | st.floats().map(repr)
    | st.text(max_size=4).map(ascii)
    | st.sampled_from(["1e308", "1e309", "-1e999", "nan", "-0.0", "1j", "0b" + "1" * 15_000])
    | st.sampled_from(
        [r"'\ud800'", r"'\ud83d\ude00'", "'\ud800'", "b'a'", "None", "[" * 90 + "]" * 90]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(["'a'", r"'\udfff'", "1"]), inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"{k}: {v}" for k, v in items.items()) + "}"
        )
    ),
    max_leaves=4,
)


@given(st.sampled_from(["add", "record", "stop", "unknown"]), st.lists(texts_of_literals, max_size=3))
@example("stop", ["0x" + "f" * 8000])
@example("unknown", ["[" * 150 + "]" * 150])
@example("stop", [r"'\ud800'"])
@example("add", ["1e999", "nan"])
def test_what_comes_of_any_reply_is_read_back_from_a_file(name: str, arguments: list[str]) -> None:
    reply = f"{name}({', '.join(arguments)})"
    result = FUNCTIONS.reply(reply, {})
    made = Step(reply="reply", call=result.call, observation=result.observation)
    assert Step.model_validate_json(made.model_dump_json().encode()) == made
    if result.call is not None:
        assert str(Step.model_validate_json(made.model_dump_json()).call) == str(result.call)


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ("0x1" + "0" * 256, "more than 1024 bits"),
        ("-0b1" + "0" * 1024, "more than 1024 bits"),
        ("[" * 66 + "]" * 66, "nested more than 64 deep"),
    ],
)
def test_an_argument_that_no_file_could_hold_is_refused(argument: str, fault: str) -> None:
    observation = FUNCTIONS.reply(f"stop({argument})", {}).observation
    assert observation.failure is FailureKind.UNPARSABLE
    assert fault in observation.text
    assert FUNCTIONS.reply("stop(0x" + "f" * 256 + ")", {}).observation.failure is None


@pytest.mark.parametrize(
    "text",
    [
        "add(" + "[" * 5000 + "]" * 5000 + ")",
        "add(" + "-" * 15_000 + "1)",
        "add(" * 4000,
        "add(" + "9" * 19_000 + ", 1)",
        "add('" + "\\" * 15_000,
        "((((" * 4000,
        "a(" * 9000,
        "add(1, 2)" * 2000,
        "add(" + "1+" * 9000 + "1)",
        "add(x" + ".y" * 9000 + ")",
        "add(" + "9" * 4300 + ", 1)",
        "\n".join(["f(x)"] * 4000),
    ],
    ids=[
        *["nested", "minus", "open", "digits", "escapes", "parentheses", "prose", "many"],
        *["sum", "attributes", "long result", "unknown"],
    ],
)
def test_hostile_text_is_answered(text: str) -> None:
    observation = FUNCTIONS.reply(text, {}).observation
    assert observation.failure is not None or observation.text.startswith("3")
    assert len(observation.text) < 2000


def test_reading_costs_no_more_than_a_few_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []
    closing = functions_module._closing
    monkeypatch.setattr(functions_module, "_closing", lambda *a: scans.append(a) or closing(*a))
    FUNCTIONS.reply("add(" * 4000, {})
    FUNCTIONS.reply("\n".join(["f(x"] * 4000), {})
    assert 2 <= len(scans) <= 2 * MAX_BROKEN_CALLS


def test_a_reply_that_is_too_long_is_refused_by_its_length() -> None:
    observation = FUNCTIONS.reply("add(1, 2)" + " " * MAX_REPLY_CHARACTERS, {}).observation
    assert observation.failure is FailureKind.UNPARSABLE
    assert "20009 characters" in observation.text


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("add(-2, +3)", "add(-2, 3)"),
        ("add(a=1, b=2)", "add(a=1, b=2)"),
        ("stop('it\\'s')", 'stop("it\'s")'),
        ("stop('''a\nb''')", "stop('a\\nb')"),
        ("stop((1, 2))", "stop([1, 2])"),
        ('stop({"k": [1.5, None, True]})', "stop({'k': [1.5, None, True]})"),
        ("First think (hard), then add(1, 2).", "add(1, 2)"),
        ("**add(1, 2)**", "add(1, 2)"),
        ("add (1, 2)", "add(1, 2)"),
        ("add(\n  1,\n  2,\n)", "add(1, 2)"),
        ("print(add(1, 2))", "add(1, 2)"),
        ("subtract(1, 2)", "subtract(1, 2)"),
        ("I say foo(1) but do add(1, 2)", "add(1, 2)"),
        ("<think>maybe stop(5)?</think>\nadd(1, 2)", "add(1, 2)"),
        ("<think>\nstop(5)\n</think>\n\nadd(1, 2)", "add(1, 2)"),
        ("Perhaps\nstop(5)\n</think>\nadd(1, 2)", "add(1, 2)"),
        ("<thinking>stop(5)</thinking> so add(1, 2).", "add(1, 2)"),
        ("stop('<think>')", "stop('<think>')"),
        ("stop('a </think> b')", "stop('a </think> b')"),
        ("I would not stop(5) yet. add(1, 2)", "add(1, 2)"),
        ("I do this: add(1, 2). Then I will stop(3).", "add(1, 2)"),
        ("Then I will stop(3) at last", "stop(3)"),
        ("I would not stop(5) yet.\nadd(1, 2)", "add(1, 2)"),
        ("I would not stop(5) yet.\n1. `add(1, 2)`", "add(1, 2)"),
        ("Do not stop(5).\n```python\ntotal = add(1, 2)\n```", "add(1, 2)"),
        ("stop(5) is too early.\n- add(1,\n  2)  # now", "add(1, 2)"),
        ("add(1, 2)\nthen stop(3)", "add(1, 2)"),
        ("add(1, 2); stop(3)", "add(1, 2)"),
    ],
)
def test_the_call_of_a_reply(text: str, call: str) -> None:
    assert str(parse_calls(text, known=["add", "stop"])[0]) == call


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", FailureKind.NO_CALL),
        ("The answer is 5.", FailureKind.NO_CALL),
        ("I would add some (perhaps two).", FailureKind.NO_CALL),
        ("add(1, 2", FailureKind.UNPARSABLE),
        ("add(1 2)", FailureKind.UNPARSABLE),
        ("add(x, 2)", FailureKind.UNPARSABLE),
        ("add(1 + 1, 2)", FailureKind.UNPARSABLE),
        ("add(*[1, 2])", FailureKind.UNPARSABLE),
        ("add(**{'a': 1})", FailureKind.UNPARSABLE),
        ("add(f'{1}', 2)", FailureKind.UNPARSABLE),
        ("add(b'1', 2)", FailureKind.UNPARSABLE),
        ("add(1j, 2)", FailureKind.UNPARSABLE),
        ("add({1: 2}, 2)", FailureKind.UNPARSABLE),
        ("add(__import__('os').getcwd(), 2)", FailureKind.UNPARSABLE),
        ("add(a=1, a=2)", FailureKind.UNPARSABLE),
        ("add(-True, 2)", FailureKind.UNPARSABLE),
        ("add(1e999, 2)", FailureKind.UNPARSABLE),
        ("add(-1e999, 2)", FailureKind.UNPARSABLE),
        ("add('\\ud800', 2)", FailureKind.UNPARSABLE),
        ("add({'\\ud800': 1}, 2)", FailureKind.UNPARSABLE),
    ],
)
def test_what_is_not_a_call_of_literals_is_refused_with_a_remedy(text: str, kind: FailureKind) -> None:
    with pytest.raises(CallError) as caught:
        parse_calls(text, known=["add"])
    assert caught.value.kind is kind
    assert caught.value.remedy


def test_a_reply_that_is_a_thought_alone_makes_no_call() -> None:
    for text in ("<think>add(1, 2)</think>", "<think>\nadd(1, 2)", "add(1, 2)\n</think>"):
        with pytest.raises(CallError, match="no function call in the reply"):
            parse_calls(text, known=["add"])


def test_calls_that_are_only_talked_about_are_not_counted() -> None:
    text = "After record(1) I will stop(2).\nrecord(3)"
    assert [str(call) for call in parse_calls(text, known=["record", "stop"])] == ["record(3)"]
    assert FUNCTIONS.reply(text, {}).observation.text == "1 recorded"


@given(calls, calls, st.sampled_from(["{}\n{}", "{} {}", "{}; {}", "```\n{}\n{}\n```", "> {}\n{}"]))
def test_of_calls_without_a_sentence_around_them_all_count_in_order(
    one: Call, other: Call, frame: str
) -> None:
    assert parse_calls(frame.format(one, other), known=[one.name, other.name]) == [one, other]


def test_of_several_calls_the_first_is_run_and_the_model_is_told() -> None:
    states: States = {}
    result = FUNCTIONS.reply("record(1)\nrecord(2)", states)
    assert (
        result.observation.text == "1 recorded (Only the first of 2 calls was run: one call per reply.)"
    )
    assert states == {Tally: Tally([1.0])}


# --- arguments ----------------------------------------------------------------------------------


@function(example="mixed(1)", trusted=True)
def mixed(
    count: int,
    share: Fraction = Fraction(1, 2),
    *names: str,
    price: Decimal = Decimal(1),
    mode: Literal["up", "down"] = "up",
    table: dict[str, list[int]] = {},  # noqa: B006
) -> str:
    """Mix types."""
    return repr((count, share, names, price, mode, table))


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("mixed('7')", "(7, Fraction(1, 2), (), Decimal('1'), 'up', {})"),
        ("mixed(7.0, '1/3')", "(7, Fraction(1, 3), (), Decimal('1'), 'up', {})"),
        ("mixed(1, 2, 'a', 'b')", "(1, Fraction(2, 1), ('a', 'b'), Decimal('1'), 'up', {})"),
        ("mixed(1, price=2.5)", "(1, Fraction(1, 2), (), Decimal('2.5'), 'up', {})"),
        ("mixed(1, mode='down')", "(1, Fraction(1, 2), (), Decimal('1'), 'down', {})"),
        ("mixed(1, table={'x': ['3']})", "(1, Fraction(1, 2), (), Decimal('1'), 'up', {'x': [3]})"),
    ],
)
def test_arguments_are_coerced_by_annotation(call: str, result: str) -> None:
    assert FunctionSet([mixed]).reply(call, {}).observation.text == result


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ("ad(1, 2)", FailureKind.UNKNOWN_FUNCTION, "unknown function: 'ad'. Did you mean 'add'?"),
        (
            "add(1)",
            FailureKind.MISSING_ARGUMENT,
            "add is missing argument 'b'. Signature: add(a: int, b: int).",
        ),
        ("add(1, 2, 3)", FailureKind.UNEXPECTED_ARGUMENT, "add takes 2 arguments, 3 were given: 3."),
        ("add(1, a=2)", FailureKind.UNEXPECTED_ARGUMENT, "argument 'a' of add was given twice: 2."),
        ("add(1, 2, c=3)", FailureKind.UNEXPECTED_ARGUMENT, "add has no argument 'c'."),
        (
            "add('one', 2)",
            FailureKind.WRONG_TYPE,
            "argument 'a' of add is wrong: 'one'. Input should be",
        ),
        ("add(1.5, 2)", FailureKind.WRONG_TYPE, "argument 'a' of add is wrong: 1.5."),
        ("add([1], 2)", FailureKind.WRONG_TYPE, "argument 'a' of add is wrong: [1]."),
        ("record(1, tally=[1])", FailureKind.UNEXPECTED_ARGUMENT, "record has no argument 'tally'."),
    ],
)
def test_a_wrong_argument_is_told_with_fault_value_and_remedy(
    call: str, kind: FailureKind, words: str
) -> None:
    result = FUNCTIONS.reply(call, {})
    assert result.observation.failure is kind
    assert result.observation.text.startswith(f"Error: {words}")
    assert result.call is not None
    assert result.answer is None


@given(st.lists(values, max_size=4), st.dictionaries(st.sampled_from(["a", "b", "x"]), values))
def test_binding_gives_typed_arguments_or_a_call_error(args: list[Any], kwargs: dict[str, Any]) -> None:
    try:
        positional, named = bind(add, Call(name="add", args=tuple(args), kwargs=kwargs))
    except CallError as error:
        refused = error.kind
    else:
        assert positional == []
        assert {name: type(value) for name, value in named.items()} == {"a": int, "b": int}
        return
    assert refused in (
        FailureKind.MISSING_ARGUMENT,
        FailureKind.UNEXPECTED_ARGUMENT,
        FailureKind.WRONG_TYPE,
    )


# --- running ------------------------------------------------------------------------------------


def test_a_surrogate_in_a_result_is_replaced_since_no_file_could_hold_it() -> None:
    @function(example="half()", trusted=True)
    def half() -> str:
        """Half a character."""
        return "a\ud800b"

    assert half.example_result == "a\ufffdb"


def test_a_surrogate_in_an_answer_is_replaced_too() -> None:
    @function(example="halt()", role="flow", trusted=True)
    def halt() -> Stop:
        """Stop."""
        return Stop("a\ud800b")

    result = FunctionSet([halt]).reply("halt()", {})
    assert result.answer == "a\ufffdb"
    assert result.observation.text == "a\ufffdb"


def test_a_call_with_a_surrogate_is_refused_in_the_parsers_own_words() -> None:
    with pytest.raises(CallError) as caught:
        parse_calls("add('\ud800', 2)", known=["add"])
    assert "nested" not in str(caught.value)
    assert "surrogates" in str(caught.value)


def test_an_answer_that_is_not_text_becomes_text() -> None:
    @function(example="end()", trusted=True)
    def end() -> Stop:
        """End."""
        return Stop(5)  # type: ignore[arg-type]

    assert FunctionSet([end]).reply("end()", {}).answer == "5"


def test_an_observation_is_bounded_and_says_what_was_cut() -> None:
    @function(example="repeat('a', 2)", trusted=True)
    def repeat(text: str, times: int) -> str:
        """Repeat a text."""
        return text * times

    functions = FunctionSet([repeat])
    observation = functions.reply("repeat('ab', 600)", {}).observation
    assert observation.text == "ab" * (MAX_OBSERVATION_CHARACTERS // 2) + "... [200 characters cut]"
    assert observation.cut == 200
    assert functions.reply("repeat('a', 1000)", {}).observation.cut == 0


def test_states_belong_to_one_chain() -> None:
    one: States = {}
    other: States = {}
    for states in (one, one, other):
        FUNCTIONS.reply("record(1)", states)
    assert one == {Tally: Tally([1.0, 1.0])}
    assert other == {Tally: Tally([1.0])}


def test_a_stop_carries_the_answer() -> None:
    result = FUNCTIONS.reply('stop("42")', {})
    assert (result.answer, result.observation.text, result.observation.failure) == ("42", "42", None)


def test_what_a_function_gives_is_shown_as_text() -> None:
    @function(example="nothing()", trusted=True)
    def nothing() -> None:
        """Do nothing."""

    assert nothing.example_result == "done"
    assert FUNCTIONS.reply("add(2, 3)", {}).observation.text == "5"


def test_every_kind_of_failure_is_reached_and_leaves_the_chain_alive() -> None:
    @function(example="act('no')", limits=Limits(seconds=3, memory_mb=200))
    def act(what: str, tally: Tally) -> str:
        """Do something."""
        import os

        tally.numbers.append(1)
        if what == "loop":
            while True:
                pass
        if what == "grow":
            return "x" * 10**10
        if what == "die":
            os._exit(1)
        if what == "fail":
            raise KeyError(what)
        return f"{len(tally.numbers)}"

    functions = FunctionSet([act])
    states: States = {}
    replies = {
        "hello": FailureKind.NO_CALL,
        "act(": FailureKind.UNPARSABLE,
        "acts('no')": FailureKind.UNKNOWN_FUNCTION,
        "act()": FailureKind.MISSING_ARGUMENT,
        "act('no', 1)": FailureKind.UNEXPECTED_ARGUMENT,
        "act([])": FailureKind.WRONG_TYPE,
        "act('loop')": FailureKind.TIME_LIMIT,
        "act('grow')": FailureKind.MEMORY_LIMIT,
        "act('die')": FailureKind.DIED,
        "act('fail')": FailureKind.FUNCTION_ERROR,
    }
    assert set(replies.values()) == set(FailureKind)
    found = {text: functions.reply(text, states).observation for text in replies}
    assert {text: observation.failure for text, observation in found.items()} == replies
    assert all(observation.text.startswith("Error: ") for observation in found.values())
    assert functions.reply("act('no')", states).observation.text == "1"


def test_stop_is_a_flow_function_and_others_solve() -> None:
    assert (stop.role, add.role) == (Role.FLOW, Role.SOLVE)
    assert isinstance(stop("1"), Stop)


def test_prompts_list_functions_in_a_fixed_order() -> None:
    order = ["stop", "add", "record"]
    random.Random(0).shuffle(order)
    assert [made.name for made in FUNCTIONS.subset(order)] == order


def test_a_worker_whose_result_cannot_be_shown_leaves_the_state_as_it_was() -> None:
    @function(example="power(2)")
    def power(digits: int, tally: Tally) -> int:
        """A power of ten."""
        tally.numbers.append(digits)
        return int(10**digits)

    functions = FunctionSet([record, power])
    states: States = {}
    assert functions.reply("power(3)", states).observation.text == "1000"
    assert functions.reply("power(5000)", states).observation.failure is FailureKind.FUNCTION_ERROR
    assert functions.reply("record(2)", states).observation.text == "2 recorded"


def test_calls_are_parsed_in_many_threads_at_once() -> None:
    """A garbage collection that runs Python code lets another thread parse in the midst of a parse."""
    text = f"f({'[' * 30}1{']' * 30}, {', '.join(map(str, range(200)))})"
    faults: list[BaseException] = []

    def parse_often() -> None:
        try:
            for _ in range(30):
                parse_calls(text, known=["f"])
        except BaseException as error:
            faults.append(error)

    def pause(*_: object) -> None:
        time.sleep(0.0005)

    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(pause)
    try:
        gc.set_threshold(100, 5, 5)
        sys.setswitchinterval(1e-6)
        threads = [threading.Thread(target=parse_often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(pause)
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
    assert not faults
