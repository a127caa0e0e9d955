"""Says what of a request was left out because nothing here runs it: one place for all dialects, a header and a field
beside the usage. Clients ignore both, and people who look find them. Pure; knows nothing of which tools there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEADER = "x-p2pnet-left-out"
FIELD = "p2pnet"

MAX_NAMED = 16
"""Clients have a handful. A header that names all of hundreds would be longer than proxies take."""


def left_out_headers(names: Sequence[str]) -> dict[str, str]:
    """`names` are words of the API in ASCII, in the order of the request. None where nothing was left out."""
    return {HEADER: ", ".join(_named(names))} if names else {}


def left_out_field(names: Sequence[str]) -> dict[str, Any]:
    """The same for a document."""
    return {FIELD: {"left_out": _named(names)}} if names else {}


def _named(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))[:MAX_NAMED]
