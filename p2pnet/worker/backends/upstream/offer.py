"""Defines an offer: a model that an upstream server has, as this worker can announce it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from p2pnet.messages import ChatPrompt, ModelId, Prompt
from p2pnet.records import Label, ModelCard

DIGEST_DOMAIN = "p2pnet/upstream/1"

DEFAULT_CONTEXT_LENGTH = 4096
"""Of a server that does not say: what llama.cpp and Ollama give a model when nobody asks for more."""

MAX_CONTEXT_LENGTH = 1 << 24
"""What a record may hold."""

_UNQUANTIZED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

UNKNOWN = "unknown"
"""The label of a quantization or dtype that the server does not tell."""


@dataclass(frozen=True)
class Offer:
    """A model that an upstream server has, and what can be asked of it on each of its two endpoints."""

    card: ModelCard
    chat: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    stop: tuple[str, ...] = ()
    """Stop strings of the model itself, which those of a request would replace there."""
    thinks: bool = False
    flavour: str = ""

    def features_for(self, prompt: Prompt) -> frozenset[str]:
        return self.chat if isinstance(prompt, ChatPrompt) else self.text


def upstream_digest(kind: str, name: str, root: str = "", declared: str = "") -> str:
    """The digest of a model whose weights we never see.

    It promises less than our own: two workers have the same one when their servers are of the same kind and *say* the
    same of the model: its name, what it was made from (`root`), and the server's own digest or sizes (`declared`).
    Ollama's digest covers weights, template and parameters, so there it means the same files as long as the server is
    honest; with OpenAI's API it means the same name. It never equals the digest of a model that we load ourselves.
    """
    parts = msgspec.json.encode([DIGEST_DOMAIN, kind, name, root, declared])
    return "sha256:" + sha256(parts).hexdigest()


def is_model_id(name: str) -> bool:
    """Whether a model can be announced under the name that its server has for it."""
    return _fits(name, ModelId)


def precision(level: str | None) -> tuple[str, str]:
    """Quantization and dtype in our words, from a file type of GGUF."""
    if level in _UNQUANTIZED:
        return "none", _UNQUANTIZED[level]
    return (level if level and _fits(level, Label) else UNKNOWN), UNKNOWN


def _fits(value: str, annotated: Any) -> bool:
    try:
        msgspec.convert(value, annotated)
    except msgspec.ValidationError:
        return False
    return True
