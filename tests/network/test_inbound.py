"""Whose streams are closed when others have too many open."""

from __future__ import annotations

import random

from p2pnet.network.inbound import InboundStream, InboundStreams


class Site:
    """Streams by number, and the numbers of those that were closed."""

    def __init__(self, max_streams: int) -> None:
        self.streams = InboundStreams(max_streams)
        self.closed: list[int] = []
        self._count = 0

    def enter(self, peer: str, origin: str) -> InboundStream:
        number = self._count
        self._count += 1
        stream = InboundStream(peer, origin, lambda: self.closed.append(number))
        self.streams.enter(stream)
        return stream


def test_one_peer_may_have_all_of_them() -> None:
    site = Site(3)
    for _ in range(3):
        site.enter("a", "192.0.2.1")
    assert site.closed == []
    site.enter("a", "192.0.2.1")
    assert site.closed == [3]
    assert site.streams.count == 3


def test_who_has_most_loses_its_newest_to_who_comes() -> None:
    site = Site(3)
    for peer in "aab":
        site.enter(peer, "192.0.2.1")
    site.enter("c", "192.0.2.2")
    assert site.closed == [1]
    assert site.streams.count == 3


def test_many_identities_of_one_address_count_together() -> None:
    """Given an honest peer with two streams and an address with four, one for each of its identities, when that address
    opens another, then it pays itself."""
    site = Site(6)
    for _ in range(2):
        site.enter("honest", "192.0.2.1")
    for number in range(5):
        site.enter(f"stranger {number}", "192.0.2.2")
    assert site.closed == [6], "the last that came: those that were there before may be honest"


def test_what_has_left_is_not_counted() -> None:
    site = Site(2)
    first = site.enter("a", "192.0.2.1")
    site.streams.leave(first)
    site.streams.leave(first)
    assert site.streams.count == 0
    for _ in range(2):
        site.enter("a", "192.0.2.1")
    assert site.closed == []


def test_the_count_is_right_whatever_happens() -> None:
    chance, site = random.Random(1), Site(20)
    inside: list[InboundStream] = []
    for _ in range(1000):
        if inside and chance.random() < 0.4:
            site.streams.leave(inside.pop(chance.randrange(len(inside))))
        else:
            inside.append(site.enter(f"peer {chance.randrange(5)}", f"192.0.2.{chance.randrange(3)}"))
    assert site.streams.count <= 20
    for stream in inside:
        site.streams.leave(stream)
    assert site.streams.count == 0


def test_idle_ones_go_first() -> None:
    """While there is one on which nothing is asked, nobody loses a stream that is in use."""
    site = Site(2)
    idle = [site.enter("a", "192.0.2.1")]
    site.streams.give_up_idle = lambda: bool(idle) and idle.pop() is not None
    for _ in range(2):
        site.enter("b", "192.0.2.2")
    assert (site.closed, idle) == ([], [])
    site.enter("b", "192.0.2.2")
    assert site.closed == [3]
