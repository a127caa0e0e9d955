"""A gateway that audits, and workers of a model of 64 words that is a table: what a cheat gives in its place is exact.

Its margins are those of docs/protocol.md. Workers sit in subnets of their own unless a test says otherwise.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.audits.audits import Audits
from gateway.audits.modes import AuditConfig, AuditMode
from gateway.dispatch.dispatcher import DispatchConfig
from gateway.interface import Caller
from gateway.peers.flags import Flag
from gateway.receipts.witness import Witnesses
from gateway.serving import Serving, ServingConfig
from gateway.standing.book import Book
from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import entries_for
from p2pnet.messages import Accepted, Failed, Finished, FinishReason, GenerateRequest, Sampling, TextDelta, Usage
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.records import seal
from p2pnet.score_messages import MAX_MARGIN, Scored, ScoreRequest, text_hash
from p2pnet.wire.codec import encode_frame, request_decoder, score_request_decoder
from p2pnet.wire.exchange import GENERATE_PROTOCOL, SCORE_PROTOCOL, STATUS_PROTOCOL
from tests.gateway.story_swarm import PATIENT, Swarm, is_there
from tests.stories import ask, capability, card, peer, settle

MODEL = "table"
SAMPLER = "gumbel-1"
DIGEST = "sha256:" + "7" * 64
WORDS = 64
END = 0
"""The id of the end token."""

PROMPTS = 16
PROMPT_TOKENS = 3
"""Of each of them, as whoever is honest says."""

HONEST_ROUNDING = 1e-4
"""Of a logit, from one machine to another: more than float32 shows."""

Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """Logits by the last word and by the prompt. `rounding` is what this machine is off by."""

    seed: int = 1
    rounding: float = HONEST_ROUNDING
    spread: float = 3.0
    drift: float = 0.0
    """How far the weights are from those of the seed, in logits: those of fewer bits are."""
    end_bias: float = -2.0

    def logits(self, prompt: int, last: int) -> Logits:
        return _logits(self, prompt % PROMPTS, last)


@lru_cache(maxsize=1 << 14)
def _logits(model: Model, prompt: int, last: int) -> Logits:
    truth = np.random.default_rng((model.seed, prompt, last)).standard_normal(WORDS) * model.spread
    truth[END] += model.end_bias
    return truth + model.drift * np.random.default_rng((99, prompt, last)).standard_normal(WORDS)


@lru_cache(maxsize=1 << 10)
def noise(seed: int, position: int) -> Logits:
    return np.random.default_rng((seed, position)).gumbel(size=WORDS)


def prompt_of(request: GenerateRequest) -> int:
    return zlib.crc32(msgspec.msgpack.encode(request.prompt))


def scores(model: Model, prompt: int, sampling: Sampling, last: int, position: int) -> Logits:
    """What the sampler takes the largest of, in logits."""
    logits = model.logits(prompt, last)
    return logits + sampling.temperature * noise(sampling.seed, position) if sampling.temperature else logits


@dataclass(frozen=True)
class Answer:
    """`says` follows the text of each word, and `prompt_tokens` is how many the worker says that the prompt has."""

    ids: tuple[int, ...]
    reason: FinishReason
    says: str = ""
    prompt_tokens: int = PROMPT_TOKENS


def answer(model: Model, request: GenerateRequest, prompt: int | None = None) -> Answer:
    """The rest of an answer."""
    prompt = prompt_of(request) if prompt is None else prompt
    ids, limit = list(request.resume_tokens), request.max_tokens or 32
    while len(ids) < limit:
        last = ids[-1] if ids else 1
        word = int(np.argmax(scores(model, prompt, request.sampling, last, len(ids))))
        if word == END:
            return Answer(tuple(ids[len(request.resume_tokens) :]), "stop")
        ids.append(word)
    return Answer(tuple(ids[len(request.resume_tokens) :]), "length")


def margins(model: Model, request: ScoreRequest, machine: int = 0) -> tuple[list[float], float | None]:
    """Those of the tokens and of the end, as an honest auditor finds them on its machine."""
    asked, ids = request.request, list(request.request.resume_tokens)
    prompt, found = prompt_of(asked), []

    def row(word: int) -> float:
        by_score = scores(model, prompt, asked.sampling, ids[-1] if ids else 1, len(ids))
        if model.rounding:
            by_score = by_score + model.rounding * np.random.default_rng((machine, len(ids))).standard_normal(WORDS)
        return min(MAX_MARGIN, float(by_score.max() - by_score[word]))

    for word in request.token_ids:
        found.append(row(word))
        ids.append(word)
    if request.reason is None:
        return found, None
    if request.reason == "length":
        return found, 0.0 if len(ids) == (asked.max_tokens or 32) else MAX_MARGIN
    return found, row(END)


Give = Callable[[GenerateRequest], Answer]
Say = Callable[[ScoreRequest], Sequence[Accepted | Scored | Finished | Failed]]


def honest_answer(request: GenerateRequest) -> Answer:
    return answer(Model(), request)


def honest_scores(request: ScoreRequest) -> Sequence[Accepted | Scored | Finished | Failed]:
    found, end = margins(Model(), request, machine=zlib.crc32(request.request_id.encode()))
    text = (
        None
        if request.text_hash is None
        else MAX_MARGIN * (request.text_hash != text_hash(deltas_of(request.token_ids)))
    )
    return said(found, end, text)


def deltas_of(ids: Sequence[int], says: str = "") -> Sequence[TextDelta]:
    return [TextDelta(f" {word}{says}", (word,)) for word in ids]


def said(
    found: Sequence[float], end: float | None, text: float | None = None, prompt_tokens: int = PROMPT_TOKENS
) -> Sequence[Accepted | Scored | Finished | Failed]:
    accepted = Accepted(prompt_tokens, DIGEST, sampler=SAMPLER)
    return accepted, Scored.of(found, end, text), Finished("stop", Usage(prompt_tokens, 0))


def passes_all(request: ScoreRequest) -> Sequence[Accepted | Scored | Finished | Failed]:
    return said([0.0] * len(request.token_ids), None if request.reason is None else 0.0)


def accuses_all(request: ScoreRequest) -> Sequence[Accepted | Scored | Finished | Failed]:
    return said([MAX_MARGIN] * len(request.token_ids), None if request.reason is None else MAX_MARGIN)


@dataclass
class Peer:
    """A worker of the story, and what it was asked."""

    peer_id: str
    requests: list[GenerateRequest] = field(default_factory=list)
    looks: list[ScoreRequest] = field(default_factory=list)


class AuditedSwarm(Swarm):
    """Time stands still but when a test moves it."""

    def __init__(self, config: AuditConfig, seed: int = 1) -> None:
        self._audit_config = config
        self._subnets = 0
        self._sent = 0
        super().__init__(seed)

    def serve(self, wait_s: float = 0.0, timeouts: ExchangeTimeouts = PATIENT, seed: int = 1) -> None:
        self.book = Book()
        self.serving = Serving(
            self.network,
            self.peers,
            ServingConfig(dispatch=DispatchConfig(wait_s, timeouts), audits=self._audit_config),
            self.reports.append,
            rng=random.Random(seed),
            now_s=lambda: self.now_s,
            witnesses=Witnesses(self.network.peer_id, book=self.book),
        )

    @property
    def audits(self) -> Audits:
        return self.serving.audits

    async def join(
        self,
        name: str,
        give: Give = honest_answer,
        say: Say = honest_scores,
        subnet: int | None = None,
        features: Sequence[str] = ("chat", "text", "resume", "score"),
        score: StreamHandler | None = None,
        holds: str | None = None,
        sampler: str = SAMPLER,
    ) -> Peer:
        """A worker that gives and says so. `score` answers streams of looks in the place of `say`. Requests whose id is
        `holds` it begins, and does not end."""
        identity, made = peer(name), Peer(peer(name).peer_id)
        network = self.world.join(identity.peer_id)
        self._running.push_async_callback(network.kill)

        async def generate(stream: Stream) -> None:
            (request,) = await _request(stream, request_decoder())
            made.requests.append(request)
            given = give(request)
            is_held = request.request_id == holds
            ids = given.ids[: len(given.ids) // 2] if is_held else given.ids
            before = ScoreRequest(msgspec.structs.replace(request, resume_tokens=()), request.resume_tokens)
            scored = [each for each in say(before) if isinstance(each, Scored)] if request.score_resume else []
            accepted = Accepted(given.prompt_tokens, DIGEST, sampler=sampler)
            events = [accepted, *scored, *deltas_of(ids, given.says)]
            end = [] if is_held else [Finished(given.reason, Usage(given.prompt_tokens, len(given.ids)))]
            await stream.write(b"".join(encode_frame(event, 1 << 20) for event in (*events, *end)))
            if is_held:
                await stream.read()

        async def look(stream: Stream) -> None:
            (request,) = await _request(stream, score_request_decoder())
            made.looks.append(request)
            await stream.write(b"".join(encode_frame(event, 1 << 20) for event in say(request)))

        await network.handle(GENERATE_PROTOCOL, generate)
        await network.handle(SCORE_PROTOCOL, score or look)
        await network.handle(STATUS_PROTOCOL, is_there)
        self._subnets += 1
        number = self._subnets if subnet is None else subnet
        record = capability(
            identity,
            models=(card(MODEL, features=tuple(features), digest=DIGEST, sampler=sampler),),
            addresses=(f"/ip4/8.8.{number}.7/tcp/31337/p2p/{identity.peer_id}",),
            protocols=(GENERATE_PROTOCOL, STATUS_PROTOCOL, SCORE_PROTOCOL),
            slots=64,
        )
        await network.store(entries_for(record, seal(record, identity)))
        await self.refresh()
        return made

    async def ask(self, worker: Peer | None = None, caller: Caller | None = None, **fields: object) -> None:
        """One request of a client, to this worker if one is named, and all that is looked at because of it."""
        self._sent += 1
        given = {"max_tokens": 24, "sampling": Sampling(self._sent), **fields}
        request = ask(MODEL, f"question {self._sent}", request_id=f"request-{self._sent}", **given)
        if worker is not None:
            for known in self.peers.workers:
                known.refused_s = float("-inf")
                pace = known.pace((MODEL, "generate"))
                fast = known.peer_id == worker.peer_id
                pace.first_token_s.note(0.1 if fast else 1000.0, self.now_s)
                pace.token_s.note(0.1 if fast else 1000.0, self.now_s)
        async for _ in self.serving.dispatcher.run(request, caller or Caller("somebody")):
            pass
        await self.look()

    async def look(self) -> None:
        """Until all that can be looked at now is."""
        self.audits.look_now()
        await settle(lambda: not self.audits._under_way, 100_000)

    def flag_of(self, worker: Peer) -> Flag | None:
        return self.peers.flags.of(worker.peer_id)

    async def tokens_until_flagged(self, cheat: Peer, max_answers: int = 2_000) -> int:
        """Clients ask the cheat until it is flagged: how many tokens were looked at by then."""
        for _ in range(max_answers):
            await self.ask(cheat)
            if (flag := self.flag_of(cheat)) is not None:
                return flag.tokens
        raise AssertionError(f"not flagged after {max_answers} answers")


async def _request(stream: Stream, decoder: object) -> Sequence[object]:
    found: Sequence[object] = ()
    while not found:
        found = decoder.feed(await stream.read())  # type: ignore[attr-defined]
    return found


@asynccontextmanager
async def audited_swarm(
    mode: AuditMode = AuditMode.ALL, trusted: frozenset[str] = frozenset(), seed: int = 1
) -> AsyncIterator[AuditedSwarm]:
    made = AuditedSwarm(AuditConfig(mode, trusted), seed)
    try:
        yield made
    finally:
        await made.close()


def changed(request: GenerateRequest, **sampling: object) -> GenerateRequest:
    """The same request with other sampling: what a cheat makes of it."""
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, **sampling))


WRONG = replace(Model(), seed=2)
"""Another model of the same vocabulary."""
