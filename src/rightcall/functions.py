"""Plain typed Python functions → `Function`; a model's reply → `Call`; a call → `Observation`.

Text from a model is parsed with `ast` and read as literals; it is never evaluated.
"""

from __future__ import annotations

import ast
import inspect
import json
import keyword
import math
import os
import re
import textwrap
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)

from rightcall import sandbox
from rightcall.chain import JSON, Call, Observation, digest
from rightcall.errors import CallError, DefinitionError, FailureKind, nearest
from rightcall.native import MAX_INTEGER_BITS, MAX_NESTING, tools_text

MAX_REPLY_CHARACTERS = 20_000
MAX_OBSERVATION_CHARACTERS = 1_000
MAX_BROKEN_CALLS = 20
"""Reading of a reply ends at so many calls that do not parse: each costs a scan of the rest."""


_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class Role(StrEnum):
    """What a function is for (the paper's three kinds)."""

    SOLVE = "solve"
    FLOW = "flow"
    VERIFY = "verify"


class State:
    """Base of per-chain state. A function that annotates a parameter with a subclass gets the
    chain's own instance, made with no arguments when first needed; the model never sees it."""


@dataclass(frozen=True)
class Stop:
    """Returned by a flow function: the chain ends with this answer."""

    answer: str


States = dict[type[State], State]
"""The states of one chain, by type."""


@dataclass(frozen=True)
class Limits:
    """What an untrusted call may use before its worker is killed."""

    seconds: float = 5.0
    memory_mb: int = 512


@dataclass(frozen=True)
class Function:
    """A function a model may call. Make one with the `function` decorator."""

    name: str
    description: str
    role: Role
    example: str
    """A worked call, e.g. `add(2, 3)`."""
    example_result: str
    """What the example gave when it was run at definition time."""
    call: Callable[..., Any]
    arguments: type[BaseModel]
    """Pydantic model of the parameters the model fills in, in order."""
    state_parameters: dict[str, type[State]]
    trusted: bool
    """Runs in this process, without limits: only for code that cannot loop or blow up."""
    limits: Limits
    given: Callable[[], State] | None = None
    """Makes the state that the example needs."""
    task_name: str = ""
    """Its name in the task, where it is shown under another one."""

    def renamed(self, name: str) -> Function:
        """The same function under another name. Raises `DefinitionError` if no call could be written
        with that name."""
        if not name.isidentifier() or keyword.iskeyword(name):
            raise DefinitionError("not a name for a function", value=name)
        example = name + self.example.removeprefix(self.name)
        return replace(self, name=name, example=example, task_name=self.task_name or self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The plain Python function underneath, for tests and reuse."""
        return self.call(*args, **kwargs)

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """All parameters of the Python function, those for state included."""
        return dict(inspect.signature(self.call).parameters)

    @cached_property
    def signature(self) -> str:
        """`add(a: float, b: float = 1)`, as the prompt shows it."""
        shown = []
        for name, parameter in self.parameters.items():
            if name in self.state_parameters:
                continue
            kind = self._annotation_text(name)
            star = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else ""
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            shown.append(f"{star}{name}: {kind}{default}")
        return f"{self.name}({', '.join(shown)})"

    def _annotation_text(self, name: str) -> str:
        return _type_text(get_type_hints(self.call)[name])

    @property
    def help(self) -> str:
        """Signature, description and worked example: what is injected into the prompt."""
        return f"{self.signature}: {self.description} Example: {self.example} -> {self.example_result}"

    @cached_property
    def schema(self) -> dict[str, JSON]:
        """The OpenAI tool schema, for native tool calling."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": f"{self.description} Example: {self._example_arguments}",
                "parameters": _untitled(self.arguments.model_json_schema()),
            },
        }

    @property
    def _example_arguments(self) -> str:
        """The worked example as arguments by name."""
        (call,) = parse_calls(self.example, known=[self.name])
        given = json.dumps(_named_arguments(self, call), ensure_ascii=False)
        return f"{given} -> {self.example_result}"

    @cached_property
    def without_null(self) -> frozenset[str]:
        """The parameters that have a default and take no null."""
        fields = {str(field.alias): field for field in self.arguments.model_fields.values()}
        try:
            self.arguments.model_validate(dict.fromkeys(fields))
        except ValidationError as error:
            refused = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
            return frozenset(name for name in refused if not fields[name].is_required())
        return frozenset()

    @cached_property
    def fingerprint(self) -> str:
        """Changes when what the model sees or the source of the function changes."""
        try:
            source = inspect.getsource(self.call)
        except (OSError, TypeError):
            source = self.name
        return digest(self.help, source)


