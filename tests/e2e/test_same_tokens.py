"""A worker far away says the same tokens as the same model in one local process, through transformers alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.peer import Peer
from p2pnet.worker.checkpoints.loading import find_folder
from tests.checkpoints import ARCHITECTURES, build_checkpoint
from tests.e2e.asking import QUESTION, ask, exchange, models, request_for, streamed
from tests.processes import Process, wait_until
from tests.tiny_swarm import TinySwarm

pytestmark = pytest.mark.timeout(300)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture
async def client(tiny_swarm: TinySwarm, tmp_path: Path) -> AsyncIterator[Peer]:
    """A peer of the tests' own process that joins only to ask."""
    peer = await Peer.join(
        NetworkConfig(tmp_path / "client.key", LOOPBACK_LISTEN, initial_peers=(tiny_swarm.address,), is_client=True)
    )
    yield peer
    await peer.close()


@dataclass(frozen=True)
class LocalModel:
    """A model in the tests' own process, through transformers alone."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path) -> LocalModel:
        tokenizer: Any = AutoTokenizer
        model: Any = AutoModelForCausalLM
        return cls(
            model.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval(),
            tokenizer.from_pretrained(folder, local_files_only=True),
        )

    def greedy(self, prompt_ids: list[int], max_tokens: int) -> list[int]:
        ids = torch.tensor([prompt_ids])
        with torch.inference_mode():
            found = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens
            )
        new = [int(token) for token in found[0, len(prompt_ids) :]]
        end = self.model.generation_config.eos_token_id
        return new[:-1] if new[-1] in (end if isinstance(end, list) else [end]) else new

    def added_text(self, prompt_ids: list[int], new_ids: list[int]) -> str | None:
        """What the new tokens add to the prompt's text. Broken UTF-8 makes it None: it reaches back into the prompt."""
        prompt, whole = self._decode(prompt_ids), self._decode(prompt_ids + new_ids)
        return None if REPLACEMENT in whole else whole.removeprefix(prompt)

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


@dataclass
class Zoo:
    """One worker with many models, and the same models here."""

    folders: dict[str, Path]
    worker: Process
    loaded: dict[str, LocalModel] = field(default_factory=dict)

    def local(self, name: str) -> LocalModel:
        if name not in self.loaded:
            self.loaded[name] = LocalModel.load(self.folders[name])
        return self.loaded[name]


@pytest.fixture(scope="module")
def zoo(tiny_swarm: TinySwarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    root = tmp_path_factory.mktemp("zoo")
    folders = {name: build_checkpoint(name, root / name) for name in ARCHITECTURES}
    arguments = [part for folder in folders.values() for part in ("--model", str(folder))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: sums are made in the same order
    with tiny_swarm.worker(*arguments, name="zoo") as worker:
        worker.wait_ready()
        wait_until(lambda: set(models(tiny_swarm.url)) >= set(ARCHITECTURES), "the gateway lists the zoo's models")
        yield Zoo(folders | {"tiny": find_folder("tiny")}, worker)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["tiny", *ARCHITECTURES])
async def test_network_and_local_answers_are_the_same_tokens(
    tiny_swarm: TinySwarm, zoo: Zoo, client: Peer, name: str
) -> None:
    """Greedy: model.generate in this process, a worker over libp2p, and the gateway's stream."""
    local = zoo.local(name)
    for prompt in ("Once upon a time", "What is a worker? über 你好", "The dog does not mind. " * 8):
        prompt_ids = local.tokenizer(prompt)["input_ids"]
        expected = local.greedy(prompt_ids, 48)
        worker = zoo.worker if name in ARCHITECTURES else tiny_swarm.workers[0]
        deltas, finished = await exchange(client, worker, request_for(name, prompt, 48))
        assert [token for delta in deltas for token in delta.token_ids] == expected
        assert len(expected) <= finished.usage.completion_tokens <= len(expected) + 1
        text = "".join(delta.text for delta in deltas)
        assert streamed(tiny_swarm.url, name, prompt, max_tokens=48).text == text
        decoded = local.added_text(prompt_ids, expected)
        assert decoded in (None, text)


def test_chat_through_the_network_is_the_local_chat(tiny_swarm: TinySwarm, zoo: Zoo) -> None:
    local = zoo.local("tiny")
    messages = [{"role": "user", "content": QUESTION}]
    ids = local.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    expected = local.tokenizer.decode(local.greedy(ids, 200), skip_special_tokens=True)
    assert ask(tiny_swarm.url, "tiny") == expected
