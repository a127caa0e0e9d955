"""Agrees on a protocol by multistream-select 1.0: for a connection's layers, and for each stream.

https://github.com/multiformats/multistream-select
"""

from __future__ import annotations

from collections.abc import Collection

from bench.harness.stranger.channel import Channel, read_delimited
from p2pnet.network.libp2p.protobuf import delimited

HEADER = "/multistream/1.0.0"
NOT_AVAILABLE = "na"


class NotAgreed(Exception):
    """The other end does not speak the protocol."""


def line(text: str) -> bytes:
    """A message of multistream-select."""
    return delimited(f"{text}\n".encode())


async def propose(channel: Channel, protocol: str) -> None:
    """Ask for a protocol. Raises NotAgreed."""
    await channel.write(line(HEADER) + line(protocol))
    await _read_header(channel)
    if (answer := await _read_line(channel)) != protocol:
        raise NotAgreed(f"{protocol} was answered with {answer!r}")


async def accept(channel: Channel, protocols: Collection[str]) -> str:
    """Agree to the first of `protocols` that the other end asks for; refuse others until it does."""
    await channel.write(line(HEADER))
    await _read_header(channel)
    while (asked := await _read_line(channel)) not in protocols:
        await channel.write(line(NOT_AVAILABLE))
    await channel.write(line(asked))
    return asked


async def _read_header(channel: Channel) -> None:
    if (header := await _read_line(channel)) != HEADER:
        raise NotAgreed(f"not multistream-select: {header!r}")


async def _read_line(channel: Channel) -> str:
    return (await read_delimited(channel)).decode().removesuffix("\n")
