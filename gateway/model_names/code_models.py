"""Chooses the model that continues code, for clients that name none or one long gone. Pure.

Plugins for editors that were written for Codex send names of its time, or of FauxPilot's; some send none at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.interface import ModelEntry
from gateway.model_names.naming import AUTO, Index, ids_of, meant_by
from p2pnet.errors import ModelNotFound, NoWorker
from p2pnet.features import FIM, TEXT

LEGACY_NAMES = frozenset(
    {
        "codegen",
        "fastertransformer",
        "py-model",
        "fastertransformer|py-model",
        "copilot-codex",
        "cushman-codex",
        "cushman-ml",
        "code-cushman-001",
        "code-cushman-002",
        "code-davinci-001",
        "code-davinci-002",
        "davinci-codex",
        "gpt-35-turbo-instruct",
        "gpt-4o-copilot",
    }
)
"""What FauxPilot, Codex and Copilot have been asked for."""

_IS_CODER = re.compile(
    r"(?<!en)(?<!de)coder?(?![a-z])|codex|codestral|codellama|codegemma|codegen|starcoder", re.IGNORECASE
)


@dataclass(frozen=True)
class CodeModels:
    """The code models of one gateway. `named` is the model that its owner has named for code, if any; then no other is
    chosen."""

    list_models: Callable[[], Sequence[ModelEntry]]
    aliases: Mapping[str, str]
    named: str | None = None
    _ids: Index[frozenset[str]] = field(default_factory=lambda: Index(ids_of))
    _chosen: Index[str | None] = field(default_factory=lambda: Index(choose_code_model))

    def for_engine(self, engine: str) -> str:
        """The model that an engine stands for: the one with that name or alias, or for a name of Codex's time the code
        model. Raises ModelNotFound for any other, and NoWorker where no model generates text."""
        model = self.for_completion(engine or None)
        if model == engine and not self._is_known(engine):
            raise ModelNotFound(
                f"The engine {engine[:128]!r} does not exist. The gateway's owner can name one so: "
                "p2pnet gateway --alias NAME=MODEL.",
                "engine",
            )
        return model

    def for_completion(self, name: str | None) -> str:
        """The model of a completion that asks for this one: itself. Where it names none, or one of Codex's time that
        nobody announces, it is the code model. Raises NoWorker where no model generates text."""
        if name is None:
            return self._code_model()
        return self._code_model() if name.lower() in LEGACY_NAMES and not self._is_known(name) else name

    def _is_known(self, name: str) -> bool:
        ids = self._ids.of(self.list_models())
        meant = meant_by(name, ids, self.aliases)
        return meant == AUTO or meant in ids

    def _code_model(self) -> str:
        model = self.named or self._chosen.of(self.list_models())
        if model is None:
            raise NoWorker("No model on the network generates text now.")
        return model


def choose_code_model(entries: Sequence[ModelEntry]) -> str | None:
    """The first model that calls itself a coder, or else fills gaps, or else continues texts, or else any."""
    able = [entry for entry in entries if "generate" in entry.tasks]
    return min(able, key=_rank).id if able else None


def _rank(entry: ModelEntry) -> tuple[bool, bool, bool]:
    return not _IS_CODER.search(entry.id), FIM not in entry.features, TEXT not in entry.features
