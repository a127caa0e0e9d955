"""Logging of the commands: plain lines or JSON on standard error, with the libraries' chatter turned down."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import msgspec

QUIET_LOGGERS = ("hivemind", "asyncio", "httpx", "httpcore", "urllib3", "filelock", "transformers", "uvicorn")
"""They speak of every lost peer and every request; --log-level debug lets them."""


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


def configure(level: str, is_json: bool) -> None:
    """Set up the root logger, once, at the start of a command."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(JsonFormatter() if is_json else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
