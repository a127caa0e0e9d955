"""What is said of a file that cannot be run: one sentence and a fix, whatever is wrong with it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pnet.errors import UsageError
from p2pnet.worker.gguf.library import CPU, Device, accelerators, check_version, choose_device, family
from p2pnet.worker.gguf.model import LlamaModel, check_generates, check_room, trouble_with
from p2pnet.worker.gguf.trial import Said, main, reason, try_out
from tests.gguf_files import small_gguf


def version(number: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:4] + number.to_bytes(4, "little") + raw[8:]


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another magic": (lambda raw: b"ZZZZ" + raw[4:], "bad.gguf is no GGUF file"),
    "empty": (lambda raw: b"", "bad.gguf is no GGUF file"),
    "a text": (lambda raw: b"hello, I am a text", "bad.gguf is no GGUF file"),
    "too new": (version(99), "bad.gguf is in a version of GGUF that the installed llama.cpp does not read"),
    "too old": (version(1), "bad.gguf is in a version of GGUF that the installed llama.cpp does not read"),
    "cut in its head": (lambda raw: raw[:1000], "bad.gguf is cut short or damaged"),
    "cut in its tensors": (lambda raw: raw[: len(raw) // 2], "bad.gguf is cut short or damaged"),
    "without its last byte": (lambda raw: raw[:-33], "bad.gguf is cut short or damaged"),
    "too many tensors": (lambda raw: raw[:8] + b"\xff" * 8 + raw[16:], "bad.gguf is cut short or damaged"),
    "of another architecture": (
        lambda raw: raw.replace(b"qwen2", b"qwen0"),
        "bad.gguf is of the architecture 'qwen0', which the installed llama.cpp does not know",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_opened(good: Path, tmp_path: Path, case: str) -> None:
    spoil, words = BAD[case]
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(spoil(good.read_bytes()))
    with pytest.raises(UsageError, match=words) as refused:
        LlamaModel(bad, vocabulary_only=True)
    assert refused.value.message.count(".") == refused.value.message.count("llama.cpp") + 2  # one sentence
    assert refused.value.fix
    with pytest.raises(UsageError, match=words):
        LlamaModel(bad)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qwen2__attention__causal": False}, "embeds texts"),
        ({"qwen2__pooling_type": 3}, "embeds texts"),
        ({"qwen2__context_length": 0}, "does not say how long its context is"),
    ],
)
def test_a_model_that_does_not_generate(folder: Path, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = small_gguf(folder, tmp_path / "other.gguf", **changes)
    with pytest.raises(UsageError, match=words):
        check_generates(LlamaModel(path, vocabulary_only=True))


def test_a_good_file_says_what_it_is(good: Path) -> None:
    model = LlamaModel(good, vocabulary_only=True)
    check_generates(model)
    assert (model.context_length, model.goes_back, model.chat_template() is not None) == (512, True, True)
    assert model.metadata("general.architecture") == "qwen2"
    assert model.metadata("no.such.key") is None
    assert LlamaModel(good).quantization == "gguf-all_f32"


def test_a_model_that_is_too_large(good: Path) -> None:
    check_room(good, CPU)
    small = Device("cuda", "CUDA0", "a small one", free_bytes=1000)
    with pytest.raises(UsageError, match=r"small.gguf needs 0.0 GB of memory, and 0.0 GB are free") as refused:
        check_room(good, small)
    assert "fewer bits" in refused.value.fix


def test_words_that_nobody_expected_are_passed_on() -> None:
    assert "does not open m.gguf: it is odd." in trouble_with(Path("m.gguf"), ("it is \x1b odd",)).message
    assert "it gives no reason" in trouble_with(Path("m.gguf"), ()).message


@pytest.mark.parametrize("found", ["0.3.35", "0.3.37", "0.4.0"])
def test_another_version_of_llama_cpp(found: str) -> None:
    check_version("0.3.36")
    with pytest.raises(
        UsageError, match=f"llama-cpp-python {re.escape(found)} is installed, and >=0.3.36,<0.3.37"
    ) as no:
        check_version(found)
    assert "pip install --force-reinstall" in no.value.fix


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto") in (*accelerators()[:1], CPU)
    with pytest.raises(UsageError, match="offers no device 'no-such'"):
        choose_device("no-such")
    assert family().startswith("llama-cpp-python/")


SAID = b'{"message":"It is too large.","fix":"Buy memory."}'


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "message", "fix"),
    [
        (-4, b"", b"", "dies of an illegal instruction", "-DGGML_NATIVE=OFF"),
        (-9, b"", b"", "m.gguf does not fit into memory", "fewer bits"),
        (1, SAID, b"", "It is too large.", "Buy memory."),
        (-6, b"", b"x\nGGML_ASSERT(a == b) failed\n", "GGML_ASSERT(a == b) failed", "another file"),
        (1, b"", b"", "it ended with status 1", "another file"),
        (1, b"{", b"Traceback\nKeyError: 3", "KeyError: 3", "another file"),
    ],
)
def test_why_a_trial_ended(status: int, stdout: bytes, stderr: bytes, message: str, fix: str) -> None:
    refused = reason(Path("m.gguf"), status, stdout, stderr)
    assert message in refused.message
    assert fix in refused.fix


def test_a_trial_in_a_process_of_its_own(good: Path, tmp_path: Path) -> None:
    """One that works, one that says what is wrong, and one that dies of an illegal instruction."""
    try_out(good, "cpu")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(good.read_bytes()[:1000])
    with pytest.raises(UsageError, match="cut short"):
        try_out(bad, "cpu")

    def die(arguments: object) -> subprocess.CompletedProcess[bytes]:
        dying = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
        return subprocess.run([sys.executable, "-c", dying], capture_output=True, check=False)

    with pytest.raises(UsageError, match="illegal instruction"):
        try_out(good, "cpu", die)


def test_a_trial_says_its_reason_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(tmp_path / "none.gguf", "no-such")
    assert "offers no device" in capsys.readouterr().out
    assert Said("a", "b") == Said("a", "b")
