"""Writes the lines that a worker's owner sees of it on a terminal.

Knows nothing of terminals: the command line draws the lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from p2pnet.display.durations import duration
from p2pnet.display.printable import printable, short_id
from p2pnet.display.sizes import size
from p2pnet.messages import Load
from p2pnet.network.clock_watch import FIX
from p2pnet.network.interface import Relayed
from p2pnet.network.multiaddrs import is_loopback, is_private, is_relayed, relay_of
from p2pnet.records import ModelCard
from p2pnet.worker.observability.observer import Standing
from p2pnet.worker.observability.tally import Given


class Tone(Enum):
    """How a line is meant."""

    PLAIN = auto()
    GOOD = auto()
    WARNING = auto()


@dataclass(frozen=True)
class Line:
    label: str
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True)
class Warned:
    """The last warning of the log, and how long ago it came."""

    text: str
    age_s: float


@dataclass(frozen=True)
class View:
    """A worker at one moment. `neighbours` are the peers of the DHT that it knows, `addresses` where others dial it."""

    peer_id: str
    name: str
    neighbours: int
    addresses: tuple[str, ...]
    standing: Standing
    given: Given
    uptime_s: float
    warned: Warned | None = None
    reached_for_s: float | None = None
    """For how long others have reached it as they do now."""


def lines(view: View) -> tuple[Line, ...]:
    """The panel, from top to bottom."""
    standing, given = view.standing, view.given
    load = standing.status.load
    top: tuple[Line, ...] = (
        Line("worker", f"{_called(view)}, up {duration(view.uptime_s)}"),
        _joined(view),
        Line("models", _models(standing.models, load.slots)),
        _state(standing),
        Line("requests", f"{load.running} running, {load.queued} waiting, {given.requests:,} answered"),
        Line("tokens", f"{given.tokens:,} given, {_rate(given.tokens_per_s)}"),
    )
    if standing.relayed.places or standing.relayed.bytes:
        top = (*top, Line("relaying", relaying(standing.relayed)))
    if standing.clock.is_off:
        top = (*top, Line("clock", f"{standing.clock.says}: {FIX}", Tone.WARNING))
    if view.warned is None:
        return top
    return *top, Line("warning", f"{printable(view.warned.text)} ({duration(view.warned.age_s)} ago)", Tone.WARNING)


def summary(view: View) -> str:
    """What is said last, when the worker has stopped."""
    given = view.given
    return (
        f"Answered {_count(given.requests, 'request')} with {_count(given.tokens, 'token')} "
        f"in {duration(view.uptime_s)}."
    )


def relaying(relayed: Relayed) -> str:
    """What a peer does for others as a relay."""
    circuits, places = _count(relayed.circuits, "circuit"), _count(relayed.places, "peer")
    return f"{circuits} now, for {places} that nobody can dial; {size(relayed.bytes)} carried so far"


def reach_of(addresses: Sequence[str]) -> str:
    """How others reach a peer with these addresses, as far as the addresses say."""
    direct = [address for address in addresses if not is_relayed(address)]
    if any(not is_private(address) and not is_loopback(address) for address in direct):
        return "reached directly"
    if relays := {relay_of(address) for address in addresses if is_relayed(address)}:
        return f"reached through {_count(len(relays), 'relay')}"
    if not addresses:
        return "not reachable yet"
    return "reached on this machine only" if all(map(is_loopback, direct)) else "reached on this network only"


def _called(view: View) -> str:
    return f"{view.name} ({short_id(view.peer_id)})" if view.name else short_id(view.peer_id)


def _joined(view: View) -> Line:
    if not view.neighbours:
        return Line("joined", "no other peer is left: trying to join again", Tone.WARNING)
    since = "" if view.reached_for_s is None else f" for {duration(view.reached_for_s)}"
    return Line("joined", f"{_count(view.neighbours, 'peer')}, {reach_of(view.addresses)}{since}")


def _state(standing: Standing) -> Line:
    load = standing.status.load
    if standing.is_stopping:
        return Line("state", f"stopping: {_count(_held(load), 'request')} may finish", Tone.WARNING)
    if not standing.status.is_serving:
        return Line("state", standing.owner if standing.models else "no model to serve now", Tone.WARNING)
    by = f", asked by {_count(standing.gateways, 'gateway')}" if standing.gateways else ""
    return Line("state", f"serving{by}", Tone.GOOD)


def _models(cards: Sequence[ModelCard], slots: int) -> str:
    """Each model once, with its tasks where it does more than generate."""
    tasks: defaultdict[str, list[str]] = defaultdict(list)
    for card in cards:
        tasks[card.id].append(f"{card.task}, not loaded" if card.is_cold else card.task)
    if not tasks:
        return "none"
    names = (model if done == ["generate"] else f"{model} ({', '.join(done)})" for model, done in tasks.items())
    return f"{', '.join(names)}: {_count(slots, 'slot')}"


def _held(load: Load) -> int:
    return load.running + load.queued


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.1f}/s now" if tokens_per_s else "none now"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
