"""Keeps addresses of other peers on disk, so that a peer that starts again finds the network without its bootstraps.

A file beside the identity. It says through whom the network was joined, too: addresses of one network are of no use in
another, and must not join the two. Knows nothing of p2pd.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from p2pnet.network.multiaddrs import is_relayed, peer_id_of

logger = logging.getLogger(__name__)

MAX_KNOWN_ADDRESSES = 128
"""Some thirty peers: of those that are there for days a few are left after weeks."""

MAX_BYTES = 1 << 16


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    joined_through: tuple[str, ...]
    """Peer ids."""
    addresses: tuple[str, ...]
    """Full multiaddrs."""


class AddressBook:
    """That of one peer, which joins through `initial_peers`: full multiaddrs."""

    def __init__(self, path: Path, initial_peers: Sequence[str]) -> None:
        self._path = path
        self._named = {peer_id for address in initial_peers if (peer_id := peer_id_of(address)) is not None}
        self._written: frozenset[str] = frozenset()

    def read(self) -> list[str]:
        """The addresses that were kept of this network; none where the file makes no sense."""
        try:
            with self._path.open("rb") as file:
                content = msgspec.json.decode(file.read(MAX_BYTES), type=_Content)
            if not self._named.isdisjoint(content.joined_through):
                return [address for address in content.addresses[:MAX_KNOWN_ADDRESSES] if peer_id_of(address)]
        except FileNotFoundError:
            pass  # nobody was ever known
        except (OSError, ValueError) as error:
            logger.warning("%s is not read, and will be written anew: %s", self._path, error)
        return []

    def write(self, addresses: Collection[str]) -> None:
        """Keep these, unless they are those that were kept last. Never raises: it can be done without."""
        kept = [address for address in addresses if not is_relayed(address)][:MAX_KNOWN_ADDRESSES]
        if not kept or not self._named or self._written == frozenset(kept):
            return
        content = msgspec.json.encode(_Content(tuple(sorted(self._named)), tuple(kept)))
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            beside.replace(self._path)
            self._written = frozenset(kept)
        except OSError as error:
            logger.debug("%s cannot be written: %s", self._path, error)
