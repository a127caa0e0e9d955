"""Cuts bytes, however they arrive, into lines of a limited length. Knows nothing of what they say."""

from __future__ import annotations

from p2pnet.errors import WorkerFailed

MAX_LINE_BYTES = 1 << 20
"""One event of a stream: a token with twenty alternatives is 4 KB, a tool call may carry a whole file."""


class LineSplitter:
    """Feed it bytes, and it gives whole lines without their ends. Raises WorkerFailed on a line over the cap."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, empty ones left out."""
        *whole, rest = data.split(b"\n")
        lines = []
        for piece in whole:
            self._extend(piece)
            if line := bytes(self._rest.strip()):
                lines.append(line)
            self._rest.clear()
        self._extend(rest)
        return lines

    def flush(self) -> list[bytes]:
        """The last line, if it has no end."""
        line = bytes(self._rest.strip())
        self._rest.clear()
        return [line] if line else []

    def _extend(self, piece: bytes) -> None:
        if len(self._rest) + len(piece) > self._max_line_bytes:
            raise WorkerFailed("the upstream server sent a line that is too long")
        self._rest += piece
