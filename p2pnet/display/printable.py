"""Makes text of strangers fit for a terminal and a log.

Knows nothing of terminals.
"""

from __future__ import annotations

import re

MAX_MESSAGE_CHARS = 300
"""What is quoted of a stranger's message: a sentence or two."""

_QUOTES = str.maketrans(dict.fromkeys('"\u201c\u201d\u201e\u201f\u00ab\u00bb', "'"))

_JOINERS = "\u200c\u200d"
"""Persian needs the one within words, emoji are put together with the other: right after a letter that can be seen, and
is none of ASCII's, each is what it seems to be."""

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but not tab and newline
    "\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # formats, directions, other line ends
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # letters and marks that are nothing to see
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # formats of shorthand and of music
    "\U000e0000-\U000e0fff"  # tags, which spell out text that nobody sees
    "\ud800-\udfff"  # halves of characters
    "]"
)
"""What acts on a terminal, turns the order of what is around it, or hides."""


def visible(text: str, after: str = "") -> str:
    """The text on its own lines, with the escape (`\\x1b`, `\\u202e`) of each character that a reader would not see.

    `after` is what was shown before it: text may come in pieces."""

    def shown(match: re.Match[str]) -> str:
        char, start = match[0], match.start()
        last = text[start - 1] if start else after[-1:]
        is_joining = char in _JOINERS and last > "\x7f" and not _UNSEEN.match(last)
        return char if is_joining else char.encode("unicode_escape").decode()

    return _UNSEEN.sub(shown, text)


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
