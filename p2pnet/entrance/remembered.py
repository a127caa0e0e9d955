"""Remembers what pages and domains named last, for when they cannot be asked: a network outlives its web server."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from p2pnet.errors import UsageError
from p2pnet.private_files import write_private

MAX_REMEMBERED = 32
"""Pages and domains. Whoever names others with each start has the last of them remembered."""

_decode = msgspec.json.Decoder(dict[str, tuple[str, ...]]).decode


class Remembered:
    """Addresses by the page or domain that named them, in a file that may be lost. One that cannot be read or written
    is as if it was not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, source: str) -> tuple[str, ...]:
        """What it named last; nothing if that is not known."""
        return self._read().get(source, ())

    def note(self, source: str, addresses: tuple[str, ...]) -> None:
        known = self._read()
        if known.pop(source, None) == addresses:
            return
        latest = [*known.items(), (source, addresses)][-MAX_REMEMBERED:]
        with contextlib.suppress(UsageError):
            write_private(self._path, msgspec.json.encode(dict(latest)))

    def _read(self) -> dict[str, tuple[str, ...]]:
        try:
            return _decode(self._path.read_bytes())
        except (OSError, ValueError):  # MsgspecError is a ValueError
            return {}
