"""What may be named to join through, and the addresses that it comes to: an address, a page, a domain, a ready file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto

from p2pnet.entrance import dnsaddr, neighbour, web
from p2pnet.entrance.document import decode_document
from p2pnet.entrance.remembered import Remembered
from p2pnet.errors import UsageError
from p2pnet.loopback import is_loopback as leads_here
from p2pnet.network.multiaddrs import check_peer_address, is_loopback

logger = logging.getLogger(__name__)

Fetch = Callable[[str], Awaitable[bytes]]
"""The body at a URL. Raises UsageError."""


class _Kind(Enum):
    """What a source is, by how it is written."""

    ADDRESS = auto()
    DOMAIN = auto()
    PAGE = auto()
    FILE = auto()

    @classmethod
    def of(cls, source: str) -> _Kind:
        if source.startswith(neighbour.SCHEME):
            return cls.FILE
        if "://" in source:
            return cls.PAGE
        return cls.DOMAIN if dnsaddr.is_dnsaddr(source) else cls.ADDRESS


def check_source(source: str) -> str:
    """One address, domain, page or file, as it is to be asked. Asks nobody. Raises UsageError."""
    match _Kind.of(source):
        case _Kind.FILE:
            return neighbour.check_file(source)
        case _Kind.PAGE:
            return web.check_url(source)
        case _Kind.DOMAIN:
            return dnsaddr.check_dnsaddr(source)
        case _Kind.ADDRESS:
            return check_peer_address(source)


def is_of_this_machine(source: str) -> bool:
    """Whether it says nothing to anybody elsewhere."""
    match _Kind.of(source):
        case _Kind.FILE:
            return True
        case _Kind.PAGE:
            return leads_here(source)
        case _Kind.DOMAIN:
            return False
        case _Kind.ADDRESS:
            return is_loopback(source)


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
            if remembered is not None and _Kind.of(source) in (_Kind.PAGE, _Kind.DOMAIN):
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
    match _Kind.of(source):
        case _Kind.FILE:
            return neighbour.read_addresses(source)
        case _Kind.PAGE:
            return _named_by_page(source, fetch)
        case _Kind.DOMAIN:
            return dnsaddr.resolve(source, lookup)
        case _Kind.ADDRESS:
            return (source,)


def _named_by_page(url: str, fetch: Fetch) -> tuple[str, ...]:
    async def body() -> bytes:
        return await fetch(url)

    named = decode_document(asyncio.run(body()), url)
    elsewhere = tuple(address for address in named if leads_here(url) or not is_loopback(address))
    if not elsewhere:
        raise UsageError(
            f"{url} names addresses of its own machine only.",
            "Whoever runs it must put an address there that can be reached from elsewhere.",
        )
    return elsewhere
