"""Streams that are kept for the next request: which is taken, how many there are, and what ends one."""

from __future__ import annotations

import asyncio

import pytest

from p2pnet.directory import validator
from p2pnet.network.interface import Stream
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from tests.stories import ManualClock, peer, settle

PROTOCOL, OTHER_PROTOCOL = "/p2pnet/test/1", "/p2pnet/test/2"
WORKERS = [peer(name).peer_id for name in "abc"]
A = WORKERS[0]


class Site:
    """A client, and workers whose ends of the streams a test holds, in the order in which they were opened."""

    def __init__(self) -> None:
        world = MemoryWorld(validator(ManualClock()))
        self.client: MemoryNetwork = world.join(peer("client").peer_id)
        self.workers = {worker: world.join(worker) for worker in WORKERS}
        self.far_ends: list[Stream] = []
        self.read: list[bytes] = []

    async def opened(self, worker: str = A, protocol: str = PROTOCOL) -> Stream:
        await self.workers[worker].handle(protocol, self._serve)
        before = len(self.far_ends)
        stream = await self.client.open_stream(worker, protocol)
        await settle(lambda: len(self.far_ends) > before)
        return stream

    async def kept(self, kept: KeptStreams, worker: str = A, protocol: str = PROTOCOL, unsaid: bytes = b"") -> Stream:
        stream = await self.opened(worker, protocol)
        kept.keep(protocol, stream, None, unsaid)
        return stream

    async def _serve(self, stream: Stream) -> None:
        self.far_ends.append(stream)
        while data := await stream.read():
            self.read.append(data)


async def test_a_kept_stream_is_taken_once_and_carries_on() -> None:
    site, kept = Site(), KeptStreams()
    first = await site.kept(kept)
    assert first.is_idle and len(kept) == 1
    taken = kept.take(A, PROTOCOL, None)
    assert taken is not None and not first.is_idle and taken.peer_id == A
    assert kept.take(A, PROTOCOL, None) is None and len(kept) == 0
    await taken.write(b"asked")
    await settle(lambda: site.read == [b"asked"])
    await site.far_ends[0].write(b"answered")
    assert await taken.read() == b"answered"
    kept.keep(PROTOCOL, taken, None)
    assert kept.take(A, PROTOCOL, None) is taken
    await site.far_ends[0].write(b"again")
    assert await taken.read() == b"again"
    taken.close()
    assert site.client.open_streams == 0


async def test_what_is_taken_is_the_last_of_its_peer_and_protocol() -> None:
    site, kept = Site(), KeptStreams()
    for worker, protocol in ((A, PROTOCOL), (A, PROTOCOL), (A, OTHER_PROTOCOL), (WORKERS[1], PROTOCOL)):
        await site.kept(kept, worker, protocol)
    taken = kept.take(A, PROTOCOL, None)
    assert taken is not None
    await taken.write(b"x")
    await settle(lambda: site.read == [b"x"])
    assert kept.take(WORKERS[2], PROTOCOL, None) is None
    assert kept.take(WORKERS[1], OTHER_PROTOCOL, None) is None
    assert len(kept) == 3


@pytest.mark.parametrize("event", ["bytes", "end"])
async def test_one_on_which_anything_comes_is_closed(event: str) -> None:
    site, kept = Site(), KeptStreams()
    await site.kept(kept)
    if event == "bytes":
        await site.far_ends[0].write(b"nobody has asked")
    else:
        site.far_ends[0].close()
    await settle(lambda: len(kept) == 0 and site.client.open_streams == 0)
    assert kept.take(A, PROTOCOL, None) is None


async def test_one_on_which_bytes_have_come_this_very_moment_is_passed_over() -> None:
    site, kept = Site(), KeptStreams()
    good = await site.kept(kept)
    await site.kept(kept)
    await asyncio.sleep(0)  # both are listened to
    await site.far_ends[1].write(b"nobody has asked")
    taken = kept.take(A, PROTOCOL, None)
    assert taken is not None and not good.is_idle
    await settle(lambda: site.client.open_streams == 1)


async def test_one_that_goes_another_way_than_a_new_one_would_is_closed() -> None:
    site, kept = Site(), KeptStreams()
    for way in (None, False, True):
        kept.keep(PROTOCOL, await site.opened(), way)
    assert kept.take(A, PROTOCOL, True) is not None
    assert kept.take(A, PROTOCOL, True) is None
    await settle(lambda: site.client.open_streams == 1)
    assert len(kept) == 0


async def test_of_too_many_the_oldest_go() -> None:
    site, kept = Site(), KeptStreams(max_per_peer=2, max_kept=4)
    streams = [await site.kept(kept) for _ in range(3)]
    assert len(kept) == 2
    await settle(lambda: site.client.open_streams == 2)
    for worker in WORKERS[1:]:
        streams += [await site.kept(kept, worker) for _ in range(2)]
    assert len(kept) == 4
    await settle(lambda: site.client.open_streams == 4)
    assert kept.take(A, PROTOCOL, None) is None, "those had been unused for longest"


async def test_one_that_nobody_takes_is_closed_after_a_while() -> None:
    site, kept = Site(), KeptStreams(kept_s=0.0)
    await site.kept(kept)
    await settle(lambda: len(kept) == 0 and site.client.open_streams == 0)


async def test_what_was_unsaid_goes_before_the_next_request() -> None:
    site, kept = Site(), KeptStreams()
    await site.kept(kept, unsaid=b"thanks ")
    taken = kept.take(A, PROTOCOL, None)
    assert taken is not None
    await taken.write(b"asked")
    await taken.write(b" more")
    await settle(lambda: b"".join(site.read) == b"thanks asked more")


async def test_what_was_unsaid_is_said_alone_where_no_request_comes() -> None:
    site, kept = Site(), KeptStreams(say_s=0.0)
    await site.kept(kept, unsaid=b"thanks")
    await settle(lambda: site.read == [b"thanks"])
    assert len(kept) == 1


async def test_all_are_closed_and_say_what_was_unsaid_before() -> None:
    site, kept = Site(), KeptStreams()
    for worker in WORKERS:
        await site.kept(kept, worker, unsaid=b"thanks")
    await kept.close()
    await settle(lambda: site.read == [b"thanks"] * 3)
    assert (len(kept), site.client.open_streams) == (0, 0)
