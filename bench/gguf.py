"""A GGUF file in our worker beside llama.cpp's own server, and how often an answer is another one in company.

    python -m bench.gguf FILE [--threads N] [--rounds N] [--flips]

The server is that of PyPI's `xllamacpp`, and is left out where that is not installed. Where `gguf` is, transformers
loads the same file too, dequantized, for our engine. Each side has a process of its own, for its memory, and they take
turns; of the rounds the best counts. The server is asked over HTTP on this machine; our worker's backend directly.

With --flips: answers alone, with 3 and with 7 others, and taken up again after every eighth token. A flip is a token
that is another one than in the answer alone, after the same tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

OURS, SERVER, TRANSFORMERS = "our worker", "llama.cpp's server", "our worker, transformers"
CONTEXT_TOKENS = 8192
ANSWER_TOKENS, LONG_TOKENS, MANY = 96, 1000, 8
IDS = range(1000, 30_000)

FLIP_PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a land far away, there lived",
    "def fibonacci(n):\n    ",
    "Der schnelle braune Fuchs springt über den",
    "The three most important inventions of the last century were",
    "Water boils at a temperature of",
    "Dear Sir or Madam, I am writing to you because",
    "In the year 1969, two men",
)
FLIP_TOKENS = 64
RESUME_STEP = 8

Ask = Callable[[list[int], int], Awaitable[list[float]]]
"""Answers a prompt with so many tokens; returns when each came."""


@dataclass(frozen=True)
class Figures:
    """What one side gave. Times in seconds."""

    one_tokens_per_s: float
    many_tokens_per_s: float
    first_s: float
    memory_mb: float


def prompt(draw: random.Random, tokens: int) -> list[int]:
    """Ids that were not asked for before."""
    return draw.choices(IDS, k=tokens)


async def measure(ask: Ask, rounds: int, process: psutil.Process) -> Figures:
    draw = random.Random(1)
    ones, manies, firsts = [], [], []
    await ask(prompt(draw, 16), 4)
    for _ in range(rounds):
        times = await ask(prompt(draw, 16), ANSWER_TOKENS)
        ones.append((len(times) - 1) / (times[-1] - times[0]))
        began_s = time.perf_counter()
        several = await asyncio.gather(*(ask(prompt(draw, 16), ANSWER_TOKENS) for _ in range(MANY)))
        manies.append(sum(map(len, several)) / (max(times[-1] for times in several) - began_s))
        began_s = time.perf_counter()
        firsts.append((await ask(prompt(draw, LONG_TOKENS), 1))[0] - began_s)
    return Figures(max(ones), max(manies), min(firsts), process.memory_info().rss / 1e6)


# ---- the sides


@asynccontextmanager
async def our_worker(path: Path, threads: int) -> AsyncIterator[Any]:
    import torch

    from p2pnet.worker.backends.engine_backend import EngineOptions
    from p2pnet.worker.backends.gguf import GgufBackend

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        options = EngineOptions(slots=1, context_tokens=CONTEXT_TOKENS, threads=threads)
        backend = await GgufBackend.from_file(
            path, "m", now_ms=lambda: 0, options=options, device="cpu", cache_dir=Path(folder)
        )
        yield backend
        await backend.close()


@asynccontextmanager
async def our_transformers(path: Path, threads: int) -> AsyncIterator[Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from p2pnet.worker.backends.engine_backend import EngineOptions
    from p2pnet.worker.backends.transformers import TransformersBackend

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        model.hf_quantizer = model.quantization_method = None  # its weights are plain numbers now, and may be written
        model.is_quantized = False
        del model.config.quantization_config
        model.save_pretrained(folder)
        del model
        options = EngineOptions(slots=1, context_tokens=CONTEXT_TOKENS)
        backend = await TransformersBackend.from_spec(
            folder, served_name="m", now_ms=lambda: 0, options=options, device="cpu", cache_dir=Path(folder)
        )
        yield backend
        await backend.close()


def asking(backend: Any) -> Ask:
    from p2pnet.messages import GenerateRequest, Sampling, TextDelta, TokenPrompt

    async def ask(ids: list[int], tokens: int) -> list[float]:
        request = GenerateRequest(
            "r", "m", TokenPrompt(tuple(ids)), sampling=Sampling(temperature=0), max_tokens=tokens, ignore_eos=True
        )
        times: list[float] = []
        async with aclosing(backend.generate(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    times += [time.perf_counter()] * len(event.token_ids)
        return times

    return ask


def of_server(path: Path, threads: int, rounds: int) -> Figures:
    """llama.cpp's server in a process of its own, whose memory counts."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.gguf", str(path), "--threads", str(threads), "--side", "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdin is not None
    try:
        url = json.loads(next(line for line in child.stdout if line.startswith('"http')))
        return asyncio.run(over_http(url, rounds, psutil.Process(child.pid)))
    finally:
        child.stdin.close()
        child.wait(timeout=30)


