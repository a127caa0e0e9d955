"""Folders of processes that were killed are removed; those of living ones, and of others, are not."""

from __future__ import annotations

from pathlib import Path

from p2pnet.network.hivemind.socket_folder import (
    LOCK_NAME,
    PREFIX,
    SETTLING_S,
    SHORT_PARENT,
    SocketFolder,
    parent_for,
    remove_abandoned,
)


def test_a_folder_of_a_dead_owner_is_removed_once_it_has_settled(tmp_path: Path) -> None:
    abandoned = tmp_path / f"{PREFIX}dead"
    abandoned.mkdir()
    (abandoned / LOCK_NAME).touch()
    (abandoned / "control.sock").touch()
    made_s = abandoned.lstat().st_mtime
    remove_abandoned(tmp_path, made_s + SETTLING_S - 1)
    assert abandoned.exists()
    remove_abandoned(tmp_path, made_s + SETTLING_S + 1)
    assert not abandoned.exists()


def test_what_is_in_use_or_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}not-locked-yet").mkdir()
    folder = SocketFolder.make()
    try:
        assert folder.path.lstat().st_mode & 0o777 == 0o700
        remove_abandoned(folder.path.parent, folder.path.lstat().st_mtime + SETTLING_S + 1)
        remove_abandoned(tmp_path, tmp_path.stat().st_mtime)
        assert folder.path.exists()
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        folder.remove()
        folder.remove()
    assert not folder.path.exists()


def test_a_long_folder_for_temporary_files_is_not_used() -> None:
    assert parent_for(Path("/tmp")) == Path("/tmp")
    assert parent_for(Path("/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T")) != SHORT_PARENT
    assert parent_for(Path("/tmp") / ("long" * 20)) == SHORT_PARENT
