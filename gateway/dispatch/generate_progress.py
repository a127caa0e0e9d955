"""Knows how far a generated answer has come, and makes the request for the rest of it. Pure: the heart of going on
elsewhere.

What was passed on to the client cannot be taken back. So an answer goes on from the ids of the tokens that were passed
on, at a worker with the same digest and sampler, which gives the same tokens (see `GenerateRequest.resume_tokens` in
`p2pnet.messages`); or, where there are no ids, from its text.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.dispatch.ends import EndSeen
from gateway.dispatch.passed_on import Echo, PassedOn
from gateway.dispatch.progress import Continuation
from p2pnet.features import RESUME
from p2pnet.messages import (
    MAX_RESUME_CHARS,
    Accepted,
    Finished,
    FinishReason,
    GenerateRequest,
    TextDelta,
    Usage,
    choice_seed,
)
from p2pnet.records import ModelCard
from p2pnet.wire.answer_limits import MAX_TEMPLATE_TOKENS

MAX_UNSENT_TOKENS = 1024
"""Tokens that count and are in no delta: an end token, and those of a stop string of at most 1024 characters."""


MAX_TRIES_BY_TEXT = 3
"""Workers that may go on with one answer from its text. Each reads the whole of it anew and says what the one before
would not have said: where three break off, the model or its server is at fault, and a fourth will not do better."""


class GenerateProgress:
    """How far one generation has come. See `Progress`.

    Accepted is passed on with the first part of the answer, so that until then any worker may take over, of whatever
    digest. From then on digest and sampler are those with which it began.
    """

    def __init__(self, request: GenerateRequest, choice: int | None = None) -> None:
        """`choice` says which answer of a larger request this is: its deltas are passed on under that number."""
        self._request = request
        self._choice = choice
        self._answers = [PassedOn() for _ in range(request.n)]
        self._echoes = [Echo() for _ in range(request.n)]
        self._accepted: Accepted | None = None
        self._is_told = choice is not None
        self._card: ModelCard | None = None
        """Of the worker with which the answer began."""
        self._has_ids = True
        self._is_by_text = False
        self._max_tokens = 0
        self._tokens_before = 0
        self._at_begin = (0, 0)
        """Tokens and texts of the one answer when the attempt began."""
        self._context_length = 0
        self._tries_by_text = 0
        self._parts: list[GenerateProgress] = []
        self.parts_given = 0
        self.finished: Finished | None = None

    @property
    def has_begun(self) -> bool:
        return self._is_told

    @property
    def is_over(self) -> bool:
        return self.finished is not None

    @property
    def _digest(self) -> str | None:
        """The digest of the weights with which the answer began."""
        return self._request.digest or (None if self._card is None else self._card.digest)

    @property
    def _sampler(self) -> str | None:
        """The sampler with which it began."""
        return self._request.sampler if self._card is None else self._card.sampler

    @property
    def _has_answer(self) -> bool:
        return any(answer.texts or answer.tokens or answer.has_calls for answer in self._answers)

    @property
    def is_splittable(self) -> bool:
        return self._request.n > 1 and self._has_answer

    def split(self) -> list[GenerateProgress]:
        """Each answer's own progress: asked for alone it is the same, with its own seed."""
        for index, answer in enumerate(self._answers):
            sampling = msgspec.structs.replace(
                self._request.sampling, seed=choice_seed(self._request.sampling.seed, index)
            )
            alone = msgspec.structs.replace(self._request, n=1, sampling=sampling)
            part = GenerateProgress(alone, index)
            part._card = self._card
            part._accepted = self._accepted
            answer.held = None
            part._answers = [answer]
            part._echoes = [self._echoes[index]]
            self._parts.append(part)
        return self._parts

    def end_of_parts(self) -> list[Accepted | TextDelta | Finished]:
        return [together(self._parts)]

    def continuations(self) -> Sequence[Continuation[GenerateRequest]]:
        """From the ids of the tokens that were passed on where they are known, else from the text."""
        if not self._is_told:
            return [Continuation(self._request)]
        by_ids = [Continuation(self.continuation())] if self.can_go_on_exactly else []
        text = self.continuation_by_text()
        return by_ids if text is None else [*by_ids, Continuation(text, is_by_text=True)]

    def continuation(self) -> GenerateRequest:
        """The request for what is left, from the ids of the tokens that were passed on."""
        if not self._is_told:
            return self._request
        request = msgspec.structs.replace(self._request, digest=self._digest, sampler=self._sampler)
        if not self._has_answer or request.n > 1:
            return request
        resume_tokens = (*request.resume_tokens, *self._answers[0].ids)
        return msgspec.structs.replace(request, echo=False, resume_tokens=resume_tokens)

    @property
    def can_go_on_exactly(self) -> bool:
        """Not where the client gave the beginning of the answer: nobody takes ids after a text."""
        return not self._request.resume_text and not any(answer.has_loose_end for answer in self._answers)

    def continuation_by_text(self) -> GenerateRequest | None:
        """The request for what is left at a worker whatever its digest, unless the client itself asked for one. None
        where text does not say enough: calls of tools were passed on, or nothing was yet. Nor does any worker go on
        with a text that is too long, or for the fourth time."""
        answer = self._answers[0]
        if not self._is_told or self._request.n > 1 or answer.has_calls or not answer.texts:
            return None
        if self._tries_by_text >= MAX_TRIES_BY_TEXT or self._tokens_left == 0:
            return None
        text = self._request.resume_text + "".join(answer.texts)
        if len(text) > MAX_RESUME_CHARS:
            return None
        return msgspec.structs.replace(
            self._request,
            echo=False,
            resume_tokens=(),
            resume_text=text,
            max_tokens=self._tokens_left,
            min_tokens=max(0, self._request.min_tokens - answer.tokens),
        )

    def begin(self, card: ModelCard, by_text: bool = False) -> None:
        if not self._is_told:
            self._card = card
        self._has_ids = RESUME in card.features
        self._is_by_text = by_text
        self._max_tokens = self._request.n * (self._request.max_tokens or card.context_length)
        self._tokens_before = self._answers[0].tokens if by_text else 0
        if by_text:  # the ids from here on may be of another vocabulary
            self._tries_by_text += 1
            self._answers[0].has_loose_end = True
        self._at_begin = (self._answers[0].tokens, len(self._answers[0].texts))
        self._context_length = card.context_length
        for answer in self._answers:
            answer.held = None
        for echo in self._echoes:
            echo.begin()

    def take(self, event: Accepted | TextDelta | Finished) -> list[Accepted | TextDelta | Finished]:
        if isinstance(event, Accepted):
            if not self._is_told:
                prompt_tokens = self._possible_prompt_tokens(event.prompt_tokens)
                self._accepted = msgspec.structs.replace(event, digest=self._digest, prompt_tokens=prompt_tokens)
            return []
        if isinstance(event, Finished):
            return self._end(event)
        given = self._delta(event)
        return self._told(given)

    def _told(self, given: list[TextDelta]) -> list[Accepted | TextDelta | Finished]:
        if not given:
            return []
        self.parts_given += len(given)
        numbered = [self._numbered(delta) for delta in given]
        return [*self._opening(), *numbered]

    def _opening(self) -> list[Accepted | TextDelta | Finished]:
        if self._is_told:
            return []
        self._is_told = True
        return [self._accepted] if self._accepted is not None else []

    def _numbered(self, delta: TextDelta) -> TextDelta:
        return delta if self._choice is None else msgspec.structs.replace(delta, choice=self._choice)

    def _delta(self, delta: TextDelta) -> list[TextDelta]:
        if delta.is_prompt:
            fresh = self._echoes[delta.choice].take(delta)
            return [] if fresh is None else [fresh]
        answer = self._answers[delta.choice]
        if self._has_ids and not delta.token_ids:
            waiting, answer.held = answer.held, delta
            return [] if waiting is None else self._pass_on(answer, waiting)
        held = [] if answer.held is None else self._pass_on(answer, answer.held)
        answer.held = None
        return held + self._pass_on(answer, delta)

    def _pass_on(self, answer: PassedOn, delta: TextDelta) -> list[TextDelta]:
        says = bool(delta.text or delta.tool_calls)
        answer.ids.extend(delta.token_ids)
        if delta.text:
            answer.texts.append(delta.text)
        answer.tokens += len(delta.token_ids) or delta.tokens or int(says)
        answer.has_calls = answer.has_calls or bool(delta.tool_calls)
        # Ids say exactly what their delta carries, where the worker promises so: nobody else's are gone on from.
        is_clean = self._has_ids if delta.token_ids else not says
        answer.has_loose_end = answer.has_loose_end or not is_clean
        return [delta]

    def end_at_limit(self) -> list[Accepted | TextDelta | Finished]:
        """The end of an answer that broke off after as many tokens as were asked for: nothing of it is left. After ids
        a worker is asked all the same, since a stop string may have ended it."""
        answer = self._answers[0]
        if self.can_go_on_exactly or self._request.n > 1 or self._tokens_left != 0:
            return []
        answer.held = None
        return self._end(Finished("length", Usage(self._prompt_tokens, answer.tokens - self._tokens_before)))

    def seen_end(self, event: Accepted | TextDelta | Finished) -> EndSeen | None:
        """None where no other could say just where it would have ended: of several answers, from a text, or with text
        that came without ids."""
        (answer, *others), request, held = self._answers, self._request, self._answers[0].held
        is_loose = self._is_by_text or (held is not None and bool(held.text or held.tool_calls))
        if not isinstance(event, Finished) or others or is_loose or (self._is_told and not self.can_go_on_exactly):
            return None
        given, (tokens_before, texts_before) = len(request.resume_tokens) + answer.tokens, self._at_begin
        says = len(answer.texts) > texts_before or answer.has_calls
        context = self._context_length - self._possible_prompt_tokens(event.usage.prompt_tokens)
        return EndSeen(
            event.reason,
            tokens=answer.tokens - tokens_before if says else 0,
            room=min(context, request.max_tokens or context) - given if self._has_ids else None,
            is_below_minimum=event.reason == "stop" and event.stop is None and given < request.min_tokens,
        )

    def _end(self, finished: Finished) -> list[Accepted | TextDelta | Finished]:
        last: list[TextDelta] = []
        for answer in self._answers:
            if answer.held is not None:
                last += self._pass_on(answer, answer.held)
                answer.held = None
        given = self._told(last) or self._opening()
        self.finished = msgspec.structs.replace(finished, usage=self._usage(finished.usage))
        return given if self._choice is not None else [*given, self.finished]

    def _usage(self, said: Usage) -> Usage:
        """As the worker counted, unless that cannot be: it may not count less than it sent, nor much more."""
        seen = sum(answer.tokens for answer in self._answers)
        counted = said.completion_tokens + self._tokens_before
        if self._has_ids:
            least, most = seen, seen + MAX_UNSENT_TOKENS * len(self._answers)
        else:  # a delta without ids may be several tokens, or a part of one
            least, most = self._tokens_before + (seen > self._tokens_before), max(seen, self._max_tokens)
        prompt_tokens = self._possible_prompt_tokens(said.prompt_tokens)
        if self._is_by_text and self._accepted is not None:  # to this worker, the text so far was a part of the prompt
            prompt_tokens = self._prompt_tokens
        completion_tokens = counted if least <= counted <= most else seen
        return Usage(prompt_tokens, completion_tokens, min(said.cached_tokens, prompt_tokens))

    @property
    def _tokens_left(self) -> int | None:
        """How many tokens may still come of the one answer; None is as many as the context holds."""
        limit = self._request.max_tokens
        return None if limit is None else max(0, limit - self._answers[0].tokens)

    @property
    def _prompt_tokens(self) -> int:
        """As the first worker counted them."""
        return 0 if self._accepted is None else self._accepted.prompt_tokens

    def _possible_prompt_tokens(self, said: int) -> int:
        """What the worker says, up to what such a prompt may have at most."""
        if said <= MAX_TEMPLATE_TOKENS:
            return said
        return min(said, MAX_TEMPLATE_TOKENS + len(msgspec.msgpack.encode(self._request.prompt)))


def together(parts: list[GenerateProgress]) -> Finished:
    """The end of a request whose answers ended one by one."""
    ends = [part.finished for part in parts if part.finished is not None]
    reasons: tuple[FinishReason, ...] = tuple(end.reason for end in ends)
    usage = Usage(
        ends[0].usage.prompt_tokens,
        sum(end.usage.completion_tokens for end in ends),
        min(end.usage.cached_tokens for end in ends),
    )
    return Finished(reasons[0], usage, ends[-1].load, reasons[1:])
