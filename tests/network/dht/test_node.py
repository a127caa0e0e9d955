"""Nodes of the DHT together, without sockets: what is stored is found, and nobody's answer is another's affair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from bench.directory.simulated_loop import SimulatedLoop
from p2pnet.identity import Identity
from p2pnet.network.dht import asking
from p2pnet.network.dht.asking import LEFT_ALONE_S, MAX_LEFT_ALONE_S, SilentNodes
from p2pnet.network.dht.call_limits import Caller
from p2pnet.network.dht.calls import FIND, IncomingMessage, packed_answer, packed_error, question_in
from p2pnet.network.dht.contact import Contact, id_of, peer_bytes
from p2pnet.network.dht.lookup import BEAM, Lookup, PeerReply
from p2pnet.network.dht.messages import MAX_KEYS, FindResponse, Sender, decode_find_request, encode_find_response
from p2pnet.network.dht.node import MAX_REFUSED, REPLICAS, DhtNode, acceptable_values
from p2pnet.network.dht.routing_table import BUCKET_SIZE
from p2pnet.network.dht.storage import MAX_TOLD_VALUES
from p2pnet.network.dht.values import pack_dictionary, pack_value
from p2pnet.network.interface import BareStream, Entry, StoredValue, key_id
from p2pnet.network.libp2p.protobuf import delimited
from tests.network.dht.call_streams import HOST, World
from tests.stories import NOW_MS, peer, settle

EXPIRES_MS = NOW_MS + 60_000
IDENTITIES = [peer(f"node {number}") for number in range(60)]
READER = peer("reader")


def entries(*keys: str, data: bytes = b"record") -> list[Entry]:
    return [Entry(key, data, EXPIRES_MS) for key in keys]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.end()


async def joined(world: World, count: int) -> list[DhtNode]:
    """Nodes that have joined one after the other, through the first."""
    nodes = []
    for identity in IDENTITIES[:count]:
        node = world.join(identity)
        if nodes:
            await world.introduce(node, IDENTITIES[0])
            await node.look_around()
        nodes.append(node)
    return nodes


@pytest.mark.parametrize("count", [1, 2, 5, 60])
async def test_what_one_stores_all_find(world: World, count: int) -> None:
    nodes = await joined(world, count)
    keys = [f"key {number}" for number in range(2 * MAX_KEYS)]
    assert await nodes[-1].store(entries(*keys)) == len(keys)
    for node in (nodes[0], nodes[count // 2]):
        found = await node.fetch(keys)
        assert {key: [value.value for value in values] for key, values in found.items()} == {
            key: [b"record"] for key in keys
        }


async def test_a_value_lies_on_the_nodes_nearest_to_its_key(world: World) -> None:
    nodes = await joined(world, 60)
    await nodes[-1].store(entries("key"))
    target = id_of(b"key")
    holders = [node for node in nodes if node._storage.get(key_id("key"), NOW_MS)]
    assert holders == sorted(holders, key=nodes.index)
    assert {node.own_id for node in holders} == set(
        sorted((node.own_id for node in nodes), key=target.__xor__)[:REPLICAS]
    )


async def test_a_client_reads_and_nobody_counts_on_it(world: World) -> None:
    nodes = await joined(world, 5)
    await nodes[0].store(entries("key"))
    client = world.join(READER, is_client=True)
    await world.introduce(client, IDENTITIES[0])
    assert len((await client.fetch(["key"]))["key"]) == 1
    assert client.methods() == {}
    assert all(READER.peer_id not in node.neighbour_ids() for node in nodes)


async def test_who_joins_knows_enough_nodes_to_find_relays_among_them(world: World) -> None:
    """A thousand peers, of which fifty can be dialled: those are the nodes, and they relay. A peer behind NAT knows ten
    of them, with where they can be dialled, once it has joined, and has asked few."""
    await joined(world, 50)
    hidden = world.join(READER, is_client=True)
    world.opened.clear()
    await world.introduce(hidden, IDENTITIES[0])
    await hidden.look_around()
    assert len([node for node in hidden.contacts() if node.addresses]) >= BEAM
    assert len(world.opened) <= 2 * BEAM


async def test_nodes_are_dialled_where_others_have_heard_them_say_they_are(world: World) -> None:
    await joined(world, 5)
    client = world.join(READER, is_client=True)
    await world.introduce(client, IDENTITIES[0])
    world.opened.clear()
    await client.fetch(["key"])
    for identity in IDENTITIES[1:5]:
        assert (identity.peer_id, FIND, (f"{HOST}/p2p/{identity.peer_id}",)) in world.opened


async def test_keys_that_do_not_fit_one_answer_are_asked_for_in_parts(world: World) -> None:
    """As nodes of earlier versions have it: they tell all that they hold, or refuse."""
    (node,) = await joined(world, 1)
    keys = [f"key {number}" for number in range(8)]
    for key in keys:
        assert node._storage.store(StoredValue(key_id(key), "a", b"record", EXPIRES_MS), HOST, NOW_MS)
    asked = []

    async def of_three_at_most(_: str, stream: BareStream) -> None:
        message = IncomingMessage(stream, 1 << 20)
        await message.length()
        call_id, question = question_in(await message.body())
        asked.append(len(decode_find_request(question).keys))
        answer = node.methods()[FIND](Caller(READER.peer_id, HOST), question)
        await stream.write(packed_error(call_id, "too many keys") if asked[-1] > 3 else packed_answer(call_id, answer))

    client = world.join(READER, is_client=True)
    await world.introduce(client, IDENTITIES[0])
    world.answers[IDENTITIES[0].peer_id] = of_three_at_most
    found = await client.fetch(keys)
    assert {key: len(values) for key, values in found.items()} == dict.fromkeys(keys, 1)
    assert asked == [8, 4, 2, 2, 4, 2, 2]


async def test_an_answer_tells_a_choice_of_a_full_key_and_how_much_there_is(world: World) -> None:
    (node,) = await joined(world, 1)
    for holder in range(500):
        stored = StoredValue(key_id("key"), f"{holder}", b"record", EXPIRES_MS)
        assert node._storage.store(stored, f"group {holder}", NOW_MS)
    client = world.join(READER, is_client=True)
    await world.introduce(client, IDENTITIES[0])
    first, second = [(await client.fetch(["key"]))["key"] for _ in range(2)]
    assert len(first) == len(second) == MAX_TOLD_VALUES
    assert set(first) != set(second)
    assert client.held("key") == 500


async def test_who_stores_hears_how_much_lies_there_already(world: World) -> None:
    nodes = await joined(world, 5)
    for node in nodes[:4]:
        await node.store(entries("key"))
    assert await nodes[4].store(entries("key", "other")) == 2
    assert (nodes[4].held("key"), nodes[4].held("other"), nodes[4].held("unheard-of")) == (4, 0, 0)


async def test_most_of_those_nearest_say_how_much_lies_under_a_key() -> None:
    """Two that lie, up or down, and one of an earlier version that does not say, change nothing."""
    for lie in (0, 1 << 40):
        lookup: Lookup[int, str] = Lookup([0], {node: node for node in range(1, 7)}, own_id=99)
        said = {1: lie, 2: 70, 3: lie, 4: 71, 5: 72}

        async def ask(node: int, keys: Sequence[int], said: dict[int, int] = said) -> PeerReply[int, str]:
            return PeerReply(held={0: said[node]} if node in said else {})

        await lookup.run(ask)
        assert lookup.held(0, 5) in (70, 71, 72)


# ---- neighbours that are none


async def garbage(_: str, stream: BareStream) -> None:
    await stream.write(b"\x04\xde\xad\xbe\xef")


async def goodbye(_: str, stream: BareStream) -> None:
    stream.close()


async def silence(_: str, stream: BareStream) -> None:
    await asyncio.Event().wait()


async def no_results(_: str, stream: BareStream) -> None:
    message = IncomingMessage(stream, 1 << 20)
    await message.length()
    call_id, _question = question_in(await message.body())
    await stream.write(packed_answer(call_id, encode_find_response(FindResponse((), Sender()))))


async def refusal(_: str, stream: BareStream) -> None:
    await stream.write(packed_error(bytes(16), "no"))


async def endless(_: str, stream: BareStream) -> None:
    await stream.write(delimited(bytes(1 << 23)))


@pytest.mark.parametrize("answer", [garbage, goodbye, no_results, refusal, endless, silence])
def test_one_neighbour_s_answer_is_its_own_affair(answer: object) -> None:
    """Time is simulated: those that answer take none, however busy this machine is, and who is silent takes all."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(ask_beside_a_liar(answer))


