"""Parses the bodies of /tokenize and /detokenize into a TokenizeRequest, and renders their answers, in vLLM's shapes.

Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.http.bodies import Body, out_of_bounds, validated
from gateway.http.collected import TokensTold
from gateway.http.one_line import encode_line
from gateway.surfaces.openai.chat import chat_request, parse_chat
from p2pnet.errors import InvalidRequest
from p2pnet.messages import ChatPrompt
from p2pnet.tokenize_messages import TokenizeRequest

_NAMES = {"token_ids": "tokens", "text": "prompt"}
"""What vLLM calls fields of ours."""


class TokenizeBody(Body):
    """What both forms have in common, and the prompt of one. The messages of the other are read as a chat's."""

    model: str
    prompt: str | None = None
    messages: Any = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None


class DetokenizeBody(Body):
    model: str
    tokens: list[Any]


def tokenize_request(raw: bytes, request_id: str) -> TokenizeRequest:
    """A text's tokens, or those of messages as a chat's prompt has them. Raises InvalidRequest, ModelNotFound."""
    body = validated(TokenizeBody, raw)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("prompt: give a prompt or messages, and not both", "prompt")
    prompt: ChatPrompt | dict[str, Any] = {"type": "text", "text": body.prompt}
    if body.messages is not None:
        _refuse(body)
        asked = chat_request(parse_chat(raw), request_id, lambda: 0).prompt
        assert isinstance(asked, ChatPrompt)
        prompt = asked
    wants = "names" if body.return_token_strs else "ids"
    return _request(body.model, request_id, prompt, wants=wants, adds_special=body.add_special_tokens)


def detokenize_request(raw: bytes, request_id: str) -> TokenizeRequest:
    """The text of token ids. Raises InvalidRequest, ModelNotFound."""
    body = validated(DetokenizeBody, raw)
    return _request(body.model, request_id, {"type": "tokens", "token_ids": body.tokens})


def render_tokens(told: TokensTold, context_length: int | None) -> bytes:
    """`max_model_len` is null where no worker has told it."""
    return encode_line(
        {
            "count": told.finished.usage.prompt_tokens,
            "max_model_len": context_length,
            "tokens": told.token_ids,
            "token_strs": told.names or None,
        }
    )


def render_text(told: TokensTold) -> bytes:
    return encode_line({"prompt": told.text})


def _refuse(body: TokenizeBody) -> None:
    """Messages are counted as a generation renders them."""
    fields = (
        ("add_generation_prompt", body.add_generation_prompt is False),
        ("continue_final_message", bool(body.continue_final_message)),
        ("chat_template", body.chat_template is not None),
    )
    for name, is_used in fields:
        if is_used:
            raise InvalidRequest(f"{name}: not supported here; messages are rendered as a chat renders them", name)


def _request(
    model: str, request_id: str, prompt: ChatPrompt | dict[str, Any], **wanted: str | bool | None
) -> TokenizeRequest:
    fields = {"request_id": request_id, "model": model, "prompt": prompt, **wanted}
    try:
        return msgspec.convert(fields, TokenizeRequest)
    except msgspec.ValidationError as error:
        raise out_of_bounds(error, model, _NAMES) from error
