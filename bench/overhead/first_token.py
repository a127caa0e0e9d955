"""How long the first token takes, one request at a time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness import echo_models
from bench.harness.http_client import Connection, chat_request
from bench.overhead.sides import NETWORK, PLAIN, Settings, Sides, checked

REQUEST_TOKENS = 4
WARM_UP_REQUESTS = 20


@dataclass(frozen=True)
class FirstToken:
    """Milliseconds to the first token at concurrency 1. `added` compares the percentiles of the two sides; `rounds`
    holds the added p50 of each round."""

    requests: int
    network_p50_ms: float
    network_p90_ms: float
    plain_p50_ms: float
    plain_p90_ms: float
    added_p50_ms: float
    added_p90_ms: float
    rounds_added_p50_ms: tuple[float, ...]


async def measure_first_token(sides: Sides, settings: Settings) -> FirstToken:
    connections = {side: await Connection.connect(url) for side, url in sides.urls.items()}
    await _round(connections, WARM_UP_REQUESTS)
    per_round = max(1, settings.requests // settings.rounds)
    rounds = [await _round(connections, per_round) for _ in range(settings.rounds)]
    for connection in connections.values():
        connection.close()
    network = [ms for found in rounds for ms in found[NETWORK]]
    plain = [ms for found in rounds for ms in found[PLAIN]]
    return FirstToken(
        requests=len(network),
        network_p50_ms=_percentile(network, 50),
        network_p90_ms=_percentile(network, 90),
        plain_p50_ms=_percentile(plain, 50),
        plain_p90_ms=_percentile(plain, 90),
        added_p50_ms=_percentile(network, 50) - _percentile(plain, 50),
        added_p90_ms=_percentile(network, 90) - _percentile(plain, 90),
        rounds_added_p50_ms=tuple(_percentile(found[NETWORK], 50) - _percentile(found[PLAIN], 50) for found in rounds),
    )


async def _round(connections: dict[str, Connection], requests: int) -> dict[str, list[float]]:
    """One request to each side in turns, one at a time."""
    request = chat_request(echo_models.STEPPED, REQUEST_TOKENS)
    found: dict[str, list[float]] = {side: [] for side in connections}
    for _ in range(requests):
        for side, connection in connections.items():
            answer = await connection.ask(request)
            checked(answer, REQUEST_TOKENS)
            assert answer.first_token_s is not None
            found[side].append((answer.first_token_s - answer.began_s) * 1000)
    return found


def _percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
