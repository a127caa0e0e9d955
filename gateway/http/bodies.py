"""Reads JSON bodies for all surfaces: types are strict, and errors name the field.

Knows nothing of any dialect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError

from p2pnet.errors import InvalidRequest, ModelNotFound

SEED_LIMIT = 1 << 63
"""Clients' seeds may be negative or large; ours are 63 bits."""

_UNION_BRANCHES = ("str", "int", "float", "bool")


class Body(BaseModel):
    """A JSON body. Types must be exactly as the API says; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


AnyBody = TypeVar("AnyBody", bound=Body)


def validated(model: type[AnyBody], raw: bytes) -> AnyBody:
    """The body, if it is of this type. Raises InvalidRequest, which names the field."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        # In a union the branch that got deepest is the one that was meant.
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        first = errors[0]["loc"][:1]
        found = max((e for e in errors if e["loc"][:1] == first), key=lambda e: len(e["loc"]))
        path = _path(found["loc"])
        reason = lowered(found["msg"])
        raise InvalidRequest(f"{path}: {reason}" if path else reason, _field(path)) from error


def out_of_bounds(
    error: msgspec.ValidationError, model: str, names: Mapping[str, str]
) -> InvalidRequest | ModelNotFound:
    """The error for a client whose request msgspec has refused. It says `Expected ... - at `$.sampling.top_p``.

    `names` translates our fields, or any part of them, into the client's.
    """
    reason, _, path = str(error).partition(" - at ")
    path = path.strip("`").removeprefix("$.").removeprefix("sampling.").removeprefix("prompt.")
    if path == "model":
        return ModelNotFound(f"The model {model[:128]!r} does not exist.", "model")
    name = names.get(re.split(r"[.\[]", path)[0], path)
    return InvalidRequest(f"{name}: {lowered(reason)}", _field(name))


def json_text(value: Any, where: str) -> str:
    """A value out of a body as JSON again, on one line. Raises InvalidRequest for what is none: infinity, too deep."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"{where}: a number that JSON does not have", where) from error
    except RecursionError as error:
        raise InvalidRequest(f"{where}: nested too deep", where) from error


def greedy_without_choice(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """These fields of `messages.Sampling`. A `top_p` of 0 leaves no choice: the likeliest token is taken, as clients
    mean it."""
    if sampling.get("top_p") != 0:
        return dict(sampling)
    return {**sampling, "temperature": 0.0, "top_p": 1.0}


def seed_within_limit(given: int) -> int:
    """Equal seeds stay equal."""
    return given % SEED_LIMIT


def lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _path(location: Sequence[str | int]) -> str:
    """`messages[0].content`, from pydantic's location without the names of union branches."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif "[" not in part and part not in _UNION_BRANCHES:
            path += f".{part}"
    return path.removeprefix(".")


def _field(path: str) -> str | None:
    """`stop`, not the second entry of `stop`, which the message names."""
    return re.sub(r"\[\d+\]$", "", path) or None
