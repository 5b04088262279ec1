"""The task fol: what its functions answer, and how it judges answers and formalisations."""

from collections.abc import Sequence

import pytest

from rightcall.chain import Chain, Outcome, Problem, Step, StopReason
from rightcall.check import gold_chain
from rightcall.dialects import PythonCalls
from rightcall.errors import ConfigError, FailureKind
from rightcall.functions import States
from rightcall.rollout import judged
from rightcall.task import Proved, Refuted, load_task
from rightcall.tasks.fol import FolTask
from rightcall.tasks.fol.formula import parse, to_text
from rightcall.tasks.fol.steps import proof

TASK = FolTask(provers=1)
RED = Problem(
    id="red",
    question="Things that are cold and smart are red. Bob is cold. Bob is smart.\n"
    "True, false or unknown: Bob is red.",
    answer="True",
    gold=(
        'premise("forall x (cold(x) & smart(x) -> red(x))")',
        'premise("cold(Bob)")',
        'premise("smart(Bob)")',
        'goal("red(Bob)")',
        'stop("True")',
    ),
    metadata={
        "premises": ["forall x (cold(x) & smart(x) -> red(x))", "cold(Bob)", "smart(Bob)"],
        "goal": "red(Bob)",
    },
)


def played(problem: Problem, calls: Sequence[str], subset: str = "all") -> Chain:
    """The judged chain that these replies make."""
    functions = TASK.function_set(subset)
    states: States = {}
    steps, answer = [], None
    for reply in calls:
        result = functions.reply(reply, states)
        steps.append(Step(reply=reply, call=result.call, observation=result.observation))
        answer = result.answer
    chain = Chain(
        key="k", task="fol", problem_id=problem.id, sample=0, source="test", model="test", seed=0,
        prompt=(), steps=tuple(steps), stop_reason=StopReason.STOPPED, answer=answer,
        outcome=Outcome.INCORRECT,
    )  # fmt: skip
    return judged(TASK, problem, chain)


def observations(calls: Sequence[str], subset: str = "all") -> list[str]:
    return [step.observation.text for step in played(RED, calls, subset).steps]


def red_with(**replaced: str) -> Chain:
    """RED's gold chain with some calls replaced, by position: `_0="premise(...)"`."""
    calls = list(RED.gold)
    for place, call in replaced.items():
        calls[int(place.removeprefix("_"))] = call
    return played(RED, calls)


# --- functions ----------------------------------------------------------------------------------


def test_the_gold_chain_is_answered_in_as_few_words_as_possible() -> None:
    assert observations(RED.gold, "prove") == ["P1", "P2", "P3", "True", "True"]


@pytest.mark.parametrize(
    ("premises", "goal", "said"),
    [
        (["red(Bob)"], "red(Bob)", "True"),
        (["~red(Bob)"], "red(Bob)", "False"),
        (["red(Bob) | red(Anne)"], "red(Bob)", "Unknown"),
        (["red(Bob)", "~red(Bob)"], "red(Bob)", "The premises contradict each other"),
        (["red(Bob)"], "Red(Bob)", "Unknown: no premise mentions Red"),
    ],
)
def test_goal_says_how_it_stands_to_the_premises(premises: list[str], goal: str, said: str) -> None:
    calls = [f'premise("{text}")' for text in premises] + [f'goal("{goal}")']
    assert observations(calls)[-1] == said


def test_goal_gives_up_in_words_when_the_prover_runs_out_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rightcall.tasks.fol import prover

    gave_up = prover.Decision(prover.Verdict.GAVE_UP)
    monkeypatch.setattr(prover, "decide", lambda *_, **__: gave_up)
    calls = ['premise("red(Bob)")', 'goal("red(Bob)")', 'derive("red(Bob)", "P1")']
    assert observations(calls)[1:] == ["Undecided within the time limit"] * 2


def test_derive_records_what_follows_from_the_named_formulas() -> None:
    calls = [
        *RED.gold[:3],
        'derive("cold(Bob) & smart(Bob)", "P2", "P3")',
        'derive("red(Bob)", "P1", "d1")',
    ]
    assert observations(calls)[3:] == ["D1", "D2"]


def test_derive_refutes_with_a_case_where_the_named_formulas_do_not_suffice() -> None:
    refused = observations([*RED.gold[:3], 'derive("red(Bob)", "P1", "P2")'])[-1]
    assert refused == "Refuted: Bob is cold, not red; nothing else holds"