async def ask_beside_a_liar(answer: object) -> None:
    """Given three nodes, one of which answers so, then a reader finds all there is, and leaves that one alone."""
    world = World()
    nodes = await joined(world, 3)
    await nodes[1].store(entries("key"))
    client = world.join(READER, is_client=True)
    for identity in IDENTITIES[:3]:
        await world.introduce(client, identity)
    liar = IDENTITIES[2].peer_id
    world.answers[liar] = answer  # type: ignore[assignment]
    for _ in range(2):
        assert [value.value for value in (await client.fetch(["key"]))["key"]] == [b"record"]
    assert sum(whom == liar for whom, protocol, _ in world.opened if protocol == FIND) <= len(nodes) + 2
    assert liar not in client.neighbour_ids()
    assert await client.store(entries("key 2")) == 1
    await world.end()


async def test_an_answer_s_bad_entries_are_looked_at_for_a_while() -> None:
    """Each costs the check of a signature: after so many the rest is not looked at."""
    checked = 0

    def refuse(_: StoredValue) -> bool:
        nonlocal checked
        checked += 1
        return False

    many = ((f"{number}", pack_value(b"junk"), EXPIRES_MS / 1000) for number in range(900))
    assert await acceptable_values(key_id("key"), pack_dictionary(many, EXPIRES_MS / 1000), refuse) == []
    assert checked == MAX_REFUSED + 1


