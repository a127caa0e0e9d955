"""Defines requests and events, the form of a generation that surfaces, wire and backends share.

These structs are the wire's types, so fields are only ever added, each with a default. Knows nothing of HTTP dialects,
frames or sockets.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2pnet.answer_forms import ResponseFormat

MAX_TOKENS_LIMIT = 1 << 20
"""No model generates a million tokens in one request; beyond it a number is a mistake or an attack."""

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1024
MAX_MESSAGES = 4096
"""A chat of more turns than this is a loop; the frame's size cap bounds their text."""

MAX_IMAGE_BYTES = 5 << 19
"""Of one image. In base64, as clients send it, it takes 3.5 MB: with the text around it, it fits into what a gateway
takes of a request, and into a frame."""

MAX_IMAGES = 16
"""Of one request. Each is a thousand tokens or so, and few models have room for more; what they weigh together is
bounded by the frame."""

MAX_TOOLS = 256
"""Twice what OpenAI accepts."""

MAX_CHOICES = 128
"""Answers to one prompt, as OpenAI has it. Each is a sequence of its own; a worker may have no room for so many."""

MAX_TOP_LOGPROBS = 20
"""As OpenAI has it. Each token then weighs a kilobyte."""

MAX_LOGIT_BIASES = 1024

MAX_RESUME_CHARS = 1 << 18
"""Some 60,000 tokens. An answer that was longer when it broke off is not worth going on with from its text."""

ModelId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z")]
"""What a model is called on the network: printable, no spaces, safe in URLs, logs and terminals."""

ToolName = Annotated[str, Meta(min_length=1, max_length=128)]
"""What a tool, or a call of one, is called."""

Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
"""Which weights, dtype, tokenizer and chat template: `sha256:` and 64 hexadecimal digits."""

SamplerName = Annotated[str, Meta(max_length=32, pattern=r"^[a-z0-9.-]*\Z")]
"""By which rule tokens follow from logits, seed and position. Empty where the worker does not choose them itself."""

FieldName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.\[\]-]+\Z")]
"""The name of a request's field, as an error names it."""

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call that a model made. `arguments` is JSON text, as the model wrote it: it need not be valid."""

    id: ToolName
    name: ToolName
    arguments: str


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call. `parameters` is a JSON schema, as text."""

    name: ToolName
    description: str = ""
    parameters: str = "{}"


class ImagePart(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image in a message: a file's bytes, as they are. What they are, they say themselves (`p2pnet.images`).

    It stands before the character `at` of the message's text, counted in code points.
    """

    data: Annotated[bytes, Meta(min_length=1, max_length=MAX_IMAGE_BYTES)]
    at: Count = 0


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat. The model's chat template decides which roles there are.

    `tool_calls` are those that an assistant's turn made, `tool_call_id` says which of them a tool's turn answers.
    `images` stand in `content`, in their order; whoever knows nothing of them has the text all the same.
    """

    role: Annotated[str, Meta(min_length=1, max_length=32)]
    content: str
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=MAX_TOOLS)] = ()
    tool_call_id: ToolName | None = None
    name: ToolName | None = None
    images: Annotated[tuple[ImagePart, ...], Meta(max_length=MAX_IMAGES)] = ()


