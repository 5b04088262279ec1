"""Conversation → token ids and train mask, the same way for rollouts and for training.

A conversation is cut where a model's turn begins and where it ends; every piece is tokenised by
itself. The local engine builds its cache from the same pieces, so what is trained is, token by
token, what was seen and said. Templates that rewrite history are refused.

Running the template on every prefix of every conversation would cost quadratic time. So the
literal text around the messages is learned once per sequence of roles, by running the template on
marker messages (`Frame`); a conversation is then assembled from it and compared with one run of
the template on the whole. Where the two differ, every prefix is rendered after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from rightcall.chain import Message
from rightcall.errors import RenderingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CACHED_PIECES = 65_536


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation and which of them are the model's own words."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """Same length; True on the tokens of assistant turns, stop token included."""


@dataclass(frozen=True)
class _Frame:
    """A template's text for one sequence of roles, with holes for the contents."""

    pieces: tuple[tuple[str | int, ...], ...]
    """What `Renderer._pieces` gives: each piece is literal text and indices of messages."""
    stripped: tuple[bool, ...]
    """Whether the template strips the content of each message."""

    def filled(self, messages: Sequence[Message]) -> list[str]:
        contents = [
            m["content"].strip() if strip else m["content"]
            for m, strip in zip(messages, self.stripped, strict=True)
        ]
        return [
            "".join(part if isinstance(part, str) else contents[part] for part in piece)
            for piece in self.pieces
        ]


class Renderer:
    """Renders conversations with a tokenizer's own chat template.

    `stop_ids` end a turn; by default the tokenizer's EOS token.
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
        self.stop_ids = frozenset(stop_ids if stop_ids else [tokenizer.eos_token_id])
        self._encoded: dict[str, tuple[int, ...]] = {}
        self._frame = lru_cache(maxsize=256)(self._learn_frame)

    def text(self, messages: Sequence[Message], *, reply_next: bool) -> str:
        """The template's text; with `reply_next` it ends where the model's turn begins."""
        try:
            made: Any = self.tokenizer.apply_chat_template(
                list(messages),  # type: ignore[arg-type]
                tokenize=False,
                add_generation_prompt=reply_next,
            )
        except TemplateError as error:
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
    ) -> Rendered:
        """Ids and mask of a conversation.

        `completions` are the sampled ids of each assistant turn where they are known; they are
        used in place of a new tokenisation. With `reply_next` the result ends with the
        generation prompt. Raises `RenderingError` if a prefix of the conversation is not a prefix
        of the whole, or if a turn has no stop token to learn.
        """
        if not messages or messages[0]["role"] == "assistant":
            raise RenderingError(
                "a conversation must begin with a turn that is not the assistant's",
                value=messages[0] if messages else None,
            )
        pieces = self._assembled(messages, reply_next) or self._pieces(messages, reply_next)
        encoded = self._encode(pieces)
        ids: list[int] = []
        trained: list[bool] = []
        turns = sum(m["role"] == "assistant" for m in messages)
        for turn in range(turns):
            context, reply = encoded[2 * turn], encoded[2 * turn + 1]
            end = next((i for i, t in enumerate(reply) if t in self.stop_ids), None)
            if end is None:
                raise RenderingError(
                    "the chat template ends a turn without a stop token",
                    value=pieces[2 * turn + 1][-40:],
                    remedy="The model would never learn to stop: mend the template or `stop_ids`.",
                )
            known = completions[turn] if turn < len(completions) else None
            words = tuple(known) if known else reply[: end + 1]
            ids += [*context, *words, *reply[end + 1 :]]
            trained += [False] * len(context) + [True] * len(words)
            trained += [False] * (len(reply) - end - 1)
        for rest in encoded[2 * turns :]:
            ids += rest
            trained += [False] * len(rest)
        return Rendered(tuple(ids), tuple(trained))

    def _pieces(self, messages: Sequence[Message], reply_next: bool) -> list[str]:
        """The text, cut: context and reply of each assistant turn, then the rest if there is any
        to come. The template runs on every prefix: quadratic, and the definition of the cuts."""
        pieces: list[str] = []
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.text(messages[:index], reply_next=True)
            after = self.text(messages[: index + 1], reply_next=False)
            pieces += [_rest(before, done), _rest(after, before)]
            done = after
        if reply_next or not pieces:
            pieces.append(_rest(self.text(messages, reply_next=reply_next), done))
        return pieces

    def _assembled(self, messages: Sequence[Message], reply_next: bool) -> list[str] | None:
        """The same pieces in one run of the template; None if they cannot be had that way."""
        frame = self._frame(tuple(m["role"] for m in messages), reply_next)
        if frame is None:
            return None
        pieces = frame.filled(messages)
        return pieces if "".join(pieces) == self._whole(messages, reply_next, pieces) else None

    def _whole(self, messages: Sequence[Message], reply_next: bool, pieces: list[str]) -> str:
        """The text that the pieces must add up to. Observations after the last turn of the model
        belong to no piece unless a reply is next."""
        if not reply_next and len(pieces) > 1:
            last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
            messages = messages[: last + 1]
        return self.text(messages, reply_next=reply_next)

    def _learn_frame(self, roles: tuple[str, ...], reply_next: bool) -> _Frame | None:
        markers = [f"\ue000{i}\ue001" for i in range(len(roles))]
        bare = [Message(role=r, content=m) for r, m in zip(roles, markers, strict=True)]
        padded = [Message(role=m["role"], content=f" {m['content']} ") for m in bare]
        try:
            pieces = self._pieces(bare, reply_next)
            spaced = "".join(self._pieces(padded, reply_next))
        except RenderingError:
            return None
        text = "".join(pieces)
        shown = [i for i, marker in enumerate(markers) if marker in text]
        if any(text.count(markers[i]) != 1 for i in shown):
            return None
        kept = tuple(f" {marker} " in spaced and f" {marker} " not in text for marker in markers)
        frame = _Frame(tuple(_parts(p, markers) for p in pieces), tuple(not k for k in kept))
        return frame if "".join(frame.filled(padded)) == spaced else None

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
            made = backend.encode_batch_fast(texts, add_special_tokens=False)
            return [tuple(encoding.ids) for encoding in made]
        return [tuple(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _rest(whole: str, prefix: str) -> str:
    if not whole.startswith(prefix):
        raise RenderingError(
            "the chat template rewrites earlier turns: a prompt is not a prefix of its completion",
            value=prefix[-60:],
            remedy="Use a template that only appends (no stripped reasoning, no moved turns).",
        )
    return whole[len(prefix) :]


def _parts(piece: str, markers: Sequence[str]) -> tuple[str | int, ...]:
    """Literal text and the indices of the messages whose markers stand in it, in order."""
    parts: list[str | int] = []
    found = sorted((piece.index(m), i) for i, m in enumerate(markers) if m in piece)
    done = 0
    for position, index in found:
        parts += [piece[done:position], index]
        done = position + len(markers[index])
    return (*parts, piece[done:])
