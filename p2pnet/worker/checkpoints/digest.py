"""Computes a model's digest: what two workers must share to give the same tokens.

Reads files only: knows nothing of torch. Hashes are remembered, so only a model's first start takes long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from p2pnet.worker.checkpoints.checkpoint import Checkpoint
from p2pnet.worker.checkpoints.manifest import hashes_by

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

DIGEST_FORMAT = "p2pnet/digest/1"

MAX_REMEMBERED_FILES = 4096
"""A large model has 200 shards, so this is every model on a disk; the file stays under a megabyte."""

_CHUNK_BYTES = 1 << 20


def digest(
    checkpoint: Checkpoint,
    dtype: str,
    cache: HashCache,
    progress: Progress | None = None,
    *,
    quantization: str = "none",
) -> str:
    """`sha256:` and 64 digits over the model's type, quantization and the SHA-256 of each of its files.

    `dtype` and `quantization` are those of the model in memory, as its card says them. Every part is preceded by its
    length, and each file by what it is and its name (weights by their order only), so different models cannot give the
    same bytes. Of files that are elsewhere the checkpoint's manifest has the hashes. Raises OSError when a file cannot
    be read, UsageError when one is not what the manifest says.
    """
    groups = {
        "weights": checkpoint.present_weights,
        "tokenizer": checkpoint.tokenizer_files,
        "chat_template": checkpoint.chat_template_files,
        "config": checkpoint.config_files,
    }
    hashes = cache.hash_files([path for paths in groups.values() for path in paths], progress)
    groups["weights"] = checkpoint.weights
    present = {path: hashes[path] for path in checkpoint.present_weights}
    hashes |= hashes_by(checkpoint.manifest, present, checkpoint.weights)
    parts: list[bytes] = [word.encode() for word in (DIGEST_FORMAT, "dtype", dtype, "quantization", quantization)]
    for kind, paths in groups.items():
        for path in paths:
            name = "" if kind == "weights" else path.relative_to(checkpoint.folder).as_posix()
            parts += [kind.encode(), name.encode(), bytes.fromhex(hashes[path])]
    return _digest_of(parts)


def gguf_digest(files: Sequence[Path], family: str, cache: HashCache, progress: Progress | None = None) -> str:
    """The same over the parts of a GGUF file, which holds tensors, metadata, tokenizer and template, and the family of
    llama.cpp that runs it. Raises OSError when a file cannot be read."""
    hashes = cache.hash_files(list(files), progress)
    words = [word.encode() for word in (DIGEST_FORMAT, "gguf", family)]
    return _digest_of([*words, *(bytes.fromhex(hashes[path]) for path in files)])


def _digest_of(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{total.hexdigest()}"


class HashCache:
    """Remembers the SHA-256 of files by path, size and modification time, so that a second start need not read them.

    Several processes may share the folder. An entry that one of them overwrites is only hashed once more.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "file_hashes.json"

    def hash_files(self, paths: list[Path], progress: Progress | None = None) -> dict[Path, str]:
        """The hexadecimal hash of each file. `progress` is told of bytes that had to be read."""
        known = self._read()
        keys = {path: _key(path) for path in paths}
        unknown = [path for path in paths if keys[path] not in known]
        total = sum(path.stat().st_size for path in unknown)
        done = 0
        for path in unknown:
            known[keys[path]] = _hash_file(path, done, total, progress)
            done += path.stat().st_size
        if unknown:
            self._write({keys[path]: known[keys[path]] for path in paths})
        return {path: known[key] for path, key in keys.items()}

    def _read(self) -> dict[str, str]:
        """The cache. One that is missing or damaged is empty."""
        try:
            content = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        entries = content.items() if isinstance(content, dict) else ()
        return {key: value for key, value in entries if _is_hash(value)}

    def _write(self, added: dict[str, str]) -> None:
        """Add to what is in the cache by now. A file that changed keeps its last hash only, and of all hashes those
        used last stay."""
        current = {_path_of(key) for key in added}
        kept = {key: value for key, value in self._read().items() if _path_of(key) not in current}
        content = dict([*kept.items(), *added.items()][-MAX_REMEMBERED_FILES:])
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=self._file.parent, prefix=f"{self._file.name}.", delete=False) as temporary:
            try:
                json.dump(content, temporary, indent=0)
                temporary.close()
                Path(temporary.name).replace(self._file)
            except BaseException:
                Path(temporary.name).unlink(missing_ok=True)
                raise


def _key(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def _path_of(key: str) -> str:
    return key.rsplit("|", 2)[0]


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _hash_file(path: Path, done: int, total: int, progress: Progress | None) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hashed.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    return hashed.hexdigest()
