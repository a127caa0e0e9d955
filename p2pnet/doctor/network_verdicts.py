"""Judges the facts about the network, which `network` gathers. Functions of data alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from p2pnet.display.durations import duration, milliseconds
from p2pnet.display.printable import printable, short_id
from p2pnet.doctor.verdict import Verdict, failed, ok, warning
from p2pnet.network.interface import Meeting
from p2pnet.network.libp2p.autonat import DialBack
from p2pnet.network.libp2p.relay import GrantedLimits
from p2pnet.swarm.invitation import Invitation
from p2pnet.swarm.upkeep import WARN_BEFORE_MS

CLOCK_LIMIT_S = 3.0
"""hivemind's: beyond it peers do not let one another in."""
CLOCK_SCANT_S = 1.0
EARLIEST_MS = 1_767_225_600_000
"""The year 2026: no clock that is right says less."""

SLOW_S = 2.0
"""To be connected and answered: twice around the world and a lost packet."""


@dataclass(frozen=True)
class Met:
    """One initial peer, and how the meeting went: `meeting`, or what went wrong."""

    address: str
    meeting: Meeting | None = None
    problem: str | None = None


class Mapping(Enum):
    """Which ports a router shows to peers, of packets that leave this machine from one port (RFC 4787, 4.1)."""

    ONE_FOR_ALL = "a cone: all peers see one port"
    ONE_FOR_EACH = "symmetric: each peer sees another port"


@dataclass(frozen=True)
class Seen:
    """How a peer sees us. `observed` is our address there; `dialled` is what came of dialling us back, by transport.
    `mapping` is None where fewer than two peers have told it."""

    observed: str | None = None
    is_private: bool = False
    dialled: tuple[tuple[str, DialBack], ...] = ()
    mapping: Mapping | None = None

    @property
    def is_behind_nat(self) -> bool:
        """Whether peers tried to reach us, and none could."""
        outcomes = [outcome for _, outcome in self.dialled]
        return DialBack.NOT_REACHED in outcomes and DialBack.REACHED not in outcomes


@dataclass(frozen=True)
class Asked:
    """A worker that was asked, and how long its answer took, or why there was none."""

    peer_id: str
    model: str
    took_s: float | None = None
    problem: str | None = None
    is_direct: bool | None = None
    """Whether its answer came without a relay; None when that is not known."""


@dataclass(frozen=True)
class ThroughGateway:
    """One answer over HTTP: its status and how long it took, or why there was none."""

    url: str
    status: int | None = None
    took_s: float = 0.0
    problem: str | None = None


def judge_membership(invitation: Invitation, now_ms: int) -> Verdict:
    """How long this user's peers are members of the swarm."""
    left_ms = invitation.expires_ms - now_ms
    says = f"a member of {invitation.name} for {duration(left_ms / 1000)}"
    if left_ms < WARN_BEFORE_MS:
        return warning("swarm", says, "Ask for another invitation, and take it with `p2pnet swarm join`.")
    return ok("swarm", says)


def judge_met(met: Met) -> Verdict:
    if met.meeting is None:
        return failed(
            "bootstrap",
            f"{met.address} cannot be reached: {printable(met.problem or '')}",
            "Check the address, that the peer runs, and that its firewall and yours let this port through.",
        )
    says = f"{met.address} answers in {milliseconds(met.meeting.took_s)}"
    if met.meeting.took_s > SLOW_S:
        return warning("bootstrap", says, "Name a nearer peer with --initial-peers, or look after this connection.")
    return ok("bootstrap", says)


def judge_clock(now_ms: int, met: tuple[Met, ...]) -> Verdict:
    """Compares our clock with that of the peer that differs least: a peer that is wrong itself must not accuse us."""
    set_it = "Set the clock: timedatectl set-ntp true."
    if now_ms < EARLIEST_MS:
        return failed("clock", "it is years behind", set_it)
    ahead = [one.meeting.clock_ahead_s for one in met if one.meeting and one.meeting.clock_ahead_s is not None]
    if not ahead:
        return warning("clock", "no peer to compare it with", "See `bootstrap`; meanwhile, timedatectl says how it is.")
    least_s = min(ahead, key=abs)
    way = "behind" if least_s > 0 else "ahead"
    says = f"{abs(least_s):.1f} s {way} of the nearest of {len(ahead)} peers' clocks"
    if abs(least_s) > CLOCK_LIMIT_S:
        return failed("clock", f"{says}: no peer lets us in", set_it)
    if abs(least_s) > CLOCK_SCANT_S:
        return warning("clock", says, set_it)
    return ok("clock", "as the peers' clocks")


