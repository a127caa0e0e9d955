"""Decides whether an address that a record names may be dialled now: nobody is dialled again and again since strangers
name him. Pure: times are seconds on one monotonic clock.

Each record costs nothing, so what is counted is the place that would be dialled, whoever's record names it.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from p2pnet.network.dial_addresses import Place, Scope, scope_of_host
from p2pnet.rate_limit import RateLimit

FREE_TRIES = 4
"""Dials of one place before it is left alone for a while: a relay that is met for the first time may be named by the
records of several workers, and one that starts may need a second try."""

FIRST_PAUSE_S = 5.0
MAX_PAUSE_S = 300.0
"""After those, a place is left alone for 5 s, then for twice as long each time."""

PROVEN_S = 600.0
"""Who was found at a place may be dialled there at any time for so long: a worker that has been lost is asked every two
seconds whether it is back. Later the address may be somebody else's."""

NETWORK_PER_MINUTE = 60.0
"""Dials into one public /24 or /48, of places where nobody was found yet; ten of them at once. A rack full of workers
that answer costs none."""

NEW_PEERS_PER_MINUTE = 1800.0
"""Dials of peers that never answered, in all; 300 at once: a gateway of thousands of workers starts. Routers at home
keep some thousand connections."""

MAX_PLACES = 4096
"""Remembered of each kind. At the rate above it takes two minutes to push one out."""

_TOTAL = "all"

K = TypeVar("K")
V = TypeVar("V")


@dataclass
class _Tries:
    count: int = 0
    until_s: float = 0.0


class DialBudget:
    """What one peer has dialled lately, and whom it found there. Bounded."""

    def __init__(self) -> None:
        self._tries: OrderedDict[tuple[str, int], _Tries] = OrderedDict()
        self._proven_s: OrderedDict[Place, float] = OrderedDict()
        self._peers: OrderedDict[str, None] = OrderedDict()
        self._networks = RateLimit(NETWORK_PER_MINUTE)
        self._new_peers = RateLimit(NEW_PEERS_PER_MINUTE)

    def admitted(self, peer_id: str, places: Iterable[Place], now_s: float) -> set[Place]:
        """Those of a peer's places that may be dialled now, which is taken for a try of each."""
        wanted = dict.fromkeys(places)
        proven = {place for place in wanted if self._is_proven(place, now_s)}
        own = {place for place in proven if place.peer_id == peer_id}
        due = self._due((place for place in wanted if place not in proven), now_s)
        if (due or proven != own) and self._is_one_too_many(peer_id, now_s):
            return own
        for network in {_network_of(place.host) for place in due}:  # once for a dial
            if network is not None:
                self._networks.spend(network, now_s)
        for host, port in {(place.host, place.port) for place in due}:
            self._note_try(host, port, now_s)
        return proven | due

    def note_connected(self, peer_id: str, now_s: float) -> None:
        """The peer has answered: it is no stranger any more, and its dial was not in vain."""
        if peer_id not in self._peers:
            self._new_peers.spend(_TOTAL, now_s, -1.0)
        self._peers[peer_id] = None
        _bound(self._peers, peer_id)

    def note_there(self, place: Place, now_s: float) -> None:
        """The peer was found at this place: it may be dialled there at any time, and its network gets its try back."""
        if not self._is_proven(place, now_s) and (network := _network_of(place.host)) is not None:
            self._networks.spend(network, now_s, -1.0)
        self._proven_s[place] = now_s
        _bound(self._proven_s, place)

    def _is_proven(self, place: Place, now_s: float) -> bool:
        return now_s - self._proven_s.get(place, float("-inf")) < PROVEN_S

    def _is_one_too_many(self, peer_id: str, now_s: float) -> bool:
        if peer_id in self._peers:
            return False
        if self._new_peers.is_spent(_TOTAL, now_s):
            return True
        self._new_peers.spend(_TOTAL, now_s)
        return False

    def _due(self, places: Iterable[Place], now_s: float) -> set[Place]:
        """Those whose turn it is."""
        return {place for place in places if self._may_try(place, now_s) and not self._is_flooded(place.host, now_s)}

    def _is_flooded(self, host: str, now_s: float) -> bool:
        network = _network_of(host)
        return network is not None and self._networks.is_spent(network, now_s)

    def _may_try(self, place: Place, now_s: float) -> bool:
        tries = self._tries.get((place.host, place.port))
        return tries is None or now_s >= tries.until_s

    def _note_try(self, host: str, port: int, now_s: float) -> None:
        tries = self._tries.setdefault((host, port), _Tries())
        if now_s > tries.until_s + MAX_PAUSE_S:
            tries.count = 0  # long ago
        tries.count += 1
        pauses = tries.count - FREE_TRIES
        tries.until_s = now_s + (0.0 if pauses < 0 else min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(pauses, 16)))
        _bound(self._tries, (host, port))


def _network_of(host: str) -> str | None:
    """The public /24 or /48 that a host is in. None for others: who floods his own network needs no help of ours."""
    if scope_of_host(host) is not Scope.PUBLIC:
        return None
    prefix = 24 if "." in host else 48
    return str(ipaddress.ip_network(f"{host}/{prefix}", strict=False))


def _bound(table: OrderedDict[K, V], newest: K) -> None:
    table.move_to_end(newest)
    if len(table) > MAX_PLACES:
        table.popitem(last=False)
