"""The directory: which record may sit on which key, and stories of workers, readers and those who would fool them."""

from __future__ import annotations

import hashlib
import random
from typing import Any, ClassVar

import msgspec
import pytest

from p2pnet.directory import (
    EXPIRY_GRACE_MS,
    SHARDS,
    Directory,
    entries_for,
    keys_of,
    load_key,
    model_key,
    shard_of,
    stage_key,
    validator,
    whole_of,
    worker_key,
)
from p2pnet.identity import Identity
from p2pnet.model_shards import FULL_SHARD, MAX_LEVEL, Placing, shard_key, shard_on
from p2pnet.network.interface import StoredValue, key_id
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.records import CapabilityRecord, Record, seal
from tests.stories import (
    DIGEST,
    LIFETIME_MS,
    NOW_MS,
    ManualClock,
    address_of,
    capability,
    card,
    fields_of,
    load_record,
    peer,
    signed,
    stage_record,
    stored,
)

WORKER = peer("worker")
OTHER = peer("other")
STRANGER = peer("stranger")

RECORD = capability(WORKER, "tiny", "org/large")
SEALED = seal(RECORD, WORKER)
SHARD = shard_of(WORKER.peer_id)

# ---- keys


def test_a_capability_record_belongs_on_its_shard_and_its_models() -> None:
    assert keys_of(RECORD) == (worker_key(SHARD), model_key("tiny"), model_key("org/large"))
    assert keys_of(RECORD)[1] == "p2pnet/1/model/tiny"
    assert keys_of(msgspec.structs.replace(RECORD, models=())) == (worker_key(SHARD),)


def test_a_load_record_belongs_on_its_shard() -> None:
    assert keys_of(load_record(WORKER)) == (load_key(SHARD),)


def test_a_key_is_filed_under_its_sha_1() -> None:
    assert key_id(model_key("tiny")) == hashlib.sha1(b"p2pnet/1/model/tiny").digest()


def test_shards_are_all_used_and_stay_the_same() -> None:
    shards = [shard_of(peer(str(number)).peer_id) for number in range(200)]
    assert set(shards) == set(range(SHARDS))
    assert shards == [shard_of(peer(str(number)).peer_id) for number in range(200)]


# ---- the validator


def on(key: str, record: Record, signer: Identity, **changes: Any) -> StoredValue:
    value = StoredValue(key_id(key), signer.peer_id, seal(record, signer), record.expires_ms)
    return StoredValue(**{name: changes.get(name, getattr(value, name)) for name in value.__dataclass_fields__})


def level_key(model: str, level: int) -> str:
    """Where the worker may announce a model on this level."""
    return shard_key(model, level, shard_on(level, WORKER.peer_id))


HONEST = on(model_key("tiny"), RECORD, WORKER)
LOAD = on(load_key(SHARD), load_record(WORKER), WORKER)

ACCEPTABLE = {
    "on its model": HONEST,
    "on its other model": on(model_key("org/large"), RECORD, WORKER),
    "on its shard": on(worker_key(SHARD), RECORD, WORKER),
    **{f"on level {level} of its model": on(level_key("tiny", level), RECORD, WORKER) for level in (1, 5, MAX_LEVEL)},
    "on a level of a model that it withdraws": on(
        level_key("gone", 2), capability(WORKER, withdrawn=("gone",)), WORKER
    ),
    "a load record on its shard": LOAD,
    "a withdrawal": on(model_key("tiny"), capability(WORKER, is_online=False), WORKER),
    "on a model that it withdraws": on(model_key("gone"), capability(WORKER, withdrawn=("gone",)), WORKER),
    "from a clock 4 s ahead": on(model_key("tiny"), capability(WORKER, issued_ms=NOW_MS + 4_000), WORKER),
    "expired within the grace": on(
        model_key("tiny"), capability(WORKER, issued_ms=NOW_MS - LIFETIME_MS - EXPIRY_GRACE_MS + 1), WORKER
    ),
}

