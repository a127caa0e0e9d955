"""Rules for all tests: how deep they look, and which of them share a process."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler.loadscope import LoadScopeScheduling

from tests import leaks
from tests.built_once import built_once
from tests.depth import PROFILES, depth, is_deep
from tests.tiny_swarm import TinySwarm, tiny_swarm_of_processes

TESTS = Path(__file__).parent
SWARMS = ("tiny_swarm", "swarm_url")
"""Fixtures that are worth a process of their own: each is started once in a run."""
STORIES = {"attacks", "e2e", "faults", "installing", "nat", "notebooks", "operate", "page"}
"""Folders whose files take long: they come first, so that none is left when all else is done."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in its background has them ignore Ctrl-C, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _name, _examples in PROFILES.items():
    settings.register_profile(_name, settings(), max_examples=_examples)
settings.load_profile(depth)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What only the deep suite runs is left out, and not reported as skipped."""
    if not is_deep:
        left_out = [item for item in items if item.get_closest_marker("deep")]
        items[:] = [item for item in items if not item.get_closest_marker("deep")]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: not STORIES & set(item.path.parts))


class BySwarm(LoadScopeScheduling):  # type: ignore[misc]
    """A file runs in one process, where what it shares is made once, and so do all files that share a swarm."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid.partition("::")[0])


@cache
def _scope(path: str) -> str:
    text = (TESTS.parent / path).read_text(encoding="utf-8")
    return next((swarm for swarm in SWARMS if swarm in text), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BySwarm:
    return BySwarm(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported meanwhile stays, some million objects: garbage is looked for among those that come later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of all processes of the run: that of each lies in it."""
    own = tmp_path_factory.getbasetemp()
    built_once.shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "built"


@pytest.fixture(scope="session")
def tiny_swarm() -> Iterator[TinySwarm]:
    with tiny_swarm_of_processes() as swarm:
        yield swarm


# ---- nothing is left behind


@pytest.fixture(scope="session", autouse=True)
def run_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each process of the run has a temp folder of its own, which is empty in the end. Its name is short, for sockets
    in it; pytest's own is elsewhere. So is what torch's compiler keeps, which appears there with whichever test is the
    first to import it."""
    base = tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="t-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(base / "torch"))
        before = leaks.look()
        yield
        assert leaks.left(before) == []


@pytest.fixture(scope="module", autouse=True)
def file_leaves_nothing(run_leaves_nothing: None) -> Iterator[None]:
    """But for what has been started for the whole run meanwhile."""
    before = leaks.look()
    _held.clear()
    yield
    assert leaks.left(before | _held) == []


@pytest.fixture(autouse=True)
def each_leaves_nothing(request: pytest.FixtureRequest, file_leaves_nothing: None) -> Iterator[None]:
    """What a test with a file's fixtures starts through these is theirs: it is gone when the file is done."""
    before = leaks.look()
    yield
    if not any(fixture in _holders for fixture in request.fixturenames):
        assert leaks.left(before) == []


_held: set[str] = set()
"""What fixtures of the whole run have started while this file ran."""
_holders: set[str] = set()
"""The fixtures of files and of the whole run that hold something."""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    if fixturedef.scope == "function" or fixturedef.argname.endswith("_leaves_nothing"):
        return (yield)
    before = leaks.look()
    try:
        return (yield)
    finally:
        if made := leaks.look() - before:
            _holders.add(fixturedef.argname)
            if fixturedef.scope == "session":
                _held.update(made)
