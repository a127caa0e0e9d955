"""Compiles JSON, JSON schemas, regular expressions and grammars into Constraints, with llguidance.

A stranger writes the schemas: what a grammar may cost in time and memory, once and for each token, is bounded here and
in `schema`. Knows nothing of models, samplers or requests.

Of JSON schema (draft 2020-12) this enforces what llguidance does, and refuses other keywords that narrow a value
(`not`, `if`, `contains`, `uniqueItems`, ...) rather than ignore them. Properties come in the schema's order. Not
enforced: that keys which `properties` does not list differ from one another, and that a date's 29 February exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from p2pnet.display.printable import printable_line
from p2pnet.errors import FeatureMissing, InvalidRequest, WorkerFailed
from p2pnet.worker.text.constraint import Constraint
from p2pnet.worker.text.schema import parse_schema
from p2pnet.worker.text.vocabulary import Vocabulary

ConstraintFactory = Callable[[], Constraint]
"""Makes the Constraint of one answer, at its start. Takes microseconds.

For the answers of one request only: those of a factory share what llguidance learns of their form, and its limits. With
one factory for several requests, what one says would fail the others. Compiling again takes 1.5 ms, mostly.
"""

PROBED_TOKENS = 4
"""How far a new grammar is followed, so that one that is too complex from the start on is refused, and not begun."""

_LIMITS = LLParserLimits(
    max_grammar_size=50_000,  # symbols: 400 properties need a tenth; above, allOf of anyOf multiplies for seconds
    max_items_in_row=2_000,  # alternatives at one place: about 500 optional properties
    initial_lexer_fuel=1_000_000,  # 20 ms of building
    step_lexer_fuel=200_000,  # 14 ms for one token
    step_max_items=50_000,  # 3 ms for one token
    max_lexer_states=50_000,  # 1 to 2 kB each
    verbose_errors=False,  # with the grammar in them
)
"""llguidance's own, or lower ones; the figures are its documentation's, or measured."""

_JSON_OPTIONS = {
    "whitespace_pattern": r"[ ]|\n[ ]{0,16}",
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}
"""Between two marks, one space or one line break with indentation: with more, small models go on in it for ever."""

_NO_FORCING = '%llguidance {"no_forcing": true}\n'
"""The model chooses how text that it has no choice in is cut into tokens. Otherwise llguidance has the tokenizer cut
all of it again at each token: 90 ms each for a constant of 60,000 characters, and control tokens where it names some.
"""

_ONE_OF_REFUSED = "oneOf constraints are not supported"
_NOTHING_FITS = "NoExtension"
_SLOT = re.compile(r"^(?:at )?\d+\(\d+\): ")
_SNIPPET = re.compile(r"\n +\d+ \| .*|<non-verbose/>", re.DOTALL)
"""Where in the grammar an error is: the client has not seen the grammar."""


_SLASH = re.compile(r"\\.|[/\n]", re.DOTALL)
"""What would end a regular expression within a grammar; what is escaped already stays so."""


class GrammarCompiler:
    """Compiles for one vocabulary. Safe to use from several threads; other threads run while it compiles."""

    def __init__(self, vocabulary: Vocabulary, end_token_ids: Iterable[int]) -> None:
        """`end_token_ids` end an answer. Without any, a Constraint whose form is complete has nothing to allow."""
        self._vocabulary = vocabulary
        self._end_ids = tuple(sorted(token_id for token_id in end_token_ids if token_id < vocabulary.size))
        self._tokenizer = _ll_tokenizer(vocabulary, self._end_ids) if vocabulary.is_exact else None

    def json_object(self, param: str = "response_format") -> ConstraintFactory:
        """Any JSON object."""
        return self.json_schema('{"type": "object"}', param)

    def json_schema(self, schema: str, param: str = "response_format") -> ConstraintFactory:
        """JSON that this schema, as JSON text, accepts. Raises what `grammar` does."""
        return self.grammar(f"start: {json_rule(schema, param)}", param)

    def regex(self, pattern: str, param: str = "response_format") -> ConstraintFactory:
        """Text that matches this regular expression as a whole. Raises what `grammar` does."""
        return self.grammar(f"start: /{_SLASH.sub(_escaped, pattern)}/", param)

    def grammar(self, text: str, param: str = "response_format") -> ConstraintFactory:
        """A form given as a grammar in llguidance's variant of Lark. `json_rule` and `literal` make parts of one.

        Raises InvalidRequest, naming `param`, when it is not valid, cannot be fulfilled, or costs too much;
        FeatureMissing when the tokenizer is of a kind whose tokens cannot be followed.
        """
        return partial(self._start, self._compile(text, param))

    def literal(self, text: str) -> str:
        """The part of a grammar that is exactly this text. Names of control tokens in it mean those tokens, but for end
        tokens: an answer ends with those by itself."""
        control_tokens = {
            name: token_id
            for name, token_id in self._vocabulary.control_tokens.items()
            if name and token_id not in self._end_ids
        }
        names = sorted(control_tokens, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
        terms = (
            f"<[{control_tokens[piece]}]>" if piece in control_tokens else _quoted(piece) for piece in pieces if piece
        )
        return " ".join(terms) or _quoted("")

    def _start(self, compiled: LLMatcher) -> Constraint:
        return GrammarConstraint(compiled.deep_copy(), self._vocabulary.size, self._end_ids)

    def _compile(self, text: str, param: str) -> LLMatcher:
        if self._tokenizer is None:
            raise FeatureMissing("The model's tokenizer is of a kind that no form can be demanded of.", param)
        matcher = LLMatcher(self._tokenizer, _NO_FORCING + text, log_level=0, limits=_LIMITS)
        error = matcher.get_error() or self._probe(matcher.deep_copy())
        if error:
            raise InvalidRequest(_message(error), param)
        return matcher

    def _probe(self, matcher: LLMatcher) -> str:
        """What goes wrong within a few tokens of an answer; nothing, mostly."""
        for _ in range(PROBED_TOKENS):
            allowed = np.flatnonzero(_unpacked(matcher, self._vocabulary.size))
            if matcher.is_stopped() or not len(allowed):
                break
            matcher.consume_token(int(allowed[0]))
        return matcher.get_error()


class GrammarConstraint:
    """Follows one answer. Made by a GrammarCompiler."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int, end_token_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._size = vocabulary_size
        self._end_ids = end_token_ids
        self._allowed: torch.Tensor | None = None
        """What may follow the tokens so far, once it was asked for."""

    @property
    def is_complete(self) -> bool:
        """Whether the form is complete: nothing may follow but an end token."""
        if not self._matcher.is_accepting():
            return False
        return self._matcher.is_stopped() or not np.delete(self._mask().numpy(), self._end_ids).any()

    def allowed(self) -> torch.Tensor:
        """Which ids may come next: booleans (vocabulary,), on the CPU, to be read only. At least one may.

        Raises WorkerFailed when none may after all: following the form became too complex, or no token says what has to
        come, such as an end where the model has no end token.
        """
        mask = self._mask()
        if not mask.numpy().any():  # a tenth of the time that torch takes
            raise WorkerFailed("the form that the answer has to have leaves no token to go on with")
        return mask

    def accept(self, token_id: int) -> None:
        """Take the next token of the answer, one of those allowed, which may be an end token.

        Raises InvalidRequest for another one, which can only come from an answer to go on with. Raises WorkerFailed
        when following the form became too complex, or led nowhere.
        """
        if not self._may_follow(token_id):
            raise InvalidRequest("The tokens to go on with do not have the form that was asked for.", "resume_tokens")
        self._matcher.consume_token(self._end_ids[0] if token_id in self._end_ids else token_id)
        self._allowed = None
        self._check()

    def _may_follow(self, token_id: int) -> bool:
        """Whether this id may come next, by the mask. Where nobody has asked for a mask yet, as in an answer to go on
        with, it does without one if possible."""
        if not 0 <= token_id < self._size:
            return False
        is_plain = self._allowed is None and token_id not in self._end_ids
        return (is_plain and self._matcher.validate_tokens([token_id]) == 1) or bool(self._mask()[token_id])

    def _mask(self) -> torch.Tensor:
        if self._allowed is None:
            mask = _unpacked(self._matcher, self._size)
            self._check()
            if self._end_ids:
                mask[list(self._end_ids)] = mask[self._end_ids[0]]
            self._allowed = torch.from_numpy(mask)
        return self._allowed

    def _check(self) -> None:
        """Raises WorkerFailed if llguidance has given up, at a limit or a dead end: its masks go on, with just an end
        token in them."""
        if self._matcher.is_error():
            raise WorkerFailed("the form that the answer has to have cannot be followed any further")


