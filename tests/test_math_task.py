"""The functions, answers and judgements of the math task."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightcall.chain import Chain, Outcome, Problem, Step, StopReason
from rightcall.errors import CallError, ConfigError, FailureKind
from rightcall.tasks.math import MathTask
from rightcall.tasks.math.answers import same_value
from rightcall.tasks.math.expressions import MAX_CHARACTERS, compute, parse
from rightcall.tasks.math.numbers import read_number, show

TASK = MathTask()


def binary(pair):
    (left, a), sign, (right, b) = pair
    results = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}
    broken = a is None or b is None or (sign == "/" and b == 0)
    return f"({left} {sign} {right})", None if broken else results[sign]()


LEAVES = st.one_of(
    st.integers(0, 999).map(lambda n: (str(n), Fraction(n))),
    st.decimals(0, 99, places=2).map(lambda d: (f"{d:f}", Fraction(d))),
    st.integers(1000, 999_999).map(lambda n: (f"{n:,}", Fraction(n))),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(binary),
        inner.map(lambda made: (f"-{made[0]}", None if made[1] is None else -made[1])),
        inner.map(lambda made: (f"({made[0]})**2", None if made[1] is None else made[1] ** 2)),
    ),
    max_leaves=6,
)
"""Pairs of a text and its value by Python's own Fraction arithmetic; None if a divisor is zero."""


def observe(text: str, subset="all"):
    return TASK.function_set(subset).reply(text, {}).observation


def played(problem: Problem, calls, task=TASK, subset="all") -> Chain:
    """The chain of these replies, run and judged as the agent loop does it."""
    functions, states, steps, answer = task.function_set(subset), {}, [], None
    for call in calls:
        result = functions.reply(call, states)
        steps.append(Step(reply=call, call=result.call, observation=result.observation))
        answer = result.answer
    return Chain(
        key="k",
        task=task.name,
        problem_id=problem.id,
        sample=0,
        source="test",
        model="scripted",
        seed=0,
        prompt=(),
        steps=tuple(steps),
        answer=answer,
        outcome=Outcome.INCORRECT,
        stop_reason=StopReason.STOPPED if answer is not None else StopReason.STEP_BUDGET,
    )


PROBLEM = Problem(
    id="p",
    question="Ann has 20 bags of 12 nuts. She eats 5. Her cat is 7 years old. How many are left?",
    answer="235",
    gold=("multiply(20, 12)", "subtract(240, 5)", "stop(235)"),
    difficulty=2,
    metadata={
        "family": "sharing",
        "expression": "((a * b) - c)",
        "numbers": {"a": "20", "b": "12", "c": "5", "d": "7"},
        "distractors": 1,
    },
)


def judge(*calls: str):
    return TASK.judge(PROBLEM, played(PROBLEM, calls, subset=CHEAP))


CHEAP = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "percent_of",
    "percent_change",
    "round_to",
    "calculate",
    "reason",
    "stop",
]
"""All functions that need no worker process."""


@settings(deadline=None, max_examples=60)
@given(EXPRESSIONS)
def test_calculate_agrees_with_python_fractions(expression):
    text, wanted = expression
    if wanted is None:
        with pytest.raises(CallError):
            compute(parse(text))
    elif abs(wanted.numerator) < 10**12 and wanted.denominator < 10**12 and len(text) <= MAX_CHARACTERS:
        assert observe(f"calculate({text!r})").text == show(wanted)


@settings(deadline=None, max_examples=60)
@given(st.fractions(max_denominator=10_000))
def test_a_shown_number_reads_back_as_itself(value):
    assert read_number(show(value)) == value


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("add(0.1, 0.2)", "0.3"),
        ("divide(7, 3)", "7/3"),
        ("multiply('7/3', 3)", "7"),
        ("subtract('$1,200.50', 0.5)", "1200"),
        ("percent_of('25%', 80)", "20"),
        ("percent_of(12.5, 80)", "10"),
        ("percent_change(80, 100)", "25"),
        ("round_to(2.345, 2)", "2.35"),
        ("round_to(-2.5)", "-3"),
        ("round_to(1234, -2)", "1200"),
        ("calculate('48/2')", "24"),
        ("calculate('2 1/2 x 4')", "10"),
        ("calculate('20% of 50')", "10"),
        ("calculate('120*25*.01')", "30"),
        ("calculate('10 % 3 + 7 // 2')", "4"),
        ("calculate('-2**2')", "-4"),
        ("calculate('$1,200 ÷ 4 − 1')", "299"),
        ("calculate('2^10')", "1024"),
        ("calculate('4**-1')", "0.25"),
    ],
)
def test_functions_are_exact(call, result):
    assert observe(call, CHEAP).text == result


