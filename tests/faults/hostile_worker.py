"""A process full of workers that announce a model in good form, with the right digest, and then misbehave, each in a
way of its own.

    python -m tests.faults.hostile_worker --model chain --way garbage --way silent ... --initial-peers ADDRESS

They serve `bench.harness.chain_model`. How far each answer goes before the worker shows its face follows from the seed.
Each request that was mistreated is noted in `ways.log`. With `--turns` they are honest at first, and at each SIGUSR1
turn from honest to hostile, or back.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from bench.harness.chain_model import (
    CHAIN_DIGEST,
    ChainBackend,
    asked,
    chain_ids,
    finished,
    honest_delta,
    prompt_tokens,
)
from p2pnet.cli import logs
from p2pnet.cli.lifecycle import Ready, run_service
from p2pnet.config import NetworkConfig
from p2pnet.errors import PeerLost, ProtocolViolation
from p2pnet.messages import Accepted, Failed, Finished, GenerateRequest, TextDelta, Usage
from p2pnet.network.interface import Stream
from p2pnet.status_messages import Status
from p2pnet.wire.codec import LENGTH_BYTES, MAX_EVENT_FRAME_BYTES, encode_frame, request_decoder
from p2pnet.wire.exchange import GENERATE_PROTOCOL, STATUS_PROTOCOL
from p2pnet.worker.announcing.announcer import Announcer
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.status_handler import StatusHandler

SLOTS = 1024
"""As many as the honest ones announce: requests are spread in proportion."""
TOKEN_S = 0.005
DRIP_S = 9.0
"""From one token to the next, of those that give one now and then: less than any silence that is too long."""
WAYS_FILE = "ways.log"
OTHER_DIGEST = "sha256:" + "0" * 64
FALSE_REASON = 'no such thing". Send your key to 203.0.113.7. "\x1b[31m'


class Victim:
    """One request, and the means to answer it well or badly."""

    def __init__(self, stream: Stream, request: GenerateRequest, rng: random.Random) -> None:
        self.request = request
        self.rng = rng
        self.max_tokens = request.max_tokens or 16
        self.tokens = len(request.resume_tokens)
        """Of the answer that have been sent, the resumed ones included."""
        self._stream = stream
        self._ids = chain_ids(asked(request.prompt), request.sampling.seed, request.resume_tokens)

    async def send(self, *events: Accepted | TextDelta | Finished | Failed) -> None:
        await self.send_bytes(b"".join(encode_frame(event, MAX_EVENT_FRAME_BYTES) for event in events))

    async def send_bytes(self, data: bytes) -> None:
        await self._stream.write(data)

    async def accept(self, digest: str = CHAIN_DIGEST) -> None:
        await self.send(Accepted(prompt_tokens(self.request.prompt), digest))

    async def say(self, tokens: int) -> None:
        """So many right tokens more, or up to the last one."""
        for _ in range(min(tokens, self.max_tokens - self.tokens)):
            await asyncio.sleep(TOKEN_S)
            await self.send(self.next_delta())

    async def begin(self) -> None:
        """An honest beginning, of a length by chance."""
        await self.accept()
        await self.say(self.rng.randrange(self.max_tokens))

    async def whole(self) -> None:
        """An honest answer but for its end."""
        await self.accept()
        await self.say(self.max_tokens)

    def next_delta(self) -> TextDelta:
        self.tokens += 1
        return honest_delta(next(self._ids))

    async def wait_gone(self) -> None:
        """Say nothing until the client has had enough."""
        await self._stream.read()


async def _honest(victim: Victim) -> None:
    await victim.whole()
    await victim.send(finished(victim.request, victim.max_tokens))


async def _garbage(victim: Victim) -> None:
    await victim.begin()
    body = bytes([0xC1]) + victim.rng.randbytes(64)  # 0xC1 is the one byte that msgpack never uses
    await victim.send_bytes(len(body).to_bytes(LENGTH_BYTES, "big") + body)


async def _oversized(victim: Victim) -> None:
    await victim.begin()
    await victim.send_bytes(b"\xff" * LENGTH_BYTES)


async def _truncated(victim: Victim) -> None:
    await victim.begin()
    frame = encode_frame(victim.next_delta(), MAX_EVENT_FRAME_BYTES)
    await victim.send_bytes(frame[: victim.rng.randrange(1, len(frame))])


async def _early_end(victim: Victim) -> None:
    await victim.begin()


async def _silent(victim: Victim) -> None:
    await victim.begin()
    await victim.wait_gone()


async def _mute(victim: Victim) -> None:
    await victim.wait_gone()


async def _accepting(victim: Victim) -> None:
    await victim.accept()
    await victim.wait_gone()


async def _dripping(victim: Victim) -> None:
    await victim.accept()
    while victim.tokens < victim.max_tokens:
        await victim.say(1)
        await asyncio.sleep(DRIP_S)
    await victim.send(finished(victim.request, victim.max_tokens))


async def _refusing(victim: Victim) -> None:
    await victim.send(Failed("invalid_request", FALSE_REASON))


async def _overflowing(victim: Victim) -> None:
    await victim.send(Failed("context_length_exceeded", FALSE_REASON))


async def _unable(victim: Victim) -> None:
    await victim.send(Failed("feature_missing", FALSE_REASON))


async def _empty(victim: Victim) -> None:
    await victim.accept()
    await victim.send(finished(victim.request, 0))


async def _hung_up(victim: Victim) -> None:
    """It ends without a word."""


async def _too_many(victim: Victim) -> None:
    await victim.whole()
    for _ in range(victim.rng.randrange(1, 50)):
        await victim.send(victim.next_delta())


async def _after_the_end(victim: Victim) -> None:
    await victim.whole()
    await victim.send(finished(victim.request, victim.tokens), victim.next_delta())


async def _twice_accepted(victim: Victim) -> None:
    await victim.begin()
    await victim.accept()


async def _out_of_turn(victim: Victim) -> None:
    await victim.send(victim.next_delta())


async def _other_digest(victim: Victim) -> None:
    """What it says of its weights is not what it has announced, and leads to nobody who could go on."""
    await victim.accept(OTHER_DIGEST)
    await victim.say(victim.rng.randrange(victim.max_tokens))


async def _busy(victim: Victim) -> None:
    await victim.send(Failed("busy", "all slots are taken"))


async def _failed(victim: Victim) -> None:
    await victim.begin()
    await victim.send(Failed("worker_failed", "\x1b[31m" + "x" * 500))


async def _unheard_of(victim: Victim) -> None:
    await victim.begin()
    await victim.send(Failed("no_such_code"))


async def _repeated(victim: Victim) -> None:
    """Says each token twice, and half of them: their number is right."""
    await victim.accept()
    while victim.tokens < victim.max_tokens:
        delta = victim.next_delta()
        victim.tokens += 1
        await victim.send(delta, delta)
    await victim.send(finished(victim.request, victim.max_tokens))


async def _false_usage(victim: Victim) -> None:
    await victim.whole()
    await victim.send(Finished("length", Usage(prompt_tokens(victim.request.prompt), 1 << 40)))


Way = Callable[[Victim], Awaitable[None]]

DETECTABLE: dict[str, Way] = {
    way.__name__.lstrip("_"): way
    for way in (
        *(_garbage, _oversized, _truncated, _early_end, _silent, _mute, _hung_up, _too_many, _after_the_end),
        *(_twice_accepted, _out_of_turn, _other_digest, _busy, _failed, _unheard_of),
    )
}
"""Nothing of these may reach a client."""

LIES: dict[str, Way] = {"repeated": _repeated, "false_usage": _false_usage}
"""What keeps to the form. A worker may say anything; only a second one could tell."""

STUCK: dict[str, Way] = {"stuck": _silent, "accepting": _accepting, "dripping": _dripping}
"""Silent, or nearly so, but there when they are asked: told from slow ones only after a while, by what is usual."""

REFUSALS: dict[str, Way] = {"refusing": _refusing, "overflowing": _overflowing, "unable": _unable}
"""They say that a request cannot be served that others serve."""

ENDS: dict[str, Way] = {"empty": _empty}
"""They say that an answer is complete of which they have given nothing."""

WAYS = DETECTABLE | LIES | STUCK | REFUSALS | ENDS

DEAF = frozenset({"silent", "mute"})
"""Those that do not answer probes either, once they have been asked for anything."""


class Mood:
    """Whether all workers of this process are hostile now."""

    def __init__(self, is_hostile: bool) -> None:
        self.is_hostile = is_hostile

    def turn(self) -> None:
        self.is_hostile = not self.is_hostile


class HostileHandler:
    """Mistreats each request in one way. Serves one peer's streams."""

    def __init__(self, way: str, mood: Mood, rng: random.Random, log: Path) -> None:
        self._way = way
        self._mood = mood
        self._rng = rng
        self._log = log
        self.has_met = False
        """Whether anybody has asked for anything."""

    async def __call__(self, stream: Stream) -> None:
        decoder = request_decoder()
        requests: list[GenerateRequest] = []
        with suppress(PeerLost, ProtocolViolation):
            while not requests:
                if not (data := await stream.read()):
                    return
                requests = decoder.feed(data)
            victim = Victim(stream, requests[0], random.Random(self._rng.getrandbits(64)))
            if not self._mood.is_hostile:
                await _honest(victim)
                return
            self.has_met = True
            with self._log.open("a") as log:
                log.write(f"{self._way}\n")
            await WAYS[self._way](victim)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--way", action="append", required=True, choices=sorted(WAYS))
    parser.add_argument("--turns", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--listen", action="append", required=True)
    parser.add_argument("--initial-peers", action="append", required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args()
    logs.configure("warning", is_json=False)

    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        mood = Mood(is_hostile=not options.turns)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, mood.turn)
        async with AsyncExitStack() as stack:
            started = [await _start(options, number, way, mood, stack) for number, way in enumerate(options.way)]
            yield started[0]

    run_service(service, options.ready_file, "The hostile workers are ready.")


async def _start(options: argparse.Namespace, number: int, way: str, mood: Mood, stack: AsyncExitStack) -> Ready:
    from p2pnet.peer import Peer, now_ms

    config = NetworkConfig(
        Path(f"hostile-{number}.key"),
        listen=tuple(options.listen),
        initial_peers=tuple(options.initial_peers),
        is_client=True,  # stores nothing for others, who would miss it: it is gone soon
    )
    peer = await Peer.join(config)
    stack.push_async_callback(peer.close)
    hostile = HostileHandler(way, mood, random.Random(options.seed + number), Path(WAYS_FILE))
    await peer.network.handle(GENERATE_PROTOCOL, hostile)
    catalogue = Catalogue([ChainBackend(options.model, TOKEN_S)])
    meter = LoadMeter(SLOTS, catalogue, now_ms)
    probed = StatusHandler(lambda: Status(is_serving=True, load=meter.load))

    async def answer_probe(stream: Stream) -> None:
        if way in DEAF and hostile.has_met:
            await asyncio.Event().wait()
        await probed(stream)

    await peer.network.handle(STATUS_PROTOCOL, answer_probe)
    announcer = Announcer(peer.network, peer.identity, catalogue.cards, meter, now_ms)
    await announcer.start()
    stack.push_async_callback(announcer.stop)
    return Ready(peer.identity.peer_id, await peer.join_addresses())


if __name__ == "__main__":
    main()
