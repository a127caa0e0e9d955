"""`p2pnet bench`: what this machine would give to the network. Joins none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnet.cli import options
from p2pnet.display.sizes import size
from p2pnet.worker.checkpoints.quantization import WantedQuantization

if TYPE_CHECKING:
    from rich.console import Console

    from p2pnet.config import ModelConfig
    from p2pnet.worker.benchmark import Figures, Stage, Watch, Workload
    from p2pnet.worker.engine.peak_memory import Peak

DEFAULT_CONCURRENCY = (1, 8)
"""Alone, and as many as a worker takes by default."""


def bench(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            envvar="P2PNET_MODEL",
            metavar="MODEL",
            help="What to measure: tiny (bundled), a folder in Hugging Face format, a GGUF file, or a hub id.",
        ),
    ],
    concurrency: Annotated[
        list[int],
        typer.Option(
            "--concurrency",
            envvar="P2PNET_CONCURRENCY",
            metavar="NUMBER",
            min=1,
            max=256,
            help="How many requests to send at the same moment. Repeatable. Default: 1 and 8.",
        ),
    ] = [],
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", envvar="P2PNET_PROMPT_TOKENS", min=1, help="The length of each prompt.")
    ] = 128,
    tokens: Annotated[
        int, typer.Option("--tokens", envvar="P2PNET_TOKENS", min=2, help="The length of each answer.")
    ] = 64,
    device: options.DeviceOption = options.Device.auto,
    dtype: options.DtypeOption = options.Dtype.auto,
    quantization: options.QuantizationOption = WantedQuantization.none,
    kv_memory: options.KvMemory = None,
    as_json: options.Json = False,
    log_level: options.LogLevelOption = options.LogLevel.warning,
) -> None:
    """Measure how fast this machine runs a model: one request at a time, and several. It joins no network."""
    import msgspec
    from rich.console import Console

    from p2pnet.cli import logs
    from p2pnet.cli.settings import parse_bytes
    from p2pnet.config import ModelConfig
    from p2pnet.worker.benchmark import Workload
    from p2pnet.worker.checkpoints.gguf_files import check_gguf_flags, means_gguf
    from p2pnet.worker.checkpoints.names import local_folder
    from p2pnet.worker.gguf.trial import try_out_files

    logs.configure(log_level, is_json=False)
    kv_bytes = None if kv_memory is None else parse_bytes(kv_memory)
    config = ModelConfig({model: "bench"}, device, dtype, quantization, kv_bytes)
    workload = Workload(tuple(sorted(set(concurrency or DEFAULT_CONCURRENCY))), prompt_tokens, tokens)
    if means_gguf(model):  # a wrong name is known at once
        check_gguf_flags(model, dtype, quantization)
        try_out_files([model], device)
    else:
        local_folder(model)
    import_module("p2pnet.cli.loading")  # seconds: Ctrl-C ends them at once here, and not in the event loop
    report = asyncio.run(measure(model, config, workload))
    if as_json:
        print(msgspec.json.encode(asdict(report)).decode())
    else:
        show(report, Console(highlight=False, markup=False))


@dataclass(frozen=True)
class Report:
    """What was measured, on what, and what was found."""

    model: str
    dtype: str
    quantization: str
    device: str
    device_name: str | None
    """What a GPU is called."""
    threads: int
    """On which torch computes, on a CPU."""
    workload: Workload
    figures: tuple[Figures, ...]
    peak_memory: Peak


async def measure(model: str, config: ModelConfig, workload: Workload) -> Report:
    """Load the model, measure, and free it. Raises UsageError."""
    from p2pnet.cli.loading import load_generator
    from p2pnet.worker.backends.engine_backend import EngineOptions
    from p2pnet.worker.benchmark import Benchmark
    from p2pnet.worker.checkpoints.gguf_files import means_gguf
    from p2pnet.worker.engine.peak_memory import PeakMemory

    options = EngineOptions(kv_bytes=config.kv_bytes, slots=max(workload.concurrencies))
    is_file = means_gguf(model)
    place = _place_of_gguf(config.device) if is_file else _place(config.device)
    backend = await load_generator(model, config, options)
    try:
        with watching() as watch:
            async with PeakMemory("cpu" if is_file else place.device) as memory:
                figures = await Benchmark(backend, workload, time.perf_counter, watch).run()
        (card,) = backend.models
        return Report(
            model=model,
            dtype=card.dtype,
            quantization=card.quantization,
            device=place.device,
            device_name=place.name,
            threads=options.threads,
            workload=workload,
            figures=figures,
            peak_memory=memory.peak,
        )
    finally:
        await backend.close()


@dataclass(frozen=True)
class Place:
    """Where a model computes; `name` is None for the processor."""

    device: str
    name: str | None = None


def _place(wanted: str) -> Place:
    """Where torch computes. Raises UsageError."""
    import torch

    from p2pnet.worker.checkpoints.plan import choose_device

    device = choose_device(wanted)
    return Place(device, torch.cuda.get_device_name() if device == "cuda" else None)


def _place_of_gguf(wanted: str) -> Place:
    """Where llama.cpp computes, which is left the cores. Raises UsageError."""
    from p2pnet.cli.loading import leave_cores_to_llama
    from p2pnet.worker.gguf.library import CPU, choose_device

    leave_cores_to_llama()
    device = choose_device(wanted)
    return Place(device.kind, None if device == CPU else device.description)


@contextmanager
def watching() -> Iterator[Watch]:
    """A progress bar, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Warming up", total=None)

        def watch(stage: Stage) -> None:
            progress.update(task, description=_title(stage), completed=stage.done_tokens, total=stage.total_tokens)

        yield watch


