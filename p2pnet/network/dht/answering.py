"""Answers what other nodes of the DHT ask: who is there, what is stored, and to store something.

Decides on data: the table of nodes, the stored values and the time. Reads no sockets, asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pnet.network.dht.call_limits import Caller
from p2pnet.network.dht.calls import FIND, PING, STORE
from p2pnet.network.dht.contact import Contact, id_of, peer_bytes
from p2pnet.network.dht.messages import (
    MAX_NEAREST,
    FindResponse,
    FindResult,
    PingResponse,
    Sender,
    Stored,
    StoreResponse,
    decode_find_request,
    decode_ping_request,
    decode_store_request,
    encode_find_response,
    encode_ping_response,
    encode_store_response,
)
from p2pnet.network.dht.routing_table import RoutingTable
from p2pnet.network.dht.serving import Answer
from p2pnet.network.dht.storage import Storage
from p2pnet.network.dht.values import pack_dictionary, pack_value, unpack_subkey, unpack_value
from p2pnet.network.interface import Clock, Validator
from p2pnet.rate_limit import RateLimit

STORES_PER_MINUTE_PER_PEER = 600
"""Values of one peer, each of which costs the check of a signature. A worker of 32 models announces 34 a minute where
all of them fall to one node, and a few times as many while its models change. A sixth may come at once."""

STORES_PER_MINUTE_PER_GROUP = 6_000
"""Of peers whose addresses belong together: a hundred workers behind one address. It is 2 % of one core."""


class Answering:
    """`heard` is told of each caller that is a node itself, under the id that is its own."""

    def __init__(
        self,
        table: RoutingTable,
        storage: Storage,
        is_acceptable: Validator,
        now_ms: Clock,
        own: Callable[[], Sender],
        heard: Callable[[Contact], None],
    ) -> None:
        self._table = table
        self._storage = storage
        self._is_acceptable = is_acceptable
        self._now_ms = now_ms
        self._own = own
        self._heard = heard
        self._stores_of_peers = RateLimit(STORES_PER_MINUTE_PER_PEER)
        self._stores_of_groups = RateLimit(STORES_PER_MINUTE_PER_GROUP)

    def methods(self) -> dict[str, Answer]:
        """By protocol, what answers it."""
        return {PING: self._ping, STORE: self._store, FIND: self._find}

    def _ping(self, caller: Caller, data: bytes) -> bytes:
        self._note(caller, decode_ping_request(data).sender)
        return encode_ping_response(PingResponse(self._own(), self._now_ms() / 1000))

    def _store(self, caller: Caller, data: bytes) -> bytes:
        request = decode_store_request(data)
        self._note(caller, request.sender)
        accepted = tuple(self._may_store(caller) and self._keep(caller, stored) for stored in request.values)
        return encode_store_response(StoreResponse(accepted, self._own()))

    def _find(self, caller: Caller, data: bytes) -> bytes:
        request = decode_find_request(data)
        self._note(caller, request.sender)
        results = tuple(self._found(key, caller, request.nodes_only) for key in request.keys)
        return encode_find_response(FindResponse(results, self._own()))

    def _may_store(self, caller: Caller) -> bool:
        """Whether one value more is looked at of this peer, and of its group."""
        now_s = self._now_ms() / 1000
        if self._stores_of_peers.is_spent(caller.peer_id, now_s) or self._stores_of_groups.is_spent(
            caller.group, now_s
        ):
            return False
        self._stores_of_peers.spend(caller.peer_id, now_s)
        self._stores_of_groups.spend(caller.group, now_s)
        return True

    def _keep(self, caller: Caller, stored: Stored) -> bool:
        """Store a value, if it may be: under the caller's own subkey alone, since peers announce themselves and nobody
        else."""
        subkey = unpack_subkey(stored.subkey)
        if subkey != caller.peer_id:
            return False
        value = unpack_value(stored.key, subkey, stored.value, stored.expires_s)
        if value is None or not self._is_acceptable(value):
            return False
        return self._storage.store(value, caller.group, self._now_ms())

    def _found(self, key: bytes, caller: Caller, nodes_only: bool) -> FindResult:
        now_ms = self._now_ms()
        values = () if nodes_only else self._storage.told(key, now_ms, caller.peer_id)
        latest_s = max((value.expires_ms for value in values), default=0) / 1000
        entries = ((value.subkey, pack_value(value.value), value.expires_ms / 1000) for value in values)
        dictionary = pack_dictionary(entries, latest_s) if values else b""
        own = id_of(peer_bytes(caller.peer_id))
        near = self._table.nearest(int.from_bytes(key, "big"), MAX_NEAREST + 1)
        nearest = tuple(contact for contact in near if contact.node_id != own)[:MAX_NEAREST]
        return FindResult(dictionary, nearest, latest_s, self._storage.count(key, now_ms))

    def _note(self, caller: Caller, sender: Sender) -> None:
        contact = sender.contact(peer_bytes(caller.peer_id))
        if contact is not None:
            self._heard(contact)
