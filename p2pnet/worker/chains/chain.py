"""Drives one chain: a stream to each of its stages, rows that go in at the first, results that come from the last.

When something goes wrong it says whose fault that is, as far as can be told, and is of no more use. Knows nothing of
sequences, nor of which other chains there are.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from p2pnet.errors import PeerError, ProtocolViolation
from p2pnet.network.interface import Network, Stream
from p2pnet.stage_messages import (
    BAD_NUMBERS,
    BAD_ROW,
    BUSY,
    DRAINING,
    NEXT_LOST,
    SEQUENCE_GONE,
    TICKET_BYTES,
    Hop,
    StageOpen,
    StagePassed,
    StageReady,
    StageRefused,
    StageResult,
    StageRow,
    ToDriver,
)
from p2pnet.wire.stage_frames import STAGE_PROTOCOL, StageFrame, encode_stage_frame, to_driver_decoder
from p2pnet.worker.chains.choosing import Leg

OPEN_S = 10.0
"""From dialling a stage to its answer that it is ready: some round trips over a bad line, through a relay."""

Timeout = Callable[[int], float]
"""How many seconds a row of so many tokens may take through the whole chain."""


class ChainFault(Exception):
    """The chain is of no more use, and this peer is to blame as far as can be told."""

    def __init__(self, peer_id: str, reason: str) -> None:
        super().__init__(reason)
        self.peer_id = peer_id


class StageFull(Exception):
    """A stage has no room for so many sequences in one row. The chain itself is fine."""

    def __init__(self, peer_id: str) -> None:
        super().__init__("a stage has no room for this row")
        self.peer_id = peer_id


class SequenceGone(Exception):
    """A stage does not have what comes before the tokens of a row. The chain itself is fine."""

    def __init__(self, peer_id: str) -> None:
        super().__init__("a stage has forgotten a sequence")
        self.peer_id = peer_id


@dataclass(eq=False)
class _Pending:
    """A step that is under way. `passed` is how many stages have passed it on."""

    row: StageRow
    done: asyncio.Future[bytes]
    passed: int = 0

    @property
    def tokens_wanted(self) -> int:
        return sum(piece.wanted for piece in self.row.pieces)


@dataclass(eq=False)
class _Stage:
    """One stage of the chain."""

    leg: Leg
    stream: Stream
    ticket: bytes
    ready: asyncio.Future[StageReady]
    asked_s: float
    round_trip_ms: float | None = None
    """From asking for the ticket to the answer that it is there: nothing is computed for that."""


class Chain:
    """An open chain. Make one with `open`."""

    def __init__(self, stages: Sequence[_Stage], timeout_s: Timeout) -> None:
        self._stages = stages
        self._timeout_s = timeout_s
        self._pending: dict[int, _Pending] = {}
        self._last_step = 0
        self._fault: ChainFault | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._sending = asyncio.Lock()
        self.is_closed = False
        self.is_dismissed = False
        """Whether a stage has ended its stream in good order, since nothing was asked for long: that is no failure."""
        self.kv_tokens = 0
        """What each of its stages holds, for as long as no further drivers come there."""
        self.leaving: set[str] = set()
        """The stages that have said that they are stopping: another chain should be used."""

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
        opened = await asyncio.gather(
            *(_open(network, digest, leg, addresses(leg.peer_id)) for leg in legs), return_exceptions=True
        )
        stages = [stage for stage in opened if isinstance(stage, _Stage)]
        chain = cls(stages, timeout_s)
        try:
            for failed in opened:
                if isinstance(failed, BaseException):
                    raise failed
            await chain._begin(min_kv_tokens)
        except BaseException:
            await chain.close()
            raise
        return chain

    @property
    def legs(self) -> tuple[Leg, ...]:
        return tuple(stage.leg for stage in self._stages)

    @property
    def peers(self) -> tuple[str, ...]:
        return tuple(stage.leg.peer_id for stage in self._stages)

    @property
    def round_trips_ms(self) -> dict[str, float]:
        """Those to its stages, as far as they were measured when it was opened."""
        return {stage.leg.peer_id: stage.round_trip_ms for stage in self._stages if stage.round_trip_ms is not None}

    @property
    def fault(self) -> ChainFault | None:
        """Why it is of no more use, if so."""
        return self._fault

    async def step(self, row: StageRow, body: bytes) -> bytes:
        """Send a row through the chain; its ticket, step and route are put in here. Returns the numbers that were
        wanted. Rows are computed in the order of the calls. Raises ChainFault, SequenceGone or StageFull."""
        first, *others = self._stages
        self._last_step += 1
        route = tuple(Hop(stage.leg.peer_id, stage.ticket) for stage in others)
        row = msgspec.structs.replace(row, ticket=first.ticket, step=self._last_step, route=route)
        pending = self._pending[row.step] = _Pending(row, asyncio.get_running_loop().create_future())
        if self._fault is not None:
            pending.done.set_exception(self._fault)
        try:
            async with asyncio.timeout(self._timeout_s(row.tokens)):
                await self._send(row, body, pending)
                return await pending.done
        except TimeoutError as error:
            self._fail(pending.passed, "nothing came in time")
            raise self._as_fault() from error
        finally:
            del self._pending[row.step]
            self._leave_when_idle()
            if not pending.done.cancel() and not pending.done.cancelled():
                pending.done.exception()  # it is known by now, whoever was told

    async def _send(self, row: StageRow, body: bytes, pending: _Pending) -> None:
        async with self._sending:  # one after the other, in the order of the steps
            if pending.done.done():
                return
            try:
                await self._stages[0].stream.write(encode_stage_frame(row, body))
            except PeerError:
                self._fail(0, "its stream has ended")

    async def close(self) -> None:
        """End all streams: the stages forget what they have. Idempotent."""
        self.is_closed = True
        self._fail(0, "the chain is closed")
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _begin(self, min_kv_tokens: int) -> None:
        self._readers = [asyncio.create_task(self._read(number, stage)) for number, stage in enumerate(self._stages)]
        try:
            async with asyncio.timeout(OPEN_S):
                ready = [await self._or_fault(stage.ready) for stage in self._stages]
        except TimeoutError as error:
            silent = next(stage for stage in self._stages if not stage.ready.done())
            raise ChainFault(silent.leg.peer_id, "it did not say that it is ready") from error
        self.kv_tokens = min(each.kv_tokens for each in ready)
        for each, stage in zip(ready, self._stages, strict=True):
            if each.kv_tokens < min_kv_tokens:
                raise ChainFault(
                    stage.leg.peer_id, f"it has memory for {each.kv_tokens} tokens, and {min_kv_tokens} are wanted"
                )

    async def _or_fault(self, ready: asyncio.Future[StageReady]) -> StageReady:
        try:
            return await asyncio.shield(ready)
        except asyncio.CancelledError:
            if self._fault is not None:
                raise self._fault from None
            raise

    async def _read(self, number: int, stage: _Stage) -> None:
        decoder = to_driver_decoder(partial(self._admit, number))
        try:
            while data := await stage.stream.read():
                for frame in decoder.feed(data):
                    self._hear(number, frame)
            self._fail(number, "it has ended its stream")
        except ProtocolViolation as error:
            self._fail(number, error.message)

    def _admit(self, number: int, header: ToDriver) -> bool:
        """Whether a message's numbers are wanted. Raises ProtocolViolation for a result that was not asked for."""
        if not isinstance(header, StageResult):
            return True
        if number != len(self._stages) - 1:
            raise ProtocolViolation("a result from a stage that is not the last")
        pending = self._pending.get(header.step)
        if pending is None:
            if header.step > self._last_step:
                raise ProtocolViolation("a result of a step that has not been")
            return False  # of a step that nobody waits for any more
        row = pending.row
        if (header.tokens, header.width, header.dtype) != (pending.tokens_wanted, row.width, row.dtype):
            raise ProtocolViolation("a result that is not of the form that was asked for")
        return True

    def _hear(self, number: int, frame: StageFrame[ToDriver]) -> None:
        match frame.header:
            case StageReady():
                ready = self._stages[number].ready
                if ready.done():
                    raise ProtocolViolation("ready twice")
                ready.set_result(frame.header)
                stage = self._stages[number]
                stage.round_trip_ms = (time.monotonic() - stage.asked_s) * 1000
            case StageResult(step=step):
                pending = self._pending.get(step)
                if pending is not None and not pending.done.done():
                    pending.done.set_result(frame.body)
            case StagePassed(step=step):
                pending = self._pending.get(step)
                if pending is not None:
                    pending.passed = max(pending.passed, min(number + 1, len(self._stages) - 1))
            case StageRefused():
                self._hear_refusal(number, frame.header)

    def _hear_refusal(self, number: int, refused: StageRefused) -> None:
        if refused.step is None:
            if refused.code == DRAINING and self._stages[number].ready.done():
                self.leaving.add(self._stages[number].leg.peer_id)
                self._leave_when_idle()
            else:
                self.is_dismissed = self._stages[number].ready.done() and not self._pending
                self._fail(number, f"it refuses: {refused.code}")
            return
        pending = self._pending.get(refused.step)
        if pending is None or pending.done.done():
            return
        peer_id = self._stages[number].leg.peer_id
        if refused.code == SEQUENCE_GONE:
            pending.done.set_exception(SequenceGone(peer_id))
        elif refused.code == BUSY:
            pending.done.set_exception(StageFull(peer_id))
        else:
            self._fail(blamed(number, refused.code, len(self._stages)), f"{refused.code} at stage {number}")

    def _leave_when_idle(self) -> None:
        """A stage that is stopping waits for us."""
        if self.leaving and not self._pending:
            leaving = next(number for number, peer_id in enumerate(self.peers) if peer_id in self.leaving)
            self._fail(leaving, "it is stopping")

    def _fail(self, number: int, reason: str) -> None:
        """The chain is of no more use, and all its stages may forget what they have. The first reason counts."""
        if self._fault is not None or not self._stages:
            return
        fault = self._fault = ChainFault(self._stages[number].leg.peer_id, reason)
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(fault)
        for stage in self._stages:
            stage.ready.cancel()
            stage.stream.close()

    def _as_fault(self) -> ChainFault:
        assert self._fault is not None
        return self._fault


def blamed(number: int, code: str, stages: int) -> int:
    """Whose fault a refusal is: what does not fit comes from the stage before, and where the next cannot be reached it
    is the next one's. The driver's own rows fit."""
    if code in (BAD_ROW, BAD_NUMBERS):
        return max(0, number - 1)
    return min(number + 1, stages - 1) if code == NEXT_LOST else number


async def _open(network: Network, digest: str, leg: Leg, addresses: Sequence[str]) -> _Stage:
    """Raises ChainFault."""
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
    return _Stage(leg, stream, ticket, asyncio.get_running_loop().create_future(), asked_s)
