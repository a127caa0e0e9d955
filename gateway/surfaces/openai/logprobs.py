"""Renders log probabilities of tokens, in the shape of chat and in that of completions. Pure.

A token is bytes, and need not be whole characters: then it is written as OpenAI does, `bytes:\\xe2\\x82`.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from p2pnet.messages import TokenLogprob, TopLogprob


def token_documents(entries: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """As chat and responses have them."""
    return [{**_document(entry), "top_logprobs": [_document(likely) for likely in entry.top]} for entry in entries]


def chat_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": token_documents(entries), "refusal": None}


class TokenOffsets:
    """Where in an answer's text its tokens begin, in characters. A character that tokens share begins with the last of
    them, as far as one can say."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def take(self, token: bytes) -> int:
        """The next token's offset."""
        offset = self._offset
        self._offset += len(self._decoder.decode(token))
        return offset


def completion_logprobs(entries: Sequence[TokenLogprob], offsets: TokenOffsets) -> dict[str, Any]:
    """As completions have them: four lists. The likeliest tokens always have the one that was taken among them."""
    return {
        "tokens": [token_text(entry.token) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [_likeliest(entry) for entry in entries],
        "text_offset": [offsets.take(entry.token) for entry in entries],
    }


def token_text(token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _likeliest(entry: TokenLogprob) -> dict[str, float] | None:
    """None for the first token of a prompt."""
    if entry.logprob is None:
        return None
    return {
        **{token_text(likely.token): likely.logprob for likely in entry.top},
        token_text(entry.token): entry.logprob,
    }


def _document(entry: TokenLogprob | TopLogprob) -> dict[str, Any]:
    return {"token": token_text(entry.token), "logprob": entry.logprob, "bytes": list(entry.token)}
