"""Lists of what is revoked: which are believed, which count, and whom they shut out."""

from __future__ import annotations

import msgspec
import pytest

from p2pnet.errors import NotAMember, RecordRefused
from p2pnet.identity import Identity
from p2pnet.swarm.register import Register
from p2pnet.swarm.revocations import (
    MAX_REVOKED,
    REVOCATIONS_DOMAIN,
    RevocationList,
    fingerprint,
    open_revocations,
    seal_revocations,
)
from p2pnet.swarm.values import MAX_MEMBER_VALUE_BYTES
from tests.stories import NOW_MS, ManualClock, peer
from tests.swarm.members import ENDS_MS, KITCHEN, LAB

MEMBER, OTHER = peer("member"), peer("other")
SEALED = LAB.revoking(MEMBER.peer_id)


def signed(payload: object, signer: Identity = LAB.key, domain: str = REVOCATIONS_DOMAIN) -> bytes:
    raw = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
    return msgspec.msgpack.encode((raw, signer.sign(domain, raw)))


def listed(count: int) -> RevocationList:
    return RevocationList(LAB.swarm_id, 1, tuple(fingerprint(str(number)) for number in range(count)))


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "junk": b"\xff" * 100,
    "nested deep": b"\x91" * 5000,
    "of another swarm": KITCHEN.revoking(MEMBER.peer_id),
    "signed by another swarm": signed(listed(1), KITCHEN.key),
    "signed by a member": signed(listed(1), MEMBER),
    "signed for another purpose": signed(listed(1), domain="p2pnet/record/1"),
    "too long": signed(listed(MAX_REVOKED + 1)),
    "a fingerprint too short": signed([LAB.swarm_id, 1, [b"short"]]),
    "a negative sequence": signed([LAB.swarm_id, -1, []]),
    "cut short": SEALED[:-1],
    "a bit flipped": SEALED[:70] + bytes([SEALED[70] ^ 1]) + SEALED[71:],
}


@pytest.mark.parametrize("sealed", REFUSED.values(), ids=REFUSED)
def test_a_list_that_is_not_believed(sealed: bytes) -> None:
    with pytest.raises(RecordRefused):
        open_revocations(sealed, LAB.swarm_id)


def test_the_longest_list_fits_what_a_member_stores() -> None:
    sealed = seal_revocations(LAB.key, (1 << 53) - 1, map(str, range(MAX_REVOKED)))
    assert len(open_revocations(sealed, LAB.swarm_id).revoked) == MAX_REVOKED
    assert len(sealed) <= MAX_MEMBER_VALUE_BYTES


def test_who_is_revoked_is_no_member_any_more() -> None:
    by_first, by_second = (LAB.invitation(number).certificate_for(MEMBER.peer_id) for number in (1, 2))
    cases = {
        "nothing is": ((), True, True),
        "another peer": ((OTHER.peer_id,), True, True),
        "the peer": ((MEMBER.peer_id,), False, False),
        "one invitation": ((by_first.invitation_id,), False, True),
        "both": ((by_first.invitation_id, by_second.invitation_id), False, False),
    }
    for case, (revoked, *are_members) in cases.items():
        register = Register(LAB.swarm_id, lambda: NOW_MS)
        register.learn(LAB.revoking(*revoked))
        found = [register.has(certificate, MEMBER.peer_id) for certificate in (by_first, by_second)]
        assert found == are_members, case


def test_an_older_list_does_not_come_back() -> None:
    register = Register(LAB.swarm_id, lambda: NOW_MS)
    certificate = LAB.invitation().certificate_for(MEMBER.peer_id)
    register.learn(LAB.revoking(MEMBER.peer_id, sequence=2))
    for older in (LAB.revoking(sequence=1), LAB.revoking(sequence=2), *REFUSED.values()):
        register.learn(older)
        assert register.sequence == 2
        with pytest.raises(NotAMember, match="the peer is revoked"):
            register.check(certificate, MEMBER.peer_id)
    register.learn(LAB.revoking(sequence=3))
    register.check(certificate, MEMBER.peer_id)


def test_a_membership_ends_by_itself() -> None:
    clock = ManualClock()
    register = Register(LAB.swarm_id, clock)
    certificate = LAB.invitation().certificate_for(MEMBER.peer_id)
    assert register.has(certificate, MEMBER.peer_id)
    clock.now_ms = ENDS_MS
    assert not register.has(certificate, MEMBER.peer_id)
