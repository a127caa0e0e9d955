"""OpenAI's HTTP API: thin routes between its schema, the service's `generate`, and its rendering."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.edge import read_body
from gateway.failures import Failure
from gateway.replies import Generated, StreamedReply, WholeReply
from gateway.service import GatewayService, HttpLimits
from gateway.surfaces import openai_render as render
from gateway.surfaces import openai_schema as schema
from p2pnet.errors import ModelNotFound
from p2pnet.messages import GenerateRequest

JSON = "application/json"


def surface(service: GatewayService, limits: HttpLimits) -> APIRouter:
    """The routes under /v1. They raise P2PNetError; the application answers it with `failure_response`."""
    routes = APIRouter(tags=["openai"])

    @routes.get("/v1/models", summary="List the models that workers announce")
    async def list_models() -> Response:
        return Response(render.render_models(service.list_models()), media_type=JSON)

    @routes.get("/v1/models/{model_id:path}", summary="One model")
    async def retrieve_model(model_id: str) -> Response:
        for entry in service.list_models():
            if entry.id == model_id:
                return Response(render.render_model(entry), media_type=JSON)
        raise ModelNotFound(f"The model {model_id[:128]!r} does not exist.", "model")

    chat_docs = _docs({"model": "tiny", "messages": [{"role": "user", "content": "What is p2pnet?"}], "stream": True})

    @routes.post("/v1/chat/completions", summary="Answer a chat", openapi_extra=chat_docs)
    async def chat(request: Request) -> Response:
        body = schema.parse_chat(await read_body(request, limits))
        generation = schema.chat_request(body, request.state.request_id, service.make_seed)
        return reply(generation, body.is_stream, body.wants_usage, render.CHAT, "chatcmpl-")

    @routes.post(
        "/v1/completions", summary="Continue a text", openapi_extra=_docs({"model": "tiny", "prompt": "A peer"})
    )
    async def complete(request: Request) -> Response:
        body = schema.parse_completion(await read_body(request, limits))
        generation = schema.completion_request(body, request.state.request_id, service.make_seed)
        return reply(generation, body.is_stream, body.wants_usage, render.COMPLETION, "cmpl-")

    def reply(
        generation: GenerateRequest, is_stream: bool, wants_usage: bool, dialect: render.Dialect, id_prefix: str
    ) -> Response:
        envelope = render.Envelope(id_prefix + service.make_id(), int(service.now()), generation.model)
        events = service.generate(generation)
        if is_stream:
            return StreamedReply(events, render.SseRenderer(dialect, envelope, wants_usage), limits)

        def whole(generated: Generated) -> bytes:
            return render.render_whole(dialect, envelope, generated)

        return WholeReply(events, whole, limits)

    return routes


def failure_response(failure: Failure) -> Response:
    """An error in OpenAI's shape, with its status."""
    response = Response(render.render_error(failure), failure.status, media_type=JSON)
    if failure.retry_after_s is not None:
        response.headers["retry-after"] = str(failure.retry_after_s)
    return response


def _docs(example: dict[str, Any]) -> dict[str, Any]:
    """For the API's page of documentation: routes read their bodies themselves, so FastAPI cannot tell."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}, "example": example}}}}
