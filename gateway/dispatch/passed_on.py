"""Remembers what of an answer was passed on to the client, which cannot be taken back: its parts, and the prompt's
echo."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from p2pnet.messages import TextDelta


@dataclass
class PassedOn:
    """The part of one choice that was passed on to the client."""

    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    has_calls: bool = False
    has_loose_end: bool = False
    """Something was passed on whose ids are not known: only its text says where to go on."""
    held: TextDelta | None = None
    """What came without ids from a worker that names them: it comes right before the end, so it can wait for that."""


@dataclass
class Echo:
    """How much of the prompt's echo was passed on, and how much an attempt has yet to repeat before there is more."""

    chars: int = 0
    ids: int = 0
    entries: int = 0
    chars_again: int = 0
    ids_again: int = 0
    entries_again: int = 0

    def begin(self) -> None:
        self.chars_again, self.ids_again, self.entries_again = self.chars, self.ids, self.entries

    def take(self, delta: TextDelta) -> TextDelta | None:
        """The part of the delta that the client does not have yet."""
        known = min(len(delta.text), self.chars_again)
        ids = min(len(delta.token_ids), self.ids_again)
        entries = min(len(delta.logprobs), self.entries_again)
        self.chars_again -= known
        self.ids_again -= ids
        self.entries_again -= entries
        text, token_ids, logprobs = delta.text[known:], delta.token_ids[ids:], delta.logprobs[entries:]
        self.chars += len(text)
        self.ids += len(token_ids)
        self.entries += len(logprobs)
        if (known or ids or entries) and not (text or token_ids or logprobs):
            return None
        return msgspec.structs.replace(delta, text=text, token_ids=token_ids, logprobs=logprobs)
