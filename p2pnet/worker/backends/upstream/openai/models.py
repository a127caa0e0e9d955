"""Reads the list of models of a server with OpenAI's API, and makes offers of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from p2pnet import features
from p2pnet.errors import WorkerFailed
from p2pnet.records import ModelCard
from p2pnet.worker.backends.upstream.offer import (
    DEFAULT_CONTEXT_LENGTH,
    MAX_CONTEXT_LENGTH,
    Offer,
    precision,
    upstream_digest,
)
from p2pnet.worker.backends.upstream.openai.flavours import LLAMA_CPP, flavour_of
from p2pnet.worker.backends.upstream.reading import UNREADABLE, decoded

KIND = "openai"
MODELS_PATH = "/v1/models"
PROPS_PATH = "/props"
"""Of llama.cpp."""

_EMBEDS = re.compile(r"(^|[-_/.])embed(ding)?s?([-_/.:]|$)", re.IGNORECASE)
"""LM Studio and others list embedding models among the rest, and only the name tells."""


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_params: int | None = None
    n_vocab: int | None = None
    size: int | None = None
    ftype: str | None = None


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    root: str | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    context_window: int | None = None
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _TemplateCaps(msgspec.Struct):
    supports_tools: bool = False
    supports_tool_calls: bool = False


class _Props(msgspec.Struct):
    chat_template_caps: _TemplateCaps | None = None


@dataclass(frozen=True)
class Abilities:
    """What a server can do that its list of models does not say."""

    has_chat: bool = True
    has_text: bool = True
    template_has_tools: bool = False
    """Of llama.cpp; others do not tell."""
    continues_chats: bool = False
    """Of llama.cpp, whose old versions begin a new message after a last one of the assistant's."""


_decode_props = msgspec.json.Decoder(_Props).decode

_decode_models = msgspec.json.Decoder(_Models, strict=False).decode


def parse_models(body: bytes, abilities: Abilities) -> list[Offer]:
    """The offers of a model list. Raises WorkerFailed."""
    return [_offer(model, abilities) for model in decoded(_decode_models, body).data]


def is_model_list(body: bytes) -> bool:
    """Whether this is how OpenAI's API lists models."""
    try:
        parse_models(body, Abilities())
    except WorkerFailed:
        return False
    return True


def parse_template_has_tools(body: bytes) -> bool:
    """Whether llama.cpp's `/props` says that the chat template has tools. A template without them drops tools in
    silence."""
    caps = _template_caps(body)
    return caps is not None and caps.supports_tools and caps.supports_tool_calls


def parse_continues_chats(body: bytes) -> bool:
    """Whether llama.cpp's `/props` is of a version that goes on with a chat's last message: all versions that tell what
    a template can do are."""
    return _template_caps(body) is not None


def _template_caps(body: bytes) -> _TemplateCaps | None:
    try:
        return _decode_props(body).chat_template_caps
    except UNREADABLE:
        return None


def _offer(model: _Model, abilities: Abilities) -> Offer:
    flavour = flavour_of(model.owned_by)
    chat = flavour.chat if abilities.has_chat else frozenset[str]()
    text = flavour.text if abilities.has_text else frozenset[str]()
    if _EMBEDS.search(model.id):
        chat = text = frozenset()
    if flavour is LLAMA_CPP and not abilities.template_has_tools:
        chat -= {features.TOOLS}
    if flavour is LLAMA_CPP and not abilities.continues_chats:
        chat, text = chat - {features.RESUME_TEXT}, text - {features.RESUME_TEXT}
    quantization, dtype = _precision(model.meta.ftype if model.meta else None)
    card = ModelCard(
        id=model.id,
        digest=upstream_digest(KIND, model.id, model.root or "", _declared(model.meta)),
        context_length=_context_length(model),
        quantization=quantization,
        dtype=dtype,
        features=tuple(sorted(chat | text)),
    )
    return Offer(card, chat, text, flavour=flavour.name)


def _precision(file_type: str | None) -> tuple[str, str]:
    """Quantization and dtype from llama.cpp's words: `Q4_K - Medium`, `all F32`, `F16`."""
    words = re.findall(r"\w+", (file_type or "").removesuffix("(guessed)").removeprefix("all "))
    return precision("_".join(words))


def _declared(meta: _Meta | None) -> str:
    """What llama.cpp says of a file's size and shape, which tells quantizations of one model apart."""
    return f"{meta.n_params}/{meta.n_vocab}/{meta.size}" if meta else ""


def _context_length(model: _Model) -> int:
    told = (model.max_model_len, model.meta.n_ctx if model.meta else None, model.context_length, model.context_window)
    length = next((length for length in told if length and length > 0), DEFAULT_CONTEXT_LENGTH)
    trained = model.meta.n_ctx_train if model.meta else None
    return min(length, trained if trained and trained > 0 else length, MAX_CONTEXT_LENGTH)
