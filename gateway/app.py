"""Puts the HTTP application together: the edge, the page, the surfaces, health, and errors.

Knows nothing of peers: everything behind HTTP is in the GatewayService that it is given.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from gateway.http.access import Access
from gateway.http.edge import Edge, http_failure
from gateway.http.failures import Failure, describe
from gateway.http.head import HeadAsGet
from gateway.http.json_response import error_response
from gateway.http.limits import HttpLimits
from gateway.http.page import page, read_files
from gateway.http.proxies import Proxies
from gateway.http.uploads import Uploads
from gateway.http.web_pages import WebPages
from gateway.observability.http_counts import surface_of
from gateway.service import GatewayService
from gateway.surfaces.anthropic import routes as anthropic
from gateway.surfaces.anthropic.render import render_error as anthropic_error
from gateway.surfaces.fauxpilot import routes as fauxpilot
from gateway.surfaces.ollama import routes as ollama
from gateway.surfaces.ollama.render import render_error as ollama_error
from gateway.surfaces.openai import routes as openai
from gateway.surfaces.openai.documents import render_error as openai_error
from gateway.surfaces.openai.reranking import render_error as rerank_error
from gateway.surfaces.p2pnet import routes as p2pnet
from p2pnet.errors import P2PNetError

RENDER_ERROR: dict[str, Callable[[Failure], bytes]] = {"anthropic": anthropic_error, "ollama": ollama_error}
"""How errors look, by surface. All others get OpenAI's."""


def create_app(
    service: GatewayService,
    limits: HttpLimits | None = None,
    access: Access | None = None,
    proxies: Proxies | None = None,
    pages: WebPages | None = None,
) -> FastAPI:
    """The gateway as an ASGI application. It owns no connection and no task of its own: nothing to start or stop.

    Without keys `pages` says which web pages may ask; None asks nobody. With keys it only says which may read."""
    limits, access = limits or HttpLimits(), access or Access()
    # FastAPI's own pages of documentation load programs from elsewhere.
    app = FastAPI(title="p2pnet gateway", redirect_slashes=False, docs_url=None, redoc_url=None)
    app.include_router(page(read_files()))  # before Ollama's, which answers at the root too
    app.include_router(anthropic.surface(service, limits))  # before OpenAI's, which has a path in common with it
    app.include_router(openai.surface(service, limits))
    app.include_router(fauxpilot.surface(service, limits))
    app.include_router(ollama.surface(service, limits))
    app.include_router(p2pnet.receipts(service.receipts))
    if service.standing is not None:
        app.include_router(p2pnet.standing(service.standing, limits))
    if service.observability is not None:
        app.include_router(p2pnet.surface(service.observability, limits))
    _add_health(app, service)
    app.add_exception_handler(P2PNetError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        Edge,
        make_id=service.make_id,
        failure_response=failure_response,
        access=access,
        proxies=proxies or Proxies(),
        pages=None if access.has_keys else pages,
        uploads=Uploads(limits.max_arriving_bytes),
        open_receipts=service.receipts.open,
    )
    if pages is not None and pages.origins:
        _let_read(app, pages)
    return app


def failure_response(failure: Failure, path: str) -> Response:
    """An error in the dialect of the surface that the path belongs to."""
    other_error = rerank_error if path.endswith("/rerank") else openai_error
    render_error = RENDER_ERROR.get(surface_of(path), other_error)
    return error_response(failure, render_error(failure))


def _let_read(app: FastAPI, pages: WebPages) -> None:
    """Pages of these origins may ask whatever they like, and read what comes (CORS)."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=sorted(pages.origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["*"],
    )


async def _on_error(request: Request, error: Exception) -> Response:
    return failure_response(describe(error), request.url.path)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    response = failure_response(http_failure(error, request.method, path), path)
    response.headers.update(error.headers or {})
    return response


def _add_health(app: FastAPI, service: GatewayService) -> None:
    async def live() -> JSONResponse:
        return JSONResponse({"status": "ok", "ready": service.is_ready()})

    async def ready() -> JSONResponse:
        is_ready = service.is_ready()
        return JSONResponse({"status": "ok" if is_ready else "starting", "ready": is_ready}, 200 if is_ready else 503)

    app.add_api_route("/health", live, methods=["GET"], tags=["health"], summary="The process answers")
    app.add_api_route("/livez", live, methods=["GET"], tags=["health"], summary="The process answers")
    app.add_api_route("/readyz", ready, methods=["GET"], tags=["health"], summary="Requests can be served")
