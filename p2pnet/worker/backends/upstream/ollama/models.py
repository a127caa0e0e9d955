"""Reads what Ollama tells of its models, and makes offers of it. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from p2pnet import features
from p2pnet.records import ModelCard
from p2pnet.worker.backends.upstream.offer import (
    DEFAULT_CONTEXT_LENGTH,
    MAX_CONTEXT_LENGTH,
    Offer,
    precision,
    upstream_digest,
)
from p2pnet.worker.backends.upstream.reading import UNREADABLE, decoded

KIND = "ollama"
VERSION_PATH = "/api/version"
TAGS_PATH = "/api/tags"
RUNNING_PATH = "/api/ps"
SHOW_PATH = "/api/show"

LOGPROBS_SINCE = (0, 12, 11)

_CONSTRAINTS = frozenset({features.JSON, features.JSON_SCHEMA})
"""No `penalties` and no `sampling`: models that run on its own engine ignore the penalties in silence
(ollama/ollama issue 15783)."""


class _Details(msgspec.Struct):
    quantization_level: str | None = None


class Tag(msgspec.Struct):
    """A model in Ollama's list. `remote_host` is set for those that run on somebody else's servers."""

    name: str
    digest: str = ""
    remote_host: str | None = None
    remote_model: str | None = None

    @property
    def is_remote(self) -> bool:
        return bool(self.remote_host or self.remote_model)


class _Tags(msgspec.Struct):
    models: list[Tag] | None = None


class Shown(msgspec.Struct):
    """The details that Ollama shows of one model."""

    model_info: dict[str, Any] | None = None
    parameters: str | None = None
    details: _Details | None = None
    template: str | None = None
    capabilities: list[str] | None = None
    """None before version 0.6.4."""
    remote_host: str | None = None


class _Running(msgspec.Struct):
    name: str
    context_length: int | None = None


class _RunningModels(msgspec.Struct):
    models: list[_Running] | None = None


class _Version(msgspec.Struct):
    version: str


_decode_version = msgspec.json.Decoder(_Version).decode
_decode_tags = msgspec.json.Decoder(_Tags).decode
_decode_shown = msgspec.json.Decoder(Shown).decode
_decode_running = msgspec.json.Decoder(_RunningModels).decode


def parse_version(body: bytes) -> tuple[int, ...] | None:
    """Ollama's version, or None where this is not Ollama."""
    try:
        version = _decode_version(body).version
    except UNREADABLE:
        return None
    return tuple(int(number[:9]) for number in re.findall(r"\d+", version)[:3])


def parse_tags(body: bytes) -> list[Tag]:
    """The models in the list. Raises WorkerFailed."""
    return decoded(_decode_tags, body).models or []


def parse_shown(body: bytes) -> Shown:
    """The details of a model. Raises WorkerFailed."""
    return decoded(_decode_shown, body)


def parse_running(body: bytes) -> dict[str, int]:
    """The context length that each loaded model really has, by name. Raises WorkerFailed."""
    running = decoded(_decode_running, body).models or []
    return {model.name: model.context_length for model in running if model.context_length and model.context_length > 0}


def offer_of(tag: Tag, shown: Shown, running_context: int | None, version: tuple[int, ...]) -> Offer | None:
    """The offer of one model, or None when it neither generates nor embeds, or runs elsewhere.

    `running_context` is the context with which it was last seen loaded.
    """
    capabilities = frozenset(shown.capabilities) if shown.capabilities is not None else frozenset({"completion"})
    if shown.remote_host or not capabilities & {"completion", "embedding"}:
        return None
    embeds = "completion" not in capabilities
    extras = _CONSTRAINTS | ({features.LOGPROBS} if version >= LOGPROBS_SINCE else frozenset())
    chat = extras | {features.CHAT} | ({features.TOOLS} if "tools" in capabilities else frozenset())
    text = extras | {features.TEXT} | ({features.FIM} if "insert" in capabilities else frozenset())
    if "thinking" not in capabilities and _continues(shown.template or ""):
        chat, text = chat | {features.RESUME_TEXT}, text | {features.RESUME_TEXT}
    if "vision" in capabilities:
        chat |= {features.IMAGES}
    if embeds:
        chat, text = frozenset(), frozenset({features.TEXT, features.DIMENSIONS})
    quantization, dtype = precision(shown.details.quantization_level if shown.details else None)
    card = ModelCard(
        id=tag.name,
        digest=upstream_digest(KIND, tag.name, declared=tag.digest),
        context_length=_context_length(shown, running_context),
        quantization=quantization,
        dtype=dtype,
        features=tuple(sorted(chat | text)),
        task="embed" if embeds else "generate",
    )
    stops, thinks = _own_stops(shown), "thinking" in capabilities
    return Offer(card, chat, text, stops, does="embed" if embeds else "generate", thinks=thinks, flavour=KIND)


def _continues(template: str) -> bool:
    """Whether the template leaves a last message of the assistant open, so that the model goes on with it.

    That is what Ollama's maintainers advise (ollama/ollama issue 6778), and most templates written for it do so: those
    that do not end the last message, and the older ones, for a prompt and a response, which Ollama cuts after the
    response. Of models that it renders without a template this is not known.
    """
    if ".Messages" in template:
        return re.search(r"\{\{-?\s*if\s+not\s+\$last\b", template) is not None
    return ".Response" in template


def _context_length(shown: Shown, running_context: int | None) -> int:
    """The context that it serves, which is seldom all that the model could do: Ollama's own default unless the model's
    file says more."""
    told = running_context or _own_context(shown) or DEFAULT_CONTEXT_LENGTH
    lengths = [
        value
        for name, value in (shown.model_info or {}).items()
        if name.endswith(".context_length") and isinstance(value, int) and value > 0
    ]
    return min(told, *lengths, MAX_CONTEXT_LENGTH)


def _own_context(shown: Shown) -> int | None:
    found = re.search(r"^num_ctx\s+(\d{1,9})\s*$", shown.parameters or "", re.MULTILINE)
    return (int(found[1]) or None) if found else None


def _own_stops(shown: Shown) -> tuple[str, ...]:
    """The `stop` lines of the model's parameters, each a quoted string."""
    stops = []
    for quoted in re.findall(r'^stop\s+(".*")\s*$', shown.parameters or "", re.MULTILINE):
        try:
            stops.append(msgspec.json.decode(quoted, type=str))
        except UNREADABLE:
            stops.append(quoted[1:-1])
    return tuple(stops)
