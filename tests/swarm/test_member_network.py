"""Stories of members, members of another swarm, and everybody else, in one world and on one DHT."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from p2pnet.client import generate, watch
from p2pnet.config import WorkerConfig
from p2pnet.directory import Directory, entries_for
from p2pnet.errors import NotAllowed, P2PNetError, PeerLost, PeerUnreachable, ProtocolViolation
from p2pnet.messages import Accepted, Event, Finished, TextDelta
from p2pnet.network.interface import Network, Stream
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.network.memory import MemoryNetwork
from p2pnet.records import seal
from p2pnet.status_messages import Announced, Status
from p2pnet.swarm.hello import REFUSAL
from p2pnet.swarm.member_network import SWARM_PROTOCOL, MemberNetwork
from p2pnet.swarm.upkeep import MEMBERS_KEY, REVOCATIONS_KEY
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from p2pnet.worker.serve import Worker
from tests.stories import address_of, ask, capability, peer, settle
from tests.swarm.members import ENDS_MS, KITCHEN, LAB, Place

PROTOCOL = "/p2pnet/test/1"


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


class Serving:
    """A handler that notes what it reads, and that its streams have ended."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.ended = 0

    async def __call__(self, stream: Stream) -> None:
        while data := await stream.read():
            self.read.append(data)
        self.ended += 1


class Counting:
    """A network whose streams are counted, by protocol, as they are opened."""

    def __init__(self, inner: Network, opened: list[str]) -> None:
        self._inner = inner
        self._opened = opened

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        self._opened.append(protocol)
        return await self._inner.open_stream(peer_id, protocol, addresses)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


async def announced(network: Network, name: str) -> None:
    record = capability(peer(name))
    entries = entries_for(record, seal(record, peer(name)))
    assert await network.store(entries) == len(entries)


async def seen_by(place: Place, network: Network) -> set[str]:
    directory = Directory(network, place.clock)
    workers = {worker.peer_id for worker in await directory.workers()}
    assert workers == {worker.peer_id for worker in await directory.workers_of("tiny")}
    return workers


async def test_two_swarms_and_the_public_network_see_nothing_of_one_another(tmp_path: Path) -> None:
    place = Place(tmp_path)
    views: dict[str, Network] = {
        "lab": place.member("lab reader"),
        "kitchen": place.member("kitchen reader", KITCHEN),
        "public": place.stranger("public reader"),
    }
    workers: dict[str, Network] = {
        "lab": place.member("lab worker"),
        "kitchen": place.member("kitchen worker", KITCHEN),
        "public": place.stranger("public worker"),
    }
    for name, network in workers.items():
        await network.handle(PROTOCOL, echo)
        await announced(network, f"{name} worker")
    for name, view in views.items():
        assert await seen_by(place, view) == {workers[name].peer_id}
        stream = await view.open_stream(workers[name].peer_id, PROTOCOL)
        await stream.write(b"hello")
        assert await stream.read() == b"hello"
        for other in workers.keys() - {name}:
            with pytest.raises((NotAllowed, PeerUnreachable)):
                await view.open_stream(workers[other].peer_id, PROTOCOL)


async def test_a_worker_and_a_client_need_not_know(tmp_path: Path) -> None:
    place = Place(tmp_path)
    inside, outside = place.member("client"), place.stranger("stranger")
    network = place.member("worker")
    worker = await Worker.start(
        network, peer("worker"), [EchoBackend()], place.clock, WorkerConfig(max_concurrency=2, drain_s=0)
    )
    (found,) = await Directory(inside, place.clock).workers_of("echo")
    events: list[Event] = [event async for event in generate(inside, found.peer_id, ask(), found.addresses)]
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "one two three"
    with pytest.raises(PeerUnreachable):
        await anext(generate(outside, found.peer_id, ask()))
    async with aclosing(watch(inside, found.peer_id, found.addresses, 10, 10)) as watched:
        assert [type(await anext(watched)) for _ in range(2)] == [Status, Announced]
    await worker.stop()


