"""Translates tool calls into Ollama's, which are whole and have an object for arguments. Pure.

Ours come in pieces of text, and a model need not write JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.http.collected import CollectedCall
from p2pnet.messages import TextDelta, ToolCall


class WholeCalls:
    """Collects the pieces of a stream's calls, which come one call after the other."""

    def __init__(self) -> None:
        self._index = 0
        self._open: CollectedCall | None = None

    def take(self, delta: TextDelta) -> list[tuple[int, ToolCall]]:
        """The calls that are complete once this delta has come, with their indexes."""
        done = self.flush() if delta.text else []
        for piece in delta.tool_calls:
            if self._open is None or self._index != piece.index:
                done += self.flush()
                self._index, self._open = piece.index, CollectedCall()
            self._open.take(piece)
        return done

    def flush(self) -> list[tuple[int, ToolCall]]:
        """Closes the open call and returns it, if there is one."""
        if self._open is None:
            return []
        done, self._open = self._open, None
        return [(self._index, done.whole())]


def call_documents(calls: Sequence[tuple[int, ToolCall]]) -> tuple[list[dict[str, Any]], str]:
    """The calls as documents, and as text those whose arguments are no object. Ollama shows these as text, too."""
    documents: list[dict[str, Any]] = []
    texts: list[str] = []
    for index, call in calls:
        arguments = _compact_object(call.arguments or "{}")
        if arguments is None:
            texts.append(f'{{"name": {msgspec.json.encode(call.name).decode()}, "arguments": {call.arguments}}}')
        else:
            function = {"index": index, "name": call.name, "arguments": arguments}
            documents.append({"id": call.id, "function": function})
    return documents, "".join(texts)


def _compact_object(text: str) -> msgspec.Raw | None:
    """A JSON object on one line, its keys and numbers as they were written; None where the text is none."""
    try:
        msgspec.json.decode(text, type=dict[str, Any])
        return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