def json_rule(schema: str, param: str = "response_format") -> str:
    """The part of a grammar that is JSON accepted by this schema, which is JSON text. Raises InvalidRequest."""
    checked: dict[str, Any] = {**parse_schema(schema, param), "x-guidance": _JSON_OPTIONS}
    return "%json " + msgspec.json.encode(checked).decode()


def _escaped(found: re.Match[str]) -> str:
    return {"/": "\\/", "\n": "\\n"}.get(found[0], found[0])


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _unpacked(matcher: LLMatcher, size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """What may come next, a boolean for each id."""
    packed = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(packed, count=size, bitorder="little").view(np.bool_)


def _ll_tokenizer(vocabulary: Vocabulary, end_ids: tuple[int, ...]) -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Tokens(vocabulary, end_ids)))


class _Tokens:
    """The vocabulary as llguidance reads it. One end token stands for all of them; none of them is text."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, end_ids: tuple[int, ...]) -> None:
        self.eos_token_id = end_ids[0] if end_ids else None
        self.tokens = [vocabulary.token_bytes(token_id) for token_id in range(vocabulary.size)]
        self.special_token_ids = sorted(vocabulary.control_ids.union(end_ids))

    def __call__(self, text: bytes) -> list[int]:
        """llguidance wants to be able to ask for ids of a text. It does not, where nothing is forced."""
        return []


def _message(error: str) -> str:
    """What llguidance says, for the client: one short line, without advice that only we could follow."""
    if _ONE_OF_REFUSED in error:
        return "The JSON schema has a oneOf whose options may hold at the same time. Use anyOf."
    if error.startswith(_NOTHING_FITS):
        return "Nothing that the model can say has the form that was asked for."
    return "The form of the answer cannot be had: " + printable_line(_SNIPPET.sub("", _SLOT.sub("", error)))
