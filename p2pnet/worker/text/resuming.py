"""Checks requests to go on with another worker's answer, and finds ids that stand for its text.

Knows nothing of models, sequences or servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_RESUME_CHARS, GenerateRequest
from p2pnet.worker.text.detokenizer import Detokenizer

_ANCHORS = ("", "\n", ".", "a")
"""What a text is encoded after, in turn, and without which it is taken. Many tokenizers put a space before the first
word of whatever they are given: in the middle of an answer it would be one too many, and after an anchor it is not
there. A text may also begin with what belongs to one token with an anchor; then another one serves."""


def check_resume(request: GenerateRequest) -> None:
    """Checks `resume_tokens` and `resume_text` as far as that needs no model. Raises InvalidRequest."""
    if request.score_resume and not request.resume_tokens:
        raise InvalidRequest("There are no tokens to go on after that could be scored.", "score_resume")
    if not request.resume_tokens and not request.resume_text:
        return
    param = "resume_text" if request.resume_text else "resume_tokens"
    if request.resume_tokens and request.resume_text:
        raise InvalidRequest("An answer goes on after tokens or after a text, not both.", param)
    if request.n > 1 or request.echo:
        raise InvalidRequest("Only one answer, without an echo, can be resumed.", param)
    if request.max_tokens is not None and len(request.resume_tokens) > request.max_tokens:
        raise InvalidRequest("There are more tokens to go on after than may be generated.", param)
    if len(request.resume_text) > MAX_RESUME_CHARS:
        raise InvalidRequest(f"Of a text to go on after, there may be {MAX_RESUME_CHARS} characters.", param)


def encodings(text: str, tokenizer: Any, detokenizer: Detokenizer) -> Iterator[tuple[int, ...]]:
    """Yields ids that say exactly this text where the detokenizer is, the likeliest first.

    There are none for a text that has the name of a control token in it, which would become that token, and for one
    that the tokenizer changes: Unicode that it normalizes, half of a character.
    """
    found: set[tuple[int, ...]] = set()
    for anchor in _ANCHORS:
        ids = _encoded_after(anchor, text, tokenizer)
        if ids and ids not in found and detokenizer.preview(ids) == text:
            found.add(ids)
            yield ids


def _encoded_after(anchor: str, text: str, tokenizer: Any) -> tuple[int, ...]:
    """The ids of the text after an anchor, or none if the anchor and the text share a token."""
    first = _encoded(anchor, tokenizer) if anchor else ()
    ids = _encoded(anchor + text, tokenizer)
    return ids[len(first) :] if ids[: len(first)] == first else ()


def _encoded(text: str, tokenizer: Any) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
