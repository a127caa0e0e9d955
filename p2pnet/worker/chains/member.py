"""One stage of a chain as the driver knows it: its stream, its ticket there, and whether it is still of use.

Knows nothing of the other stages, nor of what is computed.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from p2pnet.errors import PeerError
from p2pnet.network.interface import Network, Stream
from p2pnet.stage_messages import TICKET_BYTES, Hop, StageOpen, StageReady
from p2pnet.wire.stage_frames import STAGE_PROTOCOL, encode_stage_frame
from p2pnet.worker.chains.choosing import Leg

OPEN_S = 10.0
"""To dial a stage, and from then to its answer that it is ready: some round trips over a bad line, through a relay."""


class ChainFault(Exception):
    """A stage of the chain is of no more use: this peer is to blame as far as can be told."""

    def __init__(self, peer_id: str, reason: str) -> None:
        super().__init__(reason)
        self.peer_id = peer_id


@dataclass(eq=False)
class Member:
    """A stage that was dialled. `fault` is why it is of no more use, if so."""

    leg: Leg
    stream: Stream
    ticket: bytes
    ready: asyncio.Future[StageReady]
    asked_s: float
    round_trip_ms: float = math.inf
    """From asking for the ticket to the answer that it is there: nothing is computed for that."""
    fault: ChainFault | None = None
    is_leaving: bool = False
    """It has said that it is stopping."""
    is_dismissed: bool = False
    """It has ended its stream in good order, since nothing was asked for long: that is no failure."""
    is_mourned: bool = False
    """Its loss has been told."""
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Rows go one after the other, in the order of their steps."""

    @property
    def hop(self) -> Hop:
        return Hop(self.leg.peer_id, self.ticket)

    @property
    def kv_tokens(self) -> int:
        """What it holds, for as long as no further drivers come there. It must be ready."""
        return self.ready.result().kv_tokens

    @property
    def is_usable(self) -> bool:
        return self.fault is None and not self.is_leaving

    def note_ready(self, ready: StageReady) -> None:
        self.ready.set_result(ready)
        self.round_trip_ms = (time.monotonic() - self.asked_s) * 1000

    def end(self, reason: str) -> ChainFault:
        """End its stream: it forgets what it has for us. The first reason counts."""
        self.fault = self.fault or ChainFault(self.leg.peer_id, reason)
        self.ready.cancel()
        self.stream.close()
        return self.fault

    async def wait_ready(self) -> StageReady:
        """Raises ChainFault when it will not be."""
        try:
            async with asyncio.timeout(OPEN_S):
                return await asyncio.shield(self.ready)
        except TimeoutError:
            raise self.end("it did not say that it is ready") from None
        except asyncio.CancelledError:
            if self.fault is not None:
                raise self.fault from None
            raise


class StageFull(Exception):
    """A stage has no room for so many sequences in one row. The chain itself is fine."""

    def __init__(self, member: Member) -> None:
        super().__init__("a stage has no room for this row")
        self.member = member


class SequenceGone(Exception):
    """A stage does not have what comes before the tokens of a row. The chain itself is fine."""

    def __init__(self, member: Member) -> None:
        super().__init__("a stage has forgotten a sequence")
        self.member = member


async def dial(network: Network, digest: str, leg: Leg, addresses: Sequence[str]) -> Member:
    """Open a stream to a stage, and ask for its layers. Raises ChainFault."""
    ticket = secrets.token_bytes(TICKET_BYTES)
    stream: Stream | None = None
    try:
        async with asyncio.timeout(OPEN_S):
            stream = await network.open_stream(leg.peer_id, STAGE_PROTOCOL, addresses)
            asked_s = time.monotonic()
            await stream.write(encode_stage_frame(StageOpen(digest, leg.first, leg.last, ticket)))
    except (PeerError, TimeoutError) as error:
        if stream is not None:
            stream.close()
        raise ChainFault(leg.peer_id, "it cannot be reached") from error
    return Member(leg, stream, ticket, asyncio.get_running_loop().create_future(), asked_s)
