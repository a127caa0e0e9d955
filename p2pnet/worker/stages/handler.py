"""Serves `/p2pnet/stage/1`: lets drivers in, and takes rows from them and from the stages before.

A stream is a driver's, once it has begun with StageOpen; any stream may bring rows for a ticket that is known. What one
driver, and all together, may hold in memory is bounded before it is read. Knows nothing of what is computed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from p2pnet.errors import Draining, P2PNetError, PeerLost, ProtocolViolation
from p2pnet.network.interface import Stream
from p2pnet.stage_messages import (
    BAD_ROW,
    BUSY,
    DRAINING,
    NOT_ALLOWED,
    NOT_HERE,
    StageOpen,
    StagePing,
    StagePong,
    StageReady,
    StageRefusal,
    StageRefused,
    StageReplay,
    StageRow,
    ToStage,
)
from p2pnet.wire.stage_frames import StageFrame, body_bytes, encode_stage_frame, to_stage_decoder
from p2pnet.worker.stages.computing import StageComputer
from p2pnet.worker.stages.links import Links
from p2pnet.worker.stages.sessions import Session
from p2pnet.worker.stages.shelf import Shelf

logger = logging.getLogger(__name__)

MAX_STAGE_DRIVERS = 16
"""With more, each one's share of the memory holds no conversation."""

MAX_STAGE_STREAMS = 128
"""Of drivers, and of stages before this one: each holds a message at most, and a row where its ticket is known."""

MAX_STAGE_STREAMS_PER_PEER = 4
"""A peer needs three: as a driver, for its pings, and as the stage before."""

MAX_STAGE_UNREAD_BYTES = 256 << 20
"""Numbers of rows that arrive or wait, of all drivers together."""

OPENING_S = 10.0
"""From the opened stream to its first message: some round trips over a bad line."""

ARRIVING_S = 30.0
"""For a whole row, from its first byte: one of the largest size over a line of 5 megabits."""

STAGE_SILENCE_S = 600.0
"""A driver that sends no row for this long loses its memory here: it has the tokens, and can come again."""


@dataclass(frozen=True)
class StageTimes:
    """How long a stage waits for what others send, in seconds."""

    opening_s: float = OPENING_S
    arriving_s: float = ARRIVING_S
    silence_s: float = STAGE_SILENCE_S


@dataclass(frozen=True)
class Serves:
    """What is here: layers [first, last) of the model with this digest, which has so many."""

    digest: str
    first: int
    last: int
    layers: int


@dataclass(eq=False)
class _Inbound:
    """One stream, while it is served."""

    stream: Stream
    session: Session | None = None
    unread_bytes: int = 0
    has_brought: bool = False


