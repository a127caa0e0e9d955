"""Parses the bodies of /v1/completions into a GenerateRequest for each prompt.

Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.http.bodies import validated
from gateway.surfaces.openai.schema import GenerationBody, generate_request, refuse
from p2pnet.errors import InvalidRequest
from p2pnet.messages import GenerateRequest, TextPrompt, TokenPrompt

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for /v1/completions; its chat has none."""

MAX_PROMPTS = 32
"""Each is a request of its own, with its own slot at a worker: of more, one client would hold a small network."""

SCORED_TOKENS = 1
"""What is generated, and thrown away, where nothing but the prompt is to come back: no worker gives an empty answer."""

_MAX_REQUEST_ID_CHARS = 124
"""What leaves room for the number of a prompt."""


class CompletionBody(GenerationBody):
    """Editors' plugins leave `model` out: the gateway then has one for code."""

    model: str | None = None
    prompt: str | list[Any]
    n: int | None = None
    max_tokens: int | None = None
    best_of: int | None = None
    logprobs: int | None = None
    suffix: str | None = None
    echo: bool | None = None

    @property
    def is_only_prompt(self) -> bool:
        """Nothing is to be generated, only the prompt to be echoed, usually for its logprobs."""
        return self.max_tokens == 0 and bool(self.echo)


def parse_completion(raw: bytes) -> CompletionBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(CompletionBody, raw)
    refuse(body)
    if body.best_of not in (None, 1 if body.n is None else body.n):
        raise InvalidRequest("best_of: only as many as n are made here, and all of them are sent", "best_of")
    return body


def completion_requests(
    body: CompletionBody, model: str, request_id: str, make_seed: Callable[[], int]
) -> tuple[GenerateRequest, ...]:
    """One request to this model for each prompt, in their order. Raises InvalidRequest, ModelNotFound."""
    prompts = _prompts(body.prompt, body.suffix or "")
    ids = (request_id, *(f"{request_id[:_MAX_REQUEST_ID_CHARS]}-{i}" for i in range(1, len(prompts))))
    return tuple(_request(body, model, prompt, name, make_seed) for prompt, name in zip(prompts, ids, strict=True))


def _request(
    body: CompletionBody, model: str, prompt: TextPrompt | TokenPrompt, request_id: str, make_seed: Callable[[], int]
) -> GenerateRequest:
    max_tokens = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    fields = {
        "request_id": request_id,
        "model": model,
        "prompt": prompt,
        "max_tokens": SCORED_TOKENS if body.is_only_prompt else max_tokens,
        "n": 1 if body.n is None else body.n,
        "logprobs": body.logprobs,
        "echo": bool(body.echo),
    }
    return generate_request(body, fields, make_seed())


def _prompts(given: str | list[Any], suffix: str) -> list[TextPrompt | TokenPrompt]:
    """A text, the token ids of one, or a list of such."""
    if isinstance(given, str) or (given and not isinstance(given[0], str | list)):
        given = [given]
    if not 1 <= len(given) <= MAX_PROMPTS:
        raise InvalidRequest(f"prompt: 1 to {MAX_PROMPTS} prompts in one request", "prompt")
    return [_prompt(each, suffix) for each in given]


def _prompt(given: Any, suffix: str) -> TextPrompt | TokenPrompt:
    if isinstance(given, str):
        return TextPrompt(given, suffix)
    if suffix:
        raise InvalidRequest("suffix: needs a prompt of text", "suffix")
    try:
        return msgspec.convert({"token_ids": given}, TokenPrompt)
    except msgspec.ValidationError as error:
        raise InvalidRequest("prompt: a text or a list of token ids, or a list of such", "prompt") from error
