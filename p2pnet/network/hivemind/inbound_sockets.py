"""Closes the sockets through which p2pd passes on the streams of others, however their serving ends.

Knows nothing of what is served. `p2pd` has one of these for all its processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serve one of these."""

ACCEPTING_TURNS = 4
"""Of the event loop, until it has looked for connections, accepted one, made its transport, and told who is to handle
it."""


class InboundSockets:
    """The sockets through which p2pd passes on the streams of others. None outlives it."""

    def __init__(self) -> None:
        self._open: set[asyncio.StreamWriter] = set()

    def closing(self, handle: Serve) -> Serve:
        """The same, and whatever ends it, the socket is closed. hivemind's leaves one open of which p2pd has died
        before it said who asks, until it is collected."""

        async def handle_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                # Nobody waits for this task: of one that is cancelled, asyncio's own callback would log a traceback.
                with contextlib.suppress(EOFError, asyncio.CancelledError):
                    await handle(reader, writer)
            finally:
                self._open.discard(writer)
                writer.close()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
            self._open.add(writer)
            return handle_and_close(reader, writer)

        return begin

    async def accepted(self) -> None:
        """Once p2pd has ended, and before the server is closed: wait until all that have come are known here. asyncio
        leaves a connection open, and tells nobody, of which the server closes while it accepts it."""
        for _ in range(ACCEPTING_TURNS):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Close those that are left, of which the handling may not even have begun."""
        for writer in self._open:
            writer.transport.abort()
        await asyncio.sleep(0)  # asyncio closes them in its next turn
