"""Builders of tiny models with random weights, so that tests run without a hub.

Each folder holds what a hub repository would: config, safetensors weights, and a byte-level BPE
tokenizer with a ChatML template whose turns end with the EOS token.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "You solve problems step by step with functions. Reply with one function call at a time.",
    "Functions: add(a, b) subtract(a, b) multiply(a, b) divide(a, b) stop(answer)",
    "premise('forall x (cold(x) & smart(x) -> red(x))') conclude('all x. (dog(x) -> animal(x))')",
    "Tom has 12 apples and buys 30 more; he gives a third of them away. How many are left?",
    "system user assistant The result is 42. Unknown function. True False Unknown",
] * 4

CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
}


def build_tokenizer(vocab: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about `vocab` entries (at least 259), digits single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_tiny(
    architecture: str,
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    vocab: int = 400,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 4096,
    **config: object,
) -> Path:
    """Write a random model of an architecture ("llama", "qwen2", "qwen3", "mistral") to `folder`.

    The weights are large enough (standard deviation 0.2) that greedy replies vary. `config` goes to
    the architecture's configuration class. Returns `folder`.
    """
    tokenizer = build_tokenizer(vocab)
    options: dict[str, object] = {
        "vocab_size": max(vocab, len(tokenizer)),
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": context,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **({"sliding_window": None} if architecture == "mistral" else {}),
        **config,
    }
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture](**options))
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
