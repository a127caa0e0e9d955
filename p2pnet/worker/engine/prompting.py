"""From a request's prompt to token ids, with the model's own tokenizer and chat template. Knows nothing of weights."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from p2pnet.errors import InvalidRequest
from p2pnet.messages import ChatPrompt, Prompt, TextPrompt, TokenPrompt


def encode_prompt(prompt: Prompt, tokenizer: Any, vocabulary_size: int) -> tuple[int, ...]:
    """The ids to continue, one at least. Raises InvalidRequest."""
    match prompt:
        case ChatPrompt():
            ids = _encode_chat(prompt, tokenizer)
        case TextPrompt(text):
            ids = _encode_text(text, tokenizer)
        case TokenPrompt(token_ids):
            ids = token_ids
    if not ids:
        raise InvalidRequest("The prompt is empty.", "prompt")
    if max(ids) >= vocabulary_size:
        raise InvalidRequest(f"Token id {max(ids)} is not in the vocabulary of {vocabulary_size}.", "prompt")
    return ids


def _encode_chat(prompt: ChatPrompt, tokenizer: Any) -> tuple[int, ...]:
    if not tokenizer.chat_template:
        raise InvalidRequest("This model has no chat template: use completions instead of chat.", "messages")
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    try:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        # A template is a program: it may raise on purpose, or trip over turns that it did not expect.
        raise InvalidRequest(f"The model's chat template refuses these messages: {error}", "messages") from error
    return tuple(ids)


def _encode_text(text: str, tokenizer: Any) -> tuple[int, ...]:
    ids: tuple[int, ...] = tuple(tokenizer(text)["input_ids"])
    if ids:
        return ids
    if tokenizer.bos_token_id is None:
        raise InvalidRequest("The prompt is empty, and this model has no token to begin with.", "prompt")
    return (tokenizer.bos_token_id,)
