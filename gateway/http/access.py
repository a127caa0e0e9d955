"""Finds out on whose behalf a request comes, and holds each API key to its limits.

Knows nothing of HTTP beyond headers, and nothing of what is asked.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gateway.http.keys import ApiKey, hash_key, read_keys
from gateway.interface import Caller, Volunteer
from gateway.observability.reports import RequestReport
from p2pnet.claims import JOINT, split_key
from p2pnet.errors import ClaimRefused, P2PNetError, UsageError
from p2pnet.rate_limit import RateLimit

logger = logging.getLogger(__name__)

RELOAD_S = 1.0
"""How soon a key that was added or revoked is one, or none."""

MAX_KEY_CHARS = 512
"""Ours have 53; what is longer is not even hashed."""

KEY_HEADERS = (b"x-api-key", b"api-key", b"x-goog-api-key")
"""Where clients put a key that they do not send as `Authorization: Bearer`: Anthropic's, Azure's, Google's."""


Prove = Callable[[str], Volunteer]
"""Finds out whose standing a key claims. Raises ClaimRefused."""


class Unauthorized(P2PNetError):
    """No key, or one that is not known here."""

    code = "invalid_api_key"


class RateLimited(P2PNetError):
    """This key has used up what it may have for now."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class KeyRing:
    """The keys of a file, read again when it changes: whoever runs the gateway need not restart it."""

    def __init__(self, path: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        """Raises UsageError when the file cannot be read."""
        self._path = path
        self._now_s = now_s
        self._stamp = self._stamp_now()
        self._looked_s = now_s()
        self._keys = read_keys(path)

    def find(self, key: str) -> ApiKey | None:
        if self._now_s() - self._looked_s >= RELOAD_S:
            self._look()
        return self._keys.get(hash_key(key))

    def _look(self) -> None:
        self._looked_s = self._now_s()
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        try:
            self._keys = read_keys(self._path)
            self._stamp = stamp
        except UsageError as error:  # half written, or gone: those that were valid stay so
            logger.warning("the keys stay as they were: %s", error.message)

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


class Access:
    """The access to one gateway. Without keys everybody is let in, and is named by the address they come from. A
    volunteer's key lets nobody in: it goes beside the gateway's own, where it has some."""

    def __init__(
        self,
        keys: KeyRing | None = None,
        now_s: Callable[[], float] = time.monotonic,
        prove: Prove | None = None,
    ) -> None:
        """Without `prove` nobody has standing, and a key that claims some is like any other."""
        self._keys = keys
        self._prove = prove
        self._now_s = now_s
        self._running: Counter[str] = Counter()
        self._known: dict[str, ApiKey] = {}
        self._requests: dict[int, RateLimit] = {}
        self._tokens: dict[int, RateLimit] = {}

    @property
    def has_keys(self) -> bool:
        return self._keys is not None

    def identify(self, headers: Mapping[bytes, bytes], address: str) -> Caller:
        """The caller that a request comes from. Raises Unauthorized."""
        given = _given_key(headers)
        own, claim = (given, None) if given is None or self._prove is None else split_key(given)
        caller = Caller(address) if self._keys is None else self._keyed(self._keys, own, claim is not None)
        return caller if claim is None else replace(caller, volunteer=self._proven(claim))

    @contextmanager
    def admitted(self, caller: Caller) -> Iterator[None]:
        """Holds for one request of this caller, from its beginning to its end. Raises RateLimited."""
        key = self._known.get(caller.name) if self.has_keys else None
        if key is None:
            yield
            return
        self._check(key)
        self._running[key.name] += 1
        try:
            yield
        finally:
            self._running[key.name] -= 1
            if not self._running[key.name]:
                del self._running[key.name]

    def note(self, report: RequestReport) -> None:
        """A request is over. Its tokens are known only now, so what was too much delays the next request."""
        key = self._known.get(report.caller) if self.has_keys else None
        if key is not None and key.tokens_per_minute is not None:
            tokens = report.prompt_tokens + report.completion_tokens
            _limit(self._tokens, key.tokens_per_minute).spend(key.name, self._now_s(), tokens)

    def _keyed(self, keys: KeyRing, given: str | None, has_claim: bool) -> Caller:
        """Raises Unauthorized."""
        if given is None and has_claim:
            raise Unauthorized(
                "This gateway has keys of its own: ask its owner for one, and send both as one key, "
                f"`KEY{JOINT}STANDING`."
            )
        if given is None:
            raise Unauthorized("An API key is needed: send it as `Authorization: Bearer KEY`.")
        key = keys.find(given) if len(given) <= MAX_KEY_CHARS else None
        if key is None:
            raise Unauthorized("This API key is not known here.")
        self._known[key.name] = key
        return Caller(key.name, key.priority)

    def _proven(self, claim: str) -> Volunteer:
        """Raises Unauthorized."""
        assert self._prove is not None
        try:
            return self._prove(claim)
        except ClaimRefused as error:
            raise Unauthorized(error.message) from error

    def _check(self, key: ApiKey) -> None:
        """Raises RateLimited; else the request is counted."""
        now_s = self._now_s()
        if key.concurrent is not None and self._running[key.name] >= key.concurrent:
            raise RateLimited(f"This key may have {key.concurrent} requests at the same time.", 1.0)
        if key.tokens_per_minute is not None:
            tokens = _limit(self._tokens, key.tokens_per_minute)
            if tokens.is_spent(key.name, now_s):
                raise RateLimited(
                    f"This key may have {key.tokens_per_minute} tokens a minute.", tokens.retry_after_s(key.name, now_s)
                )
        if key.requests_per_minute is not None:
            requests = _limit(self._requests, key.requests_per_minute)
            if requests.is_spent(key.name, now_s):
                raise RateLimited(
                    f"This key may send {key.requests_per_minute} requests a minute.",
                    requests.retry_after_s(key.name, now_s),
                )
            requests.spend(key.name, now_s)


def _limit(limits: dict[int, RateLimit], per_minute: int) -> RateLimit:
    """Keys with the same limit share one counter of all of them."""
    if per_minute not in limits:
        limits[per_minute] = RateLimit(per_minute)
    return limits[per_minute]


def _given_key(headers: Mapping[bytes, bytes]) -> str | None:
    authorization = headers.get(b"authorization", b"")
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip().decode("latin-1")
    given = next((headers[name] for name in KEY_HEADERS if name in headers), None)
    return None if given is None else given.strip().decode("latin-1")
