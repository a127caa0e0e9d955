"""A ping over one stream, byte by byte."""

from __future__ import annotations

import pytest

from p2pnet.errors import PeerLost
from p2pnet.network.libp2p.ping import ping


class Echo:
    """A stream whose other end answers with what it is sent, changed and cut as a test says."""

    peer_id = "peer"

    def __init__(self, pieces: int = 1, change: bytes = b"", keeps: int = 32) -> None:
        self._pieces = pieces
        self._change = change
        self._keeps = keeps
        self._coming: list[bytes] = []

    async def read(self) -> bytes:
        return self._coming.pop(0) if self._coming else b""

    async def write(self, data: bytes) -> None:
        assert len(data) == 32
        said = (self._change + data[len(self._change) :])[: self._keeps]
        size = -(-len(said) // self._pieces)
        self._coming += [said[start : start + size] for start in range(0, len(said), size)]

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("pieces", [1, 2, 32])
async def test_the_same_bytes_come_back(pieces: int) -> None:
    stream = Echo(pieces)
    for _ in range(3):
        await ping(stream)


@pytest.mark.parametrize("stream", [Echo(keeps=31), Echo(keeps=1), Echo(change=b"something else than was sent")])
async def test_anything_else_is_no_answer(stream: Echo) -> None:
    with pytest.raises(PeerLost):
        await ping(stream)
