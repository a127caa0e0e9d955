"""The tokenizer and chat template of a GGUF file, run by llama.cpp: what the file says, byte for byte.

It has those methods of transformers' tokenizers that `worker.text` calls, so prompts, stop strings, grammars and tool
calls are the same code for both. It keeps a copy of the vocabulary and no weights. Knows nothing of requests.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from p2pnet.worker.gguf.library import library
from p2pnet.worker.gguf.model import LlamaModel

_CONTROL = 1 | 8
"""LLAMA_TOKEN_ATTR_UNKNOWN and _CONTROL of llama.h: such tokens are no text."""

_PIECE_BYTES = 256
"""More than a usual token has; a longer one is asked for again."""

_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "sep_token": "sep", "pad_token": "pad"}
"""What templates call the special tokens, and how llama.h names the functions that say which they are."""


DEFAULT, TOOL_USE = "default", "tool_use"
"""What transformers calls the templates of a model that has one for tools alone."""


@dataclass(frozen=True)
class SpecialToken:
    """As transformers has it."""

    content: str
    special: bool = True


class GgufTokenizer:
    """Tokenizes and detokenizes. Safe to use from several threads."""

    def __init__(self, model: LlamaModel) -> None:
        """`model` may have the vocabulary only, and should: it stays for as long as the tokenizer does."""
        self._llama = library()
        self._model = model
        self._vocabulary = model.vocabulary
        self._size = model.vocabulary_size
        self.chat_template: str | dict[str, str] | None = _templates(model)
        self._bytes: list[bytes] = []
        self.added_tokens_decoder: dict[int, SpecialToken] = {}
        """The control tokens."""
        self.end_token_ids: frozenset[int] = frozenset()
        """What ends an answer, by the file: llama.cpp adds other models' names for it, such as `</s>`."""
        self._read()
        self._special = {name: self._special_id(function) for name, function in _SPECIAL.items()}
        self._strips_space = self._adds_space_before_first_word()

    @property
    def bos_token_id(self) -> int | None:
        return self._special["bos_token"]

    @property
    def eos_token_id(self) -> int | None:
        return self._special["eos_token"]

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """The ids of a text, under `input_ids`. Names of control tokens in it become those tokens."""
        raw = text.encode(errors="replace")
        room = len(raw) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self._llama.llama_tokenize(self._vocabulary, raw, len(raw), ids, room, add_special_tokens, True)
            if count >= 0:
                return {"input_ids": ids[:count]}
            room = -count

    def decode(
        self, ids: Sequence[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        """The text of some ids: their bytes, joined. Bytes that are no UTF-8 become replacement characters."""
        hidden = self.added_tokens_decoder if skip_special_tokens else {}
        raw = b"".join(self._bytes[token_id] for token_id in ids if token_id not in hidden)
        text = raw.decode(errors="replace")
        return text[1:] if self._strips_space and text.startswith(" ") else text

    def token_bytes(self, token_id: int) -> bytes:
        """What an id adds to the text; a control token's own name."""
        return self._bytes[token_id]

    def convert_ids_to_tokens(self, token_id: int) -> str | None:
        """How the file writes a token; None for an id that there is not."""
        return self._written(token_id) if 0 <= token_id < self._size else None

    def get_vocab(self) -> dict[str, int]:
        return self._ids_by_text

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_dict: bool = False,
    ) -> Any:
        """The template's text, or with `tokenize` its ids. Raises what templates raise, see `prompting`.

        As llama.cpp does it, the ids begin with the begin token where the file says so, once: many templates write it
        themselves.
        """
        template = self.chat_template
        if isinstance(template, dict):
            template = template[TOOL_USE if tools else DEFAULT]
        special = {name: self._written(token_id) for name, token_id in self._special.items() if token_id is not None}
        rendered, _ = render_jinja_template(
            conversations=[conversation],
            tools=tools,
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            **special,
        )
        text: str = rendered[0]
        if not tokenize:
            return text
        ids = self(text, add_special_tokens=False)["input_ids"]
        begins = self._llama.llama_vocab_get_add_bos(self._vocabulary) and self.bos_token_id is not None
        return [self.bos_token_id, *ids] if begins and ids[:1] != [self.bos_token_id] else ids

    def _read(self) -> None:
        """Read all tokens, once: a call for each costs half a second for the largest vocabularies."""
        ends = set()
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        for token_id in range(self._size):
            piece = self._piece(token_id, buffer)
            if self._llama.llama_vocab_get_attr(self._vocabulary, token_id) & _CONTROL:
                written = self._written(token_id)
                self.added_tokens_decoder[token_id] = SpecialToken(written)
                piece = written.encode()
            self._bytes.append(piece)
            if self._llama.llama_vocab_is_eog(self._vocabulary, token_id):
                ends.add(token_id)
        self.end_token_ids = frozenset(ends)

    def _piece(self, token_id: int, buffer: Any) -> bytes:
        length = self._llama.llama_token_to_piece(self._vocabulary, token_id, buffer, len(buffer), 0, False)
        if length < 0:
            return self._piece(token_id, ctypes.create_string_buffer(-length))
        return bytes(buffer.raw[:length])

    def _written(self, token_id: int) -> str:
        found: bytes = self._llama.llama_vocab_get_text(self._vocabulary, token_id)
        return found.decode(errors="replace")

    @cached_property
    def _ids_by_text(self) -> dict[str, int]:
        return {self._written(token_id): token_id for token_id in range(self._size)}

    def _special_id(self, name: str) -> int | None:
        token_id = int(getattr(self._llama, f"llama_vocab_{name}")(self._vocabulary))
        return token_id if 0 <= token_id < self._size else None

    def _adds_space_before_first_word(self) -> bool:
        """Whether a text begins with a space that nobody wrote, as SentencePiece has it: decoding takes it off."""
        if self._llama.llama_vocab_type(self._vocabulary) != self._llama.LLAMA_VOCAB_TYPE_SPM:
            return False
        return self._model.metadata("tokenizer.ggml.add_space_prefix") != "false"


def _templates(model: LlamaModel) -> str | dict[str, str] | None:
    default, tool_use = model.chat_template(), model.chat_template(TOOL_USE)
    return default if default is None or tool_use is None else {DEFAULT: default, TOOL_USE: tool_use}
