"""Knows which peers this one is connected to, and dials the others, where and as often as they may be dialled.

Knows neither p2pd nor streams: it is handed what dials and what hangs up.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from p2pnet.network.dial_addresses import Place, Scope, may_dial, place_of
from p2pnet.network.dial_budget import DialBudget
from p2pnet.network.multiaddrs import is_relayed, peer_id_of

MAX_KNOWN_PEERS = 1024
"""How many peers' addresses are remembered for dialling, the oldest leaving first."""

Dial = Callable[[str, Sequence[str]], Awaitable[None]]
"""Connect to a peer at these full multiaddrs, or wherever it is found where there are none. At once when connected."""

_FOUND = re.compile(r"\[(/[^\]\s]+)\][^\n]* peer id mismatch: expected \w+, but remote key matches (\w+)")
"""In what p2pd says of a dial that failed: the address, and the peer whose key was found there."""

HangUp = Callable[[str], Awaitable[None]]
"""Close all connections to a peer. Never raises."""

Knock = Callable[[Sequence[str]], Awaitable[Sequence[str]]]
"""Those of a peer's full multiaddrs where somebody answers; once there is one, the others are not waited for. Never
raises."""


async def unheard(addresses: Sequence[str]) -> Sequence[str]:
    """Where nobody can knock, somebody may be there."""
    return addresses


class NotDialled(OSError):
    """Nothing was tried: a stranger names nothing that may be dialled, or what was dialled too often."""


