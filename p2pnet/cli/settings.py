"""Finds a command's files and what the environment says: data folder, identities, addresses."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec
import platformdirs

from p2pnet.config import DEFAULT_LISTEN
from p2pnet.entrance.remembered import Remembered
from p2pnet.entrance.sources import find_addresses
from p2pnet.errors import UsageError
from p2pnet.network.multiaddrs import check_listen_address
from p2pnet.private_files import open_lock

DATA_DIR_VARIABLE = "P2PNET_DATA_DIR"
BOOTSTRAP_FILE_VARIABLE = "P2PNET_BOOTSTRAP_FILE"
ENTRANCES_FILE = "entrances.json"
"""In the data folder: what pages and domains named last."""
SHIPPED_BOOTSTRAP_FILE = Path(__file__).parent.parent / "assets" / "bootstrap_peers.txt"

MAX_DEFAULT_IDENTITIES = 64
"""How many commands of one kind may run under one user before they must be given identities by hand."""


def data_dir() -> Path:
    """The user's data folder, or the one that P2PNET_DATA_DIR names."""
    named = os.environ.get(DATA_DIR_VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_data_path("p2pnet")


def parse_bytes(size: str) -> int:
    """A size of memory in bytes, from `500MB`, `2GiB` or a plain number. Raises UsageError."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError as error:
        raise UsageError(f"{size!r} is not a size of memory.", "Write it as 500MB or 2GiB.") from error


def key_from(variable: str | None, flag: str, server: str) -> str | None:
    """The API key for a server that an environment variable holds, which `flag` names. Raises UsageError when it holds
    none."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(
            f"The environment variable {variable} holds no key.",
            f"Set it (export {variable}=...), or leave out {flag} if the {server} needs no key.",
        )
    return key


def check_name(name: str) -> None:
    """Raises UsageError unless this is what a worker may be called in its record."""
    from p2pnet.records import Label

    try:
        msgspec.convert(name, Label)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"A worker cannot be called {name!r}.", "Use at most 64 letters, digits and signs, without spaces."
        ) from error


def address_book_of(identity_file: Path) -> Path:
    """Where a peer keeps the addresses of others: beside its identity."""
    return identity_file.with_suffix(".peers.json")


class IdentityFile:
    """An identity file that this process alone uses: two peers with one key would cut each other off.

    A context manager: the file is free again on leaving.
    """

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self._lock.close()

    @classmethod
    def claim(cls, named: Path | None, role: str, folder: Path | None = None) -> IdentityFile:
        """The file that the user named, or the first free one of this role in `folder` (by default the data folder).

        Raises UsageError.
        """
        if named is not None:
            claimed = cls._try(named.expanduser())
            if claimed is None:
                raise UsageError(f"The identity {named} is in use by another process.", "Name another --identity.")
            return claimed
        for number in range(1, MAX_DEFAULT_IDENTITIES + 1):
            name = f"{role}.key" if number == 1 else f"{role}-{number}.key"
            if (claimed := cls._try((folder or data_dir()) / name)) is not None:
                return claimed
        raise UsageError(
            f"All {MAX_DEFAULT_IDENTITIES} default identities are in use.", "Name another file with --identity."
        )

    @classmethod
    def _try(cls, path: Path) -> IdentityFile | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open_lock(path.with_name(f".{path.name}.lock"))
        except OSError as error:
            raise UsageError(
                f"The folder {path.parent} cannot be written to: {error.strerror}.",
                f"Name another file with --identity, or another data folder with {DATA_DIR_VARIABLE}.",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return None
        return cls(path, lock)


def listen_addresses(named: Sequence[str]) -> tuple[str, ...]:
    """Where to listen for other peers: where the user says, or else on all interfaces. Raises UsageError."""
    return tuple(map(check_listen_address, named)) or DEFAULT_LISTEN


def initial_peers(named: Sequence[str], file: Path | None = None) -> tuple[str, ...]:
    """The addresses to join through: those that are named, or else what the bootstrap file lists. Web pages and domains
    among them are asked now, so this is no place for an event loop. Raises UsageError."""
    return find_addresses(named or bootstrap_sources(file), Remembered(data_dir() / ENTRANCES_FILE))


def initial_peers_required(named: Sequence[str], file: Path | None = None) -> tuple[str, ...]:
    """The same, for commands that make no sense alone."""
    addresses = initial_peers(named, file)
    if not addresses:
        raise UsageError(
            "There is no network to join: no --initial-peers was given, and the bootstrap file lists none.",
            "Start a network with `p2pnet bootstrap` and pass the address it prints, "
            "or name any peer of an existing one with --initial-peers.",
        )
    return addresses


def bootstrap_sources(file: Path | None = None) -> tuple[str, ...]:
    """What a bootstrap file lists: this one, the one that P2PNET_BOOTSTRAP_FILE names, or the shipped one."""
    path = file or Path(os.environ.get(BOOTSTRAP_FILE_VARIABLE, SHIPPED_BOOTSTRAP_FILE))
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise UsageError(
            f"The bootstrap file {path} cannot be read: {error.strerror}.",
            f"Name another one with {BOOTSTRAP_FILE_VARIABLE}, or a peer with --initial-peers.",
        ) from error
    return tuple(line for line in lines if line)
