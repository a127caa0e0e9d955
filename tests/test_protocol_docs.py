"""docs/protocol.md says what the code does: its examples byte for byte, its fields, defaults, limits and codes."""

from __future__ import annotations

import math
import re
import struct
from hashlib import blake2b, sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.http.failures import OUTCOMES
from p2pnet import (
    answer_forms,
    claims,
    client,
    config,
    directory,
    embed_messages,
    errors,
    features,
    images,
    messages,
    model_shards,
    records,
    rerank_messages,
    score_messages,
    stage_messages,
    tokenize_messages,
)
from p2pnet.answer_forms import JsonSchemaFormat, RegexFormat
from p2pnet.claims import Claim, claim_key, read_claim
from p2pnet.directory import keys_of, model_key, shard_of
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.identity import Identity
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Failed,
    Finished,
    GenerateRequest,
    ImagePart,
    Load,
    Measure,
    Message,
    Sampling,
    TextDelta,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    Tool,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from p2pnet.network import kept_streams
from p2pnet.network.dht import answering, call_limits, calls, contact, lookup, storage, values
from p2pnet.network.dht import messages as dht_messages
from p2pnet.network.hivemind import joining, p2pd_stream, streams
from p2pnet.network.interface import key_id
from p2pnet.receipts import statement, vouch
from p2pnet.receipts.account import Account, Parties
from p2pnet.receipts.hashing import request_hash
from p2pnet.receipts.signed import Acknowledged, Acknowledgement, Receipt
from p2pnet.receipts.statement import open_statement, seal_statement
from p2pnet.receipts.vouch import VOUCH_DOMAIN, Vouch
from p2pnet.records import (
    CapabilityRecord,
    IncompleteModel,
    LoadRecord,
    ModelCard,
    PrivateRecord,
    StageRecord,
    open_record,
    seal,
)
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.score_messages import Scored, ScoreRequest, text_hash
from p2pnet.stage_messages import (
    Copy,
    Hop,
    Piece,
    StageOpen,
    StagePassed,
    StagePing,
    StagePong,
    StageReady,
    StageRefused,
    StageReplay,
    StageResult,
    StageRow,
)
from p2pnet.status_messages import Announced, Status, StatusRequest, WatchRequest
from p2pnet.swarm import hello, invitation, revocations
from p2pnet.swarm import values as swarm_values
from p2pnet.swarm.certificates import Certificate, Delegation, certify, delegate
from p2pnet.swarm.hello import Hello, opening_context
from p2pnet.swarm.invitation import Invitation, read_invitation
from p2pnet.swarm.register import Register
from p2pnet.swarm.revocations import RevocationList, seal_revocations
from p2pnet.swarm.secret import SwarmSecret
from p2pnet.swarm.values import Boxed, box_context
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.wire import answer_limits, codec, stage_frames, tokens
from p2pnet.wire.codec import (
    LENGTH_BYTES,
    MAX_ACKNOWLEDGED_FRAME_BYTES,
    MAX_EMBED_EVENT_FRAME_BYTES,
    MAX_EVENT_FRAME_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    MAX_RERANK_EVENT_FRAME_BYTES,
    MAX_SCORE_EVENT_FRAME_BYTES,
    MAX_STATUS_FRAME_BYTES,
    MAX_TOKENIZE_EVENT_FRAME_BYTES,
    encode_frame,
)
from p2pnet.wire.stage_frames import StageFrame, encode_stage_frame, to_driver_decoder, to_stage_decoder
from p2pnet.worker.engine.noise import Noise
from p2pnet.worker.engine.sampler import SAMPLER
from p2pnet.worker.stages import handler, links, replays, sessions, shelf
from p2pnet.worker.streams import arrivals, backend_stream_handler, guard, idle, watchers
from tests.images import png

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")

WORKER = Identity.from_seed(bytes(range(32)))
ISSUED_MS = 1_800_000_000_000
DIGEST = "sha256:" + "ab" * 32

