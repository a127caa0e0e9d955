"""Takes what a model thinks apart from what it says. Pure.

Reasoning models write it first, between two tags of their own (`p2pnet.thought_tags`), and workers pass it on as text:
a worker in front of a server that takes it out of the text puts it back so. With some models the first tag is the end
of the prompt, and the worker says so (`Accepted.begins_thinking`). Where tags come later in an answer they are text as
any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from p2pnet.messages import Accepted, Finished, TextDelta
from p2pnet.thought_tags import ENDS, OPENINGS


@dataclass(frozen=True)
class Thought:
    """Some more of what a model thinks before it answers."""

    text: str
    choice: int = 0


Event = Accepted | Thought | TextDelta | Finished


class Thoughts:
    """Takes the events of one answer. A tag may come in pieces, so what may be a part of one is held back."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._begins_thinking = False

    def take(self, event: Accepted | TextDelta | Finished) -> list[Event]:
        if isinstance(event, TextDelta):
            if event.is_prompt:
                return [event]
            choice = self._choices.get(event.choice)
            if choice is None:
                choice = self._choices[event.choice] = _Choice(event.choice, self._begins_thinking)
            return choice.take(event)
        if isinstance(event, Accepted):
            self._begins_thinking = event.begins_thinking
        if isinstance(event, Finished):
            return [*(held for choice in self._choices.values() for held in choice.rest()), event]
        return [event]


@dataclass
class _Choice:
    """One answer: undecided, then perhaps thinking, then saying something."""

    index: int
    is_thinking: bool = False
    ends: tuple[str, ...] = ENDS
    """What may end the thoughts: of those that the prompt has opened, any tag that the table knows."""
    is_said: bool = False
    held: list[TextDelta] = field(default_factory=list)
    """While it is undecided: what may be the beginning of a tag."""
    thought: str = ""
    """Not given yet: what may be the end of a thought."""
    is_after: bool = False
    """Whether nothing was said yet after the thoughts: what is between the two is space."""
    has_thought: bool = False

    def take(self, delta: TextDelta) -> list[Event]:
        if self.is_said:
            return [delta]
        if self.is_thinking:
            return self._think(delta)
        if self.is_after:
            return self._say(delta)
        self.held.append(delta)
        text = "".join(each.text for each in self.held).lstrip()
        opening = next((tags for tags in OPENINGS if text.startswith(tags.begin)), None)
        if opening is not None:
            self.held, self.is_thinking, self.ends = [], bool(opening.end), (opening.end,)
            inner = msgspec.structs.replace(delta, text=text.removeprefix(opening.begin))
            return self._think(inner) if opening.end else self._after(inner)
        if any(tags.begin.startswith(text) for tags in OPENINGS) and not delta.tool_calls:
            return []
        self.is_said = True
        return self.rest()

    def rest(self) -> list[Event]:
        """What is held back, once nothing follows that would say what it is."""
        held, self.held = self.held, []
        if self.is_thinking:
            return self._thought(self.thought.rstrip())
        return [*held]

    def _think(self, delta: TextDelta) -> list[Event]:
        self.thought += delta.text
        thought, end, said = self._parted()
        if end or delta.tool_calls:
            last = self._thought(thought.rstrip())
            return last + self._after(msgspec.structs.replace(delta, text=said))
        safe = _without_begun_end(thought, self.ends).rstrip()
        self.thought = thought[len(safe) :]
        return self._thought(safe)

    def _parted(self) -> tuple[str, str, str]:
        """The thought, the tag that ends it, and what is said after it; all of it is thought where there is none."""
        first = min(self.ends, key=lambda end: (end not in self.thought, self.thought.find(end)))
        return self.thought.partition(first)

    def _after(self, delta: TextDelta) -> list[Event]:
        self.is_thinking, self.is_after = False, True
        return self._say(delta)

    def _thought(self, text: str) -> list[Event]:
        text = text if self.has_thought else text.lstrip()
        self.has_thought = self.has_thought or bool(text)
        return [Thought(text, self.index)] if text else []

    def _say(self, delta: TextDelta) -> list[Event]:
        said = msgspec.structs.replace(delta, text=delta.text.lstrip())
        if not said.text and not said.tool_calls:
            return []
        self.is_said = True
        return [said]


def _without_begun_end(text: str, ends: tuple[str, ...]) -> str:
    """The text up to what may be the beginning of a tag at its end."""
    sizes = range(min(max(map(len, ends)) - 1, len(text)), 0, -1)
    begun = next((size for size in sizes if any(end.startswith(text[-size:]) for end in ends)), 0)
    return text[: len(text) - begun]
