"""A model that ranks documents by a script."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

from p2pnet.messages import Finished, Usage
from p2pnet.rerank_messages import RerankRequest
from p2pnet.worker.backend import BackendLoad, RerankBackendEvent
from tests.stories import card

END = Finished("stop", Usage(4, 0))


class Scores:
    """Ranks by the next of these scripts, which workers share: whoever is asked first has the first."""

    models = (card("ranks", task="embed", features=("rerank",)),)
    load = BackendLoad()

    def __init__(self, scripts: Iterator[tuple[RerankBackendEvent | Exception, ...]]) -> None:
        self._scripts = scripts

    async def rerank(self, request: RerankRequest) -> AsyncGenerator[RerankBackendEvent, None]:
        for event in next(self._scripts):
            if isinstance(event, Exception):
                raise event
            yield event

    async def close(self) -> None:
        """Nothing to free."""
