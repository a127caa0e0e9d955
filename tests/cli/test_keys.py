"""`p2pnet keys` as a command: what it prints, and several of them at the same moment."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gateway.http.keys import hash_key, read_keys
from tests.processes import clean_environment, executable, run


def together(root: Path, *commands: tuple[str, ...]) -> list[str]:
    """What these print that run at the same time, all of them without an error."""
    started = [
        subprocess.Popen(
            [executable(), "keys", *command, "--api-key-file", str(root / "keys.txt")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(root / "data", root),
            text=True,
        )
        for command in commands
    ]
    said = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    return [stdout for stdout, _ in said]


def test_keys_that_are_added_and_revoked_at_once_are_all_as_said(tmp_path: Path) -> None:
    first = together(tmp_path, *(("add", f"user-{number}") for number in range(4)))
    known = read_keys(tmp_path / "keys.txt")
    assert {known[hash_key(secret.strip())].name for secret in first} == {f"user-{number}" for number in range(4)}

    together(tmp_path, ("add", "anna"), ("revoke", "user-0"), ("add", "bob"), ("revoke", "user-1"))
    assert {key.name for key in read_keys(tmp_path / "keys.txt").values()} == {"user-2", "user-3", "anna", "bob"}


def test_what_cannot_be_done_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.txt")
    (tmp_path / "folder").mkdir()
    for arguments, sentence in (
        (("revoke", "anna", "--api-key-file", path), "cannot be read"),
        (("add", "an na", "--api-key-file", path), "is no name for a key"),
        (("add", "anna", "--api-key-file", str(tmp_path / "folder")), "cannot be read"),
    ):
        outcome = run("keys", *arguments, root=tmp_path)
        assert outcome.status == 1
        assert sentence in outcome.stderr and "Traceback" not in outcome.stderr
