"""Network namespaces for NAT tests: one public segment, and routers that masquerade and drop what comes from outside.

The public addresses are routable-looking (libp2p announces no relay at a private one) and live inside the namespaces
only: the segment is a bridge in a namespace of its own, with no way to the machine's real network.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

PUBLIC_PREFIX = "11.0.0"
PUBLIC_PREFIX6 = "2600:11:"
_numbers = itertools.count(1)


class Nat(Enum):
    """What stands between a machine and the public segment."""

    CONE = "cone"
    """A router that keeps the port where it is free, for whoever is asked from it."""
    SYMMETRIC = "symmetric"
    """One that takes another port for each that is asked: nobody can be told which it will be."""
    DOUBLE = "double"
    """A router behind a router, as with a provider that shares addresses."""
    NO_UDP = "no_udp"
    ONLY_443 = "only_443"
    """Nothing but TCP to port 443 goes out, as in offices and hotels."""


@dataclass(frozen=True)
class Host:
    """One namespace: a machine with an address."""

    namespace: str
    address: str
    address6: str = ""
    """Its IPv6 address, if it was given one: a public one, as all have it."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command so that it runs on this machine."""
        return ("ip", "netns", "exec", self.namespace)

    def run(self, *command: str) -> str:
        """Run a command there; returns what it printed."""
        return _run(*self.prefix, *command)

    def reboot(self, takes_other_ports: bool = False) -> None:
        """As a router: it forgets what was asked for through it, for its address goes for a moment. It may give another
        port than before to each connection that it sees anew."""
        if takes_other_ports:
            self.run("iptables", "-t", "nat", "-F", "POSTROUTING")
            _map_ports(self, "--random")
        self.run("ip", "address", "del", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")

    def has_no_ip4(self) -> None:
        """From now on it has IPv6 alone."""
        self.run("ip", "-4", "address", "flush", "dev", "eth0")

    def cut(self) -> None:
        """Its line is gone."""
        self.run("ip", "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Its line is back."""
        self.run("ip", "link", "set", "eth0", "up")

    def received_bytes(self) -> int:
        """What has arrived at its network card so far."""
        return int(self.run("cat", "/sys/class/net/eth0/statistics/rx_bytes"))


@dataclass
class Topology:
    """Machines on one public segment, some of them behind NAT."""

    _segment: str
    _names: Iterator[str]
    _public: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _private: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def public_host(self) -> Host:
        """A machine with a public address."""
        host = Host(self._namespace(), f"{PUBLIC_PREFIX}.{next(self._public)}")
        self._plug(host, "eth0")
        return host

    def host(self, nat: Nat | None) -> Host:
        """A machine behind this; None is with a public address."""
        return self.public_host() if nat is None else self.host_behind_nat(nat)[0]

    def host_behind_nat(self, nat: Nat = Nat.CONE) -> tuple[Host, Host]:
        """A machine with a private address, and its router on the segment: it masquerades, and lets nothing in that was
        not asked for.

        A router forgets what was asked for after conntrack's usual time.
        """
        router = Host(self._namespace(), f"{PUBLIC_PREFIX}.{next(self._public)}")
        self._plug(router, "eth0")
        _masquerade(router, nat)
        host = self._behind(router)
        if nat is Nat.DOUBLE:
            _masquerade(host, nat)
            host = self._behind(host)
        return host, router

    def with_ip6(self, host: Host, router: Host | None = None, is_open: bool = False) -> Host:
        """The machine with a public IPv6 address, too: on the segment, or behind a router that answers for it there and
        lets in what was not asked for only where `is_open`."""
        number = next(self._public)
        host = replace(host, address6=f"{PUBLIC_PREFIX6}:{number:x}")
        if router is None:
            _run("ip", "-n", host.namespace, "address", "add", f"{host.address6}/64", "dev", "eth0", "nodad")
            return host
        lan = next(name for name in router.run("ls", "/sys/class/net").split() if name.startswith("lan"))
        own = f"{PUBLIC_PREFIX6}:{next(self._public):x}"
        for device, address in (("eth0", f"{own}/64"), (lan, "fe80::1/64")):
            router.run("ip", "address", "add", address, "dev", device, "nodad")
        router.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.eth0.proxy_ndp=1")
        router.run("ip", "-6", "neighbour", "add", "proxy", host.address6, "dev", "eth0")
        router.run("ip", "-6", "route", "add", host.address6, "dev", lan)
        if not is_open:
            _let_in_only_answers(router, "ip6tables", "FORWARD")
        host.run("ip", "address", "add", f"{host.address6}/128", "dev", "eth0", "nodad")
        host.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
        return host

    def move(self, host: Host, router: Host) -> Host:
        """Take a machine from the network that it is on to that of another router, with another address."""
        _run("ip", "-n", host.namespace, "link", "delete", "eth0")
        return self._behind(router, host.namespace)

    def _behind(self, router: Host, namespace: str = "") -> Host:
        """A machine on a router's own network."""
        network = f"10.77.{next(self._private)}"
        host = Host(namespace or self._namespace(), f"{network}.2")
        lan = f"lan{network.rsplit('.', 1)[1]}"
        _run("ip", "-n", router.namespace, "link", "add", lan, "type", "veth", "peer", "eth0", "netns", host.namespace)
        _give_address(router.namespace, lan, f"{network}.1/24")
        _give_address(host.namespace, "eth0", f"{host.address}/24")
        _run("ip", "-n", host.namespace, "route", "add", "default", "via", f"{network}.1")
        return host

    def _plug(self, host: Host, device: str) -> None:
        """Connect a machine to the public segment."""
        port = f"port{host.address.rsplit('.', 1)[1]}"
        _run("ip", "-n", self._segment, "link", "add", port, "type", "veth", "peer", device, "netns", host.namespace)
        _run("ip", "-n", self._segment, "link", "set", port, "master", "public", "up")
        _give_address(host.namespace, device, f"{host.address}/24")

    def _namespace(self) -> str:
        name = next(self._names)
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
        return name


@contextlib.contextmanager
def topology() -> Iterator[Topology]:
    """An empty public segment. On leaving, everything on it is gone: devices go with their namespaces."""
    made: list[str] = []

    def names() -> Iterator[str]:
        while True:
            made.append(f"p2pnet-{os.getpid()}-{next(_numbers)}")
            yield made[-1]

    source = names()
    segment = next(source)
    try:
        _run("ip", "netns", "add", segment)
        _run("ip", "-n", segment, "link", "add", "public", "type", "bridge")
        _run("ip", "-n", segment, "link", "set", "public", "up")
        yield Topology(segment, source)
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _masquerade(router: Host, nat: Nat) -> None:
    """Make a machine the router of whoever is behind it."""
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    _map_ports(router, *(("--random",) if nat is Nat.SYMMETRIC else ()))
    if nat is Nat.NO_UDP:
        router.run("iptables", "-A", "FORWARD", "-p", "udp", "-j", "DROP")
    if nat is Nat.ONLY_443:
        router.run("iptables", "-A", "FORWARD", "-o", "eth0", "-p", "tcp", "--dport", "443", "-j", "ACCEPT")
        router.run("iptables", "-A", "FORWARD", "-o", "eth0", "-j", "DROP")
    for chain in ("INPUT", "FORWARD"):
        _let_in_only_answers(router, "iptables", chain)


def _map_ports(router: Host, *how: str) -> None:
    router.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE", *how)


def _let_in_only_answers(router: Host, command: str, chain: str) -> None:
    answers = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED")
    router.run(command, "-A", chain, "-i", "eth0", *answers, "-j", "ACCEPT")
    router.run(command, "-A", chain, "-i", "eth0", "-j", "DROP")


def _give_address(namespace: str, device: str, address: str) -> None:
    _run("ip", "-n", namespace, "address", "add", address, "dev", device)
    _run("ip", "-n", namespace, "link", "set", device, "up")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
