"""Holds every default of the peer library, with its unit and its reason. Frozen data: nothing here acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

AGENT = "p2pnet/0.1.0"

DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/0", "/ip6/::/udp/0/quic-v1")
"""TCP reaches everywhere; QUIC is what hole punching through NATs needs. A machine without IPv6 does without: p2pd
passes over what it cannot bind, as long as no port was asked for."""

LOOPBACK_LISTEN = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")


@dataclass(frozen=True)
class RelayLimits:
    """What a bootstrap gives to peers behind NAT. libp2p's defaults cut a circuit at 128 KiB and two minutes."""

    data_bytes: int = 4 << 30
    """Per direction and circuit. A token is under 100 bytes on the wire, so this is days of answers."""
    duration_s: int = 6 * 3600
    """Of a circuit. Whoever still needs it makes another one."""
    max_circuits: int = 1024
    """At the same time: one for each pair of a gateway and a worker. An idle one costs some 150 kB. With more, those of
    the peers and addresses that have most end."""
    max_circuits_from_an_address: int = 256
    """An IPv4 /24 or an IPv6 /48: a gateway with as many workers behind NAT."""
    max_circuits_to_a_peer: int = 256
    """Each gateway that uses it holds one."""
    circuits_per_minute: int = 1200
    """Asked for from one address, and a sixth of that at once: a gateway that starts connects to all workers. Each
    costs the peer that is asked for a stream."""
    bytes_per_s: int = 64 << 20
    """Of all circuits together, both ways: half of what a line of a gigabit carries in and out again."""
    bytes_per_s_of_an_address: int = 16 << 20
    """Of all circuits that were asked for from there: thousands of answers at once."""


VOLUNTEERS_RELAY = RelayLimits(
    data_bytes=1 << 30,
    duration_s=2 * 3600,
    max_circuits=128,
    max_circuits_from_an_address=32,
    max_circuits_to_a_peer=64,
    circuits_per_minute=240,
    bytes_per_s=4 << 20,
    bytes_per_s_of_an_address=1 << 20,
)
"""What a worker that others can dial gives: enough for a day of answers, and not for films."""


@dataclass(frozen=True)
class NetworkConfig:
    """How one peer takes part in libp2p and the DHT."""

    identity_file: Path
    listen: tuple[str, ...] = DEFAULT_LISTEN
    announce: tuple[str, ...] = ()
    """Addresses others should dial instead of the ones we see (a forwarded port, a DNS name)."""
    initial_peers: tuple[str, ...] = ()
    address_book: Path | None = None
    """Where addresses of other peers are kept, for a start without initial peers that answer. None: nowhere."""
    is_bootstrap: bool = False
    """Public, serves as a relay."""
    is_behind_nat: bool | None = None
    """Whether nobody can dial it: then it has places at relays, and stores no one else's keys. None: it finds out."""
    relays_for_others: bool = True
    """Whether peers behind NAT may be reached through it, where others can dial it itself."""
    is_client: bool = False
    """Takes part only to read: stores nothing for others (a gateway on a laptop, a CLI command)."""
    asks_router: bool | None = None
    """Whether to ask the router for ports, by UPnP. None: unless it is a client, which nobody needs to dial."""
    relay: RelayLimits = field(default_factory=RelayLimits)
    start_timeout_s: float = 20.0
    """p2pd answers within 0.2 s; a loaded machine of two cores has been seen to take 5."""
    join_timeout_s: float = 10.0
    """To connect to one of the initial peers: two round trips around the world, over a relay, after a lost packet."""
    open_timeout_s: float = 10.0
    """To open a stream to a peer: as above."""
    max_connections: int = 1024
    """With more, those are closed of whom most come from one address. At some 40 kB each in p2pd they cost 40 MB."""
    max_p2pd_bytes: int = 512 << 20
    """How far p2pd's memory may grow before it is started again. A relay with a thousand circuits, each with 100 kB on
    its way, has 210 MB; 2,000 streams and as many connections add 160 MB."""
    p2pd_answer_s: float = 10.0
    """What p2pd says of itself, which takes it milliseconds, and a second or two under a flood. One that lets several
    such times pass hangs."""
    rpc_timeout_s: float = 3.0
    """One DHT question. A peer that takes longer is passed over; others hold the same keys."""

    @property
    def is_known_to_be_reached(self) -> bool:
        """Whether its user says that others can dial it."""
        return self.is_bootstrap or bool(self.announce) or self.is_behind_nat is False


