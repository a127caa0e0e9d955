"""How fast the engine computes, beside `generate`, a static batch and transformers' own continuous batching.

    python -m bench.engine [--json [FILE]] [--rounds N] [--device cuda --dtype bfloat16]

All four run the same checkpoint (a Llama of 135 million random parameters) on the same prompts, in turns, in one
process: a busy machine slows all of them. Three workloads: one request at a time, eight at the same moment, and
requests that arrive at random (Poisson). Every answer has the same number of tokens; ends are ignored.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from bench.engine.contenders import Contender, engine, one_after_the_other, transformers_continuous
from bench.engine.jobs import ANSWER_TOKENS, Job, poisson, prompts
from bench.engine.runs import Run, alone, measure
from bench.engine.tables import CONTINUOUS, EIGHT, ONE, OURS, POISSON, SEQUENTIAL, STATIC, show
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model

CONCURRENCY = 8
POISSON_REQUESTS = 12
POISSON_LOAD = 1.5
"""Requests arrive this much faster than `generate` alone can serve them."""


def save_checkpoint(folder: Path, vocabulary: int = 49152) -> None:
    """SmolLM's shape, with random weights and the bundled tokenizer, which knows fewer ids."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_folder("tiny")).save_pretrained(folder)


def compare(
    plain: LoadedModel, loaded: LoadedModel, rounds: int, workloads: Sequence[str], progress: Progress
) -> list[Run]:
    """`plain` is for the others: the engine changes the layers of the model that it runs."""
    model = plain.model
    model.generation_config.eos_token_id = None
    contenders: dict[str, Contender] = {
        SEQUENTIAL: one_after_the_other(model, 1),
        STATIC: one_after_the_other(model, CONCURRENCY),
        CONTINUOUS: transformers_continuous(model),
        OURS: engine(loaded),
    }

    def run(name: str, workload: str, jobs: Sequence[Job]) -> Run:
        progress.update(task, description=f"{workload}: {name}", advance=1)
        return measure(name, workload, contenders[name], jobs)

    task = progress.add_task("warming up", total=None)
    for name in contenders:
        run(name, "warm-up", [Job(0, prompt) for prompt in prompts(2, 99)])
    runs = []
    for turn in range(rounds):
        at_once = [Job(0, prompt) for prompt in prompts(CONCURRENCY, turn)]
        first = run(SEQUENTIAL, ONE, at_once[:1])
        jobs = {
            ONE: at_once[:1],
            EIGHT: at_once,
            POISSON: poisson(POISSON_REQUESTS, POISSON_LOAD * first.tokens_per_s / ANSWER_TOKENS, turn),
        }
        runs += [run(name, workload, jobs[workload]) for workload in workloads for name in contenders]
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to the output")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", nargs="+", default=[ONE, EIGHT, POISSON], choices=[ONE, EIGHT, POISSON])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    console = Console(stderr=arguments.json == "-", width=150)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, Progress(console=Console(stderr=True), transient=True) as progress:
        folder = Path(name)
        alone(lambda: save_checkpoint(folder))
        plain, ours = (
            alone(lambda: load_model(folder, arguments.device, arguments.dtype, HashCache(folder))) for _ in range(2)
        )
        runs = compare(plain, ours, arguments.rounds, arguments.workloads, progress)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{arguments.threads} threads"
    console.print(f"{where}, {ours.dtype}, load average {load_before:.1f} -> {os.getloadavg()[0]:.1f}")
    show(runs, console)
    if arguments.json:
        text = json.dumps([asdict(run) for run in runs], indent=1)
        print(text) if arguments.json == "-" else Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
