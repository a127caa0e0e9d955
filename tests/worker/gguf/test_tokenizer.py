"""llama.cpp's tokenizer behind transformers' names: nothing is added to a text or taken from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from p2pnet.worker.gguf.model import LlamaModel
from p2pnet.worker.gguf.tokenizer import GgufTokenizer
from p2pnet.worker.text.detokenizer import Detokenizer, invisible_ids
from p2pnet.worker.text.vocabulary import Vocabulary
from tests.gguf_files import real_gguf, small_gguf

TEXTS = (
    "Once upon a time",
    " a space, two  spaces\n\n\tand a tab ",
    "über ça 你好 😀 𒀀 a\u0301 \u200d",
    "\x00\x01\x7f",
    "<|user|> <eos> <bos> no",
    "",
)


@pytest.fixture(scope="module")
def small(good: Path) -> GgufTokenizer:
    return GgufTokenizer(LlamaModel(good, vocabulary_only=True))


@pytest.fixture(scope="module")
def real() -> GgufTokenizer:
    return GgufTokenizer(LlamaModel(real_gguf(), vocabulary_only=True))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_byte_for_byte(small: GgufTokenizer, real: GgufTokenizer, text: str) -> None:
    for tokenizer in (small, real):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
        detokenizer = Detokenizer(tokenizer, invisible_ids(tokenizer))
        pieces = [piece.text for piece in (*map(detokenizer.feed, ids), detokenizer.flush()) if piece]
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


def test_the_small_file_has_the_tokens_of_its_checkpoint(small: GgufTokenizer, folder: Path) -> None:
    reference: Any = AutoTokenizer.from_pretrained(folder)
    for text in ("Once upon a time, über 你好  the dog", "<|user|>hi<eos>x"):
        assert small(text)["input_ids"] == reference(text)["input_ids"]
    assert small.eos_token_id == reference.eos_token_id
    assert small.end_token_ids == {reference.eos_token_id}
    known = Vocabulary(reference, len(reference))
    for token_id in range(len(reference)):
        if not str(small.convert_ids_to_tokens(token_id)).startswith("[PAD"):  # which the checkpoint only counts
            assert small.token_bytes(token_id) == known.token_bytes(token_id)
    assert Vocabulary(small, len(reference)).control_tokens.items() <= known.control_tokens.items()
    turns = [{"role": "user", "content": "Hi"}]
    options: Any = {"add_generation_prompt": True, "return_dict": False}
    assert small.apply_chat_template(turns, **options) == reference.apply_chat_template(turns, **options)
    assert small.convert_ids_to_tokens(10_000) is None
    assert small.get_vocab()["<eos>"] == reference.eos_token_id


def test_special_tokens_are_as_the_file_says(real: GgufTokenizer) -> None:
    assert real("Hello")["input_ids"][0] == real.bos_token_id == 2
    assert real("")["input_ids"] == [2]
    assert real("Hello", add_special_tokens=False)["input_ids"][0] != 2
    assert {1, 106} <= real.end_token_ids
    assert real.decode([2, 1, 106], skip_special_tokens=True) == ""
    assert real.decode([2], skip_special_tokens=False) == "<bos>"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}", "<bos>Hello"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "<bos>Hello"),  # the file says that one is added
    ],
)
def test_a_chat_begins_once(real: GgufTokenizer, template: str, expected: str) -> None:
    real.chat_template = template
    ids = real.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert real.decode(ids) == expected
    real.chat_template = None


def test_a_template_for_tools_alone(folder: Path, tmp_path: Path) -> None:
    templates = {"tokenizer__chat_template": "plain", "tokenizer__chat_template__tool_use": "tools {{ tools[0].type }}"}
    tokenizer = GgufTokenizer(LlamaModel(small_gguf(folder, tmp_path / "t.gguf", **templates), vocabulary_only=True))
    turns = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "plain"
    assert tokenizer.apply_chat_template(turns, tools=[{"type": "function"}], tokenize=False) == "tools function"


def test_a_file_that_adds_a_space_before_the_first_word(folder: Path, tmp_path: Path) -> None:
    """As SentencePiece has it: it is not in the text that comes back, and stays between words."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁Hello", "▁", "Hello"]
    pieces += [f"unused{index}" for index in range(1000)]
    size = 488
    tokens = pieces[:size]
    path = small_gguf(
        folder,
        tmp_path / "spm.gguf",
        tokenizer__ggml__model="llama",
        tokenizer__ggml__tokens=tokens,
        tokenizer__ggml__token_type=[2, 3, 3, *[6] * 256, *[1] * (size - 259)],
        tokenizer__ggml__scores=[float(-index) for index in range(size)],
        tokenizer__ggml__bos_token_id=1,
        tokenizer__ggml__eos_token_id=2,
    )
    tokenizer = GgufTokenizer(LlamaModel(path, vocabulary_only=True))
    ids = tokenizer("Hello Hello", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "Hello Hello"
    assert b"".join(map(tokenizer.token_bytes, ids)) == b" Hello Hello"
