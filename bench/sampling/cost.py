"""What choosing one token costs: our sampler, the rule before it, and torch.multinomial, in turns in the same run.

    python -m bench.sampling.cost [--model FOLDER] [--threads N]

Logits are a model's own where one is given, else random ones as wide as a model's. A step chooses for one sequence or
for eight; before each one the caches are filled with other things, as a model's weights fill them. Medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.sampling.inverse_cdf import inverse_cdf
from bench.sampling.logits import logits_of_text
from p2pnet.messages import Sampling
from p2pnet.worker.engine.sampler import Sampler

VOCABULARIES = (512, 32_000, 151_936, 262_144)
SPREAD = 3.0
STEPS = 100
TOGETHER = (1, 8)
CACHE_BYTES = 64 << 20
"""More than any cache of a processor holds."""
CASES = {
    "plain": Sampling(temperature=0.8),
    "top_p 0.9": Sampling(temperature=0.8, top_p=0.9),
    "top_k 40": Sampling(temperature=0.8, top_k=40),
    "min_p 0.05": Sampling(temperature=0.8, min_p=0.05),
}


def multinomial(logits: torch.Tensor, sampling: Sampling) -> int:
    """As transformers' own generate draws, without its processors."""
    return int(torch.multinomial(torch.softmax(logits / sampling.temperature, dim=0), 1))


def medians_us(logits: torch.Tensor, sampling: Sampling, together: int) -> list[float]:
    """Microseconds for one token of each rule, in steps of so many sequences: logits (sequences, vocabulary)."""
    sampler = Sampler(sampling, 0)
    rules: tuple[Callable[[int, torch.Tensor], object], ...] = (
        lambda position, row: sampler.choose(row, range(position)),
        lambda position, row: inverse_cdf(row, sampling, position),
        lambda position, row: multinomial(row, sampling),
    )
    weights = torch.zeros(CACHE_BYTES // 4)
    times: list[list[float]] = [[] for _ in rules]
    for step in range(STEPS):
        rows = [logits[(step + n) % len(logits)] for n in range(together)]
        for rule, kept in zip(rules, times, strict=True):
            weights.add_(1)
            began = time.perf_counter()
            for row in rows:
                rule(step, row)
            kept.append((time.perf_counter() - began) * 1e6 / together)
    return [statistics.median(kept) for kept in times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draw = torch.Generator().manual_seed(1)
    given = (
        [torch.randn(8, size, generator=draw) * SPREAD for size in VOCABULARIES]
        if options.model is None
        else [logits_of_text(options.model, "float32", STEPS)]
    )
    table = Table("vocabulary", "asked for", "at once", "gumbel-1 us", "inverse CDF us", "multinomial us", "ratio")
    for logits, (name, sampling), together in product(given, CASES.items(), TOGETHER):
        ours, former, torchs = medians_us(logits, sampling, together)
        drawn = f"{torchs:.0f}" if name == "plain" else "-"
        figures = (f"{ours:.0f}", f"{former:.0f}", drawn, f"{ours / former:.2f}")
        table.add_row(f"{logits.shape[1]:,}", name, f"{together}", *figures)
    table.caption = "ratio: gumbel-1 to the inverse CDF"
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