REQUEST = GenerateRequest(
    request_id="r1",
    model="tiny",
    prompt=ChatPrompt((Message("user", "Hi"),)),
    sampling=Sampling(seed=7, temperature=0.5),
    max_tokens=16,
)
PIXEL = png()
IMAGE_REQUEST = msgspec.structs.replace(
    REQUEST, prompt=ChatPrompt((Message("user", "Hi", images=(ImagePart(PIXEL),)),))
)
EVENTS = {
    "accepted": Accepted(10, DIGEST, Load(running=0, queued=1, slots=8)),
    "delta": TextDelta("Hello!", (72, 9)),
    "finished": Finished("stop", Usage(10, 3), Load(running=1, queued=0, slots=8)),
    "failed": Failed("busy", "all 8 places for this model are taken"),
}
EMBED_REQUEST = EmbedRequest("r2", "tiny", (TextPrompt("Hi"), TokenPrompt((72, 9))), dimensions=2)
EMBEDDING = Embedding(1, struct.pack("<2f", 0.6, -0.8))
SCORE_REQUEST = ScoreRequest(
    msgspec.structs.replace(REQUEST, digest=DIGEST, sampler=SAMPLER),
    (72, 9),
    "stop",
    text_hash=text_hash([TextDelta("Hello!", (72, 9))]),
)
SCORED = Scored.of((0.0, 0.25), 0.0, 0.0)
RERANK_REQUEST = RerankRequest("r5", "ranks", "Which?", ("this", "that"))
RELEVANCE = Relevance(1, 0.25)
TOKENIZE_REQUEST = TokenizeRequest("r4", "tiny", TextPrompt("Hi"), "names")
TOKENIZED = Tokenized((72, 9), ("H", "i"))
ANNOUNCED = Announced(b"\x01\x02\x03")
STATUS = Status(True, Load(2, 1, 8, ISSUED_MS), ISSUED_MS)
CAPABILITY = CapabilityRecord(
    peer_id=WORKER.peer_id,
    sequence=ISSUED_MS,
    issued_ms=ISSUED_MS,
    expires_ms=ISSUED_MS + 180_000,
    models=(ModelCard("tiny", DIGEST, 4096, features=("chat", "text")),),
    addresses=(f"/ip4/203.0.113.7/tcp/31337/p2p/{WORKER.peer_id}",),
    protocols=("/p2pnet/generate/1",),
    slots=8,
    agent="p2pnet/0.1.0",
)
LOAD = LoadRecord(
    peer_id=WORKER.peer_id,
    sequence=ISSUED_MS + 1,
    issued_ms=ISSUED_MS + 1,
    expires_ms=ISSUED_MS + 30_001,
    load=Load(1, 0, 8, ISSUED_MS + 1, decode_tokens_per_s=Measure(12.5, ISSUED_MS - 999)),
)
TICKET = bytes(range(16))
STAGE_OPEN = StageOpen(DIGEST, 0, 12, TICKET)
STAGE_ROW = StageFrame(
    StageRow(TICKET, 1, 3, pieces=(Piece(1, 0, 2), Piece(2, 0, 1, 1)), route=(Hop(WORKER.peer_id, bytes(16)),)),
    struct.pack("<9f", *(index / 2 for index in range(9))),
)
STAGE_REPLAY = StageReplay(TICKET, 2, (Piece(1, 0, 2), Piece(2, 0, 1)), (Hop(WORKER.peer_id, b"\1" * 16),))
STAGE_DRAFTS = StageFrame(StageRow(TICKET, 2, 1, pieces=(Piece(1, 2, 3, 3),)), struct.pack("<3f", 0.0, 0.5, 1.0))
STAGE_AFTER = StageFrame(StageRow(TICKET, 3, 1, pieces=(Piece(1, 3, 1, 1),)), struct.pack("<f", 1.5))
STAGE_RESULT = StageFrame(StageResult(1, 3, tokens=1), struct.pack("<3f", 3.0, 3.5, 4.0))
STAGE_REFUSED = StageRefused("sequence_gone", "what comes before position 2 is not here", 1)
STAGE = StageRecord(
    peer_id=WORKER.peer_id,
    sequence=ISSUED_MS,
    issued_ms=ISSUED_MS,
    expires_ms=ISSUED_MS + 30_000,
    digest=DIGEST,
    first=0,
    last=12,
    layers=24,
    addresses=CAPABILITY.addresses,
)
PAYLOAD = msgspec.msgpack.encode(CAPABILITY)
SIGNED = b"".join(len(part).to_bytes(4, "big") + part for part in (records.SIGNATURE_DOMAIN.encode(), PAYLOAD))


