"""Turns a request into the sequences that answer it, and says what is wrong with it.

Holds no weights, so it stays when the model is unloaded, and what is wrong with a request is said without loading it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest
from p2pnet.features import CHAT, ENGINE, FIM, JSON, JSON_SCHEMA, REGEX, TOKENIZE, TOOLS
from p2pnet.messages import (
    MAX_TOKENS_LIMIT,
    ChatPrompt,
    GenerateRequest,
    TextDelta,
    TextPrompt,
    choice_seed,
)
from p2pnet.score_messages import ScoreRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.echo import PromptEcho
from p2pnet.worker.engine.limits import tokens_to_generate
from p2pnet.worker.engine.replay import Given, Replay
from p2pnet.worker.engine.sequence import Sequence, SequencePlan
from p2pnet.worker.text.constraint import Constraint
from p2pnet.worker.text.detokenizer import Detokenizer, invisible_ids
from p2pnet.worker.text.emission import Emitter
from p2pnet.worker.text.fim import find_fim
from p2pnet.worker.text.forms import Forms
from p2pnet.worker.text.length import check_fits
from p2pnet.worker.text.prompting import begins_thinking, encode_prompt
from p2pnet.worker.text.resuming import encodings
from p2pnet.worker.text.tokens import tokens_of


class Intake:
    """Takes in the requests to one model. `sequences` is not for several threads at the same time."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._tokenizer = loaded.tokenizer
        self._vocabulary_size = loaded.vocabulary_size
        self._end_token_ids = loaded.end_token_ids
        self._forms = Forms(loaded)
        self._invisible = invisible_ids(loaded.tokenizer)
        self._fim = find_fim(loaded.tokenizer)

    @property
    def features(self) -> tuple[str, ...]:
        """What can be asked of this model, in the words of `features`."""
        is_exact = self._forms.vocabulary.is_exact
        missing = set() if is_exact else {JSON, JSON_SCHEMA, REGEX}
        chat = (CHAT,) if self._tokenizer.chat_template else ()
        tools = (TOOLS,) if self._forms.has_tools and is_exact else ()
        fim = (FIM,) if self._fim is not None else ()
        return (*(feature for feature in ENGINE if feature not in missing), TOKENIZE, *chat, *tools, *fim)

    def check(self, request: GenerateRequest) -> None:
        """Check what can be said without tokenizing. Raises InvalidRequest."""
        if request.echo and isinstance(request.prompt, TextPrompt) and request.prompt.suffix:
            raise InvalidRequest("The echo of a prompt with a suffix would have to come in two parts.", "echo")
        for param, ids in (
            ("stop_token_ids", request.stop_token_ids),
            ("logit_bias", request.sampling.logit_bias),
            ("resume_tokens", request.resume_tokens),
        ):
            self._check_ids(ids, param)

    def check_score(self, asked: ScoreRequest) -> None:
        """Check what can be said of an answer to be scored without tokenizing. Raises InvalidRequest."""
        self.check(asked.request)
        self._check_ids(asked.token_ids, "token_ids")
        most = asked.request.max_tokens
        if most is not None and len(asked.request.resume_tokens) + len(asked.token_ids) > most:
            raise InvalidRequest("There are more tokens to score than may be generated.", "token_ids")

    def _check_ids(self, ids: Collection[int], param: str) -> None:
        if ids and max(ids) >= self._vocabulary_size:
            raise InvalidRequest(f"Token id {max(ids)} is not in the vocabulary.", param)

    def begins_thinking(self, request: GenerateRequest, sequence: Sequence) -> bool:
        """Whether the answer's text begins within what the model thinks: one that has a form does not."""
        prompt_ids = sequence.prompt_ids
        return request.response_format is None and begins_thinking(request.prompt, prompt_ids, self._tokenizer)

    def sequences(self, request: GenerateRequest, context_length: int) -> tuple[list[Sequence], list[TextDelta]]:
        """One sequence for each answer, and the echo that can be sent at once. Raises RequestError."""
        return self._begin(request, self._encode(request, context_length), context_length)

    def tokens(self, asked: TokenizeRequest, context_length: int) -> tuple[int, list[Tokenized]]:
        """How many tokens a prompt has, and what is told of them. Raises RequestError."""
        return tokens_of(asked, self._tokenizer, self._vocabulary_size, context_length)

    def replay(self, asked: ScoreRequest, context_length: int) -> Replay:
        """The answer that is to be scored. Raises RequestError.

        What was given has to fit the context. How much more there could have been is of the worker that gave it, and
        not known where the request leaves it to its context.
        """
        request = msgspec.structs.replace(asked.request, echo=False, logprobs=None)
        is_limit_known = request.max_tokens is not None and not request.clamp_max_tokens
        if not is_limit_known:
            request = msgspec.structs.replace(request, max_tokens=None, clamp_max_tokens=False)
        prompt = self._encode(request, context_length)
        [sequence], _ = self._begin(request, prompt, context_length + MAX_TOKENS_LIMIT)
        length = len(sequence.job.ids) + len(asked.token_ids)
        if length > context_length:
            raise ContextOverflow.by_prompt(context_length, length)
        given = Given(asked.token_ids, asked.reason, asked.stop, is_limit_known, asked.text_hash)
        return Replay.alone(sequence, given, min(context_length, sequence.job.max_length))

    def _begin(
        self, request: GenerateRequest, prompt: _Encoded, context_length: int
    ) -> tuple[list[Sequence], list[TextDelta]]:
        if request.resume_text:
            return [self._after_text(request, prompt, context_length)], []
        max_tokens = tokens_to_generate(len(prompt.ids), request.max_tokens, context_length, request.clamp_max_tokens)
        if len(request.resume_tokens) > max_tokens:
            raise InvalidRequest("There are more tokens to go on after than may be generated.", "resume_tokens")
        make_constraint = self._forms.constraint(request)
        echoed: list[TextDelta] = []
        sequences = []
        for choice in range(request.n):
            echo = self._echo(request, prompt.ids, choice)
            if echo is not None and not echo.needs_logits:
                echoed.extend(echo.all())
            constraint = None if make_constraint is None else make_constraint()
            sequences.append(self._sequence(request, prompt, max_tokens, choice, constraint, echo))
        if request.score_resume:
            afresh = msgspec.structs.replace(request, resume_tokens=())
            constraint = None if make_constraint is None else make_constraint()
            before = self._sequence(afresh, prompt, max_tokens, 0, constraint, None)
            sequences[0].replay = Replay(before, Given(request.resume_tokens), sequences[0].job)
        return sequences, echoed

    def _encode(self, request: GenerateRequest, context_length: int) -> _Encoded:
        """Encode the prompt. Raises RequestError."""
        prompt = request.prompt
        if isinstance(prompt, TextPrompt) and prompt.suffix:
            assert self._fim is not None  # the feature was checked
            for text in (prompt.text, prompt.suffix):
                check_fits(text, self._tokenizer, context_length)
            gap = self._fim.encode(prompt.text, prompt.suffix)
            return _Encoded(gap.ids, gap.before_ids, self._end_token_ids | self._fim.end_token_ids)
        ids = encode_prompt(prompt, self._tokenizer, self._vocabulary_size, context_length)
        return _Encoded(ids, () if isinstance(prompt, ChatPrompt) else ids, self._end_token_ids)

    def _after_text(self, request: GenerateRequest, prompt: _Encoded, context_length: int) -> Sequence:
        """The answer to a request with `resume_text`. Raises RequestError.

        The text has to be cut into tokens in a way that the form of the answer allows.
        """
        make_constraint = self._forms.constraint(request)
        start = Detokenizer(self._tokenizer, self._invisible, prompt.context)
        for ids in encodings(request.resume_text, self._tokenizer, start):
            tokens = len(prompt.ids) + len(ids)
            rest = tokens_to_generate(tokens, request.max_tokens, context_length, request.clamp_max_tokens)
            min_tokens = len(ids) + request.min_tokens
            after = msgspec.structs.replace(request, resume_tokens=ids, min_tokens=min_tokens)
            constraint = None if make_constraint is None else make_constraint()
            try:
                sequence = self._sequence(after, prompt, len(ids) + rest, 0, constraint, None)
            except InvalidRequest as error:
                if error.param != "resume_tokens":
                    raise
            else:
                if not sequence.has_calls:
                    return sequence
        raise FeatureMissing("The model cannot go on after this text.", "resume_text")

    def _sequence(
        self,
        request: GenerateRequest,
        prompt: _Encoded,
        max_tokens: int,
        choice: int,
        constraint: Constraint | None,
        echo: PromptEcho | None,
    ) -> Sequence:
        end_token_ids = frozenset() if request.ignore_eos else prompt.end_token_ids
        seed = choice_seed(request.sampling.seed, choice)
        plan = SequencePlan(
            prompt_ids=prompt.ids,
            max_tokens=max_tokens,
            sampling=msgspec.structs.replace(request.sampling, seed=seed),
            end_token_ids=end_token_ids | frozenset(request.stop_token_ids),
            min_tokens=request.min_tokens,
            resume_ids=request.resume_tokens,
            is_of_text=bool(request.resume_text),
            logprobs=request.logprobs,
        )
        parser = self._forms.parser(request, seed)
        markers = self._forms.markers if parser is not None else None
        detokenizer = Detokenizer(self._tokenizer, self._invisible, prompt.context, markers)
        emitter = Emitter(detokenizer, request.stop, parser, choice)
        return Sequence(plan, emitter, self._forms.vocabulary.token_bytes, constraint, echo)

    def _echo(self, request: GenerateRequest, prompt_ids: tuple[int, ...], choice: int) -> PromptEcho | None:
        if not request.echo:
            return None
        emitter = Emitter(Detokenizer(self._tokenizer, self._invisible), ())
        return PromptEcho(prompt_ids, emitter, request.logprobs, self._forms.vocabulary.token_bytes, choice)


@dataclass(frozen=True)
class _Encoded:
    """A prompt's ids, those that the answer's text continues (none of a chat's), and what ends an answer to it."""

    ids: tuple[int, ...]
    context: tuple[int, ...]
    end_token_ids: frozenset[int]