def test_derive_says_when_the_named_formulas_contradict_each_other() -> None:
    calls = ['premise("red(Bob)")', 'premise("~red(Bob)")', 'derive("cold(Bob)", "P1", "P2")']
    assert observations(calls)[-1] == "The premises contradict each other"


def test_claim_states_the_goal_without_deciding_it() -> None:
    assert observations([*RED.gold[:3], 'claim("red(Bob)")'])[-1] == "G"


@pytest.mark.parametrize(
    ("calls", "told"),
    [
        (['premise("forall x (cold(x)")'], "does not parse"),
        (['premise("")'], "it is empty"),
        (['premise("likes(Bob)")', 'premise("likes(Bob, Anne)")'], "arguments"),
        (['goal("red(Bob)")'], "Record each sentence"),
        (['claim("red(Bob)")'], "Record each sentence"),
        (['premise("red(Bob)")', 'derive("red(Bob)", "P7")'], "P1"),
        (['premise("red(Bob)")', 'derive("red(Bob)")'], "Name them"),
        (['stop("maybe")'], "Answer True, False or Unknown"),
    ],
)
def test_a_wrong_call_is_told_what_to_mend(calls: list[str], told: str) -> None:
    last = played(RED, calls).steps[-1].observation
    assert last.failure is FailureKind.FUNCTION_ERROR
    assert told in last.text


def test_a_refused_premise_takes_no_number() -> None:
    assert observations(['premise("cold(")', 'premise("cold(Bob)")'])[-1] == "P1"


@pytest.mark.parametrize(
    ("answer", "read"), [("true", "True"), ("FALSE.", "False"), ("Uncertain", "Unknown")]
)
def test_stop_reads_answers_in_any_case(answer: str, read: str) -> None:
    assert played(RED, [f'stop("{answer}")']).answer == read


# --- subsets and prompts ----------------------------------------------------------------------------


def test_no_subset_for_deriving_lets_the_prover_decide_the_goal() -> None:
    assert "goal" not in TASK.subsets["derive"]
    assert set(TASK.subsets["prove"]) | set(TASK.subsets["derive"]) == {f.name for f in TASK.functions}


def test_the_default_prompt_has_fewer_than_120_words() -> None:
    system = PythonCalls().prompt(TASK.instruction, TASK.function_set(), RED)[0]
    assert len(system["content"].split()) < 120


def test_every_example_ran_when_its_function_was_defined() -> None:
    shown = {made.name: made.example_result for made in TASK.functions}
    assert shown == {
        "premise": "P1", "goal": "True", "claim": "G", "derive": "D1", "reason": "noted",
        "stop": "True",
    }  # fmt: skip


def test_the_task_is_loaded_by_name_with_options() -> None:
    made = load_task("fol", hops=[1, 2], max_sentences=5, provers=0)
    assert all(len(p.metadata["premises"]) <= 5 for p in made.problems("train", 20))


