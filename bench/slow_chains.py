"""A chain of four stages over slow lines: with guesses and without, and many answers at a time beside no delay.

    python -m bench.slow_chains [--delay-ms N] [--clients N] [--tokens N] [--right SHARE] [--json [FILE]]

Six machines in network namespaces, each with a line of its own that delays all that it sends: a bootstrap, four stages
with a layer each of the bundled model, and drivers and a gateway on the sixth. One driver guesses nothing, and one has
a small model for drafts, which is right about a given share of the tokens: a copy of the model with noise in its
weights. Both are asked for the same, at temperature 0.8, by one client and by many, for each delay with machines of its
own. An answer that differs is counted. Needs root, as tests of NAT do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from bench.harness.drafting import save_draft
from bench.harness.swarm import P2PNET, Swarm, swarm
from p2pnet.messages import GenerateRequest, Sampling, TextPrompt
from p2pnet.worker.checkpoints.loading import find_folder
from tests.nat.topology import Host, topology

MODEL = "tiny"
STAGES = 4
PLAIN, GUESSING = "plain", "guessing"
PLAIN_DRIVER = (sys.executable, "-m", "bench.harness.plain_driver", "drive")
LISTEN = ("--listen", "/ip4/0.0.0.0/tcp/31337")
"""No QUIC: who accepts such a connection names the device that its answers leave by, and so goes past the line."""
OTHER_PORTS = tuple(part.replace("31337", "31338") for part in LISTEN)
ANY_PORT = tuple(part.replace("31337", "0") for part in LISTEN)
TEMPERATURE = 0.8
START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 300
OPENINGS = ("Once upon a time", "The network is", "p2pnet", "A worker")


@dataclass(frozen=True)
class Measured:
    """How fast answers came over lines with this delay."""

    delay_ms: float
    clients: int
    tokens_per_s: dict[str, float]
    """By driver, all clients together."""

    @property
    def ratio(self) -> float:
        return self.tokens_per_s[GUESSING] / self.tokens_per_s[PLAIN]


@dataclass
class Figures:
    """What one run gave."""

    drafts_right: float = 0.0
    measured: list[Measured] = field(default_factory=list)
    different_answers: int = 0


@dataclass(frozen=True)
class Site:
    """What is running, and where it is asked."""

    running: Swarm
    hosts: Sequence[Host]
    url: str

    @property
    def asking(self) -> Host:
        return self.hosts[-1]

    def fetch(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the gateway says, asked on its own machine."""
        data = () if body is None else ("-d", json.dumps(body))
        command = ("curl", "-s", "--max-time", str(ANSWER_TIMEOUT_S), f"{self.url}{path}", *data)
        return json.loads(subprocess.run([*self.asking.prefix, *command], capture_output=True, check=True).stdout)

    def wait_offered(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not {PLAIN, GUESSING} <= {model["id"] for model in self.fetch("/v1/models")["data"]}:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the chain's models are not offered")
            time.sleep(0.5)

    def ask(self, model: str, clients: int, tokens: int) -> tuple[float, list[str]]:
        """How long so many answers take together, and their texts."""

        def one(number: int) -> str:
            request = wanted(number, tokens)
            assert isinstance(request.prompt, TextPrompt)
            sampling = {"temperature": TEMPERATURE, "seed": request.sampling.seed}
            body = {"model": model, "prompt": request.prompt.text, "max_tokens": tokens, "ignore_eos": True, **sampling}
            text: str = self.fetch("/v1/completions", body)["choices"][0]["text"]
            return text

        began_s = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            texts = list(pool.map(one, range(clients)))
        return time.perf_counter() - began_s, texts


def wanted(number: int, tokens: int) -> GenerateRequest:
    sampling = Sampling(seed=number, temperature=TEMPERATURE)
    text = f"{OPENINGS[number % len(OPENINGS)]} {number // len(OPENINGS) or ''}".strip()
    return GenerateRequest(f"{number}", MODEL, TextPrompt(text), sampling, tokens, ignore_eos=True)


def put_line(running: Swarm, host: Host, delay_ms: float) -> None:
    """All that a machine sends comes so much later. Connections that there are already may go on without."""
    flags = ("--address", host.address, "--loss", "0", "--delay-ms", str(delay_ms), "--seed", "1")
    line = running.elsewhere("line", host.prefix, sys.executable, "-m", "tests.faults.bad_line", *flags)
    assert line.ready


@contextmanager
def site(running: Swarm, draft: Path, clients: int, delay_ms: float) -> Iterator[Site]:
    """A chain on machines of its own, with lines of this delay."""
    with topology() as segment:
        hosts = [segment.public_host() for _ in range(STAGES + 2)]
        for host in hosts if delay_ms else ():
            put_line(running, host, delay_ms)
        first, *stage_hosts, last = hosts
        bootstrap = running.elsewhere("bootstrap", first.prefix, *P2PNET, "bootstrap", *LISTEN)
        address = next(a for a in bootstrap.ready["addresses"] if a.startswith(f"/ip4/{first.address}/tcp/"))
        join = ("--initial-peers", address)
        most = ("--max-concurrency", str(clients), "--context", "512")
        started = [
            running.elsewhere(
                "stage",
                host.prefix,
                *(*P2PNET, "serve", "--model", MODEL, "--layers", f"{number}:{number + 1}"),
                *("--kv-memory", "256MB", *LISTEN, *join),
            )
            for number, host in enumerate(stage_hosts)
        ]
        drive = ("--model", MODEL, *most, *join, "--served-name")
        started += [
            running.elsewhere("plain driver", last.prefix, *PLAIN_DRIVER, *drive, PLAIN, *LISTEN),
            running.elsewhere(
                "driver", last.prefix, *P2PNET, "drive", *drive, GUESSING, *OTHER_PORTS, "--draft", str(draft)
            ),
            running.elsewhere("gateway", last.prefix, *P2PNET, "gateway", "--port", "0", *ANY_PORT, *join),
        ]
        for process in started:
            assert process.ready
        made = Site(running, hosts, str(started[-1].ready["http"]))
        made.wait_offered()
        yield made
        running.stop()


def measure(chain: Site, delay_ms: float, clients: Sequence[int], tokens: int, figures: Figures) -> None:
    for model in (PLAIN, GUESSING):
        chain.ask(model, 1, 8)  # a chain is opened
    for number in clients:
        speeds, texts = {}, {}
        for model in (PLAIN, GUESSING):
            seconds, texts[model] = chain.ask(model, number, tokens)
            speeds[model] = number * tokens / seconds
        figures.measured.append(Measured(delay_ms, number, speeds))
        pairs = zip(texts[PLAIN], texts[GUESSING], strict=True)
        figures.different_answers += sum(one != other for one, other in pairs)


def show(figures: Figures, console: Console) -> None:
    table = Table("Delay, ms", "Clients", "Without guesses, tokens/s", "With", "Ratio")
    for each in figures.measured:
        plain, guessing = each.tokens_per_s[PLAIN], each.tokens_per_s[GUESSING]
        table.add_row(f"{each.delay_ms:g}", str(each.clients), f"{plain:.1f}", f"{guessing:.1f}", f"{each.ratio:.2f}")
    console.print(table)
    console.print(f"drafts that were right: {figures.drafts_right:.0%}")
    console.print(f"answers that differ: {figures.different_answers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[0, 50, 100])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--right", type=float, default=0.6)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    transformers_logging.disable_progress_bar()
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        asked = [wanted(number, options.tokens) for number in range(4)]
        figures.drafts_right = save_draft(find_folder(MODEL), folder / "draft", folder, asked, options.right)
        for delay_ms in options.delay_ms:
            with swarm() as running, site(running, folder / "draft", max(options.clients), delay_ms) as chain:
                measure(chain, delay_ms, options.clients, options.tokens, figures)
    if options.json == "-":
        print(json.dumps(asdict(figures), indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(asdict(figures), indent=2) + "\n", encoding="utf-8")
    show(figures, Console(stderr=options.json == "-"))


if __name__ == "__main__":
    main()