async def test_a_kept_stream_lasts_as_long_as_both_are_members(tmp_path: Path) -> None:
    """The hellos were said at its beginning, perhaps long ago. Whoever uses it again looks at the certificate again."""
    place, kept = Place(tmp_path), KeptStreams()
    client, network = place.member("client"), place.member("worker", invitation=LAB.invitation(2, ENDS_MS + 1000))
    worker = await Worker.start(network, peer("worker"), [EchoBackend()], place.clock, WorkerConfig(drain_s=0))
    opened: list[str] = []

    async def run() -> None:
        async for _ in generate(Counting(client, opened), network.peer_id, ask(), kept=kept):
            pass

    for _ in range(2):
        await run()
    assert (len(opened), len(kept)) == (1, 1)
    place.clock.now_ms = ENDS_MS
    with pytest.raises(P2PNetError):
        await run()
    assert (len(opened), len(kept)) == (2, 0), "the kept stream is cut, and no other one is to be had"
    await worker.stop()


async def test_a_revocation_cuts_a_kept_stream(tmp_path: Path) -> None:
    place, kept = Place(tmp_path), KeptStreams()
    client, network = place.member("client"), place.member("worker", invitation=LAB.invitation(2))
    worker = await Worker.start(network, peer("worker"), [EchoBackend()], place.clock, WorkerConfig(drain_s=0))
    async for _ in generate(client, network.peer_id, ask(), kept=kept):
        pass
    place.kept_list("client").write(LAB.revoking(network.peer_id), 1)
    await client.upkeep.look()
    await settle(lambda: len(kept) == 0 and client.open_streams == 0)
    await worker.stop()


async def raw(stranger: MemoryNetwork, worker: MemberNetwork, says: bytes) -> bytes:
    """What a worker answers somebody who speaks the swarm's protocol."""
    stream = await stranger.open_stream(worker.peer_id, SWARM_PROTOCOL)
    await stream.write(says)
    answer = b""
    while data := await stream.read():
        answer += data
    return answer


@pytest.mark.parametrize(
    "says", [b"\0\0\0\0", b"\xff" * 64, (400).to_bytes(4, "big") + bytes(400)], ids=["nothing", "too much", "junk"]
)
async def test_who_is_no_member_reads_nothing_but_refused(tmp_path: Path, says: bytes) -> None:
    place = Place(tmp_path)
    worker, serving = place.member("worker"), Serving()
    await worker.handle(PROTOCOL, serving)
    assert await raw(place.stranger("stranger"), worker, says) == REFUSAL
    assert (serving.read, serving.ended) == ([], 0)


async def test_a_member_of_another_swarm_reads_the_same(tmp_path: Path) -> None:
    place = Place(tmp_path)
    worker, serving = place.member("worker"), Serving()
    await worker.handle(PROTOCOL, serving)
    with pytest.raises(NotAllowed, match="does not take us for a member"):
        await place.member("cook", KITCHEN).open_stream(worker.peer_id, PROTOCOL)
    with pytest.raises(NotAllowed, match="does not take us for a member"):
        await place.member("colleague").open_stream(worker.peer_id, "/p2pnet/other/1")
    assert serving.ended == 0


