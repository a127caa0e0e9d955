"""Says which ends of answers are doubtful: those that may cost a client its answer, and a liar nothing. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from p2pnet.messages import FinishReason

SHORT_TOKENS = 4
"""An answer of fewer is believed of who has given whole answers here, and where nobody else has: whoever is asked could
spoil it as well. "Yes." is one; more are rarely cut so that nobody sees it."""

SLACK_TOKENS = 16
"""So many tokens before its limit an answer may say that it has reached it: some tokens say nothing, and some workers
count otherwise."""


@dataclass(frozen=True)
class EndSeen:
    """The end of an attempt. `tokens` are those of its own, 0 where they say nothing, `room` those that the request
    would still have allowed, where that is known. `is_below_minimum`: it may not end there, but at a stop string."""

    reason: FinishReason
    tokens: int
    room: int | None = None
    is_below_minimum: bool = False


def is_doubtful(end: EndSeen, is_outranked: bool) -> bool:
    """`is_outranked`: others have given whole answers here, and this worker has not."""
    if end.tokens == 0 or end.is_below_minimum:
        return True
    if end.reason == "length":
        return end.room is not None and end.room > SLACK_TOKENS
    return end.reason == "stop" and end.tokens < SHORT_TOKENS and is_outranked
