"""What a worker does beyond plain text, asked over libp2p as a gateway asks: two real workers with the bundled model.

The model is small but real: what it says is checked against itself, never against a text written here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pnet.answer_forms import JsonSchemaFormat
from p2pnet.client import embed, generate
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import FeatureMissing, InvalidRequest, ModelNotFound
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    Sampling,
    TextDelta,
    TextPrompt,
    Tool,
)
from p2pnet.peer import Peer
from p2pnet.records import ModelCard
from tests.processes import Process
from tests.tiny_swarm import TinySwarm

pytestmark = pytest.mark.timeout(300)

QUESTION = ChatPrompt((Message("user", "What is p2pnet?"),))
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@asynccontextmanager
async def joined(tiny_swarm: TinySwarm, folder: Path) -> AsyncIterator[Peer]:
    config = NetworkConfig(folder / "key", LOOPBACK_LISTEN, initial_peers=(tiny_swarm.address,), is_client=True)
    peer = await Peer.join(config)
    try:
        yield peer
    finally:
        await peer.close()


async def ask(peer: Peer, worker: Process, **fields: Any) -> list[Accepted | TextDelta | Finished]:
    request = GenerateRequest("r1", fields.pop("model", "tiny"), fields.pop("prompt", QUESTION), **fields)
    ready = worker.ready
    return [event async for event in generate(peer.network, ready.peer_id, request, ready.addresses)]


def deltas_of(events: list[Accepted | TextDelta | Finished], choice: int = 0) -> list[TextDelta]:
    return [event for event in events if isinstance(event, TextDelta) and event.choice == choice]


def text_of(events: list[Accepted | TextDelta | Finished], choice: int = 0) -> str:
    return "".join(delta.text for delta in deltas_of(events, choice))


def ids_of(events: list[Accepted | TextDelta | Finished]) -> tuple[int, ...]:
    return tuple(token_id for delta in deltas_of(events) for token_id in delta.token_ids)


async def test_another_worker_goes_on_where_one_was(tiny_swarm: TinySwarm, tmp_path: Path) -> None:
    """Given half of a sampled answer of one worker, when another resumes it, then the whole is the same."""
    sampling = Sampling(seed=3, temperature=1.2, presence_penalty=0.5)
    async with joined(tiny_swarm, tmp_path) as peer:
        one, other = tiny_swarm.workers
        whole = await ask(peer, one, sampling=sampling, max_tokens=60, ignore_eos=True)
        deltas = deltas_of(whole)
        half = deltas[: len(deltas) // 2]
        seen = tuple(token_id for delta in half for token_id in delta.token_ids)
        assert 0 < len(seen) < 60
        rest = await ask(peer, other, sampling=sampling, max_tokens=60, ignore_eos=True, resume_tokens=seen)
    assert seen + ids_of(rest) == ids_of(whole)
    assert "".join(delta.text for delta in half) + text_of(rest) == text_of(whole)


async def test_forms_choices_and_logprobs(tiny_swarm: TinySwarm, tmp_path: Path) -> None:
    async with joined(tiny_swarm, tmp_path) as peer:
        events = await ask(
            peer, tiny_swarm.workers[0], response_format=JsonSchemaFormat(SCHEMA), max_tokens=200, n=2, logprobs=2
        )
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.other_reasons) == ("stop", ("stop",))
    for choice in range(2):
        person = json.loads(text_of(events, choice))
        assert set(person) == {"name", "age"} and 0 <= person["age"] <= 150
        for delta in deltas_of(events, choice):
            assert [entry.token_id for entry in delta.logprobs] == list(delta.token_ids)


async def test_the_load_rides_on_accepted_and_finished(tiny_swarm: TinySwarm, tmp_path: Path) -> None:
    async with joined(tiny_swarm, tmp_path) as peer:
        events = await ask(peer, tiny_swarm.workers[0], max_tokens=20, ignore_eos=True)
    accepted, end = events[0], events[-1]
    assert isinstance(accepted, Accepted) and isinstance(end, Finished)
    assert accepted.load.sampled_ms > 0 and accepted.load.slots > 0
    assert end.load.kv_total_tokens > 0 and 0 < end.load.kv_free_tokens <= end.load.kv_total_tokens
    for measure in (end.load.decode_tokens_per_s, end.load.prefill_tokens_per_s, end.load.first_token_s):
        assert measure.value > 0 and measure.sampled_ms > 0


async def test_what_it_cannot_do_is_refused_by_name(tiny_swarm: TinySwarm, tmp_path: Path) -> None:
    """The bundled model's chat template has no tools; tokens that are none are the client's fault."""
    async with joined(tiny_swarm, tmp_path) as peer:
        with pytest.raises(FeatureMissing, match="tools"):
            await ask(peer, tiny_swarm.workers[0], prompt=ChatPrompt(QUESTION.messages, (Tool("look"),)))
        with pytest.raises(InvalidRequest, match="vocabulary"):
            await ask(peer, tiny_swarm.workers[0], sampling=Sampling(logit_bias={1 << 20: 1.0}))


async def test_the_bundled_model_embeds_too(tiny_swarm: TinySwarm, tmp_path: Path) -> None:
    """Announced with its task; texts that are alike are nearer to one another than others."""
    texts = ("How do I lend my computer?", "How can I lend a machine?", "Is the transport encrypted?")
    async with joined(tiny_swarm, tmp_path) as peer:
        ready = tiny_swarm.workers[0].ready
        request = EmbedRequest("e1", "tiny", tuple(map(TextPrompt, texts)), dimensions=64)
        events = [event async for event in embed(peer.network, ready.peer_id, request, ready.addresses)]
        cards = await _cards(peer, ready.peer_id)
        with pytest.raises(ModelNotFound):
            await ask(peer, tiny_swarm.workers[0], model="nothing")
    vectors = {event.index: struct.unpack("<64f", event.vector) for event in events if isinstance(event, Embedding)}
    assert sorted(vectors) == [0, 1, 2]
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-5 for vector in vectors.values())
    assert _cosine(vectors[0], vectors[1]) > _cosine(vectors[0], vectors[2])
    assert {card.task for card in cards} == {"generate", "embed"}
    assert len({card.digest for card in cards}) == 2


async def _cards(peer: Peer, peer_id: str) -> tuple[ModelCard, ...]:
    (record,) = [record for record in await peer.directory.workers() if record.peer_id == peer_id]
    return record.models


def _cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))
