"""Our end of a pseudo-terminal: what a program has written to it, and what is typed there."""

from __future__ import annotations

import os
import re
import threading

from tests.processes import wait_until

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class Terminal:
    """Reads in the background, so that the program never waits for us. Closes `descriptor` on leaving."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Terminal:
        self._reader.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.join(10)
        os.close(self._descriptor)

    @property
    def raw(self) -> str:
        return b"".join(self._chunks).decode(errors="replace")

    @property
    def text(self) -> str:
        """All that was ever written, without what only moves the cursor or colours."""
        return CONTROL.sub("", self.raw)

    def wait_for(self, pattern: str, timeout_s: float = 90.0) -> None:
        """Wait until a regular expression is found in what was written."""
        found = re.compile(pattern)
        wait_until(lambda: found.search(self.text) is not None, f"{pattern!r} on the terminal", timeout_s)

    def rest(self) -> str:
        """All of it, once the program has closed its end."""
        self._reader.join(30)
        return self.text

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._descriptor, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                return
            if not chunk:
                return
            self._chunks.append(chunk)
