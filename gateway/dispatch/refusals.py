"""Remembers which workers have failed one request, and for how long it passes them over. Keeps no clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

from p2pnet.errors import FeatureMissing, ModelNotFound, NotAllowed, P2PNetError, TooSlow

PAUSE_S = 0.5
MAX_PAUSE_S = 8.0
"""A worker that failed this request is passed over for 0.5 s, and for twice as long with each further failure: long
enough for others to be tried first, short enough for the only one there is."""

FOR_EVER = float("inf")


class Refusals(Set[str]):
    """Peer ids, as they are passed over at the moment of looking."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._until_s: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._slow = 0

    @property
    def patience(self) -> float:
        """How many times as long as usual the next worker may take. It grows with each that was too slow, but for the
        first, which may have been the one: when all are slow at once, moving from one to the next only adds to it."""
        return float(2 ** min(8, max(0, self._slow - 1)))

    def note(self, peer_id: str, error: P2PNetError) -> None:
        """What a worker says it cannot do it will not do in a second either."""
        self._slow += isinstance(error, TooSlow)
        if isinstance(error, FeatureMissing | ModelNotFound | NotAllowed):
            self._until_s[peer_id] = FOR_EVER
            return
        if self._until_s.get(peer_id) == FOR_EVER:
            return
        failures = self._failures.get(peer_id, 0)
        self._failures[peer_id] = failures + 1
        self._until_s[peer_id] = self._now_s() + min(MAX_PAUSE_S, PAUSE_S * 2 ** min(failures, 8))

    def __contains__(self, peer_id: object) -> bool:
        return isinstance(peer_id, str) and self._until_s.get(peer_id, 0.0) > self._now_s()

    def __iter__(self) -> Iterator[str]:
        now_s = self._now_s()
        return (peer_id for peer_id, until_s in self._until_s.items() if until_s > now_s)

    def __len__(self) -> int:
        return sum(1 for _ in self)
