"""The notebooks: kept clean in the repository, and run whole against a swarm of real processes on loopback."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest

from p2pnet.entrance.invitation_line import to_line
from tests.installing.installed import built, linked_dependencies
from tests.notebooks.running import FOLDER, parameters_of, read, running, tagged, with_parameters
from tests.processes import Start, clean_environment, processes, run, wait_until

pytestmark = pytest.mark.timeout(300)

NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
ON_LOOPBACK = {"P2PNET_LISTEN": "/ip4/127.0.0.1/tcp/0 /ip4/127.0.0.1/udp/0/quic-v1"}
QUESTION = "What is p2pnet?"
KEY_FACT = "nobody in charge"
TOKENS = 5

every_notebook = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Swarm:
    """A bootstrap and a gateway, which wait for volunteers."""

    start: Start
    address: str
    url: str

    def environment(self, folder: Path) -> dict[str, str]:
        """For a kernel: like that of the swarm, and what its processes leave in their temp folder is seen."""
        temp = folder / "tmp"
        temp.mkdir()
        return clean_environment(folder / "data", temp) | ON_LOOPBACK

    def workers(self) -> set[str]:
        """The peer ids of those that the gateway knows."""
        listed = httpx.get(f"{self.url}/p2pnet/v1/workers", timeout=30).json()["workers"]
        return {worker["id"] for worker in listed}

    def directory(self) -> str:
        """What `p2pnet peers` finds."""
        return run("peers", "--json", "--initial-peers", self.address, root=self.start.root).stdout


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("notebooks") as start:
        address = start.bootstrap().ready.address
        url = start.gateway(peer=address).ready.http
        assert url is not None
        yield Swarm(start, address, url)


# ---- as they lie in the repository


def test_there_are_notebooks() -> None:
    assert NAMES == ["use_the_network.ipynb", "volunteer.ipynb"]


@every_notebook
def test_they_are_valid_and_hold_no_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            assert len(cell.source.splitlines()) <= 30, "more than a student reads at once"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}, "what an editor has left behind"


@every_notebook
def test_their_parameters_stand_in_one_cell(name: str) -> None:
    assert {"install_from", "initial_peers", "model"} <= set(parameters_of(read(name)))


@every_notebook
def test_what_they_say_of_files_is_true(name: str) -> None:
    text = "".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    for path in re.findall(r"`(docs/[^`]+)`", text):
        assert (FOLDER.parent / path).exists(), path


@pytest.mark.parametrize(
    ("gpu_gb", "ram_gb", "chosen"),
    [
        (0, 1, "SmolLM2-135M"),
        (0, 12, "Qwen2.5-0.5B"),
        (0, 250, "Qwen2.5-0.5B"),
        (2, 4, "Qwen2.5-0.5B"),
        (8, 16, "Qwen2.5-1.5B"),
        (15.6, 12, "Qwen2.5-1.5B"),
        (23.5, 50, "Qwen2.5-7B"),
    ],
)
def test_the_model_fits_the_machine(gpu_gb: float, ram_gb: float, chosen: str) -> None:
    """The cell's own code, and the table beside it: what is chosen takes three quarters of the memory at most."""
    notebook = read("volunteer.ipynb")
    lines = ast.parse(tagged(notebook, "choose")[1].source).body
    (chooses,) = [line for line in lines if isinstance(line, ast.FunctionDef)]
    names: dict[str, Any] = {}
    exec(ast.unparse(chooses), names)
    model = names["choose"](gpu_gb, ram_gb)
    assert chosen in model
    table = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    (sizes,) = re.findall(rf"\| `{re.escape(model)}` \| [\d.]+ billion \| ([\d.]+) GB \| ([\d.]+) GB \|", table)
    weights_gb, memory_gb = (float(sizes[0]), gpu_gb) if gpu_gb else (float(sizes[1]), ram_gb)
    assert weights_gb <= 0.8 * memory_gb


def test_both_install_in_the_same_way() -> None:
    first, second = (tagged(read(name), "install")[1].source for name in NAMES)
    assert first == second


# ---- as people run them