async def test_a_newcomer_has_a_place_when_an_old_node_is_gone(world: World) -> None:
    """A full bucket: the node that was silent for longest is asked, and stays if it answers."""
    node = world.join(READER)
    far = [each for each in map(_identity, range(200)) if _is_far(node, each.peer_id)][: BUCKET_SIZE + 2]
    for identity in far:
        world.join(identity)
    *known, first, second = far
    for identity in known:
        await world.introduce(node, identity)
    await world.introduce(node, first)
    await settle(lambda: not node._pinged)
    assert first.peer_id not in node.neighbour_ids()
    gone = known[1].peer_id  # the first has just answered
    world.answers[gone] = goodbye
    await world.introduce(node, second)
    await settle(lambda: not node._pinged)
    assert second.peer_id in node.neighbour_ids()
    assert gone not in node.neighbour_ids()


async def test_ids_of_others_enter_no_table(world: World) -> None:
    nodes = await joined(world, 2)
    before = nodes[0].neighbour_ids()
    nodes[0].met(READER.peer_id, Sender(id_of(b"somebody else")))
    nodes[0].met(READER.peer_id, Sender())
    assert nodes[0].neighbour_ids() == before


def _identity(number: int) -> Identity:
    return peer(f"far {number}")


def _is_far(node: DhtNode, peer_id: str) -> bool:
    return (Contact(peer_bytes(peer_id)).node_id ^ node.own_id).bit_length() == 160


# ---- who is left alone


def test_a_silent_node_is_left_alone_for_twice_as_long_each_time() -> None:
    now_s = 0.0
    silent = SilentNodes(lambda: now_s)
    pauses = []
    for _ in range(9):
        silent.note_silent(b"peer")
        silent.note_silent(b"peer")  # what was asked at the same time counts once
        began_s = now_s
        while b"peer" in silent:
            now_s += 1.0
        pauses.append(now_s - began_s)
    assert pauses[:3] == [LEFT_ALONE_S, 2 * LEFT_ALONE_S, 4 * LEFT_ALONE_S]
    assert pauses[-1] == MAX_LEFT_ALONE_S
    silent.note_answered(b"peer")
    silent.note_silent(b"peer")
    now_s += LEFT_ALONE_S
    assert b"peer" not in silent


def test_only_so_many_are_remembered() -> None:
    silent = SilentNodes(lambda: 0.0)
    for number in range(asking.MAX_SILENT + 10):
        silent.note_silent(number.to_bytes(4, "big"))
    assert sum(number.to_bytes(4, "big") in silent for number in range(asking.MAX_SILENT + 10)) == asking.MAX_SILENT


@pytest.mark.parametrize("how", ["it is met again", "this machine has moved"])
async def test_who_was_found_silent_is_asked_again_when(world: World, how: str) -> None:
    first, second = await joined(world, 2)
    first._note_silent(Contact(peer_bytes(IDENTITIES[1].peer_id)), TimeoutError())
    assert await first.store(entries("key")) == 1, "here alone"
    assert second._storage.get(key_id("key"), NOW_MS) == []
    if how == "this machine has moved":
        first.doubt_silences()
        first._note(Contact(peer_bytes(IDENTITIES[1].peer_id)))
    else:
        await world.introduce(first, IDENTITIES[1])
    await first.store(entries("key"))
    assert second._storage.get(key_id("key"), NOW_MS) != []
