"""Files with secrets: whose they are, what others may do with them, and what is said and done about it."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from gateway.http.keys import read_keys
from gateway.observability.history_file import open_history
from p2pnet.errors import UsageError
from p2pnet.identity import Identity
from p2pnet.private_files import (
    NOBODY_ELSE,
    NOBODY_ELSE_WRITES,
    Finding,
    judge,
    keep_private,
    locked,
    open_lock,
    read_private,
    write_private,
)
from tests.processes import processes
from tests.requirements import unavailable

ME, OTHER, ROOT = 1000, 1001, 0

JUDGED = [
    ("mine alone", ME, 0o600, ME, NOBODY_ELSE, Finding.FINE),
    ("mine, read only", ME, 0o400, ME, NOBODY_ELSE, Finding.FINE),
    ("mine, everybody reads", ME, 0o644, ME, NOBODY_ELSE, Finding.MEND),
    ("mine, the group reads", ME, 0o640, ME, NOBODY_ELSE, Finding.MEND),
    ("mine, others run it", ME, 0o711, ME, NOBODY_ELSE, Finding.MEND),
    ("another's", OTHER, 0o600, ME, NOBODY_ELSE, Finding.STRANGE),
    ("another's, in the open", OTHER, 0o666, ME, NOBODY_ELSE_WRITES, Finding.STRANGE),
    ("root's, handed to my group", ROOT, 0o640, ME, NOBODY_ELSE, Finding.FINE),
    ("root's, everybody reads", ROOT, 0o644, ME, NOBODY_ELSE, Finding.OPEN),
    ("root's, my group writes", ROOT, 0o660, ME, NOBODY_ELSE, Finding.OPEN),
    ("root's list, everybody reads", ROOT, 0o644, ME, NOBODY_ELSE_WRITES, Finding.FINE),
    ("root's list, everybody writes", ROOT, 0o666, ME, NOBODY_ELSE_WRITES, Finding.OPEN),
    ("my list, everybody reads", ME, 0o644, ME, NOBODY_ELSE_WRITES, Finding.FINE),
    ("my list, the group writes", ME, 0o664, ME, NOBODY_ELSE_WRITES, Finding.MEND),
    ("root reads mine", ME, 0o600, ROOT, NOBODY_ELSE, Finding.FINE),
    ("root mends mine", ME, 0o644, ROOT, NOBODY_ELSE, Finding.MEND),
]


@pytest.mark.parametrize("case", JUDGED, ids=[case[0] for case in JUDGED])
def test_whose_it_is_and_what_others_may(case: tuple[str, int, int, int, int, Finding]) -> None:
    _, owner, mode, user, forbidden, finding = case
    assert judge(owner, mode, user, forbidden) is finding


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o640, 0o604])
def test_a_key_that_others_could_read_is_mended_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    path = tmp_path / "worker.key"
    identity = Identity.load_or_create(path)
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert Identity.load(path).peer_id == identity.peer_id
    assert mode_of(path) == 0o600
    (said,) = caplog.messages
    assert str(path) in said and f"{mode:o}" in said
    caplog.clear()
    Identity.load(path)
    assert caplog.messages == [], "once it is mended, there is nothing to say"


def test_a_link_is_followed_and_its_target_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "target"
    identity = Identity.load_or_create(target)
    target.chmod(0o644)
    link = tmp_path / "worker.key"
    link.symlink_to(target)
    assert Identity.load_or_create(link).peer_id == identity.peer_id
    assert (mode_of(target), link.is_symlink()) == (0o600, True)


def test_anothers_file_is_refused(tmp_path: Path) -> None:
    """Looked at as another user, in a process of its own: who owns the file can change it at any time."""
    if os.getuid() != 0:
        unavailable("only root can be another user")
    path = tmp_path / "worker.key"
    Identity.load_or_create(path)
    path.chmod(0o644)
    os.chown(path, OTHER, -1)
    with path.open("rb") as file:
        pid = os.fork()
        if pid == 0:
            os.setuid(ME)
            try:
                keep_private(file.fileno(), path, NOBODY_ELSE)
            except UsageError as error:
                os._exit(42 if f"uid {OTHER}" in error.message else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="it is not a file"):
            read_private(path, NOBODY_ELSE)


def test_a_folder_in_which_anybody_may_replace_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "worker.key"
    Identity.load_or_create(path)
    for mode, is_said in ((0o755, False), (0o775, False), (0o1777, False), (0o777, True)):
        caplog.clear()
        tmp_path.chmod(mode)
        Identity.load(path)
        assert any("may replace" in message for message in caplog.messages) == is_said, oct(mode)


def test_a_list_of_keys_that_others_could_change_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"anna sha256:{'0' * 64}\n")
    path.chmod(0o666)
    assert [key.name for key in read_keys(path).values()] == ["anna"]
    assert mode_of(path) == 0o644
    assert str(path) in caplog.text


def test_a_history_that_was_put_back_is_its_owners_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "gateway.sqlite3"
    file, _ = open_history(path, 0.0)
    file.close()
    path.chmod(0o644)
    file, _ = open_history(path, 0.0)
    file.close()
    assert mode_of(path) == 0o600
    assert str(path) in caplog.text


def test_nobody_else_can_take_our_locks(tmp_path: Path) -> None:
    open_lock(tmp_path / "lock").close()
    assert mode_of(tmp_path / "lock") == 0o600


@pytest.mark.timeout(60)
def test_a_peer_says_so_and_runs() -> None:
    """Given a key file that everybody may read, when a peer starts with it, then its log says so, the file is its
    owner's alone, and the peer is who it was."""
    with processes("key") as start:
        path = start.root / "bootstrap.key"
        identity = Identity.load_or_create(path)
        path.chmod(0o644)
        process = start.bootstrap("--identity", str(path))
        assert process.wait_ready().peer_id == identity.peer_id
        assert mode_of(path) == 0o600
        assert f"could read or change the file {path} (mode 644)" in process.log


def test_a_secret_is_replaced_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "secret"
    for content in (b"first", b"second"):
        write_private(path, content)
        assert (path.read_bytes(), mode_of(path)) == (content, 0o600)
    (tmp_path / "file").touch()
    taken = tmp_path / "taken"
    taken.mkdir()
    for nowhere in (tmp_path / "file" / "secret", taken):
        with pytest.raises(UsageError, match="cannot be written") as caught:
            write_private(nowhere, b"third")
        assert caught.value.fix
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["file", "folder", "secret", "taken"]


def test_a_file_that_is_changed_by_one_at_a_time(tmp_path: Path) -> None:
    """What lies beside it is nobody else's to lock; where that cannot be, it is said what to do."""
    with locked(tmp_path / "new" / "list", "list", "Choose another one."):
        assert mode_of(tmp_path / "new" / ".list.lock") == 0o600
    (tmp_path / ".list.lock").mkdir()
    with pytest.raises(UsageError) as refused, locked(tmp_path / "list", "list", "Choose another one."):
        raise AssertionError("it was not locked")
    assert "cannot be changed: Is a directory" in refused.value.message and refused.value.fix == "Choose another one."
