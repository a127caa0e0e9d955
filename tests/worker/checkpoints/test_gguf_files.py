"""Which GGUF file a name means, and what it is called."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.digest import HashCache, gguf_digest
from p2pnet.worker.checkpoints.gguf_files import (
    check_gguf_flags,
    find_gguf,
    hub_gguf,
    local_gguf,
    means_gguf,
    parts_of,
)
from p2pnet.worker.checkpoints.names import name_of

PARTS = ("m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf")


def folder_with(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("files", "spec", "found"),
    [
        (("m.gguf",), "m.gguf", "m.gguf"),
        (("M.GGUF",), "M.GGUF", "M.GGUF"),
        (("m.gguf",), ".", "m.gguf"),
        (("m.gguf", "mmproj-m.gguf", "imatrix.gguf", "README.md"), ".", "m.gguf"),
        (PARTS, ".", PARTS[0]),
        (PARTS, PARTS[0], PARTS[0]),
        (PARTS, PARTS[2], PARTS[0]),
        (("config.json", "m.gguf"), ".", None),
        (("model.safetensors",), ".", None),
        ((), ".", None),
        ((), "someone/models", None),
        ((), "tiny", None),
    ],
)
def test_the_file_that_a_path_means(tmp_path: Path, files: tuple[str, ...], spec: str, found: str | None) -> None:
    folder = folder_with(tmp_path / "models", *files)
    path = spec if spec in ("someone/models", "tiny") else str(folder / spec)
    assert local_gguf(path) == (None if found is None else folder / found)


@pytest.mark.parametrize(
    ("files", "spec", "words"),
    [
        ((), "m.gguf", "does not exist"),
        (("a.gguf", "b.gguf"), ".", "several models in .*: a.gguf, b.gguf"),
        (PARTS[:2], PARTS[0], f"is one of 3 parts, and {PARTS[2]} is not there"),
        (PARTS[1:], ".", f"{PARTS[0]} is not there"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, files: tuple[str, ...], spec: str, words: str) -> None:
    folder = folder_with(tmp_path / "models", *files)
    with pytest.raises(UsageError, match=words):
        local_gguf(str(folder / spec))


def test_a_file_on_the_hub_is_fetched_with_all_its_parts(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, name: str) -> Path:
        asked.append((repository, name))
        return tmp_path / name

    assert find_gguf("someone/models:q4/m.gguf", fetch) == tmp_path / "q4/m.gguf"
    assert find_gguf(f"someone/models:{PARTS[1]}", fetch) == tmp_path / PARTS[0]
    assert asked == [("someone/models", name) for name in ("q4/m.gguf", *PARTS)]
    assert means_gguf("someone/models:m.gguf")
    assert hub_gguf("someone/models:m.txt") is None


def test_a_file_that_the_hub_does_not_give_is_said(tmp_path: Path) -> None:
    def fetch(repository: str, name: str) -> Path:
        raise OSError("no route")

    with pytest.raises(UsageError, match=r"The file m\.gguf could not be fetched from someone/models"):
        find_gguf("someone/models:m.gguf", fetch)


def test_names_on_the_network(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "models", "small-Q4_K_M.gguf", *PARTS)
    assert name_of(str(folder / "small-Q4_K_M.gguf"), None) == "small-Q4_K_M"
    assert name_of(str(folder / PARTS[0]), None) == "m"
    assert name_of(str(folder), None) == "models"
    assert name_of("someone/models:m.gguf", None) == "someone/models:m.gguf"


@pytest.mark.parametrize(
    ("dtype", "quantization", "flag"), [("bfloat16", "none", "--dtype"), ("auto", "4bit", "--qua")]
)
def test_the_numbers_of_a_file_are_not_changed(dtype: str, quantization: str, flag: str) -> None:
    check_gguf_flags("m.gguf", "auto", "none")
    with pytest.raises(UsageError, match="whose numbers are as they are") as refused:
        check_gguf_flags("m.gguf", dtype, quantization)
    assert flag in refused.value.fix


def test_a_digest_says_every_part_in_order_and_what_runs_it(tmp_path: Path) -> None:
    folder, cache = tmp_path / "models", HashCache(tmp_path)
    folder.mkdir()
    for index, name in enumerate(PARTS):
        (folder / name).write_bytes(bytes([index]))
    parts = parts_of(folder / PARTS[1])
    digests = {
        gguf_digest(parts, "a", cache),
        gguf_digest(parts, "b", cache),
        gguf_digest(parts[::-1], "a", cache),
        gguf_digest(parts[:2], "a", cache),
    }
    assert len(digests) == 4
    parts_in_words = [b"p2pnet/digest/1", b"gguf", b"a", *(sha256(bytes([index])).digest() for index in range(3))]
    spelled = b"".join(len(part).to_bytes(8, "big") + part for part in parts_in_words)
    assert gguf_digest(parts, "a", cache) == f"sha256:{sha256(spelled).hexdigest()}"  # as docs/protocol.md has it
    assert gguf_digest(parts, "a", cache) in digests
