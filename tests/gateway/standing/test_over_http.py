"""Volunteers' keys over HTTP: at gateways with keys and without, honest ones and all others."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.http.access import Access, KeyRing
from gateway.http.keys import ApiKey, hash_key, write_keys
from gateway.interface import Caller
from gateway.queueing.fair_queue import share_of
from gateway.standing.book import Book
from gateway.standing.desk import Desk
from p2pnet.claims import CLAIM_PREFIX, MAX_CLAIM_LIFETIME_MS, claim_key
from p2pnet.identity import Identity
from tests.gateway.fake_generate import FakeGenerate, answer, service
from tests.gateway.standing.test_desk import ALICE, BOB, GATEWAY, STRANGER, said
from tests.stories import NOW_MS

OWN = "sk-p2pnet-anna"
LATER_MS = NOW_MS + 86_400_000
CHAT_PATH = "/v1/chat/completions"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


def key(by: Identity = ALICE, gateway: Identity = GATEWAY, issued_ms: int = NOW_MS, ends_ms: int = LATER_MS) -> str:
    return claim_key(by, gateway.peer_id, issued_ms, ends_ms)


class Place:
    """A gateway at which Alice's worker has given something, and who asked there."""

    def __init__(self, ring: KeyRing | None) -> None:
        self.book = Book(unix_s=lambda: NOW_MS / 1000)
        for caller in range(100):
            self.book.note(ALICE.peer_id, f"caller {caller}", 1000)
        self.generate = FakeGenerate(*answer("Hello"))
        desk = Desk(GATEWAY.peer_id, self.book, lambda: NOW_MS)
        made = replace(service(self.generate), standing=desk)
        self.app: FastAPI = create_app(made, access=Access(ring, prove=desk.prove))

    async def ask(self, given: str | None, method: str = "POST", path: str = CHAT_PATH, **body: Any) -> Any:
        headers = {} if given is None else {"authorization": f"Bearer {given}"}
        transport = httpx.ASGITransport(self.app, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
            return await client.request(method, path, json=(body or CHAT) if method == "POST" else None)

    async def caller(self, given: str | None) -> Caller:
        reply = await self.ask(given)
        assert reply.status_code == 200, reply.text
        return self.generate.callers[-1]

    async def refusal(self, given: str | None) -> str:
        reply = await self.ask(given)
        assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        assert given is None or given not in reply.text
        return str(reply.json()["error"]["message"])

    async def standing(self, given: str | None) -> Any:
        return (await self.ask(given, "GET", "/p2pnet/v1/standing")).json()["standing"]


@pytest.fixture
def place() -> Place:
    """A gateway without keys."""
    return Place(None)


@pytest.fixture
def keyed(tmp_path: Path) -> Place:
    write_keys(tmp_path / "keys.txt", (ApiKey("anna", hash_key(OWN), priority=-1),))
    return Place(KeyRing(tmp_path / "keys.txt"))


async def test_a_volunteer_s_key_is_a_line_of_its_own_with_more_turns(place: Place) -> None:
    without, with_key, stranger = [await place.caller(given) for given in (None, key(), key(STRANGER))]
    assert (without.name, without.line, share_of(without.urgency)) == ("192.0.2.1", "192.0.2.1", share_of(0))
    assert (with_key.name, share_of(with_key.urgency)) == ("192.0.2.1", 16 * share_of(0))
    assert with_key.line.startswith(ALICE.peer_id)
    assert (stranger.line, stranger.urgency) == (without.line, 0)


async def test_other_keys_are_nobody_s_business_at_a_gateway_without_keys(place: Place) -> None:
    for given in ("sk-anything", "sk-p2pnet-standing", f"{key()}~sk-else"):
        assert (await place.caller(given)).volunteer is None
    assert (await place.caller(f"sk-anything~{key()}")).volunteer is not None


async def test_where_a_gateway_has_keys_a_volunteer_s_goes_beside_its_own(keyed: Place) -> None:
    own, both = [await keyed.caller(given) for given in (OWN, f"{OWN}~{key()}")]
    assert (own.name, own.line, own.urgency) == ("anna", "anna", -1)
    assert (both.name, both.line, both.urgency) == ("anna", f"{ALICE.peer_id} -1", 1)
    assert "ask its owner for one" in await keyed.refusal(key())
    assert "not known here" in await keyed.refusal(f"sk-p2pnet-wrong~{key()}")
    assert "signature" in await keyed.refusal(f"{OWN}~{key()[:-3]}AAA")
    assert "is needed" in await keyed.refusal(None)


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "expired": (lambda: key(issued_ms=NOW_MS - 1000, ends_ms=NOW_MS), "has expired"),
    "of another gateway": (lambda: key(gateway=STRANGER), "is for the gateway"),
    "forged": (lambda: key()[:-3] + "AAA", "signature"),
    "good for too long": (lambda: key(ends_ms=NOW_MS + MAX_CLAIM_LIFETIME_MS + 1), "longer than 90 days"),
    "too long": (lambda: CLAIM_PREFIX + "A" * 20_000, "longer than any"),
    "cut": (lambda: key()[:-20], "it is none"),
    "made in the future": (lambda: key(issued_ms=NOW_MS + 60_000), "in the future"),
}


@pytest.mark.parametrize("way", HOSTILE)
async def test_a_key_that_does_not_hold_is_refused_with_what_to_do(place: Place, way: str) -> None:
    given, reason = HOSTILE[way]
    message = await place.refusal(given())
    assert reason in message
    assert "p2pnet keys claim" in message or "Set the clock right" in message


async def test_a_newer_key_makes_older_ones_worthless_once_it_was_used(place: Place) -> None:
    lost, newer = key(issued_ms=NOW_MS - 2000), key(issued_ms=NOW_MS - 1000)
    assert (await place.caller(lost)).urgency == 2
    assert (await place.caller(newer)).urgency == 2
    assert "A newer key" in await place.refusal(lost)
    assert (await place.caller(newer)).urgency == 2


async def test_a_caller_is_told_its_own_standing(place: Place) -> None:
    assert await place.standing(None) is None
    known = await place.standing(key())
    assert (known["peer"], known["turns"], known["expires"]) == (ALICE.peer_id, 16, "2027-01-16T08:00:00Z")
    assert 0.09 < known["merit"] <= 0.11 and known["received_tokens"] == 100_000
    assert (await place.standing(key(STRANGER)))["turns"] == 1


async def test_what_other_gateways_have_signed_is_shown(place: Place) -> None:
    async def show(given: str | None, **body: Any) -> Any:
        return await place.ask(given, "POST", "/p2pnet/v1/standing", **body)

    told = await show(key(BOB), signed=[base64.b64encode(said()).decode()])
    assert told.json()["standing"]["turns"] == 4
    assert (await place.caller(key(BOB))).urgency == 1
    for given, body, reason in (
        (None, {"signed": []}, "keys claim"),
        (key(STRANGER), {"signed": [base64.b64encode(said()).decode()]}, "for another worker"),
        (key(BOB), {"signed": ["no base64"]}, "not understood"),
        (key(BOB), {"signed": "AAAA"}, "not understood"),
        (key(BOB), {"other": []}, "not understood"),
        (key(BOB), {"signed": [""] * 17}, "at most 16"),
    ):
        refused = await show(given, **body)
        assert refused.status_code == 400, refused.text
        assert reason in refused.json()["error"]["message"]
