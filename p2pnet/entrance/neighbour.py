"""Reads whom to join through from the ready file of another command: `file:///run/p2pnet/bootstrap.json`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from p2pnet.errors import UsageError
from p2pnet.network.multiaddrs import check_peer_address

SCHEME = "file://"

MAX_READY_BYTES = 16 << 10
"""Ours have a kilobyte."""


class _Ready(msgspec.Struct):
    addresses: list[str]


_decode = msgspec.json.Decoder(_Ready).decode


def check_file(source: str) -> str:
    """Raises UsageError unless it is a whole path on this machine."""
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost") or len(parts.path) < 2 or "," in source:
        raise UsageError(f"{source!r} names no file here.", "It should look like file:///run/p2pnet/bootstrap.json.")
    return source


def read_addresses(source: str) -> tuple[str, ...]:
    """Those of the peer whose ready file this is. Raises UsageError."""
    path = Path(unquote(urlsplit(source).path))
    fix = "Name what a command that serves has written by --ready-file, once it is there."
    try:
        with path.open("rb") as file:
            addresses = _decode(file.read(MAX_READY_BYTES)).addresses
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", fix) from error
    except ValueError as error:  # MsgspecError and UnicodeDecodeError are ValueErrors
        raise UsageError(f"{path} is no ready file.", fix) from error
    return tuple(map(check_peer_address, addresses))
