"""Where a peer might be dialled by somebody who is dialled at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from p2pnet.network.crowd import Connection
from p2pnet.network.libp2p.hole_punch import MAX_CANDIDATES
from p2pnet.network.reach.candidates import FRESH_S, Candidates, OwnCandidates, candidates, peers_to_ask
from tests.stories import peer

OWN = peer("own").peer_id
RELAY = peer("relay").peer_id
HOME = f"/ip4/192.168.1.5/udp/31337/quic-v1/p2p/{OWN}"
HOME_TCP = f"/ip4/192.168.1.5/tcp/31337/p2p/{OWN}"
CIRCUIT = f"/ip4/20.1.1.1/udp/1/quic-v1/p2p/{RELAY}/p2p-circuit/p2p/{OWN}"
SEEN = "/ip4/20.9.9.9/udp/40001/quic-v1"
PRESERVED = "/ip4/20.9.9.9/udp/31337/quic-v1"
AT_HOME = "/ip4/192.168.1.5/udp/31337/quic-v1"
HOSTS = frozenset({"20.9.9.9"})


@pytest.mark.parametrize(
    ("visible", "observed", "expected"),
    [
        ([HOME], [SEEN], Candidates((SEEN, PRESERVED, AT_HOME), HOSTS)),
        ([HOME, HOME_TCP], ["/ip4/20.9.9.9/tcp/5"], Candidates((PRESERVED, AT_HOME), HOSTS)),
        ([HOME], [SEEN, SEEN], Candidates((SEEN, PRESERVED, AT_HOME), HOSTS)),
        ([HOME], [SEEN, SEEN.replace("40001", "40002")], Candidates((PRESERVED, AT_HOME), HOSTS)),
        (
            [HOME, f"/ip6/2a00::1/udp/9/quic-v1/p2p/{OWN}"],
            [SEEN, "/ip6/2a00::1/udp/7/quic-v1"],
            Candidates(
                (SEEN, "/ip6/2a00::1/udp/7/quic-v1", PRESERVED, "/ip6/2a00::1/udp/9/quic-v1", AT_HOME),
                HOSTS | {"2a00::1"},
            ),
        ),
        ([HOME, CIRCUIT], [CIRCUIT.split("/p2p/")[0] + "/p2p-circuit"], Candidates((AT_HOME,))),
        ([HOME], ["/ip4/192.168.1.5/udp/31337/quic-v1"], Candidates((AT_HOME,))),
        ([HOME_TCP], [], Candidates()),
        (
            [f"/ip4/20.9.9.9/tcp/31337/p2p/{OWN}", f"{PRESERVED}/p2p/{OWN}"],
            [PRESERVED],
            Candidates((PRESERVED, "/ip4/20.9.9.9/tcp/31337"), HOSTS),
        ),
        (
            [HOME],
            ["/dns4/x.example/udp/1/quic-v1", f"{SEEN}/webtransport", "/ip4/0.0.0.0/udp/1/quic-v1", f"/p2p/{OWN}"],
            Candidates(("/ip4/0.0.0.0/udp/1/quic-v1", PRESERVED, AT_HOME), HOSTS),
        ),
    ],
    ids=[
        "seen over QUIC",
        "seen over TCP: the port is guessed",
        "twice at the same",
        "at two ports: no use to a third",
        "IPv4 and IPv6",
        "through a relay",
        "by a neighbour",
        "nowhere",
        "with a public address",
        "nonsense",
    ],
)
def test_candidates(visible: Sequence[str], observed: Sequence[str], expected: Candidates) -> None:
    assert candidates(visible, observed) == expected


def test_there_are_not_too_many() -> None:
    observed = [f"/ip4/20.9.9.{n}/udp/1/quic-v1" for n in range(100)]
    assert len(candidates([HOME], observed).addresses) == MAX_CANDIDATES


def test_who_is_asked() -> None:
    connections = [
        Connection("by tcp", "/ip4/20.1.1.1/tcp/1"),
        Connection("relayed", CIRCUIT),
        *(Connection(f"by quic {n}", f"/ip4/20.1.1.{n}/udp/1/quic-v1") for n in range(2)),
        Connection("by quic 0", "/ip4/20.1.1.9/udp/1/quic-v1"),
    ]
    assert peers_to_ask(connections) == ["by quic 0", "by quic 1", "by tcp"]


async def test_others_are_asked_again_after_a_while_and_after_a_move() -> None:
    now_s, asked, visible = 0.0, 0, [HOME]

    async def connections() -> Sequence[Connection]:
        return [Connection("a", "/ip4/20.1.1.1/udp/1/quic-v1")]

    async def see() -> Sequence[str]:
        return visible

    async def observed(peer_id: str) -> str | None:
        nonlocal asked
        asked += 1
        return SEEN if asked < 4 else None

    own = OwnCandidates(connections, see, observed, lambda: now_s)
    assert (await own.now()).addresses == (SEEN, PRESERVED, AT_HOME)
    await own.now()
    assert asked == 1
    now_s = FRESH_S + 1
    await own.now()
    assert asked == 2
    visible = [HOME.replace("192.168.1.5", "10.0.0.7")]
    assert (await own.now()).addresses[-1] == "/ip4/10.0.0.7/udp/31337/quic-v1"
    now_s += FRESH_S + 1
    assert (await own.now()).hosts == frozenset(), "nobody has said"
