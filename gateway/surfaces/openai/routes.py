"""The routes of OpenAI's HTTP API, between its schema and its rendering."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from gateway.http.failures import failure
from gateway.http.json_response import EncodedJson, body_docs, error_response
from gateway.http.limits import HttpLimits
from gateway.http.one_line import encode_line
from gateway.http.replies import Events, RankedReply, StreamedReply, TokensReply, VectorsReply, WholeReply
from gateway.http.uploads import read_body
from gateway.model_names.code_models import CodeModels
from gateway.model_names.naming import find_model
from gateway.service import GatewayService
from gateway.surfaces.openai.chat import chat_request, parse_chat
from gateway.surfaces.openai.completion import completion_requests, parse_completion
from gateway.surfaces.openai.documents import render_error, render_model, render_models
from gateway.surfaces.openai.embedding import embed_request, parse_embedding, render_embeddings
from gateway.surfaces.openai.prompts import only_prompt, side_by_side
from gateway.surfaces.openai.render import CHAT, COMPLETION, Dialect, ResponseHead, SseRenderer, render_whole
from gateway.surfaces.openai.reranking import RerankApi, parse_rerank, render_ranked, rerank_request
from gateway.surfaces.openai.response_render import ObjectHead, render_input_tokens, render_response
from gateway.surfaces.openai.response_store import ResponseStore
from gateway.surfaces.openai.response_stream import ResponseStream
from gateway.surfaces.openai.response_tools import offered_tools
from gateway.surfaces.openai.responses import conversation_of, parse_response, response_request
from gateway.surfaces.openai.schema import GenerationBody
from gateway.surfaces.openai.tokens import detokenize_request, render_text, render_tokens, tokenize_request
from p2pnet.errors import ModelNotFound

HI = [{"role": "user", "content": "What is p2pnet?"}]


def surface(service: GatewayService, limits: HttpLimits) -> APIRouter:
    """The routes under /v1, and vLLM's beside them. They raise P2PNetError, which the application answers."""
    routes = APIRouter(tags=["openai"])
    _add_models(routes, service)
    _add_chat(routes, service, limits)
    _add_completions(routes, service, limits)
    _add_embeddings(routes, service, limits)
    _add_tokens(routes, service, limits)
    _add_reranking(routes, service, limits)
    _add_responses(routes, service, limits)
    return routes


def _add_models(routes: APIRouter, service: GatewayService) -> None:
    @routes.get("/v1/models", summary="List the models that workers announce")
    async def list_models() -> Response:
        return EncodedJson(render_models(service.list_models()))

    @routes.get("/v1/models/{model_id:path}", summary="One model, by its name or an alias")
    async def retrieve_model(model_id: str) -> Response:
        entry = find_model(model_id, service.list_models(), service.aliases)
        if entry is not None:
            return EncodedJson(render_model(entry))
        raise ModelNotFound(f"The model {model_id[:128]!r} does not exist.", "model")


def _add_chat(routes: APIRouter, service: GatewayService, limits: HttpLimits) -> None:
    docs = body_docs({"model": "tiny", "messages": HI, "stream": True})

    @routes.post("/v1/chat/completions", summary="Answer a chat", openapi_extra=docs)
    async def chat(request: Request) -> Response:
        body = parse_chat(await read_body(request, limits))
        generation = chat_request(body, request.state.request_id, service.make_seed)
        head = ResponseHead("chatcmpl-" + service.make_id(), int(service.now()), body.model, body.left_out)
        events = service.generate(generation, request.state.caller)
        return _reply(events, body, CHAT, head, generation.n, limits)


def _add_completions(routes: APIRouter, service: GatewayService, limits: HttpLimits) -> None:
    docs = body_docs({"model": "tiny", "prompt": "A peer"})
    code_models = CodeModels(service.list_models, service.aliases, service.code_model_name)

    @routes.post("/v1/completions", summary="Continue a text, or several", openapi_extra=docs)
    async def complete(request: Request) -> Response:
        body = parse_completion(await read_body(request, limits))
        model = code_models.for_completion(body.model)
        generations = completion_requests(body, model, request.state.request_id, service.make_seed)
        head = ResponseHead("cmpl-" + service.make_id(), int(service.now()), model)
        each = [service.generate(generation, request.state.caller) for generation in generations]
        n = generations[0].n
        events = each[0] if len(each) == 1 else side_by_side(each, n)
        events = only_prompt(events) if body.is_only_prompt else events
        return _reply(events, body, COMPLETION, head, n * len(each), limits)


def _add_embeddings(routes: APIRouter, service: GatewayService, limits: HttpLimits) -> None:
    docs = body_docs({"model": "tiny", "input": ["A peer", "A worker"], "encoding_format": "float"})

    @routes.post("/v1/embeddings", summary="Turn texts into vectors", openapi_extra=docs)
    async def embed(request: Request) -> Response:
        body = parse_embedding(await read_body(request, limits))
        embedding = embed_request(body, request.state.request_id)
        render = partial(render_embeddings, model=body.model, is_base64=body.is_base64)
        return VectorsReply(service.embed(embedding, request.state.caller), render, limits)


