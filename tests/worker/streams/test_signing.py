"""A worker that signs, and gateways that sign back, invent, say nothing, or never go: one stream, byte by byte."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import pytest

from p2pnet.directory import validator
from p2pnet.identity import Identity
from p2pnet.messages import Accepted, Event, Finished, GenerateRequest, TextDelta
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryWorld
from p2pnet.receipts.account import Account, Parties
from p2pnet.receipts.hashing import request_hash
from p2pnet.receipts.signed import Acknowledged, Acknowledgement, Receipt
from p2pnet.receipts.statement import open_statement, seal_statement
from p2pnet.wire.codec import (
    LENGTH_BYTES,
    MAX_ACKNOWLEDGED_FRAME_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    encode_frame,
    event_decoder,
)
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.generate_handler import GenerateHandler
from p2pnet.worker.streams.signing import Signer
from tests.stories import NOW_MS, ManualClock, ask, peer, settle

WORKER, GATEWAY, OTHER = peer("worker"), peer("gateway"), peer("other")


class Site:
    """A worker that signs, and a gateway that speaks to it in bytes."""

    def __init__(self) -> None:
        clock = ManualClock()
        catalogue = Catalogue([EchoBackend()])
        self.meter = LoadMeter(1, catalogue, clock, lambda: clock.now_ms / 1000)
        self.kept: list[Acknowledgement] = []
        self._handler = GenerateHandler(catalogue.find, self.meter)
        self._handler.signer = Signer(WORKER, clock, lambda said, _: self.kept.append(said))
        world = MemoryWorld(validator(clock))
        self._worker = world.join(WORKER.peer_id)
        self._gateway = world.join(GATEWAY.peer_id)

    @property
    def open_streams(self) -> int:
        return self._worker.open_streams

    async def ask(self, request: GenerateRequest) -> tuple[Stream, Account, Finished]:
        """A whole answer, whose stream is still open; what the gateway knows of it; and its end."""
        await self._worker.handle(GENERATE_PROTOCOL, self._handler)
        stream = await self._gateway.open_stream(WORKER.peer_id, GENERATE_PROTOCOL)
        frame = encode_frame(request, MAX_REQUEST_FRAME_BYTES)
        await stream.write(frame)
        parties = Parties(WORKER.peer_id, GATEWAY.peer_id)
        account = Account(parties, request, request_hash(frame[LENGTH_BYTES:]), NOW_MS)
        decoder, events = event_decoder(), list[Event]()
        while not events or not isinstance(events[-1], Finished):
            events += decoder.feed(await stream.read())
        for event in events:
            assert isinstance(event, Accepted | TextDelta | Finished)
            account.note(event)
        last = events[-1]
        assert isinstance(last, Finished)
        return stream, account, last


def framed(account: Account, signer: Identity = GATEWAY, **changes: object) -> bytes:
    said = msgspec.structs.replace(account.acknowledgement("received", NOW_MS), **changes)
    return encode_frame(Acknowledged(seal_statement(said, signer)), MAX_ACKNOWLEDGED_FRAME_BYTES)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_what_a_gateway_signs_is_kept_in_however_small_pieces_it_comes(piece: int) -> None:
    site = Site()
    stream, account, finished = await site.ask(ask("echo"))
    assert finished.receipt is not None
    account.check_receipt(finished.receipt, finished)
    said = framed(account)
    for start in range(0, len(said), piece):
        await stream.write(said[start : start + piece])
    stream.close()
    await settle(lambda: bool(site.kept) and not site.open_streams)
    assert [(each.tokens, each.gateway) for each in site.kept] == [(3, GATEWAY.peer_id)]


async def test_the_slot_is_free_before_anything_is_signed_back() -> None:
    site = Site()
    streams = [(await site.ask(ask("echo", request_id=f"request-{number}")))[0] for number in range(8)]
    assert (site.meter.load.running, site.meter.load.queued) == (0, 0)
    for stream in streams:
        stream.close()
    await settle(lambda: not site.open_streams)
    assert site.kept == []


INVENTED: dict[str, Callable[[Account], bytes]] = {
    "more than was given": lambda account: framed(account, tokens=10**9, answer_tokens=10**9),
    "for another worker": lambda account: framed(account, worker=OTHER.peer_id),
    "by another gateway": lambda account: framed(account, OTHER, gateway=OTHER.peer_id),
    "in another's name": lambda account: framed(account, OTHER),
    "of another request": lambda account: framed(account, request_hash=bytes(32)),
    "of another answer": lambda account: framed(account, ids_hash=bytes(32)),
    "of another model": lambda account: framed(account, model="larger"),
    "no signature": lambda account: encode_frame(Acknowledged(b""), MAX_ACKNOWLEDGED_FRAME_BYTES),
    "half of it": lambda account: framed(account)[:-9],
    "garbage": lambda account: b"\x00\x00\x00\x05\xc1\xc1\xc1\xc1\xc1",
    "a frame that is too large": lambda account: b"\xff\xff\xff\xff",
    "more than anybody may say": lambda account: framed(account) * 20,
    "another request on the same stream": lambda account: encode_frame(ask("echo"), MAX_REQUEST_FRAME_BYTES),
}


@pytest.mark.parametrize("way", INVENTED)
async def test_what_a_gateway_invents_is_not_kept_and_costs_nothing(way: str) -> None:
    site = Site()
    stream, account, _ = await site.ask(ask("echo"))
    await stream.write(INVENTED[way](account))
    stream.close()
    await settle(lambda: not site.open_streams)
    assert site.kept == []
    stream, account, _ = await site.ask(ask("echo", request_id="request-2"))
    await stream.write(framed(account))
    stream.close()
    await settle(lambda: bool(site.kept) and not site.open_streams)


async def test_one_answer_is_signed_for_once() -> None:
    site = Site()
    stream, account, _ = await site.ask(ask("echo"))
    await stream.write(framed(account) * 3)
    stream.close()
    await settle(lambda: not site.open_streams)
    assert len(site.kept) == 1


async def test_what_was_signed_for_one_request_is_worth_nothing_for_the_next() -> None:
    site = Site()
    stream, account, _ = await site.ask(ask("echo"))
    said = framed(account)
    await stream.write(said)
    stream.close()
    await settle(lambda: bool(site.kept) and not site.open_streams)
    stream, _, _ = await site.ask(ask("echo", request_id="request-2"))
    await stream.write(said)
    stream.close()
    await settle(lambda: not site.open_streams)
    assert len(site.kept) == 1


@pytest.mark.parametrize("seed", range(20))
async def test_no_bytes_after_the_end_harm_a_worker(seed: int) -> None:
    rng = random.Random(seed)
    site = Site()
    stream, account, _ = await site.ask(ask("echo"))
    said = bytearray(framed(account))
    for _ in range(rng.randrange(1, 6)):
        said[rng.randrange(len(said))] = rng.randrange(256)
    is_whole = bytes(said) == framed(account)
    await stream.write(bytes(said[: rng.randrange(1, len(said) + 1)] if rng.random() < 0.3 else said))
    stream.close()
    await settle(lambda: not site.open_streams)
    assert len(site.kept) <= is_whole


async def test_a_request_is_signed_as_it_came_whatever_else_is_in_it() -> None:
    """Given a request with a field of a later version, then the receipt is of these bytes, and not of those that this
    version would write."""
    site = Site()
    await site.ask(ask("echo"))
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(ask("echo")))
    body = msgspec.msgpack.encode({**fields, "mood": "curious"})
    stream = await site._gateway.open_stream(WORKER.peer_id, GENERATE_PROTOCOL)
    await stream.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
    decoder, events = event_decoder(), list[Event]()
    while not events or not isinstance(events[-1], Finished):
        events += decoder.feed(await stream.read())
    stream.close()
    [receipt] = receipts_in(events)
    assert open_statement(receipt, Receipt).request_hash == request_hash(body)


def receipts_in(events: Sequence[Event]) -> list[bytes]:
    return [event.receipt for event in events if isinstance(event, Finished) and event.receipt is not None]
