"""Renders generations as the JSON and NDJSON of Ollama's API. Pure: its clocks are handed in.

NDJSON knows no comments: while nothing comes, a line that says nothing keeps the connection alive.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from gateway.http.collected import Embedded, Generated, numbers_of
from gateway.http.failures import Failure
from gateway.http.one_line import one_line
from gateway.http.replies import AnswerEvent, waiting_comment
from gateway.http.thoughts import Thought
from gateway.interface import Waiting
from gateway.surfaces.ollama.calls import WholeCalls, call_documents
from gateway.surfaces.ollama.context import Turn, encode_context
from p2pnet.messages import Accepted, Finished, FinishReason, TextDelta, TokenLogprob, ToolCall, Usage

NDJSON = "application/x-ndjson"

SOON_S = 1.0
"""Shorter silences need no line."""

LEAST_LOGPROB = -9999.0
"""For a probability of 0: JSON has no infinity. As OpenAI has it."""

_NS = 1_000_000_000

_DONE_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "content_filter": "stop",
}
"""Ollama knows no others."""


def timestamp(unix_s: float) -> str:
    """RFC 3339 in UTC, with nanoseconds."""
    whole_s = math.floor(unix_s)
    ns = int((unix_s - whole_s) * _NS)
    return f"{_second(whole_s)}.{ns:09d}Z"


@lru_cache(maxsize=4)
def _second(unix_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_s))


@dataclass(frozen=True)
class SharedFields:
    """What the lines of one response share. `model` is the name that the client used. `turns`, where it is not None,
    is the conversation up to the answer, which a context continues. `now` is Unix time in seconds, `clock` a monotonic
    one, which an answer reads first when its request has been understood."""

    model: str
    is_chat: bool
    now: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    turns: tuple[Turn, ...] | None = None
    shows_thoughts: bool = True
    """Whether what the model thinks is taken apart: not where a prompt is raw."""

    def head(self) -> dict[str, Any]:
        return {"model": self.model, "created_at": timestamp(self.now())}

    def said(self, text: str, calls: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """The fields that hold the answer's text. Only a chat has calls."""
        if not self.is_chat:
            return {"response": text}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        return {"message": message | {"tool_calls": calls} if calls else message}

    def thought(self, text: str) -> dict[str, Any]:
        """The fields that hold what the model thinks."""
        if not self.is_chat:
            return {"response": "", "thinking": text}
        return {"message": {"role": "assistant", "content": "", "thinking": text}}

    def context(self, text: str) -> dict[str, Any]:
        if self.turns is None:
            return {}
        numbers = encode_context((*self.turns, Turn("assistant", text)))
        return {} if numbers is None else {"context": numbers}


class NdjsonRenderer:
    """Renders the lines of one streamed response, in order."""

    media_type = NDJSON

    def __init__(self, answer: SharedFields) -> None:
        self._answer = answer
        self.shows_thoughts = answer.shows_thoughts
        self._calls = WholeCalls()
        self._texts: list[str] = []
        self._began_s = answer.clock()
        self._accepted_s: float | None = None
        self._first_s: float | None = None
        self._before_time = one_line(b'{"model":' + msgspec.json.encode(answer.model) + b',"created_at":"')
        self._before_text = b'","message":{"role":"assistant","content":' if answer.is_chat else b'","response":'
        self._after_text = b'},"done":false}\n' if answer.is_chat else b',"done":false}\n'

    def keep_alive(self, waiting: Waiting | None) -> bytes:
        """Its text is empty: clients that add texts up do not see it. `status` is for people who look."""
        if waiting is None and self._answer.clock() - self._began_s < SOON_S:
            return b""
        said = self._answer.said("")
        status = {} if waiting is None else {"status": waiting_comment(waiting)}
        return _line({**self._answer.head(), **said, "done": False, **status})

    def render(self, events: Sequence[AnswerEvent]) -> bytes:
        before = self._before_time + timestamp(self._answer.now()).encode() + self._before_text
        parts: list[bytes] = []
        for event in events:
            if isinstance(event, TextDelta):
                parts += self._delta(event, before)
            elif isinstance(event, Thought):
                parts.append(self._thought(event))
            elif isinstance(event, Accepted):
                self._accepted_s = self._answer.clock()
            else:
                parts.append(self._close(event))
        return b"".join(parts)

    def render_failure(self, failure: Failure) -> bytes:
        return render_error(failure) + b"\n"

    def with_receipts(self, end: bytes, document: bytes) -> bytes:
        """A field of the last line: clients take every line for a part of the answer, and pass over fields."""
        return end.removesuffix(b"}\n") + b',"p2pnet_receipt":' + document + b"}\n"

    def _thought(self, thought: Thought) -> bytes:
        if self._first_s is None:
            self._first_s = self._answer.clock()
        return _line({**self._answer.head(), **self._answer.thought(thought.text), "done": False})

    def _delta(self, delta: TextDelta, before: bytes) -> tuple[bytes, ...]:
        if self._first_s is None:
            self._first_s = self._answer.clock()
        if self._answer.turns is not None:
            self._texts.append(delta.text)
        calls = self._call_line(self._calls.take(delta))
        if delta.logprobs:
            said = {**self._answer.head(), **self._answer.said(delta.text), "done": False}
            return calls, _line(said | logprobs_field(delta.logprobs))
        if delta.text:
            return calls, before, _text(delta.text), self._after_text
        return (calls,)

    def _call_line(self, calls: Sequence[tuple[int, ToolCall]]) -> bytes:
        if not calls:
            return b""
        documents, text = call_documents(calls)
        return _line({**self._answer.head(), **self._answer.said(text, documents), "done": False})

    def _close(self, finished: Finished) -> bytes:
        ended_s = self._answer.clock()
        accepted_s = ended_s if self._accepted_s is None else self._accepted_s
        first_s = ended_s if self._first_s is None else self._first_s
        began_s = self._began_s
        timing = Timing(accepted_s - began_s, first_s - began_s, ended_s - began_s)
        last = {
            **self._answer.head(),
            **self._answer.said(""),
            **_end(finished, timing),
            **self._answer.context("".join(self._texts)),
        }
        return self._call_line(self._calls.flush()) + _line(last)


