"""Finds out that a stage is gone of which its connection says nothing.

Over QUIC the death of a peer is silence, for half a minute. So while a step has no news, those that it waits for are
asked for a sign of life, over streams of their own: on the others numbers may be before it. Knows nothing of what is
computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from p2pnet.errors import PeerError, PeerLost
from p2pnet.network.interface import Stream
from p2pnet.stage_messages import StagePing
from p2pnet.wire.stage_frames import encode_stage_frame
from p2pnet.worker.chains.member import Member
from p2pnet.worker.chains.steps import Step

SILENT_S = 0.2
"""How long a step may take before anybody is asked. A ping costs next to nothing."""

PATIENCE_S = 2.0
"""For a sign of life, beyond what the line takes. To give up one that lives costs the tokens of its sequences, computed
once more."""

SPARED_PATIENCE_S = 0.6
"""Where another stands by, which costs a few tokens."""

ROUND_TRIPS = 4.0
"""For a sign of life: one, and what a line with losses adds."""

SLOW_LINE_BYTES_PER_S = 128 << 10
"""Of a line that a stage may have: what is on its way there goes before a ping."""


class Vigil:
    """Over the stages of one chain. `fail` is told of each that gives no sign of life, and it is hung up on."""

    def __init__(
        self,
        open_stream: Callable[[Member], Awaitable[Stream]],
        is_spared: Callable[[Member], bool],
        fail: Callable[[Member, str], None],
        hang_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._open_stream = open_stream
        self._hang_up = hang_up
        self._is_spared = is_spared
        self._fail = fail
        self._asking: dict[Member, asyncio.Task[None]] = {}
        self._streams: dict[Member, Stream] = {}

    async def over(self, step: Step, size: int) -> bytes:
        """What comes of a step, for which so many bytes were sent. Raises what it fails with."""
        while not step.done.done():
            await asyncio.wait({step.done}, timeout=SILENT_S)
            if not step.done.done():
                for member in step.waited_for:
                    self._ask(member, size)
        return step.done.result()

    def forget(self, member: Member) -> None:
        """It is of no more use."""
        if stream := self._streams.pop(member, None):
            stream.close()

    async def close(self) -> None:
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        for member in list(self._streams):
            self.forget(member)

    def _ask(self, member: Member, size: int) -> None:
        """Unless it is asked already."""
        if member in self._asking or member.fault is not None:
            return
        base_s = SPARED_PATIENCE_S if self._is_spared(member) else PATIENCE_S
        limit_s = base_s + ROUND_TRIPS * member.round_trip_ms / 1000 + size / SLOW_LINE_BYTES_PER_S
        self._asking[member] = asyncio.create_task(self._expect_life(member, limit_s))

    async def _expect_life(self, member: Member, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._ping(member)
        except (PeerError, TimeoutError):
            self._fail(member, "it gives no sign of life")
            await self._hang_up(member.leg.peer_id)  # a dead connection would be in the way when it is back
        finally:
            del self._asking[member]
            if member.fault is not None:
                self.forget(member)

    async def _ping(self, member: Member) -> None:
        """Over the stream that there is, or a new one: a stage may end those that are idle. Raises PeerLost."""
        stream = self._streams.get(member)
        if stream is not None and await _answers(stream):
            return
        self.forget(member)
        stream = self._streams[member] = await self._open_stream(member)
        if not await _answers(stream):
            raise PeerLost("the stream of pings has ended")


async def _answers(stream: Stream) -> bool:
    """Whatever it says is a sign of life."""
    try:
        await stream.write(encode_stage_frame(StagePing()))
    except PeerLost:
        return False
    return bool(await stream.read())
