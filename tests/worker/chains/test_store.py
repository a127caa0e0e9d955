"""The accounts of what lies at stages: what is copied and forgotten there, in an order in which it can be done."""

from __future__ import annotations

from p2pnet.stage_messages import Copy
from p2pnet.worker.chains.store import ChainStore, Notes, remote_of
from p2pnet.worker.engine.kv_store import Kv

CHAIN, ANOTHER = object(), object()


def opened(store: ChainStore, ids: list[int], chain: object | None = CHAIN) -> Kv:
    kv = store.open(64)
    assert kv is not None
    if chain is not None:
        remote_of(kv).note([chain], 0, ids)
    return kv


def test_what_was_never_computed_needs_not_be_forgotten() -> None:
    store = ChainStore(256, lambda: 0)
    store.close(opened(store, [], chain=None))
    one = opened(store, [1])
    store.close(one)
    assert store.take_notes() == Notes((2,))
    assert store.take_notes() == Notes()


def test_a_source_is_forgotten_after_it_was_copied() -> None:
    store = ChainStore(256, lambda: 0)
    source, target = opened(store, [1, 2, 3]), opened(store, [], chain=None)
    assert store.copy(source, target, 2)
    store.close(source)
    assert remote_of(target).ids == [1, 2]
    assert remote_of(target).filled_at(CHAIN) == 2
    assert store.take_notes() == Notes((), (Copy(1, 2, 2),))
    assert store.take_notes() == Notes((1,))


def test_what_the_chain_does_not_have_is_not_copied_there() -> None:
    store = ChainStore(256, lambda: 0)
    source, target = opened(store, [1, 2, 3]), opened(store, [], chain=None)
    remote_of(source).lower([CHAIN], 0)
    store.copy(source, target, 2)
    assert (remote_of(target).ids, remote_of(target).filled_at(CHAIN)) == ([1, 2], 0)
    assert store.take_notes() == Notes()


def test_a_sequence_that_goes_back_has_other_ids_from_there() -> None:
    store = ChainStore(256, lambda: 0)
    remote = remote_of(opened(store, [1, 2, 3]))
    remote.note([CHAIN], 1, [7])
    assert (remote.ids, remote.filled_at(CHAIN), remote.filled_at(ANOTHER)) == ([1, 7], 2, 0)


def test_there_is_no_more_room_than_the_stages_have() -> None:
    tokens = [0]
    store = ChainStore(640, lambda: tokens[0])
    assert store.free_tokens == 640
    tokens[0] = 128
    assert store.free_tokens == 128
    opened(store, [1])
    assert store.free_tokens == 64
    assert store.open(128) is None


def test_who_stands_by_has_what_came_before_the_place_where_other_ids_begin() -> None:
    remote = remote_of(opened(ChainStore(256, lambda: 0), [1, 2, 3, 4]))
    remote.feed(ANOTHER, 3)
    remote.rewind(2)
    remote.settle(ANOTHER, is_there=True)
    assert (remote.fed, remote.filled_at(ANOTHER), remote.filled_at(CHAIN)) == ({ANOTHER: 2}, 2, 4)
    remote.feed(ANOTHER, 4)
    remote.settle(ANOTHER, is_there=False)
    assert remote.fed == {ANOTHER: 2}
    remote.lower([ANOTHER], 1)  # it has taken a lost one's place, and computes again from there
    assert remote.filled_everywhere([CHAIN, ANOTHER]) == 1
