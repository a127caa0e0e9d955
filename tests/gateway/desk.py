"""What a gateway tells of itself, behind HTTP, with everything in the test's hands."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from gateway.audits.audit_view import audit_view
from gateway.audits.verdicts import Cases
from gateway.observability.build_views import Sources, model_views, worker_page
from gateway.observability.choice_log import ChoiceLog
from gateway.observability.history import History
from gateway.observability.metrics import GatewayMetrics
from gateway.observability.overview import OverviewBuilder
from gateway.observability.views import UNAUDITED, Location, Observability
from gateway.observability.watchers import Watchers
from gateway.peers.flags import Flags
from gateway.peers.worker import Worker
from gateway.surfaces.p2pnet import routes as p2pnet
from p2pnet.errors import Busy, InvalidRequest
from tests.gateway.reports import NOON_S
from tests.stories import address_of, capability, peer

ANN, BOB = sorted((peer("ann").peer_id, peer("bob").peer_id))
GATEWAY = peer("gateway").peer_id
BOOTSTRAP = address_of(peer("bootstrap"))
NOW_S = 1000.0


def worker(peer_id: str = ANN, *models: str, **changes: Any) -> Worker:
    record = msgspec.structs.replace(capability(peer("ann"), *models), peer_id=peer_id, slots=8)
    return Worker(msgspec.structs.replace(record, issued_ms=int(NOON_S * 1000) - 30_000, **changes))


class Desk:
    """What a gateway tells of itself, with everything in the test's hands."""

    def __init__(self, history: History) -> None:
        self.workers: list[Worker] = []
        self.lost: list[Worker] = []
        self.waiting: dict[str, int] = {}
        self.flags = Flags(unix_s=lambda: NOON_S)
        self.cases = Cases()
        self.audits = False
        self.now_s = NOW_S
        self.history = history
        self.choices = ChoiceLog(unix_s=lambda: NOON_S + 1.5)
        self.metrics = GatewayMetrics()
        sources = Sources(
            workers=lambda: self.workers,
            lost=lambda: self.lost,
            waiting=lambda: self.waiting,
            flagged=self.flags,
            audit=lambda worker: audit_view(worker, self.cases, self.flags) if self.audits else UNAUDITED,
            now_s=lambda: self.now_s,
            unix_s=lambda: NOON_S + self.now_s - NOW_S,
        )
        location = Location(peer("gateway").peer_id, (BOOTSTRAP,))
        self.overview = OverviewBuilder(sources, history, location, lambda: True)
        self.watchers = Watchers(max_watchers=1)
        observability = Observability(
            workers=lambda query: worker_page(sources, history, query),
            models=lambda: model_views(sources),
            requests=history.recent,
            choices=self.choices.views,
            overview=self.overview.look,
            location=location,
            watchers=self.watchers,
            scrape=self.metrics.scrape,
        )
        app = FastAPI()
        app.include_router(p2pnet.surface(observability))
        app.add_exception_handler(InvalidRequest, refused)
        app.add_exception_handler(Busy, too_many)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")

    async def get(self, path: str, **query: Any) -> Any:
        response = await self.http.get(f"/p2pnet/v1/{path}", params=query)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        return response.json()


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequest)
    return JSONResponse({"param": error.param}, 400)


async def too_many(request: Request, error: Exception) -> Response:
    assert isinstance(error, Busy)
    return JSONResponse({"message": error.message}, 429)
