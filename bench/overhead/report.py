"""What was found, held against the aims: as data, and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.overhead.first_token import FirstToken
from bench.overhead.sides import CLIENT, DAEMONS, HTTP, NETWORK, WORKER, Settings
from bench.overhead.throughput import Throughput

AIM_ADDED_MS = 3.0
AIM_CHUNKS_PER_S = 20_000
AIM_CONCURRENCY = 64


@dataclass(frozen=True)
class Machine:
    cores: int | None
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]


@dataclass(frozen=True)
class Report:
    machine: Machine
    settings: Settings
    first_token: FirstToken
    throughput: tuple[Throughput, ...]
    aims: dict[str, object]


def aims_of(first_token: FirstToken, throughput: Sequence[Throughput]) -> dict[str, object]:
    most = [row for row in throughput if row.side == NETWORK and row.concurrency == AIM_CONCURRENCY]
    return {
        "added_p50_ms": {"aim": AIM_ADDED_MS, "is_met": first_token.added_p50_ms <= AIM_ADDED_MS},
        "chunks_per_s_at_64": {
            "aim": AIM_CHUNKS_PER_S,
            "is_met": {row.model: row.chunks_per_s >= AIM_CHUNKS_PER_S for row in most},
        },
    }


def show(report: Report, console: Console) -> None:
    load = " -> ".join(f"{load[0]:.1f}" for load in (report.machine.load_before, report.machine.load_after))
    console.print(f"{report.machine.cores} cores, load average {load}, transport: {report.settings.transport}\n")
    _show_first_token(report.first_token, console)
    _show_throughput(report, console)


def _show_first_token(found: FirstToken, console: Console) -> None:
    title = f"Time to first token, one request at a time, {found.requests} per side"
    table = Table("side", "p50 ms", "p90 ms", title=title)
    table.add_row("network", f"{found.network_p50_ms:.2f}", f"{found.network_p90_ms:.2f}")
    table.add_row("plain", f"{found.plain_p50_ms:.2f}", f"{found.plain_p90_ms:.2f}")
    table.add_row("added", f"{found.added_p50_ms:.2f}", f"{found.added_p90_ms:.2f}")
    console.print(table)
    console.print(
        f"Added p50, round by round: {_spread(found.rounds_added_p50_ms, '.2f')} ms. "
        f"Aim: at most {AIM_ADDED_MS:g} ms. {_said(found.added_p50_ms <= AIM_ADDED_MS)}\n"
    )


def _show_throughput(report: Report, console: Console) -> None:
    table = Table("backend", "streams", "side", title=f"Streamed chunks, {report.settings.deltas} per stream")
    for name in ("chunks/s", "rounds", "SSE events/s", "chunks/event", "cores"):
        table.add_column(name, justify="right")
    table.add_column("CPU µs/chunk: client")
    for name in ("HTTP", "worker", "p2pd"):
        table.add_column(name, justify="right")
    for row in report.throughput:
        cpu = row.cpu_us_per_chunk
        table.add_row(
            row.model,
            str(row.concurrency),
            row.side,
            f"{row.chunks_per_s:,.0f}",
            _spread(row.rounds_chunks_per_s, ",.0f"),
            f"{row.events_per_s:,.0f}",
            f"{row.chunks_per_event:.1f}",
            f"{row.cores:.2f}",
            *(f"{cpu[name]:.1f}" if name in cpu else "" for name in (CLIENT, HTTP, WORKER, DAEMONS)),
        )
    console.print(table)
    for row in report.throughput:
        if row.side == NETWORK and row.concurrency == AIM_CONCURRENCY:
            is_met = row.chunks_per_s >= AIM_CHUNKS_PER_S
            console.print(
                f"Aim with the {row.model} backend: at least {AIM_CHUNKS_PER_S:,} chunks/s "
                f"at {AIM_CONCURRENCY} streams on two cores. {_said(is_met)}"
            )


def _spread(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}}..{max(values):{form}}"


def _said(is_met: bool) -> str:
    return "Met." if is_met else "Not met."
