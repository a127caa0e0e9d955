"""What choosing one token costs: our sampler, the rule before it, and torch.multinomial, in turns in the same run.

    python -m bench.sampling.cost [--model FOLDER] [--threads N]

Logits are a model's own where one is given, else random ones as wide as a model's. The median of many steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
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
STEPS = 200
CASES = {
    "plain": Sampling(temperature=0.8),
    "top_p 0.9": Sampling(temperature=0.8, top_p=0.9),
    "top_k 40": Sampling(temperature=0.8, top_k=40),
    "min_p 0.05": Sampling(temperature=0.8, min_p=0.05),
}


def multinomial(logits: torch.Tensor, sampling: Sampling) -> int:
    """As transformers' own generate draws, without its processors."""
    return int(torch.multinomial(torch.softmax(logits / sampling.temperature, dim=0), 1))


def medians_us(logits: torch.Tensor, sampling: Sampling) -> tuple[float, float, float]:
    """Microseconds for one token of each: logits (steps, vocabulary)."""
    sampler = Sampler(sampling, 0)
    sides: tuple[Callable[[int, torch.Tensor], object], ...] = (
        lambda position, row: sampler.choose(row, range(position)),
        lambda position, row: inverse_cdf(row, sampling, position),
        lambda position, row: multinomial(row, sampling),
    )
    times: tuple[list[float], ...] = ([], [], [])
    for step in range(STEPS):
        row = logits[step % len(logits)]
        for side, kept in zip(sides, times, strict=True):
            began = time.perf_counter()
            side(step, row)
            kept.append((time.perf_counter() - began) * 1e6)
    first, second, third = (statistics.median(kept) for kept in times)
    return first, second, third


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
    table = Table("vocabulary", "asked for", "gumbel-1 us", "inverse CDF us", "multinomial us", "gumbel / inverse CDF")
    for logits in given:
        for name, sampling in CASES.items():
            ours, former, torchs = medians_us(logits, sampling)
            drawn = f"{torchs:.0f}" if name == "plain" else "-"
            table.add_row(f"{logits.shape[1]:,}", name, f"{ours:.0f}", f"{former:.0f}", drawn, f"{ours / former:.2f}")
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
