"""Takes the offer to upgrade a connection out of a request's head, so that it can be served as it is.

A server may ignore the offer (RFC 9110, 7.8), and Java's client makes one with every request. The parser stops behind
the head then and takes the body for another protocol's bytes: so the head is given to a new one, without the offer.
"""

from __future__ import annotations

from collections.abc import Iterable

import httptools

UPGRADE_FIELDS = frozenset({b"upgrade", b"http2-settings"})


def head_without_offer(
    parser: httptools.HttpRequestParser, url: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """The head that `parser` has read, without what offers another protocol."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in UPGRADE_FIELDS)
        if name not in UPGRADE_FIELDS:
            lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def new_parser(protocol: object) -> httptools.HttpRequestParser:
    """As uvicorn makes its own."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
