"""Encodes a text with a gap for a code model that was trained to fill it in.

Which tokens mark the three parts is known of a few families, and read from the tokenizer. That a tokenizer has them
does not promise that the model has learned them: general models of a family often share their coders' vocabulary.
Knows nothing of weights or requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from p2pnet.errors import InvalidRequest

_ANCHOR = "\n"
"""What the text after the gap is encoded behind, and then without: some tokenizers put a space before a first word."""


@dataclass(frozen=True)
class _Family:
    """How a family of models marks the text before the gap, the one after it, and where the middle begins. `ends` are
    tokens that end a middle beside the model's own end token."""

    before: str
    after: str
    middle: str
    ends: tuple[str, ...] = ()


_FAMILIES = (
    # Qwen coders and CodeGemma
    _Family(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|endoftext|>"),
    ),
    # StarCoder, Granite, Stable Code
    _Family("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<file_sep>", "<|endoftext|>")),
    # SantaCoder
    _Family("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<|endoftext|>",)),
    # DeepSeek: a hole between the two texts, and the middle begins where they end
    _Family("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # Code Llama
    _Family("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),
)
"""All of them write the text before the gap first, then the one after it."""


@dataclass(frozen=True)
class Gap:
    """A prompt with a gap. `before_ids` is what its answer continues."""

    ids: tuple[int, ...]
    before_ids: tuple[int, ...]


class FillInMiddle:
    """Encodes texts with a gap for one tokenizer."""

    def __init__(self, tokenizer: Any, marks: tuple[int, int, int], end_token_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._marks = marks
        self.end_token_ids = end_token_ids
        """What ends a middle."""

    def encode(self, before: str, after: str) -> Gap:
        """Encode a text with a gap. Raises InvalidRequest when a text has one of the marks in it, which would move the
        gap."""
        before_ids, after_ids = self._ids(before), self._ids_inside(after)
        for ids, param in ((before_ids, "prompt"), (after_ids, "suffix")):
            if not self._all_marks.isdisjoint(ids):
                raise InvalidRequest("The text has marks in it that this model knows a gap by.", param)
        begin, between, end = self._marks
        opening = tuple(self._tokenizer("")["input_ids"])
        return Gap((*opening, begin, *before_ids, between, *after_ids, end), before_ids)

    @property
    def _all_marks(self) -> frozenset[int]:
        return self.end_token_ids.union(self._marks)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ids_inside(self, text: str) -> tuple[int, ...]:
        """The ids of a text as in the middle of another, where nothing is put before the first word."""
        anchor, ids = self._ids(_ANCHOR), self._ids(_ANCHOR + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self._ids(text)


def find_fim(tokenizer: Any) -> FillInMiddle | None:
    """How this tokenizer fills in the middle, or None if it has no family's tokens."""
    known: dict[str, int] = tokenizer.get_vocab()
    for family in _FAMILIES:
        marks = _known((family.before, family.after, family.middle), known)
        if len(marks) == 3:
            return FillInMiddle(tokenizer, (marks[0], marks[1], marks[2]), frozenset(_known(family.ends, known)))
    return None


def _known(tokens: Iterable[str], known: dict[str, int]) -> list[int]:
    return [known[token] for token in tokens if token in known]
