"""Asks servers how well documents answer a query, and reads what comes: by Jina's API, which llama.cpp, vLLM and SGLang
have, too, and by TEI's. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from p2pnet.errors import WorkerFailed
from p2pnet.rerank_messages import RerankRequest
from p2pnet.worker.backends.upstream.dialect import UpstreamCall
from p2pnet.worker.backends.upstream.offer import Offer
from p2pnet.worker.backends.upstream.openai.flavours import VLLM
from p2pnet.worker.backends.upstream.reading import MAX_COUNT, decoded
from p2pnet.worker.backends.upstream.tei import KIND as TEI

RERANK_PATH = "/v1/rerank"
TEI_RERANK_PATH = "/rerank"

DOCUMENTS_AT_ONCE = 16
"""Of one call: others get their turn at the server in between, and scores come before a client loses patience."""

MAX_RANKS_BYTES = 32 << 20
"""Of one answer: vLLM repeats the documents, of which a request has some 4 MiB, and JSON may take six bytes for one."""


class _Ranked(msgspec.Struct):
    """`score` is SGLang's and TEI's, and so is a list of these alone."""

    index: int
    relevance_score: float | None = None
    score: float | None = None


class _Counts(msgspec.Struct):
    """Some versions of vLLM tell the total alone."""

    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Ranks(msgspec.Struct):
    results: list[_Ranked]
    usage: _Counts | None = None


_decode_ranks = msgspec.json.Decoder(_Ranks | list[_Ranked]).decode


@dataclass(frozen=True)
class RankBatch:
    """Some documents of a request, from the one at `start` on, as they are asked for."""

    start: int
    documents: int
    call: UpstreamCall


@dataclass(frozen=True)
class Ranks:
    """What the server gave for one batch: the scores in the order of the documents."""

    scores: tuple[float, ...]
    prompt_tokens: int | None


def rank_batches(request: RerankRequest, offer: Offer) -> Iterator[RankBatch]:
    """The calls that ask for all documents."""
    for start in range(0, len(request.documents), DOCUMENTS_AT_ONCE):
        some = request.documents[start : start + DOCUMENTS_AT_ONCE]
        yield RankBatch(start, len(some), _call(request.query, list(some), offer))


def parse_ranks(body: bytes, documents: int) -> Ranks:
    """The scores of so many documents, each once. Raises WorkerFailed for what is not that."""
    said = decoded(_decode_ranks, body)
    ranked, counts = (said, None) if isinstance(said, list) else (said.results, said.usage)
    if sorted(each.index for each in ranked) != list(range(documents)):
        raise WorkerFailed("the upstream server ranked other documents than it was given")
    scores = [_score(each) for each in sorted(ranked, key=lambda each: each.index)]
    return Ranks(tuple(scores), None if counts is None else _tokens(counts))


def has_ranks(body: bytes) -> bool:
    """Whether this is the score of one document."""
    try:
        parse_ranks(body, 1)
    except WorkerFailed:
        return False
    return True


def _call(query: str, documents: list[str], offer: Offer) -> UpstreamCall:
    if offer.flavour == TEI:
        return UpstreamCall(TEI_RERANK_PATH, {"query": query, "texts": documents, "truncate": True})
    body: dict[str, Any] = {"model": offer.name, "query": query, "documents": documents}
    if offer.flavour == VLLM.name:  # llama.cpp refuses what is too long
        body["truncate_prompt_tokens"] = -1
    return UpstreamCall(RERANK_PATH, body)


def _score(ranked: _Ranked) -> float:
    score = ranked.score if ranked.relevance_score is None else ranked.relevance_score
    if score is None or not math.isfinite(score):
        raise WorkerFailed("the upstream server gave a document a score that is none")
    return score


def _tokens(counts: _Counts) -> int | None:
    told = counts.total_tokens if counts.prompt_tokens is None else counts.prompt_tokens
    return told if told is not None and 0 <= told < MAX_COUNT else None
