"""Turns the pieces of an upstream's stream into the deltas and the end of one answer. Pure.

It keeps what the server may not: text ends before a stop string, choices are all complete, no delta outgrows a frame,
and an answer that goes on for ever is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile, zip_longest

import msgspec

from p2pnet.errors import ProtocolViolation, WorkerFailed
from p2pnet.messages import Finished, FinishReason, GenerateRequest, TextDelta, TokenLogprob, ToolCallDelta, Usage
from p2pnet.wire.answer_limits import AnswerLimits
from p2pnet.wire.packing import cut, groups, logprob_bytes
from p2pnet.worker.backends.upstream.dialect import (
    REASONING_BEGIN,
    REASONING_END,
    AnswerPiece,
    is_begun_anew,
    space_after,
)
from p2pnet.worker.backends.upstream.token_count import TokenCount
from p2pnet.worker.text.stopping import StopStrings

MAX_DELTA_CHARS = 4096
"""16 KiB at most in UTF-8: a quarter of the largest frame."""

MAX_DELTA_LOGPROB_BYTES = 16 << 10


class UpstreamAnswer:
    """Collects one answer. Feed it pieces with `take` until `is_complete`, then ask for the `rest` and for `finished`.

    Reasoning is part of the text, except where the text has to be JSON. Where the server does not count tokens,
    `completion_tokens` is the number of pieces: most servers send one for each token. What deltas count is cautious
    then (see `TokenCount`).
    """

    def __init__(self, request: GenerateRequest, max_tokens: int) -> None:
        shows_reasoning = request.response_format is None
        self._is_begun_anew, self._max_tokens = is_begun_anew(request), max_tokens
        self._choices = [_ChoiceState(index, request.stop, shows_reasoning) for index in range(request.n)]
        if self._is_begun_anew:
            self._choices[0].begin_anew(request.resume_text, max_tokens)
        elif request.resume_text:
            self._choices[0].go_on(space_after(request))
        self._limits = AnswerLimits(request, max_tokens)
        self.counted_tokens = 0

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.reason is not None for choice in self._choices)

    @property
    def is_cut(self) -> bool:
        """Whether we have ended every choice ourselves, so that the server need not go on."""
        return all(choice.is_cut for choice in self._choices)

    def take(self, pieces: Iterable[AnswerPiece]) -> Iterator[TextDelta]:
        """The deltas of some more pieces. Raises WorkerFailed when the server sends more than anybody asked for."""
        for piece in pieces:
            choice = self._choices[piece.choice]
            before = choice.count.counted
            choice.count.take(piece)
            self.counted_tokens += choice.count.counted - before
            yield from self._allowed(choice.take(piece))

    def rest(self) -> Iterator[TextDelta]:
        """The deltas that were held back. Raises WorkerFailed when the answer has no end."""
        if not self.is_complete:
            raise WorkerFailed("the upstream server broke off in mid-answer")
        for choice in self._choices:
            yield from self._allowed(choice.rest())

    def finished(self, usage: Usage | None, prompt_tokens: int) -> Finished:
        """The end of a complete answer, with the server's count or else our own."""
        first, *others = [choice.reason for choice in self._choices if choice.reason is not None]
        counted = usage or Usage(prompt_tokens, self.counted_tokens)
        if self._is_begun_anew:
            fresh = counted.completion_tokens - self._choices[0].counted_again
            counted = msgspec.structs.replace(counted, completion_tokens=min(max(0, fresh), self._max_tokens))
        return Finished(first, counted, other_reasons=tuple(others), stop=self._choices[0].stop)

    def _allowed(self, deltas: Iterable[TextDelta]) -> Iterator[TextDelta]:
        """Yields the deltas. Raises WorkerFailed rather than pass on what a gateway would blame on this worker."""
        for delta in deltas:
            try:
                self._limits.check_delta(delta)
            except ProtocolViolation as error:
                raise WorkerFailed("the upstream server sent more than it was asked for") from error
            yield delta