UNACCEPTABLE = {
    "a plain value": on(model_key("tiny"), RECORD, WORKER, subkey=""),
    "junk as a plain value": StoredValue(key_id(model_key("tiny")), "", b"take over", NOW_MS + 1000),
    "a foreign subkey": on(model_key("tiny"), RECORD, WORKER, subkey=STRANGER.peer_id),
    "a subkey that only looks alike": on(model_key("tiny"), RECORD, WORKER, subkey=WORKER.peer_id + "\0"),
    "a subkey in lower case": on(model_key("tiny"), RECORD, WORKER, subkey=WORKER.peer_id.lower()),
    "a stranger's record on a worker's subkey": on(
        model_key("tiny"), capability(STRANGER), STRANGER, subkey=WORKER.peer_id
    ),
    "a model it does not run": on(model_key("other"), RECORD, WORKER),
    "a model whose name begins alike": on(model_key("tin"), RECORD, WORKER),
    "another's shard of its model": on(shard_key("tiny", 3, shard_on(3, WORKER.peer_id) ^ 1), RECORD, WORKER),
    "a level too low": on(level_key("tiny", MAX_LEVEL + 1), RECORD, WORKER),
    "a load record on a level": on(level_key("tiny", 1), load_record(WORKER), WORKER),
    "another shard": on(worker_key((SHARD + 1) % SHARDS), RECORD, WORKER),
    "a capability record among loads": on(load_key(SHARD), RECORD, WORKER),
    "a load record among workers": on(worker_key(SHARD), load_record(WORKER), WORKER),
    "a load record on a model": on(model_key("tiny"), load_record(WORKER), WORKER),
    "a key of someone else's protocol": on("my-own-key", RECORD, WORKER),
    "an empty key": on(model_key("tiny"), RECORD, WORKER, key_id=b""),
    "a key's name instead of its id": on(model_key("tiny"), RECORD, WORKER, key_id=model_key("tiny").encode()),
    "an expiry later than signed": on(model_key("tiny"), RECORD, WORKER, expires_ms=RECORD.expires_ms + 1),
    "an expiry earlier than signed": on(model_key("tiny"), RECORD, WORKER, expires_ms=RECORD.expires_ms - 1),
    "an expiry in the far future": on(model_key("tiny"), RECORD, WORKER, expires_ms=1 << 60),
    "no expiry": on(model_key("tiny"), RECORD, WORKER, expires_ms=0),
    "a bit of its value flipped": on(
        model_key("tiny"), RECORD, WORKER, value=SEALED[:100] + bytes([SEALED[100] ^ 1]) + SEALED[101:]
    ),
    "a value cut short": on(model_key("tiny"), RECORD, WORKER, value=SEALED[:-1]),
    "no value": on(model_key("tiny"), RECORD, WORKER, value=b""),
    "64 KiB of junk": on(model_key("tiny"), RECORD, WORKER, value=random.Random(3).randbytes(1 << 16)),
    "from a clock a minute ahead": on(model_key("tiny"), capability(WORKER, issued_ms=NOW_MS + 60_000), WORKER),
    "expired": on(model_key("tiny"), capability(WORKER, issued_ms=NOW_MS - LIFETIME_MS - EXPIRY_GRACE_MS), WORKER),
    "an empty address": on(
        model_key("tiny"), RECORD, WORKER, value=signed(WORKER, fields_of(RECORD) | {"addresses": [""]})
    ),
}


@pytest.mark.parametrize("value", ACCEPTABLE.values(), ids=ACCEPTABLE)
def test_the_validator_takes(value: StoredValue) -> None:
    assert validator(lambda: NOW_MS)(value)


@pytest.mark.parametrize("value", UNACCEPTABLE.values(), ids=UNACCEPTABLE)
def test_the_validator_refuses(value: StoredValue) -> None:
    assert not validator(lambda: NOW_MS)(value)


def test_the_validator_follows_its_clock() -> None:
    clock = ManualClock()
    is_acceptable = validator(clock)
    assert is_acceptable(HONEST)
    clock.advance((LIFETIME_MS + EXPIRY_GRACE_MS) / 1000)
    assert not is_acceptable(HONEST)


# ---- stories


