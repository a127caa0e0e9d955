"""Leaves out of a capability record what does not fit into it, or puts its models into further ones. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from p2pnet.network.dial_addresses import MAX_ADDRESSES
from p2pnet.records import (
    MAX_INCOMPLETE,
    MAX_MODELS,
    MAX_PARTS,
    MAX_RECORD_BYTES,
    CapabilityRecord,
    ModelCard,
    sealed_size,
)

LEAST = {"withdrawn": 0, "incomplete": 0, "addresses": 1, "models": 1}
"""What is shortened, in this order, and to how many at least. Names of withdrawn models are forgotten anyway within
minutes; a model that is not whole answers nobody; addresses come best first; a worker that cannot say all its models
says those that it can."""


def fitted(record: CapabilityRecord, max_bytes: int = MAX_RECORD_BYTES) -> CapabilityRecord:
    """The record, with as much of its lists as fits so many bytes once it is sealed: as few of their last entries as
    possible are left out."""
    limits = {
        "withdrawn": MAX_MODELS,
        "incomplete": MAX_INCOMPLETE,
        "addresses": MAX_ADDRESSES,
        "models": MAX_MODELS,
    }
    record = _with(record, {field: getattr(record, field)[:limit] for field, limit in limits.items()})
    for field, least in LEAST.items():
        while sealed_size(record) > max_bytes and len(getattr(record, field)) > least:
            record = _with(record, {field: getattr(record, field)[:-1]})
    return record


def shares(record: CapabilityRecord, max_bytes: int = MAX_RECORD_BYTES) -> list[tuple[ModelCard, ...]]:
    """Its models, parted as its records are to have them: all in one where they fit beside one address at least, or
    else as many in each as fit beside all addresses. The last of `MAX_PARTS` has the rest, whether it fits or not."""
    whole = fitted(record, max_bytes)
    if len(whole.models) == len(record.models):
        return [record.models]
    bare = _with(
        record, {"withdrawn": (), "incomplete": (), "addresses": record.addresses[:MAX_ADDRESSES], "parts": MAX_PARTS}
    )
    parted: list[tuple[ModelCard, ...]] = [()]
    for card in record.models:
        longer = (*parted[-1], card)
        is_full = len(longer) > MAX_MODELS or sealed_size(_with(bare, {"models": longer})) > max_bytes
        if is_full and parted[-1] and len(parted) < MAX_PARTS:
            parted.append((card,))
        else:
            parted[-1] = longer
    return parted


def _with(record: CapabilityRecord, changes: dict[str, Any]) -> CapabilityRecord:
    return msgspec.structs.replace(record, **changes)
