"""How a command ends that is interrupted: at once, whatever a thread of it is still importing or loading."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import NoReturn


class StoppedEarly(SystemExit):
    """A service was stopped before it served. Its exit status is that of the signal, as shells count it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)
        self.status = 128 + number


def leave(status: int) -> NoReturn:
    """End the process. Python would wait for its threads first, of which one may load a model for minutes."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
