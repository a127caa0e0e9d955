"""`p2pnet manifest`: what stages need to know of a model's files that they do not have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pnet.cli import options
from p2pnet.errors import UsageError


def manifest(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            envvar="P2PNET_MODEL",
            metavar="FOLDER",
            help="A folder in Hugging Face format, with all of its files.",
        ),
    ],
    log_level: options.LogLevelOption = options.LogLevel.warning,
) -> None:
    """Write the hashes of a model's weight files into its folder. A stage that has this file, and the files of its own
    layers, needs no others."""
    from p2pnet.cli import logs
    from p2pnet.cli.settings import data_dir

    logs.configure(log_level, is_json=False)
    print(written(model, data_dir()))


def written(model: str, cache_dir: Path) -> Path:
    """Write the manifest of the model in a folder, and return where. Raises UsageError."""
    from p2pnet.worker.checkpoints.checkpoint import open_checkpoint
    from p2pnet.worker.checkpoints.digest import HashCache
    from p2pnet.worker.checkpoints.manifest import write_manifest
    from p2pnet.worker.checkpoints.names import local_folder

    folder = local_folder(model)
    if folder is None:
        raise UsageError(f"{model} is no folder here.", "Download the model first, and give its folder.")
    weights = open_checkpoint(folder, may_be_quantized=True).weights
    return write_manifest(folder, weights, HashCache(cache_dir).hash_files(list(weights)))
