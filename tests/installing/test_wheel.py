"""The wheel: every file that the commands need is in it, and they run from it, in a folder that is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from tests.installing.installed import OUTSIDE, Built, built, install
from tests.processes import processes

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("p2pnet", "gateway")
NAMED = (
    "p2pnet/assets/bootstrap_peers.txt",
    "p2pnet/assets/tiny/model.safetensors",
    "p2pnet/assets/tiny/tokenizer.json",
    "p2pnet/assets/notebooks/use_the_network.ipynb",
    "p2pnet/assets/notebooks/volunteer.ipynb",
    "gateway/static/index.html",
    "gateway/static/volunteer.ipynb",
)
"""What is not Python, and would be missed first."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built(tmp_path_factory.mktemp("release") / "dist")


def test_the_wheel_holds_every_file_of_both_packages(release: Built) -> None:
    with ZipFile(release.wheel) as wheel:
        held = {name for name in wheel.namelist() if name.startswith(PACKAGES) and ".dist-info/" not in name}
        assert set(NAMED) <= held
        assert held == set(files())
        for name in NAMED:
            assert wheel.read(name) == (ROOT / name).read_bytes(), name


def test_the_source_distribution_makes_the_same_wheel(release: Built, tmp_path: Path) -> None:
    with tarfile.open(release.source) as source:
        source.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")]
    subprocess.run(command, cwd=unpacked, check=True, capture_output=True)
    (wheel,) = (tmp_path / "again").iterdir()
    assert contents(wheel) == contents(release.wheel)


def contents(wheel: Path) -> dict[str, int]:
    """The checksum of each file in it."""
    with ZipFile(wheel) as archive:
        return {member.filename: member.CRC for member in archive.infolist()}


def files() -> Iterator[str]:
    """Of both packages, through links too."""
    for package in PACKAGES:
        for folder, _, names in os.walk(ROOT / package, followlinks=True):
            if Path(folder).name != "__pycache__":
                yield from ((Path(folder) / name).relative_to(ROOT).as_posix() for name in names)


@pytest.fixture(scope="module")
def commands(release: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(release.wheel, tmp_path_factory.mktemp("installed") / "environment")


def test_nothing_of_the_checkout_is_seen_by_what_was_installed(commands: Path, tmp_path: Path) -> None:
    looked = "import gateway, p2pnet; print(p2pnet.__file__); print(gateway.__file__)"
    run = subprocess.run([commands / "python", "-c", looked], env=OUTSIDE, cwd=tmp_path, capture_output=True, text=True)
    assert all(Path(line).is_relative_to(commands.parent) for line in run.stdout.splitlines()), run.stdout
    assert len(run.stdout.splitlines()) == 2, run.stderr


def test_the_bootstrap_file_is_that_of_the_wheel(commands: Path, tmp_path: Path) -> None:
    run = subprocess.run([commands / "p2pnet", "models"], env=OUTSIDE, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert "the bootstrap file lists none" in run.stderr


def test_a_network_of_the_installed_wheel_answers(commands: Path, tmp_path: Path) -> None:
    """Given the wheel in an environment of its own, when a bootstrap, a worker with the bundled model and a gateway are
    started from it in another folder, then a question is answered, the page is there, and all leave cleanly."""
    program = ("env", "-u", "PYTHONPATH", str(commands / "p2pnet"))
    with processes("wheel", program, tmp_path) as start:
        address = start.bootstrap().ready.address
        worker = start.worker("--model", "tiny", peer=address)
        url = start.gateway(peer=address).ready.http
        worker.wait_ready()
        assert url is not None
        with httpx.Client(base_url=url, timeout=60) as client:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "What is p2pnet?"}]}
            body["temperature"] = 0
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            assert "nobody in charge" in answer["choices"][0]["message"]["content"]
            assert "<title>" in client.get("/", headers={"accept": "text/html"}).raise_for_status().text
            assert client.get("/static/volunteer.ipynb").raise_for_status().json()["cells"]
        for process in reversed(start.started):
            assert process.stop() == 0
            assert process.leftovers() == []
