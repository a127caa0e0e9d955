"""From a request to the sequences that answer it: all that a model knows of requests and that is small.

Holds no weights, so it stays when the model is unloaded, and what is wrong with a request is said without loading it.
"""

from __future__ import annotations

import msgspec

from p2pnet.errors import InvalidRequest
from p2pnet.features import CHAT, ENGINE, JSON, JSON_SCHEMA, TOOLS
from p2pnet.messages import ChatPrompt, GenerateRequest, TextDelta, choice_seed
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.echo import PromptEcho
from p2pnet.worker.engine.limits import tokens_to_generate
from p2pnet.worker.engine.sequence import Sequence, SequencePlan
from p2pnet.worker.text.constraint import Constraint
from p2pnet.worker.text.detokenizer import Detokenizer, invisible_ids
from p2pnet.worker.text.emission import Emitter
from p2pnet.worker.text.forms import Forms
from p2pnet.worker.text.prompting import encode_prompt


class Intake:
    """Of one model. `sequences` is not for several threads at the same time."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._tokenizer = loaded.tokenizer
        self._vocabulary_size = loaded.vocabulary_size
        self._end_token_ids = loaded.end_token_ids
        self._forms = Forms(loaded)
        self._invisible = invisible_ids(loaded.tokenizer)

    @property
    def features(self) -> tuple[str, ...]:
        """What can be asked of this model, in the words of `features`."""
        is_exact = self._forms.vocabulary.is_exact
        missing = set() if is_exact else {JSON, JSON_SCHEMA}
        chat = (CHAT,) if self._tokenizer.chat_template else ()
        tools = (TOOLS,) if self._forms.has_tools and is_exact else ()
        return (*(feature for feature in ENGINE if feature not in missing), *chat, *tools)

    def check(self, request: GenerateRequest) -> None:
        """What can be said without tokenizing. Raises InvalidRequest."""
        for param, ids in (
            ("stop_token_ids", request.stop_token_ids),
            ("logit_bias", request.sampling.logit_bias),
            ("resume_tokens", request.resume_tokens),
        ):
            unknown = [token for token in ids if token >= self._vocabulary_size]
            if unknown:
                raise InvalidRequest(f"Token id {unknown[0]} is not in the vocabulary.", param)
        if request.resume_tokens and (request.n > 1 or request.echo):
            raise InvalidRequest("Only one answer, without an echo, can be resumed.", "resume_tokens")

    def sequences(self, request: GenerateRequest, context_length: int) -> tuple[list[Sequence], list[TextDelta]]:
        """One for each answer, and the echo that can be sent at once. Raises RequestError."""
        prompt_ids = encode_prompt(request.prompt, self._tokenizer, self._vocabulary_size)
        max_tokens = tokens_to_generate(len(prompt_ids), request.max_tokens, context_length)
        if len(request.resume_tokens) > max_tokens:
            raise InvalidRequest("There are more tokens to go on after than may be generated.", "resume_tokens")
        make_constraint = self._forms.constraint(request)
        echoed: list[TextDelta] = []
        sequences = []
        for choice in range(request.n):
            echo = self._echo(request, prompt_ids, choice)
            if echo is not None and not echo.needs_logits:
                echoed.extend(echo.all())
            constraint = None if make_constraint is None else make_constraint()
            sequences.append(self._sequence(request, prompt_ids, max_tokens, choice, constraint, echo))
        return sequences, echoed

    def _sequence(
        self,
        request: GenerateRequest,
        prompt_ids: tuple[int, ...],
        max_tokens: int,
        choice: int,
        constraint: Constraint | None,
        echo: PromptEcho | None,
    ) -> Sequence:
        end_token_ids = frozenset() if request.ignore_eos else self._end_token_ids
        seed = choice_seed(request.sampling.seed, choice)
        plan = SequencePlan(
            prompt_ids=prompt_ids,
            max_tokens=max_tokens,
            sampling=msgspec.structs.replace(request.sampling, seed=seed),
            end_token_ids=end_token_ids | frozenset(request.stop_token_ids),
            min_tokens=request.min_tokens,
            resume_ids=request.resume_tokens,
            logprobs=request.logprobs,
        )
        context = () if isinstance(request.prompt, ChatPrompt) else prompt_ids
        parser = self._forms.parser(request, seed)
        markers = self._forms.markers if parser is not None else None
        detokenizer = Detokenizer(self._tokenizer, self._invisible, context, markers)
        emitter = Emitter(detokenizer, request.stop, parser, choice)
        return Sequence(plan, emitter, self._forms.vocabulary.token_bytes, constraint, echo)

    def _echo(self, request: GenerateRequest, prompt_ids: tuple[int, ...], choice: int) -> PromptEcho | None:
        if not request.echo:
            return None
        emitter = Emitter(Detokenizer(self._tokenizer, self._invisible), ())
        return PromptEcho(prompt_ids, emitter, request.logprobs, self._forms.vocabulary.token_bytes, choice)
