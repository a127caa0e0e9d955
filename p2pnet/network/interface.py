"""The Network protocol: everything the rest of p2pnet may ask of libp2p and the DHT.

`hivemind/` keeps it over real sockets, `memory.py` inside one process. Knows nothing of records:
what may be stored is decided by the Validator that each network is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pnet.network.clock_watch import ClockState


class Stream(Protocol):
    """A byte stream to one authenticated peer. It has no frames: see `wire`."""

    @property
    def peer_id(self) -> str:
        """The peer at the other end, proven by its key."""

    is_idle: bool
    """Whether nothing is asked on it at this moment, as whoever holds it says: then its connection may be given up for
    a better one, and it is the first to go where there are too many."""

    async def read(self) -> bytes:
        """The bytes that have arrived, at least one; b"" once the stream has ended, cleanly or not."""

    async def write(self, data: bytes) -> None:
        """Send all of `data`; waits while the other end is slow. Raises PeerLost when the stream is gone."""

    def close(self) -> None:
        """End the stream in both directions after what was written. Idempotent, never raises."""


class BareStream(Stream, Protocol):
    """One of libp2p's own protocols, or of hivemind's: nothing of ours lies below its bytes."""

    @property
    def address(self) -> str:
        """The multiaddr that the other end's connection comes from."""

    def stop_reading(self) -> None:
        """What comes from now on stays unread."""

    async def wait_unread(self) -> None:
        """After `stop_reading`: wait until something has come, or the end."""


StreamHandler = Callable[[Stream], Awaitable[None]]


@dataclass(frozen=True)
class StoredValue:
    """One entry of the DHT as a storing or reading peer meets it: a validator's whole input.

    Validators never see a key's name, only its `key_id`.
    """

    key_id: bytes
    subkey: str
    value: bytes
    expires_ms: int


def key_id(key: str) -> bytes:
    """The 20 bytes under which the DHT files a key: the SHA-1 of its name."""
    return hashlib.sha1(key.encode()).digest()


Validator = Callable[[StoredValue], bool]

Clock = Callable[[], int]
"""Milliseconds since 1970, as in records. Passed in, so that tests and peers with wrong clocks can be told apart."""


@dataclass(frozen=True)
class Entry:
    """One value to store under a key and the storing peer's own subkey. `expires_ms` must grow from one to the next."""

    key: str
    value: bytes
    expires_ms: int


Findings = Mapping[str, Sequence[StoredValue]]
"""What the peers nearest to each key tell: valid values, in no order, older versions among them. Of many values under
one key it is a choice, by lot: see `Network.held`."""


@dataclass(frozen=True)
class Meeting:
    """How it went to meet a peer: how long it took to be connected and to be answered, and by how much its clock is
    ahead of ours; None when it did not say."""

    took_s: float
    clock_ahead_s: float | None = None


@dataclass(frozen=True)
class Relayed:
    """What a peer does for others as a relay now, and has done since it was started: bytes in both directions."""

    places: int = 0
    circuits: int = 0
    circuits_made: int = 0
    bytes: int = 0


NOTHING_RELAYED = Relayed()


class Network(Protocol):
    """One peer's view of libp2p and the DHT."""

    @property
    def peer_id(self) -> str: ...

    @property
    def neighbours(self) -> int:
        """How many peers of the DHT this one knows at this moment."""

    async def meet(self, address: str) -> Meeting:
        """Connect to the peer at a full multiaddr, and ask it from now on. Raises PeerUnreachable."""

    @property
    def open_streams(self) -> int:
        """How many streams there are now, opened here or by others, those that are just parting included."""

    async def addresses(self) -> tuple[str, ...]:
        """Full multiaddrs through which others can reach this peer at this moment, circuit addresses included."""

    @property
    def is_direct(self) -> bool:
        """Whether others can dial this peer, so that they can join through it."""

    def is_direct_to(self, peer_id: str) -> bool | None:
        """Whether there is a connection to a peer that no relay carries; None when there is no connection to it. A
        second old at most."""

    @property
    def relayed(self) -> Relayed:
        """What this peer relays for others."""

    async def record_addresses(self) -> tuple[str, ...]:
        """Those of them that a record names: IP addresses, few, and none that other peers of this network do not
        dial. None where all are too near: on a public network, a peer at home that has no relay."""

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Serve inbound streams of `protocol`, instead of whoever did so before. A stream is closed when its handler
        returns or raises."""

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        """Open a stream, dialling `addresses` when there is no connection yet. Raises PeerUnreachable."""

    def wants_new_stream(self, peer_id: str, addresses: Sequence[str]) -> bool:
        """Whether to open a stream even where there is an idle one: the peer is somewhere else by now, or a way to it
        without a relay is to be tried."""

    async def open_raw_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        """The same for one of libp2p's own protocols, which the peer's p2pd answers itself."""

    async def hang_up(self, peer_id: str) -> None:
        """Drop what connections to this peer there are, streams and all: the next stream dials anew.

        For a peer that does not answer. Its machine may be gone without a goodbye, and may even be back, while a
        connection to it passes for alive for another half a minute, and every new stream is opened into the void.
        Never raises.
        """

    @property
    def clock(self) -> ClockState:
        """How this machine's clock stands to those of other peers, as far as that is known."""

    async def store(self, entries: Sequence[Entry]) -> int:
        """Store entries on the peers nearest to their keys. Returns how many were accepted by at least one peer."""

    async def fetch(self, keys: Sequence[str]) -> Findings:
        """Ask the peers nearest to each key. Entries are checked one by one: a lying peer adds and hides nothing."""

    def held(self, key: str) -> int:
        """How many values lie under a key, as most of the peers nearest to it said when it was last read or stored
        under from here; 0 when it never was. `fetch` finds a choice of them where they are many."""

    async def wait_changed(self) -> None:
        """Wait until this peer's addresses, or its place in the network, have changed: time to announce again."""

    async def close(self) -> None:
        """Leave the network and free its sockets, processes and files."""
