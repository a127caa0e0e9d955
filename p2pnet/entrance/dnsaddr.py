"""Looks up `/dnsaddr/host`: peers that a domain names in its TXT records, `dnsaddr=/ip4/...` at `_dnsaddr.host`.

https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md
"""

from __future__ import annotations

from collections.abc import Callable

from p2pnet.entrance.document import MAX_ENTRANCE_CHARS, MAX_ENTRANCES
from p2pnet.errors import UsageError
from p2pnet.network.multiaddrs import parts_of, peer_id_of

LOOKUP_S = 5.0
"""For one name, all name servers and repetitions together: what resolvers take by themselves."""

MAX_LOOKUPS = 8
"""Names that are asked for one address. A name may lead on to others, as that of libp2p's own bootstraps does to one
for each; in a circle, too."""

TxtLookup = Callable[[str], list[str]]
"""The texts of a name's TXT records. Raises UsageError."""


def is_dnsaddr(address: str) -> bool:
    return address.startswith("/dnsaddr/")


def check_dnsaddr(address: str) -> str:
    """Raises UsageError unless it is a multiaddr."""
    try:
        parts_of(address)
    except ValueError as error:
        raise UsageError(f"{address!r} is not a multiaddr.", "It should look like /dnsaddr/example.org.") from error
    return address


def resolve(address: str, lookup: TxtLookup) -> tuple[str, ...]:
    """The addresses of peers that it stands for, of the one peer that it names where it names one. Raises UsageError
    when there is none."""
    found: dict[str, None] = {}
    pending = [address]
    for asked in range(MAX_LOOKUPS):
        if asked == len(pending):
            break
        for each in _named_by(pending[asked], lookup):
            if not is_dnsaddr(each):
                found[each] = None
            elif each not in pending:
                pending.append(each)
    if not found:
        raise UsageError(
            f"The TXT records of {_name_of(address)} name no peer that {address} could stand for.",
            "Ask who runs that domain for `dnsaddr=` records, or name a peer by its address with --initial-peers.",
        )
    return tuple(found)[:MAX_ENTRANCES]


def _named_by(address: str, lookup: TxtLookup) -> list[str]:
    """What the records of this name lead to, if it fits what is asked for."""
    texts = [text.removeprefix("dnsaddr=") for text in lookup(_name_of(address)) if text.startswith("dnsaddr=")]
    return [text for text in texts[:MAX_ENTRANCES] if _fits(text, peer_id_of(address))]


def _fits(found: str, peer_id: str | None) -> bool:
    """Whether this is an address of a peer, of the one that is asked for where one is; or leads on to some."""
    try:
        named = peer_id_of(found)
    except ValueError:
        return False
    if len(found) > MAX_ENTRANCE_CHARS or (named is None and not is_dnsaddr(found)):
        return False
    return peer_id is None or named == peer_id


def _name_of(address: str) -> str:
    return f"_dnsaddr.{parts_of(address)[0][1]}"


def look_up(name: str, servers: list[tuple[str, int]] | None = None) -> list[str]:
    """Ask DNS: this machine's name servers, or others as (address, port). Raises UsageError."""
    import dns.exception  # not before somebody asks: most never do
    import dns.nameserver
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver(configure=servers is None)
        if servers is not None:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in servers]
        answer = resolver.resolve(name, "TXT", lifetime=LOOKUP_S)
    except dns.exception.DNSException as error:
        raise UsageError(
            f"The TXT records of {name} were not found: {error}.",
            "Look for a typing error, whether this machine has a way to the internet, or name a peer by its address.",
        ) from error
    return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
