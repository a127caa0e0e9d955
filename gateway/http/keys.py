"""API keys: the file that lists them, and what each may take. A key itself is in none of it: only its hash.

A key is 256 random bits, so a plain SHA-256 of it cannot be reversed by guessing, as that of a password could.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from p2pnet.errors import UsageError
from p2pnet.private_files import NOBODY_ELSE_WRITES, locked, read_private, write_private

KEY_PREFIX = "sk-p2pnet-"
KEY_BYTES = 32

MAX_KEYS = 10_000
"""A list of more belongs into a database, and a proxy in front."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_LIMITS = ("priority", "requests-per-minute", "tokens-per-minute", "concurrent")

HEADER = """\
# API keys of a p2pnet gateway: a name, the key's hash, and limits. `p2pnet keys` adds, lists and revokes them.
"""


@dataclass(frozen=True)
class ApiKey:
    """Who may use the gateway, and how much. None is no limit. The higher the priority, the sooner the turn."""

    name: str
    hashed: str
    priority: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_key(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> dict[str, ApiKey]:
    """The keys of a file, by their hashes. Raises UsageError, which names the line."""
    try:
        text = read_private(path, NOBODY_ELSE_WRITES).decode()
    except OSError as error:
        raise UsageError(
            f"The key file {path} cannot be read: {error.strerror}.",
            f"Make one with: p2pnet keys add NAME --api-key-file {path}",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The key file {path} is not text.", "Name a file that `p2pnet keys` has written.") from error
    return parse_keys(text, str(path))


def parse_keys(text: str, where: str = "the key file") -> dict[str, ApiKey]:
    """Raises UsageError, which names the line."""
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            key = _parse_line(words)
            if key.hashed in keys or any(key.name == other.name for other in keys.values()):
                raise ValueError(f"the name {key.name}, or its key, is there twice")
        except ValueError as error:
            raise UsageError(
                f"Line {number} of {where} is not understood: {error}.",
                "A line is: NAME sha256:HASH, and then, as wanted, " + ", ".join(f"{name}=N" for name in _LIMITS) + ".",
            ) from error
        keys[key.hashed] = key
    if len(keys) > MAX_KEYS:
        raise UsageError(f"{where} lists {len(keys)} keys; {MAX_KEYS} are the limit.", "Revoke those not in use.")
    return keys


def add_key(path: Path, key: ApiKey) -> None:
    """Add it to the file, which is made when missing. Raises UsageError."""
    with _locked(path):
        known = read_keys(path) if path.exists() else {}
        write_keys(path, with_new(known, key).values())


def revoke_key(path: Path, name: str) -> None:
    """Take the key of this name out of the file. Raises UsageError."""
    read_keys(path)  # a path where no keys are is said to be so, and gets no lock file
    with _locked(path):
        write_keys(path, without(read_keys(path), name).values())


def write_keys(path: Path, keys: Iterable[ApiKey]) -> None:
    """Replace the file at once, readable by its owner only. Raises UsageError, and the file is as it was then."""
    text = HEADER + "".join(_line(key) + "\n" for key in keys)
    write_private(path, text.encode(), "key file", "Choose another --api-key-file.")


def with_new(keys: Mapping[str, ApiKey], key: ApiKey) -> dict[str, ApiKey]:
    """Raises UsageError where the name is taken, or is none."""
    if not _NAME.fullmatch(key.name):
        raise UsageError(
            f"{key.name!r} is no name for a key.", "Use up to 64 letters, digits, dots, dashes, underscores and @."
        )
    if any(other.name == key.name for other in keys.values()):
        raise UsageError(f"There is a key named {key.name} already.", "Revoke it first, or choose another name.")
    return {**keys, key.hashed: key}


def without(keys: Mapping[str, ApiKey], name: str) -> dict[str, ApiKey]:
    """Raises UsageError where there is none of this name."""
    left = {hashed: key for hashed, key in keys.items() if key.name != name}
    if len(left) == len(keys):
        raise UsageError(f"There is no key named {name}.", "`p2pnet keys list` shows the names.")
    return left


def _locked(path: Path) -> AbstractContextManager[None]:
    return locked(path, "key file", "Choose another --api-key-file, or make that file one that you can write.")


def _parse_line(words: list[str]) -> ApiKey:
    """Raises ValueError."""
    if len(words) < 2 or not _NAME.fullmatch(words[0]) or not _HASH.fullmatch(words[1]):
        raise ValueError("it has no name and hash")
    limits: dict[str, int] = {}
    for word in words[2:]:
        name, _, value = word.partition("=")
        if name not in _LIMITS or not re.fullmatch(r"-?[0-9]{1,9}", value):
            raise ValueError(f"{word} is no limit")
        if name != "priority" and int(value) < 1:
            raise ValueError(f"{word}: a limit is 1 or more")
        limits[name.replace("-", "_")] = int(value)
    return ApiKey(words[0], words[1], **limits)


def _line(key: ApiKey) -> str:
    limits = {name: getattr(key, name.replace("-", "_")) for name in _LIMITS}
    said = [f"{name}={value}" for name, value in limits.items() if value not in (None, 0)]
    return " ".join((key.name, key.hashed, *said))
