"""The routes of FauxPilot's HTTP API, for editors' plugins written for it or for Codex.

An engine of Codex's time stands for the code model. Errors have OpenAI's shape, and are answered so.
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from gateway.http.json_response import EncodedJson, body_docs
from gateway.http.limits import HttpLimits
from gateway.http.replies import StreamedReply, WholeReply
from gateway.http.uploads import read_body
from gateway.model_names.code_models import CodeModels
from gateway.model_names.naming import find_model
from gateway.service import GatewayService
from gateway.surfaces.fauxpilot import render, schema
from p2pnet.errors import ModelNotFound

_EXAMPLE = {"prompt": "def add(a, b):\n    return", "max_tokens": 16, "stop": ["\n"]}


def surface(service: GatewayService, limits: HttpLimits) -> APIRouter:
    """The routes under /v1/engines, and the one that Copilot's plugin takes its token from. They raise P2PNetError."""
    routes = APIRouter(tags=["fauxpilot"])
    docs = body_docs(_EXAMPLE)
    code_models = CodeModels(service.list_models, service.aliases, service.code_model_name)

    @routes.get("/copilot_internal/v2/token", summary="A token that opens nothing, for Copilot's plugin")
    async def token() -> Response:
        return EncodedJson(render.render_token())

    @routes.get("/v1/engines", summary="List the models, as engines")
    async def list_engines() -> Response:
        return EncodedJson(render.render_engines(service.list_models()))

    @routes.get("/v1/engines/{engine:path}", summary="One model, as an engine")
    async def retrieve_engine(engine: str) -> Response:
        entry = find_model(engine, service.list_models(), service.aliases)
        if entry is not None:
            return EncodedJson(render.render_engine(entry))
        raise ModelNotFound(f"The engine {engine[:128]!r} does not exist.", "engine")

    @routes.post(
        "/v1/engines/{engine:path}/completions",
        summary="Continue code, with a model or an engine of Codex's time",
        openapi_extra=docs,
    )
    async def complete(engine: str, request: Request) -> Response:
        body = schema.parse_completion(await read_body(request, limits))
        model = code_models.for_engine(engine)
        generation = schema.completion_request(body, model, request.state.request_id, service.make_seed)
        head = render.ResponseHead("cmpl-" + service.make_id(), int(service.now()), model)
        events = service.generate(generation, request.state.caller)
        if body.is_stream:
            return StreamedReply(events, render.ChunkRenderer(head), limits)
        return WholeReply(events, partial(render.render_whole, head), limits)

    return routes
