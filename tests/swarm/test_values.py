"""What members leave in the DHT: read by members, nothing to anybody else, and no more room than anybody has."""

from __future__ import annotations

import msgspec
import pytest

from p2pnet.directory import EXPIRY_GRACE_MS, entries_for, private_key, validator
from p2pnet.errors import RecordRefused
from p2pnet.identity import Identity
from p2pnet.network.interface import Entry, StoredValue, key_id
from p2pnet.network.memory import MemoryWorld
from p2pnet.records import MAX_LIFETIME_MS, MAX_RECORD_BYTES, PrivateRecord, seal
from p2pnet.swarm.register import Register
from p2pnet.swarm.secret import SwarmSecret
from p2pnet.swarm.values import MAX_MEMBER_VALUE_BYTES, Boxed, MemberValues, box_context
from tests.stories import LIFETIME_MS, NOW_MS, ManualClock, capability, peer
from tests.swarm.members import ENDS_MS, KITCHEN, LAB, SwarmKeys, certified

ANNA, BOB, EVE = peer("anna"), peer("bob"), peer("eve")
KEY = "p2pnet/1/model/tiny"
ENTRY = Entry(KEY, b"something", NOW_MS + LIFETIME_MS)
BLINDED = SwarmSecret(LAB.secret).blinded(KEY)


class Story:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.register = Register(LAB.swarm_id, self.clock)

    def values(self, identity: Identity, swarm: SwarmKeys = LAB) -> MemberValues:
        register = self.register if swarm is LAB else Register(swarm.swarm_id, self.clock)
        certificate = certified(identity.peer_id, swarm)
        network = self.world.join(identity.peer_id)
        return MemberValues(network, identity, certificate, SwarmSecret(swarm.secret), register, self.clock)

    async def read(self, by: Identity = BOB, swarm: SwarmKeys = LAB) -> list[tuple[str, bytes]]:
        found = await self.values(by, swarm).get([KEY])
        return [(value.peer_id, value.value) for value in found[KEY]]


def record(signer: Identity, box: bytes, **changes: object) -> PrivateRecord:
    made = PrivateRecord(signer.peer_id, NOW_MS, NOW_MS + LIFETIME_MS, BLINDED, box)
    return msgspec.structs.replace(made, **changes)


def boxed(certificate_of: Identity, bound_to: Identity, swarm: SwarmKeys = LAB, value: bytes = b"mine") -> bytes:
    certificate = swarm.invitation().certificate_for(certificate_of.peer_id)
    plain = msgspec.msgpack.encode(Boxed(certificate, value))
    return SwarmSecret(LAB.secret).seal(plain, box_context(BLINDED, bound_to.peer_id))


async def test_members_read_what_members_store() -> None:
    story = Story()
    assert await story.values(ANNA).put([ENTRY]) == 1
    assert await story.read() == [(ANNA.peer_id, b"something")]
    assert await story.read(swarm=KITCHEN) == []


async def test_others_see_who_stores_how_much_and_no_more() -> None:
    story = Story()
    await story.values(ANNA).put([ENTRY])
    ((key, values),) = story.world.values.items()
    (stored,) = values.values()
    assert key == private_key(BLINDED)
    for word in (b"something", b"model", b"lab", LAB.swarm_id.encode(), LAB.invitation().invitation_id.encode()):
        assert word not in stored.value and word not in key.encode()


