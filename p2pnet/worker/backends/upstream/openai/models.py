"""Reads the list of models of a server with OpenAI's API, and makes offers of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from p2pnet import features
from p2pnet.errors import WorkerFailed
from p2pnet.records import ModelCard
from p2pnet.worker.backends.upstream.offer import (
    DEFAULT_CONTEXT_LENGTH,
    MAX_CONTEXT_LENGTH,
    Does,
    Offer,
    precision,
    upstream_digest,
)
from p2pnet.worker.backends.upstream.openai.flavours import ENGINES, LLAMA_CPP, UNRECOGNISED, VLLM, Flavour, flavour_of
from p2pnet.worker.backends.upstream.reading import UNREADABLE, decoded

KIND = "openai"
MODELS_PATH = "/v1/models"
PROPS_PATH = "/props"
"""Of llama.cpp."""
DESCRIBED_PATH = "/api/v0/models"
"""Of LM Studio: what kind of model each is."""
TOKENIZE_PATH = "/tokenize"
"""Of vLLM and of llama.cpp."""
CHATML_MARK = "<|im_start|>"
"""How each message begins in the template that llama.cpp takes for a model that has none of its own. To a model that
was trained with it, it is one token; to others it is a few letters, and they do not know what to do with it."""

_EMBEDS = re.compile(r"(^|[-_/.])embed(ding)?s?([-_/.:]|$)", re.IGNORECASE)
"""LM Studio and others list embedding models among the rest, and only the name tells."""

_RANKS = re.compile(r"(^|[-_/.])re-?rank(er|ing)?s?([-_/.:]|$)", re.IGNORECASE)
"""The same for models that rank documents."""

EMBEDDING = (features.TEXT, features.TOKENS, features.DIMENSIONS)
"""Vectors are cut short here, whatever the server can."""


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


class _Modalities(msgspec.Struct):
    vision: bool = False


class Props(msgspec.Struct):
    """What llama.cpp tells of itself. `modalities` are those of a model that was loaded with its projector."""

    chat_template_caps: _TemplateCaps | None = None
    chat_template: str = ""
    total_slots: int = 0
    modalities: _Modalities = msgspec.field(default_factory=_Modalities)

    @property
    def template_has_tools(self) -> bool:
        """A template without them drops tools in silence."""
        caps = self.chat_template_caps
        return caps is not None and caps.supports_tools and caps.supports_tool_calls

    @property
    def continues_chats(self) -> bool:
        """Whether it is of a version that goes on with a chat's last message: all that tell what a template can do
        are."""
        return self.chat_template_caps is not None


class _Described(msgspec.Struct):
    id: str
    type: str = ""


class _DescribedModels(msgspec.Struct):
    data: list[_Described]


class _Tokens(msgspec.Struct):
    tokens: list[Any]


@dataclass(frozen=True)
class Abilities:
    """What a server can do that its list of models does not say."""

    has_chat: bool = True
    has_text: bool = True
    template_has_tools: bool = False
    """Of llama.cpp; others do not tell."""
    continues_chats: bool = False
    """Of llama.cpp, whose old versions begin a new message after a last one of the assistant's."""
    gives_choices: bool = False
    """Of llama.cpp, whose old versions give one answer whatever `n` says."""
    slots: int = 0
    """Of llama.cpp: how many requests it computes at the same time. 0 is not known."""
    reads_images: bool = False
    """Of llama.cpp; of LM Studio's models another list tells (`parse_readers`), of others nothing does."""
    does: Does | None = None
    """What its model does if that is not to generate, of a server that runs one."""
    tells_tokens: bool = False
    """Whether it has the routes for that."""
    has_vectors: bool = False
    """Whether it has a route for vectors at all, of a server that runs many."""
    has_ranks: bool = False
    """The same for scores of documents."""


_decode_props = msgspec.json.Decoder(Props).decode
_decode_tokens = msgspec.json.Decoder(_Tokens).decode

_decode_described = msgspec.json.Decoder(_DescribedModels).decode
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


def parse_readers(body: bytes) -> frozenset[str]:
    """The models that read images, as LM Studio says it; none where it does not."""
    try:
        return frozenset(model.id for model in _decode_described(body).data if model.type == "vlm")
    except UNREADABLE:
        return frozenset()


def parse_props(body: bytes) -> Props | None:
    """What llama.cpp's `/props` says; None where this is not llama.cpp."""
    try:
        return _decode_props(body)
    except UNREADABLE:
        return None


def only_model(body: bytes) -> tuple[str, Flavour] | None:
    """The first model in a list, of a server that runs one. None where it runs many, or we do not know it."""
    models = decoded(_decode_models, body).data
    flavour = flavour_of(models[0].owned_by) if models else UNRECOGNISED
    return (models[0].id, flavour) if flavour in ENGINES else None


def is_one_token(body: bytes) -> bool:
    """Whether llama.cpp's `/tokenize` says that a text is one token. True where it does not say."""
    try:
        return len(_decode_tokens(body).tokens) == 1
    except UNREADABLE:
        return True


def _offer(model: _Model, abilities: Abilities) -> Offer:
    flavour = flavour_of(model.owned_by)
    chat = flavour.chat if abilities.has_chat else frozenset[str]()
    text = flavour.text if abilities.has_text else frozenset[str]()
    does = abilities.does or _does_by_name(model.id)
    if does == "embed":
        chat, text = frozenset(), frozenset(EMBEDDING if abilities.does or abilities.has_vectors else ())
    elif does == "rank":
        chat, text = frozenset(), frozenset({features.RERANK} if abilities.does or abilities.has_ranks else ())
    elif flavour is LLAMA_CPP:
        lacks = _lacks(abilities)
        chat, text = chat - lacks, text - lacks
    if does == "generate" and abilities.tells_tokens and flavour in (VLLM, LLAMA_CPP):
        chat, text = (each | {features.TOKENIZE} if each else each for each in (chat, text))
    quantization, dtype = _precision(model.meta.ftype if model.meta else None)
    card = ModelCard(
        id=model.id,
        digest=upstream_digest(KIND, model.id, model.root or "", _declared(model.meta)),
        context_length=_context_length(model),
        quantization=quantization,
        dtype=dtype,
        features=tuple(sorted(chat | text)),
        task="generate" if does == "generate" else "embed",
    )
    return Offer(card, chat, text, slots=abilities.slots, does=does, flavour=flavour.name)


def _does_by_name(name: str) -> Does:
    if _RANKS.search(name):
        return "rank"
    return "embed" if _EMBEDS.search(name) else "generate"


def _lacks(abilities: Abilities) -> frozenset[str]:
    """What this llama.cpp cannot do, of what the newest can with the best of templates."""
    can = {
        features.TOOLS: abilities.template_has_tools,
        features.RESUME_TEXT: abilities.continues_chats,
        features.CHOICES: abilities.gives_choices,
        features.IMAGES: abilities.reads_images,
    }
    return frozenset(name for name, is_there in can.items() if not is_there)


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
