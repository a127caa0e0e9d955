"""Receipts between a gateway and its workers, as stories: honest ones, wrong ones, and those of earlier versions."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from p2pnet.messages import Accepted, Finished, TextDelta, Usage
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.receipts.account import Account, Parties
from p2pnet.receipts.hashing import request_hash
from p2pnet.receipts.signed import Acknowledged, Acknowledgement, Receipt
from p2pnet.receipts.statement import open_statement, seal_statement
from p2pnet.wire.codec import (
    MAX_EVENT_FRAME_BYTES,
    acknowledged_decoder,
    encode_frame,
    request_decoder,
)
from p2pnet.worker.backends.synthetic.echo import EchoOptions
from tests.gateway.story_swarm import PROMPT, answers, is_complete, swarm
from tests.stories import NOW_MS, ask, peer, settle

WORDS = (TextDelta("one", (0,)), TextDelta(" two", (1,)), TextDelta(" three", (2,)))
ENDED = Finished("stop", Usage(3, 3))

Forge = Callable[[Receipt], Receipt]


def signing(
    name: str, forge: Forge, signer: str | None = None, heard: list[Acknowledged] | None = None
) -> StreamHandler:
    """A worker that answers rightly, and signs what `forge` makes of its receipt. `heard` gets what it is told then."""
    heard = [] if heard is None else heard

    async def handle(stream: Stream) -> None:
        decoder = request_decoder()
        while not (requests := decoder.feed(await stream.read())):
            pass
        parties = Parties(peer(name).peer_id, stream.peer_id)
        account = Account(parties, requests[0], request_hash(decoder.last_body), NOW_MS)
        accepted = Accepted(3)
        for event in (accepted, *WORDS):
            account.note(event)
        receipt = seal_statement(forge(account.receipt(ENDED, NOW_MS)), peer(signer or name))
        ended = msgspec.structs.replace(ENDED, receipt=receipt)
        await stream.write(b"".join(encode_frame(each, MAX_EVENT_FRAME_BYTES) for each in (accepted, *WORDS, ended)))
        heard.extend(acknowledged_decoder().feed(await stream.read()))

    return handle


async def test_an_answer_comes_with_a_receipt_and_the_gateway_signs_for_it() -> None:
    async with swarm() as given:
        site = await given.worker("honest")
        events, error = await given.run()
        assert error is None and is_complete(events)
        [document] = given.receipts
        [part] = document.parts
        receipt = open_statement(part.receipt, Receipt)
        assert part.request is not None and request_hash(part.request) == receipt.request_hash
        assert (receipt.worker, receipt.gateway, receipt.tokens) == (site.peer_id, peer("gateway").peer_id, 3)
        await settle(lambda: bool(given.signed))
        [said] = given.signed
        assert (said.verdict, said.tokens, said.answer_tokens) == ("received", 3, 3)
        assert (said.request_hash, said.ids_hash) == (receipt.request_hash, receipt.ids_hash)
        assert given.in_flight() == [0]


async def test_an_answer_that_went_on_elsewhere_has_the_receipt_of_who_ended_it_for_its_part() -> None:
    async with swarm() as given:
        breaking = await given.impostor("breaking", answers(Accepted(3), *WORDS[:2]))
        other = await given.worker("other")
        given.prefer(breaking)
        events, error = await given.run()
        assert error is None and is_complete(events)
        [[part]] = [document.parts for document in given.receipts]
        receipt = open_statement(part.receipt, Receipt)
        assert (receipt.worker, receipt.tokens) == (other.peer_id, 1)
        assert part.request is not None
        assert msgspec.msgpack.decode(part.request)["resume_tokens"] == [0, 1]
        await settle(lambda: bool(given.signed))
        assert [(said.tokens, said.answer_tokens) for said in given.signed] == [(1, 3)]


async def test_who_breaks_off_and_says_so_signs_for_its_part() -> None:
    async with swarm() as given:
        breaking = await given.worker("breaking", options=EchoOptions(fails_after_tokens=2))
        other = await given.worker("other")
        given.prefer(breaking.peer_id)
        events, error = await given.run()
        assert error is None and is_complete(events)
        [parts] = [document.parts for document in given.receipts]
        signed = [open_statement(part.receipt, Receipt) for part in parts]
        assert [(each.worker, each.tokens, each.reason) for each in signed] == [
            (breaking.peer_id, 2, "failed"),
            (other.peer_id, 1, "stop"),
        ]


async def test_who_fails_before_it_has_given_anything_signs_nothing() -> None:
    async with swarm() as given:
        broken = await given.worker("broken", options=EchoOptions(fails_after_tokens=0))
        other = await given.worker("other")
        given.prefer(broken.peer_id)
        await given.run()
        [[part]] = [document.parts for document in given.receipts]
        assert open_statement(part.receipt, Receipt).worker == other.peer_id


async def test_a_worker_of_an_earlier_version_gives_none_and_is_told_nothing() -> None:
    async with swarm() as given:
        old = await given.impostor("old", answers(Accepted(3), *WORDS, ENDED))
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert given.receipts == [] and given.cooling() == set()
        assert given.known(old).is_tried


FORGED: dict[str, tuple[Forge, str | None]] = {
    "another request": (lambda receipt: msgspec.structs.replace(receipt, request_hash=bytes(32)), None),
    "more tokens": (lambda receipt: msgspec.structs.replace(receipt, tokens=10**6), None),
    "other ids": (lambda receipt: msgspec.structs.replace(receipt, ids_hash=bytes(32)), None),
    "for another gateway": (lambda receipt: msgspec.structs.replace(receipt, gateway=peer("rival").peer_id), None),
    "another's name": (lambda receipt: msgspec.structs.replace(receipt, worker=peer("victim").peer_id), None),
    "another's signature": (lambda receipt: receipt, "victim"),
}


@pytest.mark.parametrize("way", FORGED)
async def test_a_wrong_receipt_counts_against_its_worker_and_costs_the_client_nothing(way: str) -> None:
    forge, signer = FORGED[way]
    async with swarm() as given:
        liar = await given.impostor("liar", signing("liar", forge, signer))
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert given.cooling() == {liar}
        assert given.known(liar).health_of(("echo", "generate")).reason == "wrong_receipt"
        assert given.receipts == []
        [report] = given.reports
        assert (report.outcome, [attempt.outcome for attempt in report.attempts]) == ("stop", ["wrong_receipt"])


async def test_a_receipt_is_replayed_in_vain() -> None:
    """The request's id, and its seed, are another time others."""
    kept: list[Receipt] = []

    def replayed(receipt: Receipt) -> Receipt:
        kept.append(receipt)
        return kept[0]

    async with swarm() as given:
        liar = await given.impostor("liar", signing("liar", replayed))
        for number in range(2):
            events, error = await given.run(ask(text=PROMPT, request_id=f"request-{number}"))
            assert error is None and is_complete(events)
        assert given.cooling() == {liar}
        assert len(given.receipts) == 1


async def test_a_worker_is_told_that_its_receipt_is_wrong() -> None:
    heard: list[Acknowledged] = []
    async with swarm() as given:
        await given.impostor("liar", signing("liar", FORGED["more tokens"][0], heard=heard))
        await given.run()
        await settle(lambda: bool(heard))
        assert [open_statement(each.acknowledgement, Acknowledgement).verdict for each in heard] == ["wrong_receipt"]


async def test_a_worker_that_reads_nothing_holds_nobody_up() -> None:
    async with swarm() as given:

        async def handle(stream: Stream) -> None:
            await answers(Accepted(3), *WORDS, msgspec.structs.replace(ENDED, receipt=b"no receipt"))(stream)
            await settle(lambda: bool(given.reports))

        await given.impostor("deaf", handle)
        events, error = await given.run()
        assert error is None and is_complete(events)
