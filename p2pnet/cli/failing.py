"""Says on standard error what went wrong, and what to do."""

from __future__ import annotations

import sys
from shutil import get_terminal_size

from p2pnet.display.printable import visible
from p2pnet.display.wrapping import between_words
from p2pnet.errors import P2PNetError, UsageError


def print_error(error: P2PNetError) -> None:
    """A sentence, and a line with the fix. Some errors quote strangers, which must not act on the terminal. There lines
    end between words; elsewhere they are whole."""
    said = visible(
        f"Error: {error.message}\n{error.fix}" if isinstance(error, UsageError) else f"Error: {error.message}"
    )
    print(between_words(said, get_terminal_size().columns) if sys.stderr.isatty() else said, file=sys.stderr)
