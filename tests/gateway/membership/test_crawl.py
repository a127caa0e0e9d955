"""How fast a gateway reads the list of all workers."""

from __future__ import annotations

import pytest

from gateway.membership.crawl import CRAWLED_WHOLE, Crawl
from p2pnet.directory import SHARDS


@pytest.mark.parametrize("known", [0, 5, CRAWLED_WHOLE])
def test_a_small_networks_list_is_read_whole(known: int) -> None:
    assert list(Crawl().due(known)) == list(range(SHARDS))


def test_a_large_networks_list_is_read_part_by_part() -> None:
    crawl = Crawl()
    assert sorted(shard for _ in range(SHARDS) for shard in crawl.due(CRAWLED_WHOLE + 1)) == list(range(SHARDS))


@pytest.mark.parametrize(("known", "pause_s"), [(0, 2.0), (40, 4.0), (240, 14.0), (1_000, 9.0), (100_000, 9.0)])
def test_the_more_there_are_the_longer_it_takes(known: int, pause_s: float) -> None:
    assert Crawl().pause_s(known) == pause_s