async def test_what_is_not_a_members_is_left_out() -> None:
    """Each is well-formed, signed by its peer, and stored; those who are no members know the secret, as who was one
    once."""
    story = Story()
    await story.values(ANNA).put([ENTRY])
    anna = story.world.values[private_key(BLINDED)][ANNA.peer_id]
    copied = msgspec.msgpack.decode(msgspec.msgpack.decode(anna.value)["payload"])["box"]
    hostile = {
        "junk": b"\0" * 100,
        "nothing": b"",
        "a member's box, copied": copied,
        "a member's certificate": boxed(ANNA, EVE),
        "bound to another": boxed(EVE, ANNA),
        "of another swarm": boxed(EVE, EVE, KITCHEN),
        "no certificate": SwarmSecret(LAB.secret).seal(b"\x92\xc0\xc0", box_context(BLINDED, EVE.peer_id)),
        "nested deep": SwarmSecret(LAB.secret).seal(b"\x91" * 3000, box_context(BLINDED, EVE.peer_id)),
    }
    for number, box in enumerate(hostile.values()):
        made = record(EVE, box, expires_ms=NOW_MS + LIFETIME_MS + number)
        (entry,) = entries_for(made, seal(made, EVE))
        assert await story.world.join(EVE.peer_id).store([entry]) == 1
        assert await story.read() == [(ANNA.peer_id, b"something")]
    member = record(EVE, boxed(EVE, EVE), expires_ms=NOW_MS + LIFETIME_MS + len(hostile))
    await story.world.join(EVE.peer_id).store(entries_for(member, seal(member, EVE)))
    assert (EVE.peer_id, b"mine") in await story.read(), "with a certificate of its own it would be read"


async def test_what_the_revoked_have_stored_is_left_out() -> None:
    story = Story()
    await story.values(ANNA).put([ENTRY])
    story.register.learn(LAB.revoking(ANNA.peer_id))
    assert await story.read() == []


async def test_a_membership_that_has_ended() -> None:
    story = Story()
    story.clock.now_ms = ENDS_MS
    await story.values(ANNA).put([Entry(KEY, b"late", ENDS_MS + 1000)])
    assert await story.read() == []


async def test_the_largest_value_fits_and_a_larger_one_is_refused() -> None:
    story = Story()
    largest = Entry("k" * 200, bytes(MAX_MEMBER_VALUE_BYTES), NOW_MS + MAX_LIFETIME_MS)
    assert await story.values(ANNA).put([largest]) == 1
    (stored,) = story.world.values[private_key(SwarmSecret(LAB.secret).blinded(largest.key))].values()
    assert MAX_RECORD_BYTES - 64 < len(stored.value) <= MAX_RECORD_BYTES
    with pytest.raises(RecordRefused, match="allowed"):
        await story.values(ANNA).put([Entry(KEY, bytes(MAX_RECORD_BYTES), NOW_MS + 1)])


async def test_a_withdrawal_that_expires_at_once_can_be_stored() -> None:
    story = Story()
    story.clock.advance(1)
    assert await story.values(ANNA).put([Entry(KEY, b"gone", story.clock.now_ms + 1)]) == 1


def on(key: str, made: PrivateRecord, signer: Identity = EVE, subkey: str = EVE.peer_id) -> StoredValue:
    return StoredValue(key_id(key), subkey, seal(made, signer), made.expires_ms)


def test_strangers_get_no_more_room_with_it_than_with_any_record() -> None:
    """The bounds by peer, by network and in all are the storage's, whatever a value is."""
    is_acceptable = validator(lambda: NOW_MS)
    honest = record(EVE, bytes(100))
    home = private_key(BLINDED)
    assert is_acceptable(on(home, honest))
    refused = {
        "among the workers of a model": on(KEY, honest),
        "among all workers": on("p2pnet/1/workers/3", honest),
        "under another blinded name": on(private_key(bytes(32)), honest),
        "another's place": on(home, honest, subkey=ANNA.peer_id),
        "a public record among private ones": StoredValue(
            key_id(home), EVE.peer_id, seal(capability(EVE), EVE), NOW_MS + LIFETIME_MS
        ),
    }
    for case, value in refused.items():
        assert not is_acceptable(value), case
    cases = (
        record(EVE, bytes(MAX_RECORD_BYTES)),
        record(EVE, b"", blinded_key=bytes(31)),
        record(EVE, b"", expires_ms=NOW_MS + MAX_LIFETIME_MS + 1),
        record(EVE, b"", version=2),
        record(ANNA, b""),
    )
    for made in cases:
        with pytest.raises(RecordRefused):
            seal(made, EVE)
    late = NOW_MS + LIFETIME_MS + EXPIRY_GRACE_MS
    assert not validator(lambda: late)(on(home, honest))