def hex_examples() -> dict[str, bytes]:
    """What each named block of hexadecimal on the page must be."""
    frames = {name: encode_frame(event, MAX_EVENT_FRAME_BYTES) for name, event in EVENTS.items()}
    return (
        frames
        | swarm_examples()
        | receipt_examples()
        | {
            "key-file": WORKER.to_bytes(),
            "generate": encode_frame(REQUEST, MAX_REQUEST_FRAME_BYTES),
            "generate-image": encode_frame(IMAGE_REQUEST, MAX_REQUEST_FRAME_BYTES),
            "embed": encode_frame(EMBED_REQUEST, MAX_REQUEST_FRAME_BYTES),
            "embedding": encode_frame(EMBEDDING, MAX_EMBED_EVENT_FRAME_BYTES),
            "score": encode_frame(SCORE_REQUEST, MAX_REQUEST_FRAME_BYTES),
            "scored": encode_frame(SCORED, MAX_SCORE_EVENT_FRAME_BYTES),
            "rerank": encode_frame(RERANK_REQUEST, MAX_REQUEST_FRAME_BYTES),
            "relevance": encode_frame(RELEVANCE, MAX_RERANK_EVENT_FRAME_BYTES),
            "tokenize": encode_frame(TOKENIZE_REQUEST, MAX_REQUEST_FRAME_BYTES),
            "tokenized": encode_frame(TOKENIZED, MAX_TOKENIZE_EVENT_FRAME_BYTES),
            "probe": encode_frame(StatusRequest(), MAX_STATUS_FRAME_BYTES),
            "status": encode_frame(STATUS, MAX_STATUS_FRAME_BYTES),
            "watch": encode_frame(WatchRequest(), MAX_STATUS_FRAME_BYTES),
            "announced": encode_frame(ANNOUNCED, codec.MAX_WATCH_FRAME_BYTES),
            "payload": PAYLOAD,
            "signed-prefix": SIGNED.removesuffix(PAYLOAD),
            "signature": WORKER.sign(records.SIGNATURE_DOMAIN, PAYLOAD),
            "capability": seal(CAPABILITY, WORKER),
            "load": seal(LOAD, WORKER),
            "stage-open": encode_stage_frame(STAGE_OPEN),
            "stage-row": encode_stage_frame(STAGE_ROW.header, STAGE_ROW.body),
            "stage-replay": encode_stage_frame(STAGE_REPLAY),
            "stage-drafts": encode_stage_frame(STAGE_DRAFTS.header, STAGE_DRAFTS.body),
            "stage-after-drafts": encode_stage_frame(STAGE_AFTER.header, STAGE_AFTER.body),
            "stage-ping": encode_stage_frame(StagePing()),
            "stage-pong": encode_stage_frame(StagePong()),
            "stage-result": encode_stage_frame(STAGE_RESULT.header, STAGE_RESULT.body),
            "stage-refused": encode_stage_frame(STAGE_REFUSED),
        }
    )


GATEWAY = Identity.from_seed(bytes([4]) * 32)


def receipt_examples() -> dict[str, bytes]:
    body = encode_frame(REQUEST, MAX_REQUEST_FRAME_BYTES)[LENGTH_BYTES:]
    account = Account(Parties(WORKER.peer_id, GATEWAY.peer_id), REQUEST, request_hash(body), ISSUED_MS)
    accepted, delta, finished = EVENTS["accepted"], EVENTS["delta"], EVENTS["finished"]
    assert isinstance(accepted, Accepted) and isinstance(delta, TextDelta) and isinstance(finished, Finished)
    account.note(accepted)
    account.note(delta)
    receipt = account.receipt(finished, ISSUED_MS + 1000)
    said = seal_statement(account.acknowledgement("received", ISSUED_MS + 1500), GATEWAY)
    vouched = msgspec.msgpack.encode(VOUCH)
    prefix = b"".join(len(part).to_bytes(4, "big") + part for part in (VOUCH_DOMAIN.encode(), vouched))
    return {
        "vouch-signed": prefix,
        "vouch": seal_statement(VOUCH, WORKER),
        "hashes": receipt.request_hash + receipt.ids_hash + receipt.text_hash,
        "receipt": seal_statement(receipt, WORKER),
        "acknowledged": encode_frame(Acknowledged(said), MAX_ACKNOWLEDGED_FRAME_BYTES),
    }


VOUCH = Vouch(WORKER.peer_id, GATEWAY.peer_id, ISSUED_MS + vouch.VOUCH_LIFETIME_MS)
CLAIM_KEY = claim_key(WORKER, GATEWAY.peer_id, ISSUED_MS, ISSUED_MS + 30 * 86_400_000)

