"""Where the commands' files are, and which addresses they join through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pnet.cli.settings import (
    IdentityFile,
    bootstrap_sources,
    check_name,
    initial_peers,
    initial_peers_required,
    key_from,
    listen_addresses,
)
from p2pnet.config import DEFAULT_LISTEN
from p2pnet.errors import UsageError

PEER = "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
OTHER = "/ip4/203.0.113.8/tcp/31337/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"


def test_the_first_free_default_identity_is_taken(tmp_path: Path) -> None:
    with IdentityFile.claim(None, "worker", tmp_path) as first:
        with IdentityFile.claim(None, "worker", tmp_path) as second:
            assert (first, second) == (tmp_path / "worker.key", tmp_path / "worker-2.key")
        with IdentityFile.claim(None, "gateway", tmp_path) as gateway:
            assert gateway == tmp_path / "gateway.key"
    with IdentityFile.claim(None, "worker", tmp_path) as again:
        assert again == first


def test_a_named_identity_in_use_is_refused(tmp_path: Path) -> None:
    named = tmp_path / "mine.key"
    with IdentityFile.claim(named, "worker", tmp_path), pytest.raises(UsageError, match="in use by another process"):
        IdentityFile.claim(named, "worker", tmp_path)


def test_an_identity_in_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to") as caught:
        IdentityFile.claim(tmp_path / "file" / "mine.key", "worker", tmp_path)
    assert "--identity" in caught.value.fix


def test_named_peers_come_before_the_bootstrap_file(tmp_path: Path) -> None:
    file = tmp_path / "peers.txt"
    file.write_text(f"# a comment\n\n  {OTHER}  # the second server\n")
    assert initial_peers([PEER], file) == (PEER,)
    assert initial_peers([], file) == (OTHER,)


@pytest.mark.parametrize("name", ["", "anna-laptop", "a" * 64, "lab_3/gpu<0>"])
def test_what_a_worker_may_be_called(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["my laptop", "a" * 65, "n\u00e4me", "bell\a", "line\n"])
def test_what_a_worker_may_not_be_called(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert "without spaces" in caught.value.fix


def test_the_shipped_bootstrap_file_is_valid() -> None:
    assert bootstrap_sources() == ()


@pytest.mark.parametrize("line", ["not an address", "/ip4/203.0.113.7/tcp/31337"])
def test_a_bad_line_in_the_bootstrap_file(tmp_path: Path, line: str) -> None:
    file = tmp_path / "peers.txt"
    file.write_text(line)
    with pytest.raises(UsageError):
        initial_peers([], file)


def test_no_address_at_all_says_how_to_start_a_network(tmp_path: Path) -> None:
    file = tmp_path / "peers.txt"
    file.write_text("# nothing\n")
    with pytest.raises(UsageError) as caught:
        initial_peers_required([], file)
    assert "p2pnet bootstrap" in caught.value.fix
    assert "--initial-peers" in caught.value.fix


def test_a_bootstrap_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        initial_peers([], tmp_path / "missing.txt")


def test_where_to_listen() -> None:
    assert listen_addresses([]) == DEFAULT_LISTEN
    assert listen_addresses(["/ip4/127.0.0.1/tcp/4001"]) == ("/ip4/127.0.0.1/tcp/4001",)
    with pytest.raises(UsageError, match="is not a multiaddr"):
        listen_addresses(["127.0.0.1:4001"])


def test_a_key_out_of_the_environment() -> None:
    assert key_from(None, "--key-env", "server") is None
    assert key_from("PATH", "--key-env", "server") == os.environ["PATH"].strip()
    with pytest.raises(UsageError, match="P2PNET_NO_SUCH_KEY holds no key") as caught:
        key_from("P2PNET_NO_SUCH_KEY", "--key-env", "server")
    assert "leave out --key-env if the server needs no key" in caught.value.fix
