"""What bytes an id stands for: joined, those of a text's ids are its UTF-8, for each kind of tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from p2pnet.worker.text.vocabulary import Vocabulary
from tests.checkpoints import byte_fallback_tokenizer, byte_level_tokenizer
from tests.depth import examples

TINY_FOLDER = Path(__file__).parents[3] / "p2pnet" / "assets" / "tiny"
PADDING = 8


def wrapped(tokenizer: Tokenizer, **special_tokens: str) -> Any:
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, **special_tokens)


def metaspace_tokenizer() -> Any:
    """As T5 and XLNet have: spaces as U+2581, the first one taken off in decoding."""
    characters = ["<unk>", "▁", *(chr(code) for code in range(33, 127)), "é", "▁the"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={text: index for index, text in enumerate(dict.fromkeys(characters))}, merges=[], unk_token="<unk>"
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return wrapped(tokenizer, unk_token="<unk>")


def word_piece_tokenizer() -> Any:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return wrapped(tokenizer, unk_token="[UNK]")


TOKENIZERS: dict[str, Any] = {
    "byte level": byte_level_tokenizer(),
    "llama": byte_fallback_tokenizer(),
    "gemma": byte_fallback_tokenizer(strips_leading_space=False),
    "tiny": AutoTokenizer.from_pretrained(TINY_FOLDER, local_files_only=True),
}
VOCABULARIES = {name: Vocabulary(tokenizer, len(tokenizer) + PADDING) for name, tokenizer in TOKENIZERS.items()}

TEXTS = [
    "Hello, world!",
    "  two leading spaces and  two inside",
    "línea\nnew line\ttab",
    '{"name": "你好，世界", "n": [1, 2.5e3, null]}',
    "emoji 👩‍👩‍👧‍👦 and flags 🇫🇷",
    "\x00\x1f control",
    "",
]


def said(name: str, text: str) -> bytes:
    """The bytes of the tokenizer's own ids of a text, but for its begin token and the space that Llama adds."""
    tokenizer, vocabulary = TOKENIZERS[name], VOCABULARIES[name]
    joined = b"".join(vocabulary.token_bytes(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"])
    return joined[1:] if name == "llama" and text else joined


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_joined_bytes_are_the_text(name: str, text: str) -> None:
    assert said(name, text) == text.encode()


@settings(max_examples=examples(150), deadline=None)
@given(st.text())
@pytest.mark.parametrize("name", TOKENIZERS)
def test_any_text(name: str, text: str) -> None:
    if "▁" not in text and not any(token in text for token in VOCABULARIES[name].control_tokens):
        assert said(name, text) == text.encode()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_control_tokens_are_shown_by_name(name: str) -> None:
    tokenizer, vocabulary = TOKENIZERS[name], VOCABULARIES[name]
    assert tokenizer.eos_token_id in vocabulary.control_ids
    assert vocabulary.token_bytes(tokenizer.eos_token_id) == tokenizer.eos_token.encode()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_that_only_the_model_has_are_nothing(name: str) -> None:
    vocabulary = VOCABULARIES[name]
    known = len(TOKENIZERS[name])
    assert vocabulary.size == known + PADDING
    assert {vocabulary.token_bytes(token_id) for token_id in range(known, vocabulary.size)} == {b""}
    with pytest.raises(IndexError):
        vocabulary.token_bytes(vocabulary.size)


def test_a_model_may_have_fewer_ids_than_its_tokenizer() -> None:
    tokenizer = byte_level_tokenizer()
    vocabulary = Vocabulary(tokenizer, len(tokenizer) - PADDING)
    assert vocabulary.size == len(tokenizer) - PADDING
    assert vocabulary.token_bytes(vocabulary.size - 1)


def test_byte_tokens_and_spaces_of_sentencepiece() -> None:
    tokenizer, vocabulary = TOKENIZERS["llama"], VOCABULARIES["llama"]
    spelled = {
        token: vocabulary.token_bytes(tokenizer.convert_tokens_to_ids(token)) for token in ("<0x0A>", "<0xF0>", "▁")
    }
    assert spelled == {"<0x0A>": b"\n", "<0xF0>": b"\xf0", "▁": b" "}


def test_added_tokens_that_are_text_are_text() -> None:
    """As `<tool_call>` of Qwen is: added, but decoding leaves it in."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("two words", special=False)])
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    for text in ("<tool_call>", "two words"):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == 1
        assert vocabulary.token_bytes(ids[0]) == text.encode()
        assert ids[0] not in vocabulary.control_ids


def test_ids_may_have_gaps() -> None:
    vocabulary = Vocabulary(wrapped(level_with_a_gap()), 300)
    assert (vocabulary.token_bytes(0), vocabulary.token_bytes(7), vocabulary.token_bytes(200)) == (b"a", b"", b"b")


def level_with_a_gap() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 200}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_a_metaspace_tokenizer() -> None:
    tokenizer = metaspace_tokenizer()
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.is_exact
    assert b"".join(map(vocabulary.token_bytes, tokenizer("a the b")["input_ids"])) == b" a the b"


def test_a_decoder_that_joins_words_is_not_exact() -> None:
    tokenizer = word_piece_tokenizer()
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert not vocabulary.is_exact
    assert vocabulary.token_bytes(1) == b"a"
