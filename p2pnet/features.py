"""Names what a request may need beyond plain text, and checks it against what a backend can do. The names are the words
of `ModelCard.features`.

A worker announces only what its backend does; a gateway sends a request only where all that it needs is announced, and
a worker refuses the rest by name. Knows nothing of backends.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat, RegexFormat
from p2pnet.errors import FeatureMissing
from p2pnet.messages import ChatPrompt, GenerateRequest, Sampling, TextPrompt, TokenPrompt

CHAT = "chat"
TEXT = "text"
TOKENS = "tokens"
"""Token ids: as a prompt, and as `stop_token_ids`."""
SAMPLING = "sampling"
"""top_k, min_p and repetition_penalty, which OpenAI's API does not have."""
PENALTIES = "penalties"
LOGIT_BIAS = "logit_bias"
LOGPROBS = "logprobs"
CHOICES = "n"
ECHO = "echo"
IGNORE_EOS = "ignore_eos"
MIN_TOKENS = "min_tokens"
JSON = "json"
JSON_SCHEMA = "json_schema"
REGEX = "regex"
TOOLS = "tools"
IMAGES = "images"
"""Reads images in the messages of a chat."""
DIMENSIONS = "dimensions"
"""Cuts vectors short, and normalizes them again."""
RESUME = "resume"
"""Goes on after another worker's tokens, and with the same digest and seed gives the same ones."""
RESUME_TEXT = "resume_text"
"""Goes on after the text of another worker's answer, whatever digest that one had."""
SCORE = "score"
"""Says of another worker's answer whether the sampler gives its tokens."""
FIM = "fim"
"""Fills in the middle: a TextPrompt with a suffix."""
RERANK = "rerank"
"""Says how well documents answer a query."""
TOKENIZE = "tokenize"
"""Tells a prompt's tokens, as many as a generation would count, and the text of tokens."""

ENGINE = (
    TEXT,
    TOKENS,
    SAMPLING,
    PENALTIES,
    LOGIT_BIAS,
    LOGPROBS,
    CHOICES,
    ECHO,
    IGNORE_EOS,
    MIN_TOKENS,
    JSON,
    JSON_SCHEMA,
    REGEX,
    RESUME,
    RESUME_TEXT,
    SCORE,
)
"""What our own engine does with every model, besides TOKENIZE. CHAT and TOOLS depend on the chat template, FIM on the
tokenizer; IMAGES it reads of none."""

EMBEDDING = (TEXT, TOKENS, DIMENSIONS)
"""What our own backend for vectors does with every model."""

_PARAMS = {
    CHAT: "messages",
    TEXT: "prompt",
    TOKENS: "prompt",
    SAMPLING: "top_k",
    PENALTIES: "presence_penalty",
    JSON: "response_format",
    JSON_SCHEMA: "response_format",
    REGEX: "response_format",
    RESUME: "resume_tokens",
    SCORE: "score_resume",
    FIM: "suffix",
}
"""The request's field that a refusal names, where it is not called as the feature."""

_DOES = {
    CHAT: "chat",
    TEXT: "continue a text",
    TOKENS: "take token ids",
    SAMPLING: "sample with top_k, min_p or a repetition penalty",
    PENALTIES: "sample with presence or frequency penalties",
    LOGIT_BIAS: "take a bias for tokens",
    LOGPROBS: "tell log probabilities",
    CHOICES: "give several answers to one prompt",
    ECHO: "send the prompt back",
    IGNORE_EOS: "go on past its end token",
    MIN_TOKENS: "be kept from ending early",
    JSON: "be held to JSON",
    JSON_SCHEMA: "be held to a JSON schema",
    REGEX: "be held to a regular expression",
    TOOLS: "call tools",
    IMAGES: "read images",
    DIMENSIONS: "shorten its vectors",
    RESUME: "go on with another worker's answer",
    RESUME_TEXT: "go on with an answer that has begun",
    SCORE: "score another worker's answer",
    FIM: "fill a gap in a text",
    TOKENIZE: "tell its tokens",
    RERANK: "rank documents",
}
"""What a model that lacks the feature cannot do, for people."""

_PLAIN = Sampling()


def features_needed(request: GenerateRequest) -> frozenset[str]:
    """What a backend must be able to do to honour the whole request."""
    sampling, prompt = request.sampling, request.prompt
    needed = {
        CHAT: isinstance(prompt, ChatPrompt),
        TEXT: isinstance(prompt, TextPrompt),
        TOKENS: isinstance(prompt, TokenPrompt) or bool(request.stop_token_ids),
        SAMPLING: (sampling.top_k, sampling.min_p, sampling.repetition_penalty)
        != (_PLAIN.top_k, _PLAIN.min_p, _PLAIN.repetition_penalty),
        PENALTIES: bool(sampling.presence_penalty or sampling.frequency_penalty),
        LOGIT_BIAS: bool(sampling.logit_bias),
        LOGPROBS: request.logprobs is not None,
        CHOICES: request.n > 1,
        ECHO: request.echo,
        IGNORE_EOS: request.ignore_eos,
        MIN_TOKENS: request.min_tokens > 0,
        JSON: isinstance(request.response_format, JsonFormat),
        JSON_SCHEMA: isinstance(request.response_format, JsonSchemaFormat),
        REGEX: isinstance(request.response_format, RegexFormat),
        TOOLS: isinstance(prompt, ChatPrompt) and bool(prompt.tools),
        IMAGES: isinstance(prompt, ChatPrompt) and any(message.images for message in prompt.messages),
        RESUME: bool(request.resume_tokens),
        RESUME_TEXT: bool(request.resume_text),
        SCORE: request.score_resume,
        FIM: isinstance(prompt, TextPrompt) and bool(prompt.suffix),
    }
    return frozenset(name for name, is_needed in needed.items() if is_needed)


def check_features(request: GenerateRequest, features: Iterable[str]) -> None:
    """Raises FeatureMissing, which names the first feature that the request needs and `features` lack."""
    check_needed(request.model, features_needed(request), features)


def check_needed(model: str, needed: Iterable[str], features: Iterable[str]) -> None:
    """Raises FeatureMissing, which names the first of those needed that `features` lack."""
    missing = sorted(frozenset(needed) - frozenset(features))
    if missing:
        name = missing[0]
        param = _PARAMS.get(name, name)
        raise FeatureMissing(
            f"The model {model} cannot {_DOES.get(name, 'do that')} here ({name}): ask without {param}, or ask another "
            "model.",
            param,
        )