@pytest.mark.parametrize(
    ("call", "fault", "kind"),
    [
        ("divide(1, 0)", "division by zero", FailureKind.FUNCTION_ERROR),
        ("calculate('1/(2-2)')", "division by zero", FailureKind.FUNCTION_ERROR),
        ("calculate('5 % (1-1)')", "division by zero", FailureKind.FUNCTION_ERROR),
        ("percent_change(0, 5)", "division by zero", FailureKind.FUNCTION_ERROR),
        ("add(True, 1)", "Give a number", FailureKind.WRONG_TYPE),
        ("add('two', 1)", "Give a number", FailureKind.WRONG_TYPE),
        ("add('1e99', 1)", "Give a number", FailureKind.WRONG_TYPE),
        ("add(1)", "missing argument 'b'", FailureKind.MISSING_ARGUMENT),
        ("calculate('9**9**9')", "unusable exponent", FailureKind.FUNCTION_ERROR),
        ("calculate('99999**64')", "too large", FailureKind.FUNCTION_ERROR),
        ("calculate('2**0.5')", "unusable exponent", FailureKind.FUNCTION_ERROR),
        ("calculate('__import__(1)')", "does not parse at '__import__'", FailureKind.WRONG_TYPE),
        ("calculate('(1')", "does not parse at the end", FailureKind.WRONG_TYPE),
        ("calculate('')", "does not parse", FailureKind.WRONG_TYPE),
        ("stop([1])", "Give a number or a text", FailureKind.WRONG_TYPE),
        ("round_to(1, 99)", "digits out of range", FailureKind.FUNCTION_ERROR),
    ],
)
def test_a_wrong_call_says_what_to_mend(call, fault, kind):
    observation = observe(call, CHEAP)
    assert fault in observation.text
    assert observation.failure is kind


@pytest.mark.parametrize(
    "text", ["1" * 10**6, "(" * 10**6, "1+" * 10**6, "9" * 299, "(" * 150 + "1" + ")" * 149]
)
def test_oversized_expressions_are_refused(text):
    with pytest.raises(CallError):
        compute(parse(text))


def test_deep_nesting_within_the_limit_is_computed():
    assert compute(parse("(" * 140 + "7" + ")" * 140)) == 7
    assert compute(parse("-" * 200 + "7")) == 7


@pytest.mark.parametrize(
    ("equation", "result"),
    [
        ("2*x + 3 = 11", "4"),
        ("2x + 3(x - 1) = 12", "3"),
        ("x^2 = 9", "-3 or 3"),
        ("x/3 = 7/9", "7/3"),
        ("20% * x = 5", "25"),
        ("x = x + 1", "no real solution"),
        ("x^2 = 2", "-sqrt(2) or sqrt(2)"),
        ("x = x", "every x"),
    ],
)
def test_equations_are_solved_exactly(equation, result):
    from rightcall.tasks.math.equations import solve_equation

    assert solve_equation(equation) == result


@pytest.mark.parametrize(
    "equation",
    [
        "2 = 2",
        "x + y = 1",
        "x",
        "x = 1 = 2",
        "__import__('os') = x",
        "2^x = 8",
        "x^99 = 1",
        "x % 2 = 1",
    ],
)
def test_equations_that_cannot_be_solved_are_refused(equation):
    from rightcall.tasks.math.equations import solve_equation

    with pytest.raises(CallError):
        solve_equation(equation)


def test_solve_equation_runs_from_a_reply():
    assert observe("solve_equation('3*n = 12', unknown='n')").text == "4"


def test_the_arithmetic_prompt_is_short():
    functions = TASK.function_set()
    words = TASK.instruction.split() + [w for f in functions for w in f.help.split()]
    assert [f.name for f in functions] == [
        "add",
        "subtract",
        "multiply",
        "divide",
        "percent_of",
        "stop",
    ]
    assert len(words) < 120


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("1200", "$1,200.00", True),
        ("1200", "1,200 dollars", True),
        ("1/2", "0.5", True),
        ("0.5", "50%", True),
        ("50", "50%", True),
        ("50", "50 percent", True),
        ("43", "43.", True),
        ("43", "The answer is 43 apples.", True),
        ("43", "-43", False),
        ("43", "43 or 44", False),
        ("43", "42", False),
        ("43", "", False),
        ("43", "many", False),
        ("43", "4" * 1000, False),
        ("2.5", "2 1/2", True),
        ("7/3", "2.33", False),
    ],
)
def test_answers_are_compared_as_values(gold, answer, same):
    assert same_value(gold, answer) is same


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [("1/2", "\\frac{1}{2}", True), ("43", "\\boxed{43}", True), ("43", "\\boxed{44}", False)],
)
def test_symbolic_answers_are_compared_by_math_verify(gold, answer, same):
    assert same_value(gold, answer) is same


