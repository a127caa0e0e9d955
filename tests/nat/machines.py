"""What the stories of NAT share: peers on machines of their own, and requests that are made on one of them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.nat.topology import Host
from tests.processes import Process, Start, run, wait_until

MODEL = "words"
TOKENS = 2000
NUMBERS = 40_000
NUMBER_BYTES = 250
"""10 MB together."""
TOKEN_DELAY_S = 0.002
WORDS = " ".join(f"word{n}" for n in range(TOKENS))
LISTEN = ("--listen", "/ip4/0.0.0.0/tcp/31337", "--listen", "/ip4/0.0.0.0/udp/31337/quic-v1")
LISTEN6 = ("--listen", "/ip6/::/tcp/31337", "--listen", "/ip6/::/udp/31337/quic-v1")

SERVED_S = 10.0
"""From the start of the worker's process to the first token."""


def on_this_machine(seconds: float) -> float:
    """A bound that holds where nobody else uses the machine, for one that others are using: as in a run of all tests,
    which starts three networks at a time."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def start_gateway(start: Start, host: Host, *addresses: str, flags: Sequence[str] = LISTEN) -> Process:
    arguments = ("gateway", "--port", "0", *flags, *joining(addresses))
    return start(*arguments, prefix=host.prefix)


def start_bootstrap(start: Start, host: Host, *arguments: str) -> Process:
    return start("bootstrap", *LISTEN, *arguments, prefix=host.prefix)


def start_worker(
    start: Start,
    host: Host,
    *addresses: str,
    text: str = WORDS,
    token_delay_s: float = TOKEN_DELAY_S,
    flags: Sequence[str] = LISTEN,
) -> Process:
    """What it says is written down: the network is looked at here."""
    script = start.root / "script.json"
    says = {"answers": [{"text": text}], "token_delay_s": token_delay_s, "context_length": 2 * len(text.split())}
    script.write_text(json.dumps([{"model": MODEL, **says}]))
    arguments = ("serve", "--script", str(script), *flags, *joining(addresses))
    return start(*arguments, prefix=host.prefix)


def book() -> str:
    """Numbers behind so much space that each, with it, is a token of the scripted model of so many bytes."""
    return "".join(str(number).rjust(NUMBER_BYTES) for number in range(NUMBERS))


def joining(addresses: Sequence[str]) -> list[str]:
    return [word for address in addresses for word in ("--initial-peers", address)]


def address_at(process: Process, host: Host, port: int = 31337) -> str:
    """The address through which others on the segment join."""
    return _beginning(process, f"/ip4/{host.address}/tcp/{port}/")


def quic_at(process: Process, host: Host) -> str:
    """The same by QUIC."""
    return _beginning(process, f"/ip4/{host.address}/udp/31337/quic-v1/")


def address6_at(process: Process, host: Host) -> str:
    """The same over IPv6."""
    return _beginning(process, f"/ip6/{host.address6}/tcp/31337/")


def _beginning(process: Process, beginning: str) -> str:
    return next(address for address in process.ready.addresses if address.startswith(beginning))


def assert_unreachable(seeker: Host, hidden: Host, router: Host) -> None:
    """Nobody outside can open a connection to the hidden machine, nor to its router."""
    for target in (hidden.address, router.address):
        probe = subprocess.run(
            [*seeker.prefix, "curl", "-s", "--connect-timeout", "1", f"http://{target}:31337"],
            capture_output=True,
            check=False,
        )
        assert probe.returncode in (7, 28), f"{target} can be reached from outside"  # no route, or no answer


def wait_for_circuit(
    start: Start, seeker: Host, gateway: Process, address: str, worker: Process
) -> dict[str, list[str]]:
    """The worker's record, once the directory has it with an address through a relay."""
    found: list[dict[str, list[str]]] = []

    def is_announced() -> bool:
        outcome = run("peers", "--json", "--initial-peers", address, root=start.root, prefix=seeker.prefix)
        assert outcome.status == 0, outcome.stderr
        records = [row["worker"] for row in json.loads(outcome.stdout)]
        found[:] = [record for record in records if record["peer_id"] == worker.ready.peer_id]
        return any("/p2p-circuit" in dialled for record in found for dialled in record["addresses"])

    worker.wait_ready()
    models = f"{gateway.ready.http}/v1/models"  # cheaper to ask again and again than the directory is
    wait_until(lambda: MODEL in seeker.run("curl", "-s", models), "the gateway lists the model")
    wait_until(is_announced, "the directory has the worker with a circuit address")
    return found[0]


def record_of(start: Start, seeker: Host, address: str, worker: Process) -> list[str]:
    """The addresses in a worker's record, as the directory has it; none while it is not there."""
    outcome = run("peers", "--json", "--initial-peers", address, root=start.root, prefix=seeker.prefix)
    records = [row["worker"] for row in json.loads(outcome.stdout)]
    found = [list(record["addresses"]) for record in records if record["peer_id"] == worker.ready.peer_id]
    return found[0] if found else []


def reached(host: Host, gateway: Process) -> str:
    """How the gateway says that it reaches its only worker."""
    (worker,) = json.loads(host.run("curl", "-s", f"{gateway.ready.http}/p2pnet/v1/overview"))["workers"]["workers"]
    return str(worker["reached"])


@dataclass
class Completion:
    """A streamed completion as curl saw it."""

    is_done: bool = False
    finish_reason: str | None = None
    completion_tokens: int = 0
    first_token_s: float = 0.0
    longest_gap_s: float = 0.0
    parts: list[str] = field(default_factory=list)
    _last_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def note(self, line: str) -> None:
        """A line of the stream."""
        data = line.removeprefix("data: ").strip()
        if not line.startswith("data: "):
            assert data == "" or data.startswith(":"), line  # a comment: that it waits, or that it is there
            return
        assert not self.is_done
        if data == "[DONE]":
            self.is_done = True
        else:
            self._note_event(json.loads(data))

    def _note_event(self, event: dict[str, Any]) -> None:
        assert "error" not in event, event
        now_s = time.monotonic()
        self.first_token_s = self.first_token_s or now_s
        self.longest_gap_s = max(self.longest_gap_s, now_s - (self._last_s or now_s))
        self._last_s = now_s
        for choice in event["choices"]:
            self.finish_reason = choice["finish_reason"]
            self.parts.append(choice["text"])
        if event.get("usage"):
            self.completion_tokens = event["usage"]["completion_tokens"]


class Stream:
    """One that is under way."""

    def __init__(self, curl: subprocess.Popen[str]) -> None:
        self._curl = curl
        self._completion = Completion()

    def wait_parts(self, count: int) -> None:
        assert self._curl.stdout is not None
        while len(self._completion.parts) < count:
            self._completion.note(self._curl.stdout.readline())

    def finish(self) -> Completion:
        """All of it."""
        with self._curl:
            assert self._curl.stdout is not None
            for line in self._curl.stdout:
                self._completion.note(line)
        return self._completion


def begin(host: Host, gateway: Process, tokens: int = TOKENS) -> Stream:
    """Ask the gateway on `host`, on that same machine, for exactly so many tokens."""
    body = {
        "model": MODEL,
        "prompt": "What is p2pnet?",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    assert gateway.ready.http is not None
    url = f"{gateway.ready.http}/v1/completions"
    command = [*host.prefix, "curl", "-sN", "--max-time", "120", url, "-d", json.dumps(body)]
    return Stream(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


def complete(host: Host, gateway: Process, tokens: int = TOKENS) -> Completion:
    """The same, to its end."""
    return begin(host, gateway, tokens).finish()
