"""Which inputs are embedded together: every one once, in narrow batches, and nobody waits behind a large request."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnet.worker.embedding.queue import MAX_PADDING, MAX_UNREAD_VECTORS, EmbedItem, EmbedJob, EmbedQueue

BUDGET = 64


def job(*lengths: int) -> EmbedJob:
    return EmbedJob([(1,) * length for length in lengths])


def queue_of(*jobs: EmbedJob) -> EmbedQueue:
    queue = EmbedQueue()
    for each in jobs:
        queue.add(each)
    return queue


def drain(queue: EmbedQueue, max_tokens: int = BUDGET) -> list[list[EmbedItem]]:
    """All batches, of requests whose readers keep up."""
    batches = []
    while batch := queue.next_batch(max_tokens):
        for item in batch:
            item.job.read()
        batches.append(batch)
    return batches


def lengths(batch: Sequence[EmbedItem]) -> list[int]:
    return [len(item.token_ids) for item in batch]


def test_nothing_to_do_is_no_batch() -> None:
    assert queue_of().next_batch(BUDGET) == []
    assert queue_of(job()).next_batch(BUDGET) == []


@pytest.mark.parametrize(
    ("jobs", "batches"),
    [
        pytest.param([[3, 9, 5]], [[9, 5], [3]], id="longest first, and the much shorter one not with it"),
        pytest.param([[8, 8, 8, 8, 8, 8, 8, 8, 8]], [[8] * 8, [8]], id="as many as the budget holds"),
        pytest.param([[100, 3]], [[100], [3]], id="one that is over the budget goes alone"),
        pytest.param([[16] * 6, [16]], [[16, 16, 16, 16], [16, 16, 16]], id="small beside large, at once"),
        pytest.param([[40, 40, 40], [3]], [[40], [3], [40], [40]], id="the short one has its turn after one batch"),
        pytest.param([[6], [5], [4]], [[6, 5, 4]], id="of several requests together"),
    ],
)
def test_batches(jobs: list[list[int]], batches: list[list[int]]) -> None:
    assert [lengths(batch) for batch in drain(queue_of(*(job(*each) for each in jobs)))] == batches


@given(
    st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(1, 300),
)
def test_every_input_comes_once_and_no_batch_is_too_large(jobs: list[list[int]], max_tokens: int) -> None:
    all_jobs = [job(*each) for each in jobs]
    batches = drain(queue_of(*all_jobs), max_tokens)
    taken = [(all_jobs.index(item.job), item.index) for batch in batches for item in batch]
    assert sorted(taken) == [(at, index) for at, each in enumerate(jobs) for index in range(len(each))]
    for batch in batches:
        widest = max(lengths(batch))
        assert len(batch) == 1 or len(batch) * widest <= max_tokens
        assert min(lengths(batch)) * MAX_PADDING >= widest


@given(st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=30), min_size=1, max_size=6))
def test_who_has_something_left_waits_for_no_more_batches_than_there_are_requests(jobs: list[list[int]]) -> None:
    all_jobs = [job(*each) for each in jobs]
    waited = dict.fromkeys(all_jobs, 0)
    for batch in drain(queue_of(*all_jobs)):
        served = {item.job for item in batch}
        for each in all_jobs:
            waited[each] = 0 if each in served or each.is_done else waited[each] + 1
            assert waited[each] < len(all_jobs)


def test_a_removed_request_is_not_computed() -> None:
    gone, stays = job(*[8] * 20), job(*[8] * 2)
    queue = queue_of(gone, stays)
    assert len(queue.next_batch(BUDGET)) == 8
    queue.remove(gone)
    queue.remove(gone)
    assert [item.job for batch in drain(queue) for item in batch] == []
    assert stays.is_done, "it was in the first batch"


def test_who_does_not_read_has_no_turn_until_it_has_read() -> None:
    slow, quick = job(*[4] * 1000), job(*[4] * 1000)
    queue = queue_of(slow, quick)
    taken = dict.fromkeys((slow, quick), 0)
    while batch := queue.next_batch(BUDGET):
        for item in batch:
            taken[item.job] += 1
            if item.job is quick:
                quick.read()
    assert taken == {slow: MAX_UNREAD_VECTORS, quick: 1000}
    slow.read()
    assert [item.job for item in queue.next_batch(BUDGET)] == [slow]
