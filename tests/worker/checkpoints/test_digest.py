"""The digest: the same for the same model anywhere, another for any other, and quick the second time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from p2pnet.worker.checkpoints.checkpoint import open_checkpoint
from p2pnet.worker.checkpoints.digest import MAX_REMEMBERED_FILES, HashCache, digest

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"template",
}
GOLDEN = "sha256:d6451c777c27c8978440305a3d41e5b0172bf13a8f001a960ed9bd9682453f5f"
"""Of FILES in float32. Workers of all versions must say the same, or none of them finds another to go on."""

Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def digest_of(folder: Path, dtype: str = "float32", quantization: str = "none") -> str:
    return digest(open_checkpoint(folder), dtype, HashCache(folder.parent / "cache"), quantization=quantization)


def append_to(name: str) -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(b" ")

    return change


def write(name: str, content: bytes = b"new") -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def shard(folder: Path) -> None:
    """The same bytes in two files."""
    (folder / "model.safetensors").unlink()
    write("a.safetensors", b"wei")(folder)
    write("b.safetensors", b"ghts")(folder)
    write("model.safetensors.index.json", b'{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}')(folder)


CHANGES: list[tuple[str, Change, bool]] = [
    ("the weights", append_to("model.safetensors"), True),
    ("shards", shard, True),
    ("the config", append_to("config.json"), True),
    ("end tokens", append_to("generation_config.json"), True),
    ("the tokenizer", append_to("tokenizer.json"), True),
    ("more of the tokenizer", write("merges.txt"), True),
    ("the chat template", append_to("chat_template.jinja"), True),
    ("no chat template", lambda folder: (folder / "chat_template.jinja").unlink(), True),
    ("another chat template for tools", write("additional_chat_templates/tool_use.jinja"), True),
    ("a file that is no part of the model", write("README.md"), False),
    ("weights in another format", write("pytorch_model.bin"), False),
    ("another place", lambda folder: folder.rename(folder.with_name("elsewhere")), False),
]


def test_the_digest_of_an_unquantized_model_never_changes(folder: Path) -> None:
    assert digest_of(folder) == GOLDEN


@pytest.mark.parametrize(("change", "is_other"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_what_changes_the_digest(folder: Path, change: Change, is_other: bool) -> None:
    digest_of(folder)  # the cache must not hide the change
    change(folder)
    (found,) = (path for path in folder.parent.iterdir() if path.name != "cache")
    assert (digest_of(found) != GOLDEN) == is_other


def test_every_dtype_and_quantization_is_another_model(folder: Path) -> None:
    ways = [("float32", "none"), ("bfloat16", "none"), ("float32", "bnb-int8"), ("float32", "bnb-nf4"), ("none", "x")]
    assert len({digest_of(folder, *way) for way in ways}) == len(ways)


def test_a_template_is_not_taken_for_another_of_the_same_name(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    write("additional_chat_templates/chat_template.jinja", FILES["chat_template.jinja"])(folder)
    assert digest_of(folder) != GOLDEN


def test_a_second_start_reads_no_file_again(folder: Path, tmp_path: Path) -> None:
    """Progress is told of the bytes that had to be read, and of no others."""
    told: list[tuple[int, int]] = []

    def run() -> list[tuple[int, int]]:
        told.clear()
        digest(open_checkpoint(folder), "float32", HashCache(tmp_path / "cache"), lambda *counts: told.append(counts))
        return list(told)

    total = sum(map(len, FILES.values()))
    assert run()[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert run() == []
    append_to("config.json")(folder)
    assert run() == [(len(FILES["config.json"]) + 1,) * 2]


def test_progress_within_one_large_file(tmp_path: Path) -> None:
    size = (5 << 20) + 1
    (tmp_path / "large").write_bytes(bytes(size))
    told: list[tuple[int, int]] = []
    HashCache(tmp_path / "cache").hash_files([tmp_path / "large"], lambda *counts: told.append(counts))
    assert told == [*((count << 20, size) for count in range(1, 6)), (size, size)]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": "no hash"}', b"\xff"])
def test_a_damaged_cache_is_an_empty_one(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file_hashes.json").write_bytes(content)
    path = folder / "config.json"
    assert HashCache(tmp_path).hash_files([path]) == HashCache(tmp_path / "other").hash_files([path])
    assert list(tmp_path.glob("file_hashes*")) == [tmp_path / "file_hashes.json"]
    assert len(remembered(tmp_path)) == 1


def remembered(folder: Path) -> dict[str, str]:
    content: dict[str, str] = json.loads((folder / "file_hashes.json").read_text())
    return content


def test_of_a_changed_file_only_the_last_hash_stays(folder: Path, tmp_path: Path) -> None:
    for _ in range(3):
        append_to("config.json")(folder)
        HashCache(tmp_path).hash_files([folder / "config.json", folder / "tokenizer.json"])
    assert len(remembered(tmp_path)) == 2


def test_the_cache_is_bounded_and_forgets_the_oldest(folder: Path, tmp_path: Path) -> None:
    old = {f"/old/{number}|1|1": "0" * 64 for number in range(MAX_REMEMBERED_FILES)}
    (tmp_path / "file_hashes.json").write_text(json.dumps(old))
    HashCache(tmp_path).hash_files([folder / "config.json"])
    kept = remembered(tmp_path)
    assert len(kept) == MAX_REMEMBERED_FILES
    assert "/old/0|1|1" not in kept
    assert "/old/1|1|1" in kept


def hash_each(cache_folder: Path, paths: list[Path]) -> list[str]:
    """One cache write for each path."""
    return [HashCache(cache_folder).hash_files([path])[path] for path in paths]


def test_two_processes_and_two_threads_may_write_at_once(tmp_path: Path) -> None:
    """Whoever comes last, the cache stays whole, what it says is true, and no other file is left."""
    paths = [tmp_path / f"file{number}" for number in range(40)]
    for path in paths:
        path.write_bytes(path.name.encode())
    expected = hash_each(tmp_path / "alone", paths)
    shared = tmp_path / "shared"
    threads = [threading.Thread(target=hash_each, args=(shared, paths)) for _ in range(2)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = [pool.submit(hash_each, shared, order) for order in (paths, paths[::-1])]
        for thread in threads:
            thread.start()
        assert jobs[0].result() == expected == jobs[1].result()[::-1]
        for thread in threads:
            thread.join()
    assert [path.name for path in shared.iterdir()] == ["file_hashes.json"]
    true = remembered(tmp_path / "alone")
    assert remembered(shared).items() <= true.items()
    assert hash_each(shared, paths) == expected
