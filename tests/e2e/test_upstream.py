"""A worker in front of a real server: `transformers serve` with the bundled model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from p2pnet.errors import FeatureMissing
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
    TextDelta,
    TextPrompt,
)
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from tests.processes import processes, wait_until
from tests.processes import run as run_command

pytestmark = pytest.mark.timeout(300)

TINY = Path(__file__).parents[2] / "p2pnet" / "assets" / "tiny"
MODEL = "bundled/tiny"
QUESTION = "What is p2pnet?"
KEY_FACT = "nobody in charge"
GREEDY = Sampling(temperature=0)
STOP_S = 20.0


def make_hub_cache(folder: Path) -> None:
    """The bundled model as the hub's client would have stored it: what `transformers serve` lists. It takes whichever
    config.json it sees first for the model's, so there must be no other."""
    repository = folder / "hub" / f"models--{MODEL.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1")
    shutil.copytree(TINY, repository / "snapshots" / "1", ignore=shutil.ignore_patterns("1_Pooling", "modules.json"))


@contextmanager
def server(arguments: list[str], environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Run a uvicorn server on a free port, and give its URL."""
    log = folder / "log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)} | environment,
            start_new_session=True,
        )
    try:
        running = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
        wait_until(lambda: bool(running.search(log.read_text())) or child.poll() is not None, "the server runs")
        found = running.search(log.read_text())
        assert found is not None, log.read_text()
        yield found[1]
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def transformers_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="upstream-") as name:
        folder = Path(name)
        make_hub_cache(folder)
        command = str(Path(sysconfig.get_path("scripts")) / "transformers")
        with server(
            [command, "serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu"],
            {"HF_HOME": name, "HF_HUB_OFFLINE": "1"},
            folder,
        ) as url:
            yield url


async def run(backend: UpstreamBackend, prompt: Prompt, **fields: Any) -> list[BackendEvent]:
    request = GenerateRequest("r1", backend.models[0].id, prompt, sampling=GREEDY, **fields)
    return [event async for event in backend.generate(request)]


def text_of(events: list[BackendEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_transformers_serve(transformers_url: str) -> None:
    """It ends its streams without [DONE], leaves stop strings in, and refuses fields that it does not know."""
    question = ChatPrompt((Message("user", QUESTION),))
    backend = await UpstreamBackend.open(UpstreamOptions(transformers_url))
    try:
        (card,) = backend.models
        assert (card.id, card.features) == (MODEL, ("chat", "text"))
        accepted, *deltas, finished = await run(backend, question, max_tokens=64)
        assert isinstance(accepted, Accepted) and accepted.digest == card.digest
        assert KEY_FACT in text_of(deltas)
        assert isinstance(finished, Finished) and finished.reason == "stop"
        assert finished.usage.prompt_tokens == 14 and finished.usage.completion_tokens >= len(deltas) > 10
        short = await run(backend, question, max_tokens=3)
        assert isinstance(short[-1], Finished) and short[-1].reason == "length"
        assert short[-1].usage.completion_tokens == 3
        stopped = await run(backend, question, max_tokens=64, stop=(KEY_FACT,))
        assert text_of(stopped) == text_of(deltas).split(KEY_FACT)[0]
        text = await run(backend, TextPrompt("p2pnet is"), max_tokens=16)
        assert len(text_of(text)) > 20
        with pytest.raises(FeatureMissing):
            await run(backend, question, logprobs=1)
        events = backend.generate(GenerateRequest("r2", MODEL, question, max_tokens=4000))
        assert isinstance(await anext(events), Accepted)
        assert isinstance(await anext(events), TextDelta)
        await events.aclose()
        assert KEY_FACT in text_of(await run(backend, question, max_tokens=64)), "it is free for the next one"
    finally:
        await backend.close()


def test_a_swarm_serves_what_transformers_serve_runs(transformers_url: str) -> None:
    """Given a worker without a model of its own, a client of a gateway chats with the upstream's."""
    with processes("upstream") as start:
        bootstrap = start.bootstrap()
        peer = bootstrap.ready.address
        worker = start.worker("--upstream", transformers_url, peer=peer, name="upstream")
        gateway = start.gateway(peer=peer)
        url = gateway.ready.http
        worker.wait_ready()
        wait_until(lambda: MODEL in _models(f"{url}/v1/models"), "the gateway lists the model")
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert KEY_FACT in said
        assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 14
        for process in (gateway, worker, bootstrap):
            assert process.stop() == 0
            assert process.leftovers() == []


NOWHERE = ("--initial-peers", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp")

MISTAKES = [
    ((), "There is nothing to serve."),
    (("--upstream", "ftp://here"), "not a plain http or https URL"),
    (("--upstream", "http://127.0.0.1:9", "--upstream-key-env", "P2PNET_NO_SUCH_KEY"), "holds no key"),
    (("--model", "tiny", "--upstream-kind", "ollama"), "No upstream server was named."),
    (("--upstream", "http://127.0.0.1:9", "--served-name", "x"), "the name of one --model"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistakes_are_said_before_anything_is_done(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    outcome = run_command("serve", *arguments, *NOWHERE, root=tmp_path)
    assert outcome.status == 1
    assert words in outcome.stderr


def _models(url: str) -> list[str]:
    return [model["id"] for model in json.loads(httpx.get(url).content)["data"]]