class Story:
    """A world with one reader, and workers that announce when they are told to."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.reader = Directory(self.world.join(peer("gateway").peer_id), self.clock)
        self._networks: dict[str, MemoryNetwork] = {}

    def network_of(self, identity: Identity) -> MemoryNetwork:
        if identity.peer_id not in self._networks:
            self._networks[identity.peer_id] = self.world.join(identity.peer_id)
        return self._networks[identity.peer_id]

    async def announce(self, identity: Identity, *models: str, **changes: Any) -> CapabilityRecord:
        """Announce as of now; every key must take it."""
        record = capability(identity, *models, **{"issued_ms": self.clock.now_ms} | changes)
        entries = entries_for(record, seal(record, identity))
        assert await self.network_of(identity).store(entries) == len(entries)
        return record

    async def withdraw(self, identity: Identity, *models: str) -> None:
        await self.announce(identity, *models, expires_ms=self.clock.now_ms + LIFETIME_MS + 60_000, is_online=False)

    def offer(self, record: Record, sealed: bytes) -> int:
        """A stranger offers someone's record, on all its keys, to those that store."""
        offers = (stored(key, record.peer_id, sealed, record.expires_ms) for key in keys_of(record))
        return sum(self.world.put(key, value) for key, value in zip(keys_of(record), offers, strict=True))

    async def seen(self) -> set[str]:
        """Everyone's view: the list of workers and the models' own keys must agree."""
        workers = {record.peer_id for record in await self.reader.workers()}
        assert workers == {record.peer_id for record in await self.reader.workers_of("tiny")}
        return workers


async def test_what_is_announced_is_found_on_each_of_its_keys() -> None:
    story = Story()
    mine = await story.announce(WORKER, "tiny", "large")
    other = await story.announce(OTHER, "tiny")
    assert set(await story.reader.workers()) == {mine, other}
    assert set(await story.reader.workers_of("tiny")) == {mine, other}
    assert await story.reader.workers_of("large") == (mine,)
    assert await story.reader.workers_of("unheard-of") == ()


async def test_stages_are_found_by_the_digest_of_their_model_and_nowhere_else() -> None:
    story = Story()
    another = "sha256:" + "cd" * 32
    records = [stage_record(WORKER), stage_record(OTHER, 12, 24), stage_record(STRANGER, digest=another)]
    for identity, record in zip((WORKER, OTHER, STRANGER), records, strict=True):
        assert await story.network_of(identity).store(entries_for(record, seal(record, identity))) == 1
    assert set(await story.reader.stages_of(DIGEST)) == set(records[:2])
    assert await story.reader.stages_of(another) == (records[2],)
    assert await story.reader.workers() == ()
    assert story.offer(records[0], seal(records[0], WORKER)) == 0
    assert not story.world.put(stage_key(another), on(stage_key(another), records[0], WORKER))


async def test_a_stage_that_withdraws_or_falls_silent_is_found_no_more() -> None:
    story = Story()
    for identity in (WORKER, OTHER):
        record = stage_record(identity)
        await story.network_of(identity).store(entries_for(record, seal(record, identity)))
    assert len(await story.reader.stages_of(DIGEST)) == 2
    gone = stage_record(WORKER, sequence=NOW_MS + 1, expires_ms=NOW_MS + 30_001, is_online=False)
    await story.network_of(WORKER).store(entries_for(gone, seal(gone, WORKER)))
    assert [record.peer_id for record in await story.reader.stages_of(DIGEST)] == [OTHER.peer_id]
    story.clock.advance(31)
    assert await story.reader.stages_of(DIGEST) == ()


async def test_a_later_announcement_takes_the_place_of_an_earlier_one() -> None:
    story = Story()
    await story.announce(WORKER, "tiny")
    story.clock.advance(10)
    later = await story.announce(WORKER, "tiny", addresses=(f"/ip4/203.0.113.9/tcp/1/p2p/{WORKER.peer_id}",))
    assert await story.reader.workers() == (later,)


async def test_a_model_that_is_no_longer_run_is_no_longer_found() -> None:
    # Given a worker that announced two models, and now announces one: the other key still holds its old record.
    story = Story()
    await story.announce(WORKER, "tiny", "large")
    story.clock.advance(10)
    await story.announce(WORKER, "tiny")
    # When a reader has seen the new record, then it does not believe the old one.
    assert await story.seen() == {WORKER.peer_id}
    assert await story.reader.workers_of("large") == ()


async def test_a_model_that_is_withdrawn_is_found_by_no_reader_though_its_worker_is() -> None:
    # Given a worker that announced two models, and now announces one, and withdraws the other.
    story = Story()
    await story.announce(WORKER, "tiny", "large")
    story.clock.advance(10)
    await story.announce(WORKER, "tiny", withdrawn=("large",))
    # When a reader that knows nothing asks for either, then the one is found, and not the other.
    assert await story.reader.workers_of("large") == ()
    assert await story.seen() == {WORKER.peer_id}


