"""How long one choice takes: `python -m bench.routing.speed`.

Of 10,000 workers, some of them busy, and of as many that have all said they are full. The least of many rounds, so that
whatever else the machine does is left out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from gateway.peers.worker import Worker
from gateway.routing.choose import choose
from gateway.routing.roster import Roster
from gateway.routing.route_query import RouteQuery
from p2pnet.messages import Load
from p2pnet.records import CapabilityRecord, ModelCard

WORKERS = 10_000
ROUNDS = 30
KEY = ("m", "generate")
NOW_S = 1000.0


def worker_of(number: int, rng: random.Random) -> Worker:
    card = ModelCard("m", "sha256:" + "0" * 64, 4096, features=("text",))
    slots = rng.choice((1, 2, 4, 8, 16))
    address = f"/ip4/9.{number >> 8}.{number & 255}.1/tcp/1"
    worker = Worker(CapabilityRecord(f"w{number}", 1, 1, 2, (card,), (address,), slots=slots))
    worker.served_at_once = slots
    if number % 10:  # the others are strangers
        worker.health.note_success()
    worker.note_load(Load(running=rng.randrange(slots + 1), slots=slots), NOW_S - 10)
    worker.pace(KEY).first_token_s.note(rng.random(), NOW_S - 10)
    worker.pace(KEY).token_s.note(rng.random() / 10, NOW_S - 10)
    worker.round_trip_s.note(rng.random() / 10, NOW_S - 10)
    return worker


def least_s(act: Callable[[], object], times: int) -> float:
    """Seconds that one of so many takes, in the best of the rounds."""
    best_s = float("inf")
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        for _ in range(times):
            act()
        best_s = min(best_s, (time.perf_counter() - began_s) / times)
    return best_s


def main() -> None:
    rng = random.Random(1)
    workers = [worker_of(number, rng) for number in range(WORKERS)]
    roster = Roster(workers)
    queries = [RouteQuery("m", features=frozenset({"text"}), affinity=rng.randbytes(16)) for _ in range(100)]
    plain = RouteQuery("m", features=frozenset({"text"}))
    print(f"a choice: {1e6 * least_s(lambda: choose(roster, plain, NOW_S, rng), 200):.0f} us")
    print(f"by its beginning: {1e6 * least_s(lambda: choose(roster, rng.choice(queries), NOW_S, rng), 200):.0f} us")
    print(f"a new roster: {1e3 * least_s(lambda: Roster(workers).able(plain), 1):.1f} ms")
    for worker in workers:
        worker.note_full(KEY, NOW_S)
    print(f"when all are full: {1e3 * least_s(lambda: choose(roster, plain, NOW_S, rng), 1):.1f} ms")


if __name__ == "__main__":
    main()
