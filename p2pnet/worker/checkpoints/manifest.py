"""Names the files that a model's weights are in, with their hashes, for folders that hold only some of them.

A digest is made of these hashes: so whoever has some of the files, and the manifest, knows which model they are of, and
a manifest that is wrong in any hash is that of another model. Reads and writes files only: knows nothing of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from p2pnet.errors import UsageError

MANIFEST_FILE = "p2pnet_manifest.json"

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Manifest(msgspec.Struct, frozen=True):
    """The SHA-256 of each file that has weights, by its name."""

    weights: dict[str, Hash]


def read_manifest(folder: Path) -> Manifest | None:
    """That of a folder, if it has one. Raises UsageError."""
    path = folder / MANIFEST_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged.", "Copy it again, or write it with `p2pnet manifest`.") from error


def write_manifest(folder: Path, weights: Sequence[Path], hashes: Mapping[Path, str]) -> Path:
    """Write that of a folder with all files. Raises UsageError."""
    path = folder / MANIFEST_FILE
    content = msgspec.json.encode(Manifest({file.name: hashes[file] for file in weights}))
    try:
        path.write_bytes(msgspec.json.format(content, indent=1))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.", "Use a folder of your own.") from error
    return path


def hashes_by(manifest: Manifest | None, present: Mapping[Path, str], weights: Sequence[Path]) -> dict[Path, str]:
    """The hash of each of these files: of those that are present their own, of others what the manifest says. Raises
    UsageError where the two contradict one another."""
    named = {} if manifest is None else manifest.weights
    for path, found in present.items():
        if named.get(path.name, found) != found:
            raise UsageError(
                f"{path} is not the file that {MANIFEST_FILE} names.", "Download it again, or the manifest with it."
            )
    return {path: present[path] if path in present else named[path.name] for path in weights}
