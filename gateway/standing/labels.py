"""Labels callers in the book: the same caller has the same one in every run, and without the gateway's key the label
leads nowhere. Pure."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from p2pnet.identity import Identity

LABEL_DOMAIN = "p2pnet/callers/1"

LABEL_BYTES = 8
"""Tells a hundred thousand callers apart."""


def labels(identity: Identity | None) -> Callable[[str], str]:
    """Under a secret that follows from the gateway's identity; without one the labels are those of this run alone."""
    key = secrets.token_bytes(64) if identity is None else identity.sign(LABEL_DOMAIN, b"")

    def label(caller: str) -> str:
        return hashlib.blake2b(caller.encode(errors="replace"), digest_size=LABEL_BYTES, key=key).hexdigest()

    return label
