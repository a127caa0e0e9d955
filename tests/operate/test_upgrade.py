"""What docs/operate.md promises of two gateways behind nginx: upgrades without a lost request, and backups.

Real processes; the workers serve `bench.harness.chain_model`, whose answers are known beforehand.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from bench.harness.chain_model import chain_text
from tests.depth import scaled
from tests.operate.nginx import Nginx, nginx
from tests.processes import Process, Start, free_port, processes, wait_until
from tests.requirements import requires_tools

pytestmark = pytest.mark.timeout(300)

MODEL = "chain"
DELAY_MS = 10
ASKERS = 6
REPLACED = scaled(ci=1, deep=2)
"""Of two gateways, and of two workers."""
SHORT = 20
"""Tokens of the many answers, 0.2 s each."""
LONG = 300
"""Tokens of those that are under way when their gateway is asked to stop: some seconds."""


@dataclass
class Site:
    """Two workers, and two gateways behind nginx."""

    start: Start
    address: str
    ports: list[int]
    gateways: list[Process]
    workers: list[Process]
    nginx: Nginx

    def gateway(self, port: int) -> Process:
        """The gateway of this port: the same key and history each time."""
        gateway = start_gateway(self.start, self.address, port)
        gateway.wait_ready()
        return gateway

    def client(self) -> openai.AsyncOpenAI:
        http = httpx.AsyncClient(verify=self.nginx.tls, timeout=60)
        return openai.AsyncOpenAI(base_url=f"{self.nginx.url}/v1", api_key="none", max_retries=0, http_client=http)


def start_gateway(start: Start, address: str, port: int) -> Process:
    identity = start.root / f"gateway-{port}.key"
    settings = ("--port", str(port), "--identity", str(identity), "--trusted-proxy", "127.0.0.1")
    return start.gateway(*settings, "--drain-seconds", "60", peer=address)


def start_worker(start: Start, address: str, name: str) -> Process:
    listen = ("--listen", "/ip4/127.0.0.1/tcp/0", "--initial-peers", address)
    chain = ("--chain", MODEL, "--delay-ms", str(DELAY_MS))
    return start.program(sys.executable, "-m", "bench.harness.echo_worker", *listen, *chain, name=name)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    requires_tools("nginx", "sqlite3")
    with processes("operate") as start:
        address = start.bootstrap().ready.address
        ports = [free_port(), free_port()]
        workers = [start_worker(start, address, name) for name in ("first", "second")]
        gateways = [start_gateway(start, address, port) for port in ports]
        for process in (*workers, *gateways):
            process.wait_ready()
        folder = start.root / "nginx"
        folder.mkdir()
        unlimited = {"    limit_req zone=p2pnet_requests burst=20 nodelay;\n": ""}  # one machine asks for many here
        with nginx(folder, [f"127.0.0.1:{port}" for port in ports], **unlimited) as running:
            for gateway in gateways:
                wait_until(lambda url=gateway.ready.http: workers_of(url) == 2, "the gateways know both workers")  # type: ignore[misc]
            yield Site(start, address, ports, gateways, workers, running)


def workers_of(url: str) -> int:
    models = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
    return max((model["workers"] for model in models), default=0)


# ---- upgrades


def test_gateways_are_replaced_one_after_the_other_and_no_request_is_lost(site: Site) -> None:
    """Given clients that ask without a pause and streams under way, when each gateway is stopped and started again,
    then every answer is whole: those of before are finished by the old process, the others go to the other one."""

    def replace(index: int) -> None:
        old = site.gateways[index]
        assert old.stop() == 0
        assert old.leftovers() == []
        site.gateways[index] = site.gateway(site.ports[index])

    answers = asyncio.run(_ask_meanwhile(site, [lambda: replace(0), lambda: replace(1)][:REPLACED]))
    assert [answer for answer in answers if answer.fault] == []
    assert _asked(site) == {f"127.0.0.1:{port}" for port in site.ports}, "both have served"


def test_workers_are_restarted_one_after_the_other_and_no_request_is_lost(site: Site) -> None:
    """What is longer than the worker's drain goes on at the other one."""

    def replace(index: int) -> None:
        assert site.workers[index].stop() == 0
        site.workers[index] = start_worker(site.start, site.address, "again")
        site.workers[index].wait_ready()
        for gateway in site.gateways:
            url = gateway.ready.http or ""
            wait_until(lambda url=url: workers_of(url) == 2, "the worker is back")  # type: ignore[misc]

    answers = asyncio.run(_ask_meanwhile(site, [lambda: replace(0), lambda: replace(1)][:REPLACED]))
    assert [answer for answer in answers if answer.fault] == []


