"""Defines the probe, the watch, and what says how a worker is. Types of the wire, as those in `messages`."""

from __future__ import annotations

import msgspec

from p2pnet.messages import Count, Failed, Load


class StatusRequest(msgspec.Struct, frozen=True, tag="probe"):
    """Asks a worker how it is. It has no fields yet."""


class Status(msgspec.Struct, frozen=True, omit_defaults=True, tag="status"):
    """How a worker is at this moment. `is_serving` is False when it stops, its owner has paused it, or it runs no
    model.

    `record_sequence` is that of the newest capability record that it has stored in the directory: who knows an older
    one should look there. It is 0 when it has stored none.
    """

    is_serving: bool
    load: Load = Load()
    record_sequence: Count = 0


StatusEvent = Status | Failed
"""What comes back of a probe: one of the two, then the end."""


class WatchRequest(msgspec.Struct, frozen=True, tag="watch"):
    """Asks a worker to tell how it is from now on. It has no fields yet."""


class Announced(msgspec.Struct, frozen=True, tag="announced"):
    """A worker announces this sealed capability record now: it runs other models, say, or stops."""

    record: bytes


WatchEvent = Status | Announced | Failed
"""What comes back of a watch: a status, then any number of the first two."""
