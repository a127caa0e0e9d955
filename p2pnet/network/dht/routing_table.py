"""The routing table: which nodes of the DHT this one knows, in buckets by how far their ids are from its own.

Maymounkov and Mazières 2002, sections 2.2 and 2.4. Decides on what it is told; asks nobody.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from p2pnet.network.dht.contact import ID_BITS, Contact

BUCKET_SIZE = 20
"""Kademlia's k: of twenty nodes at least one is still there after an hour."""


class RoutingTable:
    """Nodes by their ids, this one's own never among them. In a full bucket those that were there stay: nodes that have
    answered for long go on doing so, and whoever makes up ids pushes nobody out."""

    def __init__(self, own_id: int) -> None:
        self._own_id = own_id
        self._buckets: list[dict[int, Contact]] = [{} for _ in range(ID_BITS)]

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def __iter__(self) -> Iterator[Contact]:
        for bucket in self._buckets:
            yield from bucket.values()

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._bucket(node_id)

    def get(self, node_id: int) -> Contact | None:
        return self._bucket(node_id).get(node_id)

    def note(self, contact: Contact) -> Contact | None:
        """A node was heard of from itself. Where there is no room for it, returns the node of its bucket that has been
        silent for longest: if that is gone, `remove` it and note this one again."""
        node_id = contact.node_id
        if node_id == self._own_id:
            return None
        bucket = self._bucket(node_id)
        known = bucket.pop(node_id, None)
        if known is None and len(bucket) >= BUCKET_SIZE:
            return next(iter(bucket.values()))
        bucket[node_id] = contact if contact.addresses or known is None else known
        return None

    def remove(self, node_id: int) -> None:
        """It did not answer."""
        self._bucket(node_id).pop(node_id, None)

    def clear(self) -> None:
        for bucket in self._buckets:
            bucket.clear()

    def nearest(self, target: int, count: int) -> list[Contact]:
        """The nodes nearest to an id, nearest first."""
        return heapq.nsmallest(count, self, key=lambda contact: contact.node_id ^ target)

    def _bucket(self, node_id: int) -> dict[int, Contact]:
        """Nodes whose ids differ from ours first in the same bit; our own id has the last one."""
        return self._buckets[max(0, (node_id ^ self._own_id).bit_length() - 1)]
