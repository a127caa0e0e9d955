"""torch's own float32 product for a linear layer beside oneDNN's, for the few rows of a step, on the machine at hand.

    python -m bench.linear [--threads N]

Each shape has enough copies of its weights that they come from memory, as in a model. In turns; the best of rounds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import linear

from p2pnet.worker.engine.onednn import OneDnnLinear

SHAPES = ((576, 576), (1536, 576), (576, 1536), (49152, 576))
ROWS = (1, 2, 4, 8, 16, 32, 128)
BYTES_OF_WEIGHTS = 100 << 20
ROUNDS = 7


def best_us(sides: Sequence[Callable[[], object]], count: int) -> list[float]:
    """Microseconds for one of `count` products, of each side."""
    best = [float("inf")] * len(sides)
    for _ in range(ROUNDS):
        for index, side in enumerate(sides):
            start = time.perf_counter()
            side()
            best[index] = min(best[index], (time.perf_counter() - start) / count * 1e6)
    return best


def layers_of(outputs: int, inputs: int) -> list[torch.nn.Linear]:
    count = max(2, BYTES_OF_WEIGHTS // (4 * outputs * inputs))
    return [torch.nn.Linear(inputs, outputs, bias=False) for _ in range(count)]


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    table = Table(
        "outputs x inputs", "rows", "torch us", "oneDNN us", "ratio", "a row has the same bits in all numbers of rows"
    )
    for outputs, inputs in SHAPES:
        layers = layers_of(outputs, inputs)
        whole = torch.randn(max(ROWS), inputs)
        fast = torch.nn.Linear(inputs, outputs, bias=False)
        fast.weight, fast.__class__ = layers[0].weight, OneDnnLinear
        for rows in ROWS:
            given = whole[:rows]

            def plain(given: torch.Tensor = given, layers: Sequence[torch.nn.Linear] = layers) -> None:
                for layer in layers:
                    linear(given, layer.weight)

            def onednn(given: torch.Tensor = given, layers: Sequence[torch.nn.Linear] = layers) -> None:
                for layer in layers:
                    OneDnnLinear.forward(layer, given)  # type: ignore[arg-type]

            one, other = best_us((plain, onednn), len(layers))
            same = torch.equal(fast(given), fast(whole)[:rows])
            table.add_row(
                f"{outputs} x {inputs}", str(rows), f"{one:.0f}", f"{other:.0f}", f"{other / one:.2f}", str(same)
            )
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
