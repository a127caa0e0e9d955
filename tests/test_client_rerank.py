"""The client against workers that score documents as they should not: none is believed that breaks the rules."""

from __future__ import annotations

import pytest

from p2pnet.client import rerank
from p2pnet.directory import validator
from p2pnet.errors import P2PNetError, PeerLost, ProtocolViolation
from p2pnet.messages import Accepted, Finished, TextDelta, Usage
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryWorld
from p2pnet.rerank_messages import MAX_DOCUMENTS, Relevance, RerankEvent, RerankRequest
from p2pnet.wire.codec import encode_frame, rerank_request_decoder
from p2pnet.wire.exchange import RERANK_PROTOCOL
from tests.stories import DIGEST, ManualClock, peer

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id
REQUEST = RerankRequest("r1", "ranks", "Which?", ("this", "that"))
ACCEPTED, FINISHED = Accepted(9, DIGEST), Finished("stop", Usage(9, 0))
HONEST = (ACCEPTED, Relevance(1, 0.25), Relevance(0, -8.5), FINISHED)


async def run(*events: RerankEvent | TextDelta) -> tuple[list[RerankEvent], P2PNetError | None]:
    """What came out of a worker that says this, and the error it ended with."""

    async def handle(stream: Stream) -> None:
        decoder = rerank_request_decoder()
        while not decoder.feed(await stream.read()):
            pass
        await stream.write(b"".join(encode_frame(event, 1 << 20) for event in events))

    world = MemoryWorld(validator(ManualClock()))
    await world.join(WORKER).handle(RERANK_PROTOCOL, handle)
    came: list[RerankEvent] = []
    try:
        async for event in rerank(world.join(CLIENT), WORKER, REQUEST):
            came.append(event)
    except P2PNetError as error:
        return came, error
    return came, None


async def test_scores_come_in_any_order() -> None:
    assert await run(*HONEST) == (list(HONEST), None)


async def test_an_answer_that_breaks_off_is_lost() -> None:
    assert type((await run(*HONEST[:-1]))[1]) is PeerLost


LIES: dict[str, tuple[RerankEvent | TextDelta, ...]] = {
    "a score before it is accepted": (Relevance(0, 1.0),),
    "finished without scores": (ACCEPTED, FINISHED),
    "finished with one missing": (ACCEPTED, Relevance(0, 1.0), FINISHED),
    "the same document twice": (ACCEPTED, Relevance(0, 1.0), Relevance(0, 1.0)),
    "a document that there is not": (ACCEPTED, Relevance(2, 1.0)),
    "a document that there cannot be": (ACCEPTED, Relevance(MAX_DOCUMENTS, 1.0)),
    "no number": (ACCEPTED, Relevance(0, float("nan"))),
    "an infinite number": (ACCEPTED, Relevance(0, float("inf"))),
    "text": (ACCEPTED, TextDelta("this")),
    "more behind the end": (*HONEST, FINISHED),
}


@pytest.mark.parametrize("events", LIES.values(), ids=LIES)
async def test_a_lie_is_a_violation_and_no_success(events: tuple[RerankEvent | TextDelta, ...]) -> None:
    came, error = await run(*events)
    assert type(error) is ProtocolViolation
    assert not any(isinstance(event, Finished) for event in came)
