"""Translates Ollama's `options`, a dictionary of loosely typed numbers, into our fields. Pure.

As Ollama has it, an option that is not known is ignored; so are those that only say how a model is loaded. A number
outside of our bounds is the nearest within them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.http.bodies import greedy_without_choice, seed_within_limit
from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_TOKENS_LIMIT, Sampling

DEFAULT_TEMPERATURE = 0.8
DEFAULT_TOP_P = 0.9
"""Ollama's own. Its other defaults (top_k 40, repeat_penalty 1.1) are left out: not every worker knows these words, and
nobody has asked for them."""

RANDOM_SEED = -1

OUR_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""The options that are numbers for both, by Ollama's name."""

_BOUNDS: dict[str, Any] = {field.name: field.type for field in msgspec.inspect.type_info(Sampling).fields}  # type: ignore[attr-defined]
"""Those of `p2pnet.messages`, by our names."""


@dataclass(frozen=True)
class Options:
    """`sampling` has the fields of `messages.Sampling`. `max_tokens` None: as many as the context holds."""

    sampling: dict[str, Any]
    max_tokens: int | None
    stop: tuple[str, ...]


def read_options(given: Mapping[str, Any], make_seed: Callable[[], int]) -> Options:
    """Raises InvalidRequest, in Ollama's words, where an option has the wrong type."""
    sampling: dict[str, Any] = {"temperature": DEFAULT_TEMPERATURE, "top_p": DEFAULT_TOP_P}
    for name, ours in OUR_NAMES.items():
        if (number := _float(given, name)) is not None:
            sampling[ours] = _clamped(number, ours)
    if (top_k := _integer(given, "top_k")) is not None:
        sampling["top_k"] = _clamped(top_k, "top_k")
    if _integer(given, "repeat_last_n") == 0:
        sampling["repetition_penalty"] = 1.0
    seed = _integer(given, "seed")
    sampling["seed"] = make_seed() if seed in (None, RANDOM_SEED) else seed_within_limit(seed)
    return Options(greedy_without_choice(sampling), _max_tokens(given), _stops(given))


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    """`num_predict` below 1 sets no limit: -1 is endless for Ollama, -2 is to the end of the context, and an answer of
    ours ends there in any case. It is never longer than the context that was asked for."""
    asked = (_integer(given, "num_predict"), _integer(given, "num_ctx"))
    limits = [min(limit, MAX_TOKENS_LIMIT) for limit in asked if limit is not None and limit > 0]
    return min(limits, default=None)


def _clamped(number: float, ours: str) -> float:
    """The nearest number that our field takes. One that has to be above 0 and is not switches its option off."""
    bounds = _BOUNDS[ours]
    if bounds.gt is not None and number <= bounds.gt:
        return 0.0 if ours == "top_p" else 1.0
    least: float = number if bounds.ge is None else bounds.ge
    most: float = bounds.le if bounds.lt is None else bounds.lt - 1
    return min(max(number, least), most)


def _stops(given: Mapping[str, Any]) -> tuple[str, ...]:
    """A single string does, too. Empty ones would end every answer before it begins, and are left out."""
    stops = given.get("stop")
    if stops is None:
        return ()
    if isinstance(stops, str):
        stops = [stops]
    if not isinstance(stops, list):
        raise _wrong_type("stop", "array")
    if not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest('option "stop" must be of an array of strings', "stop")
    return tuple(stop for stop in stops if stop)


def _integer(given: Mapping[str, Any], name: str) -> int | None:
    """Numbers with a fraction lose it, as in Ollama."""
    value = _number(given, name, "integer")
    return None if value is None else int(value)


def _float(given: Mapping[str, Any], name: str) -> float | None:
    value = _number(given, name, "float32")
    try:
        return None if value is None else float(value)
    except OverflowError as error:
        raise _wrong_type(name, "float32") from error


def _number(given: Mapping[str, Any], name: str, kind: str) -> int | float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, kind)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong_type(name, kind)
    return value


def _wrong_type(name: str, kind: str) -> InvalidRequest:
    return InvalidRequest(f'option "{name}" must be of type {kind}', name)
