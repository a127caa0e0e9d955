"""How streams are opened and served, with the test in p2pd's place: whom that dials, and what becomes of failures."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

import pytest

from p2pnet.errors import PeerUnreachable
from p2pnet.network.connections import Connections
from p2pnet.network.hivemind.p2pd import StreamSocket
from p2pnet.network.hivemind.p2pd_stream import MARK, RawStream
from p2pnet.network.hivemind.streams import MAX_PARTING, Streams
from p2pnet.network.interface import Stream
from tests.stories import peer, settle

A = peer("a").peer_id
HERE = f"/ip4/192.0.2.1/tcp/1/p2p/{A}"
ELSEWHERE = f"/ip4/192.0.2.1/tcp/2/p2p/{A}"

PROTOCOL = "/p2pnet/test/1"


class Site:
    """A peer's streams, and what p2pd is asked for them, in order. It fails as `failures` say, one for each time that
    a stream is opened or a peer dialled."""

    def __init__(self, open_timeout_s: float = 10.0) -> None:
        self.asked: list[str] = []
        self.failures: dict[str, list[BaseException]] = {"open": [], "dial": []}
        self.far_ends: list[socket.socket] = []
        self.connections = Connections(self.dial, self.hang_up)
        self.streams = Streams(self.open_socket, self.connections, open_timeout_s)

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> None:
        self._note("dial")

    async def hang_up(self, peer_id: str) -> None:
        self.asked.append("hang up")

    async def open_socket(self, peer_id: str, protocol: str) -> StreamSocket:
        self._note("open")
        return await self.socket()

    async def socket(self) -> StreamSocket:
        """One end of a socket, whose other end is p2pd's."""
        ours, far_end = socket.socketpair()
        far_end.setblocking(False)
        self.far_ends.append(far_end)
        return await asyncio.open_connection(sock=ours)

    async def opened(self, *addresses: str) -> RawStream:
        return await self.streams.open_raw(A, PROTOCOL, addresses)

    def _note(self, what: str) -> None:
        self.asked.append(what)
        if self.failures[what]:
            raise self.failures[what].pop(0)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    yield site
    for far_end in site.far_ends:
        far_end.close()


async def test_a_connection_is_dialled_once(site: Site) -> None:
    for _ in range(2):
        (await site.opened(HERE)).close()
    assert site.asked == ["dial", "open", "open"]


async def test_a_connection_that_has_gone_is_noticed_and_dialled_again(site: Site) -> None:
    (await site.opened(HERE)).close()
    site.failures["open"] = [ConnectionResetError()]
    (await site.opened(HERE)).close()
    assert site.asked == ["dial", "open", "open", "dial", "open"]


@pytest.mark.parametrize(
    ("failing", "error", "reason"),
    [
        ("dial", OSError("Connect failed. msg=no route"), "no route"),
        ("dial", OSError("two\nlines"), "two lines"),
        ("dial", TimeoutError(), "no answer in time"),
        ("open", EOFError(), "EOFError"),
    ],
)
async def test_a_peer_that_cannot_be_reached(site: Site, failing: str, error: BaseException, reason: str) -> None:
    site.failures[failing] = [error]
    with pytest.raises(PeerUnreachable) as raised:
        await site.opened(HERE)
    assert str(raised.value) == f"no {PROTOCOL} stream to {A}: {reason}"
    assert A not in site.connections
    assert site.streams.count == 0


async def test_a_peer_that_lets_us_wait_is_given_up() -> None:
    class Silent(Site):
        async def dial(self, peer_id: str, addresses: Sequence[str]) -> None:
            await asyncio.Event().wait()

    with pytest.raises(PeerUnreachable, match="no answer in time"):
        await Silent(open_timeout_s=0.01).opened(HERE)


async def test_a_peer_that_has_moved_is_hung_up_on_first(site: Site) -> None:
    (await site.opened(HERE)).close()
    (await site.opened(ELSEWHERE)).close()
    assert site.asked == ["dial", "open", "hang up", "dial", "open"]


