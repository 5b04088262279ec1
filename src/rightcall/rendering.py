"""Conversation → token ids and train mask, the same way for rollouts and for training.

A conversation is cut where a model's turn begins and where it ends; every piece is tokenised by
itself. The local engine builds its cache from the same pieces, so what is trained is, token by
token, what was seen and said. Templates that rewrite history are refused. One thing is helped: where
a template takes no system turn, drops it, or moves it to the latest question, the system text begins
the first user turn instead; chains keep their messages as they are.

Running the template on every prefix of every conversation would cost quadratic time. So the
literal text around the messages is learned once per sequence of roles, by running the template on
marker messages (`_Frame`); a conversation is then assembled from it and compared with one run of
the template on the whole. Where the two differ, every prefix is rendered after all.

Native tool calling (`tools` given: the schemas of the functions as JSON text) goes the same way: calls
and observations become `tool_calls` and role tool (see `rightcall.native`), the template writes them,
and the model's reply is read in the notation in which its template writes a call. There the text
around a turn is learned once per form of it (`_Shape`: with a thought or without, so many calls), as a
conversation has too many of them to be learned as a whole.

Only the template's own frame holds special tokens: a content that spells one ("<|im_end|>", "</s>")
is tokenised as the ordinary text that it is, so that nobody's words end a turn or begin another's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from rightcall.chain import Message
from rightcall.errors import ConfigError, RenderingError
from rightcall.native import (
    SYNTAXES,
    Invocation,
    Said,
    Syntax,
    call_id,
    json_text,
    map_texts,
    read,
    structured,
    texts_of,
    tools_of,
    tools_text,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = "26 Jul 2024"
"""For templates that print today's date (Llama 3.2): a prompt is the same when it is trained on."""
DATED = f"{{%- set date_string = '{DATE}' %}}"
"""Put before such a template in an export."""
FOLDING = (
    "{%- if messages and messages[0]['role'] == 'system' %}"
    "{%- if messages | length > 1 and messages[1]['role'] == 'user' %}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\n\n' "
    "+ messages[1]['content']}] + messages[2:] %}"
    "{%- else %}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content']}] + messages[1:] %}"
    "{%- endif %}{%- endif %}"
)
"""Put before a template that keeps no system turn in its place: the system text begins the first user
turn, as `Renderer` has it."""

_CACHED_PIECES = 65_536
_CACHED_PREFIXES = 16_384
"""Texts of conversations with tools: the next turn's prefixes are those of the turn before."""
_SHORT_TOOLS = tools_text(
    [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "",
                "parameters": {"type": "object", "properties": {}},
            },
        }
    ]
)
"""That a template shows soon, where it does not matter which."""
_MANY_CALLS = 99_000
"""The ids of the calls after them stand nowhere else."""
_NO_TOOLS = 'Use a chat template for tool calling that only appends, or dialect = "python".'
_ROLES = ("system", "user", "assistant", "user", "assistant", "user")
"""Of a chain with two calls: what any template must carry by appending."""


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation and which of them are the model's own words."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """Same length; True on the tokens of assistant turns, stop token included."""


@dataclass(frozen=True)
class _Frame:
    """A template's text around what conversations of one form say."""

    pieces: tuple[tuple[str | _Hole, ...], ...]
    """What `Renderer._pieces` gives: each piece is literal text and holes."""

    @classmethod
    def of(cls, pieces: Sequence[str], markers: Sequence[str]) -> _Frame:
        """Pieces in which every saying is a marker that stands nowhere else."""
        holes = {
            form(marker): _Hole(index, form)
            for index, marker in enumerate(markers)
            for form in _FORMS
            if marker
        }
        longest = sorted(holes, key=len, reverse=True)
        any_hole = re.compile(f"({'|'.join(map(re.escape, longest))})")
        return cls(tuple(tuple(holes.get(part, part) for part in any_hole.split(p)) for p in pieces))

    def filled(self, sayings: Sequence[str]) -> list[str]:
        return [
            "".join(p if isinstance(p, str) else p.form(sayings[p.index]) for p in piece)
            for piece in self.pieces
        ]


