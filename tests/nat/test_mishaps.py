"""What befalls peers behind NAT: relays that go, routers that forget, lines that break. Each is found again soon."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.depth import scaled
from tests.nat.machines import (
    LISTEN,
    MODEL,
    TOKENS,
    address_at,
    begin,
    complete,
    joining,
    quic_at,
    record_of,
    start_bootstrap,
    start_gateway,
    start_worker,
    wait_for_circuit,
)
from tests.nat.results import note
from tests.nat.topology import Host, Nat, Topology
from tests.processes import Process, Start, wait_until

pytestmark = pytest.mark.timeout(400)

FOUND_AGAIN_S = 10.0
GOES_ON_S = 2.0
"""In which a stream goes on through another relay."""

UNTOLD_GOES_ON_S = 4.0
"""The same where nobody is told that the first one has gone: a third of a second of silence, a question to which there
is no answer, and a dial."""

SHORT_S = 5.0
STREAMED_BEFORE = 50
COUNTS = {1: "one relay", 2: "two relays"}
AWAY_S = scaled(ci=15.0, deep=60.0)
"""Longer than it takes to see that a line is gone."""


@dataclass
class Story:
    """A worker behind NAT, a gateway with a public address, and a bootstrap or two that relay."""

    segment: Topology
    start: Start
    bootstraps: list[tuple[Process, Host]]
    gateway: Process
    gateway_host: Host
    worker: Process
    worker_host: Host
    router: Host

    def record(self) -> list[str]:
        """The addresses in the worker's record."""
        address = next(address_at(*each) for each in self.bootstraps if each[0].is_running)
        return record_of(self.start, self.gateway_host, address, self.worker)

    def served_within(self, limit_s: float, what: str) -> float:
        """Asks for a few tokens; returns how many seconds that took."""
        began_s = time.monotonic()
        completion = complete(self.gateway_host, self.gateway, tokens=5)
        took_s = time.monotonic() - began_s
        note(what, seconds=took_s)
        assert completion.is_done, f"not served: {what}"
        assert took_s <= limit_s, f"{took_s:.1f} s: {what}"
        return took_s

    def restart_bootstrap(self, number: int, away_s: float) -> None:
        """Stop one, and start it again on its address, as the same peer."""
        process, host = self.bootstraps[number]
        process.stop(signal.SIGTERM)
        time.sleep(away_s)
        others = [address_at(*each) for n, each in enumerate(self.bootstraps) if n != number]
        self.bootstraps[number] = (start_relay(self.start, host, number, others), host)
        self.bootstraps[number][0].wait_ready()


def kill(process: Process) -> None:
    """With its p2pd, as when its machine goes."""
    assert process.daemon_pid is not None
    for pid in (process.pid, process.daemon_pid):
        os.kill(pid, signal.SIGKILL)


def start_relay(start: Start, host: Host, number: int, others: list[str]) -> Process:
    """As the same peer each time."""
    return start_bootstrap(start, host, "--identity", str(start.root / f"bootstrap-{number}.key"), *joining(others))


@pytest.fixture
def story(segment: Topology, start: Start) -> Callable[..., Story]:
    def told(relays: int, by_quic: bool = False) -> Story:
        bootstraps: list[tuple[Process, Host]] = []
        for number in range(relays):
            host = segment.public_host()
            others = [address_at(*each) for each in bootstraps]
            bootstraps.append((start_relay(start, host, number, others), host))
        gateway_host = segment.public_host()
        worker_host, router = segment.host_behind_nat(Nat.CONE)
        # Only relays let the worker be reached: no hole is punched.
        router.run("iptables", "-I", "FORWARD", "-d", gateway_host.address, "-j", "DROP")
        addresses = [address_at(*each) for each in bootstraps]
        gateway = start_gateway(start, gateway_host, *addresses)
        worker = start_worker(
            start, worker_host, *(quic_at(*each) if by_quic else address_at(*each) for each in bootstraps)
        )
        wait_for_circuit(start, gateway_host, gateway, addresses[0], worker)
        made = Story(segment, start, bootstraps, gateway, gateway_host, worker, worker_host, router)
        assert complete(gateway_host, gateway, tokens=5).is_done
        return made

    return told


def test_the_only_relay_stops_and_comes_back(story: Callable[..., Story]) -> None:
    given = story(1)
    given.restart_bootstrap(0, AWAY_S)
    given.served_within(FOUND_AGAIN_S, f"the only relay was away for {AWAY_S:.0f} s")


@pytest.mark.parametrize("relays", [1, pytest.param(2, marks=pytest.mark.deep)])
def test_the_router_forgets_while_nobody_asks(story: Callable[..., Story], relays: int) -> None:
    given = story(relays)
    given.router.reboot()
    given.served_within(FOUND_AGAIN_S, f"the router was started again, with {COUNTS[relays]}")


@pytest.mark.deep
@pytest.mark.parametrize("transport", ["TCP", "QUIC"])
@pytest.mark.parametrize("is_streaming", [False, True], ids=["idle", "in mid-stream"])
def test_the_router_takes_other_ports(story: Callable[..., Story], transport: str, is_streaming: bool) -> None:
    """No connection outlives that: who is at its other end hears from a port that he does not know."""
    given = story(1, by_quic=transport == "QUIC")
    what = f"the router was started again, and takes other ports: {transport}"
    if is_streaming:
        streams_on(given, FOUND_AGAIN_S, what, lambda: given.router.reboot(takes_other_ports=True))
    else:
        given.router.reboot(takes_other_ports=True)
        given.served_within(FOUND_AGAIN_S, what)


