"""Renders the JSON of the gateway's own API. Moments are RFC 3339 in UTC, everything else of time is seconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.observability.failures import FailureSeen
from gateway.observability.mesh import Mesh
from gateway.observability.recent import Kept
from gateway.observability.timeline import Series
from gateway.observability.views import (
    ChoiceView,
    GatewayView,
    Location,
    ModelSeen,
    ModelView,
    Overview,
    WorkerPage,
    WorkerSeen,
)
from gateway.standing.desk import Standing
from p2pnet.entrance.document import encode_document
from p2pnet.errors import P2PNetError


class NoEntrance(P2PNetError):
    """Nobody can join through what this gateway could say."""

    code = "no_entrance"


def workers(page: WorkerPage) -> bytes:
    return msgspec.json.encode(page)


def models(views: Sequence[ModelView]) -> bytes:
    return msgspec.json.encode({"models": views})


def requests(page: Sequence[Kept], limit: int) -> bytes:
    """`next_before` is what to ask for to go on; null at the end."""
    next_before = page[-1].number if len(page) == limit else None
    return msgspec.json.encode({"requests": [_request(kept) for kept in page], "next_before": next_before})


def choices(views: Sequence[ChoiceView]) -> bytes:
    return msgspec.json.encode({"choices": [_choice(view) for view in views]})


def standing(known: Standing | None) -> bytes:
    """Null where the caller has shown no volunteer's key."""
    if known is None:
        return msgspec.json.encode({"standing": None})
    shown = {
        "peer": known.peer,
        "turns": known.turns,
        "merit": round(known.merit, 6),
        "received_tokens": known.received_tokens,
        "expires": _moment(known.expires_ms / 1000),
    }
    return msgspec.json.encode({"standing": shown})


def join(location: Location) -> bytes:
    """What whoever wants to lend a machine runs."""
    peers = " ".join(f"--initial-peers {address}" for address in location.initial_peers)
    network = f"--swarm {location.swarm}" if location.swarm else peers
    command = f"p2pnet serve --model tiny {network}".rstrip()
    way = {"initial_peers": location.initial_peers, "swarm": location.swarm, "command": command}
    return msgspec.json.encode(way)


def entrance(location: Location) -> bytes:
    """The document that a newcomer joins by. Raises NoEntrance."""
    if location.swarm is not None:
        raise NoEntrance("This gateway is in a private swarm. Ask somebody in it for an invitation.")
    if not location.initial_peers:
        raise NoEntrance("This gateway joined through nobody that it could name.")
    return encode_document(location.initial_peers)


def overview(seen: Overview) -> bytes:
    """All sections in one document."""
    workers = {"workers": list(map(_worker, seen.workers)), "total": seen.total}
    return msgspec.json.encode(
        {name: msgspec.Raw(body) for name, body in sections(seen).items()} | {"workers": workers}
    )


def sections(seen: Overview) -> dict[str, bytes]:
    """Every section but the workers, each as one document."""
    parts = {
        "gateway": _gateway(seen.gateway),
        "models": list(map(_model, seen.models)),
        "mesh": _mesh(seen.mesh),
        "series": _series(seen.series),
        "failures": {"failures": list(map(_failure, seen.failures))},
        "volunteers": {"volunteers": seen.volunteers},
    }
    return {name: msgspec.json.encode(part) for name, part in parts.items()}


def worker(seen: WorkerSeen) -> bytes:
    """One worker of an overview."""
    return msgspec.json.encode(_worker(seen))


def worker_changes(changed: Sequence[bytes], gone: Sequence[str], total: int) -> bytes:
    """Workers of an overview that are new or have changed, and those that are not shown any more."""
    return msgspec.json.encode({"changed": list(map(msgspec.Raw, changed)), "gone": gone, "total": total})


def _gateway(view: GatewayView) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(view)
    return {"started": _moment(fields.pop("started_unix_s")), **fields}


def _model(seen: ModelSeen) -> dict[str, Any]:
    return {**msgspec.to_builtins(seen.view), "tokens_per_s": seen.tokens_per_s}


def _worker(seen: WorkerSeen) -> dict[str, Any]:
    """Without ages, which change all the time."""
    view = seen.view
    return {
        "id": view.id,
        "name": seen.name,
        "agent": view.agent,
        "state": view.state,
        "reason": view.reason,
        "models": [
            {"id": model.id, "task": model.task, "is_cold": model.is_cold, "in_flight": model.in_flight}
            for model in view.models
        ],
        "incomplete": seen.incomplete,
        "slots": view.slots,
        "in_flight": view.in_flight,
        "pressure": view.pressure,
        "round_trip_s": None if view.round_trip_s is None else round(view.round_trip_s, 3),
        "measured": view.measured,
        "audit": view.audit,
        "reached": seen.reached,
        "relays": seen.relays,
        "since": None if seen.since_unix_s is None else _moment(seen.since_unix_s),
    }


def _mesh(mesh: Mesh) -> dict[str, Any]:
    links = [{"from": link.from_, "to": link.to, "kind": link.kind} for link in mesh.links]
    return {"nodes": mesh.nodes, "links": links}


def _series(series: Series) -> dict[str, Any]:
    return {"step_s": series.step_s, "end": _moment(series.end_unix_s), "points": series.points}


def _failure(failure: FailureSeen) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(failure)
    return {"at": _moment(fields.pop("at_unix_s")), **fields}


def _request(kept: Kept) -> dict[str, Any]:
    report: dict[str, Any] = msgspec.to_builtins(kept.report)
    return {"number": kept.number, "arrived": _moment(report.pop("arrived_unix_s")), **report}


def _choice(view: ChoiceView) -> dict[str, Any]:
    choice: dict[str, Any] = msgspec.to_builtins(view)
    return {"at": _moment(choice.pop("at_unix_s")), **choice}


def _moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