class StageHandler:
    """Serves the streams of one stage. `check` raises P2PNetError for a peer that is not served at all."""

    def __init__(
        self,
        serves: Serves,
        shelf: Shelf,
        computer: StageComputer,
        links: Links,
        check: Callable[[str], None] = lambda peer_id: None,
        times: StageTimes | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serves = serves
        self._times = times or StageTimes()
        self._shelf = shelf
        self._computer = computer
        self._links = links
        self._check = check
        self._now_s = now_s
        self._sessions: dict[bytes, Session] = {}
        self._streams: Counter[str] = Counter()
        self._unread_bytes = 0
        self._is_draining = False
        self._is_empty = asyncio.Event()

    @property
    def drivers(self) -> int:
        return len(self._sessions)

    async def __call__(self, stream: Stream) -> None:
        """Serve one stream to its end."""
        inbound = _Inbound(stream)
        self._streams[stream.peer_id] += 1
        try:
            self._let_in(stream.peer_id)
            await self._read(inbound)
        except StageRefusal as refusal:
            await _refuse(stream, refusal.code, str(refusal))
        except ProtocolViolation as error:
            await _refuse(stream, BAD_ROW, error.message)
        except PeerLost:
            logger.debug("%s went away", stream.peer_id)
        except Exception:  # the edge: whatever a bug may be, the other streams go on
            logger.exception("a stream of a chain failed")
        finally:
            self._unread_bytes -= inbound.unread_bytes
            self._streams[stream.peer_id] -= 1
            if not self._streams[stream.peer_id]:
                del self._streams[stream.peer_id]
            if inbound.session is not None:
                await self._end(inbound.session)

    async def drain(self, limit_s: float) -> None:
        """Take no new drivers, tell those there are to leave, and wait for them, at most `limit_s` seconds."""
        self._is_draining = True
        await self.send_away("this stage is stopping")
        if self._sessions:
            self._is_empty.clear()
            try:
                async with asyncio.timeout(limit_s):
                    await self._is_empty.wait()
            except TimeoutError:
                logger.info("%d drivers still use this stage", len(self._sessions))

    async def send_away(self, why: str) -> None:
        """Tell all drivers to leave. They may go on until they have another chain."""
        await asyncio.gather(*(session.tell(StageRefused(DRAINING, why)) for session in list(self._sessions.values())))

    async def close(self) -> None:
        """End all sessions."""
        self._is_draining = True
        for session in list(self._sessions.values()):
            session.stream.close()
            await self._end(session)
        self._links.close()
        await self._computer.close()

    def _let_in(self, peer_id: str) -> None:
        try:
            self._check(peer_id)
        except Draining as error:
            raise StageRefusal(DRAINING, error.message) from error
        except P2PNetError as error:
            raise StageRefusal(NOT_ALLOWED, error.message) from error
        if self._streams[peer_id] > MAX_STAGE_STREAMS_PER_PEER or self._streams.total() > MAX_STAGE_STREAMS:
            raise StageRefusal(BUSY, "too many streams")

    async def _read(self, inbound: _Inbound) -> None:
        decoder = to_stage_decoder(lambda header: self._admit(inbound, header))
        until_s: float | None = self._now_s() + self._times.opening_s
        while data := await self._next(inbound, until_s):
            frames = decoder.feed(data)
            for frame in frames:
                inbound.has_brought = True
                await self._take(inbound, frame)
            if decoder.is_empty:
                until_s = None
            elif frames or until_s is None:
                until_s = self._now_s() + self._times.arriving_s

    async def _next(self, inbound: _Inbound, until_s: float | None) -> bytes:
        """What has come by then; None is not before the stream has been silent for long. Raises StageRefusal when
        nothing has. A driver's rows may come by other streams, and then it is not silent."""
        limit_s = self._times.silence_s if until_s is None else until_s - self._now_s()
        while True:
            try:
                async with asyncio.timeout(max(0.0, limit_s)):
                    return await inbound.stream.read()
            except TimeoutError:
                session = inbound.session
                if until_s is None and session is not None:
                    used_s = self._now_s() if session.is_at_work else session.used_s
                    limit_s = used_s + self._times.silence_s - self._now_s()
                if until_s is not None or session is None or limit_s <= 0:
                    raise StageRefusal(BUSY, "nothing came for too long") from None

    def _admit(self, inbound: _Inbound, header: ToStage) -> bool:
        """Whether a message's numbers may be read. Raises StageRefusal when that ends the stream."""
        if isinstance(header, StageOpen | StagePing):
            return True
        session = self._sessions.get(header.ticket)
        if session is None:
            if not inbound.has_brought:
                raise StageRefusal(NOT_HERE, "this ticket is not known")
            return False  # its driver has just gone; others' rows come on this stream, too
        if self._unread_bytes + body_bytes(header) > MAX_STAGE_UNREAD_BYTES:
            raise StageRefusal(BUSY, "too many rows are on their way to this stage")
        inbound.unread_bytes += body_bytes(header)
        self._unread_bytes += body_bytes(header)
        return True

    async def _take(self, inbound: _Inbound, frame: StageFrame[ToStage]) -> None:
        if isinstance(frame.header, StageOpen):
            await self._open(inbound, frame.header)
            return
        if isinstance(frame.header, StagePing):
            await _pong(inbound)
            return
        session = self._sessions.get(frame.header.ticket)
        if isinstance(frame.header, StageReplay):
            if session is None or session is not inbound.session:
                raise StageRefusal(BAD_ROW, "a replay that does not come from its driver")
            await session.take_replay(frame.header, self._now_s())
            return
        size = body_bytes(frame.header)
        inbound.unread_bytes -= size
        if session is None:
            self._read_bytes(size)
        else:
            await session.take(cast(StageFrame[StageRow], frame), self._now_s(), partial(self._read_bytes, size))

    def _read_bytes(self, size: int) -> None:
        self._unread_bytes -= size

    async def _open(self, inbound: _Inbound, opened: StageOpen) -> None:
        if inbound.session is not None or opened.ticket in self._sessions:
            raise StageRefusal(BAD_ROW, "a ticket that is in use")
        if self._is_draining:
            raise StageRefusal(DRAINING, "this stage is stopping")
        here = self._serves
        if opened.digest != here.digest or not here.first <= opened.first < opened.last <= here.last:
            raise StageRefusal(NOT_HERE, "these layers are not here")
        for session in [each for each in self._sessions.values() if each.driver == inbound.stream.peer_id]:
            session.stream.close()
            await self._end(session)
        if len(self._sessions) >= MAX_STAGE_DRIVERS:
            raise StageRefusal(BUSY, "as many drivers as there may be")
        drawer = self._shelf.open(is_keeping=opened.last < here.layers)  # after the last one nobody lacks anything
        session = Session(inbound.stream, opened, drawer, self._computer, self._links.send, self._now_s())
        inbound.session = self._sessions[opened.ticket] = session
        await session.tell(StageReady(self._shelf.share_tokens))

    async def _end(self, session: Session) -> None:
        """Idempotent."""
        self._sessions.pop(session.ticket, None)
        self._shelf.close(session.drawer)
        await session.close()
        if not self._sessions:
            self._is_empty.set()


async def _pong(inbound: _Inbound) -> None:
    """Raises StageRefusal where rows come, for which a ping would have to wait; PeerLost when nobody reads pongs."""
    if inbound.session is not None:
        raise StageRefusal(BAD_ROW, "a ping on the stream of a ticket")
    try:
        async with asyncio.timeout(OPENING_S):
            await inbound.stream.write(encode_stage_frame(StagePong()))
    except TimeoutError as error:
        raise PeerLost("pongs are not read") from error


async def _refuse(stream: Stream, code: str, message: str) -> None:
    """Say why the stream ends, if the other side still reads."""
    try:
        async with asyncio.timeout(OPENING_S):
            await stream.write(encode_stage_frame(StageRefused(code, message[:500])))
    except (PeerLost, TimeoutError):
        logger.debug("%s does not hear why its stream ends", stream.peer_id)
