"""Opens the upstream servers of a worker, and says what they have. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from p2pnet.worker.backends.upstream.address import Kind
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions

logger = logging.getLogger(__name__)


async def open_upstreams(
    urls: Sequence[str], kind: Kind | None, key: str | None, names: Mapping[str, str], readers: Collection[str] = ()
) -> list[UpstreamBackend]:
    """Open one server after the other; `names` are what models are announced as, by what a server calls them, `readers`
    those that read images. Raises UsageError, and leaves none open then."""
    backends: list[UpstreamBackend] = []
    try:
        for url in urls:
            backends.append(await UpstreamBackend.open(UpstreamOptions(url, kind, key, names=names, readers=readers)))
            if not backends[-1].names_there:
                logger.warning("the upstream server %s has no models yet; they are announced when they come", url)
    except BaseException:
        for backend in backends:
            await backend.close()
        raise
    there = frozenset[str]().union(*(backend.names_there for backend in backends))
    for flag, named in (("--served-name", names), ("--upstream-images", readers)):
        for name in sorted(set(named) - there):
            logger.warning("no upstream server has a model %.128r yet, which %s names", name, flag)
    return backends
