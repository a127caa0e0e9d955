"""`p2pnet peers`: the workers of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pnet.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from p2pnet.records import CapabilityRecord


def peers(
    initial_peers: options.InitialPeers = [],
    swarm: options.Swarm = None,
    invite: options.Invite = None,
    as_json: options.Json = False,
    log_level: options.LogLevelOption = options.LogLevel.warning,
) -> None:
    """List the workers that announce themselves, and how busy they were when they did; of a large network a part."""
    import msgspec
    from rich.console import Console

    from p2pnet.cli import logs
    from p2pnet.cli.directory_view import read_directory
    from p2pnet.cli.joining import joining
    from p2pnet.cli.tables import print_table

    logs.configure(log_level, is_json=False)
    view = read_directory(joining(initial_peers, swarm, invite))
    if as_json:
        print(msgspec.json.encode([{"worker": worker, "load": worker.load} for worker in view.workers]).decode())
        return
    if view.workers:
        print_table(peers_table(view.workers), Console())
        print(view.remark, end="\n" if view.remark else "")
    else:
        print("No worker announces itself at the moment.")


def peers_table(workers: Sequence[CapabilityRecord]) -> Table:
    """A row for each worker. What strangers call themselves is shown, and means nothing to the terminal."""
    from rich.markup import escape
    from rich.table import Table

    from p2pnet.network.multiaddrs import are_all_relayed

    columns = ("Peer", "Name", "Models", "Reached", "Running", "Queued", "Slots", "Tokens/s")
    table = Table(*columns)
    for worker in workers:
        load = worker.load
        busy = (str(load.running), str(load.queued)) if load else ("?", "?")
        measure = load.decode_tokens_per_s if load else None
        speed = f"{measure.value:.1f}" if measure and measure.sampled_ms else "-"
        table.add_row(
            worker.peer_id,
            escape(worker.name),
            ", ".join(card.id if card.task == "generate" else f"{card.id} ({card.task})" for card in worker.models),
            "relayed" if are_all_relayed(worker.addresses) else "direct",
            *busy,
            str(worker.slots),
            speed,
        )
    return table
