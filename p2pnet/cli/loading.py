"""Loads the models of a worker and shows how far it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from transformers.utils import logging as transformers_logging

from p2pnet.cli.settings import data_dir
from p2pnet.worker.backends.transformers import TransformersBackend

logger = logging.getLogger(__name__)


async def load_backends(
    models: Sequence[str], served_name: str | None, device: str, dtype: str
) -> list[TransformersBackend]:
    """Load one model after the other. Raises UsageError."""
    transformers_logging.disable_progress_bar()  # two bars on one terminal garble one another
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    backends = []
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        for model in models:
            logger.info("loading %s", model)
            task = progress.add_task(f"Loading {model}", total=None)

            def show_hashing(done_bytes: int, total_bytes: int, task: TaskID = task, model: str = model) -> None:
                progress.update(task, description=f"Hashing {model}", completed=done_bytes, total=total_bytes)

            backend = await TransformersBackend.load(
                model,
                served_name=served_name,
                device=device,
                dtype=dtype,
                cache_dir=data_dir(),
                progress=show_hashing,
            )
            progress.remove_task(task)
            (card,) = backend.models
            logger.info("%s is ready as %s (%s, context %d)", model, card.id, card.dtype, card.context_length)
            backends.append(backend)
    return backends
