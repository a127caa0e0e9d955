"""`p2pnet models`: the models that the network serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from p2pnet.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from p2pnet.records import ModelCard


def models(
    initial_peers: options.InitialPeers = [],
    swarm: options.Swarm = None,
    invite: options.Invite = None,
    as_json: options.Json = False,
    log_level: options.LogLevelOption = options.LogLevel.warning,
) -> None:
    """List the models that workers announce; of a large network those of a part of them."""
    import msgspec
    from rich.console import Console

    from p2pnet.cli import logs
    from p2pnet.cli.directory_view import read_directory
    from p2pnet.cli.joining import joining
    from p2pnet.cli.tables import print_table

    logs.configure(log_level, is_json=False)
    view = read_directory(joining(initial_peers, swarm, invite))
    workers = view.workers
    cards = sorted({(card.id, card.digest): card for worker in workers for card in worker.models}.items())
    rows = [
        {
            "id": card.id,
            "task": card.task,
            "context_length": card.context_length,
            "dtype": card.dtype,
            "quantization": card.quantization,
            "digest": card.digest,
            "workers": sum(
                any(other.id == card.id and other.digest == card.digest for other in worker.models)
                for worker in workers
            ),
        }
        for _, card in cards
    ]
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    counted = [(card, str(row["workers"])) for row, (_, card) in zip(rows, cards, strict=True)]
    if rows:
        print_table(models_table(counted), Console())
        print(view.remark, end="\n" if view.remark else "")
    else:
        print("No worker announces a model at the moment.")


def models_table(counted: Iterable[tuple[ModelCard, str]]) -> Table:
    """A row for each model, with how many workers run it. Strangers' labels mean nothing to the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("Model", "Task", "Workers", "Context", "Precision", "Digest")
    for card, workers in counted:
        precision = escape(card.dtype if card.quantization == "none" else f"{card.dtype}, {card.quantization}")
        table.add_row(card.id, card.task, workers, f"{card.context_length:,}", precision, card.digest[7:19])
    return table
