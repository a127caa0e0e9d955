"""Rules for all tests: how deep they look, and which of them share a process."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.depth import PROFILES, depth, is_deep

for _name, _examples in PROFILES.items():
    settings.register_profile(_name, settings(), max_examples=_examples)
settings.load_profile(depth)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What only the deep suite runs is left out, and not reported as skipped."""
    if not is_deep:
        left_out = [item for item in items if item.get_closest_marker("deep")]
        items[:] = [item for item in items if not item.get_closest_marker("deep")]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported meanwhile stays, some million objects: garbage is looked for among those that come later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
