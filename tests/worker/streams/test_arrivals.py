"""Requests that are still arriving: nobody keeps a place that others need, strangers take none of known gateways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import validator
from p2pnet.errors import Busy
from p2pnet.messages import Accepted, Event, Failed, Finished, TextDelta, Usage
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryWorld
from p2pnet.wire.codec import LENGTH_BYTES, MAX_REQUEST_FRAME_BYTES, encode_frame, event_decoder
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams import guard
from p2pnet.worker.streams.arrivals import (
    MAX_UNREAD_BYTES,
    MAX_UNREAD_PER_GATEWAY,
    MAX_UNREAD_REQUESTS,
    Arrival,
    Arrivals,
)
from p2pnet.worker.streams.generate_handler import GenerateHandler
from tests.stories import ManualClock, ask, card, peer, settle
from tests.worker.scripted import Scripted

KNOWN = "known"
LARGEST = LENGTH_BYTES + MAX_REQUEST_FRAME_BYTES
IDENTITIES = 70


class Ledger:
    """Arrivals by name, and who had to go, in order. Those whose gateways are called so are known."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        self.arrivals = Arrivals(lambda gateway: gateway.startswith(KNOWN))
        self._stack = ExitStack()
        self.by_name: dict[str, Arrival] = {}

    def come(self, name: str, gateway: str = "", received_bytes: int = 0) -> None:
        place = self.arrivals.place(gateway or name, lambda: self.gone.append(name))
        self.by_name[name] = self._stack.enter_context(place)
        if received_bytes:
            self.by_name[name].grow(received_bytes)

    def end(self) -> None:
        self._stack.close()
        assert len(self.arrivals) == 0


@contextmanager
def ledger() -> Iterator[Ledger]:
    """All leave in the end, those who had to go already among them."""
    made = Ledger()
    yield made
    made.end()


def names(prefix: str, count: int = MAX_UNREAD_REQUESTS) -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


# ---- who goes

GOES: list[tuple[str, Sequence[tuple[str, str]], tuple[str, str], list[str]]] = [
    ("nobody, while there is room", [(name, name) for name in names("a", 63)], ("b", "b"), []),
    ("the oldest", [(name, name) for name in names("a")], ("b", "b"), ["a 0"]),
    ("the oldest, of one who has all", [(name, "a") for name in names("a")], ("b", "b"), ["a 0"]),
    (
        "an own one, of who has half",
        [("b", "b"), *((name, "a") for name in names("a", 63))],
        ("one more", "a"),
        ["a 0"],
    ),
    (
        "the oldest, where one has less than half",
        [("b", "b"), *((name, "a") for name in names("a", 31)), *((name, name) for name in names("c", 32))],
        ("one more", "a"),
        ["b"],
    ),
    ("no known one for a stranger", [(name, "known") for name in names("a")], ("b", "b"), []),
    ("no stranger for a known one", [(name, name) for name in names("a")], ("b", "known"), []),
    ("a known one for another", [(name, "known a") for name in names("a")], ("b", "known b"), ["a 0"]),
]


@pytest.mark.parametrize(("before", "newcomer", "gone"), [case[1:] for case in GOES], ids=[case[0] for case in GOES])
def test_who_goes(before: Sequence[tuple[str, str]], newcomer: tuple[str, str], gone: list[str]) -> None:
    with ledger() as made:
        for name, gateway in (*before, newcomer):
            made.come(name, gateway)
        assert made.gone == gone
        assert made.by_name[newcomer[0]].has_place


def test_half_of_the_places_is_what_the_table_takes_it_for() -> None:
    assert (MAX_UNREAD_REQUESTS, MAX_UNREAD_PER_GATEWAY) == (64, 32)


def test_who_is_gone_hears_it_once_and_holds_nothing() -> None:
    with ledger() as made:
        for name in names("a", MAX_UNREAD_REQUESTS + 5):
            made.come(name)
        assert made.gone == names("a", 5)
        with pytest.raises(Busy):
            made.by_name["a 0"].grow(LARGEST)
        assert len(made.arrivals) == MAX_UNREAD_REQUESTS
        made.come("known")
        made.by_name["known"].grow(MAX_UNREAD_BYTES)
        assert made.gone == names("a", 5)