async def test_a_withdrawal_overwrites() -> None:
    story = Story()
    await story.announce(WORKER)
    await story.announce(OTHER)
    assert await story.seen() == {WORKER.peer_id, OTHER.peer_id}
    story.clock.advance(1)
    await story.withdraw(WORKER, "tiny")
    assert await story.seen() == {OTHER.peer_id}


async def test_an_old_record_does_not_bring_a_withdrawn_worker_back() -> None:
    # Given a worker that has withdrawn, and a stranger who kept its last record.
    story = Story()
    record = await story.announce(WORKER)
    story.clock.advance(1)
    await story.withdraw(WORKER, "tiny")
    # When the stranger offers the old record, then those that hold the withdrawal refuse it.
    assert story.offer(record, seal(record, WORKER)) == 0
    assert await story.seen() == set()


async def test_an_old_record_is_not_believed_by_a_reader_that_has_seen_a_newer_one() -> None:
    # Given a reader that has seen the withdrawal, and a peer that pretends to have lost it.
    story = Story()
    record = await story.announce(WORKER)
    story.clock.advance(1)
    await story.withdraw(WORKER, "tiny")
    assert await story.seen() == set()
    story.world.values.clear()
    # When that peer shows the old record, which is still valid in itself.
    assert story.offer(record, seal(record, WORKER)) == len(keys_of(record))
    # Then a reader without memory would believe it, and this one does not.
    assert await Directory(story.network_of(OTHER), story.clock).workers() == (record,)
    assert await story.seen() == set()


async def test_an_old_record_cannot_be_replayed_after_its_expiry() -> None:
    story = Story()
    record = await story.announce(WORKER)
    story.clock.advance((LIFETIME_MS + EXPIRY_GRACE_MS) / 1000)
    story.world.values.clear()
    assert story.offer(record, seal(record, WORKER)) == 0
    assert await story.seen() == set()


async def test_a_worker_may_come_back_after_its_withdrawal() -> None:
    story = Story()
    await story.announce(WORKER)
    story.clock.advance(1)
    await story.withdraw(WORKER, "tiny")
    assert await story.seen() == set()
    story.clock.advance(61)
    await story.announce(WORKER)
    assert await story.seen() == {WORKER.peer_id}


async def test_expired_workers_disappear() -> None:
    story = Story()
    await story.announce(WORKER)
    story.clock.advance(LIFETIME_MS / 1000 - 0.001)
    await story.announce(OTHER)
    assert await story.seen() == {WORKER.peer_id, OTHER.peer_id}
    story.clock.advance(0.001)
    assert await story.seen() == {OTHER.peer_id}


@pytest.mark.parametrize("ahead_s", [-4, -2, 2, 4])
async def test_clocks_that_differ_by_seconds_do_no_harm(ahead_s: float) -> None:
    # Given a worker whose clock is ahead of, or behind, those of the reader and of the peers that store.
    story = Story()
    mine = capability(WORKER, issued_ms=story.clock.now_ms + ahead_s * 1000)
    assert story.offer(mine, seal(mine, WORKER)) == len(keys_of(mine))
    assert await story.seen() == {WORKER.peer_id}
    # Then it stays for its lifetime on its own clock, and its next announcement comes through.
    story.clock.advance(60)
    later = capability(WORKER, issued_ms=story.clock.now_ms + ahead_s * 1000)
    assert story.offer(later, seal(later, WORKER)) == len(keys_of(later))
    story.clock.advance(LIFETIME_MS / 1000 + ahead_s - 0.001)
    assert await story.seen() == {WORKER.peer_id}
    story.clock.advance(0.001)
    assert await story.seen() == set()


