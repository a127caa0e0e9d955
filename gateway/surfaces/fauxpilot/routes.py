"""FauxPilot's HTTP API, for editors' plugins written for it or for Codex: thin routes around the service's `generate`.

Any engine will do: what is no model here stands for the code model. Errors have OpenAI's shape, and are answered so.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.http.collected import Generated
from gateway.http.edge import read_body
from gateway.http.replies import StreamedReply, WholeReply
from gateway.model_names.code_models import engine_model
from gateway.model_names.naming import find_model
from gateway.service import GatewayService, HttpLimits
from gateway.surfaces.fauxpilot import render, schema
from p2pnet.errors import ModelNotFound, NoWorker

JSON = "application/json"

_EXAMPLE = {"prompt": "def add(a, b):\n    return", "max_tokens": 16, "stop": ["\n"]}
_DOCS = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}, "example": _EXAMPLE}}}}


def surface(service: GatewayService, limits: HttpLimits) -> APIRouter:
    """The routes under /v1/engines, and the one that Copilot's plugin takes its token from. They raise P2PNetError."""
    routes = APIRouter(tags=["fauxpilot"])

    @routes.get("/copilot_internal/v2/token", summary="A token that opens nothing, for Copilot's plugin")
    async def token() -> Response:
        return Response(render.render_token(), media_type=JSON)

    @routes.get("/v1/engines", summary="List the models, as engines")
    async def list_engines() -> Response:
        return Response(render.render_engines(service.list_models()), media_type=JSON)

    @routes.get("/v1/engines/{engine:path}", summary="One model, as an engine")
    async def retrieve_engine(engine: str) -> Response:
        entry = find_model(engine, service.list_models(), service.aliases)
        if entry is not None:
            return Response(render.render_engine(entry), media_type=JSON)
        raise ModelNotFound(f"The engine {engine[:128]!r} does not exist.", "engine")

    @routes.post("/v1/engines/{engine:path}/completions", summary="Continue code, with any engine", openapi_extra=_DOCS)
    async def complete(engine: str, request: Request) -> Response:
        body = schema.parse_completion(await read_body(request, limits))
        model = engine_model(service, engine)
        if model is None:
            raise NoWorker("No model on the network generates text now.")
        generation = schema.completion_request(body, model, request.state.request_id, service.make_seed)
        head = render.ResponseHead("cmpl-" + service.make_id(), int(service.now()), model)
        events = service.generate(generation, request.state.caller)
        if body.is_stream:
            return StreamedReply(events, render.ChunkRenderer(head), limits)

        def whole(generated: Generated) -> bytes:
            return render.render_whole(head, generated)

        return WholeReply(events, whole, limits)

    return routes