async def test_an_impostor_is_told_nothing(tmp_path: Path) -> None:
    """Whoever accepts a member's stream proves membership before it reads a byte of what is asked."""
    place = Place(tmp_path)
    heard: list[bytes] = []

    def answering(answer: Callable[[bytes], bytes]) -> Callable[[Stream], Awaitable[None]]:
        async def handler(stream: Stream) -> None:
            heard.append(await stream.read())
            await stream.write(answer(heard[-1]))

        return handler

    impostor, client = place.stranger("impostor"), place.member("client")
    cases: dict[str, tuple[Callable[[bytes], bytes], type[P2PNetError]]] = {
        "its own hello": (lambda hello: hello, ProtocolViolation),
        "junk": (lambda hello: (64).to_bytes(4, "big") + bytes(64), ProtocolViolation),
        "too much": (lambda hello: b"\xff" * 8, ProtocolViolation),
        "a refusal": (lambda hello: REFUSAL, NotAllowed),
        "nothing": (lambda hello: b"", PeerLost),
    }
    for case, (answer, error) in cases.items():
        await impostor.handle(SWARM_PROTOCOL, answering(answer))
        with pytest.raises(error):
            await client.open_stream(impostor.peer_id, PROTOCOL)
        for word in (b"lab", b"test", LAB.swarm_id.encode(), LAB.invitation().invitation_id.encode()):
            assert word not in heard[-1], case
    await settle(lambda: client.open_streams == 0)


@pytest.mark.parametrize("revoked", ["peer", "invitation"])
async def test_a_revocation_cuts_open_streams_and_shuts_out(tmp_path: Path, revoked: str) -> None:
    # Given a worker with a stream of each of two clients, who came by different invitations.
    place = Place(tmp_path)
    worker, serving = place.member("worker"), Serving()
    await worker.handle(PROTOCOL, serving)
    bad, good = place.member("bad", invitation=LAB.invitation(2)), place.member("good", invitation=LAB.invitation(3))
    await announced(bad, "bad")
    cut, kept = [await network.open_stream(worker.peer_id, PROTOCOL) for network in (bad, good)]
    await cut.write(b"before")
    await settle(lambda: serving.read == [b"before"])
    reading = asyncio.create_task(cut.read())
    # When one is revoked, and a member that was told has said so in the DHT.
    revoked_id = {"peer": bad.peer_id, "invitation": LAB.invitation(2).invitation_id}[revoked]
    place.kept_list("good").write(LAB.revoking(revoked_id), 1)
    assert await good.upkeep.look()
    assert serving.ended == 0
    assert await worker.upkeep.look()
    # Then its stream has ended at both ends, and the other one goes on.
    await settle(lambda: serving.ended == 1)
    assert await reading == b""
    with pytest.raises(PeerLost):
        await cut.write(b"after")
    await kept.write(b"goes on")
    await settle(lambda: serving.read == [b"before", b"goes on"])
    # And it is refused at both ends from now on, and its records are not seen.
    with pytest.raises(NotAllowed):
        await bad.open_stream(worker.peer_id, PROTOCOL)
    await bad.handle(PROTOCOL, echo)
    with pytest.raises(ProtocolViolation, match="revoked"):
        await worker.open_stream(bad.peer_id, PROTOCOL)
    assert await seen_by(place, worker) == set()


async def test_a_revocation_cuts_a_stream_that_was_opened_here(tmp_path: Path) -> None:
    place = Place(tmp_path)
    client, worker = place.member("client"), place.member("worker", invitation=LAB.invitation(2))
    await worker.handle(PROTOCOL, echo)
    stream = await client.open_stream(worker.peer_id, PROTOCOL)
    reading = asyncio.create_task(stream.read())
    place.kept_list("client").write(LAB.revoking(worker.peer_id), 1)
    await client.upkeep.look()
    assert await reading == b""
    with pytest.raises(PeerLost, match="no member of the swarm any more"):
        await stream.write(b"more")
    stream.close()
    await settle(lambda: client.open_streams == worker.open_streams == 0)


async def test_a_stream_ends_when_a_membership_does(tmp_path: Path) -> None:
    place = Place(tmp_path)
    worker, serving = place.member("worker", invitation=LAB.invitation(2, ENDS_MS + 1000)), Serving()
    await worker.handle(PROTOCOL, serving)
    await place.member("client").open_stream(worker.peer_id, PROTOCOL)
    place.clock.now_ms = ENDS_MS
    await worker.upkeep.look()
    await settle(lambda: serving.ended == 1)


