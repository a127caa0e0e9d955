"""The narrow seam between the HTTP surfaces and what generates: a handful of callables, and the edge's limits.

Knows nothing of HTTP dialects, peers or routing. Tests hand in plain functions.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.interface import Caller as Caller
from gateway.interface import Embed as Embed
from gateway.interface import EmbeddingEvent as EmbeddingEvent
from gateway.interface import Generate as Generate
from gateway.interface import GenerationEvent as GenerationEvent
from gateway.interface import ModelEntry as ModelEntry
from gateway.interface import Routed as Routed
from gateway.interface import Waiting as Waiting
from gateway.observability.views import Knowledge

MAX_BODY_BYTES = 4 << 20
"""A prompt of a million tokens is about 4 MiB of text; only text is accepted. Parsing this much takes some 20 ms."""

BODY_TIMEOUT_S = 30.0
"""4 MiB arrive in this time over 1.2 Mbit/s; whoever is slower than that holds a connection for nothing."""

KEEP_ALIVE_S = 10.0
"""Proxies and clients give up on silent connections after 30 to 60 s; three comments fit into the shortest."""

WRITE_TIMEOUT_S = 60.0
"""A client that reads nothing for this long is gone, and must not hold a worker's slot any longer."""

READ_AHEAD_EVENTS = 64
"""How far a generation may run ahead of its client's socket: enough to fill one write, little enough to hold back the
worker of a client that reads slowly."""


def _new_id() -> str:
    return uuid.uuid4().hex


def _new_seed() -> int:
    return secrets.randbits(63)


@dataclass(frozen=True)
class GatewayService:
    """What a surface may ask for. Without `knowledge` the gateway tells nothing of itself. `now` is Unix time in
    seconds; `make_seed` gives 63 random bits."""

    generate: Generate
    embed: Embed
    list_models: Callable[[], Sequence[ModelEntry]]
    is_ready: Callable[[], bool]
    knowledge: Knowledge | None = None
    now: Callable[[], float] = time.time
    make_id: Callable[[], str] = _new_id
    make_seed: Callable[[], int] = _new_seed
    code_model_name: str | None = None
    """What the gateway's owner has named as such; see `gateway.model_names.code_models`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names for models; see `gateway.model_names.naming`. `generate` and `embed` know them by themselves."""


@dataclass(frozen=True)
class HttpLimits:
    """What one client may take of the gateway."""

    max_body_bytes: int = MAX_BODY_BYTES
    body_timeout_s: float = BODY_TIMEOUT_S
    keep_alive_s: float = KEEP_ALIVE_S
    write_timeout_s: float = WRITE_TIMEOUT_S
    read_ahead_events: int = READ_AHEAD_EVENTS
