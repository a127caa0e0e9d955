"""The document at `/.well-known/p2pnet`: which peers to join through (RFC 8615). Knows nothing of who fetches it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from p2pnet.errors import UsageError
from p2pnet.network.multiaddrs import check_peer_address, worth_announcing

WELL_KNOWN_PATH = "/.well-known/p2pnet"

MAX_ENTRANCES = 32
"""Addresses that one page or one name may lead to: four for each of eight bootstraps, and nobody joins through more."""

MAX_ENTRANCE_CHARS = 256
"""Of one address: what a record allows, too."""

_Address = Annotated[str, Meta(max_length=MAX_ENTRANCE_CHARS)]


class _Document(msgspec.Struct, frozen=True):
    initial_peers: Annotated[tuple[_Address, ...], Meta(min_length=1, max_length=MAX_ENTRANCES)]


_decode = msgspec.json.Decoder(_Document).decode


def encode_document(addresses: Iterable[str]) -> bytes:
    """What a web server answers. Loopback addresses are in it only when there is nothing else."""
    return msgspec.json.format(msgspec.json.encode({"initial_peers": worth_announcing(addresses)}))


def decode_document(body: bytes, origin: str) -> tuple[str, ...]:
    """The addresses in what a stranger's server has answered; it names peers, and leads on to nobody who does. Raises
    UsageError."""
    try:
        addresses = _decode(body).initial_peers
    except (ValueError, RecursionError) as error:  # MsgspecError and UnicodeDecodeError are ValueErrors
        raise UsageError(
            f"{origin} is no document of p2pnet's.",
            'It should hold JSON like {"initial_peers": ["/ip4/203.0.113.7/tcp/31337/p2p/12D3KooW..."]}: '
            "`p2pnet invite --json` prints it.",
        ) from error
    return tuple(check_peer_address(address) for address in addresses if not address.startswith("/dnsaddr/"))
