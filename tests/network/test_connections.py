"""Whom a peer dials, whom it hangs up on first, and that nobody takes an old connection for the new one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from p2pnet.network.connections import MAX_KNOWN_PEERS, Connections, NotDialled
from p2pnet.network.dial_addresses import Scope
from p2pnet.network.dial_budget import FREE_TRIES
from tests.stories import peer, settle

A, B = peer("a").peer_id, peer("b").peer_id


def tcp(port: int, peer_id: str = A) -> str:
    return f"/ip4/192.0.2.1/tcp/{port}/p2p/{peer_id}"


RELAYED = f"/ip4/192.0.2.9/tcp/9/p2p/{B}/p2p-circuit/p2p/{A}"


class Line:
    """Notes what is dialled and hung up. Hanging up ends when `has_ended` is set."""

    def __init__(self, named: Sequence[str] = (), scope: Scope = Scope.LOOPBACK) -> None:
        self.done: list[str | tuple[str, ...]] = []
        self.failure: Exception | None = None
        self.has_ended = asyncio.Event()
        self.has_ended.set()
        self.connections = Connections(self.dial, self.hang_up, named, scope, lambda: 0.0)

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> None:
        self.done.append((peer_id, *addresses))
        if self.failure is not None:
            raise self.failure

    async def fail(self, peer_id: str, address: str, failure: Exception) -> None:
        """Dial it there, which fails so."""
        self.connections.learn([address])
        self.failure = failure
        with pytest.raises(type(failure)):
            await self.connections.connect(peer_id)
        self.failure = None

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


# ---- what strangers claim


PUBLIC = f"/ip4/8.8.8.8/tcp/1/p2p/{A}"
NAME = f"/dns4/boot.example/tcp/1/p2p/{A}"


async def test_only_what_may_be_dialled_is_learnt() -> None:
    line = Line(scope=Scope.PUBLIC)
    line.connections.learn([PUBLIC, tcp(1), NAME, f"/ip4/8.8.8.8/tcp/80/ws/p2p/{A}"])
    await line.connections.connect(A)
    assert line.done == [(A, PUBLIC)]
    assert not line.connections.has_moved(A, [tcp(1)]), "what is not dialled says nothing"


async def test_who_names_nothing_that_may_be_dialled_is_not_looked_for_either() -> None:
    """It would be up to p2pd, and to those whom that asks, where it is dialled. Unless it is connected already."""
    line = Line(scope=Scope.PUBLIC)
    line.connections.learn([tcp(1)])
    assert not line.connections.knows(A)
    with pytest.raises(NotDialled, match="no address that may be dialled"):
        await line.connections.connect(A)
    assert line.done == []
    line.connections.note_live([(A, tcp(50_000))])
    await line.connections.connect(A)
    assert line.done == [(A,)]


async def test_what_the_user_has_named_is_dialled_whatever_it_is_and_at_any_time() -> None:
    line = Line([NAME, tcp(1, B)], Scope.PUBLIC)
    for peer_id in (A, B) * 20:
        line.connections.forget(peer_id)
        await line.connections.connect(peer_id)
    assert line.done == [(A, NAME), (B, tcp(1, B))] * 20
    line.connections.name([tcp(2)])
    line.connections.forget(A)
    await line.connections.connect(A)
    assert line.done[-1] == (A, tcp(2))


async def test_a_place_that_many_name_is_dialled_few_times() -> None:
    line = Line()
    for number in range(20):
        liar = peer(f"liar {number}").peer_id
        line.connections.learn([tcp(80, liar)])
        line.failure = OSError("no")
        with pytest.raises(OSError):
            await line.connections.connect(liar)
    assert len(line.done) == FREE_TRIES
    with pytest.raises(NotDialled, match="too often in vain"):
        await line.connections.connect(liar)


async def test_who_is_connected_somewhere_is_dialled_there_at_any_time() -> None:
    line = Line()
    line.connections.note_live([(A, tcp(1)), (B, RELAYED)])
    for _ in range(20):
        await line.fail(A, tcp(1), OSError("away"))
    assert len(line.done) == 20


MISMATCH = "peer id mismatch: expected {}, but remote key matches {}"


def said(*lines: str) -> OSError:
    """As p2pd says it."""
    return OSError("\n  * ".join(["Connect failed. msg=failed to dial: all dials failed", *lines]))


@pytest.mark.parametrize(
    ("lines", "is_found"),
    [
        ([f"[/ip4/192.0.2.1/tcp/1] failed to negotiate security protocol: {MISMATCH}"], True),
        ([f"[/ip4/192.0.2.1/tcp/1] {MISMATCH}", "[/ip4/192.0.2.1/udp/1/quic-v1] timeout"], True),
        ([f"[/ip4/192.0.2.9/tcp/1] {MISMATCH}"], False),
        (["[/ip4/192.0.2.1/tcp/1] connection refused", f"[/ip4/192.0.2.1/tcp/1] {MISMATCH}"], False),
        ([f"[/ip4/192.0.2.1/tcp/1] {MISMATCH}", f"[/ip4/192.0.2.1/tcp/1] {MISMATCH}"], False),
        (["[/ip4/192.0.2.1/tcp/1] connection refused"], False),
    ],
    ids=["found", "found on one of two", "elsewhere", "a line of a stranger", "two of them", "nobody"],
)
async def test_who_is_found_in_a_liars_place_is_dialled_there(lines: list[str], is_found: bool) -> None:
    """Given liars who name the address of a worker that we have not met yet, when the first of them is dialled, and the
    worker is found, then the worker is dialled there whatever else liars do. A stranger's words prove nothing."""
    line = Line()
    for number in range(FREE_TRIES):
        liar = peer(f"liar {number}").peer_id
        await line.fail(liar, tcp(1, liar), said(*(text.format(liar, A) for text in lines)))
    line.connections.learn([tcp(1)])
    if is_found:
        await line.connections.connect(A)
        assert line.done[-1] == (A, tcp(1))
    else:
        with pytest.raises(NotDialled):
            await line.connections.connect(A)


