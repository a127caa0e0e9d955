"""Shows frames on a terminal until somebody leaves. What stands in a frame is decided in `frame`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from p2pnet.display.colours import BAD
from p2pnet.top.columns import cut
from p2pnet.top.frame import FrameLine, Kind, Size, frame
from p2pnet.top.overview import Overview
from p2pnet.top.reading import GatewayAway, Source

INTERVAL_S = 1.0
"""How often the gateway is asked: as often as it looks at itself."""
STYLES = {Kind.TITLE: "bold", Kind.HEADING: "dim", Kind.PLAIN: "", Kind.BAD: BAD}
FOOT = "q leaves"


async def show_once(source: Source, console: Console) -> None:
    """Print one frame. Raises UsageError or GatewayAway."""
    lines = frame(await source.read(), datetime.now(UTC), Size(console.width))
    console.print(drawn(lines))


async def show(source: Source, console: Console) -> None:
    """Keep the terminal showing the network until `q`, Ctrl-C or SIGTERM. A gateway that is away is asked again, and
    what was last known stays. Raises UsageError for what asking again does not help."""
    leaving = asyncio.Event()
    known: Overview | None = None
    away: str | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def draw() -> None:
            live.update(drawn(_picture(known, away, Size(*console.size))), refresh=True)

        with _heard(leaving, on_resize=draw):
            while not leaving.is_set():
                try:
                    known, away = await _unless(leaving, source), None
                except GatewayAway as error:
                    away = error.message
                if not leaving.is_set():
                    draw()
                    await _wait(leaving)


def drawn(lines: list[FrameLine]) -> Group:
    """Strangers' text is text: no markup, no wrapping."""
    return Group(*(Text(line.text, STYLES[line.kind], no_wrap=True, overflow="crop") for line in lines))


def _picture(known: Overview | None, away: str | None, size: Size) -> list[FrameLine]:
    assert size.height is not None, "a terminal has one"
    foot = [FrameLine(cut(f"{FOOT}, trying again: {away}", size.width), Kind.BAD) if away else FrameLine(FOOT)]
    if known is None:
        return foot
    return [*frame(known, datetime.now(UTC), Size(size.width, size.height - len(foot))), *foot]


async def _unless(leaving: asyncio.Event, source: Source) -> Overview | None:
    """Read, but do not wait for an answer when somebody leaves."""
    reading, left = asyncio.ensure_future(source.read()), asyncio.ensure_future(leaving.wait())
    try:
        await asyncio.wait((reading, left), return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else None
    finally:
        for task in (reading, left):
            task.cancel()


async def _wait(leaving: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(INTERVAL_S):
            await leaving.wait()
    except TimeoutError:
        pass


@contextmanager
def _heard(leaving: asyncio.Event, on_resize: Callable[[], None]) -> Iterator[None]:
    """Listen to signals, and to keys as they are struck. A terminal of another size is drawn at once, however long the
    gateway takes."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, on_resize)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leaving.set)
    descriptor = sys.stdin.fileno()
    is_terminal = os.isatty(descriptor)
    before = termios.tcgetattr(descriptor) if is_terminal else None

    def read_keys() -> None:
        keys = os.read(descriptor, 64)
        if not keys or b"q" in keys.lower():
            loop.remove_reader(descriptor)
            leaving.set()

    if is_terminal:
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, read_keys)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        if before is not None:
            loop.remove_reader(descriptor)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
