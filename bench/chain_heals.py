"""kill -9 of a stage in the middle of an answer, again and again, where another one stands by: how long the pause is.

    python -m bench.chain_heals [--kills N] [--seed N] [--json [FILE]]

A bootstrap, a worker with the whole model, two stages for each half of it, a driver and a gateway, as processes on
loopback without delay; the model is that of `bench.engine` (a Llama of random parameters, float32). Each
answer goes on from about 1,900 tokens. At a random token of it one of the two stages that are in use is killed, with
its p2pd; then another comes in its place. The added gap is the longest pause between two pieces of the answer, less the
usual one. An answer that is not the whole model's is counted.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
from rich.console import Console
from transformers.utils import logging as transformers_logging

from bench.chains import CHAIN, CUT, KV_BYTES, LAYERS, WHOLE, wait_offered
from bench.engine.__main__ import save_checkpoint
from bench.harness.swarm import Process, Swarm, swarm

PROMPT_TOKENS = 1900
ANSWER_TOKENS = 120
"""Together as long as the model's context."""
KNOWN_IDS = 256
"""Of the bundled tokenizer: ids that it does not know say nothing, and an answer of those comes in one piece."""
FIRST_KILL = 5
"""Token of an answer before which nobody is killed: until then what is measured is how a prompt is read."""
STANDING_BY_TIMEOUT_S = 120.0
SPANS = (f"0:{CUT}", f"{CUT}:{LAYERS}")


@dataclass
class Figures:
    """What one run gave."""

    added_gaps_s: list[float] = field(default_factory=list)
    different_answers: int = 0


@dataclass
class Stages:
    """Two for each span. Which of them are in use the driver's log says."""

    running: Swarm
    bootstrap: Process
    arguments: tuple[str, ...]
    all: dict[str, tuple[str, Process]] = field(default_factory=dict)

    def start(self, *spans: str) -> list[str]:
        """Others, all at once, by their peer ids."""
        started = [(span, self.running.worker(self.bootstrap, *self.arguments, "--layers", span)) for span in spans]
        found = {str(process.ready["peer_id"]): (span, process) for span, process in started}
        self.all |= found
        return list(found)

    def kill(self, peer_id: str) -> str:
        """Returns the span that it had."""
        span, process = self.all.pop(peer_id)
        process.kill_with_daemon()
        return span


def in_use(driver: Process) -> list[str]:
    line = [line for line in driver.log.splitlines() if "a chain is open:" in line or "chain is whole again:" in line][
        -1
    ]
    return re.findall(r" at (\w+)", line)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + STANDING_BY_TIMEOUT_S
    while not is_so():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not in {STANDING_BY_TIMEOUT_S:.0f} s: {what}")
        time.sleep(0.1)


def wait_standing_by(driver: Process, peer_ids: Iterable[str]) -> None:
    for peer_id in peer_ids:
        wait_until(partial(stands_by, driver, peer_id), f"{peer_id} stands by")


def stands_by(driver: Process, peer_id: str) -> bool:
    return any(peer_id in line and "stands by" in line for line in driver.log.splitlines())


def streamed(client: httpx.Client, model: str, seed: int, at: Callable[[int], None]) -> tuple[str, list[float]]:
    """An answer, and when its pieces came. `at` is told how many have come."""
    body = {
        **{"model": model, "prompt": prompt(), "seed": seed, "stream": True},
        **{"max_tokens": ANSWER_TOKENS, "ignore_eos": True, "temperature": 0.8},
    }
    texts: list[str] = []
    came_s: list[float] = []
    with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                texts += [choice["text"] for choice in json.loads(line[6:])["choices"]]
                came_s.append(time.perf_counter())
                at(len(came_s))
    return "".join(texts), came_s


def prompt() -> list[int]:
    """Ids that mean nothing."""
    rng = random.Random(0)
    return [rng.randint(10, 200) for _ in range(PROMPT_TOKENS)]


def measure(url: str, stages: Stages, driver: Process, kills: int, rng: random.Random, console: Console) -> Figures:
    figures = Figures()
    with httpx.Client(base_url=url, timeout=600) as client:
        for number in range(kills):
            expected, _ = streamed(client, WHOLE, number, lambda pieces: None)
            victim, when = rng.choice(in_use(driver)), rng.randint(FIRST_KILL, ANSWER_TOKENS // 2)
            spans: list[str] = []

            def strike(pieces: int, victim: str = victim, when: int = when, spans: list[str] = spans) -> None:
                if pieces == when:
                    spans.append(stages.kill(victim))

            found, came_s = streamed(client, CHAIN, number, strike)
            if not spans:
                console.print(f"nobody was killed: the answer had {len(came_s)} pieces only")
                continue
            pauses_s = [later - earlier for earlier, later in pairwise(came_s[1:])]
            figures.added_gaps_s.append(max(pauses_s) - statistics.median(pauses_s))
            figures.different_answers += found != expected
            console.print(f"kill {number + 1}: {figures.added_gaps_s[-1]:.2f} s more, the same: {found == expected}")
            wait_standing_by(driver, stages.start(*spans))
    return figures


def show(figures: Figures, console: Console) -> None:
    gaps_s = sorted(figures.added_gaps_s)
    p50, p99 = statistics.median(gaps_s), gaps_s[min(len(gaps_s) - 1, round(0.99 * (len(gaps_s) - 1)))]
    console.print(f"{len(gaps_s)} kills: added gap p50 {p50:.2f} s, p99 {p99:.2f} s, longest {gaps_s[-1]:.2f} s")
    console.print(f"answers that differ: {figures.different_answers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    console = Console(stderr=arguments.json == "-")
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, swarm() as running:
        folder = Path(temporary) / "model"
        save_checkpoint(folder, KNOWN_IDS)
        bootstrap = running.bootstrap()
        model = ("--model", str(folder), "--device", "cpu", "--kv-memory", str(KV_BYTES))
        stages = Stages(running, bootstrap, model)
        whole = running.worker(bootstrap, *model, "--served-name", WHOLE)
        stages.start(*SPANS, *SPANS)
        driver = running.driver(bootstrap, *model[:4], "--served-name", CHAIN, "--context", "2048")
        gateway = running.gateway(bootstrap)
        assert all(process.ready for process in (whole, driver, gateway))
        url = str(gateway.ready["http"])
        wait_offered(url)
        with httpx.Client(base_url=url, timeout=600) as client:
            streamed(client, CHAIN, 0, lambda pieces: None)  # opens a chain
        wait_standing_by(driver, set(stages.all) - set(in_use(driver)))
        figures = measure(url, stages, driver, arguments.kills, random.Random(arguments.seed), console)
    if arguments.json == "-":
        print(json.dumps(asdict(figures), indent=2))
    elif arguments.json:
        Path(arguments.json).write_text(json.dumps(asdict(figures), indent=2) + "\n", encoding="utf-8")
    show(figures, console)


if __name__ == "__main__":
    main()
