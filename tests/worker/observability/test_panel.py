"""The panel's lines as a table of what a worker is at, and what was given, by a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from p2pnet.cli.serve.panel import table
from p2pnet.messages import Finished, Load, Usage
from p2pnet.network.clock_watch import FIX, ClockState
from p2pnet.network.interface import Relayed
from p2pnet.status_messages import Status
from p2pnet.worker.observability.observer import Observer, Observers, Standing
from p2pnet.worker.observability.panel import Line, Tone, View, Warned, lines, reach_of, summary
from p2pnet.worker.observability.tally import Given, Tally
from tests.stories import card, peer

ME = peer("me").peer_id
RELAY, OTHER = peer("relay").peer_id, peer("other").peer_id
PUBLIC = f"/ip4/203.0.113.7/tcp/31337/p2p/{ME}"
"""Documentation's addresses are private to Python; see `ROUTED`."""
ROUTED = f"/ip4/11.0.0.7/tcp/31337/p2p/{ME}"
AT_HOME = f"/ip4/192.168.1.5/tcp/31337/p2p/{ME}"
LOOPBACK = f"/ip4/127.0.0.1/tcp/31337/p2p/{ME}"
THROUGH = f"/ip4/11.0.0.1/tcp/31337/p2p/{RELAY}/p2p-circuit/p2p/{ME}"
THROUGH_QUIC = f"/ip4/11.0.0.1/udp/31337/quic-v1/p2p/{RELAY}/p2p-circuit/p2p/{ME}"
THROUGH_OTHER = f"/ip4/11.0.0.2/tcp/31337/p2p/{OTHER}/p2p-circuit/p2p/{ME}"


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ((), "not reachable yet"),
        ((ROUTED,), "reached directly"),
        ((AT_HOME, ROUTED, THROUGH), "reached directly"),
        ((AT_HOME, THROUGH, THROUGH_QUIC), "reached through 1 relay"),
        ((THROUGH, THROUGH_OTHER), "reached through 2 relays"),
        ((AT_HOME,), "reached on this network only"),
        ((PUBLIC,), "reached on this network only"),
        ((LOOPBACK,), "reached on this machine only"),
        ((LOOPBACK, AT_HOME), "reached on this network only"),
    ],
)
def test_how_a_peer_is_reached(addresses: tuple[str, ...], said: str) -> None:
    assert reach_of(addresses) == said


def view(standing: Standing | None = None, **changes: Any) -> View:
    load = Load(running=2, queued=1, slots=16)
    serving = Standing(Status(True, load), gateways=1, models=(card("tiny"), card("tiny", task="embed")))
    fields = {"peer_id": ME, "name": "", "neighbours": 3, "addresses": (ROUTED,), "given": Given(118, 14203, 41.32)}
    return View(**fields | {"standing": standing or serving, "uptime_s": 7405.0} | changes)


PAUSED = Standing(Status(False, Load(slots=8)), 0, (card("tiny"),), "paused until 18:00, as the schedule says")


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (view(), Line("worker", f"..{ME[-8:]}, up 2 h 3 min")),
        (view(name="anna-laptop", uptime_s=60), Line("worker", f"anna-laptop (..{ME[-8:]}), up 1 min")),
        (view(uptime_s=59.9), Line("worker", f"..{ME[-8:]}, up 59 s")),
        (view(), Line("joined", "3 peers, reached directly")),
        (view(reached_for_s=190.0), Line("joined", "3 peers, reached directly for 3 min")),
        (view(neighbours=1), Line("joined", "1 peer, reached directly")),
        (view(neighbours=0), Line("joined", "no other peer is left: trying to join again", Tone.WARNING)),
        (view(), Line("models", "tiny (generate, embed): 16 slots")),
        (
            view(Standing(Status(True, Load(slots=1)), models=(card("a"), card("b", is_cold=True)))),
            Line("models", "a, b (generate, not loaded): 1 slot"),
        ),
        (view(), Line("state", "serving, asked by 1 gateway", Tone.GOOD)),
        (view(Standing(Status(True), models=(card("a"),))), Line("state", "serving", Tone.GOOD)),
        (view(PAUSED), Line("state", "paused until 18:00, as the schedule says", Tone.WARNING)),
        (view(Standing(Status(False))), Line("state", "no model to serve now", Tone.WARNING)),
        (view(Standing(Status(False))), Line("models", "none")),
        (
            view(Standing(Status(True), clock=ClockState(-42.0, 5))),
            Line("clock", f"this machine's clock is 42 s behind those of 5 peers: {FIX}", Tone.WARNING),
        ),
        (
            view(Standing(Status(False, Load(running=1)), models=(card("a"),), is_stopping=True)),
            Line("state", "stopping: 1 request may finish", Tone.WARNING),
        ),
        (
            view(Standing(Status(True), relayed=Relayed(places=2, circuits=1, circuits_made=9, bytes=1_250_000_000))),
            Line("relaying", "1 circuit now, for 2 peers that nobody can dial; 1.25 GB carried so far"),
        ),
        (view(), Line("requests", "2 running, 1 waiting, 118 answered")),
        (view(), Line("tokens", "14,203 given, 41.3/s now")),
        (view(given=Given()), Line("tokens", "0 given, none now")),
        (
            view(warned=Warned("it \x1b[31msaid\nso", 61)),
            Line("warning", "it  [31msaid so (1 min ago)", Tone.WARNING),
        ),
    ],
)
def test_the_lines(shown: View, line: Line) -> None:
    assert line in lines(shown)


def test_there_is_no_line_for_a_warning_that_never_came() -> None:
    assert [line.label for line in lines(view())] == ["worker", "joined", "models", "state", "requests", "tokens"]


def test_what_is_left_to_say() -> None:
    assert summary(view(given=Given(1, 14203))) == "Answered 1 request with 14,203 tokens in 2 h 3 min."


@pytest.mark.parametrize("width", [20, 40, 200])
def test_a_row_is_a_row_on_any_terminal(width: int) -> None:
    console = Console(width=width, force_terminal=True)
    shown = lines(view(warned=Warned("a long story " * 30, 1)))
    with console.capture() as captured:
        console.print(table(shown))
    drawn = captured.get().splitlines()
    assert len(drawn) == len(shown)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.4

    def __call__(self) -> float:
        return self.now_s


def test_tokens_are_counted_as_they_are_sent() -> None:
    clock = Clock()
    tally = Tally(clock)
    told: Observer = Observers([Observer(), tally])
    assert tally.given == Given(0, 0, 0.0)
    told.first_token("tiny", 2, 0.1)
    clock.now_s += 1
    told.more_tokens("tiny", 8, 0.1)
    assert tally.given == Given(0, 10, 10.0)
    clock.now_s += 4
    told.finished("tiny", Finished("stop", Usage(3, 10)), 5.0)
    assert tally.given == Given(1, 10, 2.0)
    clock.now_s += 4
    told.refused("/p2pnet/generate/1", "busy")
    told.probed()
    assert tally.given == Given(1, 10, pytest.approx(10 / 9))
    clock.now_s += 10
    assert tally.given == Given(1, 10, 0.0)
