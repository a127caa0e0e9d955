"""Notices that another machine runs a worker with this one's key: a copied folder, or a cloned image.

To the network the two are one peer: requests reach either, and each overwrites what the other announces. The second is
refused while the first answers; where that cannot be found out, both say so as long as they run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from p2pnet import client
from p2pnet.config import DEFAULT_LISTEN, NetworkConfig
from p2pnet.directory import shard_of, worker_key
from p2pnet.errors import P2PNetError, PeerLost, PeerUnreachable, RecordRefused, UsageError
from p2pnet.network.interface import Clock, Network
from p2pnet.peer import Peer
from p2pnet.records import CapabilityRecord, open_record

logger = logging.getLogger(__name__)

PROBE_S = 5.0
"""How long another machine may take to answer: one that is gone must not hold up a start for longer."""

LOOK_S = 20.0
"""How often a running worker looks: each announces itself anew within a minute, so both see the other's soon."""

SAY_AGAIN_S = 600.0
"""What goes on is said again after this."""

Answers = Callable[[CapabilityRecord], Awaitable[bool]]
"""Whether the worker that this record is of answers, asked by somebody else than ourselves."""


async def own_records(network: Network, now_ms: Clock) -> list[CapabilityRecord]:
    """The records under our own peer id that the directory has, whoever announced them, newest first."""
    key = worker_key(shard_of(network.peer_id))
    records: list[CapabilityRecord] = []
    for stored in (await network.fetch([key])).get(key, ()):
        if stored.subkey == network.peer_id:
            try:
                record = open_record(stored.value, now_ms())
            except RecordRefused:
                continue
            if isinstance(record, CapabilityRecord):
                records.append(record)
    return sorted(records, key=lambda record: -record.sequence)


async def check_alone(network: Network, now_ms: Clock, identity_file: Path, answers: Answers) -> None:
    """Before anything is announced. Raises UsageError where a worker with our key answers elsewhere.

    A record of an earlier run, which ended without a goodbye, is no such worker: nobody answers there any more.
    """
    newest = next(iter(await own_records(network, now_ms)), None)
    if newest is None or not newest.is_online:
        return
    if set(newest.addresses) & set(await network.record_addresses()):
        return  # we have the address ourselves now
    if await answers(newest):
        raise UsageError(
            f"Another worker has this one's key, and answers at {newest.addresses[0]}.",
            f"Give this machine a key of its own: name another file with --identity, or delete {identity_file} here.",
        )


async def asked_by_another(record: CapabilityRecord) -> bool:
    """Ask as a peer of its own: nobody can dial himself. It joins no network, where it would hear of us, too, and ask
    us."""
    with TemporaryDirectory(prefix="p2pnet-") as folder:
        peer = await Peer.join(NetworkConfig(Path(folder) / "asker.key", DEFAULT_LISTEN, is_client=True))
        try:
            await client.status(peer.network, record.peer_id, record.addresses, PROBE_S)
        except (PeerUnreachable, PeerLost):
            return False
        except P2PNetError:
            return True  # it says something else than how it is: it is there
        finally:
            await peer.close()
        return True


class TwinWatch:
    """Looks whether somebody else announces itself under our peer id. Run `run` as a task; `is_own` says whether the
    record of a sequence number is one of ours."""

    def __init__(
        self,
        network: Network,
        now_ms: Clock,
        is_own: Callable[[int], bool],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network = network
        self._now_ms = now_ms
        self._is_own = is_own
        self._now_s = now_s
        self._began_ms = now_ms()
        self._said_s = float("-inf")

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Look for ever. It ends with its task."""
        while True:
            await sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # the edge: one bad look must not be the last one
                logger.exception("our own records could not be read")

    async def look(self) -> None:
        """Once. Records from before we began are of an earlier run."""
        records = await own_records(self._network, self._now_ms)
        others = [
            record for record in records if record.sequence >= self._began_ms and not self._is_own(record.sequence)
        ]
        if others and self._now_s() - self._said_s >= SAY_AGAIN_S:
            self._said_s = self._now_s()
            logger.error(
                "another worker has this one's key, and announces itself at %s: requests reach either of the two, and "
                "models come and go. Stop one of them, delete its key file, and start it again",
                ", ".join(others[0].addresses) or "no address",
            )
