"""Conversation → token ids and train mask, the same way for rollouts and for training.

A conversation is cut where a model's turn begins and where it ends; every piece is tokenised by
itself. The local engine builds its cache from the same pieces, so what is trained is, token by
token, what was seen and said. Templates that rewrite history are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rightcall.chain import Message
from rightcall.errors import RenderingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation and which of them are the model's own words."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """Same length; True on the tokens of assistant turns, stop token included."""


class Renderer:
    """Renders conversations with a tokenizer's own chat template.

    `stop_ids` end a turn; by default the tokenizer's EOS token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int] | None = None
    ) -> None:
        if not tokenizer.chat_template:
            raise RenderingError(
                "the tokenizer has no chat template", value=tokenizer.name_or_path,
                remedy="Use an instruct model, or set tokenizer.chat_template.",
            )
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids if stop_ids else [tokenizer.eos_token_id])
        self._encode = lru_cache(maxsize=65_536)(self._encode_uncached)

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, messages: Sequence[Message], *, reply_next: bool) -> str:
        """The template's text; with `reply_next` it ends where the model's turn begins."""
        made: Any = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=reply_next  # type: ignore[arg-type]
        )
        return str(made)

    def render(
        self, messages: Sequence[Message],
        completions: Sequence[Sequence[int] | None] = (), *, reply_next: bool = False,
    ) -> Rendered:
        """Ids and mask of a conversation.

        `completions` are the sampled ids of each assistant turn where they are known; they are
        used in place of a new tokenisation. With `reply_next` the result ends with the
        generation prompt. Raises `RenderingError` if a prefix of the conversation is not a prefix
        of the whole, or if a turn has no stop token to learn.
        """
        ids: list[int] = []
        trained: list[bool] = []
        done = ""
        turn = 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.text(messages[:index], reply_next=True)
            after = self.text(messages[: index + 1], reply_next=False)
            context = self._encode(self._rest(before, done))
            reply = self._encode(self._rest(after, before))
            end = next((i for i, t in enumerate(reply) if t in self.stop_ids), None)
            if end is None:
                raise RenderingError(
                    "the chat template ends a turn without a stop token", value=after[-40:],
                    remedy="The model would never learn to stop: mend the template or `stop_ids`.",
                )
            known = completions[turn] if turn < len(completions) else None
            words = tuple(known) if known else reply[: end + 1]
            ids += [*context, *words, *reply[end + 1 :]]
            trained += [False] * len(context) + [True] * len(words)
            trained += [False] * (len(reply) - end - 1)
            done, turn = after, turn + 1
        if reply_next or not turn:
            rest = self._encode(self._rest(self.text(messages, reply_next=reply_next), done))
            ids += rest
            trained += [False] * len(rest)
        return Rendered(tuple(ids), tuple(trained))

    def _rest(self, whole: str, prefix: str) -> str:
        if not whole.startswith(prefix):
            raise RenderingError(
                "the chat template rewrites earlier turns: a prompt is not a prefix of its completion",
                value=prefix[-60:],
                remedy="Use a template that only appends (no stripped reasoning, no moved turns).",
            )
        return whole[len(prefix) :]
