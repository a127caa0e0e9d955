"""What is left out of a record that is too large: as little as must be, and in which order."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from p2pnet.network.dial_addresses import MAX_ADDRESSES
from p2pnet.records import (
    MAX_INCOMPLETE,
    MAX_MODELS,
    MAX_PARTS,
    MAX_RECORD_BYTES,
    CapabilityRecord,
    IncompleteModel,
    seal,
    sealed_size,
)
from p2pnet.swarm.values import MAX_MEMBER_VALUE_BYTES
from p2pnet.worker.announcing.fitting import fitted, shares
from tests.stories import DIGEST, capability, card, peer

WORKER = peer("worker")


def names(prefix: str, count: int, length: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number:0>{length - len(prefix)}}" for number in range(count))


def record(models: tuple[int, int], addresses: int, withdrawn: tuple[int, int]) -> CapabilityRecord:
    """So many models, and withdrawn ones, with names so long."""
    return msgspec.structs.replace(
        capability(WORKER),
        models=tuple(map(card, names("m", *models))),
        addresses=tuple(f"/ip4/203.0.113.7/udp/{4000 + i}/quic-v1/p2p/{WORKER.peer_id}" for i in range(addresses)),
        withdrawn=names("w", *withdrawn),
    )


CASES: dict[str, tuple[CapabilityRecord, str]] = {
    "nothing": (record((1, 9), 2, (1, 9)), ""),
    "nothing at the limits of the lists": (record((9, 9), MAX_ADDRESSES, (MAX_MODELS, 9)), ""),
    "withdrawn names first": (record((9, 9), 4, (MAX_MODELS, 100)), "withdrawn"),
    "then addresses": (record((19, 50), 10, (2, 9)), "withdrawn addresses"),
    "then models": (record((30, 100), 2, (2, 9)), "withdrawn addresses models"),
    "too many of each": (record((40, 9), 20, (40, 9)), "withdrawn addresses models"),
}


@pytest.mark.parametrize(("whole", "shortened"), CASES.values(), ids=CASES)
def test_as_little_as_must_be_is_left_out(whole: CapabilityRecord, shortened: str) -> None:
    part = fitted(whole)
    for field in ("withdrawn", "addresses", "models"):
        before, after = getattr(whole, field), getattr(part, field)
        assert after == before[: len(after)]
        assert (len(after) < len(before)) is (field in shortened), field
    assert len(part.models) >= 1 and len(part.addresses) >= 1
    seal(part, WORKER)


def test_what_can_be_asked_for_goes_before_what_cannot() -> None:
    lacks = tuple(IncompleteModel(name, DIGEST, 9, ((0, 9),)) for name in names("i", MAX_INCOMPLETE, 100))
    whole = msgspec.structs.replace(record((19, 50), 8, (2, 9)), incomplete=lacks)
    part = fitted(whole)
    assert (part.withdrawn, part.models) == ((), whole.models)
    assert len(part.incomplete) < MAX_INCOMPLETE and len(part.addresses) >= 1


def test_one_more_would_not_fit() -> None:
    whole = record((30, 100), 2, (0, 9))
    part = fitted(whole)
    longer = msgspec.structs.replace(part, models=whole.models[: len(part.models) + 1])
    assert sealed_size(part) <= MAX_RECORD_BYTES < sealed_size(longer)


SHARED: dict[str, tuple[CapabilityRecord, list[int]]] = {
    "all that fits": (record((9, 9), 2, (1, 9)), [9]),
    "what fits beside fewer addresses": (record((19, 50), 10, (2, 9)), [19]),
    "what does not": (record((26, 80), 2, (2, 9)), [17, 9]),
    "more than a list holds": (record((40, 9), 2, (0, 9)), [27, 13]),
    "more than all records hold": (record((200, 100), 1, (0, 9)), [16, 16, 16, 152]),
    "none": (record((0, 9), 1, (0, 9)), [0]),
}


@pytest.mark.parametrize(("whole", "sizes"), SHARED.values(), ids=SHARED)
def test_models_are_shared_out_in_their_order(whole: CapabilityRecord, sizes: list[int]) -> None:
    parted = shares(whole)
    assert [len(models) for models in parted] == sizes
    assert tuple(model for models in parted for model in models) == whole.models
    for models, following in pairwise(parted):
        longer = msgspec.structs.replace(whole, withdrawn=(), models=(*models, following[0]), parts=MAX_PARTS)
        assert sealed_size(longer) > MAX_RECORD_BYTES
    for part, models in enumerate(parted):
        seal(fitted(msgspec.structs.replace(whole, models=models, part=part, parts=len(parted))), WORKER)


def test_a_withdrawal_of_as_many_long_names_as_there_can_be_nearly_fits() -> None:
    withdrawal = msgspec.structs.replace(
        capability(WORKER), models=(), addresses=(), withdrawn=names("w", MAX_MODELS, 128), is_online=False
    )
    assert len(fitted(withdrawal).withdrawn) >= 25


def test_a_member_of_a_swarm_has_a_little_less_room() -> None:
    part = fitted(record((30, 100), 2, (0, 9)), MAX_MEMBER_VALUE_BYTES)
    assert MAX_MEMBER_VALUE_BYTES - 400 < sealed_size(part) <= MAX_MEMBER_VALUE_BYTES
