"""Tells what bytes each token id stands for, and which ids are control tokens. Knows nothing of grammars.

A tokenizer writes its tokens as strings, and its decoder says how those become text. Joined in order, the bytes of the
ids of a text are its UTF-8, but for the space that Llama-type tokenizers put before the first word and take off again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Protocol, runtime_checkable

from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
"""GPT-2's alphabet: each byte as one visible character."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SENTENCEPIECE_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

_Spelling = Callable[[str], bytes]


@runtime_checkable
class SpelledTokenizer(Protocol):
    """A tokenizer that says itself what its tokens stand for, such as that of a GGUF file."""

    def token_bytes(self, token_id: int) -> bytes:
        """As `Vocabulary.token_bytes`."""


class Vocabulary:
    """The vocabulary of one model. Build it once: it reads every token of the tokenizer."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        """`size` is how many ids the model has; those that the tokenizer does not know stand for no bytes."""
        self.control_tokens = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special and token_id < size
        }
        """Control tokens by their text. They are no text: decoding leaves them out."""
        self.control_ids = frozenset(self.control_tokens.values())
        self.is_exact = True
        """Whether the decoder is one whose text is known token by token. Otherwise the bytes are for display only."""
        if isinstance(tokenizer, SpelledTokenizer):
            self._bytes = tuple(map(tokenizer.token_bytes, range(size)))
        else:
            spell = _spelling(tokenizer)
            self.is_exact = spell is not None
            self._bytes = tuple(_bytes_of_all(tokenizer, size, spell or _as_written, self.control_ids))

    @property
    def size(self) -> int:
        return len(self._bytes)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that an id adds to the text, which need not be whole characters.

        They are a control token's own name, and b"" for an id that the tokenizer does not know. Raises IndexError
        beyond `size`.
        """
        return self._bytes[token_id]


def _bytes_of_all(tokenizer: Any, size: int, spell: _Spelling, control_ids: frozenset[int]) -> Iterator[bytes]:
    known = min(size, max(tokenizer.get_vocab().values(), default=-1) + 1)
    tokens = tokenizer.convert_ids_to_tokens(list(range(known)))
    for token_id, token in enumerate(chain(tokens, [None] * (size - known))):
        if token is None:
            yield b""
        else:
            yield _as_written(token) if token_id in control_ids else spell(token)


def _spelling(tokenizer: Any) -> _Spelling | None:
    """How this tokenizer's decoder turns one token into bytes; None when it does not do so token by token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a slow tokenizer: SentencePiece, whose pieces always look the same
        return partial(_sentencepiece, _SENTENCEPIECE_SPACE) if hasattr(tokenizer, "sp_model") else None
    if backend.decoder is None:
        return None
    steps = list(_steps(json.loads(backend.decoder.__getstate__())))
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return _byte_level
    if kinds == {"Metaspace"}:
        return partial(_sentencepiece, steps[0]["replacement"])
    if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        space = next((step["pattern"].get("String") for step in steps if step["type"] == "Replace"), None)
        return partial(_sentencepiece, space) if space else None
    return None


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _byte_level(token: str) -> bytes:
    """The bytes of a token of a byte-level tokenizer, as tokenizers does it: a token with a character outside of the
    alphabet, which somebody added, is plain text."""
    codes = [_BYTE_OF.get(character) for character in token]
    return _as_written(token) if None in codes else bytes(code for code in codes if code is not None)


def _sentencepiece(space: str, token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else _as_written(token.replace(space, " "))


def _as_written(token: str) -> bytes:
    return token.encode()
