"""What receipts cost a request: the same answers with and without, in turns, in one process.

    python -m bench.receipts [--requests N] [--tokens N] [--prompt-bytes N]

A worker and a gateway on the network inside one process. With receipts both hash, the worker signs, the gateway checks
and signs back, and the worker checks that: all of it is counted, of both ends together.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import aclosing
from statistics import median

import uvloop

from gateway.interface import Caller, Receipts
from gateway.receipts.witness import Witnesses
from p2pnet.client import generate
from p2pnet.directory import validator
from p2pnet.errors import ReceiptRefused
from p2pnet.identity import Identity
from p2pnet.messages import GenerateRequest, TextPrompt
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.peer import now_ms
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.generate_handler import GenerateHandler
from p2pnet.worker.streams.signing import Signer

WARM_UP = 20
MAX_TURNS = 1000
"""Of the event loop, within which two ends that need no time have parted."""


class Side:
    """A worker and a gateway, both with receipts or both without."""

    def __init__(self, has_receipts: bool) -> None:
        world = MemoryWorld(validator(now_ms))
        self._worker, gateway = Identity.generate(), Identity.generate()
        self._network = world.join(gateway.peer_id)
        self._serving: MemoryNetwork = world.join(self._worker.peer_id)
        catalogue = Catalogue([EchoBackend(EchoOptions(says="numbers", context_length=1 << 20))])
        self._handler = GenerateHandler(catalogue.find, LoadMeter(8, catalogue, now_ms))
        self._handler.signer = Signer(self._worker, now_ms, self._keep) if has_receipts else None
        self._witnesses = Witnesses(gateway.peer_id, gateway) if has_receipts else None
        self.acknowledged = 0
        self.seconds: list[float] = []

    def _keep(self, acknowledgement: Acknowledgement, sealed: bytes) -> None:
        self.acknowledged += 1

    async def serve(self) -> None:
        await self._serving.handle(GENERATE_PROTOCOL, self._handler)

    async def ask(self, request: GenerateRequest) -> None:
        """Once, and until both ends are done with it: nothing else runs here meanwhile."""
        before_s = time.process_time()
        witness = None
        if self._witnesses is not None:
            witness = self._witnesses.of(request, self._worker.peer_id, Caller("bench", receipts=Receipts()), _refuse)
        events = generate(self._network, self._worker.peer_id, request, witness=witness)
        async with aclosing(events):
            async for _ in events:
                pass
        for _ in range(MAX_TURNS):
            if not (self._network.open_streams or self._serving.open_streams):
                break
            await asyncio.sleep(0)
        self.seconds.append(time.process_time() - before_s)


def _refuse(error: ReceiptRefused) -> None:
    raise AssertionError("an honest receipt is refused") from error


async def measure(requests: int, tokens: int, prompt_bytes: int) -> int:
    without, with_receipts = Side(False), Side(True)
    for side in (without, with_receipts):
        await side.serve()
    for number in range(WARM_UP + requests):
        request = GenerateRequest(f"request-{number}", "echo", TextPrompt("x" * prompt_bytes), max_tokens=tokens)
        for side in (without, with_receipts):
            await side.ask(request)
    assert with_receipts.acknowledged == WARM_UP + requests
    ms = [1000 * median(side.seconds[WARM_UP:]) for side in (without, with_receipts)]
    print(f"{tokens} tokens to a prompt of {prompt_bytes} bytes, {requests} requests, CPU time of both ends, median")
    print(f"without {ms[0]:.3f} ms, with {ms[1]:.3f} ms: receipts cost {ms[1] - ms[0]:.3f} ms a request")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt-bytes", type=int, default=2000)
    options = parser.parse_args()
    return uvloop.run(measure(options.requests, options.tokens, options.prompt_bytes))


if __name__ == "__main__":
    raise SystemExit(main())
