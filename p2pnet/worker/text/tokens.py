"""Tells the tokens of a prompt, or the text of tokens, with the model's own tokenizer. Knows nothing of weights."""

from __future__ import annotations

from typing import Any

from p2pnet.messages import TokenPrompt
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.worker.text.prompting import encode_prompt
from p2pnet.worker.text.token_parts import id_parts, named, text_parts


def tokens_of(
    asked: TokenizeRequest, tokenizer: Any, vocabulary_size: int, context_length: int
) -> tuple[int, list[Tokenized]]:
    """How many tokens there are, and what is told of them. Raises InvalidRequest, or ContextOverflow for a text so much
    longer than the context that not all of it had to be tokenized."""
    prompt = asked.prompt
    ids = encode_prompt(prompt, tokenizer, vocabulary_size, context_length, asked.adds_special)
    if isinstance(prompt, TokenPrompt):
        text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return len(ids), list(text_parts(text))
    if asked.wants == "count":
        return len(ids), []
    names = [named(tokenizer.convert_ids_to_tokens(token_id)) for token_id in ids] if asked.wants == "names" else None
    return len(ids), list(id_parts(ids, names))
