"""Asks a peer whether it is still there, again and again over one stream.

Every p2pd answers, for as long as it is asked once a minute. Knows nothing of p2pd: it is handed a stream, which was
opened for PING_PROTOCOL. https://github.com/libp2p/specs/blob/master/ping/ping.md
"""

from __future__ import annotations

import os

from p2pnet.errors import PeerLost
from p2pnet.network.interface import Stream

PING_PROTOCOL = "/ipfs/ping/1.0.0"

_BYTES = 32


async def ping(stream: Stream) -> None:
    """Once; returns with the answer. Raises PeerLost when the stream has ended, or something else comes."""
    sent = os.urandom(_BYTES)
    await stream.write(sent)
    answer = b""
    while len(answer) < _BYTES:
        more = await stream.read()
        if not more:
            raise PeerLost("the stream of pings has ended")
        answer += more
    if answer != sent:
        raise PeerLost("the answer to a ping is another one")