def test_the_line_is_gone_for_a_while(story: Callable[..., Story]) -> None:
    given = story(1)
    given.router.cut()
    time.sleep(AWAY_S)
    given.router.mend()
    given.served_within(FOUND_AGAIN_S, f"the line was gone for {AWAY_S:.0f} s")


def streams_on(given: Story, limit_s: float, what: str, mishap: Callable[[], None]) -> None:
    """A stream is under way when something befalls it: it is whole, and was silent for no longer than this."""
    stream = begin(given.gateway_host, given.gateway)
    stream.wait_parts(STREAMED_BEFORE)
    mishap()
    completion = stream.finish()
    note(f"{what}, in mid-stream", seconds=completion.longest_gap_s)
    assert completion.is_done, f"the stream was lost: {what}"
    assert completion.completion_tokens == TOKENS
    assert completion.longest_gap_s <= limit_s, what


@pytest.mark.deep
@pytest.mark.parametrize(
    ("what", "limit_s"), [("the relay was killed", GOES_ON_S), ("the relay's line was cut", UNTOLD_GOES_ON_S)]
)
def test_the_relay_dies_in_mid_stream_and_there_is_another_one(
    story: Callable[..., Story], what: str, limit_s: float
) -> None:
    """One that is killed is missed at once; of one whose line is gone nobody is told."""
    given = story(2)
    before = [host.received_bytes() for _, host in given.bootstraps]

    def end_the_one_that_carries_it() -> None:
        carried = [host.received_bytes() - was for (_, host), was in zip(given.bootstraps, before, strict=True)]
        process, host = given.bootstraps[carried.index(max(carried))]
        if what == "the relay was killed":
            kill(process)
        else:
            host.cut()

    streams_on(given, limit_s, what, end_the_one_that_carries_it)


@pytest.mark.deep
def test_the_router_forgets_in_mid_stream(story: Callable[..., Story]) -> None:
    given = story(1)
    streams_on(given, FOUND_AGAIN_S, "the router was started again", given.router.reboot)


@pytest.mark.deep
def test_the_line_is_gone_in_mid_stream(story: Callable[..., Story]) -> None:
    given = story(1)

    def cut() -> None:
        given.router.cut()
        time.sleep(SHORT_S)
        given.router.mend()

    streams_on(given, SHORT_S + FOUND_AGAIN_S, f"the line was gone for {SHORT_S:.0f} s", cut)


@pytest.mark.deep
def test_all_bootstraps_are_gone_and_another_peer_relays(story: Callable[..., Story]) -> None:
    """An open worker of another model is there, which relays as well."""
    given = story(1)
    host = given.segment.public_host()
    other = given.start(
        "serve", "--model", "tiny", *LISTEN, *joining([address_at(*given.bootstraps[0])]), prefix=host.prefix
    )
    other.wait_ready()
    wait_until(lambda: any(other.ready.peer_id in address for address in given.record()), "it relays for the worker")
    given.bootstraps[0][0].stop(signal.SIGTERM)
    given.served_within(FOUND_AGAIN_S, "the only bootstrap is gone for good")


@pytest.mark.deep
def test_two_relays_are_restarted_one_after_the_other(story: Callable[..., Story]) -> None:
    given = story(2)
    for number in (0, 1):
        given.restart_bootstrap(number, away_s=3.0)
        given.served_within(FOUND_AGAIN_S, ("the first of two relays was restarted", "then the second one")[number])


@pytest.mark.deep
def test_the_machine_moves_to_another_network(story: Callable[..., Story]) -> None:
    given = story(1)
    _, router = given.segment.host_behind_nat(Nat.CONE)
    router.run("iptables", "-I", "FORWARD", "-d", given.gateway_host.address, "-j", "DROP")
    given.segment.move(given.worker_host, router)
    given.served_within(FOUND_AGAIN_S, "the machine has moved to another network behind NAT")


@pytest.mark.deep
def test_a_machine_with_a_public_address_moves_behind_nat(segment: Topology, start: Start) -> None:
    bootstrap_host, gateway_host, worker_host = (segment.public_host() for _ in range(3))
    bootstrap = start_bootstrap(start, bootstrap_host)
    address = address_at(bootstrap, bootstrap_host)
    gateway = start_gateway(start, gateway_host, address)
    worker = start_worker(start, worker_host, address)
    models = f"{gateway.ready.http}/v1/models"
    wait_until(lambda: MODEL in gateway_host.run("curl", "-s", models), "the gateway lists the model")
    _, router = segment.host_behind_nat(Nat.CONE)
    given = Story(segment, start, [(bootstrap, bootstrap_host)], gateway, gateway_host, worker, worker_host, router)
    assert complete(gateway_host, gateway, tokens=5).is_done
    segment.move(worker_host, router)
    given.served_within(FOUND_AGAIN_S, "a machine with a public address has moved behind NAT")
