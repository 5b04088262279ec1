"""Operations on which functions the prompt shows, and how: the student must read its prompt.

The problem stays as it is, and so do its chains, but for the names of the functions that they call.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random

from rightcall.augment.distractors import DISTRACTORS
from rightcall.augment.operation import Operation, Original, Rejected, Variant
from rightcall.chain import Call, Chain, Problem
from rightcall.dialects import DIALECTS
from rightcall.errors import CallError, FailureKind
from rightcall.functions import Function, FunctionSet, Role, parse_calls
from rightcall.task import Task

RENAMED_SHARE = 0.75
"""Chance of each function to get another name, where not all do."""
MOST_DISTRACTORS = 5
LEAST_DISTRACTORS = 2

_CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\s*\(")


# --- the operations -------------------------------------------------------------------------------


def shuffle_functions(original: Original, rng: Random) -> Variant:
    """The functions in another order: `add, subtract, stop` becomes `stop, add, subtract`."""
    functions = [*original.functions]
    if len(functions) < 2:
        raise Rejected("a single function has no other order")
    while functions == [*original.functions]:
        rng.shuffle(functions)
    return _showing(original, functions)


def drop_functions(original: Original, rng: Random) -> Variant:
    """Some or all of the functions that no chain calls are left out: `add, subtract, percent_of, stop`
    becomes `add, stop`. Flow functions stay."""
    needed = _needed(original)
    spare = [made.name for made in original.functions if made.name not in needed]
    if not spare:
        raise Rejected("every function is needed")
    dropped = set(rng.sample(spare, rng.randint(1, len(spare))))
    return _showing(original, [made for made in original.functions if made.name not in dropped])


def add_functions(original: Original, rng: Random) -> Variant:
    """Two to five functions of other tasks (see `distractors`) among the functions: `add, stop` becomes
    `add, weekday_of, stop, count_words`."""
    taken = _taken_names(original)
    bank = [made for made in DISTRACTORS if made.name.lower() not in taken]
    if len(bank) < LEAST_DISTRACTORS:
        raise Rejected("no function of the bank has a name of its own")
    number = rng.randint(LEAST_DISTRACTORS, min(MOST_DISTRACTORS, len(bank)))
    functions = [*original.functions]
    for made in rng.sample(bank, number):
        functions.insert(rng.randint(0, len(functions)), made)
    return _showing(original, functions)


def rename_functions(original: Original, rng: Random) -> Variant:
    """Functions under other names: `add(2, 3)` becomes `plus(2, 3)`, in descriptions and in all chains
    too; half of the time all of them, else some. What the task's instruction or the question calls by
    its name keeps it."""
    told = f"{original.task.instruction}\n{original.problem.question}"
    free = [made for made in original.functions if not _mentioned(made.name, told)]
    if not free:
        raise Rejected("the text calls every function by its name")
    chosen = free
    if rng.random() < 0.5:
        chosen = [made for made in free if rng.random() < RENAMED_SHARE] or [rng.choice(free)]
    names = _new_names(chosen, _taken_names(original), rng)
    functions = [_renamed(made, names) for made in original.functions]
    replies, left_out = {}, []
    for chain in original.chains:
        carried = _with_names(chain, names, original.functions)
        if carried is None:
            left_out.append("a reply cannot be written with the new names")
        else:
            replies[chain.key] = carried
    return Variant(
        original.problem,
        replies,
        FunctionSet(functions, original.functions.max_observation),
        left_out=tuple(left_out),
    )


SHOWN: dict[str, Operation] = {
    "shuffle_functions": shuffle_functions,
    "rename_functions": rename_functions,
    "drop_functions": drop_functions,
    "add_functions": add_functions,
}


def _showing(original: Original, functions: Sequence[Function]) -> Variant:
    """The same problem and chains with these functions in the prompt."""
    replies = {chain.key: [step.reply for step in chain.steps] for chain in original.chains}
    shown = FunctionSet(functions, original.functions.max_observation)
    return Variant(original.problem, replies, shown)


# --- reading a prompt back ------------------------------------------------------------------------


def functions_in(message: str, task: Task, dialect: str = "python") -> FunctionSet | None:
    """The functions that the first message of a prompt shows, in whatever way an operation of this
    module shows a task's; None if it shows others, or says something else beside them."""
    bank = [*task.functions, *DISTRACTORS]
    every = "|".join(_mention(made.name) for made in task.functions)
    found: dict[str, Function] = {}
    position = message.find("\n", len(task.instruction))
    while 0 <= position < len(message):
        line = re.compile(r"\n?([A-Za-z_]\w*)(?=\()").match(message, position)
        made, end = _described(message, line, bank, every) if line else (None, position)
        if line is None or made is None:
            position = message.find("\n", position + 1)
            continue
        found[line[1]] = made
        position = end
    names = {made.name: shown for shown, made in found.items() if shown != made.name}
    if len({made.name for made in found.values()}) < len(found):
        return None
    functions = FunctionSet([_renamed(made, names) for made in found.values()])
    nothing = Problem(id="", question="", answer="")
    said = DIALECTS[dialect].prompt(task.instruction, functions, nothing)[0]["content"]
    return functions if said == message else None


