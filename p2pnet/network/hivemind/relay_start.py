"""Starts a p2pd that relays with our limits, and asks it for a reservation, as any peer would, to see that it does.

A race inside p2pd decides between our limits and libp2p's own: see `daemon`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig, RelayLimits
from p2pnet.errors import DaemonFailed, PeerLost, PeerUnreachable
from p2pnet.identity import Identity
from p2pnet.network.connections import Connections
from p2pnet.network.hivemind.p2pd import P2PD_ERRORS, P2pd
from p2pnet.network.hivemind.streams import Streams
from p2pnet.network.libp2p.relay import HOP_PROTOCOL, GrantedLimits, reserve
from p2pnet.network.multiaddrs import peer_id_of

logger = logging.getLogger(__name__)

MAX_RELAY_STARTS = 10
"""Tries to start a p2pd that relays with our limits; one in twenty failed on a busy machine."""


async def start_relay(p2pd: P2pd, limits: RelayLimits) -> None:
    """Start it again until it grants our limits. Raises DaemonFailed."""
    for _ in range(MAX_RELAY_STARTS):
        await p2pd.start()
        try:
            granted = await limits_of(await p2pd.visible())
            if granted is not None and granted.data_bytes == limits.data_bytes:
                return
        except BaseException:
            await p2pd.stop()
            raise
        await p2pd.stop()
    raise DaemonFailed("p2pd does not relay with our limits.", "Try again on a less busy machine.")


async def limits_of(addresses: Sequence[str]) -> GrantedLimits | None:
    """Ask the relay at these full multiaddrs, from a p2pd that lives for this one question. None without an answer."""
    with TemporaryDirectory(prefix="p2pnet-") as folder:
        config = NetworkConfig(Path(folder) / "probe.key", listen=LOOPBACK_LISTEN, is_client=True)
        p2pd = P2pd(config, Identity.load_or_create(config.identity_file).peer_id)
        streams = Streams(p2pd.open_socket, Connections(p2pd.dial, p2pd.hang_up, addresses), config.open_timeout_s)
        await p2pd.start()
        try:
            peer_id = peer_id_of(addresses[0])
            assert peer_id is not None
            stream = await streams.open_raw(peer_id, HOP_PROTOCOL)
            try:
                async with asyncio.timeout(config.open_timeout_s):
                    reservation = await reserve(stream)
                    return None if reservation is None else reservation.limits
            finally:
                stream.close()
        except (*P2PD_ERRORS, PeerLost, PeerUnreachable) as error:
            logger.debug("the relay did not answer: %s", error)
            return None
        finally:
            await p2pd.stop()
