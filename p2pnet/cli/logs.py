"""Sets up the logs of the commands: plain lines or JSON on standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from p2pnet.display.printable import visible

if TYPE_CHECKING:
    from rich.console import Console

QUIET_LOGGERS = ("hivemind", "asyncio", "httpx", "httpcore", "urllib3", "filelock", "transformers", "uvicorn")
"""They speak of every lost peer and every request; --log-level debug lets them."""

NOISY_LOGGERS = ("multiaddr",)
"""They write down each step of their parsing, hundreds of lines a second: of no use to anybody here."""


LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
"""Their usual names: hivemind renames some for the whole process."""


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": LEVELS.get(record.levelno, record.levelname.lower()),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class PlainFormatter(logging.Formatter):
    """A line with time and level, and what is behind it. What strangers are quoted with does nothing to a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def configure(level: str, is_json: bool) -> None:
    """Set up the root logger, once, at the start of a command."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if is_json else PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    if level != "debug":
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Warning:
    """What a warning said, and when on a monotonic clock."""

    text: str
    at_s: float


class LastWarning(logging.Handler):
    """Remembers the last warning or error."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        super().__init__(logging.WARNING)
        self._now_s = now_s
        self.last: Warning | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.last = Warning(record.getMessage(), self._now_s())


class ConsoleHandler(logging.Handler):
    """Prints through a console that something else is drawn on: lines appear above that."""

    def __init__(self, console: Console, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def logging_through(console: Console, *also: logging.Handler) -> Iterator[None]:
    """Log through a console, and to `also`, for as long as this is open; then as before."""
    root = logging.getLogger()
    before = root.handlers[:]
    formatter = before[0].formatter if before else None
    root.handlers = [ConsoleHandler(console, formatter), *also]
    try:
        yield
    finally:
        root.handlers = before
