"""Makes text of strangers fit for a terminal and a log.

Knows nothing of terminals.
"""

from __future__ import annotations

MAX_MESSAGE_CHARS = 300
"""What is quoted of a stranger's message: a sentence or two."""

_QUOTES = str.maketrans(dict.fromkeys('"\u201c\u201d\u201e\u201f\u00ab\u00bb', "'"))


def printable(text: str) -> str:
    """The text with a space for each character that is not printable, line breaks and escape codes among them."""
    return "".join(char if char.isprintable() else " " for char in text)


def printable_line(text: str, max_chars: int = MAX_MESSAGE_CHARS) -> str:
    """The text as one printable line with single spaces. The end of a longer one gives way to three dots."""
    line = " ".join(printable(text[: 4 * max_chars]).split())
    return line if len(line) <= max_chars else line[: max_chars - 3] + "..."


def quoted(text: str) -> str:
    """The text as one printable line between quotation marks, which it cannot close itself. Empty when it says
    nothing."""
    line = printable_line(text).translate(_QUOTES)
    return f'"{line}"' if line else ""


def short_id(peer_id: str) -> str:
    """The end of a peer id, which tells it from others: all of them begin alike."""
    return f"..{printable(peer_id)[-8:]}" if peer_id else "-"
