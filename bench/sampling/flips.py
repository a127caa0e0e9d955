"""How often the same seed gives another token where two machines compute other last digits, by rule of choice.

    python -m bench.sampling.flips --model FOLDER [--dtypes float32 bfloat16] [--noise 1e-2 1e-3 1e-4] [--places 202]

First, at every place of a text, logits in one dtype against the other's, and against themselves with independent noise.
Then whole answers: one half computed in the first dtype, the rest gone on with in the other, as after a failure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from bench.sampling.inverse_cdf import inverse_cdf
from bench.sampling.logits import load, logits_of_text, windows
from p2pnet.messages import Sampling
from p2pnet.worker.engine.kv_store import Kv
from p2pnet.worker.engine.memory import whole_blocks
from p2pnet.worker.engine.runner import Part, Runner, make_runner
from p2pnet.worker.engine.sampler import Sampler

SEEDS = 8
TEMPERATURE = 0.8
CASES = {
    "all tokens": Sampling(temperature=TEMPERATURE),
    "top_p 0.9": Sampling(temperature=TEMPERATURE, top_p=0.9),
    "top_k 40": Sampling(temperature=TEMPERATURE, top_k=40),
    "min_p 0.05": Sampling(temperature=TEMPERATURE, min_p=0.05),
}
PROMPT_TOKENS = 32
ANSWER_TOKENS = 64

Rule = Callable[[torch.Tensor, Sampling, int], int]


def gumbel(logits: torch.Tensor, sampling: Sampling, position: int) -> int:
    return Sampler(sampling, 0).choose(logits, range(position))


RULES: dict[str, Rule] = {"inverse CDF": inverse_cdf, "gumbel-1": gumbel}


def flips(one: torch.Tensor, other: torch.Tensor, sampling: Sampling, rule: Rule) -> float:
    """The share of draws, over places and seeds, in which logits (places, vocabulary) give another token."""
    changed = [
        rule(one[place], seeded, place) != rule(other[place], seeded, place)
        for seed in range(SEEDS)
        for seeded in [msgspec.structs.replace(sampling, seed=seed)]
        for place in range(len(one))
    ]
    return sum(changed) / len(changed)


def greedy_flips(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.argmax(dim=1) != other.argmax(dim=1)).double().mean())


def others(logits: torch.Tensor, folder: Path, dtype: str, noises: list[float]) -> Iterator[tuple[str, torch.Tensor]]:
    yield dtype, logits_of_text(folder, dtype, len(logits))
    draw = torch.Generator().manual_seed(1)
    for noise in noises:
        yield f"noise of {noise:g}", logits + torch.randn(logits.shape, generator=draw) * noise


def table_of_flips(folder: Path, dtypes: list[str], noises: list[float], places: int) -> Table:
    logits = logits_of_text(folder, dtypes[0], places)
    table = Table(f"{dtypes[0]} against", "of", *(f"{rule}: another token" for rule in RULES), "greedy")
    for name, other in others(logits, folder, dtypes[1], noises):
        greedy = f"{greedy_flips(logits, other):.2%}"
        for what, sampling in CASES.items():
            shares = (f"{flips(logits, other, sampling, rule):.2%}" for rule in RULES.values())
            table.add_row(name, what, *shares, greedy if what == "all tokens" else "")
    table.caption = f"{len(logits) * SEEDS:,} draws each, temperature {TEMPERATURE}, {logits.shape[1]:,} tokens"
    return table


class Answerer:
    """Generates with one model by a rule, from ids on."""

    def __init__(self, runner: Runner, rule: Rule) -> None:
        self._runner = runner
        self._rule = rule

    def go_on(self, ids: list[int], tokens: int, sampling: Sampling) -> list[int]:
        """The ids with so many more."""
        kv, done = Kv(whole_blocks(len(ids) + tokens)), 0
        ids = list(ids)
        for _ in range(tokens):
            (logits,) = self._runner.forward([Part(ids[done:], done, kv)])
            done = len(ids)
            ids.append(self._rule(logits[-1].float(), sampling, len(ids)))
        return ids


def table_of_answers(folder: Path, dtypes: list[str], answers: int) -> Table:
    models: list[Any] = [load(folder, dtype) for dtype in dtypes]
    runners = [make_runner(model) for model, _ in models]
    prompts = [ids[:PROMPT_TOKENS] for ids in windows(models[0][1], answers * 128)]
    table = Table("rule", "answers that differ", "tokens that were the same, mean")
    for name, rule in RULES.items():
        first, second = (Answerer(runner, rule) for runner in runners)
        same: list[int] = []
        for seed, prompt in enumerate(prompts):
            sampling = Sampling(seed=seed, temperature=TEMPERATURE)
            whole = first.go_on(prompt, ANSWER_TOKENS, sampling)
            half = whole[: PROMPT_TOKENS + ANSWER_TOKENS // 2]
            found = second.go_on(half, ANSWER_TOKENS // 2, sampling)
            pairs = zip(whole[len(half) :], found[len(half) :], strict=True)
            same.append(next((n for n, (a, b) in enumerate(pairs) if a != b), ANSWER_TOKENS // 2))
        differing = sum(n < ANSWER_TOKENS // 2 for n in same)
        table.add_row(name, f"{differing} of {len(same)}", f"{sum(same) / len(same):.1f} of {ANSWER_TOKENS // 2}")
    table.caption = f"begun in {dtypes[0]}, gone on with in {dtypes[1]} after {ANSWER_TOKENS // 2} tokens"
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtypes", nargs=2, default=["float32", "bfloat16"])
    parser.add_argument("--noise", nargs="*", type=float, default=[1e-2, 1e-3, 1e-4])
    parser.add_argument("--places", type=int, default=202)
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=110)
    console.print(table_of_flips(options.model, options.dtypes, options.noise, options.places))
    console.print(table_of_answers(options.model, options.dtypes, options.answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