OR_ELSE = "or let the router map ports (UPnP), or forward the --listen ports there, with --announce."
BEHIND = {
    None: f"A worker is then reached through relays, or holes where they can be punched; {OR_ELSE}",
    Mapping.ONE_FOR_ALL: f"A worker is then reached through holes, and through relays where there are none; {OR_ELSE}",
    Mapping.ONE_FOR_EACH: f"A worker is then reached through relays, and dials public peers itself; {OR_ELSE}",
}
"""What becomes of a worker there, and what can be done."""


def judge_nat(seen: Seen) -> Verdict:
    if seen.observed is None:
        return warning("nat", "no peer told where it sees us", "See `bootstrap`.")
    if seen.is_private:
        return ok("nat", "the peers are on this machine or network; how others see it cannot be told from here")
    where = f"peers see this machine at {_host_of(seen.observed)}"
    outcomes = dict(seen.dialled)
    reached = [name for name, outcome in seen.dialled if outcome is DialBack.REACHED]
    if reached and len(reached) == len(outcomes):
        return ok("nat", f"public: {where} and reach it there, by {' and '.join(reached)}")
    if reached:
        missing = " or ".join(name for name in outcomes if name not in reached)
        return warning(
            "nat",
            f"public: {where} and reach it there by {' and '.join(reached)}, not by {missing}",
            f"Let {missing} through the firewall and the router, too.",
        )
    if seen.is_behind_nat:
        kind = "" if seen.mapping is None else f" ({seen.mapping.value})"
        return warning("nat", f"behind NAT{kind}: {where} and cannot reach it there", BEHIND[seen.mapping])
    return warning("nat", f"{where}, and none would dial it now", "Ask again in a minute.")


def judge_relay(granted: tuple[GrantedLimits | None, ...], is_needed: bool) -> Verdict:
    """`granted` is what each peer that was asked grants. Who is public needs no relay."""
    given = [limits for limits in granted if limits is not None]
    if given:
        lasting = sum(limits.data_bytes is None or limits.data_bytes > 1 << 20 for limits in given)
        says = f"{len(given)} of {len(granted)} peers would relay for this machine"
        if lasting or not is_needed:
            return ok("relay", says)
        return warning("relay", f"{says}, but cut answers short", "Name another peer with --initial-peers.")
    says = "no peer would relay for this machine"
    if is_needed:
        return failed("relay", says, "Name a peer that others can dial with --initial-peers.")
    return ok("relay", f"{says}, and none is needed")


WAYS = {None: "", True: ", directly", False: ", through a relay"}


def judge_round_trip(asked: tuple[Asked, ...]) -> Verdict:
    for one in asked:
        if one.took_s is not None:
            who = f"worker {short_id(one.peer_id)} gave a token of {printable(one.model)}"
            return ok("round trip", f"{who} in {milliseconds(one.took_s)}{WAYS[one.is_direct]}")
    if not asked:
        return warning(
            "round trip", "no worker announces a model that generates", "Start one: p2pnet serve --model tiny."
        )
    reasons = "; ".join(f"{short_id(one.peer_id)}: {printable(one.problem or '')}" for one in asked)
    return failed("round trip", f"no worker answered ({reasons})", "Try again: workers come and go. See `nat` too.")


def judge_gateway(through: ThroughGateway) -> Verdict:
    url = printable(through.url)
    if through.status is None:
        return failed(
            "gateway",
            f"{url} does not answer: {printable(through.problem or '')}",
            "Start one with `p2pnet gateway`, or name another with --gateway.",
        )
    if through.status == 200:
        return ok("gateway", f"{url} gave a token in {milliseconds(through.took_s)}")
    if through.status in (401, 403):
        return failed("gateway", f"{url} asks for a key", "Name the variable that holds yours with --api-key-env.")
    return failed(
        "gateway",
        f"{url} answered with status {through.status}: {printable(through.problem or '')}",
        "See its log; `round trip` says whether workers answer without it.",
    )


def _host_of(address: str) -> str:
    parts = address.split("/")
    return parts[2] if len(parts) > 2 else address
