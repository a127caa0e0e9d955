"""The tables of `p2pnet peers` and `p2pnet models`, with what honest and hostile workers call themselves."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from p2pnet.cli.models import models_table
from p2pnet.cli.peers import peers_table
from tests.stories import capability, card, load_record, peer

MARKUP = ("[/]", "[bold]x", "[link=http://example.org]x[/link]", "[/red]")


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_worker_with_its_name_and_its_load() -> None:
    ann = capability(peer("ann"), "tiny", name="anna-laptop", slots=8)
    row = printed(peers_table([ann], {ann.peer_id: load_record(peer("ann"))}))
    for part in (ann.peer_id, "anna-laptop", "tiny", "direct", " 1 ", " 2 ", " 8 "):
        assert part in row


@pytest.mark.parametrize("name", MARKUP)
def test_names_are_no_markup(name: str) -> None:
    assert name in printed(peers_table([capability(peer("ann"), name=name)], {}))


@pytest.mark.parametrize("label", MARKUP)
def test_labels_of_models_are_no_markup(label: str) -> None:
    assert f"float32, {label}" in printed(models_table([(card("tiny", quantization=label), "1")]))
