"""Gathers the events of an answer into a whole, for replies that are not streamed. Pure.

Knows nothing of any dialect.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from gateway.http.thoughts import Event, Thought, Thoughts
from gateway.interface import EmbeddingEvent, GenerationEvent, RankingEvent, Routed, TokenizingEvent
from p2pnet.embed_messages import Embedding
from p2pnet.messages import Accepted, Finished, FinishReason, TextDelta, TokenLogprob, ToolCall, ToolCallDelta
from p2pnet.rerank_messages import Relevance
from p2pnet.tokenize_messages import Tokenized


@dataclass(frozen=True)
class GeneratedChoice:
    """One of the answers to a request. `prompt_text` and `prompt_logprobs` are the echo, where it was asked for.
    `thoughts` are what the model thought before, where that was taken apart."""

    text: str
    reason: FinishReason
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_text: str = ""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    thoughts: str = ""


@dataclass(frozen=True)
class Generated:
    """A complete generation. Times are seconds since the request was passed on: `first_token_s` until the first part of
    the answer came, or None when there was none, `duration_s` until its end."""

    choices: tuple[GeneratedChoice, ...]
    finished: Finished
    fingerprint: str | None = None
    routed: Routed | None = None
    first_token_s: float | None = None
    duration_s: float = 0.0

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text


@dataclass(frozen=True)
class Embedded:
    """The vectors of all inputs in their order: float32, little-endian."""

    vectors: tuple[bytes, ...]
    finished: Finished
    fingerprint: str | None = None
    routed: Routed | None = None
    duration_s: float = 0.0


@dataclass(frozen=True)
class TokensTold:
    """The tokens of a prompt, with their names where these were asked for; or the text of token ids."""

    token_ids: tuple[int, ...]
    names: tuple[str, ...]
    text: str
    finished: Finished
    routed: Routed | None = None


@dataclass(frozen=True)
class Ranked:
    """The scores of all documents in their order."""

    scores: tuple[float, ...]
    finished: Finished
    routed: Routed | None = None


def numbers_of(vector: bytes) -> tuple[float, ...]:
    """The numbers of one of the vectors."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)


@dataclass
class CollectedCall:
    """A call of a tool, whose pieces come one after the other. Only the first has its id and name."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def take(self, piece: ToolCallDelta) -> None:
        self.id = self.id or piece.id or ""
        self.name = self.name or piece.name or ""
        self.arguments.append(piece.arguments)

    def whole(self) -> ToolCall:
        return ToolCall(self.id, self.name, "".join(self.arguments))


@dataclass
class _CollectedChoice:
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_texts: list[str] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: dict[int, CollectedCall] = field(default_factory=dict)
    thoughts: list[str] = field(default_factory=list)

    def take(self, delta: TextDelta) -> None:
        (self.prompt_texts if delta.is_prompt else self.texts).append(delta.text)
        (self.prompt_logprobs if delta.is_prompt else self.logprobs).extend(delta.logprobs)
        for piece in delta.tool_calls:
            self.calls.setdefault(piece.index, CollectedCall()).take(piece)

    def whole(self, reason: FinishReason) -> GeneratedChoice:
        return GeneratedChoice(
            text="".join(self.texts),
            reason=reason,
            tool_calls=tuple(self.calls[index].whole() for index in sorted(self.calls)),
            logprobs=tuple(self.logprobs),
            prompt_text="".join(self.prompt_texts),
            prompt_logprobs=tuple(self.prompt_logprobs),
            thoughts="".join(self.thoughts),
        )


class Collecting:
    """Takes the events of a generation in order; `take` returns the whole when it is given the last one."""

    def __init__(self, began_s: float, shows_thoughts: bool = False) -> None:
        self._began_s = began_s
        self._thoughts = Thoughts() if shows_thoughts else None
        self._choices: dict[int, _CollectedChoice] = {}
        self._fingerprint: str | None = None
        self._routed: Routed | None = None
        self._first_token_s: float | None = None

    def take(self, event: GenerationEvent, now_s: float) -> Generated | None:
        if isinstance(event, TextDelta) and self._first_token_s is None and not event.is_prompt:
            self._first_token_s = now_s - self._began_s
        if isinstance(event, Accepted):
            self._fingerprint = event.fingerprint
        elif isinstance(event, Routed):
            self._routed = event
        if isinstance(event, Accepted | TextDelta | Finished):
            for each in [event] if self._thoughts is None else self._thoughts.take(event):
                self._collect(each)
        return self._whole(event, now_s) if isinstance(event, Finished) else None

    def _collect(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._choices.setdefault(event.choice, _CollectedChoice()).take(event)
        elif isinstance(event, Thought):
            self._choices.setdefault(event.choice, _CollectedChoice()).thoughts.append(event.text)

    def _whole(self, finished: Finished, now_s: float) -> Generated:
        reasons = (finished.reason, *finished.other_reasons)
        choices = tuple(
            self._choices.get(index, _CollectedChoice()).whole(reason) for index, reason in enumerate(reasons)
        )
        return Generated(choices, finished, self._fingerprint, self._routed, self._first_token_s, now_s - self._began_s)


class CollectingVectors:
    """As Collecting, for the events of an embed request."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._vectors: dict[int, bytes] = {}
        self._fingerprint: str | None = None
        self._routed: Routed | None = None

    def take(self, event: EmbeddingEvent, now_s: float) -> Embedded | None:
        if isinstance(event, Embedding):
            self._vectors[event.index] = event.vector
        elif isinstance(event, Accepted):
            self._fingerprint = event.fingerprint
        elif isinstance(event, Routed):
            self._routed = event
        elif isinstance(event, Finished):
            vectors = tuple(self._vectors[index] for index in sorted(self._vectors))
            return Embedded(vectors, event, self._fingerprint, self._routed, now_s - self._began_s)
        return None


class CollectingTokens:
    """As Collecting, for the events of a tokenize request."""

    def __init__(self) -> None:
        self._parts: list[Tokenized] = []
        self._routed: Routed | None = None

    def take(self, event: TokenizingEvent, now_s: float) -> TokensTold | None:
        if isinstance(event, Tokenized):
            self._parts.append(event)
        elif isinstance(event, Routed):
            self._routed = event
        elif isinstance(event, Finished):
            return TokensTold(
                tuple(token_id for part in self._parts for token_id in part.token_ids),
                tuple(name for part in self._parts for name in part.names),
                "".join(part.text for part in self._parts),
                event,
                self._routed,
            )
        return None


class CollectingScores:
    """As Collecting, for the events of a rerank request."""

    def __init__(self) -> None:
        self._scores: dict[int, float] = {}
        self._routed: Routed | None = None

    def take(self, event: RankingEvent, now_s: float) -> Ranked | None:
        if isinstance(event, Relevance):
            self._scores[event.index] = event.score
        elif isinstance(event, Routed):
            self._routed = event
        elif isinstance(event, Finished):
            return Ranked(tuple(self._scores[index] for index in sorted(self._scores)), event, self._routed)
        return None
