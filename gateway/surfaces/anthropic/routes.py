"""The routes of Anthropic's HTTP API, between its schema and its rendering.

Its list of models has the same path as OpenAI's. Which of the two is meant shows in the `anthropic-version` header,
which all of Anthropic's clients send.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from gateway.http.failures import describe
from gateway.http.json_response import EncodedJson, body_docs, error_response
from gateway.http.limits import HttpLimits
from gateway.http.replies import Events, StreamedReply, WholeReply
from gateway.http.uploads import read_body
from gateway.interface import ModelEntry
from gateway.model_names.naming import find_model
from gateway.service import GatewayService
from gateway.surfaces.anthropic import render, schema
from p2pnet.errors import ContextOverflow, ModelNotFound

VERSION_HEADER = b"anthropic-version"

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "What is p2pnet?"}]}

MAX_PAGE = 1000

TOO_LONG = "prompt is too long:"
TOO_MUCH = "input length and `max_tokens` exceed context limit:"
"""How Anthropic's own errors begin, which Claude Code and others look for before they shorten a chat."""


def surface(service: GatewayService, limits: HttpLimits) -> APIRouter:
    """The routes under /v1/messages, and those of /v1/models for Anthropic's clients: it must come before OpenAI's.
    They raise P2PNetError, which the application answers."""
    routes = APIRouter(tags=["anthropic"])
    models = APIRouter(route_class=_VersionedRoute)

    @routes.post(
        "/v1/messages", summary="Answer a chat", openapi_extra=body_docs({**CHAT, "max_tokens": 256, "stream": True})
    )
    async def create(request: Request) -> Response:
        body = schema.parse_message(await read_body(request, limits))
        generation = schema.message_request(body, request.state.request_id, service.make_seed)
        message_id, left_out = "msg_" + service.make_id(), body.left_out
        head = render.MessageHead(message_id, generation.model, generation.stop, body.shows_thoughts, left_out)
        events = _in_its_words(service.generate(generation, request.state.caller))
        if body.is_stream:
            return StreamedReply(events, render.MessageRenderer(head), limits, left_out)
        return WholeReply(events, partial(render.render_message, head), limits, True, left_out)

    @routes.post("/v1/messages/count_tokens", summary="Count a chat's tokens", openapi_extra=body_docs(CHAT))
    async def count(request: Request) -> Response:
        """A worker counts, since it knows the model's tokenizer and template."""
        body = schema.parse_count(await read_body(request, limits))
        generation = schema.count_request(body, request.state.request_id)
        events = _in_its_words(service.count(generation, request.state.caller))
        return WholeReply(events, render.render_count, limits, left_out=body.left_out)

    @models.get("/v1/models", include_in_schema=False)
    async def list_models(
        limit: str | None = None, after_id: str | None = None, before_id: str | None = None
    ) -> Response:
        page, has_more = page_of(service.list_models(), _limit(limit), after_id, before_id)
        return EncodedJson(render.render_models(page, has_more))

    @models.get("/v1/models/{model_id:path}", include_in_schema=False)
    async def retrieve_model(model_id: str) -> Response:
        entry = find_model(model_id, service.list_models(), service.aliases)
        if entry is not None:
            return EncodedJson(render.render_model(entry))
        missing = describe(ModelNotFound(f"The model {model_id[:128]!r} does not exist.", "model"))
        return error_response(missing, render.render_error(missing))

    routes.include_router(models)
    return routes


async def _in_its_words(events: Events) -> Events:
    """The same events. Clients look for some of Anthropic's errors by their text."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        except ContextOverflow as error:
            words = TOO_MUCH if error.param == "max_tokens" else TOO_LONG
            raise ContextOverflow(f"{words} {error.message}", error.param) from error


def page_of(
    entries: Sequence[ModelEntry], limit: int, after_id: str | None, before_id: str | None
) -> tuple[Sequence[ModelEntry], bool]:
    """Up to `limit` entries after the one with an id, or before one, and whether there are more on that side."""
    ids = [entry.id for entry in entries]
    if before_id is not None:
        end = ids.index(before_id) if before_id in ids else 0
        begin = max(0, end - limit)
        return entries[begin:end], begin > 0
    begin = ids.index(after_id) + 1 if after_id in ids else 0
    return entries[begin : begin + limit], begin + limit < len(ids)


def _limit(given: str | None) -> int:
    """What is no number asks for all there is."""
    is_number = given is not None and given.isascii() and given.isdigit() and len(given) <= len(str(MAX_PAGE))
    return min(max(1, int(given)), MAX_PAGE) if given is not None and is_number else MAX_PAGE


class _VersionedRoute(APIRoute):
    """Is there only for requests that say which version of Anthropic's API they are written for."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or all(name != VERSION_HEADER for name, _ in scope["headers"]):
            return Match.NONE, {}
        return super().matches(scope)
