"""From the flags of `p2pnet serve` to what one gateway may take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from p2pnet.cli.settings import parse_bytes
from p2pnet.config import GuardConfig
from p2pnet.errors import UsageError
from p2pnet.identity import public_key_of


def guard_config(
    allowed: Sequence[str], blocked: Sequence[str], max_request_bytes: str | None, limits: GuardConfig
) -> GuardConfig:
    """`limits`, with the lists and the size that were given. Raises UsageError."""
    return replace(
        limits,
        allowed_gateways=_peer_ids(allowed),
        blocked_gateways=_peer_ids(blocked),
        max_request_bytes=None if max_request_bytes is None else parse_bytes(max_request_bytes),
    )


def _peer_ids(given: Iterable[str]) -> frozenset[str]:
    for peer_id in given:
        if public_key_of(peer_id) is None:
            raise UsageError(
                f"{peer_id!r} is not a gateway's peer id.",
                "Write it as the gateway prints it: 52 letters and digits that begin with 12D3KooW.",
            )
    return frozenset(given)