SWARM, INVITATION = (Identity.from_seed(bytes([byte]) * 32) for byte in (1, 2))
SECRET = SwarmSecret(bytes([3]) * 32)
SWARM_ENDS_MS = ISSUED_MS + 180_000
DELEGATION = delegate(SWARM, INVITATION.peer_id, SWARM_ENDS_MS)
CERTIFICATE = certify(INVITATION, DELEGATION, SWARM.peer_id, WORKER.peer_id, SWARM_ENDS_MS)
BLINDED = SECRET.blinded(model_key("tiny"))
BOXED = SECRET.seal(
    msgspec.msgpack.encode(Boxed(CERTIFICATE, b"hello")), box_context(BLINDED, WORKER.peer_id), bytes(12)
)
HELLO = SECRET.seal(
    msgspec.msgpack.encode(Hello(CERTIFICATE, "/p2pnet/generate/1")),
    opening_context(WORKER.peer_id, INVITATION.peer_id),
    bytes(12),
)
REVOCATIONS = seal_revocations(SWARM, ISSUED_MS, [WORKER.peer_id])
INVITED = Invitation(
    "lab", SWARM.peer_id, bytes([3]) * 32, bytes([2]) * 32, DELEGATION, ISSUED_MS + 100_000, CAPABILITY.addresses
)


def swarm_examples() -> dict[str, bytes]:
    return {
        "certificate": msgspec.msgpack.encode(CERTIFICATE),
        "blinded": BLINDED,
        "private": seal(PrivateRecord(WORKER.peer_id, ISSUED_MS, SWARM_ENDS_MS, BLINDED, BOXED), WORKER),
        "hello": len(HELLO).to_bytes(4, "big") + HELLO,
        "revocations": REVOCATIONS,
    }


