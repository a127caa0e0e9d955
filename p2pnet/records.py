"""Seals the records in which a peer announces itself, and opens and checks those of strangers.

A record is msgpack inside a signed envelope, bound to its peer id, short-lived. Every field is bounded in its type.
Knows nothing of the DHT that carries it, nor of clocks: `now_ms` is passed in.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2pnet.errors import RecordRefused
from p2pnet.identity import Identity, verify
from p2pnet.messages import Count, Digest, Load, ModelId, SamplerName
from p2pnet.network.dial_addresses import MAX_ADDRESSES, place_of
from p2pnet.network.multiaddrs import peer_id_of

RECORD_VERSION = 1
SIGNATURE_DOMAIN = "p2pnet/record/1"

MAX_RECORD_BYTES = 4096
"""A whole directory key travels in one reply under 4 MiB, so a thousand workers of one model must fit there.
A usual record has 600 bytes."""

SIGNATURE_BYTES = 64

MAX_LIFETIME_MS = 10 * 60_000
"""A record outlives its worker by no more than this, and nobody can lock a key for longer."""

MAX_CLOCK_SKEW_MS = 5_000
"""hivemind refuses peers whose clocks differ by more than 3 s; two such errors and a slow network stay under this."""

MAX_PASSED = 1 << 16
"""Records of which it is remembered that they have passed, some 6 MB; up to twice as many at times."""

MAX_MODELS = 32
"""In one record, which mostly holds a dozen of them."""

MAX_INCOMPLETE = 4
"""Models in one record that are not whole: a driver has one, and some may share a machine."""

MAX_GAPS = 16
"""Parts of one model that nobody has: with more of them, what is said of the first is enough to begin with."""

MAX_PARTS = 4
"""Records of one worker that runs more models than one holds. Each takes its place in a directory that is bounded."""

MAX_ADDRESS_CHARS = 256

Label = Annotated[str, Meta(max_length=64, pattern=r"^[\x21-\x7e]*\Z")]
"""A short printable word: safe in logs, tables and terminals."""

PeerId = Annotated[str, Meta(min_length=50, max_length=53, pattern=r"^[1-9A-HJ-NP-Za-km-z]+\Z")]
Milliseconds = Annotated[int, Meta(ge=0, lt=1 << 53)]
Signature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

LayerNumber = Annotated[int, Meta(ge=0, le=1024)]
"""Five times as many layers as the deepest models in use have."""

BLINDED_KEY_BYTES = 32
BlindedKey = Annotated[bytes, Meta(min_length=BLINDED_KEY_BYTES, max_length=BLINDED_KEY_BYTES)]
"""The name of a key that only who knows a secret can tell."""

Task = Literal["generate", "embed"]
ModelTask = tuple[str, str]
"""A model's id and what is asked of it: its task, or one of FEATURE_TASKS."""

FEATURE_TASKS = ("tokenize", "rerank")
"""What can be asked of a model whose card has a feature of this name. They are no tasks of cards: peers of earlier
versions refuse records with a task that they do not know."""


class ModelCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model a worker runs. `features` are what this worker's backend can do with it, in the words of `features`.
    `is_cold` says that its weights are not in memory now: the first request waits until they are. `sampler` says by
    which rule it chooses tokens; empty where it does not choose them itself."""

    id: ModelId
    digest: Digest
    context_length: Annotated[int, Meta(ge=1, le=1 << 24)]
    task: Task = "generate"
    quantization: Label = "none"
    dtype: Label = "float32"
    features: Annotated[tuple[Label, ...], Meta(max_length=32)] = ()
    is_cold: bool = False
    sampler: SamplerName = ""

    @property
    def key(self) -> ModelTask:
        return self.id, self.task

    @property
    def asked_for(self) -> tuple[ModelTask, ...]:
        """All that can be asked of it, first what it is there for. What ranks documents is a model that reads, of the
        task "embed": that name says the same to peers of earlier versions, and asks for nothing that it announces. It
        gives no vectors."""
        by_feature = tuple((self.id, task) for task in FEATURE_TASKS if task in self.features)
        return by_feature if "rerank" in self.features else (self.key, *by_feature)


class IncompleteModel(msgspec.Struct, frozen=True):
    """A model of so many `layers` for which its driver finds no whole chain: nobody has those that are `missing`, spans
    [first, last) in order."""

    id: ModelId
    digest: Digest
    layers: LayerNumber
    missing: Annotated[tuple[tuple[LayerNumber, LayerNumber], ...], Meta(min_length=1, max_length=MAX_GAPS)]


class CapabilityRecord(msgspec.Struct, frozen=True, omit_defaults=True, tag="capability"):
    """The slow half of an announcement: what a worker runs and how it is reached.

    `addresses` are full multiaddrs that end in the worker's own peer id, as `network.dial_addresses` allows them.
    `slots` are over all models together. `is_online` False withdraws the worker. `withdrawn` are models that it has
    announced lately and does not run any more: the record overwrites what stands under their directory keys. `name` is
    what its owner calls the worker: a claim like any other, and not unique.

    `load` is how busy it was when it announced this: gateways that use it are told more often, by itself.

    `incomplete` are models that it would drive, were there stages for all of their layers.

    A worker whose models do not fit into one record has `parts` of them, of which this is number `part`. Each has some
    of the models, and else says the same.
    """

    peer_id: PeerId
    sequence: Count
    issued_ms: Milliseconds
    expires_ms: Milliseconds
    models: Annotated[tuple[ModelCard, ...], Meta(max_length=MAX_MODELS)]
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=MAX_ADDRESS_CHARS)], ...], Meta(max_length=MAX_ADDRESSES)]
    protocols: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    slots: Count = 1
    is_online: bool = True
    agent: Label = ""
    version: int = RECORD_VERSION
    withdrawn: Annotated[tuple[ModelId, ...], Meta(max_length=MAX_MODELS)] = ()
    name: Label = ""
    part: Annotated[int, Meta(ge=0, lt=MAX_PARTS)] = 0
    parts: Annotated[int, Meta(ge=1, le=MAX_PARTS)] = 1
    load: Load | None = None
    incomplete: Annotated[tuple[IncompleteModel, ...], Meta(max_length=MAX_INCOMPLETE)] = ()


class LoadRecord(msgspec.Struct, frozen=True, omit_defaults=True, tag="load"):
    """How busy a worker of an earlier version is. Storing peers still take it, for gateways of that version; nobody
    of this version announces or reads it."""

    peer_id: PeerId
    sequence: Count
    issued_ms: Milliseconds
    expires_ms: Milliseconds
    load: Load
    version: int = RECORD_VERSION


class StageRecord(msgspec.Struct, frozen=True, omit_defaults=True, tag="stage"):
    """What a stage of chains announces: layers [first, last) of the model with this digest, which has `layers`.

    `kv_free_tokens` is how many tokens' keys and values it has room for, `step_ms` how long a forward pass takes it
    lately, 0 where it has not computed yet: both are claims. `addresses` and `is_online` are as in CapabilityRecord.
    `is_ready` False says that it is just loading these layers: others need not, and no driver uses it yet. `since_ms`
    is since when it has them or loads them: of two that want the same ones, the later one looks again.
    """

    peer_id: PeerId
    sequence: Count
    issued_ms: Milliseconds
    expires_ms: Milliseconds
    digest: Digest
    first: LayerNumber
    last: LayerNumber
    layers: LayerNumber
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=MAX_ADDRESS_CHARS)], ...], Meta(max_length=MAX_ADDRESSES)]
    kv_free_tokens: Count = 0
    step_ms: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    is_online: bool = True
    agent: Label = ""
    version: int = RECORD_VERSION
    is_ready: bool = True
    since_ms: Milliseconds = 0


class PrivateRecord(msgspec.Struct, frozen=True, omit_defaults=True, tag="private"):
    """What members of a private swarm say to one another through peers that are none: those see who stores how much
    under which blinded key and until when, and bound it as any record. What is in `box` they cannot read.
    """

    peer_id: PeerId
    issued_ms: Milliseconds
    expires_ms: Milliseconds
    blinded_key: BlindedKey
    box: Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)]
    version: int = RECORD_VERSION


Record = CapabilityRecord | LoadRecord | StageRecord | PrivateRecord


class _Envelope(msgspec.Struct, frozen=True):
    payload: bytes
    signature: bytes


_decode_envelope = msgspec.msgpack.Decoder(_Envelope).decode
_decode_record = msgspec.msgpack.Decoder(Record).decode


def seal(record: Record, identity: Identity) -> bytes:
    """Sign a record. What we would refuse from others we do not send: raises RecordRefused."""
    payload = msgspec.msgpack.encode(record)
    sealed = msgspec.msgpack.encode(_Envelope(payload, identity.sign(SIGNATURE_DOMAIN, payload)))
    open_record(sealed, record.issued_ms)
    return sealed


def sealed_size(record: Record) -> int:
    """How many bytes the record will have once it is sealed."""
    return len(msgspec.msgpack.encode(_Envelope(msgspec.msgpack.encode(record), bytes(SIGNATURE_BYTES))))


def open_record(sealed: bytes, now_ms: int, grace_ms: int = 0) -> Record:
    """Check a stranger's sealed record and return it. Raises RecordRefused with the reason.

    `grace_ms` keeps a record that expired that recently: storing peers with slightly different clocks must agree.
    """
    record = _open_signed(sealed)
    if record.issued_ms > now_ms + MAX_CLOCK_SKEW_MS:
        raise RecordRefused("issued in the future")
    if record.expires_ms + grace_ms <= now_ms:
        raise RecordRefused("expired")
    return record


def _open_signed(sealed: bytes) -> Record:
    """Every check that does not depend on the time of reading. What was checked before is only decoded: a signature
    and addresses take thirty times as long, and who polls reads the same records each time."""
    if len(sealed) > MAX_RECORD_BYTES:
        raise RecordRefused(f"record of {len(sealed)} bytes, {MAX_RECORD_BYTES} allowed")
    try:
        envelope = _decode_envelope(sealed)
        record: Record = _decode_record(envelope.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordRefused(f"not a record: {error}") from error
    name = blake2b(sealed, digest_size=16).digest()
    if not _passed.has(name):
        _check(record, envelope)
    _passed.add(name)
    return record


class _Passed:
    """The hashes of records that have passed every check, of the last ones read. Those of one generation after another:
    were the oldest one dropped for each new one, then of more than fit, read in turn, none would ever be found."""

    def __init__(self) -> None:
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def has(self, name: bytes) -> bool:
        return name in self._young or name in self._old

    def add(self, name: bytes) -> None:
        self._young.add(name)
        if len(self._young) >= MAX_PASSED:
            self._young, self._old = set(), self._young


_passed = _Passed()


def _check(record: Record, envelope: _Envelope) -> None:
    if record.version != RECORD_VERSION:
        raise RecordRefused(f"record version {record.version}, {RECORD_VERSION} understood")
    if not 0 < record.expires_ms - record.issued_ms <= MAX_LIFETIME_MS:
        raise RecordRefused(f"lifetime must be over 0 and at most {MAX_LIFETIME_MS} ms")
    if not verify(record.peer_id, SIGNATURE_DOMAIN, envelope.payload, envelope.signature):
        raise RecordRefused("the signature is not its peer's")
    if isinstance(record, CapabilityRecord):
        _check_capability(record)
    if isinstance(record, StageRecord):
        _check_stage(record)


def _check_capability(record: CapabilityRecord) -> None:
    if len({card.key for card in record.models}) != len(record.models):
        raise RecordRefused("the same model twice for one task")
    if record.part >= record.parts:
        raise RecordRefused(f"part {record.part} of {record.parts}")
    for model in record.incomplete:
        _check_incomplete(model)
    _check_addresses(record.addresses, record.peer_id)


def _check_incomplete(model: IncompleteModel) -> None:
    ends = [end for gap in model.missing for end in gap]
    if ends != sorted(set(ends)) or ends[-1] > model.layers:
        raise RecordRefused(f"missing layers that are not in order, or not among {model.layers}")


def _check_stage(record: StageRecord) -> None:
    if not record.first < record.last <= record.layers:
        raise RecordRefused(f"layers {record.first} to {record.last} of {record.layers}")
    _check_addresses(record.addresses, record.peer_id)


def _check_addresses(addresses: tuple[str, ...], peer_id: str) -> None:
    for address in addresses:
        try:
            is_own = peer_id_of(address) == peer_id
            has_form = place_of(address) is not None
        except ValueError as error:
            raise RecordRefused(str(error)) from error
        if not is_own:
            raise RecordRefused("an address that is not the peer's own")
        if not has_form:
            raise RecordRefused("an address that is not of IP with TCP or QUIC, nor a relay's")
