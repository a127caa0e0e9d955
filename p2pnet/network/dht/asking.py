"""Asks other nodes of the DHT: one call, one stream, and what comes back is read within bounds.

Knows nothing of whom to ask: see `node`. Nor of how streams are opened: it is handed what does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from p2pnet.errors import PeerLost, PeerUnreachable
from p2pnet.network.dht.calls import (
    CALL_ID_BYTES,
    DONE,
    FIND,
    PING,
    STORE,
    CallRefused,
    IncomingMessage,
    answer_in,
    max_answer_bytes,
    packed_question,
)
from p2pnet.network.dht.contact import Contact
from p2pnet.network.dht.messages import (
    FindRequest,
    FindResponse,
    Malformed,
    PingRequest,
    PingResponse,
    Sender,
    Stored,
    StoreRequest,
    StoreResponse,
    decode_find_response,
    decode_ping_response,
    decode_store_response,
    encode_find_request,
    encode_ping_request,
    encode_store_request,
)
from p2pnet.network.interface import BareStream

OpenStream = Callable[[str, str, Sequence[str]], Awaitable[BareStream]]
"""Open a stream to a peer, of a protocol, dialling these full multiaddrs where nothing better is known. Raises
PeerUnreachable."""

LARGE_BYTES = 64 << 10
"""An answer beyond this waits until it may be read: anyone may send MAX_RESPONSE_BYTES."""

MAX_LARGE = 12
"""Large answers read at the same time: 48 MiB at most."""

PARTING_S = 3.0
"""How long the other end may take to end a stream that has been read."""

LEFT_ALONE_S = 5.0
MAX_LEFT_ALONE_S = 300.0
"""How long a node that has not answered is not asked: doubled each time, up to this."""

MAX_SILENT = 1024
"""Nodes remembered for that, the oldest leaving first."""

CALL_ERRORS = (PeerUnreachable, PeerLost, Malformed, CallRefused, TimeoutError)
"""What a call raises, whatever the other end is and does."""


class Asker:
    """Calls to other nodes. Raises one of CALL_ERRORS when there is no answer, or none that makes sense."""

    def __init__(
        self,
        open_stream: OpenStream,
        own: Callable[[], Sender],
        timeout_s: float,
        in_background: Callable[[Awaitable[None]], object],
    ) -> None:
        self._open_stream = open_stream
        self._own = own
        self._timeout_s = timeout_s
        self._in_background = in_background
        self._large = asyncio.Semaphore(MAX_LARGE)

    async def ping(self, contact: Contact) -> PingResponse:
        return decode_ping_response(await self._call(contact, PING, encode_ping_request(PingRequest(self._own()))))

    async def find(self, contact: Contact, keys: Sequence[bytes], nodes_only: bool = False) -> FindResponse:
        """At most MAX_KEYS; there are as many results as keys."""
        request = encode_find_request(FindRequest(tuple(keys), self._own(), nodes_only))
        response = decode_find_response(await self._call(contact, FIND, request))
        if len(response.results) != len(keys):
            raise Malformed(f"{len(response.results)} results for {len(keys)} keys")
        return response

    async def store(self, contact: Contact, values: Sequence[Stored]) -> StoreResponse:
        """At most MAX_KEYS."""
        request = encode_store_request(StoreRequest(tuple(values), self._own()))
        return decode_store_response(await self._call(contact, STORE, request))

    async def _call(self, contact: Contact, protocol: str, data: bytes) -> bytes:
        """Waiting until a large answer may be read is not the other end's time."""
        async with asyncio.timeout(self._timeout_s):
            stream = await self._open_stream(contact.peer_id, protocol, contact.full_addresses())
        message = IncomingMessage(stream, max_answer_bytes(protocol))
        try:
            async with asyncio.timeout(self._timeout_s):
                await stream.write(packed_question(os.urandom(CALL_ID_BYTES), protocol, data))
                is_large = await message.length() > LARGE_BYTES
            if is_large:
                async with self._large, asyncio.timeout(self._timeout_s):
                    answer = await message.body()
            else:
                async with asyncio.timeout(self._timeout_s):
                    answer = await message.body()
        except BaseException:
            stream.close()
            raise
        self._in_background(_part(stream))
        return answer_in(answer)


async def _part(stream: BareStream) -> None:
    """Say that the answer was read, and let the other end end the stream: see `p2pd_stream` for why."""
    try:
        async with asyncio.timeout(PARTING_S):
            await stream.write(DONE)
            while await stream.read():
                pass
    except (PeerLost, TimeoutError):
        pass
    finally:
        stream.close()


class SilentNodes:
    """Remembers who did not answer, and for how long it is left alone. Times are seconds on one monotonic clock."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._until: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __contains__(self, peer: bytes) -> bool:
        return self._until.get(peer, (0.0, 0.0))[0] > self._now_s()

    def note_silent(self, peer: bytes) -> None:
        if peer in self:
            return
        last_s = self._until.pop(peer, (0.0, 0.0))[1]
        pause_s = min(MAX_LEFT_ALONE_S, 2 * last_s) or LEFT_ALONE_S
        self._until[peer] = self._now_s() + pause_s, pause_s
        if len(self._until) > MAX_SILENT:
            self._until.popitem(last=False)

    def clear(self) -> None:
        """Ask all of them again."""
        self._until.clear()

    def note_answered(self, peer: bytes) -> None:
        self._until.pop(peer, None)
