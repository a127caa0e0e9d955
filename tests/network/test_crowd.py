"""Who is parted from when there are too many connections."""

from __future__ import annotations

from p2pnet.network.crowd import (
    ALWAYS_PER_GROUP,
    ALWAYS_PER_RELAY,
    MAX_CONNECTIONS_PER_PEER,
    Connection,
    Crowd,
)
from tests.stories import peer

CIRCUIT = f"/ip4/203.0.113.1/tcp/1/p2p/{peer('relay').peer_id}/p2p-circuit"


def those_at(host: str, count: int, first: int = 0) -> list[Connection]:
    return [Connection(f"{host} {number}", f"/ip4/{host}/tcp/{number}") for number in range(first, first + count)]


def test_while_there_is_room_one_address_may_have_all_of_it() -> None:
    assert Crowd(100).too_many(those_at("192.0.2.1", 100)) == []


def test_the_newest_of_the_largest_address_go() -> None:
    """Given one address with most connections and some of others, when it is crowded, then its last comers go, as many
    as are too many."""
    crowd = Crowd(100)
    first = [*those_at("192.0.2.1", 60), *those_at("192.0.2.2", 30)]
    assert crowd.too_many(first) == []
    leaving = crowd.too_many([*those_at("192.0.2.1", 25, first=60), *those_at("192.0.2.3", 10), *first])
    assert leaving == [f"192.0.2.1 {number}" for number in range(84, 59, -1)]


def test_large_addresses_are_levelled() -> None:
    crowd = Crowd(100)
    leaving = crowd.too_many([*those_at("192.0.2.1", 100), *those_at("192.0.2.2", 50)])
    assert sorted({peer.split()[0] for peer in leaving[:50]}) == ["192.0.2.1"]
    assert len(leaving) == 50


def test_each_address_keeps_a_household() -> None:
    many = [connection for host in range(20) for connection in those_at(f"192.0.2.{host}", ALWAYS_PER_GROUP)]
    assert Crowd(10).too_many(many) == []


def test_who_comes_back_is_the_last() -> None:
    crowd = Crowd(9)
    first, *others = those_at("192.0.2.1", 10)
    crowd.too_many([first, *others[:-1]])
    assert crowd.too_many(others) == []
    assert crowd.too_many([first, *others]) == [first.peer_id]


def test_those_that_this_peer_needs_stay() -> None:
    crowd = Crowd(10)
    many = those_at("192.0.2.1", 12)
    assert crowd.too_many(many, in_use={"192.0.2.1 11"}) == ["192.0.2.1 10", "192.0.2.1 9"]


def test_many_behind_one_relay_are_no_crowd() -> None:
    relayed = [Connection(f"peer {number}", CIRCUIT) for number in range(ALWAYS_PER_RELAY)]
    assert Crowd(10).too_many(relayed) == []
    one_more = [*relayed, Connection("one more", CIRCUIT)]
    assert Crowd(10).too_many(one_more) == ["one more"]


def test_a_peer_with_a_direct_connection_too_counts_by_that() -> None:
    both = [Connection("peer", CIRCUIT), Connection("peer", "/ip4/192.0.2.1/tcp/1")]
    many = [*both, *those_at("192.0.2.1", 9)]
    assert Crowd(10).too_many(many) == ["192.0.2.1 8"]


def test_nobody_needs_so_many_connections_to_one_peer() -> None:
    """However much room there is; and it does not count against others then."""
    most = [Connection("peer", f"/ip4/192.0.2.1/tcp/{number}") for number in range(MAX_CONNECTIONS_PER_PEER)]
    assert Crowd(100).too_many(most) == []
    more = [*most, Connection("peer", "/ip4/192.0.2.1/tcp/99")]
    assert Crowd(100).too_many(more) == ["peer"]
    assert Crowd(9).too_many([*more, *those_at("192.0.2.1", 9)]) == ["peer"]