def _add_tokens(routes: APIRouter, service: GatewayService, limits: HttpLimits) -> None:
    tokenize_docs = body_docs({"model": "tiny", "prompt": "A peer", "return_token_strs": True})

    @routes.post("/tokenize", summary="A prompt's tokens, of a text or of messages", openapi_extra=tokenize_docs)
    async def tokenize(request: Request) -> Response:
        asked = tokenize_request(await read_body(request, limits), request.state.request_id)
        entry = find_model(asked.model, service.list_models(), service.aliases)
        render = partial(render_tokens, context_length=None if entry is None else entry.context_length)
        return TokensReply(service.tokenize(asked, request.state.caller), render, limits)

    @routes.post(
        "/detokenize", summary="The text of tokens", openapi_extra=body_docs({"model": "tiny", "tokens": [72]})
    )
    async def detokenize(request: Request) -> Response:
        asked = detokenize_request(await read_body(request, limits), request.state.request_id)
        return TokensReply(service.tokenize(asked, request.state.caller), render_text, limits)


def _add_reranking(routes: APIRouter, service: GatewayService, limits: HttpLimits) -> None:
    docs = body_docs({"model": "reranker", "query": "What is a peer?", "documents": ["A peer", "A worker"], "top_n": 1})

    async def ranked(request: Request, api: RerankApi) -> Response:
        body = parse_rerank(await read_body(request, limits))
        asked = rerank_request(body, api, request.state.request_id)
        render = partial(render_ranked, body=body, api=api, answer_id=service.make_id(), asked=asked)
        return RankedReply(service.rerank(asked, request.state.caller), render, limits)

    @routes.post("/rerank", include_in_schema=False)
    @routes.post("/v1/rerank", summary="Rank documents by how well they answer a query", openapi_extra=docs)
    async def rerank(request: Request) -> Response:
        return await ranked(request, "jina")

    @routes.post("/v2/rerank", summary="Rank documents, as Cohere has it", openapi_extra=docs)
    async def rerank_as_cohere(request: Request) -> Response:
        return await ranked(request, "cohere")


def _add_responses(routes: APIRouter, service: GatewayService, limits: HttpLimits) -> None:
    docs = body_docs({"model": "tiny", "input": "What is p2pnet?"})
    store = ResponseStore(limits.keep_responses_s, service.now)

    @routes.post("/v1/responses", summary="Answer a chat, in OpenAI's newer shape", openapi_extra=docs)
    async def respond(request: Request) -> Response:
        body = parse_response(await read_body(request, limits))
        offered = offered_tools(body.tools or ())
        caller = request.state.caller
        items = conversation_of(body, store, caller.name)
        generation = response_request(body, items, offered, request.state.request_id, service.make_seed)
        keep = None
        if store.keep_s and body.store is not False:
            before = [item.model_dump(exclude_none=True) for item in items]
            keep = partial(store.keep, caller.name, before=before)
        head = ObjectHead(service.make_id(), int(service.now()), body, offered, keep)
        events = service.generate(generation, caller)
        if body.is_stream:
            return StreamedReply(events, ResponseStream(head), limits, offered.left_out)
        return WholeReply(events, partial(render_response, head), limits, True, offered.left_out)

    @routes.post("/v1/responses/input_tokens", summary="Count the tokens of a response's input", openapi_extra=docs)
    async def count(request: Request) -> Response:
        body = parse_response(await read_body(request, limits))
        offered = offered_tools(body.tools or ())
        items = conversation_of(body, store, request.state.caller.name)
        body = body.model_copy(update={"max_output_tokens": 1})  # where it has to be generated to be counted
        generation = response_request(body, items, offered, request.state.request_id, service.make_seed)
        events = service.count(generation, request.state.caller)
        return WholeReply(events, render_input_tokens, limits, left_out=offered.left_out)

    @routes.get("/v1/responses/{response_id}", summary="A response of the caller's that is still kept")
    async def retrieve(request: Request, response_id: str) -> Response:
        kept = store.find(request.state.caller.name, response_id)
        return _no_response(response_id) if kept is None else EncodedJson(kept.document)

    @routes.delete("/v1/responses/{response_id}", summary="Keep a response no longer")
    async def delete(request: Request, response_id: str) -> Response:
        if not store.forget(request.state.caller.name, response_id):
            return _no_response(response_id)
        return EncodedJson(encode_line({"id": response_id, "object": "response", "deleted": True}))


def _no_response(response_id: str) -> Response:
    message = f"The response {response_id[:128]!r} is not stored here, or no longer."
    missing = failure("response_not_found", message, "response_id")
    return error_response(missing, render_error(missing))


def _reply(
    events: Events, body: GenerationBody, dialect: Dialect, head: ResponseHead, choices: int, limits: HttpLimits
) -> Response:
    """Of chat and completions."""
    if body.is_stream:
        return StreamedReply(events, SseRenderer(dialect, head, body.wants_usage, choices), limits, head.left_out)
    return WholeReply(events, partial(render_whole, dialect, head), limits, dialect is CHAT, head.left_out)
