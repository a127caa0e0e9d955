"""Knows which vectors of an embed request have come, and makes the request for the others. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.dispatch.progress import Continuation
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import ProtocolViolation
from p2pnet.messages import Accepted, Finished
from p2pnet.records import ModelCard


class EmbedProgress:
    """How far one embed request has come. See `Progress`."""

    def __init__(self, request: EmbedRequest) -> None:
        self._request = request
        self._missing = list(range(len(request.inputs)))
        self._asked: list[int] = []
        self._vector_bytes: int | None = None
        self._digest = request.digest
        self._accepted: Accepted | None = None
        self._is_told = False
        self._is_over = False
        self.parts_given = 0

    @property
    def has_begun(self) -> bool:
        return self._is_told

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def is_splittable(self) -> bool:
        return False

    @property
    def can_go_on_exactly(self) -> bool:
        return True

    def split(self) -> Sequence[EmbedProgress]:
        return ()

    def end_of_parts(self) -> list[Accepted | Embedding | Finished]:
        return []

    def continuations(self) -> Sequence[Continuation[EmbedRequest]]:
        return [Continuation(self.continuation())]

    def continuation(self) -> EmbedRequest:
        """The request for the vectors that are missing."""
        if not self._is_told:
            return self._request
        inputs = tuple(self._request.inputs[index] for index in self._wanted())
        return msgspec.structs.replace(self._request, inputs=inputs, digest=self._digest)

    def begin(self, card: ModelCard, by_text: bool = False) -> None:
        if not self._is_told:
            self._digest = card.digest
        self._asked = self._wanted()

    def take(self, event: Accepted | Embedding | Finished) -> list[Accepted | Embedding | Finished]:
        if isinstance(event, Accepted):
            if not self._is_told:
                self._accepted = msgspec.structs.replace(event, digest=self._digest)
            return []
        opening: list[Accepted | Embedding | Finished] = []
        if not self._is_told:
            self._is_told = True
            opening = [self._accepted] if self._accepted is not None else []
        if isinstance(event, Embedding):
            return [*opening, *self._placed(event)]
        self._is_over = True
        accepted_tokens = 0 if self._accepted is None else self._accepted.prompt_tokens
        usage = msgspec.structs.replace(event.usage, prompt_tokens=max(event.usage.prompt_tokens, accepted_tokens))
        return [*opening, msgspec.structs.replace(event, usage=usage)]

    def seen_end(self, event: Accepted | Embedding | Finished) -> None:
        """A vector is there or not."""

    def end_at_limit(self) -> list[Accepted | Embedding | Finished]:
        return []

    def _wanted(self) -> list[int]:
        """Those that are missing. When only the end is, one of them once more: that brings an end with it."""
        return list(self._missing) or [0]

    def _placed(self, event: Embedding) -> list[Accepted | Embedding | Finished]:
        """Raises ProtocolViolation when it is not as long as those that the client has."""
        index = self._asked[event.index]
        size = len(event.vector)
        if self._vector_bytes not in (None, size):
            raise ProtocolViolation(f"a vector of {size} bytes, {self._vector_bytes} expected")
        self._vector_bytes = size
        if index not in self._missing:
            return []
        self._missing.remove(index)
        self.parts_given += 1
        return [Embedding(index, event.vector)]