def hex_blocks() -> dict[str, bytes]:
    found = re.findall(r"^```hex ([a-z-]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == len(dict(found)), "the same name twice"
    return {name: bytes.fromhex("".join(text.split())) for name, text in found}


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    (text,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row, following in zip(cells, [*cells[1:], [""]], strict=True) if not is_rule(row, following)]


def is_rule(row: list[str], following: list[str]) -> bool:
    """Whether this is a table's head, or the rule under it."""
    return any(set(cells[0]) == {"-"} for cells in (row, following))


def test_every_example_is_what_the_code_writes() -> None:
    assert {name: data.hex() for name, data in hex_blocks().items()} == {
        name: data.hex() for name, data in hex_examples().items()
    }


def test_every_example_is_read_again() -> None:
    blocks = hex_blocks()
    assert codec.request_decoder().feed(blocks["generate"]) == [REQUEST]
    assert codec.request_decoder().feed(blocks["generate-image"]) == [IMAGE_REQUEST]
    assert codec.embed_request_decoder().feed(blocks["embed"]) == [EMBED_REQUEST]
    assert codec.embed_event_decoder().feed(blocks["embedding"]) == [EMBEDDING]
    assert codec.score_request_decoder().feed(blocks["score"]) == [SCORE_REQUEST]
    assert codec.score_event_decoder().feed(blocks["scored"]) == [SCORED]
    assert codec.rerank_request_decoder().feed(blocks["rerank"]) == [RERANK_REQUEST]
    assert codec.rerank_event_decoder().feed(blocks["relevance"]) == [RELEVANCE]
    assert codec.tokenize_request_decoder().feed(blocks["tokenize"]) == [TOKENIZE_REQUEST]
    assert codec.tokenize_event_decoder().feed(blocks["tokenized"]) == [TOKENIZED]
    assert codec.status_request_decoder().feed(blocks["probe"]) == [StatusRequest()]
    assert codec.status_event_decoder().feed(blocks["status"]) == [STATUS]
    asked = to_stage_decoder().feed(blocks["stage-open"] + blocks["stage-row"] + blocks["stage-replay"])
    assert asked == [StageFrame(STAGE_OPEN), STAGE_ROW, StageFrame(STAGE_REPLAY)]
    drafted = to_stage_decoder().feed(blocks["stage-drafts"] + blocks["stage-after-drafts"])
    assert drafted == [STAGE_DRAFTS, STAGE_AFTER]
    told = to_driver_decoder().feed(blocks["stage-result"] + blocks["stage-refused"])
    assert told == [STAGE_RESULT, StageFrame(STAGE_REFUSED)]
    assert codec.watch_request_decoder().feed(blocks["watch"]) == [WatchRequest()]
    assert codec.watch_event_decoder().feed(blocks["status"] + blocks["announced"]) == [STATUS, ANNOUNCED]
    for name, event in EVENTS.items():
        assert codec.event_decoder().feed(blocks[name]) == [event]
    assert open_record(blocks["capability"], ISSUED_MS) == CAPABILITY
    assert open_record(blocks["load"], ISSUED_MS) == LOAD


def test_the_examples_of_receipts_are_read_again_and_their_hashes_are_plain_sha256() -> None:
    blocks = hex_blocks()
    of_request = sha256(blocks["generate"][LENGTH_BYTES:]).digest()
    of_ids = sha256(sha256(bytes([0, 0, 0, 72, 0, 0, 0, 9])).digest()).digest()
    assert blocks["hashes"] == of_request + of_ids + sha256(sha256(b"Hello!").digest()).digest()
    receipt = open_statement(blocks["receipt"], Receipt)
    assert (receipt.worker, receipt.gateway) == (WORKER.peer_id, GATEWAY.peer_id)
    [said] = codec.acknowledged_decoder().feed(blocks["acknowledged"])
    assert open_statement(said.acknowledgement, Acknowledgement).request_hash == of_request


def test_the_examples_of_standing_are_read_again() -> None:
    assert open_statement(hex_blocks()["vouch"], Vouch) == VOUCH
    (text,) = re.findall(r"^```text claim\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert "".join(text.split()) == CLAIM_KEY
    claim = read_claim(CLAIM_KEY, GATEWAY.peer_id, ISSUED_MS)
    assert (claim.peer, claim.expires_ms - claim.issued_ms) == (WORKER.peer_id, 2_592_000_000)


def test_the_examples_of_a_swarm_are_read_again() -> None:
    blocks = hex_blocks()
    register = Register(SWARM.peer_id, lambda: ISSUED_MS)
    register.check(msgspec.msgpack.decode(blocks["certificate"], type=Certificate), WORKER.peer_id)
    record = open_record(blocks["private"], ISSUED_MS)
    assert isinstance(record, PrivateRecord)
    assert keys_of(record) == (f"p2pnet/1/private/{blocks['blinded'].hex()}",)
    register.learn(blocks["revocations"])
    assert not register.has(CERTIFICATE, WORKER.peer_id)
    (line,) = re.findall(r"^```text invitation\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert "".join(line.split()) == INVITED.to_line()
    assert read_invitation("".join(line.split()), ISSUED_MS) == INVITED


def test_the_peer_id_and_the_keys_of_the_examples_are_on_the_page() -> None:
    assert f"`{WORKER.peer_id}`" in PAGE
    assert f"shard is {shard_of(WORKER.peer_id)}" in PAGE
    described = {row[0].strip("`"): row[1].strip("`") for row in rows(section("Keys"))}
    named = [*keys_of(CAPABILITY), *keys_of(LOAD), *keys_of(STAGE)]
    assert described == {name: key_id(name).hex() for name in named}
    assert model_key("tiny") in described


STRUCTS: list[type[msgspec.Struct]] = [
    GenerateRequest,
    ChatPrompt,
    Message,
    ImagePart,
    Tool,
    ToolCall,
    TextPrompt,
    TokenPrompt,
    Sampling,
    JsonSchemaFormat,
    RegexFormat,
    Accepted,
    TextDelta,
    TokenLogprob,
    TopLogprob,
    ToolCallDelta,
    Finished,
    Acknowledged,
    Receipt,
    Acknowledgement,
    Vouch,
    Claim,
    Failed,
    Load,
    Measure,
    Usage,
    EmbedRequest,
    Embedding,
    ScoreRequest,
    Scored,
    TokenizeRequest,
    Tokenized,
    RerankRequest,
    Relevance,
    Status,
    StageOpen,
    StageReady,
    StageRow,
    Piece,
    Copy,
    Hop,
    StageReplay,
    StageResult,
    StagePassed,
    StageRefused,
    Announced,
    CapabilityRecord,
    IncompleteModel,
    LoadRecord,
    StageRecord,
    ModelCard,
    PrivateRecord,
    Delegation,
    Certificate,
    Boxed,
    RevocationList,
    Hello,
    Invitation,
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_stands_in_its_table_with_its_default(struct: type[msgspec.Struct]) -> None:
    tag = struct.__struct_config__.tag
    title = struct.__name__ if tag is None else f'{struct.__name__}: `type` is `"{tag}"`'
    described = {row[0].strip("`"): row[2].strip("`") for row in rows(section(title))}
    assert described == {field.encode_name: default_of(field) for field in msgspec.structs.fields(struct)}


def test_every_feature_stands_in_the_table() -> None:
    words = {value for name, value in vars(features).items() if name.isupper() and isinstance(value, str)}
    described = {row[0].strip("`") for row in rows(section("Features"))}
    assert described == words


def default_of(field: Any) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.json.encode(field.default_factory()).decode()
    return "required" if field.default is msgspec.NODEFAULT else msgspec.json.encode(field.default).decode()


LIMIT_OWNERS: tuple[ModuleType, ...] = (
    answer_forms,
    embed_messages,
    score_messages,
    rerank_messages,
    tokenize_messages,
    tokens,
    messages,
    images,
    codec,
    answer_limits,
    client,
    arrivals,
    guard,
    watchers,
    backend_stream_handler,
    statement,
    vouch,
    claims,
    records,
    directory,
    model_shards,
    answering,
    call_limits,
    calls,
    contact,
    dht_messages,
    storage,
    values,
    joining,
    lookup,
    p2pd_stream,
    streams,
    kept_streams,
    idle,
    hello,
    invitation,
    revocations,
    swarm_values,
    stage_messages,
    stage_frames,
    handler,
    links,
    replays,
    sessions,
    shelf,
)


def test_every_limit_has_the_value_that_the_page_gives() -> None:
    described = {row[0].strip("`"): row[1].replace(",", "") for row in rows(section("Limits"))}
    assert described == {name: str(limit(name)) for name in described}
    assert len(described) > 10


def limit(name: str) -> int:
    (value,) = {getattr(owner, name) for owner in LIMIT_OWNERS if hasattr(owner, name)}
    return int(value)


def test_every_timeout_has_the_value_that_the_page_gives() -> None:
    times = (config.ExchangeTimeouts(), config.DirectoryConfig(), config.NetworkConfig(Path("key")))
    found = {name: value for owner in times for name in dir(owner) if isinstance(value := getattr(owner, name), float)}
    described = {row[0].strip("`"): float(row[1]) for row in rows(section("Times"))}
    assert described == {name: found[name] for name in described}
    assert {"request_s", "stall_s", "accept_s", "silence_s"} <= set(described)


def test_every_code_stands_in_the_table_with_its_status_and_whether_to_try_another() -> None:
    wanted: set[type[errors.P2PNetError]] = {
        *errors.WIRE_ERRORS.values(),
        errors.PeerUnreachable,
        errors.PeerLost,
        errors.TooSlow,
        errors.NoWorker,
        errors.DeadlineExceeded,
    }
    described = {row[0].strip("`"): (row[1], row[2], row[3]) for row in rows(section("Codes"))}
    assert described == {
        error.code: (
            "yes" if error.code in errors.WIRE_ERRORS else "no",
            "yes" if error.may_retry else "no",
            str(OUTCOMES[error.code].status),
        )
        for error in wanted
    }


def test_every_code_of_a_stage_stands_in_its_table() -> None:
    text = section("Codes of stages")
    described = {row[0].strip("`") for row in rows(text)}
    codes = {value for name, value in vars(stage_messages).items() if name.isupper() and isinstance(value, str)}
    assert described == codes


def test_the_noise_is_that_of_the_sampler() -> None:
    vectors = [(int(row[0]), int(row[1]), int(row[2]), float(row[3])) for row in rows(section("The noise"))]
    assert len(vectors) >= 3
    for seed, position, token_id, noise in vectors:
        found = Noise(seed, position, token_id + 1).of(np.array([token_id]))
        assert float(found[0]) == pytest.approx(noise, rel=1e-14)
        assert spelled_out(seed, position, token_id) == pytest.approx(noise, rel=1e-14)


def spelled_out(seed: int, position: int, token_id: int) -> float:
    """As the page says it, number by number."""

    def splitmix(state: int, number: int) -> int:
        z = (state + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    def exponential(word: int) -> float:
        return -math.log(((word >> 12) + 0.5) / 2**52)

    hashed = blake2b(seed.to_bytes(8, "big") + position.to_bytes(8, "big"), digest_size=16, person=b"p2pnet/sample/2")
    of_ids, of_blocks = (int.from_bytes(half, "big") for half in (hashed.digest()[:8], hashed.digest()[8:]))
    block = token_id // 256
    word = splitmix(of_blocks, block)
    least = exponential(word) / 256
    return -math.log(least if token_id == 256 * block + word % 256 else least + exponential(splitmix(of_ids, token_id)))


def test_the_page_names_the_sampler_that_is_announced() -> None:
    assert f"one is `{SAMPLER}`" in section("Which token comes next")
