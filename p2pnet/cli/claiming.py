"""Makes a volunteer's key for a gateway, and shows the gateway what others have signed for the volunteer's worker."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from p2pnet.display.printable import quoted
from p2pnet.errors import ReceiptRefused, UsageError

DAY_MS = 86_400_000

TIMEOUT_S = 10.0
"""For a gateway to answer: it checks some signatures."""


@dataclass(frozen=True)
class MadeKey:
    """A key for a client's settings. `gateway` and `worker` are peer ids."""

    key: str
    gateway: str
    worker: str


def make_key(gateway: str, identity_file: Path | None, days: int, own: str | None) -> MadeKey:
    """`own` is the gateway's own key, which goes into it. Raises UsageError."""
    from p2pnet.claims import JOINT, claim_key
    from p2pnet.cli.settings import data_dir
    from p2pnet.identity import Identity, public_key_of

    if public_key_of(gateway) is None:
        raise UsageError(
            f"{gateway[:64]!r} is no peer id of a gateway.",
            "It has 52 letters and digits and begins with 12D3KooW: ask whoever runs the gateway for it.",
        )
    path = identity_file or data_dir() / "worker.key"
    if not path.exists():
        raise UsageError(
            f"There is no worker's identity at {path}.",
            "Start a worker once with `p2pnet serve`, or name its key file with --identity.",
        )
    identity = Identity.load(path)
    now_ms = time.time_ns() // 1_000_000
    claim = claim_key(identity, gateway, now_ms, now_ms + days * DAY_MS)
    return MadeKey(claim if own is None else own + JOINT + claim, gateway, identity.peer_id)


def show(made: MadeKey, url: str, given: Path) -> str:
    """What the gateway at this URL says of the worker's standing, once it has seen what others have signed, which is
    in the file `given`. Raises UsageError."""
    import httpx
    import msgspec

    from p2pnet.loopback import is_loopback
    from p2pnet.worker.given.file import read_signed

    signed = to_show(reversed(read_signed(given)), made)
    body = {"signed": [base64.b64encode(each).decode() for each in signed]}
    try:
        reply = httpx.post(
            f"{url.rstrip('/')}/p2pnet/v1/standing",
            json=body,
            headers={"authorization": f"Bearer {made.key}"},
            timeout=TIMEOUT_S,
            trust_env=not is_loopback(url),
        )
        document = msgspec.json.decode(reply.content)
        if reply.status_code == 200:
            return described(document["standing"], len(signed))
        said = document["error"]["message"]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UsageError(f"There is no gateway at {url}: {error}.", "Name its base URL with --show-at.") from error
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise UsageError(f"What answers at {url} is no gateway of this version.", "Ask whoever runs it.") from error
    raise UsageError(f"The gateway did not take it: {quoted(str(said))}", "Do what it says, and try again.")


def to_show(newest_first: Iterable[bytes], made: MadeKey) -> list[bytes]:
    """Of each other gateway for which a volunteer vouches, the newest acknowledgement for this worker."""
    from gateway.standing.desk import MAX_SHOWN
    from p2pnet.receipts.signed import Acknowledgement
    from p2pnet.receipts.statement import open_statement

    found: dict[str, bytes] = {}
    for sealed in newest_first:
        try:
            said = open_statement(sealed, Acknowledgement)
        except ReceiptRefused:
            continue  # of an earlier version, or written by hand
        if said.worker == made.worker and said.gateway != made.gateway and said.vouch:
            found.setdefault(said.gateway, sealed)
            if len(found) == MAX_SHOWN:
                break
    return list(found.values())


def described(standing: dict[str, object], shown: int) -> str:
    """In a sentence or two."""
    turns, received = standing["turns"], standing["received_tokens"]
    gets = "no earlier turns than others" if turns == 1 else f"{turns} turns for one of others' while workers are full"
    word = "the word of one other gateway" if shown == 1 else f"the word of {shown} other gateways"
    return f"It was shown {word}. It has received {received} tokens from you; you get {gets} there."