async def test_a_volunteer_serves_and_leaves(swarm: Swarm, tmp_path: Path) -> None:
    """Given the notebook run from the top, when somebody asks through a gateway, then its live cell has counted that;
    and after its last cell the worker has left the directory, and nothing of it is left here."""
    notebook = with_parameters(read("volunteer.ipynb"), initial_peers=[swarm.address], model="tiny", name="a-notebook")
    environment = swarm.environment(tmp_path)
    async with running(notebook, tmp_path, environment) as at:
        await at.run_until("live")
        assert "tiny" in at.shown("choose")
        peer_id = json.loads((tmp_path / "ready.json").read_text())["peer_id"]
        assert peer_id in at.shown("start")

        looking = asyncio.create_task(at.run("live"))
        await asyncio.to_thread(wait_until, lambda: peer_id in swarm.workers(), "it is found")
        assert '"a-notebook"' in await asyncio.to_thread(swarm.directory)
        assert (await asyncio.to_thread(_ask, swarm.url))["usage"]["completion_tokens"] == TOKENS
        counted = f"1 requests served, {TOKENS} tokens given"
        await asyncio.to_thread(wait_until, lambda: counted in at.shown("live"), "the request is counted")
        await at.interrupt()
        assert "The worker still serves" in await looking
        with_parameters(notebook, hours=0)
        await at.run("parameters")
        assert counted in await at.run("live"), "it ends by itself when its time is over"
        assert at.processes()

        said = await at.run("stop")
        assert counted in said
        assert "The worker has stopped." in said
        assert at.processes() == []
    await asyncio.to_thread(wait_until, lambda: peer_id not in swarm.workers(), "the gateway has forgotten it")
    assert peer_id not in await asyncio.to_thread(swarm.directory)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "ready.json").exists()


async def test_where_p2pnet_is_not_installed_a_wheel_is(swarm: Swarm, tmp_path: Path) -> None:
    """Given a machine like a hosted one, with torch and Jupyter and without p2pnet, and the wheel beside the notebook,
    when the cells are run, then p2pnet is in a folder of its own, what was there is as it was, and the worker serves
    until the stop cell withdraws it. Nothing is fetched: whatever is needed is there."""
    there = linked_dependencies(tmp_path / "there", "ipykernel", "pip")
    before = sorted(path.name for path in there.iterdir())
    shutil.copy(built(tmp_path / "dist").wheel, tmp_path)
    notebook = with_parameters(read("volunteer.ipynb"), invite=to_line([swarm.address]), model="tiny")
    environment = swarm.environment(tmp_path) | {"PYTHONPATH": str(there), "PIP_NO_INDEX": "1"}
    async with running(notebook, tmp_path, environment, sys._base_executable) as at:
        await at.run_until("live")
        assert re.fullmatch(r"p2pnet/[\d.]+ is installed\.\n", at.shown("install"))
        peer_id = json.loads((tmp_path / "ready.json").read_text())["peer_id"]
        await asyncio.to_thread(wait_until, lambda: peer_id in swarm.workers(), "it is found")
        assert any("p2pnet-env/bin/python" in process.cmdline()[0] for process in at.processes())
        assert "The worker has stopped." in await at.run("stop")
    assert [path.name for path in (tmp_path / "p2pnet-env").glob("lib/*/site-packages/p2pnet")] == ["p2pnet"]
    assert sorted(path.name for path in there.iterdir()) == before
    await asyncio.to_thread(wait_until, lambda: peer_id not in swarm.workers(), "the gateway has forgotten it")


async def test_without_a_wheel_the_notebook_says_what_to_do(swarm: Swarm, tmp_path: Path) -> None:
    there = linked_dependencies(tmp_path / "there", "ipykernel", "pip")
    environment = swarm.environment(tmp_path) | {"PYTHONPATH": str(there), "PIP_NO_INDEX": "1"}
    async with running(read("use_the_network.ipynb"), tmp_path, environment, sys._base_executable) as at:
        with pytest.raises(Exception, match=r"RuntimeError\S*: Put p2pnet's wheel beside"):
            await at.run_until("start")


@pytest.mark.deep  # the same cells as above
async def test_what_does_not_start_says_why(swarm: Swarm, tmp_path: Path) -> None:
    """In the notebook, with the worker's own words."""
    notebook = with_parameters(read("volunteer.ipynb"), initial_peers=["nonsense"], model="tiny")
    async with running(notebook, tmp_path, swarm.environment(tmp_path)) as at:
        with pytest.raises(Exception, match="The worker did not start") as failed:
            await at.run_until("live")
        assert "nonsense" in str(failed.value)
        assert at.processes() == []


async def test_the_network_is_used(swarm: Swarm, tmp_path: Path) -> None:
    worker = swarm.start.worker("--model", "tiny", "--served-name", "hosted", peer=swarm.address, name="hosted")
    worker.wait_ready()
    notebook = with_parameters(
        read("use_the_network.ipynb"), initial_peers=[swarm.address], model="hosted", question=QUESTION
    )
    async with running(notebook, tmp_path, swarm.environment(tmp_path)) as at:
        await at.run_until("stop")
        assert "http://127.0.0.1:" in at.shown("start")
        assert "hosted: 1 workers, " in at.shown("models")
        assert KEY_FACT in at.shown("chat")
        assert re.search(r"\(\d+ tokens\)", at.shown("chat"))
        assert KEY_FACT in at.shown("stream")
        assert "hosted: 3 vectors of " in at.shown("embeddings")
        assert "1.  " in at.shown("embeddings"), "each is like itself"
        assert "The gateway has stopped." in await at.run("stop")
        assert at.processes() == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert worker.stop() == 0


def _ask(url: str) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": TOKENS, "ignore_eos": True}
    answer: dict[str, Any] = httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status().json()
    return answer
