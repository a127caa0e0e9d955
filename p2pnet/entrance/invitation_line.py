"""The invitation into the public network: a line that says whom to join through, and needs no secrecy.

It is plain text, so that whoever is asked to use one can read where it leads. A private swarm's invitation is another
line, which makes a member: `swarm/invitation.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pnet.errors import UsageError

JOIN_PREFIX = "p2pnet-join:"
"""Of the line. Another form gets another prefix."""

MAX_INVITED = 4
"""Addresses in a line: TCP and QUIC of two bootstraps. Its QR code still fits 80 columns."""


def to_line(sources: Sequence[str]) -> str:
    """The line with the first few of these, each an address or a URL that is known to be one."""
    return JOIN_PREFIX + ",".join(sources[:MAX_INVITED])


def read_line(line: str) -> tuple[str, ...]:
    """What it names, not checked yet. Raises UsageError when it is no invitation into the public network."""
    stripped = line.strip()
    sources = tuple(stripped.removeprefix(JOIN_PREFIX).split(","))
    if not stripped.startswith(JOIN_PREFIX) or not all(sources) or len(sources) > MAX_INVITED:
        raise UsageError(
            f"This is no invitation: one begins with {JOIN_PREFIX} or p2pnet-swarm:, and is one whole line.",
            "Copy the whole line, or ask for another invitation.",
        )
    return sources
