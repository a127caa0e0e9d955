"""The GatewayService: all that the HTTP surfaces may ask of the rest of the gateway.

Knows nothing of HTTP dialects, peers or routing. Tests hand in plain functions.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.interface import Embed, Generate, ModelEntry
from gateway.observability.views import Observability
from gateway.receipts.store import ReceiptStore
from gateway.standing.desk import Desk


def _new_id() -> str:
    return uuid.uuid4().hex


def _new_seed() -> int:
    return secrets.randbits(63)


@dataclass(frozen=True)
class GatewayService:
    """What a surface may ask for. Without `observability` the gateway tells nothing of itself. `now` is Unix time in
    seconds; `make_seed` gives 63 random bits."""

    generate: Generate
    embed: Embed
    list_models: Callable[[], Sequence[ModelEntry]]
    is_ready: Callable[[], bool]
    observability: Observability | None = None
    now: Callable[[], float] = time.time
    make_id: Callable[[], str] = _new_id
    make_seed: Callable[[], int] = _new_seed
    receipts: ReceiptStore = field(default_factory=ReceiptStore)
    standing: Desk | None = None
    """Where volunteers show what they have; None: nobody has standing here."""
    code_model_name: str | None = None
    """What the gateway's owner has named as such; see `gateway.model_names.code_models`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names for models; see `gateway.model_names.naming`. `generate` and `embed` know them by themselves."""
