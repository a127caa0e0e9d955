"""A stream between two members, which can be cut from outside while somebody reads or writes it.

Knows nothing of why it is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from p2pnet.errors import PeerLost
from p2pnet.network.interface import Stream
from p2pnet.swarm.certificates import Certificate

T = TypeVar("T")


class MemberStream:
    """See `interface.Stream`. `ahead` is what has been read of it already; `on_close` is told each time it is closed,
    and `on_use` when it is used again after it was idle.

    `inner` is closed by whoever holds this one, when it notices: two cannot read the end of one stream.
    """

    def __init__(
        self,
        inner: Stream,
        certificate: Certificate,
        ahead: bytes,
        on_close: Callable[[MemberStream], None],
        on_use: Callable[[MemberStream], None] = lambda stream: None,
    ) -> None:
        self.certificate = certificate
        """The other end's."""
        self._inner = inner
        self._ahead = ahead
        self._on_close = on_close
        self._on_use = on_use
        self._is_cut = False
        self._waits: set[asyncio.Timeout] = set()

    @property
    def peer_id(self) -> str:
        return self._inner.peer_id

    @property
    def is_idle(self) -> bool:
        return self._inner.is_idle

    @is_idle.setter
    def is_idle(self, is_idle: bool) -> None:
        self._inner.is_idle = is_idle
        if not is_idle:
            self._on_use(self)

    async def read(self) -> bytes:
        with suppress(PeerLost):
            if self._ahead and not self._is_cut:
                ahead, self._ahead = self._ahead, b""
                return ahead
            return await self._unless_cut(self._inner.read)
        return b""

    async def write(self, data: bytes) -> None:
        await self._unless_cut(lambda: self._inner.write(data))

    def close(self) -> None:
        self._on_close(self)
        self._inner.close()

    def cut(self) -> None:
        """End it now for who holds it: what is being read or written ends, and so does whatever is tried next."""
        self._is_cut = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(asyncio.get_running_loop().time())

    async def _unless_cut(self, act: Callable[[], Awaitable[T]]) -> T:
        """Raises PeerLost when the stream is cut, before or meanwhile."""
        if not self._is_cut:
            try:
                async with asyncio.timeout(None) as wait:
                    self._waits.add(wait)
                    try:
                        return await act()
                    finally:
                        self._waits.discard(wait)
            except TimeoutError:
                if not wait.expired():
                    raise
        raise PeerLost(f"{self.peer_id} is no member of the swarm any more")
