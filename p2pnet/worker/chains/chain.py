"""Drives one chain: a stream to each of its stages, rows that go in at the first, results that come from the last.

When something goes wrong it says whose fault that is, as far as can be told; then another stage may take that one's
place, and the others keep what they have. Knows nothing of sequences, nor of which other stages there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from p2pnet.errors import PeerError, ProtocolViolation
from p2pnet.network.interface import Network, Stream
from p2pnet.stage_messages import (
    BUSY,
    DRAINING,
    SEQUENCE_GONE,
    StagePassed,
    StagePong,
    StageReady,
    StageRefused,
    StageReplay,
    StageResult,
    StageRow,
    ToDriver,
)
from p2pnet.wire.stage_frames import STAGE_PROTOCOL, StageFrame, encode_stage_frame, to_driver_decoder
from p2pnet.worker.chains.choosing import Leg
from p2pnet.worker.chains.member import ChainFault, Member, SequenceGone, StageFull, dial
from p2pnet.worker.chains.steps import Step, blamed
from p2pnet.worker.chains.vigil import Vigil

REPLAYS_UNDER_WAY = 4
"""As many as a stage lets wait."""

Timeout = Callable[[int], float]
"""How many seconds a row of so many tokens may take through the whole chain."""


class Chain:
    """An open chain. Make one with `open`."""

    def __init__(
        self,
        network: Network,
        digest: str,
        addresses: Callable[[str], Sequence[str]],
        timeout_s: Timeout,
        min_kv_tokens: int,
    ) -> None:
        self._network = network
        self._digest = digest
        self._addresses = addresses
        self._timeout_s = timeout_s
        self._min_kv_tokens = min_kv_tokens
        self.members: tuple[Member, ...] = ()
        self.spares: tuple[Member, ...] = ()
        """Stages that stand by: what they compute nobody waits for."""
        self._readers: dict[Member, asyncio.Task[None]] = {}
        self._pending: dict[int, Step] = {}
        self._last_step = 0
        self._fault: ChainFault | None = None
        self._vigil = Vigil(self._open_stream, self._is_spared, self._fail, network.hang_up)
        self._replaying = asyncio.Semaphore(REPLAYS_UNDER_WAY)
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.is_closed = False

    @classmethod
    async def open(
        cls,
        network: Network,
        digest: str,
        legs: Sequence[Leg],
        addresses: Callable[[str], Sequence[str]],
        timeout_s: Timeout,
        min_kv_tokens: int = 0,
    ) -> Chain:
        """Open a stream to each stage, all at once. Raises ChainFault, also for a stage that holds fewer tokens."""
        chain = cls(network, digest, addresses, timeout_s, min_kv_tokens)
        try:
            chain.members = await chain.join(legs)
        except BaseException:
            await chain.close()
            raise
        return chain

    @property
    def legs(self) -> tuple[Leg, ...]:
        return tuple(member.leg for member in self.members)

    @property
    def peers(self) -> tuple[str, ...]:
        return tuple(member.leg.peer_id for member in self.members)

    @property
    def round_trips_ms(self) -> dict[str, float]:
        """Those to its stages, as they were measured when these were dialled."""
        return {member.leg.peer_id: member.round_trip_ms for member in (*self.members, *self.spares)}

    @property
    def fault(self) -> ChainFault | None:
        """Why it is of no use as it is, if so."""
        return self._fault

    @property
    def leaving(self) -> set[str]:
        """The stages that have said that they are stopping: others should be used."""
        return {member.leg.peer_id for member in self.members if member.is_leaving}

    @property
    def is_dismissed(self) -> bool:
        """Whether a stage has ended its stream in good order."""
        return any(member.is_dismissed for member in self.members)

    @property
    def kv_tokens(self) -> int:
        """What each of its stages holds, for as long as no further drivers come there."""
        return min((member.kv_tokens for member in self.members if member.fault is None), default=0)

    async def join(self, legs: Sequence[Leg]) -> tuple[Member, ...]:
        """Stages that are ready, for a place in the chain or beside it. Raises ChainFault when one of them is not."""
        found = await asyncio.gather(*(self._joined(leg) for leg in legs), return_exceptions=True)
        members = tuple(each for each in found if isinstance(each, Member))
        for failed in found:
            if isinstance(failed, BaseException):
                for member in members:
                    self._fail(member, "another one was not ready")
                raise failed
        return members

    def replace(self, start: int, end: int, members: Sequence[Member]) -> None:
        """Have these take the place of the stages from number `start` to before `end`."""
        for member in self.members[start:end]:
            self._fail(member, "another has taken its place")
        self.spares = tuple(spare for spare in self.spares if spare not in members)
        self.members = (*self.members[:start], *members, *self.members[end:])
        self._fault = next((member.fault for member in self.members if member.fault is not None), None)

    def stand_by(self, members: Sequence[Member]) -> None:
        """These are fed from now on."""
        self.spares += tuple(member for member in members if member.is_usable)

    async def step(self, row: StageRow, body: bytes) -> bytes:
        """Send a row through the chain; its ticket, step and route are put in here. Returns the numbers that were
        wanted. Rows are computed in the order of the calls. Raises ChainFault, SequenceGone or StageFull."""
        return await self._ask(row, self.members, body)

    async def fill(self, members: Sequence[Member], row: StageRow, body: bytes) -> None:
        """Have these stages alone, of which the first is the model's, compute a row. Raises as `step` does."""
        await self._ask(row, members, body)

    async def replay(self, members: Sequence[Member], replay: StageReplay) -> None:
        """Have the first of these pass on again what it gave, for the others to compute. Raises as `step` does."""
        async with self._replaying:
            await self._ask(replay, members)

    async def blame(self, member: Member, reason: str) -> None:
        """The driver has found out that a stage is of no use."""
        self._fail(member, reason)

    async def settled(self) -> None:
        """Wait until no step is under way, whatever becomes of them."""
        await self._is_idle.wait()

    async def close(self) -> None:
        """End all streams: the stages forget what they have. Idempotent."""
        self.is_closed = True
        self._fault = self._fault or ChainFault(self.peers[0] if self.members else "", "the chain is closed")
        for member in self._readers:
            self._fail(member, "the chain is closed")
        for pending in self._pending.values():
            pending.fail(self._fault)
        for reader in self._readers.values():
            reader.cancel()
        await asyncio.gather(*self._readers.values(), self._vigil.close(), return_exceptions=True)

    async def _open_stream(self, member: Member) -> Stream:
        peer_id = member.leg.peer_id
        return await self._network.open_stream(peer_id, STAGE_PROTOCOL, self._addresses(peer_id))

    def _is_spared(self, member: Member) -> bool:
        """Whether another one stands by to take its place."""
        span = (member.leg.first, member.leg.last)
        return any((spare.leg.first, spare.leg.last) == span and spare.is_usable for spare in self.spares)

    async def _joined(self, leg: Leg) -> Member:
        member = await dial(self._network, self._digest, leg, self._addresses(leg.peer_id))
        self._readers = {each: reader for each, reader in self._readers.items() if not reader.done()}
        self._readers[member] = asyncio.create_task(self._read(member))
        try:
            ready = await member.wait_ready()
        except BaseException:
            self._fail(member, "it was not waited for")
            raise
        if ready.kv_tokens < self._min_kv_tokens:
            raise member.end(f"it has memory for {ready.kv_tokens} tokens, and {self._min_kv_tokens} are wanted")
        return member

    async def _ask(self, asked: StageRow | StageReplay, members: Sequence[Member], body: bytes = b"") -> bytes:
        first, *others = members
        self._last_step += 1
        route = tuple(member.hop for member in others)
        asked = msgspec.structs.replace(asked, ticket=first.ticket, step=self._last_step, route=route)
        pending = self._pending[asked.step] = Step(asked, members)
        if not asked.is_spare:
            self._is_idle.clear()
        fault = self._fault or next((member.fault for member in members if member.fault is not None), None)
        if fault is not None:
            pending.fail(fault)
        try:
            async with asyncio.timeout(self._timeout_s(asked.tokens)):
                await self._send(pending, body)
                return await self._vigil.over(pending, len(body))
        except TimeoutError as error:
            guilty = members[-1 if asked.is_spare else pending.passed]
            self._fail(guilty, "nothing came in time")
            raise (self._fault or guilty.end("")) from error
        finally:
            del self._pending[asked.step]
            self._note_idle()
            if not pending.done.cancel() and not pending.done.cancelled():
                pending.done.exception()  # it is known by now, whoever was told

    async def _send(self, pending: Step, body: bytes) -> None:
        first = pending.members[0]
        async with first.sending:
            if pending.done.done():
                return
            try:
                await first.stream.write(encode_stage_frame(pending.asked, body))
            except PeerError:
                self._fail(first, "its stream has ended")

    async def _read(self, member: Member) -> None:
        decoder = to_driver_decoder(partial(self._admit, member))
        try:
            while data := await member.stream.read():
                for frame in decoder.feed(data):
                    self._hear(member, frame)
            self._fail(member, "it has ended its stream")
        except ProtocolViolation as error:
            self._fail(member, error.message)

    def _admit(self, member: Member, header: ToDriver) -> bool:
        """Whether a message's numbers are wanted. Raises ProtocolViolation for a result that was not asked for."""
        if not isinstance(header, StageResult):
            return True
        pending = self._pending.get(header.step)
        if pending is None:
            if header.step > self._last_step:
                raise ProtocolViolation("a result of a step that has not been")
            return False  # of a step that nobody waits for any more
        if member is not pending.members[-1]:
            raise ProtocolViolation("a result from a stage that is not the last")
        if not pending.fits(header):
            raise ProtocolViolation("a result that is not of the form that was asked for")
        return True

    def _hear(self, member: Member, frame: StageFrame[ToDriver]) -> None:
        match frame.header:
            case StageReady():
                if member.ready.done():
                    raise ProtocolViolation("ready twice")
                member.note_ready(frame.header)
            case StageResult(step=step):
                pending = self._pending.get(step)
                if pending is not None and not pending.done.done():
                    pending.done.set_result(frame.body)
            case StagePassed(step=step):
                pending = self._pending.get(step)
                if pending is not None and member in pending.members:
                    number = pending.members.index(member)
                    pending.passed = max(pending.passed, min(number + 1, len(pending.members) - 1))
            case StageRefused():
                self._hear_refusal(member, frame.header)
            case StagePong():
                raise ProtocolViolation("a pong that was not asked for here")

    def _hear_refusal(self, member: Member, refused: StageRefused) -> None:
        if refused.step is None:
            if refused.code == DRAINING and member.ready.done():
                member.is_leaving = True
                self._note_idle()
            else:
                member.is_dismissed = member.ready.done() and not self._pending
                self._fail(member, f"it refuses: {refused.code}")
            return
        pending = self._pending.get(refused.step)
        if pending is None or member not in pending.members:
            return
        number = pending.members.index(member)
        if refused.code == SEQUENCE_GONE:
            pending.fail(SequenceGone(member))
        elif refused.code == BUSY:
            pending.fail(StageFull(member))
        else:
            guilty = -1 if pending.asked.is_spare else blamed(number, refused.code, len(pending.members))
            self._fail(pending.members[guilty], f"{refused.code} at {member.leg.peer_id}")

    def _note_idle(self) -> None:
        """A stage that is stopping waits for us to have nothing under way."""
        if any(not pending.asked.is_spare for pending in self._pending.values()):
            return
        self._is_idle.set()
        for member in (*self.members, *self.spares):
            if member.is_leaving:
                self._fail(member, "it is stopping")

    def _fail(self, member: Member, reason: str) -> None:
        """A stage is of no more use. Where it is one of the chain's, no step that is under way comes to its end."""
        if member.fault is not None:
            return
        fault = member.end(reason)
        self._vigil.forget(member)
        self.spares = tuple(spare for spare in self.spares if spare is not member)
        if member in self.members:
            self._fault = self._fault or fault
        for pending in self._pending.values():
            if member in self.members or member in pending.members:
                pending.fail(fault)
