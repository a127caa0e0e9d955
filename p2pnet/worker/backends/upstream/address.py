"""Parses the URL of an upstream server, and names the kinds of server. Knows nothing of HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from p2pnet.errors import UsageError


class Kind(StrEnum):
    """Which API a server speaks."""

    openai = "openai"
    ollama = "ollama"
    tei = "tei"
    """Hugging Face's text-embeddings-inference."""


@dataclass(frozen=True)
class Address:
    """Where an upstream server is. `root` has no slash at its end; `is_openai` says that the user wrote `/v1`."""

    root: str
    is_openai: bool = False

    def url(self, path: str) -> str:
        return self.root + path


def parse_address(url: str) -> Address:
    """Parse `http://host:port`, perhaps with `/v1` or a slash behind it. Raises UsageError, which repeats no secret."""
    fix = "Give it as http://127.0.0.1:11434, with the server's own host and port."
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError("The upstream's URL has no valid host and port.", fix) from error
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "The upstream's URL has a user name or password in it.",
            "Leave them out, and name the environment variable that holds its key with --upstream-key-env.",
        )
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not _is_plain(url.strip()):
        raise UsageError("The upstream's URL is not a plain http or https URL.", fix)
    path = parts.path.rstrip("/")
    is_openai = path.endswith("/v1")
    shown_host = f"[{host}]" if ":" in host else host
    authority = shown_host if port is None else f"{shown_host}:{port}"
    return Address(f"{parts.scheme}://{authority}{path.removesuffix('/v1')}", is_openai)


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url
