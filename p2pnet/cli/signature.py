"""Lets a command of many flags take them as one dataclass: gives it the signature that typer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import MISSING, Field, fields
from functools import wraps
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

F = TypeVar("F", bound="DataclassInstance")


Groups = Mapping[str, tuple[str, ...]]
"""Fields by what they are for: the help shows each group under its name."""

NO_GROUPS: Groups = {}
"""A command of few flags needs none."""


def takes(flags: type[F], groups: Groups = NO_GROUPS) -> Callable[[Callable[[F], None]], Callable[..., None]]:
    """Decorates a command. typer sees a parameter for each field of `flags`; the command gets them as one."""

    def decorated(command: Callable[[F], None]) -> Callable[..., None]:
        @wraps(command)
        def taking_each(**given: object) -> None:
            command(flags(**given))

        types = _grouped(get_type_hints(flags, include_extras=True), groups)
        parameters = [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=_default(field), annotation=types[field.name])
            for field in fields(flags)
        ]
        taking_each.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        taking_each.__annotations__ = types
        return taking_each

    return decorated


def _grouped(types: Mapping[str, Any], groups: Groups) -> dict[str, Any]:
    """Flags that several commands share are left as they are: what is grouped here is a copy."""
    group_of = {name: group for group, names in groups.items() for name in names}
    grouped = {}
    for name, annotated in types.items():
        kind, option = get_args(annotated)
        option = copy(option)
        option.rich_help_panel = group_of.get(name)
        grouped[name] = Annotated[kind, option]
    return grouped


def _default(field: Field[Any]) -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is MISSING else field.default
