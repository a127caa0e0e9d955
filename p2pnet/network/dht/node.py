"""This peer's node of the DHT: looks keys up, stores entries near them, and knows other nodes.

Speaks hivemind's protocol, and takes part beside plain nodes of hivemind's; nothing of hivemind's reads a byte of what
others send. Knows nothing of p2pd, nor of records: it is handed what opens streams, and what is acceptable.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from p2pnet.network.dht.answering import Answering
from p2pnet.network.dht.asking import CALL_ERRORS, Asker, OpenStream, SilentNodes
from p2pnet.network.dht.calls import CallRefused
from p2pnet.network.dht.contact import Contact, id_of, packed_addresses, packed_id, peer_bytes
from p2pnet.network.dht.lookup import BEAM, Lookup, PeerReply
from p2pnet.network.dht.messages import MAX_KEYS, FindResult, PingResponse, Sender, Stored
from p2pnet.network.dht.routing_table import RoutingTable
from p2pnet.network.dht.serving import Answer
from p2pnet.network.dht.storage import MAX_TOLD_VALUES, Storage
from p2pnet.network.dht.values import pack_subkey, pack_value, values_in
from p2pnet.network.interface import Clock, Entry, Findings, StoredValue, Validator, key_id

logger = logging.getLogger(__name__)

REPLICAS = 5
"""Nodes that store a value. Half of those that a reader asks: see BEAM."""

MAX_REFUSED = 64
"""Entries of one answer that are not acceptable, before the rest of it is not looked at: each costs the check of a
signature, and an honest node stores none. Some may have expired on the way."""

MAX_PINGED = 4
"""Old nodes asked at the same time whether they are still there, since a newcomer wants their place."""

MAX_BELIEVED = 8 * MAX_TOLD_VALUES
"""Values looked at in one answer for one key: nodes of an earlier version tell up to 900."""

CHECKED_AT_ONCE = 8
"""Values that are checked in place: a signature takes 0.2 ms, and to ask a thread half as much."""

MAX_COUNTED = 1024
"""Keys of which it is remembered how many values lie there."""


class DhtNode:
    """One node, for as long as this peer lives: what it knows and stores outlives any p2pd."""

    def __init__(
        self,
        peer_id: str,
        is_client: bool,
        is_acceptable: Validator,
        now_ms: Clock,
        open_stream: OpenStream,
        own_addresses: Callable[[], tuple[str, ...]],
        timeout_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer_id = peer_id
        self.is_client = is_client
        """Whether it only asks for now: keys must not be stored, nor others join, where nobody can ask."""
        self._is_acceptable = is_acceptable
        self._now_ms = now_ms
        self._own_addresses = own_addresses
        self.own_id = id_of(peer_bytes(peer_id))
        self._table = RoutingTable(self.own_id)
        self._storage = Storage()
        self._silent = SilentNodes(now_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pinged: set[int] = set()
        self._held: OrderedDict[str, int] = OrderedDict()
        self._asker = Asker(open_stream, self._sender, timeout_s, self._in_background)
        self._answering = Answering(self._table, self._storage, is_acceptable, now_ms, self._sender, self._note)

    def methods(self) -> Mapping[str, Answer]:
        """By protocol, what this node answers: nothing where it only asks."""
        return {} if self.is_client else self._answering.methods()

    @property
    def neighbours(self) -> int:
        """How many nodes are known at this moment."""
        return len(self._table)

    def contacts(self) -> list[Contact]:
        """The nodes that are known, with where they say that they can be dialled."""
        return list(self._table)

    def neighbour_ids(self) -> set[str]:
        """Their peer ids."""
        return {contact.peer_id for contact in self._table}

    def forget_all(self) -> None:
        """Know nobody any more: no connection has survived."""
        self._table.clear()

    def doubt_silences(self) -> None:
        """Whoever did not answer was perhaps not asked: it was this machine that was not there."""
        self._silent.clear()

    async def stop(self) -> None:
        """End what runs in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ping(self, peer_id: str) -> PingResponse:
        """Ask a peer who it is, and what its clock says. Raises one of CALL_ERRORS."""
        return await self._asker.ping(Contact(peer_bytes(peer_id)))

    def met(self, peer_id: str, sender: Sender) -> None:
        """This peer has answered, and its clock agrees: know it, if it is a node."""
        peer = peer_bytes(peer_id)
        self._silent.note_answered(peer)
        self._hear(peer, sender)

    async def look_around(self) -> None:
        """Meet the nodes nearest to this one."""
        await self._nodes_near([self.own_id])

    async def fetch(self, keys: Sequence[str]) -> Findings:
        """What the nodes nearest to each key hold, this one included: every acceptable value, once."""
        ids = {int.from_bytes(key_id(key), "big"): key for key in keys}
        lookup: Lookup[Contact, StoredValue] = Lookup(list(ids), self._known(ids), self.own_id)
        await lookup.run(self._ask_for_values)
        self._note_held(ids.items(), lookup)
        return {
            key: list(dict.fromkeys((*self._storage.get(key_id(key), self._now_ms()), *lookup.values(id_))))
            for id_, key in ids.items()
        }

    def held(self, key: str) -> int:
        """How many values the nodes nearest to a key had when it was last read, or stored under, from here."""
        return self._held.get(key, 0)

    def _note_held(self, ids: Iterable[tuple[int, str]], lookup: Lookup[Contact, StoredValue]) -> None:
        for id_, key in ids:
            self._held[key] = max(lookup.held(id_, REPLICAS), self._held_here(id_))
            self._held.move_to_end(key)
        while len(self._held) > MAX_COUNTED:
            self._held.popitem(last=False)

    def _held_here(self, id_: int) -> int:
        return self._storage.count(packed_id(id_), self._now_ms())

    async def store(self, entries: Sequence[Entry]) -> int:
        """Store entries on the nodes nearest to their keys. Returns how many were accepted by at least one."""
        ids = [int.from_bytes(key_id(entry.key), "big") for entry in entries]
        lookup = await self._nodes_near(list(dict.fromkeys(ids)))
        self._note_held(zip(ids, (entry.key for entry in entries), strict=True), lookup)
        wanted: dict[Contact, list[int]] = {}
        accepted: set[int] = set()
        for index, id_ in enumerate(ids):
            nearest = lookup.nearest(id_, REPLICAS)
            if not self.is_client and self._is_among(nearest, id_):
                nearest = nearest[: REPLICAS - 1]
                if self._store_here(entries[index]):
                    accepted.add(index)
            for contact in nearest:
                wanted.setdefault(contact, []).append(index)
        found = await asyncio.gather(*(self._store_at(each, wanted[each], entries) for each in wanted))
        return len(accepted.union(*found))

    def _is_among(self, nearest: Sequence[Contact], id_: int) -> bool:
        """Whether this node is one of the REPLICAS nearest to a key."""
        own = self.own_id ^ id_
        return len(nearest) < REPLICAS or own < nearest[-1].node_id ^ id_

    def _store_here(self, entry: Entry) -> bool:
        stored = StoredValue(key_id(entry.key), self._peer_id, entry.value, entry.expires_ms)
        return self._is_acceptable(stored) and self._storage.store(stored, "here", self._now_ms())

    async def _store_at(self, contact: Contact, indexes: Sequence[int], entries: Sequence[Entry]) -> set[int]:
        """Which of these entries one node has accepted."""
        subkey = pack_subkey(self._peer_id)
        accepted: set[int] = set()
        for begin in range(0, len(indexes), MAX_KEYS):
            batch = indexes[begin : begin + MAX_KEYS]
            values = [
                Stored(key_id(entry.key), subkey, pack_value(entry.value), entry.expires_ms / 1000)
                for entry in (entries[index] for index in batch)
            ]
            try:
                response = await self._asker.store(contact, values)
            except CALL_ERRORS as error:
                self._note_silent(contact, error)
                break
            self._note_answered(contact, response.sender)
            accepted.update(index for index, is_stored in zip(batch, response.accepted, strict=False) if is_stored)
        return accepted

    async def _nodes_near(self, ids: Sequence[int]) -> Lookup[Contact, StoredValue]:
        """A lookup that has found the nodes nearest to each id."""
        lookup: Lookup[Contact, StoredValue] = Lookup(ids, self._known(ids), self.own_id)
        await lookup.run(self._ask_for_nodes)
        return lookup

    def _known(self, ids: Iterable[int]) -> dict[int, Contact]:
        return {contact.node_id: contact for id_ in ids for contact in self._table.nearest(id_, BEAM)}

    async def _ask_for_values(self, contact: Contact, ids: Sequence[int]) -> PeerReply[Contact, StoredValue] | None:
        if contact.peer in self._silent:
            return None
        try:
            found = await self._find(contact, ids)
        except CALL_ERRORS as error:
            self._note_silent(contact, error)
            return None
        values = {
            id_: await acceptable_values(packed_id(id_), result.dictionary, self._is_acceptable)
            for id_, result in found.items()
        }
        nearest = {id_: _by_id(result) for id_, result in found.items()}
        return PeerReply(values, nearest, {id_: _held_in(result, len(values[id_])) for id_, result in found.items()})

    async def _find(self, contact: Contact, ids: Sequence[int]) -> dict[int, FindResult]:
        """Ask one node for some keys, in one question if all that it holds of them fits an answer, and else in more."""
        if len(ids) <= MAX_KEYS:
            try:
                response = await self._asker.find(contact, [packed_id(id_) for id_ in ids])
            except CallRefused:
                if len(ids) == 1:
                    raise
            else:
                self._note_answered(contact, response.sender)
                return dict(zip(ids, response.results, strict=True))
        half = (len(ids) + 1) // 2
        return await self._find(contact, ids[:half]) | await self._find(contact, ids[half:])

    async def _ask_for_nodes(self, contact: Contact, ids: Sequence[int]) -> PeerReply[Contact, StoredValue] | None:
        if contact.peer in self._silent:
            return None
        nearest: dict[int, dict[int, Contact]] = {}
        held: dict[int, int] = {}
        for begin in range(0, len(ids), MAX_KEYS):
            batch = ids[begin : begin + MAX_KEYS]
            try:
                response = await self._asker.find(contact, [packed_id(id_) for id_ in batch], nodes_only=True)
            except CALL_ERRORS as error:
                self._note_silent(contact, error)
                return None
            self._note_answered(contact, response.sender)
            for id_, result in zip(batch, response.results, strict=True):
                nearest[id_] = _by_id(result)
                if result.held is not None:
                    held[id_] = result.held
        return PeerReply(nearest=nearest, held=held)

    def _sender(self) -> Sender:
        """What this node says of itself; where it only asks, nothing, so that others do not count on it."""
        return Sender() if self.is_client else Sender(self.own_id, packed_addresses(self._own_addresses()))

    def _note_answered(self, contact: Contact, sender: Sender) -> None:
        self._silent.note_answered(contact.peer)
        self._hear(contact.peer, sender)

    def _hear(self, peer: bytes, sender: Sender) -> None:
        contact = sender.contact(peer)
        if contact is not None:
            self._note(contact)

    def _note_silent(self, contact: Contact, error: BaseException) -> None:
        """One that does not answer is left alone for a while."""
        logger.debug("%s did not answer: %s", contact.peer_id, error)
        self._silent.note_silent(contact.peer)
        self._table.remove(contact.node_id)

    def _note(self, contact: Contact) -> None:
        """Know a node. Where there is no room for it, one that was silent for longest is asked whether it is there: a
        place is lost by being gone, and not by others' coming (Kademlia, section 2.2)."""
        oldest = self._table.note(contact)
        if oldest is not None and oldest.node_id not in self._pinged and len(self._pinged) < MAX_PINGED:
            self._pinged.add(oldest.node_id)
            self._in_background(self._test(oldest, contact))

    async def _test(self, oldest: Contact, newcomer: Contact) -> None:
        try:
            response = await self._asker.ping(oldest)
            self._note_answered(oldest, response.sender)
        except CALL_ERRORS as error:
            self._note_silent(oldest, error)
            self._table.note(newcomer)
        finally:
            self._pinged.discard(oldest.node_id)

    def _in_background(self, work: Awaitable[None]) -> None:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _by_id(result: FindResult) -> dict[int, Contact]:
    return {contact.node_id: contact for contact in result.nearest}


def _held_in(result: FindResult, told: int) -> int:
    """Earlier versions do not say; they tell all that they have."""
    return told if result.held is None else result.held


async def acceptable_values(key: bytes, dictionary: bytes, is_acceptable: Validator) -> list[StoredValue]:
    """The entries of one answer that may be believed, each judged by itself. Of too many it falls to lot which are
    looked at. More than a few are checked in a thread, beside everything else."""
    found = values_in(key, dictionary)
    if len(found) > MAX_BELIEVED:
        found = random.sample(found, MAX_BELIEVED)
    if len(found) <= CHECKED_AT_ONCE:
        return _acceptable(found, is_acceptable)
    return await asyncio.to_thread(_acceptable, found, is_acceptable)


def _acceptable(found: Sequence[StoredValue], is_acceptable: Validator) -> list[StoredValue]:
    values: list[StoredValue] = []
    refused = 0
    for value in found:
        if is_acceptable(value):
            values.append(value)
        elif (refused := refused + 1) > MAX_REFUSED:
            break
    return values
