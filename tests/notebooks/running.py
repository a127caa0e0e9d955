"""Runs a notebook cell by cell in a kernel of its own, as a person does who presses run.

Parameters are put into its one cell tagged `parameters`. Nothing is written outside of the folder it is given.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import psutil
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "notebooks"
CELL_TIMEOUT_S = 120


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / name, as_version=4)


def tagged(notebook: NotebookNode, tag: str) -> tuple[int, NotebookNode]:
    """The one cell with this tag, and its place."""
    ((index, cell),) = [
        (index, cell) for index, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", ())
    ]
    return index, cell


def parameters_of(notebook: NotebookNode) -> dict[str, Any]:
    """Names and default values. Fails where the cell does anything else than to name them."""
    _, cell = tagged(notebook, "parameters")
    found: dict[str, Any] = {}
    for line in ast.parse(cell.source).body:
        assert isinstance(line, ast.Assign)
        (target,) = line.targets
        assert isinstance(target, ast.Name)
        found[target.id] = ast.literal_eval(line.value)
    return found


def with_parameters(notebook: NotebookNode, **values: Any) -> NotebookNode:
    """The same notebook with other values; fails for a name that it does not have."""
    known = parameters_of(notebook)
    assert set(values) <= set(known)
    _, cell = tagged(notebook, "parameters")
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in (known | values).items())
    return notebook


class Running:
    """A notebook whose kernel runs."""

    def __init__(self, notebook: NotebookNode, client: NotebookClient, pid: int) -> None:
        self._notebook = notebook
        self._client = client
        self._pid = pid

    async def run(self, tag: str) -> str:
        """Run a cell and return what it printed. Raises CellExecutionError."""
        index, cell = tagged(self._notebook, tag)
        await self._client.async_execute_cell(cell, index)
        return self.shown(tag)

    async def run_until(self, tag: str) -> None:
        """Run every cell up to this one, which it does not run."""
        last, _ = tagged(self._notebook, tag)
        for index, cell in enumerate(self._notebook.cells[:last]):
            await self._client.async_execute_cell(cell, index)

    def shown(self, tag: str) -> str:
        """What a cell shows at this moment."""
        _, cell = tagged(self._notebook, tag)
        return "".join(output.get("text") or output.data["text/plain"] for output in cell.get("outputs", ()))

    async def interrupt(self) -> None:
        """The square button."""
        await self._client.km.interrupt_kernel()

    def processes(self) -> list[psutil.Process]:
        """What it has started and not ended."""
        return psutil.Process(self._pid).children(recursive=True)


@asynccontextmanager
async def running(
    notebook: NotebookNode, folder: Path, environment: Mapping[str, str], python: str = sys.executable
) -> AsyncIterator[Running]:
    """`python` runs the kernel."""
    manager = AsyncKernelManager(kernel_name="python3", connection_file=str(folder / "kernel.json"))
    manager.kernel_spec.argv[0] = python
    client = NotebookClient(notebook, km=manager, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(folder)}})
    settings = {**environment, "IPYTHONDIR": str(folder / "ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    async with client.async_setup_kernel(env=settings, cleanup_kc=True):
        made = Running(notebook, client, manager.provisioner.pid)
        try:
            yield made
        finally:
            for process in made.processes():
                process.kill()
