"""Bounds the streams that others have open to this peer: when there are too many, those of whoever has most go.

Knows nothing of p2pd, nor of what streams carry: it is handed what closes one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

MAX_INBOUND_STREAMS = 1536
"""Each costs a file here and in p2pd, and some 50 kB in both together: 75 MB. A gateway with a thousand requests at
one worker has two thirds of them."""


class InboundStream:
    """One that has been let in. `close` ends it, from outside."""

    def __init__(self, peer_id: str, group: str, close: Callable[[], None]) -> None:
        self.peer_id = peer_id
        self.group = group
        self.close = close


class InboundStreams:
    """All of them, by the group of addresses that they come from and by peer."""

    def __init__(self, max_streams: int = MAX_INBOUND_STREAMS) -> None:
        self._max_streams = max_streams
        self._by_group: dict[str, dict[str, dict[InboundStream, None]]] = defaultdict(lambda: defaultdict(dict))
        self._sizes: dict[str, int] = defaultdict(int)
        self._count = 0
        self.give_up_idle: Callable[[], bool] = lambda: False
        """Closes one on which nothing is asked, and says whether there was one: those are the first to go."""

    @property
    def count(self) -> int:
        return self._count

    def enter(self, stream: InboundStream) -> None:
        """Let one in. When that is one too many, an idle one is closed, or else the newest of the peer that has most,
        from the group that has most: it may be this one."""
        self._by_group[stream.group][stream.peer_id][stream] = None
        self._sizes[stream.group] += 1
        self._count += 1
        if self._count > self._max_streams and not self.give_up_idle():
            excess = self._newest_of_the_most()
            self.leave(excess)
            excess.close()

    def leave(self, stream: InboundStream) -> None:
        """It is gone. Idempotent."""
        peers = self._by_group.get(stream.group, {})
        if peers.get(stream.peer_id, {}).pop(stream, stream) is stream:
            return
        self._count -= 1
        self._sizes[stream.group] -= 1
        if not peers[stream.peer_id]:
            del peers[stream.peer_id]
        if not peers:
            del self._by_group[stream.group], self._sizes[stream.group]

    def _newest_of_the_most(self) -> InboundStream:
        group = max(self._sizes, key=self._sizes.__getitem__)
        streams = max(reversed(self._by_group[group].values()), key=len)  # of equals the last peer that came
        return next(reversed(streams))
