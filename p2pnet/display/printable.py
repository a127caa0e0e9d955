"""Text of strangers made fit for a terminal: nothing in it moves the cursor, colours or hides anything.

Knows nothing of terminals.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with a space for each character that is not printable, line breaks and escape codes among them."""
    return "".join(char if char.isprintable() else " " for char in text)


def short_id(peer_id: str) -> str:
    """Enough of a peer id to tell it from others: all of them begin alike."""
    return f"..{printable(peer_id)[-8:]}" if peer_id else "-"
