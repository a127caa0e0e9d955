"""The routes of the gateway's own API: workers, models, requests, the overview, and metrics.

Thin routes over `Observability`, without prompts, answers or callers' names.
"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.http.json_response import EncodedJson
from gateway.http.limits import HttpLimits
from gateway.http.uploads import read_body
from gateway.interface import Volunteer
from gateway.observability.metrics import CONTENT_TYPE
from gateway.observability.recent import RequestQuery
from gateway.observability.views import Observability, WorkerQuery
from gateway.receipts.store import ReceiptStore
from gateway.standing.desk import Desk
from gateway.surfaces.p2pnet import render
from gateway.surfaces.p2pnet.live import LiveReply
from p2pnet.entrance.document import WELL_KNOWN_PATH
from p2pnet.errors import InvalidRequest, P2PNetError

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
"""Of one page, about 1 MB. The gateway does nothing else while it makes one, which takes some 50 ms at worst."""

MAX_NUMBER = 1 << 53


class Shown(msgspec.Struct, frozen=True):
    """What is shown: sealed acknowledgements, in JSON as base64."""

    signed: tuple[bytes, ...]


class ReceiptNotFound(P2PNetError):
    """There is none of this id, or not for this caller."""

    code = "receipt_not_found"


def surface(observability: Observability, limits: HttpLimits | None = None) -> APIRouter:
    """The routes. They raise InvalidRequest, or Busy where too many watch; the application answers it."""
    routes = APIRouter(tags=["p2pnet"])

    @routes.get("/p2pnet/v1/workers", summary="The workers, how they are and how fast")
    async def workers(request: Request) -> Response:
        query = WorkerQuery(_limit(request), _word(request, "model"), _word(request, "worker"))
        return _json(render.workers(observability.workers(query)))

    @routes.get("/p2pnet/v1/models", summary="The models: workers, capacity, queue")
    async def models() -> Response:
        return _json(render.models(observability.models()))

    @routes.get("/p2pnet/v1/requests", summary="The last requests, with their routes")
    async def requests(request: Request) -> Response:
        query = RequestQuery(
            limit=_limit(request),
            before=_number(request, "before", MAX_NUMBER),
            model=_word(request, "model"),
            worker=_word(request, "worker"),
            outcome=_word(request, "outcome"),
            request_id=_word(request, "request_id"),
        )
        return _json(render.requests(observability.requests(query), query.limit))

    @routes.get("/p2pnet/v1/choices", summary="The last choices of a worker, with their reasons")
    async def choices() -> Response:
        return _json(render.choices(observability.choices()))

    @routes.get("/p2pnet/v1/overview", summary="All of it at a glance")
    async def overview() -> Response:
        return _json(render.overview(observability.overview()))

    @routes.get("/p2pnet/v1/live", summary="The same as server-sent events, as it changes")
    async def live() -> Response:
        return LiveReply(observability.overview, observability.watchers, limits or HttpLimits())

    @routes.get("/p2pnet/v1/join", summary="What whoever wants to lend a machine runs")
    async def join() -> Response:
        return _json(render.join(observability.location))

    @routes.get(WELL_KNOWN_PATH, summary="Whom to join through, for p2pnet itself")
    async def well_known() -> Response:
        return _json(render.entrance(observability.location))

    @routes.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        return Response(await observability.scrape(), headers={"content-type": CONTENT_TYPE})

    return routes


def receipts(store: ReceiptStore) -> APIRouter:
    """The receipts that a caller has asked for."""
    routes = APIRouter(tags=["p2pnet"])

    @routes.get("/p2pnet/v1/receipts/{receipt_id}", summary="What workers have signed of an answer of the caller's")
    async def receipt(request: Request, receipt_id: str) -> Response:
        kept = store.find(request.state.caller.name, receipt_id)
        if kept is None:
            raise ReceiptNotFound(f"The receipt {receipt_id[:128]!r} is not kept here, or no longer.")
        return _json(kept)

    return routes


def standing(desk: Desk, limits: HttpLimits) -> APIRouter:
    """What a caller's own standing is, and where it shows what other gateways have signed for it."""
    routes = APIRouter(tags=["p2pnet"])

    @routes.get("/p2pnet/v1/standing", summary="The caller's own standing here")
    async def own(request: Request) -> Response:
        volunteer: Volunteer | None = request.state.caller.volunteer
        return _json(render.standing(None if volunteer is None else desk.standing(volunteer)))

    @routes.post("/p2pnet/v1/standing", summary="Show what other gateways have signed for the caller's worker")
    async def show(request: Request) -> Response:
        volunteer: Volunteer | None = request.state.caller.volunteer
        if volunteer is None:
            raise InvalidRequest("Send a volunteer's key with it: `p2pnet keys claim` makes one.")
        desk.hear(volunteer, shown(await read_body(request, limits)))
        return _json(render.standing(desk.standing(volunteer)))

    return routes


def shown(raw: bytes) -> list[bytes]:
    """The acknowledgements of a body. Raises InvalidRequest."""
    try:
        return list(msgspec.json.decode(raw, type=Shown).signed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f'This is not understood: {error}. Send {{"signed": [BASE64, ...]}}.') from error


def _json(body: bytes) -> Response:
    return EncodedJson(body, headers={"cache-control": "no-store"})


def _limit(request: Request) -> int:
    limit = _number(request, "limit", MAX_LIMIT)
    return DEFAULT_LIMIT if limit is None else limit


def _number(request: Request, name: str, highest: int) -> int | None:
    """Raises InvalidRequest unless it is missing or a number from 1."""
    given = request.query_params.get(name)
    if given is None:
        return None
    is_number = given.isascii() and given.isdigit() and len(given) <= len(str(highest))
    if not is_number or not 1 <= int(given) <= highest:
        raise InvalidRequest(f"{name} must be a number from 1 to {highest}.", name)
    return int(given)


def _word(request: Request, name: str) -> str | None:
    """Compared with what is known, and never repeated."""
    return request.query_params.get(name)
