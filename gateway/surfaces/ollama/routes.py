"""The routes of Ollama's HTTP API, between its schema and its rendering.

The gateway holds no models, so what manages them is refused, in Ollama's shape of an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.http.json_response import EncodedJson, body_docs
from gateway.http.limits import HttpLimits
from gateway.http.replies import StreamedReply, VectorsReply, WholeReply
from gateway.http.uploads import read_body
from gateway.service import GatewayService
from gateway.surfaces.ollama import models, render, schema
from gateway.surfaces.ollama.models import ModelList
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, ModelNotFound
from p2pnet.messages import GenerateRequest

API_VERSION = "0.13.5"
"""The version of Ollama whose API this is. Clients ask for it to know what they may send."""

REFUSED = (
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("GET", "/api/blobs/{digest}"),  # Ollama has HEAD here
    ("POST", "/api/blobs/{digest}"),
)

FEATURE_WORDS = {
    "messages": "chat",
    "prompt": "generate",
    "suffix": "insert",
    "tools": "tools",
    "response_format": "format",
}
"""What Ollama says a model does not support, by the field that our refusal names."""

TOO_LONG = "the prompt is too long: the input length exceeds the context length."
"""Ollama's words, those of its error for an embedding, and llama.cpp's: clients look for one of them."""

T = TypeVar("T")


def surface(service: GatewayService, limits: HttpLimits) -> APIRouter:
    """The routes under /api, and the root. They raise P2PNetError, which the application answers."""
    routes = APIRouter(tags=["ollama"])
    model_list = ModelList(service.list_models, service.aliases)
    _add_listings(routes, service, limits, model_list)
    _add_generation(routes, service, limits, model_list)
    _add_embedding(routes, service, limits, model_list)
    for method, path in REFUSED:
        routes.add_api_route(path, refuse, methods=[method], include_in_schema=False)
    return routes


async def refuse(request: Request) -> Response:
    what = request.url.path.removeprefix("/api/").partition("/")[0]
    raise InvalidRequest(f"{what} is not possible here: this gateway holds no models, its workers bring their own")


def _add_listings(routes: APIRouter, service: GatewayService, limits: HttpLimits, model_list: ModelList) -> None:
    async def root() -> Response:
        return Response("Ollama is running", media_type="text/plain")

    async def version() -> Response:
        return EncodedJson(msgspec.json.encode({"version": API_VERSION}))

    async def tags() -> Response:
        return EncodedJson(models.render_tags(service.list_models()))

    for path, get, summary in (
        ("/", root, "That it runs"),
        ("/api/version", version, "The version of Ollama's API"),
        ("/api/tags", tags, "List the models that workers announce"),
    ):
        routes.add_api_route(path, get, methods=["GET"], summary=summary)

    @routes.get("/api/ps", summary="List the models that a worker has in memory")
    async def running() -> Response:
        return EncodedJson(models.render_running(service.list_models(), service.now()))

    @routes.post("/api/show", summary="One model", openapi_extra=body_docs({"model": "tiny"}))
    async def show(request: Request) -> Response:
        body = schema.parse(schema.ShowBody, await read_body(request, limits))
        return EncodedJson(models.render_shown(model_list.get(body.name)))


def _add_generation(routes: APIRouter, service: GatewayService, limits: HttpLimits, model_list: ModelList) -> None:
    chat_docs = body_docs({"model": "tiny", "messages": [{"role": "user", "content": "What is p2pnet?"}]})

    @routes.post("/api/chat", summary="Answer a chat", openapi_extra=chat_docs)
    async def chat(request: Request) -> Response:
        body = schema.parse(schema.ChatBody, await read_body(request, limits))
        entry = model_list.find(body.name)
        schema.check_generation(body, entry)
        answer = render.SharedFields(body.name, True, service.now)
        if body.order is not None:
            return ordered(answer, body.order)
        generation = schema.chat_request(body, entry, request.state.request_id, service.make_seed)
        return reply(request, generation, answer, body.is_stream)

    @routes.post(
        "/api/generate", summary="Answer a prompt", openapi_extra=body_docs({"model": "tiny", "prompt": "A peer"})
    )
    async def generate(request: Request) -> Response:
        body = schema.parse(schema.GenerateBody, await read_body(request, limits))
        entry = model_list.find(body.name)
        schema.check_generation(body, entry)
        if body.order is not None:
            return ordered(render.SharedFields(body.name, False, service.now), body.order)
        generation = schema.generate_request(body, entry, request.state.request_id, service.make_seed)
        turns = body.turns() if body.is_turn else None
        answer = render.SharedFields(body.name, False, service.now, turns=turns, shows_thoughts=not body.raw)
        return reply(request, generation, answer, body.is_stream)

    def ordered(answer: render.SharedFields, order: str) -> Response:
        model_list.get(answer.model)
        return EncodedJson(render.render_order(answer, order))

    def reply(request: Request, generation: GenerateRequest, answer: render.SharedFields, is_stream: bool) -> Response:
        events = _in_its_words(service.generate(generation, request.state.caller), answer.model)
        if is_stream:
            return StreamedReply(events, render.NdjsonRenderer(answer), limits)
        return WholeReply(events, partial(render.render_whole, answer), limits, answer.shows_thoughts)


def _add_embedding(routes: APIRouter, service: GatewayService, limits: HttpLimits, model_list: ModelList) -> None:
    embed_docs = body_docs({"model": "tiny", "input": ["A peer", "A worker"]})

    @routes.post("/api/embed", summary="Turn texts into vectors", openapi_extra=embed_docs)
    async def embed(request: Request) -> Response:
        body = schema.parse(schema.EmbedBody, await read_body(request, limits))
        texts = body.texts()
        if not texts:
            return empty(body.name, {"model": body.name, "embeddings": []})
        entry = model_list.find(body.name)
        truncate = body.truncate is not False
        asked = schema.embed_request(
            body.name, entry, texts, request.state.request_id, dimensions=body.dimensions, truncate=truncate
        )
        return VectorsReply(vectors(request, asked, body.name), partial(render.render_embeddings, body.name), limits)

    @routes.post(
        "/api/embeddings",
        summary="Turn one text into a vector",
        openapi_extra=body_docs({"model": "tiny", "prompt": "Hi"}),
    )
    async def embeddings(request: Request) -> Response:
        body = schema.parse(schema.EmbeddingsBody, await read_body(request, limits))
        if not body.prompt:
            return empty(body.name, {"embedding": []})
        entry = model_list.find(body.name)
        asked = schema.embed_request(body.name, entry, [body.prompt], request.state.request_id)
        return VectorsReply(vectors(request, asked, body.name), render.render_embedding, limits)

    def empty(name: str, document: dict[str, Any]) -> Response:
        """Without a text the model would only be loaded."""
        model_list.get(name)
        return EncodedJson(msgspec.json.encode(document))

    def vectors(request: Request, asked: EmbedRequest, name: str) -> AsyncGenerator[Any, None]:
        return _in_its_words(service.embed(asked, request.state.caller), name)


async def _in_its_words(events: AsyncGenerator[T, None], name: str) -> AsyncGenerator[T, None]:
    """The same events. Clients look for some of Ollama's errors by their text."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        except ModelNotFound as error:
            raise models.not_found(name) from error
        except FeatureMissing as error:
            if error.param not in FEATURE_WORDS:
                raise
            raise FeatureMissing(f"{name} does not support {FEATURE_WORDS[error.param]}", error.param) from error
        except ContextOverflow as error:
            raise ContextOverflow(f"{TOO_LONG} {error.message}", error.param) from error
