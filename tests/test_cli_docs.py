"""docs/cli.md says what the commands say."""

from __future__ import annotations

from scripts.cli_docs import PAGE, page


def test_the_page_of_commands_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python scripts/cli_docs.py"
