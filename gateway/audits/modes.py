"""Says whose prompts auditors may see: the choice of the gateway's owner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from p2pnet.errors import UsageError
from p2pnet.identity import public_key_of


class AuditMode(Enum):
    OFF = "off"
    """Nothing is looked at."""
    OWN = "own"
    """Answers to clients are, by trusted auditors only."""
    CANARIES = "canaries"
    """Answers to prompts of the gateway's own making are, by anybody of the same model."""
    ALL = "all"
    """Answers to clients are, by anybody of the same model: an audit shows a prompt to one or two more workers."""


@dataclass(frozen=True)
class AuditConfig:
    """`trusted` are the peer ids of auditors whose word alone is believed. A gateway that is not told of any trusts
    nobody: an address or a name that is this machine's own is as easy to claim as any other."""

    mode: AuditMode = AuditMode.OFF
    trusted: frozenset[str] = frozenset()


def parse_audits(mode: str | None, auditors: Iterable[str]) -> AuditConfig:
    """From the flags. Without a mode it is OWN where there is a trusted auditor, and else CANARIES. Raises
    UsageError."""
    trusted = frozenset(auditors)
    for peer_id in trusted:
        if public_key_of(peer_id) is None:
            raise UsageError(
                f"{peer_id!r} is no peer id.",
                "Name an auditor by the peer id that `p2pnet serve` prints when it starts: it begins with 12D3KooW.",
            )
    if mode is None:
        return AuditConfig(AuditMode.OWN if trusted else AuditMode.CANARIES, trusted)
    chosen = AuditMode(mode)
    if chosen is AuditMode.OWN and not trusted:
        raise UsageError(
            "With --audit own the trusted auditors alone see prompts, and none is named.",
            "Name your own worker with --auditor PEER, or choose --audit canaries.",
        )
    return AuditConfig(chosen, trusted)