@dataclass(frozen=True)
class Timing:
    """Seconds since the request came: until a worker had it, until the first part of the answer, and until its end."""

    accepted_s: float
    first_token_s: float
    total_s: float

    def durations(self) -> dict[str, int]:
        """In nanoseconds, and never 0, which clients divide by. Loading is all that was before a worker had it."""
        return {
            "total_duration": _nanoseconds(self.total_s),
            "load_duration": _nanoseconds(self.accepted_s),
            "prompt_eval_duration": _nanoseconds(self.first_token_s - self.accepted_s),
            "eval_duration": _nanoseconds(self.total_s - self.first_token_s),
        }


def render_whole(answer: SharedFields, generated: Generated) -> bytes:
    choice = generated.choices[0]
    documents, text = call_documents(list(enumerate(choice.tool_calls)))
    queued_s = generated.routed.queued_ms / 1000 if generated.routed else 0.0
    first_s = generated.duration_s if generated.first_token_s is None else generated.first_token_s
    timing = Timing(min(queued_s, first_s), first_s, generated.duration_s)
    said = answer.said(choice.text + text, documents)
    if choice.thoughts:
        (said["message"] if answer.is_chat else said)["thinking"] = choice.thoughts
    return msgspec.json.encode(
        {
            **answer.head(),
            **said,
            **_end(generated.finished, timing),
            **(logprobs_field(choice.logprobs) if choice.logprobs else {}),
            **answer.context(choice.text),
        }
    )


def render_order(answer: SharedFields, done_reason: str) -> bytes:
    """The answer to an empty prompt, which says `load` or `unload`."""
    return msgspec.json.encode({**answer.head(), **answer.said(""), "done": True, "done_reason": done_reason})


def render_embeddings(model: str, embedded: Embedded) -> bytes:
    queued_s = embedded.routed.queued_ms / 1000 if embedded.routed else 0.0
    return msgspec.json.encode(
        {
            "model": model,
            "embeddings": [numbers_of(vector) for vector in embedded.vectors],
            "total_duration": _nanoseconds(embedded.duration_s),
            "load_duration": _nanoseconds(queued_s),
            "prompt_eval_count": embedded.finished.usage.prompt_tokens,
        }
    )


def render_embedding(embedded: Embedded) -> bytes:
    """The answer of the older /api/embeddings, which takes one text."""
    return msgspec.json.encode({"embedding": numbers_of(embedded.vectors[0])})


def render_error(failure: Failure) -> bytes:
    return one_line(msgspec.json.encode({"error": failure.message}))


def logprobs_field(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "logprobs": [
            _token(each.token, each.logprob) | {"top_logprobs": [_token(top.token, top.logprob) for top in each.top]}
            for each in logprobs
        ]
    }


def _token(token: bytes, logprob: float | None) -> dict[str, Any]:
    known = LEAST_LOGPROB if logprob is None or not math.isfinite(logprob) else max(LEAST_LOGPROB, logprob)
    return {"token": token.decode(errors="replace"), "logprob": known, "bytes": list(token)}


def _end(finished: Finished, timing: Timing) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": _DONE_REASONS[finished.reason],
        **timing.durations(),
        **_counts(finished.usage),
    }


def _counts(usage: Usage) -> dict[str, int]:
    return {"prompt_eval_count": usage.prompt_tokens, "eval_count": usage.completion_tokens}


def _nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * _NS))


def _line(document: dict[str, Any]) -> bytes:
    return one_line(msgspec.json.encode(document)) + b"\n"


def _text(text: str) -> bytes:
    return one_line(msgspec.json.encode(text))
