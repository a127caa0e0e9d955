"""Closes the sockets through which p2pd passes on the streams of others, however their serving ends.

Knows nothing of what is served. `p2pd` has one of these for all its processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serve one of these."""

ACCEPTING_TURNS = 3
"""Of the event loop, from when it accepts a connection until it tells whoever is to handle it."""


class InboundSockets:
    """The sockets through which p2pd passes on the streams of others. None outlives it."""

    def __init__(self) -> None:
        self._open: set[asyncio.StreamWriter] = set()

    def closing(self, handle: Serve) -> Serve:
        """The same, and whatever ends it, the socket is closed. hivemind's leaves one open of which p2pd has died
        before it said who asks, until it is collected."""

        async def handle_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(EOFError):
                    await handle(reader, writer)
            finally:
                self._open.discard(writer)
                writer.close()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
            self._open.add(writer)
            return handle_and_close(reader, writer)

        return begin

    async def close(self) -> None:
        """Once p2pd has ended: close those that are left, of which the handling may not even have begun."""
        for _ in range(ACCEPTING_TURNS):
            await asyncio.sleep(0)
        for writer in self._open:
            writer.transport.abort()
        await asyncio.sleep(0)  # asyncio closes them in its next turn