def show(report: Report, console: Console) -> None:
    """A table, and what it comes to."""
    from rich.table import Column, Table

    workload, peak = report.workload, report.peak_memory
    precision = report.dtype if report.quantization == "none" else f"{report.dtype}, {report.quantization}"
    where = f"{report.device}, {report.threads} threads" if report.device_name is None else report.device_name
    console.print(f"{report.model} ({precision}) on {where}")
    console.print(f"Prompts of {workload.prompt_tokens} tokens, answers of {workload.answer_tokens}")
    headings = (
        "Requests\nat a time",
        "Tokens/s\nin all",
        "Tokens/s\neach",
        "First token\nmedian",
        "First token\nworst",
        "Prompt\ntokens/s",
    )
    table = Table(*(Column(heading, justify="right") for heading in headings))
    for figures in report.figures:
        table.add_row(
            str(figures.concurrency),
            _rate(figures.tokens_per_s),
            "-" if figures.tokens_per_s_each is None else _rate(figures.tokens_per_s_each),
            _duration(figures.first_token_median_s),
            _duration(figures.first_token_worst_s),
            _rate(figures.prefill_tokens_per_s),
        )
    console.print(table)
    on_gpu = "" if peak.gpu_bytes is None else f", and of the GPU's {size(peak.gpu_bytes)}"
    console.print(f"Memory at most: {size(peak.process_bytes)}{on_gpu}")
    console.print(summary(report.figures))


def summary(figures: tuple[Figures, ...]) -> str:
    """What the figures mean for the network, in a sentence."""
    fewest, most = figures[0], figures[-1]
    gives = f"this machine gives {_rate(most.tokens_per_s)} tokens/s"
    if most.concurrency == 1:
        return f"With one request at a time {gives}."
    if fewest is most:
        return f"With {most.concurrency} requests at a time {gives}."
    times = most.tokens_per_s / fewest.tokens_per_s
    than = "one" if fewest.concurrency == 1 else str(fewest.concurrency)
    return f"With {most.concurrency} requests at a time {gives}, {times:.1f} times as many as with {than}."


def _title(stage: Stage) -> str:
    if stage.concurrency is None:
        return "Warming up"
    return "One request at a time" if stage.concurrency == 1 else f"{stage.concurrency} requests at a time"


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}" if per_s < 100 else f"{per_s:,.0f}"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