async def test_a_list_stays_when_its_maker_has_gone(tmp_path: Path) -> None:
    """Its entry in the DHT lives for minutes; whoever has it stores it again."""
    place = Place(tmp_path)
    maker, other = place.member("maker"), place.member("other")
    place.kept_list("maker").write(LAB.revoking(peer("bad").peer_id), 1)
    await maker.upkeep.look()
    await maker.close()
    for _ in range(20):
        assert await other.upkeep.look()
        place.clock.advance(120)
    newcomer = place.member("newcomer")
    await newcomer.upkeep.look()
    assert place.kept_list("newcomer").sequence() == 1


async def test_few_members_store_a_list(tmp_path: Path) -> None:
    place = Place(tmp_path)
    members = [place.member(f"member {number}") for number in range(12)]
    place.kept_list("member 0").write(LAB.revoking(), 1)
    for _ in range(3):
        for member in members:
            await member.upkeep.look()
    assert sum(map(len, place.world.values.values())) == 4


async def test_who_starts_again_believes_no_older_list(tmp_path: Path) -> None:
    place = Place(tmp_path)
    bad, old = place.member("bad"), place.member("old")
    place.kept_list("old").write(LAB.revoking(sequence=1), 1)
    await old.upkeep.look()
    place.kept_list("worker").write(LAB.revoking(bad.peer_id, sequence=2), 2)
    worker = place.member("worker")
    await worker.upkeep.look()
    await worker.handle(PROTOCOL, echo)
    with pytest.raises(NotAllowed):
        await bad.open_stream(worker.peer_id, PROTOCOL)
    assert place.kept_list("worker").sequence() == 2
    await old.upkeep.look()
    assert place.kept_list("old").sequence() == 2, "and the newer one has gone round"


async def test_members_see_who_is_there(tmp_path: Path) -> None:
    place = Place(tmp_path)
    anna, bob, cook = (
        place.member("anna"),
        place.member("bob", invitation=LAB.invitation(2)),
        place.member("c", KITCHEN),
    )
    for member in (anna, bob, cook):
        await member.upkeep.say_present()
    found = {member.peer_id: member.certificate for member in await anna.members()}
    assert found.keys() == {anna.peer_id, bob.peer_id}
    assert found[bob.peer_id].invitation_id == LAB.invitation(2).invitation_id
    place.clock.advance(180)
    assert await anna.members() == []
    assert MEMBERS_KEY not in place.world.values and REVOCATIONS_KEY not in place.world.values, "all is blinded"


async def test_what_members_say_is_checked_as_everybodys_is(tmp_path: Path) -> None:
    """A member that stores another's record, or junk, under a key of the directory is not believed."""
    place = Place(tmp_path)
    liar, reader = place.member("liar"), place.member("reader")
    record = capability(peer("worker"))
    await liar.store(entries_for(record, seal(record, peer("worker"))))
    assert await seen_by(place, reader) == set()


async def test_the_rest_is_everybodys(tmp_path: Path) -> None:
    """What has nothing to do with who is a member is the wrapped network's."""
    place = Place(tmp_path)
    member, inner = place.member("member"), place.world.peers[peer("member").peer_id]
    assert (member.peer_id, member.neighbours, member.is_direct) == (inner.peer_id, inner.neighbours, inner.is_direct)
    assert (member.clock, member.relayed, member.open_streams) == (inner.clock, inner.relayed, inner.open_streams)
    assert await member.addresses() == await inner.addresses()
    assert await member.record_addresses() == await inner.record_addresses()
    await place.stranger("other").handle("/libp2p/some", echo)
    assert (await member.meet(address_of(peer("other")))).took_s == 0.0
    raw = await member.open_raw_stream(peer("other").peer_id, "/libp2p/some")
    await raw.write(b"hello")
    assert await raw.read() == b"hello"
    await member.hang_up(peer("other").peer_id)
    assert await raw.read() == b""
    inner.change()
    await member.wait_changed()
    await member.close()
    assert peer("member").peer_id not in place.world.peers
