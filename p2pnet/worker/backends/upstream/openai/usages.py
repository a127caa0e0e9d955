"""Adds up what a server counts, which may be the whole request or one of its answers at a time. Pure."""

from __future__ import annotations

from functools import reduce

from p2pnet.messages import Usage


class Usages:
    """The counts of one request for `choices` answers.

    A count beside one answer is of that answer so far, and the last one stands. A count beside none is of the whole
    request, except with llama.cpp, which gives one after each answer of several.
    """

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._of_choice: dict[int, Usage] = {}
        self._apart: list[Usage] = []

    def note(self, usage: Usage | None, choice: int | None) -> None:
        """Note one more, beside the answer `choice` or beside none. None is a count that cannot be true."""
        if usage is None:
            return
        if self._choices == 1:
            self._apart = [usage]
        elif choice is None:
            self._apart.append(usage)
        else:
            self._of_choice[choice] = usage

    @property
    def total(self) -> Usage | None:
        """Of all answers, whose prompt counts once. None where nothing was counted."""
        counts = self._apart or list(self._of_choice.values())
        return reduce(_together, counts) if counts else None


def _together(one: Usage, other: Usage) -> Usage:
    return Usage(
        max(one.prompt_tokens, other.prompt_tokens),
        one.completion_tokens + other.completion_tokens,
        min(one.cached_tokens, other.cached_tokens),
    )
