"""Draws a worker's panel on a terminal, below its log lines. What stands in it is decided in `worker.panel`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from p2pnet.cli.logs import LastWarning, logging_through
from p2pnet.display.colours import GOOD, WARNING
from p2pnet.flow.background import Background
from p2pnet.peer import Peer
from p2pnet.worker.observability.panel import Line, Tone, View, Warned, lines, reach_of, summary
from p2pnet.worker.observability.tally import Tally
from p2pnet.worker.serve import Worker

REDRAW_S = 0.5
"""Often enough to look alive, seldom enough to be quiet; what has not changed is not drawn."""

STYLES = {Tone.PLAIN: "", Tone.GOOD: GOOD, Tone.WARNING: WARNING}


class Panel:
    """The panel of one worker. Without a console there is none, and nothing else is different."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.tally = Tally(time.monotonic)
        self._began_s = time.monotonic()
        self._warnings = LastWarning(time.monotonic)
        self._reach = ""
        self._reached_s = 0.0

    @classmethod
    def on_terminal(cls, is_wanted: bool) -> Panel:
        """One is drawn where a person looks: standard output and standard error are one terminal that can do it."""
        console = Console(stderr=True, highlight=False)
        can_draw = sys.stdout.isatty() and sys.stderr.isatty() and not console.is_dumb_terminal
        return cls(console if is_wanted and can_draw else None)

    @asynccontextmanager
    async def drawn(self, peer: Peer, worker: Worker) -> AsyncIterator[None]:
        """Keep it on the screen. On leaving it is cleared away, and one line says what was given."""
        if self.console is None:
            yield
            return

        async def look() -> View:
            addresses = await peer.network.addresses()
            return View(
                peer_id=peer.identity.peer_id,
                name=worker.name,
                neighbours=peer.network.neighbours,
                addresses=addresses,
                reached_for_s=self._reached_for_s(addresses),
                standing=worker.standing(),
                given=self.tally.given,
                uptime_s=time.monotonic() - self._began_s,
                warned=self._warned(),
            )

        with logging_through(self.console, self._warnings):
            try:
                async with _redrawn(self.console, look):
                    yield
            finally:
                self.console.print(summary(await look()))

    def _reached_for_s(self, addresses: Sequence[str]) -> float:
        """For how long it has been reached as by these addresses."""
        reach, now_s = reach_of(addresses), time.monotonic()
        if reach != self._reach:
            self._reach, self._reached_s = reach, now_s
        return now_s - self._reached_s

    def _warned(self) -> Warned | None:
        last = self._warnings.last
        return None if last is None else Warned(last.text, time.monotonic() - last.at_s)


def table(shown: tuple[Line, ...]) -> Table:
    """Never wider than the terminal, and a row each: what does not fit is cut."""
    grid = Table.grid(Column(style="dim", no_wrap=True), Column(no_wrap=True, overflow="ellipsis"), padding=(0, 2))
    for line in shown:
        grid.add_row(line.label, Text(line.text, style=STYLES[line.tone]))
    return grid


@asynccontextmanager
async def _redrawn(console: Console, look: Callable[[], Awaitable[View]]) -> AsyncIterator[None]:
    shown = lines(await look())
    with Live(table(shown), console=console, auto_refresh=False, transient=True) as live:
        live.refresh()
        background = Background()
        background.keep("drawing the panel", partial(_keep_drawing, live, look, shown))
        try:
            yield
        finally:
            await background.stop()


async def _keep_drawing(live: Live, look: Callable[[], Awaitable[View]], shown: tuple[Line, ...]) -> None:
    size = live.console.size
    while True:
        await asyncio.sleep(REDRAW_S)
        now = lines(await look())
        if now != shown or live.console.size != size:
            shown, size = now, live.console.size
            live.update(table(shown), refresh=True)
