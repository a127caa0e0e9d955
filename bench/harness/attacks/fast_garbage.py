"""A worker that claims a thousand places, and answers every request at once, with words that it did not compute."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from bench.harness.chain_model import chain_card
from bench.harness.stranger import dht
from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target
from p2pnet.errors import PeerLost
from p2pnet.messages import Accepted, Finished, Load, Measure, TextDelta, Usage
from p2pnet.network.interface import Stream
from p2pnet.status_messages import Status
from p2pnet.wire.codec import MAX_EVENT_FRAME_BYTES, MAX_STATUS_FRAME_BYTES, encode_frame
from p2pnet.wire.exchange import GENERATE_PROTOCOL, STATUS_PROTOCOL

SLOTS = 1024
TOKENS = 8
"""As honest clients ask for."""
LOAD = Load(slots=SLOTS, decode_tokens_per_s=Measure(1e6, 1000))

AGAIN_S = 5.0


async def attack(target: Target) -> None:
    async with Stranger() as spammer:
        spammer.serve_chunked(STATUS_PROTOCOL, _answer_probe)
        spammer.serve_chunked(GENERATE_PROTOCOL, _answer)
        address = await spammer.listen()
        connection = await spammer.dial(target.bootstrap.tcp_address)
        while True:
            record = dht.capability(spammer.identity, (address,))
            record = msgspec.structs.replace(record, models=(chain_card(target.model),), slots=SLOTS)
            await dht.announce(connection, spammer.identity, record)
            await asyncio.sleep(AGAIN_S)


async def _answer_probe(stream: Stream) -> None:
    await stream.read()
    await stream.write(encode_frame(Status(True, LOAD), MAX_STATUS_FRAME_BYTES))


async def _answer(stream: Stream) -> None:
    await stream.read()
    spam = [TextDelta("spam ", (number,)) for number in range(TOKENS)]
    events = [Accepted(3, load=LOAD), *spam, Finished("length", Usage(3, TOKENS), LOAD)]
    with contextlib.suppress(PeerLost):
        await stream.write(b"".join(encode_frame(event, MAX_EVENT_FRAME_BYTES) for event in events))
