"""Checks that a worker's answer tells of a prompt's tokens what was asked, and nothing absurd. Pure."""

from __future__ import annotations

from p2pnet.errors import ProtocolViolation
from p2pnet.messages import MAX_TOKENS_LIMIT, Accepted, ChatPrompt, Finished, Prompt, TextPrompt, TokenPrompt
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.wire.prompt_size import MAX_TOKEN_CHARS, least_tokens_of

MAX_TOKENS_PER_CHAR = 64
"""Twice what one character comes to at worst: U+FDFA is taken apart into 18 letters of two bytes each, and a tokenizer
may have one token for each byte."""

MAX_TOKENS_OF_TEMPLATE = 1 << 16
"""What a chat template may add of its own: the longest that are known add some thousand, for tools."""

MAX_DETOKENIZED_CHARS = 4 << 20
"""No prompt that a request can carry is longer."""


class TokensCheck:
    """Follows one answer. Every check raises ProtocolViolation."""

    def __init__(self, request: TokenizeRequest) -> None:
        prompt = request.prompt
        self._ids_wanted = request.wants != "count" and not isinstance(prompt, TokenPrompt)
        self._names_wanted = self._ids_wanted and request.wants == "names"
        self._least, self._most = _bounds(prompt)
        self._most_chars = 0
        if isinstance(prompt, TokenPrompt):
            self._most_chars = min(MAX_DETOKENIZED_CHARS, MAX_TOKEN_CHARS * len(prompt.token_ids))
        self._count = self._ids = self._chars = 0

    def check(self, event: Accepted | Tokenized | Finished) -> None:
        """Check the next event, whichever it is."""
        match event:
            case Accepted(prompt_tokens):
                self._count = prompt_tokens
                if not self._least <= prompt_tokens <= self._most:
                    raise ProtocolViolation(
                        f"the worker counts {prompt_tokens} tokens, and {self._least} to {self._most} are possible"
                    )
            case Tokenized():
                self._check_part(event)
            case Finished():
                self._check_end(event)

    def _check_part(self, part: Tokenized) -> None:
        self._ids += len(part.token_ids)
        self._chars += len(part.text)
        if self._ids > (self._count if self._ids_wanted else 0):
            raise ProtocolViolation("the worker sends more tokens than it has counted, or than were asked for")
        if len(part.names) != (len(part.token_ids) if self._names_wanted else 0):
            raise ProtocolViolation(f"{len(part.names)} names of {len(part.token_ids)} tokens")
        if self._chars > self._most_chars:
            raise ProtocolViolation(f"more than {self._most_chars} characters of text")

    def _check_end(self, finished: Finished) -> None:
        if self._ids_wanted and self._ids != self._count:
            raise ProtocolViolation(f"the worker has counted {self._count} tokens, and sent {self._ids}")
        if finished.usage.prompt_tokens != self._count:
            raise ProtocolViolation("the worker counts other tokens at the end than at the beginning")


def _bounds(prompt: Prompt) -> tuple[int, int]:
    """How many tokens a prompt may have, at least and at most."""
    least = least_tokens_of(prompt)
    match prompt:
        case TokenPrompt():
            return least, least
        case TextPrompt(text, suffix):
            pieces = [text, suffix]
        case ChatPrompt(messages, tools):
            pieces = [message.content + message.role for message in messages]
            pieces += [call.name + call.arguments + call.id for message in messages for call in message.tool_calls]
            pieces += [tool.name + tool.description + tool.parameters for tool in tools]
    chars = sum(map(len, pieces)) + len(pieces)
    return least, min(MAX_TOKENS_LIMIT, MAX_TOKENS_PER_CHAR * chars + MAX_TOKENS_OF_TEMPLATE)
