"""A real swarm on loopback: separate processes, real p2pd, the bundled model. What users see, and what they must not.

Tests that hurt somebody hurt workers of their own, under a model name of their own, or somebody who has to recover.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from p2pnet.client import generate
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.errors import PeerError, PeerLost
from p2pnet.messages import Accepted, Finished, GenerateRequest, Sampling, TextDelta, TextPrompt
from p2pnet.peer import Peer
from p2pnet.records import CapabilityRecord
from p2pnet.worker.checkpoints.loading import find_folder
from tests.checkpoints import ARCHITECTURES, build_checkpoint
from tests.processes import POLL_S, Process, Start, processes, run, wait_until

pytestmark = pytest.mark.timeout(300)

QUESTION = "What is p2pnet?"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
KEY_FACT = "nobody in charge"
LONG = 3000
"""Tokens of an answer that is still running whatever a test does meanwhile, and is never waited for."""
MEDIUM = 1200
"""Tokens of an answer that takes some seconds, and is waited for."""


@dataclass
class Swarm:
    """A bootstrap, two workers with the bundled model, and a gateway."""

    start: Start
    bootstrap: Process
    workers: list[Process]
    gateway: Process

    @property
    def address(self) -> str:
        return self.bootstrap.ready.address

    @property
    def url(self) -> str:
        assert self.gateway.ready.http is not None
        return self.gateway.ready.http

    def worker(self, *arguments: str, name: str) -> Process:
        """One more worker, which is starting."""
        return self.start.worker(*arguments, peer=self.address, name=name)


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("swarm") as start:
        bootstrap = start.bootstrap()
        address = bootstrap.ready.address
        workers = [start.worker("--model", "tiny", peer=address, name=f"tiny{number}") for number in (1, 2)]
        gateway = start.gateway(peer=address)
        for process in (*workers, gateway):
            process.wait_ready()
        wait_until(lambda: _models(gateway.ready.http or "") == ["tiny"], "the gateway lists tiny")
        yield Swarm(start, bootstrap, workers, gateway)


@pytest.fixture(scope="module")
def one_slot(swarm: Swarm) -> Process:
    """A worker that takes one request at a time."""
    worker = swarm.worker("--model", "tiny", "--served-name", "one-slot", "--max-concurrency", "1", name="one-slot")
    worker.wait_ready()
    wait_until(lambda: "one-slot" in _models(swarm.url), "the gateway lists one-slot")
    return worker


@pytest.fixture
async def client(swarm: Swarm, tmp_path: Path) -> AsyncIterator[Peer]:
    """A peer of the tests' own process that joins only to ask."""
    peer = await Peer.join(
        NetworkConfig(tmp_path / "client.key", LOOPBACK_LISTEN, initial_peers=(swarm.address,), is_client=True)
    )
    yield peer
    await peer.close()


# ---- what users see


def test_openai_client_lists_chats_and_streams(swarm: Swarm) -> None:
    client = openai.OpenAI(base_url=f"{swarm.url}/v1", api_key="none", max_retries=0)
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


def test_embeddings_as_numbers_and_as_base64(swarm: Swarm) -> None:
    client = openai.OpenAI(base_url=f"{swarm.url}/v1", api_key="none", max_retries=0)
    texts = ["What is a worker?", "What does a worker do?", "My cat sleeps."]
    packed = client.embeddings.create(model="tiny", input=texts)
    plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    assert [each.embedding for each in packed.data] == [each.embedding for each in plain.data]
    assert [each.index for each in plain.data] == [0, 1, 2]
    short = client.embeddings.create(model="tiny", input=texts[0], dimensions=8)
    assert len(short.data[0].embedding) == 8


def test_eight_at_once_get_the_same_answer(swarm: Swarm) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _ask(swarm.url, "tiny", max_tokens=40), range(8)))
    assert len(set(answers)) == 1
    assert answers[0]


def test_chat_prints_the_answer(swarm: Swarm) -> None:
    outcome = run("chat", "--gateway", swarm.url, "--model", "tiny", "-m", QUESTION, root=swarm.start.root)
    assert outcome.status == 0
    assert KEY_FACT in outcome.stdout
    assert outcome.stderr == ""


