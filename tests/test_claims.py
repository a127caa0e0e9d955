"""A volunteer's key for one gateway: what is read again, and every way in which one does not hold."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnet.claims import (
    CLAIM_DOMAIN,
    CLAIM_PREFIX,
    MAX_CLAIM_CHARS,
    MAX_CLAIM_LIFETIME_MS,
    Claim,
    claim_key,
    read_claim,
    split_key,
)
from p2pnet.errors import ClaimRefused
from p2pnet.receipts.signed import ACKNOWLEDGEMENT_DOMAIN
from p2pnet.records import MAX_CLOCK_SKEW_MS
from tests.depth import examples
from tests.stories import NOW_MS, peer, signed

VOLUNTEER, GATEWAY, OTHER = peer("volunteer"), peer("gateway"), peer("other")
ENDS_MS = NOW_MS + 1000
CLAIM = Claim(VOLUNTEER.peer_id, GATEWAY.peer_id, NOW_MS, ENDS_MS)
KEY = claim_key(VOLUNTEER, GATEWAY.peer_id, NOW_MS, ENDS_MS)


def text(sealed: bytes) -> str:
    return CLAIM_PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def test_a_key_is_read_at_its_gateway_until_it_ends() -> None:
    assert read_claim(KEY, GATEWAY.peer_id, NOW_MS) == CLAIM
    assert read_claim(KEY, GATEWAY.peer_id, ENDS_MS - 1) == CLAIM
    assert read_claim(KEY, GATEWAY.peer_id, NOW_MS - MAX_CLOCK_SKEW_MS) == CLAIM
    longest = claim_key(VOLUNTEER, GATEWAY.peer_id, NOW_MS, NOW_MS + MAX_CLAIM_LIFETIME_MS)
    assert read_claim(longest, GATEWAY.peer_id, NOW_MS).expires_ms == NOW_MS + MAX_CLAIM_LIFETIME_MS
    assert len(longest) < MAX_CLAIM_CHARS and set(longest) <= set(
        "-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    )


def fields(**changes: object) -> dict[str, object]:
    return {**msgspec.structs.asdict(CLAIM), **changes}


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "of another gateway": (lambda: claim_key(VOLUNTEER, OTHER.peer_id, NOW_MS, ENDS_MS), "is for the gateway"),
    "good for too long": (
        lambda: claim_key(VOLUNTEER, GATEWAY.peer_id, NOW_MS, NOW_MS + MAX_CLAIM_LIFETIME_MS + 1),
        "longer than 90 days",
    ),
    "made long ago, and good for ever": (
        lambda: claim_key(VOLUNTEER, GATEWAY.peer_id, 0, (1 << 53) - 1),
        "longer than 90 days",
    ),
    "made in the future": (
        lambda: claim_key(VOLUNTEER, GATEWAY.peer_id, NOW_MS + MAX_CLOCK_SKEW_MS + 1, NOW_MS + 60_000),
        "in the future",
    ),
    "ended": (lambda: claim_key(VOLUNTEER, GATEWAY.peer_id, NOW_MS - 1000, NOW_MS), "has expired"),
    "signed by another": (lambda: text(signed(OTHER, fields(), CLAIM_DOMAIN)), "signature"),
    "signed as something else": (lambda: text(signed(VOLUNTEER, fields(), ACKNOWLEDGEMENT_DOMAIN)), "signature"),
    "changed": (lambda: KEY[:-3] + "AAA", "signature"),
    "of a later version": (lambda: text(signed(VOLUNTEER, fields(version=2), CLAIM_DOMAIN)), "version 2"),
    "of no peer": (lambda: text(signed(VOLUNTEER, fields(peer="x"), CLAIM_DOMAIN)), "it is none"),
    "negative times": (lambda: text(signed(VOLUNTEER, fields(issued_ms=-1), CLAIM_DOMAIN)), "it is none"),
    "no statement": (lambda: text(b"\xc1"), "it is none"),
    "deeply nested": (lambda: text(b"\x91" * 200 + b"\xc0"), "it is none"),
    "nothing": (lambda: CLAIM_PREFIX, "it is none"),
    "cut": (lambda: KEY[:-1], "."),
    "other letters": (lambda: KEY + "é!", "it is cut, or no key"),
    "too long": (lambda: CLAIM_PREFIX + "A" * MAX_CLAIM_CHARS, "longer than any"),
}


@pytest.mark.parametrize("way", HOSTILE)
def test_a_key_that_does_not_hold_says_what_to_do(way: str) -> None:
    key, reason = HOSTILE[way]
    with pytest.raises(ClaimRefused, match=reason) as refused:
        read_claim(key(), GATEWAY.peer_id, NOW_MS)
    assert f"p2pnet keys claim {GATEWAY.peer_id}" in refused.value.message or "Set the clock" in refused.value.message


@settings(max_examples=examples(200))
@given(st.binary(max_size=300) | st.just(msgspec.msgpack.encode({"payload": b"", "signature": bytes(64)})), st.text())
def test_whatever_is_shown_is_a_claim_or_refused(sealed: bytes, junk: str) -> None:
    for shown in (text(sealed), CLAIM_PREFIX + junk, KEY + junk, junk + KEY):
        if shown != KEY:
            with suppress(ClaimRefused):
                assert read_claim(shown, GATEWAY.peer_id, NOW_MS) == CLAIM


@pytest.mark.parametrize(
    ("sent", "parts"),
    [
        ("sk-p2pnet-own", ("sk-p2pnet-own", None)),
        (KEY, (None, KEY)),
        (f"sk-p2pnet-own~{KEY}", ("sk-p2pnet-own", KEY)),
        (f"~{KEY}", (None, KEY)),
        (f"{KEY}~sk-p2pnet-own", (f"{KEY}~sk-p2pnet-own", None)),
        ("a~b", ("a~b", None)),
        ("", ("", None)),
    ],
)
def test_what_a_client_sends_is_taken_apart(sent: str, parts: tuple[str | None, str | None]) -> None:
    assert split_key(sent) == parts
