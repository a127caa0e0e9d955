"""Checks that a worker's scores have one margin for each token, and that each can be one. Pure."""

from __future__ import annotations

from p2pnet.errors import ProtocolViolation
from p2pnet.messages import Accepted, Finished
from p2pnet.score_messages import MARGIN_BYTES, MAX_MARGIN, Scored


class MarginCheck:
    """Follows the scores of so many tokens, and of end and text where these are wanted. Every check raises
    ProtocolViolation."""

    def __init__(self, tokens: int, needs_end: bool = False, takes_text: bool = False) -> None:
        self._missing = tokens
        self._needs_end = needs_end
        self._takes_text = takes_text  # which a worker of an earlier version does not send

    def check(self, event: Accepted | Scored | Finished) -> None:
        """Check the next event, whichever it is."""
        match event:
            case Scored():
                self.check_scored(event)
            case Finished():
                self.check_over()

    def check_scored(self, scored: Scored) -> None:
        """Check some more margins."""
        if not scored.margins and scored.end is None and scored.text is None:
            raise ProtocolViolation("a score of nothing")
        check_margins(scored.margins)
        self._missing -= len(scored.margins) // MARGIN_BYTES
        if self._missing < 0:
            raise ProtocolViolation("more margins than tokens")
        if scored.end is not None:
            if not self._needs_end or self._missing:
                raise ProtocolViolation("a score of an end that was not asked for, or before the last margin")
            self._needs_end = False
        if scored.text is not None:
            if not self._takes_text or self._missing or self._needs_end:
                raise ProtocolViolation("a score of a text that was not asked for, or before the last margin")
            self._takes_text = False

    def check_over(self) -> None:
        """Check that nothing is missing."""
        if self._missing or self._needs_end:
            raise ProtocolViolation(f"the worker went on, and {self._missing} margins or the end are missing")


def check_margins(margins: bytes) -> None:
    """Raises ProtocolViolation unless these are whole numbers of four bytes, each from 0 to MAX_MARGIN."""
    if len(margins) % MARGIN_BYTES:
        raise ProtocolViolation(f"margins of {len(margins)} bytes")
    if not all(0 <= margin <= MAX_MARGIN for margin in Scored(margins).values):  # never so for NaN
        raise ProtocolViolation("a margin that is none")