def attacks() -> dict[str, StoredValue]:
    """What a stranger puts on the keys of a worker's model, under the worker's subkey, its own, and made-up ones."""
    junk = random.Random(11).randbytes(1 << 16)
    later = capability(WORKER, "tiny", issued_ms=NOW_MS + 1000)
    own = capability(STRANGER, "tiny", issued_ms=NOW_MS + 1000)
    forged = signed(STRANGER, fields_of(later))
    far_ms = NOW_MS + (1 << 50)

    def as_worker(sealed: bytes, expires_ms: int = later.expires_ms) -> StoredValue:
        return stored(model_key("tiny"), WORKER.peer_id, sealed, expires_ms)

    def as_stranger(sealed: bytes, expires_ms: int = own.expires_ms) -> StoredValue:
        return stored(model_key("tiny"), STRANGER.peer_id, sealed, expires_ms)

    return {
        "a forged record on the worker's subkey": as_worker(forged),
        "its own record on the worker's subkey": as_worker(seal(own, STRANGER)),
        "a lock on the worker's subkey": as_worker(forged, 1 << 62),
        "a lock on its own subkey": as_stranger(signed(STRANGER, fields_of(own) | {"expires_ms": far_ms}), far_ms),
        "a plain value": stored(model_key("tiny"), "", b"gone", far_ms),
        "junk": as_stranger(junk),
        "junk on the worker's subkey": as_worker(junk),
        "the worker's true record, to live longer": as_worker(SEALED, RECORD.expires_ms + 1),
        "the worker's address for a stranger": as_stranger(
            signed(STRANGER, fields_of(own) | {"addresses": [address_of(WORKER)]})
        ),
        "an address that nobody can parse": as_stranger(signed(STRANGER, fields_of(own) | {"addresses": [""]})),
        "nesting": as_stranger(signed(STRANGER, b"\x91" * 3000)),
    }


async def test_nothing_a_stranger_offers_gets_in_and_nothing_legitimate_is_lost() -> None:
    story = Story()
    for identity in (WORKER, OTHER):
        await story.announce(identity)
    before = {key: dict(values) for key, values in story.world.values.items()}
    taken = [name for name, value in attacks().items() if story.world.put(model_key("tiny"), value)]
    assert taken == []
    assert {key: dict(values) for key, values in story.world.values.items() if values} == before
    assert await story.seen() == {WORKER.peer_id, OTHER.peer_id}
    # And the workers can go on announcing: no key is locked.
    story.clock.advance(1)
    for identity in (WORKER, OTHER):
        await story.announce(identity)


async def test_a_storing_peer_that_checks_nothing_cannot_fool_a_reader() -> None:
    # Given a peer that keeps, and shows, whatever it was offered: under a subkey of its own each, beside the true ones.
    story = Story()
    await story.announce(WORKER)
    await story.announce(OTHER)
    for name, value in attacks().items():
        story.world.values[model_key("tiny")][name] = value
        story.world.values[worker_key(SHARD)][name] = value
    assert await story.seen() == {WORKER.peer_id, OTHER.peer_id}


async def test_a_record_of_another_key_is_not_taken_on_this_one() -> None:
    # A value names the key it is for; offering it elsewhere must not file it there.
    story = Story()
    await story.announce(WORKER)
    value = stored(model_key("tiny"), OTHER.peer_id, seal(capability(OTHER), OTHER), NOW_MS + LIFETIME_MS)
    assert not story.world.put(model_key("large"), value)
    assert await story.reader.workers_of("large") == ()


async def test_a_cut_off_reader_finds_nothing_and_recovers() -> None:
    story = Story()
    await story.announce(WORKER)
    held = {key: dict(values) for key, values in story.world.values.items()}
    story.world.values.clear()
    assert await story.reader.workers() == ()
    story.world.values.update(held)
    assert await story.seen() == {WORKER.peer_id}


async def test_what_was_known_outlives_an_empty_answer_until_it_expires() -> None:
    story = Story()
    await story.announce(WORKER)
    assert await story.seen() == {WORKER.peer_id}
    story.world.values.clear()
    assert await story.seen() == {WORKER.peer_id}
    story.clock.advance(LIFETIME_MS / 1000)
    assert await story.seen() == set()


# ---- records in parts

PART_MODELS = {"a": card("a"), "b": card("b"), "c": card("c"), "d": card("d")}


def part(number: int, of: int, sequence: int, models: str, withdrawn: str = "", **changes: Any) -> CapabilityRecord:
    return msgspec.structs.replace(
        RECORD,
        sequence=sequence,
        models=tuple(PART_MODELS[name] for name in models),
        withdrawn=tuple(withdrawn),
        part=number,
        parts=of,
        **changes,
    )


