"""Says what a request takes of the memory while it waits. Texts, images and token ids are nearly all of it."""

from __future__ import annotations

from sys import getsizeof

from gateway.dispatch.progress import Asked
from p2pnet.embed_messages import EmbedRequest
from p2pnet.messages import ChatPrompt, Prompt, TokenPrompt
from p2pnet.rerank_messages import RerankRequest

REQUEST_BYTES = 4096
"""The request itself, its tasks and its place in the queue, without its connection."""

MESSAGE_BYTES = 256
"""A message, a call or a tool, without its text: a chat of very many empty ones is not free."""

TOKEN_ID_BYTES = 40
"""A number and the reference to it."""


def size_of(request: Asked) -> int:
    """In bytes. Of a text what it really takes: one character beyond the first 65,536 of Unicode makes all of its text
    four times as large."""
    if isinstance(request, RerankRequest):
        texts = (request.query, *request.documents)
        return REQUEST_BYTES + sum(MESSAGE_BYTES + getsizeof(text) for text in texts)
    prompts = request.inputs if isinstance(request, EmbedRequest) else (request.prompt,)
    return REQUEST_BYTES + sum(map(_prompt_size, prompts))


def _prompt_size(prompt: Prompt) -> int:
    if isinstance(prompt, TokenPrompt):
        return MESSAGE_BYTES + TOKEN_ID_BYTES * len(prompt.token_ids)
    if isinstance(prompt, ChatPrompt):
        calls = [call for message in prompt.messages for call in message.tool_calls]
        texts = [message.content for message in prompt.messages]
        texts += [call.arguments for call in calls]
        texts += [text for tool in prompt.tools for text in (tool.description, tool.parameters)]
        images = [image.data for message in prompt.messages for image in message.images]
        parts = len(prompt.messages) + len(calls) + len(prompt.tools) + len(images)
        return MESSAGE_BYTES * parts + sum(map(getsizeof, [*texts, *images]))
    return MESSAGE_BYTES + getsizeof(prompt.text) + getsizeof(prompt.suffix)
