"""A real swarm on loopback, separate processes, real p2pd, the bundled model: what users see of it."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.e2e.asking import KEY_FACT, QUESTION, ask
from tests.processes import processes, run, wait_until
from tests.tiny_swarm import TinySwarm

pytestmark = pytest.mark.timeout(300)


def test_openai_client_lists_chats_and_streams(tiny_swarm: TinySwarm) -> None:
    client = openai.OpenAI(base_url=f"{tiny_swarm.url}/v1", api_key="none", max_retries=0)
    assert "tiny" in [model.id for model in client.models.list()]
    assert client.models.retrieve("tiny").id == "tiny"

    messages: Any = [{"role": "user", "content": QUESTION}]
    whole = client.chat.completions.create(model="tiny", messages=messages, temperature=0)
    assert KEY_FACT in (whole.choices[0].message.content or "")
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 4, "it did not stream"

    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="unheard-of", messages=messages)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="tiny", prompt="Hello " * 5000)


def test_embeddings_as_numbers_and_as_base64(tiny_swarm: TinySwarm) -> None:
    client = openai.OpenAI(base_url=f"{tiny_swarm.url}/v1", api_key="none", max_retries=0)
    texts = ["What is a worker?", "What does a worker do?", "My cat sleeps."]
    packed = client.embeddings.create(model="tiny", input=texts)
    plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    assert [each.embedding for each in packed.data] == [each.embedding for each in plain.data]
    assert [each.index for each in plain.data] == [0, 1, 2]
    short = client.embeddings.create(model="tiny", input=texts[0], dimensions=8)
    assert len(short.data[0].embedding) == 8


def test_eight_at_once_get_the_same_answer(tiny_swarm: TinySwarm) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(tiny_swarm.url, "tiny", max_tokens=40), range(8)))
    assert len(set(answers)) == 1
    assert answers[0]


def test_chat_prints_the_answer(tiny_swarm: TinySwarm) -> None:
    outcome = run("chat", "--gateway", tiny_swarm.url, "--model", "tiny", "-m", QUESTION, root=tiny_swarm.start.root)
    assert outcome.status == 0
    assert KEY_FACT in outcome.stdout
    assert outcome.stderr == ""


def test_models_prints_the_directory(tiny_swarm: TinySwarm) -> None:
    outcome = run("models", "--json", "--initial-peers", tiny_swarm.address, root=tiny_swarm.start.root)
    assert outcome.status == 0
    rows = {row["task"]: row for row in json.loads(outcome.stdout) if row["id"] == "tiny"}
    assert set(rows) == {"generate", "embed"}
    assert [row["workers"] for row in rows.values()] == [2, 2]
    tiny = rows["generate"]
    assert tiny["context_length"] == 4096
    assert tiny["digest"].startswith("sha256:")
    table = run("models", "--initial-peers", tiny_swarm.address, root=tiny_swarm.start.root)
    assert "tiny" in table.stdout
    assert tiny["digest"][7:19] in table.stdout


def test_peers_prints_the_directory_through_a_worker_too(tiny_swarm: TinySwarm) -> None:
    """Any peer that can be reached is an entry, a worker as well as a bootstrap."""
    outcome = run("peers", "--json", "--initial-peers", tiny_swarm.workers[1].ready.address, root=tiny_swarm.start.root)
    assert outcome.status == 0
    rows = {row["worker"]["peer_id"]: row for row in json.loads(outcome.stdout)}
    for worker in tiny_swarm.workers:
        row = rows[worker.ready.peer_id]
        cards = [(card["id"], card.get("task", "generate")) for card in row["worker"]["models"]]
        assert cards == [("tiny", "generate"), ("tiny", "embed")]
        assert set(row["worker"]["addresses"]) == set(worker.ready.addresses)
        assert row["load"]["slots"] == 16, "eight for each of the two"


def test_workers_of_one_user_get_identities_of_their_own(tiny_swarm: TinySwarm) -> None:
    """Two `serve` with default identities, in the same data folder."""
    first, second = (worker.ready.peer_id for worker in tiny_swarm.workers)
    assert first != second
    assert {path.name for path in (tiny_swarm.start.root / "data").glob("worker*.key")} >= {
        "worker.key",
        "worker-2.key",
    }


def test_a_signal_while_starting_leaves_nothing_behind(tiny_swarm: TinySwarm) -> None:
    """A worker that is stopped while it still loads its model or joins."""
    with processes("early") as start:
        worker = start.worker("--model", "tiny", peer=tiny_swarm.address)
        wait_until(lambda: "loading tiny" in worker.log, "it loads")
        assert worker.stop(signal.SIGINT) == 128 + signal.SIGINT
        assert worker.log.rstrip().endswith("Stopping.")
        assert "Traceback" not in worker.log
        assert worker.leftovers() == []
