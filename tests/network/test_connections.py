"""Whom a peer dials, whom it hangs up on first, and that nobody takes an old connection for the new one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from p2pnet.network.connections import MAX_KNOWN_PEERS, Connections
from tests.stories import peer, settle

A, B = peer("a").peer_id, peer("b").peer_id


def tcp(port: int, peer_id: str = A) -> str:
    return f"/ip4/192.0.2.1/tcp/{port}/p2p/{peer_id}"


RELAYED = f"/ip4/192.0.2.9/tcp/9/p2p/{B}/p2p-circuit/p2p/{A}"


class Line:
    """Notes what is dialled and hung up. Hanging up ends when `has_ended` is set."""

    def __init__(self) -> None:
        self.done: list[str | tuple[str, ...]] = []
        self.has_ended = asyncio.Event()
        self.has_ended.set()
        self.connections = Connections(self.dial, self.hang_up)

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> None:
        self.done.append((peer_id, *addresses))

    async def hang_up(self, peer_id: str) -> None:
        await self.has_ended.wait()
        self.done.append(peer_id)


@pytest.mark.parametrize(
    ("known", "now", "has_moved"),
    [
        ([], [tcp(1)], False),
        ([tcp(1)], [], False),
        ([tcp(1)], [tcp(1)], False),
        ([tcp(1)], [tcp(2)], True),
        ([tcp(1), tcp(2)], [tcp(2), tcp(3)], False),
        ([tcp(1)], [tcp(1), RELAYED], False),
        ([RELAYED], [tcp(1)], True),
        ([tcp(1, B)], [tcp(2)], False),
        (["/ip4/192.0.2.1/tcp/1"], [tcp(2)], False),
    ],
)
async def test_who_has_moved(known: list[str], now: list[str], has_moved: bool) -> None:
    connections = Line().connections
    connections.learn(known)
    assert connections.has_moved(A, now) is has_moved


async def test_a_peer_is_dialled_once_where_it_was_last_known_to_be() -> None:
    line = Line()
    line.connections.learn([tcp(1), tcp(1, B), tcp(2)])
    line.connections.learn([tcp(3), RELAYED])
    for _ in range(2):
        await line.connections.connect(A)
    assert line.done == [(A, tcp(3), RELAYED)]
    assert A in line.connections
    assert B not in line.connections
    line.connections.forget(A)
    await line.connections.connect(A)
    assert len(line.done) == 2


async def test_one_of_whom_nothing_is_known_is_left_to_the_dialler() -> None:
    line = Line()
    await line.connections.connect(A)
    assert line.done == [(A,)]
    assert not line.connections.knows(A)


async def test_who_wants_a_peer_that_is_being_hung_up_on_dials_it_after_that() -> None:
    line = Line()
    await line.connections.connect(A)
    line.has_ended.clear()
    tasks = [asyncio.create_task(line.connections.hang_up(A)) for _ in range(2)]
    tasks += [asyncio.create_task(line.connections.connect(A)) for _ in range(2)]
    await settle(lambda: A not in line.connections)  # all of them have begun then
    await line.connections.connect(B)
    assert line.done == [(A,), (B,)]
    assert A not in line.connections
    line.has_ended.set()
    await asyncio.gather(*tasks)
    assert line.done[2:4] == [A, (A,)]
    assert A in line.connections


async def test_whoever_hangs_up_and_goes_away_has_hung_up() -> None:
    line = Line()
    line.has_ended.clear()
    await line.connections.connect(A)
    leaving = asyncio.create_task(line.connections.hang_up(A))
    await settle(lambda: A not in line.connections)
    leaving.cancel()
    line.has_ended.set()
    await line.connections.connect(A)
    assert line.done == [(A,), A, (A,)]


async def test_a_peer_that_cannot_be_dialled_is_not_connected() -> None:
    async def refuse(peer_id: str, addresses: Sequence[str]) -> None:
        raise OSError

    connections = Connections(refuse, Line().hang_up)
    with pytest.raises(OSError):
        await connections.connect(A)
    assert A not in connections


async def test_the_oldest_addresses_leave_first() -> None:
    connections = Line().connections
    connections.learn([tcp(1), tcp(1, B)])
    connections.learn([tcp(2)])
    assert connections.newest_addresses(8) == [tcp(1, B), tcp(2)]
    connections.learn(tcp(1, peer(f"other {n}").peer_id) for n in range(MAX_KNOWN_PEERS - 1))
    assert (connections.knows(A), connections.knows(B)) == (True, False)
