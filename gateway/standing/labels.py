"""Labels callers in the book: the same caller has the same one in every run, and without the gateway's key the label
leads nowhere. Those of one public subnet are one, since whoever has one address of it may have them all. Pure."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from ipaddress import ip_network

from gateway.peers.subnets import subnet_of
from p2pnet.identity import Identity

LABEL_DOMAIN = "p2pnet/callers/1"

LABEL_BYTES = 8
"""Tells a hundred thousand callers apart."""


def labels(identity: Identity | None) -> Callable[[str], str]:
    """Under a secret that follows from the gateway's identity; without one the labels are those of this run alone."""
    key = secrets.token_bytes(64) if identity is None else identity.sign(LABEL_DOMAIN, b"")

    def label(caller: str) -> str:
        return hashlib.blake2b(_subnet(caller).encode(errors="replace"), digest_size=LABEL_BYTES, key=key).hexdigest()

    return label


def _subnet(caller: str) -> str:
    """Itself where it is no address, or one of a private network, whose machines are known to their owner."""
    try:
        address = ip_network(caller, strict=False).network_address
    except ValueError:
        return caller
    return subnet_of(address) if address.is_global else caller
