"""Follows an answer that another worker gave, and says of each of its tokens by how much the sampler chooses another.

A Sequence that is told its tokens instead of choosing them: their logits come of one pass. Knows nothing of models,
threads or the network.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass

import torch

from p2pnet.errors import InvalidRequest
from p2pnet.messages import FinishReason, TextDelta, Usage
from p2pnet.score_messages import MAX_MARGIN, MAX_SCORED_MARGINS, Scored, text_hash
from p2pnet.worker.engine.scheduler import Job
from p2pnet.worker.engine.sequence import Sequence

ROWS_AT_ONCE = 64
"""Of logits: in a vocabulary of 262,144 they take 67 MB."""


@dataclass(frozen=True)
class Given:
    """What another worker gave: its tokens, and how it said that it ended. `reason` None: the end is not looked at.

    `is_limit_known` says that an answer of fewer than `max_tokens` did not end at a limit: False where only the context
    of that worker said how many there can be. `text_hash` is of the text that it sent; None: that is not looked at.
    """

    token_ids: tuple[int, ...]
    reason: FinishReason | None = None
    stop: str | None = None
    is_limit_known: bool = True
    text_hash: bytes | None = None


class Replay:
    """An answer that is scored. `sequence` stands where the given tokens begin; it is nobody else's.

    An end is one of these: an end token, which is scored as any other; a stop string, whose tokens are not given, so
    that what follows the given ones is sampled, up to it; and what the given tokens say by themselves.
    """

    def __init__(self, sequence: Sequence, given: Given, job: Job) -> None:
        """`job` has the prompt, what came before the given tokens, and these: of the last one nothing is wanted where
        the end is not looked at."""
        self._sequence = sequence
        self._given = given
        self._scored = 0
        self._unsent: list[float] = []
        self._is_broken = False
        """Whether a token has come that the form does not allow: nothing can follow it."""
        self._said: list[TextDelta] = []
        """What has come out: the ids in it are given, and no others."""
        self._text: float | None = None
        self._end: float | None = None
        self._end_token: float | None = None
        """The margin of an end token after the given ones, once it is known."""
        self._lead = MAX_MARGIN
        """The smallest lead of what was sampled after the given tokens. If this is small, the other worker's rounding
        may have led elsewhere."""
        self._next_row = len(sequence.job.ids) - 1
        self.job = job
        job.wanted_from, job.most = self._next_row, ROWS_AT_ONCE
        self.finish_reason: FinishReason | None = None

    @classmethod
    def alone(cls, sequence: Sequence, given: Given, max_length: int) -> Replay:
        """One that is computed for itself, in the background. `max_length` is how many ids there is room for, prompt
        included: as many as are given at least."""
        ids = [*sequence.job.ids, *(given.token_ids[:-1] if given.reason is None else given.token_ids)]
        return cls(sequence, given, Job(ids, max_length, is_background=True))

    @property
    def prompt_ids(self) -> Ids[int]:
        return self._sequence.prompt_ids

    @property
    def usage(self) -> Usage:
        """Of the prompt. What is scored was not generated here."""
        prompt_tokens = self._sequence.usage.prompt_tokens
        return Usage(prompt_tokens, 0, min(self.job.cached_tokens, prompt_tokens))

    def rows_wanted(self, count: int) -> int:
        """See Computation. What has been scored is not wanted again, if its memory had to be given up."""
        return max(0, self.job.computed + count - max(self.job.computed, self._next_row))

    def take(self, logits: torch.Tensor, start: int) -> tuple[Scored, ...]:
        """See Computation."""
        self._look_for_end()
        for row in logits:
            if self.finish_reason is not None:
                break
            self._next_row += 1
            if self._scored < len(self._given.token_ids):
                self._score(row, self._given.token_ids[self._scored])
            else:
                self._look_at_end(row)
            self._look_for_end()
        margins, self._unsent = self._unsent, []
        parts = [margins[first : first + MAX_SCORED_MARGINS] for first in range(0, len(margins), MAX_SCORED_MARGINS)]
        events = list(map(Scored.of, parts))
        if self._end is not None or self._text is not None:
            events[-1:] = [Scored.of(parts[-1] if parts else (), self._end, self._text)]
        return tuple(events)

    def _score(self, row: torch.Tensor, token_id: int) -> None:
        is_end = token_id in self._sequence.end_token_ids  # which ends the answer, and is never given
        self._unsent.append(MAX_MARGIN if is_end else self._sequence.margins(row, [token_id])[0])
        self._scored += 1
        try:
            self._said += self._sequence.follow(token_id, row)
        except InvalidRequest:
            self._is_broken = True

    def _look_for_end(self) -> None:
        """Conclude where the tokens themselves say that nothing follows, or nothing more is asked."""
        left = len(self._given.token_ids) - self._scored
        if self.finish_reason is not None:
            return
        if self._is_broken or self._sequence.finish_reason is not None:
            self._unsent += [MAX_MARGIN] * left
            self._conclude(0.0 if self._ends_as_said and not left and not self._is_broken else MAX_MARGIN)
        elif not left and self._given.reason is None:
            self._conclude(0.0)

    def _look_at_end(self, row: torch.Tensor) -> None:
        """Look at the first token after those that were given, or after what was sampled of a stop string."""
        sequence, given = self._sequence, self._given
        if given.reason == "length":
            self._conclude(MAX_MARGIN if given.is_limit_known else 0.0)
        elif given.reason == "content_filter":
            self._conclude(MAX_MARGIN)  # nothing here withholds an answer
        elif given.stop is None and self._end_token is None:
            ends = sorted(sequence.end_token_ids)
            margins = sequence.margins(row, ends)
            self._end_token = min(margins, default=MAX_MARGIN)
            if self._end_token and sequence.withholds:
                self._sample(row)
            elif self._end_token < MAX_MARGIN:
                self._said += sequence.follow(ends[margins.index(self._end_token)], row)
                self._conclude(self._end_token if self._ends_as_said else MAX_MARGIN)
            else:
                self._conclude(MAX_MARGIN)
        else:
            self._sample(row)

    def _sample(self, row: torch.Tensor) -> None:
        """Sample one more token of what was withheld at the end."""
        sequence = self._sequence
        self._lead = min(self._lead, sequence.lead(row))
        self._said += sequence.choose(row)
        other = self._lead if self._end_token is None else min(self._lead, self._end_token)
        if self._released > len(self._given.token_ids):  # more was to come
            self._conclude(other, other)
        elif sequence.finish_reason is not None:
            self._conclude(0.0 if self._ends_as_said else other, other)
        elif len(self.job.ids) >= self.job.max_length:
            self._conclude(0.0, 0.0)  # there is no room here to see it
        else:
            self.job.ids.append(sequence.job.ids[-1])

    @property
    def _ends_as_said(self) -> bool:
        said = (self._given.reason, self._given.stop, len(self._given.token_ids))
        return (self._sequence.finish_reason, self._sequence.stop, self._released) == said

    @property
    def _released(self) -> int:
        return sum(len(delta.token_ids) for delta in self._said)

    def _conclude(self, end: float, most: float = MAX_MARGIN) -> None:
        """`most` is the margin of another text: less where some of it was sampled here, and might have been others."""
        self._end = None if self._given.reason is None else end
        if self._given.text_hash is not None:
            rest = () if self._sequence.finish_reason is not None else self._sequence.leave()
            self._text = 0.0 if text_hash([*self._said, *rest]) == self._given.text_hash else most
        self.finish_reason = "stop"
