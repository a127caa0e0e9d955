"""`p2pnet manifest` writes what it says, and refuses what it cannot."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from p2pnet.cli.manifest import written
from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.manifest import Manifest, read_manifest
from tests.checkpoints import build_checkpoint


def test_it_names_each_file_with_its_hash(tmp_path: Path) -> None:
    folder = build_checkpoint("llama", tmp_path / "llama")
    files = sorted(folder.glob("*.safetensors"))
    written(str(folder), tmp_path)
    assert read_manifest(folder) == Manifest(
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    )


def test_what_is_no_folder_or_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder here"):
        written("org/model", tmp_path)
    folder = build_checkpoint("llama", tmp_path / "llama")
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(UsageError, match="lacks"):
        written(str(folder), tmp_path)
