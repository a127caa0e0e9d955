"""Parses the bodies of /v1/rerank, /v2/rerank and /rerank into a RerankRequest, and renders the answer: in a shape that
clients of Cohere, Jina and vLLM read alike. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.http.bodies import Body, out_of_bounds, validated
from gateway.http.collected import Ranked
from gateway.http.failures import Failure
from gateway.http.one_line import encode_line
from gateway.surfaces.openai.documents import error_document
from p2pnet.errors import InvalidRequest
from p2pnet.rerank_messages import MAX_DOCUMENTS, RerankRequest


class RerankBody(Body):
    """`max_tokens_per_doc` and `truncate` change nothing: a model reads what its context holds."""

    model: str
    query: str
    documents: list[Any]
    top_n: int | None = None
    return_documents: bool | None = None


def parse_rerank(raw: bytes) -> RerankBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(RerankBody, raw)
    if not body.query:
        raise InvalidRequest("query: must not be empty", "query")
    if not 0 < len(body.documents) <= MAX_DOCUMENTS:
        raise InvalidRequest(f"documents: 1 to {MAX_DOCUMENTS} documents", "documents")
    if body.top_n is not None and body.top_n < 1:
        raise InvalidRequest("top_n: at least 1", "top_n")
    return body


def rerank_request(body: RerankBody, request_id: str) -> RerankRequest:
    """Raises InvalidRequest, ModelNotFound."""
    documents = [_text(document, index) for index, document in enumerate(body.documents)]
    fields = {"request_id": request_id, "model": body.model, "query": body.query, "documents": documents}
    try:
        return msgspec.convert(fields, RerankRequest)
    except msgspec.ValidationError as error:
        raise out_of_bounds(error, body.model, {}) from error


def render_ranked(ranked: Ranked, body: RerankBody, answer_id: str, documents: tuple[str, ...]) -> bytes:
    """The best first. `usage` is Jina's and vLLM's, `meta` Cohere's."""
    best = sorted(enumerate(ranked.scores), key=lambda each: -each[1])[: body.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": score} for index, score in best]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    tokens = ranked.finished.usage.prompt_tokens
    return encode_line(
        {
            "id": answer_id,
            "model": body.model,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens}},
        }
    )


def render_error(failure: Failure) -> bytes:
    """`message` is where Cohere's clients look, `detail` where Jina's do, `error` where vLLM's do."""
    return encode_line({"message": failure.message, "detail": failure.message, "error": error_document(failure)})


def _text(document: Any, index: int) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise InvalidRequest(f"documents[{index}]: a text, or an object with a text", "documents")
    return text
