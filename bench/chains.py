"""A model in two stages beside the same model in one worker: tokens a second, and what each process takes of memory.

    python -m bench.chains [--rounds N] [--clients N ...] [--json [FILE]]

A bootstrap, a worker with the whole model, two stages, a driver and a gateway, as processes on loopback without delay;
the model is that of `bench.engine` (a Llama of 135 million random parameters, float32). The two take turns with the
same requests through the gateway; of the rounds the best counts. An answer that differs is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from bench.engine.__main__ import save_checkpoint
from bench.harness.swarm import Process, Swarm, swarm

LAYERS, CUT = 30, 15
WHOLE, CHAIN = "whole", "chain"
ANSWER_TOKENS = 48
KV_BYTES = 256 << 20
START_TIMEOUT_S = 120.0


@dataclass
class Figures:
    """What one run gave."""

    tokens_per_s: dict[str, dict[int, float]] = field(default_factory=lambda: {WHOLE: {}, CHAIN: {}})
    """By model and number of clients, the best round."""
    different_answers: int = 0
    memory_mb: dict[str, float] = field(default_factory=dict)
    """Resident memory of each process at the end, p2pd not counted."""


async def measure(url: str, rounds: int, clients: Sequence[int]) -> Figures:
    figures = Figures()
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        for number in clients:
            for round_number in range(rounds):
                texts = {}
                for model in (WHOLE, CHAIN):
                    seconds, texts[model] = await ask(client, model, number, round_number)
                    speeds = figures.tokens_per_s[model]
                    speeds[number] = max(speeds.get(number, 0.0), number * ANSWER_TOKENS / seconds)
                pairs = zip(texts[WHOLE], texts[CHAIN], strict=True)
                figures.different_answers += sum(one != other for one, other in pairs)
    return figures


async def ask(client: httpx.AsyncClient, model: str, clients: int, round_number: int) -> tuple[float, list[str]]:
    """How long so many answers take together, and their texts."""

    async def one(number: int) -> str:
        body = {
            **{"model": model, "prompt": f"Story {round_number}.{number}: once upon a time", "seed": number},
            **{"max_tokens": ANSWER_TOKENS, "ignore_eos": True, "temperature": 0.8},
        }
        response = await client.post("/v1/completions", json=body)
        response.raise_for_status()
        text: str = response.json()["choices"][0]["text"]
        return text

    began_s = time.perf_counter()
    texts = await asyncio.gather(*(one(number) for number in range(clients)))
    return time.perf_counter() - began_s, texts


def start(running: Swarm, folder: Path) -> tuple[dict[str, Process], str]:
    bootstrap = running.bootstrap()
    model = ("--model", str(folder), "--device", "cpu")
    kv = ("--kv-memory", str(KV_BYTES))
    processes = {
        "whole": running.worker(bootstrap, *model, *kv, "--served-name", WHOLE, "--context", "1024"),
        "first stage": running.worker(bootstrap, *model, *kv, "--layers", f"0:{CUT}"),
        "second stage": running.worker(bootstrap, *model, *kv, "--layers", f"{CUT}:{LAYERS}"),
        "driver": running.driver(bootstrap, *model, "--served-name", CHAIN, "--context", "1024"),
    }
    gateway = running.gateway(bootstrap)
    for process in (*processes.values(), gateway):
        assert process.ready
    return processes, str(gateway.ready["http"])


def wait_offered(url: str) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        offered = {model["id"] for model in httpx.get(f"{url}/v1/models", timeout=30).json()["data"]}
        if {WHOLE, CHAIN} <= offered:
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"only {sorted(offered)} are offered")
        time.sleep(0.2)


def show(figures: Figures, console: Console) -> None:
    table = Table("Clients", "Whole, tokens/s", "Two stages, tokens/s", "Ratio")
    for number, whole in figures.tokens_per_s[WHOLE].items():
        chain = figures.tokens_per_s[CHAIN][number]
        table.add_row(str(number), f"{whole:.1f}", f"{chain:.1f}", f"{chain / whole:.2f}")
    console.print(table)
    for name, megabytes in figures.memory_mb.items():
        console.print(f"{name}: {megabytes:.0f} MB")
    console.print(f"answers that differ: {figures.different_answers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, swarm() as running:
        folder = Path(temporary) / "model"
        save_checkpoint(folder)
        processes, url = start(running, folder)
        wait_offered(url)
        figures = asyncio.run(measure(url, arguments.rounds, arguments.clients))
        for name, process in processes.items():
            figures.memory_mb[name] = psutil.Process(process.pid).memory_info().rss / 1e6
    found: dict[str, Any] = asdict(figures)
    if arguments.json == "-":
        print(json.dumps(found, indent=2))
    elif arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(figures, Console(stderr=arguments.json == "-"))


if __name__ == "__main__":
    main()
