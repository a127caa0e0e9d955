"""From sampled ids to deltas: puts the detokenizer and the stop strings together. Knows nothing of models.

Every delta that carries ids is a clean place to go on from: its ids decode to exactly its text, no character is split,
and no stop string has begun. So a token waits, id and text, until nothing that it started is open. When a stop string
begins within a token, the text before it comes last, in a delta without ids, directly before the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from p2pnet.messages import TextDelta
from p2pnet.worker.engine.detokenizer import Piece
from p2pnet.worker.engine.stopping import StopStrings


class Decoder(Protocol):
    """Makes text of ids: a tokenizer's detokenizer, or the echo backend's list of words."""

    def feed(self, token_id: int) -> Piece | None:
        """The piece that this id completes, if any."""

    def flush(self) -> Piece | None:
        """What is left at the end."""


class Emitter:
    """Turns the ids of one sequence into deltas. Feed it until `is_stopped`, then flush once."""

    def __init__(self, decoder: Decoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = StopStrings(stops)
        self._waiting: deque[Piece] = deque()
        self._safe = ""
        """Text of the waiting pieces that no stop string can take back."""
        self.is_stopped = False

    def feed(self, token_id: int) -> TextDelta | None:
        """The delta that this id completes, if any."""
        self._decoded(self._decoder.feed(token_id))
        return self._release()

    def flush(self) -> tuple[TextDelta, ...]:
        """The last deltas, after a stop string, an end token or a limit."""
        if not self.is_stopped:
            self._decoded(self._decoder.flush())
        if not self.is_stopped:
            self._safe += self._stops.flush()
        whole = self._release()
        rest = TextDelta(self._safe) if self._safe else None
        return tuple(delta for delta in (whole, rest) if delta is not None)

    def _decoded(self, piece: Piece | None) -> None:
        if piece is None:
            return
        verdict = self._stops.feed(piece.text)
        self._waiting.append(piece)
        self._safe += verdict.safe
        self.is_stopped = verdict.is_stopped

    def _release(self) -> TextDelta | None:
        """All waiting pieces whose whole text is safe, as one delta."""
        ids: list[int] = []
        length = 0
        while self._waiting and length + len(self._waiting[0].text) <= len(self._safe):
            piece = self._waiting.popleft()
            ids.extend(piece.token_ids)
            length += len(piece.text)
        if not ids:
            return None
        text, self._safe = self._safe[:length], self._safe[length:]
        return TextDelta(text, tuple(ids))
