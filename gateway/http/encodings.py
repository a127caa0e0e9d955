"""Decodes bodies that a client has compressed, within the bound of those that it has not. Pure."""

from __future__ import annotations

import zlib

from starlette.exceptions import HTTPException

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""How zlib is told of each encoding (RFC 9110, 8.4.1): 16 more are gzip's header."""

PLAIN = ("", "identity")


def decoded(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its content coding. Raises HTTPException 413 when it is larger than `max_bytes`, 415 for a
    coding that is not known, several of them included, and 400 for a body that is not so encoded."""
    encoding = encoding.strip().lower()
    if encoding in PLAIN:
        return body
    if encoding not in WINDOW_BITS:
        raise HTTPException(
            415,
            f"A body encoded as {encoding[:64]!r} cannot be read here. Send it as it is, or as gzip.",
            {"accept-encoding": ", ".join(WINDOW_BITS)},
        )
    decoder = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        plain = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise HTTPException(400, f"The request's body is not encoded as {encoding}, as its head says.") from error
    if len(plain) > max_bytes:
        raise too_large(max_bytes)
    if not decoder.eof or decoder.unused_data:
        raise HTTPException(400, f"The request's body is not one whole {encoding}: it is cut, or has more behind it.")
    return plain


def too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413, f"The request's body is larger than {max_bytes} bytes: shorten it, or make its images smaller."
    )
