"""Keeps streams on which nothing is asked at the moment, for the next request to the same peer.

Opening a stream costs a round trip, a socket and several negotiations, and parting from one two round trips more. Owns
how many are kept and for how long. Opens none, and knows nothing of what they carry: whoever keeps a stream knows that
the other end waits for more on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from p2pnet.errors import PeerLost
from p2pnet.network.interface import Stream

KEPT_S = 30.0
"""How long a stream stays open on which nothing is asked: it costs some 50 kB and a file at both ends. A circuit that
nobody uses is closed after twice as long, and the other end waits half as long again: then it is us who closes, and no
request meets a stream that is just ending."""

MAX_KEPT_PER_PEER = 64
"""Streams kept to one peer: as many requests as most workers take at the same time, or more."""

MAX_KEPT = 256
"""Streams kept in all, some 13 MB: with more, those that have been unused for longest go."""

SAY_S = 0.1
"""How long what is left to be said waits for a request to go along with it: two writes are two processes woken at both
ends. Nobody waits for it."""

SAYING_S = 0.05
"""How long it may take when it goes alone: into a buffer, and an end that reads nothing is not waited for."""

Way = bool | None
"""How a peer was reached when a stream was opened, as `Network.is_direct_to` has it."""


class KeptStream:
    """A stream that has been kept. See `interface.Stream`.

    While it is kept, its end is listened for; that is the first read of whoever takes it. What `unsaid` holds goes out
    before whatever is written next, or before the end."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._reading: asyncio.Task[bytes] | None = None
        self._acting: asyncio.Task[None] | None = None
        self.unsaid = b""

    @property
    def peer_id(self) -> str:
        return self._stream.peer_id

    @property
    def is_idle(self) -> bool:
        return self._stream.is_idle

    @is_idle.setter
    def is_idle(self, is_idle: bool) -> None:
        self._stream.is_idle = is_idle

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come since it is listened to, and not its end either."""
        return self._reading is not None and not self._reading.done()

    def listen(self, note_heard: Callable[[asyncio.Task[bytes]], None]) -> None:
        """Until somebody reads. `note_heard` is called when anything comes, or the end."""
        self._reading = asyncio.create_task(self._stream.read())
        self._reading.add_done_callback(note_heard)

    async def read(self) -> bytes:
        reading, self._reading = self._reading, None
        return await (self._stream.read() if reading is None else reading)

    async def write(self, data: bytes) -> None:
        unsaid, self.unsaid = self.unsaid, b""
        await self._stream.write(unsaid + data)

    def say(self) -> None:
        """What is left to be said, now."""
        self._acting = asyncio.create_task(self._say())

    def close(self) -> None:
        if self._reading is None and not self.unsaid:
            self._stream.close()
        else:
            self._acting = asyncio.create_task(self._end())

    async def wait_closed(self) -> None:
        """After `close`: until it has been handed on."""
        if self._acting is not None:
            await asyncio.wait({self._acting})

    async def _say(self) -> None:
        """Nothing that goes wrong here matters."""
        with suppress(PeerLost, TimeoutError):
            async with asyncio.timeout(SAYING_S):
                await self.write(b"")

    async def _end(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})  # two cannot read the end of one stream
        if self.unsaid:
            await self._say()
        self._stream.close()


class KeptStreams:
    """Those of one peer, by whom they lead to and what they carry. One on which anything comes is closed: nothing has
    been asked on it."""

    def __init__(
        self,
        kept_s: float = KEPT_S,
        max_per_peer: int = MAX_KEPT_PER_PEER,
        max_kept: int = MAX_KEPT,
        say_s: float = SAY_S,
    ) -> None:
        self._kept_s = kept_s
        self._say_s = say_s
        self._max_per_peer = max_per_peer
        self._max_kept = max_kept
        self._kept: dict[KeptStream, tuple[str, str, Way, asyncio.TimerHandle]] = {}
        """With protocol, peer and way, in the order in which they were kept."""
        self._by_key: dict[tuple[str, str], dict[KeptStream, None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, peer_id: str, protocol: str, way: Way) -> KeptStream | None:
        """The one that was used last, as the others may soon go; None where there is none. Those of another way than
        that which a new one would go now are closed: the peer may be reached without a relay by now."""
        while streams := self._by_key.get((peer_id, protocol)):
            stream = next(reversed(streams))
            went = self._kept[stream][2]
            self._remove(stream)
            if went == way and stream.is_silent:
                stream.is_idle = False
                return stream
            stream.close()
        return None

    def keep(self, protocol: str, stream: Stream, way: Way, unsaid: bytes = b"") -> None:
        """Keep a stream on which the other end waits for more, in place of closing it. `unsaid` is what it may be told
        before that, and need not be told at once."""
        kept = stream if isinstance(stream, KeptStream) else KeptStream(stream)
        kept.is_idle = True
        key = (kept.peer_id, protocol)
        kept.unsaid = unsaid
        after_s, act = (self._say_s, self._say) if unsaid else (self._kept_s, self._drop)
        timer = asyncio.get_running_loop().call_later(after_s, act, kept)
        self._kept[kept] = (*key, way, timer)
        self._by_key.setdefault(key, {})[kept] = None
        kept.listen(lambda _: self._drop(kept))
        if len(self._by_key[key]) > self._max_per_peer:
            self._drop(next(iter(self._by_key[key])))
        elif len(self._kept) > self._max_kept:
            self._drop(next(iter(self._kept)))

    async def close(self) -> None:
        """All of them, and wait until they part."""
        streams = list(self._kept)
        for stream in streams:
            self._drop(stream)
        await asyncio.gather(*(stream.wait_closed() for stream in streams))

    def _say(self, stream: KeptStream) -> None:
        """No request has come in time to go along with it."""
        stream.say()
        timer = asyncio.get_running_loop().call_later(self._kept_s, self._drop, stream)
        self._kept[stream] = (*self._kept[stream][:3], timer)

    def _drop(self, stream: KeptStream) -> None:
        """Close one, if it is still kept."""
        if stream in self._kept:
            self._remove(stream)
            stream.close()

    def _remove(self, stream: KeptStream) -> None:
        peer_id, protocol, _, timer = self._kept.pop(stream)
        timer.cancel()
        del self._by_key[peer_id, protocol][stream]
        if not self._by_key[peer_id, protocol]:
            del self._by_key[peer_id, protocol]