def test_models_prints_the_directory(swarm: Swarm) -> None:
    outcome = run("models", "--json", "--initial-peers", swarm.address, root=swarm.start.root)
    assert outcome.status == 0
    rows = {row["task"]: row for row in json.loads(outcome.stdout) if row["id"] == "tiny"}
    assert set(rows) == {"generate", "embed"}
    assert [row["workers"] for row in rows.values()] == [2, 2]
    tiny = rows["generate"]
    assert tiny["context_length"] == 4096
    assert tiny["digest"].startswith("sha256:")
    table = run("models", "--initial-peers", swarm.address, root=swarm.start.root)
    assert "tiny" in table.stdout
    assert tiny["digest"][7:19] in table.stdout


def test_peers_prints_the_directory_through_a_worker_too(swarm: Swarm) -> None:
    """Any peer that can be reached is an entry, a worker as well as a bootstrap."""
    outcome = run("peers", "--json", "--initial-peers", swarm.workers[1].ready.address, root=swarm.start.root)
    assert outcome.status == 0
    rows = {row["worker"]["peer_id"]: row for row in json.loads(outcome.stdout)}
    for worker in swarm.workers:
        row = rows[worker.ready.peer_id]
        cards = [(card["id"], card.get("task", "generate")) for card in row["worker"]["models"]]
        assert cards == [("tiny", "generate"), ("tiny", "embed")]
        assert set(row["worker"]["addresses"]) == set(worker.ready.addresses)
        assert row["load"]["load"]["slots"] == 16, "eight for each of the two"


def test_workers_of_one_user_get_identities_of_their_own(swarm: Swarm) -> None:
    """Two `serve` with default identities, in the same data folder."""
    first, second = (worker.ready.peer_id for worker in swarm.workers)
    assert first != second
    assert {path.name for path in (swarm.start.root / "data").glob("worker*.key")} >= {"worker.key", "worker-2.key"}