def test_an_answer_that_would_never_finish_counts_as_wrong(monkeypatch):
    monkeypatch.setattr("rightcall.tasks.math.answers._SECONDS", 1.0)
    assert not same_value("43", "9^{9^{9^{9}}}")


def test_the_gold_plan_is_right():
    verdict = judge(*PROBLEM.gold)
    assert verdict.process_correct is True
    assert verdict.measures["results_used"] == 1


@pytest.mark.parametrize(
    "calls",
    [
        ("calculate('20 * 12 - 5')", "stop(235)"),
        ("reason('Count first.')", "multiply(12, 20)", "subtract(240, 5)", "stop('235 nuts')"),
        ("multiply(20, 12)", "multiply(20, 12, 1)", "subtract(240, 5)", "stop(235)"),
        ("add(20, 12)", "multiply(20, 12)", "subtract(240, 5)", "stop(235)"),
    ],
)
def test_the_plan_in_other_words_is_right(calls):
    assert judge(*calls).process_correct is True


@pytest.mark.parametrize(
    "calls",
    [
        ("stop(235)",),
        ("multiply(20, 12)", "stop(235)"),
        ("add(235, 0)", "stop(235)"),
        ("subtract(240, 5)", "stop(235)"),
        ("multiply(20, 12)", "subtract(240, 7)", "add(233, 2)", "stop(235)"),
        ("multiply(20, 12)", "add(240, 5)", "stop(245)"),
        ("multiply(20, 12)", "subtract(240, 5)"),
        ("divide(20, 0)", "stop(235)"),
    ],
)
def test_a_plan_that_fails_with_other_numbers_is_wrong(calls):
    assert judge(*calls).process_correct is False


def test_luck_with_the_numbers_is_not_a_plan():
    problem = PROBLEM.model_copy(
        update={
            "question": "A box holds 2 rows of 4 eggs, and 6 more. How many eggs?",
            "answer": "14",
            "metadata": {
                **PROBLEM.metadata,
                "expression": "((a * b) + c)",
                "numbers": {"a": "2", "b": "4", "c": "6"},
            },
        }
    )
    right = played(problem, ["multiply(2, 4)", "add(8, 6)", "stop(14)"], subset=CHEAP)
    lucky = played(problem, ["subtract(6, 4)", "multiply(2, 4)", "add(6, 8)", "stop(14)"], subset=CHEAP)
    luckier = played(problem, ["add(2, 6)", "add(8, 6)", "stop(14)"], subset=CHEAP)
    assert TASK.judge(problem, right).process_correct is True
    assert TASK.judge(problem, lucky).process_correct is True  # the difference is not needed
    assert TASK.judge(problem, luckier).process_correct is False


ARGUMENTS = st.sampled_from(
    [
        "20",
        "12",
        "5",
        "7",
        "240",
        "235",
        "2.345",
        "'20'",
        "'$12.00'",
        "'2 1/2'",
        "'25%'",
        "1e5",
        "-3",
        "0",
    ]
)
CALLS = st.one_of(
    st.builds(
        "{}({}, {})".format,
        st.sampled_from(["add", "subtract", "multiply", "divide", "percent_of", "percent_change"]),
        ARGUMENTS,
        ARGUMENTS,
    ),
    st.builds("add(b={}, a={})".format, ARGUMENTS, ARGUMENTS),
    st.builds(
        "round_to({}, {})".format,
        ARGUMENTS,
        st.sampled_from(["2", "2.0", "'2.0'", "'2'", "True", "digits=1", "-1"]),
    ),
    st.builds("round_to(number={})".format, ARGUMENTS),
    st.builds("calculate('{} * {}')".format, st.sampled_from("20 240 7".split()), st.integers(0, 20)),
    st.builds("reason({})".format, st.just("'so'")),
)
ANSWERS = st.sampled_from(
    ["stop(235)", "stop('235 nuts')", "stop('half')", "stop(2.35)", "stop('1/0')"]
)


