"""The tables of `p2pnet peers` and `p2pnet models`, with what honest and hostile workers call themselves."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from p2pnet.cli.directory_view import View
from p2pnet.cli.models import models_table
from p2pnet.cli.peers import incomplete_lines, peers_table
from p2pnet.cli.tables import print_table
from p2pnet.records import IncompleteModel
from tests.stories import DIGEST, capability, card, load_record, peer

MARKUP = ("[/]", "[bold]x", "[link=http://example.org]x[/link]", "[/red]")


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_worker_with_its_name_and_its_load() -> None:
    ann = capability(peer("ann"), "tiny", name="anna-laptop", slots=8)
    row = printed(peers_table([msgspec.structs.replace(ann, load=load_record(peer("ann")).load)]))
    for part in (ann.peer_id, "anna-laptop", "tiny", "direct", " 1 ", " 2 ", " 8 "):
        assert part in row


def test_a_model_of_which_layers_are_missing_and_what_serves_them() -> None:
    large = IncompleteModel("large", DIGEST, 24, ((0, 2), (12, 18)))
    lost = IncompleteModel("org/lost", DIGEST, 4, ((3, 4),))
    ann = msgspec.structs.replace(capability(peer("ann")), models=(), incomplete=(large, lost))
    assert "large (layers 0 to 2 and 12 to 18 are missing), org/lost (layers 3 to 4" in printed(peers_table([ann]))
    runs_it = capability(peer("bob"), "org/lost")
    assert list(incomplete_lines([ann, runs_it], ["--swarm", "lab"])) == [
        "large: layers 0 to 2 and 12 to 18 are missing. Whoever has the model serves them with:",
        "  p2pnet serve --model ./large --layers 0:2 --swarm lab",
        "  p2pnet serve --model ./large --layers 12:18 --swarm lab",
    ]
    assert list(incomplete_lines([ann], []))[-1] == "  p2pnet serve --model org/lost --layers 3:4"


@pytest.mark.parametrize("name", MARKUP)
def test_names_are_no_markup(name: str) -> None:
    assert name in printed(peers_table([capability(peer("ann"), name=name)]))


@pytest.mark.parametrize("label", MARKUP)
def test_labels_of_models_are_no_markup(label: str) -> None:
    assert f"float32, {label}" in printed(models_table([(card("tiny", quantization=label), "1")]))


LONG = "organisation/A-Very-Long-Model-Name-32B-Instruct-GPTQ-Int4-And-More-Of-It:latest"


def shown(table: Table, width: int, is_terminal: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None)
    print_table(table, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "is_terminal"), [(80, True), (40, True), (80, False), (200, True), (200, False)])
def test_what_one_types_is_never_cut_nor_broken(width: int, is_terminal: bool) -> None:
    ann = capability(peer("ann"), LONG, "tiny", name="anna-laptop")
    tables = (models_table([(card(LONG, quantization="[bold]x"), "12")]), peers_table([ann]))
    for table, parts in zip(tables, [(LONG, "[bold]x", card("tiny").digest[7:19]), (ann.peer_id, LONG)], strict=True):
        lines = shown(table, width, is_terminal)
        for part in parts:
            assert any(part in line for line in lines), (part, lines)


def test_a_table_that_fits_is_one_and_one_that_does_not_is_read_row_by_row() -> None:
    table = models_table([(card("tiny"), "2"), (card("large"), "1")])
    assert len(shown(table, 80, is_terminal=True)) == 6
    first, behind, *_ = shown(models_table([(card(LONG), "2")]), 80, is_terminal=True)
    assert first == LONG
    assert behind.startswith("  task: generate, workers: 2, context: ")


@pytest.mark.parametrize(
    ("read", "announced", "is_part"), [(0, 0, False), (2, 3, False), (2, 500, False), (2, 501, True)]
)
def test_a_list_of_a_part_of_the_network_says_so(read: int, announced: int, is_part: bool) -> None:
    view = View((capability(peer("ann")),) * read, announced)
    assert bool(view.remark) is is_part
    assert not is_part or "2 workers were read, of some 501" in view.remark


def test_what_stands_behind_ends_its_lines_between_words() -> None:
    lines = shown(models_table([(card(LONG, quantization="four bits and many more words"), "2")]), 40, is_terminal=True)
    assert lines[0] == LONG
    assert len(lines) > 2 and all(line.startswith("  ") and len(line) <= 40 for line in lines[1:])