def _described(
    message: str, line: re.Match[str], bank: Sequence[Function], mentions: str
) -> tuple[Function | None, int]:
    """The function whose description stands there, under whatever name, and where that ends."""
    for made in sorted(bank, key=lambda made: made.name != line[1]):
        tail = re.escape(made.signature.removeprefix(made.name))
        described = r"\w+".join(map(re.escape, re.split(mentions, made.description)))
        example = re.escape(f"{made.example.removeprefix(made.name)} -> {made.example_result}")
        text = rf"{tail}: {described} Example: {line[1]}{example}(?=\n|\Z)"
        if (found := re.compile(text).match(message, line.end())) is not None:
            return made, found.end()
    return None, line.end()


# --- which names occur ----------------------------------------------------------------------------


def _needed(original: Original) -> set[str]:
    """What a chain calls, or tries to call, or speaks of as a call; what the gold chain calls; what
    ends a chain; and what the texts that stay call by its name."""
    needed = _called_names(original.chains)
    needed |= {name for text in original.problem.gold for name in _CALLED.findall(text)}
    told = [original.task.instruction, original.problem.question]
    for made in original.functions:
        others = [other.description for other in original.functions if other is not made]
        if (
            made.role is Role.FLOW
            or made.task_name in needed
            or _mentioned(made.name, "\n".join([*told, *others]))
        ):
            needed.add(made.name)
    return needed


def _called_names(chains: Iterable[Chain]) -> set[str]:
    """The names of all calls in the replies of chains, talk of calls included."""
    return {name for chain in chains for step in chain.steps for name in _CALLED.findall(step.reply)}


def _taken_names(original: Original) -> set[str]:
    """Names that no other function may get, in lower case: those of the task, shown or not, and what a
    chain calls in vain."""
    names = {made.name for made in original.task.functions}
    for made in original.functions:
        names |= {made.name, made.task_name}
    return {name.lower() for name in names | _called_names(original.chains)}


def _mentioned(name: str, text: str) -> bool:
    """Whether a text speaks of a function and not just with the same word: `add(`, `` `add` ``, or a
    name that is no English word."""
    return re.search(_mention(name), text) is not None


def _mention(name: str) -> str:
    written = re.escape(name)
    anywhere = rf"|(?<!\w){written}(?!\w)" if "_" in name else ""
    return rf"(?<![\w.]){written}(?=\()|(?<=`){written}(?=`){anywhere}"


# --- new names ------------------------------------------------------------------------------------

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    # calculating
    "add": ("plus", "sum_of", "total_of", "add_up"),
    "subtract": ("minus", "take_away", "difference"),
    "multiply": ("times", "product_of", "multiplied"),
    "divide": ("divided_by", "quotient", "split_by", "ratio"),
    "percent_of": ("percentage", "share_of", "take_percent"),
    "percent_change": ("relative_change", "change_in_percent", "growth"),
    "round_to": ("rounded", "to_decimals", "round_number"),
    "calculate": ("evaluate", "compute", "work_out", "value_of"),
    "solve_equation": ("solve_for", "find_unknown", "equation_solver"),
    "power": ("raised_to", "exponentiate"),
    "square_root": ("root_of", "sqrt_of"),
    "average": ("mean_of", "average_of"),
    "maximum": ("largest", "highest"),
    "minimum": ("smallest", "lowest"),
    "count": ("number_of", "tally", "how_many"),
    # reasoning
    "premise": ("fact", "given", "assume", "state", "axiom"),
    "goal": ("query", "conclude", "check_claim", "question"),
    "claim": ("propose", "hypothesis", "conjecture", "target"),
    "derive": ("infer", "deduce", "prove_from", "show"),
    "reason": ("think", "note", "thought", "reflect"),
    "stop": ("finish", "answer_with", "done", "final_answer", "submit", "conclude_with"),
    "verify": ("check", "confirm", "validate"),
    # anything else
    "record": ("store", "keep", "write_down", "save"),
    "search": ("look_up", "find", "lookup"),
    "find": ("locate", "search_for", "look_up"),
    "get": ("fetch", "retrieve", "obtain"),
    "set": ("assign", "put"),
    "read": ("load", "open_text", "view"),
    "write": ("put_down", "note_down"),
    "list": ("show_all", "enumerate_all"),
    "compare": ("contrast", "match"),
    "convert": ("change_to", "translate", "transform"),
    "sort": ("order", "arrange"),
    "filter": ("select", "keep_only"),
    "answer": ("reply_with", "respond"),
    "finish": ("stop_with", "end_with", "complete"),
}
"""Name → other names that say the same. Names of several words are looked up whole, then by a word."""

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "pl", "tr")
_VOWELS = "aeiou"
_ENDS = ("", "", "l", "n", "r", "s", "x")


