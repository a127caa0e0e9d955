"""Turns token ids into text, one at a time, without ever splitting a character. The spaces are those of decoding all
ids at once.

A tokenizer may strip the space before the first word, and may need several tokens for one character. So each step
decodes a short window that begins with tokens whose text is already out, and emits what the window adds to them; the
technique is that of Hugging Face's text-generation-inference and vLLM. Knows nothing of models or stop strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2pnet.thought_tags import TAGS

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

CONTEXT_TOKENS = 6
"""How many visible tokens before the first one are its context: enough for the longest UTF-8 character and a word."""

CONTEXT_SCAN = 64
"""Among how many tokens the visible ones are looked for."""

_MAX_CONTINUATION_BYTES = 3
"""A UTF-8 character has at most four bytes, and a token at least one: an unfinished one began in the last three."""


@dataclass(frozen=True)
class Invisible:
    """The ids that decoding leaves out: they alone would be no context. `tags` are those that say where a model's
    thoughts begin and end: they are said all the same, for whoever takes the thoughts apart."""

    ids: frozenset[int]
    tags: Mapping[int, str]


@dataclass(frozen=True)
class Piece:
    """Some ids and the text that they are together."""

    token_ids: tuple[int, ...]
    text: str


class Detokenizer:
    """Decodes one sequence.

    With `context` empty, the texts joined are `tokenizer.decode(ids, skip_special_tokens=True)`; otherwise they are
    what the ids add to the context's text. Tags of thoughts are said all the same. One exception: where bytes are not
    valid UTF-8, a byte-fallback tokenizer replaces the whole run of byte tokens, valid characters included, and those
    may already be out here.
    """

    def __init__(
        self,
        tokenizer: Any,
        invisible: Invisible,
        context: Sequence[int] = (),
        markers: Mapping[int, str] | None = None,
    ) -> None:
        """`invisible` is the tokenizer's `invisible_ids`, passed in since it takes a while to collect. `markers` are
        those of them that are to be seen besides the tags of thoughts, with their text."""
        self._markers = {**invisible.tags, **(markers or {})}
        self._tokenizer = tokenizer
        self._invisible = invisible.ids
        self._context = self._whole_characters(self._visible(context[-CONTEXT_SCAN:])[-CONTEXT_TOKENS:])
        self._pending: list[int] = []

    def feed(self, token_id: int) -> Piece | None:
        """The piece that this id completes; None in the middle of a character."""
        if token_id in self._markers:
            return self._marked(token_id)
        self._pending.append(token_id)
        text = self._pending_text()
        if not text.endswith(REPLACEMENT):
            return self._emit(len(self._pending), text)
        return self._emit_invalid(text)

    def flush(self) -> Piece | None:
        """The last piece: what is still pending when the sequence is over, however broken."""
        return self._emit(len(self._pending), self._pending_text()) if self._pending else None

    def preview(self, ids: Sequence[int]) -> str:
        """The text that these ids would add to what was fed and flushed so far, all at once."""
        context = self._decode(self._context)
        text = self._decode([*self._context, *ids])
        if text.startswith(context):
            return text[len(context) :]
        return self._decode(ids)  # broken bytes reach back over the boundary

    def _marked(self, token_id: int) -> Piece:
        """A token that ends whatever was pending."""
        before = self.flush()
        ids, text = (before.token_ids, before.text) if before else ((), "")
        return Piece((*ids, token_id), text + self._markers[token_id])

    def _emit(self, count: int, text: str) -> Piece:
        """Emit the first `count` pending ids, which are then the context of what follows."""
        emitted, self._pending = self._pending[:count], self._pending[count:]
        self._context = self._visible(emitted) or self._context
        return Piece(tuple(emitted), text)

    def _emit_invalid(self, text: str) -> Piece | None:
        """Emit the pending ids before the last three: bytes that can become no character must not be held for ever."""
        count = len(self._pending) - _MAX_CONTINUATION_BYTES
        if count <= 0:
            return None
        before, after = self._decode(self._pending[:count]), self._decode(self._pending[count:])
        if before + after != self._decode(self._pending) or not text.endswith(after):
            return None  # a character goes across this boundary: the next token moves it
        return self._emit(count, text[: len(text) - len(after)])

    def _pending_text(self) -> str:
        """The text that the pending ids add to the context."""
        return self.preview(self._pending)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _whole_characters(self, ids: list[int]) -> list[int]:
        """The ids without the rest of a character that they do not begin: it would spoil the bytes that follow it."""
        while ids and self._decode(ids).startswith(REPLACEMENT):
            ids = ids[1:]
        return ids

    def _visible(self, ids: Sequence[int]) -> list[int]:
        return [
            token_id
            for token_id in ids
            if token_id not in self._invisible and self._tokenizer.convert_ids_to_tokens(token_id) is not None
        ]


def invisible_ids(tokenizer: Any) -> Invisible:
    """Those of one tokenizer. Tags are its own only where it has all tokens that they are made of."""
    ids = frozenset(token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
    names = {str(tokenizer.convert_ids_to_tokens(token_id)): token_id for token_id in ids}
    own = [tags for tags in TAGS if all(token in names for token in tags.tokens)]
    return Invisible(ids, {names[token]: token for tags in own for token in tags.tokens})