def _untitled(schema: JSON) -> JSON:
    """A JSON schema without the titles that pydantic adds: they say what the names say."""
    if isinstance(schema, list):
        return [_untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _untitled(part) for name, part in value.items()}
        if key in ("properties", "$defs")
        else _untitled(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }


def _type_text(annotation: Any) -> str:
    label = getattr(annotation, "__name__", None)
    if label and not typing.get_args(annotation):
        return str(label)
    return str(annotation).replace("typing.", "")


def function(
    *,
    example: str,
    role: Role | str = Role.SOLVE,
    name: str | None = None,
    given: Callable[[], State] | None = None,
    trusted: bool = False,
    limits: Limits = Limits(),
) -> Callable[[Callable[..., Any]], Function]:
    """Turn an ordinary typed, docstringed function into a `Function`.

    The docstring's first paragraph is the description. `example` is a call in Python syntax; it
    is run now, and a failing example is a `DefinitionError`. `given` makes the state the example
    needs (e.g. a proof with two premises). Untrusted functions run in a worker process under
    `limits`; `trusted=True` runs in-process. A call that fails leaves the chain's state as it was: a
    worker's state is kept only if the call succeeds, and a trusted function raises before it changes
    anything.

    >>> @function(example="add(2, 3)", trusted=True)
    ... def add(a: float, b: float) -> float:
    ...     '''Add two numbers.'''
    ...     return a + b
    >>> add.help
    'add(a: float, b: float): Add two numbers. Example: add(2, 3) -> 5.0'
    """

    def define(call: Callable[..., Any]) -> Function:
        label = name or call.__name__
        description = " ".join(textwrap.dedent(call.__doc__ or "").strip().split("\n\n")[0].split())
        if not description:
            raise DefinitionError(
                "function has no docstring",
                value=label,
                remedy="Its first paragraph is what the model reads about it.",
            )
        _check_kind(label, call)
        arguments, state_parameters = _arguments_model(label, call)
        made = Function(
            name=label,
            description=description,
            role=_role(label, role),
            example=example,
            example_result="",
            call=call,
            arguments=arguments,
            state_parameters=state_parameters,
            trusted=trusted,
            limits=limits,
            given=given,
        )
        return replace(made, example_result=_checked_example(made))

    return define


def _role(label: str, role: Role | str) -> Role:
    if role not in list(Role):
        known = [known.value for known in Role]
        raise DefinitionError(f"{label} has no such role", value=role, remedy=nearest(str(role), known))
    return Role(role)


def _check_kind(label: str, call: Callable[..., Any]) -> None:
    kinds = {
        "a coroutine": inspect.iscoroutinefunction,
        "a generator": inspect.isgeneratorfunction,
        "an asynchronous generator": inspect.isasyncgenfunction,
    }
    for kind, is_one in kinds.items():
        if is_one(call):
            raise DefinitionError(
                f"{label} is {kind}", remedy="Write a plain function that returns its result."
            )


