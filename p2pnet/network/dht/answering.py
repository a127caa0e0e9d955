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
    MAX_RESPONSE_BYTES,
    FindResponse,
    FindResult,
    Malformed,
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

    def methods(self) -> dict[str, Answer]:
        """By protocol, what answers it."""
        return {PING: self._ping, STORE: self._store, FIND: self._find}

    def _ping(self, caller: Caller, data: bytes) -> bytes:
        self._note(caller, decode_ping_request(data).sender)
        return encode_ping_response(PingResponse(self._own(), self._now_ms() / 1000))

    def _store(self, caller: Caller, data: bytes) -> bytes:
        request = decode_store_request(data)
        self._note(caller, request.sender)
        accepted = tuple(self._keep(caller, stored) for stored in request.values)
        return encode_store_response(StoreResponse(accepted, self._own()))

    def _find(self, caller: Caller, data: bytes) -> bytes:
        request = decode_find_request(data)
        self._note(caller, request.sender)
        results: list[FindResult] = []
        for key in request.keys:
            results.append(self._found(key, caller, request.nodes_only))
            if sum(len(result.dictionary) for result in results) > MAX_RESPONSE_BYTES:
                raise Malformed("more than fits an answer: ask for fewer keys at once")
        return encode_find_response(FindResponse(tuple(results), self._own()))

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
        values = () if nodes_only else self._storage.get(key, self._now_ms())
        latest_s = max((value.expires_ms for value in values), default=0) / 1000
        entries = ((value.subkey, pack_value(value.value), value.expires_ms / 1000) for value in values)
        dictionary = pack_dictionary(entries, latest_s) if values else b""
        own = id_of(peer_bytes(caller.peer_id))
        near = self._table.nearest(int.from_bytes(key, "big"), MAX_NEAREST + 1)
        nearest = tuple(contact for contact in near if contact.node_id != own)[:MAX_NEAREST]
        return FindResult(dictionary, nearest, latest_s)

    def _note(self, caller: Caller, sender: Sender) -> None:
        contact = sender.contact(peer_bytes(caller.peer_id))
        if contact is not None:
            self._heard(contact)
