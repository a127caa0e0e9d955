"""Tells the tool calls of one answer apart, whose pieces servers number as they like. Pure.

OpenAI gives each call an index of its own. Others give all the same one, or none, or null; some say id and name again
with every piece. So what begins a call is a new id, or a new name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from p2pnet.errors import WorkerFailed
from p2pnet.messages import ToolCallDelta
from p2pnet.worker.backends.upstream.reading import UNREADABLE, begun_call, check_tool_call


@dataclass
class _Begun:
    """A call whose first piece has come. `number` is its place among the calls of the answer."""

    number: int
    id: str | None
    name: str
    arguments: list[str] = field(default_factory=list)

    def is_another(self, call_id: str | None, name: str) -> bool:
        """Whether a piece with this name begins another call at the same index."""
        if call_id is not None and self.id is not None:
            return call_id != self.id
        return name != self.name or _is_whole("".join(self.arguments))


class Calls:
    """The calls of one answer, as far as they have come."""

    def __init__(self) -> None:
        self._count = 0
        self._at: dict[int, _Begun] = {}
        """The newest call of each index that the server has given."""
        self._last: _Begun | None = None

    def take(self, index: int | None, call_id: str | None, name: str | None, arguments: str) -> ToolCallDelta:
        """The piece in our numbers. Raises WorkerFailed where it fits no call."""
        check_tool_call(index or 0, call_id, name)
        known = self._last if index is None else self._at.get(index)
        if name and (known is None or known.is_another(call_id or None, name)):
            check_tool_call(self._count, call_id, name)
            known = _Begun(self._count, call_id or None, name)
            self._count += 1
            piece = begun_call(known.number, call_id, name, arguments)
        elif known is None:
            raise WorkerFailed("the upstream server sent a tool call without a name")
        else:
            piece = ToolCallDelta(known.number, arguments=arguments)
        known.arguments.append(arguments)
        self._last = known
        if index is not None:
            self._at[index] = known
        return piece


def _is_whole(arguments: str) -> bool:
    try:
        msgspec.json.decode(arguments)
    except UNREADABLE:
        return False
    return True
