"""Renders a generation as the typed events of a streamed response. Pure: no clock, no ids of its own, no I/O.

    created, in_progress, then for each item of the output
      output_item.added
        content_part.added, reasoning_text.delta*, reasoning_text.done, content_part.done    of what a model thinks
        content_part.added, output_text.delta*, output_text.done, content_part.done    of a message
        function_call_arguments.delta*, function_call_arguments.done                   of a call
        custom_tool_call_input.delta, custom_tool_call_input.done                      of a call of a free-form tool
      output_item.done
    and completed, incomplete or failed

One item is open at a time: the next one closes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gateway.http import sse
from gateway.http.collected import CollectedCall
from gateway.http.failures import Failure
from gateway.http.one_line import encode_line
from gateway.http.replies import AnswerEvent, waiting_comment
from gateway.http.thoughts import Thought
from gateway.interface import Waiting
from gateway.surfaces.openai.logprobs import token_documents
from gateway.surfaces.openai.response_render import (
    FAILED,
    IN_PROGRESS,
    ObjectHead,
    call_item,
    item_id,
    kind_of,
    message_item,
    reasoning_item,
    response_document,
    status_of,
    text_part,
    thought_part,
)
from gateway.surfaces.openai.response_tools import Known
from p2pnet.messages import Accepted, Finished, TextDelta, TokenLogprob, ToolCallDelta


class ResponseStream:
    """The events of one response, in order. A renderer for StreamedReply."""

    media_type = sse.MEDIA_TYPE
    shows_thoughts = True

    def __init__(self, head: ObjectHead) -> None:
        self._head = head
        self._numbers = 0
        self._fingerprint: str | None = None
        self._is_created = False
        self._unsent: list[bytes] = []
        """Rendered, and not handed out yet: something is left there where rendering has failed."""
        self._done: list[dict[str, Any]] = []
        self._open: _Thinking | _Message | _Call | None = None

    def keep_alive(self, waiting: Waiting | None) -> bytes:
        return sse.comment(waiting_comment(waiting))

    def render(self, events: Sequence[AnswerEvent]) -> bytes:
        for event in events:
            self._unsent.extend(self._render(event))
        return self._sent()

    def render_failure(self, failure: Failure) -> bytes:
        """What was said so far stays in the output, unfinished. Where it was this gateway that could not render what
        came, what it had rendered until then goes first, for events are numbered; and what cannot be said is left out
        of the output."""
        self._unsent.extend(self._create())
        try:
            failed = self._state("failed", FAILED, self._output("incomplete"), failure=failure)
        except Exception:  # the same again: whatever it was, it is in what has not been finished
            failed = self._state("failed", FAILED, self._done, failure=failure)
        self._unsent.append(failed)
        return self._sent()

    def _sent(self) -> bytes:
        parts, self._unsent = self._unsent, []
        return b"".join(parts)

    def with_receipts(self, end: bytes, document: bytes) -> bytes:
        return sse.with_receipts(end, document)

    def _render(self, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, Accepted):
            self._fingerprint = event.fingerprint
            yield from self._create()
        elif isinstance(event, Thought):
            yield from self._think(event)
        elif isinstance(event, TextDelta):
            if event.text or (event.logprobs and not event.tool_calls):
                yield from self._say(event)
            for piece in event.tool_calls:
                yield from self._call(piece)
        else:
            yield from self._finish(event)

    def _create(self) -> Iterator[bytes]:
        if not self._is_created:
            self._is_created = True
            yield self._state("created", IN_PROGRESS)
            yield self._state("in_progress", IN_PROGRESS)

    def _think(self, thought: Thought) -> Iterator[bytes]:
        thinking = self._open
        if not isinstance(thinking, _Thinking):
            thinking = _Thinking(item_id(self._head, "rs", len(self._done) + bool(self._open)))
            yield from self._begin(thinking)
        thinking.texts.append(thought.text)
        yield self._of_part("reasoning_text.delta", delta=thought.text)

    def _say(self, delta: TextDelta) -> Iterator[bytes]:
        if not isinstance(self._open, _Message):
            yield from self._begin(_Message(item_id(self._head, "msg", len(self._done) + bool(self._open))))
        message = self._open
        assert isinstance(message, _Message)
        message.texts.append(delta.text)
        message.logprobs.extend(delta.logprobs)
        logprobs = token_documents(delta.logprobs)
        yield self._of_part("output_text.delta", delta=delta.text, logprobs=logprobs)

    def _call(self, piece: ToolCallDelta) -> Iterator[bytes]:
        call = self._open
        if not isinstance(call, _Call) or call.index != piece.index:
            known = self._head.offered.of(piece.name or "")
            place = len(self._done) + bool(self._open)
            fresh = _Call(item_id(self._head, kind_of(known), place), piece, known)
            yield from self._begin(fresh)
            call = fresh
        if piece.arguments:
            call.collected.take(piece)
            if call.known.is_custom:
                return  # what comes is the JSON around its text
            yield self._of_item("function_call_arguments.delta", delta=piece.arguments)

    def _begin(self, item: _Thinking | _Message | _Call) -> Iterator[bytes]:
        yield from self._end("completed")
        self._open = item
        yield self._event("output_item.added", output_index=len(self._done), item=item.document(IN_PROGRESS))
        if isinstance(item, _Message):
            yield self._of_part("content_part.added", part=text_part(""))
        elif isinstance(item, _Thinking):
            yield self._of_part("content_part.added", part=thought_part(""))

    def _end(self, status: str) -> Iterator[bytes]:
        item = self._open
        if item is None:
            return
        if isinstance(item, _Message):
            text = "".join(item.texts)
            yield self._of_part("output_text.done", text=text, logprobs=token_documents(item.logprobs))
            yield self._of_part("content_part.done", part=text_part(text, item.logprobs))
        elif isinstance(item, _Thinking):
            text = "".join(item.texts)
            yield self._of_part("reasoning_text.done", text=text)
            yield self._of_part("content_part.done", part=thought_part(text))
        elif item.known.is_custom:
            given = item.known.input_of(item.collected.whole().arguments)
            yield self._of_item("custom_tool_call_input.delta", delta=given)
            yield self._of_item("custom_tool_call_input.done", input=given)
        else:
            arguments = item.collected.whole().arguments
            yield self._of_item("function_call_arguments.done", name=item.known.name, arguments=arguments)
        document = item.document(status)
        yield self._event("output_item.done", output_index=len(self._done), item=document)
        self._done.append(document)
        self._open = None

    def _finish(self, finished: Finished) -> Iterator[bytes]:
        status = status_of(finished.reason)
        if self._open is None and not self._done:
            yield from self._begin(_Message(item_id(self._head, "msg", 0)))
        yield from self._end(status)
        yield self._state(status, status, self._done, finished)

    def _output(self, status: str) -> list[dict[str, Any]]:
        return [*self._done, *([] if self._open is None else [self._open.document(status)])]

    def _state(
        self,
        name: str,
        status: str,
        output: Sequence[dict[str, Any]] = (),
        finished: Finished | None = None,
        failure: Failure | None = None,
    ) -> bytes:
        usage, reason = (None, None) if finished is None else (finished.usage, finished.reason)
        document = response_document(self._head, status, output, usage, self._fingerprint, failure, reason)
        if finished is not None and self._head.keep is not None:
            self._head.keep(document)
        return self._event(name, response=document)

    def _of_part(self, kind: str, **fields: Any) -> bytes:
        return self._of_item(kind, content_index=0, **fields)

    def _of_item(self, kind: str, **fields: Any) -> bytes:
        assert self._open is not None
        return self._event(kind, item_id=self._open.id, output_index=len(self._done), **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        of_response = f"response.{kind}"
        data = encode_line({"type": of_response, "sequence_number": self._numbers, **fields})
        self._numbers += 1
        return sse.event(of_response, data)


class _Thinking:
    """What is being thought."""

    def __init__(self, item_id: str) -> None:
        self.id = item_id
        self.texts: list[str] = []

    def document(self, status: str) -> dict[str, Any]:
        content = [] if status == IN_PROGRESS else [thought_part("".join(self.texts))]
        return reasoning_item(self.id, status, content)


class _Message:
    """A message that is being said."""

    def __init__(self, message_id: str) -> None:
        self.id = message_id
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []

    def document(self, status: str) -> dict[str, Any]:
        content = [] if status == IN_PROGRESS else [text_part("".join(self.texts), self.logprobs)]
        return message_item(self.id, status, content)


class _Call:
    """A call that is being made."""

    def __init__(self, item_id: str, first: ToolCallDelta, known: Known) -> None:
        self.id = item_id
        self.known = known
        self.index = first.index
        self.collected = CollectedCall(first.id or "", first.name or "")

    def document(self, status: str) -> dict[str, Any]:
        return call_item(self.id, status, self.collected.whole(), self.known)
