"""Writes down what the stories of NAT have measured, for the table of docs/nat.md (`scripts/nat_docs.py`)."""

from __future__ import annotations

import json
import os
from pathlib import Path

RESULTS = "P2PNET_NAT_RESULTS"
"""Names the file, a line for each story. Without it nothing is written."""


def note(story: str, **measured: str | float) -> None:
    print(story, measured)
    if path := os.environ.get(RESULTS):
        with Path(path).open("a") as file:
            file.write(json.dumps({"story": story, **measured}) + "\n")
