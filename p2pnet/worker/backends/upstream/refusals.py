"""Turns an upstream server's refusal, its HTTP status and body, into one of our errors. Pure.

Its words are a stranger's: they are cut, made printable, and searched for the key that we sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from p2pnet.display.printable import printable_line
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    FeatureMissing,
    InvalidRequest,
    ModelNotFound,
    P2PNetError,
    WorkerFailed,
)
from p2pnet.worker.backends.upstream.reading import UNREADABLE

_OVERFLOWS = (
    "context length",  # vLLM, SGLang, Ollama, LM Studio
    "context_length",  # OpenAI's code
    "context size",  # llama.cpp
    "exceed_context_size",  # llama.cpp's type
    "context window",  # llama-cpp-python
    "too large to process",  # llama.cpp, of a text to embed
    "input length exceeds",  # Ollama, the same
    "`inputs` must have less than",  # text-embeddings-inference
)
"""How servers say that prompt and answer do not fit. Only OpenAI and llama.cpp have a code for it."""

_LACKS = (
    "does not support tools",  # Ollama
    "--enable-auto-tool-choice",  # vLLM without its flag
    "--tool-call-parser",
    "requires --jinja",  # llama.cpp without its flag
)
"""How servers say that this model, or they as they were started, cannot call tools."""


def refusal(status: int, body: bytes, key: str | None = None) -> P2PNetError:
    """The error that stands for an answer with this status, which is not 200."""
    told = _told(body)
    said = " ".join(told)
    message = sanitised(told[0] if told else "", key)
    folded = said.casefold()
    if status in (429, 503):
        return Busy("the upstream server is busy")
    if status in (401, 403):
        return WorkerFailed("the upstream server refused this worker")
    if 400 <= status <= 500 and any(words in folded for words in _LACKS):
        return FeatureMissing(message, "tools")
    if 400 <= status <= 500 and any(words in folded for words in _OVERFLOWS):
        return ContextOverflow(message, "prompt")
    if status == 404:
        return ModelNotFound("The upstream server does not run this model (any more).", "model")
    if status in (400, 413, 422):
        return InvalidRequest(message or f"The upstream server refused the request with status {status}.")
    return WorkerFailed(f"the upstream server answered with status {status}")


def sanitised(message: str, key: str | None = None) -> str:
    """A stranger's message as it may be shown: printable, short, without our key."""
    if key:
        message = message.replace(key, "***")
    return printable_line(message)


def _told(body: bytes) -> list[str]:
    """The texts in the body: the message first, then type and code. A body that is not JSON has none."""
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        return []
    return list(_strings(value))


def _strings(value: Any) -> Iterator[str]:
    """Reads `{"error": {"message", "type", "code"}}`, `{"error": text}`, `{"message": text}` and `{"detail": text}`."""
    if not isinstance(value, dict):
        return
    for name in ("error", "message", "detail"):
        inner = value.get(name)
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, dict):
            yield from (inner[part] for part in ("message", "type", "code") if isinstance(inner.get(part), str))
        elif isinstance(inner, list):
            yield from (item["msg"] for item in inner if isinstance(item, dict) and isinstance(item.get("msg"), str))
