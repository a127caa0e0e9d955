"""Lists the servers that speak OpenAI's API, and what each really does with a request. Pure data, with how each is
recognised.

A server that is not recognised gets the least: what it does not know it would drop in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from p2pnet import features

_ENGINE = frozenset(
    {
        features.SAMPLING,
        features.PENALTIES,
        features.LOGIT_BIAS,
        features.IGNORE_EOS,
        features.JSON,
        features.JSON_SCHEMA,
        features.RESUME_TEXT,
    }
)
"""What vLLM, SGLang and llama.cpp do on both endpoints."""


@dataclass(frozen=True)
class Flavour:
    """One kind of server. `owners` are the words that it writes into `owned_by`.

    `chat` and `text` are what `/v1/chat/completions` and `/v1/completions` do. `top_k_off` switches top_k off; None
    where there is no such field. `honours_parallel` says whether it keeps to `parallel_tool_calls` False. `counts` are
    the fields that make it tell with each piece how many tokens there are. `stops_at_ids` says whether it ends at
    `stop_token_ids`, as a server that takes token ids may be asked to. `continues`
    are the fields that make it go on with an assistant's message at the end of a chat. Where they are empty it cannot,
    and then its texts are not resumed either: a card says it once for both.
    """

    name: str
    owners: frozenset[str] = frozenset()
    chat: frozenset[str] = frozenset({features.CHAT})
    text: frozenset[str] = frozenset({features.TEXT})
    top_k_off: int | None = None
    honours_parallel: bool = False
    counts: tuple[tuple[str, Any], ...] = ()
    stops_at_ids: bool = True
    continues: tuple[tuple[str, bool], ...] = ()


_CONTINUE = (("continue_final_message", True), ("add_generation_prompt", False))

_COUNT_AS_IT_GOES = (("stream_options", {"include_usage": True, "continuous_usage_stats": True}),)

UNRECOGNISED = Flavour("unrecognised")

VLLM = Flavour(
    "vllm",
    owners=frozenset({"vllm"}),
    chat=_ENGINE | {features.CHAT, features.LOGPROBS, features.CHOICES, features.MIN_TOKENS, features.TOOLS},
    text=_ENGINE | {features.TEXT, features.TOKENS, features.LOGPROBS, features.CHOICES, features.MIN_TOKENS},
    top_k_off=-1,
    honours_parallel=True,
    counts=_COUNT_AS_IT_GOES,
    continues=_CONTINUE,
)
"""Tools need `--enable-auto-tool-choice`, which nothing tells beforehand: see `UpstreamBackend`."""

SGLANG = Flavour(
    "sglang",
    owners=frozenset({"sglang"}),
    chat=_ENGINE | {features.CHAT, features.CHOICES, features.MIN_TOKENS},
    text=_ENGINE | {features.TEXT, features.TOKENS, features.CHOICES, features.MIN_TOKENS},
    top_k_off=-1,
    counts=_COUNT_AS_IT_GOES,
    continues=_CONTINUE[:1],
)
"""Without a tool parser it answers tool calls as text, and its log-probabilities are those after temperature. It puts
the last message after the prompt for an answer by itself (sgl-project/sglang pull request 4226)."""

LLAMA_CPP = Flavour(
    "llama.cpp",
    owners=frozenset({"llamacpp"}),
    chat=_ENGINE | {features.CHAT, features.LOGPROBS, features.CHOICES, features.TOOLS, features.IMAGES},
    text=_ENGINE | {features.TEXT, features.TOKENS, features.LOGPROBS, features.CHOICES},
    top_k_off=0,
    honours_parallel=True,
    counts=(("timings_per_token", True),),
    stops_at_ids=False,
    continues=_CONTINUE,
)
"""It goes on with a last message unless told not to, since ggml-org/llama.cpp pull request 13174; since 23012 it can be
asked to."""

LM_STUDIO = Flavour(
    "lmstudio",
    owners=frozenset({"organization_owner", "organization-owner"}),
    chat=frozenset({features.CHAT, features.PENALTIES, features.JSON_SCHEMA, features.TOOLS}),
    text=frozenset({features.TEXT, features.PENALTIES}),
)
"""It repeats the message that it is to go on with (lmstudio-ai/lmstudio-bug-tracker issue 2041)."""

ENGINES = (VLLM, SGLANG, LLAMA_CPP)
"""Those that run one model, which either generates or embeds."""

FLAVOURS = {flavour.name: flavour for flavour in (UNRECOGNISED, VLLM, SGLANG, LLAMA_CPP, LM_STUDIO)}


def flavour_of(owned_by: str | None) -> Flavour:
    """The flavour of a server, by what it writes into `owned_by`."""
    return next((flavour for flavour in FLAVOURS.values() if owned_by in flavour.owners), UNRECOGNISED)
