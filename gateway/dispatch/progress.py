"""The Progress protocol: how far the answer to a request has come. Pure.

What a client was given cannot be taken back, so whoever goes on with an answer is asked for the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from gateway.dispatch.ends import EndSeen
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta
from p2pnet.records import ModelCard
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest

Asked = GenerateRequest | EmbedRequest | TokenizeRequest | RerankRequest
Told = Accepted | TextDelta | Embedding | Tokenized | Relevance | Finished
"""What comes back: Accepted, then what was asked for, then Finished."""

Q = TypeVar("Q", bound=Asked)
Q_co = TypeVar("Q_co", bound=Asked, covariant=True)
E = TypeVar("E", bound=Told)


@dataclass(frozen=True)
class Continuation(Generic[Q_co]):
    """A request for what is left. `is_by_text`: it goes on from the text so far, at a worker of whatever digest."""

    request: Q_co
    is_by_text: bool = False


class Progress(Protocol[Q_co, E]):
    """One request's, over all its attempts."""

    @property
    def has_begun(self) -> bool:
        """Whether the client has been given a part of the answer: another attempt must not begin anew."""

    @property
    def is_over(self) -> bool: ...

    @property
    def parts_given(self) -> int:
        """How many deltas or vectors the client has been given. It grows as long as the answer moves on."""

    @property
    def can_go_on_exactly(self) -> bool:
        """Whether another worker of the same digest can go on with what the first one would have said."""

    def continuations(self) -> Sequence[Continuation[Q_co]]:
        """The requests that would bring what is left, best first. At the beginning there is one: the request itself.
        Later there may be none that anybody could serve."""

    def begin(self, card: ModelCard, by_text: bool = False) -> None:
        """An attempt begins, at a worker that announces this card. `by_text`: it goes on from a text."""

    def take(self, event: E) -> list[E]:
        """Take the next event of the attempt. Returns what the client is to be given. Raises ProtocolViolation."""

    def seen_end(self, event: E) -> EndSeen | None:
        """What the last event of the attempt ends, if another worker could say whether that is the end."""

    def end_at_limit(self) -> list[E]:
        """An attempt has failed. What ends the answer, where the client has been given all that it asked for; else
        nothing."""

    @property
    def is_splittable(self) -> bool:
        """Whether what is left is several answers, of which each goes on by itself."""

    def split(self) -> Sequence[Progress[Q_co, E]]:
        """Each answer's own progress."""

    def end_of_parts(self) -> list[E]:
        """What the client is given once all the answers that `split` returned are over."""
