"""Parses what the bodies of chat, completions and responses share: sampling, and when to stop.

Types are checked strictly; the bounds of numbers live in `p2pnet.messages` and are checked against it. Unknown fields
are ignored. Known fields that would change the answer and cannot be honoured are refused by name.
Knows nothing of HTTP.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from pydantic import ConfigDict, Field

from gateway.http.bodies import Body, greedy_without_choice, out_of_bounds, seed_within_limit
from gateway.http.images import with_checked_images
from gateway.surfaces.openai.forms import Format, format_field, of_choices, of_regex, of_schema, one_form
from p2pnet.errors import InvalidRequest
from p2pnet.messages import GenerateRequest

_SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)

UNSUPPORTED = {
    "add_generation_prompt": True,
    "allowed_token_ids": None,
    "bad_words": None,
    "chat_template": None,
    "chat_template_kwargs": None,
    "continue_final_message": None,
    "custom_logit_processor": None,
    "dry_multiplier": 0,
    "dynatemp_range": 0,
    "ebnf": None,
    "grammar": None,
    "guided_grammar": None,
    "include_stop_str_in_output": None,
    "length_penalty": 1,
    "logits_processors": None,
    "logprob_token_ids": None,
    "mirostat": 0,
    "prompt_logprobs": None,
    "repeat_penalty": 1,
    "skip_special_tokens": True,
    "structural_tag": None,
    "structured_outputs": None,
    "tfs_z": 1,
    "top_n_sigma": -1,
    "truncate_prompt_tokens": None,
    "typical_p": 1,
    "use_beam_search": None,
    "xtc_probability": 0,
}
"""Extensions of vLLM, SGLang and llama.cpp that change the answer and that we do not have, with the value of each that
changes nothing. So does null in any, and what is empty or false where that stands for it."""

INSTEAD = {
    **dict.fromkeys(
        (
            *("ebnf", "grammar", "guided_grammar"),
            *("structural_tag", "structured_outputs"),
        ),
        "describe the form as a JSON schema in response_format, or with regex",
    ),
    "repeat_penalty": "repetition_penalty is the same",
    "functions": "send them as tools",
    "function_call": "send tools and tool_choice",
}
"""What does it, where something does."""

MAX_TEMPERATURE = 2.0
"""OpenAI's: a client that sends more has mistaken the scale. Other dialects, and the wire, take more."""

MAX_BIAS = 100
"""OpenAI's, and the wire's."""

_TOKEN_ID = re.compile(r"[0-9]{1,9}")


class StreamOptions(Body):
    include_usage: bool | None = None


class GenerationBody(Body):
    """What chat, completions and responses have in common. `top_k`, `min_p`, `repetition_penalty`, `stop_token_ids`,
    `ignore_eos` and `min_tokens` are vLLM's extensions; forms beside `response_format` are its, llama.cpp's and
    SGLang's. Responses have `text.format` for `response_format`."""

    model_config = ConfigDict(extra="allow")

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    logit_bias: dict[str, Any] | None = None
    user: str | None = None
    response_format: Format | None = None
    json_schema: dict[str, Any] | str | None = None
    guided_json: dict[str, Any] | str | None = None
    regex: str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(fail_fast=True)] | None = None

    @property
    def is_stream(self) -> bool:
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def refuse(body: GenerationBody, *fields: tuple[str, bool]) -> None:
    """Raises InvalidRequest that names the first of these fields that is used, or of those that nothing here has."""
    if body.stream_options is not None and not body.is_stream:
        raise InvalidRequest("stream_options: needs stream to be true", "stream_options")
    extra = body.model_extra or {}
    for name, is_used in (*fields, *((name, _changes(extra.get(name), idle)) for name, idle in UNSUPPORTED.items())):
        if is_used:
            raise InvalidRequest(f"{name}: not supported here; {INSTEAD.get(name, 'leave it out')}", name)


def _changes(value: Any, idle: Any) -> bool:
    """Whether a field with this value changes the answer. 0 is not false here: it may ask for something."""
    if idle is None:
        return not (value is None or value is False or value in ("", [], {}))
    return value is not None and (isinstance(value, bool) is not isinstance(idle, bool) or value != idle)


def generate_request(
    body: GenerationBody, fields: dict[str, Any], seed: int, limit_name: str = "max_tokens"
) -> GenerateRequest:
    """The request with what `fields` say and what the body says of sampling and the end. `seed` is taken where the body
    has none; `limit_name` is what the body calls max_tokens. Raises InvalidRequest, ModelNotFound."""
    fields = {
        "sampling": _sampling(body, seed),
        "stop": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "ignore_eos": bool(body.ignore_eos),
        "min_tokens": body.min_tokens or 0,
        "response_format": _form(body),
        **fields,
    }
    try:
        return with_checked_images(msgspec.convert(fields, GenerateRequest))
    except msgspec.ValidationError as error:
        names = {"max_tokens": limit_name, "logit_bias": "logit_bias"}
        raise out_of_bounds(error, fields["model"], names) from error


def _form(body: GenerationBody) -> dict[str, Any] | None:
    """The form of the answer, however it is asked for. Raises InvalidRequest for several ways at once."""
    return one_form(
        response_format=format_field(body.response_format, "response_format"),
        json_schema=of_schema(body.json_schema, "json_schema"),
        guided_json=of_schema(body.guided_json, "guided_json"),
        regex=of_regex(body.regex, "regex"),
        guided_regex=of_regex(body.guided_regex, "guided_regex"),
        guided_choice=of_choices(body.guided_choice, "guided_choice"),
    )


def _sampling(body: GenerationBody, seed: int) -> dict[str, Any]:
    given = ((name, getattr(body, name)) for name in _SAMPLING_FIELDS)
    sampling: dict[str, Any] = {name: value for name, value in given if value is not None}
    if (body.temperature or 0) > MAX_TEMPERATURE:
        raise InvalidRequest(f"temperature: at most {MAX_TEMPERATURE:g}", "temperature")
    sampling["seed"] = seed if body.seed is None else seed_within_limit(body.seed)
    if sampling.get("top_k") == -1:  # vLLM's other way to say off
        sampling["top_k"] = 0
    if body.logit_bias:
        sampling["logit_bias"] = {_token_id(key): _bias(key, value) for key, value in body.logit_bias.items()}
    return greedy_without_choice(sampling)


def _token_id(key: str) -> int:
    if not _TOKEN_ID.fullmatch(key):
        raise InvalidRequest(f"logit_bias: its keys are token ids, and {key[:32]!r} is none", "logit_bias")
    return int(key)


def _bias(key: str, value: Any) -> float:
    """msgspec would not say of which key it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_BIAS <= value <= MAX_BIAS:
        raise InvalidRequest(f"logit_bias[{key}]: a number from -{MAX_BIAS} to {MAX_BIAS}", "logit_bias")
    return value
