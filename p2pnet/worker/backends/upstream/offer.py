"""Defines an offer: a model that an upstream server has, as this worker can announce it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

import msgspec

from p2pnet.features import IMAGES
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


_ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]")
"""How a path begins that says where on its machine a file is."""


Does = Literal["generate", "embed", "rank"]
"""A model does one of these: what embeds or ranks generates nothing."""


@dataclass(frozen=True)
class Offer:
    """A model that an upstream server has, and what can be asked of it on each of its two endpoints."""

    card: ModelCard
    chat: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    stop: tuple[str, ...] = ()
    """Stop strings of the model itself, which those of a request would replace there."""
    does: Does = "generate"
    thinks: bool = False
    slots: int = 0
    """How many requests the server computes at the same time; 0 is not known."""
    flavour: str = ""
    name_there: str = ""
    """What the server calls the model, where that is not what it is announced as."""

    @property
    def name(self) -> str:
        """What the server calls the model."""
        return self.name_there or self.card.id

    def called(self, name: str) -> Offer:
        """The same, announced under this name."""
        return replace(self, card=msgspec.structs.replace(self.card, id=name), name_there=self.name)

    def reading_images(self) -> Offer:
        """The same, of a model that reads images in chats; of one that does not chat, the same."""
        if not self.chat:
            return self
        chat = self.chat | {IMAGES}
        card = msgspec.structs.replace(self.card, features=tuple(sorted(chat | self.text)))
        return replace(self, card=card, chat=chat)

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


def announced_name(name: str) -> str | None:
    """What a model can be announced as that its server calls so: the same where that will do. Of an absolute path it is
    the last part: where its owner keeps files is nobody's business. None where nothing would remind of the name."""
    if _fits(name, ModelId):
        return name
    if not (name.isascii() and name.isprintable()):
        return None
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1] if _ABSOLUTE.match(name) else name
    cleaned = re.sub(r"[^A-Za-z0-9._:/@+-]+", "-", last).strip("-").lstrip("._:/@+-")
    return cleaned if _fits(cleaned, ModelId) else None


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