def _hints(label: str, call: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(call, include_extras=True)
    except Exception as error:  # an unknown name, or no type at all
        raise DefinitionError(
            f"an annotation of {label} cannot be read",
            value=str(error),
            remedy="Import the type where the function is defined.",
        ) from error


def _check_default(label: str, name: str, hint: Any, default: Any) -> None:
    model = create_model(label, __config__=_CONFIG, value=(hint, ...))
    try:
        fits = vars(model.model_validate({"value": default}))["value"] == default
    except ValidationError:
        fits = False
    if not fits:
        raise DefinitionError(
            f"the default of {name!r} of {label} is not of its type",
            value=default,
            remedy=f"It is used as it is, where the model gives none: make it a {_type_text(hint)}.",
        )


def _arguments_model(
    label: str, call: Callable[..., Any]
) -> tuple[type[BaseModel], dict[str, type[State]]]:
    """Each parameter under a name of its own, its real one as the alias: no name that a parameter may
    have is a method of pydantic's, or private to it."""
    hints = _hints(label, call)
    fields: dict[str, Any] = {}
    states: dict[str, type[State]] = {}
    for name, parameter in inspect.signature(call).parameters.items():
        if name not in hints:
            raise DefinitionError(
                f"parameter {name!r} of {label} has no type annotation",
                remedy="Arguments are checked and coerced by annotation.",
            )
        hint, field_name = hints[name], f"argument_{len(fields)}"
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise DefinitionError(
                f"parameter {name!r} of {label} is positional-only",
                remedy="Remove the / from the signature: a model may name its arguments.",
            )
        if isinstance(hint, type) and issubclass(hint, State):
            states[name] = hint
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise DefinitionError(
                f"{label} takes **{name}", remedy="Name every parameter the model may give."
            )
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            if states:
                raise DefinitionError(
                    f"{label} takes *{name} after its state", remedy="Put state parameters last."
                )
            fields[field_name] = (list[hint], Field([], alias=name))  # type: ignore[valid-type]
        elif parameter.default is inspect.Parameter.empty:
            fields[field_name] = (hint, Field(alias=name))
        else:
            _check_default(label, name, hint, parameter.default)
            fields[field_name] = (hint, Field(parameter.default, alias=name))
    return create_model(label, __config__=_CONFIG, **fields), states


def example_result(made: Function) -> str:
    """Run a function's example and give its observation's text. Raises `CallError` if it fails."""
    (call,) = parse_calls(made.example, known=[made.name])
    states: States = {}
    if made.given is not None:
        state = made.given()
        states[type(state)] = state
    observation = FunctionSet([made]).run(call, states).observation
    if observation.failure is not None:
        raise CallError(observation.text.removeprefix("Error: ").rstrip("."), kind=observation.failure)
    return observation.text


def _checked_example(made: Function) -> str:
    try:
        parsed = parse_calls(made.example, known=[made.name])
    except CallError:
        parsed = []
    if len(parsed) != 1 or parsed[0].name != made.name or made.example.strip() != made.example:
        raise DefinitionError(
            f"the example of {made.name} is not one call of it",
            value=made.example,
            remedy=f"Write it as in Python: {made.name}(...).",
        )
    try:
        return example_result(made)
    except CallError as error:
        raise DefinitionError(
            f"the example of {made.name} fails: {error.fault}", value=made.example
        ) from error


@dataclass(frozen=True)
class Result:
    """What running one reply gave: the call, its observation, and an answer if it stopped."""

    call: Call | None
    observation: Observation
    answer: str | None = None


@dataclass(frozen=True)
class Notation:
    """How calls are written, by a model and to it. `PYTHON`, if none is named."""

    read: Callable[[str, Mapping[str, Function]], list[Call]]
    """A reply and the functions by name → its calls, at least one. Raises `CallError`."""
    takes: Callable[[Function], str]
    """What a function takes, for a model that gave it something else."""


@dataclass(frozen=True)
class FunctionSet:
    """The functions a chain may use, in the order the prompt shows them."""

    functions: Sequence[Function]
    max_observation: int = MAX_OBSERVATION_CHARACTERS
    by_name: dict[str, Function] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_name = {f.name: f for f in self.functions}
        if len(by_name) != len(self.functions):
            names = [f.name for f in self.functions]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise DefinitionError("two functions share a name", value=twice)
        object.__setattr__(self, "by_name", by_name)

    def __iter__(self) -> Iterator[Function]:
        return iter(self.functions)

    def __len__(self) -> int:
        return len(self.functions)

    @cached_property
    def fingerprint(self) -> str:
        return digest([f.fingerprint for f in self.functions])

    @cached_property
    def tools(self) -> str:
        """The schemas as one JSON text, as chains and pairs keep them."""
        return tools_text([made.schema for made in self.functions])

    @cached_property
    def task_names(self) -> dict[str, str]:
        """Name shown → name in the task, of the functions that are shown under another name."""
        return {made.name: made.task_name for made in self.functions if made.task_name}

    def subset(self, names: Iterable[str]) -> FunctionSet:
        """The named functions, in the order given; an unknown name is a `DefinitionError`."""
        chosen = []
        for name in names:
            if name not in self.by_name:
                known = nearest(name, self.by_name)
                raise DefinitionError("unknown function", value=name, remedy=known)
            chosen.append(self.by_name[name])
        return FunctionSet(chosen, self.max_observation)

    def reply(self, text: str, states: States, notation: Notation | None = None) -> Result:
        """Parse a reply and run its call. If it holds several calls the first is run, and the
        observation says so. Failures come back as typed observations."""
        try:
            calls = (notation or PYTHON).read(text, self.by_name)
        except CallError as error:
            return Result(None, self._failed(error))
        result = self.run(calls[0], states, notation)
        if len(calls) > 1:
            note = f" (Only the first of {len(calls)} calls was run: one call per reply.)"
            shown = result.observation
            result = Result(
                result.call, shown.model_copy(update={"text": shown.text + note}), result.answer
            )
        return result

    def isolated(self, text: str, notation: Notation | None = None) -> bool:
        """Whether the call that `reply` would run goes to a worker process."""
        if not any(made.name in text for made in self.functions if not made.trusted):
            return False
        try:
            calls = (notation or PYTHON).read(text, self.by_name)
        except CallError:
            return False
        made = self.by_name.get(calls[0].name)
        return made is not None and not made.trusted

    def run(self, call: Call, states: States, notation: Notation | None = None) -> Result:
        """Check a call's arguments, run it, and bound what it gives back."""
        before = dict(states)
        try:
            value = self._run(call, states, notation or PYTHON)
            if isinstance(value, Stop):
                answer = _storable(_text(value.answer))
                return Result(call, self._bounded(answer), answer)
            return Result(call, self._bounded(_text(value)))
        except CallError as error:
            states.clear()  # a worker may have succeeded, and its result not be showable
            states.update(before)
            return Result(call, self._failed(error))

    def _run(self, call: Call, states: States, notation: Notation) -> Any:
        made = self.by_name.get(call.name)
        if made is None:
            raise CallError(
                "unknown function",
                value=call.name,
                remedy=nearest(call.name, self.by_name),
                kind=FailureKind.UNKNOWN_FUNCTION,
            )
        args, kwargs = bind(made, call, notation)
        for name, kind in made.state_parameters.items():
            if kind not in states:
                states[kind] = kind()
            kwargs[name] = states[kind]
        try:
            if made.trusted:
                return made.call(*args, **kwargs)
            value, changed = sandbox.run(
                made.call,
                args,
                kwargs,
                tuple(made.state_parameters),
                seconds=made.limits.seconds,
                memory_mb=made.limits.memory_mb,
            )
        except (CallError, DefinitionError):
            raise
        except sandbox.Raised as error:
            raise CallError(f"{made.name} failed: {error}") from error
        except Exception as error:  # the function's own error is the model's to read
            raise CallError(f"{made.name} failed: {type(error).__name__}: {error}") from error
        for name, state in changed.items():
            states[made.state_parameters[name]] = state
        return value

    def _failed(self, error: CallError) -> Observation:
        text = str(error)
        for shown, own in self.task_names.items():  # "Record each sentence with premise(...)."
            text = re.sub(rf"\b{re.escape(own)}(?=\()", shown, text)
        return self._bounded(f"Error: {text}", failure=error.kind)

    def _bounded(self, text: str, failure: FailureKind | None = None) -> Observation:
        text = _storable(text)
        cut = max(0, len(text) - self.max_observation)
        if cut:
            text = f"{text[: self.max_observation]}... [{cut} characters cut]"
        return Observation(text=text, failure=failure, cut=cut)


def _storable(text: str) -> str:
    """The text without lone surrogates, which no file in UTF-8 could hold."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return "done" if value is None else str(value)
    except Exception as error:  # a number of 5,000 digits
        raise CallError(f"the result cannot be shown: {error}") from error


# --- arguments ----------------------------------------------------------------------------------


def bind(
    made: Function, call: Call, notation: Notation | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Match a call's literals to a function's parameters and coerce them by annotation.

    Returns positional values for `*args` parameters and keywords for the rest. Raises `CallError`
    naming the missing, unexpected or ill-typed argument.
    """
    takes = (notation or PYTHON).takes(made)
    raw = _named_arguments(made, call, takes)
    try:
        model = made.arguments.model_validate(raw)
    except ValidationError as error:
        raise _argument_error(made, error, takes) from error
    fields = made.arguments.model_fields
    values = {str(field.alias): getattr(model, name) for name, field in fields.items()}
    variadic = next(
        (n for n, p in made.parameters.items() if p.kind is inspect.Parameter.VAR_POSITIONAL),
        None,
    )
    if variadic is None:
        return [], values
    before = []
    for name, parameter in made.parameters.items():
        if name == variadic:
            break
        before.append(values.pop(name))
        del parameter
    return [*before, *values.pop(variadic)], values


def _named_arguments(made: Function, call: Call, takes: str = "") -> dict[str, JSON]:
    parameters = [(n, p) for n, p in made.parameters.items() if n not in made.state_parameters]
    named: dict[str, JSON] = {}
    rest = list(call.args)
    for name, parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            named[name], rest = rest, []
        elif rest and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            named[name] = rest.pop(0)
    if rest:
        raise CallError(
            f"{made.name} takes {len(parameters)} arguments, {len(call.args)} were given",
            value=rest[0],
            remedy=takes,
            kind=FailureKind.UNEXPECTED_ARGUMENT,
        )
    variadic = {n for n, p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL}
    for name, value in call.kwargs.items():
        if name in named and not (name in variadic and named[name] == []):
            raise CallError(
                f"argument {name!r} of {made.name} was given twice",
                value=value,
                kind=FailureKind.UNEXPECTED_ARGUMENT,
            )
        named[name] = value
    return named


def _argument_error(made: Function, error: ValidationError, takes: str) -> CallError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "missing":
        return CallError(
            f"{made.name} is missing argument {name!r}",
            remedy=takes,
            kind=FailureKind.MISSING_ARGUMENT,
        )
    if first["type"] == "extra_forbidden":
        known = [str(field.alias) for field in made.arguments.model_fields.values()]
        hint = nearest(name, known)
        return CallError(
            f"{made.name} has no argument {name!r}",
            remedy=f"{hint} {takes}".strip(),
            kind=FailureKind.UNEXPECTED_ARGUMENT,
        )
    where = ".".join(str(p) for p in first["loc"])
    return CallError(
        f"argument {where!r} of {made.name} is wrong",
        value=first["input"],
        remedy=f"{first['msg']}. {takes}",
        kind=FailureKind.WRONG_TYPE,
    )


# --- parsing ------------------------------------------------------------------------------------

_PARSING = threading.RLock()
"""CPython 3.11 counts the depth of syntax trees once for all threads: a parse that another thread's
interrupts (a garbage collection that runs Python code is enough) ends in a `SystemError`."""
os.register_at_fork(  # no child waits for a thread that it has not got
    before=_PARSING.acquire, after_in_parent=_PARSING.release, after_in_child=_PARSING.release
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_THOUGHT = re.compile(r"^[ \t]*<(think|thinking)>.*?(?:</\1>|\Z)", re.MULTILINE | re.DOTALL)
_THOUGHT_END = re.compile(r"\A.*?^[ \t]*</(?:think|thinking)>", re.MULTILINE | re.DOTALL)
"""Of a thought whose beginning stood in the prompt."""
_FENCE = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_FRAME = re.compile(r"(?:[ \t]*\d+[.)])?[ \t`>*\-.,;:]*(?:#.*)?")
"""What may stand on a line beside a call without making it part of a sentence."""
_SENTENCE = re.compile(r"(?:[^\n.!?:]|[.!?:](?!\s))+")
_NAME_BEFORE_PARENTHESIS = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\s*\(")


def parse_calls(text: str, known: Iterable[str] = ()) -> list[Call]:
    """The calls that a reply makes, in order of appearance.

    A call may stand alone, in a code fence or inside prose. Names from `known` count first; if none
    of them is called, a call of another name at the start of a line counts (it will be refused as
    unknown). Where calls stand by themselves (on a line, between sentences, in a fence), those inside
    sentences are talk about calls and do not count; what stands in a think block never does. Raises
    `CallError` (NO_CALL or UNPARSABLE) with a remedy.

    >>> [str(c) for c in parse_calls("I add: add(2, b=-3.5).", known=["add"])]
    ['add(2, b=-3.5)']
    >>> [str(c) for c in parse_calls("I will not stop(5) yet. add(2, 3)", known=["add", "stop"])]
    ['add(2, 3)']
    """
    if len(text) > MAX_REPLY_CHARACTERS:
        raise CallError(
            f"the reply has {len(text)} characters, {MAX_REPLY_CHARACTERS} are read",
            remedy="Reply with one short call.",
            kind=FailureKind.UNPARSABLE,
        )
    whole, text = text, _without_thoughts(text)
    names = set(known)
    found: list[tuple[Call, int, int]] = []
    problem: CallError | None = None
    position = broken = 0
    while broken < MAX_BROKEN_CALLS and (match := _NAME_BEFORE_PARENTHESIS.search(text, position)):
        position = match.end()
        wanted = match[1] in names
        if not wanted and not _starts_line(text, match.start()):
            continue
        end = _closing(text, match.end() - 1)
        if not wanted and end is None:
            broken += 1
            continue
        try:
            call = _literal_call(text[match.start() : end])
            found.append((call, match.start(), end if end is not None else position))
        except CallError as error:
            broken += 1
            problem = problem or error
            if not wanted:  # `print(add(1, 2))` is a call of add
                continue
        position = end if end is not None else position
    if found:
        wanted_ones = [one for one in found if one[0].name in names] or found
        alone = _standing_alone(text, [(start, end) for _, start, end in wanted_ones])
        chosen = [one for one in wanted_ones if one[1] in alone] or wanted_ones
        return [call for call, _, _ in chosen]
    raise problem or CallError(
        "no function call in the reply",
        value=_shorten(whole),
        remedy="Reply with one call such as name(argument).",
        kind=FailureKind.NO_CALL,
    )


PYTHON = Notation(parse_calls, lambda made: f"Signature: {made.signature}.")


def _without_thoughts(text: str) -> str:
    """The text with blanks in place of think blocks."""
    if "think" not in text:
        return text
    for pattern in (_THOUGHT, _THOUGHT_END):
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def _standing_alone(text: str, calls: Sequence[tuple[int, int]]) -> set[int]:
    """The starts of the calls that stand in a fence, or where a sentence would with nothing but
    calls."""
    rest = list(text)
    for start, end in calls:
        rest[start:end] = " " * (end - start)
    bare = "".join(rest)
    alone = bytearray(len(text))
    for found in _FENCE.finditer(text):
        alone[found.start() : found.end()] = b"\1" * (found.end() - found.start())
    for found in _SENTENCE.finditer(bare):
        if _FRAME.fullmatch(found[0]):
            alone[found.start() : found.end()] = b"\1" * (found.end() - found.start())
    return {start for start, _ in calls if alone[start]}


def _starts_line(text: str, position: int) -> bool:
    return not text[text.rfind("\n", 0, position) + 1 : position].strip(" \t`>*-")


def _closing(text: str, opening: int) -> int | None:
    """Index just past the bracket that closes the one at `opening`, minding strings."""
    depth, quote, i = 0, "", opening
    while i < len(text):
        char = text[i]
        if quote:
            if char == "\\":
                i += 1
            elif text.startswith(quote, i):
                i += len(quote) - 1
                quote = ""
        elif char in "\"'":
            quote = char * 3 if text.startswith(char * 3, i) else char
            i += len(quote) - 1
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return None


def parse_expression(source: str) -> ast.expr:
    """The syntax tree of an expression, from any thread."""
    with _PARSING:
        return ast.parse(source, mode="eval").body


def _literal_call(source: str) -> Call:
    try:
        node = parse_expression(source.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        nested = isinstance(error, (MemoryError, RecursionError))
        reason = "too deeply nested" if nested else getattr(error, "msg", None) or str(error)
        raise CallError(
            f"the call does not parse ({reason})",
            value=_shorten(source),
            remedy="Write name(argument, ...) with literal arguments.",
            kind=FailureKind.UNPARSABLE,
        ) from error
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise CallError("not a call", value=_shorten(source), kind=FailureKind.UNPARSABLE)
    kwargs = {}
    for named in node.keywords:
        if named.arg is None:
            raise _not_literal(named.value)
        if named.arg in kwargs:
            raise CallError(
                f"argument {named.arg!r} is given twice",
                value=_shorten(source),
                remedy="Give each argument once.",
                kind=FailureKind.UNPARSABLE,
            )
        kwargs[named.arg] = _literal(named.value)
    return Call(name=node.func.id, args=tuple(_literal(a) for a in node.args), kwargs=kwargs)


def _literal(node: ast.expr, depth: int = 0) -> JSON:
    """The value of a literal node; JSON types only (tuples become lists), and only what a JSON
    file in UTF-8 can hold: no infinite or enormous numbers, no lone surrogates, no deep nesting."""
    if depth > MAX_NESTING:
        raise CallError(
            f"an argument is nested more than {MAX_NESTING} deep",
            remedy="Write a flatter list.",
            kind=FailureKind.UNPARSABLE,
        )
    match node:
        case ast.Constant(value=int() as value) if value.bit_length() > MAX_INTEGER_BITS:
            raise CallError(
                f"an integer has more than {MAX_INTEGER_BITS} bits",
                remedy="Use a smaller number.",
                kind=FailureKind.UNPARSABLE,
            )
        case ast.Constant(value=float() as value) if not math.isfinite(value):
            raise _not_literal(node)
        case ast.Constant(value=str() as value) if _LONE_SURROGATE.search(value):
            raise _not_literal(node)
        case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant() as operand):
            value = _literal(operand)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return -value if isinstance(sign, ast.USub) else value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item, depth + 1) for item in items]
        case ast.Dict(keys=keys, values=values):
            made: dict[str, JSON] = {}
            for key, item in zip(keys, values, strict=True):
                if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                    raise _not_literal(key or item)
                made[_literal(key)] = _literal(item, depth + 1)
            return made
    raise _not_literal(node)


def _not_literal(node: ast.expr) -> CallError:
    return CallError(
        "an argument is not a literal",
        value=_shorten(_source_of(node)),
        remedy="Use numbers, quoted strings, True, False, None, lists or dicts.",
        kind=FailureKind.UNPARSABLE,
    )


def _source_of(node: ast.expr) -> str:
    try:
        return ast.unparse(node).encode(errors="backslashreplace").decode()
    except (RecursionError, ValueError):  # a long chain of operators; a number of 5,000 digits
        return "a long expression"


def _shorten(text: str, limit: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
