"""Lets this process, and the p2pd that it starts, have as many files open as the system allows.

Each connection and each stream is one; systems give programs 256 or 1,024 unless they ask for more.
"""

from __future__ import annotations

import contextlib
import resource
import sys

MACOS_MOST = 10_240
"""macOS calls its hard limit unlimited, and refuses more than this."""


def raise_file_limit() -> int:
    """Raise the soft limit to the hard one, as far as that can be done; returns what it is now. Never raises."""
    for wanted in (resource.getrlimit(resource.RLIMIT_NOFILE)[1], MACOS_MOST):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if _as_number(soft) < _as_number(wanted):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return _as_number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _as_number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
