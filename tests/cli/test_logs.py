"""Log lines as JSON: one object a line, with the traceback where there is one."""

from __future__ import annotations

import json
import logging
import sys

from p2pnet.cli.logs import JsonFormatter


def test_a_line_is_one_json_object() -> None:
    record = logging.LogRecord("p2pnet.test", logging.WARNING, "file.py", 1, 'said "%s"\n', ("x",), None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["level"] == "warning"
    assert fields["logger"] == "p2pnet.test"
    assert fields["message"] == 'said "x"\n'


def test_an_exception_is_in_its_own_field() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("p2pnet.test", logging.ERROR, "file.py", 1, "failed", (), sys.exc_info())
    assert "ValueError: why" in json.loads(JsonFormatter().format(record))["exception"]
