"""Numbers the tokens of a made-up answer: each is a piece of its text, and its id is its index."""

from __future__ import annotations

from collections.abc import Sequence

from p2pnet.errors import InvalidRequest
from p2pnet.worker.text.detokenizer import Piece


class NumberedTokens:
    """Decodes such tokens: the text of an id is the piece with that index."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def feed(self, token_id: int) -> Piece:
        return Piece((token_id,), self._texts[token_id])

    def flush(self) -> None:
        return None


def check_first_tokens(resume_tokens: Sequence[int], count: int) -> None:
    """Raises InvalidRequest unless these are the first tokens of an answer with `count` tokens."""
    if tuple(resume_tokens) != tuple(range(len(resume_tokens))) or len(resume_tokens) > count:
        raise InvalidRequest("These are not the first tokens of what is said here.", "resume_tokens")
