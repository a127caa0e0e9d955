"""What may be named to join through, and the addresses that it comes to: an address, a page, a domain, a ready file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from p2pnet.entrance import dnsaddr, neighbour, web
from p2pnet.entrance.document import decode_document
from p2pnet.entrance.remembered import Remembered
from p2pnet.errors import UsageError
from p2pnet.loopback import is_loopback as leads_here
from p2pnet.network.multiaddrs import check_peer_address, is_loopback, parts_of

logger = logging.getLogger(__name__)

Fetch = Callable[[str], Awaitable[bytes]]
"""The body at a URL. Raises UsageError."""


def check_source(source: str) -> str:
    """One address, `/dnsaddr/...` or URL, as it is to be asked. Asks nobody. Raises UsageError."""
    if source.startswith(neighbour.SCHEME):
        return neighbour.check_file(source)
    if "://" in source:
        return web.check_url(source)
    return source if _names_a_domain(source) else check_peer_address(source)


def is_of_this_machine(source: str) -> bool:
    """Whether it says nothing to anybody elsewhere."""
    if source.startswith(neighbour.SCHEME):
        return True
    return leads_here(source) if "://" in source else not dnsaddr.is_dnsaddr(source) and is_loopback(source)


def find_addresses(
    sources: Sequence[str],
    remembered: Remembered | None = None,
    fetch: Fetch = web.fetch,
    lookup: dnsaddr.TxtLookup = dnsaddr.look_up,
) -> tuple[str, ...]:
    """The addresses that these come to, asked for now, one source after the other; not inside of an event loop. A page
    or domain that says nothing now stands for what it named last, if that is remembered.

    Raises UsageError for what is no source, and when none of them leads anywhere; one of several that does not is
    logged."""
    found: list[str] = []
    failed: list[UsageError] = []
    for source in [check_source(source) for source in sources]:
        try:
            addresses = _addresses_of(source, fetch, lookup)
            if remembered is not None and _is_asked(source):
                remembered.note(source, addresses)
        except UsageError as error:
            failed.append(error)
            addresses = () if remembered is None else remembered.find(source)
        found += addresses
    if failed and not found:
        raise failed[0]
    for failure in failed:
        logger.warning("%s What else is known is joined through.", failure.message)
    return tuple(dict.fromkeys(found))


def _addresses_of(source: str, fetch: Fetch, lookup: dnsaddr.TxtLookup) -> tuple[str, ...]:
    if source.startswith(neighbour.SCHEME):
        return neighbour.read_addresses(source)
    if "://" not in source:
        return dnsaddr.resolve(source, lookup) if dnsaddr.is_dnsaddr(source) else (source,)

    async def body() -> bytes:
        return await fetch(source)

    named = decode_document(asyncio.run(body()), source)
    elsewhere = tuple(address for address in named if leads_here(source) or not is_loopback(address))
    if not elsewhere:
        raise UsageError(
            f"{source} names addresses of its own machine only.",
            "Whoever runs it must put an address there that can be reached from elsewhere.",
        )
    return elsewhere


def _is_asked(source: str) -> bool:
    """Whether it is a page or a domain, which may say something else tomorrow."""
    return dnsaddr.is_dnsaddr(source) or ("://" in source and not source.startswith(neighbour.SCHEME))


def _names_a_domain(source: str) -> bool:
    """Raises UsageError where it does and is no multiaddr."""
    if not dnsaddr.is_dnsaddr(source):
        return False
    try:
        parts_of(source)
    except ValueError as error:
        raise UsageError(f"{source!r} is not a multiaddr.", "It should look like /dnsaddr/example.org.") from error
    return True
