"""Who is asked whether a request cannot be served, as one worker says."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.dispatch.second_opinion import QUIET_S, SecondOpinion
from gateway.peers.worker import Worker
from tests.stories import capability, peer

KEY = ("tiny", "generate")
NOW_S = 1000.0


class Usual:
    """Some workers have served often enough to be known."""

    def __init__(self, *known: str) -> None:
        self._known = {peer(name).peer_id for name in known}

    def knows(self, key: object, peer_id: str) -> bool:
        return peer_id in self._known


@pytest.mark.parametrize(
    ("refused_ago_s", "known", "asked"),
    [
        ({}, "abc", "abc"),
        ({"a": 1.0, "b": QUIET_S - 1}, "abc", "c"),
        ({"a": 1.0, "b": QUIET_S + 1}, "abc", "bc"),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, "abc", "abc"),
        ({"a": 1.0}, "ab", "b"),
        ({"a": 1.0, "b": 1.0}, "ab", "ab"),
    ],
    ids=[
        "nobody has refused",
        "who has refused nothing lately",
        "that is forgotten",
        "where all have, all are as good",
        "but one that has served",
        "even if it has refused",
    ],
)
def test_who_is_asked(refused_ago_s: dict[str, float], known: str, asked: str) -> None:
    workers = {name: Worker(capability(peer(name), "tiny")) for name in "abc"}
    for name, ago_s in refused_ago_s.items():
        workers[name].refused_s = NOW_S - ago_s
    opinion = SecondOpinion(cast(Any, Usual(*known)))
    passed_over = opinion.passed_over(list(workers.values()), KEY, (), NOW_S)
    assert passed_over is not None
    assert [name for name, worker in workers.items() if worker.peer_id not in passed_over] == list(asked)
