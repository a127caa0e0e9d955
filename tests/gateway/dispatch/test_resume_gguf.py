"""A GGUF file's answer that breaks off behind the gateway, after each of its tokens: the client sees one answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from p2pnet.messages import GenerateRequest, Sampling, TextPrompt
from p2pnet.worker.backends.engine_backend import EngineOptions
from p2pnet.worker.backends.gguf import GgufBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.gguf.loading import load_gguf
from p2pnet.worker.gguf.tokenizer import GgufTokenizer
from tests.checkpoints import build_checkpoint
from tests.gateway.breaking import Break, How
from tests.gateway.broken_swarm import swarm
from tests.gguf_files import small_gguf
from tests.stories import settle_threads
from tests.worker.answers import joined

PROMPT = "The quick brown fox jumps"
TOKENS = 21
MANY_TURNS = 200_000


@dataclass(frozen=True)
class Trio:
    """Three engines with the same file, and its tokenizer."""

    backends: tuple[GgufBackend, ...]
    tokenizer: GgufTokenizer


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Trio]:
    path = small_gguf(build_checkpoint("qwen2", tmp_path / "qwen2"), tmp_path / "small.gguf")
    async with AsyncExitStack() as closing:
        made = []
        for _ in range(3):
            loaded = load_gguf(path, "cpu", HashCache(tmp_path))
            made.append(GgufBackend(loaded, "m", lambda: 0, EngineOptions(kv_bytes=1_000_000, threads=1)))
            closing.push_async_callback(made[-1].close)
        yield Trio(tuple(made), loaded.tokenizer)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(seed=3)], ids=["greedy", "sampled"])
async def test_killed_after_each_of_twenty_tokens(trio: Trio, sampling: Sampling) -> None:
    """No token is lost, doubled or torn, and nearly always the answer is the undisturbed one."""

    def ask(name: str) -> GenerateRequest:
        return GenerateRequest(name, "m", TextPrompt(PROMPT), sampling=sampling, max_tokens=TOKENS, ignore_eos=True)

    async with swarm(*trio.backends) as given:
        whole = joined(await given.run(ask("plain")))
        hows = cycle(how for how in How if how is not How.FAILED)
        same = 0
        for point in range(1, TOKENS):
            given.schedule.plan(f"{point}", [Break(next(hows), 1 + point)])
            found = joined(await given.run(ask(f"{point}")))
            assert (len(found.choices[0].ids), found.reasons) == (TOKENS, ("length",))
            prompt_ids = trio.tokenizer(PROMPT)["input_ids"]
            text = trio.tokenizer.decode([*prompt_ids, *found.choices[0].ids], skip_special_tokens=True)
            assert PROMPT + found.choices[0].text == text
            assert found.usage.completion_tokens == TOKENS
            same += found.choices[0].ids == whole.choices[0].ids
        assert given.schedule.happened.total() + given.schedule.overtaken == TOKENS - 1
        assert same >= 18
        await settle_threads(given.is_idle, MANY_TURNS)