class Connections:
    """What one peer believes of its connections. It may be wrong: one that has gone is noticed by using it.

    `named` are full multiaddrs that its user has named, which are dialled whatever they are and as often as it takes.
    Others are claims of strangers: they are kept as far as they are within `scope`, and the budget says when.
    """

    def __init__(
        self,
        dial: Dial,
        hang_up: HangUp,
        named: Iterable[str] = (),
        scope: Scope = Scope.LOOPBACK,
        now_s: Callable[[], float] = time.monotonic,
        knock: Knock = unheard,
    ) -> None:
        self._dial = dial
        self._hang_up = hang_up
        self._knock = knock
        self._scope = scope
        self._now_s = now_s
        self._budget = DialBudget()
        self._named: set[str] = set()
        self._known: dict[str, tuple[str, ...]] = {}
        self._connected: set[str] = set()
        self._live: frozenset[str] = frozenset()
        self._live_directly: frozenset[str] = frozenset()
        self._missed: dict[str, None] = {}
        """Peers that were not there when they were last wanted: who dials fails again for a while, once he has failed.
        So it is knocked first."""
        self._moved: dict[str, None] = {}
        self._dialling: dict[tuple[str, tuple[str, ...]], asyncio.Task[None]] = {}
        self._hanging_up: dict[str, asyncio.Task[None]] = {}
        self.name(named)

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._connected

    def knows(self, peer_id: str) -> bool:
        """Whether it is known where to dial it."""
        return bool(self._known.get(peer_id))

    def newest_addresses(self, count: int) -> list[str]:
        """One of each of those that were learnt last."""
        return [addresses[0] for addresses in self._known.values() if addresses][-count:]

    def name(self, addresses: Iterable[str]) -> None:
        """Learn full multiaddrs that the user has named."""
        named = tuple(addresses)
        self._named.update(named)
        for address in named:
            if (place := place_of(address)) is not None:
                self._budget.note_there(place, self._now_s())
        self.learn(named)

    def learn(self, addresses: Iterable[str]) -> None:
        """Full multiaddrs, which replace what was known of their peers. Others are passed over, and so is what may not
        be dialled: of a peer that names nothing else, nothing is known."""
        by_peer: defaultdict[str, list[str]] = defaultdict(list)
        for address in addresses:
            if (peer_id := peer_id_of(address)) is not None:
                by_peer[peer_id] += self._fitting([address])
        for peer_id, known in by_peer.items():
            self._known.pop(peer_id, None)
            self._known[peer_id] = tuple(known)
        while len(self._known) > MAX_KNOWN_PEERS:
            del self._known[next(iter(self._known))]

    def is_direct(self, peer_id: str) -> bool | None:
        """Whether there was a connection to a peer without a relay when they were looked at last; None when there was
        none at all."""
        return peer_id in self._live_directly if peer_id in self._live else None

    def has_moved(self, peer_id: str, addresses: Iterable[str]) -> bool:
        """Whether none of its addresses is one where it was known to be: it has been started anew, or its machine is in
        another network. A connection to where it was may pass for alive for half a minute more. It has moved until it
        is hung up on, or dialled anew."""
        known, now = self._known.get(peer_id), set(self._fitting(addresses))
        if known and now and now.isdisjoint(known):
            self._moved[peer_id] = None
            if len(self._moved) > MAX_KNOWN_PEERS:
                del self._moved[next(iter(self._moved))]
        return peer_id in self._moved

    def note_live(self, connected: Iterable[tuple[str, str]]) -> None:
        """The peers that there are connections to, with their full multiaddrs: there they are, who may be dialled there
        again at any time."""
        connected = list(connected)
        self._live = frozenset(peer_id for peer_id, _ in connected)
        self._live_directly = frozenset(peer_id for peer_id, address in connected if not is_relayed(address))
        for _, address in connected:
            if not is_relayed(address) and (place := place_of(address)) is not None:
                self._budget.note_there(place, self._now_s())

    async def connect(self, peer_id: str) -> None:
        """Dial a peer, unless it is connected. Who wants it at the same time waits for the same dial. Raises what
        dialling raises, or NotDialled."""
        while (leaving := self._hanging_up.get(peer_id)) is not None:
            await asyncio.wait({leaving})  # dialling now would find the old connection good enough
        if peer_id in self._connected:
            return
        wanted = (peer_id, self._known.get(peer_id, ()))  # elsewhere it is another dial
        if wanted not in self._dialling:
            self._dialling[wanted] = asyncio.ensure_future(self._dial_now(peer_id))
            self._dialling[wanted].add_done_callback(lambda _: self._note_dialled(wanted))
        await asyncio.shield(self._dialling[wanted])

    async def hang_up(self, peer_id: str, for_now: bool = False) -> None:
        """Close all connections to a peer; whoever wants it meanwhile dials it after that. `for_now`: it is known to be
        there."""
        self._connected.discard(peer_id)
        self._moved.pop(peer_id, None)
        if peer_id not in self._hanging_up:
            task = asyncio.ensure_future(self._hang_up(peer_id))
            self._hanging_up[peer_id] = task
            task.add_done_callback(lambda _: self._hanging_up.pop(peer_id))
            if not for_now:
                self._note_missed(peer_id)
        await asyncio.wait({self._hanging_up[peer_id]})

    def _fitting(self, addresses: Iterable[str]) -> list[str]:
        return [address for address in addresses if address in self._named or may_dial(address, self._scope)]

    async def _dial_now(self, peer_id: str) -> None:
        addresses = self._due(peer_id)
        if peer_id in self._missed and addresses and not (addresses := tuple(await self._knock(addresses))):
            raise NotDialled("nobody answers where it was")
        try:
            await self._dial(peer_id, addresses)
        except Exception as error:  # whatever the dialler raises goes on to who wanted the peer
            self._note_missed(peer_id)
            self._note_found(addresses, str(error))
            raise
        self._missed.pop(peer_id, None)
        self._moved.pop(peer_id, None)
        self._budget.note_connected(peer_id, self._now_s())
        if len(self._connected) >= MAX_KNOWN_PEERS:
            self._connected.clear()  # it only saves round trips
        self._connected.add(peer_id)

    def _note_dialled(self, wanted: tuple[str, tuple[str, ...]]) -> None:
        dialling = self._dialling.pop(wanted)
        if not dialling.cancelled():
            dialling.exception()  # who waited for it may have gone

    def _due(self, peer_id: str) -> tuple[str, ...]:
        """Where to dial a peer now. Raises NotDialled. One of which nothing was ever claimed is left to the dialler."""
        known = self._known.get(peer_id)
        if known is None or (not known and peer_id in self._live):
            return ()
        if not known:
            raise NotDialled("it names no address that may be dialled from here")
        places: dict[str, Place] = {
            address: place for address in known if address not in self._named and (place := place_of(address))
        }
        admitted = self._budget.admitted(peer_id, places.values(), self._now_s())
        due = tuple(address for address in known if address in self._named or places.get(address) in admitted)
        if not due:
            raise NotDialled("its addresses were dialled too often in vain")
        return due

    def _note_found(self, addresses: Sequence[str], said: str) -> None:
        """Whoever was found in another's place is there indeed: strangers who name his address must not keep us from
        him. What is said has a line for each address. Some of a line may be the words of a stranger, who may write
        lines of his own into it: an address of which there are two says nothing."""
        for found, peer_id in _FOUND.findall(said):
            for address in addresses:
                place = place_of(address)
                if place is not None and address.startswith(f"{found}/p2p/") and said.count(f"[{found}]") == 1:
                    self._budget.note_there(Place(place.host, place.port, peer_id), self._now_s())

    def forget(self, peer_id: str) -> None:
        """It could not be used: the next one who wants it dials."""
        self._connected.discard(peer_id)
        self._note_missed(peer_id)

    def _note_missed(self, peer_id: str) -> None:
        self._missed[peer_id] = None
        if len(self._missed) > MAX_KNOWN_PEERS:
            del self._missed[next(iter(self._missed))]

    def forget_all(self) -> None:
        self._connected.clear()
