"""When an owner counts as busy, from scripted samples; and what the machine really says of its use."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

import psutil
import pytest

from p2pnet.worker.owner.busy import QUIET_S, SAMPLE_INTERVAL_S, WINDOW_S, BusyJudge, Use
from p2pnet.worker.owner.use import (
    UseMeter,
    busy_cpu_s,
    cpu_s_of,
    gpu_percent_of_others,
    own_processes,
)

CORES = 4
WINDOW = round(WINDOW_S / SAMPLE_INTERVAL_S)
QUIET = round(QUIET_S / SAMPLE_INTERVAL_S)


def uses(percents: Iterable[float], gpu: Sequence[float | None] | None = None) -> list[Use]:
    """Samples of a machine of which others use so many percent between one sample and the next."""
    samples = [Use(1000.0, 50.0, CORES, gpu[0] if gpu else None)]
    for number, percent in enumerate(percents, 1):
        at_s = samples[-1].at_s + SAMPLE_INTERVAL_S
        cpu_s = samples[-1].cpu_s + percent / 100 * CORES * SAMPLE_INTERVAL_S
        samples.append(Use(at_s, cpu_s, CORES, gpu[number] if gpu else None))
    return samples


def verdicts(threshold_percent: float, samples: Iterable[Use]) -> str:
    """`-` for each sample after which the owner is not busy, `B` for each after which it is."""
    judge = BusyJudge(threshold_percent)
    return "".join("B" if judge.add(use) else "-" for use in samples)


@pytest.mark.parametrize(
    ("name", "percents", "expected"),
    [
        ("an idle machine", [0] * 6, "-" * 7),
        ("use up to the threshold", [50] * 6, "-" * 7),
        ("use over it, from the first whole window on", [51] * 6, "---BBBB"),
        ("a spike that the window levels", [0, 0, 0, 100, 0, 0, 0], "-" * 8),
        ("a spike that it does not", [0, 0, 0, 100, 100, 0, 0], "-----BBB"),
        ("use that grows slowly", [10, 20, 30, 40, 50, 60, 70], "-------B"),
        ("a counter that goes back", [90, 90, -500, 0, 0, 0], "-" * 7),
    ],
)
def test_busy(name: str, percents: list[float], expected: str) -> None:
    assert verdicts(50, uses(percents)) == expected


@pytest.mark.parametrize(
    ("name", "after", "is_free"),
    [
        ("quiet for long enough", [0] * (WINDOW + QUIET), True),
        ("quiet, but not for long enough", [0] * QUIET, False),
        ("under the threshold, but not quiet", [40] * (WINDOW + QUIET) * 2, False),
        ("quiet enough", [37] * (WINDOW + QUIET), True),
        ("quiet, then busy, then quiet but not for long enough", [*[0] * QUIET, 100, 100, *[0] * QUIET], False),
        ("quiet with a spike", [*[0] * (WINDOW + 1), 100, *[0] * (QUIET - 1)], True),
        ("quiet, then busy, then quiet for long enough", [*[0] * (QUIET - 2), 100, 100, *[0] * (WINDOW + QUIET)], True),
    ],
)
def test_quiet(name: str, after: list[float], is_free: bool) -> None:
    found = verdicts(50, uses([100] * WINDOW + after))
    assert found[WINDOW] == "B"
    assert (found[-1] == "-") is is_free


def test_it_does_not_flap() -> None:
    """Use that crosses the threshold each minute: busy once, and for good."""
    swinging = ([70] * 6 + [30] * 6) * 10
    found = verdicts(50, uses(swinging))
    assert found.lstrip("-") == "B" * len(found.lstrip("-"))


def test_a_new_visit_is_noticed_after_quiet() -> None:
    judge = BusyJudge(50)
    samples = uses([100] * WINDOW + [0] * (WINDOW + QUIET) + [100] * WINDOW)
    found = "".join("B" if judge.add(use) else "-" for use in samples)
    assert found[-1] == "B"
    assert "B-" in found
    assert judge.percent == pytest.approx(100)


def test_samples_that_come_late_are_averaged_over_their_time() -> None:
    judge = BusyJudge(50)
    judge.add(Use(0, 0, CORES))
    assert not judge.add(Use(3600, 0.4 * CORES * 3600, CORES))
    assert judge.percent == pytest.approx(40)
    assert judge.add(Use(3600 + WINDOW_S, 0.4 * CORES * 3600 + 0.9 * CORES * WINDOW_S, CORES))
    assert judge.percent == pytest.approx(90)


@pytest.mark.parametrize(
    ("name", "gpu", "expected"),
    [
        ("a busy GPU", [90] * 5, "---BB"),
        ("a GPU with a spike", [0, 0, 100, 0, 0], "-" * 5),
        ("a GPU that is not known at times", [None, 90, None, None, 90], "---BB"),
        ("no GPU", [None] * 5, "-" * 5),
    ],
)
def test_a_gpu_counts_beside_the_cpu(name: str, gpu: list[float | None], expected: str) -> None:
    assert verdicts(50, uses([10] * 4, gpu)) == expected


# ---- what nvidia-smi lists

HEADER = """\
# gpu         pid   type     sm    mem    enc    dec    jpg    ofa    command
# Idx           #    C/G      %      %      %      %      %      %    name
"""
IDLE = HEADER + "    0          -     -      -      -      -      -      -      -    -\n"
SHARED = HEADER + (
    "    0       1234     G     35      4      -      -      -      -    game\n"
    "    0       2001     C     60     20      -      -      -      -    p2pnet\n"
    "    0       1300   C+G      7      1      -      -      -      -    Web Content\n"
    "    1       1400     C     99      1      -      -      -      -    render\n"
)


@pytest.mark.parametrize(
    ("listing", "own_pids", "expected"),
    [
        (SHARED, {2001, 2002}, 42.0),
        (SHARED, {1400}, 0.0),
        (SHARED, {2001, 1400}, 42.0),
        (SHARED, {1234, 2001, 1300}, 0.0),
        (SHARED, {7}, None),
        (IDLE, {2001}, None),
        ("", {2001}, None),
        ("Process monitoring is not supported on GPU 0\n", {2001}, None),
        (HEADER + "    0       2001     C      -      -      -      -    p2pnet\n", {2001}, 0.0),
        (HEADER + "    0  2001 C 1 1\n    0  5 G 80 1\n    0  6 G 70 1\n", {2001}, 100.0),
        (HEADER + "    0  2001\n    0  5 G\n", {2001}, 0.0),
    ],
)
def test_gpu_use_of_others(listing: str, own_pids: set[int], expected: float | None) -> None:
    assert gpu_percent_of_others(listing, own_pids) == expected


@pytest.mark.parametrize("listing", [None, IDLE], ids=["no nvidia-smi", "one that does not list us"])
def test_a_gpu_that_cannot_be_known_is_said_once(listing: str | None, caplog: pytest.LogCaptureFixture) -> None:
    meter = UseMeter(gpu_listing=lambda: listing, has_gpu=lambda: True)
    assert [meter.measure().gpu_percent for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "only the CPU counts" in caplog.text


def test_a_gpu_that_is_not_used_is_not_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    def listing() -> str:
        raise AssertionError("asked")

    assert UseMeter(gpu_listing=listing, has_gpu=lambda: False).measure().gpu_percent is None
    assert not caplog.records


# ---- this machine

BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n{then}"
BURN_S = 0.5


def test_our_own_use_and_our_children_s_is_ours() -> None:
    """A child that works counts as ours while it lives, and after it has ended."""
    before_s = own_s()
    child = subprocess.Popen(
        [sys.executable, "-c", BURN.format(seconds=BURN_S, then="print('done', flush=True)\ninput()")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"done\n"
    alive_s = own_s()
    assert alive_s >= before_s + BURN_S * 0.9
    child.communicate(b"\n")
    assert own_s() >= alive_s - 0.05
    end_s = time.process_time() + BURN_S
    while time.process_time() < end_s:
        pass
    assert own_s() >= alive_s + BURN_S * 0.9


def own_s() -> float:
    return sum(map(cpu_s_of, own_processes()))


def test_a_process_that_has_ended_has_no_time() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    child.communicate(b"\n")
    assert cpu_s_of(process) == 0


async def test_what_others_use_is_not_more_than_what_is_used() -> None:
    meter = UseMeter(now_s=lambda: 12.5)
    before_s = busy_cpu_s()
    first, second = await meter(), await meter()
    assert first.at_s == 12.5
    assert first.cores == psutil.cpu_count()
    assert 0 <= first.cpu_s <= busy_cpu_s()
    assert second.cpu_s >= first.cpu_s - 0.1
    assert busy_cpu_s() >= before_s > 0
