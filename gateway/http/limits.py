"""What one HTTP client may take of the gateway: bytes, seconds, and events ahead of its socket."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BODY_BYTES = 4 << 20
"""A prompt of a million tokens is about 4 MiB of text, and 3 MiB of images are as much in base64. Parsing this much
takes some 20 ms."""

MAX_ARRIVING_BYTES = 32 << 20
"""Of all bodies that have not arrived in full. Those of usual length come in one piece; of the largest, one caller that
is alone may have four on the way."""

BODY_TIMEOUT_S = 30.0
"""4 MiB arrive in this time over 1.2 Mbit/s; whoever is slower than that holds a connection for nothing."""

KEEP_ALIVE_S = 10.0
"""Proxies and clients give up on silent connections after 30 to 60 s; three comments fit into the shortest."""

WRITE_TIMEOUT_S = 60.0
"""A client that reads nothing for this long is gone, and must not hold a worker's slot any longer."""

READ_AHEAD_EVENTS = 64
"""How far a generation may run ahead of its client's socket: enough to fill one write, little enough to hold back the
worker of a client that reads slowly."""


KEEP_RESPONSES_S = 3600.0
"""A conversation that rests for longer is sent whole again."""


@dataclass(frozen=True)
class HttpLimits:
    """What one client may take of the gateway; `max_arriving_bytes` is of all of them together."""

    max_body_bytes: int = MAX_BODY_BYTES
    max_arriving_bytes: int = MAX_ARRIVING_BYTES
    body_timeout_s: float = BODY_TIMEOUT_S
    keep_alive_s: float = KEEP_ALIVE_S
    write_timeout_s: float = WRITE_TIMEOUT_S
    read_ahead_events: int = READ_AHEAD_EVENTS
    keep_responses_s: float = KEEP_RESPONSES_S
