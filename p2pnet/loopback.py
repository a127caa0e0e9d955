"""Tells which URLs lead to this machine. No proxy of the environment is asked for those: it could not reach them."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine by name or address (RFC 6761, RFC 1122). False for what is no URL."""
    try:
        host = (urlsplit(url).hostname or "").removesuffix(".")
        return host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:
        return False
