"""Who gives no sign of life is given up, and who computes for long is not. Time is simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from bench.directory.simulated_loop import SimulatedLoop
from p2pnet.errors import PeerLost
from p2pnet.network.interface import Stream
from p2pnet.stage_messages import Piece, StagePong, StageRow
from p2pnet.wire.stage_frames import encode_stage_frame
from p2pnet.worker.chains.choosing import Leg
from p2pnet.worker.chains.member import Member
from p2pnet.worker.chains.steps import Step
from p2pnet.worker.chains.vigil import (
    PATIENCE_S,
    ROUND_TRIPS,
    SILENT_S,
    SLOW_LINE_BYTES_PER_S,
    SPARED_PATIENCE_S,
    Vigil,
)

ROUND_TRIP_S = 0.1
ROW = StageRow(bytes(16), 1, 3, pieces=(Piece(1, 0, 1, 1),))
LINE_S = ROUND_TRIPS * ROUND_TRIP_S


class Pings:
    """A stream of pings. Each answer comes after so many seconds; None is never, and "" the end."""

    def __init__(self, *answers_s: float | str | None) -> None:
        self._answers_s = list(answers_s)
        self.is_open = True
        self.peer_id = ""
        self.is_idle = False

    async def write(self, data: bytes) -> None:
        if self._answers_s == ["lost"]:
            raise PeerLost("it is gone")

    async def read(self) -> bytes:
        answer_s = self._answers_s.pop(0) if len(self._answers_s) > 1 else self._answers_s[0]
        if isinstance(answer_s, str):
            return b""
        await asyncio.sleep(float("1e9") if answer_s is None else answer_s)
        return encode_stage_frame(StagePong())

    def close(self) -> None:
        self.is_open = False


class Watch:
    """A step that waits for one stage."""

    def __init__(self, *streams: Pings, is_spared: bool = False, passed: int = 0, row: StageRow = ROW) -> None:
        self.streams = streams
        self._left = list(streams)
        self.failed: list[tuple[float, str]] = []
        loop = asyncio.get_running_loop()
        self.member = Member(Leg("stage", 0, 1), Pings(None), bytes(16), loop.create_future(), 0.0, ROUND_TRIP_S * 1000)
        self.step = Step(row, (self.member,), passed=passed)
        self.hung_up: list[str] = []
        self.vigil = Vigil(self._open, lambda member: is_spared, self._fail, self._hang_up)

    async def _open(self, member: Member) -> Stream:
        if not self._left:
            raise PeerLost("it cannot be reached")
        return self._left.pop(0)

    def _fail(self, member: Member, reason: str) -> None:
        fault = member.end(reason)
        self.failed.append((asyncio.get_running_loop().time(), reason))
        self.step.fail(fault)

    async def _hang_up(self, peer_id: str) -> None:
        self.hung_up.append(peer_id)

    async def outcome(self, comes_s: float | None, size: int = 0) -> bytes | float:
        """What comes of the step, or when the stage was given up."""
        loop = asyncio.get_running_loop()
        if comes_s is not None:
            loop.call_later(comes_s, lambda: self.step.done.done() or self.step.done.set_result(b"numbers"))
        try:
            return await self.vigil.over(self.step, size)
        except Exception:
            return self.failed[0][0]
        finally:
            await self.vigil.close()
            assert not any(stream.is_open for stream in self.streams if stream not in self._left)


def run(story: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(story())


STREAMS: dict[str, tuple[tuple[Pings, ...], bool, int, float | None]] = {
    "one that answers": ((Pings(0.1),), False, 0, None),
    "one that answers late": ((Pings(PATIENCE_S),), False, 0, None),
    "one that has ended a stream of pings and takes another": (
        (Pings(0.1, ""), Pings(0.1)),
        False,
        0,
        None,
    ),
    "one that never answers": ((Pings(None),), False, 0, SILENT_S + PATIENCE_S + LINE_S),
    "the same where another stands by": ((Pings(None),), True, 0, SILENT_S + SPARED_PATIENCE_S + LINE_S),
    "the same with much on its way": ((Pings(None),), False, 1 << 20, SILENT_S + PATIENCE_S + LINE_S + 8),
    "one that cannot be reached": ((), False, 0, SILENT_S),
    "one that ends each stream": ((Pings(""), Pings("")), False, 0, SILENT_S),
    "one whose stream is gone": ((Pings("lost"),), False, 0, SILENT_S),
    "one that answers once": ((Pings(0.1, None),), False, 0, 2 * SILENT_S + PATIENCE_S + LINE_S),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stage_without_a_sign_of_life_is_given_up(name: str) -> None:
    streams, is_spared, size, given_up_s = STREAMS[name]
    assert SLOW_LINE_BYTES_PER_S * 8 == 1 << 20

    async def story() -> None:
        watch = Watch(*streams, is_spared=is_spared)
        found = await watch.outcome(None if given_up_s else 20.0, size)
        assert found == (pytest.approx(given_up_s) if given_up_s else b"numbers")
        assert watch.hung_up == (["stage"] if given_up_s else [])

    run(story)


def test_nobody_is_asked_about_what_comes_soon_nor_about_what_is_spare_or_behind_it() -> None:
    async def story() -> None:
        assert await Watch().outcome(SILENT_S / 2) == b"numbers"
        assert await Watch(row=StageRow(bytes(16), 1, 3, is_spare=True)).outcome(20.0) == b"numbers"
        assert await Watch(passed=1).outcome(20.0) == b"numbers"

    run(story)
