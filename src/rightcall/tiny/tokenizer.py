"""The tiny models' tokenizer: byte-level BPE whose words are the same tokens everywhere.

A word costs the same tokens after a space, at the start of a sentence and inside a formula, so
that formalising "Bob is cold" as `cold(Bob)` is copying. Spaces therefore belong to the function
words and punctuation around them ("Bob", " is ", "cold", ". "), and digits are single tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

FUNCTION_WORDS = (
    "a all an and are as at be both but by costs does each either every everyone everything for from"
    " has have he her his how if in is it its many more much no not of on one only or out per she"
    " some someone something than that the their then there they things to was were what when which"
    " who will with"
).split()

_INNER = "|".join(FUNCTION_WORDS)
_FIRST = "|".join(word.capitalize() for word in FUNCTION_WORDS)
_SPLIT = "|".join(
    (
        rf"\b(?:{_FIRST})(?: (?:{_INNER}))*\b ",  # "If ", "There is a "
        rf"(?: (?:{_INNER})\b)+ ?",  # " is ", " is not "
        r"(?:forall|exists) [a-z] \(?",  # "forall x ("
        r"\([a-z]\)",  # "(x)"
        r"\d",
        r"[A-Za-z]+",
        r" ?[^\sA-Za-z0-9]+ ?",  # " -> ", ". ", '("'
        r"\s",
    )
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train on raw texts (questions, calls, descriptions); deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return with_chat_template(tokenizer)


def with_chat_template(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers takes it, with the tiny models' special tokens and chat template."""
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
