"""A bootstrap that cuts circuits soon: `python -m tests.nat.small_relay --data-bytes N --ready-file FILE`."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from p2pnet.cli.lifecycle import Ready, run_service
from p2pnet.config import NetworkConfig, RelayLimits
from p2pnet.peer import Peer
from tests.nat.machines import LISTEN


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-bytes", type=int, required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args()
    config = NetworkConfig(
        options.ready_file.with_suffix(".key"),
        listen=LISTEN[1::2],
        is_bootstrap=True,
        relay=RelayLimits(data_bytes=options.data_bytes),
    )

    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        peer = await Peer.join(config)
        try:
            yield Ready(peer.identity.peer_id, await peer.join_addresses())
        finally:
            await peer.close()

    run_service(service, options.ready_file, "The relay is ready.")


if __name__ == "__main__":
    main()