def _new_names(functions: Sequence[Function], taken: set[str], rng: Random) -> dict[str, str]:
    """Name → another one, no two alike (whatever the case) and none of those taken."""
    names: dict[str, str] = {}
    taken = {*taken, *(made.name.lower() for made in functions)}
    for made in functions:
        unfit = taken | {parameter.lower() for parameter in made.parameters}
        name = next(name for name in _proposed(made, rng) if _usable(name, unfit))
        taken.add(name.lower())
        names[made.name] = name
    return names


def _usable(name: str, taken: set[str]) -> bool:
    reserved = keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name)
    return not reserved and name.isidentifier() and name.lower() not in taken


def _proposed(made: Function, rng: Random) -> Iterable[str]:
    """Synonyms in any order, then invented names without end."""
    known = [*SYNONYMS.get(made.task_name or made.name, ()), *SYNONYMS.get(made.name, ())]
    if not known:
        parts = made.name.split("_")
        for place, part in enumerate(parts):
            for other in SYNONYMS.get(part, ()) if len(parts) > 1 else ():
                known.append("_".join([*parts[:place], other, *parts[place + 1 :]]))
    rng.shuffle(known)
    yield from known
    while True:
        syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3))]
        yield "".join(syllables) + rng.choice(_ENDS)


def _renamed(made: Function, names: Mapping[str, str]) -> Function:
    """The function under its new name, if it gets one, with the new names in its description."""
    described = made.description
    for old, new in names.items():
        described = re.sub(_mention(old), new, described)
    shown = made.renamed(names[made.name]) if made.name in names else made
    return shown if described == made.description else replace(shown, description=described)


# --- replies under new names ----------------------------------------------------------------------


def _with_names(chain: Chain, names: Mapping[str, str], functions: FunctionSet) -> list[str] | None:
    """A chain's replies with its functions called by their new names; None where a reply would then not
    be read as it was."""
    new = [names.get(name, name) for name in functions.by_name]
    replies = []
    for step in chain.steps:
        reply = _reply_with_names(step.reply, names)
        if _read(reply, new) != _read(step.reply, [*functions.by_name], names):
            return None
        replies.append(reply)
    return replies


def _read(reply: str, known: Sequence[str], names: Mapping[str, str] = {}) -> list[Call] | FailureKind:
    """What a reply says, with other names for what it calls."""
    try:
        calls = parse_calls(reply, known=known)
    except CallError as error:
        return error.kind
    return [call.model_copy(update={"name": names.get(call.name, call.name)}) for call in calls]


_STRING = r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"


def _reply_with_names(reply: str, names: Mapping[str, str]) -> str:
    """Every `name(...)` under its new name, but for what stands in a string of a call's arguments, and
    every `` `name` ``.

    >>> _reply_with_names("So I `add`: add(2, 3), I don't add up", {"add": "plus"})
    "So I `plus`: plus(2, 3), I don't add up"
    >>> _reply_with_names('note("add(2, 3)")', {"add": "plus", "note": "think"})
    'think("add(2, 3)")'
    """
    either = "|".join(map(re.escape, names))
    quoted = re.sub(rf"`({either})`", lambda found: f"`{names[found[1]]}`", reply)
    called = re.compile(rf"(?<![\w.])({either})(?=\s*\()")
    inside = re.compile(rf"{_STRING}|(?<![\w.])({either})(?=\s*\()")
    text, position = "", 0
    while found := _CALLED.search(quoted, position):
        text += quoted[position : found.start()]
        text += called.sub(lambda one: names[one[1]], quoted[found.start() : found.end()])
        position = _after_arguments(quoted, found.end())
        arguments = quoted[found.end() : position]
        text += inside.sub(lambda one: names[one[1]] if one[1] else one[0], arguments)
    return text + quoted[position:]


def _after_arguments(text: str, position: int) -> int:
    """Where the bracket is closed that was opened just before, minding strings; the end of the text if
    it never is."""
    depth = 1
    for found in re.compile(rf"{_STRING}|[()]").finditer(text, position):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    return len(text)
