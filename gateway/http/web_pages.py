"""Refuses what web pages of other sites ask of a gateway that needs no key: whoever visits them may have one running.

A page reaches it in two ways. Its name may lead here (DNS rebinding): then the request names a host that is not ours.
Or it asks across sites, which browsers say: in Origin with all that is more than a look, and in Sec-Fetch-Site. Clients
that are no browsers send neither. A gateway with keys needs none of this: no page can send a key that it does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from p2pnet.errors import P2PNetError, UsageError

Headers = Iterable[tuple[bytes, bytes]]

LOOPBACK_NAMES = frozenset({"localhost"})
LOOPBACK_ENDING = ".localhost"
"""They lead to the machine itself wherever they are looked up (RFC 6761)."""

CONTAINER_NAMES = frozenset(
    {"host.docker.internal", "gateway.docker.internal", "host.containers.internal", "host.lima.internal"}
)
"""What a container calls the machine that it runs on. `internal` is nobody's on the internet, so no page has such a
name."""

APP_SCHEMES = frozenset({"app", "file", "tauri", "vscode-webview", "vscode-file"})
"""Origins of programs that somebody has installed, as Ollama lets them in; a page of the web has none of them. Pages
that a browser opens from a file say `null`, and so does every sandboxed frame."""

DEFAULT_PORTS = {"http": "80", "https": "443"}

ELSEWHERE = (b"cross-site", b"same-site")
"""What browsers say of a request that comes from another origin. Another port of this machine is the same site."""

JSON_TYPE = re.compile(rb"application/([a-z0-9.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)

_AUTHORITY = re.compile(r"(?P<name>\[[^\s\[\]]+\]|[^\s:/\[\]@?#]+)(:(?P<port>[0-9]{0,5}))?", re.IGNORECASE)
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)", re.IGNORECASE)


class ForeignHost(P2PNetError):
    """The request is for a host that this gateway is not."""

    code = "foreign_host"


class ForeignPage(P2PNetError):
    """The request was made by a page of another site."""

    code = "foreign_origin"


class NotJson(P2PNetError):
    """A browser sends what is not said to be JSON: a form may do that across sites, and a page's program may not."""

    code = "unsupported_media_type"


@dataclass(frozen=True)
class Authority:
    """A host's name in lower case, and the port if one is given."""

    name: str
    port: str = ""

    @classmethod
    def parse(cls, text: str) -> Authority | None:
        """None: it is no host."""
        found = _AUTHORITY.fullmatch(text.strip())
        if found is None:
            return None
        return cls(found["name"].lower().removesuffix("."), found["port"] or "")

    @property
    def is_address(self) -> bool:
        """No answer of a name server can lead an address elsewhere."""
        try:
            ip_address(self.name.strip("[]"))
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class WebPages:
    """The pages that may ask: this gateway's own, under its `hosts`, and those of the allowed `origins`."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def check(self, method: str, headers: Headers) -> None:
        """Raises ForeignHost, ForeignPage or NotJson. What names no host comes from no browser."""
        headers = list(headers)
        hosts = [host.decode("latin-1") for host in _values(headers, b"host") if host.strip()]
        for host in hosts:
            self._check_host(host)
        origins = [origin.decode("latin-1").strip() for origin in _values(headers, b"origin")]
        sites = _values(headers, b"sec-fetch-site")
        for origin in origins:
            self._check_origin(origin, hosts)
        is_allowed = any(self._is_allowed(origin) for origin in origins)
        if any(site in ELSEWHERE for site in sites) and not is_allowed and not _is_visit(method, headers):
            raise ForeignPage(
                "This request comes from a page of another site. Open the gateway's own page, or let that site's in: "
                "p2pnet gateway --allowed-origin ORIGIN."
            )
        types = _values(headers, b"content-type")
        if method == "POST" and (origins or sites) and not (types and all(map(JSON_TYPE.fullmatch, types))):
            raise NotJson("A body that a browser sends has to be JSON, and its content-type application/json.")

    def _check_host(self, host: str) -> None:
        authority = Authority.parse(host)
        if authority is None or not self._is_own(authority):
            raise ForeignHost(
                f"This gateway is not {host[:128]!r}. If it is to be reached by that name: "
                "p2pnet gateway --allowed-host NAME."
            )

    def _is_own(self, host: Authority) -> bool:
        return (
            host.name in LOOPBACK_NAMES
            or host.name.endswith(LOOPBACK_ENDING)
            or host.is_address
            or host.name in CONTAINER_NAMES
            or host.name in self.hosts
        )

    def _check_origin(self, origin: str, hosts: Sequence[str]) -> None:
        if not self._is_allowed(origin) and not self._is_same(origin, hosts):
            raise ForeignPage(
                f"Pages of {origin[:128]!r} may not use this gateway. To let them: "
                "p2pnet gateway --allowed-origin ORIGIN."
            )

    def _is_allowed(self, origin: str) -> bool:
        return origin.lower() in self.origins or origin.partition("://")[0].lower() in APP_SCHEMES

    def _is_same(self, origin: str, hosts: Sequence[str]) -> bool:
        """Whether it is a page of this gateway: of the host that is asked, or, where a proxy asks for another one, of
        an allowed host."""
        found = _ORIGIN.fullmatch(origin)
        authority = Authority.parse(found["authority"]) if found else None
        if found is None or authority is None:
            return False
        default = DEFAULT_PORTS.get(found["scheme"].lower())
        if default is None:
            return False
        if authority.name in self.hosts and authority.port in ("", default):
            return True
        asked = [Authority.parse(host) for host in hosts]
        return any(
            host is not None and (host.name, host.port or default) == (authority.name, authority.port or default)
            for host in asked
        )


def parse_web_pages(hosts: Sequence[str], origins: Sequence[str]) -> WebPages:
    """The pages of these hosts and origins. Raises UsageError."""
    return WebPages(frozenset(map(_host, hosts)), frozenset(map(_origin, origins)))


def _host(text: str) -> str:
    authority = Authority.parse(text)
    if authority is None or authority.port:
        raise UsageError(f"{text!r} is no name of a host.", "Write it as --allowed-host box.example, without a port.")
    return authority.name


def _origin(text: str) -> str:
    found = _ORIGIN.fullmatch(text.removesuffix("/"))
    if found is None or not found["authority"]:
        raise UsageError(
            f"{text!r} is no origin of pages.",
            "Write it as browsers do: --allowed-origin https://chat.example, or http://localhost:3000.",
        )
    return found[0].lower()


def _is_visit(method: str, headers: Headers) -> bool:
    """Somebody follows a link to here from another site's page, which learns nothing of what is shown."""
    is_shown = _values(headers, b"sec-fetch-mode") == [b"navigate"] and _values(headers, b"sec-fetch-dest") == [
        b"document"
    ]
    return method in ("GET", "HEAD") and is_shown


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]