async def test_a_peer_that_has_moved_is_not_hung_up_on_in_mid_sentence(site: Site) -> None:
    first = await site.opened(HERE)
    (await site.opened(ELSEWHERE)).close()
    assert site.asked == ["dial", "open", "open"]
    first.close()
    (await site.opened(ELSEWHERE)).close()
    assert site.asked[3:] == ["hang up", "dial", "open"], "but then, though its new address is known by now"
    (await site.opened(ELSEWHERE)).close()
    assert site.asked[6:] == ["open"]


async def test_streams_count_until_they_have_parted(site: Site) -> None:
    stream = await site.streams.open(A, PROTOCOL)
    stream.close()
    assert site.streams.count == 1
    site.far_ends[0].close()
    await site.streams.wait_parted()
    assert site.streams.count == 0


async def test_an_inbound_stream_parts_when_its_handler_is_done(site: Site) -> None:
    async def handler(stream: Stream) -> None:
        assert stream.peer_id == A

    await site.streams.serving(handler)(A, "/ip4/192.0.2.1/tcp/1", *await site.socket())
    assert site.streams.count == 1
    assert await asyncio.get_running_loop().sock_recv(site.far_ends[0], len(MARK)) == MARK
    site.far_ends[0].close()
    await site.streams.wait_parted()
    assert site.streams.count == 0


async def test_an_inbound_stream_is_dropped_when_its_handler_fails(site: Site) -> None:
    async def handler(stream: Stream) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await site.streams.serving(handler)(A, "/ip4/192.0.2.1/tcp/1", *await site.socket())
    assert site.streams.count == 0


async def test_streams_whose_other_ends_do_not_part_are_bounded(site: Site) -> None:
    """Closed all at once: the oldest are dropped, those among them that have not begun to part."""
    opened = [await site.streams.open(A, PROTOCOL) for _ in range(MAX_PARTING + 3)]
    for stream in opened:
        stream.close()
    await settle(lambda: site.streams.count == MAX_PARTING)
    said = [await asyncio.get_running_loop().sock_recv(far_end, len(MARK)) for far_end in site.far_ends]
    assert said == [b""] * 3 + [MARK] * MAX_PARTING
    for far_end in site.far_ends:
        far_end.close()
    await site.streams.wait_parted()
    assert site.streams.count == 0


async def test_an_idle_stream_keeps_nobody_from_a_better_connection(site: Site) -> None:
    """Nobody waits for anything on it: a peer that has moved is hung up on, and a hole is punched, all the same."""
    stream = await site.streams.open(A, PROTOCOL, [HERE])
    assert site.streams.is_in_use(A) and site.streams.peers() == site.streams.peers_opened_to() == {A}
    stream.is_idle = True
    assert not site.streams.is_in_use(A)
    assert site.streams.peers() == site.streams.peers_opened_to() == set()
    (await site.opened(ELSEWHERE)).close()
    assert site.asked == ["dial", "open", "hang up", "dial", "open"]
    stream.is_idle = False
    assert site.streams.is_in_use(A)


async def test_the_idle_streams_of_others_are_given_up_oldest_first(site: Site) -> None:
    accepted: list[Stream] = []
    ended: list[Stream] = []

    async def handler(stream: Stream) -> None:
        accepted.append(stream)
        assert await stream.read() == b""
        ended.append(stream)

    ours = await site.streams.open(A, PROTOCOL)
    ours.is_idle = True
    assert not site.streams.give_up_idle(), "ours are no burden that others put on us"
    serving = [
        asyncio.create_task(site.streams.serving(handler)(A, "/ip4/192.0.2.1/tcp/1", *await site.socket()))
        for _ in range(3)
    ]
    await settle(lambda: len(accepted) == 3)
    for number in (1, 0):
        accepted[number].is_idle = True
    accepted[1].is_idle = False
    assert site.streams.give_up_idle()
    await serving[0]
    assert ended == accepted[:1]
    assert not site.streams.give_up_idle()
    for far_end in site.far_ends:
        far_end.close()
    await asyncio.gather(*serving)