@dataclass(frozen=True)
class DirectoryConfig:
    """How long announcements live. Nothing is republished by the DHT: a peer announces again at a third of a lifetime,
    so that two announcements may be lost."""

    capability_lifetime_s: float = 180.0
    stage_lifetime_s: float = 30.0
    """What a stage announces says how busy it is, too, and drivers miss it sooner than gateways miss a worker."""
    max_record_bytes: int | None = None
    """Of a capability record; what does not fit is left out. None: as many as any record may have."""

    @property
    def capability_interval_s(self) -> float:
        return self.capability_lifetime_s / 3

    @property
    def stage_interval_s(self) -> float:
        return self.stage_lifetime_s / 3


@dataclass(frozen=True)
class ExchangeTimeouts:
    """What one exchange with a worker may take before it counts as lost."""

    first_byte_s: float = 3.0
    """Worker: from the opened stream to the first byte of the request. A client opens a stream when it has something to
    send, so this is a round trip on a bad line."""
    request_s: float = 30.0
    """Worker: from the opened stream to the whole request. A slow uplink sends 1 MiB in 10 s."""
    stall_s: float = 60.0
    """Worker: how long a client may read nothing at all before its slot is given to another."""
    idle_s: float = 45.0
    """Worker: how long it waits for another request on a stream that is kept. A client gives one up after two thirds of
    that, so that hardly any request meets a stream that is just ending."""
    accept_s: float = 30.0
    """Client: from the sent request to Accepted or Failed. It covers tokenizing a long prompt, no waiting."""
    silence_s: float = 300.0
    """Client: between two events. It covers the wait for a slot and a long prompt's prefill on a laptop."""


@dataclass(frozen=True)
class GuardConfig:
    """What a worker gives to one gateway. Gateways are known by their peer ids, which are free to make: limits keep a
    careless one in bounds, against an attacker there is the list of those that are allowed."""

    allowed_gateways: frozenset[str] = frozenset()
    """Peer ids. With none, all are served that are not blocked."""
    blocked_gateways: frozenset[str] = frozenset()
    max_concurrency_per_gateway: int | None = None
    """Requests at the same time, over all models. None: as many as there are slots, since one gateway may well be the
    only one there is; the quota sees to it when there are more."""
    max_requests_per_minute: int | None = None
    """None: a slot costs the same whether one long request has it or many short ones, and slots are shared out."""
    max_request_bytes: int | None = None
    """None is what the protocol allows."""
    max_request_s: float | None = 3600.0
    """After this the rest is left to another worker, or to another turn here. Nobody waits an hour for an answer; but a
    client that reads a byte a minute would keep its slot for ever."""
    has_quota: bool = True
    """Whether several gateways get a fair share of the slots each."""


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker gives."""

    max_concurrency: int = 8
    """Requests of one model taken at the same time; one more is answered BUSY at once."""
    drain_s: float = 30.0
    """How long running requests may go on after the worker was asked to stop."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    name: str = ""
    """What its owner calls it, for people who look at the network."""


@dataclass(frozen=True)
class ModelConfig:
    """How the models of a worker are loaded and run."""

    served_names: Mapping[str, str] = field(default_factory=dict)
    """What models are called on the network, by what they are called here. Others keep their names."""
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    kv_bytes: int | None = None
    """For keys and values of all models together; None is what is useful, at most half of a CPU's free memory."""
    idle_unload_s: float | None = None
    """How long each stays in memory while nobody asks for it; None is for ever."""
    layers_bytes: int | None = None
    """For layers that the network chooses, with their keys and values."""
    context_tokens: int | None = None
    """How long a prompt and its answer may be together; None is as long as the model allows."""
