"""Text that comes token by token is the text that comes at once, and no character is ever split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from p2pnet.worker.text.detokenizer import Detokenizer, Piece, invisible_ids
from tests.checkpoints import byte_fallback_tokenizer, byte_level_tokenizer
from tests.depth import examples

BYTE_LEVEL = byte_level_tokenizer()
LLAMA = byte_fallback_tokenizer()
GEMMA = byte_fallback_tokenizer(strips_leading_space=False)


def metaspace_tokenizer() -> Any:
    """As T5 and XLNet have: spaces as U+2581, the first one taken off in decoding."""
    words = ["▁", "▁a", "▁the", "b", "cd", "▁▁", "é"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="b"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer)


METASPACE = metaspace_tokenizer()
TOKENIZERS = {"byte level": BYTE_LEVEL, "llama": LLAMA, "gemma": GEMMA, "metaspace": METASPACE}


def pieces_of(tokenizer: Any, ids: list[int], context: tuple[int, ...] = ()) -> list[Piece]:
    detokenizer = Detokenizer(tokenizer, invisible_ids(tokenizer), context)
    pieces = [detokenizer.feed(token_id) for token_id in ids]
    return [piece for piece in (*pieces, detokenizer.flush()) if piece is not None]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def decoded(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


TEXTS = [
    "Hello, world!",
    "  two leading spaces and  two inside",
    "línea\nnew line\ttab",
    "你好，世界",
    "emoji 👩‍👩‍👧‍👦 and flags 🇫🇷",
    "שלום عليكم नमस्ते",
    "a literal \ufffd in the text",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_texts(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert text_of(pieces_of(tokenizer, ids)) == decoded(tokenizer, ids)


@settings(max_examples=examples(150))
@given(st.text())
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LLAMA, GEMMA], ids=["byte level", "llama", "gemma"])
def test_any_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert text_of(pieces) == decoded(tokenizer, ids)
    assert [token_id for piece in pieces for token_id in piece.token_ids] == ids


def ids_below(limit: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, limit - 1), max_size=30)


def is_byte(tokenizer: Any, token_id: int) -> bool:
    return str(tokenizer.convert_ids_to_tokens(token_id)).startswith("<0x")


@settings(max_examples=examples(300))
@given(ids_below(len(BYTE_LEVEL) + 3))
def test_any_ids_of_bytes(ids: list[int]) -> None:
    """Broken UTF-8, special tokens and ids that the tokenizer does not know included."""
    assert text_of(pieces_of(BYTE_LEVEL, ids)) == decoded(BYTE_LEVEL, ids)


@settings(max_examples=examples(500))
@given(st.lists(st.sampled_from(b"a\xff\xe4\xbd\xa0\xf0\x9f\x98\x80"), max_size=20))
def test_any_bytes(broken: list[int]) -> None:
    alphabet = bytes_to_unicode()
    ids = [int(BYTE_LEVEL.convert_tokens_to_ids(alphabet[byte])) for byte in broken]
    pieces = pieces_of(BYTE_LEVEL, ids)
    assert text_of(pieces) == decoded(BYTE_LEVEL, ids) == bytes(broken).decode("utf-8", "replace")
    assert all(len(piece.token_ids) <= 6 for piece in pieces)


@settings(max_examples=examples(300))
@given(ids_below(len(METASPACE)))
def test_any_ids_of_a_metaspace_tokenizer(ids: list[int]) -> None:
    assert text_of(pieces_of(METASPACE, ids)) == decoded(METASPACE, ids)


@settings(max_examples=examples(300))
@given(ids_below(len(LLAMA) + 3))
def test_any_ids_of_characters(ids: list[int]) -> None:
    """Byte tokens aside: see the next test for those that are no text."""
    for tokenizer in (LLAMA, GEMMA):
        words = [token_id for token_id in ids if not is_byte(tokenizer, token_id)]
        assert text_of(pieces_of(tokenizer, words)) == decoded(tokenizer, words)


@settings(max_examples=examples(300))
@given(st.lists(st.sampled_from([b"\xff", b"\xe4", b"\xbd", b"\xa0", b"a"]), max_size=20))
def test_broken_bytes_never_split_a_character_nor_are_they_lost(broken: list[bytes]) -> None:
    """A byte-fallback decoder would replace the whole run, valid characters included: here those stay."""
    ids = [int(LLAMA.convert_tokens_to_ids(f"<0x{byte[0]:02X}>")) for byte in broken]
    pieces = pieces_of(LLAMA, ids)
    assert [token_id for piece in pieces for token_id in piece.token_ids] == ids
    assert set(text_of(pieces)) <= set(b"".join(broken).decode("utf-8", "replace")) | {"\ufffd"}
    if "\ufffd" not in decoded(LLAMA, ids):
        assert text_of(pieces) == decoded(LLAMA, ids)


def byte_ids(text: str) -> list[int]:
    return [int(LLAMA.convert_tokens_to_ids(f"<0x{byte:02X}>")) for byte in text.encode()]


def test_a_character_comes_whole_with_its_last_byte() -> None:
    ids = byte_ids("你好")
    assert [(len(piece.token_ids), piece.text) for piece in pieces_of(LLAMA, ids)] == [(3, "你"), (3, "好")]


def test_an_unfinished_character_comes_at_the_end() -> None:
    ids = byte_ids("你")[:2]
    detokenizer = Detokenizer(LLAMA, invisible_ids(LLAMA))
    assert [detokenizer.feed(token_id) for token_id in ids] == [None, None]
    assert detokenizer.flush() == Piece(tuple(ids), "\ufffd\ufffd")
    assert detokenizer.flush() is None


def test_bytes_that_can_become_no_character_are_not_held_for_ever() -> None:
    broken = int(LLAMA.convert_tokens_to_ids("<0xFF>"))
    detokenizer = Detokenizer(LLAMA, invisible_ids(LLAMA))
    seen = [detokenizer.feed(broken) for _ in range(50)]
    assert seen[:3] == [None, None, None]
    assert all(piece == Piece((broken,), "\ufffd") for piece in seen[3:])


@pytest.mark.parametrize("text", ["😀😁😂😃", "é😀é你😀", "ü😀 😀😀"])
def test_a_context_that_begins_within_a_character(text: str) -> None:
    for cut in range(1, len(text)):
        context, ids = byte_ids(text[:cut]), byte_ids(text[cut:])
        assert text_of(pieces_of(LLAMA, ids, tuple(context))) == text[cut:]


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LLAMA, GEMMA], ids=["byte level", "llama", "gemma"])
def test_a_context_keeps_the_space_between_the_prompt_and_what_follows(tokenizer: Any) -> None:
    ids = tokenizer("The quick brown fox jumps over the lazy dog")["input_ids"]
    for cut in range(1, len(ids)):
        text = decoded(tokenizer, ids)
        assert text_of(pieces_of(tokenizer, ids[cut:], tuple(ids[:cut]))) == text[len(decoded(tokenizer, ids[:cut])) :]


def test_a_character_that_is_out_stays_when_broken_bytes_follow_it() -> None:
    """Decoded at once, the whole run of byte tokens would be replaced."""
    ids = [*byte_ids("好"), int(LLAMA.convert_tokens_to_ids("<0xFF>")), int(LLAMA.convert_tokens_to_ids("wor"))]
    assert text_of(pieces_of(LLAMA, ids)) == "好\ufffdwor"


def test_special_tokens_give_no_text_and_hide_no_space() -> None:
    ids = LLAMA("the dog")["input_ids"]
    user = LLAMA.convert_tokens_to_ids("<|user|>")
    mixed = [token_id for plain in ids for token_id in (plain, *[user] * 70)]
    pieces = pieces_of(LLAMA, mixed)
    assert text_of(pieces) == "the dog"
    assert len(pieces) == len(mixed)


class CountingTokenizer:
    """Counts how many ids were decoded in all."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.added_tokens_decoder = tokenizer.added_tokens_decoder
        self.decoded_ids = 0

    def convert_ids_to_tokens(self, token_id: int) -> Any:
        return self._tokenizer.convert_ids_to_tokens(token_id)

    def decode(self, ids: list[int], **options: bool) -> str:
        self.decoded_ids += len(ids)
        text: str = self._tokenizer.decode(ids, **options)
        return text