@settings(deadline=None)
@given(st.lists(CALLS, max_size=5), ANSWERS)
def test_a_chain_of_calls_that_succeeded_is_judged(calls, answer):
    judgement = TASK.judge(PROBLEM, played(PROBLEM, [*calls, answer]))
    assert judgement.process_correct in (True, False)
    assert all(0 <= share <= 1 for share in judgement.measures.values())


@pytest.mark.parametrize("digits", ["'2.0'", "2.0", "'2'", "True"])
def test_arguments_are_judged_as_the_function_read_them(digits):
    assert observe(f"round_to(2.345, {digits})").failure is None
    chain = played(PROBLEM, [f"round_to(2.345, {digits})", "stop(235)"])
    assert TASK.judge(PROBLEM, chain).process_correct is False


def test_a_long_chain_of_deep_expressions_is_judged():
    deep = "calculate('" + "-" * 280 + "{}')"
    calls = [deep.format(20)] * 20
    calls += ["multiply(20, 12)", *[deep.format(240)] * 20, "subtract(240, 5)", "stop(235)"]
    assert TASK.judge(PROBLEM, played(PROBLEM, calls)).process_correct is True


def test_unused_results_and_strange_numbers_are_evidence():
    verdict = judge("add(20, 99)", "multiply(20, 12)", "subtract(240, 5)", "stop(235)")
    assert "The result 119 is not used." in verdict.evidence
    assert "99 is neither in the question nor a result." in verdict.evidence
    assert verdict.measures["results_used"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        (PROBLEM.gold, ()),
        (("subtract(240, 5)", "stop(235)"), (0,)),
        (("multiply(20, 12)", "stop(235)"), (1,)),
        (("multiply(20, 12)", "stop(240)"), (1,)),
        (("multiply(20, 12)", "reason('So.')", "subtract(240, 5)", "stop(240)"), (3,)),
        (("add(20, 7)", "multiply(20, 12)", "subtract(240, 5)", "stop(235)"), (0,)),
        (("multiply(20, 12)", "add(240, 7)", "subtract(240, 5)", "stop('many')"), (1, 3)),
        (("multiply(20, 12)", "divide(240, 0)", "subtract(240, 5)", "stop(235)"), ()),
        (("multiply(20, 12)", "add(240, 5)", "stop(245)"), ()),
    ],
    ids=[
        "the gold plan", "a number from nowhere", "an answer from nowhere", "half of the way",
        "a part of the plan that is not used", "a waste", "no number", "a refused call",
        "which of them is beyond telling",
    ],
)  # fmt: skip
def test_steps_are_judged_wrong_where_that_is_known(calls, wrong):
    assert judge(*calls).wrong_steps == wrong


def test_a_number_from_nowhere_that_a_right_plan_does_not_depend_on_is_not_wrong():
    verdict = judge("calculate('20 * 12 + 99 - 99 - 5')", "stop(235)")
    assert (verdict.process_correct, verdict.wrong_steps) == (True, ())
    assert "99 is neither in the question nor a result." in verdict.evidence


def test_equations_take_part_in_the_plan():
    chain = played(PROBLEM, ["solve_equation('x + 5 = 20 * 12')", "stop(235)"])
    assert TASK.judge(PROBLEM, chain).process_correct is True
    chain = played(PROBLEM, ["solve_equation('x - 5 = 230')", "stop(235)"])
    assert TASK.judge(PROBLEM, chain).process_correct is False


def test_unknown_options_are_refused():
    with pytest.raises(ConfigError, match="shopping"):
        list(MathTask(families=["shoping"]).problems("train", 1))
    with pytest.raises(ConfigError, match="numbers of steps"):
        list(MathTask(steps=(2, 9)).problems("train", 1))
    with pytest.raises(ConfigError, match="split"):
        list(TASK.problems("dev", 1))


def test_of_a_very_long_chain_it_is_not_said_which_calls_are_a_waste_but_it_is_judged():
    calls = [f"multiply(20, {number})" for number in range(700)]
    verdict = judge("multiply(20, 12)", *calls, "subtract(240, 5)", "stop(235)")
    assert verdict.process_correct is True
    assert verdict.wrong_steps == ()
    assert any("not said which are a waste" in said for said in verdict.evidence)
    few = judge("multiply(20, 12)", *calls[:40], "subtract(240, 5)", "stop(235)")
    assert few.wrong_steps
    assert not any("not said" in said for said in few.evidence)