def test_what_has_come_is_bounded_in_bytes() -> None:
    """The oldest of the large ones goes; small ones, and those of known gateways, are none of it."""
    with ledger() as made:
        made.come("small", received_bytes=MAX_UNREAD_BYTES // MAX_UNREAD_REQUESTS)
        made.come("known", received_bytes=LARGEST)
        for name in names("large", MAX_UNREAD_BYTES // MAX_REQUEST_FRAME_BYTES):
            made.come(name, received_bytes=LARGEST)
        assert made.gone == ["large 0"]
        made.by_name["small"].grow(1)
        for name in names("more", 2):
            made.come(name, received_bytes=LARGEST)
        assert made.gone == ["large 0", "small", "large 1", "large 2"]


def test_who_alone_sends_too_much_goes_itself() -> None:
    with ledger() as made:
        made.come("a")
        with pytest.raises(Busy):
            made.by_name["a"].grow(MAX_UNREAD_BYTES + 1)
        assert made.gone == ["a"]


# ---- with streams

ANSWER = (Accepted(1), TextDelta("a", (1,)), Finished("stop", Usage(1, 1)))
REQUEST = encode_frame(ask("tiny"), MAX_REQUEST_FRAME_BYTES)


class Site:
    """A worker, and as many gateways as come."""

    def __init__(self, **timeouts: float) -> None:
        clock = ManualClock()
        catalogue = Catalogue([Scripted(*ANSWER, models=(card("tiny"),))])
        self.guard = guard.Guard()
        meter = LoadMeter(2, catalogue, clock)
        self.handler = GenerateHandler(catalogue.find, meter, ExchangeTimeouts(**timeouts), guard=self.guard)
        self._world = MemoryWorld(validator(clock))
        self._worker = self._world.join(peer("worker").peer_id)

    async def open(self, gateway: str, *data: bytes) -> Stream:
        await self._worker.handle(GENERATE_PROTOCOL, self.handler)
        network = self._world.peers.get(gateway) or self._world.join(gateway)
        stream = await network.open_stream(self._worker.peer_id, GENERATE_PROTOCOL)
        for piece in data:
            await stream.write(piece)
        return stream

    async def ask(self, gateway: str) -> str:
        """How it ended."""
        return await end_of(await self.open(gateway, REQUEST))


async def end_of(stream: Stream) -> str:
    """ "whole", or the code of what failed."""
    decoder, events = event_decoder(), list[Event]()
    while data := await stream.read():
        events += decoder.feed(data)
    return events[-1].code if isinstance(events[-1], Failed) else "whole"


@pytest.mark.parametrize("sent", [(), (b"\0",), (REQUEST[:-1],)], ids=["nothing", "a byte", "all but a byte"])
async def test_strangers_that_do_not_send_their_request_shut_nobody_out(sent: Sequence[bytes]) -> None:
    """Given more strangers than places, each with a stream whose request does not come, when others ask, then all are
    served, a newcomer among them; the strangers that gave up their places were told so."""
    site = Site()
    waiting = [await site.open(name, *sent) for name in names("stranger", IDENTITIES)]
    await settle(lambda: site.handler.unread == MAX_UNREAD_REQUESTS)
    for gateway in ("newcomer", "another", "newcomer"):
        assert await site.ask(gateway) == "whole"
    given_up = IDENTITIES - MAX_UNREAD_REQUESTS + 1
    assert [await end_of(stream) for stream in waiting[:given_up]] == ["busy"] * given_up
    assert site.handler.unread == MAX_UNREAD_REQUESTS - 1
    await close(site, waiting)


async def test_who_has_been_served_is_read_however_many_strangers_come() -> None:
    """Given a gateway that has been served, when a slow request of its own is on its way and strangers turn all of
    their places over thrice, then the request arrives; one of a stranger does not."""
    site = Site()
    assert await site.ask("gateway") == "whole"
    slow, strangers_slow = [await site.open(gateway, REQUEST[:10]) for gateway in ("gateway", "stranger")]
    flood = [await site.open(name) for name in names("flood", 3 * MAX_UNREAD_REQUESTS)]
    await slow.write(REQUEST[10:])
    assert await end_of(slow) == "whole"
    assert await end_of(strangers_slow) == "busy"
    await close(site, flood)


async def test_large_requests_that_never_end_are_bounded_in_bytes() -> None:
    site = Site()
    unfinished = MAX_REQUEST_FRAME_BYTES.to_bytes(LENGTH_BYTES, "big") + bytes(MAX_REQUEST_FRAME_BYTES - 1)
    waiting = [await site.open(name, unfinished) for name in names("stranger", 20)]
    await settle(lambda: site.handler.unread == MAX_UNREAD_BYTES // len(unfinished))
    assert await site.ask("newcomer") == "whole"
    assert await end_of(waiting[0]) == "busy"
    await close(site, waiting)


async def test_a_stream_on_which_nothing_comes_is_given_up_early() -> None:
    """The whole request may take its time all the same."""
    site = Site(first_byte_s=0.03)
    silent, slow = await site.open("a"), await site.open("b", REQUEST[:1])
    assert await end_of(silent) == "protocol_violation"
    await slow.write(REQUEST[1:])
    assert await end_of(slow) == "whole"


async def test_who_was_served_is_remembered_in_bounds() -> None:
    site = Site()
    assert await site.ask("gateway") == "whole"
    assert list(site.guard._served) == ["gateway"]
    for name in names("more", guard.MAX_SERVED):
        site.guard.note_served(name)
    assert len(site.guard._served) == guard.MAX_SERVED
    assert "gateway" not in site.guard._served


async def test_who_is_refused_was_not_served() -> None:
    site = Site()
    other = encode_frame(ask("other"), MAX_REQUEST_FRAME_BYTES)
    assert await end_of(await site.open("gateway", other)) == "model_not_found"
    assert not site.guard._served


async def close(site: Site, streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.close()
    await settle(lambda: site.handler.unread == 0)
