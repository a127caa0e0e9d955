"""Draws up the mesh as this gateway sees it: who is there, and who reaches whom through whom. A function of records.

Other gateways are not seen: they announce nothing. Knows nothing of addresses beyond whose they are: no IP address
leaves here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from p2pnet.network.multiaddrs import are_all_relayed, peer_id_of, relay_of
from p2pnet.records import CapabilityRecord

NodeKind = Literal["gateway", "bootstrap", "worker"]
Way = Literal["direct", "punched", "relayed"]
"""How the gateway reaches a worker: by dialling it, by dialling one another at the same time, or through a relay."""

LinkKind = Way | Literal["joined", "reserved"]
"""Or `joined`: the gateway joined through it; `reserved`: the worker is reached through this relay."""

IsDirect = Callable[[str], bool | None]
"""Whether there is a connection to a peer that no relay carries; None without any connection."""


@dataclass(frozen=True)
class Node:
    id: str
    kind: NodeKind
    name: str = ""


@dataclass(frozen=True)
class Link:
    from_: str
    to: str
    kind: LinkKind


@dataclass(frozen=True)
class Mesh:
    nodes: Sequence[Node]
    links: Sequence[Link]


def mesh_of(
    gateway_id: str, initial_peers: Iterable[str], records: Sequence[CapabilityRecord], is_direct: IsDirect
) -> Mesh:
    """`initial_peers` are the addresses that the gateway joined through, `records` the workers to be shown."""
    workers = {record.peer_id for record in records}
    joined = dict.fromkeys(peer for address in initial_peers if (peer := peer_id_of(address)) is not None)
    relays = {record.peer_id: relays_of(record) for record in records}
    known = dict.fromkeys((*joined, *(relay for some in relays.values() for relay in some)))
    nodes = [
        Node(gateway_id, "gateway"),
        *(Node(peer, "bootstrap") for peer in known if peer not in workers),
        *(Node(record.peer_id, "worker", record.name) for record in records),
    ]
    links = [Link(gateway_id, peer, "joined") for peer in joined]
    for record in records:
        links.append(Link(gateway_id, record.peer_id, way_to(record, is_direct)))
        links += (Link(record.peer_id, relay, "reserved") for relay in relays[record.peer_id])
    return Mesh(nodes, links)


def way_to(record: CapabilityRecord, is_direct: IsDirect) -> Way:
    """As it is connected now; as far as it can be foreseen while it is not."""
    names_relays_alone, direct = are_all_relayed(record.addresses), is_direct(record.peer_id)
    if direct is None:
        return "relayed" if names_relays_alone else "direct"
    if not direct:
        return "relayed"
    return "punched" if names_relays_alone else "direct"


def relays_of(record: CapabilityRecord) -> tuple[str, ...]:
    """The peers that relay for it, each once."""
    return _relays(record.addresses)


@lru_cache(maxsize=1024)
def _relays(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Kept, since reading an address costs half a millisecond and records stay the same from one look to the next."""
    return tuple(dict.fromkeys(relay for address in addresses if (relay := relay_of(address)) is not None))
