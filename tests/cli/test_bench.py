"""`p2pnet bench`, as a process: what it prints, what it refuses, its bar on a terminal, and how it leaves on Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from p2pnet.cli.bench import Report, show, summary
from p2pnet.worker.benchmark import Figures, Workload
from p2pnet.worker.engine.peak_memory import Peak
from tests.checkpoints import build_checkpoint
from tests.gguf_files import small_gguf
from tests.processes import clean_environment, executable, run

ALONE = Figures(1, 3, 8.31, 9.04, 0.7136, 0.7136, 179.4)
EIGHT = Figures(8, 3, 1025.1, None, 2.41, 4.52, 228.0)


def report(*figures: Figures, device_name: str | None = None, gpu_bytes: int | None = None) -> Report:
    return Report(
        model="models/[bold]",
        dtype="float32",
        quantization="none" if device_name is None else "4bit",
        device="cpu" if device_name is None else "cuda",
        device_name=device_name,
        threads=2,
        workload=Workload(tuple(found.concurrency for found in figures), 128, 64),
        figures=figures,
        peak_memory=Peak(1_134_000_000, gpu_bytes),
    )


def shown(some: Report) -> list[str]:
    """The lines on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    show(some, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ((ALONE,), "With one request at a time this machine gives 8.3 tokens/s."),
        ((EIGHT,), "With 8 requests at a time this machine gives 1,025 tokens/s."),
        (
            (ALONE, EIGHT),
            "With 8 requests at a time this machine gives 1,025 tokens/s, 123.4 times as many as with one.",
        ),
        (
            (Figures(2, 1, 10.0, 5.0, 1.0, 1.0, 9.0), Figures(4, 1, 9.0, 5.0, 1.0, 1.0, 9.0)),
            "With 4 requests at a time this machine gives 9.0 tokens/s, 0.9 times as many as with 2.",
        ),
    ],
)
def test_what_it_means_is_said_in_a_sentence(figures: tuple[Figures, ...], sentence: str) -> None:
    assert summary(figures) == sentence


def test_the_table_of_a_cpu() -> None:
    lines = shown(report(ALONE, EIGHT))
    assert lines[0] == "models/[bold] (float32) on cpu, 2 threads"
    assert lines[1] == "Prompts of 128 tokens, answers of 64"
    rows = [cells(line) for line in lines if line.startswith("│")]
    assert rows == [
        ["1", "8.3", "9.0", "714 ms", "714 ms", "179"],
        ["8", "1,025", "-", "2.4 s", "4.5 s", "228"],
    ]
    assert "Memory at most: 1.13 GB" in lines
    assert max(map(len, lines)) <= 80


def test_the_table_of_a_gpu() -> None:
    lines = shown(report(ALONE, device_name="NVIDIA Example", gpu_bytes=512_000_000))
    assert lines[0] == "models/[bold] (float32, 4bit) on NVIDIA Example"
    assert "Memory at most: 1.13 GB, and of the GPU's 512 MB" in lines


def test_the_figures_of_a_real_model_as_json(tmp_path: Path) -> None:
    outcome = run(
        *("bench", "--model", "tiny", "--json", "--prompt-tokens", "16", "--tokens", "2", "--kv-memory", "16MB"),
        *("--concurrency", "3", "--concurrency", "1", "--concurrency", "3", "--device", "cpu", "--dtype", "bfloat16"),
        root=tmp_path,
    )
    assert (outcome.status, outcome.stderr) == (0, "")  # no bar where there is no terminal
    found = json.loads(outcome.stdout)
    named = {key: found[key] for key in ("model", "device", "device_name", "dtype", "quantization", "threads")}
    assert named == {
        "model": "tiny",
        "device": "cpu",
        "device_name": None,
        "dtype": "bfloat16",
        "quantization": "none",
        "threads": 1,
    }
    assert found["workload"] == {"concurrencies": [1, 3], "prompt_tokens": 16, "answer_tokens": 2}
    assert [figures["concurrency"] for figures in found["figures"]] == [1, 3]
    assert all(figures["tokens_per_s"] > 0 for figures in found["figures"])
    assert found["peak_memory"]["process_bytes"] > 50 << 20
    assert found["peak_memory"]["gpu_bytes"] is None


def test_the_figures_of_a_gguf_file(tmp_path: Path) -> None:
    """llama.cpp computes, on the processor; its threads are those that torch was given."""
    path = small_gguf(build_checkpoint("qwen2", tmp_path / "qwen2"), tmp_path / "small.gguf")
    workload = ("--concurrency", "1", "--prompt-tokens", "8", "--tokens", "2")
    outcome = run("bench", "--model", str(path), "--device", "cpu", *workload, "--json", root=tmp_path)
    assert (outcome.status, outcome.stderr) == (0, "")
    found = json.loads(outcome.stdout)
    assert (found["device"], found["device_name"], found["threads"]) == ("cpu", None, 1)
    assert (found["dtype"], found["quantization"]) == ("float32", "gguf-all_f32")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence", "fix"),
    [
        (
            ("--model", "tiny", "--prompt-tokens", "5000"),
            1,
            "The model holds 4096 tokens here, but a prompt of 5000 and an answer of 64 are 5064.",
            "Use fewer --prompt-tokens or --tokens.",
        ),
        (("--model", "none.gguf"), 1, "The file none.gguf does not exist.", "Check the path"),
        (("--model", "tiny", "--kv-memory", "lots"), 1, "'lots' is not a size of memory.", "Write it as"),
        (("--model", "tiny", "--concurrency", "0"), 2, "Invalid value for '--concurrency'", ""),
        ((), 2, "Missing option '--model'", ""),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: tuple[str, ...], status: int, sentence: str, fix: str, tmp_path: Path
) -> None:
    outcome = run("bench", *arguments, root=tmp_path)
    assert outcome.status == status
    assert sentence in outcome.stderr
    assert fix in outcome.stderr
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr


def test_a_bar_on_a_terminal_and_ctrl_c(tmp_path: Path) -> None:
    """The bar shows what is measured; Ctrl-C in the middle ends it at once, with a word and with no file left."""
    temp = tmp_path / "temp"
    temp.mkdir()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [executable(), "bench", "--model", "tiny", "--tokens", "500", "--concurrency", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=clean_environment(tmp_path / "data", temp) | {"TERM": "xterm", "COLUMNS": "80"},
    ) as child:
        os.close(theirs)
        assert child.stdout is not None
        try:
            screen = ""
            for text in texts_of(ours):
                screen += text
                if "One request at a time" in screen:
                    child.send_signal(signal.SIGINT)
                    break
            assert "Warming up" in screen
            screen += "".join(texts_of(ours))
            assert (child.wait(), child.stdout.read()) == (130, b"")
        finally:
            child.kill()  # does nothing to one that has ended and was waited for
            os.close(ours)
    assert "Traceback" not in screen
    assert screen.rstrip().endswith("\x1b[2KInterrupted.")  # the bar's line is cleared
    assert "\x1b[?25h" in screen  # and the cursor is back
    assert list(temp.iterdir()) == []


def texts_of(terminal: int) -> Iterator[str]:
    """What is written to a terminal until its other end is closed."""
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other end is closed
            return
        if not chunk:
            return
        yield chunk.decode(errors="replace")