@pytest.mark.parametrize(
    "make_ids",
    [
        lambda: LLAMA("the quick brown fox " * 100)["input_ids"],
        lambda: byte_ids("你好" * 100),
        lambda: [int(LLAMA.convert_tokens_to_ids("<0xFF>"))] * 500,
    ],
    ids=["words", "characters of three tokens", "broken bytes"],
)
def test_the_cost_is_linear(make_ids: Callable[[], list[int]]) -> None:
    tokenizer = CountingTokenizer(LLAMA)
    ids = make_ids()
    pieces_of(tokenizer, ids)
    assert tokenizer.decoded_ids < 25 * len(ids)


TAGGED = [
    (("[THINK]", "[/THINK]"), "[THINK]Hm[/THINK]Yes", "[THINK]Hm[/THINK]Yes"),
    (("<seed:think>", "</seed:think>"), "<seed:think>Hm</seed:think>Yes", "<seed:think>Hm</seed:think>Yes"),
    (
        ("<|channel|>", "<|message|>", "<|end|>", "<|start|>"),
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Yes",
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Yes",
    ),
    (("<|message|>", "<|end|>"), "Hm<|end|>Yes", "HmYes"),
    (("[THINK]",), "[THINK]Hm", "Hm"),
]


@pytest.mark.parametrize(("special", "written", "said"), TAGGED)
def test_special_tokens_around_thoughts_are_said(special: tuple[str, ...], written: str, said: str) -> None:
    """Where the tokenizer has all that such tags are made of: others of the same name are no tags."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    ids = tokenizer(written)["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert text_of(pieces) == said
    assert [token_id for piece in pieces for token_id in piece.token_ids] == ids
