"""Renders generations as FauxPilot's JSON and SSE: OpenAI's completions in the days of Codex.

Pure: no clock, no ids of its own, no I/O. A token that is a part of a character is written with what stands for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from gateway.http import sse
from gateway.http.collected import Generated, GeneratedChoice
from gateway.http.failures import Failure
from gateway.http.one_line import encode_line
from gateway.http.replies import AnswerEvent, waiting_comment
from gateway.interface import ModelEntry, Waiting
from p2pnet.messages import Accepted, Finished, TextDelta, TokenLogprob, Usage

TOKEN = {"token": "1", "expires_at": 2_600_000_000, "refresh_in": 900}
"""What Copilot's plugin needs before it asks anything: it opens nothing here."""


@dataclass(frozen=True)
class ResponseHead:
    """What every document and chunk of one response carries."""

    id: str
    created_s: int
    model: str


class ChunkRenderer:
    """Renders the chunks of one streamed response, in order."""

    media_type = sse.MEDIA_TYPE
    shows_thoughts = False

    def __init__(self, head: ResponseHead) -> None:
        self._head = head
        self._offsets: dict[int, int] = {}
        """How much of each choice's text is out, in characters."""

    def keep_alive(self, waiting: Waiting | None) -> bytes:
        return sse.comment(waiting_comment(waiting))

    def render(self, events: Sequence[AnswerEvent]) -> bytes:
        return b"".join(part for event in events for part in self._parts(event))

    def render_failure(self, failure: Failure) -> bytes:
        return sse.nameless(render_error(failure))

    def with_receipts(self, end: bytes, document: bytes) -> bytes:
        return sse.with_receipts(end, document)

    def _parts(self, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, TextDelta):
            if event.text or event.logprobs:
                yield self._chunk(_choice(event.choice, event.text, None, self._logprobs(event)))
        elif isinstance(event, Finished):
            reasons = (event.reason, *event.other_reasons)
            for index, reason in enumerate(reasons):
                usage = usage_document(event.usage) if index == len(reasons) - 1 else None
                yield self._chunk(_choice(index, "", reason, None), usage)
            yield sse.DONE
        else:
            assert isinstance(event, Accepted)

    def _logprobs(self, delta: TextDelta) -> dict[str, Any] | None:
        offset = self._offsets.get(delta.choice, 0)
        self._offsets[delta.choice] = offset + len(delta.text)
        return logprobs_document(delta.logprobs, offset)

    def _chunk(self, choice: dict[str, Any], usage: dict[str, int] | None = None) -> bytes:
        document = _document(self._head, [choice])
        return sse.nameless(encode_line(document if usage is None else {**document, "usage": usage}))


def render_whole(head: ResponseHead, generated: Generated) -> bytes:
    choices = [_whole_choice(index, choice) for index, choice in enumerate(generated.choices)]
    return encode_line({**_document(head, choices), "usage": usage_document(generated.finished.usage)})


def logprobs_document(entries: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
    """Four lists with something for each token; `offset` is where in the text the first one begins. None where they
    were not asked for."""
    if not entries:
        return None
    tokens = [_text(entry.token) for entry in entries]
    return {
        "tokens": tokens,
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{_text(likely.token): likely.logprob for likely in entry.top} or None for entry in entries],
        "text_offset": list(accumulate((len(token) for token in tokens[:-1]), initial=offset)),
    }


def usage_document(usage: Usage) -> dict[str, int]:
    return {
        "completion_tokens": usage.completion_tokens,
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def render_engines(entries: Sequence[ModelEntry]) -> bytes:
    return encode_line({"object": "list", "data": [engine_document(entry) for entry in entries]})


def render_engine(entry: ModelEntry) -> bytes:
    return encode_line(engine_document(entry))


def engine_document(entry: ModelEntry) -> dict[str, Any]:
    return {"id": entry.id, "object": "engine", "owner": "p2pnet", "ready": entry.workers > 0}


def render_token() -> bytes:
    return encode_line(TOKEN)


def render_error(failure: Failure) -> bytes:
    """In OpenAI's shape, as FauxPilot has it."""
    kind = "invalid_request_error" if failure.status < 500 else "server_error"
    error = {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}
    return encode_line({"error": error})


def _whole_choice(index: int, choice: GeneratedChoice) -> dict[str, Any]:
    entries = (*choice.prompt_logprobs, *choice.logprobs)
    return _choice(index, choice.prompt_text + choice.text, choice.reason, logprobs_document(entries, 0))


def _choice(index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"text": text, "index": index, "finish_reason": reason, "logprobs": logprobs}


def _document(head: ResponseHead, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": head.id,
        "model": head.model,
        "object": "text_completion",
        "created": head.created_s,
        "choices": choices,
    }


def _text(token: bytes) -> str:
    return token.decode(errors="replace")
