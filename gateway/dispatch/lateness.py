"""Decides when a worker is too slow for a request to stay there while another one has room. Pure.

By what is usual with the others (`usual.py`), and never below what a person minds: a liar that answers in no time must
not make all honest ones too slow.
"""

from __future__ import annotations

FIRST_TOKEN_TIMES = 10.0
"""A first token later than so many times the model's usual is too late."""

MIN_FIRST_TOKEN_S = 2.0
"""No first token is too late before. A busy machine, a lost packet and a dial over a relay take a second."""

READ_S = 0.01
"""So much more for each token of the prompt: others may have had theirs cached. A laptop reads a hundred a second."""

COLD_S = 120.0
"""A model that is announced as not in memory may be loaded from a slow disk first."""

TOKEN_TIMES = 20.0
"""A pace under a twentieth of the model's usual is too slow."""

MIN_TOKEN_S = 0.5
"""No pace is too slow that is quicker: two tokens a second are read as they come."""

STRETCH_S = 2.0
"""A pace is that of so many seconds of waiting for the worker: a machine may be held up for a moment."""

UNASKED_S = 60.0
"""A first token is waited for no longer, whatever is usual, where the client can be told something else at once."""


def first_token_limit_s(usual_s: float, prompt_tokens: int, is_cold: bool, patience: float) -> float:
    """`patience` is how many times as long as usual this one may take, for reasons of its own."""
    limit_s = patience * max(MIN_FIRST_TOKEN_S + READ_S * prompt_tokens, FIRST_TOKEN_TIMES * usual_s)
    return max(COLD_S, limit_s) if is_cold else limit_s


def token_limit_s(usual_s: float, patience: float) -> float:
    return patience * max(MIN_TOKEN_S, TOKEN_TIMES * usual_s)


class Stretch:
    """The last seconds of an answer: how long its worker was waited for, and the tokens that came. Begins with the
    first token, and again whenever it is long enough; the one before it is kept, so that no pace falls between two."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self._before = (began_s, 0.0, 0)
        self._waited_s = 0.0
        self._tokens = 0

    def note(self, waited_s: float, tokens: int, now_s: float) -> None:
        self._waited_s += waited_s
        self._tokens += tokens
        if self._waited_s >= STRETCH_S:
            self._before = (self.began_s, self._waited_s, self._tokens)
            self.began_s, self._waited_s, self._tokens = now_s, 0.0, 0

    def pace_s(self, waits_s: float, not_before_s: float) -> float | None:
        """Seconds for each token, the `waits_s` for the next one among them: it counts as one. None while it is too
        short. What began before `not_before_s` says nothing."""
        began_s, waited_s, tokens = self._before
        if self.began_s < not_before_s:
            waited_s, tokens = waits_s, 0
        elif began_s < not_before_s or self._waited_s + waits_s >= STRETCH_S:
            waited_s, tokens = self._waited_s + waits_s, self._tokens
        else:
            waited_s, tokens = waited_s + self._waited_s + waits_s, tokens + self._tokens
        return waited_s / (tokens + 1) if waited_s >= STRETCH_S else None