@dataclass(frozen=True)
class Asked:
    """One request that is over, and what was wrong with its answer."""

    seed: int
    fault: str


async def _ask_meanwhile(site: Site, steps: list[Callable[[], None]]) -> list[Asked]:
    """Ask all the time while these steps are done, each with long answers under way; everything that was answered."""
    done: list[Asked] = []
    is_over = asyncio.Event()
    seeds = iter(range(1, 1_000_000))

    async def ask_on(client: openai.AsyncOpenAI) -> None:
        while not is_over.is_set():
            done.append(await _ask(client, next(seeds), SHORT))

    async with site.client() as client:
        askers = [asyncio.create_task(ask_on(client)) for _ in range(ASKERS)]
        for step in steps:
            begun = [asyncio.Event() for _ in range(ASKERS)]
            running = [asyncio.create_task(_ask(client, next(seeds), LONG, event)) for event in begun]
            await asyncio.gather(*(event.wait() for event in begun))
            await asyncio.to_thread(step)
            done += await asyncio.gather(*running)
        is_over.set()
        await asyncio.gather(*askers)
    assert len(done) > 4 * ASKERS
    return done


async def _ask(client: openai.AsyncOpenAI, seed: int, tokens: int, begun: asyncio.Event | None = None) -> Asked:
    prompt = f"number {seed}"
    text = ""
    try:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            seed=seed,
            max_tokens=tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if begun is not None:
                begun.set()
    except (openai.APIError, httpx.HTTPError) as error:
        return Asked(seed, repr(error))
    finally:
        if begun is not None:
            begun.set()
    return Asked(
        seed, "" if text == chain_text(prompt, seed, tokens) else f"{len(text)} characters, not as they should be"
    )


def _asked(site: Site) -> set[str]:
    """The gateways that nginx has passed requests to."""
    lines = re.findall(r" POST .* gateway=(.*) id=", site.nginx.access_log)
    return {gateway for line in lines for gateway in line.split(", ")}


# ---- backups


def test_a_backup_of_a_running_gateway_holds_its_requests(site: Site, tmp_path: Path) -> None:
    """As docs/operate.md has it: while it serves, with sqlite3's own program."""
    gateway, port = site.gateways[0], site.ports[0]
    headers = {"x-request-id": "in-the-backup"}
    body = {"model": MODEL, "prompt": "a", "max_tokens": 1}
    assert httpx.post(f"{gateway.ready.http}/v1/completions", json=body, headers=headers).status_code == 200
    file, copy = site.start.root / f"gateway-{port}.sqlite3", tmp_path / "copy.sqlite3"

    def is_in_the_backup() -> bool:  # it is written once a second
        copy.unlink(missing_ok=True)
        subprocess.run(["sqlite3", str(file), f".backup {copy}"], check=True)
        with closing(sqlite3.connect(copy)) as opened:
            reports = [json.loads(report) for (report,) in opened.execute("SELECT report FROM requests")]
        return "in-the-backup" in [report["request_id"] for report in reports]

    wait_until(is_in_the_backup, "the backup holds the request")
    with closing(sqlite3.connect(copy)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert gateway.is_running
