"""Finds the GGUF file that the user means: by its path, in a folder, or in a repository of the hub, and all its parts.

Opens no file but folders and imports nothing heavy, so that a wrong name is known at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from p2pnet.errors import UsageError

ENDING = ".gguf"

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
"""How llama.cpp's gguf-split names the parts of a file."""

_BESIDE_A_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
"""What lies beside models and is none: projectors of images, and notes on how weights were quantized."""

Fetch = Callable[[str, str], Path]
"""Downloads one file of a repository of the hub: its id, and the name there."""


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ENDING


def local_gguf(spec: str) -> Path | None:
    """The file that a path names, or the only model in a folder of such files; the first of its parts. None where the
    user means something else. Raises UsageError for a file that is not there, or a folder with several."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return None if (path / "config.json").exists() else _only_model(path)
    if not is_gguf(path) or hub_gguf(spec) is not None:
        return None
    if not path.is_file():
        raise UsageError(f"The file {spec} does not exist.", "Check the path, or write it as hub-id:FILE.")
    return parts_of(path)[0]


def hub_gguf(spec: str) -> tuple[str, str] | None:
    """The repository's id and the file in it, of `someone/models:file.gguf`; None for other names."""
    repository, colon, name = spec.partition(":")
    is_there = Path(spec).expanduser().is_file()
    return (repository, name) if colon and is_gguf(Path(name)) and repository.count("/") == 1 and not is_there else None


def means_gguf(spec: str) -> bool:
    """Whether a model's name means a GGUF file, here or on the hub. Raises UsageError, as `local_gguf`."""
    return hub_gguf(spec) is not None or local_gguf(spec) is not None


def check_gguf_flags(spec: str, dtype: str, quantization: str) -> None:
    """Raises UsageError for flags that would change the numbers in a file."""
    if dtype != "auto" or quantization != "none":
        flag = "--dtype" if dtype != "auto" else "--quantization"
        raise UsageError(
            f"{spec} is a GGUF file, whose numbers are as they are in it.",
            f"Leave {flag} out, or use a file with other numbers: publishers offer several of each model.",
        )


def download(repository: str, name: str) -> Path:
    """Fetch a file from the Hugging Face hub, or find it in the local cache. Raises OSError and the hub's errors."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name))


def find_gguf(spec: str, fetch: Fetch = download) -> Path | None:
    """The first part of the GGUF file that is meant, downloaded where it has to be; None where none is meant. Raises
    UsageError."""
    named = hub_gguf(spec)
    if named is None:
        return local_gguf(spec)
    repository, name = named
    try:
        fetched = [fetch(repository, part) for part in _part_names(name)]
    except (OSError, ValueError) as error:  # the hub's own are of these kinds
        raise UsageError(
            f"The file {name} could not be fetched from {repository} on the Hugging Face hub.",
            "Check both names and the network, or give the path of a file.",
        ) from error
    return fetched[0]


def parts_of(path: Path) -> tuple[Path, ...]:
    """All parts of a file, in order: itself, where it is whole. Raises UsageError for one that is missing."""
    parts = tuple(path.with_name(name) for name in _part_names(path.name))
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise UsageError(
            f"{path.name} is one of {len(parts)} parts, and {missing[0].name} is not there.",
            "Download all parts into one folder.",
        )
    return parts


def model_name(path: Path) -> str:
    """What a file's model is called: its name, without ending and number."""
    return _PART.sub("", path.stem)


def _part_names(name: str) -> tuple[str, ...]:
    stem, ending = name[: -len(ENDING)], name[-len(ENDING) :]
    found = _PART.search(stem)
    if found is None:
        return (name,)
    begin, count = stem[: found.start()], int(found[2])
    return tuple(f"{begin}-{number:05}-of-{count:05}{ending}" for number in range(1, count + 1))


def _only_model(folder: Path) -> Path | None:
    files = sorted(path for path in folder.iterdir() if is_gguf(path) and not _BESIDE_A_MODEL.search(path.name))
    models = {model_name(path): path for path in reversed(files)}
    if len(models) > 1:
        names = ", ".join(sorted(path.name for path in models.values()))
        raise UsageError(f"There are several models in {folder}: {names}.", "Name one of the files.")
    return parts_of(next(iter(models.values())))[0] if models else None
