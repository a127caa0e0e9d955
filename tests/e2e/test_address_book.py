"""A worker that is started again while its bootstrap is gone joins through peers that it knew before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import Start, processes, wait_until


@pytest.fixture
def start() -> Iterator[Start]:
    with processes("book") as starting:
        yield starting


def test_the_network_is_found_without_its_bootstrap(start: Start) -> None:
    bootstrap = start.bootstrap()
    address = bootstrap.ready.address
    script = start.root / "script.json"
    script.write_text('[{"model": "words", "answers": [{"text": "one two"}]}]')
    staying = start.worker("--script", str(script), peer=address, name="staying")
    staying.wait_ready()
    returning = start.worker("--script", str(script), peer=address, name="returning")
    returning.wait_ready()
    book = start.root / "data" / "worker-2.peers.json"
    wait_until(lambda: book.exists() and staying.ready.peer_id in book.read_text(), "the other's address is kept")
    returning.stop()
    bootstrap.stop()

    again = start.worker("--script", str(script), peer=address, name="again")
    assert again.ready.peer_id == returning.ready.peer_id
    assert "no initial peer answers" in again.log
