"""Leaves out of a capability record what does not fit into it. A pure function of the record."""

from __future__ import annotations

from typing import Any

import msgspec

from p2pnet.network.dial_addresses import MAX_ADDRESSES
from p2pnet.records import MAX_MODELS, MAX_RECORD_BYTES, CapabilityRecord, sealed_size

LEAST = {"withdrawn": 0, "addresses": 1, "models": 1}
"""What is shortened, in this order, and to how many at least. Names of withdrawn models are forgotten anyway within
minutes; addresses come best first; a worker that cannot say all its models says those that it can."""


def fitted(record: CapabilityRecord, max_bytes: int = MAX_RECORD_BYTES) -> CapabilityRecord:
    """The record, with as much of its lists as fits so many bytes once it is sealed: as few of their last entries as
    possible are left out."""
    limits = {"withdrawn": MAX_MODELS, "addresses": MAX_ADDRESSES, "models": MAX_MODELS}
    record = _with(record, {field: getattr(record, field)[:limit] for field, limit in limits.items()})
    for field, least in LEAST.items():
        while sealed_size(record) > max_bytes and len(getattr(record, field)) > least:
            record = _with(record, {field: getattr(record, field)[:-1]})
    return record


def _with(record: CapabilityRecord, changes: dict[str, Any]) -> CapabilityRecord:
    return msgspec.structs.replace(record, **changes)
