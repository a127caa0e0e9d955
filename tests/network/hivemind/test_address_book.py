"""Addresses that are kept on disk: of one network, bounded, and whatever has become of the file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2pnet.network.hivemind.address_book import MAX_KNOWN_ADDRESSES, AddressBook
from tests.stories import peer

BOOTSTRAP, OTHER = (f"/ip4/11.0.0.{n}/tcp/31337/p2p/{peer(name).peer_id}" for n, name in ((1, "boot"), (2, "other")))
KNOWN = [f"/ip4/11.0.1.{n}/tcp/31337/p2p/{peer(str(n)).peer_id}" for n in range(200)]


def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "worker.peers.json"
    assert AddressBook(path, [BOOTSTRAP]).read() == []
    AddressBook(path, [BOOTSTRAP]).write(KNOWN[:3])
    assert AddressBook(path, [BOOTSTRAP]).read() == KNOWN[:3]
    assert AddressBook(path, [OTHER, BOOTSTRAP]).read() == KNOWN[:3], "one of them is enough"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_one_that_was_never_written_is_empty_and_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert AddressBook(tmp_path / "none", [BOOTSTRAP]).read() == []
    assert caplog.messages == []


def test_addresses_of_another_network_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "worker.peers.json"
    AddressBook(path, [BOOTSTRAP]).write(KNOWN)
    assert AddressBook(path, [OTHER]).read() == []
    assert AddressBook(path, []).read() == []


def test_it_is_bounded_and_holds_no_circuits(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "book", [BOOTSTRAP])
    book.write([f"{BOOTSTRAP}/p2p-circuit/p2p/{peer('hidden').peer_id}", *KNOWN])
    assert book.read() == KNOWN[:MAX_KNOWN_ADDRESSES]


def test_nothing_is_forgotten_while_nobody_is_known(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "book", [BOOTSTRAP])
    book.write(KNOWN[:2])
    book.write([])
    assert book.read() == KNOWN[:2]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"joined_through": [1], "addresses": []}', b"\xff" * 99])
def test_a_file_that_makes_no_sense_is_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "book"
    path.write_bytes(content)
    book = AddressBook(path, [BOOTSTRAP])
    assert book.read() == []
    book.write(KNOWN[:1])
    assert book.read() == KNOWN[:1]


def test_what_is_no_address_of_a_peer_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "book"
    AddressBook(path, [BOOTSTRAP]).write(KNOWN[:2])
    path.write_text(path.read_text().replace(KNOWN[0], "/ip4/11.0.0.1/tcp/1"))
    assert AddressBook(path, [BOOTSTRAP]).read() == KNOWN[1:2]
    path.write_text(path.read_text().replace("/ip4/11.0.0.1/tcp/1", "nonsense"))
    assert AddressBook(path, [BOOTSTRAP]).read() == []


def test_a_folder_that_cannot_be_written_to_does_no_harm(tmp_path: Path) -> None:
    AddressBook(tmp_path / "nowhere" / "book", [BOOTSTRAP]).write(KNOWN)
