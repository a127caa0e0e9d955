"""Renders what OpenAI's answers share, and its small documents: models, errors, usage. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.http.failures import Failure
from gateway.http.one_line import encode_line
from gateway.interface import ModelEntry
from p2pnet.messages import Usage


def usage_document(usage: Usage) -> dict[str, Any]:
    """The usage of chat and completions."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def model_document(entry: ModelEntry) -> dict[str, Any]:
    """OpenAI's four fields, and what this network knows beyond them (`max_model_len` is vLLM's name)."""
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created_s,
        "owned_by": "p2pnet",
        "max_model_len": entry.context_length,
        "workers": entry.workers,
        "digests": entry.digests,
        "tasks": entry.tasks,
        "features": entry.features,
    }


def render_models(entries: Sequence[ModelEntry]) -> bytes:
    return encode_line({"object": "list", "data": [model_document(entry) for entry in entries]})


def render_model(entry: ModelEntry) -> bytes:
    return encode_line(model_document(entry))


def error_document(failure: Failure) -> dict[str, Any]:
    return {
        "message": failure.message,
        "type": _error_type(failure.status),
        "param": failure.param,
        "code": failure.code,
    }


def render_error(failure: Failure) -> bytes:
    return encode_line({"error": error_document(failure)})


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