# ---- the same tokens as in one local process


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
def zoo(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    root = tmp_path_factory.mktemp("zoo")
    folders = {name: build_checkpoint(name, root / name) for name in ARCHITECTURES}
    arguments = [part for folder in folders.values() for part in ("--model", str(folder))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: sums are made in the same order
    worker = swarm.worker(*arguments, name="zoo")
    worker.wait_ready()
    wait_until(lambda: set(_models(swarm.url)) >= set(ARCHITECTURES), "the gateway lists the zoo's models")
    yield Zoo(folders | {"tiny": find_folder("tiny")}, worker)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["tiny", *ARCHITECTURES])
async def test_network_and_local_answers_are_the_same_tokens(swarm: Swarm, zoo: Zoo, client: Peer, name: str) -> None:
    """Greedy: model.generate in this process, a worker over libp2p, and the gateway's stream."""
    local = zoo.local(name)
    for prompt in ("Once upon a time", "What is a worker? über 你好", "The dog does not mind. " * 8):
        prompt_ids = local.tokenizer(prompt)["input_ids"]
        expected = local.greedy(prompt_ids, 48)
        worker = zoo.worker if name in ARCHITECTURES else swarm.workers[0]
        deltas, finished = await _generate(client, worker, _request(name, prompt, 48))
        assert [token for delta in deltas for token in delta.token_ids] == expected
        assert len(expected) <= finished.usage.completion_tokens <= len(expected) + 1
        text = "".join(delta.text for delta in deltas)
        assert _stream(swarm.url, name, prompt, max_tokens=48).text == text
        decoded = local.added_text(prompt_ids, expected)
        assert decoded in (None, text)


def test_chat_through_the_network_is_the_local_chat(swarm: Swarm, zoo: Zoo) -> None:
    local = zoo.local("tiny")
    messages = [{"role": "user", "content": QUESTION}]
    ids = local.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    expected = local.tokenizer.decode(local.greedy(ids, 200), skip_special_tokens=True)
    assert _ask(swarm.url, "tiny") == expected


# ---- clients that go away


def test_a_client_that_goes_away_frees_the_worker(swarm: Swarm, one_slot: Process) -> None:
    """Given a worker whose only slot is taken by a long answer, when its reader goes, then the next one is served
    long before the answer would have been complete."""
    with _open_stream(swarm.url, "one-slot", LONG) as stream:
        began_s = time.monotonic()
        stream.read_chunks(100)
        tokens_per_s = 100 / (time.monotonic() - began_s)
        assert _status(swarm.url, "one-slot") == 429
    freed_s = wait_until(lambda: _status(swarm.url, "one-slot") == 200, "the slot is free again")
    assert freed_s < (LONG - 100) / tokens_per_s / 4


async def test_a_peer_that_goes_away_frees_the_worker(one_slot: Process, client: Peer) -> None:
    """The same without a gateway: closing the generator closes the stream."""
    for _ in range(3):  # each would find the slot taken by the one before
        async with aclosing(
            generate(client.network, one_slot.ready.peer_id, _request("one-slot", "Hello", LONG, ignore_eos=True))
        ) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
        await _until_served(client, one_slot, "one-slot")


# ---- workers that go away


async def test_a_worker_that_is_asked_to_stop_withdraws_and_finishes(swarm: Swarm, client: Peer) -> None:
    """Given a running answer, when its worker gets SIGTERM, then it is withdrawn at once, the answer is complete,
    new requests are turned away, and nothing is left of the worker."""

    async def is_withdrawn() -> bool:
        return not await client.directory.workers_of("leaver")

    as_long_as_it_takes = ("--drain-seconds", "240")  # and not the default's 30: the machine may be busy
    leaver = swarm.worker("--model", "tiny", "--served-name", "leaver", *as_long_as_it_takes, name="leaver")
    leaver.wait_ready()
    wait_until(lambda: "leaver" in _models(swarm.url), "the gateway lists leaver")
    with _open_stream(swarm.url, "leaver", MEDIUM) as stream:
        stream.read_chunks(5)
        leaver.send(signal.SIGTERM)
        await _until(is_withdrawn, "leaver is withdrawn")
        shown = run("peers", "--json", "--initial-peers", swarm.address, root=swarm.start.root)
        assert leaver.ready.peer_id not in [row["worker"]["peer_id"] for row in json.loads(shown.stdout)]
        assert leaver.is_running, "the answer had ended before the directory was looked at"
        assert _status(swarm.url, "leaver") == 503
        stream.read_all()
    assert stream.is_done
    assert stream.finish_reason == "length"
    assert leaver.wait() == 0
    assert leaver.leftovers() == []
    wait_until(lambda: "leaver" not in _models(swarm.url), "the gateway has forgotten leaver")
    assert _status(swarm.url, "leaver") == 503


def test_a_killed_worker_is_not_noticed_by_its_clients(swarm: Swarm) -> None:
    """Given two workers with an answer each, when one is killed, then both answers are complete and the same, and later
    requests are served by the other."""
    pair = [swarm.worker("--model", "tiny", "--served-name", "pair", name=f"pair{number}") for number in (1, 2)]
    for worker in pair:
        worker.wait_ready()
    wait_until(lambda: _workers_listed(swarm.url, "pair") == 2, "the gateway sees both")
    with _open_stream(swarm.url, "pair", MEDIUM) as first, _open_stream(swarm.url, "pair", MEDIUM) as second:
        first.read_chunks(3)
        second.read_chunks(3)
        pair[0].send(signal.SIGKILL)
        first.read_all()
        second.read_all()
    for stream in (first, second):
        assert stream.error is None
        assert stream.is_done
        assert stream.finish_reason == "length"
    assert first.text == second.text
    for _ in range(4):
        assert _status(swarm.url, "pair") == 200
    assert pair[1].stop(signal.SIGINT) == 0
    assert pair[1].leftovers() == []


# ---- p2pd that dies


async def test_a_worker_survives_its_p2pd(swarm: Swarm, client: Peer) -> None:
    """Given an answer that runs, when the worker's p2pd is killed, then the answer fails cleanly; the worker comes back
    as the same peer at the same addresses, and announces itself anew."""
    worker = swarm.workers[0]
    before = await _record_of(client, worker)
    async with aclosing(
        generate(client.network, worker.ready.peer_id, _request("tiny", "Hello", LONG, ignore_eos=True))
    ) as events:
        assert isinstance(await anext(events), Accepted)
        assert isinstance(await anext(events), TextDelta)
        _kill_daemon(worker)
        with pytest.raises(PeerLost):
            async for event in events:
                assert not isinstance(event, Finished)
    wait_until(lambda: worker.daemon_pid is not None, "p2pd runs again")
    await _until_served(client, worker, "tiny")

    async def is_announced_anew() -> bool:
        return (await _record_of(client, worker)).sequence > before.sequence

    await _until(is_announced_anew, "it is announced anew")
    after = await _record_of(client, worker)
    assert set(after.addresses) == set(before.addresses) == set(worker.ready.addresses)
    wait_until(lambda: _workers_listed(swarm.url, "tiny") == 2, "both workers are in the directory")


def test_a_gateway_survives_its_p2pd(swarm: Swarm) -> None:
    """The stream that ran goes on as soon as p2pd runs again, and later requests are served."""
    undisturbed = _stream(swarm.url, "tiny", "Hello", MEDIUM, ignore_eos=True)
    with _open_stream(swarm.url, "tiny", MEDIUM) as stream:
        stream.read_chunks(3)
        _kill_daemon(swarm.gateway)
        stream.read_all()
    assert stream.error is None
    assert stream.is_done
    assert stream.text == undisturbed.text
    wait_until(lambda: _status(swarm.url, "tiny") == 200, "the gateway serves again")
    for _ in range(4):
        assert _status(swarm.url, "tiny") == 200


async def test_a_bootstrap_survives_its_p2pd(swarm: Swarm, tmp_path: Path) -> None:
    """Others join through it again, at the same address, and find the workers."""
    _kill_daemon(swarm.bootstrap)
    wait_until(lambda: swarm.bootstrap.daemon_pid is not None, "p2pd runs again")
    peer = await Peer.join(
        NetworkConfig(tmp_path / "newcomer.key", LOOPBACK_LISTEN, initial_peers=(swarm.address,), is_client=True)
    )
    try:
        for worker in swarm.workers:
            await _record_of(peer, worker)
    finally:
        await peer.close()
    assert _status(swarm.url, "tiny") == 200


# ---- networks without their bootstrap


async def test_peers_find_each_other_when_the_bootstrap_is_gone() -> None:
    """Given two workers whose bootstrap has stopped, when a third joins through the first and a gateway through the
    second, then the gateway finds the third and gets its answer."""
    with processes("orphans") as start:
        bootstrap = start.bootstrap()
        address = bootstrap.ready.address
        first, second = (
            start.worker("--model", "tiny", "--served-name", name, peer=address, name=name)
            for name in ("first", "second")
        )
        first.wait_ready()
        second.wait_ready()
        assert bootstrap.stop() == 0
        assert bootstrap.leftovers() == []

        third = start.worker("--model", "tiny", "--served-name", "third", peer=first.ready.address, name="third")
        gateway = start.gateway(peer=second.ready.address)
        third.wait_ready()
        url = gateway.ready.http or ""
        wait_until(lambda: _models(url) == ["first", "second", "third"], "the gateway lists all three")
        assert KEY_FACT in _ask(url, "third")
        assert gateway.stop(signal.SIGINT) == 0
        for worker, number in ((first, signal.SIGINT), (second, signal.SIGTERM), (third, signal.SIGINT)):
            assert worker.stop(number) == 0
        for process in (gateway, first, second, third):
            assert process.leftovers() == []


# ---- nothing is left behind


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_bootstrap_and_gateway_leave_nothing_behind(number: signal.Signals) -> None:
    with processes("tidy") as start:
        bootstrap = start.bootstrap()
        gateway = start.gateway(peer=bootstrap.ready.address)
        gateway.wait_ready()
        assert gateway.daemon_pid is not None
        for process in (gateway, bootstrap):
            assert process.stop(number) == 0
            assert process.leftovers() == []


def test_a_signal_while_starting_leaves_nothing_behind() -> None:
    """A worker that is stopped while it still loads its model or joins."""
    with processes("early") as start:
        bootstrap = start.bootstrap()
        worker = start.worker("--model", "tiny", peer=bootstrap.ready.address)
        wait_until(lambda: "loading tiny" in worker.log, "it loads")
        worker.stop(signal.SIGINT)
        assert worker.leftovers() == []


# ---- requests


class Stream:
    """One streamed completion as the client of a gateway sees it."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.text = ""
        self.chunks = 0
        self.is_done = False
        self.finish_reason: str | None = None
        self.error: dict[str, Any] | None = None
        self.usage: dict[str, int] | None = None

    def read_chunks(self, wanted: int) -> None:
        """Read until so many chunks have come in all."""
        while self.chunks < wanted:
            assert self._read_event(), "the stream ended early"

    def read_all(self) -> None:
        while self._read_event():
            pass

    def _read_event(self) -> bool:
        data = next((line[6:] for line in self._lines if line.startswith("data: ")), None)
        if data is None:
            return False
        assert not self.is_done, "something follows [DONE]"
        assert self.error is None, "something follows an error"
        self.chunks += 1
        if data == "[DONE]":
            self.is_done = True
            return True
        event = json.loads(data)
        self.error = event.get("error")
        self.usage = event.get("usage")
        for choice in event.get("choices", ()):
            self.text += choice["text"]
            self.finish_reason = choice["finish_reason"]
        return True


class _OpenStream:
    """Asks for a streamed completion; leaving it closes the connection, whatever is still to come."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self._client = httpx.Client(timeout=60)
        self._response = self._client.stream("POST", f"{url}/v1/completions", json={**body, "stream": True})

    def __enter__(self) -> Stream:
        response = self._response.__enter__()
        if response.status_code != 200:
            response.read()
            raise AssertionError(response.text)
        return Stream(response)

    def __exit__(self, *exception: Any) -> None:
        self._response.__exit__(*exception)
        self._client.close()


def _open_stream(url: str, model: str, tokens: int) -> _OpenStream:
    """An answer of exactly so many tokens."""
    return _OpenStream(
        url, {"model": model, "prompt": "Hello", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    )


def _stream(url: str, model: str, prompt: str, max_tokens: int, ignore_eos: bool = False) -> Stream:
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": ignore_eos}
    with _OpenStream(url, body) as stream:
        stream.read_all()
    assert stream.is_done
    return stream


def _ask(url: str, model: str, **fields: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, **fields}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def _status(url: str, model: str) -> int:
    """The HTTP status of a request for one token that does not wait for a worker."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    return httpx.post(f"{url}/v1/completions", json=body, headers={"x-p2pnet-wait-s": "0"}, timeout=60).status_code


def _models(url: str) -> list[str]:
    response = httpx.get(f"{url}/v1/models", timeout=30)
    return [model["id"] for model in response.json()["data"]]


def _workers_listed(url: str, model: str) -> int:
    """How many workers of a model the gateway sees."""
    response = httpx.get(f"{url}/v1/models", timeout=30)
    return sum(entry["workers"] for entry in response.json()["data"] if entry["id"] == model)


def _request(model: str, prompt: str, max_tokens: int, ignore_eos: bool = False) -> GenerateRequest:
    greedy = Sampling(temperature=0)
    return GenerateRequest("e2e", model, TextPrompt(prompt), greedy, max_tokens, ignore_eos=ignore_eos)


async def _generate(client: Peer, worker: Process, request: GenerateRequest) -> tuple[list[TextDelta], Finished]:
    """One exchange with one worker, by p2pnet's own client."""
    events = generate(client.network, worker.ready.peer_id, request, worker.ready.addresses)
    accepted, *deltas, finished = [event async for event in events]
    assert isinstance(accepted, Accepted)
    assert isinstance(finished, Finished)
    return [delta for delta in deltas if isinstance(delta, TextDelta)], finished


async def _until_served(client: Peer, worker: Process, model: str) -> float:
    """Ask this worker until it answers; returns how long that took in seconds."""
    began_s = time.monotonic()
    while True:
        try:
            await _generate(client, worker, _request(model, "Hello", 1))
        except PeerError as error:
            assert time.monotonic() - began_s < 60, f"{worker.name} serves nobody: {error!r}\n{worker.log}"
            await asyncio.sleep(POLL_S)
        else:
            return time.monotonic() - began_s


async def _record_of(client: Peer, worker: Process) -> CapabilityRecord:
    """What the directory says of this worker."""
    found: list[CapabilityRecord] = []

    async def is_found() -> bool:
        found[:] = [record for record in await client.directory.workers() if record.peer_id == worker.ready.peer_id]
        return bool(found)

    await _until(is_found, f"{worker.name} is in the directory")
    return found[0]


async def _until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 60) -> float:
    """Wait for something that has to be asked for; returns how long that took in seconds."""
    began_s = time.monotonic()
    while not await condition():
        assert time.monotonic() - began_s < timeout_s, f"not within {timeout_s:.0f} s: {what}"
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began_s


def _kill_daemon(process: Process) -> None:
    pid = process.daemon_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process.daemon_pid != pid, "the killed p2pd is gone")