async def test_who_wants_a_peer_while_it_is_dialled_waits_for_the_same_dial() -> None:
    answered = asyncio.Event()
    dialled: list[Sequence[str]] = []

    async def dial(peer_id: str, addresses: Sequence[str]) -> None:
        dialled.append(addresses)
        await answered.wait()

    connections = Connections(dial, Line().hang_up)
    connections.learn([tcp(1)])
    wanting = [asyncio.create_task(connections.connect(A)) for _ in range(10)]
    await settle(lambda: len(dialled) == 1)
    wanting.pop(0).cancel()  # the others still want it
    connections.learn([tcp(2)])
    wanting.append(asyncio.create_task(connections.connect(A)))  # it has moved meanwhile
    await settle(lambda: len(dialled) == 2)
    answered.set()
    await asyncio.gather(*wanting)
    assert dialled == [(tcp(1),), (tcp(2),)]


async def test_who_was_lost_is_dialled_where_somebody_answers_a_knock() -> None:
    line, heard, knocked = Line(), [RELAYED], []

    async def knock(addresses: Sequence[str]) -> Sequence[str]:
        knocked.append(tuple(addresses))
        return heard

    connections = Connections(line.dial, line.hang_up, knock=knock)
    connections.learn([tcp(1), RELAYED])
    await connections.connect(A)
    assert (line.done, knocked) == ([(A, tcp(1), RELAYED)], []), "of whom nothing bad is known"
    for _ in range(2):
        connections.forget(A)
        with contextlib.suppress(NotDialled):
            await connections.connect(A)
        heard = []
    assert line.done[1:] == [(A, RELAYED)]
    assert knocked == [(tcp(1), RELAYED)] * 2
