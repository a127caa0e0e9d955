"""Which URLs lead to this machine."""

from __future__ import annotations

import pytest

from p2pnet.loopback import is_loopback

URLS = [
    ("http://127.0.0.1:8000", True),
    ("http://127.8.9.1", True),
    ("http://[::1]:8000/v1", True),
    ("https://LOCALHOST", True),
    ("http://box.localhost.:1", True),
    ("http://192.0.2.1", False),
    ("http://localhost.example", False),
    ("http://example.org/127.0.0.1", False),
    ("http://127.0.0.1@example.org", False),
    ("http://[::1", False),
    ("localhost", False),
    ("", False),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_urls(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected
