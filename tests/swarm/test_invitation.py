"""The invitation's line: read again as it was written, and refused in a sentence when it is anything else."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from p2pnet.errors import UsageError
from p2pnet.swarm.invitation import MAX_INITIAL_PEERS, PREFIX, Invitation, new_invitation, read_invitation
from p2pnet.swarm.register import Register
from tests.stories import NOW_MS, address_of, peer
from tests.swarm.members import ENDS_MS, KITCHEN, LAB

HONEST = msgspec.structs.replace(LAB.invitation(), initial_peers=(address_of(peer("bootstrap")),))
LINE = HONEST.to_line()


def line(**changes: Any) -> str:
    return msgspec.structs.replace(HONEST, **changes).to_line()


def packed(value: object) -> str:
    raw = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


REFUSED: dict[str, tuple[str, str]] = {
    "nothing": ("", "does not begin with p2pnet-swarm:"),
    "an address": (address_of(peer("bootstrap")), "does not begin with"),
    "the prefix alone": (PREFIX, "is damaged"),
    "no base64url": (PREFIX + "!!!!", "is damaged"),
    "not ASCII": (PREFIX + "é" * 40, "is damaged"),
    "no msgpack": (packed(b"\xc1"), "is damaged"),
    "nested deep": (packed(b"\x91" * 5000), "is damaged"),
    "a map": (packed({"name": "lab"}), "is damaged"),
    "cut short": (LINE[:-4], "is damaged"),
    "a name that leads out of its folder": (line(name="../lab"), "is damaged"),
    "a name that is a folder's": (line(name=".."), "is damaged"),
    "a secret too short": (line(secret=bytes(31)), "is damaged"),
    "too many addresses": (line(initial_peers=HONEST.initial_peers * (MAX_INITIAL_PEERS + 1)), "is damaged"),
    "another's key": (line(seed=KITCHEN.invitation().seed), "not the one that was let in"),
    "another swarm": (line(swarm_id=KITCHEN.swarm_id), "not of this swarm"),
    "expired": (line(delegation=LAB.invitation(expires_ms=NOW_MS).delegation), "has expired"),
    "no address": (line(initial_peers=("localhost",)), "is not a multiaddr"),
}


def test_a_line_is_read_as_it_was_written() -> None:
    for form in (LINE, f"  {LINE}\n"):
        assert read_invitation(form, NOW_MS) == HONEST
    assert len(LINE) < 600, "it fits a chat message"
    assert LINE.isascii() and " " not in LINE


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_invitation(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        read_invitation(text, NOW_MS)
    assert caught.value.fix


def test_whoever_holds_one_is_a_member_by_oneself() -> None:
    made = new_invitation(LAB.key, "lab", LAB.secret, (), ENDS_MS, NOW_MS)
    held: Invitation = read_invitation(made.to_line(), NOW_MS)
    certificate = held.certificate_for(peer("anna").peer_id)
    Register(LAB.swarm_id, lambda: NOW_MS).check(certificate, peer("anna").peer_id)
    assert certificate.expires_ms == ENDS_MS
    assert new_invitation(LAB.key, "lab", LAB.secret, (), ENDS_MS, NOW_MS).invitation_id != made.invitation_id
