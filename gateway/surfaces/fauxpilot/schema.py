"""Parses FauxPilot's request bodies, with its defaults, into a GenerateRequest.

It is OpenAI's API for completions as editors' plugins spoke it in the days of Codex. As FauxPilot did, this ignores
`logit_bias`: those who send it mean tokens of Codex. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from pydantic import Field

from gateway.http.bodies import Body, greedy_without_choice, out_of_bounds, validated
from p2pnet.errors import InvalidRequest
from p2pnet.messages import GenerateRequest

DEFAULT_MAX_TOKENS = 16
DEFAULT_TEMPERATURE = 0.6
DEFAULT_TOP_P = 1.0
"""FauxPilot's frequency_penalty of 1 is no such penalty: it hands it on as one on repetition, where 1 is none."""


class CompletionBody(Body):
    prompt: str | Annotated[list[str], Field(fail_fast=True)]
    suffix: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stream: bool | None = None
    logprobs: int | None = None
    echo: bool | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    best_of: int | None = None

    @property
    def is_stream(self) -> bool:
        """FauxPilot takes `false` for a stream, too; nobody who sends that wants one."""
        return bool(self.stream)


def parse_completion(raw: bytes) -> CompletionBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(CompletionBody, raw)
    if not isinstance(body.prompt, str) and len(body.prompt) != 1:
        raise InvalidRequest("prompt: one text", "prompt")
    if (body.best_of or 1) > (body.n or 1):
        raise InvalidRequest("best_of: only as many as n are made here", "best_of")
    return body


def completion_request(
    body: CompletionBody, model: str, request_id: str, make_seed: Callable[[], int]
) -> GenerateRequest:
    """Raises InvalidRequest, ModelNotFound."""
    fields = {
        "request_id": request_id,
        "model": model,
        "prompt": {
            "type": "text",
            "text": body.prompt if isinstance(body.prompt, str) else body.prompt[0],
            "suffix": body.suffix or "",
        },
        "sampling": greedy_without_choice(
            {
                "seed": make_seed(),
                "temperature": DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
                "top_p": DEFAULT_TOP_P if body.top_p is None else body.top_p,
                "presence_penalty": body.presence_penalty or 0.0,
                "frequency_penalty": body.frequency_penalty or 0.0,
            }
        ),
        "max_tokens": DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        "n": 1 if body.n is None else body.n,
        "stop": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        "logprobs": body.logprobs or None,
        "echo": bool(body.echo),
    }
    try:
        return msgspec.convert(fields, GenerateRequest)
    except msgspec.ValidationError as error:
        raise out_of_bounds(error, model, {}) from error
