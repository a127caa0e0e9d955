"""Small random encoders, as sentence-transformers itself saves them, with tokenizers trained here: what tests load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Module, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.built_once import built_once

WIDTH = 48
MAX_TOKENS = 64
"""Of a text, for every model here."""

_CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Once upon a time there was a small network in which every peer helped the others.",
    "Der schnelle braune Fuchs springt über den faulen Hund; ça va très bien, merci.",
    "Numbers: 0 1 2 3 4 5 6 7 8 9 10 100 1000. Questions? Answers! (Perhaps.)",
)
_VOCABULARY_SIZE = 300
_SHAPE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def _wrap(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    wrap: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = wrap(tokenizer_object=tokenizer, **options)
    return wrapped


def _around(tokenizer: Tokenizer, template: str, *special: str) -> None:
    ids = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)


def _word_pieces() -> PreTrainedTokenizerFast:
    """As BERT has, without lower-casing of its own. Not trained, as the one below."""
    words = sorted({word for line in _CORPUS for word in line.split()})
    pieces = sorted({word[start : start + length] for word in words for start in range(3) for length in (1, 2, 3, 5)})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = [*special, *filter(None, pieces), *(f"##{piece}" for piece in filter(None, pieces))]
    ids = {token: id_ for id_, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    _around(tokenizer, "[CLS] $A [SEP]", "[CLS]", "[SEP]")
    return _wrap(tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")


def _byte_level(template: str = "<s> $A </s>", **options: Any) -> PreTrainedTokenizerFast:
    """As RoBERTa, MPNet and Qwen have: BPE over bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    _around(tokenizer, template, "<s>", "</s>")
    return _wrap(tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **options)


def _unigram(template: str) -> PreTrainedTokenizerFast:
    """As XLM-R and T5 have: the likeliest pieces, spaces as U+2581. Not trained, which would give others each time:
    the longer the piece, the likelier it is beside its letters."""
    words = sorted({f"\u2581{word}" for line in _CORPUS for word in line.split()})
    pieces = sorted({word[start : start + length] for word in words for start in range(3) for length in (1, 2, 3, 5)})
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scores = [*((token, 0.0) for token in special), *((piece, -4 - len(piece)) for piece in pieces if piece)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=special.index("<unk>"), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    _around(tokenizer, template, "<s>", "</s>")
    return _wrap(tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


_BEHIND_PADDING = {"max_position_embeddings": MAX_TOKENS + 2, "pad_token_id": 1}
"""RoBERTa and its kin count positions from behind the padding's id."""


def _bert(vocabulary: int) -> PreTrainedModel:
    return BertModel(BertConfig(**_SHAPE, vocab_size=vocabulary, max_position_embeddings=MAX_TOKENS))


def _mpnet(vocabulary: int) -> PreTrainedModel:
    return MPNetModel(MPNetConfig(**_SHAPE, **_BEHIND_PADDING, vocab_size=vocabulary))


def _roberta(vocabulary: int) -> PreTrainedModel:
    return RobertaModel(RobertaConfig(**_SHAPE, **_BEHIND_PADDING, vocab_size=vocabulary))


def _xlm_roberta(vocabulary: int) -> PreTrainedModel:
    return XLMRobertaModel(XLMRobertaConfig(**_SHAPE, **_BEHIND_PADDING, vocab_size=vocabulary))


def _qwen3(vocabulary: int) -> PreTrainedModel:
    config = Qwen3Config(
        **_SHAPE, vocab_size=vocabulary, num_key_value_heads=2, head_dim=12, max_position_embeddings=MAX_TOKENS
    )
    return Qwen3ForCausalLM(config)


def _t5(vocabulary: int) -> PreTrainedModel:
    config = T5Config(vocab_size=vocabulary, d_model=WIDTH, d_kv=12, d_ff=64, num_layers=2, num_heads=4, pad_token_id=1)
    return T5EncoderModel(config)


@dataclass(frozen=True)
class _Encoder:
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    model: Callable[[int], PreTrainedModel]
    steps: Callable[[], Sequence[Module]]
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


_ENCODERS = {
    "bert": _Encoder(
        _word_pieces,
        _bert,
        lambda: (Pooling(WIDTH, "mean"), Normalize()),
        {"max_seq_length": 32, "do_lower_case": True},
    ),
    "mpnet": _Encoder(_byte_level, _mpnet, lambda: (Pooling(WIDTH, ("cls", "max", "mean")),), {"max_seq_length": 40}),
    "roberta": _Encoder(
        _byte_level,
        _roberta,
        lambda: (Pooling(WIDTH, "mean_sqrt_len_tokens"), Dense(WIDTH, 24)),
        {"max_seq_length": MAX_TOKENS},
    ),
    "xlm-roberta": _Encoder(
        lambda: _unigram("<s> $A </s>"),
        _xlm_roberta,
        lambda: (
            Pooling(WIDTH, "weightedmean"),
            Dense(WIDTH, 32, activation_function=torch.nn.GELU()),
            Dense(32, 20, bias=False, activation_function=torch.nn.Identity()),
            Normalize(),
        ),
        {"max_seq_length": 24},
        {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"},
    ),
    "qwen3": _Encoder(
        lambda: _byte_level("$A </s>", padding_side="left", model_max_length=1000),
        _qwen3,
        lambda: (Pooling(WIDTH, "lasttoken"), Normalize()),
        {},
        {"truncate_dim": 40},
    ),
    "t5": _Encoder(
        lambda: _unigram("$A </s>"),
        _t5,
        lambda: (Pooling(WIDTH, "mean"), Dense(WIDTH, 30, bias=False), Normalize()),
        {"max_seq_length": 50},
    ),
}

ENCODERS = tuple(_ENCODERS)


def build_model(name: str, folder: Path) -> Path:
    """Save one of ENCODERS in the format of transformers alone, and return its folder. The same each time."""
    built_once.copy(f"model-{name}", partial(_build_model, name), folder)
    return folder


def _build_model(name: str, folder: Path) -> None:
    chosen = _ENCODERS[name]
    tokenizer = chosen.tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = chosen.model(len(tokenizer) + 8)  # as real models, which round up
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)  # wider than for training: else all texts are nearly alike
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_encoder(name: str, folder: Path) -> Path:
    """Save one of ENCODERS as sentence-transformers does, and return its folder. The same each time."""
    built_once.copy(f"encoder-{name}", partial(_build_encoder, name), folder)
    return folder / "sentences"


def _build_encoder(name: str, folder: Path) -> None:
    chosen = _ENCODERS[name]
    transformer = Transformer(str(build_model(name, folder / "transformer")), **chosen.settings)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        steps = chosen.steps()
    sentences = SentenceTransformer(modules=[transformer, *steps], device="cpu", **chosen.options)
    sentences.save(str(folder / "sentences"), create_model_card=False)
