"""Defines the request for a prompt's tokens, or for the text of tokens, and what comes back, as `messages` does it for
a generation.

These structs are the wire's types, so fields are only ever added, each with a default.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2pnet.messages import Accepted, Digest, Failed, Finished, ModelId, Prompt, TokenId

MAX_IDS_AT_ONCE = 2048
"""In one event: with the names of all of them it stays under what a frame holds, as long as names are of usual length;
a prompt of more has several events."""

MAX_TOKEN_NAME_CHARS = 1024
"""Four times the longest token that is known, each of whose bytes is written as one character."""

MAX_TEXT_CHARS_AT_ONCE = 1 << 13
"""In one event: 32 KiB of whatever script."""

Wanted = Literal["count", "ids", "names"]
"""What is told of a prompt: how many tokens, which, or also what the vocabulary calls them."""


class TokenizeRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="tokenize"):
    """A prompt whose tokens are wanted, as a generation would read it; or token ids, whose text is.

    `adds_special`: with the tokens that the tokenizer puts around any text. None is as for a generation: around a text,
    and not around a chat, whose template writes its own. `keep_stream` says that another request may follow on this
    stream.
    """

    request_id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: ModelId
    prompt: Prompt
    wants: Wanted = "count"
    adds_special: bool | None = None
    digest: Digest | None = None
    keep_stream: bool = False


class Tokenized(msgspec.Struct, frozen=True, omit_defaults=True, tag="tokenized"):
    """Some more tokens of the prompt, with their names where these are wanted; or some more of the text of ids."""

    token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_IDS_AT_ONCE)] = ()
    names: Annotated[
        tuple[Annotated[str, Meta(max_length=MAX_TOKEN_NAME_CHARS)], ...], Meta(max_length=MAX_IDS_AT_ONCE)
    ] = ()
    text: Annotated[str, Meta(max_length=MAX_TEXT_CHARS_AT_ONCE)] = ""


TokenizeEvent = Accepted | Tokenized | Finished | Failed
"""What comes back: Accepted, which has the count, Tokenized as often as it takes, then Finished; or Failed at any
point."""
