"""Random requests of every kind that an answer may have to go on in, and what breaks them off."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

import msgspec

from gateway.dispatch.failure_policy import MAX_FAILURES, MAX_WORKER_FAILURES
from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.messages import ChatPrompt, GenerateRequest, Message, Prompt, Sampling, TextPrompt, TokenPrompt, Tool
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.text.vocabulary import Vocabulary
from tests.checkpoints import CHAT_TEMPLATE
from tests.gateway.breaking import AT_THE_END, BEFORE_ACCEPTED, Break, How
from tests.worker.answers import Answer

MAX_BREAKS = 3
"""Of one request."""

MAX_KILLS = (MAX_FAILURES - 1 - MAX_BREAKS) // 2
"""Of workers while requests run at the same time. Each may hit all of them twice, once more while the peer is away; and
a request that fails too often without a token in between is given up."""

CALL = '<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>'
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }} {{ tool.function.description }}{% endfor %}"
    f"{{% if tools %}} {CALL}{{% endif %}}{CHAT_TEMPLATE}"
)
WEATHER = Tool(
    "get_weather",
    "The weather of a city.",
    '{"type": "object", "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}}, '
    '"required": ["city", "unit"], "additionalProperties": false}',
)
TIME = Tool("get_time", "", '{"type": "object", "properties": {}, "additionalProperties": false}')
SCHEMA = (
    '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "string", "maxLength": 5}}, '
    '"required": ["a", "b"], "additionalProperties": false}'
)
BEGUN = (
    "Sure, let me see. <tool",
    'Sure.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "un',
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "get_weather", "argu',
)
"""Answers that a model without training would never begin itself."""

PROMPTS = ("The quick brown", "Once upon a time there was a small network in which every peer", "x")


class Requests:
    """Draws requests for one model. Its chat template is TEMPLATE."""

    def __init__(self, draw: random.Random, loaded: LoadedModel) -> None:
        self._draw = draw
        self._tokenizer = loaded.tokenizer
        self._end_token_ids: Collection[int] = loaded.end_token_ids
        self._size = loaded.vocabulary_size
        vocabulary = Vocabulary(loaded.tokenizer, self._size)
        self._ids = {vocabulary.token_bytes(token_id): token_id for token_id in reversed(range(self._size))}

    def one(self) -> GenerateRequest:
        draw = self._draw
        request = GenerateRequest(
            "r",
            "m",
            self._prompt(),
            self._sampling(),
            max_tokens=draw.randrange(1, 24),
            ignore_eos=draw.random() < 0.7,
            min_tokens=draw.choice([0, 0, 0, 6]),
            n=draw.choice([1, 1, 1, 3]),
            logprobs=draw.choice([None, None, 0, 2]),
            echo=draw.random() < 0.25,
            stop_token_ids=(draw.randrange(self._size),) if draw.random() < 0.1 else (),
        )
        return msgspec.structs.replace(request, **self._form(request))

    def _form(self, request: GenerateRequest) -> dict[str, Any]:
        draw = self._draw
        chat: dict[str, Any] = {"max_tokens": draw.randrange(1, 60), "ignore_eos": False}
        kind = draw.randrange(8)
        if kind == 0:
            return {**chat, "response_format": JsonSchemaFormat(SCHEMA)}
        if kind == 1:
            return {**chat, "response_format": JsonFormat()}
        if kind == 2:
            return {**chat, "prompt": with_tools(tool_choice="required")}
        if kind == 3:
            prompt = with_tools(tool_choice="required", required_tool="get_weather", parallel_tool_calls=False)
            return {**chat, "prompt": prompt}
        if kind == 4:
            return {"sampling": self._of_broken_characters(request.sampling.seed), "max_tokens": 30}
        if kind == 5 and request.n == 1 and not request.echo:
            begun = tuple(self._tokenizer(draw.choice(BEGUN), add_special_tokens=False)["input_ids"])
            return {"prompt": with_tools(), "resume_tokens": begun, "max_tokens": len(begun) + draw.randrange(12)}
        return {}

    def _prompt(self) -> Prompt:
        draw = self._draw
        text = draw.choice(PROMPTS)
        if draw.random() < 0.3:
            return ChatPrompt((Message("user", text),))
        if draw.random() < 0.3:
            return TokenPrompt(tuple(draw.randrange(self._size) for _ in range(draw.choice([1, 3, 40]))))
        return TextPrompt(text)

    def _sampling(self) -> Sampling:
        draw = self._draw

        def sometimes(value: Any, otherwise: Any) -> Any:
            return value if draw.random() < 0.2 else otherwise

        return Sampling(
            seed=draw.getrandbits(63),
            temperature=draw.choice([0, 0.7, 1, 2]),
            top_k=sometimes(20, 0),
            top_p=sometimes(0.8, 1.0),
            min_p=sometimes(0.05, 0.0),
            repetition_penalty=sometimes(1.4, 1.0),
            presence_penalty=sometimes(1.5, 0.0),
            frequency_penalty=sometimes(0.7, 0.0),
            logit_bias=sometimes({min(self._end_token_ids): 6.0, 70: 3.0}, {}),
        )

    def _of_broken_characters(self, seed: int) -> Sampling:
        """Characters of several tokens, whole ones and broken ones, with words between."""
        word = self._tokenizer("dog")["input_ids"][-1]
        ids = [self._ids[bytes([byte])] for byte in "語é".encode()]
        return Sampling(seed=seed, temperature=50, logit_bias=dict.fromkeys([*ids, word], 60.0))

    def stopping(self, request: GenerateRequest, plain: Answer) -> GenerateRequest:
        """The same with a stop string that its answer comes upon, wherever that begins, or almost."""
        text = self._draw.choice(plain.choices).text
        if not text:
            return request
        begin = self._draw.randrange(len(text))
        stop = text[begin : begin + self._draw.randrange(1, 6)]
        return msgspec.structs.replace(request, stop=(self._draw.choice([stop, stop, stop + "\x00"]), "\x00 never"))

    def breaks(self, with_kill: bool) -> list[Break]:
        """What one request meets, and perhaps a storm of workers that are busy."""
        draw = self._draw
        breaks = [self._break() for _ in range(draw.randrange(1, MAX_BREAKS + 1))]
        failed = [each for each in breaks if each.how is How.FAILED][MAX_WORKER_FAILURES - 1 :]
        breaks = [each for each in breaks if each not in failed] or [Break(How.CLOSED, 1)]
        if with_kill:
            breaks[0] = Break(How.KILLED, breaks[0].after)
        storm = [Break(How.BUSY, 0)] * (10 if draw.random() < 0.1 else 0)
        return draw.sample([*breaks, *storm], len(breaks) + len(storm))

    def _break(self) -> Break:
        draw = self._draw
        after = draw.choice([0, 1, 2, 2, 3, 3, 4, 5, 7, 10, 15, AT_THE_END])
        return Break(draw.choice([how for how in (How if after else BEFORE_ACCEPTED) if how is not How.KILLED]), after)


def with_tools(**fields: Any) -> ChatPrompt:
    return ChatPrompt((Message("user", "Hello"),), (WEATHER, TIME), **fields)
