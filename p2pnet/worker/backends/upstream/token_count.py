"""Counts the tokens of one choice of an answer, with a server's help or without. Pure."""

from __future__ import annotations

from p2pnet.worker.backends.upstream.dialect import AnswerPiece

FEWEST_BYTES_PER_TOKEN = 3
"""Of usual text: English has four to five, code and Chinese somewhat over three. So what a text is taken for is seldom
less than what it was."""


class TokenCount:
    """Feed it each piece of the choice.

    `counted` is what the server says, or else how many pieces there were. `cautious` is what may count towards
    `max_tokens` when the answer goes on elsewhere: a piece can hold several tokens, so where the server does not count,
    the bytes that were said have a say. An answer may end early by it, and is never longer than was asked for.
    """

    def __init__(self) -> None:
        self.counted = 0
        self.cautious = 0
        self._uncounted_bytes = 0

    def take(self, piece: AnswerPiece) -> None:
        """Count one more piece."""
        said = piece.text + piece.reasoning + "".join(call.arguments for call in piece.tool_calls)
        if piece.tokens_so_far:  # a server that says 0 with its first words does not count
            self.counted = max(self.counted, piece.tokens_so_far)
            self.cautious = max(self.cautious, piece.tokens_so_far)
            return
        tokens = max(len(piece.logprobs), int(bool(said or piece.tool_calls)))
        self.counted += tokens
        self.cautious += tokens
        if not piece.logprobs:
            self._uncounted_bytes += len(said.encode("utf-8", "replace"))
            self.cautious = max(self.cautious, -(-self._uncounted_bytes // FEWEST_BYTES_PER_TOKEN))