@pytest.mark.parametrize(
    "options",
    [{"hops": (0, 2)}, {"hops": (3, 2)}, {"hops": (1,)}, {"max_sentences": 2}, {"provers": 3}],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        FolTask(**options)  # type: ignore[arg-type]


# --- judging ------------------------------------------------------------------------------------


def test_the_gold_chain_is_right_for_the_right_reason() -> None:
    chain = played(RED, RED.gold)
    assert chain.right_for_the_right_reason
    assert chain.judgement.process_correct is True
    assert chain.judgement.measures == {"exact_formalisations": 1.0}


def test_an_equivalent_formalisation_in_another_order_and_spelling_is_exact() -> None:
    chain = red_with(
        _0='premise("smart(Bob)")',
        _2='premise("all y. (not red(y) implies not (smart(y) and cold(y)))")',
    )
    assert chain.judgement.process_correct is True


@pytest.mark.parametrize(
    "wrong",
    [
        "forall x (cold(x) -> red(x))",
        "forall x (red(x) -> cold(x) & smart(x))",
        "forall x (cold(x) & smart(x) -> ~red(x))",
        "forall x (cold(x) | smart(x) -> red(x))",
        "exists x (cold(x) & smart(x) -> red(x))",
        "forall x (cold(x) & smart(x) -> Red(x))",
    ],
    ids=["dropped condition", "reversed", "lost negation", "or for and", "exists", "respelled"],
)
def test_a_wrong_formalisation_is_wrong_whatever_the_answer(wrong: str) -> None:
    chain = red_with(_0=f'premise("{wrong}")')
    assert chain.outcome is Outcome.CORRECT  # the stop says "True"
    assert chain.judgement.process_correct is False
    assert chain.judgement.measures == {"exact_formalisations": 0.75}
    assert f"not in the text: {wrong}" in chain.judgement.evidence


def test_an_invented_premise_makes_the_process_wrong() -> None:
    chain = played(RED, ['premise("red(Bob)")', *RED.gold])
    assert chain.judgement.process_correct is False
    assert chain.judgement.measures == {"exact_formalisations": 1.0}


def test_a_premise_recorded_twice_counts_once() -> None:
    chain = red_with(_2='premise("cold(Bob)")')
    assert chain.judgement.process_correct is False
    assert "missing: smart(Bob)" in chain.judgement.evidence


def test_another_goal_makes_the_process_wrong() -> None:
    chain = red_with(_3='goal("cold(Bob)")')
    assert chain.judgement.process_correct is False


def test_a_refused_call_does_not_count_against_the_process() -> None:
    assert played(RED, ['premise("cold(")', *RED.gold]).judgement.process_correct is True


def test_a_claimed_goal_has_to_be_derived() -> None:
    claimed = [*RED.gold[:3], 'claim("red(Bob)")']
    guessed = played(RED, [*claimed, 'stop("True")'])
    refuted = played(RED, [*claimed, 'derive("red(Bob)", "P1", "P2")', 'stop("True")'])
    derived = played(RED, [*claimed, 'derive("red(Bob)", "P1", "P2", "P3")', 'stop("True")'])
    right = [chain.judgement.process_correct for chain in (guessed, refuted, derived)]
    assert right == [False, False, True]


def test_false_has_to_be_shown_by_deriving_the_negation() -> None:
    gold = {"premises": ["~red(Bob)"], "goal": "red(Bob)"}
    problem = Problem(id="f", question="?", answer="False", metadata=gold)
    calls = ['premise("~red(Bob)")', 'claim("red(Bob)")', 'stop("False")']
    assert played(problem, calls).judgement.process_correct is True


def test_a_claimed_goal_as_deep_as_can_be_read_is_judged() -> None:
    deepest = "~" * 100 + "red(Bob)"
    calls = [*RED.gold[:3], f'claim("{deepest}")', 'stop("False")']
    assert played(RED, calls).judgement.process_correct is False


REVERSED = 'premise("forall x (red(x) -> cold(x) & smart(x))")'
PROVED = 'derive("red(Bob)", "P1", "P2", "P3")'
CLAIMED = [*RED.gold[:3], 'claim("red(Bob)")']


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        (RED.gold, ()),
        (['premise("cold(")', *RED.gold], ()),
        ([RED.gold[1], REVERSED, RED.gold[2], RED.gold[3], 'stop("Unknown")'], (1,)),
        ([RED.gold[0], RED.gold[1], RED.gold[1], RED.gold[2], *RED.gold[3:]], (2,)),
        ([*RED.gold[:3], 'goal("cold(Bob)")', *RED.gold[3:]], (3,)),
        ([RED.gold[0], RED.gold[1], RED.gold[3], 'stop("Unknown")'], (2,)),
        ([*RED.gold[:4], 'stop("False")'], (4,)),
        ([*CLAIMED, 'stop("True")'], (4,)),
        ([*CLAIMED, 'derive("red(Bob)", "P1")', PROVED, 'stop("True")'], (4,)),
        ([REVERSED, 'premise("tall(Bob)")', *RED.gold], (0, 1)),
    ],
    ids=[
        "the gold chain", "a refused call", "a wrong formalisation", "a premise twice", "another goal",
        "a sentence is skipped", "not what the prover said", "not derived", "a derivation refuted",
        "two inventions",
    ],
)  # fmt: skip
def test_the_wrong_steps_of_a_chain_are_known(calls: Sequence[str], wrong: tuple[int, ...]) -> None:
    assert played(RED, calls).judgement.wrong_steps == wrong


def test_a_problem_without_gold_formulas_is_judged_by_its_answer_alone() -> None:
    bare = Problem(id="b", question="?", answer="Uncertain")
    chain = played(bare, ['stop("Unknown")'])
    assert chain.outcome is Outcome.CORRECT
    assert chain.judgement.process_correct is None


def test_a_gold_chain_is_judged_without_asking_the_prover(monkeypatch: pytest.MonkeyPatch) -> None:
    from rightcall.tasks.fol import prover

    chain = played(RED, RED.gold)
    monkeypatch.delattr(prover, "equivalent")
    assert TASK.judge(RED, chain).process_correct is True


