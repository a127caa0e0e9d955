"""Two machines with one worker's key: the second is refused while the first answers, and else both say so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from p2pnet.directory import entries_for, validator
from p2pnet.errors import UsageError
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.records import CapabilityRecord, seal
from p2pnet.twins import SAY_AGAIN_S, TwinWatch, check_alone
from tests.stories import NOW_MS, ManualClock, capability, peer, settle

WORKER = peer("worker")
KEY_FILE = Path("worker.key")
ELSEWHERE = f"/ip4/192.0.2.7/tcp/9/p2p/{WORKER.peer_id}"


class Site:
    """A worker, in whose name something may be announced."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.network: MemoryNetwork = self.world.join(WORKER.peer_id)
        self.asked: list[CapabilityRecord] = []
        self.answers = True

    async def announce(self, issued_ms: int = NOW_MS, address: str = ELSEWHERE, **fields: Any) -> None:
        record = capability(WORKER, issued_ms=issued_ms, addresses=(address,), **fields)
        await self.network.store(entries_for(record, seal(record, WORKER)))

    async def is_there(self, record: CapabilityRecord) -> bool:
        self.asked.append(record)
        return self.answers

    async def check(self) -> None:
        await check_alone(self.network, self.clock, KEY_FILE, self.is_there)


async def test_who_has_announced_nothing_before_is_alone() -> None:
    site = Site()
    await site.check()
    assert site.asked == []


async def test_the_second_is_refused_while_the_first_answers() -> None:
    site = Site()
    await site.announce()
    with pytest.raises(UsageError, match="has this one's key") as refused:
        await site.check()
    assert ELSEWHERE in refused.value.message
    assert "worker.key" in refused.value.fix and "--identity" in refused.value.fix
    assert [record.addresses for record in site.asked] == [(ELSEWHERE,)]


async def test_what_an_earlier_run_has_left_behind_is_no_other() -> None:
    site = Site()
    site.answers = False
    await site.announce()
    await site.check()
    assert len(site.asked) == 1


@pytest.mark.parametrize("fields", [{"is_online": False}, {"address": ""}], ids=["withdrawn", "at our own address"])
async def test_where_nobody_else_can_be_nobody_is_asked(fields: dict[str, Any]) -> None:
    site = Site()
    if "address" in fields:
        (fields["address"],) = await site.network.record_addresses()
    await site.announce(**fields)
    await site.check()
    assert site.asked == []


def watch_of(site: Site, own: set[int], now_s: list[float]) -> TwinWatch:
    return TwinWatch(site.network, site.clock, own.__contains__, lambda: now_s[0])


async def test_a_worker_says_that_another_announces_itself_in_its_name(caplog: pytest.LogCaptureFixture) -> None:
    site, own, now_s = Site(), {NOW_MS + 1}, [0.0]
    await site.announce(issued_ms=NOW_MS - 1)  # of an earlier run
    watch = watch_of(site, own, now_s)
    await watch.look()
    await site.announce(issued_ms=NOW_MS + 1)
    await watch.look()
    assert caplog.messages == []
    await site.announce(issued_ms=NOW_MS + 2)
    await watch.look()
    await watch.look()
    (said,) = caplog.messages
    assert "another worker has this one's key" in said and ELSEWHERE in said and "delete its key file" in said
    now_s[0] = SAY_AGAIN_S
    await watch.look()
    assert len(caplog.messages) == 2


async def test_it_goes_on_looking_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    turns = 0

    def fail(sequence: int) -> bool:
        raise RuntimeError("nobody thought of this")

    async def sleep(duration_s: float) -> None:
        nonlocal turns
        turns += 1
        await asyncio.sleep(0)

    await site.announce(issued_ms=NOW_MS + 1)
    running = asyncio.create_task(TwinWatch(site.network, site.clock, fail).run(sleep))
    await settle(lambda: turns > 3)
    running.cancel()
    assert any("could not be read" in message for message in caplog.messages)
