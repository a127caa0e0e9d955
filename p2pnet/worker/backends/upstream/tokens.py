"""Asks servers for a prompt's tokens, and for the text of tokens, in the words of those that can tell. Pure.

vLLM takes messages as they are; llama.cpp renders them first, by another of its routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from p2pnet.errors import WorkerFailed
from p2pnet.messages import MAX_TOKENS_LIMIT, ChatPrompt, TextPrompt, TokenPrompt
from p2pnet.tokenize_messages import TokenizeRequest
from p2pnet.worker.backends.upstream.dialect import UpstreamCall
from p2pnet.worker.backends.upstream.offer import Offer
from p2pnet.worker.backends.upstream.openai.dialect import chat_fields
from p2pnet.worker.backends.upstream.openai.flavours import FLAVOURS, VLLM
from p2pnet.worker.backends.upstream.openai.models import TOKENIZE_PATH
from p2pnet.worker.backends.upstream.reading import decoded

DETOKENIZE_PATH = "/detokenize"
TEMPLATE_PATH = "/apply-template"
"""Of llama.cpp: messages become the text that it would go on with."""

MAX_TOKENS_BYTES = 64 << 20
"""Of one answer: a million tokens with their names, in JSON."""


class _Piece(msgspec.Struct):
    """llama.cpp's token with its name: bytes, where these are no text."""

    id: int
    piece: str | list[int] = ""


class _Tokens(msgspec.Struct):
    tokens: list[int | _Piece]
    token_strs: list[str] | None = None


class _Text(msgspec.Struct):
    """`prompt` is vLLM's and that of llama.cpp's template, `content` llama.cpp's of tokens."""

    prompt: str | None = None
    content: str | None = None


_decode_tokens = msgspec.json.Decoder(_Tokens).decode
_decode_text = msgspec.json.Decoder(_Text).decode


@dataclass(frozen=True)
class Tokens:
    """What a server tells. `names` are empty where it tells none."""

    ids: Sequence[int]
    names: Sequence[str]


def template_call(asked: TokenizeRequest, offer: Offer) -> UpstreamCall | None:
    """What makes a text of messages first; None where nothing has to. Raises InvalidRequest."""
    if not isinstance(asked.prompt, ChatPrompt) or offer.flavour == VLLM.name:
        return None
    return UpstreamCall(TEMPLATE_PATH, {"model": offer.name, **chat_fields(asked.prompt, FLAVOURS[offer.flavour])})


def tokens_call(asked: TokenizeRequest, offer: Offer, rendered: str | None) -> UpstreamCall:
    """What asks for tokens, or for the text of them. `rendered` is what the template has made of messages. Raises
    InvalidRequest."""
    body: dict[str, Any] = {"model": offer.name}
    is_vllm = offer.flavour == VLLM.name
    wants_names = asked.wants == "names"
    match asked.prompt:
        case TokenPrompt(token_ids):
            return UpstreamCall(DETOKENIZE_PATH, body | {"tokens": list(token_ids)})
        case ChatPrompt() as prompt if is_vllm:
            adds_special = asked.adds_special is True
            body |= chat_fields(prompt, VLLM)
        case TextPrompt(text) if is_vllm:
            adds_special = asked.adds_special is not False
            body["prompt"] = text
        case prompt:
            # It adds the first token once, around what its template has made, too.
            text = prompt.text if isinstance(prompt, TextPrompt) else rendered or ""
            adds_special = asked.adds_special is not False
            names = {"add_special": adds_special, "parse_special": True, "with_pieces": wants_names}
            return UpstreamCall(TOKENIZE_PATH, body | {"content": text, **names})
    return UpstreamCall(TOKENIZE_PATH, body | {"add_special_tokens": adds_special, "return_token_strs": wants_names})


def parse_tokens(body: bytes) -> Tokens:
    """Raises WorkerFailed."""
    found = decoded(_decode_tokens, body)
    if len(found.tokens) > MAX_TOKENS_LIMIT:
        raise WorkerFailed("the upstream server sent too many tokens")
    names = found.token_strs or [_name(token.piece) for token in found.tokens if isinstance(token, _Piece)]
    return Tokens([token if isinstance(token, int) else token.id for token in found.tokens], names)


def parse_text(body: bytes) -> str:
    """Raises WorkerFailed."""
    found = decoded(_decode_text, body)
    text = found.content if found.prompt is None else found.prompt
    if text is None:
        raise WorkerFailed("the upstream server sent no text")
    return text


def _name(piece: str | list[int]) -> str:
    return piece if isinstance(piece, str) else bytes(byte & 0xFF for byte in piece).decode(errors="replace")
