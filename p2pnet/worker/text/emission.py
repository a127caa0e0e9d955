"""Turns sampled ids into deltas: joins detokenizer, stop strings and tool calls. Knows nothing of models.

Every delta that carries ids is a clean place to go on from: its ids say exactly what it carries, no character is
split, and no stop string or tool call marker has begun. So a token waits, id and text, until nothing that it started is
open. When a stop string begins within a token, the text before it comes last, in a delta without ids, directly before
the end.

All is a function of the ids in their order. An answer that goes on after ids that another worker sent is fed with them
first, and what they say is not said again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pnet.messages import TextDelta, TokenLogprob, ToolCallDelta
from p2pnet.worker.text.detokenizer import Piece
from p2pnet.worker.text.stopping import StopStrings


class Decoder(Protocol):
    """Makes text of ids: a tokenizer's detokenizer, or a made-up backend's list of words."""

    def feed(self, token_id: int) -> Piece | None:
        """The piece that this id completes, if any."""

    def flush(self) -> Piece | None:
        """What is left at the end."""


class Parser(Protocol):
    """Finds tool calls in text."""

    @property
    def held(self) -> int:
        """How many of the last characters are not in anything returned yet."""

    @property
    def has_calls(self) -> bool: ...

    @property
    def is_done(self) -> bool:
        """Whether nothing more may follow."""

    def feed(self, text: str) -> list[str | ToolCallDelta]: ...

    def flush(self) -> list[str | ToolCallDelta]: ...


@dataclass(frozen=True)
class _Token:
    """A piece's ids, and where in the text they end, in characters."""

    ids: tuple[int, ...]
    end: int


@dataclass(frozen=True)
class _Said:
    """Something to send, and where in the text it ends."""

    what: str | ToolCallDelta
    end: int


class Emitter:
    """Turns the ids of one answer into deltas. Feed it until `is_stopped`, then flush once."""

    def __init__(self, decoder: Decoder, stops: Sequence[str], parser: Parser | None = None, choice: int = 0) -> None:
        self._decoder = decoder
        self._stops = StopStrings(stops)
        self._parser = parser
        self._choice = choice
        self._tokens: deque[_Token] = deque()
        self._said: deque[_Said] = deque()
        self._logprobs: deque[TokenLogprob] = deque()
        self._decoded_end = 0
        self._safe_end = 0
        """Up to here no stop string can take the text back."""
        self._sent_end = 0
        """Up to here another worker has sent it."""
        self.is_stopped = False
        self.stop: str | None = None
        """Which stop string has ended the answer."""

    @property
    def has_calls(self) -> bool:
        return self._parser is not None and self._parser.has_calls

    @property
    def withholds(self) -> bool:
        """Whether an answer may end with tokens that are in no delta, and with no stop string: a call that is complete
        while its last characters may begin one."""
        return self._parser is not None and self._stops.are_any

    def replay(self, ids: Iterable[int]) -> None:
        """Take the ids that an earlier worker's deltas had. What they say is not said again.

        Their text is looked through in one piece: there may be thousands of them, and somebody waits for the next.
        """
        pieces = [self._decoder.feed(token_id) for token_id in ids]
        pieces.append(self._decoder.flush())  # bytes that what followed showed to be no character
        self._decode(Piece((), "".join(piece.text for piece in pieces if piece is not None)))
        self._sent_end = self._decoded_end
        self._tokens.clear()
        said, self._said = self._said, deque()
        for known in said:
            self._say(known.what, known.end)

    def feed(self, token_id: int, logprob: TokenLogprob | None = None) -> TextDelta | None:
        """The delta that this id completes, if any."""
        if logprob is not None:
            self._logprobs.append(logprob)
        self._decode(self._decoder.feed(token_id))
        return self._release()

    def flush(self) -> tuple[TextDelta, ...]:
        """The last deltas, after a stop string, an end token or a limit."""
        if not self.is_stopped:
            self._decode(self._decoder.flush())
        if not self.is_stopped:
            self._parse(self._stops.flush())
        if self._parser is not None:
            for what in self._parser.flush():
                self._say(what, self._safe_end)
        whole, rest = self._release(), self._rest()
        return tuple(delta for delta in (whole, rest) if delta is not None)

    def _decode(self, piece: Piece | None) -> None:
        if piece is None:
            return
        verdict = self._stops.feed(piece.text)
        self._decoded_end += len(piece.text)
        self._tokens.append(_Token(piece.token_ids, self._decoded_end))
        self._parse(verdict.safe)
        self.stop = verdict.stop
        self.is_stopped = verdict.is_stopped or (self._parser is not None and self._parser.is_done)

    def _parse(self, text: str) -> None:
        """Parse one character after the other where there may be calls, so that it is known what each of them said."""
        if self._parser is None:
            self._safe_end += len(text)
            self._say(text, self._safe_end)
            return
        for character in text:
            self._safe_end += 1
            for what in self._parser.feed(character):
                self._say(what, self._safe_end - self._parser.held)

    def _say(self, what: str | ToolCallDelta, end: int) -> None:
        if isinstance(what, str):
            what = what[max(0, self._sent_end - (end - len(what))) :]
        if what and end > self._sent_end:
            self._said.append(_Said(what, end))

    def _release(self) -> TextDelta | None:
        """One delta with all waiting ids whose whole text is known."""
        consumed = self._safe_end - (0 if self._parser is None else self._parser.held)
        ids: list[int] = []
        end = 0
        while self._tokens and self._tokens[0].end <= consumed:
            token = self._tokens.popleft()
            ids.extend(token.ids)
            end = token.end
        return self._delta(ids, end) if ids else None

    def _rest(self) -> TextDelta | None:
        return self._delta([], self._said[-1].end) if self._said else None

    def _delta(self, ids: list[int], end: int) -> TextDelta:
        """A delta with all that was said up to `end`."""
        said: list[str | ToolCallDelta] = []
        while self._said and self._said[0].end <= end:
            said.append(self._said.popleft().what)
        if self._said and isinstance(text := self._said[0].what, str):
            inside = len(text) - (self._said[0].end - end)
            if inside > 0:
                said.append(text[:inside])
                self._said[0] = _Said(text[inside:], self._said[0].end)
        logprobs = tuple(self._logprobs.popleft() for _ in range(min(len(ids), len(self._logprobs))))
        return TextDelta(
            text="".join(what for what in said if isinstance(what, str)),
            token_ids=tuple(ids),
            choice=self._choice,
            logprobs=logprobs,
            tool_calls=tuple(what for what in said if isinstance(what, ToolCallDelta)),
        )