@dataclass(frozen=True)
class _Hole:
    """Where a template writes a saying, and how."""

    index: int
    form: Callable[[str], str]


_FORMS: tuple[Callable[[str], str], ...] = (
    lambda text: json_text(text.strip()),
    json_text,
    str.strip,
    str.lstrip,
    str.rstrip,
    lambda text: text,
)
"""How templates write what is said; of those that do the same to a marker, the last counts."""


def _marker(number: int) -> str:
    """A text of which any two forms differ, between blanks that stand in no template."""
    return f'\v\ue000{number}\ue001"\v'


@dataclass(frozen=True)
class _Shape:
    """What a turn's text depends on beside what it says: thoughts, words, names, arguments."""

    role: str
    opening: str
    """Of a thought; empty if there is none."""
    has_thought: bool
    closing: str
    has_words: bool
    calls: int

    @classmethod
    def of(cls, message: Message) -> tuple[_Shape, list[str]]:
        """A turn's shape, and what it says: thought, words, and of each call the name and the arguments
        as JSON."""
        role = message["role"]
        said = read(message["content"]) if role == "assistant" else Said(message["content"])
        found = _THOUGHT.fullmatch(said.words)
        assert found is not None  # it takes any text
        opening, thought, closing, words = found.groups("")
        shape = cls(role, opening, bool(thought), closing, bool(words), len(said.calls))
        called = [text for c in said.calls for text in (c.name, json_text(c.arguments))]
        return shape, [thought, words, *called]

    def marked(self, numbers: Iterator[int]) -> Message:
        """A turn of this shape that says nothing but markers."""
        marks = map(_marker, numbers)
        thought, words = (next(marks) if there else "" for there in (self.has_thought, self.has_words))
        text = f"{self.opening}{thought}{self.closing}{words}"
        if self.role == "assistant":
            called = (Invocation(next(marks), {next(marks): next(marks)}) for _ in range(self.calls))
            text = str(Said(text, tuple(called)))
        return Message(role=self.role, content=text)


_THOUGHT = re.compile(r"(?:(<think>\n*)(.*?)(\n*</think>\n*))?(.*)", re.DOTALL)
"""At the head of a reply. Templates that know of thoughts set the line ends around them."""


