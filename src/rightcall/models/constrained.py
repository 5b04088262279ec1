"""Replies that are always a call: a grammar made from the functions' signatures, held by llguidance.

A constrained reply is one call in Python syntax and nothing else, as the prompt asks for it: the name
of a function, its arguments in their order or by name, literals of the annotated types. The turn can
end where the call is complete, and only there, so a reply is broken only if its length limit cuts it.

What a literal may be comes from each parameter's JSON schema, as pydantic gives it: what the schema
cannot say (a validator of one's own, the syntax of a formula in a string) is not enforced.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic.errors import PydanticInvalidForJsonSchema

from rightcall.chain import JSON
from rightcall.errors import ConfigError, ModelError
from rightcall.functions import Function, FunctionSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHED_GRAMMARS = 64

LITERALS = r"""
SEP: /, ?/
INTEGER: /-?(0|[1-9][0-9]{0,14})/
NUMBER: /-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?/
STRING: /"([^"\\\x00-\x1f\x7f]|\\["'\\nt])*"/ | /'([^'\\\x00-\x1f\x7f]|\\["'\\nt])*'/
BOOLEAN: "True" | "False"
scalar: STRING | NUMBER | BOOLEAN | "None"
list_of_scalars: "[]" | "[" scalar (SEP scalar)* "]"
dict_of_scalars: "{}" | "{" STRING ": " scalar (SEP STRING ": " scalar)* "}"
item: scalar | list_of_scalars | dict_of_scalars
any: item | "[" item (SEP item)* "]" | "{" STRING ": " item (SEP STRING ": " item)* "}"
"""
"""Numbers of a sane size, strings on one line, lists in lists in a value of any type, and no deeper."""

_QUOTED = {"json_allowed_escapes": '"\\nt', "whitespace_flexible": False}
"""JSON strings that are Python strings of the same value too."""

_PLAIN = {
    "string": "STRING",
    "number": "NUMBER",
    "integer": "INTEGER",
    "boolean": "BOOLEAN",
    "null": '"None"',
}

_NARROWING = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
"""Keywords with which a scalar is left to llguidance's own reading of JSON schemas."""


class Constrainer:
    """Makes the constraint of each turn. Needs llguidance and a fast tokenizer; `vocabulary` is the
    number of logits, `stop_ids` end a reply. Raises `ConfigError` if either is missing."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, stop_ids: Sequence[int]
    ) -> None:
        try:
            import llguidance
            import llguidance.hf
        except ImportError as error:
            raise ConfigError(
                "constrained decoding needs llguidance, which is not installed",
                remedy="pip install 'rightcall[constrained]'.",
            ) from error
        if not tokenizer.is_fast:
            raise ConfigError(
                "constrained decoding needs a tokenizer of the tokenizers library",
                value=tokenizer.name_or_path,
                remedy="Use a model with a tokenizer.json.",
            )
        self._llguidance: Any = llguidance
        self._vocabulary = vocabulary
        self._tokenizer: Any = llguidance.hf.from_tokenizer(
            tokenizer,  # type: ignore[arg-type]
            n_vocab=vocabulary,
            eos_token=sorted(stop_ids),
        )
        self._compiled = lru_cache(maxsize=CACHED_GRAMMARS)(self._compile)
        self._functions: dict[str, FunctionSet] = {}

    def constraint(self, functions: FunctionSet) -> CallConstraint:
        """For one reply. Raises `ConfigError` for parameters that no grammar can be made for."""
        self._functions[functions.fingerprint] = functions
        matcher = self._compiled(functions.fingerprint).deep_copy()
        return CallConstraint(matcher, self._vocabulary)

    def _compile(self, fingerprint: str) -> Any:
        matcher = self._llguidance.LLMatcher
        grammar = matcher.grammar_from_lark(call_grammar(self._functions.pop(fingerprint)))
        made = matcher(self._tokenizer, grammar, log_level=0)
        if made.is_error():
            raise ConfigError(
                "llguidance refuses the grammar of these functions",
                value=made.get_error()[:300],
                remedy="Simplify the annotations, or turn constrained decoding off.",
            )
        return made


class CallConstraint:
    """What one reply may say next (`engine.Constraint`)."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._words = (vocabulary + 31) // 32
        self._vocabulary = vocabulary

    def allowed(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise ModelError("constrained decoding failed", value=self._matcher.get_error()[:300])
        return np.unpackbits(bits, bitorder="little", count=self._vocabulary).view(np.bool_)

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


# --- the grammar --------------------------------------------------------------------------------


def call_grammar(functions: FunctionSet) -> str:
    """The calls of these functions, in llguidance's Lark syntax. Raises `ConfigError`."""
    rules = _Rules()
    calls = " | ".join(rules.call(f) for f in functions)
    return "\n".join([f'start: " "? ({calls})', *rules.lines, LITERALS])


class _Rules:
    """Rules made so far, named by number."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    @property
    def lines(self) -> list[str]:
        return [f"{name}: {body}" for body, name in self._names.items()]

    def rule(self, body: str) -> str:
        return self._names.setdefault(body, f"r{len(self._names)}")

    def call(self, made: Function) -> str:
        """Positional arguments in order, from some point on by name in the same order; defaults may
        be left out."""
        try:
            schema = made.arguments.model_json_schema()
        except PydanticInvalidForJsonSchema as error:
            raise _unknown(made.name, str(error)) from error
        parameters = [p for n, p in made.parameters.items() if n not in made.state_parameters]
        literals = {}
        for parameter in parameters:
            part = schema["properties"][parameter.name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                part = part.get("items", {})
            where = f"{made.name}({parameter.name})"
            literals[parameter.name] = self.literal(part, schema.get("$defs", {}), where)
        arguments = self._positional(parameters, literals, "")
        return self.rule(f'{_text(made.name + "(")} {arguments} ")"')

    def _positional(self, rest: list[inspect.Parameter], literals: dict[str, str], comma: str) -> str:
        """Arguments from here on, none given by name so far; `comma` precedes the first."""
        named = self._named([p for p in rest if p.kind is not p.VAR_POSITIONAL], literals, comma)
        if not rest or rest[0].kind is inspect.Parameter.KEYWORD_ONLY:
            return named
        value = literals[rest[0].name]
        if rest[0].kind is inspect.Parameter.VAR_POSITIONAL:
            after = self._named(rest[1:], literals, "SEP ")
            return self.rule(f"{named} | {comma}{value} (SEP {value})* {after}")
        return self.rule(f"{named} | {comma}{value} {self._positional(rest[1:], literals, 'SEP ')}")

    def _named(self, rest: list[inspect.Parameter], literals: dict[str, str], comma: str) -> str:
        """Arguments by name, in order."""
        if not rest:
            return '""'
        parameter = rest[0]
        later = self._named(rest[1:], literals, "SEP ")
        given = f"{comma}{_text(parameter.name + '=')} {literals[parameter.name]} {later}"
        if parameter.default is parameter.empty:
            return self.rule(given)
        return self.rule(f"{given} | {later if comma else self._named(rest[1:], literals, '')}")

    def literal(
        self, schema: dict[str, JSON], defs: dict[str, JSON], where: str, depth: int = 0
    ) -> str:
        """The rule or terminal for the values of a JSON schema."""
        if depth > 16:
            raise _unknown(where, "a type that refers to itself")

        def inner(part: dict[str, JSON]) -> str:
            return self.literal(part, defs, where, depth + 1)

        if "$ref" in schema:
            return inner(defs[schema["$ref"].rpartition("/")[2]])
        if "const" in schema or "enum" in schema:
            values = schema.get("enum", [schema.get("const")])
            return self.rule(" | ".join(spelling for v in values for spelling in _spellings(v)))
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self.rule(" | ".join(inner(part) for part in schema[several]))
        kind = schema.get("type")
        if kind is None and not {"allOf", "not"} & set(schema):
            return "any"
        if kind in _NARROWING and _NARROWING[kind] & set(schema):
            kept = {k: v for k, v in schema.items() if k in _NARROWING[kind] or k == "type"}
            return self.rule(f"%json {json.dumps({**kept, 'x-guidance': _QUOTED})}")
        if kind in _PLAIN:
            return _PLAIN[kind]
        if kind == "array":
            return self._array(schema, inner)
        if kind == "object" and "properties" in schema:
            return self._record(schema, inner)
        if kind == "object":
            more = schema.get("additionalProperties", True)
            value = inner(more) if isinstance(more, dict) else "any"
            key = inner({"type": "string", **schema.get("propertyNames", {})})
            return self.rule(f'"{{}}" | "{{" {key} ": " {value} (SEP {key} ": " {value})* "}}"')
        raise _unknown(where, json.dumps(schema)[:200])

    def _array(self, schema: dict[str, JSON], inner: Any) -> str:
        if "prefixItems" in schema:
            items = " SEP ".join(inner(part) for part in schema["prefixItems"])
            return self.rule(f'"[" {items} "]"')
        item = inner(schema["items"]) if isinstance(schema.get("items"), dict) else "any"
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return '"[]"'
        more = f"(SEP {item}){{{max(0, least - 1)},{'' if most is None else most - 1}}}"
        return self.rule(f'"[" {item} {more} "]"' + ("" if least else ' | "[]"'))

    def _record(self, schema: dict[str, JSON], inner: Any) -> str:
        """An object of known keys: all of them, in order."""
        parts = [f"{_text(json.dumps(k) + ': ')} {inner(v)}" for k, v in schema["properties"].items()]
        return self.rule(f'"{{" {" SEP ".join(parts)} "}}"') if parts else '"{}"'


def _spellings(value: JSON) -> list[str]:
    """How a constant may be written, as the grammar's own strings."""
    if not isinstance(value, str):
        return [_text(repr(value))]
    return [_text(json.dumps(value, ensure_ascii=False)), _text(repr(value))]


def _text(literal: str) -> str:
    return json.dumps(literal, ensure_ascii=False)


def _unknown(where: str, why: str) -> ConfigError:
    return ConfigError(
        f"no grammar can be made for {where}",
        value=why[:300],
        remedy="Annotate it with plain types, or turn constrained decoding off.",
    )
