"""How open reasoning models mark what they think before they answer: one table, for whoever decodes and whoever reads.

Pure data. Some tags are special tokens, which decoding leaves out unless it knows them from here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ThoughtTags:
    """What stands before and after a model's thoughts. With `end` empty there are none: it opens the answer.

    `is_plain` tags are words that a client may ask any model to write: they count only where the chat template has
    opened them. `parts` are the tokens that the tags are made of, where they are not one each.
    """

    begin: str
    end: str
    is_plain: bool = False
    parts: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """What a tokenizer may have as special tokens."""
        return self.parts or (self.begin, self.end)


_HARMONY = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>")

TAGS = (
    ThoughtTags("<think>", "</think>"),  # DeepSeek, Qwen, GLM, Phi, SmolLM, Hermes, MiniMax
    ThoughtTags("[THINK]", "[/THINK]"),  # Magistral
    ThoughtTags("<seed:think>", "</seed:think>"),  # Seed-OSS
    ThoughtTags("◁think▷", "◁/think▷"),  # Kimi
    ThoughtTags(  # gpt-oss
        "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", parts=_HARMONY
    ),
    ThoughtTags("<|channel|>final<|message|>", "", parts=_HARMONY),  # gpt-oss, when it does not think
    ThoughtTags("<thinking>", "</thinking>", is_plain=True),
    ThoughtTags("<thought>", "</thought>", is_plain=True),  # EXAONE Deep
    ThoughtTags("<reasoning>", "</reasoning>", is_plain=True),
)

OPENINGS = tuple(tags for tags in TAGS if not tags.is_plain)
"""Those that an answer may begin with by itself."""

ENDS = tuple(tags.end for tags in TAGS if tags.end)
"""Of thoughts that the template has opened."""


def begins_with_thoughts(text: str) -> bool:
    """Whether an answer begins with what its model thinks."""
    return any(tags.end and text.lstrip().startswith(tags.begin) for tags in OPENINGS)


def opens_thoughts(prompt_end: str) -> bool:
    """Whether a prompt ends with a tag that opens the thoughts, so that the answer begins within them."""
    return any(tags.end and prompt_end.rstrip().endswith(tags.begin) for tags in TAGS)
