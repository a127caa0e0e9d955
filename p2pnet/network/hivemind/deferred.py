"""Lets parts of a package be imported without all that the package imports itself, which is done when it is asked for.

Knows of no package. For hivemind see `bindings`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """A package whose `__init__` has not run yet. It runs as soon as somebody wants a name that no module below it
    has."""

    def __getattr__(self, name: str) -> Any:
        if (below := sys.modules.get(f"{self.__name__}.{name}")) is not None:
            return below  # it is just being imported
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        _become(self, ModuleType)
        try:
            spec.loader.exec_module(self)
        except BaseException:
            _become(self, Deferred)  # whoever asks next is told the same
            raise
        return getattr(self, name)


def _become(module: ModuleType, kind: type[ModuleType]) -> None:
    """Python allows that of modules alone: https://docs.python.org/3/reference/datamodel.html"""
    module.__class__ = kind


@contextlib.contextmanager
def deferred(*packages: str) -> Iterator[None]:
    """Within it the modules below these packages are imported by themselves. Parents come before what is below them. A
    package that somebody has imported already stays as it is, and so does one that is not there: then importing it says
    what is missing."""
    for package in packages:
        if package in sys.modules or (spec := find_spec(package)) is None:
            continue
        module = module_from_spec(spec)
        _become(module, Deferred)
        sys.modules[package] = module
    yield