class Renderer:
    """Renders conversations with a tokenizer's own chat template.

    `stop_ids` end a turn; by default the tokenizer's EOS token and, where the template ends the
    assistant's turns with another special token, that one.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int] | None = None
    ) -> None:
        if not tokenizer.chat_template:
            raise RenderingError(
                "the tokenizer has no chat template",
                value=tokenizer.name_or_path,
                remedy="Use an instruct model, or set tokenizer.chat_template.",
            )
        self.tokenizer = tokenizer
        self._specials = _special_tokens(tokenizer)
        self._special_ids = {
            i for i, t in tokenizer.added_tokens_decoder.items() if self._specials.fullmatch(str(t))
        }
        self._encoded: dict[str, tuple[int, ...]] = {}
        self._written = lru_cache(maxsize=_CACHED_PREFIXES)(self._write)
        self._syntax = lru_cache(maxsize=256)(self._find_syntax)
        self._checked: set[str] = set()
        self._corrects = lru_cache(maxsize=256)(self._takes_corrections)
        self._frame = lru_cache(maxsize=256)(self._learn_frame)
        self._turn_frame = lru_cache(maxsize=4096)(self._learn_turn_frame)
        self.folds = self._must_fold()
        """Whether the system text begins the first user turn."""
        self.stop_ids = frozenset(stop_ids if stop_ids else self._turn_ends())

    def check(self, tools: str = "") -> None:
        """Raises `RenderingError` if the template cannot carry a chain: found on a conversation of
        two calls, before any is collected. With `tools`: or if it does not show them, or writes calls
        in no notation that can be read."""
        if not tools:
            self.render(_probe(), reply_next=True)
            return
        self._check_shown(tools)
        self._syntax(tools)
        turns = self._placed(_native_probe(tools, 2))
        self.render(turns, reply_next=True, tools=tools)
        whole = self._text(turns, reply_next=True, tools=tools)
        for number, turn in enumerate(turns):
            if any(text not in whole for text in texts_of(turn)):
                raise RenderingError(
                    f"the chat template drops a turn of role {turn['role']}",
                    value=f"turn {number + 1} of a conversation with two calls",
                    remedy=_NO_TOOLS,
                )

    def check_once(self, tools: str) -> None:
        """`check`, if it was not done for these tools. Raises `ConfigError`, as no conversation can be
        rendered."""
        if not tools or tools in self._checked:
            return
        try:
            self.check(tools)
        except RenderingError as error:
            raise ConfigError(error.fault, value=error.value, remedy=error.remedy) from error
        self._checked.add(tools)

    def _check_shown(self, tools: str) -> None:
        """Whether the prompt shows every function."""
        prompt = self._text(self._placed(_native_probe(tools, 0)), reply_next=True, tools=tools)
        for schema in tools_of(tools):
            name = schema["function"]["name"]
            if name not in prompt:
                raise RenderingError(
                    "the chat template does not show the functions", value=name, remedy=_NO_TOOLS
                )

    def _find_syntax(self, tools: str) -> Syntax:
        """How the model writes calls: as its template does. Raises `RenderingError`."""
        probe = self._placed(_native_probe(tools, 1)[:3])
        *_, said = self._pieces(probe, reply_next=False, tools=tools)
        (ids,) = self._tokenised([said])
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        text = str(self.tokenizer.decode(list(ids[:stop]), skip_special_tokens=False))
        wanted = read(probe[-1]["content"]).calls
        for syntax in SYNTAXES:
            if syntax.recognise(text) and syntax.read(text).calls == wanted:
                return syntax
        raise RenderingError(
            "the chat template writes calls in a notation that is not known here",
            value=text.strip(),
            remedy=f"Known are {', '.join(syntax.name for syntax in SYNTAXES)}. {_NO_TOOLS}",
        )

    def notation(self, tools: str) -> str:
        """The name of the syntax in which the model writes calls. Raises `RenderingError`."""
        return self._syntax(tools).name

    def reply_marks(self, tools: str) -> list[str]:
        """What stands right before a reply: after the question, and after an observation; in what both
        have in common, if a special token is in it, else each from its last special token on."""
        turns = self._placed(_native_probe(tools, 1))
        ends = []
        for end in (turns[:-2], turns):
            prompt = self._text(end, reply_next=True, tools=tools)
            ends.append(prompt[max(prompt.rfind(text) + len(text) for text in texts_of(end[-1])) :])
        common = _common_end(*ends)
        if self._specials.search(common):
            return [common]
        lasts = [[*self._specials.finditer(end)] for end in ends]
        return [end[last[-1].start() :] for end, last in zip(ends, lasts, strict=True) if last]

    def held(self, reply: str, tools: str) -> str:
        """A reply of the model as chains hold it."""
        return str(self._syntax(tools).read(reply)) if tools else reply

    def _takes_corrections(self, tools: str) -> bool:
        """Whether a reply without a call can be answered by the user, and the chain go on."""
        first, question, *_ = _native_probe(tools, 1)
        answered = [
            *(first, question, Message(role="assistant", content="\ue006 \ue007")),
            Message(role="user", content="\ue008 \ue009"),
        ]
        try:
            self._pieces(self._placed(answered), reply_next=True, tools=tools)
        except RenderingError:
            return False
        return True

    def has_place_for(self, messages: Sequence[Message], tools: str) -> bool:
        """Whether the template can carry a prompt's last turn. Some show the tools before the last user
        turn: a second user turn would rewrite what was said before."""
        if not tools or messages[-1]["role"] != "user":
            return True
        first = all(message["role"] != "assistant" for message in messages)
        return first or self._corrects(tools)

    def _must_fold(self) -> bool:
        """Whether the system text must begin the first user turn to stay in its place: it does not
        without, and does so. One answer for a tokenizer, so that all its prompts begin alike."""
        return not self._keeps_first(_probe()) and self._keeps_first(_folded(_probe()))

    def _keeps_first(self, messages: Sequence[Message]) -> bool:
        """Whether the first turn stays before the first reply, in a text that only grows."""
        try:
            return messages[0]["content"] in self._pieces(messages, reply_next=True)[0]
        except RenderingError:
            return False

    def _turn_ends(self) -> set[int]:
        """The tokenizer's EOS token; and, where the template ends no turn with it, the first special
        token after a reply."""
        eos = self.tokenizer.eos_token_id
        messages = self._placed(_probe())
        try:
            _, reply, *_ = self._pieces(messages, reply_next=True)
        except RenderingError:
            return {eos}
        said = next(m["content"] for m in messages if m["role"] == "assistant")
        (after,) = self._tokenised([reply.partition(said)[2]])
        found = [token for token in after if token in self._special_ids]
        return {eos, *found[:1]} if eos not in found else {eos}

    def _placed(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages as the template takes them."""
        return _folded(messages) if self.folds else messages

    def text(self, messages: Sequence[Message], *, reply_next: bool, tools: str = "") -> str:
        """The template's text; with `reply_next` it ends where the model's turn begins."""
        return self._text(self._placed(messages), reply_next=reply_next, tools=tools)

    def _text(self, messages: Sequence[Message], *, reply_next: bool, tools: str = "") -> str:
        if tools:
            turns = tuple((message["role"], message["content"]) for message in messages)
            return self._written(turns, reply_next, tools)
        return self._templated(list(messages), reply_next, None)

    def _write(self, turns: tuple[tuple[str, str], ...], reply_next: bool, tools: str) -> str:
        messages = structured([Message(role=role, content=content) for role, content in turns])
        return self._templated(messages, reply_next, tools_of(tools))

    def _templated(self, turns: list[Any], reply_next: bool, tools: list[Any] | None) -> str:
        try:
            made: Any = self.tokenizer.apply_chat_template(
                turns,
                tools=tools,
                tokenize=False,
                add_generation_prompt=reply_next,
                date_string=DATE,
            )
        except (TemplateError, TypeError, AttributeError) as error:
            raise RenderingError(
                "the chat template refuses this conversation",
                value=str(error),
                remedy="Use a template that takes system turns and alternating other turns.",
            ) from error
        return str(made)

    def render(
        self,
        messages: Sequence[Message],
        completions: Sequence[Sequence[int] | None] = (),
        *,
        reply_next: bool = False,
        tools: str = "",
    ) -> Rendered:
        """Ids and mask of a conversation.

        `completions` are the sampled ids of each assistant turn where they are known; they are
        used in place of a new tokenisation. With `reply_next` the result ends with the
        generation prompt. Raises `RenderingError` if a prefix of the conversation is not a prefix
        of the whole, or if a turn has no stop token to learn, or one inside of its words that was not
        sampled.
        """
        if not messages or messages[0]["role"] == "assistant":
            raise RenderingError(
                "a conversation must begin with a turn that is not the assistant's",
                value=messages[0] if messages else None,
            )
        messages, marks = self._marked(self._placed(messages), native=bool(tools))
        pieces = self._assembled(messages, reply_next, tools)
        pieces = pieces or self._pieces(messages, reply_next, tools)
        encoded = [self._literal(p, marks) for p in pieces] if marks else self._encode(pieces)
        ids: list[int] = []
        trained: list[bool] = []
        said = [m["content"] for m in messages if m["role"] == "assistant"]
        for turn, words in enumerate(said):
            if tools:
                _check_words(words, pieces[2 * turn + 1])
            context, reply = encoded[2 * turn], encoded[2 * turn + 1]
            known = completions[turn] if turn < len(completions) else None
            end = self._end(reply, pieces[2 * turn + 1], words, sampled=bool(known))
            spoken = tuple(known) if known else reply[:end]
            ids += [*context, *spoken, *reply[end:]]
            trained += [False] * len(context) + [True] * len(spoken)
            trained += [False] * (len(reply) - end)
        for rest in encoded[2 * len(said) :]:
            ids += rest
            trained += [False] * len(rest)
        return Rendered(tuple(ids), tuple(trained))

    def _end(self, reply: Sequence[int], piece: str, words: str, *, sampled: bool) -> int:
        """Where a turn ends: after the first stop token of the frame around its words."""
        stops = [i for i, token in enumerate(reply) if token in self.stop_ids]
        if not stops:
            raise RenderingError(
                "the chat template ends a turn without a stop token",
                value=piece[-40:],
                remedy="The model would never learn to stop: mend the template or `stop_ids`.",
            )
        if len(stops) == 1:
            return stops[0] + 1
        (frame,) = self._encode([piece.replace(words.strip(), "", 1)])
        inside = len(stops) - sum(token in self.stop_ids for token in frame)
        if inside > 0 and not sampled:
            raise RenderingError(
                "a turn has a stop token inside of its words: only their beginning would be trained",
                value=words[:200],
                remedy="Leave this conversation out, or give the token ids that were sampled.",
            )
        return stops[max(inside, 0)] + 1

    def _marked(
        self, messages: Sequence[Message], *, native: bool
    ) -> tuple[Sequence[Message], dict[str, str]]:
        """The messages with a mark in place of each special token's text, and what the marks stand
        for; nothing is changed, and no mark made, in the usual case that no content spells one."""
        contents = [m["content"] for m in messages]
        if not any(map(self._specials.search, contents)):
            return messages, {}
        if native:  # a call's own frame may be special tokens
            contents = [text for m in messages for text in texts_of(m)]
        found = sorted({special for text in contents for special in self._specials.findall(text)})
        if not found:
            return messages, {}
        edge = next(c for c in map(chr, range(0xE002, 0xF900)) if not any(c in t for t in contents))
        marks = {f"{edge}{i}{edge}": text for i, text in enumerate(found)}
        mark_of = {text: mark for mark, text in marks.items()}

        def mark(text: str) -> str:
            return self._specials.sub(lambda found: mark_of[found.group()], text)

        if native:
            return [map_texts(m, mark) for m in messages], marks
        return [Message(role=m["role"], content=mark(m["content"])) for m in messages], marks

    def _literal(self, piece: str, marks: dict[str, str]) -> tuple[int, ...]:
        """Ids of a piece with marks: those of its text, but for the special tokens that stand where
        the marks are, which are spelled out."""
        either = re.compile("|".join(map(re.escape, marks)) + f"|{self._specials.pattern}")
        shown = [match.group() for match in either.finditer(piece)]
        text = re.sub("|".join(map(re.escape, marks)), lambda m: marks[m.group()], piece)
        (ids,) = self._tokenised([text])
        at = [i for i, token in enumerate(ids) if token in self._special_ids]
        if len(at) != len(shown):
            raise RenderingError(
                "a content spells special tokens in a way that cannot be undone", value=text
            )
        made = list(ids)
        for place, part in reversed(list(zip(at, shown, strict=True))):
            if part in marks:
                made[place : place + 1] = self._spelled(marks[part])
        return tuple(made)

    def _spelled(self, special: str) -> tuple[int, ...]:
        """A special token's text as ordinary tokens."""
        before, both = self.tokenizer(
            ["\n", f"\n{special}"], add_special_tokens=False, split_special_tokens=True
        )["input_ids"]
        # After a line end, as some tokenizers put a space before what begins a text.
        ids = tuple(both[len(before) :])
        if both[: len(before)] != before or self._special_ids & set(ids):
            raise RenderingError(
                "the tokenizer has no ordinary tokens for a special token's text that a content holds",
                value=special,
                remedy="Leave this conversation out.",
            )
        return ids

    def _pieces(self, messages: Sequence[Message], reply_next: bool, tools: str = "") -> list[str]:
        """The text, cut: context and reply of each assistant turn, then the rest if there is any
        to come. The template runs on every prefix: quadratic, and the definition of the cuts."""
        pieces: list[str] = []
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._text(messages[:index], reply_next=True, tools=tools)
            after = self._text(messages[: index + 1], reply_next=False, tools=tools)
            pieces += [_rest(before, done), _rest(after, before)]
            done = after
        if reply_next or not pieces:
            pieces.append(_rest(self._text(messages, reply_next=reply_next, tools=tools), done))
        return pieces

    def _assembled(
        self, messages: Sequence[Message], reply_next: bool, tools: str = ""
    ) -> list[str] | None:
        """The same pieces in time that grows with the length; None if they cannot be had that way."""
        by = self._by_turns if tools else self._by_roles
        pieces = by(messages, reply_next, tools)
        if pieces is None or "".join(pieces) != self._whole(messages, reply_next, pieces, tools):
            return None
        return pieces

    def _by_roles(self, messages: Sequence[Message], reply_next: bool, tools: str) -> list[str] | None:
        """The pieces of a conversation without tools, if they depend on its roles alone."""
        frame = self._frame(tuple(m["role"] for m in messages), reply_next)
        return None if frame is None else frame.filled([m["content"] for m in messages])

    def _whole(
        self, messages: Sequence[Message], reply_next: bool, pieces: list[str], tools: str
    ) -> str:
        """The text that the pieces must add up to. Observations after the last turn of the model
        belong to no piece unless a reply is next."""
        if not reply_next and len(pieces) > 1:
            last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
            messages = messages[: last + 1]
        return self._text(messages, reply_next=reply_next, tools=tools)

    def _by_turns(self, messages: Sequence[Message], reply_next: bool, tools: str) -> list[str] | None:
        """The pieces of a conversation with tools, if a turn's text depends on no more than the turn
        and the role before it."""
        starts = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if not starts:
            return None
        pieces = [self._text(messages[: starts[0]], reply_next=True, tools=tools)]
        called = 0
        for start, end in zip(starts, [*starts[1:], len(messages)], strict=True):
            answered = reply_next or end < len(messages)
            turns = messages[start : end if answered else start + 1]
            shapes, sayings = zip(*map(_Shape.of, turns), strict=True)
            frame = self._turn_frame(shapes, answered, messages[start - 1]["role"])
            if frame is None:
                return None
            pieces += frame.filled(_all_said(sayings, shapes, called))
            called += shapes[0].calls
        return pieces

    def _learn_turn_frame(
        self, shapes: tuple[_Shape, ...], answered: bool, before: str
    ) -> _Frame | None:
        """Of a reply and, if it is answered, of what comes between it and the next one; learned at the
        end of a conversation as short as can be, whose last turn is of the role `before`."""
        numbers = count()
        turns = [shape.marked(numbers) for shape in shapes]
        markers = _all_said([_Shape.of(turn)[1] for turn in turns], shapes, _MANY_CALLS)
        probe = structured(self._placed(_native_probe(_SHORT_TOOLS, int(before == "tool"))))
        made, tools = structured(turns, called=_MANY_CALLS), tools_of(_SHORT_TOOLS)
        try:
            prompt = self._templated(probe, True, tools)
            reply = self._templated([*probe, made[0]], False, tools)
            pieces = [_rest(reply, prompt)]
            if answered:
                pieces.append(_rest(self._templated([*probe, *made], True, tools), reply))
        except RenderingError:
            return None
        return _Frame.of(pieces, markers)

    def _learn_frame(self, roles: tuple[str, ...], reply_next: bool) -> _Frame | None:
        markers = [_marker(number) for number in range(len(roles))]
        marked = [Message(role=r, content=m) for r, m in zip(roles, markers, strict=True)]
        try:
            return _Frame.of(self._pieces(marked, reply_next), markers)
        except RenderingError:
            return None

    def _encode(self, pieces: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of each piece; pieces that were not seen lately are tokenised in one call."""
        missing = [p for p in dict.fromkeys(pieces) if p not in self._encoded]
        fresh: dict[str, tuple[int, ...]] = {}
        if missing:
            fresh = dict(zip(missing, self._tokenised(missing), strict=True))
        found = [fresh[p] if p in fresh else self._encoded[p] for p in pieces]
        if len(self._encoded) + len(fresh) > _CACHED_PIECES:
            self._encoded.clear()
        self._encoded.update(fresh)
        return found

    def _tokenised(self, texts: list[str]) -> list[tuple[int, ...]]:
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        plain = backend is not None and backend.padding is None and backend.truncation is None
        if plain and hasattr(backend, "encode_batch_fast"):  # without offsets: three times as fast
            backend.encode_special_tokens = False  # the tokenizer leaves it as its last caller wished
            made = backend.encode_batch_fast(texts, add_special_tokens=False)
            return [tuple(encoding.ids) for encoding in made]
        return [tuple(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _all_said(sayings: Sequence[Sequence[str]], shapes: Sequence[_Shape], called: int) -> list[str]:
    """What a reply and the turns that answer it say, and the ids of its calls."""
    ids = (call_id(called + number) for number in range(1, shapes[0].calls + 1))
    return [*chain.from_iterable(sayings), *ids]


def _probe() -> list[Message]:
    """A conversation of two calls whose contents stand nowhere else."""
    return [Message(role=r, content=f"\ue000{i}\ue001") for i, r in enumerate(_ROLES)]


def _native_probe(tools: str, calls: int) -> list[Message]:
    """A conversation of so many calls of the first function, each answered, whose contents stand
    nowhere else."""
    name = tools_of(tools)[0]["function"]["name"]
    turns = [Message(role=role, content=f"\ue000{role}\ue001") for role in ("system", "user")]
    for number in range(calls):
        said = Said("", (Invocation(name, {f"k{number}": f"\ue000v{number}\ue001"}),))
        turns.append(Message(role="assistant", content=str(said)))
        turns.append(Message(role="tool", content=f"\ue000o{number}\ue001"))
    return turns


def _common_end(one: str, other: str) -> str:
    """What two texts end with."""
    same = 0
    while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
        same += 1
    return one[len(one) - same :]


def _check_words(reply: str, piece: str) -> None:
    """Raises `RenderingError` if a template leaves out what is said beside a call: words, or thoughts,
    which it may set in its own way."""
    said = read(reply)
    parts = [part.strip() for part in said.words.replace("<think>", "").split("</think>")]
    if said.calls and any(part not in piece for part in parts):
        raise RenderingError(
            "the chat template drops the words beside a call",
            value=said.words[:200],
            remedy="Use chains without such words, or a template that carries them.",
        )


def _folded(messages: Sequence[Message]) -> Sequence[Message]:
    """The system text at the head of the first user turn, a blank line between them."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    if rest and rest[0]["role"] == "user":
        both = f"{system['content']}\n\n{rest[0]['content']}"
        return [Message(role="user", content=both), *rest[1:]]
    return [Message(role="user", content=system["content"]), *rest]


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """What spells a special token, the longest first; matches nothing if there are none."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {str(t) for t in added if t.special} | set(tokenizer.all_special_tokens)
    longest = sorted((t for t in texts if t), key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")


def _rest(whole: str, prefix: str) -> str:
    if not whole.startswith(prefix):
        same = next((i for i, (a, b) in enumerate(zip(prefix, whole, strict=False)) if a != b), 0)
        before, after = (text[max(0, same - 20) : same + 60] for text in (prefix, whole))
        raise RenderingError(
            "the chat template rewrites earlier turns: a prompt is not a prefix of its completion",
            value=f"{before} became {after}",
            remedy="Use a template that only appends (no stripped reasoning, no moved turns).",
        )
    return whole[len(prefix) :]