async def over_http(url: str, rounds: int, process: psutil.Process) -> Figures:
    each_anew = httpx.Limits(max_keepalive_connections=0)  # it closes connections that rest, as the next request comes
    async with httpx.AsyncClient(timeout=600, limits=each_anew) as client:

        async def ask(ids: list[int], tokens: int) -> list[float]:
            body = {"prompt": ids, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
            times: list[float] = []
            async with client.stream("POST", f"{url}/completion", json={**body, "stream": True}) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and not json.loads(line[6:])["stop"]:
                        times.append(time.perf_counter())
            return times or [time.perf_counter()]

        return await measure(ask, rounds, process)


def serve(path: Path, threads: int) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.port = CONTEXT_TOKENS, MANY, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print("\n" + json.dumps(server.listening_address), flush=True)
    sys.stdin.read()


async def in_our_engine(name: str, path: Path, threads: int, rounds: int) -> Figures:
    async with (our_worker if name == OURS else our_transformers)(path, threads) as backend:
        return await measure(asking(backend), rounds, psutil.Process())


# ---- flips


async def flips(path: Path, threads: int) -> Table:
    """How many tokens of 1,000 are other ones than in the answer alone."""
    from p2pnet.messages import GenerateRequest, Sampling, TextDelta, TextPrompt

    table = Table("sampling", "with 3 others", "with 7 others", "taken up again")
    async with our_worker(path, threads) as backend:

        async def ids_of(backend: Any, index: int, sampling: Sampling, resume: tuple[int, ...] = ()) -> tuple[int, ...]:
            tokens = FLIP_TOKENS if not resume else min(FLIP_TOKENS, len(resume) + RESUME_STEP)
            request = GenerateRequest(
                "r",
                "m",
                TextPrompt(FLIP_PROMPTS[index]),
                sampling=sampling,
                max_tokens=tokens,
                ignore_eos=True,
                resume_tokens=resume,
            )
            found: list[int] = []
            async with aclosing(backend.generate(request)) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        found += event.token_ids
            return tuple(found)

        samplings = {
            "greedy": Sampling(temperature=0),
            "temperature 0.8": Sampling(seed=1, temperature=0.8),
            "temperature 0.8, top_p 0.9": Sampling(seed=2, temperature=0.8, top_p=0.9),
        }
        indices = range(len(FLIP_PROMPTS))
        for name, sampling in samplings.items():
            alone = [await ids_of(backend, index, sampling) for index in indices]
            by_four: list[tuple[int, ...]] = []
            for start in (0, 4):
                by_four += await asyncio.gather(
                    *(ids_of(backend, index, sampling) for index in range(start, start + 4))
                )
            by_eight = await asyncio.gather(*(ids_of(backend, index, sampling) for index in indices))
            places = [(index, count) for index in indices for count in range(RESUME_STEP, FLIP_TOKENS, RESUME_STEP)]
            async with our_worker(path, threads) as other:  # where nothing of these answers is kept
                rests = [await ids_of(other, index, sampling, alone[index][:count]) for index, count in places]
            whole = [alone[index][count : count + RESUME_STEP] for index, count in places]
            table.add_row(name, rate(alone, by_four), rate(alone, by_eight), rate(whole, rests))
    return table


def rate(expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> str:
    """Flips for 1,000 tokens. Behind a flip the texts differ, and are not compared."""
    compared = flipped = 0
    for one, other in zip(expected, found, strict=True):
        same = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        flipped += same is not None
        compared += len(one) if same is None else same + 1
    return f"{1000 * flipped / compared:.1f} ({flipped} in {compared})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side == "serve":
        serve(given.file, given.threads)
        return 0
    if given.side is not None:
        arguments = (given.file, given.threads, given.rounds)
        found = of_server(*arguments) if given.side == SERVER else asyncio.run(in_our_engine(given.side, *arguments))
        print(json.dumps(vars(found)))
        return 0
    console = Console()
    if given.flips:
        console.print(asyncio.run(flips(given.file, given.threads)))
        return 0
    table = Table("side", "one request, tokens/s", "eight, tokens/s", "first of 1,000, s", "memory, MB")
    needs = {OURS: "llama_cpp", SERVER: "xllamacpp", TRANSFORMERS: "gguf"}
    for name in (name for name, package in needs.items() if find_spec(package) is not None):
        command = ["-m", "bench.gguf", str(given.file), "--threads", str(given.threads), "--rounds", str(given.rounds)]
        done = subprocess.run([sys.executable, *command, "--side", name], stdout=subprocess.PIPE, text=True, check=True)
        found = Figures(**json.loads(done.stdout.strip().rpartition("\n")[2]))
        table.add_row(
            name,
            f"{found.one_tokens_per_s:.1f}",
            f"{found.many_tokens_per_s:.1f}",
            f"{found.first_s:.2f}",
            f"{found.memory_mb:.0f}",
        )
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
