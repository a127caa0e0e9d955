"""`p2pnet peers`: the workers of the network."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
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
        given = [("--invite", invite), ("--swarm", swarm), *(("--initial-peers", peer) for peer in initial_peers)]
        through = [word for flag, value in given if value for word in (flag, value)]
        for line in incomplete_lines(view.workers, through):
            print(line)
    else:
        print("No worker announces itself at the moment.")


def peers_table(workers: Sequence[CapabilityRecord]) -> Table:
    """A row for each worker. What strangers call themselves is shown, and means nothing to the terminal."""
    from rich.markup import escape
    from rich.table import Table

    from p2pnet.network.multiaddrs import are_all_relayed
    from p2pnet.spans import in_words

    columns = ("Peer", "Name", "Models", "Reached", "Running", "Queued", "Slots", "Tokens/s")
    table = Table(*columns)
    for worker in workers:
        load = worker.load
        busy = (str(load.running), str(load.queued)) if load else ("?", "?")
        measure = load.decode_tokens_per_s if load else None
        speed = f"{measure.value:.1f}" if measure and measure.sampled_ms else "-"
        runs = [card.id if card.task == "generate" else f"{card.id} ({card.task})" for card in worker.models]
        lacks = [f"{model.id} ({in_words(model.missing)})" for model in worker.incomplete]
        table.add_row(
            worker.peer_id,
            escape(worker.name),
            ", ".join((*runs, *lacks)),
            "relayed" if are_all_relayed(worker.addresses) else "direct",
            *busy,
            str(worker.slots),
            speed,
        )
    return table


def incomplete_lines(workers: Sequence[CapabilityRecord], through: Sequence[str]) -> Iterator[str]:
    """Which layers of which models nobody has, and what serves them; `through` are the flags that join this network.
    What a worker runs whole is left out. A model without a slash in its name is taken for a folder's."""
    from p2pnet.spans import in_words

    whole = {card.id for worker in workers for card in worker.models}
    wanted = {model.id: model for worker in workers for model in worker.incomplete if model.id not in whole}
    for name, model in sorted(wanted.items()):
        yield f"{name}: {in_words(model.missing)}. Whoever has the model serves them with:"
        files = name if "/" in name else f"./{name}"
        for first, last in model.missing:
            yield "  " + shlex.join(["p2pnet", "serve", "--model", files, "--layers", f"{first}:{last}", *through])
