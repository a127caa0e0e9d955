"""Opens the upstream servers of a worker, and says what they have. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from p2pnet.worker.backends.upstream.address import Kind
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions

logger = logging.getLogger(__name__)


async def open_upstreams(urls: Sequence[str], kind: Kind | None, key: str | None) -> list[UpstreamBackend]:
    """Open one server after the other. Raises UsageError, and leaves none open then."""
    backends: list[UpstreamBackend] = []
    try:
        for url in urls:
            backends.append(await UpstreamBackend.open(UpstreamOptions(url, kind, key)))
            if not backends[-1].models:
                logger.warning("the upstream server %s has no models yet; they are announced when they come", url)
    except BaseException:
        for backend in backends:
            await backend.close()
        raise
    return backends
