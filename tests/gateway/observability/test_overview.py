"""The gateway at a glance, live and for those who join: what it shows, when it shows it, and that it lets go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.http.limits import HttpLimits
from gateway.observability.history import History
from gateway.observability.views import Location
from gateway.surfaces.p2pnet.live import Changes, LiveReply
from gateway.surfaces.p2pnet.render import NoEntrance, entrance, join
from p2pnet.records import IncompleteModel
from tests.gateway.asgi_call import AsgiCall
from tests.gateway.desk import ANN, BOB, BOOTSTRAP, GATEWAY, NOW_S, Desk, worker
from tests.gateway.reports import NOON_S, attempt, report
from tests.stories import DIGEST, peer

KEY = ("tiny", "generate")
SECTIONS = {"gateway", "models", "workers", "mesh", "series", "failures", "volunteers"}
LOOK_S = 0.01


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk(await History.open(None))
    yield made
    await made.http.aclose()


def read(events: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in events.decode().split("\n\n")[:-1]:
        if not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_a_gateway_that_has_just_started(desk: Desk) -> None:
    seen = await desk.get("overview")
    assert set(seen) == SECTIONS
    assert seen["gateway"] == {
        "id": GATEWAY,
        "agent": "p2pnet/0.1.0",
        "started": "2023-11-14T22:13:20Z",
        "in_flight": 0,
        "waiting": 0,
        "requests_per_s": 0.0,
        "tokens_per_s": 0.0,
        "is_ready": True,
        "clock_ahead_s": 0.0,
        "workers_announced": 0,
    }
    assert seen["workers"] == {"workers": [], "total": 0}
    assert [point["requests"] for point in seen["series"]["points"]] == [0] * 360


async def test_a_worker_as_it_is_seen(desk: Desk) -> None:
    ann = worker(name="anna-laptop")
    ann.since_unix_s = NOON_S
    ann.reserve(KEY, NOW_S)
    ann.round_trip_s.note(0.0213, NOW_S)
    desk.workers = [ann]
    desk.history.note(report(attempt(ANN, tokens=9, first_token_s=0.2, duration_s=1.0)))
    seen = await desk.get("overview")
    (shown,) = seen["workers"]["workers"]
    measured = shown.pop("measured")
    assert shown.pop("audit")["verdict"] == "unaudited"
    assert measured["tokens_per_s"] == pytest.approx(10.0)
    assert shown == {
        "id": ANN,
        "name": "anna-laptop",
        "agent": "p2pnet/0.1.0",
        "state": "healthy",
        "reason": None,
        "models": [{"id": "tiny", "task": "generate", "is_cold": False, "in_flight": 1}],
        "incomplete": [],
        "slots": 8,
        "in_flight": 1,
        "pressure": 1,
        "round_trip_s": 0.021,
        "reached": "direct",
        "relays": [],
        "since": "2023-11-14T22:13:20Z",
    }
    assert seen["gateway"]["in_flight"] == 1
    assert [(model["id"], model["workers"], model["tokens_per_s"]) for model in seen["models"]] == [
        ("tiny", 1, pytest.approx(10.0))
    ]
    kinds = {node["id"]: node["kind"] for node in seen["mesh"]["nodes"]}
    assert kinds == {GATEWAY: "gateway", peer("bootstrap").peer_id: "bootstrap", ANN: "worker"}
    assert {"from": GATEWAY, "to": ANN, "kind": "direct"} in seen["mesh"]["links"]


async def test_volunteers_are_named_who_want_it_and_have_given_something(desk: Desk) -> None:
    gone = peer("gone").peer_id
    desk.workers = [worker(name="anna-laptop"), worker(BOB, name="bobs"), worker(GATEWAY)]
    desk.lost = [worker(gone, name="cellar")]
    desk.history.note(report(attempt(ANN, tokens=9), attempt(gone, "peer_lost", tokens=20)))
    desk.history.note(report(attempt(ANN, tokens=1), attempt(GATEWAY, tokens=99)))
    assert (await desk.get("overview"))["volunteers"]["volunteers"] == [
        {"id": gone, "name": "cellar", "answers": 0, "tokens": 20},
        {"id": ANN, "name": "anna-laptop", "answers": 2, "tokens": 10},
    ]


async def test_a_failure_and_what_was_done(desk: Desk) -> None:
    lost = attempt(ANN, "peer_lost", duration_s=0.5, tokens=3)
    desk.history.note(report(lost, attempt(BOB, began_s=0.5), gap_s=0.1, request_id="one"))
    (shown,) = (await desk.get("overview"))["failures"]["failures"]
    assert shown == {
        "at": "2023-11-14T22:13:20.500000Z",
        "request_id": "one",
        "model": "tiny",
        "worker": ANN,
        "outcome": "peer_lost",
        "done": "resumed",
        "by": BOB,
        "gap_s": 0.1,
    }
    assert [one["request_id"] for one in (await desk.get("requests", request_id="one"))["requests"]] == ["one"]
    assert (await desk.get("requests", request_id="two"))["requests"] == []


async def test_requests_of_an_earlier_run_are_in_the_last_hour(desk: Desk) -> None:
    desk.history.note(report(attempt(ANN)))
    later = Desk(desk.history)
    later.now_s = NOW_S + 10
    assert (await later.get("overview"))["series"]["points"][-1]["requests"] == 1
    await later.http.aclose()


async def test_a_model_whose_layers_are_not_all_there(desk: Desk) -> None:
    """The driver that lacks least is believed; what a worker runs is whole."""
    far, near = (IncompleteModel("large", DIGEST, 24, gaps) for gaps in (((0, 24),), ((0, 2), (12, 18))))
    desk.workers = [worker(ANN, incomplete=(far,)), worker(BOB, incomplete=(near,))]
    tiny, large = sorted((await desk.get("overview"))["models"], key=lambda model: model["workers"], reverse=True)
    assert (large["id"], large["workers"], large["missing"]) == ("large", 0, [[0, 2], [12, 18]])
    assert tiny["missing"] == []
    assert [one["incomplete"] for one in (await desk.get("overview"))["workers"]["workers"]] == [["large"]] * 2
    desk.workers = [worker(ANN, "large"), worker(BOB, incomplete=(near,))]
    missing = {model["id"]: model["missing"] for model in (await desk.get("models"))["models"]}
    assert missing == {"tiny": [], "large": []}


async def test_nothing_personal_is_shown(desk: Desk) -> None:
    desk.workers = [worker()]
    desk.history.note(report(attempt(ANN, "peer_lost"), attempt(BOB), caller="10.1.2.3"))
    shown = (await desk.http.get("/p2pnet/v1/overview")).text
    assert "10.1.2.3" not in shown
    assert "203.0.113" not in shown


async def test_what_a_volunteer_runs(desk: Desk) -> None:
    assert await desk.get("join") == {
        "initial_peers": [BOOTSTRAP],
        "swarm": None,
        "command": f"p2pnet serve --model tiny --initial-peers {BOOTSTRAP}",
    }
    assert (await desk.http.get("/.well-known/p2pnet")).json() == {"initial_peers": [BOOTSTRAP]}


def test_what_somebody_runs_who_is_in_the_swarm() -> None:
    way = msgspec.json.decode(join(Location(ANN, (BOOTSTRAP,), "lab")))
    assert way == {"initial_peers": [BOOTSTRAP], "swarm": "lab", "command": "p2pnet serve --model tiny --swarm lab"}


@pytest.mark.parametrize(
    ("location", "said"),
    [(Location(ANN, (BOOTSTRAP,), "lab"), "Ask somebody in it for an invitation"), (Location(ANN), "through nobody")],
)
def test_nobody_joins_by_the_page_of_a_private_swarm(location: Location, said: str) -> None:
    with pytest.raises(NoEntrance, match=said):
        entrance(location)


# Live


def test_the_first_look_shows_everything_and_the_next_what_has_changed(desk: Desk) -> None:
    def look() -> list[tuple[str, Any]]:
        desk.now_s += 1
        return read(changes.since(desk.overview.look()))

    changes = Changes()
    desk.workers = [worker(ANN)]
    first = dict(look())
    assert set(first) == SECTIONS
    assert [one["id"] for one in first["workers"]["changed"]] == [ANN]
    assert look() == []

    desk.workers = [worker(ANN), worker(BOB)]
    second = dict(look())
    assert set(second) == {"models", "mesh", "workers"}
    assert [one["id"] for one in second["workers"]["changed"]] == [BOB]
    assert (second["workers"]["gone"], second["workers"]["total"]) == ([], 2)

    desk.workers = [worker(BOB)]
    third = dict(look())["workers"]
    assert third == {"changed": [], "gone": [ANN], "total": 1}


def call(desk: Desk, limits: HttpLimits | None = None) -> AsgiCall:
    reply = LiveReply(desk.overview.look, desk.watchers, limits or HttpLimits(), LOOK_S)
    return AsgiCall(reply, "/p2pnet/v1/live", {}, "GET")


async def test_a_watcher_sees_a_worker_come_and_goes_away(desk: Desk) -> None:
    watching = call(desk)
    await watching.until_sent(b"event: workers")
    desk.workers = [worker(ANN)]
    desk.now_s += 1
    await watching.until_sent(ANN.encode())
    assert desk.watchers.count == 1
    watching.disconnect()
    await watching.task
    assert desk.watchers.count == 0


async def test_a_silent_network_is_kept_alive(desk: Desk) -> None:
    watching = call(desk, HttpLimits(keep_alive_s=0.02))
    await watching.until_sent(b": keep-alive\n\n")
    watching.disconnect()
    await watching.task


async def test_a_gateway_that_stops_lets_its_watchers_go(desk: Desk) -> None:
    watching = call(desk)
    await watching.until_sent(b"event: workers")
    desk.watchers.close()
    await asyncio.wait_for(watching.task, 5)
    assert watching.is_complete


async def test_a_watcher_that_reads_nothing_is_let_go(desk: Desk) -> None:
    watching = call(desk, HttpLimits(keep_alive_s=0.0, write_timeout_s=0.05))
    await watching.until_sent(b"event: workers")
    watching.may_send.clear()
    await asyncio.wait_for(watching.task, 5)
    assert desk.watchers.count == 0


async def test_one_too_many_is_told_so(desk: Desk) -> None:
    watching = call(desk)
    await watching.until_sent(b"event: workers")
    response = await desk.http.get("/p2pnet/v1/live")
    assert (response.status_code, response.json()) == (429, {"message": "1 pages watch this gateway already."})
    watching.disconnect()
    await watching.task


def test_an_overview_of_many_workers_is_bounded(desk: Desk) -> None:
    desk.workers = [worker(peer(f"worker {number}").peer_id) for number in range(230)]
    seen = desk.overview.look()
    assert (len(seen.workers), seen.total) == (200, 230)
    assert len(Changes().since(seen)) < 300_000
    assert msgspec.json.encode(seen.mesh)
