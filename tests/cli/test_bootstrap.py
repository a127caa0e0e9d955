"""What a bootstrap says of itself while it runs."""

from __future__ import annotations

import asyncio

import pytest

from p2pnet.cli.bootstrap import TOLD_EVERY_S, tell_relayed
from p2pnet.network.interface import Relayed


async def test_what_was_relayed_is_told_when_it_has_grown(caplog: pytest.LogCaptureFixture) -> None:
    grown = (2_000_000, 2_000_000, 9_000_000)
    seen = iter([Relayed(places=1), *(Relayed(bytes=so_far) for so_far in grown)])
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 4:
            raise asyncio.CancelledError

    with caplog.at_level("INFO"), pytest.raises(asyncio.CancelledError):
        await tell_relayed(lambda: next(seen), pause)
    assert [message.split("; ")[1] for message in caplog.messages] == ["2 MB carried so far", "9 MB carried so far"]
    assert set(pauses) == {TOLD_EVERY_S}
