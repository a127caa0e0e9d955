"""How commands are run and ended, with small programs in their place that do as they are told."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from p2pnet.cli.up.plan import Command
from p2pnet.cli.up.running import Running
from p2pnet.errors import UsageError

PROGRAM = """
import os, pathlib, signal, sys
name, *does = sys.argv[1:]
if "tell" in does:
    sys.exit(" ".join(sorted(name for name in os.environ if name.startswith("P2PNET_"))))
if "fail" in does:
    sys.exit("I cannot: " + "x" * 9)
notes, seen = pathlib.Path(os.environ["NOTES"]), []
def told(number, _):
    seen.append(number)
    with notes.open("a") as file:
        file.write(f"{name} {len(seen)}\\n")
    if "stay" not in does and len(seen) > ("drain" in does):
        sys.exit(0)
signal.signal(signal.SIGTERM, told)
ready = pathlib.Path(os.environ["P2PNET_READY_FILE"])
ready.with_suffix(".new").write_text('{"peer_id": "%s", "addresses": []}' % name)
ready.with_suffix(".new").rename(ready)
if "leave" in does:
    sys.exit("That is all.")
while True:
    signal.pause()
"""


ENVIRONMENT = {"P2PNET_INVITE": "x", "P2PNET_SWARM": "x", "P2PNET_INITIAL_PEERS": "x", "P2PNET_IDENTITY": "x"} | {
    "P2PNET_LISTEN": "/ip4/127.0.0.1/tcp/0"
}


class Parts:
    """Programs that are run as parts, and what was said and done."""

    def __init__(self, folder: Path, stop_s: float = 30) -> None:
        self.said: list[str] = []
        self._notes = folder / "notes"
        program = (sys.executable, "-S", "-c", PROGRAM)
        self.running = Running(folder, self.said.append, program, {"NOTES": str(self._notes), **ENVIRONMENT}, stop_s)

    async def start(self, *does: str) -> None:
        ready = await self.running.start(Command(does[0], does))
        assert ready.peer_id == does[0]

    @property
    def notes(self) -> list[str]:
        return self._notes.read_text().splitlines()


async def test_parts_are_ended_one_after_the_other_the_last_one_first(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    for name in ("bootstrap", "gateway", "worker"):
        await parts.start(name)
    assert parts.said == ["$ p2pnet bootstrap", "$ p2pnet gateway", "$ p2pnet worker"]
    await parts.running.stop(asyncio.Event())
    assert parts.notes == ["worker 1", "gateway 1", "bootstrap 1"]


async def test_whoever_is_in_a_hurry_has_all_of_them_told_twice(tmp_path: Path) -> None:
    parts, hurry = Parts(tmp_path), asyncio.Event()
    await parts.start("bootstrap")
    await parts.start("worker", "drain")
    hurry.set()
    await parts.running.stop(hurry)
    assert parts.notes[:2] == ["worker 1", "worker 2"]


async def test_what_does_not_leave_is_killed(tmp_path: Path) -> None:
    parts = Parts(tmp_path, stop_s=0.2)
    await parts.start("worker", "stay")
    await parts.running.stop(asyncio.Event())
    assert parts.notes == ["worker 1"]


async def test_a_part_that_does_not_start_has_the_last_word(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    with pytest.raises(UsageError, match=r"The worker has ended. Its last words:\nI cannot: xxxxxxxxx$"):
        await parts.start("worker", "fail")
    await parts.running.stop(asyncio.Event())


async def test_a_part_is_told_its_network_by_its_words_alone(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    with pytest.raises(UsageError, match=r"\nP2PNET_LISTEN P2PNET_NO_PANEL P2PNET_READY_FILE$"):
        await parts.start("worker", "tell")


async def test_a_part_that_leaves_is_said(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    await parts.start("bootstrap")
    await parts.start("gateway", "leave")
    with pytest.raises(UsageError, match=r"The gateway has ended. Its last words:\nThat is all."):
        await parts.running.wait()
    await parts.running.stop(asyncio.Event())
    assert parts.notes == ["bootstrap 1"]
