"""Small random checkpoints in Hugging Face format, with tokenizers trained on the spot: what tests load.

The weights are drawn wider than for training, so that greedy output varies instead of repeating one token.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers.masking_utils  # noqa: F401 - brings torch's compiler, which makes a folder: now, and not in a test
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from tests.built_once import built_once

CONTEXT_LENGTH = 512
SLIDING_WINDOW = 16
"""Smaller than the tests' long prompts."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}{{ raise_exception('unknown role') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Once upon a time there was a small network in which every peer helped the others.",
    "Der schnelle braune Fuchs springt über den faulen Hund; ça va très bien, merci.",
    "def add(first, second):\n    return first + second\n",
    "Numbers: 0 1 2 3 4 5 6 7 8 9 10 100 1000. Questions? Answers! (Perhaps.)",
) * 4

_VOCABULARY_SIZE = 480
_SPECIAL = ("<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>")


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As GPT-2 and Qwen have: BPE over bytes, each byte a visible character, no begin token added."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _wrap(tokenizer, eos_token="<eos>", pad_token="<eos>")


def byte_fallback_tokenizer(strips_leading_space: bool = True) -> PreTrainedTokenizerFast:
    """As Llama has (and Gemma, which strips no space): BPE over characters, spaces as U+2581, unknown characters as
    byte tokens, a begin token added."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if strips_leading_space else []), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE + 100,
        special_tokens=["<unk>", *_SPECIAL, *byte_tokens],
        max_token_length=8,
        show_progress=False,
    )
    trained.train_from_iterator(_CORPUS, trainer)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    trained.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strips_leading_space else [])])
    trained.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", trained.token_to_id("<bos>"))]
    )
    return _wrap(
        _with_plain_bytes(trained, byte_tokens),
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<eos>",
    )


def _wrap(tokenizer: Tokenizer, **special_tokens: str) -> PreTrainedTokenizerFast:
    wrap: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = wrap(tokenizer_object=tokenizer, **special_tokens)
    return wrapped


def _with_plain_bytes(tokenizer: Tokenizer, byte_tokens: list[str]) -> Tokenizer:
    """Byte tokens are of the vocabulary but not special, or decoding would leave them out."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in byte_tokens]
    return Tokenizer.from_str(json.dumps(content))


_SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT_LENGTH,
    "initializer_range": 0.2,
}


_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
"""A mixture of four experts, of which each token is given two."""


def _gpt2(**shared: Any) -> GPT2Config:
    return GPT2Config(
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=CONTEXT_LENGTH,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **shared,
    )


@dataclass(frozen=True)
class _Architecture:
    config: Callable[..., PreTrainedConfig]
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    has_chat_template: bool = True
    max_shard_size: str = "1GB"


_ARCHITECTURES = {
    "llama": _Architecture(partial(LlamaConfig, **_SHAPE), byte_fallback_tokenizer, max_shard_size="100KB"),
    "qwen2": _Architecture(partial(Qwen2Config, **_SHAPE), byte_level_tokenizer),
    "qwen3": _Architecture(partial(Qwen3Config, **_SHAPE), byte_level_tokenizer),
    "gemma": _Architecture(
        partial(GemmaConfig, **_SHAPE, tie_word_embeddings=False), partial(byte_fallback_tokenizer, False)
    ),
    "gemma3": _Architecture(
        partial(
            Gemma3TextConfig,
            **_SHAPE,
            tie_word_embeddings=False,
            sliding_window=SLIDING_WINDOW,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        partial(byte_fallback_tokenizer, False),
    ),
    "mistral": _Architecture(partial(MistralConfig, **_SHAPE, sliding_window=SLIDING_WINDOW), byte_fallback_tokenizer),
    "mixtral": _Architecture(partial(MixtralConfig, **_SHAPE, **_EXPERTS), byte_fallback_tokenizer),
    "qwen3_moe": _Architecture(
        partial(Qwen3MoeConfig, **_SHAPE, **_EXPERTS, moe_intermediate_size=48, norm_topk_prob=True),
        byte_level_tokenizer,
    ),
    "gpt2": _Architecture(_gpt2, byte_level_tokenizer, has_chat_template=False),
}

ARCHITECTURES = tuple(_ARCHITECTURES)


def build_checkpoint(architecture: str, folder: Path) -> Path:
    """Save a small random model of one of ARCHITECTURES, with its tokenizer, and return its folder.

    The same architecture gives the same weights each time. `llama` is sharded, `gpt2` has no chat template.
    """
    built_once.copy(f"checkpoint-{architecture}", partial(_build, architecture), folder)
    return folder


def _build(architecture: str, folder: Path) -> None:
    chosen = _ARCHITECTURES[architecture]
    tokenizer = chosen.tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE if chosen.has_chat_template else None
    config = chosen.config(
        vocab_size=len(tokenizer) + 8,  # as real models, which round up: ids that the tokenizer does not know
        bos_token_id=tokenizer.convert_tokens_to_ids("<bos>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<eos>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<eos>"),
    )
    factory: Any = AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = factory.from_config(config)
    model.save_pretrained(folder, max_shard_size=chosen.max_shard_size)
    tokenizer.save_pretrained(folder)
