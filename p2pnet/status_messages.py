"""Defines the probe and its answer, which says how a worker is. Types of the wire, as those in `messages`."""

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
"""What comes back: one of the two, then the end."""