class _ChoiceState:
    """One of the answers to a request."""

    def __init__(self, index: int, stops: Sequence[str], shows_reasoning: bool) -> None:
        self._index = index
        self._stops = StopStrings(stops)
        self._shows_reasoning = shows_reasoning
        self._is_reasoning = False
        self._has_tool_calls = False
        self._repeated = ""
        """What the server may say first although it has been said, or must."""
        self._is_resumed = False
        self.count = TokenCount()
        self._told_tokens = 0
        self._most_tokens: int | None = None
        """Of an answer that is begun anew: the server cannot be told how many tokens may still come."""
        self.counted_again = 0
        """Tokens of what was said before, in an answer that is begun anew, as `count.counted` has them."""
        self._cautious_again = 0
        self.is_cut = False
        self.reason: FinishReason | None = None
        self.stop: str | None = None

    def go_on(self, repeated: str) -> None:
        """The answer goes on after a text whose end, `repeated`, the server may say again."""
        self._is_resumed, self._repeated = True, repeated

    def begin_anew(self, said: str, most_tokens: int) -> None:
        """The server must say again what was said, and then so many more tokens at most."""
        self._repeated, self._most_tokens = said, most_tokens

    def take(self, piece: AnswerPiece) -> Iterator[TextDelta]:
        """The deltas of one more piece, which has been counted. Raises WorkerFailed for what cannot come in the middle
        of an answer."""
        if self.reason is not None:
            return
        if self._is_resumed and piece.reasoning:
            raise WorkerFailed("the upstream server began to reason in the middle of an answer")
        if self._is_over(piece):
            yield from self.rest()
            self.is_cut, self.reason = True, "length"
            return
        reasoning = self._reasoning(piece.reasoning) if piece.reasoning and self._shows_reasoning else ""
        unsaid = self._unsaid(piece.text)
        text = self._close_reasoning() + self._watched(unsaid) if unsaid else ""
        yield from self._deltas(reasoning + text, piece.logprobs if unsaid == piece.text else ())
        if piece.tool_calls:
            self._has_tool_calls = True
            yield from self._deltas(self._close_reasoning() + self._stops.flush())
            for call in piece.tool_calls:
                for part in _parts(call):
                    yield TextDelta(choice=self._index, tool_calls=(part,), tokens=self._told())
        if self._must_repeat and piece.finish is not None:
            raise WorkerFailed("the upstream server began anew, and says less")
        if self.reason is None and piece.finish is not None:
            self.reason = "tool_calls" if self._has_tool_calls and piece.finish == "stop" else piece.finish
            self.stop = piece.stop

    def rest(self) -> Iterator[TextDelta]:
        if not self.is_cut:
            yield from self._deltas(self._stops.flush())

    def _unsaid(self, text: str) -> str:
        """The text without what it repeats. Raises WorkerFailed where it must and does not."""
        again = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, self._repeated, strict=False)))
        left = self._repeated[again:]
        if self._must_repeat:
            if left and again < len(text):
                raise WorkerFailed("the upstream server began anew, and says something else")
            is_fresh = again < len(text)
            self.counted_again = self.count.counted - is_fresh
            self._cautious_again = self._told_tokens = self.count.cautious - is_fresh
        self._repeated = left if again == len(text) else ""
        return text[again:]

    @property
    def _must_repeat(self) -> bool:
        return self._most_tokens is not None and bool(self._repeated)

    def _is_over(self, piece: AnswerPiece) -> bool:
        """Whether an answer that was begun anew is as long as it may be, and this piece says more."""
        if self._most_tokens is None or self._repeated or not piece.text:
            return False
        return self.count.cautious - self._cautious_again > self._most_tokens

    def _watched(self, text: str) -> str:
        verdict = self._stops.feed(text)
        if verdict.is_stopped:
            self.is_cut, self.reason, self.stop = True, "stop", verdict.stop
        return verdict.safe

    def _reasoning(self, text: str) -> str:
        begin = "" if self._is_reasoning else REASONING_BEGIN
        self._is_reasoning = True
        return begin + text

    def _close_reasoning(self) -> str:
        end = REASONING_END if self._is_reasoning else ""
        self._is_reasoning = False
        return end

    def _deltas(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[TextDelta]:
        """The text and its log-probabilities, in as many deltas as frames need: one, as a rule."""
        packs = groups(logprobs, logprob_bytes, MAX_DELTA_LOGPROB_BYTES)
        for part, pack in zip_longest(cut(text, MAX_DELTA_CHARS), packs, fillvalue=None):
            yield TextDelta(part or "", choice=self._index, logprobs=tuple(pack or ()), tokens=self._told())

    def _told(self) -> int:
        """What the next delta counts: all tokens since the last one."""
        untold = self.count.cautious - self._told_tokens
        self._told_tokens += untold
        return untold


def _parts(call: ToolCallDelta) -> Iterator[ToolCallDelta]:
    """The parts of a call that each fit a frame: the first has the id and the name."""
    first, *others = cut(call.arguments, MAX_DELTA_CHARS) if call.arguments else ("",)
    yield ToolCallDelta(call.index, call.id, call.name, first)
    for arguments in others:
        yield ToolCallDelta(call.index, arguments=arguments)
