"""Parses the bodies of /v1/rerank and /v2/rerank into a RerankRequest, and renders the answers: by Jina's API, which
vLLM and Cohere's v1 share, and by Cohere's v2. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gateway.http.bodies import Body, out_of_bounds, validated
from gateway.http.collected import Ranked
from gateway.http.failures import Failure
from gateway.http.one_line import encode_line
from gateway.surfaces.openai.documents import error_document
from p2pnet.errors import InvalidRequest
from p2pnet.rerank_messages import MAX_DOCUMENTS, RerankRequest

RerankApi = Literal["jina", "cohere"]
"""Jina's takes texts and objects with a text, and gives the documents back unless told not to. Cohere's v2 takes texts,
and gives scores alone."""


class RerankBody(Body):
    """`max_tokens_per_doc` and `truncate` change nothing: a model reads what its context holds."""

    model: str
    query: Any
    documents: list[Any]
    top_n: int | None = None
    return_documents: bool | None = None


def parse_rerank(raw: bytes) -> RerankBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(RerankBody, raw)
    if not 0 < len(body.documents) <= MAX_DOCUMENTS:
        raise InvalidRequest(f"documents: must be 1 to {MAX_DOCUMENTS}, and are {len(body.documents)}", "documents")
    if body.top_n is not None and body.top_n < 1:
        raise InvalidRequest("top_n: must be at least 1; leave it out for all documents", "top_n")
    return body


def rerank_request(body: RerankBody, api: RerankApi, request_id: str) -> RerankRequest:
    """Raises InvalidRequest, ModelNotFound."""
    documents = [_text(each, f"documents[{index}]", api) for index, each in enumerate(body.documents)]
    query = _text(body.query, "query", api)
    if not query:
        raise InvalidRequest("query: must not be empty", "query")
    fields = {"request_id": request_id, "model": body.model, "query": query, "documents": documents}
    try:
        return msgspec.convert(fields, RerankRequest)
    except msgspec.ValidationError as error:
        raise out_of_bounds(error, body.model, {}) from error


def render_ranked(ranked: Ranked, body: RerankBody, api: RerankApi, answer_id: str, asked: RerankRequest) -> bytes:
    """The best first."""
    best = sorted(enumerate(ranked.scores), key=lambda each: -each[1])[: body.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": score} for index, score in best]
    if api == "jina" if body.return_documents is None else body.return_documents:
        for result in results:
            result["document"] = {"text": asked.documents[result["index"]]}
    tokens = ranked.finished.usage.prompt_tokens
    billed = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens, "output_tokens": 0}}
    if api == "cohere":
        return encode_line({"id": answer_id, "results": results, "meta": {"api_version": {"version": "2"}, **billed}})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    jina = {"id": answer_id, "object": "list", "model": body.model, "usage": usage, "results": results}
    return encode_line({**jina, "meta": {"api_version": {"version": "1"}, **billed}})


def render_error(failure: Failure) -> bytes:
    """`message` is where Cohere's clients look, `detail` where Jina's do, `error` where vLLM's do."""
    return encode_line({"message": failure.message, "detail": failure.message, "error": error_document(failure)})


def _text(given: Any, where: str, api: RerankApi) -> str:
    text = given.get("text") if isinstance(given, dict) and api == "jina" else given
    if isinstance(text, str):
        return text
    field = where.partition("[")[0]
    if api == "jina":
        raise InvalidRequest(f'{where}: must be a text, or an object with one: {{"text": "..."}}', field)
    raise InvalidRequest(f"{where}: must be a text; /v1/rerank takes objects, too", field)