class ChatPrompt(msgspec.Struct, frozen=True, omit_defaults=True, tag="chat"):
    """Turns that the worker renders with the model's own chat template.

    `tool_choice` says whether the model may, must not or must call one of `tools`; `required_tool`, with "required",
    which one. `parallel_tool_calls` False allows one call only.
    """

    messages: Annotated[tuple[Message, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[tuple[Tool, ...], Meta(max_length=MAX_TOOLS)] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    required_tool: ToolName | None = None
    parallel_tool_calls: bool = True


class TextPrompt(msgspec.Struct, frozen=True, omit_defaults=True, tag="text"):
    """Raw text to continue. With `suffix` the answer goes between the two: the text before it, the suffix after it."""

    text: str
    suffix: str = ""


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids to continue, in the vocabulary of the model's own tokenizer."""

    token_ids: Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_TOKENS_LIMIT)]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is chosen. The defaults change nothing: plain sampling from the model's distribution.

    The choice at position i is a pure function of (logits, seed, i). `temperature` 0 is greedy. `top_k` 0 and
    `min_p` 0 are off. `logit_bias` is added to the logits of the given tokens.
    """

    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    temperature: Annotated[float, Meta(ge=0, le=100)] = 1.0
    top_k: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MAX_LOGIT_BIASES)] = (
        msgspec.field(default_factory=dict)
    )


class GenerateRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="generate"):
    """One generation. `max_tokens` None means as many as the context holds; one beyond that is an error, unless
    `clamp_max_tokens` says that it means the same.

    `digest`, when given, must be the worker's own: a model's name alone promises nothing; and so must `sampler`, since
    another one gives other tokens for the same seed. `stop` strings end the text
    before them; `stop_token_ids` end it as the model's own end token does; `ignore_eos` goes on past the latter.
    No end token is chosen before `min_tokens`.

    `n` asks for that many answers: choice i is sampled with `choice_seed(seed, i)`, as if it had been asked for alone.
    `logprobs` is how many of the likeliest tokens to name with each token, besides itself; None is no logprobs.
    `echo` sends the prompt back first. `resume_tokens` are the ids of an answer that another worker began: the rest
    is sent, and is the same. `max_tokens` and `min_tokens` count them.

    `resume_text` is the same for whoever cannot go on after those ids: a worker with another digest, or one that knows
    none. What the answer has said so far, all of it text, is given, and the rest is sent. It counts as a part of the
    prompt: `max_tokens` and `min_tokens` are of what is still to come, and so are `Usage.completion_tokens`.

    `score_resume` asks for the margins of `resume_tokens` as well, which have to be computed anyway: Scored events come
    before the first delta (see `p2pnet.score_messages`). `keep_stream` says that another request may follow on this
    stream, once this one has been answered.
    """

    request_id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: ModelId
    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS_LIMIT)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)], ...], Meta(max_length=MAX_STOP_STRINGS)
    ] = ()
    stop_token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=64)] = ()
    ignore_eos: bool = False
    digest: Digest | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS_LIMIT)] = 0
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool = False
    response_format: ResponseFormat | None = None
    resume_tokens: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_TOKENS_LIMIT)] = ()
    resume_text: Annotated[str, Meta(max_length=MAX_RESUME_CHARS)] = ""
    clamp_max_tokens: bool = False
    sampler: SamplerName | None = None
    score_resume: bool = False
    keep_stream: bool = False


def choice_seed(seed: int, index: int) -> int:
    """The seed of one of several answers. The first has the request's own, the others 63 bits of BLAKE2b over both."""
    if index == 0:
        return seed
    digest = blake2b(seed.to_bytes(8, "big") + index.to_bytes(8, "big"), digest_size=8, person=b"p2pnet/choice/1")
    return int.from_bytes(digest.digest(), "big") >> 1


class Measure(msgspec.Struct, frozen=True, array_like=True):
    """A moving average that a worker measured, and when it last did so. Zero when it has not yet."""

    value: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    sampled_ms: Count = 0


