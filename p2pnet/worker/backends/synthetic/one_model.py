"""Holds what all made-up backends of one model share: the card, an empty load, nothing to free."""

from __future__ import annotations

from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendLoad


class OneModel:
    """The part of a backend of one model that does not answer requests."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return (self._card,)

    @property
    def load(self) -> BackendLoad:
        return BackendLoad()

    async def close(self) -> None:
        """Nothing to free."""