WHOLES: dict[str, tuple[list[CapabilityRecord], str | None]] = {
    "one": ([part(0, 1, 5, "ab")], "ab"),
    "two": ([part(0, 2, 5, "ab"), part(1, 2, 6, "cd")], "abcd"),
    "only the second": ([part(1, 2, 6, "cd")], "cd"),
    "a part that is no more": ([part(0, 1, 7, "ab"), part(1, 2, 6, "cd")], "ab"),
    "a model that has changed its part": ([part(0, 2, 7, "abc"), part(1, 2, 6, "cd")], "abcd"),
    "a model that a newer part withdraws": ([part(0, 2, 7, "ab", "c"), part(1, 2, 6, "cd")], "abd"),
    "a model that is back": ([part(0, 2, 5, "ab", "c"), part(1, 2, 6, "cd")], "abcd"),
    "withdrawn": ([part(0, 2, 5, "ab"), part(1, 2, 8, "", "cd", is_online=False)], None),
    "back from a withdrawal": ([part(0, 1, 9, "ab"), part(1, 2, 8, "", "cd", is_online=False)], "ab"),
}


@pytest.mark.parametrize(("parts", "models"), WHOLES.values(), ids=WHOLES)
def test_parts_are_put_together(parts: list[CapabilityRecord], models: str | None) -> None:
    for order in (parts, parts[::-1]):
        whole = whole_of(order)
        assert whole.sequence == max(record.sequence for record in parts)
        assert whole.is_online is (models is not None)
        if models is not None:
            assert sorted(card.id for card in whole.models) == list(models)


def test_each_part_lies_on_a_shard_of_its_own() -> None:
    assert keys_of(part(1, 2, 5, "a")) == (worker_key((SHARD + 1) % SHARDS), model_key("a"))
    assert keys_of(part(3, 4, 5, ""))[0] == worker_key((SHARD + 3) % SHARDS)


# ---- models that many run


class CrowdedWorld(MemoryWorld):
    """Of some keys the peers that store them say that so many lie there."""

    crowds: ClassVar[dict[str, int]] = {}

    def join(self, peer_id: str) -> MemoryNetwork:
        self.peers[peer_id] = CrowdedNetwork(self, peer_id)
        return self.peers[peer_id]


class CrowdedNetwork(MemoryNetwork):
    def held(self, key: str) -> int:
        return CrowdedWorld.crowds.get(key, 0)


async def test_a_reader_follows_workers_down_and_keeps_what_it_has_found() -> None:
    """Others have filled the model's own key, and the worker lies on the level below."""
    clock = ManualClock()
    world = CrowdedWorld(validator(clock))
    CrowdedWorld.crowds = {model_key("tiny"): FULL_SHARD}
    placing = Placing(WORKER.peer_id)
    assert placing.goes_down("tiny", CrowdedWorld.crowds.__getitem__)
    record = capability(WORKER)
    await world.join(WORKER.peer_id).store(entries_for(record, seal(record, WORKER), placing)[1:])
    assert list(world.values) == [level_key("tiny", 1)]
    reader = Directory(world.join(peer("gateway").peer_id), clock, random.Random(1))
    assert await reader.workers_of("tiny") == ()
    looks = [await reader.workers_of("tiny", are_others_wanted=True) for _ in range(12)]
    assert looks[-1] == (record,)


async def test_what_a_worker_says_itself_is_known_if_it_is_its_own_and_new() -> None:
    story = Story()
    record = capability(WORKER, "tiny")
    sealed = seal(record, WORKER)
    assert story.reader.note(sealed, OTHER.peer_id) is None
    assert story.reader.note(b"junk", WORKER.peer_id) is None
    assert story.reader.note(sealed, WORKER.peer_id) == record
    assert story.reader.note(sealed, WORKER.peer_id) is None
    load = load_record(WORKER)
    assert story.reader.note(seal(load, WORKER), WORKER.peer_id) is None
    assert await story.reader.workers() == (record,)


async def test_of_a_worker_of_several_records_the_whole_is_known() -> None:
    story = Story()
    first, second = part(0, 2, NOW_MS, "a"), part(1, 2, NOW_MS + 1, "b")
    assert story.reader.note(seal(first, WORKER), WORKER.peer_id) == first
    whole = story.reader.note(seal(second, WORKER), WORKER.peer_id)
    assert whole is not None and {card.id for card in whole.models} == {"a", "b"}
