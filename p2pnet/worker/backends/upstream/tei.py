"""Reads what Hugging Face's text-embeddings-inference (TEI) says of the one model that it runs, which embeds or ranks.
Pure.
"""

from __future__ import annotations

from typing import Any

import msgspec

from p2pnet import features
from p2pnet.errors import WorkerFailed
from p2pnet.records import ModelCard
from p2pnet.worker.backends.upstream.offer import (
    DEFAULT_CONTEXT_LENGTH,
    MAX_CONTEXT_LENGTH,
    UNKNOWN,
    Does,
    Offer,
    upstream_digest,
)
from p2pnet.worker.backends.upstream.reading import decoded

KIND = "tei"
INFO_PATH = "/info"

_DOES: dict[str, tuple[Does, tuple[str, ...]]] = {
    "embedding": ("embed", (features.DIMENSIONS, features.TEXT)),
    "reranker": ("rank", (features.RERANK,)),
}
"""What its kinds of model do here. The third, which sorts texts into classes, does nothing."""

_DTYPES = frozenset({"float32", "float16", "bfloat16"})


class _Info(msgspec.Struct):
    model_id: str
    model_type: dict[str, Any]
    model_sha: str | None = None
    model_dtype: str = UNKNOWN
    max_input_length: int = DEFAULT_CONTEXT_LENGTH
    served_model_name: str | None = None


_decode_info = msgspec.json.Decoder(_Info).decode


def parse_info(body: bytes) -> list[Offer]:
    """The offer of its model; none where that is good for nothing here. Raises WorkerFailed."""
    info = decoded(_decode_info, body)
    return [_offer(info, *_DOES[kind]) for kind in info.model_type if kind in _DOES][:1]


def is_info(body: bytes) -> bool:
    """Whether this is how it tells of itself."""
    try:
        parse_info(body)
    except WorkerFailed:
        return False
    return True


def _offer(info: _Info, does: Does, can: tuple[str, ...]) -> Offer:
    known = info.model_dtype in _DTYPES
    card = ModelCard(
        id=info.served_model_name or info.model_id,
        digest=upstream_digest(KIND, info.model_id, declared=info.model_sha or ""),
        context_length=min(max(1, info.max_input_length), MAX_CONTEXT_LENGTH),
        quantization="none" if known else UNKNOWN,
        dtype=info.model_dtype if known else UNKNOWN,
        features=can,
        task="embed",
    )
    return Offer(card, does=does, flavour=KIND)