class Load(msgspec.Struct, frozen=True, omit_defaults=True):
    """How busy a worker is at one moment, `sampled_ms` in Unix milliseconds, and how fast it has been.

    `slots` is how many requests it takes at the same time. `kv_free_tokens` is how many more tokens its key-value
    memory holds, of `kv_total_tokens`; both are 0 where that is not known. `decode_tokens_per_s` and
    `prefill_tokens_per_s` are over all that runs at the same time, `first_token_s` is from the request to its first
    token.
    """

    running: Count = 0
    queued: Count = 0
    slots: Count = 0
    sampled_ms: Count = 0
    kv_free_tokens: Count = 0
    kv_total_tokens: Count = 0
    decode_tokens_per_s: Measure = Measure()
    prefill_tokens_per_s: Measure = Measure()
    first_token_s: Measure = Measure()


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one request, counted by the worker. `cached_tokens` of the prompt needed no computing."""

    prompt_tokens: Count
    completion_tokens: Count
    cached_tokens: Count = 0


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True, tag="accepted"):
    """The worker has checked the request and will serve it, now or after those before it.

    `begins_thinking` says that the prompt ends with the tag that opens what the model thinks: its text begins within.
    """

    prompt_tokens: Count
    digest: Digest | None = None
    load: Load = Load()
    begins_thinking: bool = False
    sampler: SamplerName = ""

    @property
    def fingerprint(self) -> str | None:
        """What must be the same for a seed to give the same answer: the digest, and the sampler where there is one."""
        return f"{self.digest}+{self.sampler}" if self.digest and self.sampler else self.digest


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token and its natural logarithm of probability. `token` is its bytes, which need not be whole characters."""

    token_id: TokenId
    token: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token of an answer, and the likeliest ones in its place, likeliest first.

    Probabilities are the model's own: before temperature, penalties, bias and constraints.
    """

    token_id: TokenId
    token: bytes
    logprob: float | None
    """None for the first token of a prompt, which nothing predicts."""
    top: Annotated[tuple[TopLogprob, ...], Meta(max_length=MAX_TOP_LOGPROBS)] = ()


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of a tool call. `index` counts the calls of an answer; the first piece of each has its id and name."""

    index: Count
    id: ToolName | None = None
    name: ToolName | None = None
    arguments: str = ""


class TextDelta(msgspec.Struct, frozen=True, omit_defaults=True, tag="delta"):
    """Some more tokens, and exactly what they say: a UTF-8 character is never split, and what may turn out to be a stop
    string is held back. Text without tokens comes last: what a token said before a stop string began within it.

    Tokens that say a tool call have `tool_calls` instead of `text`. `choice` is which of `n` answers goes on.
    `logprobs`, where asked for, has one entry per token. `is_prompt` marks the echo of the prompt.

    `tokens` is how many tokens these are, where there are no ids: rather too many than too few where that is not known.
    It counts towards `max_tokens` when the answer goes on from its text. 0 is not known.
    """

    text: str = ""
    token_ids: tuple[TokenId, ...] = ()
    choice: Annotated[int, Meta(ge=0, lt=MAX_CHOICES)] = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    is_prompt: bool = False
    tokens: Count = 0


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Finished(msgspec.Struct, frozen=True, omit_defaults=True, tag="finished"):
    """The generation is complete: `stop` at an end token or stop string, `length` at a limit, `tool_calls` when the
    model called tools, `content_filter` where the server behind a worker withholds the rest. `reason` is of the first
    choice, `other_reasons` of the further ones.

    `stop` is which of the request's stop strings ended the first choice. None where none did, and from workers that do
    not tell. `receipt` is what the worker signs of the answer: see `p2pnet.receipts`. `keep_stream` says that it waits
    for another request on this stream, where the client has said that one may follow.
    """

    reason: FinishReason
    usage: Usage
    load: Load = Load()
    other_reasons: Annotated[tuple[FinishReason, ...], Meta(max_length=MAX_CHOICES)] = ()
    stop: Annotated[str, Meta(max_length=MAX_STOP_CHARS)] | None = None
    receipt: bytes | None = None
    keep_stream: bool = False


class Failed(msgspec.Struct, frozen=True, omit_defaults=True, tag="failed"):
    """The generation ended without being complete. `code` is one of `errors.WIRE_ERRORS`, and `param` the request's
    field that is at fault, where one is. `receipt` is what the worker signs of the part that it has given."""

    code: Annotated[str, Meta(max_length=64)]
    message: Annotated[str, Meta(max_length=2048)] = ""
    param: FieldName | None = None
    receipt: bytes | None = None


Event = Accepted | TextDelta | Finished | Failed
"""What comes back: Accepted, TextDelta*, then exactly one of Finished or Failed. Failed may also come first."""