def test_labels_are_proved_again_from_the_gold_formulas() -> None:
    assert TASK.prove(RED) == Proved()
    fault = TASK.prove(RED.model_copy(update={"answer": "Unknown"}))
    assert fault == Refuted("the label is Unknown, Z3 says: True")


# --- deriving ---------------------------------------------------------------------------------------

UNKNOWN = RED.model_copy(
    update={
        "answer": "Unknown",
        "metadata": {"premises": ["forall x (cold(x) -> red(x))", "smart(Bob)"], "goal": "red(Bob)"},
    }
)
OPENING = ['premise("forall x (cold(x) -> red(x))")', 'premise("smart(Bob)")', 'claim("red(Bob)")']
BOTH = ['derive("red(Bob)", "P1", "P2")', 'derive("~red(Bob)", "P2", "P1")']


@pytest.mark.parametrize(
    ("tried", "process"),
    [
        ([], None),
        (BOTH[:1], None),
        (BOTH, True),
        ([BOTH[0], 'derive("~red(Bob)", "P1")'], None),
        (['derive("smart(Bob)", "P2")'], None),
    ],
    ids=["nothing", "one of them", "both", "not from all premises", "something else"],
)
def test_unknown_is_shown_by_trying_the_goal_and_its_negation_in_vain(
    tried: list[str], process: bool | None
) -> None:
    judgement = played(UNKNOWN, [*OPENING, *tried, 'stop("Unknown")'], "derive").judgement
    assert judgement.process_correct is process
    if process is None:
        assert "that nothing can be derived was not tried" in judgement.evidence
    assert set(judgement.wrong_steps) <= {4}


def test_unknown_after_a_wrong_formalisation_is_wrong_whatever_was_tried() -> None:
    calls = [*OPENING, *BOTH, 'stop("Unknown")']
    calls[1] = 'premise("cold(Bob) | smart(Bob)")'
    assert played(UNKNOWN, calls, "derive").judgement.process_correct is False


def test_a_goal_tried_in_vain_is_no_wrong_step() -> None:
    judgement = played(UNKNOWN, [*OPENING, *BOTH, 'stop("Unknown")'], "derive").judgement
    assert judgement.wrong_steps == ()


def test_the_derive_subset_has_gold_chains_that_derive_the_answer_step_by_step() -> None:
    problems = list(TASK.problems("train", 15, 4))
    functions = TASK.function_set("derive")
    for problem in problems:
        chain = gold_chain(TASK, functions, problem)
        assert chain.right_for_the_right_reason
        assert chain.judgement.process_correct is True
        assert not chain.failures
    hops = {p.difficulty: gold_chain(TASK, functions, p) for p in problems if p.answer == "True"}
    derivations = [s for s in hops[5].steps if s.call is not None and s.call.name == "derive"]
    assert len(derivations) > 1


def test_a_proof_takes_only_what_each_step_needs() -> None:
    facts = ["cold(Bob)", "smart(Anne)"]
    rules = ["forall x (red(x) -> kind(x))", "forall x (cold(x) -> red(x))"]
    premises = [parse(text) for text in (facts[0], *rules, facts[1])]
    steps = proof(premises, parse("kind(Bob)"))
    assert steps is not None
    assert [(to_text(step.formula), step.names) for step in steps] == [
        ("red(Bob)", ("P1", "P3")),
        ("kind(Bob)", ("D1", "P2")),
    ]


def test_a_proof_about_a_sort_goes_through_what_holds_of_the_sort() -> None:
    premises = [parse(f"forall x ({a}(x) -> {b}(x))") for a, b in (("b", "c"), ("a", "b"), ("c", "d"))]
    steps = proof(premises, parse("forall x (a(x) -> d(x))"))
    assert steps is not None
    assert [to_text(step.formula) for step in steps] == [
        "forall x (a(x) -> c(x))",
        "forall x (a(x) -> d(x))",
    ]


def test_there_is_no_proof_of_what_does_not_follow() -> None:
    assert proof([parse("cold(Bob)")], parse("red(Bob)")) is None


def test_functions_that_do_not_suffice_have_no_gold_chain() -> None:
    assert TASK.gold(RED, TASK.function_set(["premise", "stop"])) == ()
    assert TASK.gold(RED, TASK.function_set("prove")) == RED.gold
    assert TASK.gold(RED, TASK.function_set("all")) == RED.gold
