"""Finds the folder that the user means by a model's name, and the model's name on the network. Opens no file and
imports nothing heavy, so that a wrong name is known at once.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from p2pnet.errors import UsageError
from p2pnet.messages import ModelId
from p2pnet.worker.checkpoints.gguf_files import is_gguf, model_name

TINY = "tiny"
TINY_FOLDER = Path(__file__).parents[2] / "assets" / TINY


FILE_ENDINGS = frozenset({".gguf", ".ggml", ".safetensors", ".bin", ".pt", ".pth", ".onnx", ".zip"})
"""Of files that people have models in: what ends so is a path, and no id on the hub."""

_ELSEWHERE = (
    "Give a folder in Hugging Face format, or a GGUF file. What another server runs, such as Ollama, is served with "
    "--upstream URL."
)


def local_folder(spec: str) -> Path | None:
    """The folder of `tiny`, or of a folder's path; None for the id of a model on the hub. Raises UsageError."""
    if spec == TINY:
        return TINY_FOLDER
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise UsageError(f"{spec} is a file, and a model is a folder.", _ELSEWHERE)
    if folder.suffix.lower() in FILE_ENDINGS:
        raise UsageError(f"The file {spec} does not exist.", f"Check the path. {_ELSEWHERE}")
    if spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise UsageError(f"The folder {spec} does not exist.", "Check the path, or give a model id from the hub.")
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its docs name it there

    try:
        validate_repo_id(spec)
    except HFValidationError as error:
        raise UsageError(f"{spec!r} is neither a folder nor a model id.", f"Give a folder, or {TINY!r}.") from error
    return None


def name_of(spec: str, served_name: str | None) -> str:
    """What a model is called on the network: what its owner wants, or else a hub id or `tiny` as it is, or the last
    part of a path, without a GGUF file's ending. Raises UsageError."""
    name = served_name or _own_name(spec)
    try:
        return msgspec.convert(name, ModelId)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"A model cannot be served as {name!r}.", "Name it with letters, digits and . _ : / @ + - only."
        ) from error


def _own_name(spec: str) -> str:
    path = Path(spec).expanduser()
    if path.is_dir():
        return path.resolve().name
    return model_name(path) if is_gguf(path) and path.is_file() else spec
